#include "base/utf16.h"

#include "base/bytes.h"

#include <stdlib.h>

#define REPLACEMENT 0xFFFDu

/* One code point at *text, which moves on; UINT32_MAX if it is malformed. */
static uint32_t next_utf8(const uint8_t **text)
{
	static const uint32_t least[] = { 0, 0x80, 0x800, 0x10000 };
	const uint8_t *p = *text;
	unsigned more = p[0] < 0x80 ? 0 : p[0] >= 0xF0 ? 3 : p[0] >= 0xE0 ? 2 : 1;
	uint32_t c = more ? p[0] & (0x3Fu >> more) : p[0];

	if (p[0] >= 0x80 && (p[0] < 0xC2 || p[0] > 0xF4))
		return UINT32_MAX;
	for (unsigned i = 1; i <= more; i++) {
		if ((p[i] & 0xC0) != 0x80) /* also stops at the terminating zero */
			return UINT32_MAX;
		c = c << 6 | (p[i] & 0x3Fu);
	}
	*text = p + 1 + more;
	return c < least[more] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000) ? UINT32_MAX : c;
}

uint32_t utf16_from_utf8(const char *text, uint8_t *ret, uint32_t size)
{
	const uint8_t *p = (const uint8_t *)text;
	uint32_t len = 0;

	while (*p) {
		uint32_t c = next_utf8(&p);
		uint32_t units = c >= 0x10000 ? 2 : 1;

		if (c == UINT32_MAX || len + (units + 1) * 2 > size)
			return 0;
		if (units == 2) {
			store_le16(ret + len, (uint16_t)(0xD800 + ((c - 0x10000) >> 10)));
			store_le16(ret + len + 2, (uint16_t)(0xDC00 + (c & 0x3FF)));
		} else {
			store_le16(ret + len, (uint16_t)c);
		}
		len += units * 2;
	}
	if (len + 2 > size)
		return 0;
	store_le16(ret + len, 0);
	return len + 2;
}

static char *put_utf8(char *to, uint32_t c)
{
	if (c < 0x80) {
		*to++ = (char)c;
	} else if (c < 0x800) {
		*to++ = (char)(0xC0 | c >> 6);
		*to++ = (char)(0x80 | (c & 0x3F));
	} else if (c < 0x10000) {
		*to++ = (char)(0xE0 | c >> 12);
		*to++ = (char)(0x80 | (c >> 6 & 0x3F));
		*to++ = (char)(0x80 | (c & 0x3F));
	} else {
		*to++ = (char)(0xF0 | c >> 18);
		*to++ = (char)(0x80 | (c >> 12 & 0x3F));
		*to++ = (char)(0x80 | (c >> 6 & 0x3F));
		*to++ = (char)(0x80 | (c & 0x3F));
	}
	return to;
}

char *utf8_from_utf16(const uint8_t *text, uint32_t len)
{
	uint32_t units = len / 2;
	char *ret = malloc(units * 3 + 1);
	char *to = ret;

	if (!ret)
		return NULL;
	for (uint32_t i = 0; i < units; i++) {
		uint32_t c = load_le16(text + i * 2);

		if (!c)
			break;
		if (c >= 0xD800 && c < 0xDC00 && i + 1 < units) {
			uint32_t low = load_le16(text + i * 2 + 2);

			if (low >= 0xDC00 && low < 0xE000) {
				c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
				i++;
			}
		}
		to = put_utf8(to, c >= 0xD800 && c < 0xE000 ? REPLACEMENT : c);
	}
	*to = '\0';
	return ret;
}
