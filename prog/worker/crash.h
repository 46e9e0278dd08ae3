/*
 * What is left of a worker that crashes: a report on stderr, which is the log that oyakod reads
 *when the worker has ended.
 *
 *	crash: signal 11 (Segmentation fault), address 0x10
 *	.../oyako-worker(storvsp_new+0x1f)[0x55...]
 *	crash end
 */
#ifndef WORKER_CRASH_H
#define WORKER_CRASH_H

/* Once, before the sandbox: what finds the frames is loaded then. */
void crash_watch(void);

#endif
