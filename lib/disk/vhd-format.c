#include "disk/vhd-format.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "base/utf16.h"

#define ALIGNMENT 4096u

uint32_t vhd_checksum(const void *structure, size_t size, size_t checksum_offset)
{
	const uint8_t *bytes = structure;
	uint32_t sum = 0;

	for (size_t i = 0; i < size; i++)
		if (i - checksum_offset >= 4)
			sum += bytes[i];
	return ~sum;
}

void vhd_footer_seal(struct vhd_footer *footer)
{
	footer->checksum =
	    htobe32(vhd_checksum(footer, sizeof(*footer), offsetof(struct vhd_footer, checksum)));
}

void vhd_header_seal(struct vhd_header *header)
{
	header->checksum =
	    htobe32(vhd_checksum(header, sizeof(*header), offsetof(struct vhd_header, checksum)));
}

bool vhd_footer_counts(const struct vhd_footer *footer)
{
	return memcmp(footer->cookie, VHD_FOOTER_COOKIE, sizeof(footer->cookie)) == 0 &&
	       be32toh(footer->checksum) ==
		   vhd_checksum(footer, sizeof(*footer), offsetof(struct vhd_footer, checksum));
}

/* ---- footer ---- */

static int check_type(uint32_t type, uint64_t at, struct error *err)
{
	if (type == VHD_FIXED || type == VHD_DYNAMIC || type == VHD_DIFFERENCING)
		return 0;
	return error_set(err, ERR_UNSUPPORTED, "VHD footer at %#lx: disk type %u is unknown", at,
			 type);
}

int vhd_footer_parse(const struct vhd_footer *footer, uint64_t at, struct vhd_geometry *ret,
		     struct error *err)
{
	struct vhd_geometry g = {
		.type = (enum vhd_disk_type)be32toh(footer->disk_type),
		.disk_bytes = be64toh(footer->current_size),
		.id = footer->unique_id,
		.header_offset = be64toh(footer->data_offset),
	};
	int rc = check_type(be32toh(footer->disk_type), at, err);

	if (rc < 0)
		return rc;
	if (be32toh(footer->format_version) >> 16 != VHD_VERSION >> 16)
		return error_set(err, ERR_UNSUPPORTED, "VHD footer at %#lx: version %#x is unknown",
				 at, be32toh(footer->format_version));
	if (g.disk_bytes == 0 || g.disk_bytes % VHD_SECTOR_BYTES || g.disk_bytes >> 50)
		return error_set(err, ERR_CORRUPT,
				 "VHD footer at %#lx: a disk of %lu bytes is not possible", at,
				 g.disk_bytes);
	if (g.type != VHD_FIXED && (g.header_offset % VHD_SECTOR_BYTES || g.header_offset >> 50 ||
				    g.header_offset < VHD_FOOTER_BYTES))
		return error_set(err, ERR_CORRUPT,
				 "VHD footer at %#lx: the dynamic header can't be at %#lx", at,
				 g.header_offset);
	memcpy(g.creator, footer->creator_application, sizeof(footer->creator_application));
	*ret = g;
	return 0;
}

/* The specification's "CHS Calculation". */
void vhd_footer_set_size(struct vhd_footer *footer, uint64_t size_bytes)
{
	uint64_t total = MIN(size_bytes / VHD_SECTOR_BYTES, (uint64_t)65535 * 16 * 255);
	uint64_t sectors, heads = 16, tracks;

	if (total >= (uint64_t)65535 * 16 * 63) {
		sectors = 255;
		tracks = total / sectors;
	} else {
		sectors = 17;
		tracks = total / sectors;
		heads = MAX((tracks + 1023) / 1024, (uint64_t)4);
		if (tracks >= heads * 1024 || heads > 16) {
			sectors = 31;
			heads = 16;
			tracks = total / sectors;
		}
		if (tracks >= heads * 1024) {
			sectors = 63;
			heads = 16;
			tracks = total / sectors;
		}
	}
	footer->current_size = htobe64(size_bytes);
	footer->cylinders = htobe16((uint16_t)(tracks / heads));
	footer->heads = (uint8_t)heads;
	footer->sectors_per_track = (uint8_t)sectors;
}

/* ---- dynamic header ---- */

static bool is_power_of_two(uint64_t v)
{
	return v && !(v & (v - 1));
}

void vhd_geometry_derive(struct vhd_geometry *g, uint32_t block_bytes)
{
	uint64_t bits = block_bytes / VHD_SECTOR_BYTES;

	g->block_bytes = block_bytes;
	g->block_shift = (unsigned)__builtin_ctz(block_bytes);
	g->block_count = (uint32_t)((g->disk_bytes + block_bytes - 1) >> g->block_shift);
	g->bitmap_bytes = (uint32_t)ALIGN_UP((bits + 7) / 8, VHD_SECTOR_BYTES);
}

static int check_block_size(const struct vhd_geometry *g, uint32_t block_bytes, struct error *err)
{
	if (!is_power_of_two(block_bytes) || block_bytes < VHD_MIN_BLOCK_BYTES ||
	    block_bytes > VHD_MAX_BLOCK_BYTES)
		return error_set(err, ERR_CORRUPT,
				 "VHD dynamic header at %#lx: a block size of %u bytes is not "
				 "possible",
				 g->header_offset, block_bytes);
	if ((g->disk_bytes - 1) / block_bytes >= VHD_MAX_TABLE_ENTRIES)
		return error_set(err, ERR_LIMIT,
				 "VHD dynamic header at %#lx: a disk of %lu bytes in blocks of %u "
				 "bytes is too much",
				 g->header_offset, g->disk_bytes, block_bytes);
	return 0;
}

