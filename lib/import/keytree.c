#include "import/keytree.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

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

	while (child && (strncasecmp(child->name, name, length) != 0 || child->name[length] != 0))
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
