/*
 * What the worker is started with: the VM's description and the descriptors that belong to it, read
 * from one socket (docs/worker-protocol.md).
 */
#ifndef WORKER_JOB_H
#define WORKER_JOB_H

#include "base/error.h"
#include "config/config.h"
#include "machine/machine.h"

struct job {
	struct config_vm *vm;
	struct machine_files files;
	int control_fd;
	int mark_fd;        /* says whether files.saved was used; -1 where there is none */
	int console_fds[2]; /* COM1, COM2; -1: nobody listens */
};

/* Reads the "start" message(s) from fd. job_done closes what was not taken (set to -1). */
int job_read(int fd, struct job *ret, struct error *err);
void job_done(struct job *job);

/* The guest is about to run on from its saved state, which is then the past: on return that is on
 * the disk. */
int job_mark_used(const struct job *job, struct error *err);

/* The answer, on the same socket. */
int job_started(int fd, const char *backend, const char *reason);
int job_failed(int fd, const struct error *failure);

#endif
