#include "numa.h"

#include "base/host.h"
#include "base/macros.h"
#include "base/text.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NODES      "/sys/devices/system/node"
#define MAX_NODES  1024
#define KB_PER_MB  1024
#define ALL_OF_CPU 100

/* The line of a file of the kernel's that begins with a word; its numbers behind that. */
static unsigned read_numbers(const char *path, const char *word, unsigned long long *ret,
			     unsigned max)
{
	FILE *file = fopen(path, "re");
	AUTO_FREE char *line = NULL;
	unsigned count = 0;
	size_t size = 0;

	while (file && !count && getline(&line, &size, file) > 0) {
		char *at = strstr(line, word), *end;

		if (!at || (at > line && at[-1] != ' '))
			continue;
		for (at += strlen(word); count < max; at = end) {
			unsigned long long number = strtoull(at, &end, 10);

			if (end == at)
				break;
			ret[count++] = number;
		}
	}
	if (file)
		fclose(file);
	return count;
}

static json_int_t megabytes(const char *path, const char *word)
{
	unsigned long long kilobytes = 0;

	read_numbers(path, word, &kilobytes, 1);
	return (json_int_t)(kilobytes / KB_PER_MB);
}

/* How much of a processor was idle since the host began, in percent. */
static json_t *availability(unsigned processor)
{
	unsigned long long ticks[8], all = 0;
	char word[24];
	unsigned count;

	snprintf(word, sizeof(word), "cpu%u ", processor);
	count = read_numbers("/proc/stat", word, ticks, ARRAY_SIZE(ticks));
	for (unsigned i = 0; i < count; i++)
		all += ticks[i];
	/* idle is the fourth, waiting for disks the fifth */
	return json_integer(
	    count > 4 && all ? (json_int_t)((ticks[3] + ticks[4]) * ALL_OF_CPU / all) : 0);
}

static bool is_of_node(unsigned processor, int node)
{
	AUTO_FREE char *path = text_format(NODES "/node%d/cpu%u", node, processor);

	return access(path, F_OK) == 0;
}

static json_t *describe(int node, bool is_known)
{
	AUTO_FREE char *meminfo =
	    is_known ? text_format(NODES "/node%d/meminfo", node) : text_format("/proc/meminfo");
	json_t *processors = json_array();
	long count = sysconf(_SC_NPROCESSORS_CONF);

	for (unsigned i = 0; i < (unsigned)count; i++)
		if (!is_known || is_of_node(i, node))
			json_array_append_new(processors, availability(i));
	return json_pack("{s:i, s:o, s:I, s:I}", "NodeId", node, "ProcessorsAvailability",
			 processors, "MemoryAvailable", megabytes(meminfo, "MemFree:"),
			 "MemoryTotal", megabytes(meminfo, "MemTotal:"));
}

json_t *numa_describe(int id)
{
	json_t *list = json_array();

	for (int node = 0; node < MAX_NODES; node++) {
		AUTO_FREE char *folder = text_format(NODES "/node%d", node);

		if ((id < 0 || id == node) && access(folder, F_OK) == 0)
			json_array_append_new(list, describe(node, true));
	}
	if (!json_array_size(list) && id <= 0 && access(NODES, F_OK) < 0)
		json_array_append_new(list, describe(0, false));
	return list;
}
