/*
 * The shell: reads cmdlets line by line, with history and completion, and carries each out as
 * another oyako, so that what goes wrong in one is over with it. Lines are kept in
 * ~/.local/state/oyako/history (or below $XDG_STATE_HOME).
 */
#ifndef CLI_SHELL_H
#define CLI_SHELL_H

/* Until `exit` or the end of the input; the exit status of the last cmdlet. */
int shell_run(void);

#endif
