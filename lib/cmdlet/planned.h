/* Cmdlets of Hyper-V's modules that Oyako does not have yet: their names are known, so that it can
 * say so. */
#ifndef CMDLET_PLANNED_H
#define CMDLET_PLANNED_H

#include "cmdlet/cmdlet.h"

/* Ends with a NULL name. */
extern const struct cmdlet_name cmdlet_planned_table[];

#endif
