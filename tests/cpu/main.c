/*
 * cpu-diff: random instructions on the real processor and on a processor under test, compared.
 *
 *	cpu-diff [--subject softcpu|softcpu-blocks|translator|translator-live|
 *			    translator-copies|engines|hostop] [--seed N]
 *		 [--count N | --seconds N] [--mode 64|32|16] [--sequences] [--variants N] [--case
 *ID]
 *		 [--coverage FILE]
 *
 * --variants: up to so many states for the same sequence.
 * Exits with 1 if anything differed, with 77 where the processor can't run the mode. The line
 *"--case ..." of a report repeats that case alone. FILE gets counters of what was executed, every
 *few minutes and at the end.
 */
#include "base/macros.h"
#include "case.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_REPORTS  20
#define EXIT_SKIPPED 77 /* for meson */

struct options {
	const struct subject *subject;
	uint64_t seed, count, only;
	unsigned seconds, variants;
	enum cpu_mode mode;
	bool sequences, single;
	const char *coverage;
};

struct run {
	struct options options;
	struct generator *generator;
	struct native *native;
	void *subject;
	uint64_t done, compared, failed;
	uint64_t inconstant; /* where the processor differed from itself */
	time_t reported;
};

static const struct subject *const subjects[] = {
	&subject_softcpu,         &subject_softcpu_blocks,    &subject_translator,
	&subject_translator_live, &subject_translator_copies, &subject_engines,
	&subject_hostop
};

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

/* False if any attempt differed. */
static bool run_case(struct run *run, const struct cpu_case *c, const struct cpu_outcome *native)
{
	static struct cpu_outcome subject;
	bool same = true;

	for (unsigned attempt = 0; attempt < run->options.subject->attempts; attempt++) {
		if (!run->options.subject->run(run->subject, c, attempt, &subject))
			return same;
		if (attempt == 0)
			run->compared++;
		if (!compare_outcomes(c, native, &subject)) {
			same = false;
			if (attempt)
				printf("    in attempt %u\n", attempt);
		}
	}
	coverage_note(c, native);
	return same;
}

static bool same_outcome(const struct cpu_outcome *a, const struct cpu_outcome *b)
{
	return a->vector == b->vector && a->state.rip == b->state.rip &&
	       a->state.rflags == b->state.rflags &&
	       memcmp(a->state.gpr, b->state.gpr, sizeof(a->state.gpr)) == 0 &&
	       memcmp(a->state.data, b->state.data, DATA_SIZE) == 0;
}

/* Lets the processor run the batch again: of the cases that differed, those in which it does
 * otherwise this time aren't differences of the subject. (Below one host of virtual machines an
 * instruction raised #UD, once in some million states.) */
static unsigned count_constant(struct run *run, unsigned count, const unsigned *differing,
			       const struct cpu_outcome *first, unsigned differing_count)
{
	const struct cpu_outcome *native = native_outcomes(run->native);
	unsigned constant = 0;

	if (differing_count == 0 || !native_run(run->native, count))
		return differing_count;
	for (unsigned i = 0; i < differing_count; i++) {
		if (same_outcome(&first[i], &native[differing[i]])) {
			constant++;
			continue;
		}
		printf("the processor itself did otherwise the second time: not counted\n");
		run->inconstant++;
	}
	return constant;
}

/* Of what native_cases() has; returns how many differed. */
static unsigned run_cases(struct run *run, unsigned count)
{
	static struct cpu_outcome first[NATIVE_BATCH];
	const struct cpu_outcome *native = native_outcomes(run->native);
	struct cpu_case *cases = native_cases(run->native);
	unsigned differing[NATIVE_BATCH], differing_count = 0;

	if (!native_run(run->native, count))
		return 1;
	for (unsigned i = 0; i < count; i++) {
		if (run_case(run, &cases[i], &native[i]))
			continue;
		first[differing_count] = native[i];
		differing[differing_count++] = i;
	}
	return count_constant(run, count, differing, first, differing_count);
}

