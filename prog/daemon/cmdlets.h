/* The functions of the cmdlets that the daemon carries out, one for each name of the table, and
 * what several of them need. */
#ifndef DAEMON_CMDLETS_H
#define DAEMON_CMDLETS_H

#include "disk-task.h"
#include "request.h"
#include "vm.h"

void cmdlet_new_vm(struct request *request);
void cmdlet_get_vm(struct request *request);
void cmdlet_set_vm(struct request *request);
void cmdlet_start_vm(struct request *request);
void cmdlet_stop_vm(struct request *request);
void cmdlet_restart_vm(struct request *request);
void cmdlet_suspend_vm(struct request *request);
void cmdlet_resume_vm(struct request *request);
void cmdlet_save_vm(struct request *request);
void cmdlet_remove_saved_state(struct request *request);
void cmdlet_checkpoint_vm(struct request *request);
void cmdlet_get_checkpoint(struct request *request);
void cmdlet_rename_checkpoint(struct request *request);
void cmdlet_remove_checkpoint(struct request *request);
void cmdlet_restore_checkpoint(struct request *request);
void cmdlet_export_checkpoint(struct request *request);
void cmdlet_remove_vm(struct request *request);
void cmdlet_rename_vm(struct request *request);
void cmdlet_debug_vm(struct request *request);
void cmdlet_get_service(struct request *request);
void cmdlet_enable_service(struct request *request);
void cmdlet_disable_service(struct request *request);
void cmdlet_add_disk(struct request *request);
void cmdlet_get_disk(struct request *request);
void cmdlet_remove_disk(struct request *request);
void cmdlet_set_disk(struct request *request);
void cmdlet_add_controller(struct request *request);
void cmdlet_get_controller(struct request *request);
void cmdlet_remove_controller(struct request *request);
void cmdlet_get_ide(struct request *request);
void cmdlet_get_firmware(struct request *request);
void cmdlet_set_firmware(struct request *request);
void cmdlet_get_bios(struct request *request);
void cmdlet_get_floppy(struct request *request);
void cmdlet_set_floppy(struct request *request);
void cmdlet_set_bios(struct request *request);
void cmdlet_get_com(struct request *request);
void cmdlet_set_com(struct request *request);
void cmdlet_enable_console(struct request *request);
void cmdlet_disable_console(struct request *request);
void cmdlet_get_numa(struct request *request);
void cmdlet_rename_adapter(struct request *request);
void cmdlet_set_adapter(struct request *request);
void cmdlet_add_dvd(struct request *request);
void cmdlet_get_dvd(struct request *request);
void cmdlet_set_dvd(struct request *request);
void cmdlet_remove_dvd(struct request *request);
void cmdlet_add_adapter(struct request *request);
void cmdlet_get_adapter(struct request *request);
void cmdlet_remove_adapter(struct request *request);
void cmdlet_connect_adapter(struct request *request);
void cmdlet_disconnect_adapter(struct request *request);
void cmdlet_get_processor(struct request *request);
void cmdlet_set_processor(struct request *request);
void cmdlet_get_memory(struct request *request);
void cmdlet_set_memory(struct request *request);
void cmdlet_get_video(struct request *request);
void cmdlet_set_video(struct request *request);
void cmdlet_send_text(struct request *request);
void cmdlet_send_key(struct request *request);
void cmdlet_send_mouse(struct request *request);
void cmdlet_save_screenshot(struct request *request);
void cmdlet_get_host(struct request *request);
void cmdlet_set_host(struct request *request);
void cmdlet_enable_metering(struct request *request);
void cmdlet_disable_metering(struct request *request);
void cmdlet_reset_metering(struct request *request);
void cmdlet_measure_vm(struct request *request);
void cmdlet_new_group(struct request *request);
void cmdlet_get_group(struct request *request);
void cmdlet_rename_group(struct request *request);
void cmdlet_remove_group(struct request *request);
void cmdlet_add_group_member(struct request *request);
void cmdlet_remove_group_member(struct request *request);
void cmdlet_get_job(struct request *request);
void cmdlet_wait_job(struct request *request);
void cmdlet_stop_job(struct request *request);
void cmdlet_remove_job(struct request *request);
void cmdlet_add_user(struct request *request);
void cmdlet_get_user(struct request *request);
void cmdlet_remove_user(struct request *request);
void cmdlet_grant_access(struct request *request);
void cmdlet_revoke_access(struct request *request);
void cmdlet_get_access(struct request *request);
void cmdlet_get_switch(struct request *request);
void cmdlet_get_event(struct request *request);
void cmdlet_add_socket(struct request *request);
void cmdlet_get_socket(struct request *request);
void cmdlet_remove_socket(struct request *request);
void cmdlet_get_pair(struct request *request);
void cmdlet_set_pair(struct request *request);
void cmdlet_remove_pair(struct request *request);
void cmdlet_set_guest_adapter(struct request *request);
void cmdlet_copy_file(struct request *request);
void cmdlet_new_vhd(struct request *request);
void cmdlet_get_vhd(struct request *request);
void cmdlet_test_vhd(struct request *request);
void cmdlet_convert_vhd(struct request *request);
void cmdlet_mount_vhd(struct request *request);
void cmdlet_resize_vhd(struct request *request);
void cmdlet_optimize_vhd(struct request *request);
void cmdlet_set_vhd(struct request *request);
void cmdlet_new_vfd(struct request *request);
void cmdlet_merge_vhd(struct request *request);
/* The same of disks that a running VM has (cmdlets-live.c); they hold the request. */
struct disk_user;
void cmdlets_grow_live(struct request *request, const char *path, struct disk_user who);
void cmdlets_set_parent_live(struct request *request, struct disk_user who);
void cmdlets_merge_live(struct request *request, const char *path, const char *into);
void cmdlet_enable_tracking(struct request *request);
void cmdlet_disable_tracking(struct request *request);
void cmdlet_new_point(struct request *request);
void cmdlet_get_point(struct request *request);
void cmdlet_remove_point(struct request *request);
void cmdlet_get_change(struct request *request);
void cmdlet_export_change(struct request *request);
void cmdlet_dismount_vhd(struct request *request);
void cmdlet_export_vm(struct request *request);
void cmdlet_import_vm(struct request *request);
void cmdlet_compare_vm(struct request *request);
void cmdlet_get_supported_version(struct request *request);
void cmdlet_update_version(struct request *request);
/* New-VM -Version: one that this host can run? Nothing given is fine. */
int cmdlets_check_version(const struct request *request, struct error *err);

