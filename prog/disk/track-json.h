/*
 * Reference points and changes of a tracked disk as JSON, the same whether a worker has the disk or
 * oyako-disk looks into the file of one that is off.
 *
 *	track-mark                            -> {"point", "time"}
 *	track-points                          -> {"points": [{"point", "time"}, ...]}, oldest first
 *	track-forget  "point"                 -> {}
 *	track-changes "point", "from"         -> {"ranges": [[offset, length], ...], "next"}
 *
 * "next" is there where more ranges follow: "from" of the next request.
 */
#ifndef DISK_PROGRAM_TRACK_JSON_H
#define DISK_PROGRAM_TRACK_JSON_H

#include "disk/track.h"

#include <jansson.h>

bool track_json_knows(const char *op);
int track_json_run(struct blk *tracked, const char *op, const json_t *params, json_t **ret,
		   struct error *err);

/* The parameter "point". */
int track_json_point(const json_t *params, struct guid *ret, struct error *err);

#endif
