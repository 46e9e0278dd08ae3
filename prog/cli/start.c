#include "start.h"

#include "base/macros.h"
#include "config/paths.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

extern char **environ;

#define READY_FD    3
#define START_TRIES 5

/* In /tmp anybody could have put a socket there: only our own user's service or root's is one. */
static bool is_ours(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
	       (peer.uid == geteuid() || peer.uid == 0);
}

static int try_connect(const char *path)
{
	const char *slash = strrchr(path, '/');
	AUTO_FREE char *folder = strndup(path, (size_t)(slash - path));
	AUTO_CLOSE int folder_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (fd < 0 || folder_fd < 0)
		return -1;
	/* By way of the folder's descriptor: the path itself may be too long for an address. */
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%.60s", folder_fd,
		 slash + 1);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || !is_ours(fd))
		return -1;
	return TAKE_FD(fd);
}

/* oyakod stands beside this program, or where `make install` puts it. */
static char *find_daemon(void)
{
	static const char *const places[] = { "oyakod", "../libexec/oyako/oyakod",
					      "../lib/oyako/oyakod" };
	const char *given = getenv("OYAKO_DAEMON");
	char self[4096];
	ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash, *path;

	if (given && given[0] == '/')
		return strdup(given);
	self[len > 0 ? len : 0] = '\0';
	slash = strrchr(self, '/');
	for (size_t i = 0; slash && i < ARRAY_SIZE(places); i++) {
		if (asprintf(&path, "%.*s/%s", (int)(slash - self), self, places[i]) < 0)
			return NULL;
		if (access(path, X_OK) == 0)
			return path;
		free(path);
	}
	return NULL;
}

static int spawn_daemon(const char *program, const char *log_file, int ready_fd)
{
	char *arguments[] = { (char *)"oyakod", (char *)"--on-demand", (char *)"--ready-fd",
			      (char *)"3", NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, all;
	pid_t pid;
	int r;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &all);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK |
						  POSIX_SPAWN_SETSIGDEF);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&actions, 0, 1);
	posix_spawn_file_actions_addopen(&actions, 2, log_file, O_WRONLY | O_CREAT | O_APPEND,
					 0600);
	posix_spawn_file_actions_adddup2(&actions, ready_fd, READY_FD);
	posix_spawn_file_actions_addclosefrom_np(&actions, READY_FD + 1);
	r = posix_spawn(&pid, program, &actions, &attributes, arguments, environ);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	return r;
}

/* Waits for what the new daemon has to say: it listens, or why it does not. */
static int wait_ready(int fd, struct error *err)
{
	char text[512];
	size_t len = 0;
	ssize_t n;

	while (len < sizeof(text) - 1 && (n = read(fd, text + len, sizeof(text) - 1 - len)) != 0) {
		if (n < 0 && errno != EINTR)
			break;
		len += n > 0 ? (size_t)n : 0;
	}
	text[len] = '\0';
	if (strcmp(text, "ready\n") == 0)
		return 0;
	return error_set(err, ERR_INTERNAL, "the management service did not start: %s",
			 len ? text : "it ended without a word");
}

static int start_daemon(const char *runtime, struct error *err)
{
	AUTO_FREE char *program = find_daemon(), *log_file = NULL;
	AUTO_CLOSE int read_end = -1;
	int ends[2], r, high;

	if (!program)
		return error_set(err, ERR_NOT_FOUND, "oyakod is not beside this program");
	if (asprintf(&log_file, "%s/oyakod.log", runtime) < 0)
		abort();
	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_set_errno(err, errno, "making a pipe");
	read_end = ends[0];
	/* Away from the numbers that the new process gets. */
	high = fcntl(ends[1], F_DUPFD_CLOEXEC, 10);
	close(ends[1]);
	r = spawn_daemon(program, log_file, high);
	close(high);
	if (r > 0)
		return error_set_errno(err, r, "starting '%.200s'", program);
	return wait_ready(read_end, err);
}

int start_connect(const char *socket_path, bool start, struct error *err)
{
	const char *slash = strrchr(socket_path, '/');
	AUTO_FREE char *runtime = strndup(socket_path, (size_t)(slash - socket_path));
	AUTO_FREE char *lock_file = NULL;
	AUTO_CLOSE int lock = -1;
	int fd = try_connect(socket_path), r;

	if (fd >= 0)
		return fd;
	if (!start)
		return error_set(err, ERR_NOT_FOUND, "no management service is running");
	if (config_make_private_folder(runtime, err) < 0)
		return error_prefix(err, "starting the management service");
	/* One of several command lines starts it; the others wait here and then find it. */
	if (asprintf(&lock_file, "%s/start.lock", runtime) < 0)
		abort();
	lock = open(lock_file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (lock < 0 || flock(lock, LOCK_EX) < 0)
		return error_set_errno(err, errno, "locking '%.200s'", lock_file);
	/* The one that is found or started may be ending, idle, in this moment. */
	for (unsigned tries = 0; tries < START_TRIES; tries++) {
		fd = try_connect(socket_path);
		if (fd >= 0)
			return fd;
		r = start_daemon(runtime, err);
		if (r < 0)
			return r;
	}
	fd = try_connect(socket_path);
	return fd >= 0 ? fd : error_set(err, ERR_IO, "the management service does not answer");
}
