/*
 * What oyakod asks of one oyako-disk: a single request on descriptor 3, its answer, and what is
 * said in between (docs/disk-protocol.md). oyakod closes its end to cancel.
 */
#ifndef DISK_PROGRAM_JOB_H
#define DISK_PROGRAM_JOB_H

#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define JOB_MAX_FDS 2

struct job {
	int fd;
	json_int_t id;
	json_t *params;
	int fds[JOB_MAX_FDS]; /* that came with the request; -1: none, or taken */
	uint64_t told_ns;     /* when progress was told last */
	bool cancelled;
	/* What goes on after the answer; its result is the program's. NULL: nothing. */
	int (*then)(void *user);
	void *then_user;
};

int job_receive(int fd, struct job *ret, struct error *err);
void job_done(struct job *job);
/* False: oyakod has ended, or wants no more of it. */
bool job_is_wanted(const struct job *job);

/* ---- parameters; oyakod is trusted to have checked them, so what is missing is a defect ---- */

const char *job_text(const struct job *job, const char *name); /* or NULL */
uint64_t job_bytes(const struct job *job, const char *name);   /* 0 where it is not there */
bool job_flag(const struct job *job, const char *name);
int job_path(const struct job *job, const char *name, const char **ret, struct error *err);
/* A descriptor that came along, now the caller's. */
int job_take_fd(struct job *job, unsigned index, struct error *err);

/* ---- answers ---- */

/* Tells how far the work is, ten times a second at most. user is the job. False: oyakod wants no
 * more of it, and the work ends with job_cancelled(). */
bool job_progress(void *user, uint64_t done, uint64_t total);
int job_cancelled(struct error *err);
/* Takes result, an object. */
void job_answer(struct job *job, json_t *result);
void job_fail(struct job *job, const struct error *failure);

#endif
