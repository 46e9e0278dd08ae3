/*
 * Objects that come through a pipe, and PowerShell's cmdlets about them: Where-Object,
 * Select-Object, Sort-Object, Format-List, Format-Table.
 */
#ifndef CLI_OBJECTS_H
#define CLI_OBJECTS_H

#include "base/error.h"
#include "cmdlet/cmdlet.h"
#include "whole.h"

/* Does the descriptor bring objects? Only a pipe or a file does: a terminal is typed at, and
 * /dev/null is what services and many a script have. */
bool objects_come(int fd);
/* Reads the standard input to its end; *ret is the caller's. ret_json, or NULL: was it JSON? */
int objects_read(json_t **ret, bool *ret_json, struct error *err);
/* Carries one of the cmdlets out, with its checked parameters. width: of the table; 0: no limit.
 * fetch: for properties that the table that comes has not. */
int objects_run(const struct cmdlet *cmdlet, const json_t *params, bool json, unsigned width,
		whole_fetch fetch, struct error *err);

#endif
