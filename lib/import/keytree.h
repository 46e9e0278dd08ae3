/*
 * The tree of keys that Hyper-V's configuration files hold, the same in .vmcx and in XML
 * (version 5.0): nodes, and leaves with a typed value. Sibling names need not be unique, and
 * children keep the file's order. Names compare without case.
 *
 * A tree belongs to the caller of whoever made it: key_free(root). Its root has the name "".
 */
#ifndef IMPORT_KEYTREE_H
#define IMPORT_KEYTREE_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Deeper files are refused: Hyper-V's own stay below 10. */
#define KEY_MAX_DEPTH 32

enum key_type { KEY_NODE, KEY_INTEGER, KEY_REAL, KEY_TEXT, KEY_BYTES, KEY_BOOL };

struct key {
	char *name; /* UTF-8 */
	enum key_type type;
	int64_t integer; /* KEY_INTEGER; KEY_BOOL: 0 or 1 */
	double real;
	char *text; /* KEY_TEXT: UTF-8 */
	uint8_t *bytes;
	size_t size; /* of KEY_BYTES */
	struct key *first, *last, *next;
};

/* NULL: no memory. name is copied. */
struct key *key_new(const char *name, enum key_type type);
/* Takes child. */
void key_append(struct key *parent, struct key *child);
void key_free(struct key *key);

/* Looks up "a/b/c" below key; of siblings with one name the first. NULL: not there. */
const struct key *key_find(const struct key *key, const char *path);
/* The child of that name behind `after` (NULL: the first one). */
const struct key *key_child(const struct key *key, const char *name, const struct key *after);

/* The value of a leaf below key, or dflt where it is not there or of another type. */
const char *key_text(const struct key *key, const char *path, const char *dflt);
int64_t key_integer(const struct key *key, const char *path, int64_t dflt);
bool key_bool(const struct key *key, const char *path, bool dflt);

#endif
