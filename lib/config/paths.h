/*
 * Where Oyako's files are on this host. Per user: state in $XDG_DATA_HOME/oyako or
 * ~/.local/share/oyako, sockets in $XDG_RUNTIME_DIR/oyako or, where there is none, in
 * /tmp/oyako-UID. System-wide: /var/lib/oyako and /run/oyako.
 */
#ifndef CONFIG_PATHS_H
#define CONFIG_PATHS_H

#include "base/error.h"

#include <stdbool.h>

struct config_paths {
	char *state;   /* the event log, the VMs' folders below vms/ */
	char *runtime; /* sockets; mode 0700, ours */
	char *socket;  /* of the API: runtime/api.sock */
};

int config_paths_init(struct config_paths *ret, bool system, struct error *err);
void config_paths_done(struct config_paths *paths);

/* Makes the folder and what is missing above it, and checks that it is ours alone: in /tmp anybody
 * could have made it before us. */
int config_make_private_folder(const char *path, struct error *err);

#endif
