/*
 * What a description says to the firmware and about the serial ports, with Hyper-V's names and
 * defaults. There is no firmware yet: machines start a Linux kernel directly, and these settings
 * are kept for the day that there is one, and for what is exported.
 *
 * Generation 2 boots from devices in an order: each drive and adapter has its place in it, so that
 * one that is moved keeps it and one that is removed leaves none behind. Generation 1 boots from
 * kinds of devices.
 */
#ifndef CONFIG_FIRMWARE_H
#define CONFIG_FIRMWARE_H

#include "base/error.h"
#include "base/guid.h"

#include <stdbool.h>

struct config_disk;
struct config_nic;
struct config_vm;

#define CONFIG_FLOPPY_BYTES 1474560 /* of an image: 80 tracks, 2 sides, 18 sectors of 512 */

/* The words of a setting, by the numbers of its enumeration. */
struct config_words {
	const char *const *words;
	unsigned count;
};
/* The number of a word, case ignored. False: it is none of them. */
bool config_word(const struct config_words *words, const char *word, unsigned *ret);

enum config_secure_boot_template {
	CONFIG_SECURE_BOOT_WINDOWS,
	CONFIG_SECURE_BOOT_UEFI_CA,
	CONFIG_SECURE_BOOT_SHIELDED,
};
extern const struct config_words config_secure_boot_templates;
/* Hyper-V's identifier of a template, and the template of one. */
const char *config_secure_boot_id(unsigned template);
bool config_secure_boot_from_id(const char *id, unsigned *ret);

enum config_boot_protocol { CONFIG_BOOT_IPV4, CONFIG_BOOT_IPV6 };
extern const struct config_words config_boot_protocols;
enum config_console_mode {
	CONFIG_CONSOLE_DEFAULT,
	CONFIG_CONSOLE_COM1,
	CONFIG_CONSOLE_COM2,
	CONFIG_CONSOLE_NONE,
};
extern const struct config_words config_console_modes;
/* Kinds of devices that generation 1 boots from. */
#define CONFIG_BOOT_KINDS 4
extern const struct config_words config_boot_kinds; /* CD IDE LegacyNetworkAdapter Floppy */

struct config_firmware {
	/* Generation 2. The numbers are those of the enumerations. */
	bool secure_boot;
	unsigned secure_boot_template, network_protocol, console_mode;
	bool pause_after_boot_failure;
	/* Generation 1. */
	bool num_lock;
	unsigned startup_order[CONFIG_BOOT_KINDS]; /* each kind once */
};
extern const struct config_firmware config_firmware_default;
int config_firmware_check(const struct config_firmware *firmware, struct error *err);

/* Places of a drive or adapter in the order, from 1 on, and two that are none. */
#define CONFIG_BOOT_LAST  0u /* behind those that have a place */
#define CONFIG_BOOT_NEVER (~0u)

/* A device that a VM boots from: one of both. */
struct config_boot {
	struct config_disk *disk;
	struct config_nic *nic;
};
/* The order, borrowed from vm until it changes. At most CONFIG_MAX_DISKS + CONFIG_MAX_NICS. */
unsigned config_boot_order(const struct config_vm *vm, struct config_boot *ret);
/* Only these, in this order. */
void config_set_boot_order(struct config_vm *vm, const struct config_boot *order, unsigned count);
/* This one first, the others as before. */
void config_boot_first(struct config_vm *vm, const struct config_boot *first);
/* As cmdlets name it: "SCSI:0:1", or the adapter's name. The caller's. */
char *config_boot_text(const struct config_boot *device);
/* The devices that such a text names, several where adapters have one name; at most
 * CONFIG_MAX_NICS. */
unsigned config_boot_find(const struct config_vm *vm, const char *text, struct config_boot *ret);

#define CONFIG_COM_PORTS 2
/* A serial port. path: Hyper-V's \\.\pipe\NAME, or the absolute path of a Unix socket. */
struct config_com {
	char *path; /* NULL: none */
	bool debugger_mode;
};
/* NAME of \\.\pipe\NAME, within path; NULL: it is no such path. */
const char *config_pipe_name(const char *path);
/* Takes a path as it is typed: also what a POSIX shell leaves of \\.\pipe\NAME, with or without
 * quotes. NULL or "": none. */
int config_set_com_path(struct config_com *com, const char *path, struct error *err);
int config_com_check(const struct config_com *com, struct error *err);

#endif
