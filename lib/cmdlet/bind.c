/* From text and JSON to checked parameters. A value is first read by its type (text of the command
 * line, or JSON of a request); then the same rules hold for both: ranges, one parameter set,
 * nothing missing. */
#include "cmdlet/cmdlet.h"

#include "base/guid.h"
#include "base/macros.h"
#include "base/text.h"

#include <ctype.h>
#include <errno.h>
#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

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

/* "True", "$true", "1", "yes"; -1: none of both. */
static int parse_boolean(const char *text)
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
		flag = parse_boolean(text);
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
	case CMDLET_STRING:
		value = json_string(text);
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

static int set_from_text(const struct cmdlet_param *param, const char *text, json_t *params,
			 struct error *err)
{
	json_t *value;
	int r;

	if (json_object_get(params, param->name))
		return error_set(err, ERR_INVALID, "-%s is given twice", param->name);
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

/* ---- the command line ---- */

struct parse {
	const struct cmdlet *cmdlet;
	int argc;
	char *const *argv;
	int next;
	struct cmdlet_invocation *out;
};

enum common {
	COMMON_HELP,
	COMMON_JSON,
	COMMON_LIST,
	COMMON_CONFIRM,
	COMMON_WHAT_IF,
	COMMON_AS_JOB,
	COMMON_ERROR_ACTION,
	COMMON_FLAG,   /* changes nothing: nothing more is said than always */
	COMMON_ACTION, /* the same, with a value */
};

/* What every cmdlet understands, PowerShell's aliases included. */
static const struct {
	const char *name, *alias;
	enum common what;
} commons[] = {
	{ "help", "?", COMMON_HELP },
	{ "json", NULL, COMMON_JSON },
	{ "FormatList", NULL, COMMON_LIST },
	{ "Confirm", "cf", COMMON_CONFIRM },
	{ "WhatIf", "wi", COMMON_WHAT_IF },
	{ "AsJob", NULL, COMMON_AS_JOB },
	{ "ErrorAction", "ea", COMMON_ERROR_ACTION },
	{ "Verbose", "vb", COMMON_FLAG },
	{ "Debug", "db", COMMON_FLAG },
	{ "WarningAction", "wa", COMMON_ACTION },
	{ "InformationAction", "infa", COMMON_ACTION },
	{ "ProgressAction", "proga", COMMON_ACTION },
};

/* "Continue" and "Stop" are the same here: one cmdlet is one program. */
static int parse_action(struct parse *parse, const char *name, const char *value, bool *ret_quiet,
			struct error *err)
{
	static const struct {
		const char *name, *number;
	} actions[] = {
		{ "Continue", "2" }, { "Stop", "1" }, { "SilentlyContinue", "0" }, { "Ignore", "4" }
	};
	size_t i = 0;

