#include "tls/tunnel.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define RECORD_BYTES 16384

/* One direction. */
struct flow {
	char data[RECORD_BYTES];
	size_t at, len;
	bool ended; /* no more comes in */
	bool told;  /* and the other side knows */
};

struct tls_tunnel {
	gnutls_session_t session;
	bool server, broken;
	int net, plain;
	struct flow in, out; /* from the net; to it */
};

struct tls_tunnel *tls_tunnel_new(gnutls_session_t session, bool server, int net, int plain)
{
	struct tls_tunnel *tunnel = calloc(1, sizeof(*tunnel));

	if (!tunnel)
		abort();
	tunnel->session = session;
	tunnel->server = server;
	tunnel->net = net;
	tunnel->plain = plain;
	return tunnel;
}

void tls_tunnel_free(struct tls_tunnel *tunnel)
{
	if (!tunnel)
		return;
	gnutls_deinit(tunnel->session);
	close(tunnel->net);
	close(tunnel->plain);
	free(tunnel);
}

static bool is_empty(const struct flow *flow)
{
	return flow->at == flow->len;
}

static bool wants_more(const struct flow *flow)
{
	return !flow->ended && is_empty(flow);
}

static bool must_wait(ssize_t r)
{
	return r == GNUTLS_E_AGAIN || r == GNUTLS_E_INTERRUPTED;
}

static void fill(struct flow *flow, ssize_t n)
{
	flow->ended = n <= 0;
	flow->at = 0;
	flow->len = n > 0 ? (size_t)n : 0;
}

/* Each of the four: true where something was done. */

static bool from_net(struct tls_tunnel *tunnel)
{
	ssize_t n;

	if (!wants_more(&tunnel->in))
		return false;
	n = gnutls_record_recv(tunnel->session, tunnel->in.data, sizeof(tunnel->in.data));
	if (must_wait(n))
		return false;
	/* Neither side of ours needs to shake hands again: such a peer is told no more. */
	fill(&tunnel->in, n);
	return true;
}

static bool to_plain(struct tls_tunnel *tunnel)
{
	struct flow *in = &tunnel->in;
	ssize_t n;

	if (is_empty(in)) {
		if (!in->ended || in->told)
			return false;
		shutdown(tunnel->plain, SHUT_WR);
		return in->told = true;
	}
	n = send(tunnel->plain, in->data + in->at, in->len - in->at, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0) {
		tunnel->broken = errno != EAGAIN && errno != EINTR;
		return false;
	}
	in->at += (size_t)n;
	return true;
}

static bool from_plain(struct tls_tunnel *tunnel)
{
	ssize_t n;

	if (!wants_more(&tunnel->out))
		return false;
	n = recv(tunnel->plain, tunnel->out.data, sizeof(tunnel->out.data), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	fill(&tunnel->out, n);
	return true;
}

static bool to_net(struct tls_tunnel *tunnel)
{
	struct flow *out = &tunnel->out;
	ssize_t n;

	if (is_empty(out)) {
		if (!out->ended || out->told)
			return false;
		n = gnutls_bye(tunnel->session, GNUTLS_SHUT_WR);
		return out->told = !must_wait(n);
	}
	/* The same data again after it had to wait, as GnuTLS wants it. */
	n = gnutls_record_send(tunnel->session, out->data + out->at, out->len - out->at);
	if (n < 0) {
		tunnel->broken = !must_wait(n);
		return false;
	}
	out->at += (size_t)n;
	return true;
}

static bool is_over(const struct tls_tunnel *tunnel)
{
	const struct flow *first = tunnel->server ? &tunnel->out : &tunnel->in;

	return tunnel->broken || first->told;
}

bool tls_tunnel_step(struct tls_tunnel *tunnel)
{
	bool done = true;

	while (done && !is_over(tunnel)) {
		done = from_net(tunnel);
		done |= to_plain(tunnel);
		done |= from_plain(tunnel);
		done |= to_net(tunnel);
	}
	return !is_over(tunnel);
}

bool tls_tunnel_wants(const struct tls_tunnel *tunnel, short *ret_net, short *ret_plain)
{
	const struct flow *in = &tunnel->in, *out = &tunnel->out;

	*ret_net = *ret_plain = 0;
	if (wants_more(in))
		*ret_net |= POLLIN;
	if (!is_empty(out) || (out->ended && !out->told))
		*ret_net |= POLLOUT;
	if (wants_more(out))
		*ret_plain |= POLLIN;
	if (!is_empty(in))
		*ret_plain |= POLLOUT;
	return wants_more(in) && gnutls_record_check_pending(tunnel->session) > 0;
}
