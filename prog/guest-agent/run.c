/*
 * One command. Its input and output are pipes, or a terminal of its own; frames go to the one and
 * come from the other. What the command does not read stops the client, what the client does not
 * take stops the command.
 */
#include "agent.h"

#include "base/macros.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

struct command {
	struct agent *agent;
	pid_t pid;
	int in, out, err; /* of ours; -1: closed. A terminal is both in and out */
	bool terminal;
	int ended;                      /* signalfd: a child has */
	char pending[DIRECT_FRAME_MAX]; /* input that it has not read */
	size_t pending_at, pending_end;
	bool input_ended, client_gone;
};

/* ---- the child ---- */

static void set_environment(struct agent *agent, const char *term)
{
	char **list = pam_getenvlist(agent->pam);
	const struct passwd *account = agent->account;

	clearenv();
	setenv("PATH", DEFAULT_PATH, 1);
	for (char **p = list; p && *p; p++)
		putenv(*p);
	setenv("HOME", account->pw_dir, 1);
	setenv("USER", account->pw_name, 1);
	setenv("LOGNAME", account->pw_name, 1);
	setenv("SHELL", account->pw_shell, 1);
	if (*term)
		setenv("TERM", term, 1);
}

static void become_user(const struct passwd *account)
{
	if (setgid(account->pw_gid) < 0 || setuid(account->pw_uid) < 0) {
		perror("oyako-guest-agent: changing to the user");
		_exit(126);
	}
	if (chdir(account->pw_dir) < 0 && chdir("/") < 0)
		_exit(126);
}

static void exec_shell(struct agent *agent, const char *command)
{
	const char *shell = agent->account->pw_shell[0] ? agent->account->pw_shell : "/bin/sh";
	const char *base = strrchr(shell, '/');
	char name[64];

	base = base ? base + 1 : shell;
	snprintf(name, sizeof(name), "-%s", base);
	if (*command)
		execl(shell, base, "-c", command, (char *)NULL);
	else
		execl(shell, name, (char *)NULL);
	fprintf(stderr, "oyako-guest-agent: %s: %s\n", shell, strerror(errno));
	_exit(127);
}

static void run_child(struct agent *agent, const char *term, const char *command)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	set_environment(agent, term);
	become_user(agent->account);
	exec_shell(agent, command);
}

/* ---- starting it ---- */

static struct winsize size_of(const struct direct_window *window)
{
	return (struct winsize){ .ws_row = window->rows, .ws_col = window->columns };
}

static bool start_on_terminal(struct command *command, const struct direct_run *run,
			      const char *text)
{
	struct winsize size = size_of(&run->window);
	int master;

	command->pid = forkpty(&master, NULL, NULL, &size);
	if (command->pid == 0)
		run_child(command->agent, run->term, text);
	if (command->pid < 0)
		return false;
	command->in = command->out = master;
	return true;
}

static void use_pipes(int in[2], int out[2], int err[2])
{
	dup2(in[0], STDIN_FILENO);
	dup2(out[1], STDOUT_FILENO);
	dup2(err[1], STDERR_FILENO);
	setsid();
}

static bool start_on_pipes(struct command *command, const struct direct_run *run, const char *text)
{
	int in[2], out[2], err[2];

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
		return false;
	command->pid = fork();
	if (command->pid == 0) {
		use_pipes(in, out, err);
		run_child(command->agent, run->term, text);
	}
	close(in[0]);
	close(out[1]);
	close(err[1]);
	command->in = in[1];
	command->out = out[0];
	command->err = err[0];
	return command->pid > 0;
}

/* ---- what the client sends ---- */

static void close_input(struct command *command)
{
	/* A terminal ends its input by a character, which the client types. */
	if (command->terminal || command->in < 0)
		return;
	close(TAKE_FD(command->in));
}

static void write_pending(struct command *command)
{
	ssize_t n = command->in < 0 ? -1
				    : write(command->in, command->pending + command->pending_at,
					    command->pending_end - command->pending_at);

	if (n < 0 && command->in >= 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		/* It reads no more: what is left is dropped, and what may come. */
		command->pending_at = command->pending_end;
		close_input(command);
		return;
	}
	command->pending_at += (size_t)n;
}

static void on_input(struct command *command, const struct direct_frame *frame)
{
	memcpy(command->pending, frame->data, frame->len);
	command->pending_at = 0;
	command->pending_end = frame->len;
	if (frame->len)
		write_pending(command);
	else
		command->input_ended = true;
}

static void on_window(struct command *command, const struct direct_frame *frame)
{
	struct direct_window window;
	struct winsize size;

	if (!command->terminal || frame->len != sizeof(window))
		return;
	memcpy(&window, frame->data, sizeof(window));
	size = size_of(&window);
	ioctl(command->in, TIOCSWINSZ, &size);
}

static void on_signal(struct command *command, const struct direct_frame *frame)
{
	static const int allowed[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGKILL };

	for (size_t i = 0; frame->len == 1 && i < ARRAY_SIZE(allowed); i++)
		if (frame->data[0] == allowed[i])
			kill(-command->pid, allowed[i]);
}

