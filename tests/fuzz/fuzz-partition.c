/*
 * Hostile partition tables. Input: one byte of options, then what stands at the start of the disk.
 * The checksums of a GPT's first copy may be made right, so that what lies behind them is reached.
 */
#include "base/bytes.h"
#include "base/loop.h"
#include "base/macros.h"
#include "blk/sync.h"
#include "disk/file-mem.h"
#include "disk/maintain.h"
#include "disk/raw.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DISK_BYTES (256 * KIB)

static struct loop *loop;
static uint8_t memory[2 * DISK_BYTES] __attribute__((aligned(4096)));

static uint32_t crc32(const uint8_t *p, size_t len)
{
	uint32_t crc = UINT32_MAX;

	while (len--) {
		crc ^= *p++;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
	}
	return ~crc;
}

static void seal(uint8_t *header)
{
	uint32_t count = load_le32(header + 80), bytes = load_le32(header + 84);
	uint64_t entries = load_le64(header + 72), table = (uint64_t)count * bytes;
	uint32_t len = load_le32(header + 12);

	if (entries < DISK_BYTES / 512 && table < DISK_BYTES - entries * 512)
		store_le32(header + 88, crc32(memory + entries * 512, table));
	store_le32(header + 16, 0);
	if (len <= 512)
		store_le32(header + 16, crc32(header, len));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct file_mem_options options = { .max_bytes = sizeof(memory), .bytes = memory };
	const struct disk_options raw = { .format = DISK_RAW };
	uint64_t minimum = 0, again = 0;
	struct file *file;
	struct blk *disk;

	if (size < 1 || (!loop && loop_new(&loop, NULL) < 0))
		return 0;
	memset(memory, 0, sizeof(memory));
	memcpy(memory, data + 1, MIN(size - 1, DISK_BYTES));
	if (data[0] & 1)
		seal(memory + 512);
	if (file_mem_new(loop, &options, DISK_BYTES, &file) < 0 ||
	    raw_open(file, &raw, &disk, NULL) < 0)
		abort();
	/* A table that is moved to where it fits needs no more room than before. */
	if (disk_minimum_bytes(disk, &minimum, NULL) == 0 && minimum <= DISK_BYTES &&
	    disk_move_gpt(disk, minimum, NULL) == 0 &&
	    (disk_minimum_bytes(disk, &again, NULL) < 0 || again != minimum))
		abort();
	disk_move_gpt(disk, DISK_BYTES, NULL);
	blk_close(disk, NULL);
	loop_step(loop, 0);
	return 0;
}
