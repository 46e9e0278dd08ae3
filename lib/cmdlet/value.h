/*
 * Values of parameters, from the text of a command line and from the JSON of a request. The same
 * rules hold for both: types, ranges, lists.
 */
#ifndef CMDLET_VALUE_H
#define CMDLET_VALUE_H

#include "cmdlet/cmdlet.h"

/* Adds the parameter's value, one or (where it is a list) several, to params. */
int value_put_text(const struct cmdlet_param *param, const char *text, json_t *params,
		   struct error *err);
int value_put_json(const struct cmdlet_param *param, json_t *value, json_t *params,
		   struct error *err);
/* "True", "$true", "1", "yes": 1; their contraries: 0; -1: none of both. */
int value_boolean(const char *text);

#endif
