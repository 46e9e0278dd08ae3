/*
 * The one table of cmdlets. Each cmdlet is described once (table.c); from the description come the
 * parser of the command line, the check of an API request, help, manual pages, completion, and how
 * results are shown. What a cmdlet does is not here: the daemon and the command line have a
 *function for each name.
 *
 * Parameters travel as a JSON object with the table's spelling of the names: texts, integers (sizes
 * in bytes), booleans (a switch is true or absent), lists of texts. Results are lists of JSON
 *objects whose members are named in the cmdlet's output description.
 *
 *	const struct cmdlet *cmdlet = cmdlet_find("new-vm");
 *	cmdlet_parse(cmdlet, argc, argv, &invocation, &err);	(command line)
 *	cmdlet_check(cmdlet, request, &params, &err);		(daemon; adds the defaults)
 *
 * Everything here is constant or belongs to the caller; any thread.
 */
#ifndef CMDLET_CMDLET_H
#define CMDLET_CMDLET_H

#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum cmdlet_type {
	CMDLET_STRING,
	CMDLET_FILE, /* a path; the command line makes it absolute */
	CMDLET_INTEGER,
	CMDLET_SIZE, /* bytes; as text also 512MB, 1.5GB, 0x1000 */
	CMDLET_BOOLEAN,
	CMDLET_SWITCH,
	CMDLET_ENUM,
	CMDLET_GUID,
	CMDLET_MAC,
	CMDLET_DEVICE,  /* "SCSI:0:1", or an adapter's name; or the object itself */
	CMDLET_OBJECTS, /* what another cmdlet shows, as a text: no part of a request */
};

/* What completion offers for a value. */
enum cmdlet_offer {
	CMDLET_OFFER_NOTHING,
	CMDLET_OFFER_VM,
	CMDLET_OFFER_FILE,
	CMDLET_OFFER_SWITCH,
	CMDLET_OFFER_SERVICE,
	CMDLET_OFFER_CMDLET,
	CMDLET_OFFER_CHECKPOINT,
};

/* Flags of a parameter. */
#define CMDLET_MANDATORY 1u
#define CMDLET_LIST      2u   /* several values, by comma */
#define CMDLET_WILDCARD  4u   /* * and ? match */
#define CMDLET_PIPELINE  8u   /* taken from what comes in by a pipe: cmdlet_bind_objects */
#define CMDLET_OURS      16u  /* Hyper-V's cmdlet has no such parameter */
#define CMDLET_NOT_YET   32u  /* known, refused: its help says what it needs, or why */
#define CMDLET_LOCAL     64u  /* for the command line itself; no part of a request */
#define CMDLET_NULLABLE  128u /* $null, of which a shell leaves nothing, is its empty value */

struct cmdlet_param {
	const char *name;
	const char *aliases; /* separated by spaces, or NULL */
	enum cmdlet_type type;
	unsigned flags;
	unsigned sets;      /* bit n: belongs to set n; 0: to all */
	unsigned position;  /* 1: first; 0: only by name */
	const char *values; /* of an ENUM, separated by spaces */
	const char *dflt;   /* as one would type it, or NULL */
	int64_t min, max;   /* of INTEGER and SIZE, where max is not 0 */
	enum cmdlet_offer offer;
	const char *help;
};

enum cmdlet_format {
	CMDLET_SHOW_TEXT,
	CMDLET_SHOW_MB,       /* bytes, shown in MB */
	CMDLET_SHOW_DURATION, /* seconds, shown as d.hh:mm:ss */
	CMDLET_SHOW_IF_THERE, /* as text; only where some result has it */
};

struct cmdlet_column {
	const char *key;     /* member of the result */
	const char *heading; /* in the table; NULL: only in lists */
	enum cmdlet_format format;
};

struct cmdlet_output {
	const char *type;                    /* Hyper-V's name of the type */
	const struct cmdlet_column *columns; /* in the order of a list; ends with a NULL key */
};

struct cmdlet_example {
	const char *command, *says;
};

