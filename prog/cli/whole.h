/*
 * Tables have a few of their objects' properties. Where a cmdlet behind a pipe needs another one,
 * the table tells what its rows are, and the service is asked for them once more.
 */
#ifndef CLI_WHOLE_H
#define CLI_WHOLE_H

#include "cmdlet/cmdlet.h"

/* Member of an object that was made whole: the row that it was. */
#define WHOLE_ROW " row"

/* What a Get- cmdlet finds with these parameters, the caller's; NULL: nothing. */
typedef json_t *(*whole_fetch)(const struct cmdlet *cmdlet, const json_t *params);

/* The rows with all that is known of them, in the same order; the caller's. A row that is nobody's
 * any more stays as it is. NULL: no cmdlet has such a table. */
json_t *whole_objects(const json_t *rows, whole_fetch fetch);

#endif
