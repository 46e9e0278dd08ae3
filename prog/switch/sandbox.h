/*
 * What the switch gives up before it sees a frame. It keeps the host's network: translating
 * addresses is its work.
 */
#ifndef SWITCH_SANDBOX_H
#define SWITCH_SANDBOX_H

#include "base/error.h"

/* No new privileges, no core dumps, no capabilities, no root user; then a system call filter:
 * sockets, reading (the resolver's configuration), no writing to files, no programs. */
int sandbox_enter(struct error *err);

#endif
