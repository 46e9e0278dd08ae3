/* The command line of a cmdlet: parameters by name and by position, and what every cmdlet
 * understands. */
#include "cmdlet/cmdlet.h"

#include "base/macros.h"
#include "base/text.h"
#include "cmdlet/value.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

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
	int flag = value ? value_boolean(value) : 1;
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

/* Objects are bound later, as those of a pipe are. */
static int take_objects(struct parse *parse, const struct cmdlet_param *param, const char *text,
			struct error *err)
{
	json_t *objects;
	int r = cmdlet_read_objects(text, &objects, err);

	if (r < 0)
		return error_prefix(err, "-%s", param->name);
	/* A checkpoint has a name of its own. */
	if (param->offer == CMDLET_OFFER_CHECKPOINT && strcmp(param->name, "Name") != 0)
		cmdlet_name_objects(param, objects);
	if (!parse->out->objects)
		parse->out->objects = json_array();
	json_array_append_new(parse->out->objects, objects);
	return 0;
}

static int take_value(struct parse *parse, const struct cmdlet_param *param, const char *word,
		      struct error *err)
{
	bool several = (param->flags & CMDLET_LIST) || param->type == CMDLET_OBJECTS;
	AUTO_FREE char *list = several ? whole_value(parse, word) : NULL;

	if (param->type == CMDLET_OBJECTS ||
	    ((param->flags & CMDLET_PIPELINE) && cmdlet_is_objects(list ? list : word)))
		return take_objects(parse, param, list ? list : word, err);

	return value_put_text(param, list ? list : word, parse->out->params, err);
}

static int no_value(struct parse *parse, const struct cmdlet_param *param, struct error *err)
{
	const char *hint = "";

	if (param->type == CMDLET_BOOLEAN)
		hint = ": true or false (of $true and $false a shell leaves nothing, unless it has "
		       "true=true false=false)";
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
		return value_put_text(param, "true", parse->out->params, err);
	if (parse->next >= parse->argc || looks_like_param(parse->argv[parse->next]))
		return param->flags & CMDLET_NULLABLE
			   ? value_put_text(param, "", parse->out->params, err)
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
	if ((found->flags & CMDLET_PIPELINE) && cmdlet_is_objects(word))
		return take_objects(parse, found, word, err);
	return value_put_text(found, word, parse->out->params, err);
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
		json_decref(out.objects);
		return r;
	}
	*ret = out;
	return 0;
}
