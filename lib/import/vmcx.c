/*
 * Two headers, of which the valid one with the higher sequence number counts; a chain of object
 * tables, which say where the key tables are; key tables, whose entries name their parent by table
 * and offset, so that all are loaded first and linked second. Entries are larger than their
 * contents: the value's length never follows from the entry's.
 */
#include "import/vmcx.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "base/utf16.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define HEADER_SIGNATURE 0x01282014u
#define HEADER_BYTES     46u
#define HEADER_2_OFFSET  4096u
#define FORMAT_4_0       0x0400u

#define OBJECTS_SIGNATURE 0x01110001u
#define OBJECTS_OFFSET    8192u
#define OBJECTS_HEADER    8u
#define OBJECT_BYTES      18u
#define MAX_OBJECTS       227u /* in one table of 4096 bytes */
#define MAX_TABLES        1024u

#define KEYS_SIGNATURE  0x0002u
#define KEYS_HEADER     10u
#define ENTRY_HEADER    21u
#define ENTRY_IN_OBJECT 1u /* flag: the value lies elsewhere in the file */

#define LOG_SIGNATURE   0x01110003u
#define LOG_HEADER      34u
#define LOG_ENTRY       28u
#define LOG_MAX_ENTRIES 4096u

enum object_type { OBJECT_TABLE = 1, OBJECT_KEYS = 2 };

enum entry_type {
	ENTRY_FREE = 1,
	ENTRY_INT = 3,
	ENTRY_UINT = 4,
	ENTRY_DOUBLE = 5,
	ENTRY_STRING = 6,
	ENTRY_ARRAY = 7,
	ENTRY_BOOL = 8,
	ENTRY_NODE = 9,
};

struct header {
	uint16_t sequence, format;
	uint64_t log_offset, log_size;
};

struct table {
	uint16_t index, sequence;
	uint64_t offset;
	uint32_t size;
};

struct entry {
	uint64_t place, parent; /* table index << 32 | offset in it; a parent of 0: the root */
	uint32_t order;
	struct key *key; /* until it is linked */
	bool linked;
};

struct reader {
	const uint8_t *data;
	size_t size;
	uint8_t *copy; /* of data, where the log had something to say */
	struct table *tables;
	size_t table_count;
	struct entry *entries;
	size_t entry_count, entry_room;
	struct error *err;
};

/* CRC-32 of the bytes with the four at `at` taken as zeros. */
static uint32_t checksum(const uint8_t *bytes, size_t size, size_t at)
{
	static const uint8_t zeros[4];
	uLong crc = crc32(0, bytes, (uInt)at);

	crc = crc32(crc, zeros, sizeof(zeros));
	return (uint32_t)crc32(crc, bytes + at + 4, (uInt)(size - at - 4));
}

static int corrupt(struct reader *r, const char *what, uint64_t offset)
{
	return error_set(r->err, ERR_CORRUPT, "%s at offset 0x%llx", what,
			 (unsigned long long)offset);
}

/* ---- headers ---- */

static bool read_header(const struct reader *r, size_t offset, struct header *ret)
{
	const uint8_t *p = RANGE_OK(offset, HEADER_BYTES, r->size) ? r->data + offset : NULL;

	if (!p || load_le32(p) != HEADER_SIGNATURE ||
	    load_le32(p + 4) != checksum(p, HEADER_BYTES, 4))
		return false;
	*ret = (struct header){ .sequence = load_le16(p + 8),
				.format = (uint16_t)load_le32(p + 10),
				.log_offset = load_le64(p + 26),
				.log_size = load_le64(p + 34) };
	return true;
}

static int choose_header(struct reader *r, struct header *ret)
{
	struct header second;
	bool first_ok = read_header(r, 0, ret);
	bool second_ok = read_header(r, HEADER_2_OFFSET, &second);

	if (!first_ok && !second_ok)
		return corrupt(r, "neither header is valid; the first is", 0);
	if (first_ok && second_ok && ret->sequence == second.sequence)
		return corrupt(r, "both headers have one sequence number; the first is", 0);
	/* The number wraps: n and n - 1 are what is found. */
	if (!first_ok || (second_ok && (int16_t)(second.sequence - ret->sequence) > 0))
		*ret = second;
	if (ret->format != FORMAT_4_0)
		return error_set(r->err, ERR_UNSUPPORTED,
				 "format version %u.%u: only 4.0, of Windows Server 2016 and "
				 "later, is known",
				 ret->format >> 8, ret->format & 0xFF);
	return 0;
}

