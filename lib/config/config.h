/*
 * The description of a VM: plain, versioned data, the same for the command line, the daemon and the
 * worker. Only the worker turns it into devices. On disk and on the wire it is JSON
 * (config-json.h).
 *
 * A description owns all that hangs on it; config_vm_free() frees it. Strings are UTF-8 and were
 * checked. Functions that change a description leave it as it was when they fail.
 */
#ifndef CONFIG_CONFIG_H
#define CONFIG_CONFIG_H

#include "base/error.h"
#include "base/guid.h"
#include "config/firmware.h"

#include <stdbool.h>
#include <stdint.h>

#define CONFIG_VERSION            1
#define CONFIG_VERSION_TEXT       "1.0" /* as Get-VM shows it; of saved states, too */
#define CONFIG_NAME_MAX           100
#define CONFIG_NOTES_MAX          16384
#define CONFIG_CMDLINE_MAX        2047 /* what x86 Linux takes */
#define CONFIG_MAX_DISKS          256
#define CONFIG_MAX_IOPS           1000000000
#define CONFIG_MAX_NICS           8
#define CONFIG_MAX_SOCKETS        64
#define CONFIG_MAX_SCSI           4
#define CONFIG_LOCATIONS_PER_SCSI 64
#define CONFIG_MAX_IDE            2 /* generation 1 only */
#define CONFIG_LOCATIONS_PER_IDE  2
#define CONFIG_VIDEO_WIDTH        1920 /* by default */
#define CONFIG_VIDEO_HEIGHT       1080
#define CONFIG_MAX_PROCESSORS     64
#define CONFIG_MIN_CODE_CACHE     MIB
#define CONFIG_MAX_CODE_CACHE     (1 * GIB)
#define CONFIG_MIN_MEMORY_BYTES   (UINT64_C(32) << 20)
#define CONFIG_MAX_MEMORY_BYTES   (UINT64_C(240) << 40) /* generation 2 */

enum config_backend {
	CONFIG_BACKEND_AUTO,
	CONFIG_BACKEND_KVM,
	CONFIG_BACKEND_SOFT,
	CONFIG_BACKEND_SOFT_INTERPRETER,
	CONFIG_BACKEND_SOFT_LOCKSTEP,
};
enum config_disk_kind { CONFIG_DISK_HARD, CONFIG_DISK_DVD };
enum config_bus { CONFIG_BUS_SCSI, CONFIG_BUS_IDE };

struct config_disk {
	enum config_disk_kind kind;
	enum config_bus bus;
	char *path;                      /* absolute; NULL: an empty DVD drive */
	unsigned controller_number, lun; /* SCSI: 0..3, location 0..63; IDE: 0..1, 0..1 */
	bool read_only;
	/* Normalized (8 KiB) requests a second; 0: none. The maximum is kept, the minimum watched.
	 */
	unsigned minimum_iops, maximum_iops;
	unsigned boot_position; /* firmware.h */
};

struct config_nic {
	struct guid id;    /* instance GUID, stable */
	char *name;        /* "Network Adapter" */
	char *switch_name; /* NULL: not connected */
	uint8_t mac[6];
	bool static_mac;        /* chosen by the administrator, not out of the host's pool */
	bool mac_spoofing;      /* may send from other addresses */
	unsigned boot_position; /* firmware.h */
};

/* Integration services, by the index of enum config_ic; names as Hyper-V's. */
enum config_ic {
	CONFIG_IC_SHUTDOWN,  /* "Shutdown"                */
	CONFIG_IC_TIME_SYNC, /* "Time Synchronization"    */
	CONFIG_IC_HEARTBEAT, /* "Heartbeat"               */
	CONFIG_IC_KVP,       /* "Key-Value Pair Exchange" */
	CONFIG_IC_VSS,       /* "VSS"                     */
	CONFIG_IC_COPY,      /* "Guest Service Interface" */
	CONFIG_IC_COUNT
};

/* What the host's processors do for the VM, with Hyper-V's ranges and defaults. Percentages are of
 * each virtual processor. */
#define CONFIG_MAX_WEIGHT 10000
struct config_processor {
	unsigned reserve_percent; /* 0..100: kept for it while it runs */
	unsigned maximum_percent; /* 0..100, not below the reserve: it gets no more */
	unsigned weight;          /* 1..10000: who gets a processor when all are busy */
	bool compatible;          /* the guest sees no more than all hosts can do */
};

