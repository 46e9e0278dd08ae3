/* The server's side of the protocol, byte by byte; what whole clients do with it is in tests/cli.
 */
#include "nbd/nbd.h"

#include "base/bytes.h"
#include "base/loop.h"
#include "base/macros.h"
#include "disk/disk.h"
#include "spec/nbd.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define SIZE (4 * MIB)

struct fixture {
	struct loop *loop;
	struct blk *disk;
	struct blk_layers layers;
	struct nbd_server *server;
	int fd; /* the client's end */
	unsigned gone;
};

static void client_gone(void *user, unsigned count)
{
	((struct fixture *)user)->gone++;
}

static int connect_one(struct fixture *f)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	assert_int_equal(nbd_server_add(f->server, pair[1], NULL), 0);
	return pair[0];
}

static void open_disk(struct fixture *f, bool read_only)
{
	static const struct nbd_events events = { client_gone };
	struct disk_options options = { .format = DISK_RAW,
					.engine = DISK_ENGINE_THREADS,
					.read_only = read_only };
	int fd = memfd_create("disk", 0);

	assert_int_equal(ftruncate(fd, SIZE), 0);
	assert_int_equal(disk_open(f->loop, fd, &options, &f->disk, NULL), 0);
	f->layers = (struct blk_layers){ &f->disk, 1 };
	assert_int_equal(nbd_server_new(f->loop, &f->layers, &events, f, &f->server, NULL), 0);
	f->fd = connect_one(f);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	loop_new(&f->loop, NULL);
	open_disk(f, false);
	*state = f;
	return 0;
}

static int setup_read_only(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	loop_new(&f->loop, NULL);
	open_disk(f, true);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	nbd_server_free(f->server);
	blk_close(f->disk, NULL);
	if (f->fd >= 0)
		close(f->fd);
	loop_free(f->loop);
	free(f);
	return 0;
}

/* ---- bytes ---- */

static void put(struct fixture *f, const void *data, size_t len)
{
	while (len) {
		ssize_t n = send(f->fd, data, len, MSG_NOSIGNAL);

		if (n > 0) {
			data = (const char *)data + n;
			len -= (size_t)n;
		} else {
			loop_step(f->loop, 10);
		}
	}
}

static void get(struct fixture *f, void *data, size_t len)
{
	for (unsigned tries = 0; len; tries++) {
		ssize_t n = recv(f->fd, data, len, 0);

		if (n == 0 || tries > 5000)
			fail_msg("%zu bytes are missing", len);
		if (n > 0) {
			data = (char *)data + n;
			len -= (size_t)n;
		} else {
			loop_step(f->loop, 10);
		}
	}
}

static bool is_closed(struct fixture *f)
{
	char byte;

	for (unsigned tries = 0; tries < 200; tries++) {
		ssize_t n = recv(f->fd, &byte, 1, MSG_PEEK);

		if (n >= 0)
			return n == 0;
		loop_step(f->loop, 10);
	}
	return false;
}

static void expect_nothing(struct fixture *f)
{
	char byte;

	for (unsigned i = 0; i < 5; i++)
		loop_step(f->loop, 5);
	assert_int_equal(recv(f->fd, &byte, 1, 0), -1);
}

/* ---- options ---- */

static void greet(struct fixture *f, uint32_t flags)
{
	uint8_t greeting[18], answer[4];

	get(f, greeting, sizeof(greeting));
	assert_memory_equal(greeting, "NBDMAGICIHAVEOPT", 16);
	assert_int_equal(load_be16(greeting + 16), 3);
	store_be32(answer, flags);
	put(f, answer, 4);
}

static void put_option(struct fixture *f, uint32_t option, const void *data, uint32_t len)
{
	struct nbd_option_request head = { htobe64(NBD_OPTION_MAGIC), htobe32(option),
					   htobe32(len) };

	put(f, &head, sizeof(head));
	put(f, data, len);
}

