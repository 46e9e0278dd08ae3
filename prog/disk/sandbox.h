/*
 * Takes away what a disk job does not need. An image is hostile: whoever takes over the process
 * that reads it gets no more than the filter allows. Rights only shrink.
 */
#ifndef DISK_PROGRAM_SANDBOX_H
#define DISK_PROGRAM_SANDBOX_H

#include "base/error.h"

/* Before the first byte of an image is read. From here on files can be opened for reading only (a
 * chain's parents, whose names stand in the image), none can be made, and no program be run. */
int sandbox_enter_opening(struct error *err);
/* When everything is open: no file at all can be opened. */
int sandbox_enter_working(struct error *err);

#endif
