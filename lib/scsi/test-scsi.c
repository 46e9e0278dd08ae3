/* What disks and DVD drives answer, byte by byte. */
#include "base/bytes.h"
#include "base/macros.h"
#include "scsi/scsi.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static const struct guid id =
    GUID_INIT(0x00112233, 0x4455, 0x6677, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff);

struct fixture {
	struct blk_info info;
	struct scsi_unit unit;
	struct scsi_reply reply;
};

static int setup_disk(void **state)
{
	static struct fixture f;

	f.info = (struct blk_info){ .size_bytes = 3 * GIB,
				    .logical_sector_bytes = 512,
				    .physical_sector_bytes = 4096,
				    .can_unmap = true,
				    .unmap_granularity_bytes = 65536 };
	scsi_unit_init(&f.unit, SCSI_KIND_DISK, &f.info, &id);
	*state = &f;
	return 0;
}

static int setup_dvd(void **state)
{
	static struct fixture f;

	f.info = (struct blk_info){ .size_bytes = 700 * 2048,
				    .logical_sector_bytes = 512,
				    .physical_sector_bytes = 512,
				    .read_only = true };
	scsi_unit_init(&f.unit, SCSI_KIND_DVD, &f.info, &id);
	*state = &f;
	return 0;
}

static int setup_empty_dvd(void **state)
{
	setup_dvd(state);
	((struct fixture *)*state)->unit.medium = NULL;
	return 0;
}

static struct scsi_reply *run_with(struct fixture *f, const uint8_t *cdb, size_t cdb_len,
				   uint32_t buffer_bytes, const uint8_t *parameters,
				   uint32_t parameter_bytes)
{
	struct scsi_command command = { .buffer_bytes = buffer_bytes,
					.parameters = parameters,
					.parameter_bytes = parameter_bytes };

	memcpy(command.cdb, cdb, cdb_len);
	memset(&f->reply, 0xA5, sizeof(f->reply));
	scsi_execute(&f->unit, &command, &f->reply);
	return &f->reply;
}

#define RUN(f, ...)                                                                                \
	run_with(f, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }),    \
		 65536, NULL, 0)

static void expect_data(const struct scsi_reply *reply, uint32_t len)
{
	assert_int_equal(reply->status, SCSI_GOOD);
	assert_int_equal(reply->action, SCSI_ACTION_NONE);
	assert_int_equal(reply->data_bytes, len);
}

static void expect_sense(const struct scsi_reply *reply, uint8_t key, uint16_t asc)
{
	const uint8_t expected[18] = {
		0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, (uint8_t)(asc >> 8), (uint8_t)asc
	};

	assert_int_equal(reply->status, SCSI_CHECK_CONDITION);
	assert_int_equal(reply->action, SCSI_ACTION_NONE);
	assert_int_equal(reply->data_bytes, 0);
	assert_memory_equal(reply->sense, expected, 18);
}

static void expect_range(const struct scsi_reply *reply, enum scsi_action action, enum blk_op op,
			 uint64_t offset, uint64_t length)
{
	assert_int_equal(reply->status, SCSI_GOOD);
	assert_int_equal(reply->action, action);
	assert_int_equal(reply->op, op);
	assert_int_equal(reply->range_count, 1);
	assert_int_equal(reply->ranges[0].offset, offset);
	assert_int_equal(reply->ranges[0].length, length);
}

/* ---- disks ---- */

static void test_inquiry(void **state)
{
	struct fixture *f = *state;

	expect_data(RUN(f, 0x12, 0, 0, 0, 36, 0), 36);
	assert_memory_equal(f->reply.data,
			    "\x00\x00\x05\x02\x1f\x00\x00\x02"
			    "Msft    Virtual Disk    1.0 ",
			    36);
	/* less is asked for, less comes */
	expect_data(RUN(f, 0x12, 0, 0, 0, 5, 0), 5);
	expect_sense(RUN(f, 0x12, 0, 0x80, 0, 36, 0), 5, 0x2400);
}

