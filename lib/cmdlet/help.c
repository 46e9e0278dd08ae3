/* Texts for people that are made from the table: help, the overview, manual pages. */
#include "cmdlet/cmdlet.h"

#include "base/macros.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH 96

static const char *const type_names[] = {
	[CMDLET_STRING] = "text",   [CMDLET_FILE] = "file",          [CMDLET_INTEGER] = "number",
	[CMDLET_SIZE] = "size",     [CMDLET_BOOLEAN] = "true|false", [CMDLET_SWITCH] = "",
	[CMDLET_ENUM] = "",         [CMDLET_GUID] = "guid",          [CMDLET_MAC] = "address",
	[CMDLET_DEVICE] = "device", [CMDLET_OBJECTS] = "objects",
};

/* "<text>", "{auto | kvm | soft}", "<text[]>" */
static void put_type(FILE *out, const struct cmdlet_param *param)
{
	if (param->type == CMDLET_ENUM) {
		fputc('{', out);
		for (const char *p = param->values; *p; p++)
			fputs(*p == ' ' ? " | " : (char[]){ *p, '\0' }, out);
		fputc('}', out);
		return;
	}
	fprintf(out, "<%s%s>", type_names[param->type], param->flags & CMDLET_LIST ? "[]" : "");
}

static void put_param_syntax(FILE *out, const struct cmdlet_param *param)
{
	bool optional = !(param->flags & CMDLET_MANDATORY);

	fputs(optional ? " [" : " ", out);
	fprintf(out, param->position ? "[-%s]" : "-%s", param->name);
	if (param->type != CMDLET_SWITCH) {
		fputc(' ', out);
		put_type(out, param);
	}
	fputs(optional ? "]" : "", out);
}

/* Is there a parameter that the set can't do without, but that is not there yet? */
static bool set_is_there(const struct cmdlet *cmdlet, unsigned set)
{
	const unsigned both = CMDLET_MANDATORY | CMDLET_NOT_YET;

	for (const struct cmdlet_param *p = cmdlet->params; p->name; p++)
		if ((p->flags & both) == both && cmdlet_param_in_set(p, set))
			return false;
	return true;
}

/* Calls put for each parameter of a set: by position first, then by name. */
static void for_each_param(const struct cmdlet *cmdlet, unsigned set, FILE *out,
			   void (*put)(FILE *out, const struct cmdlet_param *param))
{
	for (unsigned position = 1; position < 8; position++)
		for (const struct cmdlet_param *p = cmdlet->params; p->name; p++)
			if (p->position == position && cmdlet_param_in_set(p, set) &&
			    !(p->flags & CMDLET_NOT_YET))
				put(out, p);
	for (const struct cmdlet_param *p = cmdlet->params; p->name; p++)
		if (!p->position && cmdlet_param_in_set(p, set) && !(p->flags & CMDLET_NOT_YET))
			put(out, p);
}

static void put_lower(FILE *out, const char *text)
{
	for (; *text; text++)
		fputc(tolower((unsigned char)*text), out);
}

char *cmdlet_syntax_text(const struct cmdlet *cmdlet, unsigned set)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	put_lower(out, cmdlet->name);
	for_each_param(cmdlet, set, out, put_param_syntax);
	fclose(out);
	return text;
}

/* Words of text in lines that begin with indent spaces. */
static void put_wrapped(FILE *out, const char *text, unsigned indent)
{
	unsigned column = 0;

	while (*text) {
		size_t len = strcspn(text, " ");

		if (column && column + 1 + len > WIDTH) {
			fputc('\n', out);
			column = 0;
		}
		if (!column)
			column = (unsigned)fprintf(out, "%*s", (int)indent, "");
		else
			column += (unsigned)fprintf(out, " ");
		column += (unsigned)fwrite(text, 1, len, out);
		text += len + strspn(text + len, " ");
	}
	fputc('\n', out);
}

static void put_aliases(FILE *out, const char *aliases)
{
	while (*aliases == ' ')
		aliases++;
	if (!*aliases)
		return;
	fputs(", also -", out);
	for (; *aliases; aliases++)
		fputs(*aliases == ' ' ? ", -" : (char[]){ *aliases, '\0' }, out);
}

