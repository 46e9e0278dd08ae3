/*
 * Offline changes of a VHDX's structures, blocking, each atomic through the log. Private to this
 * room.
 *
 *	vhdx_edit_begin(vhdx, visible, err);
 *	vhdx_edit_put(&edit, offset, bytes, len) ...; vhdx_edit_commit(&edit, err);   any number of
 *times vhdx_edit_end(vhdx, err);
 */
#ifndef DISK_VHDX_EDIT_H
#define DISK_VHDX_EDIT_H

#include "disk/vhdx-impl.h"

#define VHDX_EDIT_PAGES 120u /* in one step */

/* What one step changes: pages of 4 KiB of the file. */
struct vhdx_edit {
	struct vhdx *vhdx;
	unsigned count;
	uint64_t offset[VHDX_EDIT_PAGES];
	uint8_t page[VHDX_EDIT_PAGES][VHDX_SECTOR_BYTES];
};

/* New GUIDs in the headers. visible: the disk will not read the same, so children no longer know
 * it. */
int vhdx_edit_begin(struct vhdx *vhdx, bool visible, struct error *err);
/* Puts bytes at an offset of the file. ERR_LIMIT: too many pages for one step. */
int vhdx_edit_put(struct vhdx_edit *edit, uint64_t offset, const void *bytes, size_t len,
		  struct error *err);
/* True if len bytes at the offset certainly fit. */
bool vhdx_edit_has_room(const struct vhdx_edit *edit, size_t len);
/* Makes what was written so far durable, then the step, all or nothing; empties it. */
int vhdx_edit_commit(struct vhdx_edit *edit, struct error *err);
/* Ends the log. */
int vhdx_edit_end(struct vhdx *vhdx, struct error *err);

#endif
