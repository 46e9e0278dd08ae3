/* What a partition table says of the room that a disk needs, and the move of a GPT's second copy.
 * (The fuzz target has the damaged ones.) */
#include "base/bytes.h"
#include "base/loop.h"
#include "base/macros.h"
#include "blk/sync.h"
#include "disk/file-mem.h"
#include "disk/maintain.h"
#include "disk/raw.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define DISK_BYTES (8 * MIB)
#define ENTRIES    128u
#define ENTRY      128u

struct fixture {
	struct loop *loop;
	struct blk *disk;
	uint32_t sector;
	uint64_t sectors;
};

static void open_disk(struct fixture *f, uint32_t sector)
{
	const struct file_mem_options memory = { .max_bytes = DISK_BYTES };
	const struct disk_options options = { .logical_sector_bytes = sector,
					      .physical_sector_bytes = 4096 };
	struct file *file;

	assert_int_equal(loop_new(&f->loop, NULL), 0);
	assert_int_equal(file_mem_new(f->loop, &memory, DISK_BYTES, &file), 0);
	assert_int_equal(raw_open(file, &options, &f->disk, NULL), 0);
	f->sector = sector;
	f->sectors = DISK_BYTES / sector;
}

static void close_disk(struct fixture *f)
{
	assert_int_equal(blk_close(f->disk, NULL), 0);
	loop_free(f->loop);
}

static void put(struct fixture *f, uint64_t lba, const void *data, size_t len)
{
	assert_int_equal(blk_write_now(f->disk, lba * f->sector, data, len), BLK_OK);
}

static void get(struct fixture *f, uint64_t lba, void *ret, size_t len)
{
	assert_int_equal(blk_read_now(f->disk, lba * f->sector, ret, len), BLK_OK);
}

