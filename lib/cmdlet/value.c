#include "cmdlet/value.h"

#include "base/guid.h"
#include "base/macros.h"

#include <ctype.h>
#include <errno.h>
#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_LIST 1024

/* ---- single values ---- */

bool cmdlet_parse_size(const char *text, int64_t *ret)
{
	static const struct {
		const char *name;
		unsigned shift;
	} units[] = { { "", 0 },    { "b", 0 },   { "kb", 10 }, { "mb", 20 },
		      { "gb", 30 }, { "tb", 40 }, { "pb", 50 } };
	char *end;
	double number;

	if (!isdigit((unsigned char)*text))
		return false;
	errno = 0;
	if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
		unsigned long long hex = strtoull(text, &end, 16);

		if (errno || *end || hex > INT64_MAX)
			return false;
		*ret = (int64_t)hex;
		return true;
	}
	number = strtod(text, &end);
	for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
		double bytes;

		if (strcasecmp(end, units[i].name) != 0)
			continue;
		bytes = ldexp(number, (int)units[i].shift);
		if (errno || !(bytes < 9e18) || bytes != floor(bytes))
			return false;
		*ret = (int64_t)bytes;
		return true;
	}
	return false;
}

bool cmdlet_has_wildcard(const char *text)
{
	return strpbrk(text, "*?[") != NULL;
}

bool cmdlet_wildcard_match(const char *pattern, const char *text)
{
	if (!cmdlet_has_wildcard(pattern))
		return strcasecmp(pattern, text) == 0;
	return fnmatch(pattern, text, FNM_CASEFOLD | FNM_NOESCAPE) == 0;
}

int value_boolean(const char *text)
{
	static const char *const words[2][5] = { { "false", "$false", "0", "no", "off" },
						 { "true", "$true", "1", "yes", "on" } };

	for (int value = 0; value < 2; value++)
		for (size_t i = 0; i < ARRAY_SIZE(words[0]); i++)
			if (strcasecmp(words[value][i], text) == 0)
				return value;
	return -1;
}

/* The table's spelling of an enumerated value, or NULL. */
static json_t *enum_value(const struct cmdlet_param *param, const char *text)
{
	size_t len = strlen(text);
	const char *word = param->values;

	while (*word) {
		size_t word_len = strcspn(word, " ");

		if (word_len == len && strncasecmp(word, text, len) == 0)
			return json_stringn(word, word_len);
		word += word_len + strspn(word + word_len, " ");
	}
	return NULL;
}

static int bad_value(const struct cmdlet_param *param, const char *text, struct error *err)
{
	static const char *const wanted[] = {
		[CMDLET_STRING] = "a text in UTF-8",
		[CMDLET_FILE] = "a path in UTF-8",
		[CMDLET_INTEGER] = "a whole number",
		[CMDLET_SIZE] = "a size such as 512MB or 4GB",
		[CMDLET_BOOLEAN] = "true or false",
		[CMDLET_SWITCH] = "true or false",
		[CMDLET_GUID] = "a GUID",
		[CMDLET_MAC] = "a MAC address such as 00155D010203",
		[CMDLET_DEVICE] = "a device such as SCSI:0:1",
		[CMDLET_OBJECTS] = "what a cmdlet shows",
	};

	if (param->type == CMDLET_ENUM)
		return error_set(err, ERR_INVALID, "-%s: '%.60s' is none of: %s", param->name, text,
				 param->values);
	return error_set(err, ERR_INVALID, "-%s: '%.60s' is not %s", param->name, text,
			 wanted[param->type]);
}

static int check_range(const struct cmdlet_param *param, int64_t value, struct error *err)
{
	if (param->max == 0 || (value >= param->min && value <= param->max))
		return 0;
	return error_set(err, ERR_LIMIT, "-%s: %lld is not between %lld and %lld", param->name,
			 (long long)value, (long long)param->min, (long long)param->max);
}

static bool is_mac(const char *text)
{
	unsigned digits = 0;

	for (; *text; text++) {
		if (isxdigit((unsigned char)*text))
			digits++;
		else if (*text != ':' && *text != '-')
			return false;
	}
	return digits == 12;
}

static int integer_from_text(const struct cmdlet_param *param, const char *text, json_t **ret,
			     struct error *err)
{
	int64_t value;
	char *end;

	if (param->type == CMDLET_SIZE) {
		if (!cmdlet_parse_size(text, &value))
			return bad_value(param, text, err);
	} else {
		errno = 0;
		value = strtoll(text, &end, 0);
		if (errno || end == text || *end)
			return bad_value(param, text, err);
	}
	if (check_range(param, value, err) < 0)
		return -ERR_LIMIT;
	*ret = json_integer(value);
	return 0;
}

/* One value of a parameter (of a list: one element) from text. */
static int value_from_text(const struct cmdlet_param *param, const char *text, json_t **ret,
			   struct error *err)
{
	struct guid guid;
	json_t *value = NULL;
	int flag;

	switch (param->type) {
	case CMDLET_INTEGER:
	case CMDLET_SIZE:
		return integer_from_text(param, text, ret, err);
	case CMDLET_BOOLEAN:
	case CMDLET_SWITCH:
		flag = value_boolean(text);
		value = flag < 0 ? NULL : json_boolean(flag);
		break;
	case CMDLET_ENUM:
		value = enum_value(param, text);
		break;
	case CMDLET_GUID:
		value = guid_parse(text, &guid) ? json_string(text) : NULL;
		break;
	case CMDLET_MAC:
		value = is_mac(text) ? json_string(text) : NULL;
		break;
	case CMDLET_FILE:
		/* An empty one takes away what an optional parameter would set. */
		value = *text || !(param->flags & CMDLET_MANDATORY) ? json_string(text) : NULL;
		break;
	case CMDLET_DEVICE:
		value = *text ? json_string(text) : NULL;
		break;
	case CMDLET_STRING:
		value = json_string(text);
		break;
	case CMDLET_OBJECTS:
		break;
	}
	if (!value)
		return bad_value(param, text, err);
	*ret = value;
	return 0;
}

