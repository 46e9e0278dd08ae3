/* Connecting to the daemon, and starting a per-user one when none runs. */
#ifndef CLI_START_H
#define CLI_START_H

#include "base/error.h"

#include <stdbool.h>

/* A connected stream socket, or -code; ERR_NOT_FOUND: none runs and none is to be started. */
int start_connect(const char *socket_path, bool start, struct error *err);

#endif
