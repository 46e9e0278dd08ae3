/*
 * VMBus, the host's side, as the machine sees it. (Towards devices: vmbus.h.)
 *
 * Life cycle: vmbus_new after hv_new (it takes hv's ports); devices offer their channels; the VM
 * runs. vmbus_free after the VPs stopped and the devices rescinded their channels.
 *
 * Threads: all of it belongs to the loop. What VP threads do (HvPostMessage, HvSignalEvent) is to
 * queue a message or set a bit, and kick the loop.
 */
#ifndef VMBUS_VMBUS_SERVER_H
#define VMBUS_VMBUS_SERVER_H

#include "base/error.h"
#include "base/loop.h"
#include "hv/hv.h"
#include "mem/mem.h"
#include "vmbus/vmbus.h"

/* Borrows all three. */
int vmbus_new(struct loop *loop, struct mem *mem, struct hv *hv, struct vmbus **ret,
	      struct error *err);
/* Channels that were not rescinded are closed and freed. NULL allowed. */
void vmbus_free(struct vmbus *bus);

/* VM reset, while the VPs are paused and before hv_reset: closes every channel, forgets what the
 * guest sent. done(user) is called, perhaps before this returns, when nothing is in flight into
 * guest memory any more (vmbus_channel_hold). One reset at a time. */
void vmbus_reset(struct vmbus *bus, void (*done)(void *user), void *user);

/*
 * State, while the VPs stand still. Before vmbus_save the devices are quiet: nothing is in flight
 * into guest memory; what they still have to send is part of their state.
 *
 * A restore is of a bus whose devices have offered their primary channels and that no guest has
 * seen, after hv_restore and with RAM restored. vmbus_restore brings back connection, GPADLs and
 * those channels, open where they were open; then each device restores itself and offers its
 * sub-channels (vmbus_offer finds their state); vmbus_restore_finish refuses what is left over, and
 * has every open channel look at its ring.
 */
void vmbus_save(struct vmbus *bus, struct state_out *out);
int vmbus_restore(struct vmbus *bus, struct state_in *in, struct error *err);
int vmbus_restore_finish(struct vmbus *bus, struct error *err);

#endif