static void test_vpd(void **state)
{
	static const uint8_t pages[] = {
		0x00, 0x00, 0x00, 0x06, 0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2
	};
	struct fixture *f = *state;
	const uint8_t *data = f->reply.data;

	expect_data(RUN(f, 0x12, 1, 0x00, 0, 255, 0), 10);
	assert_memory_equal(data, pages, 10);
	expect_data(RUN(f, 0x12, 1, 0x80, 0, 255, 0), 36);
	assert_memory_equal(data + 4, "33221100554477668899aabbccddeeff", 32);
	expect_data(RUN(f, 0x12, 1, 0x83, 0, 255, 0), 52);
	assert_memory_equal(data + 4, "\x01\x01\x00\x18Msft    ", 12);
	assert_memory_equal(data + 16, &id, 16);
	assert_memory_equal(data + 32, "\x01\x03\x00\x10\x60\x02\x24\x80", 8);
	expect_data(RUN(f, 0x12, 1, 0xB0, 0, 255, 0), 64);
	assert_int_equal(load_be16(data + 2), 0x3C);
	assert_int_equal(load_be16(data + 6), 8);
	assert_int_equal(load_be32(data + 20), UINT32_MAX);
	assert_int_equal(load_be32(data + 24), SCSI_MAX_RANGES);
	assert_int_equal(load_be32(data + 28), 128);
	assert_int_equal(load_be32(data + 32), 0x80000000);
	expect_data(RUN(f, 0x12, 1, 0xB1, 0, 255, 0), 64);
	assert_int_equal(load_be16(data + 4), 1);
	expect_data(RUN(f, 0x12, 1, 0xB2, 0, 255, 0), 8);
	assert_memory_equal(data, "\x00\xB2\x00\x04\x00\xE4\x02\x00", 8);
	expect_sense(RUN(f, 0x12, 1, 0x89, 0, 255, 0), 5, 0x2400);
	f->info.can_unmap = false;
	expect_data(RUN(f, 0x12, 1, 0xB2, 0, 255, 0), 8);
	assert_int_equal(data[5], 0);
	expect_data(RUN(f, 0x12, 1, 0xB0, 0, 255, 0), 64);
	assert_int_equal(load_be32(data + 20), 0);
}

static void test_capacity(void **state)
{
	struct fixture *f = *state;
	const uint8_t *data = f->reply.data;

	expect_data(RUN(f, 0x25), 8);
	assert_int_equal(load_be32(data), 3 * GIB / 512 - 1);
	assert_int_equal(load_be32(data + 4), 512);
	expect_data(RUN(f, 0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32), 32);
	assert_int_equal(load_be64(data), 3 * GIB / 512 - 1);
	assert_int_equal(load_be32(data + 8), 512);
	assert_int_equal(data[13], 3);
	assert_int_equal(data[14], 0xC0);
	expect_sense(RUN(f, 0x9E, 0x12), 5, 0x2400);
	/* beyond 2 TiB the short command can only say so */
	f->info.size_bytes = UINT64_C(3) << 40;
	expect_data(RUN(f, 0x25), 8);
	assert_int_equal(load_be32(data), UINT32_MAX);
}

