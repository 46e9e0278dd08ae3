/* VHDX structures that are damaged, unusual or left behind by a crash: what is refused, and what
 * not. */
#include "base/bytes.h"
#include "base/loop.h"
#include "base/macros.h"
#include "blk/sync.h"
#include "disk/crc32c.h"
#include "disk/file-mem.h"
#include "disk/vhdx-format.h"
#include "disk/vhdx-log.h"
#include "disk/vhdx.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>

#include <cmocka.h>

#define MAX_BYTES     (64 * MIB)
#define DISK_BYTES    (10 * MIB)
#define LOG_OFFSET    (1 * MIB)
#define LOG_BYTES     (1 * MIB)
#define META_OFFSET   (2 * MIB)
#define ITEMS_OFFSET  (META_OFFSET + 0x10000)
#define BAT_OFFSET    (3 * MIB)
#define FIRST_PAYLOAD (4 * MIB)

/* A disk of 10 blocks of 1 MiB; blocks 0 and 3 are in the file, at 4 and 5 MiB. */
struct fixture {
	struct loop *loop;
	uint8_t *image;
	uint64_t file_bytes;
	struct error err;
	/* makes the operation fail when it reaches 0 */
	long fault_after;
};

static int fault(void *user, const struct file_request *req)
{
	struct fixture *f = user;

	return f->fault_after && --f->fault_after == 0 ? -EIO : 0;
}

static struct file *open_file(struct fixture *f)
{
	const struct file_mem_options options = {
		.max_bytes = MAX_BYTES, .bytes = f->image, .fault = fault, .user = f
	};
	struct file *file;

	assert_int_equal(file_mem_new(f->loop, &options, f->file_bytes, &file), 0);
	return file;
}

/* NULL if it is refused. */
static struct blk *try_open(struct fixture *f, bool read_only)
{
	struct file *file = open_file(f);
	struct blk *disk;

	f->err = (struct error){ 0 };
	if (vhdx_open(file, &(struct disk_options){ .read_only = read_only }, &disk, &f->err) == 0)
		return disk;
	f->file_bytes = file->size_bytes;
	file_abandon(file);
	return NULL;
}

static void write_block(struct blk *disk, unsigned block, uint8_t value)
{
	uint8_t buf[4096];

	memset(buf, value, sizeof(buf));
	assert_int_equal(blk_write_now(disk, block * MIB + 4096, buf, sizeof(buf)), BLK_OK);
}

static uint8_t read_block(struct blk *disk, unsigned block)
{
	uint8_t buf[4096];

	assert_int_equal(blk_read_now(disk, block * MIB + 4096, buf, sizeof(buf)), BLK_OK);
	for (unsigned i = 1; i < sizeof(buf); i++)
		assert_int_equal(buf[i], buf[0]);
	return buf[0];
}

static void close_disk(struct fixture *f, struct blk *disk)
{
	assert_int_equal(blk_close(disk, NULL), 0);
}