	if (!value && parse->next < parse->argc)
		value = parse->argv[parse->next++];
	while (i < ARRAY_SIZE(actions) && (!value || (strcasecmp(value, actions[i].name) != 0 &&
						      strcmp(value, actions[i].number) != 0)))
		i++;
	if (i == ARRAY_SIZE(actions))
		return error_set(err, ERR_INVALID,
				 "-%s is one of: Continue Stop SilentlyContinue Ignore", name);
	*ret_quiet = i >= 2;
	return 1;
}

static bool verb_is(const struct cmdlet *cmdlet, const char *verb)
{
	size_t len = strlen(verb);

	return strncmp(cmdlet->name, verb, len) == 0 && cmdlet->name[len] == '-';
}

const struct cmdlet_param *cmdlet_what_if(const struct cmdlet *cmdlet, bool *ret_known)
{
	static const char *const looks[] = {
		"Get", "Measure", "Test", "Compare", "Wait", "Receive"
	};
	const struct cmdlet_param *first = NULL;

	*ret_known = cmdlet->place == CMDLET_IN_DAEMON;
	for (size_t i = 0; i < ARRAY_SIZE(looks); i++)
		if (verb_is(cmdlet, looks[i]) && !cmdlet->what_if)
			*ret_known = false;
	for (const struct cmdlet_param *p = cmdlet->params; *ret_known && p->name; p++) {
		if (cmdlet->what_if ? strcmp(p->name, cmdlet->what_if) == 0
				    : p->position && (!first || p->position < first->position))
			first = p;
	}
	return first;
}

static int parse_flag(struct parse *parse, size_t which, const char *value, struct error *err)
{
	struct cmdlet_invocation *out = parse->out;
	int flag = value ? parse_boolean(value) : 1;
	bool known;

	/* A POSIX shell leaves nothing of the $false in -Confirm:$false. */
	if (flag < 0 && !*value && commons[which].what == COMMON_CONFIRM)
		flag = 0;
	if (flag < 0)
		return error_set(err, ERR_INVALID, "-%s: '%.60s' is not true or false",
				 commons[which].name, value);
	cmdlet_what_if(parse->cmdlet, &known);
	if (commons[which].what == COMMON_HELP)
		out->help = flag != 0;
	else if (commons[which].what == COMMON_JSON)
		out->json = flag != 0;
	else if (commons[which].what == COMMON_LIST)
		out->list = flag != 0;
	else if (commons[which].what == COMMON_CONFIRM)
		out->confirm = flag;
	else if (commons[which].what == COMMON_AS_JOB)
		out->as_job = flag != 0;
	else if (commons[which].what == COMMON_WHAT_IF && flag && !known)
		return error_set(err, ERR_UNSUPPORTED, "%s has no -WhatIf: it changes nothing%s",
				 parse->cmdlet->name,
				 parse->cmdlet->place == CMDLET_IN_DAEMON ? "" : " on the host");
	else if (commons[which].what == COMMON_WHAT_IF)
		out->what_if = flag != 0;
	return 1;
}

/* 1: it was one; 0: not; negative: error. short_too: a beginning of a name does. */
static int parse_common(struct parse *parse, const char *name, const char *value, bool short_too,
			struct error *err)
{
	size_t found = ARRAY_SIZE(commons), len = strlen(name);
	bool quiet;

	for (size_t i = 0; i < ARRAY_SIZE(commons) && found == ARRAY_SIZE(commons); i++)
		if (strcasecmp(name, commons[i].name) == 0 ||
		    (commons[i].alias && strcasecmp(name, commons[i].alias) == 0) ||
		    (short_too && len >= 3 && strncasecmp(name, commons[i].name, len) == 0))
			found = i;
	if (found == ARRAY_SIZE(commons) ||
	    (commons[found].what == COMMON_AS_JOB && parse->cmdlet->place != CMDLET_IN_DAEMON))
		return 0;
	if (commons[found].what == COMMON_ERROR_ACTION)
		return parse_action(parse, commons[found].name, value, &parse->out->quiet, err);
	if (commons[found].what == COMMON_ACTION)
		return parse_action(parse, commons[found].name, value, &quiet, err);
	return parse_flag(parse, found, value, err);
}

/* A word that can't be a value because it looks like a parameter: "-x...", but not "-5". */
static bool looks_like_param(const char *word)
{
	if (word[0] != '-')
		return false;
	if (word[1] == '-')
		word++;
	return isalpha((unsigned char)word[1]) || word[1] == '?';
}

static bool ends_with_comma(const char *text)
{
	size_t len = strlen(text);

	return len > 0 && text[len - 1] == ',' && !(len > 1 && text[len - 2] == '\\');
}

/* A value with the words that continue it: PowerShell's lists may have spaces beside the commas, so
 * that a shell hands them over in pieces. The caller's. */
static char *whole_value(struct parse *parse, const char *word)
{
	char *text = text_format("%s", word), *longer;

	while (parse->next < parse->argc &&
	       (parse->argv[parse->next][0] == ',' ||
		(ends_with_comma(text) && !looks_like_param(parse->argv[parse->next])))) {
		longer = text_format("%s%s", text, parse->argv[parse->next++]);
		free(text);
		text = longer;
	}
	return text;
}

static int take_value(struct parse *parse, const struct cmdlet_param *param, const char *word,
		      struct error *err)
{
	AUTO_FREE char *list = param->flags & CMDLET_LIST ? whole_value(parse, word) : NULL;

