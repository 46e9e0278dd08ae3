/*
 * TLS between a connection and a plain socket: what comes in on one side is carried to the other,
 * with buffers of one record. Nothing here waits: the owner polls for what the tunnel wants and
 * calls tls_tunnel_step, in a loop or in a thread of its own.
 *
 * The plain side may end first, or half of it (shutdown): a client's tunnel then says so to the
 * peer and goes on with what the peer still sends; a server's ends, once all has been sent. When
 * the peer ends, so does the plain side's input, and a client's tunnel is over.
 *
 * What the peer sends before TLS stands is GnuTLS's to judge.
 */
#ifndef TLS_TUNNEL_H
#define TLS_TUNNEL_H

#include <gnutls/gnutls.h>
#include <stdbool.h>

#define TLS_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"

struct tls_tunnel;

/* Takes session, whose hands were shaken and whose transport is net, and both non-blocking sockets.
 */
struct tls_tunnel *tls_tunnel_new(gnutls_session_t session, bool server, int net, int plain);
/* Closes both. NULL is allowed. */
void tls_tunnel_free(struct tls_tunnel *tunnel);
/* Does what can be done now. False: it is over. */
bool tls_tunnel_step(struct tls_tunnel *tunnel);
/* POLLIN and POLLOUT. True: there is work at once, without waiting. A socket with no events is not
 * to be watched, for it may have hung up. */
bool tls_tunnel_wants(const struct tls_tunnel *tunnel, short *ret_net, short *ret_plain);

#endif