static int setup(void **state)
{
	struct disk_create_options options = { .format = DISK_VHDX,
					       .type = DISK_DYNAMIC,
					       .size_bytes = DISK_BYTES,
					       .block_bytes = MIB };
	struct fixture *f = calloc(1, sizeof(*f));
	int fd = memfd_create("vhdx", 0);
	struct blk *disk;

	assert_int_equal(loop_new(&f->loop, NULL), 0);
	assert_int_equal(disk_create(fd, &options, NULL), 0);
	assert_int_equal(disk_open(f->loop, dup(fd), NULL, &disk, NULL), 0);
	write_block(disk, 0, 'a');
	write_block(disk, 3, 'd');
	assert_int_equal(blk_close(disk, NULL), 0);
	f->image = mmap(NULL, MAX_BYTES, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	f->file_bytes = (uint64_t)lseek(fd, 0, SEEK_END);
	assert_int_equal(f->file_bytes, 6 * MIB);
	assert_int_equal(pread(fd, f->image, f->file_bytes, 0), f->file_bytes);
	close(fd);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	munmap(f->image, MAX_BYTES);
	loop_free(f->loop);
	free(f);
	return 0;
}

static void opens(struct fixture *f)
{
	for (int read_only = 0; read_only < 2; read_only++) {
		struct blk *disk = try_open(f, read_only);

		if (!disk)
			fail_msg("%s", f->err.text);
		assert_int_equal(read_block(disk, 0), 'a');
		assert_int_equal(read_block(disk, 3), 'd');
		assert_int_equal(read_block(disk, 1), 0);
		close_disk(f, disk);
	}
}

static void refused(struct fixture *f, enum err_code code)
{
	for (int read_only = 0; read_only < 2; read_only++) {
		assert_null(try_open(f, read_only));
		if (f->err.code != code)
			fail_msg("refused as %s: %s", err_code_name(f->err.code), f->err.text);
	}
	/* one line, that names a place or a thing */
	assert_null(strchr(f->err.text, '\n'));
	assert_true(strlen(f->err.text) > 20);
}

static struct vhdx_header *header(struct fixture *f, unsigned slot)
{
	return (void *)(f->image + VHDX_HEADER_OFFSET(slot));
}

static unsigned current_slot(struct fixture *f)
{
	return header(f, 1)->sequence_number > header(f, 0)->sequence_number;
}

/* ---- headers ---- */

static void test_one_header_is_enough(void **state)
{
	struct fixture *f = *state;

	f->image[VHDX_HEADER_OFFSET(0) + 100] ^= 1;
	opens(f);
	header(f, 0)->reserved[20] ^= 1;
	vhdx_header_seal(header(f, 0));
	f->image[VHDX_HEADER_OFFSET(1) + 4000] ^= 1;
	opens(f);
	f->image[VHDX_HEADER_OFFSET(0)] ^= 1;
	refused(f, ERR_CORRUPT);
}

static void test_equal_sequence_numbers(void **state)
{
	struct fixture *f = *state;

	*header(f, 0) = *header(f, 1);
	opens(f);
	header(f, 0)->file_write_guid.b[3] ^= 1;
	vhdx_header_seal(header(f, 0));
	refused(f, ERR_CORRUPT);
}

static void test_versions(void **state)
{
	struct fixture *f = *state;

	for (unsigned slot = 0; slot < 2; slot++) {
		header(f, slot)->version = 2;
		vhdx_header_seal(header(f, slot));
	}
	refused(f, ERR_CORRUPT);
	f->image[0] = 'x';
	refused(f, ERR_INVALID);
}

static void test_log_place(void **state)
{
	static const struct {
		uint64_t offset;
		uint32_t length;
	} bad[] = { { 0, MIB },           { MIB + 4096, MIB }, { MIB, MIB + 4096 },
		    { META_OFFSET, MIB }, { 6 * MIB, MIB },    { UINT64_MAX - MIB + 1, MIB } };
	struct fixture *f = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		for (unsigned slot = 0; slot < 2; slot++) {
			header(f, slot)->log_offset = bad[i].offset;
			header(f, slot)->log_length = bad[i].length;
			vhdx_header_seal(header(f, slot));
		}
		refused(f, ERR_CORRUPT);
	}
}

/* ---- region tables ---- */

static struct vhdx_region_entry *region(struct fixture *f, unsigned slot, unsigned index)
{
	return (void *)(f->image + VHDX_REGION_TABLE_OFFSET(slot) + 16 + 32 * index);
}

static void seal_regions(struct fixture *f, uint32_t count)
{
	for (unsigned slot = 0; slot < 2; slot++) {
		store_le32(f->image + VHDX_REGION_TABLE_OFFSET(slot) + 8, count);
		vhdx_region_table_seal(f->image + VHDX_REGION_TABLE_OFFSET(slot));
	}
}

static void test_one_region_table_is_enough(void **state)
{
	struct fixture *f = *state;

	f->image[VHDX_REGION_TABLE_OFFSET(0) + 60000] ^= 4;
	opens(f);
	f->image[VHDX_REGION_TABLE_OFFSET(1) + 60000] ^= 4;
	refused(f, ERR_CORRUPT);
}

static void test_unknown_region(void **state)
{
	struct fixture *f = *state;

	f->file_bytes += MIB;
	for (unsigned slot = 0; slot < 2; slot++)
		*region(f, slot, 2) = (struct vhdx_region_entry){ .guid = { { 9 } },
								  .file_offset = 6 * MIB,
								  .length = MIB };
	seal_regions(f, 3);
	memset(f->image + 6 * MIB, 0xEE, MIB);
	opens(f);
	/* its space is left alone */
	struct blk *disk = try_open(f, false);

	write_block(disk, 7, 'h');
	close_disk(f, disk);
	for (unsigned i = 0; i < MIB; i++)
		assert_int_equal(f->image[6 * MIB + i], 0xEE);
	f->file_bytes = 8 * MIB;
	for (unsigned slot = 0; slot < 2; slot++)
		region(f, slot, 2)->flags = VHDX_REGION_REQUIRED;
	seal_regions(f, 3);
	refused(f, ERR_UNSUPPORTED);
}

