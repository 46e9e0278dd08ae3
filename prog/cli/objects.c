#include "objects.h"

#include "base/macros.h"

#include <ctype.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_PIPE    (64 * MIB) /* what may come in */
#define MAX_COLUMNS 64

/* ---- reading ---- */

bool objects_come(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 &&
	       (S_ISFIFO(st.st_mode) || S_ISREG(st.st_mode) || S_ISSOCK(st.st_mode));
}

static int read_all(char **ret, struct error *err)
{
	char *text = NULL, buffer[65536];
	size_t size, len;
	FILE *out = open_memstream(&text, &size);
	int r = 0;

	if (!out)
		abort();
	while (r == 0 && (len = fread(buffer, 1, sizeof(buffer), stdin)) > 0) {
		fwrite(buffer, 1, len, out);
		if ((size_t)ftell(out) > MAX_PIPE)
			r = error_set(err, ERR_LIMIT, "more than %u MB come through the pipe",
				      (unsigned)(MAX_PIPE / MIB));
	}
	fclose(out);
	if (r < 0)
		free(text);
	else
		*ret = text;
	return r;
}

int objects_read(json_t **ret, bool *ret_json, struct error *err)
{
	AUTO_FREE char *text = NULL;
	char first;

	if (read_all(&text, err) < 0)
		return -(int)err->code;
	first = text[strspn(text, " \t\r\n")];
	if (ret_json)
		*ret_json = first == '[' || first == '{';
	return cmdlet_read_objects(text, ret, err);
}

/* ---- properties ---- */

/* The member of that name, case ignored; in a table it may stand with its unit. */
static const char *key_of(const json_t *object, const char *name)
{
	size_t len = strlen(name);
	const json_t *value;
	const char *key;

	json_object_foreach((json_t *)object, key, value)
	{
		if (strncasecmp(key, name, len) == 0 && (!key[len] || key[len] == '('))
			return key;
	}
	return NULL;
}

/* A name that no object has is a mistake, not an empty property. */
static int check_property(const json_t *objects, const char *name, struct error *err)
{
	for (size_t i = 0; i < json_array_size(objects); i++)
		if (key_of(json_array_get(objects, i), name))
			return 0;
	if (json_array_size(objects) == 0)
		return 0;
	return error_set(
	    err, ERR_NOT_FOUND,
	    "no property '%.60s' comes through the pipe (with --json, the cmdlet before "
	    "gives all)",
	    name);
}

/* As it is shown; the caller's. */
static char *text_of_value(const json_t *value)
{
	char *text = NULL;

	if (json_is_string(value))
		return strdup(json_string_value(value));
	if (!value || json_is_null(value))
		return strdup("");
	if (json_is_boolean(value))
		return strdup(json_is_true(value) ? "True" : "False");
	text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
	return text ? text : strdup("");
}

struct property {
	char *text;    /* owned */
	bool number;   /* is it one? */
	double amount; /* sizes in bytes */
};

static bool amount_of(const char *text, double *ret)
{
	int64_t size;
	char *end;

	if (cmdlet_parse_size(text, &size)) {
		*ret = (double)size;
		return true;
	}
	*ret = strtod(text, &end);
	return end != text && !*end;
}

static struct property property_of(const json_t *object, const char *name)
{
	const char *key = key_of(object, name);
	struct property property = { .text =
					 text_of_value(key ? json_object_get(object, key) : NULL) };

	if (!property.text)
		abort();
	property.number = amount_of(property.text, &property.amount);
	if (key && strstr(key, "(M)"))
		property.amount *= (double)MIB;
	return property;
}

static int compare(const struct property *a, const struct property *b)
{
	if (a->number && b->number)
		return a->amount < b->amount ? -1 : a->amount > b->amount;
	return strcasecmp(a->text, b->text);
}

/* ---- Where-Object ---- */

enum operator{
	OP_TRUE,
	OP_EQ,
	OP_NE,
	OP_GT,
	OP_GE,
	OP_LT,
	OP_LE,
	OP_LIKE,
	OP_NOT_LIKE,
	OP_MATCH,
	OP_NOT_MATCH
};

static const char *const operators[] = { [OP_EQ] = "EQ",       [OP_NE] = "NE",
					 [OP_GT] = "GT",       [OP_GE] = "GE",
					 [OP_LT] = "LT",       [OP_LE] = "LE",
					 [OP_LIKE] = "Like",   [OP_NOT_LIKE] = "NotLike",
					 [OP_MATCH] = "Match", [OP_NOT_MATCH] = "NotMatch" };

