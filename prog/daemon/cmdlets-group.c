/*
 * Groups of VMs, and groups of such groups (management collections). They are labels: what they
 * name need not be there. Kept in groups.json of the state folder, replaced as a whole:
 *
 *	{"version": 1, "groups": [{"id", "name", "type", "members": [identifiers]}]}
 */
#include "cmdlets.h"

#include "base/guid.h"
#include "base/macros.h"
#include "config/config-json.h"
#include "host.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define GROUPS_FILE    "groups.json"
#define GROUPS_VERSION 1
#define MAX_GROUPS     10000
#define MAX_MEMBERS    10000
#define OF_VMS         "VMCollectionType"
#define OF_GROUPS      "ManagementCollectionType"

/* ---- the file ---- */

static const char *text_of(const json_t *group, const char *name)
{
	const char *text = json_string_value(json_object_get(group, name));

	return text ? text : "";
}

static bool is_group(const json_t *group)
{
	const json_t *members = json_object_get(group, "members");
	struct guid guid;

	if (!guid_parse(text_of(group, "id"), &guid) || !*text_of(group, "name") ||
	    (strcmp(text_of(group, "type"), OF_VMS) != 0 &&
	     strcmp(text_of(group, "type"), OF_GROUPS) != 0) ||
	    !json_is_array(members))
		return false;
	for (size_t i = 0; i < json_array_size(members); i++)
		if (!json_is_string(json_array_get(members, i)))
			return false;
	return true;
}

/* The list, the caller's; empty where there is no file. */
static int load(const struct daemon *daemon, json_t **ret, struct error *err)
{
	AUTO_CLOSE int fd = host_open_state(daemon, err);
	json_t *file = NULL, *groups;
	int r = fd < 0 ? fd : config_load_json(fd, GROUPS_FILE, &file, err);

	if (r == -ERR_NOT_FOUND) {
		*ret = json_array();
		return 0;
	}
	if (r < 0)
		return r;
	groups = json_object_get(file, "groups");
	if (json_integer_value(json_object_get(file, "version")) != GROUPS_VERSION ||
	    !json_is_array(groups))
		r = error_set(err, ERR_CORRUPT, "'%.200s/" GROUPS_FILE "' is no list of groups",
			      daemon->paths.state);
	for (size_t i = 0; r == 0 && i < json_array_size(groups); i++)
		if (!is_group(json_array_get(groups, i)))
			r = error_set(err, ERR_CORRUPT,
				      "'%.200s/" GROUPS_FILE "': group %zu is damaged",
				      daemon->paths.state, i + 1);
	*ret = r < 0 ? NULL : json_incref(groups);
	json_decref(file);
	return r;
}

static int save(const struct daemon *daemon, json_t *groups, struct error *err)
{
	AUTO_CLOSE int fd = host_open_state(daemon, err);
	json_t *file = json_pack("{s:i, s:O}", "version", GROUPS_VERSION, "groups", groups);
	int r = fd < 0 ? fd : config_save_json(fd, GROUPS_FILE, file, err);

	json_decref(file);
	return r;
}

/* ---- finding ---- */

static json_t *find(const json_t *groups, const char *key, const char *value)
{
	for (size_t i = 0; i < json_array_size(groups); i++)
		if (strcasecmp(text_of(json_array_get(groups, i), key), value) == 0)
			return json_array_get(groups, i);
	return NULL;
}

static size_t member_index(const json_t *group, const char *id)
{
	const json_t *members = json_object_get(group, "members");
	size_t i = 0;

	while (i < json_array_size(members) &&
	       strcasecmp(json_string_value(json_array_get(members, i)), id) != 0)
		i++;
	return i;
}

static bool has_member(const json_t *group, const char *id)
{
	return member_index(group, id) < json_array_size(json_object_get(group, "members"));
}

static bool is_of_groups(const json_t *group)
{
	return strcmp(text_of(group, "type"), OF_GROUPS) == 0;
}

/* ---- what all have in common ---- */

struct work {
	struct request *request;
	json_t *groups;
};

