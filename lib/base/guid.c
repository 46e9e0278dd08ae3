#include "base/guid.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

/* Position in b[] of each byte in the order of the text. */
static const uint8_t text_order[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

bool guid_parse(const char *text, struct guid *ret)
{
	struct guid guid;
	bool braces = *text == '{';

	text += braces;
	for (int i = 0; i < 16; i++) {
		int hi, lo;

		if (i == 4 || i == 6 || i == 8 || i == 10)
			if (*text++ != '-')
				return false;
		hi = hex_digit(text[0]);
		if (hi < 0)
			return false;
		lo = hex_digit(text[1]);
		if (lo < 0)
			return false;
		guid.b[text_order[i]] = (uint8_t)(hi << 4 | lo);
		text += 2;
	}
	if (braces && *text++ != '}')
		return false;
	if (*text != '\0')
		return false;
	*ret = guid;
	return true;
}

char *guid_format(const struct guid *guid, char ret[static GUID_TEXT_SIZE])
{
	char *p = ret;

	for (int i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		sprintf(p, "%02x", guid->b[text_order[i]]);
		p += 2;
	}
	return ret;
}

void guid_generate(struct guid *ret)
{
	if (getrandom(ret, sizeof(*ret), 0) != (ssize_t)sizeof(*ret))
		abort(); /* 16 bytes never fail once the host has booted */
	ret->b[7] = (uint8_t)((ret->b[7] & 0x0f) | 0x40);
	ret->b[8] = (uint8_t)((ret->b[8] & 0x3f) | 0x80);
}