/* Who carries a cmdlet out. */
enum cmdlet_place {
	CMDLET_IN_DAEMON,
	CMDLET_IN_CLIENT, /* the command line by itself (help) or with the daemon (connect-vm) */
};

struct cmdlet {
	const char *name;    /* "New-VM" */
	const char *aliases; /* other names, separated by spaces; NULL: none */
	const char *synopsis;
	const char *description;
	const char *const
	    *sets; /* names; ends with NULL; the first is the default. NULL: one set */
	const struct cmdlet_param *params;     /* ends with a NULL name */
	const struct cmdlet_output *output;    /* NULL: none */
	const struct cmdlet_example *examples; /* ends with a NULL command */
	enum cmdlet_place place;
	bool ours;               /* Hyper-V has no cmdlet of this name */
	bool output_if_passthru; /* shows its result only with -Passthru */
	bool confirm;            /* asks before it acts, unless -Force or -Confirm:false */
	const char *what_if;     /* the parameter that names what it acts on, for -WhatIf; NULL: the
				    first one (cmdlet_what_if) */
};

/* What a user of the API may do, each more than the one before (docs/api.md). */
enum cmdlet_role {
	CMDLET_ROLE_CONSOLE, /* nothing but the consoles that were granted */
	CMDLET_ROLE_READER,
	CMDLET_ROLE_OPERATOR,
	CMDLET_ROLE_ADMINISTRATOR,
	CMDLET_ROLE_COUNT
};

/* The least that carries it out. Get-VM shows a console's user only what was granted. */
enum cmdlet_role cmdlet_role_needed(const struct cmdlet *cmdlet);
const char *cmdlet_role_name(enum cmdlet_role role); /* "Console", "Reader", ... */
bool cmdlet_role_from_name(const char *name, enum cmdlet_role *ret);

/* The n-th of the table; NULL behind the last. */
const struct cmdlet *cmdlet_at(size_t n);

/* ---- looking up ---- */

/* Case is ignored. NULL: not in the table (see cmdlet_planned). */
const struct cmdlet *cmdlet_find(const char *name);
/* The area of a cmdlet of Hyper-V's that is not there yet, or NULL; *ret_name is its spelling. */
const char *cmdlet_planned(const char *name, const char **ret_name);
struct cmdlet_name {
	const char *name, *area;
};
/* The n-th of those; NULL behind the last. */
const struct cmdlet_name *cmdlet_planned_at(size_t n);
/* The known name nearest to a mistyped one, or NULL if none is near. */
const char *cmdlet_suggest(const char *name);
/* The parameter of that name, alias or unambiguous beginning. NULL: see err. */
const struct cmdlet_param *cmdlet_find_param(const struct cmdlet *cmdlet, const char *name,
					     struct error *err);
bool cmdlet_param_in_set(const struct cmdlet_param *param, unsigned set);
unsigned cmdlet_set_count(const struct cmdlet *cmdlet);

/* ---- command line and requests ---- */

struct cmdlet_invocation {
	json_t *params; /* the caller's */
	/* For each parameter whose value was objects, the list of them; the caller's. */
	json_t *objects;
	bool json, list, help;
	bool as_job;  /* -AsJob: it goes on without the command line */
	bool what_if; /* nothing is to be done, only said */
	bool quiet;   /* -ErrorAction SilentlyContinue: errors are not shown */
	int confirm;  /* -1: not said, 0: -Confirm:false, 1: -Confirm */
};

/* Reads what follows the cmdlet's name. Does not add defaults. */
int cmdlet_parse(const struct cmdlet *cmdlet, int argc, char *const *argv,
		 struct cmdlet_invocation *ret, struct error *err);
/* Checks a request by the table: names, types, ranges, one parameter set, nothing missing. *ret,
 * the caller's, has the table's spelling and the defaults. */
int cmdlet_check(const struct cmdlet *cmdlet, const json_t *request, json_t **ret,
		 struct error *err);
/* The parameter sets that params leave possible, as bits. */
unsigned cmdlet_possible_sets(const struct cmdlet *cmdlet, const json_t *params);
/* The parameter whose values -WhatIf names; NULL with *ret_known false: nothing is changed, so
 * there is no -WhatIf. */
