#include "switches.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "peer.h"
#include "spawn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define TIMEOUT_NS (20 * NS_PER_SEC)

struct switches {
	struct daemon *daemon;
	/* The process of the Default Switch. */
	struct process process;
	struct loop_fd *process_watch;
	struct peer *peer; /* NULL: not running */
	unsigned port_count;
	struct error failure; /* of its configuration */
};

/* A port that is asked for. */
struct port_request {
	struct switches *switches;
	void (*done)(void *user, int fd, const struct error *err);
	void *user;
	int worker_fd;
};

bool switches_exists(const char *name)
{
	return strcasecmp(name, SWITCHES_DEFAULT) == 0;
}

static void forget_process(struct switches *switches)
{
	peer_free(switches->peer);
	switches->peer = NULL;
	loop_fd_remove(switches->process_watch);
	switches->process_watch = NULL;
	switches->port_count = 0;
	switches->failure.code = ERR_OK;
}

static void process_ended(void *user, uint32_t events)
{
	struct switches *switches = user;
	char how[128];

	spawn_reap(&switches->process, how, sizeof(how));
	log_warn("the switch '%s' %s", SWITCHES_DEFAULT, how);
	forget_process(switches);
}

static void port_is_gone(struct switches *switches)
{
	if (switches->port_count)
		switches->port_count--;
}

static void on_event(void *user, const char *name, const json_t *event)
{
	if (strcmp(name, "port-gone") == 0)
		port_is_gone(user);
}

/* It has closed its end: the process's end follows. */
static void on_closed(void *user)
{
	struct switches *switches = user;

	peer_free(switches->peer);
	switches->peer = NULL;
}

static const struct peer_events events_of_switch = { on_event, on_closed };

static void configured(void *user, const json_t *reply, const struct error *err)
{
	struct switches *switches = user;

	if (!err || err->code == ERR_CANCELLED)
		return;
	log_error("configuring the switch '%s': %s", SWITCHES_DEFAULT, err->text);
	switches->failure = *err;
	/* The next port starts another one. */
	spawn_kill(&switches->process);
}

/* Does the host have a route into 172.30.n.0/24? */
static bool subnet_in_use(unsigned n)
{
	FILE *f = fopen("/proc/net/route", "re");
	uint32_t subnet = (172u << 24) | (30u << 16) | (n << 8);
	unsigned destination, mask;
	char line[256];
	bool used = false;

	while (f && fgets(line, sizeof(line), f)) {
		/* Interface, destination, gateway, flags, ..., mask; in network order as a number.
		 */
		if (sscanf(line, "%*s %x %*s %*s %*s %*s %*s %x", &destination, &mask) != 2)
			continue;
		destination = ntohl(destination);
		mask = ntohl(mask);
		used |= mask && ((subnet & mask) == (destination & mask) ||
				 (destination & 0xffffff00) == subnet);
	}
	if (f)
		fclose(f);
	return used;
}

/* The network behind NAT: of the host's own choice, as Hyper-V's Default Switch has it. */
static json_t *configuration(const struct daemon *daemon)
{
	unsigned n = daemon->mac_prefix[4];
	char subnet[32], subnet6[48];

	for (unsigned tries = 0; tries < 256 && subnet_in_use(n); tries++)
		n = (n + 1) & 0xff;
	snprintf(subnet, sizeof(subnet), "172.30.%u.0/24", n);
	/* A unique local prefix, with the host's part of its MAC addresses as the random one. */
	snprintf(subnet6, sizeof(subnet6), "fd15:5d%02x:%02x00::", daemon->mac_prefix[3],
		 daemon->mac_prefix[4]);
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:b}", "op", "configure", "name",
			 SWITCHES_DEFAULT, "type", "nat", "subnet", subnet, "subnet6", subnet6,
			 "host_loopback", 1, "keep", 1);
}