	return set_from_text(param, list ? list : word, parse->out->params, err);
}

static int no_value(struct parse *parse, const struct cmdlet_param *param, struct error *err)
{
	const char *hint = "";

	if (param->type == CMDLET_BOOLEAN)
		hint = ": true or false (of $true and $false a shell leaves nothing)";
	else if (parse->next < parse->argc)
		hint = " (one that begins with a dash: -Name:-value)";
	return error_set(err, ERR_INVALID, "-%s needs a value%s", param->name, hint);
}

static int parse_value(struct parse *parse, const struct cmdlet_param *param, const char *value,
		       struct error *err)
{
	if (value && !*value && (param->type == CMDLET_BOOLEAN || param->type == CMDLET_SWITCH))
		return error_set(err, ERR_INVALID,
				 "-%s: is it true or false? (of $true and $false a shell leaves "
				 "nothing)",
				 param->name);
	if (value)
		return take_value(parse, param, value, err);
	if (param->type == CMDLET_SWITCH)
		return set_from_text(param, "true", parse->out->params, err);
	if (parse->next >= parse->argc || looks_like_param(parse->argv[parse->next]))
		return param->flags & CMDLET_NULLABLE
			   ? set_from_text(param, "", parse->out->params, err)
			   : no_value(parse, param, err);
	return take_value(parse, param, parse->argv[parse->next++], err);
}

static int parse_named(struct parse *parse, const char *word, struct error *err)
{
	const struct cmdlet_param *param;
	struct error unknown;
	char name[64];
	const char *value;
	size_t len;
	int r;

	word += strncmp(word, "--", 2) == 0 ? 2 : 1;
	len = strcspn(word, ":=");
	if (len >= sizeof(name))
		return error_set(err, ERR_INVALID, "%s has no parameter -%.60s",
				 parse->cmdlet->name, word);
	memcpy(name, word, len);
	name[len] = '\0';
	value = word[len] ? word + len + 1 : NULL;
	r = parse_common(parse, name, value, false, err);
	if (r != 0)
		return r < 0 ? r : 0;
	param = cmdlet_find_param(parse->cmdlet, name, &unknown);
	if (param)
		return parse_value(parse, param, value, err);
	r = parse_common(parse, name, value, true, err);
	if (r == 0)
		return error_set(err, unknown.code, "%s", unknown.text);
	return r < 0 ? r : 0;
}

/* The first positional parameter of the sets that has no value yet. */
static const struct cmdlet_param *next_positional(const struct parse *parse, unsigned sets)
{
	const struct cmdlet_param *found = NULL;

	for (const struct cmdlet_param *p = parse->cmdlet->params; p->name; p++)
		if (p->position && (!found || p->position < found->position) &&
		    (!p->sets || (p->sets & sets)) && !json_object_get(parse->out->params, p->name))
			found = p;
	return found;
}

static int bind_positional(struct parse *parse, const char *word, struct error *err)
{
	unsigned sets = cmdlet_possible_sets(parse->cmdlet, parse->out->params);
	const struct cmdlet_param *found = next_positional(parse, sets);

	/* Where none fits, the sets explain better what is wrong. */
	if (!found)
		found = next_positional(parse, ~0u);
	if (!found)
		return error_set(err, ERR_INVALID,
				 "%s has no place for '%.60s' (several values are written a,b)",
				 parse->cmdlet->name, word);
	return set_from_text(found, word, parse->out->params, err);
}

/* As in PowerShell, values without a name go where those with one have left a place. */
static int bind_positionals(struct parse *parse, char *const *words, int count, struct error *err)
{
	int r = 0;

	for (int i = 0; r == 0 && i < count; i++)
		r = bind_positional(parse, words[i], err);
	return r;
}

/* Relative paths mean something only here, not in the daemon. */
static int make_absolute(json_t *text, struct error *err)
{
	AUTO_FREE char *folder = NULL, *absolute = NULL;
	const char *path = json_string_value(text);

	if (path[0] == '/' || !path[0])
		return 0;
	folder = getcwd(NULL, 0);
	if (!folder)
		return error_set_errno(err, errno, "finding the current folder");
	if (asprintf(&absolute, "%s/%s", folder, path) < 0)
		return error_set(err, ERR_NO_MEMORY, "no memory");
	if (json_string_set(text, absolute) < 0)
		return error_set(err, ERR_INVALID, "the current folder's name is no UTF-8");
	return 0;
}

/* Another host has another current folder, or none. */
static int check_far_path(const struct cmdlet_param *param, const json_t *text, struct error *err)
{
	const char *path = json_string_value(text);

	return !path || path[0] == '/' || !path[0]
		   ? 0
		   : error_set(err, ERR_INVALID,
			       "-%s: '%.200s' is a path of another host: it must be absolute",
			       param->name, path);
}

static int place_path(const struct cmdlet *cmdlet, const struct cmdlet_param *param,
		      const json_t *params, json_t *text, struct error *err)
{
	if (cmdlet->place == CMDLET_IN_DAEMON && json_object_get(params, "ComputerName"))
		return check_far_path(param, text, err);
	return make_absolute(text, err);
}

static int make_paths_absolute(const struct cmdlet *cmdlet, json_t *params, struct error *err)
{
	for (const struct cmdlet_param *p = cmdlet->params; p->name; p++) {
		json_t *value = json_object_get(params, p->name);
		int r = 0;

		if (p->type != CMDLET_FILE || !value)
			continue;
		if (json_is_string(value))
			r = place_path(cmdlet, p, params, value, err);
		for (size_t i = 0; r == 0 && i < json_array_size(value); i++)
			r = place_path(cmdlet, p, params, json_array_get(value, i), err);
		if (r < 0)
			return r;
	}
	return 0;
}

int cmdlet_parse(const struct cmdlet *cmdlet, int argc, char *const *argv,
		 struct cmdlet_invocation *ret, struct error *err)
{
	struct cmdlet_invocation out = { .params = json_object(), .confirm = -1 };
	struct parse parse = { cmdlet, argc, argv, 0, &out };
	char **unnamed = calloc((size_t)argc + 1, sizeof(*unnamed));
	int count = 0, r = 0;

