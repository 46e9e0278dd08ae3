#include "worker-log.h"

#include "base/macros.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TAIL_BYTES  16384
#define MAX_FRAMES  48
#define LINE_BYTES  190
#define CRASH_BEGIN "crash: "
#define CRASH_END   "crash end"

/* The end of the log, without its last line break. */
static void read_tail(const char *path, char ret[static TAIL_BYTES])
{
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t end = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
	ssize_t len =
	    fd < 0 ? 0 : pread(fd, ret, TAIL_BYTES - 1, MAX(0, end - (off_t)TAIL_BYTES + 1));

	len = MAX(len, 0);
	while (len > 0 && ret[len - 1] == '\n')
		len--;
	ret[len] = '\0';
}

static void take_line(const char *line, char *ret, size_t size)
{
	snprintf(ret, size, "%.*s", (int)MIN(strcspn(line, "\n"), (size_t)LINE_BYTES), line);
	for (char *p = ret; *p; p++)
		if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f)
			*p = '?';
}

/* The report's first line, if the log ends with a report. */
static const char *find_crash(const char *text)
{
	const char *begin = NULL, *last = strrchr(text, '\n');

	if (!last || strcmp(last + 1, CRASH_END) != 0)
		return NULL;
	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, CRASH_BEGIN, strlen(CRASH_BEGIN)) == 0)
			begin = line;
	}
	return begin;
}

void worker_log_last(const char *path, char *ret, size_t size)
{
	char text[TAIL_BYTES];
	const char *crash, *last;

	read_tail(path, text);
	crash = find_crash(text);
	last = strrchr(text, '\n');
	if (crash)
		take_line(crash + strlen(CRASH_BEGIN), ret, size);
	else
		take_line(last ? last + 1 : text, ret, size);
}

json_t *worker_log_crash(const char *path)
{
	char text[TAIL_BYTES], line[LINE_BYTES + 1];
	const char *at;
	json_t *frames;

	read_tail(path, text);
	at = find_crash(text);
	if (!at)
		return NULL;
	frames = json_array();
	while ((at = strchr(at, '\n')) && strcmp(++at, CRASH_END) != 0 &&
	       json_array_size(frames) < MAX_FRAMES) {
		take_line(at, line, sizeof(line));
		json_array_append_new(frames, json_string(line));
	}
	return frames;
}
