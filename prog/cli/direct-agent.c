/* The agent's client: sign-in, then input and output of one command. What comes from the guest is
 * not trusted: it is output, or it ends the session. */
#include "direct.h"

#include "base/macros.h"
#include "direct/direct.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>

struct session {
	int fd;
	struct direct_reader reader;
	const struct direct_command *command;
	int in; /* -1: has ended, and the guest knows */
	uint8_t out[DIRECT_FRAME_MAX + sizeof(struct direct_header)]; /* a frame on its way */
	size_t out_at, out_end;
	int status; /* -1: still running */
};

/* Of signals, told by their handlers. */
static volatile sig_atomic_t resized, interrupted, terminated;

/* ---- sign-in ---- */

static int next_frame(struct session *session, struct direct_frame *ret, struct error *err)
{
	int r;

	while ((r = direct_next(&session->reader, ret)) == 0)
		if (direct_receive(&session->reader, session->fd) <= 0)
			return error_set(err, ERR_CANCELLED, "the guest has closed the connection");
	if (r < 0)
		return error_set(err, ERR_CORRUPT, "the guest's agent sends rubbish");
	return 0;
}

static int refused(const struct direct_frame *frame, struct error *err)
{
	char text[200] = "";

	memcpy(text, frame->data, MIN(frame->len, sizeof(text) - 1));
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ' || (unsigned char)*p >= 0x7f)
			*p = '?';
	return error_set(err, ERR_DENIED, "the guest refuses: %s", text);
}

static int expect(struct session *session, enum direct_type type, struct direct_frame *frame,
		  struct error *err)
{
	int r = next_frame(session, frame, err);

	if (r < 0)
		return r;
	if (frame->type == DIRECT_REFUSED)
		return refused(frame, err);
	if (frame->type != type)
		return error_set(err, ERR_CORRUPT, "the guest's agent sends what does not belong");
	return 0;
}

/* ssh-keygen signs; it asks for a passphrase itself. The signature's length, or -code. */
static int sign(const char *key_file, const struct direct_frame *challenge, char *ret, size_t size,
		struct error *err)
{
	int in[2], out[2], status;
	size_t len = 0;
	ssize_t n;
	pid_t pid;

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0)
		return error_set_errno(err, errno, "making a pipe");
	pid = fork();
	if (pid == 0) {
		dup2(in[0], STDIN_FILENO);
		dup2(out[1], STDOUT_FILENO);
		execlp("ssh-keygen", "ssh-keygen", "-q", "-Y", "sign", "-n", DIRECT_KEY_NAMESPACE,
		       "-f", key_file, (char *)NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	/* A challenge fits into a pipe. */
	n = write(in[1], challenge->data, MIN(challenge->len, 4096u));
	close(in[1]);
	while (n > 0 && len < size && (n = read(out[0], ret + len, size - len)) > 0)
		len += (size_t)n;
	close(out[0]);
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0 || !len)
		return error_set(err, ERR_DENIED, "ssh-keygen could not sign with the key '%.200s'",
				 key_file);
	return (int)len;
}

static int prove(struct session *session, const struct direct_credential *credential,
		 struct error *err)
{
	char signature[8192];
	struct direct_frame frame;
	int r;

	/* Whether it can still be sent shows in the answer. */
	if (!credential->key_file) {
		direct_send_text(session->fd, DIRECT_PASSWORD, credential->password);
		return 0;
	}
	direct_send(session->fd, DIRECT_KEY, NULL, 0);
	r = expect(session, DIRECT_CHALLENGE, &frame, err);
	if (r == 0)
		r = sign(credential->key_file, &frame, signature, sizeof(signature), err);
	if (r < 0)
		return r;
	direct_send(session->fd, DIRECT_SIGNATURE, signature, (size_t)r);
	return 0;
}

static int sign_in(struct session *session, const struct direct_credential *credential,
		   struct error *err)
{
	struct direct_frame frame;
	int r = expect(session, DIRECT_HELLO, &frame, err);

	if (r < 0)
		return r;
	direct_send_text(session->fd, DIRECT_USER, credential->user);
	r = prove(session, credential, err);
	return r < 0 ? r : expect(session, DIRECT_WELCOME, &frame, err);
}

/* ---- the terminal ---- */

static void on_signal(int number)
{
	if (number == SIGWINCH)
		resized = 1;
	else if (number == SIGINT)
		interrupted = 1;
	else
		terminated = 1;
}