	if (!unnamed)
		abort();
	while (r == 0 && parse.next < argc) {
		const char *word = argv[parse.next++];

		if (looks_like_param(word))
			r = parse_named(&parse, word, err);
		else
			unnamed[count++] = whole_value(&parse, word);
	}
	if (r == 0)
		r = bind_positionals(&parse, unnamed, count, err);
	if (r == 0)
		r = make_paths_absolute(cmdlet, out.params, err);
	while (count > 0)
		free(unnamed[--count]);
	free(unnamed);
	if (r < 0) {
		json_decref(out.params);
		return r;
	}
	*ret = out;
	return 0;
}

/* ---- requests ---- */

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

static int take_member(const struct cmdlet *cmdlet, const char *name, json_t *value, json_t *params,
		       struct error *err)
{
	const struct cmdlet_param *param = cmdlet_find_param(cmdlet, name, err);
	json_t *taken = NULL;
	int r;

	if (!param)
		return -ERR_INVALID;
	if (json_object_get(params, param->name))
		return error_set(err, ERR_INVALID, "-%s is given twice", param->name);
	if (param->flags & CMDLET_LOCAL)
		return error_set(err, ERR_INVALID, "-%s is for the command line, not for a request",
				 param->name);
	if (param->flags & CMDLET_NOT_YET)
		return error_set(err, ERR_UNSUPPORTED, "%s -%s is not there yet. %s", cmdlet->name,
				 param->name, param->help);
	if (param->flags & CMDLET_LIST)
		r = list_from_json(param, value, &taken, err);
	else
		r = value_from_json(param, value, &taken, err);
	if (r < 0)
		return r;
	/* A switch that is false is as good as not there. */
	if (param->type == CMDLET_SWITCH && json_is_false(taken))
		json_decref(taken);
	else
		json_object_set_new(params, param->name, taken);
	return 0;
}

/* The sets that all given parameters belong to, as bits. */
unsigned cmdlet_possible_sets(const struct cmdlet *cmdlet, const json_t *params)
{
	unsigned all = (1u << cmdlet_set_count(cmdlet)) - 1;

	for (const struct cmdlet_param *p = cmdlet->params; p->name; p++)
		if (p->sets && json_object_get(params, p->name))
			all &= p->sets;
	return all;
}

static const struct cmdlet_param *first_missing(const struct cmdlet *cmdlet, const json_t *params,
						unsigned set)
{
	for (const struct cmdlet_param *p = cmdlet->params; p->name; p++)
		if ((p->flags & CMDLET_MANDATORY) && cmdlet_param_in_set(p, set) &&
		    !json_object_get(params, p->name))
			return p;
	return NULL;
}

static int no_set(const struct cmdlet *cmdlet, const json_t *params, struct error *err)
{
	for (const struct cmdlet_param *a = cmdlet->params; a->name; a++)
		for (const struct cmdlet_param *b = a + 1; b->name; b++)
			if (a->sets && b->sets && !(a->sets & b->sets) &&
			    json_object_get(params, a->name) && json_object_get(params, b->name))
				return error_set(err, ERR_INVALID, "-%s can't be used with -%s",
						 a->name, b->name);
	return error_set(err, ERR_INVALID, "these parameters can't be used together");
}

/* Chooses the parameter set: the first one (the default is listed first) that lacks nothing. */
static int choose_set(const struct cmdlet *cmdlet, const json_t *params, unsigned *ret,
		      struct error *err)
{
	unsigned possible = cmdlet_possible_sets(cmdlet, params), first = 0;