/* Dynamic memory, with Hyper-V's defaults. Bounds hold only where it is enabled. */
struct config_dynamic_memory {
	bool enabled;
	uint64_t minimum_bytes, maximum_bytes;
	unsigned buffer_percent; /* kept spare, of the demand */
	unsigned priority;       /* 0..100: who gets scarce memory */
};

/* Keyboard, mouse and screen. Width and height bound what a guest may choose, or are the only
 * resolution that it is offered. */
enum config_video_type { CONFIG_VIDEO_MAXIMUM, CONFIG_VIDEO_SINGLE, CONFIG_VIDEO_DEFAULT };
struct config_video {
	bool enabled;
	enum config_video_type type; /* DEFAULT: bound by 1920 x 1080 */
	unsigned width, height;
};

/* A service of the host that programs in the guest may connect to (AF_VSOCK), or a name for one in
 * the guest. */
struct config_socket {
	struct guid service;
	char *name; /* for people */
	char *path; /* Unix socket of the host's program; NULL: the guest is not let in */
};

/* What Checkpoint-VM takes. Production needs the guest's help (VSS), and falls back to Standard. */
enum config_checkpoint_type {
	CONFIG_CHECKPOINT_PRODUCTION,
	CONFIG_CHECKPOINT_PRODUCTION_ONLY,
	CONFIG_CHECKPOINT_STANDARD,
	CONFIG_CHECKPOINT_DISABLED,
	CONFIG_CHECKPOINT_COUNT
};
/* How an enhanced session (RDP) reaches the guest: Windows over VMBus, Linux over its sockets. */
enum config_session { CONFIG_SESSION_VMBUS, CONFIG_SESSION_HVSOCKET };
/* What happens to the VM when the host starts and stops; Hyper-V's names. */
enum config_start_action { CONFIG_START_NOTHING, CONFIG_START_IF_RUNNING, CONFIG_START_ALWAYS };
enum config_stop_action { CONFIG_STOP_TURN_OFF, CONFIG_STOP_SAVE, CONFIG_STOP_SHUT_DOWN };
#define CONFIG_MAX_START_DELAY_SECONDS 86400
/* What happens to a running VM when the host's storage fails it. */
enum config_critical_action { CONFIG_CRITICAL_NONE, CONFIG_CRITICAL_PAUSE };
/* And when its worker fails. */
enum config_recovery_action { CONFIG_RECOVERY_NONE, CONFIG_RECOVERY_RESTART };
#define CONFIG_CRITICAL_MINUTES     30 /* paused so long, by default, before it is turned off */
#define CONFIG_MAX_CRITICAL_MINUTES 1440

struct json_t;

struct config_vm {
	unsigned version; /* of this description; 1 */
	struct guid id;
	char *name;
	char *notes;           /* NULL: none */
	unsigned generation;   /* 1 or 2 */
	uint64_t memory_bytes; /* at the start */
	struct config_dynamic_memory dynamic_memory;
	struct config_video video;
	unsigned processor_count;
	struct config_processor processor;
	enum config_backend backend;
	/* Of the software CPU, for one processor; 0: what is usual. */
	uint64_t code_cache_bytes;
	char *kernel_path, *initrd_path, *kernel_cmdline; /* direct boot; NULL: firmware */
	struct guid scsi_ids[CONFIG_MAX_SCSI]; /* instance GUID of each SCSI controller */
	unsigned scsi_count;
	struct config_disk *disks; /* in the order of their controllers, as in the file */
	unsigned disk_count;
	struct config_nic *nics;
	unsigned nic_count;
	bool ic_enabled[CONFIG_IC_COUNT];
	struct config_socket *sockets;
	unsigned socket_count;
	struct config_firmware firmware;
	struct config_com com[CONFIG_COM_PORTS]; /* COM 1, COM 2 */
	/* Image in the floppy drive, absolute; NULL: it is empty. Generation 1 alone has that
	 * drive; as with its BIOS it is only kept. */
	char *floppy_path;
	enum config_checkpoint_type checkpoint_type;
	bool automatic_checkpoints; /* taken at each start, to go with the stop */
	/* GUIDs as text. The saved state that it goes on from; the checkpoint that it comes from.
	 */
	char *saved_state, *parent_checkpoint; /* NULL: none */
	/* Folder of its checkpoints alone; NULL: in its own. Hyper-V's smart paging has no
	 * counterpart: that folder is only kept. Both absolute. */
	char *checkpoint_folder, *smart_paging_folder;
	enum config_start_action start_action;
	unsigned start_delay_seconds; /* of an automatic start */
	enum config_stop_action stop_action;
	enum config_recovery_action recovery_action;
	enum config_critical_action critical_action;
	unsigned critical_minutes;
	enum config_session session;
	/* Members of the file that this version does not know; kept when it is written again. */
	struct json_t *unknown;
};

