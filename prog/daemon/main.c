/*
 * oyakod: the management service. It keeps the descriptions of VMs, starts their workers, and
 * answers the API; it owns no guest, and may end and start again while they run.
 */
#include "automatic.h"
#include "balancer.h"
#include "cgroup.h"
#include "checkpoint-fold.h"
#include "daemon.h"
#include "disk-job.h"
#include "files.h"
#include "host.h"
#include "mounts.h"
#include "remote.h"
#include "request.h"
#include "run.h"
#include "server.h"
#include "sockets.h"
#include "switches.h"
#include "undo.h"
#include "vm.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "config/config-json.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define SAMPLE_NS        (5 * NS_PER_SEC)
#define IDLE_SECONDS     300
#define LOCK_TRIES       60
#define LOCK_PAUSE_USEC  50000
#define LAST_STEPS       50 /* of 20 ms: for who is being answered when a signal ends us */
#define ADOPT_SECONDS    5  /* for workers that don't answer */
#define LISTEN_FDS_START 3  /* of systemd's socket activation */

struct options {
	bool system, on_demand;
	int ready_fd; /* told "ready" or why not; -1: nobody */
};

struct service {
	struct daemon daemon;
	struct options options;
	int signal_fd;
	struct loop_fd *signal_watch;
	struct loop_timer *timer;
	uint64_t idle_since_ns, idle_limit_ns;
	bool signalled;
	struct sockets_file own_socket; /* none: systemd listens for us */
};

static const char usage[] =
    "Usage: oyakod [OPTION ...]\n"
    "The management service of Oyako; `oyako` starts it by itself when it is needed.\n\n"
    "  --system       for the whole machine: /var/lib/oyako, /run/oyako\n"
    "  --on-demand    ends when there has been nothing to do for five minutes\n"
    "  --ready-fd N   writes \"ready\" to that descriptor, or why it could not start\n"
    "  --worker FILE, --switch FILE, --disk FILE\n"
    "                 other programs than those beside this one\n"
    "  --version, --help\n";

/* ---- options ---- */

/* The program of that name beside our own, unless the environment names another. */
static char *find_program(const char *name, const char *variable)
{
	const char *given = getenv(variable);
	char self[4096], *path = NULL;
	ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (given && given[0] == '/')
		return strdup(given);
	self[len > 0 ? len : 0] = '\0';
	slash = strrchr(self, '/');
	if (asprintf(&path, "%.*s/%s", slash ? (int)(slash - self) : 0, self, name) < 0)
		abort();
	return path;
}

static void set_program(char **program, const char *path)
{
	free(*program);
	*program = strdup(path);
}

