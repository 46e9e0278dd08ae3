/* What cmdlets show: VMs and their parts as JSON objects with Hyper-V's property names. */
#ifndef DAEMON_OBJECTS_H
#define DAEMON_OBJECTS_H

#include "vm.h"

#include <jansson.h>

json_t *object_vm(const struct vm *vm);
json_t *object_disk(const struct vm *vm, const struct config_disk *disk);
json_t *object_controller(const struct vm *vm, unsigned number);
json_t *object_ide(const struct vm *vm, unsigned number);
json_t *object_firmware(const struct vm *vm);
json_t *object_bios(const struct vm *vm);
json_t *object_floppy(const struct vm *vm);
json_t *object_com(const struct vm *vm, unsigned port); /* from 0 */
json_t *object_nic(const struct vm *vm, const struct config_nic *nic);
json_t *object_service(const struct vm *vm, enum config_ic service);
json_t *object_socket(const struct vm *vm, const struct config_socket *socket);
json_t *object_processor(const struct vm *vm);
json_t *object_memory(const struct vm *vm);
json_t *object_video(const struct vm *vm);
json_t *object_host(const struct daemon *daemon);
/* The addresses that the guest reports: list of texts. */
json_t *object_addresses(const struct vm *vm);

#endif