static void test_region_places(void **state)
{
	static const struct {
		uint64_t offset;
		uint32_t length;
	} bad[] = { { 0, MIB },          { 3 * MIB, 0 },       { 3 * MIB + 512, MIB },
		    { LOG_OFFSET, MIB }, { META_OFFSET, MIB }, { 100 * MIB, MIB },
		    { 3 * MIB, 4096 } };
	struct fixture *f = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		for (unsigned slot = 0; slot < 2; slot++) {
			region(f, slot, 0)->file_offset = bad[i].offset;
			region(f, slot, 0)->length = bad[i].length;
		}
		seal_regions(f, 2);
		refused(f, ERR_CORRUPT);
	}
	seal_regions(f, 0);
	refused(f, ERR_CORRUPT);
	seal_regions(f, 2048);
	refused(f, ERR_CORRUPT);
}

static void test_region_twice(void **state)
{
	struct fixture *f = *state;

	for (unsigned slot = 0; slot < 2; slot++) {
		*region(f, slot, 2) = *region(f, slot, 0);
		region(f, slot, 2)->file_offset = 5 * MIB;
	}
	seal_regions(f, 3);
	refused(f, ERR_CORRUPT);
}

/* ---- metadata ---- */

static struct vhdx_metadata_entry *item(struct fixture *f, unsigned index)
{
	return (void *)(f->image + META_OFFSET + 32 + 32 * index);
}

static void test_metadata_items(void **state)
{
	static const struct guid incomplete = VHDX_ITEM_INCOMPLETE_FILE;
	struct fixture *f = *state;
	uint8_t *count = f->image + META_OFFSET + 10;
	struct vhdx_metadata_entry saved = *item(f, 1);

	/* unknown: kept out of the way, or refused when required */
	store_le16(count, 6);
	*item(f, 5) = (struct vhdx_metadata_entry){ .item_id = { { 7 } } };
	opens(f);
	item(f, 5)->flags = VHDX_METADATA_REQUIRED;
	refused(f, ERR_UNSUPPORTED);
	item(f, 5)->item_id = incomplete;
	refused(f, ERR_CORRUPT);
	/* one twice, one missing, one of the wrong size, one out of place */
	*item(f, 5) = saved;
	refused(f, ERR_CORRUPT);
	store_le16(count, 4);
	refused(f, ERR_CORRUPT);
	store_le16(count, 5);
	item(f, 1)->length = 16;
	refused(f, ERR_CORRUPT);
	*item(f, 1) = saved;
	item(f, 1)->offset = MIB - 4;
	refused(f, ERR_CORRUPT);
	item(f, 1)->offset = 0x100;
	refused(f, ERR_CORRUPT);
	*item(f, 1) = saved;
	store_le16(count, 2048);
	refused(f, ERR_CORRUPT);
	store_le16(count, 5);
	opens(f);
	f->image[META_OFFSET] ^= 1;
	refused(f, ERR_CORRUPT);
}

static void test_geometry(void **state)
{
	static const uint32_t bad_blocks[] = { 0, 512 * 1024, 3 * 1024 * 1024, 512 * 1024 * 1024 };
	static const uint64_t bad_sizes[] = { 0, 1000, (UINT64_C(64) << 40) + 512, UINT64_MAX };
	struct fixture *f = *state;
	uint8_t *items = f->image + ITEMS_OFFSET, saved[64];

	memcpy(saved, items, sizeof(saved));
	for (unsigned i = 0; i < ARRAY_SIZE(bad_blocks); i++) {
		store_le32(items, bad_blocks[i]);
		refused(f, ERR_CORRUPT);
	}
	memcpy(items, saved, sizeof(saved));
	for (unsigned i = 0; i < ARRAY_SIZE(bad_sizes); i++) {
		store_le64(items + 8, bad_sizes[i]);
		refused(f, ERR_CORRUPT);
	}
	memcpy(items, saved, sizeof(saved));
	store_le32(items + 16, 2048);
	refused(f, ERR_CORRUPT);
	memcpy(items, saved, sizeof(saved));
	store_le32(items + 4, VHDX_HAS_PARENT);
	refused(f, ERR_CORRUPT); /* it names none */
	/* a BAT that can't hold so large a disk */
	memcpy(items, saved, sizeof(saved));
	store_le64(items + 8, UINT64_C(1) << 40);
	refused(f, ERR_CORRUPT);
}