static void test_mode_sense(void **state)
{
	struct fixture *f = *state;
	const uint8_t *data = f->reply.data;

	expect_data(RUN(f, 0x1A, 0, 0x3F, 0, 4), 4);
	assert_int_equal(data[2], 0);
	expect_data(RUN(f, 0x1A, 8, 0x08, 0, 255), 24);
	assert_int_equal(data[0], 23);
	assert_int_equal(data[3], 0);
	assert_int_equal(data[4], 0x08);
	assert_int_equal(data[5], 18);
	assert_int_equal(data[6], 0x04); /* write cache */
	/* changeable: nothing */
	expect_data(RUN(f, 0x1A, 8, 0x48, 0, 255), 24);
	assert_int_equal(data[6], 0);
	expect_sense(RUN(f, 0x1A, 8, 0xC8, 0, 255), 5, 0x3900);
	expect_sense(RUN(f, 0x1A, 8, 0x05, 0, 255), 5, 0x2400);
	/* ten bytes, with a block descriptor */
	expect_data(RUN(f, 0x5A, 0, 0x08, 0, 0, 0, 0, 0, 255), 8 + 8 + 20);
	assert_int_equal(load_be16(data), 34);
	assert_int_equal(data[7], 8);
	assert_int_equal(load_be32(data + 8 + 4), 512);
	f->info.read_only = true;
	expect_data(RUN(f, 0x1A, 0, 0x3F, 0, 4), 4);
	assert_int_equal(data[2], 0x80);
}

static void test_reads_and_writes(void **state)
{
	struct fixture *f = *state;

	expect_range(RUN(f, 0x08, 0x1F, 0xFF, 0xFF, 2), SCSI_ACTION_TRANSFER, BLK_READ,
		     UINT64_C(0x1FFFFF) * 512, 1024);
	/* READ(6): 0 means 256 blocks, which this buffer can't hold */
	expect_sense(RUN(f, 0x08, 0, 0, 0, 0), 5, 0x2400);
	expect_range(RUN(f, 0x28, 0, 0, 1, 2, 3, 0, 0, 8), SCSI_ACTION_TRANSFER, BLK_READ,
		     UINT64_C(0x010203) * 512, 8 * 512);
	expect_range(RUN(f, 0x2A, 0x08, 0, 0, 0, 1, 0, 0, 1), SCSI_ACTION_TRANSFER, BLK_WRITE, 512,
		     512);
	assert_int_equal(f->reply.op_flags, BLK_FUA);
	expect_range(RUN(f, 0xA8, 0, 0, 0, 0, 7, 0, 0, 0, 1), SCSI_ACTION_TRANSFER, BLK_READ,
		     7 * 512, 512);
	expect_range(RUN(f, 0x8A, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 16), SCSI_ACTION_TRANSFER,
		     BLK_WRITE, UINT64_C(0x100000) * 512, 16 * 512);
	assert_int_equal(f->reply.op_flags, 0);
	/* nothing to move is fine */
	expect_data(RUN(f, 0x28, 0, 0, 0, 0, 0, 0, 0, 0), 0);
	/* the end */
	expect_range(RUN(f, 0x28, 0, 0, 0x5F, 0xFF, 0xFF, 0, 0, 1), SCSI_ACTION_TRANSFER, BLK_READ,
		     3 * GIB - 512, 512);
	expect_sense(RUN(f, 0x28, 0, 0, 0x5F, 0xFF, 0xFF, 0, 0, 2), 5, 0x2100);
	expect_sense(RUN(f, 0x88, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 1), 5,
		     0x2100);
	/* protection information */
	expect_sense(RUN(f, 0x28, 0x20, 0, 0, 0, 0, 0, 0, 1), 5, 0x2400);
	f->info.read_only = true;
	expect_sense(RUN(f, 0x2A, 0, 0, 0, 0, 1, 0, 0, 1), 7, 0x2700);
}

static void test_results(void **state)
{
	struct fixture *f = *state;

	RUN(f, 0x28, 0, 0, 0, 0, 0, 0, 0, 1);
	scsi_io_result(&f->reply, BLK_OK);
	assert_int_equal(f->reply.status, SCSI_GOOD);
	scsi_io_result(&f->reply, BLK_IO_ERROR);
	expect_sense(&f->reply, 3, 0x1100);
	RUN(f, 0x2A, 0, 0, 0, 0, 0, 0, 0, 1);
	scsi_io_result(&f->reply, BLK_IO_ERROR);
	expect_sense(&f->reply, 3, 0x0C00);
	RUN(f, 0x2A, 0, 0, 0, 0, 0, 0, 0, 1);
	scsi_io_result(&f->reply, BLK_NO_SPACE);
	expect_sense(&f->reply, 7, 0x2707);
}

