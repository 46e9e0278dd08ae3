/* The part of the table about jobs; PowerShell's own names. */
#include "cmdlet/table.h"

#include "base/macros.h"

#define JOB_ID(flags_)                                                                             \
	{                                                                                          \
		.name = "Id", .type = CMDLET_INTEGER,                                              \
		.flags = CMDLET_LIST | CMDLET_PIPELINE | (flags_), .sets = SET(0), .position = 1,  \
		.min = 1, .max = UINT32_MAX, .help = "Numbers of jobs."                            \
	}
#define JOB_NAME(default_)                                                                         \
	{                                                                                          \
		.name = "Name", .type = CMDLET_STRING, .flags = CMDLET_LIST | CMDLET_WILDCARD,     \
		.sets = SET(1), .dflt = (default_), .help = "Names of jobs (Job7); * and ? match." \
	}

static const char *const by_id_or_name[] = { "Id", "Name", NULL };
/* The other way round: all, where nothing is said. */
static const char *const by_name_or_id[] = { "Name", "Id", NULL };

static const struct cmdlet_output job_output = {
	"Job",
	(const struct cmdlet_column[]){ { "Id", "Id", CMDLET_SHOW_TEXT },
					{ "Name", "Name", CMDLET_SHOW_TEXT },
					{ "Command", "Command", CMDLET_SHOW_TEXT },
					{ "State", "State", CMDLET_SHOW_TEXT },
					{ "HasMoreData", "HasMoreData", CMDLET_SHOW_TEXT },
					{ "Progress", "Progress", CMDLET_SHOW_TEXT },
					{ "Object", NULL, CMDLET_SHOW_TEXT },
					{ "UserName", NULL, CMDLET_SHOW_TEXT },
					{ "Seconds", NULL, CMDLET_SHOW_DURATION },
					END_COLUMNS },
};

static const struct cmdlet_param get_params[] = {
	{ .name = "Name",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_LIST | CMDLET_WILDCARD,
	  .sets = SET(0),
	  .dflt = "*",
	  .help = "Names of jobs (Job7); * and ? match." },
	{ .name = "Id",
	  .type = CMDLET_INTEGER,
	  .flags = CMDLET_LIST | CMDLET_MANDATORY,
	  .sets = SET(1),
	  .position = 1,
	  .min = 1,
	  .max = UINT32_MAX,
	  .help = "Numbers of jobs." },
	{ .name = "State",
	  .type = CMDLET_ENUM,
	  .values = "Running Stopping Stopped Failed Completed",
	  .help = "Only those in this state." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example get_examples[] = {
	{ "get-job", "What is at work, and what was begun with -AsJob." },
	END_EXAMPLES,
};

static const struct cmdlet_param wait_params[] = {
	JOB_ID(CMDLET_MANDATORY),
	JOB_NAME(NULL),
	{ .name = "Timeout",
	  .type = CMDLET_INTEGER,
	  .min = 0,
	  .max = 1000000,
	  .help = "Seconds at most. Without it: for ever." },
	{ .name = "Any", .type = CMDLET_SWITCH, .help = "Waits for one of them." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example wait_examples[] = {
	{ "wait-job 7 -Timeout 60", "Waits a minute at most." },
	END_EXAMPLES,
};

static const struct cmdlet_param stop_params[] = {
	JOB_ID(CMDLET_MANDATORY),
	JOB_NAME(NULL),
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example stop_examples[] = {
	{ "stop-job 7", "Ends it." },
	END_EXAMPLES,
};

static const struct cmdlet_param remove_params[] = {
	JOB_ID(CMDLET_MANDATORY),
	JOB_NAME(NULL),
	FORCE("Ends those that run."),
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example remove_examples[] = {
	{ "remove-job -Name '*'", "Forgets all that have ended." },
	END_EXAMPLES,
};

static const struct cmdlet_param receive_params[] = {
	JOB_ID(CMDLET_MANDATORY),
	JOB_NAME(NULL),
	{ .name = "Keep", .type = CMDLET_SWITCH, .help = "It can be received again." },
	{ .name = "Wait", .type = CMDLET_SWITCH, .help = "Waits for its end first." },
	{ .name = "AutoRemoveJob", .type = CMDLET_SWITCH, .help = "Forgets the job then." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example receive_examples[] = {
	{ "receive-job 7 -Wait -AutoRemoveJob", "As if it had not been a job." },
	END_EXAMPLES,
};

const struct cmdlet cmdlet_table_job[] = {
	{ .name = "Get-Job",
	  .synopsis = "Lists jobs",
	  .description =
	      "Shows the jobs at work, and those that were begun with -AsJob until an hour "
	      "after their end or Remove-Job. They end with the service.",
	  .sets = by_name_or_id,
	  .params = get_params,
	  .output = &job_output,
	  .examples = get_examples,
	  .ours = true },
	{ .name = "Wait-Job",
	  .synopsis = "Waits for jobs to end",
	  .description = "Shows those that have ended.",
	  .sets = by_id_or_name,
	  .params = wait_params,
	  .output = &job_output,
	  .examples = wait_examples,
	  .ours = true },
	{ .name = "Stop-Job",
	  .synopsis = "Ends jobs",
	  .description = "What works on a disk image is ended and leaves either the old or the new "
			 "file; what a virtual machine was told already goes on.",
	  .sets = by_id_or_name,
	  .params = stop_params,
	  .output = &job_output,
	  .examples = stop_examples,
	  .ours = true },
	{ .name = "Receive-Job",
	  .synopsis = "Shows what a job has found",
	  .description =
	      "Shows results and errors of a job that has ended, as its cmdlet would have.",
	  .sets = by_id_or_name,
	  .params = receive_params,
	  .examples = receive_examples,
	  .place = CMDLET_IN_CLIENT,
	  .ours = true },
	{ .name = "Remove-Job",
	  .synopsis = "Forgets jobs",
	  .description = "Forgets jobs that have ended, with what they found.",
	  .sets = by_id_or_name,
	  .params = remove_params,
	  .examples = remove_examples,
	  .ours = true },
};
const size_t cmdlet_table_job_count = ARRAY_SIZE(cmdlet_table_job);
