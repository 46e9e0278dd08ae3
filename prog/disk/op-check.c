#include "ops.h"

#include "image.h"
#include "sandbox.h"

#include "base/macros.h"
#include "disk/maintain.h"

#include <stdio.h>
#include <unistd.h>

#define MAX_FINDINGS 200u

struct findings {
	const char *path;
	json_t *list; /* of texts */
	unsigned damage;
	char first[400]; /* of the damage */
};

static void add_text(struct findings *findings, const char *text)
{
	/* What is no UTF-8 would lose the whole answer. */
	json_t *value = json_string(text);

	if (value && json_array_size(findings->list) < MAX_FINDINGS)
		json_array_append(findings->list, value);
	json_decref(value);
}

static void report(void *user, const struct disk_finding *finding)
{
	static const char *const words[] = {
		[DISK_NOTE] = "note", [DISK_LEAK] = "leak", [DISK_DAMAGE] = "damage"
	};
	const char *advice = finding->repaired ? "repaired" : finding->advice;
	struct findings *findings = user;
	char text[800];

	snprintf(text, sizeof(text), "%s: %.200s at %#lx: %.300s%s%.200s", words[finding->severity],
		 findings->path, finding->offset, finding->what, advice ? "; " : "",
		 advice ? advice : "");
	add_text(findings, text);
	if (finding->severity == DISK_DAMAGE && !finding->repaired && findings->damage++ == 0)
		snprintf(findings->first, sizeof(findings->first), "%.250s%s%.140s", finding->what,
			 finding->advice ? "; " : "", finding->advice ? finding->advice : "");
}

static int check_layer(struct image *image, unsigned index, bool repair, struct findings *findings,
		       struct error *err)
{
	struct disk_check_options options = { .repair = repair && index == 0,
					      .report = report,
					      .user = findings };
	enum disk_severity worst;

	findings->path = image->chain.layers[index].path;
	return disk_check(options.repair ? image->fd : image->chain.layers[index].fd, &options,
			  &worst, err);
}

/* azure: does it keep Azure's rules, too? */
static json_t *result_of(const struct image *image, const struct findings *findings, bool azure)
{
	char verdict[500] = "";
	struct error err;

	if (findings->damage)
		snprintf(verdict, sizeof(verdict), "it is damaged (%u findings): %s",
			 findings->damage, findings->first);
	else if (image->chain_failure.code)
		snprintf(verdict, sizeof(verdict), "%.490s", image->chain_failure.text);
	else if (azure && disk_check_azure(image_details(image), &err) < 0)
		snprintf(verdict, sizeof(verdict), "%.490s", err.text);
	return json_pack("{s:O, s:s*}", "findings", findings->list, "verdict",
			 verdict[0] ? verdict : NULL);
}

int op_check(struct job *job, json_t **ret, struct error *err)
{
	bool repair = job_flag(job, "repair");
	struct findings findings = { .list = json_array() };
	struct image image;
	const char *path;
	int r = job_path(job, "path", &path, err);

	if (r == 0)
		r = image_find(path, IMAGE_LOOSE | (repair ? IMAGE_WRITES : 0), &image, err);
	if (r == 0) {
		r = sandbox_enter_working(err);
		for (unsigned i = 0; r == 0 && i < image.chain.count; i++)
			r = check_layer(&image, i, repair, &findings, err);
		if (r == 0)
			*ret = result_of(&image, &findings, job_flag(job, "azure"));
		image_close(&image, NULL);
	}
	json_decref(findings.list);
	return r;
}