static void put_param_help(FILE *out, const struct cmdlet_param *param)
{
	fprintf(out, "  -%s ", param->name);
	if (param->type != CMDLET_SWITCH)
		put_type(out, param);
	if (param->aliases)
		put_aliases(out, param->aliases);
	fputc('\n', out);
	put_wrapped(out, param->help, 6);
	if (param->dflt)
		fprintf(out, "      Default: %s\n", param->dflt);
	if (param->flags & CMDLET_OURS)
		fprintf(out, "      An addition of Oyako's; Hyper-V's cmdlet does not have it.\n");
}

/* Parameters of all sets, once each. */
static void put_params(FILE *out, const struct cmdlet *cmdlet,
		       void (*put)(FILE *out, const struct cmdlet_param *param))
{
	for (const struct cmdlet_param *p = cmdlet->params; p->name; p++)
		if (!(p->flags & CMDLET_NOT_YET))
			put(out, p);
}

static void put_not_yet(FILE *out, const struct cmdlet *cmdlet)
{
	const char *before = "NOT YET THERE\n  -";

	for (const struct cmdlet_param *p = cmdlet->params; p->name; p++)
		if (p->flags & CMDLET_NOT_YET) {
			fprintf(out, "%s%s", before, p->name);
			before = " -";
		}
	if (before[0] == ' ')
		fputs("\n\n", out);
}

static void put_syntax(FILE *out, const struct cmdlet *cmdlet)
{
	for (unsigned set = 0; set < cmdlet_set_count(cmdlet); set++) {
		AUTO_FREE char *syntax = cmdlet_syntax_text(cmdlet, set);

		if (set_is_there(cmdlet, set))
			put_wrapped(out, syntax ? syntax : "", 2);
	}
}

char *cmdlet_help_text(const struct cmdlet *cmdlet)
{
	char *text = NULL;
	bool changes;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	fprintf(out, "%s: %s\n\n", cmdlet->name, cmdlet->synopsis);
	put_wrapped(out, cmdlet->description, 0);
	if (cmdlet->ours)
		fputs("Hyper-V has no cmdlet of this name.\n", out);
	fputs("\nSYNTAX\n", out);
	put_syntax(out, cmdlet);
	fputs("\nPARAMETERS\n", out);
	put_params(out, cmdlet, put_param_help);
	cmdlet_what_if(cmdlet, &changes);
	fprintf(out,
		"  --json, -FormatList, %s-?\n      Understood by every cmdlet%s: see `oyako "
		"help`.\n\n",
		changes ? "-WhatIf, -Confirm:false, " : "",
		changes ? " that changes something" : "");
	put_not_yet(out, cmdlet);
	fputs("EXAMPLES\n", out);
	for (const struct cmdlet_example *e = cmdlet->examples; e && e->command; e++) {
		fprintf(out, "  oyako %s\n", e->command);
		put_wrapped(out, e->says, 6);
	}
	fclose(out);
	return text;
}

static const char usage[] =
    "Usage: oyako CMDLET [-Parameter value ...]\n\n"
    "Cmdlets, parameters and defaults are Hyper-V's; case does not matter, and a parameter may be\n"
    "shortened while it stays unique. Lists are written a,b; sizes 512MB or 4GB; in names * and ?\n"
    "match. -Name:value does for values that begin with a dash. A cmdlet takes what another one\n"
    "shows: oyako get-vm 'web*' | oyako stop-vm\n\n"
    "Every cmdlet understands\n"
    "  --json            prints results for programs\n"
    "  -FormatList       prints all properties, one a line\n"
    "  -Confirm:false    does not ask\n"
    "  -WhatIf           says what would be done, and does nothing\n"
    "  -?, --help        explains the cmdlet\n\n";

char *cmdlet_overview_text(void)
{
	const struct cmdlet *cmdlet;
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	fputs("Oyako: a Hyper-V host for Linux.\n", out);
	fputs(usage, out);
	for (size_t i = 0; (cmdlet = cmdlet_at(i)); i++) {
		char name[48] = "";

		for (size_t k = 0; cmdlet->name[k] && k + 1 < sizeof(name); k++)
			name[k] = (char)tolower((unsigned char)cmdlet->name[k]);
		fprintf(out, "  %-30s %s\n", name, cmdlet->synopsis);
	}
	fputs(
	    "\n`oyako help CMDLET` explains one; `oyako get-command -All` names those that are not "
	    "there yet.\n",
	    out);
	fclose(out);
	return text;
}

