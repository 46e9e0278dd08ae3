/*
 * What happens to VMs when the host starts: Set-VM -AutomaticStartAction. It is done once for each
 * boot of the host, by the first daemon that starts. A VM that ran when the host went down still
 * has the mark of it in its folder.
 */
#ifndef DAEMON_AUTOMATIC_H
#define DAEMON_AUTOMATIC_H

#include "vm.h"

/* Starts what is to be started, now or after its delay. After run_adopt_all. */
void automatic_begin(struct daemon *daemon);
void automatic_end(struct daemon *daemon);

/* It runs; it is off. */
void automatic_note_running(const struct vm *vm);
void automatic_note_off(const struct vm *vm);

#endif
