/* The SCSI controller as a guest's driver sees it: over real rings, hypercalls and guest memory. */
#include "base/bytes.h"
#include "base/clock.h"
#include "base/macros.h"
#include "blk/blk-backend.h"
#include "dev/storvsp.h"
#include "dev/storvsp-state.h"
#include "spec/storvsp.h"
#include "state/check-state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <vmbus-guest.h>

#include <cmocka.h>

#define DISK_BYTES (1 * MIB)

/* ---- a disk in memory that answers when the test wants ---- */

struct test_disk {
	struct blk blk;
	struct loop_kick *kick;
	uint8_t *bytes;
	struct blk_request *queue, **tail;
	bool held; /* requests stay in flight */
	unsigned flushes, unmaps;
	enum blk_result fail_with;
	unsigned peak;
};

static void test_disk_move(struct test_disk *d, const struct blk_request *req)
{
	uint8_t *at = d->bytes + req->offset;

	for (unsigned i = 0; i < req->iov_count; at += req->iov[i].iov_len, i++) {
		if (req->op == BLK_READ)
			memcpy(req->iov[i].iov_base, at, req->iov[i].iov_len);
		else
			memcpy(at, req->iov[i].iov_base, req->iov[i].iov_len);
	}
}

static void test_disk_run_one(struct test_disk *d)
{
	struct blk_request *req = d->queue;
	enum blk_result result = req->result;

	d->queue = req->next;
	if (!d->queue)
		d->tail = &d->queue;
	if (result == BLK_OK)
		result = d->fail_with;
	if (result == BLK_OK && (req->op == BLK_READ || req->op == BLK_WRITE))
		test_disk_move(d, req);
	if (req->op == BLK_UNMAP || req->op == BLK_WRITE_ZEROES) {
		d->unmaps++;
		memset(d->bytes + req->offset, 0, req->length);
	}
	d->flushes += req->op == BLK_FLUSH;
	blk_complete(req, result);
}

static void test_disk_kicked(void *user)
{
	struct test_disk *d = user;

	while (d->queue && !d->held)
		test_disk_run_one(d);
}

static void test_disk_release(struct test_disk *d)
{
	d->held = false;
	test_disk_kicked(d);
}

static void test_disk_submit(struct blk *blk, struct blk_request *req)
{
	struct test_disk *d = container_of(blk, struct test_disk, blk);

	req->next = NULL;
	*d->tail = req;
	d->tail = &req->next;
	d->peak = MAX(d->peak, blk->in_flight);
	loop_kick(d->kick);
}

static void test_disk_wait(struct blk *blk)
{
	struct test_disk *d = container_of(blk, struct test_disk, blk);

	test_disk_run_one(d);
}

static int test_disk_close(struct blk *blk, struct error *err)
{
	struct test_disk *d = container_of(blk, struct test_disk, blk);

	loop_kick_free(d->kick);
	free(d->bytes);
	free(d);
	return 0;
}

static const struct blk_ops test_disk_ops = {
	.name = "test",
	.submit = test_disk_submit,
	.defer = test_disk_submit,
	.wait = test_disk_wait,
	.close = test_disk_close,
};

static struct test_disk *test_disk_new(struct loop *loop)
{
	struct test_disk *d = calloc(1, sizeof(*d));
	struct blk_info info = { .size_bytes = DISK_BYTES,
				 .logical_sector_bytes = 512,
				 .physical_sector_bytes = 4096,
				 .can_unmap = true,
				 .unmap_granularity_bytes = 65536 };

	blk_init(&d->blk, &test_disk_ops, &info);
	d->bytes = malloc(DISK_BYTES);
	for (unsigned i = 0; i < DISK_BYTES; i++)
		d->bytes[i] = (uint8_t)(i / 512 + i);
	d->tail = &d->queue;
	assert_int_equal(loop_kick_new(loop, test_disk_kicked, d, &d->kick, NULL), 0);
	return d;
}

/* ---- the guest's driver ---- */

static const struct guid scsi_class = STORVSP_CLASS_SCSI;
static const struct guid instance = GUID_INIT(0x12345678, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10);

struct fixture {
	struct vmbus_guest *guest;
	struct storvsp *sp;
	struct test_disk *disk;
	struct vmbus_guest_channel *channel;
	uint64_t page[64]; /* a buffer of scattered pages */
	uint64_t next_id;
};

static int setup_vps(void **state, unsigned vps)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->guest = vmbus_guest_new(vps, 32 * MIB);
	f->disk = test_disk_new(f->guest->loop);
	f->next_id = 1;
	assert_int_equal(
	    storvsp_new(f->guest->bus, f->guest->loop, f->guest->mem, &instance, vps, &f->sp, NULL),
	    0);
	assert_int_equal(storvsp_attach(f->sp, 0, &f->disk->blk, SCSI_KIND_DISK, NULL), 0);
	assert_true(vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3));
	vmbus_guest_alloc_scattered(f->guest, ARRAY_SIZE(f->page), f->page);
	*state = f;
	return 0;
}

