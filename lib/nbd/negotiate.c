/* The handshake: from the greeting to the choice of the disk, by options and their answers. */
#include "nbd/nbd-impl.h"

#include "base/bytes.h"
#include "base/macros.h"

static void next_option(struct client *client);

static void reply(struct client *client, uint32_t type, const void *data, size_t len)
{
	const struct nbd_option_reply head = { htobe64(NBD_OPTION_REPLY_MAGIC),
					       client->head.option.option, htobe32(type),
					       htobe32((uint32_t)len) };

	client_send_copy(client, &head, sizeof(head), data, len);
}

/* The disk has no name, and one that is asked for doesn't matter. */
static void list(struct client *client, const uint8_t *data, uint32_t len)
{
	static const uint8_t empty_name[4];

	if (len) {
		reply(client, NBD_REP_ERR_INVALID, NULL, 0);
		return;
	}
	reply(client, NBD_REP_SERVER, empty_name, sizeof(empty_name));
	reply(client, NBD_REP_ACK, NULL, 0);
}

/* ---- choosing the disk ---- */

static void put_export(const struct client *client, uint8_t ret[10])
{
	store_be64(ret, disk_info(client)->size_bytes);
	store_be16(ret + 8, transmit_flags(client));
}

static void choose_by_name(struct client *client)
{
	uint8_t answer[10 + NBD_EXPORT_ZEROES] = { 0 };
	bool short_form = client->flags & NBD_FLAG_NO_ZEROES;

	put_export(client, answer);
	client_send_copy(client, answer, 10, answer + 10, short_form ? 0 : NBD_EXPORT_ZEROES);
	transmit_start(client);
}

static void send_infos(struct client *client)
{
	const struct blk_info *info = disk_info(client);
	uint8_t export[12], sizes[14];

	store_be16(export, NBD_INFO_EXPORT);
	put_export(client, export + 2);
	reply(client, NBD_REP_INFO, export, sizeof(export));
	store_be16(sizes, NBD_INFO_BLOCK_SIZE);
	store_be32(sizes + 2, info->logical_sector_bytes);
	store_be32(sizes + 6, MAX(info->physical_sector_bytes, 4096u));
	store_be32(sizes + 10, NBD_MAX_PAYLOAD);
	reply(client, NBD_REP_INFO, sizes, sizeof(sizes));
	reply(client, NBD_REP_ACK, NULL, 0);
}

/* Name, then a list of what the client wants to know; it is told what there is. */
static void info_or_go(struct client *client, const uint8_t *data, uint32_t len, bool go)
{
	uint32_t name_len;

	if (len < 6 || (name_len = load_be32(data)) > len - 6 ||
	    load_be16(data + 4 + name_len) * 2u != len - 6 - name_len) {
		reply(client, NBD_REP_ERR_INVALID, NULL, 0);
		return;
	}
	send_infos(client);
	if (go && !client->closed)
		transmit_start(client);
}

/* ---- what block status can tell ---- */

static void send_context(struct client *client, uint32_t id)
{
	uint8_t data[4 + sizeof(CONTEXT_ALLOCATION) - 1];

	store_be32(data, id);
	memcpy(data + 4, CONTEXT_ALLOCATION, sizeof(data) - 4);
	reply(client, NBD_REP_META_CONTEXT, data, sizeof(data));
}

static bool asks_for_allocation(const uint8_t *query, uint32_t len, bool listing)
{
	if (listing && len == 5 && memcmp(query, "base:", 5) == 0)
		return true;
	return len == sizeof(CONTEXT_ALLOCATION) - 1 && memcmp(query, CONTEXT_ALLOCATION, len) == 0;
}

/* 1: it was among the queries; 0: not; -1: they are no queries. */
static int read_queries(const uint8_t *data, uint32_t len, uint32_t count, bool listing)
{
	/* A list without a query is a list of all. */
	int found = listing && count == 0;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t query_len;

		if (len < 4 || (query_len = load_be32(data)) > len - 4)
			return -1;
		found |= asks_for_allocation(data + 4, query_len, listing);
		data += 4 + query_len;
		len -= 4 + query_len;
	}
	return len ? -1 : found;
}

static void meta_context(struct client *client, const uint8_t *data, uint32_t len, bool listing)
{
	uint32_t name_len;
	int found = -1;

	if (len >= 8 && (name_len = load_be32(data)) <= len - 8)
		found = read_queries(data + 8 + name_len, len - 8 - name_len,
				     load_be32(data + 4 + name_len), listing);
	if (!listing)
		client->block_status = false;
	if (found < 0 || (!listing && !client->structured)) {
		reply(client, NBD_REP_ERR_INVALID, NULL, 0);
		return;
	}
	if (!listing)
		client->block_status = found > 0;
	if (found > 0)
		send_context(client, listing ? 0 : CONTEXT_ALLOCATION_ID);
	reply(client, NBD_REP_ACK, NULL, 0);
}

/* ---- options ---- */

static void take_option(struct client *client)
{
	uint32_t len = be32toh(client->head.option.length);
	const uint8_t *data = client->data;

	switch (be32toh(client->head.option.option)) {
	case NBD_OPT_EXPORT_NAME:
		choose_by_name(client);
		return;
	case NBD_OPT_ABORT:
		reply(client, NBD_REP_ACK, NULL, 0);
		client_end(client);
		return;
	case NBD_OPT_LIST:
		list(client, data, len);
		break;
	case NBD_OPT_INFO:
		info_or_go(client, data, len, false);
		break;
	case NBD_OPT_GO:
		client->take = NULL;
		info_or_go(client, data, len, true);
		if (client->take)
			return; /* it is served */
		break;
	case NBD_OPT_STRUCTURED_REPLY:
		client->structured = len == 0;
		reply(client, len ? NBD_REP_ERR_INVALID : NBD_REP_ACK, NULL, 0);
		break;
	case NBD_OPT_LIST_META_CONTEXT:
	case NBD_OPT_SET_META_CONTEXT:
		meta_context(client, data, len,
			     be32toh(client->head.option.option) == NBD_OPT_LIST_META_CONTEXT);
		break;
	default:
		reply(client, NBD_REP_ERR_UNSUP, NULL, 0);
	}
	next_option(client);
}

static void take_option_head(struct client *client)
{
	/* No option that we know needs more; a client that sends it can't be reasoned with. */
	if (be64toh(client->head.option.magic) != NBD_OPTION_MAGIC ||
	    be32toh(client->head.option.length) > sizeof(client->data)) {
		client_drop(client);
		return;
	}
	client_want(client, client->data, be32toh(client->head.option.length), take_option);
}

static void next_option(struct client *client)
{
	client_want(client, &client->head, sizeof(client->head.option), take_option_head);
}

static void take_flags(struct client *client)
{
	client->flags = be32toh(client->head.flags);
	if (!(client->flags & NBD_FLAG_FIXED_NEWSTYLE) ||
	    (client->flags & ~(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES))) {
		client_drop(client);
		return;
	}
	next_option(client);
}

void negotiate_start(struct client *client)
{
	uint8_t greeting[18];

	store_be64(greeting, NBD_MAGIC);
	store_be64(greeting + 8, NBD_OPTION_MAGIC);
	store_be16(greeting + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	client_want(client, &client->head, sizeof(client->head.flags), take_flags);
	client_send_copy(client, greeting, sizeof(greeting), NULL, 0);
}
