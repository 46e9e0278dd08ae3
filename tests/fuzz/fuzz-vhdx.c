/*
 * Hostile VHDX files. A valid image is damaged as the input says; the checksums may be made right
 * again, so that what lies behind them is reached. Then the image is opened without and with
 * writing. When it opens, it is worked on, and after it was closed it must open again with the same
 * content.
 *
 * Input: one byte of options, then records: kind of structure (1), offset in it (2), length - 1
 * (1), bytes. Kind 7 is no damage but an operation of the guest.
 */
#include "base/bytes.h"
#include "base/loop.h"
#include "base/macros.h"
#include "blk/sync.h"
#include "disk/blk-pattern.h"
#include "disk/crc32c.h"
#include "disk/file-mem.h"
#include "disk/vhdx-format.h"
#include "disk/vhdx-log.h"
#include "disk/vhdx.h"

#include <stdio.h>
#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_BYTES   (96 * MIB)
#define DISK_BYTES  (12 * MIB)
#define LOG_OFFSET  (1 * MIB)
#define LOG_BYTES   (1 * MIB)
#define META_OFFSET (2 * MIB)
#define BAT_OFFSET  (3 * MIB)
#define LOG_ENTRIES 3

enum option {
	SEAL_HEADERS = 1, /* make the checksums right after the damage */
	SEAL_REGIONS = 2,
	SEAL_LOG = 4,
	WITH_LOG = 8, /* the file was not closed */
	CUT_FILE = 16,
	LARGE_SECTORS = 32,
	DIFFERENCING = 64,
	MAINTAIN = 128,
};

static struct loop *loop;
static uint8_t *memory;

/* An image without its zeros; [1] has sectors of 4096 bytes, [2] a parent. */
static struct base {
	uint64_t file_bytes;
	unsigned page_count;
	uint64_t page_offset[64];
	uint8_t page[64][4096];
} bases[3];

static void die(const char *what)
{
	fprintf(stderr, "fuzz-vhdx: %s\n", what);
	abort();
}

static uint64_t parent_value(uint64_t offset)
{
	return ~offset;
}

static struct disk_options open_options(unsigned kind, bool read_only)
{
	return (struct disk_options){
		.read_only = read_only,
		.parent = kind == 2 ? blk_pattern_new(loop, DISK_BYTES, 512, parent_value) : NULL
	};
}

/* False if it is refused: then the file is given back. */
static bool try_open(struct file *file, unsigned kind, bool read_only, struct blk **ret,
		     struct error *err)
{
	struct disk_options options = open_options(kind, read_only);

	if (vhdx_open(file, &options, ret, err) == 0)
		return true;
	blk_close(options.parent, NULL);
	file_abandon(file);
	return false;
}

static void keep_pages(struct base *base, int fd)
{
	static const uint8_t zeros[4096];
	uint8_t page[4096];

	base->file_bytes = (uint64_t)lseek(fd, 0, SEEK_END);
	for (uint64_t at = 0; at < base->file_bytes; at += sizeof(page)) {
		if (pread(fd, page, sizeof(page), (off_t)at) != sizeof(page))
			die("no base image");
		if (memcmp(page, zeros, sizeof(page)) == 0)
			continue;
		if (base->page_count == ARRAY_SIZE(base->page))
			die("the base image is too large");
		base->page_offset[base->page_count] = at;
		memcpy(base->page[base->page_count++], page, sizeof(page));
	}
}

/* A disk with some blocks in use. */
static void make_base(unsigned kind)
{
	struct disk_details parent = { .format = DISK_VHDX,
				       .size_bytes = DISK_BYTES,
				       .logical_sector_bytes = 512,
				       .physical_sector_bytes = 512,
				       .link_id = { { 1 } } };
	struct disk_create_options options = { .format = DISK_VHDX,
					       .type = kind == 2 ? DISK_DIFFERENCING : DISK_DYNAMIC,
					       .size_bytes = DISK_BYTES,
					       .block_bytes = MIB,
					       .logical_sector_bytes = kind == 1 ? 4096 : 512,
					       .parent = &parent,
					       .parent_relative = ".\\parent.vhdx",
					       .parent_absolute = "C:\\parent.vhdx" };
	struct disk_options how = open_options(kind, false);
	int fd = memfd_create("vhdx", 0);
	uint8_t buf[4096];
	struct blk *disk;

	if (disk_create(fd, &options, NULL) < 0 || disk_open(loop, dup(fd), &how, &disk, NULL) < 0)
		die("no base image");
	for (unsigned block = 0; block < 5; block += 2) {
		memset(buf, 0x11 * (int)(block + 1), sizeof(buf));
		blk_write_now(disk, block * MIB + 8192, buf, sizeof(buf));
	}
	blk_close(disk, NULL);
	keep_pages(&bases[kind], fd);
	close(fd);
}