static int setup(void **state)
{
	return setup_vps(state, 1);
}

static int setup_4_vps(void **state)
{
	return setup_vps(state, 4);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	if (f->channel)
		vmbus_guest_forget(f->channel);
	storvsp_free(f->sp);
	blk_close(&f->disk->blk, NULL);
	vmbus_guest_free(f->guest);
	free(f);
	return 0;
}

static void open_channel_pages(struct fixture *f, unsigned out_pages, unsigned in_pages)
{
	const struct vmbus_spec_offer *offer = vmbus_guest_offer(f->guest, &scsi_class, 0);

	assert_non_null(offer);
	f->channel = vmbus_guest_open(f->guest, offer, out_pages, in_pages);
	assert_non_null(f->channel);
}

static void send(struct fixture *f, const struct storvsp_packet *packet, uint64_t id)
{
	assert_true(vmbus_guest_send(f->channel, id, true, packet, sizeof(*packet)));
}

static void expect_answer_on(struct vmbus_guest_channel *channel, uint64_t id,
			     struct storvsp_packet *ret)
{
	struct vmbus_guest_packet packet;

	assert_true(vmbus_guest_recv(channel, &packet));
	assert_int_equal(packet.type, VMBUS_COMPLETION);
	assert_int_equal(packet.transaction_id, id);
	assert_int_equal(packet.payload_len, 64);
	memcpy(ret, packet.payload, sizeof(*ret));
	assert_int_equal(ret->operation, STORVSP_COMPLETE_IO);
}

static struct storvsp_packet transact(struct fixture *f, struct storvsp_packet packet)
{
	uint64_t id = f->next_id++;
	struct storvsp_packet answer;

	packet.flags = 1;
	send(f, &packet, id);
	expect_answer_on(f->channel, id, &answer);
	return answer;
}

static void initialize(struct fixture *f)
{
	struct storvsp_packet answer;

	answer = transact(f, (struct storvsp_packet){ .operation = STORVSP_BEGIN_INITIALIZATION });
	assert_int_equal(answer.status, 0);
	answer = transact(f, (struct storvsp_packet){ .operation = STORVSP_QUERY_PROTOCOL_VERSION,
						      .version = STORVSP_VERSION_WIN10 });
	assert_int_equal(answer.status, 0);
	answer = transact(f, (struct storvsp_packet){ .operation = STORVSP_QUERY_PROPERTIES });
	assert_int_equal(answer.status, 0);
	assert_true(answer.properties.max_transfer_bytes >= 256 * KIB);
	answer = transact(f, (struct storvsp_packet){ .operation = STORVSP_END_INITIALIZATION });
	assert_int_equal(answer.status, 0);
}

static void open_and_initialize(struct fixture *f)
{
	open_channel_pages(f, 32, 32);
	initialize(f);
}

static struct storvsp_packet srb_packet(uint8_t lun, const uint8_t *cdb, uint8_t cdb_len,
					uint8_t data_in, uint32_t len)
{
	struct storvsp_packet packet = { .operation = STORVSP_EXECUTE_SRB, .flags = 1 };

	packet.srb = (struct storvsp_srb){ .length = 52,
					   .lun = lun,
					   .cdb_length = cdb_len,
					   .sense_length = 20,
					   .data_in = data_in,
					   .data_transfer_length = len };
	memcpy(packet.srb.cdb, cdb, cdb_len);
	return packet;
}

static bool post_command(struct fixture *f, struct vmbus_guest_channel *channel, uint64_t id,
			 const struct storvsp_packet *packet, uint32_t offset)
{
	struct vmbus_guest_range range = { packet->srb.data_transfer_length, offset, f->page };

	if (packet->srb.data_in == STORVSP_NO_DATA)
		return vmbus_guest_send(channel, id, true, packet, sizeof(*packet));
	return vmbus_guest_send_gpa_direct(channel, id, &range, 1, packet, sizeof(*packet));
}

static struct storvsp_packet command(struct fixture *f, uint8_t lun, const uint8_t *cdb,
				     uint8_t cdb_len, uint8_t data_in, uint32_t len)
{
	struct storvsp_packet packet = srb_packet(lun, cdb, cdb_len, data_in, len), answer;
	uint64_t id = f->next_id++;

	assert_true(post_command(f, f->channel, id, &packet, 0));
	expect_answer_on(f->channel, id, &answer);
	return answer;
}

/* Copies of the buffer, which begins at `offset` in the first page. */
static void buffer_get(struct fixture *f, uint32_t offset, void *to, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++)
		mem_read(f->guest->mem, f->page[(offset + i) / 4096] + (offset + i) % 4096,
			 (uint8_t *)to + i, 1);
}

static void buffer_put(struct fixture *f, uint32_t offset, const void *from, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++)
		mem_write(f->guest->mem, f->page[(offset + i) / 4096] + (offset + i) % 4096,
			  (const uint8_t *)from + i, 1);
}