struct condition {
	char *name, *value; /* owned */
	enum operator op;
	struct property wanted; /* value once more */
	regex_t regex;
};

static void condition_done(struct condition *condition)
{
	if (condition->op == OP_MATCH || condition->op == OP_NOT_MATCH)
		regfree(&condition->regex);
	free(condition->name);
	free(condition->value);
}

/* Takes from text what a script block and quotes add: {$_.State -> State, 'Running'} -> Running. Of
 * the $_ before the dot a shell may have left anything. The caller's. */
static char *bare(const char *text, bool property)
{
	const char *begin = text, *dot = strrchr(text, '.');
	size_t len;

	if (property && dot && (text[0] == '{' || text[0] == '$'))
		begin = dot + 1;
	begin += strspn(begin, "{ '\"");
	len = strlen(begin);
	while (len && strchr("} '\"", begin[len - 1]))
		len--;
	return strndup(begin, len);
}

static enum operator operator_named(const char *name, size_t len)
{
	for (size_t i = OP_EQ; i < ARRAY_SIZE(operators); i++)
		if (strlen(operators[i]) == len && strncasecmp(operators[i], name, len) == 0)
			return (enum operator)i;
	return OP_TRUE;
}

/* A script block in one word: "{$_.State -eq 'Running'}". */
static void read_block(struct condition *condition, const char *text)
{
	const char *dash = strstr(text, " -");
	size_t len = dash ? strcspn(dash + 2, " ") : 0;
	AUTO_FREE char *left = dash ? strndup(text, (size_t)(dash - text)) : strdup(text);

	condition->op = dash ? operator_named(dash + 2, len) : OP_TRUE;
	condition->name = bare(left, true);
	if (condition->op != OP_TRUE)
		condition->value = bare(dash + 2 + len, false);
}

static int read_condition(const json_t *params, struct condition *ret, struct error *err)
{
	const char *name = json_string_value(json_object_get(params, "Property"));
	const char *value = json_string_value(json_object_get(params, "Value"));
	bool block = name[0] == '{', whole = block && strchr(name, '}');

	*ret = (struct condition){ 0 };
	if (whole) {
		read_block(ret, name);
		if (strstr(name, " -and ") || strstr(name, " -or "))
			return error_set(
			    err, ERR_UNSUPPORTED,
			    "one comparison only: for -and, one Where-Object behind the other");
		return 0;
	}
	for (size_t i = OP_EQ; i < ARRAY_SIZE(operators); i++)
		if (json_is_true(json_object_get(params, operators[i])))
			ret->op = (enum operator)i;
	ret->name = bare(name, true);
	ret->value = !value ? NULL : block ? bare(value, false) : strdup(value);
	return 0;
}

static int prepare(struct condition *condition, struct error *err)
{
	if (condition->op == OP_TRUE)
		return 0;
	if (!condition->value || !*condition->value) {
		enum operator op = condition->op;

		condition->op = OP_TRUE; /* nothing to free */
		return error_set(err, ERR_INVALID,
				 "-%s needs a value (of $true and $false a shell leaves nothing)",
				 operators[op]);
	}
	condition->wanted.text =
	    condition->value[0] == '$' ? condition->value + 1 : condition->value;
	condition->wanted.number = amount_of(condition->wanted.text, &condition->wanted.amount);
	if ((condition->op == OP_MATCH || condition->op == OP_NOT_MATCH) &&
	    regcomp(&condition->regex, condition->value, REG_EXTENDED | REG_ICASE | REG_NOSUB) !=
		0) {
		condition->op = OP_TRUE;
		return error_set(err, ERR_INVALID, "'%.60s' is no regular expression",
				 condition->value);
	}
	return 0;
}

static bool holds(const struct condition *condition, const struct property *property)
{
	int order = condition->wanted.text ? compare(property, &condition->wanted) : 0;

	switch (condition->op) {
	case OP_TRUE:
		return property->number ? property->amount != 0
					: *property->text && strcasecmp(property->text, "False");
	case OP_EQ:
		return order == 0;
	case OP_NE:
		return order != 0;
	case OP_GT:
		return order > 0;
	case OP_GE:
		return order >= 0;
	case OP_LT:
		return order < 0;
	case OP_LE:
		return order <= 0;
	case OP_LIKE:
		return cmdlet_wildcard_match(condition->value, property->text);
	case OP_NOT_LIKE:
		return !cmdlet_wildcard_match(condition->value, property->text);
	case OP_MATCH:
		return regexec(&condition->regex, property->text, 0, NULL, 0) == 0;
	case OP_NOT_MATCH:
		return regexec(&condition->regex, property->text, 0, NULL, 0) != 0;
	}
	return false;
}

