/*
 * What a disk's partition table says of the room it needs, and the move of a GPT's second copy when
 * the disk's end moves. The table is the guest's: hostile. MBR as everybody writes it; GPT by the
 * UEFI specification, 5.3. Sector numbers (LBA) count logical sectors.
 */
#include "disk/maintain.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "blk/sync.h"

#include <errno.h>
#include <stdlib.h>

#define SECTOR_MAX 4096u

#define MBR_ENTRIES       446u
#define MBR_ENTRY_BYTES   16u
#define MBR_TYPE_GPT      0xeeu
#define GPT_MAX_ENTRIES   (1 * MIB) /* bytes; usual are 16 KiB */
#define GPT_HEADER_BYTES  92u
#define GPT_ENTRY_MINIMUM 128u

/* Offsets in a GPT header. */
enum gpt_field {
	GPT_HEADER_SIZE = 12,
	GPT_HEADER_CRC = 16,
	GPT_MY_LBA = 24,
	GPT_ALTERNATE_LBA = 32,
	GPT_FIRST_USABLE = 40,
	GPT_LAST_USABLE = 48,
	GPT_ENTRIES_LBA = 72,
	GPT_ENTRY_COUNT = 80,
	GPT_ENTRY_BYTES = 84,
	GPT_ENTRIES_CRC = 88,
};

struct gpt {
	uint8_t header[SECTOR_MAX];
	uint64_t lba; /* of the header */
	uint8_t *entries;
	uint64_t entries_bytes; /* whole sectors */
	uint32_t entry_bytes, entry_count;
};

/* CRC-32 of IEEE 802.3, which the engine needs nowhere else. */
static uint32_t crc32(const uint8_t *data, size_t len)
{
	uint32_t crc = UINT32_MAX;

	while (len--) {
		crc ^= *data++;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
	}
	return ~crc;
}

static uint32_t sector_bytes(const struct blk *disk)
{
	return blk_info(disk)->logical_sector_bytes;
}

static uint64_t sector_count(const struct blk *disk)
{
	return blk_info(disk)->size_bytes / sector_bytes(disk);
}

static int read_sectors(struct blk *disk, uint64_t lba, void *ret, size_t len, struct error *err)
{
	enum blk_result result = blk_read_now(disk, lba * sector_bytes(disk), ret, len);

	return result == BLK_OK
		   ? 0
		   : error_set(err, ERR_IO, "reading the partition table at sector %lu failed (%s)",
			       lba, blk_result_name(result));
}

/* ---- MBR ---- */

enum mbr { MBR_NONE, MBR_PARTITIONS, MBR_GPT };

/* The sector behind the last partition in *ret_end. A boot sector of a file system looks like an
 * MBR at a glance; its entries don't. */
static enum mbr read_mbr(const struct blk *disk, const uint8_t *sector, uint64_t *ret_end)
{
	uint64_t end = 0;

	if (sector[510] != 0x55 || sector[511] != 0xaa)
		return MBR_NONE;
	for (unsigned i = 0; i < 4; i++) {
		const uint8_t *entry = sector + MBR_ENTRIES + i * MBR_ENTRY_BYTES;
		uint64_t start = load_le32(entry + 8), count = load_le32(entry + 12);

		if (entry[4] == MBR_TYPE_GPT)
			return MBR_GPT;
		if (entry[0] & 0x7f)
			return MBR_NONE;
		if (entry[4] == 0 || count == 0)
			continue;
		if (start == 0 || !RANGE_OK(start, count, sector_count(disk)))
			return MBR_NONE;
		end = MAX(end, start + count);
	}
	*ret_end = end;
	return end ? MBR_PARTITIONS : MBR_NONE;
}

/* ---- GPT ---- */

static void gpt_done(struct gpt *gpt)
{
	free(gpt->entries);
	gpt->entries = NULL;
}

static uint32_t header_crc(const struct gpt *gpt)
{
	uint8_t copy[SECTOR_MAX];
	uint32_t len = load_le32(gpt->header + GPT_HEADER_SIZE);

	memcpy(copy, gpt->header, len);
	store_le32(copy + GPT_HEADER_CRC, 0);
	return crc32(copy, len);
}

