/* Cmdlets of Hyper-V's modules that Oyako does not have yet: their names are known, so that it can
 * say so. */
#ifndef CMDLET_PLANNED_H
#define CMDLET_PLANNED_H

struct cmdlet_planned {
	const char *name; /* NULL: end */
	const char *area; /* "checkpoints", ...: what it belongs to */
};

extern const struct cmdlet_planned cmdlet_planned_table[];

#endif
