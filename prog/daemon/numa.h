/* The host's NUMA nodes, as Get-VMHostNumaNode shows them. */
#ifndef DAEMON_NUMA_H
#define DAEMON_NUMA_H

#include <jansson.h>

/* A list of nodes, the caller's; only node id, if that is not negative. A kernel without NUMA has
 * one node, 0. */
json_t *numa_describe(int id);

#endif
