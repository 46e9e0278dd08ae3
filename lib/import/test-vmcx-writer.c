#include "import/test-vmcx-writer.h"

#include "base/bytes.h"
#include "base/macros.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define MAX_PAGES 64u

struct writer {
	uint8_t *file;
	size_t size;     /* of the file so far */
	unsigned page;   /* index of the current key table, from 1 */
	uint32_t offset; /* in it */
	bool long_values;
};

void vmcx_seal(uint8_t *bytes, size_t size, size_t at)
{
	memset(bytes + at, 0, 4);
	store_le32(bytes + at, (uint32_t)crc32(0, bytes, (uInt)size));
}

/* An entry of the object table. */
static void add_object(struct writer *w, unsigned n, uint8_t type, uint64_t offset, uint32_t size)
{
	uint8_t *e = w->file + 8192 + 8 + n * 18;

	e[0] = type;
	store_le64(e + 5, offset);
	store_le32(e + 13, size);
	vmcx_seal(e, 18, 1);
}

/* A free entry takes what is left of a table. */
static void free_rest(struct writer *w)
{
	uint8_t *e = w->file + w->size - VMCX_WRITER_PAGE + w->offset;

	e[0] = 1;
	store_le32(e + 2, VMCX_WRITER_PAGE - w->offset);
}

static void begin_page(struct writer *w)
{
	uint8_t *p = w->file + w->size;

	add_object(w, w->page, 2, w->size, VMCX_WRITER_PAGE);
	w->page++;
	w->size += VMCX_WRITER_PAGE;
	store_le16(p, 2);
	store_le16(p + 2, (uint16_t)w->page);
	store_le16(p + 4, 1);
	vmcx_seal(p, 10, 6);
	w->offset = 10;
}

static size_t put_long(uint8_t *out, const uint8_t *bytes, size_t size)
{
	store_le32(out, (uint32_t)size);
	memcpy(out + 4, bytes, size);
	return 4 + size;
}

static size_t utf16(const char *text, uint8_t *out)
{
	size_t n = strlen(text);

	for (size_t i = 0; i < n; i++) /* tests write ASCII */
		store_le16(out + 2 * i, (uint8_t)text[i]);
	return 2 * n;
}

/* The value's bytes as they stand in an entry. */
static size_t put_value(const struct key *key, uint8_t *out)
{
	uint8_t text[2048];

	switch (key->type) {
	case KEY_INTEGER:
		store_le64(out, (uint64_t)key->integer);
		return 8;
	case KEY_REAL:
		memcpy(out, &key->real, 8);
		return 8;
	case KEY_BOOL:
		store_le32(out, key->integer ? 1 : 0);
		return 4;
	case KEY_TEXT:
		return put_long(out, text, utf16(key->text, text));
	case KEY_BYTES:
		return put_long(out, key->bytes, key->size);
	default:
		memset(out, 0, 12);
		return 12;
	}
}

static uint8_t entry_type(enum key_type type)
{
	static const uint8_t types[] = { [KEY_NODE] = 9, [KEY_INTEGER] = 3, [KEY_REAL] = 5,
					 [KEY_TEXT] = 6, [KEY_BYTES] = 7,   [KEY_BOOL] = 8 };

	return types[type];
}

/* Long values in a file object at the end of the file, behind all pages. */
static size_t move_out(struct writer *w, uint8_t *value, size_t size)
{
	uint64_t at = 8192 + 4096 * 70 + w->page * 8192 + w->offset;

	memcpy(w->file + at, value + 4, size - 4);
	store_le64(value + 4, at);
	return 12;
}

static void put_key(struct writer *w, const struct key *key, unsigned parent_page,
		    uint32_t parent_offset, uint32_t order)
{
	uint8_t e[4096] = { entry_type(key->type) };
	size_t name = strlen(key->name) + 1, head = 21 + name;
	size_t size = put_value(key, e + head), whole;
	unsigned page;
	uint32_t offset;

	memcpy(e + 21, key->name, name);
	if (w->long_values && size >= 64) {
		size = move_out(w, e + head, size);
		e[1] = 1;
	}
	whole = head + size + 12; /* slack, as Windows leaves it */
	if (VMCX_WRITER_PAGE - w->offset < whole + 64) {
		free_rest(w);
		begin_page(w);
	}
	store_le32(e + 2, (uint32_t)whole);
	store_le16(e + 6, (uint16_t)parent_page);
	store_le32(e + 8, parent_offset);
	store_le32(e + 16, order);
	e[20] = (uint8_t)name;
	vmcx_seal(e, head + size, 12);
	memset(e + head + size, 0xA5, 12);
	page = w->page;
	offset = w->offset;
	memcpy(w->file + w->size - VMCX_WRITER_PAGE + offset, e, whole);
	w->offset += (uint32_t)whole;
	order = 1;
	for (const struct key *child = key->first; child; child = child->next)
		put_key(w, child, page, offset, order++);
}

static void put_header(uint8_t *p, uint16_t sequence)
{
	store_le32(p, 0x01282014);
	store_le16(p + 8, sequence);
	store_le32(p + 10, 0x0400);
	store_le32(p + 22, 4096);
	store_le64(p + 26, VMCX_WRITER_LOG_OFFSET);
	store_le64(p + 34, VMCX_WRITER_LOG_BYTES);
	store_le32(p + 42, 4096);
	vmcx_seal(p, 46, 4);
}

uint8_t *vmcx_write(const struct key *root, bool long_values, size_t *ret_size)
{
	size_t room = 8192 + (size_t)4096 * 70 + 8192 * (MAX_PAGES + 2);
	struct writer w = { .file = calloc(1, room),
			    .size = VMCX_WRITER_FIRST_KEYS,
			    .long_values = long_values };
	uint32_t order = 1;

	if (!w.file)
		abort();
	put_header(w.file, 7);
	put_header(w.file + 4096, 6);
	store_le32(w.file + 8192, 0x01110001);
	store_le32(w.file + 8192 + 4, 227);
	for (unsigned n = 0; n < 227; n++)
		add_object(&w, n, 0, 0, 0);
	store_le32(w.file + VMCX_WRITER_LOG_OFFSET, 0x01110003);
	store_le32(w.file + VMCX_WRITER_LOG_OFFSET + 13, 145);
	vmcx_seal(w.file + VMCX_WRITER_LOG_OFFSET, 34, 4);
	begin_page(&w);
	for (const struct key *child = root->first; child; child = child->next)
		put_key(&w, child, 0, 0, order++);
	free_rest(&w);
	*ret_size = long_values ? room : w.size;
	return w.file;
}

void vmcx_write_log(uint8_t *file, uint64_t target, const void *data, uint32_t size)
{
	uint8_t *log = file + VMCX_WRITER_LOG_OFFSET, *e = log + 34;

	store_le32(log + 8, 1);
	vmcx_seal(log, 34, 4);
	memcpy(log + 4096, data, size);
	store_le64(e, target);
	store_le32(e + 8, size);
	store_le64(e + 12, 4096);
	store_le32(e + 24, (uint32_t)crc32(0, data, size));
	vmcx_seal(e, 28, 20);
}
