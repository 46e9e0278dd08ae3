#include "import/keytree.h"

#include "base/bytes.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define REPLACEMENT 0xFFFDu

struct key *key_new(const char *name, enum key_type type)
{
	struct key *key = calloc(1, sizeof(*key));

	if (!key)
		return NULL;
	key->type = type;
	key->name = strdup(name);
	if (!key->name) {
		free(key);
		return NULL;
	}
	return key;
}

void key_append(struct key *parent, struct key *child)
{
	if (parent->last)
		parent->last->next = child;
	else
		parent->first = child;
	parent->last = child;
}

/* No recursion: a damaged file may be as deep as it is long until it is refused. */
void key_free(struct key *key)
{
	while (key) {
		struct key *next = key->next;

		/* The children go in front of the siblings. */
		if (key->last) {
			key->last->next = next;
			next = key->first;
		}
		free(key->name);
		free(key->text);
		free(key->bytes);
		free(key);
		key = next;
	}
}

const struct key *key_child(const struct key *key, const char *name, const struct key *after)
{
	const struct key *child = after ? after->next : key ? key->first : NULL;

	while (child && strcasecmp(child->name, name) != 0)
		child = child->next;
	return child;
}

static const struct key *child_of_length(const struct key *key, const char *name, size_t length)
{
	const struct key *child = key->first;

	while (child &&
	       (strncasecmp(child->name, name, length) != 0 || child->name[length] != 0))
		child = child->next;
	return child;
}

const struct key *key_find(const struct key *key, const char *path)
{
	while (key && *path) {
		size_t length = strcspn(path, "/");

		key = child_of_length(key, path, length);
		path += length;
		path += *path == '/';
	}
	return key;
}

const char *key_text(const struct key *key, const char *path, const char *dflt)
{
	const struct key *leaf = key_find(key, path);

	return leaf && leaf->type == KEY_TEXT ? leaf->text : dflt;
}

int64_t key_integer(const struct key *key, const char *path, int64_t dflt)
{
	const struct key *leaf = key_find(key, path);

	return leaf && leaf->type == KEY_INTEGER ? leaf->integer : dflt;
}

bool key_bool(const struct key *key, const char *path, bool dflt)
{
	const struct key *leaf = key_find(key, path);

	return leaf && leaf->type == KEY_BOOL ? leaf->integer != 0 : dflt;
}

/* ---- text ---- */

static char *put_utf8(char *out, uint32_t c)
{
	if (c < 0x80) {
		*out++ = (char)c;
		return out;
	}
	if (c < 0x800) {
		*out++ = (char)(0xC0 | c >> 6);
	} else {
		if (c < 0x10000) {
			*out++ = (char)(0xE0 | c >> 12);
		} else {
			*out++ = (char)(0xF0 | c >> 18);
			*out++ = (char)(0x80 | (c >> 12 & 0x3F));
		}
		*out++ = (char)(0x80 | (c >> 6 & 0x3F));
	}
	*out++ = (char)(0x80 | (c & 0x3F));
	return out;
}

char *key_utf8(const uint8_t *utf16, size_t size)
{
	size_t count = size / 2;
	char *text = malloc(count * 3 + 1), *out = text;

	if (!text)
		return NULL;
	for (size_t i = 0; i < count; i++) {
		uint32_t c = load_le16(utf16 + 2 * i);
		uint32_t low = i + 1 < count ? load_le16(utf16 + 2 * i + 2) : 0;

		if (c == 0)
			break;
		if (c >= 0xD800 && c < 0xDC00 && low >= 0xDC00 && low < 0xE000) {
			c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
			i++;
		} else if (c >= 0xD800 && c < 0xE000) {
			c = REPLACEMENT;
		}
		out = put_utf8(out, c);
	}
	*out = 0;
	return text;
}