static void test_flush_and_verify(void **state)
{
	struct fixture *f = *state;

	expect_range(RUN(f, 0x35), SCSI_ACTION_RANGES, BLK_FLUSH, 0, 0);
	expect_range(RUN(f, 0x91), SCSI_ACTION_RANGES, BLK_FLUSH, 0, 0);
	expect_data(RUN(f, 0x2F, 0, 0, 0, 0, 0, 0, 0, 8), 0);
	expect_sense(RUN(f, 0x2F, 0x02, 0, 0, 0, 0, 0, 0, 8), 5, 0x2400);
	expect_sense(RUN(f, 0x8F, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1), 5, 0x2100);
}

static struct scsi_reply *run_unmap(struct fixture *f, const uint8_t *list, uint32_t len)
{
	uint8_t cdb[10] = { 0x42, [7] = (uint8_t)(len >> 8), [8] = (uint8_t)len };

	return run_with(f, cdb, sizeof(cdb), len, list, len);
}

static void test_unmap(void **state)
{
	struct fixture *f = *state;
	uint8_t list[8 + 65 * 16] = { 0 }, cdb[16] = { 0x42, [8] = 40 };

	assert_int_equal(scsi_parameter_bytes(&f->unit, cdb), 40);
	store_be16(list + 2, 32);
	store_be64(list + 8, 100);
	store_be32(list + 16, 10);
	store_be64(list + 24, 5);
	store_be32(list + 32, 1);
	run_unmap(f, list, 40);
	assert_int_equal(f->reply.action, SCSI_ACTION_RANGES);
	assert_int_equal(f->reply.op, BLK_UNMAP);
	assert_int_equal(f->reply.range_count, 2);
	assert_int_equal(f->reply.ranges[0].offset, 51200);
	assert_int_equal(f->reply.ranges[0].length, 5120);
	assert_int_equal(f->reply.ranges[1].offset, 2560);
	expect_data(run_unmap(f, list, 0), 0);
	expect_sense(run_unmap(f, list, 7), 5, 0x1A00);
	/* a range beyond the end */
	store_be64(list + 24, UINT64_MAX);
	expect_sense(run_unmap(f, list, 40), 5, 0x2100);
	/* more descriptors than were offered */
	store_be16(list + 2, 65 * 16);
	expect_sense(run_unmap(f, list, sizeof(list)), 5, 0x2600);
	f->info.can_unmap = false;
	expect_sense(run_unmap(f, list, 24), 5, 0x2000);
}

static void test_write_same(void **state)
{
	static const uint8_t zeros[512], ones[512] = { [511] = 1 };
	const uint8_t ten[10] = { 0x41, 0, 0, 0, 0, 2, 0, 0, 4 };
	const uint8_t sixteen[16] = { 0x93, 0x08, [9] = 2, [13] = 4 };
	const uint8_t no_data[16] = { 0x93, 0x01, [9] = 2, [13] = 4 };
	const uint8_t to_the_end[16] = { 0x93, 0x01, [7] = 0x5F, [8] = 0xFF, [9] = 0xFF };
	struct fixture *f = *state;

	assert_int_equal(scsi_parameter_bytes(&f->unit, sixteen), 512);
	expect_range(run_with(f, ten, 10, 512, zeros, 512), SCSI_ACTION_RANGES, BLK_WRITE_ZEROES,
		     1024, 2048);
	assert_int_equal(f->reply.op_flags, 0);
	expect_range(run_with(f, sixteen, 16, 512, zeros, 512), SCSI_ACTION_RANGES,
		     BLK_WRITE_ZEROES, 1024, 2048);
	assert_int_equal(f->reply.op_flags, BLK_MAY_UNMAP);
	expect_range(run_with(f, no_data, 16, 0, NULL, 0), SCSI_ACTION_RANGES, BLK_WRITE_ZEROES,
		     1024, 2048);
	expect_sense(run_with(f, ten, 10, 512, ones, 512), 5, 0x2400);
	expect_sense(run_with(f, ten, 10, 100, zeros, 100), 5, 0x2400);
	expect_range(run_with(f, to_the_end, 16, 0, NULL, 0), SCSI_ACTION_RANGES, BLK_WRITE_ZEROES,
		     (UINT64_C(0x5FFFFF)) * 512, 512);
}