const struct cmdlet_param *cmdlet_what_if(const struct cmdlet *cmdlet, bool *ret_known);
/* "512MB", "1.5GB", "0x200000", "1048576". False: none of these, or too large. */
bool cmdlet_parse_size(const char *text, int64_t *ret);
/* Case-insensitive match with *, ? and [a-z]. */
bool cmdlet_wildcard_match(const char *pattern, const char *text);
bool cmdlet_has_wildcard(const char *text);

/* ---- pipes (oyako get-vm 'web*' | oyako stop-vm) ---- */

/* Member of a result: the other host that it comes from, as PowerShell names it. */
#define CMDLET_ORIGIN "PSComputerName"

/* Do params lack nothing but what objects can give? */
bool cmdlet_takes_objects(const struct cmdlet *cmdlet, const json_t *params);
/* The objects of a text that cmdlets wrote: tables or JSON; none if it is empty. *ret is the
 * caller's. */
int cmdlet_read_objects(const char *text, json_t **ret, struct error *err);
/* Is a text what cmdlets wrote, and not a name? */
bool cmdlet_is_objects(const char *text);
/* Objects that stand as the value of a parameter for a checkpoint's name: gives them a member of
 * the parameter's name, from which it is then bound. */
void cmdlet_name_objects(const struct cmdlet_param *param, json_t *objects);
/* A drive or adapter as a CMDLET_DEVICE names it, the caller's; NULL: it is neither. */
char *cmdlet_device_of(const json_t *object);
/* What is to be asked for so that every object is met: a list of requests' parameters, the
 * caller's. Names in them mean themselves, whatever characters they have. */
int cmdlet_bind_objects(const struct cmdlet *cmdlet, const json_t *params, const json_t *objects,
			json_t **ret, struct error *err);

/* ---- texts for people; each is the caller's (free), NULL: no memory ---- */

char *cmdlet_help_text(const struct cmdlet *cmdlet);
char *cmdlet_overview_text(void);
/* The syntax of one parameter set: "New-VM [[-Name] <text>] ...". */
char *cmdlet_syntax_text(const struct cmdlet *cmdlet, unsigned set);
/* roff; for oyako itself with cmdlet NULL. */
char *cmdlet_man_page(const struct cmdlet *cmdlet);
/* Markdown: what is there of Hyper-V's cmdlets and their parameters, and what is not. */
char *cmdlet_status_text(void);
/* The completion script of "bash", "zsh" or "fish"; NULL: no such shell. */
char *cmdlet_completion_script(const char *shell);
/* The API as an OpenAPI document; the caller's. version: of the service. */
json_t *cmdlet_openapi(const char *version);
/* Results as a table of at most `width` columns (0: no limit), or as a list. */
char *cmdlet_format_table(const struct cmdlet_output *output, const json_t *results,
			  unsigned width);
char *cmdlet_format_list(const struct cmdlet_output *output, const json_t *results);
/* One result as a line: what a table's columns show, two spaces apart. */
char *cmdlet_format_line(const struct cmdlet_output *output, const json_t *result);

/* Splits a line of the shell: quotes '...' and "...", and \\. *ret, the caller's
 * (cmdlet_free_words), ends with NULL and has so many free places before and behind the words. */
int cmdlet_split_line(const char *line, int before, int behind, char ***ret, int *ret_count,
		      struct error *err);
/* The parts of a line that pipes join: those at '|' outside of quotes. The caller's
 * (cmdlet_free_words with first 0); ends with NULL. */
char **cmdlet_split_pipe(const char *line);
/* first: the first that is to be freed. */
void cmdlet_free_words(char **words, int first);

/* ---- completion ---- */

struct cmdlet_candidates {
	json_t *words;           /* list of texts that the table knows; the caller's */
	enum cmdlet_offer offer; /* what else the caller may add */
};

/* words[0..count) is what stands behind "oyako"; the last one is being typed. */
int cmdlet_complete(int count, char *const *words, struct cmdlet_candidates *ret);

#endif
