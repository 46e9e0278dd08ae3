/* Requests and their answers, once the client has chosen the disk. */
#include "nbd/nbd-impl.h"

#include "base/bytes.h"
#include "base/macros.h"

#include <stdlib.h>

#define MAX_EXTENTS 256u

struct request {
	struct client *client;
	struct blk_request blk;
	struct iovec iov;
	uint64_t cookie, offset;
	uint32_t length;
	uint16_t type, flags;
	uint8_t *buf;        /* of READ and WRITE */
	uint64_t held_bytes; /* its length */
	uint32_t error;      /* it is refused so, once its payload has been received */
};

static void take_request(struct client *client);

uint16_t transmit_flags(const struct client *client)
{
	const struct blk_info *info = disk_info(client);
	unsigned flags =
	    NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_CAN_MULTI_CONN;

	if (client->structured)
		flags |= NBD_FLAG_SEND_DF;
	if (info->read_only)
		flags |= NBD_FLAG_READ_ONLY;
	else
		flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES;
	return (uint16_t)flags;
}

static void next_request(struct client *client)
{
	client_want(client, &client->head, sizeof(client->head.request), take_request);
}

void transmit_start(struct client *client)
{
	next_request(client);
}

/* ---- answers ---- */

static void request_free(struct request *request)
{
	free(request->buf);
	free(request);
}

static void put_structured(struct output *output, const struct request *request, uint16_t type,
			   size_t extra)
{
	const struct nbd_structured_reply head = {
		.magic = htobe32(NBD_STRUCTURED_REPLY_MAGIC),
		.flags = htobe16(NBD_REPLY_FLAG_DONE),
		.type = htobe16(type),
		.cookie = request->cookie,
		.length = htobe32((uint32_t)(extra + output->payload_len)),
	};

	memcpy(output->head, &head, sizeof(head));
	output->head_len = sizeof(head) + extra;
}

static void put_simple(struct output *output, const struct request *request, uint32_t error)
{
	const struct nbd_simple_reply head = { htobe32(NBD_SIMPLE_REPLY_MAGIC), htobe32(error),
					       request->cookie };

	memcpy(output->head, &head, sizeof(head));
	output->head_len = sizeof(head);
}

/* With structured replies every answer to a read, and every error, is one. */
static void put_head(struct output *output, struct request *request, uint32_t error)
{
	uint8_t *extra = output->head + sizeof(struct nbd_structured_reply);

	if (!request->client->structured) {
		put_simple(output, request, error);
	} else if (error) {
		store_be32(extra, error);
		store_be16(extra + 4, 0);
		put_structured(output, request, NBD_REPLY_TYPE_ERROR, 6);
	} else if (request->type == NBD_CMD_READ) {
		store_be64(extra, request->offset);
		put_structured(output, request, NBD_REPLY_TYPE_OFFSET_DATA, 8);
	} else {
		put_structured(output, request, NBD_REPLY_TYPE_NONE, 0);
	}
}

/* Takes request. */
static void answer(struct request *request, uint32_t error)
{
	struct client *client = request->client;
	struct output *output = client->closed ? NULL : client_output(client);

	if (output) {
		output->is_reply = true;
		output->held_bytes = request->held_bytes;
		if (request->type == NBD_CMD_READ && !error) {
			output->payload = TAKE(request->buf);
			output->payload_len = request->length;
		}
		put_head(output, request, error);
		client_send(client, output);
	}
	request_free(request);
}

static uint32_t error_of(enum blk_result result)
{
	switch (result) {
	case BLK_OK:
		return 0;
	case BLK_NO_SPACE:
		return NBD_ENOSPC;
	case BLK_READ_ONLY:
		return NBD_EPERM;
	case BLK_OUT_OF_RANGE:
		return NBD_EINVAL;
	default:
		return NBD_EIO;
	}
}

/* ---- block status ---- */

static int put_extents(struct request *request, uint8_t *ret, unsigned *ret_count)
{
	unsigned max = request->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : MAX_EXTENTS;
	uint64_t at = request->offset, end = at + request->length;
	unsigned count = 0;

	while (at < end && count <= max) {
		struct blk_extent extent;
		uint32_t state;
		int r =
		    blk_layers_extent(request->client->server->disk, at, end - at, &extent, NULL);

		if (r < 0)
			return r;
		state = extent.kind == BLK_EXTENT_ZERO ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0;
		at += extent.length_bytes;
		if (count && load_be32(ret + count * 8 - 4) == state) {
			store_be32(ret + count * 8 - 8,
				   load_be32(ret + count * 8 - 8) + (uint32_t)extent.length_bytes);
			continue;
		}
		if (count == max)
			break;
		store_be32(ret + count * 8, (uint32_t)extent.length_bytes);
		store_be32(ret + count * 8 + 4, state);
		count++;
	}
	*ret_count = count;
	return 0;
}

/* Takes request. */
static void block_status(struct request *request)
{
	struct client *client = request->client;
	struct output *output;
	unsigned count;
	uint8_t *payload = malloc(4 + MAX_EXTENTS * 8);

	if (!payload || put_extents(request, payload + 4, &count) < 0) {
		free(payload);
		answer(request, payload ? NBD_EIO : NBD_ENOMEM);
		return;
	}
	store_be32(payload, CONTEXT_ALLOCATION_ID);
	output = client->closed ? NULL : client_output(client);
	if (output) {
		output->is_reply = true;
		output->payload = payload;
		output->payload_len = 4 + count * 8;
		put_structured(output, request, NBD_REPLY_TYPE_BLOCK_STATUS, 0);
		client_send(client, output);
	} else {
		free(payload);
	}
	request_free(request);
}

