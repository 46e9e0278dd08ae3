/* Counters of what the cases executed, as the real processor ended them. */
#include "case.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define VECTORS 32

static struct {
	uint64_t cases, instructions, crossing;
	uint64_t ended[VECTORS];
	uint64_t protection[2], absent[2]; /* page faults: of reads, of writes */
	uint64_t executed[ZYDIS_MNEMONIC_MAX_VALUE + 1][64];
} seen;

static const char *const ends[VECTORS] = {
	[0] = "#DE",  [3] = "to the end", [5] = "#BR",  [6] = "#UD",  [12] = "#SS",
	[13] = "#GP", [14] = "#PF",       [16] = "#MF", [17] = "#AC", [19] = "#XM",
};

/* The instruction at which a fault ended the case counts, too. */
static bool was_begun(const struct cpu_case *c, const struct cpu_outcome *native, unsigned index)
{
	uint64_t at = native->state.rip - c->before.rip;

	return native->vector == VECTOR_BP || at >= c->code_length ||
	       c->instructions[index].offset <= at;
}

static void note_page_fault(const struct cpu_outcome *native)
{
	bool write = native->error_code & 2;

	if (native->error_code & 1)
		seen.protection[write]++;
	else
		seen.absent[write]++;
}

void coverage_note(const struct cpu_case *c, const struct cpu_outcome *native)
{
	seen.cases++;
	seen.crossing += c->crosses_page;
	seen.ended[native->vector % VECTORS]++;
	if (native->vector == VECTOR_PF)
		note_page_fault(native);
	for (unsigned i = 0; i < c->instruction_count && was_begun(c, native, i); i++) {
		seen.executed[c->instructions[i].mnemonic][c->instructions[i].form % 64]++;
		seen.instructions++;
	}
}

static unsigned count_forms(unsigned *ret_mnemonics)
{
	unsigned forms = 0;

	*ret_mnemonics = 0;
	for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
		unsigned before = forms;

		for (unsigned f = 0; f < 64; f++)
			forms += seen.executed[m][f] != 0;
		*ret_mnemonics += forms != before;
	}
	return forms;
}

static void print_ends(FILE *out)
{
	fprintf(out, "ended:");
	for (unsigned i = 0; i < VECTORS; i++)
		if (seen.ended[i])
			fprintf(out, " %s %" PRIu64, ends[i] ? ends[i] : "other", seen.ended[i]);
	fprintf(out,
		"; page faults: read %" PRIu64 " and write %" PRIu64 " of no page, read %" PRIu64
		" and write %" PRIu64 " not allowed\n",
		seen.absent[0], seen.absent[1], seen.protection[0], seen.protection[1]);
}

static void print_summary(FILE *out)
{
	unsigned mnemonics, forms = count_forms(&mnemonics);

	fprintf(out,
		"%" PRIu64 " instructions of %u mnemonics in %u forms; %" PRIu64 " of %" PRIu64
		" cases cross pages\n",
		seen.instructions, mnemonics, forms, seen.crossing, seen.cases);
	print_ends(out);
}

void coverage_print(void)
{
	print_summary(stdout);
}

static void write_form(FILE *out, unsigned mnemonic, unsigned form)
{
	fprintf(out, "%s\t%s%s\t%u\t%" PRIu64 "\n", ZydisMnemonicGetString((ZydisMnemonic)mnemonic),
		form & FORM_REGISTER ? "register" : "", form & FORM_MEMORY ? " memory" : "",
		8u << (form & ~(unsigned)FORM_KIND), seen.executed[mnemonic][form]);
}

void coverage_write(const char *path)
{
	FILE *out = fopen(path, "w");

	if (!out) {
		perror(path);
		return;
	}
	print_summary(out);
	fprintf(out, "mnemonic\toperands\tbits\texecuted\n");
	for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++)
		for (unsigned f = 0; f < 64; f++)
			if (seen.executed[m][f])
				write_form(out, m, f);
	fclose(out);
}
