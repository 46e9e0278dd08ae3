/*
 * Messages between Oyako's own processes: one JSON object per SOCK_SEQPACKET message, with file
 * descriptors beside it. The peer is not trusted: what is no JSON object, too large or carries too
 * many descriptors is refused, and nothing that came with it stays open.
 */
#ifndef IPC_IPC_H
#define IPC_IPC_H

#include "base/error.h"

#include <jansson.h>

#define IPC_MAX_FDS   200
#define IPC_MAX_BYTES (128 * 1024)

/* Borrows msg and fds. -ERR_BUSY if the socket is non-blocking and full, -ERR_CANCELLED if nobody
 * holds the other end any more. */
int ipc_send(int fd, const json_t *msg, const int *fds, unsigned fd_count, struct error *err);

/* 1: a message, *ret is the caller's, fds[0..*ret_fd_count) are the caller's (close-on-exec);
 * 0: the peer has closed; -ERR_BUSY: nothing there on a non-blocking socket. fds may be NULL where
 * none are expected: descriptors that come all the same are closed. */
int ipc_recv(int fd, json_t **ret, int *fds, unsigned *ret_fd_count, struct error *err);

#endif
