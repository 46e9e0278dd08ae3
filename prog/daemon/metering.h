/*
 * Resource metering of a VM: what its processors, memory, disks and network used since metering was
 * enabled or reset. What the worker says of itself is sampled every few seconds; the sums are in
 * metering.json of the VM's folder, whose being there means that the VM is metered. They are
 * written when they are asked for, every few minutes, and when a run or the service ends; a crash
 * costs what came since.
 */
#ifndef DAEMON_METERING_H
#define DAEMON_METERING_H

#include "vm.h"

#define METERING_FILE "metering.json"

struct metering;

/* When the VM is read. What can't be read is logged, and the VM is not metered. */
void metering_load(struct vm *vm, int folder_fd);
void metering_free(struct metering *metering); /* NULL is allowed */
/* Begins, or begins anew. */
int metering_enable(struct vm *vm, struct error *err);
int metering_disable(struct vm *vm, struct error *err);

/* A worker begins: it counts from 0. */
void metering_run_begins(struct vm *vm);
/* The worker has said how it is. */
void metering_sample(struct vm *vm, const json_t *status);
void metering_save(struct vm *vm);
/* What Measure-VM shows; the VM is metered. */
json_t *metering_describe(const struct vm *vm);

#endif