/* ---- the disk's part ---- */

static void disk_done(struct blk_request *blk, enum blk_result result)
{
	struct request *request = container_of(blk, struct request, blk);
	struct client *client = request->client;

	client->busy++;
	client->at_disk--;
	answer(request, error_of(result));
	client_release(client);
}

static enum blk_op op_of(uint16_t type)
{
	switch (type) {
	case NBD_CMD_READ:
		return BLK_READ;
	case NBD_CMD_WRITE:
		return BLK_WRITE;
	case NBD_CMD_TRIM:
		return BLK_UNMAP;
	case NBD_CMD_WRITE_ZEROES:
		return BLK_WRITE_ZEROES;
	default:
		return BLK_FLUSH;
	}
}

/* Takes request. */
static void submit(struct request *request)
{
	struct client *client = request->client;

	request->iov = (struct iovec){ request->buf, request->length };
	request->blk = (struct blk_request){ .op = op_of(request->type),
					     .offset = request->offset,
					     .length = request->length,
					     .iov = &request->iov,
					     .iov_count = 1,
					     .done = disk_done };
	if (request->flags & NBD_CMD_FLAG_FUA)
		request->blk.flags |= BLK_FUA;
	if (!(request->flags & NBD_CMD_FLAG_NO_HOLE))
		request->blk.flags |= BLK_MAY_UNMAP;
	if (request->type == NBD_CMD_FLUSH)
		request->blk.offset = request->blk.length = 0;
	client->at_disk++;
	blk_submit(client->server->disk->layers[0], &request->blk);
}

/* ---- requests ---- */

static bool carries_data(uint16_t type)
{
	return type == NBD_CMD_READ || type == NBD_CMD_WRITE;
}

static uint32_t check(const struct client *client, const struct request *request)
{
	static const uint16_t flags_of[] = {
		[NBD_CMD_READ] = NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_DF,
		[NBD_CMD_WRITE] = NBD_CMD_FLAG_FUA,
		[NBD_CMD_FLUSH] = NBD_CMD_FLAG_FUA,
		[NBD_CMD_TRIM] = NBD_CMD_FLAG_FUA,
		[NBD_CMD_WRITE_ZEROES] = NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE,
		[NBD_CMD_BLOCK_STATUS] = NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE,
	};
	const struct blk_info *info = disk_info(client);

	/* DISC is no request, CACHE is not offered. */
	if (request->type >= ARRAY_SIZE(flags_of) || !flags_of[request->type] ||
	    (request->flags & ~flags_of[request->type]))
		return NBD_EINVAL;
	if (request->type == NBD_CMD_FLUSH)
		return request->offset || request->length ? NBD_EINVAL : 0;
	if (request->type == NBD_CMD_BLOCK_STATUS && !client->block_status)
		return NBD_EINVAL;
	if (info->read_only && request->type != NBD_CMD_READ &&
	    request->type != NBD_CMD_BLOCK_STATUS)
		return NBD_EPERM;
	if (request->length == 0 || request->offset % info->logical_sector_bytes ||
	    request->length % info->logical_sector_bytes)
		return NBD_EINVAL;
	if (!RANGE_OK(request->offset, request->length, info->size_bytes))
		return request->type == NBD_CMD_WRITE || request->type == NBD_CMD_WRITE_ZEROES
			   ? NBD_ENOSPC
			   : NBD_EINVAL;
	return 0;
}

/* Takes request, which is complete. */
static void start(struct request *request)
{
	if (request->error)
		answer(request, request->error);
	else if (request->type == NBD_CMD_BLOCK_STATUS)
		block_status(request);
	else
		submit(request);
}

static void take_payload(struct client *client)
{
	struct request *request = client->request;

	client->request = NULL;
	next_request(client);
	start(request);
}

static struct request *new_request(struct client *client)
{
	const struct nbd_request_header *head = &client->head.request;
	struct request *request = calloc(1, sizeof(*request));

	if (!request)
		return NULL;
	request->client = client;
	request->cookie = head->cookie;
	request->offset = be64toh(head->offset);
	request->length = be32toh(head->length);
	request->type = be16toh(head->type);
	request->flags = be16toh(head->flags);
	request->error = check(client, request);
	/* What is written comes along even if it is refused. */
	if (request->type == NBD_CMD_WRITE || (carries_data(request->type) && !request->error)) {
		if (posix_memalign((void **)&request->buf, 4096, MAX(request->length, 1u)) != 0) {
			free(request);
			return NULL;
		}
		request->held_bytes = request->length;
	}
	return request;
}

static void take_request(struct client *client)
{
	const struct nbd_request_header *head = &client->head.request;
	uint16_t type = be16toh(head->type);
	struct request *request;

	if (be32toh(head->magic) != NBD_REQUEST_MAGIC ||
	    (carries_data(type) && be32toh(head->length) > NBD_MAX_PAYLOAD)) {
		client_drop(client);
		return;
	}
	if (type == NBD_CMD_DISC) {
		client_end(client);
		return;
	}
	request = new_request(client);
	if (!request) {
		client_drop(client);
		return;
	}
	client->in_flight++;
	client->held_bytes += request->held_bytes;
	if (type == NBD_CMD_WRITE && request->length) {
		client->request = request;
		client_want(client, request->buf, request->length, take_payload);
		return;
	}
	next_request(client);
	start(request);
}

void transmit_forget(struct client *client)
{
	if (client->request)
		request_free(client->request);
	client->request = NULL;
}
