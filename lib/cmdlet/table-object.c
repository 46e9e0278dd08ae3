/* The part of the table about what comes through a pipe: PowerShell's cmdlets that choose, order
 * and show objects, as far as a command line can say it. */
#include "cmdlet/table.h"

#include "base/macros.h"

#define PROPERTIES(extra, text)                                                                    \
	{                                                                                          \
		.name = "Property", .type = CMDLET_STRING, .flags = CMDLET_LIST | (extra),         \
		.position = 1, .help = (text)                                                      \
	}
#define OPERATOR(operator, text)                                                                   \
	{                                                                                          \
		.name = (operator), .type = CMDLET_SWITCH, .help = (text)                          \
	}

static const struct cmdlet_param where_params[] = {
	{ .name = "Property",
	  .aliases = "FilterScript",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY,
	  .position = 1,
	  .help = "Which property; or a script block with one comparison, "
		  "'{$_.State -eq \"Running\"}'." },
	{ .name = "Value",
	  .type = CMDLET_STRING,
	  .position = 2,
	  .help = "What it is compared with." },
	OPERATOR("EQ", "Equal; case does not matter, numbers may have MB, GB."),
	OPERATOR("NE", "Not equal."),
	OPERATOR("GT", "Greater."),
	OPERATOR("GE", "Greater or equal."),
	OPERATOR("LT", "Less."),
	OPERATOR("LE", "Less or equal."),
	OPERATOR("Like", "* and ? match."),
	OPERATOR("NotLike", "* and ? don't match."),
	OPERATOR("Match", "A regular expression matches somewhere in it."),
	OPERATOR("NotMatch", "And does not."),
	END_PARAMS,
};
static const struct cmdlet_example where_examples[] = {
	{ "get-vm | oyako where-object State -eq Running | oyako stop-vm", "Stops all that run." },
	{ "get-vm | oyako where-object '{$_.MemoryAssigned -gt 1GB}'", "The large ones." },
	END_EXAMPLES,
};

static const struct cmdlet_param select_params[] = {
	PROPERTIES(0,
		   "Only these properties; '*' is all that there are. Without it: all that come."),
	{ .name = "First",
	  .type = CMDLET_INTEGER,
	  .min = 0,
	  .max = INT32_MAX,
	  .help = "The first so many." },
	{ .name = "Last",
	  .type = CMDLET_INTEGER,
	  .min = 0,
	  .max = INT32_MAX,
	  .help = "The last so many." },
	{ .name = "ExpandProperty",
	  .type = CMDLET_STRING,
	  .help = "Shows the values of this property and nothing else, a line for each." },
	END_PARAMS,
};
static const struct cmdlet_example select_examples[] = {
	{ "get-vm | oyako select-object Name,State -First 3", "Three, and of these two columns." },
	{ "get-vmharddiskdrive '*' | oyako select-object -ExpandProperty Path", "Names of files." },
	END_EXAMPLES,
};

static const struct cmdlet_param sort_params[] = {
	PROPERTIES(CMDLET_MANDATORY, "What they are ordered by, the first one first."),
	{ .name = "Descending", .type = CMDLET_SWITCH, .help = "The greatest first." },
	END_PARAMS,
};
static const struct cmdlet_example sort_examples[] = {
	{ "get-vmsnapshot '*' | oyako sort-object CreationTime -Descending", "The newest first." },
	END_EXAMPLES,
};

static const struct cmdlet_param format_params[] = {
	PROPERTIES(0,
		   "Only these properties; '*' is all that there are. Without it: all that come."),
	END_PARAMS,
};
static const struct cmdlet_example list_examples[] = {
	{ "get-vm web | oyako format-list Name,ResourceMeteringEnabled", "A line for each." },
	END_EXAMPLES,
};
static const struct cmdlet_example table_examples[] = {
	{ "get-vm | oyako format-table Name,ProcessorCount,Notes", "A table of one's own." },
	END_EXAMPLES,
};

#define WHAT_COMES                                                                                 \
	" What comes in is the table of the cmdlet before, or its --json. Properties that the "    \
	"table has not are asked for."

const struct cmdlet cmdlet_table_object[] = {
	{ .name = "Where-Object",
	  .aliases = "Where ?",
	  .synopsis = "Lets through what one property says",
	  .description =
	      "Shows those of the objects that come through a pipe whose property is so; "
	      "without a comparison, those where it is true." WHAT_COMES,
	  .params = where_params,
	  .examples = where_examples,
	  .place = CMDLET_IN_CLIENT,
	  .ours = true },
	{ .name = "Select-Object",
	  .aliases = "Select",
	  .synopsis = "Chooses properties, or the first or last objects",
	  .description = "Shows part of what comes through a pipe." WHAT_COMES,
	  .params = select_params,
	  .examples = select_examples,
	  .place = CMDLET_IN_CLIENT,
	  .ours = true },
	{ .name = "Sort-Object",
	  .aliases = "Sort",
	  .synopsis = "Orders objects by properties",
	  .description = "Shows what comes through a pipe in another order." WHAT_COMES,
	  .params = sort_params,
	  .examples = sort_examples,
	  .place = CMDLET_IN_CLIENT,
	  .ours = true },
	{ .name = "Format-List",
	  .aliases = "fl",
	  .synopsis = "Shows objects with a property a line",
	  .description = "Shows what comes through a pipe as a list." WHAT_COMES,
	  .params = format_params,
	  .examples = list_examples,
	  .place = CMDLET_IN_CLIENT,
	  .ours = true },
	{ .name = "Format-Table",
	  .aliases = "ft",
	  .synopsis = "Shows objects as a table",
	  .description = "Shows what comes through a pipe as a table." WHAT_COMES,
	  .params = format_params,
	  .examples = table_examples,
	  .place = CMDLET_IN_CLIENT,
	  .ours = true },
};
const size_t cmdlet_table_object_count = ARRAY_SIZE(cmdlet_table_object);