static uint32_t crc32_of(const uint8_t *data, size_t len)
{
	uint32_t crc = UINT32_MAX;

	for (size_t i = 0; i < len; i++) {
		crc ^= data[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
	}
	return ~crc;
}

static void put_mbr(struct fixture *f, uint8_t type, uint32_t start, uint32_t count)
{
	uint8_t sector[4096] = { 0 };

	sector[446 + 4] = type;
	store_le32(sector + 446 + 8, start);
	store_le32(sector + 446 + 12, count);
	sector[510] = 0x55;
	sector[511] = 0xaa;
	put(f, 0, sector, f->sector);
}

static void put_gpt_header(struct fixture *f, uint64_t mine, uint64_t other, uint64_t entries_lba,
			   const uint8_t *entries)
{
	uint8_t header[4096] = { 0 };

	memcpy(header, "EFI PART", 8);
	store_le32(header + 8, 0x10000);
	store_le32(header + 12, 92);
	store_le64(header + 24, mine);
	store_le64(header + 32, other);
	store_le64(header + 72, entries_lba);
	store_le32(header + 80, ENTRIES);
	store_le32(header + 84, ENTRY);
	store_le32(header + 88, crc32_of(entries, ENTRIES * ENTRY));
	store_le32(header + 16, crc32_of(header, 92));
	put(f, mine, header, f->sector);
}

/* One partition, [first, last]. */
static void put_gpt(struct fixture *f, uint64_t first, uint64_t last)
{
	uint8_t entries[ENTRIES * ENTRY] = { 0 };
	uint64_t span = sizeof(entries) / f->sector;

	memset(entries, 7, 32);
	store_le64(entries + 32, first);
	store_le64(entries + 40, last);
	put_mbr(f, 0xee, 1, (uint32_t)f->sectors - 1);
	put(f, 2, entries, sizeof(entries));
	put(f, f->sectors - 1 - span, entries, sizeof(entries));
	put_gpt_header(f, 1, f->sectors - 1, 2, entries);
	put_gpt_header(f, f->sectors - 1, 1, f->sectors - 1 - span, entries);
}

/* A valid header at `mine` that names `other`, with valid entries. */
static void check_copy(struct fixture *f, uint64_t mine, uint64_t other)
{
	uint8_t header[4096], entries[ENTRIES * ENTRY];
	uint32_t crc;

	get(f, mine, header, f->sector);
	assert_memory_equal(header, "EFI PART", 8);
	assert_int_equal(load_le64(header + 24), mine);
	assert_int_equal(load_le64(header + 32), other);
	crc = load_le32(header + 16);
	store_le32(header + 16, 0);
	assert_int_equal(crc32_of(header, 92), crc);
	get(f, load_le64(header + 72), entries, sizeof(entries));
	assert_int_equal(crc32_of(entries, sizeof(entries)), load_le32(header + 88));
}

static void test_minimum_by_mbr(void **state)
{
	struct fixture f;
	struct error err;
	uint64_t bytes;

	open_disk(&f, 512);
	assert_int_equal(disk_minimum_bytes(f.disk, &bytes, &err), -ERR_UNSUPPORTED);
	put_mbr(&f, 0x83, 2048, 4096);
	assert_int_equal(disk_minimum_bytes(f.disk, &bytes, &err), 0);
	assert_int_equal(bytes, 6144 * 512);
	/* what no disk has is no partition table, but a boot sector */
	put_mbr(&f, 0x83, 2048, (uint32_t)f.sectors);
	assert_int_equal(disk_minimum_bytes(f.disk, &bytes, &err), -ERR_UNSUPPORTED);
	close_disk(&f);
}

static void minimum_and_move(uint32_t sector)
{
	uint64_t last = 2 * MIB / sector - 1, bytes, backup;
	uint64_t spare = ENTRIES * ENTRY / sector + 1;
	uint8_t zero[4096] = { 0 };
	struct fixture f;
	struct error err;

	open_disk(&f, sector);
	put_gpt(&f, MIB / sector, last);
	assert_int_equal(disk_minimum_bytes(f.disk, &bytes, &err), 0);
	assert_int_equal(bytes, (last + 1 + spare) * sector);
	/* too small for what is there: left alone */
	assert_int_equal(disk_move_gpt(f.disk, bytes - sector, &err), 0);
	check_copy(&f, 1, f.sectors - 1);
	assert_int_equal(disk_move_gpt(f.disk, bytes, &err), 0);
	backup = bytes / sector - 1;
	check_copy(&f, 1, backup);
	check_copy(&f, backup, 1);
	/* by the second copy alone, where that is at the disk's end */
	put_gpt(&f, MIB / sector, last);
	put(&f, 1, zero, sector);
	assert_int_equal(disk_minimum_bytes(f.disk, &bytes, &err), 0);
	assert_int_equal(bytes, (last + 1 + spare) * sector);
	/* a damaged first copy is the guest's to judge */
	assert_int_equal(disk_move_gpt(f.disk, bytes, &err), 0);
	get(&f, 1, zero, sector);
	assert_int_equal(zero[0], 0);
	/* and without either nothing is known */
	memset(zero, 0, sizeof(zero));
	put(&f, f.sectors - 1, zero, sector);
	assert_int_equal(disk_minimum_bytes(f.disk, &bytes, &err), -ERR_CORRUPT);
	close_disk(&f);
}

static void test_gpt(void **state)
{
	minimum_and_move(512);
	minimum_and_move(4096);
}

static void test_gpt_beyond_the_end(void **state)
{
	struct fixture f;
	struct error err;
	uint64_t bytes;

	open_disk(&f, 512);
	put_gpt(&f, 2048, f.sectors);
	assert_int_equal(disk_minimum_bytes(f.disk, &bytes, &err), -ERR_CORRUPT);
	assert_int_equal(disk_move_gpt(f.disk, DISK_BYTES / 2, &err), -ERR_CORRUPT);
	close_disk(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_minimum_by_mbr),
		cmocka_unit_test(test_gpt),
		cmocka_unit_test(test_gpt_beyond_the_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