static bool header_is_valid(const struct blk *disk, const struct gpt *gpt)
{
	const uint8_t *header = gpt->header;
	uint32_t len = load_le32(header + GPT_HEADER_SIZE);

	return memcmp(header, "EFI PART", 8) == 0 && len >= GPT_HEADER_BYTES &&
	       len <= sector_bytes(disk) && load_le32(header + GPT_HEADER_CRC) == header_crc(gpt) &&
	       load_le64(header + GPT_MY_LBA) == gpt->lba;
}

static bool entries_are_sane(const struct gpt *gpt)
{
	uint64_t bytes = (uint64_t)gpt->entry_count * gpt->entry_bytes;

	return gpt->entry_bytes >= GPT_ENTRY_MINIMUM && gpt->entry_bytes % 8 == 0 && bytes > 0 &&
	       bytes <= GPT_MAX_ENTRIES;
}

/* 0: valid; 1: not; negative: error. On 0, gpt_done frees. */
static int read_gpt_at(struct blk *disk, uint64_t lba, struct gpt *ret, struct error *err)
{
	uint64_t entries_lba;
	int r;

	ret->lba = lba;
	ret->entries = NULL;
	r = read_sectors(disk, lba, ret->header, sector_bytes(disk), err);
	if (r < 0 || !header_is_valid(disk, ret))
		return r < 0 ? r : 1;
	entries_lba = load_le64(ret->header + GPT_ENTRIES_LBA);
	ret->entry_count = load_le32(ret->header + GPT_ENTRY_COUNT);
	ret->entry_bytes = load_le32(ret->header + GPT_ENTRY_BYTES);
	if (!entries_are_sane(ret))
		return 1;
	ret->entries_bytes =
	    ALIGN_UP((uint64_t)ret->entry_count * ret->entry_bytes, (uint64_t)sector_bytes(disk));
	if (!RANGE_OK(entries_lba, ret->entries_bytes / sector_bytes(disk), sector_count(disk)))
		return 1;
	ret->entries = malloc(ret->entries_bytes);
	if (!ret->entries)
		return error_set(err, ERR_NO_MEMORY, "no memory for a partition table");
	r = read_sectors(disk, entries_lba, ret->entries, ret->entries_bytes, err);
	if (r == 0 && crc32(ret->entries, (size_t)ret->entry_count * ret->entry_bytes) !=
			  load_le32(ret->header + GPT_ENTRIES_CRC))
		r = 1;
	if (r != 0)
		gpt_done(ret);
	return r;
}

static int read_gpt(struct blk *disk, struct gpt *ret, struct error *err)
{
	int r = sector_count(disk) > 2 ? read_gpt_at(disk, 1, ret, err) : 1;

	if (r == 1 && sector_count(disk) > 2)
		r = read_gpt_at(disk, sector_count(disk) - 1, ret, err);
	if (r == 1)
		r = error_set(err, ERR_CORRUPT,
			      "both copies of the disk's partition table (GPT) are damaged: let "
			      "the guest repair it first");
	return r;
}

/* The sector behind the last partition and behind the first copy of the table. */
static int end_of_gpt(const struct blk *disk, const struct gpt *gpt, uint64_t *ret,
		      struct error *err)
{
	static const uint8_t unused[16];
	/* The first copy's entries may lie elsewhere than right behind its header. */
	uint64_t first = gpt->lba == 1 ? load_le64(gpt->header + GPT_ENTRIES_LBA) : 2;
	uint64_t end = MAX(first, UINT64_C(2)) + gpt->entries_bytes / sector_bytes(disk);

	for (uint32_t i = 0; i < gpt->entry_count; i++) {
		const uint8_t *entry = gpt->entries + (size_t)i * gpt->entry_bytes;
		uint64_t last = load_le64(entry + 40);

		if (memcmp(entry, unused, sizeof(unused)) == 0)
			continue;
		if (last >= sector_count(disk))
			return error_set(err, ERR_CORRUPT,
					 "partition %u ends behind the disk's end: let the guest "
					 "repair it first",
					 i + 1);
		end = MAX(end, last + 1);
	}
	*ret = end;
	return 0;
}

