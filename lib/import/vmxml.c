#include "import/vmxml.h"

#include "base/macros.h"

#include <errno.h>
#include <expat.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_LEAF_BYTES (4 * MIB)

struct parse {
	XML_Parser xml;
	struct key *stack[KEY_MAX_DEPTH + 1]; /* [0]: the root */
	unsigned depth;
	char *text; /* of the leaf that is open */
	size_t text_size;
	struct error *err;
	int rc;
};

static void fail(struct parse *p, int rc)
{
	if (p->rc == 0)
		p->rc = rc;
	XML_StopParser(p->xml, XML_FALSE);
}

static void refuse(struct parse *p, const char *what)
{
	fail(p, error_set(p->err, ERR_CORRUPT, "%s in line %lu", what,
			  (unsigned long)XML_GetCurrentLineNumber(p->xml)));
}

/* The type attribute, or NULL: a node. */
static const char *type_of(const XML_Char **attributes)
{
	for (; attributes[0]; attributes += 2)
		if (strcmp(attributes[0], "type") == 0)
			return attributes[1];
	return NULL;
}

static bool key_type_of(const char *name, enum key_type *ret)
{
	static const struct {
		const char *name;
		enum key_type type;
	} types[] = { { "string", KEY_TEXT },
		      { "integer", KEY_INTEGER },
		      { "bool", KEY_BOOL },
		      { "bytes", KEY_BYTES } };

	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (strcasecmp(types[i].name, name) == 0) {
			*ret = types[i].type;
			return true;
		}
	return false;
}

static void XMLCALL on_start(void *user, const XML_Char *name, const XML_Char **attributes)
{
	struct parse *p = user;
	const char *type_name = type_of(attributes);
	enum key_type type = KEY_NODE;
	struct key *key;

	if (p->rc < 0)
		return;
	if (p->stack[p->depth]->type != KEY_NODE) {
		refuse(p, "an element inside a value");
		return;
	}
	if (type_name && !key_type_of(type_name, &type)) {
		refuse(p, "a value of an unknown type");
		return;
	}
	if (p->depth == KEY_MAX_DEPTH) {
		refuse(p, "too many nested elements");
		return;
	}
	key = key_new(name, type);
	if (!key)
		abort();
	key_append(p->stack[p->depth], key);
	p->stack[++p->depth] = key;
	p->text_size = 0;
}

static void XMLCALL on_text(void *user, const XML_Char *text, int length)
{
	struct parse *p = user;
	size_t size = p->text_size + (size_t)length;

	if (p->rc < 0 || p->stack[p->depth]->type == KEY_NODE)
		return; /* white space between elements */
	if (size > MAX_LEAF_BYTES) {
		refuse(p, "a value of more than 4 MiB");
		return;
	}
	p->text = realloc(p->text, size + 1);
	if (!p->text)
		abort();
	memcpy(p->text + p->text_size, text, (size_t)length);
	p->text_size = size;
}

/* ---- values ---- */

static int base64_digit(char c)
{
	static const char digits[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *at = c ? strchr(digits, c) : NULL;

	return at ? (int)(at - digits) : -1;
}

/* White space is skipped; ends at the first '='. */
static bool take_base64(struct key *key, const char *text)
{
	uint32_t bits = 0;
	unsigned count = 0;

	key->bytes = malloc(strlen(text) / 4 * 3 + 3);
	if (!key->bytes)
		abort();
	for (; *text && *text != '='; text++) {
		int digit = base64_digit(*text);

		if (strchr(" \t\r\n", *text))
			continue;
		if (digit < 0)
			return false;
		bits = bits << 6 | (uint32_t)digit;
		if (++count % 4 != 1)
			key->bytes[key->size++] = (uint8_t)(bits >> (6 - 2 * ((count - 1) % 4)));
	}
	return true;
}

static bool take_integer(struct key *key, const char *text)
{
	char *end;

	errno = 0;
	key->integer = strtoll(text, &end, 10);
	return end != text && *end == 0 && errno == 0;
}

static bool take_bool(struct key *key, const char *text)
{
	key->integer = strcasecmp(text, "true") == 0;
	return key->integer || strcasecmp(text, "false") == 0;
}

static bool take_value(struct key *key, const char *text)
{
	switch (key->type) {
	case KEY_TEXT:
		key->text = strdup(text);
		return key->text != NULL;
	case KEY_INTEGER:
		return take_integer(key, text);
	case KEY_BOOL:
		return take_bool(key, text);
	case KEY_BYTES:
		return take_base64(key, text);
	default:
		return true;
	}
}

static void XMLCALL on_end(void *user, const XML_Char *name)
{
	struct parse *p = user;
	struct key *key = p->stack[p->depth];

	if (p->rc < 0) /* expat may still tell the end of an empty element */
		return;
	if (p->text)
		p->text[p->text_size] = 0;
	if (!take_value(key, p->text && p->text_size ? p->text : "")) {
		refuse(p, "a value that is not of its type");
		return;
	}
	p->text_size = 0;
	p->depth--;
}

static void XMLCALL on_doctype(void *user, const XML_Char *name, const XML_Char *system,
			       const XML_Char *public, int has_subset)
{
	refuse(user, "a document type, which Hyper-V never writes,");
}

/* What the bytes say, which overrides the declaration. */
static const char *encoding(const uint8_t *data, size_t size)
{
	if (size >= 2 && ((data[0] == 0xFF && data[1] == 0xFE) || (data[0] == '<' && !data[1])))
		return "UTF-16LE";
	if (size >= 2 && ((data[0] == 0xFE && data[1] == 0xFF) || (!data[0] && data[1] == '<')))
		return "UTF-16BE";
	return "UTF-8";
}

static int run(struct parse *p, const uint8_t *data, size_t size)
{
	if (XML_Parse(p->xml, (const char *)data, (int)size, XML_TRUE) == XML_STATUS_OK)
		return 0;
	if (p->rc == 0)
		p->rc = error_set(p->err, ERR_CORRUPT, "line %lu: %s",
				  (unsigned long)XML_GetCurrentLineNumber(p->xml),
				  XML_ErrorString(XML_GetErrorCode(p->xml)));
	return p->rc;
}

int vmxml_read(const uint8_t *data, size_t size, struct key **ret, struct error *err)
{
	struct parse p = { .err = err };
	const char *name = encoding(data, size);
	bool mark = size >= 2 && (data[0] == 0xFF || data[0] == 0xFE);

	if (size > INT32_MAX)
		return error_set(err, ERR_LIMIT, "the file is too large");
	p.stack[0] = key_new("", KEY_NODE);
	p.xml = XML_ParserCreate(name);
	if (!p.xml || !p.stack[0])
		abort();
	XML_SetUserData(p.xml, &p);
	XML_SetElementHandler(p.xml, on_start, on_end);
	XML_SetCharacterDataHandler(p.xml, on_text);
	XML_SetStartDoctypeDeclHandler(p.xml, on_doctype);
	run(&p, data + (mark ? 2 : 0), size - (mark ? 2 : 0));
	XML_ParserFree(p.xml);
	free(p.text);
	if (p.rc < 0)
		key_free(p.stack[0]);
	else
		*ret = p.stack[0];
	return p.rc;
}
