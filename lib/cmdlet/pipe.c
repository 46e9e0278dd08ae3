/* Cmdlets behind one another in a pipe. A cmdlet writes for people, so what comes in is the table
 * of the one before (or its JSON); of a table, the headings tell where columns begin, for each is
 * as wide as its widest cell. A unit stays in the name, MemoryAssigned(M): no parameter takes it.
 *
 * Which parameters take something is in the table (CMDLET_PIPELINE). As in PowerShell it is the
 * member of the same name, but that a virtual machine's parameter takes any object that belongs to
 * one, and a switch's a switch. What came from another host is sought there. */
#include "cmdlet/cmdlet.h"

#include "base/macros.h"
#include "base/text.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define MAX_COLUMNS  64
#define MAX_PER_CALL 1024 /* names in one request; see value.c */

/* ---- reading ---- */

static bool is_rule(const char *line, size_t len)
{
	return len > 0 && line[0] == '-' && strspn(line, "- ") >= len;
}

/* The byte at which the n-th character of a line begins, or its end. */
static size_t byte_of_character(const char *line, size_t len, size_t n)
{
	size_t at = 0;

	while (at < len && n > 0) {
		at++;
		while (at < len && ((unsigned char)line[at] & 0xc0) == 0x80)
			at++;
		n--;
	}
	return at;
}

struct column {
	char key[48];
	size_t begin; /* character */
};

/* Headings have no spaces, and are ASCII. */
static size_t read_headings(const char *line, size_t len, struct column *columns)
{
	size_t count = 0, at = 0;

	while (at < len && count < MAX_COLUMNS) {
		struct column *column = &columns[count];
		size_t word = 0;

		while (at + word < len && line[at + word] != ' ')
			word++;
		column->begin = at;
		column->key[0] = '\0';
		if (word < sizeof(column->key)) {
			memcpy(column->key, line + at, word);
			column->key[word] = '\0';
		}
		count++;
		at += word;
		while (at < len && line[at] == ' ')
			at++;
	}
	return count;
}

static json_t *read_row(const char *line, size_t len, const struct column *columns, size_t count)
{
	json_t *object = json_object();

	for (size_t i = 0; i < count; i++) {
		size_t begin = byte_of_character(line, len, columns[i].begin);
		size_t end =
		    i + 1 < count ? byte_of_character(line, len, columns[i + 1].begin) : len;

		while (end > begin && line[end - 1] == ' ')
			end--;
		/* An empty cell is a property without a value; what is no UTF-8 is left out. */
		if (columns[i].key[0])
			json_object_set_new(object, columns[i].key,
					    end > begin ? json_stringn(line + begin, end - begin)
							: json_null());
	}
	return object;
}

static int read_tables(const char *text, size_t size, json_t *objects, struct error *err)
{
	struct column columns[MAX_COLUMNS];
	const char *end = text + size;
	size_t count = 0;

	while (text < end) {
		size_t len = strcspn(text, "\n"), next = MIN(len + 1, (size_t)(end - text));
		size_t next_len = strcspn(text + next, "\n");

		if (is_rule(text + next, next_len)) {
			/* As a value, tables are apart by a comma; headings have none. */
			const char *comma = count ? memrchr(text, ',', len) : NULL;
			size_t skip = comma ? (size_t)(comma + 1 - text) : 0;

			if (skip > 1)
				json_array_append_new(objects,
						      read_row(text, skip - 1, columns, count));
			text += skip;
			len -= skip;
			next -= skip;
			count = read_headings(text, len, columns);
			next += MIN(next_len + 1, (size_t)(end - text) - next);
		} else if (len && !count) {
			return error_set(err, ERR_INVALID,
					 "what comes through the pipe is not what a cmdlet shows: "
					 "'%.*s'",
					 (int)MIN(len, 60u), text);
		} else if (len) {
			json_array_append_new(objects, read_row(text, len, columns, count));
		}
		text += next;
	}
	return 0;
}

/* One cmdlet writes one list; several may have written here. */
static int read_json(const char *text, size_t size, json_t *objects, struct error *err)
{
	for (;;) {
		/* As values they are apart by commas. */
		size_t between = strspn(text, " \t\r\n,");
		json_error_t error;
		json_t *list;

		text += between;
		size -= between;
		if (!*text)
			return 0;
		list = json_loadb(text, size, JSON_DISABLE_EOF_CHECK, &error);

		if (!list)
			return error_set(err, ERR_INVALID,
					 "what comes through the pipe is not JSON: %s", error.text);
		if (json_is_array(list))
			json_array_extend(objects, list);
		else
			json_array_append(objects, list);
		json_decref(list);
		text += error.position;
		size -= (size_t)error.position;
	}
}

bool cmdlet_is_objects(const char *text)
{
	return strchr(text, '\n') || strcmp(text, "[]") == 0;
}

