/*
 * Processor limits and weights of running VMs, by control groups (cgroup v2): each worker has a
 * group of its own, vm-ID, in the one that is the service's. That is one that systemd delegates to
 * its unit (Delegate=cpu), which the service's own processes then leave for the group "service"
 * below it, or the folder that the environment variable OYAKO_CGROUP names.
 *
 * Where there is none, VMs run without: cgroup_missing says why.
 *
 * Belongs to the loop.
 */
#ifndef DAEMON_CGROUP_H
#define DAEMON_CGROUP_H

#include "base/error.h"
#include "config/config.h"

#include <sys/types.h>

struct cgroup;

struct cgroup *cgroup_new(void);
void cgroup_free(struct cgroup *cgroup); /* NULL is allowed */
/* Why there is none, for people; NULL: there is one. */
const char *cgroup_missing(const struct cgroup *cgroup);
/* Puts a worker, all its threads of now and later, into the VM's group, which is made. */
int cgroup_add(const struct cgroup *cgroup, const char *id, pid_t pid, struct error *err);
/* Limits the VM's group as the description says. */
int cgroup_limit(const struct cgroup *cgroup, const char *id, const struct config_vm *config,
		 struct error *err);
/* The worker has ended. */
void cgroup_remove(const struct cgroup *cgroup, const char *id);

#endif
