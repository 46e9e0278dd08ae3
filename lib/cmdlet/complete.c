/*
 * Completion. The scripts are thin: they ask `oyako __complete WORD...`, which answers with one
 * candidate a line (and ":file" where files fit), so that all shells offer the same, from the
 * table.
 */
#include "cmdlet/cmdlet.h"

#include "base/macros.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

static void offer(json_t *words, const char *prefix, const char *name, const char *typed)
{
	char word[80];
	size_t len = 0;

	while (*prefix && len + 1 < sizeof(word))
		word[len++] = *prefix++;
	while (*name && len + 1 < sizeof(word))
		word[len++] = *name++;
	word[len] = '\0';
	if (strncasecmp(word, typed, strlen(typed)) == 0)
		json_array_append_new(words, json_string(word));
}

static void offer_cmdlets(json_t *words, const char *typed)
{
	const struct cmdlet *cmdlet;

	for (size_t i = 0; (cmdlet = cmdlet_at(i)); i++) {
		char name[64];
		size_t k;

		for (k = 0; cmdlet->name[k] && k + 1 < sizeof(name); k++)
			name[k] = (char)tolower((unsigned char)cmdlet->name[k]);
		name[k] = '\0';
		offer(words, "", name, typed);
	}
}

static void offer_params(json_t *words, const struct cmdlet *cmdlet, const char *typed)
{
	bool changes;

	for (const struct cmdlet_param *p = cmdlet->params; p->name; p++)
		if (!(p->flags & CMDLET_NOT_YET))
			offer(words, "-", p->name, typed);
	cmdlet_what_if(cmdlet, &changes);
	if (changes) {
		offer(words, "", "-WhatIf", typed);
		offer(words, "", "-Confirm:false", typed);
	}
	offer(words, "", "-ErrorAction", typed);
	offer(words, "", "-FormatList", typed);
	offer(words, "", "--json", typed);
	offer(words, "", "--help", typed);
}

static void offer_values(json_t *words, const struct cmdlet_param *param, const char *typed)
{
	const char *value = param->values;

	if (param->type == CMDLET_BOOLEAN) {
		offer(words, "", "true", typed);
		offer(words, "", "false", typed);
	}
	while (param->type == CMDLET_ENUM && *value) {
		size_t len = strcspn(value, " ");
		char word[64];

		if (len < sizeof(word)) {
			memcpy(word, value, len);
			word[len] = '\0';
			offer(words, "", word, typed);
		}
		value += len + strspn(value + len, " ");
	}
}

/* The n-th, from 0, of the positional parameters that are not named; bit i of named: the i-th is.
 */
static const struct cmdlet_param *positional(const struct cmdlet *cmdlet, uint64_t named,
					     unsigned n)
{
	const struct cmdlet_param *found = NULL;
	unsigned last = 0;

	do {
		found = NULL;
		for (const struct cmdlet_param *p = cmdlet->params; p->name; p++)
			if (p->position > last && !(named & BIT((p - cmdlet->params) % 64)) &&
			    (!found || p->position < found->position))
				found = p;
		last = found ? found->position : last;
	} while (found && n-- > 0);
	return found;
}

/* The parameter whose value is typed next: the one just named, or the next positional one. */
static const struct cmdlet_param *awaited(const struct cmdlet *cmdlet, int count,
					  char *const *words)
{
	const struct cmdlet_param *waits = NULL;
	unsigned unnamed = 0;
	uint64_t named = 0;

	for (int i = 1; i < count - 1; i++) {
		char name[64];
		size_t len = words[i][0] == '-' ? strcspn(words[i] + 1, ":=") : 0;

		if (waits) {
			waits = NULL;
		} else if (!len || len >= sizeof(name)) {
			unnamed++;
		} else {
			memcpy(name, words[i] + 1, len);
			name[len] = '\0';
			waits = cmdlet_find_param(cmdlet, name, NULL);
			if (waits)
				named |= BIT((waits - cmdlet->params) % 64);
			if (waits && (waits->type == CMDLET_SWITCH || words[i][1 + len]))
				waits = NULL;
		}
	}
	return waits ? waits : positional(cmdlet, named, unnamed);
}

int cmdlet_complete(int count, char *const *words, struct cmdlet_candidates *ret)
{
	const char *typed = count ? words[count - 1] : "";
	const struct cmdlet_param *param;
	const struct cmdlet *cmdlet;

	ret->words = json_array();
	ret->offer = CMDLET_OFFER_NOTHING;
	if (count <= 1) {
		offer_cmdlets(ret->words, typed);
		return 0;
	}
	cmdlet = cmdlet_find(words[0]);
	if (!cmdlet)
		return 0;
	if (typed[0] == '-') {
		offer_params(ret->words, cmdlet, typed);
		return 0;
	}
	param = awaited(cmdlet, count, words);
	if (!param)
		return 0;
	offer_values(ret->words, param, typed);
	if (param->offer == CMDLET_OFFER_CMDLET)
		offer_cmdlets(ret->words, typed);
	ret->offer = param->type == CMDLET_FILE ? CMDLET_OFFER_FILE : param->offer;
	return 0;
}

/* ---- scripts ---- */

static const char bash_script[] =
    "# bash completion of oyako\n"
    "_oyako() {\n"
    "	local IFS=$'\\n' line\n"
    "	COMPREPLY=()\n"
    "	for line in $(oyako __complete \"${COMP_WORDS[@]:1:COMP_CWORD}\" 2>/dev/null); do\n"
    "		if [ \"$line\" = :file ]; then\n"
    "			COMPREPLY+=($(compgen -f -- \"${COMP_WORDS[COMP_CWORD]}\"))\n"
    "			compopt -o filenames 2>/dev/null\n"
    "		else\n"
    "			COMPREPLY+=(\"$(printf %q \"$line\")\")\n"
    "		fi\n"
    "	done\n"
    "}\n"
    "complete -F _oyako oyako\n";

static const char zsh_script[] =
    "#compdef oyako\n"
    "_oyako() {\n"
    "	local -a found\n"
    "	found=(\"${(@f)$(oyako __complete \"${(@)words[2,CURRENT]}\" 2>/dev/null)}\")\n"
    "	if (( ${found[(I):file]} )); then\n"
    "		found=(\"${(@)found:#:file}\")\n"
    "		_files\n"
    "	fi\n"
    "	found=(\"${(@)found:#}\")\n"
    "	(( $#found )) && compadd -M 'm:{a-zA-Z}={A-Za-z}' -a found\n"
    "}\n"
    "if [ \"$funcstack[1]\" = _oyako ]; then _oyako \"$@\"; else compdef _oyako oyako; fi\n";

static const char fish_script[] = "# fish completion of oyako\n"
				  "function __oyako_complete\n"
				  "	set -l words (commandline -opc)[2..-1] (commandline -ct)\n"
				  "	for line in (oyako __complete $words 2>/dev/null)\n"
				  "		if test \"$line\" = :file\n"
				  "			__fish_complete_path (commandline -ct)\n"
				  "		else\n"
				  "			echo $line\n"
				  "		end\n"
				  "	end\n"
				  "end\n"
				  "complete -c oyako -f -a '(__oyako_complete)'\n";

char *cmdlet_completion_script(const char *shell)
{
	if (strcmp(shell, "bash") == 0)
		return strdup(bash_script);
	if (strcmp(shell, "zsh") == 0)
		return strdup(zsh_script);
	if (strcmp(shell, "fish") == 0)
		return strdup(fish_script);
	return NULL;
}