/* ---- BAT ---- */

static void set_bat(struct fixture *f, unsigned block, uint64_t entry)
{
	store_le64(f->image + BAT_OFFSET + 8 * block, entry);
}

static void test_bad_bat_entries(void **state)
{
	static const uint64_t bad[] = {
		7 * MIB | (6 | 8),         /* reserved bits */
		0 | 6,                     /* in the headers */
		LOG_OFFSET | 6,            /* in the log */
		BAT_OFFSET | 6,            /* in a region */
		FIRST_PAYLOAD | 6,         /* another block's place */
		6 * MIB | 6,               /* beyond the end */
		~(MIB - 1) | 6,            /* far beyond */
		4,                         /* no such state */
		5,                         /* of a draft */
		(FIRST_PAYLOAD + MIB) | 7, /* partial, without a parent */
	};
	struct fixture *f = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		set_bat(f, 1, bad[i]);
		refused(f, ERR_CORRUPT);
	}
	/* offsets where they mean nothing */
	set_bat(f, 1, 77 * MIB | VHDX_BLOCK_ZERO);
	opens(f);
	set_bat(f, 1, 77 * MIB | VHDX_BLOCK_NOT_PRESENT);
	opens(f);
	set_bat(f, 1, 77 * MIB | VHDX_BLOCK_UNMAPPED);
	opens(f);
}

/* A place that an unmapped block keeps goes to nobody else, and shows no old bytes. */
static void test_kept_place(void **state)
{
	struct fixture *f = *state;
	struct blk *disk;
	uint8_t buf[4096];

	f->file_bytes = 7 * MIB;
	memset(f->image + 6 * MIB, 0xEE, MIB);
	set_bat(f, 1, 6 * MIB | VHDX_BLOCK_UNMAPPED);
	opens(f);
	disk = try_open(f, false);
	write_block(disk, 5, 'f');
	write_block(disk, 1, 'b');
	assert_int_equal(blk_read_now(disk, 1 * MIB + 8192, buf, sizeof(buf)), BLK_OK);
	assert_int_equal(buf[0], 0);
	close_disk(f, disk);
	assert_int_equal(load_le64(f->image + BAT_OFFSET + 8), 6 * MIB | 6);
	assert_int_equal(load_le64(f->image + BAT_OFFSET + 40), 7 * MIB | 6);
	f->file_bytes = 8 * MIB;
	disk = try_open(f, true);
	assert_int_equal(read_block(disk, 1), 'b');
	assert_int_equal(read_block(disk, 5), 'f');
	close_disk(f, disk);
}

static void test_unmap_gives_back(void **state)
{
	struct fixture *f = *state;
	struct blk *disk = try_open(f, false);

	assert_int_equal(blk_run_now(disk, BLK_UNMAP, 0, 0, NULL, MIB), BLK_OK);
	assert_int_equal(read_block(disk, 0), 0);
	assert_int_equal(blk_flush_now(disk), BLK_OK);
	/* once the host has it back (this file completes in order), the hole takes the next block
	 */
	assert_int_equal(read_block(disk, 3), 'd');
	write_block(disk, 8, 'i');
	assert_int_equal(blk_flush_now(disk), BLK_OK);
	assert_int_equal(blk_run_now(disk, BLK_WRITE_ZEROES, BLK_MAY_UNMAP, 3 * MIB, NULL, MIB),
			 BLK_OK);
	close_disk(f, disk);
	assert_int_equal(load_le64(f->image + BAT_OFFSET), VHDX_BLOCK_UNMAPPED);
	assert_int_equal(load_le64(f->image + BAT_OFFSET + 24), VHDX_BLOCK_ZERO);
	assert_int_equal(load_le64(f->image + BAT_OFFSET + 64), FIRST_PAYLOAD | 6);
}

