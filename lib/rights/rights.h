/*
 * What a program gives up before it reads what is hostile: a guest, an image, frames. Rights only
 * shrink. Each program says in its sandbox.c what it needs beside what every program does.
 */
#ifndef RIGHTS_RIGHTS_H
#define RIGHTS_RIGHTS_H

#include "base/error.h"

#include <fcntl.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

/* No core dumps, no new privileges, no tracing by others of the same user. */
int rights_no_new(struct error *err);
#define RIGHTS_NOBODY 65534
/* Root becomes nobody; others stay who they are. */
int rights_leave_root(struct error *err);
void rights_drop_capabilities(void);

/* Allowed if the argument has the value in the bits of the mask. */
struct rights_call {
	int call; /* SCMP_SYS() */
	unsigned argument;
	uint64_t mask, value;
};

#define RIGHTS_OPEN_READING                                                                        \
	{                                                                                          \
		SCMP_SYS(openat), 2, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY                       \
	}
#define RIGHTS_MPROTECT_NO_EXEC                                                                    \
	{                                                                                          \
		SCMP_SYS(mprotect), 2, PROT_EXEC, 0                                                \
	}
#define RIGHTS_MMAP_NO_EXEC                                                                        \
	{                                                                                          \
		SCMP_SYS(mmap), 2, PROT_EXEC, 0                                                    \
	}

struct rights_filter {
	const int *calls; /* whatever their arguments are */
	size_t call_count;
	const struct rights_call *some;
	size_t some_count;
};

/*
 * A system call filter for all threads: what filters[] say and what every program needs (data of
 * open descriptors, events, memory, threads, signals, time). Anything else fails with EPERM, and
 * what only an intruder would call (execve, ptrace, ...) kills the process.
 */
int rights_filter(const struct rights_filter *filters, size_t count, struct error *err);

#endif
