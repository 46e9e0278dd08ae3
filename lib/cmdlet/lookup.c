#include "cmdlet/planned.h"
#include "cmdlet/table.h"

#include "base/macros.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

const struct cmdlet *cmdlet_at(size_t n)
{
	const struct {
		const struct cmdlet *table;
		size_t count;
	} files[] = {
		{ cmdlet_table_vm, cmdlet_table_vm_count },
		{ cmdlet_table_firmware, cmdlet_table_firmware_count },
		{ cmdlet_table_network, cmdlet_table_network_count },
		{ cmdlet_table_disk, cmdlet_table_disk_count },
		{ cmdlet_table_import, cmdlet_table_import_count },
		{ cmdlet_table_guest, cmdlet_table_guest_count },
		{ cmdlet_table_state, cmdlet_table_state_count },
		{ cmdlet_table_host, cmdlet_table_host_count },
		{ cmdlet_table_job, cmdlet_table_job_count },
		{ cmdlet_table_group, cmdlet_table_group_count },
		{ cmdlet_table_metering, cmdlet_table_metering_count },
		{ cmdlet_table_object, cmdlet_table_object_count },
	};

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		if (n < files[i].count)
			return &files[i].table[n];
		n -= files[i].count;
	}
	return NULL;
}

/* Is name one of the words of a list? */
static bool has_word(const char *words, const char *name)
{
	size_t len = strlen(name);

	while (words && *words) {
		size_t word = strcspn(words, " ");

		if (word == len && strncasecmp(words, name, len) == 0)
			return true;
		words += word + strspn(words + word, " ");
	}
	return false;
}

const struct cmdlet *cmdlet_find(const char *name)
{
	const struct cmdlet *cmdlet;

	for (size_t i = 0; (cmdlet = cmdlet_at(i)); i++)
		if (strcasecmp(cmdlet->name, name) == 0 || has_word(cmdlet->aliases, name))
			return cmdlet;
	return NULL;
}

const char *cmdlet_planned(const char *name, const char **ret_name)
{
	for (const struct cmdlet_name *p = cmdlet_planned_table; p->name; p++)
		if (strcasecmp(p->name, name) == 0) {
			*ret_name = p->name;
			return p->area;
		}
	return NULL;
}

const struct cmdlet_name *cmdlet_planned_at(size_t n)
{
	for (const struct cmdlet_name *p = cmdlet_planned_table; p->name; p++)
		if (n-- == 0)
			return p;
	return NULL;
}

/* ---- suggestions ---- */

#define MAX_NAME 48

/* Edits (insert, delete, replace, swap of neighbours) from a to b, case ignored. */
static unsigned edit_distance(const char *a, const char *b)
{
	unsigned rows[3][MAX_NAME + 1];
	unsigned *before = rows[0], *last = rows[1], *now = rows[2];
	size_t len_a = strlen(a), len_b = strlen(b);

	if (len_a > MAX_NAME || len_b > MAX_NAME)
		return MAX_NAME;
	for (size_t k = 0; k <= len_b; k++)
		last[k] = (unsigned)k;
	for (size_t i = 1; i <= len_a; i++) {
		unsigned *spare = before;

		now[0] = (unsigned)i;
		for (size_t k = 1; k <= len_b; k++) {
			bool same =
			    tolower((unsigned char)a[i - 1]) == tolower((unsigned char)b[k - 1]);
			unsigned best = last[k - 1] + !same;

			best = MIN(best, last[k] + 1);
			best = MIN(best, now[k - 1] + 1);
			if (i > 1 && k > 1 &&
			    tolower((unsigned char)a[i - 1]) == tolower((unsigned char)b[k - 2]) &&
			    tolower((unsigned char)a[i - 2]) == tolower((unsigned char)b[k - 1]))
				best = MIN(best, before[k - 2] + 1);
			now[k] = best;
		}
		before = last;
		last = now;
		now = spare;
	}
	return last[len_b];
}

/* One edit in three letters, at most three. */
static unsigned edits_allowed(const char *name)
{
	size_t allowed = strlen(name) / 3;

	return (unsigned)MIN(MAX(allowed, 1u), 3u);
}

static void consider(const char *typed, const char *name, unsigned *best, const char **ret)
{
	unsigned distance = edit_distance(typed, name);

	/* The beginning of a name is as near as can be. */
	if (strlen(typed) >= 5 && strncasecmp(typed, name, strlen(typed)) == 0)
		distance = 1;
	if (distance < *best) {
		*best = distance;
		*ret = name;
	}
}

const char *cmdlet_suggest(const char *name)
{
	unsigned best = edits_allowed(name) + 1;
	const struct cmdlet *cmdlet;
	const char *found = NULL;

	for (size_t i = 0; (cmdlet = cmdlet_at(i)); i++)
		consider(name, cmdlet->name, &best, &found);
	for (const struct cmdlet_name *p = cmdlet_planned_table; p->name; p++)
		consider(name, p->name, &best, &found);
	return found;
}

/* ---- parameters ---- */

unsigned cmdlet_set_count(const struct cmdlet *cmdlet)
{
	unsigned count = 0;

	while (cmdlet->sets && cmdlet->sets[count])
		count++;
	return count ? count : 1;
}

bool cmdlet_param_in_set(const struct cmdlet_param *param, unsigned set)
{
	return param->sets == 0 || (param->sets & (1u << set));
}

static const struct cmdlet_param *exact_param(const struct cmdlet *cmdlet, const char *name)
{
	for (const struct cmdlet_param *p = cmdlet->params; p->name; p++)
		if (strcasecmp(p->name, name) == 0)
			return p;
	for (const struct cmdlet_param *p = cmdlet->params; p->name; p++)
		if (has_word(p->aliases, name))
			return p;
	return NULL;
}

static const char *suggest_param(const struct cmdlet *cmdlet, const char *name)
{
	unsigned best = edits_allowed(name) + 1;
	const char *found = NULL;

	for (const struct cmdlet_param *p = cmdlet->params; p->name; p++)
		consider(name, p->name, &best, &found);
	return found;
}

const struct cmdlet_param *cmdlet_find_param(const struct cmdlet *cmdlet, const char *name,
					     struct error *err)
{
	const struct cmdlet_param *found = exact_param(cmdlet, name), *second = NULL;
	const char *near;

	if (found)
		return found;
	for (const struct cmdlet_param *p = cmdlet->params; *name && p->name; p++)
		if (strncasecmp(p->name, name, strlen(name)) == 0) {
			second = second ? second : found;
			found = p;
		}
	if (found && !second)
		return found;
	if (found) {
		error_set(err, ERR_INVALID, "the parameter -%.60s is ambiguous: -%s or -%s", name,
			  second->name, found->name);
		return NULL;
	}
	near = suggest_param(cmdlet, name);
	error_set(err, ERR_INVALID, "%s has no parameter -%.60s%s%s%s", cmdlet->name, name,
		  near ? "; did you mean -" : "", near ? near : "", near ? "?" : "");
	return NULL;
}