/* Variants [from, to) in a row. */
static void generate_row(const struct cpu_case *base, unsigned from, unsigned to,
			 struct cpu_case *ret)
{
	for (unsigned v = from; v < to; v++) {
		if (v == 0)
			ret[v - from] = *base;
		else
			generate_variant(base, v, &ret[v - from]);
	}
	ret[0].first = true;
	ret[to - from - 1].last = true;
}

/* Did none come further than to a fault that they all have, as it is of the code or of an address?
 */
static bool all_alike(const struct cpu_outcome *outcomes, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		unsigned vector = outcomes[i].vector;

		if (vector != VECTOR_UD && vector != VECTOR_SS && vector != VECTOR_GP &&
		    vector != VECTOR_PF)
			return false;
	}
	return true;
}

/* So many variants of a sequence go first, and the others only if they may tell more. */
#define PROBES 4u

static unsigned run_batch(struct run *run)
{
	static struct cpu_case bases[NATIVE_BATCH];
	const struct options *o = &run->options;
	unsigned probes = o->single ? o->variants : MIN(o->variants, PROBES);
	unsigned sequences = o->single ? 1 : NATIVE_BATCH / probes, failed;
	struct cpu_case *cases = native_cases(run->native);
	bool alike[NATIVE_BATCH];

	for (unsigned i = 0; i < sequences; i++) {
		generate_case(run->generator, case_id(o, run->done++), &bases[i]);
		bases[i].variants = o->variants;
		generate_row(&bases[i], 0, probes, &cases[i * probes]);
	}
	failed = run_cases(run, sequences * probes);
	for (unsigned i = 0; i < sequences; i++)
		alike[i] = all_alike(native_outcomes(run->native) + i * probes, probes);
	for (unsigned i = 0; i < sequences && probes < o->variants; i++) {
		if (alike[i])
			continue;
		generate_row(&bases[i], probes, o->variants, cases);
		failed += run_cases(run, o->variants - probes);
	}
	return failed;
}

static void report(const struct run *run)
{
	printf("%s: %" PRIu64 " %s, %" PRIu64 " states compared, %" PRIu64 " differ\n",
	       run->options.subject->name, run->done,
	       run->options.sequences ? "sequences" : "instructions", run->compared, run->failed);
	if (run->inconstant)
		printf("in %" PRIu64 " more the processor differed from itself\n", run->inconstant);
	coverage_print();
	fflush(stdout);
	if (run->options.coverage)
		coverage_write(run->options.coverage);
}

#define REPORT_SECONDS 300

static void report_if_due(struct run *run)
{
	time_t now = time(NULL);

	if (now - run->reported < REPORT_SECONDS)
		return;
	run->reported = now;
	report(run);
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
		{ "variants", required_argument, NULL, 'v' },
		{ "coverage", required_argument, NULL, 'o' },
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
		case 'v':
			o->variants = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case 'o':
			o->coverage = optarg;
			break;
		default:
			exit(2);
		}
	}
}

static void check(const struct options *o)
{
	if (o->variants >= 1 && o->variants <= NATIVE_BATCH && (o->sequences || o->variants == 1))
		return;
	fprintf(stderr, "cpu-diff: --variants is for --sequences, from 1 to %u\n", NATIVE_BATCH);
	exit(2);
}

int main(int argc, char **argv)
{
	struct run run = {
		.options = { .subject = subjects[0], .seed = 1, .count = 20000, .variants = 1 },
	};
	time_t end;

	parse(argc, argv, &run.options);
	check(&run.options);
	run.reported = time(NULL);
	end = run.reported + (time_t)run.options.seconds;
	run.native = native_new(run.options.mode);
	if (!run.native)
		return EXIT_SKIPPED;
	run.generator = generator_new(
	    &(struct generator_options){ .mode = run.options.mode,
					 .sequences = run.options.sequences,
					 .avx = run.options.subject->avx,
					 .canonical_rsp = !native_takes_any_rsp(run.native) });
	run.subject = run.options.subject->create();
	while (!finished(&run, end)) {
		run.failed += run_batch(&run);
		report_if_due(&run);
	}
	report(&run);
	run.options.subject->destroy(run.subject);
	native_free(run.native);
	generator_free(run.generator);
	return run.failed != 0;
}
