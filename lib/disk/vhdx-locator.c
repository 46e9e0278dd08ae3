#include "disk/vhdx-locator.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "base/utf16.h"
#include "spec/vhdx.h"

#include <stdio.h>

static const struct guid locator_type = VHDX_LOCATOR_TYPE;

static int no_memory(struct error *err)
{
	return error_set(err, ERR_NO_MEMORY, "no memory for a VHDX parent locator");
}

/* ---- reading ---- */

/* Takes key and value on success. */
static int add(struct vhdx_locator *locator, char *key, char *value, struct error *err)
{
	struct disk_locator *more =
	    realloc(locator->items, (locator->count + 1) * sizeof(*locator->items));

	if (!more)
		return no_memory(err);
	locator->items = more;
	more[locator->count++] = (struct disk_locator){ key, value };
	return 0;
}

static struct disk_locator *find(const struct vhdx_locator *locator, const char *key)
{
	for (unsigned i = 0; i < locator->count; i++)
		if (strcmp(locator->items[i].key, key) == 0)
			return &locator->items[i];
	return NULL;
}

static char *text_at(const uint8_t *item, size_t size, uint32_t offset, uint16_t length)
{
	if (!RANGE_OK((size_t)offset, (size_t)length, size) || length == 0 || length % 2)
		return NULL;
	return utf8_from_utf16(item + offset, length);
}

static int take_linkage(struct vhdx_locator *ret, const char *key, const char *value,
			bool *ret_taken, struct error *err)
{
	struct guid *to = strcmp(key, VHDX_KEY_LINKAGE) == 0    ? &ret->linkage
			  : strcmp(key, VHDX_KEY_LINKAGE2) == 0 ? &ret->linkage2
								: NULL;

	*ret_taken = to;
	if (to && !guid_parse(value, to))
		return error_set(err, ERR_CORRUPT, "the VHDX parent locator's %s is no GUID", key);
	return 0;
}

static int parse_entry(const uint8_t *item, size_t size, unsigned index, struct vhdx_locator *ret,
		       struct error *err)
{
	struct vhdx_locator_entry entry;
	AUTO_FREE char *key = NULL, *value = NULL;
	bool taken;
	int rc;

	memcpy(&entry, item + sizeof(struct vhdx_locator_header) + index * sizeof(entry),
	       sizeof(entry));
	key = text_at(item, size, le32toh(entry.key_offset), le16toh(entry.key_length));
	value = text_at(item, size, le32toh(entry.value_offset), le16toh(entry.value_length));
	if (!key || !value)
		return error_set(err, ERR_CORRUPT,
				 "VHDX parent locator entry %u lies outside the item", index);
	if (find(ret, key))
		return error_set(err, ERR_CORRUPT, "VHDX parent locator entry %u: a second '%.40s'",
				 index, key);
	rc = take_linkage(ret, key, value, &taken, err);
	if (rc < 0 || taken)
		return rc;
	rc = add(ret, key, value, err);
	if (rc == 0) {
		(void)TAKE(key);
		(void)TAKE(value);
	}
	return rc;
}

static int parse_entries(const uint8_t *item, size_t size, unsigned count, struct vhdx_locator *ret,
			 struct error *err)
{
	static const struct guid none;

	for (unsigned i = 0; i < count; i++) {
		int rc = parse_entry(item, size, i, ret, err);

		if (rc < 0)
			return rc;
	}
	if (guid_equal(&ret->linkage, &none))
		return error_set(err, ERR_CORRUPT,
				 "the VHDX parent locator has no parent_linkage: which disk the "
				 "parent is can't be told");
	return 0;
}

int vhdx_locator_parse(const uint8_t *item, size_t size, struct vhdx_locator *ret,
		       struct error *err)
{
	struct vhdx_locator_header header;
	unsigned count;
	int rc;

	*ret = (struct vhdx_locator){ 0 };
	if (size < sizeof(header))
		return error_set(err, ERR_CORRUPT, "the VHDX parent locator has only %zu bytes",
				 size);
	memcpy(&header, item, sizeof(header));
	count = le16toh(header.key_value_count);
	if (!guid_equal(&header.locator_type, &locator_type))
		return error_set(err, ERR_UNSUPPORTED,
				 "the VHDX parent locator is of an unknown type");
	if (count > VHDX_LOCATOR_MAX_ENTRIES ||
	    count * sizeof(struct vhdx_locator_entry) > size - sizeof(header))
		return error_set(err, ERR_CORRUPT, "the VHDX parent locator can't have %u entries",
				 count);
	rc = parse_entries(item, size, count, ret, err);
	if (rc < 0)
		vhdx_locator_done(ret);
	return rc;
}