static void cdb_rw_10(uint8_t *cdb, uint8_t opcode, uint32_t lba, uint16_t count)
{
	memset(cdb, 0, 16);
	cdb[0] = opcode;
	store_be32(cdb + 2, lba);
	store_be16(cdb + 7, count);
}

/* ---- tests ---- */

static void test_versions(void **state)
{
	static const uint16_t accepted[] = { 0x0602, 0x0600, 0x0501, 0x0402 };
	struct fixture *f = *state;
	struct storvsp_packet answer;

	open_channel_pages(f, 32, 32);
	for (unsigned i = 0; i < ARRAY_SIZE(accepted); i++) {
		answer = transact(
		    f, (struct storvsp_packet){ .operation = STORVSP_QUERY_PROTOCOL_VERSION,
						.version = accepted[i] });
		assert_int_equal(answer.status, 0);
	}
	answer = transact(f, (struct storvsp_packet){ .operation = STORVSP_QUERY_PROTOCOL_VERSION,
						      .version = 0x0700 });
	assert_int_equal(answer.status, STORVSP_STATUS_REVISION_MISMATCH);
	answer = transact(f, (struct storvsp_packet){ .operation = 77 });
	assert_true(answer.status != 0);
	/* I/O before the end of initialization */
	answer = transact(f, srb_packet(0, (const uint8_t[6]){ 0 }, 6, STORVSP_NO_DATA, 0));
	assert_int_equal(answer.status, STORVSP_STATUS_INVALID_DEVICE_STATE);
}

static void test_single_vp_has_one_channel(void **state)
{
	struct fixture *f = *state;
	struct storvsp_packet answer;

	open_and_initialize(f);
	answer = transact(f, (struct storvsp_packet){ .operation = STORVSP_QUERY_PROPERTIES });
	assert_int_equal(answer.properties.max_channel_count, 0);
	assert_int_equal(answer.properties.flags, 0);
}

static void test_inquiry(void **state)
{
	struct fixture *f = *state;
	const uint8_t cdb[6] = { 0x12, 0, 0, 0, 36, 0 };
	struct storvsp_packet answer;
	char data[36];

	open_and_initialize(f);
	answer = command(f, 0, cdb, 6, STORVSP_READ, 36);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_SUCCESS);
	assert_int_equal(answer.srb.data_transfer_length, 36);
	buffer_get(f, 0, data, 36);
	assert_int_equal(data[0], 0);
	assert_memory_equal(data + 8, "Msft    Virtual Disk    1.0 ", 28);
	/* another LUN: not there, and said so by data */
	answer = command(f, 5, cdb, 6, STORVSP_READ, 36);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_SUCCESS);
	assert_int_equal(answer.srb.data_transfer_length, 36);
	buffer_get(f, 0, data, 36);
	assert_int_equal(data[0], 0x7F);
	/* any other command to it */
	answer = command(f, 5, (const uint8_t[6]){ 0 }, 6, STORVSP_NO_DATA, 0);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_INVALID_LUN);
}

static void test_report_luns(void **state)
{
	struct fixture *f = *state;
	uint8_t cdb[12] = { 0xA0 }, data[64] = { 0 };
	struct storvsp_packet packet, answer;
	uint64_t id = 900;

	open_and_initialize(f);
	assert_int_equal(storvsp_attach(f->sp, 63, NULL, SCSI_KIND_DVD, NULL), 0);
	/* the attach was announced */
	struct vmbus_guest_packet news;
	assert_true(vmbus_guest_recv(f->channel, &news));
	assert_int_equal(news.type, VMBUS_INBAND);
	assert_int_equal(news.transaction_id, 0);
	assert_int_equal(load_le32(news.payload), STORVSP_ENUMERATE_BUS);

	store_be32(cdb + 6, 4096);
	answer = command(f, 0, cdb, 12, STORVSP_READ, 4096);
	assert_int_equal(answer.srb.data_transfer_length, 24);
	buffer_get(f, 0, data, 24);
	assert_int_equal(load_be32(data), 16);
	assert_int_equal(data[8 + 1], 0);
	assert_int_equal(data[16 + 1], 63);
	/* an empty target answers, too */
	packet = srb_packet(0, cdb, 12, STORVSP_READ, 4096);
	packet.srb.target = 1;
	assert_true(post_command(f, f->channel, id, &packet, 0));
	expect_answer_on(f->channel, id, &answer);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_SUCCESS);
	buffer_get(f, 0, data, 8);
	assert_int_equal(load_be32(data), 0);
	assert_int_equal(storvsp_detach(f->sp, 63, NULL), 0);
}

