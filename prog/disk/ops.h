/* The jobs of oyako-disk, one function each (docs/disk-protocol.md). *ret is the answer's result.
 */
#ifndef DISK_PROGRAM_OPS_H
#define DISK_PROGRAM_OPS_H

#include "job.h"

#include "disk/disk.h"

int op_create(struct job *job, json_t **ret, struct error *err);
int op_describe(struct job *job, json_t **ret, struct error *err);
int op_parents(struct job *job, json_t **ret, struct error *err);
int op_convert(struct job *job, json_t **ret, struct error *err);
int op_serve(struct job *job, json_t **ret, struct error *err);
int op_resize(struct job *job, json_t **ret, struct error *err);
int op_compact(struct job *job, json_t **ret, struct error *err);
int op_set(struct job *job, json_t **ret, struct error *err);
int op_merge(struct job *job, json_t **ret, struct error *err);
int op_check(struct job *job, json_t **ret, struct error *err);
int op_track(struct job *job, json_t **ret, struct error *err);
int op_track_export(struct job *job, json_t **ret, struct error *err);
int op_copy_file(struct job *job, json_t **ret, struct error *err);

/* What the job says of a new disk. Its parent is not looked for. */
int ops_new_disk(const struct job *job, struct disk_create_options *ret, struct error *err);

#endif
