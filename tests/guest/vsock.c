/* AF_VSOCK for a guest that has no tool for it:
 *	vsock listen PORT COMMAND ...	runs COMMAND for each connection, which is its input and
 *output vsock connect PORT		ties input and output to a port of the host */
#include <linux/vm_sockets.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void serve(int listener, char **command)
{
	signal(SIGCHLD, SIG_IGN);
	for (;;) {
		int fd = accept(listener, NULL, NULL);

		if (fd < 0)
			fail("accept");
		if (fork() == 0) {
			signal(SIGCHLD, SIG_DFL);
			dup2(fd, 0);
			dup2(fd, 1);
			close(fd);
			close(listener);
			execvp(command[0], command);
			fail(command[0]);
		}
		close(fd);
	}
}

/* False: the end. */
static int copy(int from, int to)
{
	static char data[65536];
	ssize_t n = read(from, data, sizeof(data)), done = 0;

	while (done < n) {
		ssize_t w = write(to, data + done, (size_t)(n - done));

		if (w <= 0)
			return 0;
		done += w;
	}
	return n > 0;
}

static void pump(int fd)
{
	struct pollfd fds[2] = { { 0, POLLIN, 0 }, { fd, POLLIN, 0 } };

	for (;;) {
		poll(fds, 2, -1);
		if (fds[0].revents && !copy(0, fd)) {
			shutdown(fd, SHUT_WR);
			fds[0].fd = -1;
		}
		if (fds[1].revents && !copy(fd, 1))
			return;
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK };
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (argc < 3 || fd < 0)
		fail("vsock");
	address.svm_port = (unsigned)atoi(argv[2]);
	if (strcmp(argv[1], "listen") == 0) {
		address.svm_cid = VMADDR_CID_ANY;
		if (bind(fd, (void *)&address, sizeof(address)) < 0 || listen(fd, 128) < 0)
			fail("listen");
		serve(fd, argv + 3);
	}
	address.svm_cid = VMADDR_CID_HOST;
	if (connect(fd, (void *)&address, sizeof(address)) < 0)
		fail("connect");
	pump(fd);
	return 0;
}
