#include "disk/vhdx-log.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "disk/crc32c.h"

#include <stdlib.h>
#include <string.h>

#define NO_ENTRY UINT32_MAX

/* What find() remembers of a sector of the log; length 0: no valid entry starts here. */
struct slot {
	uint64_t sequence_number;
	uint32_t length;
	uint32_t tail;
	uint32_t chain_head; /* sector where the run of consecutive entries ends */
};

/* ---- reading one entry ---- */

/* Entries may wrap around the end of the log, at a sector boundary. */
static const uint8_t *sector_at(const struct vhdx_log_area *area, uint32_t entry, uint32_t index)
{
	uint64_t pos = entry + (uint64_t)index * VHDX_SECTOR_BYTES;

	return area->bytes + pos % area->length;
}

/* The header fills the place of two descriptors in the first sector. */
static const struct vhdx_log_descriptor *descriptor_at(const struct vhdx_log_area *area,
						       uint32_t entry, uint32_t index)
{
	uint64_t pos = sizeof(struct vhdx_log_entry_header) +
		       (uint64_t)index * sizeof(struct vhdx_log_descriptor);

	return (const void *)(sector_at(area, entry, (uint32_t)(pos / VHDX_SECTOR_BYTES)) +
			      pos % VHDX_SECTOR_BYTES);
}

static uint32_t descriptor_sectors(uint32_t descriptor_count)
{
	uint64_t bytes = sizeof(struct vhdx_log_entry_header) +
			 (uint64_t)descriptor_count * sizeof(struct vhdx_log_descriptor);

	return (uint32_t)((bytes + VHDX_SECTOR_BYTES - 1) / VHDX_SECTOR_BYTES);
}

static bool header_plausible(const struct vhdx_log_area *area,
			     const struct vhdx_log_entry_header *header)
{
	uint32_t length = le32toh(header->entry_length), tail = le32toh(header->tail);

	return le32toh(header->signature) == VHDX_LOG_ENTRY_SIGNATURE &&
	       guid_equal(&header->log_guid, &area->guid) && length > 0 &&
	       length % VHDX_SECTOR_BYTES == 0 && length <= area->length && tail < area->length &&
	       tail % VHDX_SECTOR_BYTES == 0 && le64toh(header->sequence_number) > 0 &&
	       le32toh(header->descriptor_count) <=
		   area->length / sizeof(struct vhdx_log_descriptor);
}

static bool data_sector_belongs(const struct vhdx_log_data_sector *sector, uint64_t sequence)
{
	return le32toh(sector->signature) == VHDX_LOG_DATA_SECTOR &&
	       le32toh(sector->sequence_high) == (uint32_t)(sequence >> 32) &&
	       le32toh(sector->sequence_low) == (uint32_t)sequence;
}

/*
 * Descriptors and data sectors carry signature and sequence number. Checked before the checksum,
 * they also make sure that no two valid entries share a sector, so that checking all of a hostile
 * log takes time in proportion to its size.
 */
static bool contents_plausible(const struct vhdx_log_area *area, uint32_t entry,
			       const struct vhdx_log_entry_header *header)
{
	uint32_t count = le32toh(header->descriptor_count), next = descriptor_sectors(count);
	uint32_t sectors = le32toh(header->entry_length) / VHDX_SECTOR_BYTES;

	for (uint32_t i = 0; i < count; i++) {
		const struct vhdx_log_descriptor *d;

		if ((sizeof(*header) + (uint64_t)i * sizeof(*d)) / VHDX_SECTOR_BYTES >= sectors)
			return false;
		d = descriptor_at(area, entry, i);
		if (d->sequence_number != header->sequence_number)
			return false;
		if (le32toh(d->signature) == VHDX_LOG_ZERO_DESC)
			continue;
		if (le32toh(d->signature) != VHDX_LOG_DATA_DESC || next >= sectors ||
		    !data_sector_belongs((const void *)sector_at(area, entry, next),
					 le64toh(header->sequence_number)))
			return false;
		next++;
	}
	return next == sectors;
}

static bool checksum_right(const struct vhdx_log_area *area, uint32_t entry,
			   const struct vhdx_log_entry_header *header)
{
	struct vhdx_log_entry_header copy = *header;
	uint32_t crc, sectors = le32toh(header->entry_length) / VHDX_SECTOR_BYTES;

	copy.checksum = 0;
	crc = crc32c_update(CRC32C_START, &copy, sizeof(copy));
	crc = crc32c_update(crc, (const uint8_t *)header + sizeof(copy),
			    VHDX_SECTOR_BYTES - sizeof(copy));
	for (uint32_t i = 1; i < sectors; i++)
		crc = crc32c_update(crc, sector_at(area, entry, i), VHDX_SECTOR_BYTES);
	return crc32c_finish(crc) == le32toh(header->checksum);
}