static void test_read_write(void **state)
{
	struct fixture *f = *state;
	uint32_t len = 40 * 512, offset = 100;
	uint8_t cdb[16], *data = malloc(len);
	struct storvsp_packet packet, answer;

	open_and_initialize(f);
	/* into scattered pages, from the middle of a page on */
	cdb_rw_10(cdb, 0x28, 3, 40);
	packet = srb_packet(0, cdb, 10, STORVSP_READ, len);
	assert_true(post_command(f, f->channel, 500, &packet, offset));
	expect_answer_on(f->channel, 500, &answer);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_SUCCESS);
	assert_int_equal(answer.srb.data_transfer_length, len);
	buffer_get(f, offset, data, len);
	assert_memory_equal(data, f->disk->bytes + 3 * 512, len);
	/* and back to another place */
	for (uint32_t i = 0; i < len; i++)
		data[i] = (uint8_t)(i * 7);
	buffer_put(f, offset, data, len);
	cdb_rw_10(cdb, 0x2A, 200, 40);
	packet = srb_packet(0, cdb, 10, STORVSP_WRITE, len);
	assert_true(post_command(f, f->channel, 501, &packet, offset));
	expect_answer_on(f->channel, 501, &answer);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_SUCCESS);
	assert_memory_equal(f->disk->bytes + 200 * 512, data, len);
	free(data);
}

static void test_dirty_log(void **state)
{
	struct fixture *f = *state;
	uint8_t cdb[16];
	uint64_t *map = calloc(1, 32 * MIB / 4096 / 8);
	uint64_t page = mem_page_index(f->guest->mem, f->page[1]);

	open_and_initialize(f);
	mem_dirty_log_start(f->guest->mem);
	cdb_rw_10(cdb, 0x28, 0, 16);
	command(f, 0, cdb, 10, STORVSP_READ, 8192);
	mem_dirty_log_take(f->guest->mem, map);
	assert_true(map[page / 64] >> (page % 64) & 1);
	mem_dirty_log_stop(f->guest->mem);
	free(map);
}

static void test_buffer_longer_than_transfer(void **state)
{
	struct fixture *f = *state;
	struct storvsp_packet answer;
	uint8_t cdb[16];

	open_and_initialize(f);
	cdb_rw_10(cdb, 0x28, 0, 1);
	answer = command(f, 0, cdb, 10, STORVSP_READ, 8192);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_SUCCESS);
	assert_int_equal(answer.srb.data_transfer_length, 512);
	/* shorter: refused */
	cdb_rw_10(cdb, 0x28, 0, 32);
	answer = command(f, 0, cdb, 10, STORVSP_READ, 8192);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_ERROR | STORVSP_SRB_AUTOSENSE_VALID);
	assert_int_equal(answer.srb.sense[2], SCSI_KEY_ILLEGAL_REQUEST);
}

static void test_errors_have_sense(void **state)
{
	struct fixture *f = *state;
	struct storvsp_packet answer;
	uint8_t cdb[16];

	open_and_initialize(f);
	cdb_rw_10(cdb, 0x28, DISK_BYTES / 512 - 1, 2);
	answer = command(f, 0, cdb, 10, STORVSP_READ, 1024);
	assert_int_equal(answer.srb.srb_status, 0x84);
	assert_int_equal(answer.srb.scsi_status, 2);
	assert_int_equal(answer.srb.sense_length, 18);
	assert_int_equal(answer.srb.sense[0], 0x70);
	assert_int_equal(answer.srb.sense[2], 5);
	assert_int_equal(answer.srb.sense[12], 0x21);
	f->disk->fail_with = BLK_IO_ERROR;
	cdb_rw_10(cdb, 0x28, 0, 2);
	answer = command(f, 0, cdb, 10, STORVSP_READ, 1024);
	assert_int_equal(answer.srb.srb_status, 0x84);
	assert_int_equal(answer.srb.sense[2], 3);
	assert_int_equal(answer.srb.sense[12], 0x11);
	cdb[0] = 0x85; /* ATA pass-through */
	answer = command(f, 0, cdb, 16, STORVSP_READ, 512);
	assert_int_equal(answer.srb.sense[2], 5);
	assert_int_equal(answer.srb.sense[12], 0x20);
}

static void test_flush_and_unmap(void **state)
{
	struct fixture *f = *state;
	uint8_t cdb[16] = { 0x42, 0, 0, 0, 0, 0, 0, 0, 24 }, list[24] = { 0, 22, 0, 16 };
	struct storvsp_packet answer;

	open_and_initialize(f);
	store_be64(list + 8, 64);
	store_be32(list + 16, 8);
	buffer_put(f, 0, list, sizeof(list));
	answer = command(f, 0, cdb, 10, STORVSP_WRITE, 24);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_SUCCESS);
	assert_int_equal(f->disk->unmaps, 1);
	assert_int_equal(f->disk->bytes[64 * 512 + 4095], 0);
	assert_true(f->disk->bytes[72 * 512 + 1] != 0);
	cdb_rw_10(cdb, 0x35, 0, 0);
	answer = command(f, 0, cdb, 10, STORVSP_NO_DATA, 0);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_SUCCESS);
	assert_int_equal(f->disk->flushes, 1);
}

