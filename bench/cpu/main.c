/*
 * The guest's side of the processor benchmark. It asks for work on standard output and gets it on
 * standard input, so that whoever measures knows when a part begins and ends:
 *
 *	cpu-bench: ready
 *	PART OPERATIONS             (0: as many as usual)
 *	cpu-bench: begin PART       (its memory is there, its code has run once)
 *	go
 *	cpu-bench: done PART OPERATIONS CHECKSUM WALL-NS CPU-NS
 *
 * until "end" or the end of input. CPU-NS is what its own kernel says of it and its children. Each
 * part runs in a process of its own, so that none inherits another's memory.
 */
#include "parts.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static const struct part {
	const char *name;
	part_fn *run;
	uint64_t usual; /* takes some tens of milliseconds on a processor of 2020 */
} parts[] = {
	{ "integer", part_integer, 10000000 },
	{ "divide", part_divide, 4000000 },
	{ "branchy", part_branchy, 100000 },
	{ "calls", part_calls, 3000 },
	{ "calls-computed", part_calls_computed, 4000000 },
	{ "table", part_table, 8000000 },
	{ "switch", part_switch, 5000000 },
	{ "automaton", part_automaton, 20000000 },
	{ "histogram", part_histogram, 20000000 },
	{ "sort", part_sort, 10 },
	{ "sha256", part_sha256, 30000 },
	{ "aes", part_aes, 60000 },
	{ "atomics", part_atomics, 5000000 },
	{ "random-4m", part_random_4m, 4000000 },
	{ "random-32m", part_random_32m, 2000000 },
	{ "chase-4m", part_chase_4m, 1000000 },
	{ "chase-32m", part_chase_32m, 500000 },
	{ "copy-sse", part_copy, 40000 },
	{ "memcpy", part_memcpy, 5000000 },
	{ "rep-movs", part_rep_movs, 1000000 },
	{ "rep-stos", part_rep_stos, 500000 },
	{ "search", part_search, 40000 },
	{ "scan", part_scan, 2000 },
	{ "sse-packed", part_sse_packed, 200 },
	{ "sse-scalar", part_sse_scalar, 200000 },
	{ "sse-library", part_sse_library, 400000 },
	{ "x87", part_x87, 2000000 },
	{ "x87-library", part_x87_library, 400000 },
	{ "patch", part_patch, 100000 },
	{ "jit", part_jit, 1000 },
	{ "syscall", part_syscall, 200000 },
	{ "read-4k", part_read, 50000 },
	{ "page-fault", part_page_fault, 20000 },
	{ "mprotect", part_mprotect, 4000 },
	{ "fork", part_fork, 150 },
	{ "exec", part_exec, 50 },
	{ "exec-dynamic", part_exec_dynamic, 50 },
	{ "pipe", part_pipe, 5000 },
	{ "signal", part_signal, 20000 },
	{ "fault-signal", part_fault_signal, 20000 },
	{ "threads", part_threads, 1000 },
};

#define PART_COUNT (sizeof(parts) / sizeof(parts[0]))

void die(const char *what)
{
	fprintf(stderr, "cpu-bench: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t usage_ns(int who)
{
	struct rusage u;

	getrusage(who, &u);
	return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000u +
	       (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000u;
}

static uint64_t cpu_ns(void)
{
	return usage_ns(RUSAGE_SELF) + usage_ns(RUSAGE_CHILDREN);
}

/* Some of the operations go before, uncounted. */
static int run(const struct part *part, uint64_t ops)
{
	uint64_t wall, cpu, sum;
	char line[16];

	if (!ops)
		ops = part->usual;
	part->run(ops / 50 + 1);
	printf("cpu-bench: begin %s\n", part->name);
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		return 1;
	wall = clock_ns();
	cpu = cpu_ns();
	sum = part->run(ops);
	wall = clock_ns() - wall;
	cpu = cpu_ns() - cpu;
	printf("cpu-bench: done %s %" PRIu64 " %016" PRIx64 " %" PRIu64 " %" PRIu64 "\n",
	       part->name, ops, sum, wall, cpu);
	fflush(stdout);
	return 0;
}

static void run_apart(const struct part *part, uint64_t ops)
{
	pid_t child = fork();
	int status;

	if (child < 0)
		die("fork");
	if (child == 0)
		_exit(run(part, ops));
	waitpid(child, &status, 0);
	if (status != 0)
		printf("cpu-bench: failed %s %d\n", part->name, status);
}

static const struct part *find(const char *name)
{
	for (unsigned i = 0; i < PART_COUNT; i++)
		if (strcmp(parts[i].name, name) == 0)
			return &parts[i];
	return NULL;
}

/* Nothing is echoed between the lines of the protocol. */
static void quiet_terminal(void)
{
	struct termios t;

	if (tcgetattr(0, &t) == 0) {
		t.c_lflag &= ~(tcflag_t)ECHO;
		tcsetattr(0, TCSANOW, &t);
	}
}

static int serve(void)
{
	char line[128], name[64];

	setvbuf(stdin, NULL, _IONBF, 0); /* its children read it, too */
	quiet_terminal();
	printf("cpu-bench: ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		const struct part *part;
		uint64_t ops = 0;

		if (sscanf(line, "%63s %" SCNu64, name, &ops) < 1)
			continue;
		if (strcmp(name, "end") == 0)
			break;
		part = find(name);
		if (part)
			run_apart(part, ops);
		else
			printf("cpu-bench: no part '%s'\n", name);
		fflush(stdout);
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "exit") == 0) /* what the exec part runs */
		return 0;
	if (argc == 2 && strcmp(argv[1], "list") == 0) {
		for (unsigned i = 0; i < PART_COUNT; i++)
			puts(parts[i].name);
		return 0;
	}
	if (argc != 1) {
		fprintf(stderr, "usage: cpu-bench [list]\n");
		return 2;
	}
	return serve();
}
