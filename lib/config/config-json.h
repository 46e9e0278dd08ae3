/*
 * The VM description as JSON: the file vm.json of a VM's folder, and what daemon and worker tell
 * each other (docs/api.md describes the members).
 *
 * Reading is strict, for the file may come from anywhere: a version that is newer than ours, a name
 * in "requires" that we do not know, an unknown member inside a known object, a wrong type or a
 * broken rule refuse the file and say where. Unknown members at the top are kept and written back.
 */
#ifndef CONFIG_CONFIG_JSON_H
#define CONFIG_CONFIG_JSON_H

#include "config/config.h"

#include <jansson.h>

/* The result is the caller's (config_vm_free). */
int config_vm_from_json(const json_t *json, struct config_vm **ret, struct error *err);
/* NULL: no memory. */
json_t *config_vm_to_json(const struct config_vm *vm);

/* Reads dir_fd/file, of at most 4 MiB. */
int config_load(int dir_fd, const char *file, struct config_vm **ret, struct error *err);
/* Replaces dir_fd/file as a whole: after a crash either the old or the new one is there. On return
 * file and folder are synced. */
int config_save(int dir_fd, const char *file, const struct config_vm *vm, struct error *err);
/* The same for any JSON value. */
int config_save_json(int dir_fd, const char *file, const json_t *json, struct error *err);
int config_load_json(int dir_fd, const char *file, json_t **ret, struct error *err);

#endif
