#include "switches.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "config/config-json.h"
#include "peer.h"
#include "run.h"
#include "sockets.h"
#include "spawn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define TIMEOUT_NS (20 * NS_PER_SEC)
/* From the end of the process to a new one for the VMs that run: longer when it did not live long.
 */
#define REVIVE_NS       (200 * NS_PER_MSEC)
#define REVIVE_LATER_NS (10 * NS_PER_SEC)

/* In the runtime folder: where a later daemon connects, and which process it is. */
#define SOCKET_FILE  "switch.sock"
#define PROCESS_FILE "switch.json"

struct switches {
	struct daemon *daemon;
	/* The process of the Default Switch. */
	struct process process;
	struct loop_fd *process_watch;
	struct peer *peer; /* NULL: not running */
	unsigned port_count;
	uint64_t started_ns;
	struct loop_timer *revive; /* for VMs whose ports went with the process */
	struct error failure;      /* of its configuration */
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

static char *runtime_path(const struct switches *switches, const char *file)
{
	char *path = NULL;

	if (asprintf(&path, "%s/%s", switches->daemon->paths.runtime, file) < 0)
		abort();
	return path;
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

static void forget_files(struct switches *switches)
{
	AUTO_FREE char *socket_file = runtime_path(switches, SOCKET_FILE);
	AUTO_FREE char *process_file = runtime_path(switches, PROCESS_FILE);

	unlink(socket_file);
	unlink(process_file);
}

static void process_ended(void *user, uint32_t events)
{
	struct switches *switches = user;
	char how[128];

	spawn_reap(&switches->process, how, sizeof(how));
	log_warn("the switch '%s' %s", SWITCHES_DEFAULT, how);
	forget_process(switches);
	forget_files(switches);
	if (run_ports_lost(switches->daemon))
		loop_timer_arm(switches->revive,
			       clock_now_ns() +
				   (clock_now_ns() - switches->started_ns < REVIVE_LATER_NS
					? REVIVE_LATER_NS
					: REVIVE_NS));
}

static void revive(void *user)
{
	struct switches *switches = user;

	/* Those that are just starting can't be given a port yet. */
	if (run_restore_ports(switches->daemon))
		loop_timer_arm(switches->revive, clock_now_ns() + REVIVE_NS);
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
	AUTO_FREE char *log_file = runtime_path(switches, "switch.log");
	int r;

	if (switches->process_watch)
		return error_set(err, ERR_BUSY, "the switch '%s' is ending", SWITCHES_DEFAULT);
	r = spawn(daemon->switch_program, job_fd, -1, log_file, &switches->process, err);
	if (r < 0)
		return r;
	r = loop_fd_add(daemon->loop, switches->process.pidfd, EPOLLIN, process_ended, switches,
			&switches->process_watch, err);
	if (r < 0)
		spawn_kill(&switches->process);
	return r;
}

/* For a daemon that comes after us. */
static int write_process_file(struct switches *switches, struct error *err)
{
	const char *folder = switches->daemon->paths.runtime;
	AUTO_CLOSE int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	json_t *json = json_pack("{s:i, s:I}", "pid", (int)switches->process.pid, "start_ticks",
				 (json_int_t)switches->process.start_ticks);
	int r = fd < 0 ? error_set_errno(err, errno, "opening '%.200s'", folder)
		       : config_save_json(fd, PROCESS_FILE, json, err);

	json_decref(json);
	return r;
}

static int configure(struct switches *switches, struct error *err)
{
	AUTO_FREE char *path = runtime_path(switches, SOCKET_FILE);
	AUTO_CLOSE int fd = sockets_listen(path, SOCK_SEQPACKET, err);
	int r = fd < 0 ? fd : write_process_file(switches, err);

	if (r == 0)
		peer_request(switches->peer, configuration(switches->daemon), &fd, 1, TIMEOUT_NS,
			     configured, switches);
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
	switches->started_ns = clock_now_ns();
	r = peer_new(switches->daemon->loop, pair[0], &events_of_switch, switches, &switches->peer,
		     err);
	if (r == 0)
		r = configure(switches, err);
	if (r < 0)
		spawn_kill(&switches->process);
	return r;
}

/* ---- the process of an earlier daemon ---- */

static void counted(void *user, const json_t *reply, const struct error *err)
{
	struct switches *switches = user;

	if (!err)
		switches->port_count = (unsigned)json_array_size(json_object_get(reply, "ports"));
}

static int find_process(struct switches *switches, struct error *err)
{
	AUTO_CLOSE int fd =
	    open(switches->daemon->paths.runtime, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	json_t *json;
	int r;

	if (fd < 0)
		return error_set_errno(err, errno, "opening the runtime folder");
	r = config_load_json(fd, PROCESS_FILE, &json, err);
	if (r < 0)
		return r;
	r = spawn_find((pid_t)json_integer_value(json_object_get(json, "pid")),
		       (unsigned long long)json_integer_value(json_object_get(json, "start_ticks")),
		       &switches->process, err);
	json_decref(json);
	return r;
}

static int connect_control(struct switches *switches, struct error *err)
{
	AUTO_FREE char *path = runtime_path(switches, SOCKET_FILE);
	int fd = sockets_connect(path, SOCK_SEQPACKET, err);

	if (fd < 0)
		return fd;
	return peer_new(switches->daemon->loop, fd, &events_of_switch, switches, &switches->peer,
			err);
}

/* The switch that VMs of an earlier daemon are connected to, if it lives. */
static int adopt(struct switches *switches, struct error *err)
{
	int r;

	if (find_process(switches, err) < 0) {
		forget_files(switches);
		return 0;
	}
	r = loop_fd_add(switches->daemon->loop, switches->process.pidfd, EPOLLIN, process_ended,
			switches, &switches->process_watch, err);
	if (r < 0)
		return r;
	if (connect_control(switches, err) < 0) {
		log_error("the switch '%s' can't be reached (%s) and is killed", SWITCHES_DEFAULT,
			  err->text);
		spawn_kill(&switches->process);
		return 0;
	}
	peer_request(switches->peer, json_pack("{s:s}", "op", "status"), NULL, 0, TIMEOUT_NS,
		     counted, switches);
	return 0;
}

bool switches_running(const struct switches *switches)
{
	return switches->peer != NULL;
}

void switches_restore_ports(struct switches *switches)
{
	loop_timer_arm(switches->revive, clock_now_ns());
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
		     json_pack("{s:s, s:s, s:s, s:b}", "op", "add-port", "port",
			       guid_format(&nic->id, port), "mac", config_mac_format(nic->mac, mac),
			       "mac_spoofing", nic->mac_spoofing),
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
	int r;

	if (!switches)
		return error_set(err, ERR_NO_MEMORY, "no memory for the switches");
	switches->daemon = daemon;
	r = loop_timer_new(daemon->loop, revive, switches, &switches->revive, err);
	if (r == 0)
		r = adopt(switches, err);
	if (r < 0) {
		switches_free(switches);
		return r;
	}
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
	loop_timer_free(switches->revive);
	free(switches);
}