/* ---- GUIDs ---- */

static void test_guids(void **state)
{
	struct fixture *f = *state;
	struct vhdx_header before = *header(f, current_slot(f)), after;
	struct blk *disk = try_open(f, false);

	/* a session without a change leaves no trace */
	read_block(disk, 0);
	assert_int_equal(blk_flush_now(disk), BLK_OK);
	close_disk(f, disk);
	assert_memory_equal(&before, header(f, current_slot(f)), sizeof(before));
	disk = try_open(f, false);
	write_block(disk, 0, 'A');
	close_disk(f, disk);
	after = *header(f, current_slot(f));
	assert_false(guid_equal(&before.file_write_guid, &after.file_write_guid));
	assert_false(guid_equal(&before.data_write_guid, &after.data_write_guid));
	assert_true(after.sequence_number > before.sequence_number);
	/* both slots say the same */
	after.sequence_number = before.sequence_number =
	    header(f, 1 ^ current_slot(f))->sequence_number;
	vhdx_header_seal(&after);
	assert_memory_equal(&after, header(f, 1 ^ current_slot(f)), sizeof(after));
}

/* ---- the log ---- */

static const struct guid log_guid = { { 1, 2, 3, 4 } };

static void use_log(struct fixture *f)
{
	for (unsigned slot = 0; slot < 2; slot++) {
		header(f, slot)->log_guid = log_guid;
		vhdx_header_seal(header(f, slot));
	}
}

/* Writes an entry that sets the BAT's first page so that block 1 is at 5 MiB + n MiB (n 0: absent)
 * and returns where the next one goes. */
static uint32_t put_entry(struct fixture *f, uint32_t at, uint32_t tail, uint64_t sequence,
			  uint64_t block_1, unsigned page_count)
{
	uint64_t *offsets = calloc(MAX(page_count, 1u), sizeof(*offsets));
	uint8_t *pages = calloc(MAX(page_count, 1u), 4096);
	uint32_t len = vhdx_log_entry_bytes(page_count);
	uint8_t *bytes = malloc(len);
	struct vhdx_log_entry entry = { .guid = log_guid,
					.sequence_number = sequence,
					.tail = tail,
					.flushed_file_bytes = 6 * MIB,
					.last_file_bytes = 8 * MIB,
					.page_count = page_count,
					.page_offsets = offsets,
					.pages = pages };

	for (unsigned i = 0; i < page_count; i++) {
		offsets[i] = BAT_OFFSET + i * 4096;
		memcpy(pages + i * 4096, f->image + offsets[i], 4096);
	}
	store_le64(pages + 8, block_1);
	vhdx_log_compose(&entry, bytes);
	for (uint32_t i = 0; i < len; i++)
		f->image[LOG_OFFSET + (at + i) % LOG_BYTES] = bytes[i];
	free(offsets);
	free(pages);
	free(bytes);
	return (uint32_t)((at + len) % LOG_BYTES);
}

/* Opens without and with writing; block 1 must be what the log made of it. */
static void replays_to(struct fixture *f, uint64_t block_1)
{
	uint8_t *copy = malloc(16 * MIB);
	struct guid data_write_guid = header(f, current_slot(f))->data_write_guid;
	struct guid file_write_guid = header(f, current_slot(f))->file_write_guid;
	static const struct guid none;
	uint8_t expected = block_1 ? 'd' : 0;
	struct blk *disk;

	memcpy(copy, f->image, 16 * MIB);
	disk = try_open(f, true);
	if (!disk)
		fail_msg("%s", f->err.text);
	assert_int_equal(read_block(disk, 1), expected);
	close_disk(f, disk);
	assert_memory_equal(copy, f->image, 16 * MIB);
	disk = try_open(f, false);
	assert_int_equal(read_block(disk, 1), expected);
	close_disk(f, disk);
	assert_int_equal(load_le64(f->image + BAT_OFFSET + 8), block_1);
	assert_true(guid_equal(&header(f, current_slot(f))->log_guid, &none));
	assert_true(guid_equal(&header(f, current_slot(f))->data_write_guid, &data_write_guid));
	assert_false(guid_equal(&header(f, current_slot(f))->file_write_guid, &file_write_guid));
	free(copy);
}