static int start_process(struct switches *switches, int job_fd, struct error *err)
{
	struct daemon *daemon = switches->daemon;
	AUTO_FREE char *log_file = NULL;
	int r;

	if (switches->process_watch)
		return error_set(err, ERR_BUSY, "the switch '%s' is ending", SWITCHES_DEFAULT);
	if (asprintf(&log_file, "%s/switch.log", daemon->paths.runtime) < 0)
		abort();
	r = spawn(daemon->switch_program, job_fd, -1, log_file, &switches->process, err);
	if (r < 0)
		return r;
	r = loop_fd_add(daemon->loop, switches->process.pidfd, EPOLLIN, process_ended, switches,
			&switches->process_watch, err);
	if (r < 0)
		spawn_kill(&switches->process);
	return r;
}

static int start_switch(struct switches *switches, struct error *err)
{
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return error_set_errno(err, errno, "making the switch's control socket");
	r = start_process(switches, pair[1], err);
	close(pair[1]);
	if (r < 0) {
		close(pair[0]);
		return r;
	}
	r = peer_new(switches->daemon->loop, pair[0], &events_of_switch, switches, &switches->peer,
		     err);
	if (r == 0)
		peer_request(switches->peer, configuration(switches->daemon), NULL, 0, TIMEOUT_NS,
			     configured, switches);
	return r;
}

/* ---- ports ---- */

static void port_added(void *user, const json_t *reply, const struct error *err)
{
	struct port_request *request = user;

	if (err && request->switches->failure.code)
		err = &request->switches->failure;
	if (err) {
		close(request->worker_fd);
		request->worker_fd = -1;
	} else {
		request->switches->port_count++;
	}
	request->done(request->user, request->worker_fd, err);
	free(request);
}

void switches_add_port(struct switches *switches, const struct config_nic *nic,
		       void (*done)(void *user, int fd, const struct error *err), void *user)
{
	char port[GUID_TEXT_SIZE], mac[CONFIG_MAC_TEXT_SIZE];
	struct port_request *request;
	struct error err;
	int pair[2];

	if (!switches_exists(nic->switch_name)) {
		error_set(&err, ERR_NOT_FOUND, "there is no virtual switch '%.100s'",
			  nic->switch_name);
		done(user, -1, &err);
		return;
	}
	if (!switches->peer && start_switch(switches, &err) < 0) {
		done(user, -1, &err);
		return;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
		error_set_errno(&err, errno, "making a port's socket");
		done(user, -1, &err);
		return;
	}
	request = malloc(sizeof(*request));
	if (!request)
		abort();
	*request = (struct port_request){ switches, done, user, pair[0] };
	peer_request(switches->peer,
		     json_pack("{s:s, s:s, s:s}", "op", "add-port", "port",
			       guid_format(&nic->id, port), "mac",
			       config_mac_format(nic->mac, mac)),
		     &pair[1], 1, TIMEOUT_NS, port_added, request);
	close(pair[1]);
}

static void port_removed(void *user, const json_t *reply, const struct error *err)
{
	/* Else it has gone by itself, and was counted then. */
	if (!err)
		port_is_gone(user);
}

void switches_remove_port(struct switches *switches, const struct config_nic *nic)
{
	char port[GUID_TEXT_SIZE];

	if (!switches->peer || !nic->switch_name)
		return;
	peer_request(
	    switches->peer,
	    json_pack("{s:s, s:s}", "op", "remove-port", "port", guid_format(&nic->id, port)), NULL,
	    0, TIMEOUT_NS, port_removed, switches);
}

json_t *switches_describe(struct switches *switches)
{
	return json_pack("[{s:s, s:s, s:s, s:s, s:s, s:i}]", "Name", SWITCHES_DEFAULT, "SwitchType",
			 "NAT", "NetAdapterInterfaceDescription", "", "Id",
			 "c08cb7b8-9b3c-408e-8e30-5e16a3aeb444", "Notes",
			 "Network address translation through the host's own network; DHCP and DNS "
			 "included.",
			 "PortCount", (int)switches->port_count);
}

int switches_new(struct daemon *daemon, struct switches **ret, struct error *err)
{
	struct switches *switches = calloc(1, sizeof(*switches));

	if (!switches)
		return error_set(err, ERR_NO_MEMORY, "no memory for the switches");
	switches->daemon = daemon;
	*ret = switches;
	return 0;
}

void switches_free(struct switches *switches)
{
	if (!switches)
		return;
	if (switches->process_watch)
		close(switches->process.pidfd);
	forget_process(switches);
	free(switches);
}
