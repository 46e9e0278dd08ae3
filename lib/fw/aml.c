#include "fw/aml.h"

#include "base/bytes.h"

#include <stdlib.h>
#include <string.h>

enum {
	AML_NAME_OP = 0x08,
	AML_BYTE_PREFIX = 0x0a,
	AML_WORD_PREFIX = 0x0b,
	AML_DWORD_PREFIX = 0x0c,
	AML_STRING_PREFIX = 0x0d,
	AML_QWORD_PREFIX = 0x0e,
	AML_SCOPE_OP = 0x10,
	AML_BUFFER_OP = 0x11,
	AML_PACKAGE_OP = 0x12,
	AML_EXT_PREFIX = 0x5b,
	AML_EXT_DEVICE_OP = 0x82,
};

/* A block's length is always written in this form: two bits say that three bytes follow. */
#define PKG_LENGTH_BYTES 4
/* A buffer's size, so that it can be filled in afterwards: WordPrefix and the number. */
#define BUFFER_SIZE_BYTES 3

void aml_init(struct aml *aml, void *buf, size_t size)
{
	*aml = (struct aml){ .buf = buf, .size = size };
}

static void put(struct aml *aml, const void *data, size_t len)
{
	if (len > aml->size - aml->len)
		abort();
	memcpy(aml->buf + aml->len, data, len);
	aml->len += len;
}

static void put8(struct aml *aml, uint8_t value)
{
	put(aml, &value, 1);
}

static void put16(struct aml *aml, uint16_t value)
{
	uint8_t bytes[2];

	store_le16(bytes, value);
	put(aml, bytes, sizeof(bytes));
}

static void put32(struct aml *aml, uint32_t value)
{
	uint8_t bytes[4];

	store_le32(bytes, value);
	put(aml, bytes, sizeof(bytes));
}

static void put64(struct aml *aml, uint64_t value)
{
	uint8_t bytes[8];

	store_le64(bytes, value);
	put(aml, bytes, sizeof(bytes));
}

/* Names have four characters, filled up with '_'. */
static void put_name(struct aml *aml, const char *name)
{
	if (*name == '\\') {
		put8(aml, '\\');
		name++;
	}
	for (int i = 0; i < 4; i++)
		put8(aml, *name ? (uint8_t)*name++ : '_');
}

static void put_integer(struct aml *aml, uint64_t value)
{
	if (value <= 1) {
		put8(aml, (uint8_t)value); /* ZeroOp, OneOp */
	} else if (value <= UINT8_MAX) {
		put8(aml, AML_BYTE_PREFIX);
		put8(aml, (uint8_t)value);
	} else if (value <= UINT16_MAX) {
		put8(aml, AML_WORD_PREFIX);
		put16(aml, (uint16_t)value);
	} else if (value <= UINT32_MAX) {
		put8(aml, AML_DWORD_PREFIX);
		put32(aml, (uint32_t)value);
	} else {
		put8(aml, AML_QWORD_PREFIX);
		put64(aml, value);
	}
}

/* ---- blocks ---- */

static void begin(struct aml *aml)
{
	static const uint8_t room[PKG_LENGTH_BYTES];

	if (aml->depth == AML_MAX_DEPTH)
		abort();
	aml->open[aml->depth++] = aml->len;
	put(aml, room, sizeof(room));
}

void aml_end(struct aml *aml)
{
	size_t at = aml->open[--aml->depth], len = aml->len - at;

	aml->buf[at] = (uint8_t)(0xc0 | (len & 0x0f));
	aml->buf[at + 1] = (uint8_t)(len >> 4);
	aml->buf[at + 2] = (uint8_t)(len >> 12);
	aml->buf[at + 3] = (uint8_t)(len >> 20);
}

void aml_scope(struct aml *aml, const char *path)
{
	put8(aml, AML_SCOPE_OP);
	begin(aml);
	put_name(aml, path);
}

void aml_device(struct aml *aml, const char *name)
{
	put8(aml, AML_EXT_PREFIX);
	put8(aml, AML_EXT_DEVICE_OP);
	begin(aml);
	put_name(aml, name);
}

/* ---- names ---- */

static void begin_name(struct aml *aml, const char *name)
{
	put8(aml, AML_NAME_OP);
	put_name(aml, name);
}

void aml_name_integer(struct aml *aml, const char *name, uint64_t value)
{
	begin_name(aml, name);
	put_integer(aml, value);
}

void aml_name_string(struct aml *aml, const char *name, const char *value)
{
	begin_name(aml, name);
	put8(aml, AML_STRING_PREFIX);
	put(aml, value, strlen(value) + 1);
}

/* Three letters of five bits and the four digits, big-endian (ACPI 6.4, 19.6.35). */
void aml_name_eisa_id(struct aml *aml, const char *name, const char *id)
{
	uint32_t number = (uint32_t)strtoul(id + 3, NULL, 16);
	uint32_t letters = (uint32_t)((id[0] - '@') << 10 | (id[1] - '@') << 5 | (id[2] - '@'));
	uint8_t bytes[4];

	store_be32(bytes, letters << 16 | number);
	begin_name(aml, name);
	put_integer(aml, load_le32(bytes));
}

void aml_name_package(struct aml *aml, const char *name, const uint64_t *values, unsigned count)
{
	begin_name(aml, name);
	put8(aml, AML_PACKAGE_OP);
	begin(aml);
	put8(aml, (uint8_t)count);
	for (unsigned i = 0; i < count; i++)
		put_integer(aml, values[i]);
	aml_end(aml);
}

/* ---- resources (ACPI 6.4, section 6.4) ---- */

void aml_resources_begin(struct aml *aml)
{
	begin_name(aml, "_CRS");
	put8(aml, AML_BUFFER_OP);
	begin(aml);
	put8(aml, AML_WORD_PREFIX);
	put16(aml, 0); /* the size, at the end */
}

void aml_resources_end(struct aml *aml)
{
	size_t size_at = aml->open[aml->depth - 1] + PKG_LENGTH_BYTES;

	put8(aml, 0x79); /* end tag; a checksum of 0 is not checked */
	put8(aml, 0);
	store_le16(aml->buf + size_at + 1, (uint16_t)(aml->len - size_at - BUFFER_SIZE_BYTES));
	aml_end(aml);
}

void aml_resource_io(struct aml *aml, uint16_t port, uint8_t len)
{
	put8(aml, 0x47); /* I/O port descriptor */
	put8(aml, 1);    /* 16-bit decode */
	put16(aml, port);
	put16(aml, port);
	put8(aml, 1); /* alignment */
	put8(aml, len);
}

void aml_resource_irq(struct aml *aml, unsigned irq)
{
	put8(aml, 0x22); /* IRQ descriptor without flags */
	put16(aml, (uint16_t)(1u << irq));
}

void aml_resource_window(struct aml *aml, uint64_t base, uint64_t size)
{
	put8(aml, 0x8a); /* QWORD address space descriptor */
	put16(aml, 43);
	put8(aml, 0);    /* memory */
	put8(aml, 0x0c); /* producer, positive decode, minimum and maximum fixed */
	put8(aml, 0x01); /* writable, not cached */
	put64(aml, 0);   /* granularity */
	put64(aml, base);
	put64(aml, base + size - 1);
	put64(aml, 0); /* translation */
	put64(aml, size);
}