static void test_resize_is_told(void **state)
{
	struct fixture *f = *state;
	const uint8_t ready[6] = { 0 };
	struct vmbus_guest_packet news;
	struct storvsp_packet answer;

	open_and_initialize(f);
	f->disk->blk.info.size_bytes = DISK_BYTES / 2;
	assert_int_equal(storvsp_resized(f->sp, 0, NULL), 0);
	assert_true(vmbus_guest_recv(f->channel, &news));
	answer = command(f, 0, ready, 6, STORVSP_NO_DATA, 0);
	assert_int_equal(answer.srb.srb_status, 0x84);
	assert_int_equal(answer.srb.sense[2], 6);
	assert_int_equal(answer.srb.sense[12], 0x2A);
	assert_int_equal(answer.srb.sense[13], 0x09);
	answer = command(f, 0, ready, 6, STORVSP_NO_DATA, 0);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_SUCCESS);
}

static void test_hot_remove(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_packet news;
	struct storvsp_packet answer;
	struct error err;

	open_and_initialize(f);
	assert_int_equal(storvsp_attach(f->sp, 0, &f->disk->blk, SCSI_KIND_DISK, &err),
			 -ERR_EXISTS);
	assert_int_equal(storvsp_attach(f->sp, 64, &f->disk->blk, SCSI_KIND_DISK, &err),
			 -ERR_INVALID);
	assert_int_equal(storvsp_detach(f->sp, 0, NULL), 0);
	assert_true(vmbus_guest_recv(f->channel, &news));
	assert_int_equal(load_le32(news.payload), STORVSP_ENUMERATE_BUS);
	assert_int_equal(news.payload_len, 64);
	answer = command(f, 0, (const uint8_t[6]){ 0 }, 6, STORVSP_NO_DATA, 0);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_INVALID_LUN);
	assert_int_equal(storvsp_detach(f->sp, 0, &err), -ERR_NOT_FOUND);
}

/* A disk that takes the place of another one is not shown to a guest that still writes to that. */
static void test_replaced(void **state)
{
	static const uint8_t test_unit_ready[6];
	struct fixture *f = *state;
	struct vmbus_guest_packet news;
	struct storvsp_packet answer;
	unsigned waited = 0;

	open_and_initialize(f);
	assert_int_equal(storvsp_detach(f->sp, 0, NULL), 0);
	assert_true(vmbus_guest_recv(f->channel, &news));
	assert_int_equal(storvsp_attach(f->sp, 0, &f->disk->blk, SCSI_KIND_DISK, NULL), 0);
	assert_true(vmbus_guest_recv(f->channel, &news));
	for (int i = 0; i < 3; i++) {
		answer = command(f, 0, test_unit_ready, 6, STORVSP_NO_DATA, 0);
		assert_int_equal(answer.srb.srb_status, STORVSP_SRB_INVALID_LUN);
		assert_false(vmbus_guest_try_recv(f->channel, &news));
	}
	/* It has been left alone: now it is there, and the guest is told. */
	while (!vmbus_guest_try_recv(f->channel, &news)) {
		vmbus_guest_step(f->guest);
		usleep(10000);
		assert_true(waited++ < 1000);
	}
	assert_int_equal(load_le32(news.payload), STORVSP_ENUMERATE_BUS);
	answer = command(f, 0, test_unit_ready, 6, STORVSP_NO_DATA, 0);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_SUCCESS);
}

static void note_settled(void *user)
{
	*(uint64_t *)user = clock_now_ns();
}

/* A controller stays while the guest lets its disks go, one after the other. */
static void test_retired(void **state)
{
	static const uint8_t test_unit_ready[6], flush[10] = { 0x35 };
	struct fixture *f = *state;
	struct vmbus_guest_packet news;
	struct storvsp_packet answer;
	uint64_t settled = 0, last = 0;

	open_and_initialize(f);
	storvsp_retire(f->sp, note_settled, &settled);
	assert_true(vmbus_guest_recv(f->channel, &news));
	answer = command(f, 0, test_unit_ready, 6, STORVSP_NO_DATA, 0);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_INVALID_LUN);
	for (int i = 0; i < 6 && !settled; i++) {
		last = clock_now_ns();
		answer = command(f, 0, flush, 10, STORVSP_NO_DATA, 0);
		assert_int_equal(answer.srb.srb_status, STORVSP_SRB_SUCCESS);
		while (!settled && clock_now_ns() < last + NS_PER_SEC / 4)
			vmbus_guest_step(f->guest);
	}
	while (!settled && clock_now_ns() < last + 9 * NS_PER_SEC)
		vmbus_guest_step(f->guest);
	assert_true(settled >= last + NS_PER_SEC);
	/* A guest that was slow meets no error. */
	answer = command(f, 0, flush, 10, STORVSP_NO_DATA, 0);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_SUCCESS);
}

/* A reset is answered after what came before it, and not before. */
static void test_reset_waits(void **state)
{
	struct fixture *f = *state;
	uint8_t cdb[16];
	struct storvsp_packet packet, answer;
	struct vmbus_guest_packet none;

	open_and_initialize(f);
	f->disk->held = true;
	cdb_rw_10(cdb, 0x28, 0, 1);
	packet = srb_packet(0, cdb, 10, STORVSP_READ, 512);
	assert_true(post_command(f, f->channel, 100, &packet, 0));
	send(f, &(struct storvsp_packet){ .operation = STORVSP_RESET_BUS, .flags = 1 }, 101);
	for (int i = 0; i < 20; i++)
		vmbus_guest_step(f->guest);
	assert_false(vmbus_guest_try_recv(f->channel, &none));
	test_disk_release(f->disk);
	expect_answer_on(f->channel, 100, &answer);
	expect_answer_on(f->channel, 101, &answer);
	assert_int_equal(answer.status, 0);
}

