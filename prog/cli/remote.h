/*
 * The API of another host: TLS over TCP, behind a plain socket. What is kept about a host is a
 * folder, ~/.config/oyako/hosts/HOST:PORT (or below $XDG_CONFIG_HOME):
 *
 *	token           what proves us; for our eyes only
 *	certificate.pem, key.pem    the same by a certificate
 *	authority.pem   who signs the host's certificate; without it, the system's authorities
 *	fingerprint     of a certificate that nobody we know has signed; asked for once, as ssh does
 *
 * OYAKO_TOKEN, OYAKO_TOKEN_FILE, OYAKO_CERTIFICATE_FILE with OYAKO_KEY_FILE, and OYAKO_CA_FILE come
 * first where they are set.
 */
#ifndef CLI_REMOTE_H
#define CLI_REMOTE_H

#include "base/error.h"

#define REMOTE_DEFAULT_PORT "2180"

struct remote;

/* "host", "host:port", "[v6]:port". Reads what is kept about it; does not connect. */
int remote_new(const char *host, struct remote **ret, struct error *err);
void remote_free(struct remote *remote);
/* A stream socket, the caller's, behind which a thread speaks TLS; or -code. */
int remote_connect(const struct remote *remote, struct error *err);
/* NULL: none. */
const char *remote_token(const struct remote *remote);
const char *remote_name(const struct remote *remote); /* "host:port" */
const char *remote_folder(const struct remote *remote);

#endif
