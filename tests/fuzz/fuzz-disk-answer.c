/* What a hostile oyako-disk answers to the service: it has read a hostile image. In place of
 * disk-job.c, so no program runs. A line of the input that begins with a letter is a cmdlet; the
 * others are the answers that its jobs get, in this order. An answer's absolute paths are taken as
 * below a folder of this target. */
#include "daemon.h"

#include "../../prog/daemon/disk-job.h"
#include "base/macros.h"
#include "base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_LINES 64
#define AT        '@' /* in parameters: the folder */
#define POINT     "\"Id\":\"11111111-2222-3333-4444-555555555555\""

static const struct {
	char letter;
	const char *name, *params;
} cmdlets[] = {
	{ 'c', "Checkpoint-VM", "{\"Name\":[\"a\"]}" },
	{ 'C', "Convert-VHD", "{\"Path\":\"@/disk.vhdx\",\"DestinationPath\":\"@/new.vhd\"}" },
	{ 'e', "Export-VM", "{\"Name\":[\"a\"],\"Path\":\"@/out\"}" },
	{ 'E', "Enable-VHDChangeTracking", "{\"Path\":[\"@/disk.vhdx\"]}" },
	{ 'f', "Remove-VMSnapshot", "{\"VMName\":[\"a\"]}" },
	{ 'g', "Get-VHD", "{\"Path\":[\"@/disk.vhdx\"]}" },
	{ 'h', "Get-VHDChange", "{\"Path\":\"@/disk.vhdx\"," POINT "}" },
	{ 'm', "Merge-VHD", "{\"Path\":\"@/disk.vhdx\",\"Passthru\":true}" },
	{ 'M', "Mount-VHD", "{\"Path\":[\"@/disk.vhdx\"]}" },
	{ 'n', "New-VHD", "{\"Path\":[\"@/new.vhdx\"],\"SizeBytes\":67108864}" },
	{ 'o', "Optimize-VHD", "{\"Path\":[\"@/disk.vhdx\"]}" },
	{ 'p', "Get-VHDReferencePoint", "{\"Path\":[\"@/disk.vhdx\"]}" },
	{ 'r', "Resize-VHD", "{\"Path\":[\"@/disk.vhdx\"],\"SizeBytes\":67108864}" },
	{ 's', "Set-VHD", "{\"Path\":\"@/disk.vhdx\",\"ParentPath\":\"@/base.vhdx\"}" },
	{ 't', "Test-VHD", "{\"Path\":[\"@/disk.vhdx\"]}" },
};

/* ---- in place of disk-job.c ---- */

struct disk_job {
	const struct disk_job_events *events;
	void *user;
	unsigned flags;
	bool cancelled;
};

static json_t *answers[MAX_LINES];
static unsigned answer_count, answered;

static void tell(struct disk_job *job, json_t *answer)
{
	const json_t *error = json_object_get(answer, "error");
	const json_t *result = json_object_get(answer, "result");
	const char *text = json_string_value(json_object_get(error, "text"));
	const char *code = json_string_value(json_object_get(error, "code"));
	struct process process = { .pidfd = -1 };
	bool serves = job->flags & DISK_JOB_SERVES;
	struct error err = { 0 };

	if (job->cancelled)
		error_set(&err, ERR_CANCELLED, "it was cancelled");
	else if (error)
		error_set(&err, err_code_from_name(code ? code : ""), "%s", text ? text : "");
	else if (!json_is_object(result))
		error_set(&err, ERR_INTERNAL, "the program oyako-disk said nothing");
	if (!err.code && json_is_true(json_object_get(answer, "progress")) && job->events->progress)
		job->events->progress(job->user, 5, 7);
	job->events->done(job->user, err.code ? NULL : result,
			  serves && !err.code ? &process : NULL, err.code ? &err : NULL);
}

static void answer(void *user)
{
	struct disk_job *job = user;

	if (job->events)
		tell(job, answered < answer_count ? answers[answered++] : NULL);
	free(job);
}

int disk_job_start(struct daemon *daemon, json_t *request, const int *fds, unsigned fd_count,
		   unsigned flags, const struct disk_job_events *events, void *user,
		   struct disk_job **ret, struct error *err)
{
	struct disk_job *job = malloc(sizeof(*job));
	char *text = json_dumps(request, JSON_COMPACT);

	/* What it is asked can be said. */
	if (!job || !text)
		abort();
	free(text);
	json_decref(request);
	*job = (struct disk_job){ events, user, flags, false };
	loop_post(daemon->loop, answer, job);
	*ret = job;
	return 0;
}

void disk_job_cancel(struct disk_job *job)
{
	job->cancelled = true;
}

void disk_job_leave(struct disk_job *job)
{
	/* answer() frees it, and nobody is told. */
	job->events = NULL;
}

/* ---- the input ---- */

static void stage(json_t *value);

static json_t *staged(json_t *value)
{
	const char *text = json_string_value(value);
	AUTO_FREE char *path = NULL, *root = NULL;

	if (!text || text[0] != '/') {
		stage(value);
		return json_incref(value);
	}
	root = fuzz_path("");
	path = text_format("%s%s", root, strstr(text, "..") ? "disk.vhdx" : text + 1);
	return json_string(path);
}

static void stage(json_t *value)
{
	const char *key;
	json_t *each;
	void *next;
	size_t i;

	json_array_foreach(value, i, each) json_array_set_new(value, i, staged(each));
	json_object_foreach_safe(value, next, key, each)
	    json_object_set_new(value, key, staged(each));
}

static char *expand(const char *params)
{
	AUTO_FREE char *root = fuzz_path(".");
	char *all = text_format("%s", "");
	const char *at;

	do {
		AUTO_FREE char *before = all;
		int len;

		at = strchr(params, AT);
		len = at ? (int)(at - params) : (int)strlen(params);
		all = text_format("%s%.*s%s", before, len, params, at ? root : "");
		params = at ? at + 1 : NULL;
	} while (at);
	return all;
}

static void play(char letter)
{
	for (size_t i = 0; i < ARRAY_SIZE(cmdlets); i++)
		if (cmdlets[i].letter == letter) {
			AUTO_FREE char *params = expand(cmdlets[i].params);

			fuzz_cmdlet(cmdlets[i].name, params);
		}
}

static void make_files(void)
{
	static const char *const names[] = { "disk.vhdx", "base.vhdx",
					     "disk_11111111-2222-3333-4444-555555555555.avhdx" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		AUTO_FREE char *path = fuzz_path(names[i]);

		fuzz_write(path, "x", 1);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char letters[MAX_LINES], *line;
	unsigned letter_count = 0;
	struct vm *vm;
	size_t len;

	if (size < 2 || data[1] != '\n')
		return 0;
	fuzz_daemon();
	vm = vm_ref(fuzz_vm());
	make_files();
	answer_count = answered = 0;
	while (answer_count + letter_count < MAX_LINES && (line = fuzz_line(&data, &size, &len))) {
		if (len == 1) {
			letters[letter_count++] = line[0];
		} else {
			answers[answer_count] = json_loads(line, 0, NULL);
			stage(answers[answer_count++]);
		}
		free(line);
	}
	for (unsigned i = 0; i < letter_count; i++)
		play(letters[i]);
	fuzz_settle();
	fuzz_vm_end(vm);
	vm_unref(vm);
	for (unsigned i = 0; i < answer_count; i++)
		json_decref(answers[i]);
	return 0;
}
