/*
 * Hostile VHD files. A valid image is damaged as the input says; the checksums may be made right
 * again, so that what lies behind them is reached. Then the image is described, opened without and
 * with writing, worked on, checked, repaired and changed offline. After it was closed it must open
 * again with the same content.
 *
 * Input: one byte: kind of image (2 bits), options; then records: kind of structure (1), offset in
 * it (2), length - 1 (1), bytes. Kind 7 is no damage but an operation of the guest.
 */
#include "base/bytes.h"
#include "base/loop.h"
#include "base/macros.h"
#include "blk/sync.h"
#include "disk/blk-pattern.h"
#include "disk/crc32c.h"
#include "disk/file-mem.h"
#include "disk/vhd-format.h"
#include "disk/vhd.h"

#include <stdio.h>
#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_BYTES  (48 * MIB)
#define DISK_BYTES (3 * MIB + 512)
#define PAGE       4096u

enum option { SEAL = 4, CUT_FILE = 8, OFFLINE = 16 };

static struct loop *loop;
static uint8_t *memory;

static struct base {
	enum disk_type type;
	uint64_t file_bytes;
	uint8_t *bytes;
	uint64_t table_offset;
	bool page_used[4 * MIB / PAGE]; /* it isn't all zeros */
} bases[3] = { { DISK_DYNAMIC }, { DISK_DIFFERENCING }, { DISK_FIXED } };

static void die(const char *what)
{
	fprintf(stderr, "fuzz-vhd: %s\n", what);
	abort();
}

static uint64_t parent_value(uint64_t offset)
{
	return offset | 1;
}

static struct blk *new_parent(const struct base *base)
{
	return base->type == DISK_DIFFERENCING
		   ? blk_pattern_new(loop, DISK_BYTES, 512, parent_value)
		   : NULL;
}

/* A disk with some blocks in use. */
static void make_base(struct base *base)
{
	struct disk_details parent = { .format = DISK_VHD,
				       .size_bytes = DISK_BYTES,
				       .link_id = { { 1 } } };
	struct disk_create_options options = { .format = DISK_VHD,
					       .type = base->type,
					       .size_bytes = DISK_BYTES,
					       .block_bytes = 512 * KIB,
					       .parent = &parent,
					       .parent_absolute = "C:\\parent.vhd",
					       .parent_relative = ".\\parent.vhd" };
	int fd = memfd_create("vhd", 0);
	uint8_t buf[4096];
	struct blk *disk;

	if (base->type == DISK_FIXED)
		options.block_bytes = 0;
	if (disk_create(fd, &options, NULL) < 0 ||
	    disk_open(loop, dup(fd), &(struct disk_options){ .parent = new_parent(base) }, &disk,
		      NULL) < 0)
		die("no base image");
	for (unsigned block = 0; block < 5; block += 2) {
		memset(buf, 0x11 * (int)(block + 1), sizeof(buf));
		blk_write_now(disk, block * 512 * KIB + 8192, buf, sizeof(buf));
	}
	blk_close(disk, NULL);
	base->file_bytes = (uint64_t)lseek(fd, 0, SEEK_END);
	base->bytes = malloc(base->file_bytes);
	if (pread(fd, base->bytes, base->file_bytes, 0) != (ssize_t)base->file_bytes)
		die("no base image");
	for (uint64_t at = 0; at < base->file_bytes; at++)
		base->page_used[at / PAGE] |= base->bytes[at] != 0;
	if (base->type != DISK_FIXED)
		base->table_offset = load_be64(base->bytes + 512 + 16);
	close(fd);
}

static struct file *open_memory(uint64_t size_bytes)
{
	const struct file_mem_options options = { .max_bytes = MAX_BYTES, .bytes = memory };
	struct file *file;

	if (file_mem_new(loop, &options, size_bytes, &file) < 0)
		die("no memory");
	return file;
}

/* Where a kind of structure begins. */
static uint64_t place_of(const struct base *base, unsigned kind)
{
	const uint64_t places[] = {
		base->file_bytes - 512,   0,   512, 512 + 576, base->table_offset,
		base->table_offset + 512, 4096
	};

	return places[kind];
}

static void damage(const struct base *base, const uint8_t *record, size_t len)
{
	uint64_t at = place_of(base, record[0] % 8) + load_le16(record + 1) % 1024;

	if (at + len <= base->file_bytes)
		memcpy(memory + at, record + 4, len);
}

static void seal(const struct base *base)
{
	vhd_footer_seal((struct vhd_footer *)(memory + base->file_bytes - 512));
	if (base->type == DISK_FIXED)
		return;
	vhd_footer_seal((struct vhd_footer *)memory);
	vhd_header_seal((struct vhd_header *)(memory + 512));
}

static struct file *new_file(const struct base *base, const uint8_t *data, size_t size)
{
	uint64_t file_bytes = base->file_bytes;

