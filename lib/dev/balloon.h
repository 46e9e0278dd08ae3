/*
 * Dynamic memory (the provider that hv_balloon speaks to): takes pages from a running guest and
 * gives them back, adds RAM to it, and hears how much it needs. What the guest gives is the host's
 * again at once (mem_release).
 *
 * A guest begins with what it booted with. balloon_set_target says what it shall have; the device
 * works towards that as far as the guest goes along: a guest without driver keeps what it has, one
 * that can't spare as much gives less. What is taken comes from the balloon; what is given goes
 * back there first, and beyond it RAM is added in blocks of at least 128 MiB, up to mem's reach.
 * The rest of the last block is taken by the balloon.
 *
 * Belongs to the worker's loop.
 */
#ifndef DEV_BALLOON_H
#define DEV_BALLOON_H

#include "base/error.h"
#include "base/loop.h"
#include "mem/mem.h"
#include "state/state.h"
#include "vmbus/vmbus.h"

struct balloon;

struct balloon_config {
	struct vmbus *bus;
	struct loop *loop;
	struct mem *mem;
	uint64_t first_bytes; /* that the guest booted with; mem may be larger (restore) */
	/* Makes RAM so large (mem_grow), for the partition, too. Negative: it can't. */
	int (*grow)(void *user, uint64_t size_bytes);
	/* balloon_status() has news. */
	void (*changed)(void *user);
	void *user;
};

struct balloon_status {
	uint32_t version; /* of the protocol, (major << 16) + minor; 0: no driver */
	bool can_balloon, can_hot_add;
	uint64_t assigned_bytes; /* RAM that the guest has: booted with and added, less ballooned */
	uint64_t ballooned_bytes;
	uint64_t target_bytes;
	/* Of the guest's last report; 0: none yet. Demand is what the guest uses or has promised to
	 * its programs. */
	uint64_t demand_bytes, available_bytes;
	/* How much the demand has grown in a second of late. */
	uint64_t growth_bytes;
};

int balloon_new(const struct balloon_config *config, struct balloon **ret, struct error *err);
void balloon_free(struct balloon *balloon); /* NULL allowed */
void balloon_set_target(struct balloon *balloon, uint64_t bytes);
void balloon_status(const struct balloon *balloon, struct balloon_status *ret);
/* VM reset, after mem_clear: the guest begins with its first memory again. The target stays. */
void balloon_reset(struct balloon *balloon);

/* State (docs/state.md). It has the reach of mem, too, which a restore makes mem with. */
void balloon_save(const struct balloon *balloon, struct state_out *out);
int balloon_restore(struct balloon *balloon, struct state_in *in, struct error *err);
int balloon_saved_reach(struct state_in *in, uint64_t *ret, struct error *err);

#endif
