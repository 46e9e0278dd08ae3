/* The check of a request by the table: what belongs to one parameter set, nothing missing, and the
 * defaults. */
#include "cmdlet/cmdlet.h"

#include "cmdlet/value.h"

/* A value of what is not there that is as if nothing were said: -DhcpGuard Off. */
static bool asks_for_nothing(const struct cmdlet_param *param, json_t *value)
{
	json_t *given = json_object(), *is = json_object();
	bool same = param->dflt && value_put_json(param, value, given, NULL) == 0 &&
		    value_put_text(param, param->dflt, is, NULL) == 0 && json_equal(given, is);

	json_decref(given);
	json_decref(is);
	return same;
}

static int take_member(const struct cmdlet *cmdlet, const char *name, json_t *value, json_t *params,
		       struct error *err)
{
	const struct cmdlet_param *param = cmdlet_find_param(cmdlet, name, err);
	if (!param)
		return -ERR_INVALID;
	if (json_object_get(params, param->name))
		return error_set(err, ERR_INVALID, "-%s is given twice", param->name);
	if ((param->flags & CMDLET_LOCAL) || param->type == CMDLET_OBJECTS)
		return error_set(err, ERR_INVALID, "-%s is for the command line, not for a request",
				 param->name);
	if ((param->flags & CMDLET_NOT_YET) && asks_for_nothing(param, value))
		return 0;
	if (param->flags & CMDLET_NOT_YET)
		return error_set(err, ERR_UNSUPPORTED, "%s -%s is not there yet. %s", cmdlet->name,
				 param->name, param->help);
	return value_put_json(param, value, params, err);
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

/* The one to name: rather what a pipe could not give. */
static const struct cmdlet_param *worst_missing(const struct cmdlet *cmdlet, const json_t *params,
						unsigned set)
{
	for (const struct cmdlet_param *p = cmdlet->params; p->name; p++)
		if ((p->flags & CMDLET_MANDATORY) && !(p->flags & CMDLET_PIPELINE) &&
		    cmdlet_param_in_set(p, set) && !json_object_get(params, p->name))
			return p;
	return first_missing(cmdlet, params, set);
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
			 worst_missing(cmdlet, params, first)->name);
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
		if (p->dflt && !(p->flags & CMDLET_NOT_YET) && cmdlet_param_in_set(p, set) &&
		    !json_object_get(params, p->name))
			value_put_text(p, p->dflt, params, NULL);
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
