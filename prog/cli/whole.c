#include "whole.h"

#include "base/macros.h"

#include <string.h>

/* Does the cmdlet show objects in a table like that of row? */
static bool shows(const struct cmdlet *cmdlet, const json_t *row)
{
	size_t count = 0;

	if (cmdlet->place != CMDLET_IN_DAEMON || !cmdlet->output ||
	    strncmp(cmdlet->name, "Get-", 4) != 0)
		return false;
	for (const struct cmdlet_column *c = cmdlet->output->columns; c->key; c++) {
		bool there = c->heading && json_object_get(row, c->heading);

		if (c->heading && !there && c->format != CMDLET_SHOW_IF_THERE)
			return false;
		count += there;
	}
	return count + (json_object_get(row, CMDLET_ORIGIN) != NULL) == json_object_size(row);
}

static const struct cmdlet *cmdlet_showing(const json_t *row)
{
	const struct cmdlet *cmdlet;

	for (size_t i = 0; (cmdlet = cmdlet_at(i)); i++)
		if (shows(cmdlet, row))
			return cmdlet;
	return NULL;
}

/* A cell says the same as a property: texts, and whole numbers. */
static bool says(const json_t *cell, const json_t *value)
{
	const char *text = json_is_null(cell) ? "" : json_string_value(cell);
	AUTO_FREE char *number = json_is_integer(value) ? json_dumps(value, JSON_ENCODE_ANY) : NULL;

	if (!text)
		return false;
	if (number)
		return strcmp(text, number) == 0;
	return strcmp(text, json_is_string(value) ? json_string_value(value) : "") == 0;
}

/* The properties that tell one object from another; others change. */
static bool is_same(const json_t *row, const json_t *object)
{
	static const char *const identity[] = {
		"Name",   "VMName", "VMSnapshotName", "ControllerType", "ControllerNumber",
		"NodeId", "Path",   "MacAddress",     "UserName",       "ControllerLocation",
		"Id",     "Key",    "CreationTime",   CMDLET_ORIGIN,
	};

	for (size_t i = 0; i < ARRAY_SIZE(identity); i++) {
		const json_t *cell = json_object_get(row, identity[i]);

		if (cell && !says(cell, json_object_get(object, identity[i])))
			return false;
	}
	return true;
}

static json_t *find(const json_t *row, const json_t *objects)
{
	for (size_t i = 0; i < json_array_size(objects); i++)
		if (is_same(row, json_array_get(objects, i)))
			return json_array_get(objects, i);
	return NULL;
}

/* What the cmdlet finds of the rows' virtual machines, or files; of everything, where it can't be
 * told. */
static json_t *fetch_all(const struct cmdlet *cmdlet, const json_t *rows, whole_fetch fetch)
{
	json_t *requests, *none = json_object(), *all = json_array();

	if (cmdlet_bind_objects(cmdlet, none, rows, &requests, NULL) < 0)
		requests = json_pack("[{}]");
	for (size_t i = 0; i < json_array_size(requests); i++) {
		json_t *some = fetch(cmdlet, json_array_get(requests, i));

		json_array_extend(all, some);
		json_decref(some);
	}
	json_decref(requests);
	json_decref(none);
	return all;
}

json_t *whole_objects(const json_t *rows, whole_fetch fetch)
{
	const struct cmdlet *cmdlet = cmdlet_showing(json_array_get(rows, 0));
	json_t *all, *whole;

	if (!cmdlet)
		return NULL;
	all = fetch_all(cmdlet, rows, fetch);
	whole = json_array();
	for (size_t i = 0; i < json_array_size(rows); i++) {
		json_t *row = json_array_get(rows, i), *found = find(row, all);
		json_t *object = json_copy(found ? found : row);

		json_object_set(object, WHOLE_ROW, row);
		json_array_append_new(whole, object);
	}
	json_decref(all);
	return whole;
}
