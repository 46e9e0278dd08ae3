#include "tool.h"

#include "spawn.h"

#include "base/macros.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

extern char **environ;

#define MAX_TEXT (64 * KIB)

/* One of its streams. What is more than MAX_TEXT is read and dropped. */
struct stream {
	struct tool *tool;
	int fd; /* -1: it has ended */
	struct loop_fd *watch;
	char *text;
	size_t len;
};

struct tool {
	struct daemon *daemon;
	const struct tool_events *events;
	void *user;
	char *name;
	struct process process;
	struct loop_fd *watch; /* NULL: the process has ended */
	char how[128];
	struct stream out, err;
};

static void stream_done(struct stream *stream)
{
	loop_fd_remove(stream->watch);
	stream->watch = NULL;
	if (stream->fd >= 0)
		close(stream->fd);
	stream->fd = -1;
}

static void tool_free(struct tool *tool)
{
	stream_done(&tool->out);
	stream_done(&tool->err);
	loop_fd_remove(tool->watch);
	free(tool->out.text);
	free(tool->err.text);
	free(tool->name);
	free(tool);
}

static void last_line(char *text)
{
	size_t len = strlen(text);
	char *line;

	while (len && text[len - 1] == '\n')
		text[--len] = '\0';
	line = strrchr(text, '\n');
	if (line)
		memmove(text, line + 1, strlen(line));
}

/* Over when the process and both its streams have ended. */
static void check_end(struct tool *tool)
{
	size_t name_len = strlen(tool->name);
	struct error err, *failure = NULL;
	const char *said;

	if (tool->watch || tool->out.fd >= 0 || tool->err.fd >= 0)
		return;
	if (strcmp(tool->how, "ended with status 0") != 0) {
		last_line(tool->err.text);
		said = tool->err.text;
		if (strncmp(said, tool->name, name_len) == 0 && said[name_len] == ':')
			said += name_len + 1 + strspn(said + name_len + 1, " ");
		error_set(&err, ERR_IO, "%s: %.400s", tool->name, said[0] ? said : tool->how);
		failure = &err;
	}
	tool->events->done(tool->user, tool->out.text, failure);
	tool_free(tool);
}

static void stream_ready(void *user, uint32_t events)
{
	struct stream *stream = user;
	struct tool *tool = stream->tool;
	char piece[4096];
	ssize_t n = read(stream->fd, piece, sizeof(piece));
	size_t room = MAX_TEXT - stream->len;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		stream_done(stream);
		check_end(tool);
		return;
	}
	memcpy(stream->text + stream->len, piece, MIN((size_t)n, room));
	stream->len += MIN((size_t)n, room);
	stream->text[stream->len] = '\0';
	if (stream == &tool->out && tool->events->output) {
		tool->events->output(tool->user, stream->text);
		/* A progress bar is never at its end. */
		stream->len = 0;
	}
}

static void process_ended(void *user, uint32_t events)
{
	struct tool *tool = user;

	loop_fd_remove(tool->watch);
	tool->watch = NULL;
	spawn_reap(&tool->process, tool->how, sizeof(tool->how));
	check_end(tool);
}

static int run(const char *const *arguments, int out, int err_fd, pid_t *ret)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, all;
	int r;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &all);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&actions, out, 1);
	posix_spawn_file_actions_adddup2(&actions, err_fd, 2);
	posix_spawn_file_actions_addclosefrom_np(&actions, 3);
	r = posix_spawnp(ret, arguments[0], &actions, &attributes, (char *const *)arguments,
			 environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return r;
}

static int watch_stream(struct tool *tool, struct stream *stream, int fd, struct error *err)
{
	stream->tool = tool;
	stream->fd = fd;
	stream->text = calloc(1, MAX_TEXT + 1);
	if (!stream->text)
		abort();
	return loop_fd_add(tool->daemon->loop, fd, EPOLLIN, stream_ready, stream, &stream->watch,
			   err);
}

static int watch_all(struct tool *tool, int out, int err_fd, struct error *err)
{
	int r = watch_stream(tool, &tool->out, out, err);

	if (r == 0)
		r = watch_stream(tool, &tool->err, err_fd, err);
	else
		close(err_fd);
	if (r == 0)
		r = loop_fd_add(tool->daemon->loop, tool->process.pidfd, EPOLLIN, process_ended,
				tool, &tool->watch, err);
	return r;
}

int tool_start(struct daemon *daemon, const char *const *arguments,
	       const struct tool_events *events, void *user, struct tool **ret, struct error *err)
{
	struct tool *tool;
	int out[2], errors[2], r;
	pid_t pid;

	if (pipe2(out, O_CLOEXEC | O_NONBLOCK) < 0)
		return error_set_errno(err, errno, "making a pipe");
	if (pipe2(errors, O_CLOEXEC | O_NONBLOCK) < 0) {
		r = errno;
		close(out[0]);
		close(out[1]);
		return error_set_errno(err, r, "making a pipe");
	}
	/* Its own ends may block. */
	fcntl(out[1], F_SETFL, 0);
	fcntl(errors[1], F_SETFL, 0);
	r = run(arguments, out[1], errors[1], &pid);
	close(out[1]);
	close(errors[1]);
	if (r > 0) {
		close(out[0]);
		close(errors[0]);
		return r == ENOENT ? error_set(err, ERR_UNSUPPORTED,
					       "this needs the program %s, which is not installed",
					       arguments[0])
				   : error_set_errno(err, r, "starting %s", arguments[0]);
	}
	tool = calloc(1, sizeof(*tool));
	if (!tool)
		abort();
	*tool = (struct tool){ .daemon = daemon,
			       .events = events,
			       .user = user,
			       .name = strdup(arguments[0]),
			       .process = { .pid = pid,
					    .pidfd = (int)syscall(SYS_pidfd_open, pid, 0),
					    .child = true },
			       .out = { .fd = -1 },
			       .err = { .fd = -1 } };
	r = watch_all(tool, out[0], errors[0], err);
	if (r < 0) {
		spawn_kill(&tool->process);
		tool_free(tool);
		return r;
	}
	*ret = tool;
	return 0;
}

void tool_kill(struct tool *tool)
{
	spawn_kill(&tool->process);
}