static void leave_client(struct command *command)
{
	command->client_gone = true;
	kill(-command->pid, SIGHUP);
	kill(-command->pid, SIGCONT);
}

/* Until there is input that the command has to read first. */
static void take_frames(struct command *command)
{
	struct direct_frame frame;
	int r = 0;

	while (command->pending_at == command->pending_end &&
	       (r = direct_next(&command->agent->reader, &frame)) > 0) {
		if (frame.type == DIRECT_INPUT)
			on_input(command, &frame);
		else if (frame.type == DIRECT_WINDOW)
			on_window(command, &frame);
		else if (frame.type == DIRECT_SIGNAL)
			on_signal(command, &frame);
	}
	if (r < 0)
		leave_client(command);
	if (command->input_ended && command->pending_at == command->pending_end)
		close_input(command);
}

static void on_client(struct command *command)
{
	int r = direct_receive(&command->agent->reader, command->agent->fd);

	/* The end of what it sends: it wants nothing more, or is gone. */
	if (r == 0 || (r < 0 && errno != EAGAIN))
		leave_client(command);
}

/* ---- what the command says ---- */

static void pass_on(struct command *command, int *fd, enum direct_type type)
{
	char data[16384];
	ssize_t n = read(*fd, data, sizeof(data));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		/* A terminal's end stays open for its input. */
		if (*fd != command->in)
			close(*fd);
		*fd = -1;
	} else if (!command->client_gone &&
		   !direct_send(command->agent->fd, type, data, (size_t)n)) {
		leave_client(command);
	}
}

/* ---- until it ends ---- */

static void step(struct command *command)
{
	struct signalfd_siginfo child;
	bool pending = command->pending_at < command->pending_end;
	bool listens = !command->client_gone && !pending;
	struct pollfd fds[] = {
		{ listens ? command->agent->fd : -1, POLLIN, 0 },
		{ pending ? command->in : -1, POLLOUT, 0 },
		{ command->out, POLLIN, 0 },
		{ command->err, POLLIN, 0 },
		{ command->ended, POLLIN, 0 },
	};

	if (poll(fds, ARRAY_SIZE(fds), -1) < 0)
		return;
	/* It may only have stopped: has_ended() tells. */
	if (fds[4].revents && read(command->ended, &child, sizeof(child)) < 0)
		return;
	if (fds[0].revents)
		on_client(command);
	if (fds[1].revents)
		write_pending(command);
	take_frames(command);
	if (fds[2].revents)
		pass_on(command, &command->out, DIRECT_OUTPUT);
	if (fds[3].revents)
		pass_on(command, &command->err, DIRECT_ERRORS);
}

static bool has_ended(const struct command *command)
{
	siginfo_t info = { 0 };

	return waitid(P_PID, (id_t)command->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
	       info.si_pid == command->pid;
}

/* What it left in its pipes; a program that it left behind may hold them open for ever. */
static void drain(struct command *command)
{
	for (;;) {
		struct pollfd fds[] = { { command->out, POLLIN, 0 }, { command->err, POLLIN, 0 } };

		if (poll(fds, 2, 0) <= 0)
			return;
		if (fds[0].revents)
			pass_on(command, &command->out, DIRECT_OUTPUT);
		if (fds[1].revents)
			pass_on(command, &command->err, DIRECT_ERRORS);
	}
}

static uint32_t exit_code(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) < 0)
		return 255;
	return WIFSIGNALED(status) ? 128u + (uint32_t)WTERMSIG(status)
				   : (uint32_t)WEXITSTATUS(status);
}

static bool start(struct command *command, const struct direct_run *run, const char *text)
{
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	command->ended = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	command->terminal = run->terminal == 1;
	if (command->ended < 0)
		return false;
	if (!(command->terminal ? start_on_terminal(command, run, text)
				: start_on_pipes(command, run, text)))
		return false;
	fcntl(command->in, F_SETFL, O_NONBLOCK);
	return true;
}

void run_command(struct agent *agent, const struct direct_frame *frame)
{
	static struct command command = { .in = -1, .out = -1, .err = -1 };
	struct direct_run run;
	AUTO_FREE char *text = NULL;
	uint32_t code;

	if (frame->len < sizeof(run))
		return;
	memcpy(&run, frame->data, sizeof(run));
	run.term[sizeof(run.term) - 1] = '\0';
	text = strndup((const char *)frame->data + sizeof(run), frame->len - sizeof(run));
	command.agent = agent;
	if (!text || !start(&command, &run, text)) {
		agent_refuse(agent, "the command could not be started");
		return;
	}
	take_frames(&command); /* what came with the request */
	while (!has_ended(&command))
		step(&command);
	drain(&command);
	code = exit_code(command.pid);
	if (!command.client_gone)
		direct_send(agent->fd, DIRECT_EXIT, &code, sizeof(code));
}
