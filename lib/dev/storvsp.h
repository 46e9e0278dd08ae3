/*
 * The synthetic SCSI controller: storage over VMBus, up to 64 disks and DVD drives (LUNs).
 *
 * Belongs to the worker's loop, as do its disks. The block devices stay the caller's: it opens them
 * before storvsp_attach and closes them after storvsp_detach, which returns when no request uses
 *the device any more (it waits for those in flight).
 *
 *	storvsp_new(bus, loop, mem, &instance, vp_count, &controller, err);
 *	storvsp_attach(controller, 0, disk, SCSI_KIND_DISK, err);
 *	... the VM runs ...
 *	storvsp_free(controller);
 *	blk_close(disk, err);
 */
#ifndef DEV_STORVSP_H
#define DEV_STORVSP_H

#include "base/loop.h"
#include "blk/blk.h"
#include "mem/mem.h"
#include "scsi/scsi.h"
#include "state/state.h"
#include "vmbus/vmbus.h"

#define STORVSP_MAX_LUNS 64u

struct storvsp;

/* Offers the controller's channel. Borrows bus, loop and mem. */
int storvsp_new(struct vmbus *bus, struct loop *loop, struct mem *mem,
		const struct guid *instance_id, unsigned vp_count, struct storvsp **ret,
		struct error *err);
/* Withdraws it. Waits for requests in flight; the disks are then the caller's alone. NULL allowed.
 */
void storvsp_free(struct storvsp *sp);

/* Puts a unit at a free LUN; a running guest is told to look. Where another unit was taken away
 * just before, the guest sees the new one only once it has let the old one go (a second or two).
 * blk may be NULL for a DVD drive: an empty one. ERR_INVALID: no such LUN, or a disk without blk;
 * ERR_EXISTS: the LUN is taken. */
int storvsp_attach(struct storvsp *sp, unsigned lun, struct blk *blk, enum scsi_kind kind,
		   struct error *err);
/* Takes the unit away; a running guest is told to look. ERR_NOT_FOUND. */
int storvsp_detach(struct storvsp *sp, unsigned lun, struct error *err);
/*
 * The controller is going to be taken from a running guest: takes all units away, and calls
 * settled(user), from the loop, when the guest has let them go and storvsp_free may follow. A guest
 * whose channel is withdrawn under a disk that it still knows waits minutes for an answer to its
 * last command.
 */
void storvsp_retire(struct storvsp *sp, void (*settled)(void *user), void *user);
/* Changes a DVD drive's medium (NULL: empties it). The old one is the caller's alone afterwards. */
int storvsp_set_medium(struct storvsp *sp, unsigned lun, struct blk *blk, struct error *err);
/* The disk's size (blk_info) was changed: the guest is told. */
int storvsp_resized(struct storvsp *sp, unsigned lun, struct error *err);

/*
 * State, while the VPs stand still. storvsp_quiesce returns when no request is under way, and takes
 * none from the guest until storvsp_unquiesce; save between the two. Restore: the same units are
 * attached; a DVD drive whose medium is gone, or another one, is told to the guest as a change.
 */
void storvsp_quiesce(struct storvsp *sp);
void storvsp_unquiesce(struct storvsp *sp);
void storvsp_save(struct storvsp *sp, struct state_out *out);
int storvsp_restore(struct storvsp *sp, struct state_in *in, struct error *err);

/* Called when a guest ejected a DVD: the drive is empty, medium is the caller's alone again. */
void storvsp_set_eject_hook(struct storvsp *sp,
			    void (*ejected)(void *user, unsigned lun, struct blk *medium),
			    void *user);

#endif