char *cmdlet_device_of(const json_t *object)
{
	const char *bus = json_string_value(json_object_get(object, "ControllerType"));
	const json_t *controller = json_object_get(object, "ControllerNumber");
	const json_t *location = json_object_get(object, "ControllerLocation");
	const char *name = json_string_value(json_object_get(object, "Name"));

	/* Tables have texts, JSON has numbers. */
	if (bus && json_is_string(controller) && json_is_string(location))
		return text_format("%s:%s:%s", bus, json_string_value(controller),
				   json_string_value(location));
	if (bus && json_is_integer(controller) && json_is_integer(location))
		return text_format("%s:%lld:%lld", bus, (long long)json_integer_value(controller),
				   (long long)json_integer_value(location));
	return name && json_object_get(object, "MacAddress") ? text_format("%s", name) : NULL;
}

int cmdlet_read_objects(const char *text, json_t **ret, struct error *err)
{
	const char *first = text + strspn(text, " \t\r\n");
	json_t *objects = json_array();
	int r = *first == '[' || *first == '{' ? read_json(first, strlen(first), objects, err)
					       : read_tables(text, strlen(text), objects, err);

	if (r < 0) {
		json_decref(objects);
		return r;
	}
	*ret = objects;
	return 0;
}

/* ---- binding ---- */

static bool is_given(const json_t *value)
{
	return value && !json_is_null(value) &&
	       !(json_is_string(value) && json_string_length(value) == 0);
}

static bool is_vm(const json_t *object)
{
	return json_object_get(object, "Name") && !json_object_get(object, "Id") &&
	       (json_object_get(object, "State") || json_object_size(object) == 1);
}

static const struct cmdlet_param *param_offering(const struct cmdlet *cmdlet,
						 enum cmdlet_offer offer)
{
	for (const struct cmdlet_param *p = cmdlet->params; p->name; p++)
		if (p->offer == offer)
			return p;
	return NULL;
}

static json_t *member_named(const struct cmdlet_param *param, const json_t *object)
{
	const char *alias = param->aliases;
	json_t *value = json_object_get(object, param->name);

	while (!value && alias && *alias) {
		size_t len = strcspn(alias, " ");
		char name[48] = "";

		if (len < sizeof(name))
			memcpy(name, alias, len);
		value = json_object_get(object, name);
		alias += len + strspn(alias + len, " ");
	}
	return value;
}

/* Is the parameter the name of something in a virtual machine? */
static bool is_name_of_part(const struct cmdlet *cmdlet, const struct cmdlet_param *param)
{
	const struct cmdlet_param *vm = param_offering(cmdlet, CMDLET_OFFER_VM);

	return vm && vm != param && (vm->flags & CMDLET_PIPELINE) &&
	       strcmp(param->name, "Name") == 0;
}

/* The checkpoint that an object is, or is part of. An identifier, which only JSON has, is exact. */
static json_t *checkpoint_of(const json_t *object)
{
	bool is_one = json_object_get(object, "SnapshotType");
	json_t *id = json_object_get(object, is_one ? "Id" : "VMSnapshotId");

	return id ? id : json_object_get(object, is_one ? "Name" : "VMSnapshotName");
}

void cmdlet_name_objects(const struct cmdlet_param *param, json_t *objects)
{
	for (size_t i = 0; i < json_array_size(objects); i++) {
		json_t *object = json_array_get(objects, i),
		       *name = json_object_get(object, "Name");
		json_t *checkpoint = is_vm(object) ? name : checkpoint_of(object);

		if (checkpoint)
			json_object_set(object, param->name, checkpoint);
	}
}

/* What of the object a parameter takes; borrowed. */
static json_t *member_for(const struct cmdlet *cmdlet, const struct cmdlet_param *param,
			  const json_t *object)
{
	json_t *name = json_object_get(object, "Name");
	bool is_checkpoint = json_object_get(object, "SnapshotType");

	switch (param->offer) {
	case CMDLET_OFFER_CHECKPOINT:
		if (strcmp(param->name, "VMSnapshot") == 0)
			return checkpoint_of(object);
		return member_named(param, object);
	case CMDLET_OFFER_VM:
		return is_vm(object) ? name : json_object_get(object, "VMName");
	case CMDLET_OFFER_SWITCH:
		return json_object_get(object, "SwitchType")
			   ? name
			   : json_object_get(object, "SwitchName");
	default:
		if (is_name_of_part(cmdlet, param) &&
		    (is_checkpoint || !json_object_get(object, "VMName")))
			return NULL;
		return member_named(param, object);
	}
}

/* Names that patterns are matched with, even where only one may match. */
static bool is_pattern(const struct cmdlet_param *param)
{
	return (param->flags & CMDLET_WILDCARD) || param->offer == CMDLET_OFFER_VM ||
	       param->offer == CMDLET_OFFER_CHECKPOINT;
}

