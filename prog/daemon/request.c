#include "request.h"

#include "base/clock.h"
#include "base/macros.h"
#include "base/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEPT_NS    (300 * NS_PER_SEC)
#define JOB_NS     (3600 * NS_PER_SEC) /* with -AsJob */
#define KEPT_COUNT 1000

struct requests {
	struct daemon *daemon;
	struct request *list; /* newest first */
	unsigned last_id;
};

int requests_new(struct daemon *daemon, struct requests **ret, struct error *err)
{
	struct requests *requests = calloc(1, sizeof(*requests));

	if (!requests)
		return error_set(err, ERR_NO_MEMORY, "no memory for requests");
	requests->daemon = daemon;
	*ret = requests;
	return 0;
}

static void request_free(struct request *request)
{
	json_decref(request->params);
	json_decref(request->results);
	json_decref(request->errors);
	json_decref(request->progress);
	free(request);
}

void requests_free(struct requests *requests)
{
	if (!requests)
		return;
	while (requests->list) {
		struct request *request = requests->list;

		requests->list = request->next;
		request_free(request);
	}
	free(requests);
}

bool requests_busy(const struct requests *requests)
{
	for (const struct request *r = requests->list; r; r = r->next)
		if (!r->done)
			return true;
	return false;
}

static bool is_old(const struct request *request, uint64_t now, unsigned count)
{
	uint64_t age = now - request->done_ns;

	if (count > KEPT_COUNT)
		return true;
	return request->kept ? age > JOB_NS : request->fetched || age > KEPT_NS;
}

/* Forgets what was fetched, is old, or is one too many. */
static void forget_old(struct requests *requests)
{
	uint64_t now = clock_now_ns();
	unsigned count = 0;

	for (struct request **link = &requests->list; *link;) {
		struct request *request = *link;

		count++;
		if (request->done && !request->changed && is_old(request, now, count)) {
			*link = request->next;
			request_free(request);
		} else {
			link = &request->next;
		}
	}
}

struct request *request_find(struct daemon *daemon, unsigned id)
{
	for (struct request *r = daemon->requests->list; r; r = r->next)
		if (r->id == id)
			return r;
	return NULL;
}

struct request *request_older(const struct request *request)
{
	return request->next;
}

void request_keep(struct request *request)
{
	request->kept = true;
}

void request_receive(struct request *request)
{
	if (!request->done)
		return;
	/* New ones, for the answer shares the old. */
	json_decref(request->results);
	json_decref(request->errors);
	request->results = json_array();
	request->errors = json_array();
	request->fetched = true;
}

bool requests_unseen(const struct requests *requests)
{
	for (const struct request *r = requests->list; r; r = r->next)
		if (r->kept && !r->fetched && clock_now_ns() - r->done_ns < JOB_NS)
			return true;
	return false;
}

static void tell(struct request *request)
{
	request->version++;
	if (request->changed)
		request->changed(request->user, request);
}

/* The cmdlet and its function; an error where there is none, or the user may not. */
static int find_cmdlet(const char *name, const struct access_user *user, const struct cmdlet **ret,
		       request_run *ret_run, struct error *err)
{
	const struct cmdlet *cmdlet = cmdlet_find(name);
	const char *planned, *area;
	enum cmdlet_role needed;

	*ret = cmdlet;
	*ret_run = cmdlet ? cmdlets_find(cmdlet->name) : NULL;
	if (!*ret_run) {
		area = cmdlet_planned(name, &planned);
		if (area)
			return error_set(err, ERR_UNSUPPORTED, "%s is not there yet (%s)", planned,
					 area);
		return error_set(err, ERR_NOT_FOUND, "there is no cmdlet '%.60s'", name);
	}
	needed = cmdlet_role_needed(cmdlet);
	if (user && user->role < needed)
		return error_set(err, ERR_DENIED, "this needs the role %s; '%s' has the role %s",
				 cmdlet_role_name(needed), user->name,
				 cmdlet_role_name(user->role));
	return 0;
}

int request_begin(struct daemon *daemon, const struct access_user *user, const char *name,
		  const json_t *params, struct request **ret, struct error *err)
{
	const struct cmdlet *cmdlet;
	struct request *request;
	request_run run;
	json_t *checked;
	int r = find_cmdlet(name, user, &cmdlet, &run, err);

	if (r == 0)
		r = cmdlet_check(cmdlet, params, &checked, err);
	if (r < 0)
		return r;
	forget_old(daemon->requests);
	request = calloc(1, sizeof(*request));
	if (!request)
		abort();
	*request = (struct request){ .daemon = daemon,
				     .id = ++daemon->requests->last_id,
				     .cmdlet = cmdlet,
				     .params = checked,
				     .results = json_array(),
				     .errors = json_array(),
				     .holds = 1,
				     .begun_ns = clock_now_ns(),
				     .visitor = user,
				     .next = daemon->requests->list };
	if (user)
		snprintf(request->owner, sizeof(request->owner), "%s", user->name);
	daemon->requests->list = request;
	run(request);
	request->visitor = NULL;
	request_release(request);
	*ret = request;
	return 0;
}

