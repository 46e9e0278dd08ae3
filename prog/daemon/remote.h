/*
 * The API for clients elsewhere: the address that the host listens on, its certificate, and the
 * list of users (access/access.h) as a file. All is in the state folder: host.json (host.h),
 * tls/certificate.pem and tls/key.pem (made here where there are none), access.json.
 */
#ifndef DAEMON_REMOTE_H
#define DAEMON_REMOTE_H

#include "daemon.h"

/* Reads the users. A file that can't be read is an error: nobody is let in by mistake. */
int remote_load(struct daemon *daemon, struct error *err);
/* Listens on api_address; what fails is logged. Needs the server. */
void remote_start(struct daemon *daemon);
/* "192.0.2.1:2180", "[::1]:2180", "2180" or ":2180" (all addresses); "": does not listen any more.
 * Also kept in host.json. */
int remote_set_address(struct daemon *daemon, const char *address, struct error *err);
/* Writes the users; on failure they are read again, so that file and memory agree. */
int remote_save_users(struct daemon *daemon, struct error *err);
void remote_free(struct daemon *daemon);

#endif