/* The guest closes the channel while the disk still writes into its memory. */
static void test_close_in_flight(void **state)
{
	struct fixture *f = *state;
	uint8_t cdb[16];
	struct storvsp_packet packet, answer;
	uint8_t data[512];

	open_and_initialize(f);
	f->disk->held = true;
	cdb_rw_10(cdb, 0x28, 9, 1);
	packet = srb_packet(0, cdb, 10, STORVSP_READ, 512);
	assert_true(post_command(f, f->channel, 100, &packet, 0));
	for (int i = 0; i < 20; i++)
		vmbus_guest_step(f->guest);
	assert_int_equal(f->disk->blk.in_flight, 1);
	loop_post(f->guest->loop, (void (*)(void *))test_disk_release, f->disk);
	vmbus_guest_close(f->channel);
	assert_int_equal(f->disk->blk.in_flight, 0);
	/* opened anew, everything works, and the old answer does not turn up */
	open_and_initialize(f);
	answer = command(f, 0, cdb, 10, STORVSP_READ, 512);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_SUCCESS);
	buffer_get(f, 0, data, 512);
	assert_memory_equal(data, f->disk->bytes + 9 * 512, 512);
}

static void test_detach_in_flight(void **state)
{
	struct fixture *f = *state;
	uint8_t cdb[16];
	struct storvsp_packet packet, answer;

	open_and_initialize(f);
	f->disk->held = true;
	cdb_rw_10(cdb, 0x28, 9, 1);
	packet = srb_packet(0, cdb, 10, STORVSP_READ, 512);
	assert_true(post_command(f, f->channel, 100, &packet, 0));
	for (int i = 0; i < 20; i++)
		vmbus_guest_step(f->guest);
	assert_int_equal(storvsp_detach(f->sp, 0, NULL), 0);
	assert_int_equal(f->disk->blk.in_flight, 0);
	expect_answer_on(f->channel, 100, &answer);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_SUCCESS);
}

/* More completions than the host-to-guest ring holds: none is lost, none is doubled. */
static void test_ring_full(void **state)
{
	struct fixture *f = *state;
	const uint8_t ready[6] = { 0 };
	struct storvsp_packet packet = srb_packet(0, ready, 6, STORVSP_NO_DATA, 0), answer;
	const unsigned count = 150; /* of 88 bytes: a data page holds 46 */
	uint64_t expected = 1000;

	open_channel_pages(f, 32, 2);
	initialize(f);
	for (unsigned i = 0; i < count; i++)
		send(f, &packet, expected + i);
	for (int i = 0; i < 50; i++)
		vmbus_guest_step(f->guest);
	for (unsigned i = 0; i < count; i++)
		expect_answer_on(f->channel, expected + i, &answer);
}

static void test_many_in_flight(void **state)
{
	struct fixture *f = *state;
	uint8_t cdb[16];
	struct storvsp_packet packet, answer;
	const unsigned count = 600;
	unsigned sent = 0;

	open_channel_pages(f, 64, 64);
	initialize(f);
	f->disk->held = true;
	cdb_rw_10(cdb, 0x28, 9, 1);
	packet = srb_packet(0, cdb, 10, STORVSP_READ, 512);
	while (sent < count) {
		if (post_command(f, f->channel, 1000 + sent, &packet, 0)) {
			sent++;
			continue;
		}
		for (int i = 0; i < 20; i++)
			vmbus_guest_step(f->guest);
		if (f->disk->blk.in_flight == f->disk->peak)
			break;
	}
	for (int i = 0; i < 20; i++)
		vmbus_guest_step(f->guest);
	assert_true(f->disk->peak <= 256);
	test_disk_release(f->disk);
	for (unsigned i = 0; i < sent; i++)
		expect_answer_on(f->channel, 1000 + i, &answer);
}

/* The guest is told of what is finished before its state can be saved. */
static void test_quiesce_owes_no_signal(void **state)
{
	struct fixture *f = *state;
	struct storvsp_packet packet, answer;
	uint8_t cdb[16];

	open_and_initialize(f);
	cdb_rw_10(cdb, 0x28, 9, 1);
	packet = srb_packet(0, cdb, 10, STORVSP_READ, 512);
	f->disk->held = true;
	for (unsigned i = 0; i < 2; i++)
		assert_true(post_command(f, f->channel, 1000 + i, &packet, 0));
	for (unsigned i = 0; i < 20; i++)
		vmbus_guest_step(f->guest);
	test_disk_release(f->disk);
	expect_answer_on(f->channel, 1000, &answer);
	expect_answer_on(f->channel, 1001, &answer);
	vmbus_guest_take_event(f->channel);
	/* Two at a time are expected now: news of one would wait for the other. */
	assert_true(post_command(f, f->channel, 1002, &packet, 0));
	vmbus_guest_step(f->guest);
	storvsp_quiesce(f->sp);
	assert_true(vmbus_guest_take_event(f->channel));
	storvsp_unquiesce(f->sp);
	expect_answer_on(f->channel, 1002, &answer);
}