static void test_attentions(void **state)
{
	struct fixture *f = *state;

	scsi_unit_attention(&f->unit, SCSI_ASC_CAPACITY_CHANGED);
	scsi_unit_attention(&f->unit, SCSI_ASC_CAPACITY_CHANGED);
	scsi_unit_reset(&f->unit);
	/* INQUIRY, MODE SENSE and REQUEST SENSE don't wait */
	expect_data(RUN(f, 0x12, 0, 0, 0, 36, 0), 36);
	expect_data(RUN(f, 0x1A, 0, 0x3F, 0, 4, 0), 4);
	expect_data(RUN(f, 0x5A, 0, 0x3F, 0, 0, 0, 0, 0, 8, 0), 8);
	expect_data(RUN(f, 0x03, 0, 0, 0, 18), 18);
	assert_int_equal(f->reply.data[2], 6);
	assert_int_equal(load_be16(f->reply.data + 12), 0x2A09);
	expect_sense(RUN(f, 0x00), 6, 0x2900);
	expect_data(RUN(f, 0x00), 0);
	expect_data(RUN(f, 0x03, 0, 0, 0, 18), 18);
	assert_int_equal(f->reply.data[2], 0);
}

static void test_refused(void **state)
{
	static const uint8_t opcodes[] = { 0x5E, 0x5F, 0x85, 0xA1, 0xA3, 0x15, 0x55,
					   0x16, 0x43, 0x4A, 0x46, 0xFF, 0xA0 };
	struct fixture *f = *state;

	for (unsigned i = 0; i < sizeof(opcodes); i++)
		expect_sense(RUN(f, opcodes[i]), 5, 0x2000);
}

static void test_target(void **state)
{
	struct fixture *f = *state;
	struct scsi_command command = { .cdb = { 0xA0, [8] = 0x10 }, .buffer_bytes = 4096 };

	scsi_report_luns(&command, UINT64_MAX, &f->reply);
	expect_data(&f->reply, 8 + 64 * 8);
	assert_int_equal(load_be32(f->reply.data), 512);
	assert_int_equal(f->reply.data[8 + 63 * 8 + 1], 63);
	scsi_report_luns(&command, 0, &f->reply);
	expect_data(&f->reply, 8);
	command = (struct scsi_command){ .cdb = { 0x12, [4] = 36 }, .buffer_bytes = 36 };
	assert_true(scsi_absent_unit(&command, false, &f->reply));
	expect_data(&f->reply, 36);
	assert_int_equal(f->reply.data[0], 0x7F);
	command.cdb[0] = 0;
	assert_false(scsi_absent_unit(&command, true, &f->reply));
	command.cdb[0] = 0x35;
	assert_false(scsi_absent_unit(&command, false, &f->reply));
	assert_true(scsi_absent_unit(&command, true, &f->reply));
	expect_data(&f->reply, 0);
}

/* ---- DVD drives ---- */

static void test_dvd_inquiry(void **state)
{
	struct fixture *f = *state;

	expect_data(RUN(f, 0x12, 0, 0, 0, 96, 0), 36);
	assert_memory_equal(f->reply.data,
			    "\x05\x80\x05\x02\x1f\x00\x00\x02"
			    "Msft    Virtual DVD-ROM 1.0 ",
			    36);
}

