#include "guest-sockets.h"

#include "base/clock.h"
#include "base/macros.h"
#include "daemon.h"
#include "run.h"
#include "sockets.h"
#include "spec/hvsock.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <errno.h>

/* The worker itself gives up after 10 s. */
#define CONNECT_TIMEOUT_NS (20 * NS_PER_SEC)
/* Where the guest's RDP server listens, as on Hyper-V. */
#define RDP_PORT          3389
#define ANSWER_TIMEOUT_NS (5 * NS_PER_SEC)

int guest_socket_parse(const char *text, struct guid *ret, struct error *err)
{
	char *end;
	unsigned long port;

	if (guid_parse(text, ret))
		return 0;
	errno = 0;
	port = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || port >= UINT32_MAX)
		return error_set(err, ERR_INVALID, "'%.60s' is neither a port nor a GUID", text);
	*ret = hvsock_service_of_port((uint32_t)port);
	return 0;
}

int guest_socket_session(const struct vm *vm, struct guid *ret, struct error *err)
{
	if (!vm->daemon->enhanced_sessions)
		return error_set(err, ERR_DENIED,
				 "this host has no enhanced sessions; 'set-vmhost "
				 "-EnableEnhancedSessionMode $true' changes that");
	if (vm->config->session != CONFIG_SESSION_HVSOCKET)
		return error_set(
		    err, ERR_STATE,
		    "its enhanced session is over VMBus, which is for Windows; 'set-vm "
		    "-EnhancedSessionTransportType HvSocket' changes that");
	*ret = hvsock_service_of_port(RDP_PORT);
	return 0;
}

/* ---- to the guest ---- */

struct connecting {
	int fd;
	guest_socket_done done;
	void *user;
};

static void connected(void *user, const json_t *reply, const struct error *err)
{
	struct connecting *connecting = user;

	if (err)
		close(TAKE_FD(connecting->fd));
	connecting->done(connecting->user, connecting->fd, err);
	free(connecting);
}

void guest_socket_connect(struct vm *vm, const struct guid *service, guest_socket_done done,
			  void *user)
{
	struct connecting *connecting = malloc(sizeof(*connecting));
	char text[GUID_TEXT_SIZE];
	int pair[2];

	/* Without descriptors or memory the daemon can't go on anyway. */
	if (!connecting || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	*connecting = (struct connecting){ pair[0], done, user };
	run_request_fd(
	    vm,
	    json_pack("{s:s, s:s}", "op", "socket-connect", "service", guid_format(service, text)),
	    pair[1], CONNECT_TIMEOUT_NS, connected, connecting);
	close(pair[1]);
}

/* ---- from the guest ---- */

static int connect_service(struct vm *vm, const struct guid *service, struct error *err)
{
	const struct config_socket *socket = config_find_socket(vm->config, service);

	if (!socket || !socket->path)
		return error_set(err, ERR_DENIED, "no such service is for this guest");
	return sockets_connect(socket->path, SOCK_STREAM, err);
}

void guest_socket_asked(struct vm *vm, const json_t *event)
{
	const char *text = json_string_value(json_object_get(event, "service"));
	const json_t *ticket = json_object_get(event, "ticket");
	AUTO_CLOSE int fd = -1;
	struct guid service;

	if (!text || !guid_parse(text, &service) || !json_is_integer(ticket))
		return;
	fd = connect_service(vm, &service, NULL);
	if (fd < 0)
		run_request(vm, json_pack("{s:s, s:O}", "op", "socket-refuse", "ticket", ticket),
			    ANSWER_TIMEOUT_NS, NULL, NULL);
	else
		run_request_fd(vm, json_pack("{s:s, s:O}", "op", "socket-accept", "ticket", ticket),
			       fd, ANSWER_TIMEOUT_NS, NULL, NULL);
}