static void catch_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };

	sigaction(SIGWINCH, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static struct direct_window window_size(void)
{
	struct winsize size = { .ws_row = 24, .ws_col = 80 };

	ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
	return (struct direct_window){ size.ws_row, size.ws_col };
}

static bool enter_raw_mode(struct termios *saved)
{
	struct termios raw;

	if (tcgetattr(STDIN_FILENO, saved) < 0)
		return false;
	raw = *saved;
	cfmakeraw(&raw);
	return tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0;
}

/* ---- the command ---- */

static int begin(struct session *session, struct error *err)
{
	const struct direct_command *command = session->command;
	uint8_t bytes[DIRECT_FRAME_MAX];
	struct direct_run run = { .terminal = command->terminal, .window = window_size() };
	const char *term = getenv("TERM");
	size_t len = strlen(command->text);

	if (len > sizeof(bytes) - sizeof(run))
		return error_set(err, ERR_LIMIT, "the command is longer than %zu bytes",
				 sizeof(bytes) - sizeof(run));
	if (command->terminal && term)
		snprintf(run.term, sizeof(run.term), "%s", term);
	memcpy(bytes, &run, sizeof(run));
	memcpy(bytes + sizeof(run), command->text, len);
	return direct_send(session->fd, DIRECT_RUN, bytes, sizeof(run) + len)
		   ? 0
		   : error_set(err, ERR_CANCELLED, "the guest has closed the connection");
}

static void queue_frame(struct session *session, enum direct_type type, size_t len)
{
	struct direct_header header = { .type = (uint8_t)type, .len = (uint32_t)len };

	memcpy(session->out, &header, sizeof(header));
	session->out_at = 0;
	session->out_end = sizeof(header) + len;
}

static void read_input(struct session *session)
{
	ssize_t n =
	    read(session->in, session->out + sizeof(struct direct_header), DIRECT_FRAME_MAX);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	queue_frame(session, DIRECT_INPUT, n > 0 ? (size_t)n : 0);
	if (n <= 0)
		session->in = -1;
}

/* Small frames; they go in between. */
static void pass_signals(struct session *session)
{
	struct direct_window window;
	uint8_t number = SIGINT;

	if (session->out_at < session->out_end)
		return;
	if (resized) {
		resized = 0;
		window = window_size();
		if (session->command->terminal)
			direct_send(session->fd, DIRECT_WINDOW, &window, sizeof(window));
	}
	if (interrupted) {
		interrupted = 0;
		direct_send(session->fd, DIRECT_SIGNAL, &number, 1);
	}
}

static bool write_all(int fd, const uint8_t *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno == EAGAIN) {
			struct pollfd room = { fd, POLLOUT, 0 };

			poll(&room, 1, -1);
			continue;
		}
		if (n < 0 && errno == EINTR && !terminated)
			continue;
		if (n < 0)
			return false;
		data += n;
		len -= (size_t)n;
	}
	return true;
}

static int take_frame(struct session *session, const struct direct_frame *frame, struct error *err)
{
	uint32_t status;
	int out = frame->type == DIRECT_ERRORS ? session->command->err : session->command->out;

	switch (frame->type) {
	case DIRECT_OUTPUT:
	case DIRECT_ERRORS:
		if (!write_all(out, frame->data, frame->len))
			return error_set(err, ERR_CANCELLED, "nobody takes the output");
		return 0;
	case DIRECT_REFUSED:
		return refused(frame, err);
	case DIRECT_EXIT:
		if (frame->len != sizeof(status))
			break;
		memcpy(&status, frame->data, sizeof(status));
		session->status = (int)(status & 0xff);
		return 0;
	default:
		break;
	}
	return error_set(err, ERR_CORRUPT, "the guest's agent sends what does not belong");
}

static int take_frames(struct session *session, struct error *err)
{
	struct direct_frame frame;
	int r = direct_receive(&session->reader, session->fd);

	if (r < 0 && errno == EAGAIN)
		return 0;
	if (r <= 0)
		return error_set(err, ERR_CANCELLED,
				 "the guest has closed the connection before the command ended");
	while (session->status < 0 && (r = direct_next(&session->reader, &frame)) > 0)
		if (take_frame(session, &frame, err) < 0)
			return -(int)err->code;
	return r < 0 ? error_set(err, ERR_CORRUPT, "the guest's agent sends rubbish") : 0;
}

static int step(struct session *session, struct error *err)
{
	bool sending = session->out_at < session->out_end;
	struct pollfd fds[] = {
		{ session->fd, (short)(POLLIN | (sending ? POLLOUT : 0)), 0 },
		{ sending ? -1 : session->in, POLLIN, 0 },
	};

	if (poll(fds, 2, -1) < 0 && errno != EINTR)
		return error_set_errno(err, errno, "waiting for the guest");
	if (terminated)
		return error_set(err, ERR_CANCELLED, "ended by a signal");
	pass_signals(session);
	if (fds[1].revents)
		read_input(session);
	if (session->out_at < session->out_end) {
		ssize_t n = send(session->fd, session->out + session->out_at,
				 session->out_end - session->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);

		session->out_at += n > 0 ? (size_t)n : 0;
	}
	return fds[0].revents & ~POLLOUT ? take_frames(session, err) : 0;
}

static int run(struct session *session, struct error *err)
{
	struct termios saved;
	bool raw = session->command->terminal && enter_raw_mode(&saved);
	int r = begin(session, err);

	if (r == 0 && session->in < 0) {
		queue_frame(session, DIRECT_INPUT, 0);
		if (session->command->terminal)
			session->out_end = 0;
	}
	fcntl(session->fd, F_SETFL, O_NONBLOCK);
	while (r == 0 && session->status < 0)
		r = step(session, err);
	if (raw)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &saved);
	return r < 0 ? r : session->status;
}

int direct_run_by_agent(int fd, const struct direct_credential *credential,
			const struct direct_command *command, struct error *err)
{
	struct session *session = calloc(1, sizeof(*session));
	int r;

	if (!session)
		abort();
	session->fd = fd;
	session->command = command;
	session->in = command->in;
	session->status = -1;
	fcntl(fd, F_SETFL, 0);
	catch_signals();
	r = sign_in(session, credential, err);
	if (r == 0)
		r = run(session, err);
	close(fd);
	free(session);
	return r;
}