/* ---- the replay log ---- */

/* A finished log: the checksums of all entries and their data hold. */
static bool log_is_whole(const struct reader *r, const uint8_t *log, size_t size, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		const uint8_t *e = log + LOG_HEADER + (size_t)i * LOG_ENTRY;
		uint64_t target = load_le64(e), source = load_le64(e + 12);
		uint32_t length = load_le32(e + 8);

		if (load_le32(e + 20) != checksum(e, LOG_ENTRY, 20) ||
		    !RANGE_OK(source, length, size) || !RANGE_OK(target, length, r->size) ||
		    crc32(0, log + source, length) != load_le32(e + 24))
			return false;
	}
	return true;
}

/* Applies the log to a copy. The file may end inside the declared area: the rest is unused. */
static int replay(struct reader *r, const struct header *header)
{
	const uint8_t *log;
	uint32_t count;
	size_t size;

	if (header->log_offset >= r->size)
		return 0;
	log = r->data + header->log_offset;
	size = (size_t)MIN(header->log_size, r->size - header->log_offset);
	if (size < LOG_HEADER || load_le32(log) != LOG_SIGNATURE)
		return 0;
	count = load_le32(log + 8);
	if (count == 0)
		return 0;
	if (load_le32(log + 4) != checksum(log, LOG_HEADER, 4) || count > LOG_MAX_ENTRIES ||
	    (size - LOG_HEADER) / LOG_ENTRY < count || !log_is_whole(r, log, size, count))
		return 0; /* never finished: what it would have changed is unchanged */
	r->copy = malloc(r->size);
	if (!r->copy)
		return error_set(r->err, ERR_NO_MEMORY, "no memory for the file");
	memcpy(r->copy, r->data, r->size);
	for (uint32_t i = 0; i < count; i++) {
		const uint8_t *e = log + LOG_HEADER + (size_t)i * LOG_ENTRY;

		memcpy(r->copy + load_le64(e), log + load_le64(e + 12), load_le32(e + 8));
	}
	r->data = r->copy;
	return 0;
}

/* ---- object tables ---- */

/* Of two key tables with one index the one with the higher sequence number lives. */
static int add_table(struct reader *r, uint64_t offset, uint32_t size)
{
	struct table table = { .offset = offset, .size = size };
	const uint8_t *p;

	if (!RANGE_OK(offset, size, r->size) || size < KEYS_HEADER)
		return corrupt(r, "a key table lies outside the file", offset);
	p = r->data + offset;
	if (load_le16(p) != KEYS_SIGNATURE || load_le32(p + 6) != checksum(p, KEYS_HEADER, 6))
		return corrupt(r, "a key table's header is damaged", offset);
	table.index = load_le16(p + 2);
	table.sequence = load_le16(p + 4);
	for (size_t i = 0; i < r->table_count; i++)
		if (r->tables[i].index == table.index) {
			if ((int16_t)(table.sequence - r->tables[i].sequence) > 0)
				r->tables[i] = table;
			return 0;
		}
	if (r->table_count == MAX_TABLES)
		return error_set(r->err, ERR_LIMIT, "more than %u key tables", MAX_TABLES);
	r->tables = reallocarray(r->tables, r->table_count + 1, sizeof(table));
	if (!r->tables)
		abort();
	r->tables[r->table_count++] = table;
	return 0;
}

