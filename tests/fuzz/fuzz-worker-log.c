/* The log of a hostile worker, from which the service takes last words and a crash report: what it
 * shows is short and printable. */
#include "../../prog/daemon/worker-log.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LINE_MAX_BYTES 190
#define FRAMES_MAX     48

static void check_line(const char *line)
{
	if (strlen(line) > LINE_MAX_BYTES)
		abort();
	for (; *line; line++)
		if (*line < 0x20 || *line >= 0x7f)
			abort();
}

static void check_frames(json_t *frames)
{
	size_t i;
	json_t *frame;

	if (json_array_size(frames) > FRAMES_MAX)
		abort();
	json_array_foreach(frames, i, frame)
	{
		check_line(json_string_value(frame));
	}
	json_decref(frames);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = memfd_create("log", MFD_CLOEXEC);
	char path[40], last[300], small[8];

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	worker_log_last(path, last, sizeof(last));
	check_line(last);
	worker_log_last(path, small, sizeof(small));
	if (strncmp(last, small, sizeof(small) - 1) != 0 || strlen(small) >= sizeof(small))
		abort();
	check_frames(worker_log_crash(path));
	close(fd);
	return 0;
}
