/*
 * What a guest says is in one of its folders: the output of
 *
 *	find . -printf '%y %s %T@ %P\0'
 *
 * It is not trusted: a path is given back only if it stays inside the folder. No object here
 * belongs to a thread.
 */
#ifndef DIRECT_LISTING_H
#define DIRECT_LISTING_H

#include <stddef.h>
#include <time.h>

struct direct_item {
	char type; /* f, d, l, and what else `find` calls %y */
	long long size;
	struct timespec modified;
	const char *path; /* "": the folder itself */
};

/* Cuts the next item out of the text between *at and end, which is changed. 1: *ret is it, and
 * points there; 0: there is none any more; -1: that is no listing. */
int direct_listing_next(char **at, char *end, struct direct_item *ret);

#endif
