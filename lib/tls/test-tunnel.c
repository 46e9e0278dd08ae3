/* Two tunnels, a client's and a server's, over one connection; each end is stepped by hand. */
#include "tls/tunnel.h"

#include "base/macros.h"

#include <errno.h>
#include <gnutls/x509.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#define MANY_BYTES 300000

struct pair {
	gnutls_psk_client_credentials_t client_credentials;
	gnutls_psk_server_credentials_t server_credentials;
	struct tls_tunnel *client, *server;
	int a, b; /* the plain sockets behind client and server */
	int net;  /* the server's end of the connection */
	bool client_over, server_over;
};

static int give_key(gnutls_session_t session, const char *name, gnutls_datum_t *key)
{
	key->data = gnutls_malloc(16);
	memset(key->data, 7, 16);
	key->size = 16;
	return 0;
}

static gnutls_session_t new_session(struct pair *pair, bool server, int net)
{
	gnutls_session_t session;

	assert_int_equal(
	    gnutls_init(&session, (server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NONBLOCK), 0);
	assert_int_equal(
	    gnutls_priority_set_direct(session, TLS_PRIORITIES ":+ECDHE-PSK:+PSK", NULL), 0);
	if (server)
		gnutls_credentials_set(session, GNUTLS_CRD_PSK, pair->server_credentials);
	else
		gnutls_credentials_set(session, GNUTLS_CRD_PSK, pair->client_credentials);
	gnutls_transport_set_int(session, net);
	return session;
}

static void set_up(struct pair *pair)
{
	static const gnutls_datum_t key = { (unsigned char *)"07070707070707070707070707070707",
					    32 };
	int net[2], a[2], b[2], client_done = -1, server_done = -1;
	gnutls_session_t client, server;

	*pair = (struct pair){ 0 };
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, net), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, a), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, b), 0);
	gnutls_psk_allocate_client_credentials(&pair->client_credentials);
	gnutls_psk_allocate_server_credentials(&pair->server_credentials);
	gnutls_psk_set_client_credentials(pair->client_credentials, "test", &key,
					  GNUTLS_PSK_KEY_HEX);
	gnutls_psk_set_server_credentials_function(pair->server_credentials, give_key);
	client = new_session(pair, false, net[0]);
	server = new_session(pair, true, net[1]);
	for (int i = 0; i < 100 && (client_done || server_done); i++) {
		client_done = client_done ? gnutls_handshake(client) : 0;
		server_done = server_done ? gnutls_handshake(server) : 0;
	}
	assert_int_equal(client_done | server_done, 0);
	pair->client = tls_tunnel_new(client, false, net[0], a[0]);
	pair->server = tls_tunnel_new(server, true, net[1], b[0]);
	pair->a = a[1];
	pair->b = b[1];
	pair->net = net[1];
}

static void step(struct pair *pair)
{
	if (!pair->client_over)
		pair->client_over = !tls_tunnel_step(pair->client);
	if (!pair->server_over)
		pair->server_over = !tls_tunnel_step(pair->server);
}

static void tear_down(struct pair *pair)
{
	tls_tunnel_free(pair->client);
	tls_tunnel_free(pair->server);
	gnutls_psk_free_client_credentials(pair->client_credentials);
	gnutls_psk_free_server_credentials(pair->server_credentials);
	close(pair->a);
	close(pair->b);
}

static void test_both_ways(void **state)
{
	static char data[MANY_BYTES], got[MANY_BYTES];
	size_t sent = 0, received = 0;
	struct pair pair;
	ssize_t n;

	set_up(&pair);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * 7 + i / 251);
	for (int i = 0; i < 10000 && received < sizeof(got); i++) {
		n = send(pair.a, data + sent, sizeof(data) - sent, MSG_DONTWAIT);
		sent += n > 0 ? (size_t)n : 0;
		step(&pair);
		n = recv(pair.b, got + received, sizeof(got) - received, MSG_DONTWAIT);
		received += n > 0 ? (size_t)n : 0;
	}
	assert_int_equal(received, sizeof(got));
	assert_memory_equal(data, got, sizeof(data));
	assert_int_equal(send(pair.b, "back", 4, 0), 4);
	step(&pair);
	step(&pair);
	assert_int_equal(recv(pair.a, got, sizeof(got), MSG_DONTWAIT), 4);
	tear_down(&pair);
}

static void test_half_of_a_client_ends(void **state)
{
	struct pair pair;
	char data[8];

	set_up(&pair);
	assert_int_equal(send(pair.a, "ask", 3, 0), 3);
	shutdown(pair.a, SHUT_WR);
	step(&pair);
	step(&pair);
	assert_int_equal(recv(pair.b, data, sizeof(data), MSG_DONTWAIT), 3);
	assert_int_equal(recv(pair.b, data, sizeof(data), MSG_DONTWAIT), 0);
	assert_false(pair.client_over || pair.server_over);
	assert_int_equal(send(pair.b, "answer", 6, 0), 6);
	shutdown(pair.b, SHUT_WR);
	step(&pair);
	step(&pair);
	assert_int_equal(recv(pair.a, data, sizeof(data), MSG_DONTWAIT), 6);
	assert_int_equal(recv(pair.a, data, sizeof(data), MSG_DONTWAIT), 0);
	assert_true(pair.client_over && pair.server_over);
	tear_down(&pair);
}

static void test_a_server_ends(void **state)
{
	struct pair pair;
	char data[8];

	set_up(&pair);
	assert_int_equal(send(pair.b, "bye", 3, 0), 3);
	shutdown(pair.b, SHUT_RDWR);
	step(&pair);
	step(&pair);
	assert_true(pair.client_over && pair.server_over);
	assert_int_equal(recv(pair.a, data, sizeof(data), MSG_DONTWAIT), 3);
	assert_int_equal(recv(pair.a, data, sizeof(data), MSG_DONTWAIT), 0);
	tear_down(&pair);
}

/* What is no record ends it, and nothing of it comes out. */
static void test_rubbish(void **state)
{
	struct pair pair;
	char data[8];

	set_up(&pair);
	assert_int_equal(send(pair.net, "GET / HTTP/1.1\r\n\r\n", 18, 0), 18);
	step(&pair);
	assert_true(pair.client_over);
	assert_int_equal(recv(pair.a, data, sizeof(data), MSG_DONTWAIT), 0);
	tear_down(&pair);
}

static void test_what_it_wants(void **state)
{
	struct pair pair;
	short net, plain;

	set_up(&pair);
	assert_false(tls_tunnel_wants(pair.server, &net, &plain));
	assert_int_equal(net, POLLIN);
	assert_int_equal(plain, POLLIN);
	shutdown(pair.a, SHUT_WR);
	step(&pair);
	assert_false(tls_tunnel_wants(pair.client, &net, &plain));
	assert_int_equal(net, POLLIN);
	assert_int_equal(plain, 0);
	tear_down(&pair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_both_ways),     cmocka_unit_test(test_half_of_a_client_ends),
		cmocka_unit_test(test_a_server_ends), cmocka_unit_test(test_rubbish),
		cmocka_unit_test(test_what_it_wants),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