static void test_sub_channels(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_channel *sub[3];
	struct storvsp_packet packet, answer;
	uint8_t cdb[16];

	open_and_initialize(f);
	answer = transact(f, (struct storvsp_packet){ .operation = STORVSP_QUERY_PROPERTIES });
	assert_int_equal(answer.properties.max_channel_count, 3);
	assert_int_equal(answer.properties.flags, STORVSP_MULTI_CHANNEL);
	answer = transact(f, (struct storvsp_packet){ .operation = STORVSP_CREATE_SUB_CHANNELS,
						      .sub_channel_count = 4 });
	assert_true(answer.status != 0);
	answer = transact(f, (struct storvsp_packet){ .operation = STORVSP_CREATE_SUB_CHANNELS,
						      .sub_channel_count = 3 });
	assert_int_equal(answer.status, 0);
	answer = transact(f, (struct storvsp_packet){ .operation = STORVSP_CREATE_SUB_CHANNELS,
						      .sub_channel_count = 3 });
	assert_true(answer.status != 0);
	for (uint16_t i = 0; i < 3; i++) {
		const struct vmbus_spec_offer *offer =
		    vmbus_guest_offer(f->guest, &scsi_class, i + 1);

		assert_non_null(offer);
		sub[i] = vmbus_guest_open(f->guest, offer, 16, 16);
		assert_non_null(sub[i]);
	}
	/* answers come back on the channel of the request */
	cdb_rw_10(cdb, 0x28, 1, 1);
	packet = srb_packet(0, cdb, 10, STORVSP_READ, 512);
	for (unsigned i = 0; i < 3; i++)
		assert_true(post_command(f, sub[i], 700 + i, &packet, 0));
	for (unsigned i = 0; i < 3; i++) {
		expect_answer_on(sub[i], 700 + i, &answer);
		assert_int_equal(answer.srb.srb_status, STORVSP_SRB_SUCCESS);
		assert_false(vmbus_guest_try_recv(sub[i], &(struct vmbus_guest_packet){ 0 }));
	}
	/* the driver goes and comes again: sub-channels have to be asked for anew */
	for (unsigned i = 0; i < 3; i++)
		vmbus_guest_close(sub[i]);
	vmbus_guest_close(f->channel);
	open_and_initialize(f);
	answer = transact(f, (struct storvsp_packet){ .operation = STORVSP_CREATE_SUB_CHANNELS,
						      .sub_channel_count = 1 });
	assert_int_equal(answer.status, 0);
	assert_non_null(vmbus_guest_offer(f->guest, &scsi_class, 1));
}

static void test_unload_with_io(void **state)
{
	struct fixture *f = *state;
	uint8_t cdb[16];
	struct storvsp_packet packet, answer;

	open_and_initialize(f);
	f->disk->held = true;
	cdb_rw_10(cdb, 0x28, 9, 1);
	packet = srb_packet(0, cdb, 10, STORVSP_READ, 512);
	assert_true(post_command(f, f->channel, 100, &packet, 0));
	for (int i = 0; i < 20; i++)
		vmbus_guest_step(f->guest);
	loop_post(f->guest->loop, (void (*)(void *))test_disk_release, f->disk);
	vmbus_guest_unload(f->guest);
	vmbus_guest_forget(f->channel);
	assert_true(vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3));
	open_and_initialize(f);
	answer = command(f, 0, cdb, 10, STORVSP_READ, 512);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_SUCCESS);
}

struct ejected {
	unsigned lun, count;
	struct blk *medium;
};

static void note_eject(void *user, unsigned lun, struct blk *medium)
{
	*(struct ejected *)user = (struct ejected){ lun, 1, medium };
}

