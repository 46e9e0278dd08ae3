#include "net/nat.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "net/dhcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <slirp/libslirp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GATEWAY_HOST    1
#define NAMESERVER_HOST 2
#define DHCP_FIRST_HOST 16
#define UPLINK_MTU      1500

struct nat {
	struct loop *loop;
	struct vswitch *sw;
	Slirp *slirp;
	struct dhcp *dhcp;
	struct pollfd *fds; /* [0] is the loop's */
	unsigned fd_count, fd_room;
};

struct nat_timer {
	struct nat *nat;
	SlirpTimerId id;
	void *cb_opaque;
	struct loop_timer *timer;
};

bool nat_parse_subnet(const char *text, struct in_addr *ret_network, unsigned *ret_prefix_bits)
{
	char address[INET_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	struct in_addr network;
	char *end;
	long bits;

	if (!slash || (size_t)(slash - text) >= sizeof(address))
		return false;
	memcpy(address, text, (size_t)(slash - text));
	address[slash - text] = '\0';
	bits = strtol(slash + 1, &end, 10);
	if (end == slash + 1 || *end || bits < 16 || bits > 28)
		return false;
	if (inet_pton(AF_INET, address, &network) != 1 ||
	    ntohl(network.s_addr) & (UINT32_MAX >> bits))
		return false;
	*ret_network = network;
	*ret_prefix_bits = (unsigned)bits;
	return true;
}

/* ---- what libslirp asks of us ---- */

static ssize_t on_send_packet(const void *buf, size_t len, void *user)
{
	struct nat *nat = user;

	vswitch_uplink_input(nat->sw, buf, len);
	return (ssize_t)len;
}

static void on_guest_error(const char *msg, void *user)
{
	(void)user;
	log_guest("network: %s", msg);
}

static int64_t on_clock(void *user)
{
	(void)user;
	return (int64_t)clock_now_ns();
}

static void on_timer(void *user)
{
	struct nat_timer *t = user;

	slirp_handle_timer(t->nat->slirp, t->id, t->cb_opaque);
}

static void *on_timer_new(SlirpTimerId id, void *cb_opaque, void *user)
{
	struct nat_timer *t = calloc(1, sizeof(*t));

	if (!t)
		abort(); /* libslirp has no way to hear of it */
	*t = (struct nat_timer){ user, id, cb_opaque, NULL };
	if (loop_timer_new(t->nat->loop, on_timer, t, &t->timer, NULL) < 0)
		abort();
	return t;
}

static void on_timer_free(void *timer, void *user)
{
	struct nat_timer *t = timer;

	(void)user;
	loop_timer_free(t->timer);
	free(t);
}

static void on_timer_mod(void *timer, int64_t expire_ms, void *user)
{
	struct nat_timer *t = timer;

	(void)user;
	loop_timer_arm(t->timer, (uint64_t)expire_ms * NS_PER_MSEC);
}

static void on_poll_fd(int fd, void *user)
{
	(void)fd, (void)user; /* the set is rebuilt before each poll() */
}

static void on_notify(void *user)
{
	(void)user; /* all calls into libslirp come from nat_step: it polls again anyway */
}

static const SlirpCb callbacks = {
	.send_packet = on_send_packet,
	.guest_error = on_guest_error,
	.clock_get_ns = on_clock,
	.timer_new_opaque = on_timer_new,
	.timer_free = on_timer_free,
	.timer_mod = on_timer_mod,
	.register_poll_fd = on_poll_fd,
	.unregister_poll_fd = on_poll_fd,
	.notify = on_notify,
};

/* ---- from the switch ---- */

/* libslirp takes every frame for its own: only those to its addresses go there. */
static bool is_for_router(const uint8_t *frame)
{
	return frame_is_multicast(frame) ||
	       (frame[0] == 0x52 && (frame[1] == 0x55 || frame[1] == 0x56));
}

static void on_uplink_send(void *user, const uint8_t *frame, size_t len)
{
	struct nat *nat = user;
	uint8_t answer[DHCP_REPLY_BYTES];

	if (!is_for_router(frame))
		return;
	if (dhcp_is_request(frame, len)) {
		len = dhcp_answer(nat->dhcp, frame, len, clock_now_ns(), answer);
		if (len)
			vswitch_uplink_input(nat->sw, answer, len);
		return;
	}
	slirp_input(nat->slirp, frame, (int)len);
}

/* ---- polling ---- */

static int on_add_poll(int fd, int events, void *user)
{
	struct nat *nat = user;
	struct pollfd *p;

	if (nat->fd_count == nat->fd_room) {
		unsigned room = nat->fd_room * 2;

		p = realloc(nat->fds, room * sizeof(*p));
		if (!p)
			return -1; /* this one waits for better times */
		nat->fds = p;
		nat->fd_room = room;
	}
	p = &nat->fds[nat->fd_count];
	*p = (struct pollfd){ .fd = fd };
	if (events & SLIRP_POLL_IN)
		p->events |= POLLIN;
	if (events & SLIRP_POLL_OUT)
		p->events |= POLLOUT;
	if (events & SLIRP_POLL_PRI)
		p->events |= POLLPRI;
	return (int)nat->fd_count++;
}

static int on_get_revents(int index, void *user)
{
	struct nat *nat = user;
	short revents;
	int events = 0;

	if (index < 1 || (unsigned)index >= nat->fd_count)
		return 0;
	revents = nat->fds[index].revents;
	if (revents & POLLIN)
		events |= SLIRP_POLL_IN;
	if (revents & POLLOUT)
		events |= SLIRP_POLL_OUT;
	if (revents & POLLPRI)
		events |= SLIRP_POLL_PRI;
	if (revents & POLLERR)
		events |= SLIRP_POLL_ERR;
	if (revents & POLLHUP)
		events |= SLIRP_POLL_HUP;
	return events;
}

void nat_step(struct nat *nat, struct loop *loop, int timeout_ms)
{
	uint32_t wait_ms = timeout_ms < 0 ? UINT32_MAX : (uint32_t)timeout_ms;
	int r;

	if (!nat) {
		loop_step(loop, timeout_ms);
		return;
	}
	nat->fds[0] = (struct pollfd){ .fd = loop_poll_fd(loop), .events = POLLIN };
	nat->fd_count = 1;
	slirp_pollfds_fill(nat->slirp, &wait_ms, on_add_poll, nat);
	vswitch_flush(nat->sw);
	r = poll(nat->fds, nat->fd_count, wait_ms > INT32_MAX ? -1 : (int)wait_ms);
	slirp_pollfds_poll(nat->slirp, r < 0, on_get_revents, nat);
	if (r > 0 && nat->fds[0].revents)
		loop_step(loop, 0);
	vswitch_flush(nat->sw);
}

/* ---- life ---- */

static struct in_addr host_of(const struct nat_config *config, uint32_t host)
{
	return (struct in_addr){ htonl(ntohl(config->network.s_addr) + host) };
}

static void fill_ipv6(SlirpConfig *slirp, const struct nat_config *config)
{
	slirp->in6_enabled = true;
	slirp->vprefix_addr6 = config->network6;
	slirp->vprefix_len = 64;
	slirp->vhost6 = config->network6;
	slirp->vhost6.s6_addr[15] = GATEWAY_HOST;
	slirp->vnameserver6 = config->network6;
	slirp->vnameserver6.s6_addr[15] = NAMESERVER_HOST;
}

static int new_dhcp(struct nat *nat, const struct nat_config *config, struct error *err)
{
	uint32_t network = ntohl(config->network.s_addr), hosts = UINT32_MAX >> config->prefix_bits;
	struct dhcp_config dhcp = {
		.server = network + GATEWAY_HOST,
		.netmask = ~hosts,
		.nameserver = network + NAMESERVER_HOST,
		.first = network + (hosts < 32 ? NAMESERVER_HOST + 1 : DHCP_FIRST_HOST),
		.last = network + hosts - 1,
		.domain = config->domain,
	};

	/* As libslirp makes the router's: 52:55 and its address. */
	dhcp.server_mac[0] = 0x52;
	dhcp.server_mac[1] = 0x55;
	store_be32(dhcp.server_mac + 2, dhcp.server);
	return dhcp_new(&dhcp, &nat->dhcp, err);
}

int nat_new(struct loop *loop, struct vswitch *sw, const struct nat_config *config,
	    struct nat **ret, struct error *err)
{
	struct nat *nat = calloc(1, sizeof(*nat));
	int r;
	SlirpConfig slirp = {
		.version = 4,
		.in_enabled = true,
		.vnetwork = config->network,
		.vnetmask.s_addr = htonl(~(UINT32_MAX >> config->prefix_bits)),
		.vhost = host_of(config, GATEWAY_HOST),
		.vnameserver = host_of(config, NAMESERVER_HOST),
		.disable_dhcp = true, /* it has addresses for 16 clients */
		.vdomainname = config->domain,
		.if_mtu = UPLINK_MTU,
		.if_mru = UPLINK_MTU,
		.disable_host_loopback = !config->host_loopback,
	};

	if (nat) {
		nat->fd_room = 64;
		nat->fds = calloc(nat->fd_room, sizeof(*nat->fds));
	}
	if (!nat || !nat->fds) {
		free(nat);
		return error_set(err, ERR_NO_MEMORY, "no memory for network address translation");
	}
	nat->loop = loop;
	nat->sw = sw;
	r = new_dhcp(nat, config, err);
	if (r < 0) {
		nat_free(nat);
		return r;
	}
	if (config->ipv6)
		fill_ipv6(&slirp, config);
	nat->slirp = slirp_new(&slirp, &callbacks, nat);
	if (!nat->slirp) {
		nat_free(nat);
		return error_set(err, ERR_INVALID, "libslirp refuses the network");
	}
	vswitch_set_uplink(sw, &(struct vswitch_uplink){ on_uplink_send, nat });
	*ret = nat;
	return 0;
}

void nat_free(struct nat *nat)
{
	if (!nat)
		return;
	if (nat->slirp) {
		vswitch_set_uplink(nat->sw, &(struct vswitch_uplink){ 0 });
		slirp_cleanup(nat->slirp);
	}
	dhcp_free(nat->dhcp);
	free(nat->fds);
	free(nat);
}
