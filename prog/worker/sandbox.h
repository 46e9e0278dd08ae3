/*
 * Takes away from the worker what a VMM does not need. Rights only shrink: sandbox_enter_namespaces
 * while there is one thread and before anything of the guest is touched, sandbox_enter_filter just
 * before the guest runs.
 */
#ifndef WORKER_SANDBOX_H
#define WORKER_SANDBOX_H

#include "base/error.h"

#include <stdbool.h>

/*
 * No new privileges, no core dumps, own user, mount, network, IPC and UTS namespaces with an empty
 * root folder where the host allows them (*ret_namespaces says), no capabilities, and no root user.
 */
int sandbox_enter_namespaces(bool *ret_namespaces, struct error *err);

/* System calls: the list that the layers below need; anything else fails with EPERM, and what only
 * an intruder would call (execve, ptrace, ...) kills the worker. */
int sandbox_enter_filter(struct error *err);

#endif
