/*
 * cpu-diff: random instructions on the real processor and on a processor under test, compared.
 *
 *	cpu-diff [--subject softcpu|softcpu-blocks|translator|translator-live|hostop] [--seed N]
 *		 [--count N | --seconds N] [--mode 64|32|16] [--sequences] [--case ID]
 *
 * Exits with 1 if anything differed. The line "--case ..." of a report repeats that case alone.
 */
#include "case.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_REPORTS 20

struct options {
	const struct subject *subject;
	uint64_t seed, count, only;
	unsigned seconds;
	enum cpu_mode mode;
	bool sequences, single;
};

struct run {
	struct options options;
	struct generator *generator;
	struct native *native;
	void *subject;
	uint64_t done, compared, failed;
};

static const struct subject *const subjects[] = { &subject_softcpu, &subject_softcpu_blocks,
						  &subject_translator, &subject_translator_live,
						  &subject_hostop };

static const struct subject *find_subject(const char *name)
{
	for (size_t i = 0; i < sizeof(subjects) / sizeof(subjects[0]); i++)
		if (strcmp(subjects[i]->name, name) == 0)
			return subjects[i];
	fprintf(stderr, "cpu-diff: no subject '%s'\n", name);
	exit(2);
}

static uint64_t case_id(const struct options *o, uint64_t index)
{
	uint64_t z = (o->seed << 40) + index;

	if (o->single)
		return o->only;
	z = (z ^ z >> 31) * 0x7fb5d329728ea185u;
	return z ^ z >> 29;
}

static unsigned run_batch(struct run *run, unsigned count)
{
	static struct cpu_case cases[NATIVE_BATCH];
	static struct cpu_outcome native[NATIVE_BATCH], subject;
	unsigned failed = 0;

	for (unsigned i = 0; i < count; i++)
		generate_case(run->generator, case_id(&run->options, run->done + i), &cases[i]);
	run->done += count;
	if (!native_run(run->native, cases, native, count))
		return 1;
	for (unsigned i = 0; i < count; i++) {
		if (!run->options.subject->run(run->subject, &cases[i], &subject))
			continue;
		run->compared++;
		if (!compare_outcomes(&cases[i], &native[i], &subject))
			failed++;
	}
	return failed;
}

static bool finished(const struct run *run, time_t end)
{
	const struct options *o = &run->options;

	if (run->failed >= MAX_REPORTS)
		return true;
	return o->seconds ? time(NULL) >= end : run->done >= o->count;
}

static enum cpu_mode parse_mode(const char *text)
{
	static const char *const names[] = {
		[CPU_MODE_64] = "64",
		[CPU_MODE_32] = "32",
		[CPU_MODE_16] = "16",
	};

	for (unsigned i = 0; i < CPU_MODE_COUNT; i++)
		if (strcmp(names[i], text) == 0)
			return (enum cpu_mode)i;
	fprintf(stderr, "cpu-diff: no mode '%s'\n", text);
	exit(2);
}

static void parse(int argc, char **argv, struct options *o)
{
	static const struct option names[] = {
		{ "subject", required_argument, NULL, 's' },
		{ "seed", required_argument, NULL, 'r' },
		{ "count", required_argument, NULL, 'n' },
		{ "seconds", required_argument, NULL, 't' },
		{ "mode", required_argument, NULL, 'm' },
		{ "sequences", no_argument, NULL, 'q' },
		{ "case", required_argument, NULL, 'c' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (c) {
		case 's':
			o->subject = find_subject(optarg);
			break;
		case 'r':
			o->seed = strtoull(optarg, NULL, 0);
			break;
		case 'n':
			o->count = strtoull(optarg, NULL, 0);
			break;
		case 't':
			o->seconds = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case 'm':
			o->mode = parse_mode(optarg);
			break;
		case 'q':
			o->sequences = true;
			break;
		case 'c':
			o->only = strtoull(optarg, NULL, 0);
			o->single = true;
			o->count = 1;
			break;
		default:
			exit(2);
		}
	}
}

int main(int argc, char **argv)
{
	struct run run = { .options = { .subject = subjects[0], .seed = 1, .count = 20000 } };
	time_t end;

	parse(argc, argv, &run.options);
	end = time(NULL) + (time_t)run.options.seconds;
	run.generator = generator_new(run.options.mode, run.options.sequences);
	run.native = native_new(run.options.mode);
	run.subject = run.options.subject->create();
	while (!finished(&run, end))
		run.failed += run_batch(&run, run.options.single ? 1 : NATIVE_BATCH);
	printf("%s: %" PRIu64 " cases, %" PRIu64 " compared, %" PRIu64 " differ\n",
	       run.options.subject->name, run.done, run.compared, run.failed);
	run.options.subject->destroy(run.subject);
	native_free(run.native);
	generator_free(run.generator);
	return run.failed != 0;
}
