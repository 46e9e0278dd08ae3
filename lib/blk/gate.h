/*
 * A filter over a disk that lets requests wait: those that come faster than they may, and those
 * that the host's storage has failed, which can be tried again when it is back.
 *
 * Speed is counted as Hyper-V does, in normalized requests a second: a read or a write counts for
 * each 8 KiB begun, anything else as one. Requests that wait keep their order.
 *
 * blk_drain lets go what waits: at once, however fast; what the storage has failed ends with its
 * error. Belongs to the loop.
 */
#ifndef BLK_GATE_H
#define BLK_GATE_H

#include "blk/blk.h"

struct loop;

#define GATE_NORMAL_BYTES 8192u

struct gate_events {
	void *user;
	/* The host failed a request (BLK_IO_ERROR, BLK_NO_SPACE): shall it wait for gate_retry?
	 * False: it ends with that. */
	bool (*hold)(void *user, enum blk_result result);
	/* None waits any more: all have gone well, or were ended. */
	void (*recovered)(void *user);
	/* Over some seconds in which there was always something to do the disk was slower than its
	 * minimum; it is not any more. */
	void (*slow)(void *user, bool slow);
};

/* Takes below, on success. */
int gate_new(struct loop *loop, struct blk *below, const struct gate_events *events,
	     struct blk **ret, struct error *err);
/* Normalized requests a second; 0: none. maximum bounds, minimum is only watched. */
void gate_set_rates(struct blk *gate, uint32_t minimum, uint32_t maximum);
/* Tries again what the storage has failed. */
void gate_retry(struct blk *gate);
/* Ends it with its error. */
void gate_give_up(struct blk *gate);

#endif
