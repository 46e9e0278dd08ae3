#include "console.h"

#include "base/macros.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>

#define ESCAPE 0x1d /* Ctrl-] */

struct console {
	int fd;
	bool terminal, input_ended, left;
	struct termios saved;
	char input[4096]; /* read, not sent yet */
	size_t input_len;
};

static volatile sig_atomic_t signalled;

static void on_signal(int number)
{
	signalled = 1;
}

static void catch_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };

	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static void enter_raw_mode(struct console *console, const char *vm)
{
	struct termios raw;

	console->terminal = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &console->saved) == 0;
	if (!console->terminal)
		return;
	fprintf(stderr,
		"Connected to the console of '%s'. Press Ctrl-] to leave it; the guest runs on.\n",
		vm);
	raw = console->saved;
	cfmakeraw(&raw);
	tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
}

static void leave_raw_mode(struct console *console)
{
	if (console->terminal)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &console->saved);
}

/* False: nobody reads any more. */
static bool write_out(const char *data, size_t len)
{
	while (len) {
		ssize_t n = write(STDOUT_FILENO, data, len);

		if (n < 0 && errno == EAGAIN) {
			struct pollfd out = { STDOUT_FILENO, POLLOUT, 0 };

			poll(&out, 1, 1000);
			continue;
		}
		if (n < 0 && errno == EINTR && !signalled)
			continue;
		if (n < 0)
			return false;
		data += n;
		len -= (size_t)n;
	}
	return true;
}

/* False: the VM has closed it, or nobody reads. */
static bool take_output(struct console *console)
{
	char data[16384];
	ssize_t n = recv(console->fd, data, sizeof(data), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	if (n > 0 && !write_out(data, (size_t)n)) {
		console->left = true;
		return false;
	}
	return n > 0;
}

static void take_input(struct console *console)
{
	ssize_t n = read(STDIN_FILENO, console->input + console->input_len,
			 sizeof(console->input) - console->input_len);
	char *escape;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		console->input_ended = true;
		return;
	}
	escape = console->terminal ? memchr(console->input + console->input_len, ESCAPE, (size_t)n)
				   : NULL;
	if (escape) {
		console->left = true;
		n = escape - (console->input + console->input_len);
	}
	console->input_len += (size_t)n;
}

static void send_input(struct console *console)
{
	ssize_t n =
	    send(console->fd, console->input, console->input_len, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n <= 0)
		return;
	memmove(console->input, console->input + n, console->input_len - (size_t)n);
	console->input_len -= (size_t)n;
}

static bool step(struct console *console)
{
	bool room = console->input_len < sizeof(console->input) && !console->input_ended;
	struct pollfd fds[2] = {
		{ console->fd, (short)(POLLIN | (console->input_len ? POLLOUT : 0)), 0 },
		{ room ? STDIN_FILENO : -1, POLLIN, 0 },
	};

	if (poll(fds, 2, -1) < 0)
		return errno == EINTR && !signalled;
	if ((fds[0].revents & (POLLIN | POLLHUP | POLLERR)) && !take_output(console))
		return false;
	if (fds[1].revents)
		take_input(console);
	if (console->input_len)
		send_input(console);
	return !signalled && !console->left;
}

int console_run(int fd, const char *vm)
{
	struct console console = { .fd = fd };

	catch_signals();
	enter_raw_mode(&console, vm);
	while (step(&console))
		;
	leave_raw_mode(&console);
	close(fd);
	if (console.terminal)
		fputs("\n", stderr);
	if (signalled)
		return CONSOLE_INTERRUPTED;
	return console.left ? CONSOLE_LEFT : CONSOLE_CLOSED;
}
