/*
 * How much memory each VM shall have: by its demand where there is enough for all, else by weight.
 * Pure arithmetic; whoever calls it (the service, once a second) knows the host and carries it out.
 *
 * No VM gets less than its minimum or more than its maximum. What a VM wants is its demand and the
 * buffer that it is to keep spare, and what it will take until it can be given more, if its demand
 * goes on to grow as it has of late. Where all want more than there is, each has its minimum, and
 * the rest goes to those that want more, in the proportion of their weights (10 + priority).
 */
#ifndef BALANCE_BALANCE_H
#define BALANCE_BALANCE_H

#include <stddef.h>
#include <stdint.h>

struct balance_vm {
	uint64_t minimum_bytes, maximum_bytes;
	unsigned buffer_percent, priority; /* priority 0..100 */
	uint64_t assigned_bytes;
	uint64_t demand_bytes; /* 0: not known: it keeps what it has */
	uint64_t growth_bytes; /* of the demand, in a second */
	uint64_t target_bytes; /* the result; whole multiples of 2 MiB but for the bounds */
};

/* Targets in multiples of this. */
#define BALANCE_UNIT (UINT64_C(2) << 20)

/* pool_bytes: what all of them together may have. */
void balance_memory(struct balance_vm *vms, size_t count, uint64_t pool_bytes);

#endif
