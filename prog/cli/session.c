#include "session.h"

#include "base/macros.h"
#include "base/text.h"
#include "pump.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t ending;

static void end(int signal)
{
	ending = 1;
}

/* ---- where ---- */

struct place {
	char *host, *port;
};

/* Nothing of it has to be said. */
static struct place split(const char *address)
{
	struct place place;

	text_split_address(address ? address : "", &place.host, &place.port);
	if (!place.host[0]) {
		free(place.host);
		place.host = text_format("127.0.0.1");
	}
	if (!place.port)
		place.port = text_format("0");
	return place;
}

static int listen_at(const struct place *place, const char *address, struct error *err)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
				  .ai_socktype = SOCK_STREAM };
	struct addrinfo *found = NULL;
	int fd, one = 1, r = getaddrinfo(place->host, place->port, &hints, &found);

	if (r != 0)
		return error_set(err, ERR_INVALID, "'%.80s' is no address and port: %s",
				 address ? address : "", gai_strerror(r));
	fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, 4) < 0) {
		r = error_set_errno(err, errno, "listening on %s port %s", place->host,
				    place->port);
		if (fd >= 0)
			close(fd);
		fd = r;
	}
	freeaddrinfo(found);
	return fd;
}

static void tell(int listener, void (*ready)(void *, const char *, const char *), void *user)
{
	struct sockaddr_storage address;
	socklen_t size = sizeof(address);
	char host[INET6_ADDRSTRLEN], port[8];

	if (ready && getsockname(listener, (struct sockaddr *)&address, &size) == 0 &&
	    getnameinfo((struct sockaddr *)&address, size, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV) == 0)
		ready(user, host, port);
}

/* ---- who comes ---- */

/* The guest's server, or -code. A client of our own: the parent's connection is not shared. */
static int connect_guest(const struct client *like, const char *vm, struct error *err)
{
	struct client *client;
	int fd = client_open_like(like, &client, err);

	if (fd < 0)
		return fd;
	fd = client_session(client, vm, err);
	client_close(client);
	return fd;
}

_Noreturn static void serve(const struct client *like, const char *vm, int listener, int peer)
{
	struct error err;
	int one = 1, fd;
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	close(listener);
	fcntl(peer, F_SETFL, O_NONBLOCK);
	setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	fd = connect_guest(like, vm, &err);
	if (fd < 0) {
		fprintf(stderr, "oyako: Connect-VM '%s': %s\n", vm, err.text);
		_exit(1);
	}
	_exit(pump_run(fd, peer, peer) < 0);
}

/* A session more; 0, or -code where no process can be made for it. */
static int take(const struct client *like, const char *vm, int listener, struct error *err)
{
	int peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	pid_t pid;

	if (peer < 0)
		return 0;
	pid = fork();
	if (pid == 0)
		serve(like, vm, listener, peer);
	close(peer);
	return pid < 0 ? error_set_errno(err, errno, "starting a session") : 0;
}

static int serve_all(const struct client *like, const char *vm, int listener, struct error *err)
{
	struct sigaction action = { .sa_handler = end };
	struct pollfd wait = { listener, POLLIN, 0 };
	sigset_t ends, before;
	int r = 0;

	/* Only while it waits, so that none is missed. */
	sigemptyset(&ends);
	sigaddset(&ends, SIGINT);
	sigaddset(&ends, SIGTERM);
	sigprocmask(SIG_BLOCK, &ends, &before);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	while (r == 0 && !ending) {
		if (ppoll(&wait, 1, NULL, &before) > 0)
			r = take(like, vm, listener, err);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
	return r;
}

int session_run(struct client *client, const char *vm, const char *address,
		void (*ready)(void *user, const char *host, const char *port), void *user,
		struct error *err)
{
	struct place place;
	int listener, r, probe = client_session(client, vm, err);

	if (probe < 0)
		return probe;
	close(probe);
	place = split(address);
	listener = listen_at(&place, address, err);
	free(place.host);
	free(place.port);
	if (listener < 0)
		return listener;
	tell(listener, ready, user);
	r = serve_all(client, vm, listener, err);
	close(listener);
	return r;
}