static int parse_options(int argc, char **argv, struct service *service)
{
	static const struct option options[] = {
		{ "system", no_argument, NULL, 's' },
		{ "on-demand", no_argument, NULL, 'o' },
		{ "ready-fd", required_argument, NULL, 'r' },
		{ "worker", required_argument, NULL, 'w' },
		{ "switch", required_argument, NULL, 'x' },
		{ "disk", required_argument, NULL, 'd' },
		{ "version", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int option;

	service->options.ready_fd = -1;
	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (option) {
		case 's':
			service->options.system = true;
			break;
		case 'o':
			service->options.on_demand = true;
			break;
		case 'r':
			service->options.ready_fd = atoi(optarg);
			fcntl(service->options.ready_fd, F_SETFD, FD_CLOEXEC);
			break;
		case 'w':
			set_program(&service->daemon.worker_program, optarg);
			break;
		case 'x':
			set_program(&service->daemon.switch_program, optarg);
			break;
		case 'd':
			set_program(&service->daemon.disk_program, optarg);
			break;
		case 'v':
			printf("oyakod %s\n", OYAKO_VERSION);
			exit(0);
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			return -1;
		}
	}
	return optind < argc ? -1 : 0;
}

static void tell_ready(struct service *service, const char *text)
{
	int fd = service->options.ready_fd;

	if (fd < 0)
		return;
	if (write(fd, text, strlen(text)) < 0)
		log_debug("nobody waits for us to be ready");
	close(fd);
	service->options.ready_fd = -1;
}

/* ---- what runs beside the API ---- */

static bool is_idle(struct service *service)
{
	for (size_t i = 0; i < service->daemon.vm_count; i++)
		if (service->daemon.vms[i]->run)
			return false;
	return server_connections(service->daemon.server) == 0 &&
	       !server_is_open(service->daemon.server) &&
	       !requests_unseen(service->daemon.requests) &&
	       !requests_busy(service->daemon.requests) && !service->daemon.automatic;
}

static void check_idle(struct service *service)
{
	uint64_t now = clock_now_ns();

	if (!service->options.on_demand || !is_idle(service) ||
	    balancer_busy(service->daemon.balancer)) {
		service->idle_since_ns = now;
		return;
	}
	if (now - service->idle_since_ns > service->idle_limit_ns)
		loop_stop(service->daemon.loop);
}

static void tick(void *user)
{
	struct service *service = user;

	for (size_t i = 0; i < service->daemon.vm_count; i++) {
		if (service->daemon.vms[i]->state != VM_RUNNING)
			continue;
		run_refresh(service->daemon.vms[i], NULL, NULL);
		run_trim_log(service->daemon.vms[i]);
	}
	check_idle(service);
	loop_timer_arm(service->timer, clock_now_ns() + MIN(SAMPLE_NS, service->idle_limit_ns));
}

static void on_signal(void *user, uint32_t events)
{
	struct service *service = user;
	struct signalfd_siginfo info;

	if (read(service->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		service->signalled = true;
		loop_stop(service->daemon.loop);
	}
}

static int watch_signals(struct service *service, struct error *err)
{
	sigset_t signals;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	service->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (service->signal_fd < 0)
		return error_set_errno(err, errno, "watching signals");
	return loop_fd_add(service->daemon.loop, service->signal_fd, EPOLLIN, on_signal, service,
			   &service->signal_watch, err);
}

/* ---- start ---- */

static int open_state(struct service *service, struct error *err)
{
	struct daemon *daemon = &service->daemon;
	AUTO_FREE char *lock = NULL;
	int r = config_paths_init(&daemon->paths, service->options.system, err);

	if (r == 0)
		r = config_make_private_folder(daemon->paths.state, err);
	if (r == 0)
		r = config_make_private_folder(daemon->paths.runtime, err);
	if (r < 0)
		return r;
	if (asprintf(&lock, "%s/lock", daemon->paths.state) < 0)
		abort();
	/* Our predecessor may be about to end. */
	for (unsigned tries = 0; tries < LOCK_TRIES; tries++) {
		daemon->lock_fd = files_lock_holder(lock, "oyakod", err);
		if (daemon->lock_fd != -ERR_BUSY)
			break;
		usleep(LOCK_PAUSE_USEC);
	}
	if (daemon->lock_fd < 0)
		return daemon->lock_fd;
	r = disk_jobs_lock(daemon, err);
	if (r == 0)
		r = host_load(daemon, err);
	if (r == 0)
		r = events_open(daemon->paths.state, &daemon->events, err);
	return r;
}

/* The socket that systemd listens on for us, or our own. */
static int open_listener(struct service *service, struct error *err)
{
	const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
	const char *path = service->daemon.paths.socket;
	int fd;

	if (pid && count && atoi(pid) == getpid() && atoi(count) == 1) {
		fcntl(LISTEN_FDS_START, F_SETFD, FD_CLOEXEC);
		fcntl(LISTEN_FDS_START, F_SETFL, fcntl(LISTEN_FDS_START, F_GETFL) | O_NONBLOCK);
		return LISTEN_FDS_START;
	}
	fd = sockets_listen(path, SOCK_STREAM, err);
	if (fd >= 0)
		service->own_socket = sockets_file_at(path);
	return fd;
}

static void log_service(struct service *service, enum event_kind kind, const char *text)
{
	events_write(service->daemon.events, &(struct event){ .kind = kind, .message = text });
}

/* What is asked of a VM must not meet one whose worker has not said yet what it is at. */
static void wait_for_workers(struct service *service)
{
	struct daemon *daemon = &service->daemon;
	uint64_t deadline = clock_now_ns() + ADOPT_SECONDS * NS_PER_SEC;

	while (run_is_adopting(daemon) && clock_now_ns() < deadline && !service->signalled)
		loop_step(daemon->loop, 20);
}

static int start(struct service *service, struct error *err)
{
	struct daemon *daemon = &service->daemon;
	int r = loop_new(&daemon->loop, err), fd;

	daemon->cgroup = cgroup_new();

	if (r == 0)
		r = watch_signals(service, err);
	if (r == 0)
		r = open_state(service, err);
	if (r == 0)
		r = requests_new(daemon, &daemon->requests, err);
	if (r == 0)
		r = remote_load(daemon, err);
	if (r == 0)
		r = switches_new(daemon, &daemon->switches, err);
	if (r == 0)
		r = mounts_new(daemon, &daemon->mounts, err);
	if (r < 0)
		return r;
	log_service(service, EVENT_SERVICE_STARTED, "The management service was started.");
	undo_interrupted(daemon);
	r = vm_load_all(daemon, err);
	if (r < 0)
		return r;
	r = balancer_new(daemon, &daemon->balancer, err);
	if (r < 0)
		return r;
	run_adopt_all(daemon);
	wait_for_workers(service);
	automatic_begin(daemon);
	fd = open_listener(service, err);
	if (fd < 0)
		return fd;
	r = server_new(daemon, fd, &daemon->server, err);
	if (r == 0)
		remote_start(daemon);
	if (r == 0)
		r = loop_timer_new(daemon->loop, tick, service, &service->timer, err);
	return r;
}

static void set_limits(void)
{
	struct rlimit files;

	/* Several descriptors for each VM that runs. */
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	umask(077);
}

static void set_idle_limit(struct service *service)
{
	const char *seconds = getenv("OYAKO_STOP_IDLE_SECONDS");

	service->idle_limit_ns = (uint64_t)(seconds ? atoi(seconds) : IDLE_SECONDS) * NS_PER_SEC;
	service->idle_since_ns = clock_now_ns();
	if (!service->idle_limit_ns)
		service->idle_limit_ns = 50 * NS_PER_MSEC;
}

/* ---- end ---- */

/* Nobody finds our own socket any more; who has connected already is still answered. When we end
 * because we were idle there is no hurry. Who comes to systemd's waits there for the next of us. */
static void answer_the_last(struct service *service)
{
	struct daemon *daemon = &service->daemon;

	/* So that the next command line starts the next daemon at once. */
	if (service->own_socket.inode)
		sockets_unlink(daemon->paths.socket, service->own_socket);
	else
		server_leave_listening(daemon->server);
	server_end_streams(daemon->server);
	loop_step(daemon->loop, 0);
	for (unsigned i = 0; service->signalled ? i < LAST_STEPS : true; i++) {
		if (server_connections(daemon->server) == 0 && !requests_busy(daemon->requests))
			return;
		loop_step(daemon->loop, 20);
	}
}

static void release(struct service *service)
{
	struct daemon *daemon = &service->daemon;
	struct error err;

	server_free(daemon->server);
	remote_free(daemon);
	automatic_end(daemon);
	balancer_free(daemon->balancer);
	error_set(&err, ERR_CANCELLED, "the service ends");
	for (size_t i = 0; i < daemon->vm_count; i++) {
		vm_end_waits(daemon->vms[i], &err);
		fold_detach(daemon->vms[i], &err);
		run_detach(daemon->vms[i]);
	}
	cgroup_free(daemon->cgroup);
	host_free(daemon);
	switches_free(daemon->switches);
	mounts_free(daemon->mounts);
	requests_free(daemon->requests);
	vm_free_all(daemon);
	events_close(daemon->events);
	loop_timer_free(service->timer);
	loop_fd_remove(service->signal_watch);
	if (service->signal_fd >= 0)
		close(service->signal_fd);
	loop_free(daemon->loop);
	config_paths_done(&daemon->paths);
	free(daemon->worker_program);
	free(daemon->switch_program);
	free(daemon->disk_program);
	if (daemon->lock_fd >= 0)
		close(daemon->lock_fd);
	if (daemon->disk_lock_fd >= 0)
		close(daemon->disk_lock_fd);
}

int main(int argc, char **argv)
{
	struct service service = { .signal_fd = -1,
				   .daemon = { .lock_fd = -1, .disk_lock_fd = -1 } };
	struct error err = { 0 };

	service.daemon.worker_program = find_program("oyako-worker", "OYAKO_WORKER");
	service.daemon.switch_program = find_program("oyako-switch", "OYAKO_SWITCH");
	service.daemon.disk_program = find_program("oyako-disk", "OYAKO_DISK");
	if (parse_options(argc, argv, &service) < 0) {
		fputs(usage, stderr);
		return 2;
	}
	set_limits();
	set_idle_limit(&service);
	if (start(&service, &err) < 0) {
		log_error("%s", err.text);
		tell_ready(&service, err.text);
		release(&service);
		return 1;
	}
	tell_ready(&service, "ready\n");
	loop_timer_arm(service.timer, clock_now_ns() + MIN(SAMPLE_NS, service.idle_limit_ns));
	if (!service.signalled)
		loop_run(service.daemon.loop);
	answer_the_last(&service);
	log_service(&service, EVENT_SERVICE_STOPPED, "The management service was stopped.");
	release(&service);
	return 0;
}