static int where(json_t *objects, const json_t *params, struct error *err)
{
	struct condition condition;
	int r = read_condition(params, &condition, err);

	if (r == 0)
		r = prepare(&condition, err);
	if (r == 0)
		r = check_property(objects, condition.name, err);
	for (size_t i = json_array_size(objects); r == 0 && i-- > 0;) {
		struct property property = property_of(json_array_get(objects, i), condition.name);

		if (!holds(&condition, &property))
			json_array_remove(objects, i);
		free(property.text);
	}
	condition_done(&condition);
	return r;
}

/* ---- Select-Object, Sort-Object ---- */

/* "*" among names: all that there are. */
static bool are_all(const json_t *names)
{
	for (size_t i = 0; i < json_array_size(names); i++)
		if (strcmp(json_string_value(json_array_get(names, i)), "*") == 0)
			return true;
	return false;
}

/* Only these properties, in this order. */
static int keep_properties(json_t *objects, const json_t *names, struct error *err)
{
	if (are_all(names))
		return 0;
	for (size_t k = 0; k < json_array_size(names); k++)
		if (check_property(objects, json_string_value(json_array_get(names, k)), err) < 0)
			return -(int)err->code;
	for (size_t i = 0; json_array_size(names) && i < json_array_size(objects); i++) {
		json_t *object = json_array_get(objects, i), *kept = json_object();

		for (size_t k = 0; k < json_array_size(names); k++) {
			const char *key =
			    key_of(object, json_string_value(json_array_get(names, k)));

			if (key)
				json_object_set(kept, key, json_object_get(object, key));
		}
		json_array_set_new(objects, i, kept);
	}
	return 0;
}

static void keep_some(json_t *objects, const json_t *params)
{
	const json_t *first = json_object_get(params, "First"),
		     *last = json_object_get(params, "Last");

	while (last && (json_int_t)json_array_size(objects) > json_integer_value(last))
		json_array_remove(objects, 0);
	while (first && (json_int_t)json_array_size(objects) > json_integer_value(first))
		json_array_remove(objects, json_array_size(objects) - 1);
}

static int expand(const json_t *objects, const char *name, struct error *err)
{
	if (check_property(objects, name, err) < 0)
		return -(int)err->code;
	for (size_t i = 0; i < json_array_size(objects); i++) {
		const char *key = key_of(json_array_get(objects, i), name);
		const json_t *value = json_object_get(json_array_get(objects, i), key ? key : "");
		size_t count = json_is_array(value) ? json_array_size(value) : 1;

		for (size_t k = 0; k < count; k++) {
			AUTO_FREE char *text =
			    text_of_value(json_is_array(value) ? json_array_get(value, k) : value);

			puts(text ? text : "");
		}
	}
	return 0;
}

/* For qsort_r: which of two objects comes first. */
static int order(const void *a, const void *b, void *names)
{
	int r = 0;

	for (size_t k = 0; r == 0 && k < json_array_size(names); k++) {
		const char *name = json_string_value(json_array_get(names, k));
		struct property x = property_of(*(json_t *const *)a, name);
		struct property y = property_of(*(json_t *const *)b, name);

		r = compare(&x, &y);
		free(x.text);
		free(y.text);
	}
	return r;
}

static int sort(json_t *objects, const json_t *params, struct error *err)
{
	json_t *names = json_object_get(params, "Property");
	bool descending = json_is_true(json_object_get(params, "Descending"));
	size_t count = json_array_size(objects);
	json_t **sorted = calloc(count + 1, sizeof(*sorted));

	if (!sorted)
		abort();
	for (size_t k = 0; k < json_array_size(names); k++)
		if (check_property(objects, json_string_value(json_array_get(names, k)), err) < 0) {
			free(sorted);
			return -(int)err->code;
		}
	for (size_t i = 0; i < count; i++)
		sorted[i] = json_incref(json_array_get(objects, i));
	qsort_r(sorted, count, sizeof(*sorted), order, names);
	for (size_t i = 0; i < count; i++)
		json_array_set_new(objects, descending ? count - 1 - i : i, sorted[i]);
	free(sorted);
	return 0;
}

/* ---- showing ---- */