	madvise(memory, MAX_BYTES, MADV_DONTNEED);
	for (uint64_t at = 0; at < base->file_bytes; at += PAGE)
		if (base->page_used[at / PAGE])
			memcpy(memory + at, base->bytes + at,
			       MIN(base->file_bytes - at, (uint64_t)PAGE));
	for (size_t at = 1; size - at > 4;) {
		size_t len = MIN((size_t)data[at + 3] + 1, size - at - 4);

		if (data[at] % 8 != 7)
			damage(base, data + at, len);
		at += 4 + len;
	}
	if (data[0] & SEAL)
		seal(base);
	if ((data[0] & CUT_FILE) && size > 3)
		file_bytes -= MIN(file_bytes, (uint64_t)load_le16(data + 1) * 16);
	return open_memory(file_bytes);
}

/* A CRC over some of it, in a reasonable time. */
static uint32_t content_of(struct blk *disk)
{
	static uint8_t buf[4 * KIB];
	uint64_t size = MIN(blk_info(disk)->size_bytes, 8 * MIB);
	uint32_t crc = CRC32C_START;

	for (uint64_t at = 0; at < size; at += 24 * KIB) {
		size_t len = MIN(sizeof(buf), size - at);

		if (blk_read_now(disk, at, buf, len) != BLK_OK)
			return 0;
		crc = crc32c_update(crc, buf, len);
	}
	return crc32c_finish(crc);
}

static void operate(struct blk *disk, const uint8_t *record)
{
	static uint8_t buf[128 * KIB];
	enum blk_op op = (enum blk_op)(record[0] / 8 % BLK_OP_COUNT);
	uint64_t sectors = blk_info(disk)->size_bytes / 512;
	uint64_t start = (uint64_t)load_le16(record + 1) * 16 % sectors;
	uint64_t length = MIN((uint64_t)record[3] + 1, sectors - start) * 512;

	if (op >= BLK_UNMAP)
		length = MIN(MIB, (sectors - start) * 512);
	memset(buf, record[4], sizeof(buf));
	if (op == BLK_FLUSH)
		blk_flush_now(disk);
	else
		blk_run_now(disk, op, BLK_MAY_UNMAP | (record[0] & BLK_FUA), start * 512, buf,
			    length);
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

static bool try_open(const struct base *base, struct file *file, bool read_only, struct blk **ret)
{
	struct error err = { 0 };
	struct disk_options options = { .read_only = read_only, .parent = new_parent(base) };

	if (vhd_open(file, &options, ret, &err) == 0)
		return true;
	if (!err.text[0] || err.code == ERR_OK)
		die("refused without a reason");
	blk_close(options.parent, NULL);
	return false;
}

static void use(const struct base *base, struct file *file, const uint8_t *data, size_t size)
{
	struct blk *disk, *again;
	struct file *copy;
	uint32_t content;

	if (!try_open(base, file, false, &disk)) {
		file_abandon(file);
		return;
	}
	operate_all(disk, data, size);
	content = content_of(disk);
	/* what is on disk after a flush is what a cut would leave */
	if (blk_flush_now(disk) == BLK_OK) {
		blk_drain(disk);
		copy = open_memory(file->size_bytes);
		if (!try_open(base, copy, true, &again))
			die("does not open again");
		if (content_of(again) != content)
			die("content changed");
		blk_close(again, NULL);
	}
	blk_close(disk, NULL);
}

static void change_offline(const struct base *base, struct file *file)
{
	struct disk_check_options check = { .repair = true };
	struct disk_details details = { .link_id = { { 3 } } };
	struct disk_parent_link link = { .parent = &details, .relative = ".\\other.vhd" };
	enum disk_severity worst;
	struct error err = { 0 };
	struct blk *disk;

	vhd_check(file, &check, &worst, &err);
	vhd_resize(file, 5 * MIB, NULL, &err);
	vhd_set_parent(file, &link, &err);
	vhd_compact(file, DISK_COMPACT_FULL, NULL, &err);
	if (try_open(base, file, true, &disk)) {
		content_of(disk);
		blk_close(disk, NULL);
	} else {
		file_abandon(file);
	}
}

static void describe(struct file *file)
{
	struct disk_details details;
	struct error err;

	if (vhd_describe(file, &details, &err) == 0)
		disk_details_done(&details);
	file_abandon(file);
}

static void set_up(void)
{
	if (loop_new(&loop, NULL) < 0)
		die("no loop");
	memory = mmap(NULL, MAX_BYTES, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		die("no memory");
	for (size_t i = 0; i < ARRAY_SIZE(bases); i++)
		make_base(&bases[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct base *base;

	if (size < 1)
		return 0;
	if (!loop)
		set_up();
	base = &bases[data[0] % 4 % ARRAY_SIZE(bases)];
	describe(new_file(base, data, size));
	if (data[0] & OFFLINE)
		change_offline(base, new_file(base, data, size));
	else
		use(base, new_file(base, data, size), data, size);
	return 0;
}
