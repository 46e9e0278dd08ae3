/*
 * Shares the host's memory between the running VMs that have dynamic memory, once a second and when
 * a guest has news: by their demand, and by priority where it is scarce (lib/balance). What the
 * host itself needs stays free: a sixteenth of its memory, but 512 MB at least and a quarter at
 * most.
 *
 * A VM is started, and a static one is made larger, only if the memory is there, or other guests
 * have it beyond what they need.
 *
 * The environment variable OYAKO_MEMORY_LIMIT (bytes, or with MB, GB) bounds what all running VMs
 * together are assigned. It takes the place of what the host has for whether a VM may start, so
 * that with a large one more can be started than there is memory.
 */
#ifndef DAEMON_BALANCER_H
#define DAEMON_BALANCER_H

#include "daemon.h"

int balancer_new(struct daemon *daemon, struct balancer **ret, struct error *err);
void balancer_free(struct balancer *balancer); /* NULL allowed */
/* Is there so much more for a VM? ERR_NO_MEMORY. */
int balancer_admit(const struct balancer *balancer, uint64_t bytes, struct error *err);
/* What one VM can have at most: the host's memory, or OYAKO_MEMORY_LIMIT. */
uint64_t balancer_most_bytes(const struct balancer *balancer);
/* The memory of a VM, or its demand, has changed. */
void balancer_wake(struct balancer *balancer);
/* Is there a VM whose memory it looks after? */
bool balancer_busy(const struct balancer *balancer);

#endif