/* One piece of memory for all runs. */
static struct file *open_memory(uint64_t size_bytes)
{
	const struct file_mem_options options = { .max_bytes = MAX_BYTES, .bytes = memory };
	struct file *file;

	if (file_mem_new(loop, &options, size_bytes, &file) < 0)
		die("no memory");
	return file;
}

static struct file *new_file(unsigned kind)
{
	const struct base *base = &bases[kind];

	madvise(memory, MAX_BYTES, MADV_DONTNEED);
	for (unsigned i = 0; i < base->page_count; i++)
		memcpy(memory + base->page_offset[i], base->page[i], 4096);
	return open_memory(base->file_bytes);
}

/* Three entries that update BAT pages and the metadata, after each other in the log. */
static void put_log(uint8_t *image)
{
	static const uint64_t targets[] = { BAT_OFFSET, META_OFFSET + 65536 };
	struct guid guid = { { 1, 2, 3 } };
	uint8_t pages[2 * 4096];
	uint32_t at = 0;

	memcpy(pages, image + BAT_OFFSET, 4096);
	memcpy(pages + 4096, image + META_OFFSET + 65536, 4096);
	for (unsigned i = 0; i < LOG_ENTRIES; i++) {
		struct vhdx_log_entry entry = { .guid = guid,
						.sequence_number = i + 1,
						.tail = 0,
						.flushed_file_bytes = 4 * MIB,
						.last_file_bytes = 8 * MIB,
						.page_count = i,
						.page_offsets = targets,
						.pages = pages };

		vhdx_log_compose(&entry, image + LOG_OFFSET + at);
		at += vhdx_log_entry_bytes(i);
	}
	for (unsigned slot = 0; slot < 2; slot++) {
		struct vhdx_header *header = (void *)(image + VHDX_HEADER_OFFSET(slot));

		header->log_guid = guid;
		vhdx_header_seal(header);
	}
}

/* Checksums of whatever looks like a log entry in the first sectors. */
static void seal_log(uint8_t *image)
{
	for (uint64_t at = LOG_OFFSET; at < LOG_OFFSET + 16 * 4096; at += 4096) {
		struct vhdx_log_entry_header *header = (void *)(image + at);
		uint32_t len = le32toh(header->entry_length);

		if (le32toh(header->signature) != VHDX_LOG_ENTRY_SIGNATURE ||
		    !RANGE_OK(at - LOG_OFFSET, (uint64_t)len, LOG_BYTES))
			continue;
		header->checksum = 0;
		header->checksum = htole32(crc32c(header, len));
	}
}

static void damage(uint8_t *image, const uint8_t *record, const uint8_t *bytes, size_t len)
{
	static const struct {
		uint64_t offset, length;
	} place[8] = {
		{ VHDX_HEADER_OFFSET(0), 4096 },
		{ VHDX_HEADER_OFFSET(1), 4096 },
		{ VHDX_REGION_TABLE_OFFSET(0), 65536 },
		{ VHDX_REGION_TABLE_OFFSET(1), 65536 },
		{ META_OFFSET, 2 * 65536 },
		{ BAT_OFFSET, 65536 }, /* the bitmap's entry is the 4096th */
		{ LOG_OFFSET, 65536 },
	};
	unsigned kind = record[0] % 8;
	uint64_t offset = load_le16(record + 1);

	/* of the metadata, the items are as interesting as the table */
	if (kind == 4 && (record[0] & 0x80))
		offset += 65536;
	for (size_t i = 0; i < len && place[kind].length; i++)
		image[place[kind].offset + (offset + i) % place[kind].length] = bytes[i];
}

static void apply_input(struct file *file, const uint8_t *data, size_t size)
{
	uint8_t *image = file_mem_bytes(file), options = data[0];

	if (options & WITH_LOG)
		put_log(image);
	for (size_t at = 1; size - at > 4;) {
		size_t len = MIN((size_t)data[at + 3] + 1, size - at - 4);

		damage(image, data + at, data + at + 4, len);
		at += 4 + len;
	}
	for (unsigned slot = 0; slot < 2; slot++) {
		if (options & SEAL_HEADERS)
			vhdx_header_seal((void *)(image + VHDX_HEADER_OFFSET(slot)));
		if (options & SEAL_REGIONS)
			vhdx_region_table_seal(image + VHDX_REGION_TABLE_OFFSET(slot));
	}
	if (options & SEAL_LOG)
		seal_log(image);
	if ((options & CUT_FILE) && size > 2)
		file->size_bytes = (uint64_t)data[1] * 65536;
}

