/*
 * What the parts of run.h share: run.c (the object, its end, workers of an earlier daemon),
 * run-start.c, run-events.c (what the worker says), run-requests.c (what it is asked for),
 * run-ports.c (a switch that has died).
 */
#ifndef DAEMON_RUN_PRIVATE_H
#define DAEMON_RUN_PRIVATE_H

#include "base/clock.h"
#include "run.h"

#define RUN_END_TIMEOUT_NS     (10 * NS_PER_SEC) /* from "off" to the end of the process */
#define RUN_REQUEST_TIMEOUT_NS (5 * NS_PER_SEC)

/* A file of the VM's runtime folder; NULL: the folder. The caller frees it. */
char *run_path(const struct vm *vm, const char *file);
void run_remove_folder(const char *path);

/* Becomes vm->run. */
struct run *run_new(struct vm *vm);
void run_free(struct run *run);
/* The answer to the job is no longer waited for. */
void run_close_job(struct run *run);
/* The worker is killed when it has not got further by then. */
void run_arm_timer(struct run *run, uint64_t after_ns);
/* Of the process's descriptor, in the loop. */
void run_process_ended(void *user, uint32_t events);
/* Before or without a worker. Frees run. */
void run_fail_start(struct run *run, const struct error *err);
/* The worker is at a checkpoint no more. */
int run_settle(struct run *run, struct error *err);

/* Of the job's socket, in the loop; also to hear what was said last. */
void run_job_ready(void *user, uint32_t events);

/* Connects to the worker's control socket. */
int run_connect(struct run *run, struct error *err);
/* What was being saved is done; err: it failed, and why. */
void run_end_of_save(struct run *run, const struct error *err);
/* Keeps what the worker's answer to "status" says. */
void run_take_status(struct run *run, const json_t *status);

#endif
