/* Ties a console socket to the terminal or to pipes. */
#ifndef CLI_CONSOLE_H
#define CLI_CONSOLE_H

#include "base/error.h"

enum console_end {
	CONSOLE_CLOSED,      /* by the VM: it is off */
	CONSOLE_LEFT,        /* by the user: Ctrl-], or nobody reads what it says */
	CONSOLE_INTERRUPTED, /* by a signal */
};

/* Takes fd. On a terminal it says how to leave, and restores the terminal's settings at the end. On
 * a pipe the end of the input just ends the input. Returns enum console_end. */
int console_run(int fd, const char *vm);

#endif