/* The type of the reply; its data in ret. */
static uint32_t get_reply(struct fixture *f, uint32_t option, uint8_t *ret, size_t size)
{
	struct nbd_option_reply head;

	get(f, &head, sizeof(head));
	assert_true(be64toh(head.magic) == NBD_OPTION_REPLY_MAGIC);
	assert_int_equal(be32toh(head.option), option);
	assert_true(be32toh(head.length) <= size);
	get(f, ret, be32toh(head.length));
	return be32toh(head.type);
}

static void go(struct fixture *f, bool structured)
{
	static const uint8_t request[6],
	    query[] = { 0,   0,   0,   0,   0,   0,   0,   1,   0,   0,   0,   15,  'b', 'a',
			's', 'e', ':', 'a', 'l', 'l', 'o', 'c', 'a', 't', 'i', 'o', 'n' };
	uint8_t data[64];

	greet(f, 3);
	if (structured) {
		put_option(f, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
		assert_int_equal(get_reply(f, NBD_OPT_STRUCTURED_REPLY, data, 64), NBD_REP_ACK);
		put_option(f, NBD_OPT_SET_META_CONTEXT, query, sizeof(query));
		assert_int_equal(get_reply(f, NBD_OPT_SET_META_CONTEXT, data, 64),
				 NBD_REP_META_CONTEXT);
		assert_memory_equal(data + 4, "base:allocation", 15);
		assert_int_equal(get_reply(f, NBD_OPT_SET_META_CONTEXT, data, 64), NBD_REP_ACK);
	}
	put_option(f, NBD_OPT_GO, request, sizeof(request));
	assert_int_equal(get_reply(f, NBD_OPT_GO, data, 64), NBD_REP_INFO);
	assert_int_equal(load_be16(data), NBD_INFO_EXPORT);
	assert_true(load_be64(data + 2) == SIZE);
	assert_int_equal(get_reply(f, NBD_OPT_GO, data, 64), NBD_REP_INFO);
	assert_int_equal(load_be16(data), NBD_INFO_BLOCK_SIZE);
	assert_int_equal(load_be32(data + 2), 512);
	assert_int_equal(get_reply(f, NBD_OPT_GO, data, 64), NBD_REP_ACK);
}

static void test_options(void **state)
{
	static const uint8_t name_too_long[] = { 0, 0, 1, 0, 0, 0 };
	static const uint8_t no_queries[] = { 0, 0, 0, 0, 0, 0, 0, 0 };
	static const uint8_t cut_query[] = { 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9 };
	struct fixture *f = *state;
	uint8_t data[64];

	greet(f, 3);
	put_option(f, 99, "junk", 4);
	assert_int_equal(get_reply(f, 99, data, 64), NBD_REP_ERR_UNSUP);
	put_option(f, 5, NULL, 0); /* STARTTLS */
	assert_int_equal(get_reply(f, 5, data, 64), NBD_REP_ERR_UNSUP);
	put_option(f, NBD_OPT_LIST, NULL, 0);
	assert_int_equal(get_reply(f, NBD_OPT_LIST, data, 64), NBD_REP_SERVER);
	assert_int_equal(get_reply(f, NBD_OPT_LIST, data, 64), NBD_REP_ACK);
	put_option(f, NBD_OPT_LIST, "x", 1);
	assert_int_equal(get_reply(f, NBD_OPT_LIST, data, 64), NBD_REP_ERR_INVALID);
	put_option(f, NBD_OPT_INFO, name_too_long, 6);
	assert_int_equal(get_reply(f, NBD_OPT_INFO, data, 64), NBD_REP_ERR_INVALID);
	put_option(f, NBD_OPT_GO, name_too_long, 3);
	assert_int_equal(get_reply(f, NBD_OPT_GO, data, 64), NBD_REP_ERR_INVALID);
	/* Block status needs structured replies. */
	put_option(f, NBD_OPT_SET_META_CONTEXT, no_queries, 8);
	assert_int_equal(get_reply(f, NBD_OPT_SET_META_CONTEXT, data, 64), NBD_REP_ERR_INVALID);
	put_option(f, NBD_OPT_LIST_META_CONTEXT, no_queries, 8);
	assert_int_equal(get_reply(f, NBD_OPT_LIST_META_CONTEXT, data, 64), NBD_REP_META_CONTEXT);
	assert_int_equal(get_reply(f, NBD_OPT_LIST_META_CONTEXT, data, 64), NBD_REP_ACK);
	put_option(f, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	assert_int_equal(get_reply(f, NBD_OPT_STRUCTURED_REPLY, data, 64), NBD_REP_ACK);
	put_option(f, NBD_OPT_SET_META_CONTEXT, cut_query, sizeof(cut_query));
	assert_int_equal(get_reply(f, NBD_OPT_SET_META_CONTEXT, data, 64), NBD_REP_ERR_INVALID);
	put_option(f, NBD_OPT_ABORT, NULL, 0);
	assert_int_equal(get_reply(f, NBD_OPT_ABORT, data, 64), NBD_REP_ACK);
	assert_true(is_closed(f));
	assert_int_equal(f->gone, 1);
}

static void test_no_client_of_ours(void **state)
{
	struct fixture *f = *state;

	greet(f, 0x80000000);
	assert_true(is_closed(f));
	close(f->fd);
	f->fd = connect_one(f);
	greet(f, 1);
	put(f, "GET / HTTP/1.1\r\n\r\n", 18);
	assert_true(is_closed(f));
	close(f->fd);
	/* An option as large as the memory. */
	f->fd = connect_one(f);
	greet(f, 1);
	put(f, "IHAVEOPT\0\0\0\7\177\377\377\377", 16);
	assert_true(is_closed(f));
}

/* ---- requests ---- */

static void put_request(struct fixture *f, uint16_t type, uint16_t flags, uint64_t offset,
			uint32_t length)
{
	struct nbd_request_header head = {
		htobe32(NBD_REQUEST_MAGIC),   htobe16(flags),  htobe16(type),
		UINT64_C(0x1122334455667788), htobe64(offset), htobe32(length)
	};

	put(f, &head, sizeof(head));
}

static uint32_t get_simple(struct fixture *f)
{
	struct nbd_simple_reply reply;

	get(f, &reply, sizeof(reply));
	assert_int_equal(be32toh(reply.magic), NBD_SIMPLE_REPLY_MAGIC);
	assert_true(reply.cookie == UINT64_C(0x1122334455667788));
	return be32toh(reply.error);
}

/* Of one chunk: its type; what it carries in ret. */
static uint16_t get_chunk(struct fixture *f, uint8_t *ret, size_t size, uint32_t *ret_len)
{
	struct nbd_structured_reply reply;

	get(f, &reply, sizeof(reply));
	assert_int_equal(be32toh(reply.magic), NBD_STRUCTURED_REPLY_MAGIC);
	assert_int_equal(be16toh(reply.flags), NBD_REPLY_FLAG_DONE);
	*ret_len = be32toh(reply.length);
	assert_true(*ret_len <= size);
	get(f, ret, *ret_len);
	return be16toh(reply.type);
}

static void test_simple_replies(void **state)
{
	struct fixture *f = *state;
	uint8_t data[4096], pattern[4096];

	memset(pattern, 0xa5, sizeof(pattern));
	go(f, false);
	put_request(f, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 8192, 4096);
	put(f, pattern, 4096);
	assert_int_equal(get_simple(f), 0);
	put_request(f, NBD_CMD_READ, 0, 8192, 4096);
	assert_int_equal(get_simple(f), 0);
	get(f, data, 4096);
	assert_memory_equal(data, pattern, 4096);
	put_request(f, NBD_CMD_FLUSH, 0, 0, 0);
	assert_int_equal(get_simple(f), 0);
	put_request(f, NBD_CMD_WRITE_ZEROES, 0, 8192, 512);
	assert_int_equal(get_simple(f), 0);
	put_request(f, NBD_CMD_TRIM, 0, 0, 8192);
	assert_int_equal(get_simple(f), 0);
	put_request(f, NBD_CMD_READ, 0, 8192, 1024);
	assert_int_equal(get_simple(f), 0);
	get(f, data, 1024);
	assert_int_equal(data[511], 0);
	assert_int_equal(data[512], 0xa5);
	/* Wrong ones; the payload of a refused write is not taken for a request. */
	put_request(f, NBD_CMD_READ, 0, SIZE, 512);
	assert_int_equal(get_simple(f), NBD_EINVAL);
	put_request(f, NBD_CMD_READ, 0, UINT64_MAX - 511, 512);
	assert_int_equal(get_simple(f), NBD_EINVAL);
	put_request(f, NBD_CMD_READ, 0, 1, 512);
	assert_int_equal(get_simple(f), NBD_EINVAL);
	put_request(f, NBD_CMD_WRITE, 0, SIZE - 512, 1024);
	put(f, pattern, 1024);
	assert_int_equal(get_simple(f), NBD_ENOSPC);
	put_request(f, NBD_CMD_WRITE, 0, 0, 0);
	assert_int_equal(get_simple(f), NBD_EINVAL);
	put_request(f, NBD_CMD_WRITE, 0x8000, 0, 512);
	put(f, pattern, 512);
	assert_int_equal(get_simple(f), NBD_EINVAL);
	put_request(f, NBD_CMD_BLOCK_STATUS, 0, 0, SIZE);
	assert_int_equal(get_simple(f), NBD_EINVAL);
	put_request(f, 77, 0, 0, 512);
	assert_int_equal(get_simple(f), NBD_EINVAL);
	put_request(f, NBD_CMD_DISC, 0, 0, 0);
	assert_true(is_closed(f));
}

static void test_structured_replies(void **state)
{
	struct fixture *f = *state;
	uint8_t data[8192], pattern[4096];
	uint32_t len;

	memset(pattern, 0x5a, sizeof(pattern));
	go(f, true);
	put_request(f, NBD_CMD_WRITE, 0, 65536, 4096);
	put(f, pattern, 4096);
	/* NONE, as a structured reply. */
	assert_int_equal(get_chunk(f, data, sizeof(data), &len), NBD_REPLY_TYPE_NONE);
	put_request(f, NBD_CMD_READ, NBD_CMD_FLAG_DF, 65536, 4096);
	assert_int_equal(get_chunk(f, data, sizeof(data), &len), NBD_REPLY_TYPE_OFFSET_DATA);
	assert_int_equal(len, 8 + 4096);
	assert_true(load_be64(data) == 65536);
	assert_memory_equal(data + 8, pattern, 4096);
	put_request(f, NBD_CMD_BLOCK_STATUS, 0, 0, SIZE);
	assert_int_equal(get_chunk(f, data, sizeof(data), &len), NBD_REPLY_TYPE_BLOCK_STATUS);
	assert_int_equal(len, 4 + 3 * 8);
	assert_int_equal(load_be32(data), 1);
	assert_int_equal(load_be32(data + 4), 65536);
	assert_int_equal(load_be32(data + 8), NBD_STATE_HOLE | NBD_STATE_ZERO);
	assert_int_equal(load_be32(data + 12), 4096);
	assert_int_equal(load_be32(data + 16), 0);
	assert_int_equal(load_be32(data + 20), SIZE - 65536 - 4096);
	put_request(f, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 0, SIZE);
	assert_int_equal(get_chunk(f, data, sizeof(data), &len), NBD_REPLY_TYPE_BLOCK_STATUS);
	assert_int_equal(len, 4 + 8);
	put_request(f, NBD_CMD_READ, 0, SIZE, 512);
	assert_int_equal(get_chunk(f, data, sizeof(data), &len), NBD_REPLY_TYPE_ERROR);
	assert_int_equal(load_be32(data), NBD_EINVAL);
}

static void test_old_way_in(void **state)
{
	uint8_t answer[10 + NBD_EXPORT_ZEROES];
	struct fixture *f = *state;

	greet(f, 1);
	put_option(f, NBD_OPT_EXPORT_NAME, "any", 3);
	get(f, answer, sizeof(answer));
	assert_true(load_be64(answer) == SIZE);
	put_request(f, NBD_CMD_FLUSH, 0, 0, 0);
	assert_int_equal(get_simple(f), 0);
}

static void test_read_only(void **state)
{
	struct fixture *f = *state;
	uint8_t data[512] = { 0 };

	go(f, false);
	put_request(f, NBD_CMD_WRITE, 0, 0, 512);
	put(f, data, 512);
	assert_int_equal(get_simple(f), NBD_EPERM);
	put_request(f, NBD_CMD_WRITE_ZEROES, 0, 0, 512);
	assert_int_equal(get_simple(f), NBD_EPERM);
	put_request(f, NBD_CMD_READ, 0, 0, 512);
	assert_int_equal(get_simple(f), 0);
	get(f, data, 512);
}

/* As much as a client may hold, in one request, twice. */
static void test_largest_request(void **state)
{
	AUTO_FREE uint8_t *data = calloc(1, NBD_MAX_PAYLOAD);
	struct fixture *f = *state;

	go(f, false);
	for (unsigned i = 0; i < 2; i++) {
		put_request(f, NBD_CMD_WRITE, 0, 0, NBD_MAX_PAYLOAD);
		put(f, data, NBD_MAX_PAYLOAD);
		assert_int_equal(get_simple(f), NBD_ENOSPC); /* the disk is smaller */
	}
	put_request(f, NBD_CMD_WRITE, 0, 0, SIZE);
	put(f, data, SIZE);
	assert_int_equal(get_simple(f), 0);
}

static void test_too_large_a_request(void **state)
{
	struct fixture *f = *state;

	go(f, false);
	put_request(f, NBD_CMD_WRITE, 0, 0, NBD_MAX_PAYLOAD + 512);
	assert_true(is_closed(f));
}

/* Who asks and does not listen is not read from for ever; who goes in the middle is forgotten. */
static void test_client_that_does_not_listen(void **state)
{
	struct nbd_request_header head = { .magic = htobe32(NBD_REQUEST_MAGIC),
					   .length = htobe32((uint32_t)SIZE) };
	struct fixture *f = *state;
	unsigned sent = 0;

	go(f, false);
	for (unsigned i = 0; i < 3000; i++) {
		if (send(f->fd, &head, sizeof(head), MSG_NOSIGNAL) == sizeof(head))
			sent++;
		loop_step(f->loop, 0);
	}
	/* What the socket takes, and what the server holds. */
	assert_true(sent < 2900);
	close(f->fd);
	f->fd = connect_one(f);
	go(f, false);
	put_request(f, NBD_CMD_WRITE, 0, 0, 4096);
	put(f, "half", 4);
	close(f->fd);
	f->fd = connect_one(f);
	go(f, false);
	expect_nothing(f);
}

static void test_many_clients(void **state)
{
	struct fixture *f = *state;
	int fds[NBD_MAX_CLIENTS], pair[2];
	struct error err;

	for (unsigned i = 1; i < NBD_MAX_CLIENTS; i++)
		fds[i] = connect_one(f);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(nbd_server_add(f->server, pair[1], &err), -ERR_LIMIT);
	close(pair[0]);
	for (unsigned i = 1; i < NBD_MAX_CLIENTS; i++)
		close(fds[i]);
	go(f, true);
	assert_int_equal(f->gone, NBD_MAX_CLIENTS - 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_options),
		TEST(test_no_client_of_ours),
		TEST(test_simple_replies),
		TEST(test_structured_replies),
		TEST(test_old_way_in),
		cmocka_unit_test_setup_teardown(test_read_only, setup_read_only, teardown),
		TEST(test_largest_request),
		TEST(test_too_large_a_request),
		TEST(test_client_that_does_not_listen),
		TEST(test_many_clients),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