	if (!possible)
		return no_set(cmdlet, params, err);
	for (unsigned set = 0; set < cmdlet_set_count(cmdlet); set++)
		if ((possible & (1u << set)) && !first_missing(cmdlet, params, set)) {
			*ret = set;
			return 0;
		}
	while (!(possible & (1u << first)))
		first++;
	return error_set(err, ERR_INVALID, "%s needs -%s", cmdlet->name,
			 first_missing(cmdlet, params, first)->name);
}

/* Of a possible set, is all that is missing such that objects can give it? */
static bool lacks_objects_only(const struct cmdlet *cmdlet, const json_t *params, unsigned set)
{
	bool lacks = false;

	for (const struct cmdlet_param *p = cmdlet->params; p->name; p++)
		if ((p->flags & CMDLET_MANDATORY) && cmdlet_param_in_set(p, set) &&
		    !json_object_get(params, p->name)) {
			if (!(p->flags & CMDLET_PIPELINE))
				return false;
			lacks = true;
		}
	return lacks;
}

bool cmdlet_takes_objects(const struct cmdlet *cmdlet, const json_t *params)
{
	unsigned possible = cmdlet_possible_sets(cmdlet, params);
	bool takes = false;

	for (unsigned set = 0; set < cmdlet_set_count(cmdlet); set++) {
		if (!(possible & (1u << set)))
			continue;
		if (!first_missing(cmdlet, params, set))
			return false;
		takes = takes || lacks_objects_only(cmdlet, params, set);
	}
	return takes;
}

static void add_defaults(const struct cmdlet *cmdlet, json_t *params, unsigned set)
{
	for (const struct cmdlet_param *p = cmdlet->params; p->name; p++)
		if (p->dflt && cmdlet_param_in_set(p, set) && !json_object_get(params, p->name))
			set_from_text(p, p->dflt, params, NULL);
}

int cmdlet_check(const struct cmdlet *cmdlet, const json_t *request, json_t **ret,
		 struct error *err)
{
	json_t *params, *value;
	unsigned set = 0;
	const char *name;
	int r = 0;

	if (!json_is_object(request))
		return error_set(err, ERR_INVALID, "the parameters are not an object");
	params = json_object();
	json_object_foreach((json_t *)request, name, value)
	{
		r = take_member(cmdlet, name, value, params, err);
		if (r < 0)
			break;
	}
	if (r == 0)
		r = choose_set(cmdlet, params, &set, err);
	if (r < 0) {
		json_decref(params);
		return r;
	}
	add_defaults(cmdlet, params, set);
	*ret = params;
	return 0;
}