/* CRC of what can be read of the start of the first blocks. */
static uint32_t content_of(struct blk *disk)
{
	static uint8_t buf[64 * KIB];
	uint64_t size = MIN(blk_info(disk)->size_bytes, 16 * MIB);
	uint32_t crc = CRC32C_START;

	for (uint64_t at = 0; at < size; at += MIB) {
		size_t len = MIN(sizeof(buf), size - at);

		memset(buf, 0, len);
		if (blk_read_now(disk, at, buf, len) != BLK_OK)
			return 0;
		crc = crc32c_update(crc, buf, len);
	}
	return crc32c_finish(crc);
}

static void operate(struct blk *disk, const uint8_t *record)
{
	const struct blk_info *info = blk_info(disk);
	static uint8_t buf[256 * KIB];
	enum blk_op op = (enum blk_op)(record[0] / 8 % BLK_OP_COUNT);
	uint64_t sectors = info->size_bytes / info->logical_sector_bytes;
	uint64_t start = (uint64_t)load_le16(record + 1) * 16 % sectors;
	uint64_t length =
	    MIN(MIN((uint64_t)record[3] + 1, sectors - start) * info->logical_sector_bytes,
		sizeof(buf));

	if (op >= BLK_UNMAP)
		length = MIN(4 * MIB, (sectors - start) * info->logical_sector_bytes);
	memset(buf, record[4], sizeof(buf));
	if (op == BLK_FLUSH)
		blk_flush_now(disk);
	else
		blk_run_now(disk, op, BLK_MAY_UNMAP | (record[0] & BLK_FUA),
			    start * info->logical_sector_bytes, buf, length);
}

static void operate_all(struct blk *disk, const uint8_t *data, size_t size)
{
	for (size_t at = 1; size - at > 4;) {
		size_t len = MIN((size_t)data[at + 3] + 1, size - at - 4);

		if (data[at] % 8 == 7)
			operate(disk, data + at);
		at += 4 + len;
	}
}

static void open_for_reading(struct file *file, unsigned kind)
{
	struct error err = { 0 };
	struct blk *disk;

	if (!try_open(file, kind, true, &disk, &err)) {
		if (!err.text[0] || err.code == ERR_OK)
			die("refused without a reason");
		return;
	}
	content_of(disk);
	blk_close(disk, NULL);
}

static void open_for_writing(struct file *file, unsigned kind, const uint8_t *data, size_t size)
{
	struct blk *disk, *again;
	struct error err;
	uint32_t content;

	if (!try_open(file, kind, false, &disk, &err))
		return;
	operate_all(disk, data, size);
	content = content_of(disk);
	/* what is on disk after a flush is what a cut would leave */
	if (blk_flush_now(disk) == BLK_OK && file->size_bytes <= MAX_BYTES) {
		blk_drain(disk);
		if (!try_open(open_memory(file->size_bytes), kind, true, &again, &err)) {
			fprintf(stderr, "%s\n", err.text);
			die("does not open again");
		}
		if (content_of(again) != content)
			die("content changed");
		blk_close(again, NULL);
	}
	blk_close(disk, NULL);
}

/* Check, repair and compaction change no content of what opens. */
static void maintain(struct file *file, unsigned kind)
{
	const struct disk_check_options repair = { .repair = true };
	struct disk_details details;
	enum disk_severity worst;
	uint32_t content = 0;
	struct blk *disk;
	bool opens;

	opens = try_open(open_memory(file->size_bytes), kind, true, &disk, NULL);
	if (opens) {
		content = content_of(disk);
		blk_close(disk, NULL);
	}
	if (vhdx_describe(file, &details, NULL) == 0)
		disk_details_done(&details);
	vhdx_check(file, &repair, &worst, NULL);
	vhdx_compact(file, DISK_COMPACT_FULL, NULL, NULL);
	if (!try_open(file, kind, true, &disk, NULL)) {
		if (opens)
			die("maintenance broke the disk");
		return;
	}
	if (opens && content_of(disk) != content)
		die("maintenance changed the content");
	blk_close(disk, NULL);
}

static struct file *damaged_file(unsigned kind, const uint8_t *data, size_t size)
{
	struct file *file = new_file(kind);

	apply_input(file, data, size);
	return file;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned kind;

	if (size < 1)
		return 0;
	if (!loop) {
		if (loop_new(&loop, NULL) < 0)
			die("no loop");
		memory = mmap(NULL, MAX_BYTES, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (memory == MAP_FAILED)
			die("no memory");
		for (unsigned i = 0; i < ARRAY_SIZE(bases); i++)
			make_base(i);
	}
	kind = data[0] & DIFFERENCING ? 2 : data[0] & LARGE_SECTORS ? 1 : 0;
	open_for_reading(damaged_file(kind, data, size), kind);
	open_for_writing(damaged_file(kind, data, size), kind, data, size);
	if (data[0] & MAINTAIN)
		maintain(damaged_file(kind, data, size), kind);
	loop_step(loop, 0);
	return 0;
}