/* A name means itself only: its wildcards are put in brackets. */
static json_t *literal(const struct cmdlet_param *param, json_t *value)
{
	const char *text = json_string_value(value);
	char *quoted, *p;
	json_t *result;

	if (!text || !is_pattern(param) || !cmdlet_has_wildcard(text))
		return json_incref(value);
	p = quoted = malloc(3 * strlen(text) + 1);
	if (!quoted)
		abort();
	for (; *text; text++) {
		bool wild = strchr("*?[", *text);

		if (wild)
			*p++ = '[';
		*p++ = *text;
		if (wild)
			*p++ = ']';
	}
	*p = '\0';
	result = json_string(quoted);
	free(quoted);
	return result;
}

/* The parameters of one object's request: those given, and what it gives. NULL: it gives none. */
static json_t *bind_object(const struct cmdlet *cmdlet, const json_t *params, const json_t *object)
{
	json_t *request = json_copy((json_t *)params);
	unsigned sets = cmdlet_possible_sets(cmdlet, params);
	json_t *host = json_object_get(object, CMDLET_ORIGIN);
	bool bound = false;

	for (const struct cmdlet_param *p = cmdlet->params; p->name; p++) {
		json_t *value = p->flags & CMDLET_PIPELINE ? member_for(cmdlet, p, object) : NULL;

		if (!is_given(value) || json_object_get(params, p->name) ||
		    (p->sets && !(p->sets & sets)))
			continue;
		json_object_set_new(request, p->name, literal(p, value));
		sets &= p->sets ? p->sets : sets;
		bound = true;
	}
	if (!bound) {
		json_decref(request);
		return NULL;
	}
	if (is_given(host) && !json_object_get(params, "ComputerName"))
		json_object_set_new(request, "ComputerName", json_pack("[O]", host));
	return request;
}

/* The one list parameter that two requests differ in, or NULL. */
static const struct cmdlet_param *only_list(const struct cmdlet *cmdlet, const json_t *params,
					    const json_t *request)
{
	const struct cmdlet_param *only = NULL;

	for (const struct cmdlet_param *p = cmdlet->params; p->name; p++) {
		if (!json_object_get(request, p->name) || json_object_get(params, p->name))
			continue;
		if (only || !(p->flags & CMDLET_LIST))
			return NULL;
		only = p;
	}
	return only;
}

/* Requests that differ only in one list become one. */
static void add_request(const struct cmdlet *cmdlet, const json_t *params, json_t *requests,
			json_t *request)
{
	const struct cmdlet_param *list = only_list(cmdlet, params, request);
	json_t *last = json_array_get(requests, json_array_size(requests) - 1), *value, *names;

	if (!list) {
		json_array_append_new(requests, request);
		return;
	}
	value = json_object_get(request, list->name);
	names = json_object_get(last, list->name);
	if (json_is_array(names) && json_array_size(names) < MAX_PER_CALL &&
	    only_list(cmdlet, params, last) == list) {
		json_array_append(names, value);
		json_decref(request);
		return;
	}
	json_object_set_new(request, list->name,
			    json_is_array(value) ? json_incref(value) : json_pack("[O]", value));
	json_array_append_new(requests, request);
}

/* What belongs to a checkpoint is not the virtual machine's of now. */
static int refuse_object(const struct cmdlet *cmdlet, const json_t *object, struct error *err)
{
	const struct cmdlet_param *vm = param_offering(cmdlet, CMDLET_OFFER_VM);
	bool takes_vm = vm && (vm->flags & CMDLET_PIPELINE);

	if (!json_is_object(object))
		return error_set(err, ERR_INVALID,
				 "what comes through the pipe is not a list of objects");
	if (takes_vm && is_given(checkpoint_of(object)) &&
	    !param_offering(cmdlet, CMDLET_OFFER_CHECKPOINT))
		return error_set(err, ERR_UNSUPPORTED,
				 "%s is for the virtual machine itself, not for a checkpoint",
				 cmdlet->name);
	return 0;
}

int cmdlet_bind_objects(const struct cmdlet *cmdlet, const json_t *params, const json_t *objects,
			json_t **ret, struct error *err)
{
	json_t *requests = json_array();
	int r = 0;

	for (size_t i = 0; r == 0 && i < json_array_size(objects); i++) {
		const json_t *object = json_array_get(objects, i);
		json_t *request = NULL;

		r = refuse_object(cmdlet, object, err);
		if (r == 0)
			request = bind_object(cmdlet, params, object);
		if (request)
			add_request(cmdlet, params, requests, request);
		else if (r == 0)
			r = error_set(err, ERR_INVALID,
				      "what comes through the pipe has nothing that %s takes",
				      cmdlet->name);
	}
	if (r < 0) {
		json_decref(requests);
		return r;
	}
	*ret = requests;
	return 0;
}
