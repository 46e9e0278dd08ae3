/*
 * How a differencing disk (VHD, VHDX) names its parent: paths in Windows' form, with `\`, of which
 * the relative one begins in the child's folder.
 */
#ifndef BASE_PARENT_PATHS_H
#define BASE_PARENT_PATHS_H

#include "base/error.h"

struct parent_paths {
	char *absolute, *relative;
};

/* For a child (existing or to be) that lies in child_path's folder; the parent is there. Freed by
 * parent_paths_done. */
int parent_paths_make(const char *child_path, const char *parent_path, struct parent_paths *ret,
		      struct error *err);
void parent_paths_done(struct parent_paths *paths);

#endif