static void test_dvd_reads(void **state)
{
	struct fixture *f = *state;
	const uint8_t *data = f->reply.data;

	expect_data(RUN(f, 0x25), 8);
	assert_int_equal(load_be32(data), 699);
	assert_int_equal(load_be32(data + 4), 2048);
	expect_range(RUN(f, 0x28, 0, 0, 0, 2, 0xBB, 0, 0, 1), SCSI_ACTION_TRANSFER, BLK_READ,
		     699 * 2048, 2048);
	expect_sense(RUN(f, 0x28, 0, 0, 0, 2, 0xBC, 0, 0, 1), 5, 0x2100);
	expect_range(RUN(f, 0xA8, 0, 0, 0, 0, 1, 0, 0, 0, 2), SCSI_ACTION_TRANSFER, BLK_READ, 2048,
		     4096);
	expect_sense(RUN(f, 0x2A, 0, 0, 0, 0, 1, 0, 0, 1), 5, 0x2000);
}

static void test_dvd_toc(void **state)
{
	struct fixture *f = *state;
	const uint8_t *data = f->reply.data;

	expect_data(RUN(f, 0x43, 0, 0, 0, 0, 0, 0, 0, 255), 20);
	assert_memory_equal(data, "\x00\x12\x01\x01\x00\x14\x01\x00\x00\x00\x00\x00", 12);
	assert_int_equal(data[14], 0xAA);
	assert_int_equal(load_be32(data + 16), 700);
	/* MSF: 700 + 150 frames = 11 s 25 f */
	expect_data(RUN(f, 0x43, 2, 0, 0, 0, 0, 0xAA, 0, 255), 12);
	assert_memory_equal(data + 8, "\x00\x00\x0B\x19", 4);
	expect_data(RUN(f, 0x43, 0, 1, 0, 0, 0, 0, 0, 255), 12);
	expect_data(RUN(f, 0x43, 2, 2, 0, 0, 0, 0, 0, 255), 48);
	expect_sense(RUN(f, 0x43, 0, 4, 0, 0, 0, 0, 0, 255), 5, 0x2400);
	expect_sense(RUN(f, 0x43, 0, 0, 0, 0, 0, 7, 0, 255), 5, 0x2400);
}

static void test_dvd_configuration(void **state)
{
	struct fixture *f = *state;
	const uint8_t *data = f->reply.data;

	RUN(f, 0x46, 0, 0, 0, 0, 0, 0, 1, 0);
	assert_int_equal(f->reply.status, SCSI_GOOD);
	assert_int_equal(load_be32(data), f->reply.data_bytes - 4);
	assert_int_equal(load_be16(data + 6), 0x0010);
	/* one feature: random readable, current */
	expect_data(RUN(f, 0x46, 2, 0, 0x10, 0, 0, 0, 1, 0), 8 + 12);
	assert_int_equal(load_be16(data + 8), 0x0010);
	assert_int_equal(data[10] & 1, 1);
	/* eight bytes of header, as Linux asks first */
	expect_data(RUN(f, 0x46, 0, 0, 0, 0, 0, 0, 0, 8), 8);
}

static void test_dvd_events_and_eject(void **state)
{
	struct fixture *f = *state;
	const uint8_t *data = f->reply.data;

	expect_data(RUN(f, 0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8), 8);
	assert_memory_equal(data, "\x00\x06\x04\x10\x00\x02\x00\x00", 8);
	expect_data(RUN(f, 0x4A, 1, 0, 0, 0x02, 0, 0, 0, 8), 4);
	assert_int_equal(data[2] & 0x80, 0x80);
	expect_sense(RUN(f, 0x4A, 0, 0, 0, 0x10, 0, 0, 0, 8), 5, 0x2400);
	/* locked: can't be ejected */
	expect_data(RUN(f, 0x1E, 0, 0, 0, 1), 0);
	expect_sense(RUN(f, 0x1B, 0, 0, 0, 2), 5, 0x5302);
	expect_data(RUN(f, 0x1E, 0, 0, 0, 0), 0);
	assert_int_equal(RUN(f, 0x1B, 0, 0, 0, 2)->action, SCSI_ACTION_EJECT);
	scsi_unit_set_medium(&f->unit, NULL);
	expect_data(RUN(f, 0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8), 8);
	assert_memory_equal(data + 4, "\x03\x00", 2);
	/* told once */
	expect_data(RUN(f, 0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8), 8);
	assert_memory_equal(data + 4, "\x00\x00", 2);
	scsi_unit_set_medium(&f->unit, &f->info);
	expect_data(RUN(f, 0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8), 8);
	assert_memory_equal(data + 4, "\x02\x02", 2);
	expect_sense(RUN(f, 0x00), 6, 0x2800);
	expect_data(RUN(f, 0x00), 0);
}