static void read_slot(const struct vhdx_log_area *area, uint32_t entry, struct slot *ret)
{
	const struct vhdx_log_entry_header *header = (const void *)(area->bytes + entry);

	*ret = (struct slot){ .chain_head = NO_ENTRY };
	if (!header_plausible(area, header) || !contents_plausible(area, entry, header) ||
	    !checksum_right(area, entry, header))
		return;
	ret->sequence_number = le64toh(header->sequence_number);
	ret->length = le32toh(header->entry_length);
	ret->tail = le32toh(header->tail);
}

/* ---- finding the active sequence ---- */

/* The sector after the entry at `index` if the sequence goes on there, else NO_ENTRY. */
static uint32_t successor(const struct slot *slots, uint32_t count, uint32_t index)
{
	uint32_t next = (index + slots[index].length / VHDX_SECTOR_BYTES) % count;

	return slots[next].length && slots[next].sequence_number == slots[index].sequence_number + 1
		   ? next
		   : NO_ENTRY;
}

/* Gives every entry the end of its run. Sequence numbers rise along a run, so there is no cycle. */
static void link_chains(struct slot *slots, uint32_t count)
{
	for (uint32_t start = 0; start < count; start++) {
		uint32_t end = start, next;

		if (!slots[start].length || slots[start].chain_head != NO_ENTRY)
			continue;
		while (slots[end].chain_head == NO_ENTRY &&
		       (next = successor(slots, count, end)) != NO_ENTRY)
			end = next;
		if (slots[end].chain_head != NO_ENTRY)
			end = slots[end].chain_head;
		for (uint32_t i = start; slots[i].chain_head == NO_ENTRY;
		     i = successor(slots, count, i)) {
			slots[i].chain_head = end;
			if (i == end)
				break;
		}
	}
}

/* The run's last entry counts as head if its tail lies in the same run. */
static bool is_active_head(const struct slot *slots, uint32_t index)
{
	uint32_t tail = slots[index].tail / VHDX_SECTOR_BYTES;

	return slots[index].length && slots[index].chain_head == index && slots[tail].length &&
	       slots[tail].chain_head == index;
}

static uint32_t best_head(const struct slot *slots, uint32_t count)
{
	uint32_t best = NO_ENTRY;

	for (uint32_t i = 0; i < count; i++)
		if (is_active_head(slots, i) &&
		    (best == NO_ENTRY || slots[i].sequence_number > slots[best].sequence_number))
			best = i;
	return best;
}

int vhdx_log_find(const struct vhdx_log_area *area, struct vhdx_log_sequence *ret,
		  struct error *err)
{
	uint32_t count = area->length / VHDX_SECTOR_BYTES, head;
	AUTO_FREE struct slot *slots = calloc(count, sizeof(*slots));
	const struct vhdx_log_entry_header *header;

	if (!slots)
		return error_set(err, ERR_NO_MEMORY, "no memory to read the VHDX log");
	for (uint32_t i = 0; i < count; i++)
		read_slot(area, i * VHDX_SECTOR_BYTES, &slots[i]);
	link_chains(slots, count);
	head = best_head(slots, count);
	if (head == NO_ENTRY)
		return error_set(err, ERR_CORRUPT,
				 "the VHDX log at %#lx is in use but holds no valid sequence of "
				 "entries",
				 area->file_offset);
	header = (const void *)(area->bytes + head * VHDX_SECTOR_BYTES);
	*ret = (struct vhdx_log_sequence){
		.tail = slots[head].tail,
		.head = head * VHDX_SECTOR_BYTES,
		.head_sequence_number = slots[head].sequence_number,
		.flushed_file_bytes = le64toh(header->flushed_file_offset),
		.last_file_bytes = le64toh(header->last_file_offset),
	};
	return 0;
}

/* ---- replay ---- */

static int check_target(const struct vhdx_log_area *area, const struct vhdx_log_record *record,
			uint32_t entry, uint64_t limit, struct error *err)
{
	uint64_t log_end = area->file_offset + area->length;

	if (record->file_offset % VHDX_SECTOR_BYTES || record->length % VHDX_SECTOR_BYTES ||
	    record->file_offset < VHDX_FIRST_LOGGED_OFFSET ||
	    !RANGE_OK(record->file_offset, record->length, limit) ||
	    (record->file_offset < log_end &&
	     record->file_offset + record->length > area->file_offset))
		return error_set(err, ERR_CORRUPT,
				 "the VHDX log entry at %#lx updates %#lx+%#lx, which is not "
				 "possible",
				 area->file_offset + entry, record->file_offset, record->length);
	return 0;
}