/* A generation 2 VM with Hyper-V's defaults: 512 MiB, one processor, one SCSI controller, all
 * integration services of enum config_ic but file copy; a new id. NULL: no memory. */
struct config_vm *config_vm_new(const char *name);
void config_vm_free(struct config_vm *vm);

/* All rules that hold for a description by itself: limits, names, no two drives in one place. */
int config_vm_check(const struct config_vm *vm, struct error *err);
/* 1 to 100 characters of UTF-8 without control characters. */
int config_check_name(const char *name, const char *what, struct error *err);

/* Adds a drive or an adapter; the strings are copied. The result is borrowed from vm and valid
 * until the next change. NULL: see err. */
struct config_disk *config_add_disk(struct config_vm *vm, const struct config_disk *disk,
				    struct error *err);
struct config_nic *config_add_nic(struct config_vm *vm, const struct config_nic *nic,
				  struct error *err);
/* The drive in that place, or NULL. */
struct config_disk *config_find_disk(const struct config_vm *vm, enum config_bus bus,
				     unsigned controller, unsigned lun);
const char *config_bus_name(enum config_bus bus); /* "SCSI", "IDE" */
/* Looks for the first free place; controller -1: on any. ERR_LIMIT where all are taken. */
int config_free_location(const struct config_vm *vm, enum config_bus bus, int controller,
			 unsigned *ret_controller, unsigned *ret_lun, struct error *err);
void config_remove_disk(struct config_vm *vm, unsigned index);
/* A SCSI controller behind the others. ERR_LIMIT where there are four. */
int config_add_controller(struct config_vm *vm, struct error *err);
/* With its drives; the controllers behind it move up by one. */
void config_remove_controller(struct config_vm *vm, unsigned number);
void config_remove_nic(struct config_vm *vm, unsigned index);
/* ERR_EXISTS: the service is there already. */
int config_add_socket(struct config_vm *vm, const struct config_socket *socket, struct error *err);
void config_remove_socket(struct config_vm *vm, unsigned index);
const struct config_socket *config_find_socket(const struct config_vm *vm,
					       const struct guid *service);
/* Replaces an owned string; value may be NULL. */
int config_set_string(char **field, const char *value, struct error *err);

const char *config_ic_name(enum config_ic ic);
const char *
config_video_type_name(enum config_video_type type); /* "Maximum", "Single", "Default" */
bool config_video_type_from_name(const char *name, enum config_video_type *ret);
/* "Production", "ProductionOnly", "Standard", "Disabled" */
const char *config_checkpoint_type_name(enum config_checkpoint_type type);
bool config_checkpoint_type_from_name(const char *name, enum config_checkpoint_type *ret);
/* "Nothing", "StartIfRunning", "Start"; "TurnOff", "Save", "ShutDown". From a name: case ignored.
 */
const char *config_start_action_name(enum config_start_action action);
const char *config_stop_action_name(enum config_stop_action action);
bool config_start_action_from_name(const char *name, enum config_start_action *ret);
bool config_stop_action_from_name(const char *name, enum config_stop_action *ret);
/* "None", "Restart"; from a name: case ignored. */
const char *config_recovery_action_name(enum config_recovery_action action);
bool config_recovery_action_from_name(const char *name, enum config_recovery_action *ret);
/* "None", "Pause"; from a name: case ignored. */
const char *config_critical_action_name(enum config_critical_action action);
bool config_critical_action_from_name(const char *name, enum config_critical_action *ret);
/* "VMBus", "HvSocket"; from a name: case ignored. */
const char *config_session_name(enum config_session session);
bool config_session_from_name(const char *name, enum config_session *ret);
const char *config_backend_name(enum config_backend backend); /* as -Backend has them */
bool config_backend_from_name(const char *name, enum config_backend *ret);

#define CONFIG_MAC_TEXT_SIZE 18
/* "00:15:5d:01:02:03" */
char *config_mac_format(const uint8_t mac[6], char ret[static CONFIG_MAC_TEXT_SIZE]);
/* Accepts 12 hexadecimal digits, in pairs apart by ':' or '-' or not at all. */
bool config_mac_parse(const char *text, uint8_t ret[6]);

#endif