static void test_dvd_pages(void **state)
{
	struct fixture *f = *state;
	const uint8_t *data = f->reply.data;

	expect_data(RUN(f, 0x5A, 0, 0x2A, 0, 0, 0, 0, 0, 128), 8 + 22);
	assert_int_equal(data[8], 0x2A);
	assert_int_equal(data[9], 20);
	expect_data(RUN(f, 0x51, 0, 0, 0, 0, 0, 0, 0, 255), 34);
	assert_int_equal(load_be16(data), 32);
	assert_int_equal(data[2], 0x0E);
	expect_data(RUN(f, 0x52, 1, 0, 0, 0, 1, 0, 0, 255), 36);
	assert_int_equal(load_be32(data + 24), 700);
	expect_data(RUN(f, 0xAD, 0, 0, 0, 0, 0, 0, 0, 0x08, 0x04), 2052);
	expect_data(RUN(f, 0xBD, 0, 0, 0, 0, 0, 0, 0, 0, 255), 8);
	expect_data(RUN(f, 0xBB, 0, 0xFF, 0xFF), 0);
}

static void test_empty_dvd(void **state)
{
	static const uint8_t need_medium[] = { 0x00, 0x25, 0x28, 0xA8, 0x43, 0x51, 0x52, 0xAD };
	struct fixture *f = *state;
	const uint8_t *data = f->reply.data;

	for (unsigned i = 0; i < sizeof(need_medium); i++)
		expect_sense(RUN(f, need_medium[i], 0, 0, 0, 0, 0, 0, 0, 1), 2, 0x3A00);
	expect_data(RUN(f, 0x12, 0, 0, 0, 36, 0), 36);
	expect_data(RUN(f, 0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8), 8);
	assert_int_equal(data[5], 0);
	RUN(f, 0x46, 0, 0, 0, 0, 0, 0, 1, 0);
	assert_int_equal(load_be16(data + 6), 0);
	expect_data(RUN(f, 0x1B, 0, 0, 0, 2), 0);
	expect_data(RUN(f, 0x5A, 0, 0x2A, 0, 0, 0, 0, 0, 128), 8 + 22);
}

#define DISK(test) cmocka_unit_test_setup(test, setup_disk)
#define DVD(test)  cmocka_unit_test_setup(test, setup_dvd)

int main(void)
{
	const struct CMUnitTest tests[] = {
		DISK(test_inquiry),
		DISK(test_vpd),
		DISK(test_capacity),
		DISK(test_mode_sense),
		DISK(test_reads_and_writes),
		DISK(test_results),
		DISK(test_flush_and_verify),
		DISK(test_unmap),
		DISK(test_write_same),
		DISK(test_attentions),
		DISK(test_refused),
		DISK(test_target),
		DVD(test_dvd_inquiry),
		DVD(test_dvd_reads),
		DVD(test_dvd_toc),
		DVD(test_dvd_configuration),
		DVD(test_dvd_events_and_eject),
		DVD(test_dvd_pages),
		cmocka_unit_test_setup(test_empty_dvd, setup_empty_dvd),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
