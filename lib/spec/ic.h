/*
 * Integration components on the wire (VMBus in-band packets with a pipe header). Everything is
 * little-endian and packed; each request is sent at its full size, since the guest edits it in
 * place and sends it back.
 */
#ifndef SPEC_IC_H
#define SPEC_IC_H

#include <stddef.h>
#include <stdint.h>

#define IC_SPEC_PACKED            __attribute__((packed))
#define IC_SPEC_SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), #type)
#define IC_SPEC_AT(type, field, offset)                                                            \
	_Static_assert(offsetof(struct type, field) == (offset), #type "." #field)

enum ic_spec_message_type {
	IC_MSG_NEGOTIATE = 0,
	IC_MSG_HEARTBEAT = 1,
	IC_MSG_KVP = 2,
	IC_MSG_SHUTDOWN = 3,
	IC_MSG_TIME_SYNC = 4,
	IC_MSG_VSS = 5,
	IC_MSG_FILE_COPY = 7,
};

#define IC_FLAG_TRANSACTION 1
#define IC_FLAG_REQUEST     2
#define IC_FLAG_RESPONSE    4

#define IC_PIPE_DATA 1

#define IC_S_OK            0u
#define IC_E_FAIL          0x80004005u
#define IC_E_NO_MORE_ITEMS 0x80070103u
#define IC_E_NOT_FOUND     0x80041002u
#define IC_E_FILE_EXISTS   0x80070050u
#define IC_E_DISK_FULL     0x80070070u

struct ic_spec_version {
	uint16_t major, minor;
} IC_SPEC_PACKED;

struct ic_spec_header {
	uint32_t pipe_type;
	uint32_t pipe_bytes; /* that follow this field */
	struct ic_spec_version framework;
	uint16_t message_type;
	struct ic_spec_version message;
	uint16_t body_bytes;
	uint32_t status;
	uint8_t transaction_id;
	uint8_t flags;
	uint16_t reserved;
} IC_SPEC_PACKED;
IC_SPEC_SIZE(ic_spec_header, 28);
IC_SPEC_AT(ic_spec_header, status, 20);

#define IC_PIPE_HEADER_BYTES 8

/* struct ic_spec_version of the framework follow, then those of the messages. */
struct ic_spec_negotiate {
	struct ic_spec_header header;
	uint16_t framework_count;
	uint16_t message_count;
	uint32_t reserved;
} IC_SPEC_PACKED;
IC_SPEC_SIZE(ic_spec_negotiate, 36);

/* What the guest says of its programs; Linux says nothing (unknown). */
enum ic_spec_application_state {
	IC_APPLICATIONS_UNKNOWN = 0,
	IC_APPLICATIONS_HEALTHY = 1,
	IC_APPLICATIONS_CRITICAL = 2,
};

struct ic_spec_heartbeat {
	struct ic_spec_header header;
	uint64_t sequence;
	uint32_t application_state; /* enum ic_spec_application_state */
	uint32_t reserved[7];
} IC_SPEC_PACKED;
IC_SPEC_SIZE(ic_spec_heartbeat, 68);

enum ic_spec_shutdown_flags {
	IC_SHUTDOWN = 0,
	IC_SHUTDOWN_FORCED = 1,
	IC_RESTART = 2,
	IC_RESTART_FORCED = 3,
};

struct ic_spec_shutdown {
	struct ic_spec_header header;
	uint32_t reason;
	uint32_t timeout_seconds;
	uint32_t flags;
	char message[2048];
} IC_SPEC_PACKED;
IC_SPEC_SIZE(ic_spec_shutdown, 2088);

#define IC_TIME_SYNC_FLAG   1
#define IC_TIME_SAMPLE_FLAG 2

/* Message version 4.0 */
struct ic_spec_time_v4 {
	struct ic_spec_header header;
	uint64_t parent_time; /* 100 ns since 1601-01-01 UTC */
	uint64_t reference_time;
	uint8_t flags;
	uint8_t leap_flags;
	uint8_t stratum;
	uint8_t reserved[3];
} IC_SPEC_PACKED;
IC_SPEC_SIZE(ic_spec_time_v4, 50);
IC_SPEC_AT(ic_spec_time_v4, flags, 44);

/* Message versions 1.0 and 3.0 */
struct ic_spec_time_v3 {
	struct ic_spec_header header;
	uint64_t parent_time;
	uint64_t child_time;
	uint64_t round_trip_time;
	uint8_t flags;
} IC_SPEC_PACKED;
IC_SPEC_SIZE(ic_spec_time_v3, 53);
IC_SPEC_AT(ic_spec_time_v3, flags, 52);

enum ic_spec_kvp_operation {
	IC_KVP_GET = 0,
	IC_KVP_SET = 1,
	IC_KVP_DELETE = 2,
	IC_KVP_ENUMERATE = 3,
	IC_KVP_GET_IP_INFO = 4,
	IC_KVP_SET_IP_INFO = 5,
};

enum ic_spec_kvp_pool {
	IC_KVP_POOL_EXTERNAL = 0,      /* the host writes, the guest reads */
	IC_KVP_POOL_GUEST = 1,         /* the guest writes */
	IC_KVP_POOL_AUTO = 2,          /* intrinsic: the daemon's facts about the guest */
	IC_KVP_POOL_AUTO_EXTERNAL = 3, /* the host's facts */
};

#define IC_KVP_KEY_BYTES   512
#define IC_KVP_VALUE_BYTES 2048
#define IC_KVP_STRING      1
#define IC_KVP_U32         4
#define IC_KVP_U64         8

struct ic_spec_kvp_value {
	uint32_t type;
	uint32_t key_bytes; /* UTF-16LE with its terminating zero */
	uint32_t value_bytes;
	uint8_t key[IC_KVP_KEY_BYTES];
	uint8_t value[IC_KVP_VALUE_BYTES];
} IC_SPEC_PACKED;
IC_SPEC_SIZE(ic_spec_kvp_value, 2572);

struct ic_spec_kvp {
	struct ic_spec_header header;
	uint8_t operation;
	uint8_t pool;
	uint16_t padding;
	union {
		struct ic_spec_kvp_value get_set;
		struct {
			uint32_t key_bytes;
			uint8_t key[IC_KVP_KEY_BYTES];
		} IC_SPEC_PACKED remove;
		struct {
			uint32_t index;
			struct ic_spec_kvp_value data;
		} IC_SPEC_PACKED enumerate;
	};
} IC_SPEC_PACKED;
IC_SPEC_SIZE(ic_spec_kvp, 2608);
IC_SPEC_AT(ic_spec_kvp, get_set, 32);
IC_SPEC_AT(ic_spec_kvp, enumerate.data, 36);

struct ic_spec_kvp_ip {
	struct ic_spec_header header;
	uint8_t operation;
	uint8_t pool;
	uint8_t adapter_id[256]; /* all texts: UTF-16LE with a terminating zero */
	uint8_t address_family;  /* 1: IPv4, 2: IPv6, 3: both */
	uint8_t dhcp_enabled;
	uint8_t ip_addresses[2048]; /* lists are separated by ';' */
	uint8_t subnets[2048];
	uint8_t gateways[1024];
	uint8_t dns_servers[2048];
} IC_SPEC_PACKED;
IC_SPEC_SIZE(ic_spec_kvp_ip, 7456);

enum ic_spec_vss_operation {
	IC_VSS_HOT_BACKUP = 2, /* can it be done? */
	IC_VSS_BACKUP_COMPLETE = 4,
	IC_VSS_FREEZE = 5,
	IC_VSS_THAW = 6,
};

struct ic_spec_vss {
	struct ic_spec_header header;
	uint8_t operation;
	uint8_t reserved[7];
	uint32_t flags; /* of the answer to HOT_BACKUP */
} IC_SPEC_PACKED;
IC_SPEC_SIZE(ic_spec_vss, 40);

enum ic_spec_copy_operation {
	IC_COPY_START = 0,
	IC_COPY_WRITE = 1,
	IC_COPY_COMPLETE = 2,
	IC_COPY_CANCEL = 3,
};

#define IC_COPY_OVERWRITE   0x1u
#define IC_COPY_CREATE_PATH 0x2u

#define IC_COPY_NAME_BYTES 520 /* UTF-16LE with a terminating zero */
#define IC_COPY_DATA_BYTES 6144

/* COMPLETE and CANCEL are this alone. */
struct ic_spec_copy {
	struct ic_spec_header header;
	uint32_t operation;
	uint8_t service_id[2][16];
} IC_SPEC_PACKED;
IC_SPEC_SIZE(ic_spec_copy, 64);

struct ic_spec_copy_start {
	struct ic_spec_copy copy;
	uint8_t file_name[IC_COPY_NAME_BYTES];
	uint8_t path_name[IC_COPY_NAME_BYTES];
	uint32_t flags;
	uint64_t file_size;
} IC_SPEC_PACKED;
IC_SPEC_SIZE(ic_spec_copy_start, 1116);
IC_SPEC_AT(ic_spec_copy_start, flags, 1104);

struct ic_spec_copy_write {
	struct ic_spec_copy copy;
	uint32_t padding;
	uint64_t offset;
	uint32_t size;
	uint8_t data[IC_COPY_DATA_BYTES];
} IC_SPEC_PACKED;
IC_SPEC_SIZE(ic_spec_copy_write, 6224);
IC_SPEC_AT(ic_spec_copy_write, data, 80);

#endif
