/*
 * The parent locator of a differencing VHDX ([MS-VHDX] 2.6.2.6): keys and values that tell who the
 * parent is and where it may be. Pure; private to this room.
 */
#ifndef DISK_VHDX_LOCATOR_H
#define DISK_VHDX_LOCATOR_H

#include "disk/disk.h"

#include <stddef.h>

#define VHDX_LOCATOR_MAX_ENTRIES 256u
#define VHDX_LOCATOR_MAX_BYTES   0x100000u /* as any metadata item */

#define VHDX_KEY_LINKAGE  "parent_linkage"
#define VHDX_KEY_LINKAGE2 "parent_linkage2"
#define VHDX_KEY_RELATIVE "relative_path"
#define VHDX_KEY_VOLUME   "volume_path"
#define VHDX_KEY_ABSOLUTE "absolute_win32_path"

struct vhdx_locator {
	struct guid linkage, linkage2; /* linkage2 zero: none */
	struct disk_locator *items;    /* all others */
	unsigned count;
};

int vhdx_locator_parse(const uint8_t *item, size_t size, struct vhdx_locator *ret,
		       struct error *err);
void vhdx_locator_done(struct vhdx_locator *locator);
/* Adds or replaces. value NULL: as it is. */
int vhdx_locator_put(struct vhdx_locator *locator, const char *key, const char *value,
		     struct error *err);
/* Allocated; freed by the caller. */
int vhdx_locator_compose(const struct vhdx_locator *locator, uint8_t **ret, size_t *ret_size,
			 struct error *err);

#endif