/* Sectors of the second copy: entries, then the header. */
static uint64_t backup_sectors(const struct blk *disk, const struct gpt *gpt)
{
	return gpt->entries_bytes / sector_bytes(disk) + 1;
}

/* ---- what others ask ---- */

int disk_minimum_bytes(struct blk *disk, uint64_t *ret, struct error *err)
{
	uint8_t sector[SECTOR_MAX];
	uint64_t end = 0;
	struct gpt gpt;
	enum mbr kind;
	int r = read_sectors(disk, 0, sector, sector_bytes(disk), err);

	if (r < 0)
		return r;
	kind = read_mbr(disk, sector, &end);
	if (kind == MBR_NONE)
		return error_set(err, ERR_UNSUPPORTED,
				 "the disk has no partition table: how small it can be is not "
				 "known");
	if (kind == MBR_GPT) {
		r = read_gpt(disk, &gpt, err);
		if (r < 0)
			return r;
		r = end_of_gpt(disk, &gpt, &end, err);
		end += backup_sectors(disk, &gpt);
		gpt_done(&gpt);
	}
	if (r == 0)
		*ret = end * sector_bytes(disk);
	return r;
}

static int write_sectors(struct blk *disk, uint64_t lba, const void *data, size_t len,
			 struct error *err)
{
	enum blk_result result = blk_write_now(disk, lba * sector_bytes(disk), data, len);

	if (result == BLK_OK)
		result = blk_flush_now(disk);
	return result == BLK_OK ? 0
				: error_set(err, result == BLK_NO_SPACE ? ERR_NO_SPACE : ERR_IO,
					    "writing the partition table at sector %lu failed (%s)",
					    lba, blk_result_name(result));
}

static void seal_header(struct gpt *gpt)
{
	store_le32(gpt->header + GPT_HEADER_CRC, header_crc(gpt));
}

/* First the second copy at its new place, then the first copy, one sector, that names it: whenever
 * it is cut short, the first copy is valid. */
static int move_backup(struct blk *disk, struct gpt *gpt, uint64_t sectors, struct error *err)
{
	uint64_t backup_entries = sectors - backup_sectors(disk, gpt);
	uint64_t first_entries = load_le64(gpt->header + GPT_ENTRIES_LBA);
	int r;

	store_le64(gpt->header + GPT_LAST_USABLE, backup_entries - 1);
	store_le64(gpt->header + GPT_MY_LBA, sectors - 1);
	store_le64(gpt->header + GPT_ALTERNATE_LBA, 1);
	store_le64(gpt->header + GPT_ENTRIES_LBA, backup_entries);
	seal_header(gpt);
	r = write_sectors(disk, backup_entries, gpt->entries, gpt->entries_bytes, err);
	if (r == 0)
		r = write_sectors(disk, sectors - 1, gpt->header, sector_bytes(disk), err);
	if (r < 0)
		return r;
	store_le64(gpt->header + GPT_MY_LBA, 1);
	store_le64(gpt->header + GPT_ALTERNATE_LBA, sectors - 1);
	store_le64(gpt->header + GPT_ENTRIES_LBA, first_entries);
	seal_header(gpt);
	return write_sectors(disk, 1, gpt->header, sector_bytes(disk), err);
}

int disk_move_gpt(struct blk *disk, uint64_t size_bytes, struct error *err)
{
	uint64_t sectors = size_bytes / sector_bytes(disk), end;
	uint8_t sector[SECTOR_MAX];
	struct gpt gpt;
	int r = read_sectors(disk, 0, sector, sector_bytes(disk), err);

	if (r < 0 || read_mbr(disk, sector, &end) != MBR_GPT || sector_count(disk) <= 2)
		return r;
	/* A first copy that is damaged is left as it is: the guest has to decide. */
	r = read_gpt_at(disk, 1, &gpt, err);
	if (r != 0)
		return MIN(r, 0);
	r = end_of_gpt(disk, &gpt, &end, err);
	if (r == 0 && load_le64(gpt.header + GPT_ALTERNATE_LBA) != sectors - 1 &&
	    end + backup_sectors(disk, &gpt) <= sectors && sectors <= sector_count(disk))
		r = move_backup(disk, &gpt, sectors, err);
	gpt_done(&gpt);
	return r;
}