static void show(const struct work *work, const json_t *group)
{
	const json_t *members = json_object_get(group, "members");
	json_t *vms = json_array(), *groups = json_array();

	for (size_t i = 0; i < json_array_size(members); i++) {
		const char *id = json_string_value(json_array_get(members, i));
		const struct vm *vm =
		    is_of_groups(group) ? NULL : vm_find_id(work->request->daemon, id);
		const json_t *other = is_of_groups(group) ? find(work->groups, "id", id) : NULL;

		if (vm)
			json_array_append_new(vms, json_string(vm->config->name));
		if (other)
			json_array_append_new(groups, json_string(text_of(other, "name")));
	}
	request_result(work->request,
		       json_pack("{s:s, s:s, s:s, s:o, s:o}", "Name", text_of(group, "name"),
				 "GroupType", text_of(group, "type"), "InstanceId",
				 text_of(group, "id"), "VMMembers", vms, "VMGroupMembers", groups));
}

/* Loads, lets `change` do it (1: nothing to save), saves. */
static void with_groups(struct request *request, const char *object,
			int (*change)(struct work *work, struct error *err))
{
	struct work work = { request, NULL };
	struct error err;
	int r = load(request->daemon, &work.groups, &err);

	if (r == 0)
		r = change(&work, &err);
	if (r == 0)
		r = save(request->daemon, work.groups, &err);
	if (r < 0)
		request_error(request, object, &err);
	json_decref(work.groups);
}

/* The group that -Name or -Id names. */
static int named_group(const struct work *work, json_t **ret, struct error *err)
{
	const char *id = request_string(work->request, "Id");

	*ret = id ? find(work->groups, "id", id)
		  : find(work->groups, "name", request_string(work->request, "Name"));
	return *ret ? 0 : error_set(err, ERR_NOT_FOUND, "there is no such group (Get-VMGroup)");
}

static const char *named(const struct request *request)
{
	const char *name = request_string(request, "Name");

	return name ? name : request_string(request, "Id");
}

/* ---- New-, Get-, Rename-, Remove-VMGroup ---- */

static int new_group(struct work *work, struct error *err)
{
	const char *name = request_string(work->request, "Name");
	const char *given = request_string(work->request, "Id");
	char id[GUID_TEXT_SIZE];
	struct guid guid;
	json_t *group;
	int r = config_check_name(name, "a group's name", err);

	if (r < 0)
		return r;
	if (!given || !guid_parse(given, &guid))
		guid_generate(&guid);
	guid_format(&guid, id);
	if (find(work->groups, "name", name) || find(work->groups, "id", id))
		return error_set(err, ERR_EXISTS, "there is a group of this name or identifier");
	if (json_array_size(work->groups) >= MAX_GROUPS)
		return error_set(err, ERR_LIMIT, "there are %d groups already", MAX_GROUPS);
	group = json_pack("{s:s, s:s, s:s, s:[]}", "id", id, "name", name, "type",
			  request_string(work->request, "GroupType"), "members");
	json_array_append_new(work->groups, group);
	show(work, group);
	return 0;
}

void cmdlet_new_group(struct request *request)
{
	with_groups(request, request_string(request, "Name"), new_group);
}

static int get_groups(struct work *work, struct error *err)
{
	const char *id = request_string(work->request, "Id");
	const json_t *patterns = json_object_get(work->request->params, "Name");

	for (size_t i = 0; i < json_array_size(work->groups); i++) {
		const json_t *group = json_array_get(work->groups, i);

		if (id ? strcasecmp(text_of(group, "id"), id) == 0
		       : cmdlets_list_matches(work->request, "Name", text_of(group, "name")))
			show(work, group);
	}
	for (size_t i = 0; !id && i < json_array_size(patterns); i++) {
		const char *name = json_string_value(json_array_get(patterns, i));

		if (cmdlet_has_wildcard(name) || find(work->groups, "name", name))
			continue;
		error_set(err, ERR_NOT_FOUND, "there is no group of this name");
		request_error(work->request, name, err);
	}
	if (id && !json_array_size(work->request->results))
		return error_set(err, ERR_NOT_FOUND, "there is no group with this identifier");
	return 1;
}

void cmdlet_get_group(struct request *request)
{
	with_groups(request, request_string(request, "Id"), get_groups);
}

static int rename_group(struct work *work, struct error *err)
{
	const char *name = request_string(work->request, "NewName");
	json_t *group, *other = find(work->groups, "name", name);
	int r = named_group(work, &group, err);

	if (r == 0)
		r = config_check_name(name, "a group's name", err);
	if (r < 0)
		return r;
	if (other && other != group)
		return error_set(err, ERR_EXISTS, "there is a group '%.100s' already", name);
	json_object_set_new(group, "name", json_string(name));
	show(work, group);
	return 0;
}

