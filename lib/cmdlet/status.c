/* docs/cmdlet-status.md: every cmdlet of the table and every known one that is not in it. */
#include "cmdlet/cmdlet.h"

#include <stdio.h>

static void put_params(FILE *out, const struct cmdlet *cmdlet, bool not_yet)
{
	const char *between = "";

	for (const struct cmdlet_param *param = cmdlet->params; param && param->name; param++) {
		if (!(param->flags & CMDLET_NOT_YET) == not_yet)
			continue;
		fprintf(out, "%s%s%s", between, param->name,
			param->flags & CMDLET_OURS ? " (ours)" : "");
		between = ", ";
	}
}

static void put_there(FILE *out)
{
	const struct cmdlet *cmdlet;

	fputs("## There\n\n| cmdlet | parameters | refused: not there yet |\n| --- | --- | --- |\n",
	      out);
	for (size_t i = 0; (cmdlet = cmdlet_at(i)); i++) {
		fprintf(out, "| %s%s | ", cmdlet->name, cmdlet->ours ? " (ours)" : "");
		put_params(out, cmdlet, false);
		fputs(" | ", out);
		put_params(out, cmdlet, true);
		fputs(" |\n", out);
	}
}

static void put_planned(FILE *out)
{
	const struct cmdlet_name *name;

	fputs("\n## Refused: not there yet\n\n| cmdlet | needs |\n| --- | --- |\n", out);
	for (size_t i = 0; (name = cmdlet_planned_at(i)); i++)
		fprintf(out, "| %s | %s |\n", name->name, name->area);
}

char *cmdlet_status_text(void)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	fputs("# Hyper-V's cmdlets: what is there\n\nMade from the one table by "
	      "`tools/cmdlet-status`; a test compares. Names and parameters are Hyper-V's but for "
	      "those that are ours.\n\n",
	      out);
	put_there(out);
	put_planned(out);
	fclose(out);
	return text;
}