/* One object table; *ret_next is where the next one is, or 0. */
static int read_objects(struct reader *r, uint64_t offset, uint64_t *ret_next)
{
	const uint8_t *p = RANGE_OK(offset, OBJECTS_HEADER, r->size) ? r->data + offset : NULL;
	uint32_t count;

	*ret_next = 0;
	if (!p || load_le32(p) != OBJECTS_SIGNATURE)
		return corrupt(r, "there is no object table", offset);
	count = load_le32(p + 4);
	if (count > MAX_OBJECTS * 16 ||
	    !RANGE_OK(offset, OBJECTS_HEADER + (uint64_t)count * OBJECT_BYTES, r->size))
		return corrupt(r, "an object table is longer than the file", offset);
	for (uint32_t i = 0; i < count; i++) {
		const uint8_t *e = p + OBJECTS_HEADER + (size_t)i * OBJECT_BYTES;
		uint64_t at = load_le64(e + 5);
		int rc = 0;

		if (load_le32(e + 1) != checksum(e, OBJECT_BYTES, 1))
			return corrupt(r, "an object's entry is damaged", (uint64_t)(e - r->data));
		if (e[0] == OBJECT_KEYS)
			rc = add_table(r, at, load_le32(e + 13));
		else if (e[0] == OBJECT_TABLE)
			*ret_next = at;
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int read_all_objects(struct reader *r)
{
	uint64_t offset = OBJECTS_OFFSET;
	int rc = 0;

	for (unsigned n = 0; rc == 0 && offset; n++) {
		if (n == MAX_TABLES)
			return corrupt(r, "the object tables have no end", offset);
		rc = read_objects(r, offset, &offset);
	}
	return rc;
}

/* ---- entries ---- */

/* The bytes of a value with a length of its own, here or in a file object. */
static bool long_value(const struct reader *r, const uint8_t *value, size_t room, bool elsewhere,
		       const uint8_t **ret, uint32_t *ret_size, size_t *ret_used)
{
	if (room < 4)
		return false;
	*ret_size = load_le32(value);
	if (!elsewhere) {
		*ret = value + 4;
		*ret_used = 4 + (size_t)*ret_size;
		return *ret_size <= room - 4;
	}
	if (room < 12 || !RANGE_OK(load_le64(value + 4), *ret_size, r->size))
		return false;
	*ret = r->data + load_le64(value + 4);
	*ret_used = 12;
	return true;
}

static bool take_long(const struct reader *r, struct key *key, const uint8_t *value, size_t room,
		      bool elsewhere, size_t *ret_used)
{
	const uint8_t *bytes;
	uint32_t size;

	if (!long_value(r, value, room, elsewhere, &bytes, &size, ret_used))
		return false;
	if (key->type == KEY_TEXT) {
		key->text = utf8_from_utf16(bytes, size);
		return key->text != NULL;
	}
	key->bytes = malloc(size ? size : 1);
	if (!key->bytes)
		return false;
	memcpy(key->bytes, bytes, size);
	key->size = size;
	return true;
}

static bool key_type_of(unsigned type, enum key_type *ret)
{
	static const struct {
		unsigned type;
		enum key_type key;
	} types[] = {
		{ ENTRY_INT, KEY_INTEGER }, { ENTRY_UINT, KEY_INTEGER }, { ENTRY_DOUBLE, KEY_REAL },
		{ ENTRY_STRING, KEY_TEXT }, { ENTRY_ARRAY, KEY_BYTES },  { ENTRY_BOOL, KEY_BOOL },
		{ ENTRY_NODE, KEY_NODE },
	};

	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (types[i].type == type) {
			*ret = types[i].key;
			return true;
		}
	return false;
}

/* Fills key from value; *ret_used is how many bytes the value takes in the entry. */
static bool take_value(const struct reader *r, struct key *key, const uint8_t *value, size_t room,
		       bool elsewhere, size_t *ret_used)
{
	static const size_t sizes[] = {
		[KEY_NODE] = 12, [KEY_INTEGER] = 8, [KEY_REAL] = 8, [KEY_BOOL] = 4
	};

	if (key->type == KEY_TEXT || key->type == KEY_BYTES)
		return take_long(r, key, value, room, elsewhere, ret_used);
	*ret_used = sizes[key->type];
	if (room < *ret_used)
		return false;
	if (key->type == KEY_INTEGER)
		key->integer = (int64_t)load_le64(value);
	else if (key->type == KEY_REAL)
		memcpy(&key->real, value, sizeof(key->real));
	else if (key->type == KEY_BOOL)
		key->integer = load_le32(value) != 0;
	return true;
}

/* The key of an entry of `size` bytes, or NULL if it is damaged. */
static struct key *read_key(const struct reader *r, const uint8_t *e, size_t size)
{
	size_t name_bytes = e[20], head = ENTRY_HEADER + name_bytes, used;
	enum key_type type;
	struct key *key;

	if (!key_type_of(e[0], &type) || name_bytes == 0 || head > size || e[head - 1] != 0)
		return NULL;
	key = key_new((const char *)e + ENTRY_HEADER, type);
	if (!key)
		return NULL;
	if (!take_value(r, key, e + head, size - head, e[1] & ENTRY_IN_OBJECT, &used) ||
	    load_le32(e + 12) != checksum(e, head + used, 12)) {
		key_free(key);
		return NULL;
	}
	return key;
}

static void add_entry(struct reader *r, const struct entry *entry)
{
	if (r->entry_count == r->entry_room) {
		r->entry_room = r->entry_room ? r->entry_room * 2 : 256;
		r->entries = reallocarray(r->entries, r->entry_room, sizeof(*entry));
		if (!r->entries)
			abort();
	}
	r->entries[r->entry_count++] = *entry;
}

static uint64_t place(uint16_t table, uint32_t offset)
{
	return (uint64_t)table << 32 | offset;
}

static int read_table(struct reader *r, const struct table *table)
{
	const uint8_t *base = r->data + table->offset;
	uint32_t offset = KEYS_HEADER;

	while (table->size - offset >= ENTRY_HEADER) {
		const uint8_t *e = base + offset;
		uint32_t size = load_le32(e + 2);
		struct entry entry = { .place = place(table->index, offset) };

		if (size < ENTRY_HEADER || size > table->size - offset)
			return corrupt(r, "a key's entry has an impossible length",
				       table->offset + offset);
		if (e[0] != ENTRY_FREE) {
			uint16_t parent_table = load_le16(e + 6);

			entry.parent = parent_table ? place(parent_table, load_le32(e + 8)) : 0;
			entry.order = load_le32(e + 16);
			entry.key = read_key(r, e, size);
			if (!entry.key)
				return corrupt(r, "a key's entry is damaged",
					       table->offset + offset);
			add_entry(r, &entry);
		}
		offset += size;
	}
	return 0;
}

/* ---- linking ---- */

static int by_parent(const void *a, const void *b)
{
	const struct entry *left = a, *right = b;

	if (left->parent != right->parent)
		return left->parent < right->parent ? -1 : 1;
	return left->order < right->order ? -1 : left->order > right->order;
}

static size_t first_child(const struct reader *r, uint64_t parent)
{
	size_t low = 0, high = r->entry_count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (r->entries[middle].parent < parent)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Hangs the children of `parent` below key, and theirs below them. Whoever is its own ancestor is
 * never reached, and told by link_all. */
static int link_children(struct reader *r, struct key *key, uint64_t parent, unsigned depth)
{
	int rc = 0;

	if (depth > KEY_MAX_DEPTH)
		return error_set(r->err, ERR_LIMIT, "keys are nested more than %d deep",
				 KEY_MAX_DEPTH);
	for (size_t i = first_child(r, parent);
	     rc == 0 && i < r->entry_count && r->entries[i].parent == parent; i++) {
		struct entry *entry = &r->entries[i];

		if (entry->linked)
			return corrupt(r, "two keys have one place", entry->place & UINT32_MAX);
		entry->linked = true;
		key_append(key, entry->key);
		if (entry->key->type == KEY_NODE)
			rc = link_children(r, entry->key, entry->place, depth + 1);
	}
	return rc;
}

static int link_all(struct reader *r, struct key **ret)
{
	struct key *root = key_new("", KEY_NODE);
	int rc;

	if (!root)
		return error_set(r->err, ERR_NO_MEMORY, "no memory for the keys");
	if (r->entry_count)
		qsort(r->entries, r->entry_count, sizeof(struct entry), by_parent);
	rc = link_children(r, root, 0, 1);
	for (size_t i = 0; rc == 0 && i < r->entry_count; i++)
		if (!r->entries[i].linked)
			rc = error_set(r->err, ERR_CORRUPT, "the key '%.60s' hangs on no other key",
				       r->entries[i].key->name);
	if (rc < 0)
		key_free(root);
	else
		*ret = root;
	return rc;
}

static void reader_done(struct reader *r)
{
	for (size_t i = 0; i < r->entry_count; i++)
		if (!r->entries[i].linked)
			key_free(r->entries[i].key);
	free(r->entries);
	free(r->tables);
	free(r->copy);
}

bool vmcx_probe(const uint8_t *data, size_t size)
{
	return size > HEADER_2_OFFSET + HEADER_BYTES &&
	       (load_le32(data) == HEADER_SIGNATURE ||
		load_le32(data + HEADER_2_OFFSET) == HEADER_SIGNATURE);
}

int vmcx_read(const uint8_t *data, size_t size, struct key **ret, struct error *err)
{
	struct reader r = { .data = data, .size = size, .err = err };
	struct header header;
	int rc = choose_header(&r, &header);

	if (rc == 0)
		rc = replay(&r, &header);
	if (rc == 0)
		rc = read_all_objects(&r);
	for (size_t i = 0; rc == 0 && i < r.table_count; i++)
		rc = read_table(&r, &r.tables[i]);
	if (rc == 0)
		rc = link_all(&r, ret);
	reader_done(&r);
	return rc;
}
