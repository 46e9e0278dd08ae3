#include "base/text.h"

#include "base/macros.h"

#include <libgen.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *text_format(const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		abort();
	va_end(ap);
	return text;
}

char *text_folder(const char *path)
{
	AUTO_FREE char *copy = text_format("%s", path);

	return text_format("%s", dirname(copy));
}

/* Bytes of the character there; 0: it is none. RFC 3629: no overlong forms, no surrogates, nothing
 * beyond U+10FFFF. */
static size_t character(const unsigned char *p)
{
	unsigned least = 0x80, most = 0xbf;
	size_t len = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;

	if (p[0] == 0xe0)
		least = 0xa0;
	if (p[0] == 0xed)
		most = 0x9f;
	if (p[0] == 0xf0)
		least = 0x90;
	if (p[0] == 0xf4)
		most = 0x8f;
	if (p[0] > 0xf4 || (len > 1 && (p[1] < least || p[1] > most)))
		return 0;
	for (size_t i = 2; i < len; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	return len;
}

static bool is_beginning_at_end(const unsigned char *p)
{
	size_t len = 1;

	while ((p[len] & 0xc0) == 0x80)
		len++;
	return p[0] >= 0xc2 && p[0] <= 0xf4 && len < 4 && !p[len];
}

void text_mend(char *text)
{
	size_t len;

	for (unsigned char *p = (unsigned char *)text; *p; p += len) {
		len = character(p);
		if (len)
			continue;
		if (is_beginning_at_end(p)) {
			*p = '\0';
			return;
		}
		*p = '?';
		len = 1;
	}
}

void text_split_address(const char *text, char **ret_host, char **ret_port)
{
	const char *colon = strrchr(text, ':'), *bracket = strchr(text, ']');
	size_t len;

	/* More than one colon without brackets: an IPv6 address alone. */
	if (colon && (bracket ? colon < bracket : strchr(text, ':') != colon))
		colon = NULL;
	*ret_port = colon ? text_format("%s", colon + 1) : NULL;
	len = colon ? (size_t)(colon - text) : strlen(text);
	if (bracket && text[0] == '[') {
		text++;
		len = (size_t)(bracket - text);
	}
	*ret_host = text_format("%.*s", (int)len, text);
}