/* ---- lists ---- */

/* Splits at commas that have no backslash before them. */
static int list_from_text(const struct cmdlet_param *param, const char *text, json_t *list,
			  struct error *err)
{
	AUTO_FREE char *element = malloc(strlen(text) + 1);
	json_t *value;

	if (!element)
		return error_set(err, ERR_NO_MEMORY, "no memory");
	for (;;) {
		size_t len = 0;

		while (*text && *text != ',') {
			if (text[0] == '\\' && text[1] == ',')
				text++;
			element[len++] = *text++;
		}
		element[len] = '\0';
		if (value_from_text(param, element, &value, err) < 0)
			return -(int)err->code;
		json_array_append_new(list, value);
		if (!*text)
			return 0;
		text++;
	}
}

/* The devices that objects are. */
static int devices_from_objects(const struct cmdlet_param *param, const char *text, json_t *list,
				struct error *err)
{
	json_t *objects;
	int r = cmdlet_read_objects(text, &objects, err);

	if (r < 0)
		return error_prefix(err, "-%s", param->name);
	for (size_t i = 0; r == 0 && i < json_array_size(objects); i++) {
		AUTO_FREE char *device = cmdlet_device_of(json_array_get(objects, i));

		if (device)
			json_array_append_new(list, json_string(device));
		else
			r = error_set(err, ERR_INVALID, "-%s: neither a drive nor an adapter",
				      param->name);
	}
	json_decref(objects);
	return r;
}

static int put_devices(const struct cmdlet_param *param, const char *text, json_t *params,
		       struct error *err)
{
	json_t *list = json_array();
	int r = devices_from_objects(param, text, list, err);

	if (r == 0 && !(param->flags & CMDLET_LIST) && json_array_size(list) != 1)
		r = error_set(err, ERR_INVALID, "-%s: %zu devices, not one", param->name,
			      json_array_size(list));
	if (r == 0)
		json_object_set(params, param->name,
				param->flags & CMDLET_LIST ? list : json_array_get(list, 0));
	json_decref(list);
	return r;
}

int value_put_text(const struct cmdlet_param *param, const char *text, json_t *params,
		   struct error *err)
{
	json_t *value;
	int r;

	if (json_object_get(params, param->name))
		return error_set(err, ERR_INVALID, "-%s is given twice", param->name);
	if (param->type == CMDLET_DEVICE && cmdlet_is_objects(text))
		return put_devices(param, text, params, err);
	if (!(param->flags & CMDLET_LIST)) {
		r = value_from_text(param, text, &value, err);
		if (r < 0)
			return r;
	} else {
		value = json_array();
		r = list_from_text(param, text, value, err);
		if (r < 0) {
			json_decref(value);
			return r;
		}
	}
	json_object_set_new(params, param->name, value);
	return 0;
}

/* ---- from JSON ---- */

static bool json_fits(const struct cmdlet_param *param, const json_t *value)
{
	switch (param->type) {
	case CMDLET_INTEGER:
	case CMDLET_SIZE:
		return json_is_integer(value) || json_is_string(value);
	case CMDLET_BOOLEAN:
	case CMDLET_SWITCH:
		return json_is_boolean(value);
	default:
		return json_is_string(value);
	}
}

static int value_from_json(const struct cmdlet_param *param, json_t *value, json_t **ret,
			   struct error *err)
{
	if (!json_fits(param, value))
		return error_set(err, ERR_INVALID, "-%s has a value of a wrong type", param->name);
	if (param->type == CMDLET_FILE && json_string_length(value) > 0 &&
	    json_string_value(value)[0] != '/')
		return error_set(err, ERR_INVALID, "-%s: '%.200s' is not an absolute path",
				 param->name, json_string_value(value));
	if (json_is_string(value))
		return value_from_text(param, json_string_value(value), ret, err);
	if (json_is_integer(value) && check_range(param, json_integer_value(value), err) < 0)
		return -ERR_LIMIT;
	*ret = json_incref(value);
	return 0;
}

static int list_from_json(const struct cmdlet_param *param, json_t *value, json_t **ret,
			  struct error *err)
{
	json_t *list = json_array(), *element;

	if (!json_is_array(value)) {
		int r = value_from_json(param, value, &element, err);

		if (r == 0)
			json_array_append_new(list, element);
		else
			json_decref(list);
		*ret = list;
		return r;
	}
	for (size_t i = 0; i < json_array_size(value); i++) {
		if (i >= MAX_LIST) {
			json_decref(list);
			return error_set(err, ERR_LIMIT, "-%s: more than %d values", param->name,
					 MAX_LIST);
		}
		if (value_from_json(param, json_array_get(value, i), &element, err) < 0) {
			json_decref(list);
			return -(int)err->code;
		}
		json_array_append_new(list, element);
	}
	*ret = list;
	return 0;
}

int value_put_json(const struct cmdlet_param *param, json_t *value, json_t *params,
		   struct error *err)
{
	json_t *taken = NULL;
	int r = param->flags & CMDLET_LIST ? list_from_json(param, value, &taken, err)
					   : value_from_json(param, value, &taken, err);

	if (r < 0)
		return r;
	/* A switch that is false is as good as not there. */
	if (param->type == CMDLET_SWITCH && json_is_false(taken))
		json_decref(taken);
	else
		json_object_set_new(params, param->name, taken);
	return 0;
}
