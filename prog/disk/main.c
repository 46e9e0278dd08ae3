/*
 * oyako-disk: one job on disk images. It is started by oyakod, which never reads an image itself,
 * with the job on descriptor 3 (docs/disk-protocol.md), does it, and ends.
 */
#include "job.h"
#include "ops.h"

#include "base/macros.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#define JOB_FD 3

static const struct {
	const char *name;
	int (*run)(struct job *job, json_t **ret, struct error *err);
} ops[] = {
	{ "create", op_create },
	{ "describe", op_describe },
	{ "check", op_check },
	{ "convert", op_convert },
	{ "serve", op_serve },
	{ "resize", op_resize },
	{ "compact", op_compact },
	{ "set", op_set },
	{ "merge", op_merge },
	{ "copy-file", op_copy_file },
	{ "parents", op_parents },
	{ "track-start", op_track },
	{ "track-mark", op_track },
	{ "track-points", op_track },
	{ "track-forget", op_track },
	{ "track-changes", op_track },
	{ "track-export", op_track_export },
};

static int run(struct job *job, json_t **ret, struct error *err)
{
	const char *name = job_text(job, "op");

	for (size_t i = 0; name && i < ARRAY_SIZE(ops); i++)
		if (strcmp(ops[i].name, name) == 0)
			return ops[i].run(job, ret, err);
	return error_set(err, ERR_UNSUPPORTED, "oyako-disk knows no job '%.40s'", name ? name : "");
}

/* What comes after oyakod counts on it that nothing changes any more. At every moment an image is
 * whole, so that its program may be killed. */
static bool bind_to_oyakod(const struct job *job)
{
	if (!job_flag(job, "bound"))
		return true;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* It may have ended just before. */
	return job_is_wanted(job);
}

int main(int argc, char **argv)
{
	struct error err = { 0 };
	json_t *result = NULL;
	struct job job;
	struct stat st;
	int r;

	if (argc > 1 || fstat(JOB_FD, &st) < 0 || !S_ISSOCK(st.st_mode)) {
		fprintf(stderr, "oyako-disk is started by oyakod, which gives it its job on "
				"descriptor 3; use `oyako get-vhd` and its like\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	if (job_receive(JOB_FD, &job, &err) < 0 || !bind_to_oyakod(&job))
		return 1;
	r = run(&job, &result, &err);
	if (r == 0)
		job_answer(&job, result);
	else
		job_fail(&job, &err);
	job_done(&job);
	if (r == 0 && job.then)
		r = job.then(job.then_user);
	return r == 0 ? 0 : 1;
}