/* So that the log has something to point to: 'd' at 6 MiB and 7 MiB, too. */
static void add_places(struct fixture *f)
{
	memset(f->image + 6 * MIB + 4096, 'd', 4096);
	memset(f->image + 7 * MIB + 4096, 'd', 4096);
}

#define PLACE_A (6 * MIB | 6)
#define PLACE_B (7 * MIB | 6)

static void test_log_replay(void **state)
{
	struct fixture *f = *state;
	uint32_t at;

	use_log(f);
	add_places(f);
	at = put_entry(f, 0, 0, 5, 0, 0);
	at = put_entry(f, at, 0, 6, PLACE_A, 1);
	put_entry(f, at, 0, 7, PLACE_B, 1);
	replays_to(f, PLACE_B);
}

static void test_log_torn_entry(void **state)
{
	struct fixture *f = *state;
	uint32_t second, third;

	use_log(f);
	add_places(f);
	second = put_entry(f, 0, 0, 5, PLACE_A, 1);
	third = put_entry(f, second, second, 6, PLACE_B, 1);
	f->image[LOG_OFFSET + third - 1] ^= 1;
	replays_to(f, PLACE_A);
}

static void test_log_wraps(void **state)
{
	struct fixture *f = *state;
	uint32_t start = LOG_BYTES - 4096;

	use_log(f);
	add_places(f);
	put_entry(f, start, start, 9, PLACE_B, 1);
	replays_to(f, PLACE_B);
}

static void test_log_sequence_wraps(void **state)
{
	struct fixture *f = *state;
	uint32_t start = LOG_BYTES - 8192, at;

	use_log(f);
	add_places(f);
	at = put_entry(f, start, start, 9, PLACE_A, 1);
	assert_int_equal(at, 0);
	put_entry(f, at, start, 10, PLACE_B, 1);
	replays_to(f, PLACE_B);
}

/* 126 descriptors fit into the first sector, 127 take a second. */
static void test_log_many_descriptors(void **state)
{
	struct fixture *f = *state;

	use_log(f);
	add_places(f);
	assert_int_equal(vhdx_log_entry_bytes(126), 127 * 4096);
	assert_int_equal(vhdx_log_entry_bytes(127), 129 * 4096);
	put_entry(f, 0, 0, 1, PLACE_A, 126);
	replays_to(f, PLACE_A);
	use_log(f);
	put_entry(f, 0, 0, 1, PLACE_B, 127);
	replays_to(f, PLACE_B);
}

/* Entries of other sessions, with higher numbers, do not count. */
static void test_log_stale_entries(void **state)
{
	struct fixture *f = *state;
	uint32_t at;

	use_log(f);
	add_places(f);
	at = put_entry(f, 0, 0, 5, PLACE_A, 1);
	put_entry(f, at, at, 4, PLACE_B, 1); /* number does not follow */
	put_entry(f, 64 * 1024, 64 * 1024, 3, PLACE_B, 1);
	replays_to(f, PLACE_A);
}

static void test_log_tail_outside(void **state)
{
	struct fixture *f = *state;

	use_log(f);
	add_places(f);
	put_entry(f, 0, 0, 5, PLACE_A, 1);
	/* higher number, but its tail is no entry of its sequence */
	put_entry(f, 64 * 1024, 128 * 1024, 50, PLACE_B, 1);
	replays_to(f, PLACE_A);
}

static void test_log_without_sequence(void **state)
{
	struct fixture *f = *state;

	memset(f->image + LOG_OFFSET, 0, LOG_BYTES);
	use_log(f);
	refused(f, ERR_CORRUPT);
	put_entry(f, 0, 0, 5, PLACE_A, 1);
	f->image[LOG_OFFSET + 32] ^= 1; /* another session's */
	refused(f, ERR_CORRUPT);
}

static void test_log_cut_file(void **state)
{
	struct fixture *f = *state;

	use_log(f);
	put_entry(f, 0, 0, 5, 0, 1);
	f->file_bytes = 6 * MIB - 512;
	refused(f, ERR_CORRUPT);
}

static void test_log_bad_target(void **state)
{
	static const uint64_t bad[] = { 0,         VHDX_HEADER_OFFSET(1), LOG_OFFSET + 8192,
					100 * MIB, BAT_OFFSET + 512,      UINT64_MAX - 4095 };
	struct fixture *f = *state;

	use_log(f);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct vhdx_log_entry_header *h = (void *)(f->image + LOG_OFFSET);

		put_entry(f, 0, 0, 5, 0, 1);
		store_le64(f->image + LOG_OFFSET + 64 + 16, bad[i]);
		h->checksum = 0;
		h->checksum = crc32c(h, h->entry_length);
		refused(f, ERR_CORRUPT);
	}
}

