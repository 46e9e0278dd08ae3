/* What a hostile switch says to the service, among ports that are asked of it. A line of the input
 * is a message, or "a" (a port for an adapter) or "r" (it is taken away). */
#include "daemon.h"

#include "../../prog/daemon/sockets.h"
#include "../../prog/daemon/switches.h"
#include "base/macros.h"
#include "base/text.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_LINES 64

static const struct config_nic nic = { .name = (char *)"Network Adapter",
				       .switch_name = (char *)"Default Switch" };

/* A process that could be the switch. It ends with us. */
static pid_t stand_in(void)
{
	static pid_t pid;

	if (pid)
		return pid;
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	return pid;
}

/* Field 22 of /proc/PID/stat; the name, field 2, has no space. */
static unsigned long long start_ticks(pid_t pid)
{
	AUTO_FREE char *path = text_format("/proc/%d/stat", (int)pid);
	unsigned long long ticks = 0;
	FILE *file = fopen(path, "re");
	char word[256];

	for (unsigned i = 1; file && i < 22 && fscanf(file, "%255s", word) == 1; i++)
		;
	if (!file || fscanf(file, "%llu", &ticks) != 1)
		abort();
	fclose(file);
	return ticks;
}

/* The service finds it as that of an earlier one. */
static int begin(struct daemon *daemon)
{
	AUTO_FREE char *note = fuzz_path("run/switch.json"), *path = fuzz_path("run/switch.sock");
	AUTO_FREE char *text = text_format("{\"pid\":%d,\"start_ticks\":%llu}", (int)stand_in(),
					   start_ticks(stand_in()));
	AUTO_CLOSE int listener = -1;
	struct error err;

	switches_free(TAKE(daemon->switches));
	fuzz_write(note, text, strlen(text));
	listener = sockets_listen(path, SOCK_SEQPACKET, &err);
	if (listener < 0 || switches_new(daemon, &daemon->switches, &err) < 0 ||
	    !switches_running(daemon->switches))
		abort();
	return accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

static void port_done(void *user, int fd, const struct error *err)
{
	unsigned *waiting = user;

	--*waiting;
	if ((fd < 0) != (err != NULL))
		abort();
	if (fd >= 0)
		close(fd);
}

static void play(struct daemon *daemon, const char *line, size_t len, int fd, unsigned *waiting)
{
	if (line[0] == 'a') {
		++*waiting;
		switches_add_port(daemon->switches, &nic, port_done, waiting);
	} else if (line[0] == 'r') {
		switches_remove_port(daemon->switches, &nic);
	} else if (len) {
		send(fd, line, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	}
	fuzz_settle();
}

static void check(struct daemon *daemon)
{
	json_t *shown = switches_describe(daemon->switches);

	if (json_integer_value(json_object_get(json_array_get(shown, 0), "PortCount")) < 0)
		abort();
	json_decref(shown);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct daemon *daemon = fuzz_daemon();
	unsigned waiting = 0;
	char bytes[4096];
	size_t len;
	char *line;
	int fd;

	fd = begin(daemon);
	for (unsigned i = 0; i < MAX_LINES && (line = fuzz_line(&data, &size, &len)); i++) {
		play(daemon, line, len, fd, &waiting);
		while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_TRUNC) > 0)
			;
		free(line);
	}
	check(daemon);
	close(fd);
	fuzz_settle();
	switches_free(TAKE(daemon->switches));
	fuzz_settle();
	/* Every port was answered for. */
	if (waiting)
		abort();
	return 0;
}
