/* What the parts of oyakod share. All of it belongs to the loop: the daemon has one thread. */
#ifndef DAEMON_DAEMON_H
#define DAEMON_DAEMON_H

#include "base/error.h"
#include "base/loop.h"
#include "config/paths.h"
#include "events.h"

#include <stdbool.h>

struct vm;
struct switches;
struct mounts;
struct requests;
struct balancer;
struct automatic;
struct access;
struct server;
struct job_wait;
struct cgroup;

struct daemon {
	struct loop *loop;
	struct config_paths paths;
	struct events *events;
	struct switches *switches;
	struct mounts *mounts;
	struct requests *requests;
	struct balancer *balancer;
	struct automatic *automatic; /* VMs that are to start after a delay */
	struct job_wait *job_waits;  /* cmdlets-job.c */
	struct server *server;
	struct cgroup *cgroup;    /* of the running VMs */
	struct access *access;    /* users of the API from elsewhere */
	char *api_address;        /* where they are listened for; NULL: nowhere */
	bool enhanced_sessions;   /* are let in, where a VM has them */
	char api_fingerprint[80]; /* SHA-256 of our certificate; empty: not listening */
	char *worker_program, *switch_program, *disk_program;
	int lock_fd;      /* of the state folder: one daemon at a time */
	int disk_lock_fd; /* disk-job.h */
	struct vm **vms;  /* those that are defined; each holds a reference */
	size_t vm_count;
	unsigned char mac_prefix[5]; /* drawn for this host; its pool, unless another is set */
	unsigned char mac_first[6], mac_last[6]; /* the pool of dynamic addresses */
	char *vm_path;                           /* where New-VM puts VMs; NULL: in the store */
	char *vhd_path;                          /* for people and programs to heed; NULL: none */
	unsigned metering_save_seconds;
};

#endif