static void test_log_zero_descriptor(void **state)
{
	struct fixture *f = *state;
	struct vhdx_log_entry_header *h = (void *)(f->image + LOG_OFFSET);
	struct vhdx_log_descriptor *d = (void *)(h + 1);

	use_log(f);
	set_bat(f, 1, 99 * MIB | 6); /* what the log wipes out */
	put_entry(f, 0, 0, 5, 0, 0);
	h->descriptor_count = 1;
	*d = (struct vhdx_log_descriptor){ .signature = VHDX_LOG_ZERO_DESC,
					   .leading_bytes = 4096,
					   .file_offset = BAT_OFFSET,
					   .sequence_number = 5 };
	h->checksum = 0;
	h->checksum = crc32c(h, h->entry_length);
	replays_to(f, 0);
}

/* ---- failing host ---- */

/* Each operation fails in turn. What was flushed with success is there afterwards. */
static void work_with_faults(struct fixture *f, bool *flushed, bool *finished)
{
	bool written[10] = { false };
	struct blk *disk = try_open(f, false);
	uint8_t buf[4096];

	*finished = false;
	if (!disk)
		return;
	for (unsigned block = 0; block < 10; block++) {
		memset(buf, 'A' + (int)block, sizeof(buf));
		written[block] =
		    blk_write_now(disk, block * MIB + 4096, buf, sizeof(buf)) == BLK_OK;
		if (block % 3 == 2 && blk_flush_now(disk) == BLK_OK)
			for (unsigned i = 0; i <= block; i++)
				flushed[i] |= written[i];
	}
	blk_run_now(disk, BLK_UNMAP, 0, 9 * MIB, NULL, MIB);
	/* the file's size is what it was when the disk let go of it */
	*finished = blk_close(disk, NULL) == 0;
	f->file_bytes = MAX(f->file_bytes, 40 * MIB);
}

static void test_faults(void **state)
{
	struct fixture *f = *state;
	uint8_t *saved = malloc(6 * MIB);
	bool finished = false, finished_with_fault;
	unsigned n;

	memcpy(saved, f->image, 6 * MIB);
	for (n = 1; n < 400; n++) {
		bool flushed[10] = { false };
		struct blk *disk;

		madvise(f->image, MAX_BYTES, MADV_DONTNEED);
		memcpy(f->image, saved, 6 * MIB);
		f->file_bytes = 6 * MIB;
		f->fault_after = n;
		work_with_faults(f, flushed, &finished_with_fault);
		finished = f->fault_after > 0;
		f->fault_after = 0;
		disk = try_open(f, false);
		if (!disk)
			fail_msg("after fault %u: %s", n, f->err.text);
		for (unsigned block = 0; block < 9; block++)
			if (flushed[block] && read_block(disk, block) != 'A' + (int)block)
				fail_msg("after fault %u: block %u is lost", n, block);
		close_disk(f, disk);
		if (finished)
			break;
	}
	assert_true(finished && finished_with_fault);
	assert_true(n > 30); /* there was something to fail */
	free(saved);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_one_header_is_enough),
		TEST(test_equal_sequence_numbers),
		TEST(test_versions),
		TEST(test_log_place),
		TEST(test_one_region_table_is_enough),
		TEST(test_unknown_region),
		TEST(test_region_places),
		TEST(test_region_twice),
		TEST(test_metadata_items),
		TEST(test_geometry),
		TEST(test_bad_bat_entries),
		TEST(test_kept_place),
		TEST(test_unmap_gives_back),
		TEST(test_guids),
		TEST(test_log_replay),
		TEST(test_log_torn_entry),
		TEST(test_log_wraps),
		TEST(test_log_sequence_wraps),
		TEST(test_log_many_descriptors),
		TEST(test_log_stale_entries),
		TEST(test_log_tail_outside),
		TEST(test_log_without_sequence),
		TEST(test_log_cut_file),
		TEST(test_log_bad_target),
		TEST(test_log_zero_descriptor),
		TEST(test_faults),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