static void test_dvd(void **state)
{
	struct fixture *f = *state;
	const uint8_t ready[6] = { 0 }, eject[6] = { 0x1B, 0, 0, 0, 2 };
	struct vmbus_guest_packet news;
	struct storvsp_packet answer;
	struct test_disk *medium;
	struct ejected ejected = { 0 };
	uint8_t cdb[16], data[2048];

	open_and_initialize(f);
	storvsp_set_eject_hook(f->sp, note_eject, &ejected);
	assert_int_equal(storvsp_attach(f->sp, 1, NULL, SCSI_KIND_DVD, NULL), 0);
	assert_true(vmbus_guest_recv(f->channel, &news));
	answer = command(f, 1, ready, 6, STORVSP_NO_DATA, 0);
	assert_int_equal(answer.srb.sense[2], 2);
	assert_int_equal(answer.srb.sense[12], 0x3A);
	medium = test_disk_new(f->guest->loop);
	assert_int_equal(storvsp_set_medium(f->sp, 1, &medium->blk, NULL), 0);
	answer = command(f, 1, ready, 6, STORVSP_NO_DATA, 0);
	assert_int_equal(answer.srb.sense[2], 6);
	assert_int_equal(answer.srb.sense[12], 0x28);
	cdb_rw_10(cdb, 0x28, 7, 1);
	answer = command(f, 1, cdb, 10, STORVSP_READ, 2048);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_SUCCESS);
	buffer_get(f, 0, data, 2048);
	assert_memory_equal(data, medium->bytes + 7 * 2048, 2048);
	answer = command(f, 1, eject, 6, STORVSP_NO_DATA, 0);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_SUCCESS);
	assert_int_equal(ejected.count, 1);
	assert_int_equal(ejected.lun, 1);
	assert_ptr_equal(ejected.medium, &medium->blk);
	answer = command(f, 1, ready, 6, STORVSP_NO_DATA, 0);
	assert_int_equal(answer.srb.sense[12], 0x3A);
	blk_close(&medium->blk, NULL);
}

static void test_64_luns(void **state)
{
	struct fixture *f = *state;
	struct test_disk *disks[64] = { f->disk };
	struct storvsp_packet answer;
	uint8_t cdb[16], byte;

	open_and_initialize(f);
	for (unsigned i = 1; i < 64; i++) {
		disks[i] = test_disk_new(f->guest->loop);
		memset(disks[i]->bytes, (int)i, 512);
		assert_int_equal(storvsp_attach(f->sp, i, &disks[i]->blk, SCSI_KIND_DISK, NULL), 0);
	}
	for (unsigned i = 1; i < 64; i++)
		assert_true(vmbus_guest_recv(f->channel, &(struct vmbus_guest_packet){ 0 }));
	cdb_rw_10(cdb, 0x28, 0, 1);
	for (unsigned i = 1; i < 64; i++) {
		answer = command(f, (uint8_t)i, cdb, 10, STORVSP_READ, 512);
		assert_int_equal(answer.srb.srb_status, STORVSP_SRB_SUCCESS);
		buffer_get(f, 511, &byte, 1);
		assert_int_equal(byte, i);
	}
	for (unsigned i = 1; i < 64; i++) {
		assert_int_equal(storvsp_detach(f->sp, i, NULL), 0);
		blk_close(&disks[i]->blk, NULL);
	}
}

static void test_odd_packets(void **state)
{
	struct fixture *f = *state;
	struct storvsp_packet packet, answer;
	uint8_t cdb[16];

	open_and_initialize(f);
	/* too short */
	cdb_rw_10(cdb, 0x28, 9, 1);
	packet = srb_packet(0, cdb, 10, STORVSP_READ, 512);
	assert_true(vmbus_guest_send(f->channel, 50, true, &packet, 24));
	expect_answer_on(f->channel, 50, &answer);
	assert_true(answer.status != 0);
	/* a length without pages */
	assert_true(vmbus_guest_send(f->channel, 51, true, &packet, 64));
	expect_answer_on(f->channel, 51, &answer);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_INVALID_REQUEST);
	/* a CDB longer than there is room for */
	packet.srb.cdb_length = 17;
	packet.srb.data_transfer_length = 0;
	assert_true(vmbus_guest_send(f->channel, 52, true, &packet, 64));
	expect_answer_on(f->channel, 52, &answer);
	assert_int_equal(answer.srb.srb_status, STORVSP_SRB_INVALID_REQUEST);
	/* no answer wanted: none comes */
	assert_true(vmbus_guest_send(f->channel, 53, false, &packet, 64));
	initialize(f);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

static void test_state_tables(void **state)
{
	STATE_CHECK(struct scsi_unit_state, scsi_unit_state_desc);
	STATE_CHECK(struct storvsp_unsent_state, storvsp_unsent_state_desc);
	STATE_CHECK(struct storvsp_lun_state, storvsp_lun_state_desc);
	STATE_CHECK(struct storvsp_state, storvsp_state_desc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_versions),
		TEST(test_single_vp_has_one_channel),
		TEST(test_inquiry),
		TEST(test_report_luns),
		TEST(test_read_write),
		TEST(test_dirty_log),
		TEST(test_buffer_longer_than_transfer),
		TEST(test_errors_have_sense),
		TEST(test_flush_and_unmap),
		TEST(test_resize_is_told),
		TEST(test_hot_remove),
		TEST(test_replaced),
		TEST(test_retired),
		TEST(test_reset_waits),
		TEST(test_close_in_flight),
		TEST(test_detach_in_flight),
		TEST(test_ring_full),
		TEST(test_many_in_flight),
		TEST(test_quiesce_owes_no_signal),
		cmocka_unit_test_setup_teardown(test_sub_channels, setup_4_vps, teardown),
		TEST(test_unload_with_io),
		TEST(test_dvd),
		TEST(test_64_luns),
		TEST(test_odd_packets),
		TEST(test_state_tables),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
