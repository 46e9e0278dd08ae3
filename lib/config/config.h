/*
 * The description of a VM: plain, versioned data, the same for the command line, the daemon and the
 * worker. Only the worker turns it into devices. On disk and on the wire it is JSON
 * (config-json.h).
 */
#ifndef CONFIG_CONFIG_H
#define CONFIG_CONFIG_H

#include "base/error.h"
#include "base/guid.h"

#include <stdbool.h>
#include <stdint.h>

#define CONFIG_NAME_MAX  100
#define CONFIG_MAX_DISKS 256
#define CONFIG_MAX_NICS  8

enum config_backend { CONFIG_BACKEND_AUTO, CONFIG_BACKEND_KVM, CONFIG_BACKEND_SOFT };
enum config_disk_kind { CONFIG_DISK_HARD, CONFIG_DISK_DVD };

struct config_disk {
	enum config_disk_kind kind;
	char *path;                      /* absolute; NULL: an empty DVD drive */
	unsigned controller_number, lun; /* SCSI controller 0..3, location 0..63 */
	bool read_only;
};

struct config_nic {
	struct guid id;    /* instance GUID, stable */
	char *name;        /* "Network Adapter" */
	char *switch_name; /* NULL: not connected */
	uint8_t mac[6];
};

/* Integration services, by the index of enum config_ic; names as Hyper-V's. */
enum config_ic {
	CONFIG_IC_SHUTDOWN,  /* "Shutdown"                */
	CONFIG_IC_TIME_SYNC, /* "Time Synchronization"    */
	CONFIG_IC_HEARTBEAT, /* "Heartbeat"               */
	CONFIG_IC_KVP,       /* "Key-Value Pair Exchange" */
	CONFIG_IC_COUNT
};

struct config_vm {
	unsigned version; /* of this description; 1 */
	struct guid id;
	char *name;
	char *notes;
	unsigned generation; /* 1 or 2 */
	uint64_t memory_bytes;
	unsigned processor_count;
	enum config_backend backend;
	char *kernel_path, *initrd_path, *kernel_cmdline; /* direct boot; NULL: firmware */
	struct guid scsi_ids[4]; /* instance GUID of each SCSI controller */
	unsigned scsi_count;
	struct config_disk *disks;
	unsigned disk_count;
	struct config_nic *nics;
	unsigned nic_count;
	bool ic_enabled[CONFIG_IC_COUNT];
};

#endif
