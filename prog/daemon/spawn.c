#include "spawn.h"

#include "base/macros.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

extern char **environ;

#define MAX_VARIABLES 32
/* Descriptors are first moved above those that the new process gets. */
#define ABOVE 10

/* What debugging needs, and whose it is; the rest of our environment is nobody's business. */
static void clean_environment(char *ret[MAX_VARIABLES])
{
	static const char *const prefixes[] = { "OYAKO_", "XDG_RUNTIME_DIR=", "ASAN_",   "UBSAN_",
						"LSAN_",  "LLVM_PROFILE_",    "TMPDIR=", "PATH=" };
	size_t count = 0;

	for (char **variable = environ; *variable; variable++)
		for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
			if (strncmp(*variable, prefixes[i], strlen(prefixes[i])) == 0 &&
			    count + 1 < MAX_VARIABLES)
				ret[count++] = *variable;
	ret[count] = NULL;
}

static int read_start_ticks(pid_t pid, unsigned long long *ret)
{
	char path[64], text[1024];
	const char *field;
	AUTO_CLOSE int fd = -1;
	ssize_t len;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (len <= 0)
		return -1;
	text[len] = '\0';
	/* The name, field 2, may hold anything; field 22 is the 20th after its last ')'. */
	field = strrchr(text, ')');
	for (int i = 0; field && i < 20; i++)
		field = strchr(field + 1, ' ');
	return field && sscanf(field, "%llu", ret) == 1 ? 0 : -1;
}

static int open_pidfd(pid_t pid)
{
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

static int set_up(posix_spawn_file_actions_t *actions, posix_spawnattr_t *attributes, int job_fd,
		  int lock_fd, int log_fd)
{
	sigset_t none, all;
	int r;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_setsigmask(attributes, &none);
	posix_spawnattr_setsigdefault(attributes, &all);
	posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK |
						 POSIX_SPAWN_SETSIGDEF);
	r = posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDWR, 0);
	if (r == 0)
		r = posix_spawn_file_actions_adddup2(actions, 0, 1);
	if (r == 0)
		r = posix_spawn_file_actions_adddup2(actions, log_fd, 2);
	if (r == 0)
		r = posix_spawn_file_actions_adddup2(actions, job_fd, 3);
	if (r == 0 && lock_fd >= 0)
		r = posix_spawn_file_actions_adddup2(actions, lock_fd, 4);
	if (r == 0)
		r = posix_spawn_file_actions_addclosefrom_np(actions, lock_fd >= 0 ? 5 : 4);
	return r;
}

static int run(const char *program, int job_fd, int lock_fd, int log_fd, pid_t *ret)
{
	const char *slash = strrchr(program, '/');
	char *arguments[] = { (char *)(slash ? slash + 1 : program), NULL };
	posix_spawn_file_actions_t actions;
	char *environment[MAX_VARIABLES];
	posix_spawnattr_t attributes;
	int r;

	clean_environment(environment);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attributes);
	r = set_up(&actions, &attributes, job_fd, lock_fd, log_fd);
	if (r == 0)
		r = posix_spawn(ret, program, &actions, &attributes, arguments, environment);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	return r;
}

int spawn(const char *program, int job_fd, int lock_fd, const char *log_file, struct process *ret,
	  struct error *err)
{
	AUTO_CLOSE int log_fd = open(log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	AUTO_CLOSE int high_log = log_fd < 0 ? -1 : fcntl(log_fd, F_DUPFD_CLOEXEC, ABOVE);
	AUTO_CLOSE int high_job = fcntl(job_fd, F_DUPFD_CLOEXEC, ABOVE);
	AUTO_CLOSE int high_lock = lock_fd < 0 ? -1 : fcntl(lock_fd, F_DUPFD_CLOEXEC, ABOVE);
	struct process process = { .child = true };
	int r;

	if (high_log < 0 || high_job < 0 || (lock_fd >= 0 && high_lock < 0))
		return error_set_errno(err, errno, "preparing to start '%.200s'", program);
	r = run(program, high_job, high_lock, high_log, &process.pid);
	if (r > 0)
		return error_set_errno(err, r, "starting '%.200s'", program);
	process.pidfd = open_pidfd(process.pid);
	/* It is our child and not reaped: it can't have gone from /proc. */
	if (process.pidfd < 0 || read_start_ticks(process.pid, &process.start_ticks) < 0) {
		r = errno;
		kill(process.pid, SIGKILL);
		waitpid(process.pid, NULL, 0);
		if (process.pidfd >= 0)
			close(process.pidfd);
		return error_set_errno(err, r, "watching '%.200s'", program);
	}
	*ret = process;
	return 0;
}

/* A process that has ended, but that nobody has reaped. */
static bool has_ended(int pidfd)
{
	struct pollfd ended = { pidfd, POLLIN, 0 };

	return poll(&ended, 1, 0) != 0;
}

int spawn_find(pid_t pid, unsigned long long start_ticks, struct process *ret, struct error *err)
{
	struct process process = { .pid = pid, .start_ticks = start_ticks };
	unsigned long long ticks;

	process.pidfd = pid > 0 ? open_pidfd(pid) : -1;
	/* In this order: once the pidfd is open, the number can't go to another process unnoticed.
	 */
	if (process.pidfd >= 0 && read_start_ticks(pid, &ticks) == 0 && ticks == start_ticks &&
	    !has_ended(process.pidfd)) {
		*ret = process;
		return 0;
	}
	if (process.pidfd >= 0)
		close(process.pidfd);
	return error_set(err, ERR_NOT_FOUND, "process %d has ended", (int)pid);
}

void spawn_reap(struct process *process, char *ret_how, size_t size)
{
	siginfo_t info = { 0 };

	snprintf(ret_how, size, "has ended");
	if (process->child &&
	    waitid((idtype_t)P_PIDFD, (id_t)process->pidfd, &info, WEXITED) == 0) {
		if (info.si_code == CLD_EXITED)
			snprintf(ret_how, size, "ended with status %d", info.si_status);
		else
			snprintf(ret_how, size, "was killed by signal %d (%s)", info.si_status,
				 strsignal(info.si_status));
	}
	close(process->pidfd);
	process->pidfd = -1;
}

void spawn_end(const struct process *process)
{
	if (process->pidfd >= 0)
		syscall(SYS_pidfd_send_signal, process->pidfd, SIGTERM, NULL, 0);
}

void spawn_kill(const struct process *process)
{
	if (process->pidfd >= 0)
		syscall(SYS_pidfd_send_signal, process->pidfd, SIGKILL, NULL, 0);
}
