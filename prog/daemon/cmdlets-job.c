/* Jobs, as PowerShell has them: a job is a request that goes on without whoever asked, or that
 * somebody waits for. One that was begun with -AsJob is kept after its end. */
#include "cmdlets.h"

#include "base/clock.h"
#include "base/macros.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Wait-Job and Stop-Job at work. */
struct job_wait {
	struct request *request;
	json_t *ids; /* of those that have not ended */
	json_t *all; /* that it waits for */
	bool any;    /* one is enough */
	struct loop_timer *timer;
	struct job_wait *next;
};

/* ---- which ones ---- */

static bool is_selected(const struct request *request, const struct request *job)
{
	const json_t *ids = json_object_get(request->params, "Id");
	char name[20];

	if (job == request || !request_is_of(job, request->visitor) || (job->done && !job->kept))
		return false;
	for (size_t i = 0; i < json_array_size(ids); i++)
		if (json_integer_value(json_array_get(ids, i)) == job->id)
			return true;
	snprintf(name, sizeof(name), "Job%u", job->id);
	return !json_array_size(ids) && json_object_get(request->params, "Name") &&
	       cmdlets_list_matches(request, "Name", name);
}

static void report_unknown(struct request *request)
{
	const json_t *ids = json_object_get(request->params, "Id");

	for (size_t i = 0; i < json_array_size(ids); i++) {
		json_int_t id = json_integer_value(json_array_get(ids, i));
		const struct request *job = request_find(request->daemon, (unsigned)id);
		struct error err;
		char name[24];

		if (job && is_selected(request, job))
			continue;
		snprintf(name, sizeof(name), "%lld", (long long)id);
		error_set(&err, ERR_NOT_FOUND, "there is no job of this number");
		request_error(request, name, &err);
	}
}

/* Calls each, the oldest first; work may remove it. */
static void for_jobs(struct request *request,
		     void (*work)(struct request *request, struct request *job))
{
	size_t count = 0;
	unsigned *ids;

	report_unknown(request);
	for (struct request *job = request; (job = request_older(job));)
		count++;
	ids = calloc(count + 1, sizeof(*ids));
	if (!ids)
		abort();
	count = 0;
	for (struct request *job = request; (job = request_older(job));)
		if (is_selected(request, job))
			ids[count++] = job->id;
	while (count > 0) {
		struct request *job = request_find(request->daemon, ids[--count]);

		if (job)
			work(request, job);
	}
	free(ids);
}

/* ---- Get-Job ---- */

static const char *job_state(const struct request *job)
{
	if (!job->done)
		return job->cancelled ? "Stopping" : "Running";
	if (job->cancelled)
		return "Stopped";
	return json_array_size(job->errors) && !json_array_size(job->results) ? "Failed"
									      : "Completed";
}

static void show_job(struct request *request, struct request *job)
{
	const char *state = request_string(request, "State");
	char name[20];

	if (state && strcmp(state, job_state(job)) != 0)
		return;
	snprintf(name, sizeof(name), "Job%u", job->id);
	request_result(
	    request,
	    json_pack(
		"{s:i, s:s, s:s, s:s, s:b, s:s?, s:s?, s:s, s:i}", "Id", (int)job->id, "Name", name,
		"State", job_state(job), "Command", job->cmdlet->name, "HasMoreData",
		job->kept && job->done && !job->fetched, "Progress",
		json_string_value(json_object_get(job->progress, "activity")), "Object",
		json_string_value(json_object_get(job->progress, "object")), "UserName", job->owner,
		"Seconds",
		(int)(((job->done ? job->done_ns : clock_now_ns()) - job->begun_ns) / NS_PER_SEC)));
}

void cmdlet_get_job(struct request *request)
{
	for_jobs(request, show_job);
}

/* ---- Wait-Job, Stop-Job ---- */

static void end_wait(struct job_wait *wait)
{
	struct request *request = wait->request;
	struct job_wait **link = &request->daemon->job_waits;

	while (*link != wait)
		link = &(*link)->next;
	*link = wait->next;
	for (size_t i = 0; i < json_array_size(wait->all); i++) {
		json_int_t id = json_integer_value(json_array_get(wait->all, i));
		struct request *job = request_find(request->daemon, (unsigned)id);

		if (job && (job->done || !wait->any))
			show_job(request, job);
	}
	request->cancel = NULL;
	loop_timer_free(wait->timer);
	json_decref(wait->ids);
	json_decref(wait->all);
	free(wait);
	request_release(request);
}

static bool look(struct job_wait *wait)
{
	for (size_t i = json_array_size(wait->ids); i > 0; i--) {
		json_int_t id = json_integer_value(json_array_get(wait->ids, i - 1));
		const struct request *job = request_find(wait->request->daemon, (unsigned)id);

		if (!job || job->done)
			json_array_remove(wait->ids, i - 1);
	}
	return json_array_size(wait->ids) == 0 ||
	       (wait->any && json_array_size(wait->ids) < json_array_size(wait->all));
}

void jobs_one_ended(struct daemon *daemon)
{
	struct job_wait *wait = daemon->job_waits;

	while (wait) {
		struct job_wait *next = wait->next;

		if (look(wait)) {
			end_wait(wait);
			/* Its own end was told, too, and may have ended others. */
			next = daemon->job_waits;
		}
		wait = next;
	}
}

static void timed_out(void *user)
{
	end_wait(user);
}

static void cancel_wait(struct request *request)
{
	end_wait(request->context);
}

static void add_to_wait(struct request *request, struct request *job)
{
	struct job_wait *wait = request->context;

	json_array_append_new(wait->ids, json_integer(job->id));
	json_array_append_new(wait->all, json_integer(job->id));
}

static void stop_and_wait(struct request *request, struct request *job)
{
	request_cancel(job);
	add_to_wait(request, job);
}

static void wait_for_jobs(struct request *request,
			  void (*work)(struct request *request, struct request *job))
{
	int64_t seconds = request_integer(request, "Timeout", -1);
	struct job_wait *wait = calloc(1, sizeof(*wait));

	if (!wait)
		abort();
	wait->request = request;
	wait->ids = json_array();
	wait->all = json_array();
	wait->any = request_switch(request, "Any");
	request->context = wait;
	for_jobs(request, work);
	wait->next = request->daemon->job_waits;
	request->daemon->job_waits = wait;
	request_hold(request);
	if (look(wait)) {
		end_wait(wait);
		return;
	}
	request->cancel = cancel_wait;
	if (seconds < 0)
		return;
	if (loop_timer_new(request->daemon->loop, timed_out, wait, &wait->timer, NULL) < 0)
		abort();
	loop_timer_arm(wait->timer, clock_now_ns() + (uint64_t)seconds * NS_PER_SEC);
}

void cmdlet_wait_job(struct request *request)
{
	wait_for_jobs(request, add_to_wait);
}

void cmdlet_stop_job(struct request *request)
{
	wait_for_jobs(request, stop_and_wait);
}

/* ---- Remove-Job ---- */

static void remove_job(struct request *request, struct request *job)
{
	struct error err;
	char name[20];

	if (!job->done && !request_switch(request, "Force")) {
		snprintf(name, sizeof(name), "Job%u", job->id);
		error_set(&err, ERR_STATE, "it is running: Stop-Job ends it, or -Force");
		request_error(request, name, &err);
		return;
	}
	request_cancel(job);
	job->kept = false;
	job->fetched = true;
}

void cmdlet_remove_job(struct request *request)
{
	for_jobs(request, remove_job);
}