/* ---- manual pages ---- */

/* Text of a roff page: no escape, no request by accident. */
static void put_roff(FILE *out, const char *text)
{
	bool line_start = true;

	for (; *text; text++) {
		if (line_start && (*text == '.' || *text == '\''))
			fputs("\\&", out);
		if (*text == '\\')
			fputs("\\e", out);
		else if (*text == '-')
			fputs("\\-", out);
		else
			fputc(*text, out);
		line_start = *text == '\n';
	}
}

static void put_roff_lower(FILE *out, const char *text)
{
	char lower[64] = "";

	for (size_t i = 0; text[i] && i + 1 < sizeof(lower); i++)
		lower[i] = (char)tolower((unsigned char)text[i]);
	put_roff(out, lower);
}

static void put_param_roff(FILE *out, const struct cmdlet_param *param)
{
	fputs(".TP\n.B \\-", out);
	put_roff(out, param->name);
	if (param->type != CMDLET_SWITCH) {
		fputs("\\fR ", out);
		put_type(out, param);
	}
	fputc('\n', out);
	put_roff(out, param->help);
	if (param->dflt) {
		fputs(" The default is ", out);
		put_roff(out, param->dflt);
		fputc('.', out);
	}
	if (param->flags & CMDLET_OURS)
		fputs(" (An addition of Oyako\\(aqs.)", out);
	fputc('\n', out);
}

static void put_roff_header(FILE *out, const char *page)
{
	fputs(".TH \"", out);
	for (; *page; page++)
		fputc(toupper((unsigned char)*page), out);
	fputs("\" \"1\" \"\" \"Oyako\" \"Oyako\"\n.SH NAME\n", out);
}

static void put_cmdlet_roff(FILE *out, const struct cmdlet *cmdlet)
{
	char page[64];

	snprintf(page, sizeof(page), "oyako-%s", cmdlet->name);
	put_roff_header(out, page);
	put_roff_lower(out, page);
	fputs(" \\- ", out);
	put_roff(out, cmdlet->synopsis);
	fputs("\n.SH SYNOPSIS\n", out);
	for (unsigned set = 0; set < cmdlet_set_count(cmdlet); set++) {
		AUTO_FREE char *syntax = cmdlet_syntax_text(cmdlet, set);

		if (!set_is_there(cmdlet, set))
			continue;
		fputs(set ? ".br\noyako " : "oyako ", out);
		put_roff(out, syntax ? syntax : "");
		fputc('\n', out);
	}
	fputs(".SH DESCRIPTION\n", out);
	put_roff(out, cmdlet->description);
	if (cmdlet->ours)
		fputs(" Hyper\\-V has no cmdlet of this name.", out);
	fputs("\n.SH PARAMETERS\n", out);
	put_params(out, cmdlet, put_param_roff);
	fputs(".SH EXAMPLES\n", out);
	for (const struct cmdlet_example *e = cmdlet->examples; e && e->command; e++) {
		fputs(".TP\n.B oyako ", out);
		put_roff(out, e->command);
		fputc('\n', out);
		put_roff(out, e->says);
		fputc('\n', out);
	}
	fputs(".SH SEE ALSO\n.BR oyako (1)\n", out);
}

static void put_program_roff(FILE *out)
{
	const struct cmdlet *cmdlet;

	put_roff_header(out, "oyako");
	fputs(
	    "oyako \\- a Hyper\\-V host for Linux\n.SH SYNOPSIS\noyako CMDLET [\\-Parameter value "
	    "...]\n.SH DESCRIPTION\n.nf\n",
	    out);
	put_roff(out, strstr(usage, "Cmdlets"));
	fputs(".fi\n.SH CMDLETS\n", out);
	for (size_t i = 0; (cmdlet = cmdlet_at(i)); i++) {
		fputs(".TP\n.B ", out);
		put_roff_lower(out, cmdlet->name);
		fputc('\n', out);
		put_roff(out, cmdlet->synopsis);
		fputc('\n', out);
	}
	fputs(
	    ".SH EXIT STATUS\n0: done; 1: failed, at least for one object; 2: the command line is "
	    "wrong.\n",
	    out);
}

char *cmdlet_man_page(const struct cmdlet *cmdlet)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	if (cmdlet)
		put_cmdlet_roff(out, cmdlet);
	else
		put_program_roff(out);
	fclose(out);
	return text;
}