/* The worker says how far a copy is. */
void cmdlets_copy_progress(struct vm *vm, const json_t *event);
/* Lets describe add its results for each selected VM, once those that run have told their state. */
void cmdlets_show_fresh(struct request *request, const char *name,
			void (*describe)(struct request *request, struct vm *vm));
/* The same for settings, which need no fresh state: of the VMs, or of those of their checkpoints
 * that VMSnapshot names. describe then sees the VM as it was, off. */
void cmdlets_show_settings(struct request *request,
			   void (*describe)(struct request *request, struct vm *vm));
/* New-VM -BootDevice. */
int cmdlets_take_boot_device(struct request *request, struct config_vm *config, struct error *err);
/* Does a value of a list parameter, names and patterns, match text? */
bool cmdlets_list_matches(const struct request *request, const char *name, const char *text);
/* Changes a VM's description by mutate, which returns 0, 1 (nothing to change) or an error. An
 * error becomes the request's, and false is returned. needs_off: refuses while it runs. */
bool cmdlets_change(struct request *request, struct vm *vm, bool needs_off,
		    int (*mutate)(struct request *request, struct config_vm *config,
				  struct error *err));
/* Takes the memory settings that a request names into a description. */
int cmdlets_take_memory(struct request *request, struct config_vm *config, struct error *err);
/* The same for a VM, which may run; false: the request has its error. */
bool cmdlets_change_memory(struct request *request, struct vm *vm);
/* Adds an adapter to a description that is not stored yet or is about to be. */
int cmdlets_add_nic(struct daemon *daemon, struct config_vm *config, const char *name,
		    const char *switch_name, const char *mac, struct error *err);
/* A dynamic MAC address that no adapter has: none of the stored ones, and none of config's. */
int cmdlets_choose_mac(const struct daemon *daemon, const struct config_vm *config, uint8_t ret[6],
		       struct error *err);
/* also: NULL, or a description that is not stored. */
bool cmdlets_mac_in_use(const struct daemon *daemon, const struct config_vm *also,
			const uint8_t mac[6]);
int cmdlets_add_disk_file(struct config_vm *config, const struct config_disk *disk, bool unverified,
			  struct error *err);
/* Paths of a request's parameter, a list or one. */
json_t *cmdlets_paths_of(const struct request *request, const char *name);
/* Get-VHD's object of a disk, of what oyako-disk says of it. */
json_t *cmdlets_object_vhd(const struct daemon *daemon, const char *path, const json_t *result);
/* Adds Get-VHD's object of a disk. */
void cmdlets_show_vhd(struct request *request, const char *path);
/* By name or kind of file: it holds a disk as it is. */
bool cmdlets_is_raw(const char *path);
/* The format of the file that Convert-VHD is to make, as oyako-disk calls it. */
int cmdlets_target_format(const struct request *request, const char *path, const char **ret,
			  struct error *err);
/* Convert-VHD by qemu-img; the format is qemu-img's name of it, by the file's name, or NULL. */
const char *cmdlets_foreign_format(const char *path);
void cmdlets_convert_foreign(struct request *request);
/* A disk_task_ops.begin: a new disk, as New-VHD's or New-VM's parameters describe it. */
int cmdlets_begin_new_disk(struct disk_task *task, json_t **ret, struct error *err);

/* Saves a VM, as Save-VM does; holds the request until it is done. */
void cmdlets_save_vm(struct request *request, struct vm *vm);

#endif