static int check_table(const struct vhd_geometry *g, struct error *err)
{
	if (g->table_offset % VHD_SECTOR_BYTES || g->table_offset >> 41 ||
	    g->table_offset < VHD_FOOTER_BYTES)
		return error_set(err, ERR_CORRUPT,
				 "VHD dynamic header at %#lx: the block table can't be at %#lx",
				 g->header_offset, g->table_offset);
	if (g->table_offset < g->header_offset + sizeof(struct vhd_header) &&
	    g->header_offset < g->table_offset + (uint64_t)g->block_count * VHD_BAT_ENTRY_BYTES)
		return error_set(err, ERR_CORRUPT,
				 "VHD dynamic header at %#lx: the block table at %#lx overlaps it",
				 g->header_offset, g->table_offset);
	if (g->table_entries < g->block_count)
		return error_set(err, ERR_CORRUPT,
				 "VHD dynamic header at %#lx: the block table has %u entries; the "
				 "disk needs %u",
				 g->header_offset, g->table_entries, g->block_count);
	return 0;
}

int vhd_header_parse(const struct vhd_header *header, struct vhd_geometry *ret, struct error *err)
{
	struct vhd_geometry g = *ret;
	int rc;

	if (memcmp(header->cookie, VHD_HEADER_COOKIE, sizeof(header->cookie)) != 0 ||
	    be32toh(header->checksum) !=
		vhd_checksum(header, sizeof(*header), offsetof(struct vhd_header, checksum)))
		return error_set(err, ERR_CORRUPT,
				 "the VHD dynamic header at %#lx has no valid cookie and checksum",
				 g.header_offset);
	if (be32toh(header->header_version) >> 16 != VHD_VERSION >> 16)
		return error_set(err, ERR_UNSUPPORTED,
				 "VHD dynamic header at %#lx: version %#x is unknown",
				 g.header_offset, be32toh(header->header_version));
	rc = check_block_size(&g, be32toh(header->block_size), err);
	if (rc < 0)
		return rc;
	g.table_offset = be64toh(header->table_offset);
	g.table_entries = be32toh(header->max_table_entries);
	g.parent_id = header->parent_unique_id;
	vhd_geometry_derive(&g, be32toh(header->block_size));
	rc = check_table(&g, err);
	if (rc == 0)
		*ret = g;
	return rc;
}

void vhd_header_set_parent_name(struct vhd_header *header, const char *path)
{
	uint8_t text[4096];
	uint32_t bytes = utf16_from_utf8(path, text, sizeof(text));
	uint32_t room = sizeof(header->parent_name) - 2;

	memset(header->parent_name, 0, sizeof(header->parent_name));
	for (uint32_t i = 0; i + 2 <= MIN(bytes, room); i += 2)
		store_be16(header->parent_name + i, load_le16(text + i));
}

/* ---- places ---- */

uint64_t vhd_block_file_bytes(const struct vhd_geometry *g, uint32_t block)
{
	uint64_t start = (uint64_t)block << g->block_shift;

	return g->bitmap_bytes + MIN((uint64_t)g->block_bytes, g->disk_bytes - start);
}

uint64_t vhd_block_place(const struct vhd_geometry *g, uint64_t offset)
{
	return ALIGN_UP(offset + g->bitmap_bytes, ALIGNMENT) - g->bitmap_bytes;
}

uint64_t vhd_file_bytes(uint64_t end)
{
	return ALIGN_UP(end + VHD_FOOTER_BYTES, ALIGNMENT);
}

struct guid vhd_display_id(const struct vhd_geometry *g)
{
	const uint8_t *b = g->id.b;
	struct guid id = g->id;

	if (memcmp(g->creator, VHD_CREATOR_WINDOWS, 4) == 0 || memcmp(g->creator, "d2v", 4) == 0)
		return id;
	store_le32(id.b, load_be32(b));
	store_le16(id.b + 4, load_be16(b + 4));
	store_le16(id.b + 6, load_be16(b + 6));
	return id;
}

/* ---- bitmaps ---- */

void vhd_bits_set(uint8_t *bitmap, uint32_t sector, uint32_t count)
{
	for (; count > 0 && sector % 8; sector++, count--)
		bitmap[sector / 8] |= (uint8_t)(0x80 >> sector % 8);
	memset(bitmap + sector / 8, 0xff, count / 8);
	sector += count / 8 * 8;
	for (count %= 8; count > 0; sector++, count--)
		bitmap[sector / 8] |= (uint8_t)(0x80 >> sector % 8);
}

uint32_t vhd_bits_run(const uint8_t *bitmap, uint32_t sector, uint32_t max)
{
	bool value = vhd_bit(bitmap, sector);
	uint8_t whole = value ? 0xff : 0;
	uint32_t run = 1;

	while (run < max) {
		uint32_t at = sector + run;

		if (at % 8 == 0 && max - run >= 8 && bitmap[at / 8] == whole)
			run += 8;
		else if (vhd_bit(bitmap, at) == value)
			run++;
		else
			break;
	}
	return run;
}

bool vhd_bits_all(const uint8_t *bitmap, uint32_t count, bool value)
{
	return vhd_bit(bitmap, 0) == value && vhd_bits_run(bitmap, 0, count) == count;
}