bool request_is_of(const struct request *request, const struct access_user *user)
{
	return !user || user->role == CMDLET_ROLE_ADMINISTRATOR ||
	       strcmp(request->owner, user->name) == 0;
}

bool request_may_see(const struct access_user *user, const struct vm *vm)
{
	return !user || user->role > CMDLET_ROLE_CONSOLE || access_is_granted(user, vm->id);
}

void request_hold(struct request *request)
{
	request->holds++;
}

void request_release(struct request *request)
{
	if (--request->holds)
		return;
	request->done = true;
	request->done_ns = clock_now_ns();
	tell(request);
	jobs_one_ended(request->daemon);
}

void request_cancel(struct request *request)
{
	struct error err;

	if (request->done || request->cancelled)
		return;
	request->cancelled = true;
	error_set(&err, ERR_CANCELLED, "the waiting was cancelled");
	vm_cancel_waits(request->daemon, request, &err);
	if (request->cancel)
		request->cancel(request);
}

json_t *request_describe(const struct request *request)
{
	if (request->done)
		return json_pack("{s:i, s:s, s:s, s:O, s:O}", "job", (int)request->id, "cmdlet",
				 request->cmdlet->name, "state", "done", "results",
				 request->results, "errors", request->errors);
	return json_pack("{s:i, s:s, s:s, s:i, s:O*}", "job", (int)request->id, "cmdlet",
			 request->cmdlet->name, "state", "running", "version",
			 (int)request->version, "progress", request->progress);
}

void request_result(struct request *request, json_t *object)
{
	json_array_append_new(request->results, object);
}

void request_error(struct request *request, const char *object, const struct error *err)
{
	AUTO_FREE char *name = object ? text_format("%s", object) : NULL;

	/* A file of any name. */
	if (name)
		text_mend(name);
	json_array_append_new(request->errors,
			      json_pack("{s:s, s:s, s:s*}", "code", err_code_name(err->code),
					"text", err->text, "object", name));
}

void request_progress(struct request *request, const char *object, const char *fmt, ...)
{
	char activity[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(activity, sizeof(activity), fmt, ap);
	va_end(ap);
	text_mend(activity);
	json_decref(request->progress);
	request->progress = json_pack("{s:s, s:s*}", "activity", activity, "object", object);
	tell(request);
}

/* ---- parameters ---- */

const char *request_string(const struct request *request, const char *name)
{
	return json_string_value(json_object_get(request->params, name));
}

bool request_switch(const struct request *request, const char *name)
{
	return json_is_true(json_object_get(request->params, name));
}

int64_t request_integer(const struct request *request, const char *name, int64_t dflt)
{
	const json_t *value = json_object_get(request->params, name);

	return json_is_integer(value) ? json_integer_value(value) : dflt;
}

/* The selected VMs, each once and referenced, in the order of the list of VMs. */
static size_t select_vms(struct request *request, const json_t *patterns, struct vm **ret)
{
	struct daemon *daemon = request->daemon;
	size_t count = 0;

	for (size_t i = 0; i < daemon->vm_count; i++)
		for (size_t k = 0; k < json_array_size(patterns); k++)
			if (request_may_see(request->visitor, daemon->vms[i]) &&
			    cmdlet_wildcard_match(json_string_value(json_array_get(patterns, k)),
						  daemon->vms[i]->config->name)) {
				ret[count++] = vm_ref(daemon->vms[i]);
				break;
			}
	return count;
}

static void report_missing(struct request *request, const json_t *patterns)
{
	for (size_t k = 0; k < json_array_size(patterns); k++) {
		const char *name = json_string_value(json_array_get(patterns, k));
		const struct vm *vm = vm_find(request->daemon, name);
		struct error err;

		if (cmdlet_has_wildcard(name) || (vm && request_may_see(request->visitor, vm)))
			continue;
		error_set(&err, ERR_NOT_FOUND, "there is no virtual machine of this name");
		request_error(request, name, &err);
	}
}

void request_for_vms(struct request *request, const char *name,
		     void (*work)(struct request *request, struct vm *vm))
{
	json_t *value = json_object_get(request->params, name);
	json_t *patterns = json_is_array(value) ? json_incref(value) : json_pack("[O]", value);
	struct vm **vms = calloc(request->daemon->vm_count + 1, sizeof(struct vm *));
	size_t count;

	if (!vms || !patterns)
		abort();
	/* Before the work: it may rename or remove them. */
	report_missing(request, patterns);
	count = select_vms(request, patterns, vms);
	for (size_t i = 0; i < count; i++) {
		if (!vms[i]->removed)
			work(request, vms[i]);
		vm_unref(vms[i]);
	}
	json_decref(patterns);
	free(vms);
}
