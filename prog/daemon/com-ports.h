/*
 * The sockets that serve a VM's serial ports: symbolic links to those of its worker, so that they
 * can come and go while it runs. A pipe of Hyper-V's is a link in the folder pipe of the runtime
 * folder; a path is a link where it says.
 *
 * In the VM's runtime folder, com1 and com2 (links to the links) tell which ones are its own, so
 * that they are taken away also after a restart of the service.
 */
#ifndef DAEMON_COM_PORTS_H
#define DAEMON_COM_PORTS_H

#include "vm.h"

/* Of a VM that has a runtime folder: makes what its description says. ERR_EXISTS: something else is
 * there. */
int com_ports_serve(const struct vm *vm, struct error *err);
/* Takes them away, as far as they are its own. */
void com_ports_withdraw(const struct vm *vm);
/* Where the port, counted from 0, is served; the caller's. NULL: nowhere. */
char *com_port_place(const struct vm *vm, unsigned port);

#endif
