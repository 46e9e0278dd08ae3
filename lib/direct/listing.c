#include "direct/listing.h"

#include <ctype.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Neither absolute nor through "..", nor written in a way that hides what it is. */
static bool stays_inside(const char *path)
{
	if (!*path)
		return true;
	if (strlen(path) >= PATH_MAX / 2)
		return false;
	for (const char *p = path;; p++) {
		size_t len = strcspn(p, "/");

		if (len == 0 || (len == 1 && p[0] == '.') ||
		    (len == 2 && p[0] == '.' && p[1] == '.'))
			return false;
		p += len;
		if (!*p)
			return true;
	}
}

/* A number, and what stands behind it. */
static bool take_number(char **p, char behind, long long *ret)
{
	if (!isdigit((unsigned char)**p))
		return false;
	*ret = strtoll(*p, p, 10);
	return *ret < LLONG_MAX && *(*p)++ == behind;
}

/* The fraction of a second has ten digits, of which the last one is 0. Before 1970 the number is
 * negative, and means nothing to us. */
static bool take_time(char **p, struct timespec *ret)
{
	const char *fraction;
	long long seconds, digits;

	*p += **p == '-';
	if (!take_number(p, '.', &seconds))
		return false;
	fraction = *p;
	if (!take_number(p, ' ', &digits) || *p - fraction != 11)
		return false;
	*ret = (struct timespec){ (time_t)seconds, (long)(digits / 10) };
	return true;
}

int direct_listing_next(char **at, char *end, struct direct_item *ret)
{
	char *p = *at, *zero = memchr(p, '\0', (size_t)(end - p));

	if (p == end)
		return 0;
	if (!zero || zero - p < 2 || p[1] != ' ')
		return -1;
	ret->type = p[0];
	p += 2;
	if (!take_number(&p, ' ', &ret->size) || !take_time(&p, &ret->modified) || !stays_inside(p))
		return -1;
	ret->path = p;
	*at = zero + 1;
	return 1;
}