void cmdlet_rename_group(struct request *request)
{
	with_groups(request, named(request), rename_group);
}

static int remove_group(struct work *work, struct error *err)
{
	AUTO_FREE char *id = NULL;
	json_t *group;
	int r = named_group(work, &group, err);

	if (r < 0)
		return r;
	id = strdup(text_of(group, "id"));
	for (size_t i = json_array_size(work->groups); i > 0; i--) {
		json_t *other = json_array_get(work->groups, i - 1);

		if (other == group)
			json_array_remove(work->groups, i - 1);
		else if (has_member(other, id))
			json_array_remove(json_object_get(other, "members"),
					  member_index(other, id));
	}
	return 0;
}

void cmdlet_remove_group(struct request *request)
{
	with_groups(request, named(request), remove_group);
}

/* ---- members ---- */

/* Would a group that holds `group` come to hold itself? */
static bool holds(const json_t *groups, const json_t *group, const char *id, unsigned depth)
{
	const json_t *members = json_object_get(group, "members");

	if (strcasecmp(text_of(group, "id"), id) == 0 || depth > MAX_GROUPS)
		return true;
	for (size_t i = 0; is_of_groups(group) && i < json_array_size(members); i++) {
		const json_t *next =
		    find(groups, "id", json_string_value(json_array_get(members, i)));

		if (next && holds(groups, next, id, depth + 1))
			return true;
	}
	return false;
}

static int add_member(const json_t *group, const char *id, struct error *err)
{
	json_t *members = json_object_get(group, "members");

	if (json_array_size(members) >= MAX_MEMBERS)
		return error_set(err, ERR_LIMIT, "the group has %d members already", MAX_MEMBERS);
	if (!has_member(group, id))
		json_array_append_new(members, json_string(id));
	return 0;
}

/* The identifier of a member that is named. */
static int member_id(const struct work *work, const json_t *group, const char *name,
		     const char **ret, struct error *err)
{
	struct vm *vm;
	json_t *other;

	if (!is_of_groups(group)) {
		vm = vm_find(work->request->daemon, name);
		*ret = vm ? vm->id : NULL;
		return vm ? 0
			  : error_set(err, ERR_NOT_FOUND, "there is no virtual machine '%.100s'",
				      name);
	}
	other = find(work->groups, "name", name);
	*ret = other ? text_of(other, "id") : NULL;
	return other ? 0 : error_set(err, ERR_NOT_FOUND, "there is no group '%.100s'", name);
}

/* The names that are given, which fit the group's type. */
static int members_given(const struct work *work, const json_t *group, const json_t **ret,
			 struct error *err)
{
	const json_t *vms = json_object_get(work->request->params, "VM");
	const json_t *groups = json_object_get(work->request->params, "VMGroupMember");

	*ret = is_of_groups(group) ? groups : vms;
	if (is_of_groups(group) ? vms != NULL : groups != NULL)
		return error_set(err, ERR_INVALID, "a group of the type %s has other members",
				 text_of(group, "type"));
	return 0;
}

static int change_members(struct work *work, bool add, struct error *err)
{
	const json_t *names = NULL;
	json_t *group;
	int r = named_group(work, &group, err);

	if (r == 0)
		r = members_given(work, group, &names, err);
	for (size_t i = 0; r == 0 && i < json_array_size(names); i++) {
		const char *id = NULL;

		r = member_id(work, group, json_string_value(json_array_get(names, i)), &id, err);
		if (r == 0 && !add)
			json_array_remove(json_object_get(group, "members"),
					  member_index(group, id));
		else if (r == 0 && is_of_groups(group) &&
			 holds(work->groups, find(work->groups, "id", id), text_of(group, "id"), 0))
			r = error_set(err, ERR_INVALID, "the group would be a member of itself");
		else if (r == 0)
			r = add_member(group, id, err);
	}
	if (r == 0)
		show(work, group);
	return r;
}

static int add_members(struct work *work, struct error *err)
{
	return change_members(work, true, err);
}

static int remove_members(struct work *work, struct error *err)
{
	return change_members(work, false, err);
}

void cmdlet_add_group_member(struct request *request)
{
	with_groups(request, named(request), add_members);
}

void cmdlet_remove_group_member(struct request *request)
{
	with_groups(request, named(request), remove_members);
}
