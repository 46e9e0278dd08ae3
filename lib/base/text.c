#include "base/text.h"

#include <stdarg.h>
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