static void join_data(const struct vhdx_log_descriptor *d,
		      const struct vhdx_log_data_sector *sector, uint8_t page[static 4096])
{
	memcpy(page, &d->leading_bytes, 8);
	memcpy(page + 8, sector->data, sizeof(sector->data));
	memcpy(page + 4092, &d->trailing_bytes, 4);
}

static int replay_entry(const struct vhdx_log_area *area, uint32_t entry, uint64_t limit,
			int (*apply)(void *user, const struct vhdx_log_record *record,
				     struct error *err),
			void *user, struct error *err)
{
	const struct vhdx_log_entry_header *header = (const void *)(area->bytes + entry);
	uint32_t count = le32toh(header->descriptor_count);
	uint32_t next_sector = descriptor_sectors(count);
	uint8_t page[VHDX_SECTOR_BYTES];

	for (uint32_t i = 0; i < count; i++) {
		const struct vhdx_log_descriptor *d = descriptor_at(area, entry, i);
		struct vhdx_log_record record = { .file_offset = le64toh(d->file_offset) };
		int rc;

		if (le32toh(d->signature) == VHDX_LOG_DATA_DESC) {
			join_data(d, (const void *)sector_at(area, entry, next_sector++), page);
			record.length = sizeof(page);
			record.data = page;
		} else {
			record.length = le64toh(d->leading_bytes);
		}
		rc = check_target(area, &record, entry, limit, err);
		if (rc == 0)
			rc = apply(user, &record, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int vhdx_log_replay(const struct vhdx_log_area *area, const struct vhdx_log_sequence *sequence,
		    uint64_t limit,
		    int (*apply)(void *user, const struct vhdx_log_record *record,
				 struct error *err),
		    void *user, struct error *err)
{
	uint32_t entry = sequence->tail;

	for (;;) {
		const struct vhdx_log_entry_header *header = (const void *)(area->bytes + entry);
		int rc = replay_entry(area, entry, limit, apply, user, err);

		if (rc < 0 || entry == sequence->head)
			return rc;
		entry =
		    (uint32_t)(((uint64_t)entry + le32toh(header->entry_length)) % area->length);
	}
}

/* ---- composing ---- */

void vhdx_log_compose(const struct vhdx_log_entry *entry, uint8_t *buf)
{
	uint32_t length = vhdx_log_entry_bytes(entry->page_count);
	struct vhdx_log_entry_header *header = (void *)buf;
	struct vhdx_log_descriptor *descriptors = (void *)(header + 1);
	struct vhdx_log_data_sector *sectors =
	    (void *)(buf + (size_t)descriptor_sectors(entry->page_count) * VHDX_SECTOR_BYTES);

	memset(buf, 0, (size_t)((uint8_t *)sectors - buf));
	*header = (struct vhdx_log_entry_header){
		.signature = htole32(VHDX_LOG_ENTRY_SIGNATURE),
		.entry_length = htole32(length),
		.tail = htole32(entry->tail),
		.sequence_number = htole64(entry->sequence_number),
		.descriptor_count = htole32(entry->page_count),
		.log_guid = entry->guid,
		.flushed_file_offset = htole64(entry->flushed_file_bytes),
		.last_file_offset = htole64(entry->last_file_bytes),
	};
	for (unsigned i = 0; i < entry->page_count; i++) {
		const uint8_t *page = entry->pages + (size_t)i * VHDX_SECTOR_BYTES;

		descriptors[i].signature = htole32(VHDX_LOG_DATA_DESC);
		descriptors[i].file_offset = htole64(entry->page_offsets[i]);
		descriptors[i].sequence_number = htole64(entry->sequence_number);
		memcpy(&descriptors[i].leading_bytes, page, 8);
		memcpy(&descriptors[i].trailing_bytes, page + 4092, 4);
		sectors[i].signature = htole32(VHDX_LOG_DATA_SECTOR);
		sectors[i].sequence_high = htole32((uint32_t)(entry->sequence_number >> 32));
		sectors[i].sequence_low = htole32((uint32_t)entry->sequence_number);
		memcpy(sectors[i].data, page + 8, sizeof(sectors[i].data));
	}
	header->checksum = htole32(crc32c(buf, length));
}
