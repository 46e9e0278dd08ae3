/* The NBD protocol's numbers and layouts: doc/proto.md of the NetworkBlockDevice project. All
 * big-endian. */
#ifndef SPEC_NBD_H
#define SPEC_NBD_H

#include <stdint.h>

/* ---- handshake ("newstyle negotiation") ---- */

#define NBD_MAGIC              UINT64_C(0x4e42444d41474943) /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC       UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define NBD_OPTION_REPLY_MAGIC UINT64_C(0x0003e889045565a9)

/* of both sides */
#define NBD_FLAG_FIXED_NEWSTYLE 1u
#define NBD_FLAG_NO_ZEROES      2u

#define NBD_MAX_STRING 4096u

enum nbd_option {
	NBD_OPT_EXPORT_NAME = 1,
	NBD_OPT_ABORT = 2,
	NBD_OPT_LIST = 3,
	NBD_OPT_INFO = 6,
	NBD_OPT_GO = 7,
	NBD_OPT_STRUCTURED_REPLY = 8,
	NBD_OPT_LIST_META_CONTEXT = 9,
	NBD_OPT_SET_META_CONTEXT = 10,
};

#define NBD_REP_ERROR 0x80000000u
enum nbd_option_reply_type {
	NBD_REP_ACK = 1,
	NBD_REP_SERVER = 2,
	NBD_REP_INFO = 3,
	NBD_REP_META_CONTEXT = 4,
};
#define NBD_REP_ERR_UNSUP   (NBD_REP_ERROR | 1)
#define NBD_REP_ERR_INVALID (NBD_REP_ERROR | 3)
#define NBD_REP_ERR_UNKNOWN (NBD_REP_ERROR | 6)
#define NBD_REP_ERR_TOO_BIG (NBD_REP_ERROR | 9)

enum nbd_info { NBD_INFO_EXPORT = 0, NBD_INFO_BLOCK_SIZE = 3 };

struct nbd_option_request {
	uint64_t magic;
	uint32_t option, length;
} __attribute__((packed));

struct nbd_option_reply {
	uint64_t magic;
	uint32_t option, type, length;
} __attribute__((packed));

/* of an export */
#define NBD_FLAG_HAS_FLAGS         0x001u
#define NBD_FLAG_READ_ONLY         0x002u
#define NBD_FLAG_SEND_FLUSH        0x004u
#define NBD_FLAG_SEND_FUA          0x008u
#define NBD_FLAG_SEND_TRIM         0x020u
#define NBD_FLAG_SEND_WRITE_ZEROES 0x040u
#define NBD_FLAG_SEND_DF           0x080u
#define NBD_FLAG_CAN_MULTI_CONN    0x100u

#define NBD_EXPORT_ZEROES 124u /* behind the answer to EXPORT_NAME, without NO_ZEROES */

/* ---- transmission ---- */

#define NBD_REQUEST_MAGIC          0x25609513u
#define NBD_SIMPLE_REPLY_MAGIC     0x67446698u
#define NBD_STRUCTURED_REPLY_MAGIC 0x668e33efu

enum nbd_command {
	NBD_CMD_READ = 0,
	NBD_CMD_WRITE = 1,
	NBD_CMD_DISC = 2,
	NBD_CMD_FLUSH = 3,
	NBD_CMD_TRIM = 4,
	NBD_CMD_WRITE_ZEROES = 6,
	NBD_CMD_BLOCK_STATUS = 7,
};

#define NBD_CMD_FLAG_FUA     1u
#define NBD_CMD_FLAG_NO_HOLE 2u
#define NBD_CMD_FLAG_DF      4u
#define NBD_CMD_FLAG_REQ_ONE 8u

struct nbd_request_header {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie, offset;
	uint32_t length;
} __attribute__((packed));

struct nbd_simple_reply {
	uint32_t magic, error;
	uint64_t cookie;
} __attribute__((packed));

struct nbd_structured_reply {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie;
	uint32_t length;
} __attribute__((packed));

#define NBD_REPLY_FLAG_DONE 1u
enum nbd_reply_type {
	NBD_REPLY_TYPE_NONE = 0,
	NBD_REPLY_TYPE_OFFSET_DATA = 1,
	NBD_REPLY_TYPE_BLOCK_STATUS = 5,
	NBD_REPLY_TYPE_ERROR = 0x8001,
};

/* errors */
#define NBD_EPERM  1u
#define NBD_EIO    5u
#define NBD_ENOMEM 12u
#define NBD_EINVAL 22u
#define NBD_ENOSPC 28u

/* "base:allocation" */
#define NBD_STATE_HOLE 1u
#define NBD_STATE_ZERO 2u

_Static_assert(sizeof(struct nbd_option_request) == 16, "NBD layout");
_Static_assert(sizeof(struct nbd_option_reply) == 20, "NBD layout");
_Static_assert(sizeof(struct nbd_request_header) == 28, "NBD layout");
_Static_assert(sizeof(struct nbd_simple_reply) == 16, "NBD layout");
_Static_assert(sizeof(struct nbd_structured_reply) == 20, "NBD layout");

#endif