void vhdx_locator_done(struct vhdx_locator *locator)
{
	for (unsigned i = 0; i < locator->count; i++) {
		free(locator->items[i].key);
		free(locator->items[i].value);
	}
	free(locator->items);
	locator->items = NULL;
	locator->count = 0;
}

/* ---- writing ---- */

int vhdx_locator_put(struct vhdx_locator *locator, const char *key, const char *value,
		     struct error *err)
{
	struct disk_locator *old = find(locator, key);
	AUTO_FREE char *key_copy = NULL, *value_copy = NULL;
	int rc;

	if (!value)
		return 0;
	value_copy = strdup(value);
	if (!value_copy)
		return no_memory(err);
	if (old) {
		free(old->value);
		old->value = TAKE(value_copy);
		return 0;
	}
	key_copy = strdup(key);
	rc = key_copy ? add(locator, key_copy, value_copy, err) : no_memory(err);
	if (rc == 0) {
		(void)TAKE(key_copy);
		(void)TAKE(value_copy);
	}
	return rc;
}

struct composing {
	uint8_t *item;
	size_t size; /* used; the room is VHDX_LOCATOR_MAX_BYTES */
	unsigned count;
};

/* Returns the length in bytes, 0 if it doesn't fit. */
static uint16_t put_text(struct composing *c, const char *text)
{
	size_t room = MIN(VHDX_LOCATOR_MAX_BYTES - c->size, (size_t)UINT16_MAX);
	uint32_t len = utf16_from_utf8(text, c->item + c->size, (uint32_t)room);

	if (len <= 2) /* with its zero, which is not wanted here */
		return 0;
	c->size += len - 2;
	return (uint16_t)(len - 2);
}

static int put_entry(struct composing *c, const char *key, const char *value, struct error *err)
{
	uint8_t *to = c->item + sizeof(struct vhdx_locator_header) +
		      c->count * sizeof(struct vhdx_locator_entry);
	struct vhdx_locator_entry entry;

	entry.key_offset = htole32((uint32_t)c->size);
	entry.key_length = htole16(put_text(c, key));
	entry.value_offset = htole32((uint32_t)c->size);
	entry.value_length = htole16(put_text(c, value));
	if (!entry.key_length || !entry.value_length)
		return error_set(err, ERR_INVALID,
				 "'%.100s' can't be stored as %s of the parent disk", value, key);
	memcpy(to, &entry, sizeof(entry));
	c->count++;
	return 0;
}

static int put_guid(struct composing *c, const char *key, const struct guid *guid,
		    struct error *err)
{
	char text[GUID_TEXT_SIZE], braced[GUID_TEXT_SIZE + 2];

	snprintf(braced, sizeof(braced), "{%s}", guid_format(guid, text));
	return put_entry(c, key, braced, err);
}

int vhdx_locator_compose(const struct vhdx_locator *locator, uint8_t **ret, size_t *ret_size,
			 struct error *err)
{
	AUTO_FREE uint8_t *item = calloc(1, VHDX_LOCATOR_MAX_BYTES);
	unsigned count = locator->count + 2;
	struct vhdx_locator_header header = { .locator_type = locator_type,
					      .key_value_count = htole16((uint16_t)count) };
	struct composing c = { .item = item,
			       .size = sizeof(header) + count * sizeof(struct vhdx_locator_entry) };
	int rc;

	if (!item)
		return no_memory(err);
	memcpy(item, &header, sizeof(header));
	rc = put_guid(&c, VHDX_KEY_LINKAGE, &locator->linkage, err);
	if (rc == 0)
		rc = put_guid(&c, VHDX_KEY_LINKAGE2, &locator->linkage2, err);
	for (unsigned i = 0; i < locator->count && rc == 0; i++)
		rc = put_entry(&c, locator->items[i].key, locator->items[i].value, err);
	if (rc < 0)
		return rc;
	*ret_size = c.size;
	*ret = TAKE(item);
	return 0;
}