/* A column for each member that any object has, in the order of their coming. */
static size_t columns_of(const json_t *objects, struct cmdlet_column *columns)
{
	size_t count = 0;

	for (size_t i = 0; i < json_array_size(objects); i++) {
		const json_t *value;
		const char *key;

		json_object_foreach(json_array_get(objects, i), key, value)
		{
			size_t k = 0;

			while (k < count && strcmp(columns[k].key, key) != 0)
				k++;
			if (k == count && count < MAX_COLUMNS)
				columns[count++] =
				    (struct cmdlet_column){ key, key, CMDLET_SHOW_TEXT };
		}
	}
	return count;
}

static void show(const json_t *objects, bool json, bool list, unsigned width)
{
	struct cmdlet_column columns[MAX_COLUMNS + 1] = { 0 };
	const struct cmdlet_output output = { "Object", columns };
	char *text;

	columns_of(objects, columns);
	if (json)
		text = json_dumps(objects, JSON_INDENT(2));
	else
		text = list ? cmdlet_format_list(&output, objects)
			    : cmdlet_format_table(&output, objects, width);
	if (text)
		fputs(text, stdout);
	if (json)
		putchar('\n');
	free(text);
}

static int transform(const struct cmdlet *cmdlet, json_t *objects, const json_t *params,
		     struct error *err)
{
	if (strcmp(cmdlet->name, "Where-Object") == 0)
		return where(objects, params, err);
	if (strcmp(cmdlet->name, "Sort-Object") == 0)
		return sort(objects, params, err);
	keep_some(objects, params);
	return keep_properties(objects, json_object_get(params, "Property"), err);
}

/* ---- properties that a table has not ---- */

static bool has_property(const json_t *objects, const char *name)
{
	return strcmp(name, "*") != 0 && check_property(objects, name, NULL) == 0;
}

/* Is a property needed that none of the objects has? */
static bool lacks(const json_t *objects, const json_t *params)
{
	const json_t *names = json_object_get(params, "Property");
	const char *expanded = json_string_value(json_object_get(params, "ExpandProperty"));
	struct condition condition = { 0 };
	bool lacks = expanded && !has_property(objects, expanded);

	for (size_t i = 0; i < json_array_size(names); i++)
		lacks =
		    lacks || !has_property(objects, json_string_value(json_array_get(names, i)));
	if (!json_is_string(names))
		return lacks;
	/* Where-Object has one, perhaps in a script block; what is wrong with it shows later. */
	if (read_condition(params, &condition, NULL) == 0)
		lacks = !has_property(objects, condition.name);
	condition.op = OP_TRUE;
	condition_done(&condition);
	return lacks;
}

/* What chooses and orders lets through the rows as they came. */
static void back_to_rows(const struct cmdlet *cmdlet, json_t *objects)
{
	bool as_they_came =
	    strcmp(cmdlet->name, "Where-Object") == 0 || strcmp(cmdlet->name, "Sort-Object") == 0;

	for (size_t i = 0; i < json_array_size(objects); i++) {
		json_t *object = json_array_get(objects, i);
		json_t *row = json_object_get(object, WHOLE_ROW);

		if (row && as_they_came)
			json_array_set(objects, i, row);
		else
			json_object_del(object, WHOLE_ROW);
	}
}

int objects_run(const struct cmdlet *cmdlet, const json_t *params, bool json, unsigned width,
		whole_fetch fetch, struct error *err)
{
	bool format = strncmp(cmdlet->name, "Format-", 7) == 0, came_as_json;
	const char *expanded = json_string_value(json_object_get(params, "ExpandProperty"));
	json_t *objects, *whole;
	int r;

	if (!objects_come(STDIN_FILENO))
		return error_set(err, ERR_INVALID,
				 "%s stands behind a pipe: oyako get-vm | oyako ...", cmdlet->name);
	if (objects_read(&objects, &came_as_json, err) < 0)
		return -(int)err->code;
	whole = !came_as_json && lacks(objects, params) ? whole_objects(objects, fetch) : NULL;
	if (whole) {
		json_decref(objects);
		objects = whole;
	}
	r = transform(cmdlet, objects, params, err);
	if (whole)
		back_to_rows(cmdlet, objects);
	if (r == 0 && expanded)
		r = expand(objects, expanded, err);
	else if (r == 0)
		show(objects, json || (came_as_json && !format),
		     strcmp(cmdlet->name, "Format-List") == 0, width);
	json_decref(objects);
	return r;
}
