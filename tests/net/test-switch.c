/*
 * The switch as a process of its own, with its sandbox on: two adapters with a driver each talk
 * through it, get addresses from its DHCP and fetch from and send to a server on the host's
 * loopback.
 */
#include "netvsc-guest.h"
#include "tiny-ip.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/macros.h"
#include "dev/netvsp.h"
#include "ipc/ipc.h"
#include "net/port.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <pthread.h>

#include <cmocka.h>

#define FILTER         (NDIS_PACKET_DIRECTED | NDIS_PACKET_ALL_MULTICAST | NDIS_PACKET_BROADCAST)
#define TRANSFER_BYTES (4 * MIB + 12345)

static const char *switch_path;

struct host {
	struct vmbus_guest *guest;
	struct netvsp *nic;
	struct netvsc_guest *driver;
	struct tiny_ip ip;
};

struct fixture {
	pid_t pid;
	int control;
	struct host hosts[2];
};

/* ---- the process ---- */

static void spawn_switch(struct fixture *f)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	f->pid = fork();
	assert_true(f->pid >= 0);
	if (f->pid == 0) {
		if (fds[1] != 3)
			dup2(fds[1], 3);
		else
			fcntl(3, F_SETFD, 0);
		/* The leak checker wants to trace the process: its sandbox forbids that. */
		setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
		execl(switch_path, switch_path, NULL);
		_exit(127);
	}
	close(fds[1]);
	f->control = fds[0];
}

/* Takes msg; the answer's error code, or "" if it went well. */
static const char *request(struct fixture *f, json_t *msg, int fd, json_t **ret)
{
	static char code[64];
	struct error err;
	json_t *reply, *id = json_integer(77);

	json_object_set_new(msg, "id", id);
	assert_int_equal(ipc_send(f->control, msg, &fd, fd >= 0, &err), 0);
	json_decref(msg);
	assert_int_equal(ipc_recv(f->control, &reply, NULL, NULL, &err), 1);
	assert_int_equal(json_integer_value(json_object_get(reply, "id")), 77);
	snprintf(code, sizeof(code), "%s",
		 json_is_true(json_object_get(reply, "ok"))
		     ? ""
		     : json_string_value(json_object_get(json_object_get(reply, "error"), "code")));
	if (ret)
		*ret = reply;
	else
		json_decref(reply);
	return code;
}

/* ---- an adapter with a driver ---- */

static void host_send(void *user, const uint8_t *frame, size_t len)
{
	struct host *host = user;

	assert_true(netvsc_guest_send(host->driver, frame, len, NULL));
}

static void host_send_large(void *user, const uint8_t *frame, size_t len, uint16_t segment_bytes)
{
	static const uint32_t l4_offset = 34;
	struct netvsc_guest_ppi ppi[] = {
		{ RNDIS_PPI_CHECKSUM,
		  PPI_CHECKSUM_TX_IPV4 | PPI_CHECKSUM_TX_TCP | l4_offset << 16 },
		{ RNDIS_PPI_LSO, segment_bytes | l4_offset << 20 | PPI_LSO_V2 },
	};
	struct netvsc_guest_send how = { .ppi = ppi, .ppi_count = 2 };
	struct host *host = user;

	assert_true(netvsc_guest_send(host->driver, frame, len, &how));
}

static size_t host_receive(void *user, uint8_t *buf, unsigned timeout_ms)
{
	struct host *host = user;
	struct netvsc_guest_frame frame;

	if (!netvsc_guest_receive(host->driver, &frame, timeout_ms))
		return 0;
	memcpy(buf, frame.data, frame.len);
	return frame.len;
}

static void start_host(struct fixture *f, unsigned index)
{
	struct netvsc_guest_options options = { .version = NVSP_VERSION_6_1,
						.mtu = 1500,
						.capabilities = NVSP_CAPABILITY_RSC };
	struct host *host = &f->hosts[index];
	struct netvsp_config config = { .vp_count = 1, .mac = { 0, 0x15, 0x5d, 0, 0, 1 } };
	struct tiny_ip_link link = { host, host_send, host_send_large, host_receive };
	char mac[32], id[8];
	int fds[2];
	struct error err;

	config.instance.b[0] = config.mac[5] = (uint8_t)(index + 1);
	snprintf(id, sizeof(id), "vm%u", index);
	snprintf(mac, sizeof(mac), "00:15:5d:00:00:%02x", index + 1);
	assert_int_equal(port_socketpair(fds, &err), 0);
	assert_string_equal(
	    request(f, json_pack("{s:s, s:s, s:s}", "op", "add-port", "port", id, "mac", mac),
		    fds[1], NULL),
	    "");
	close(fds[1]);
	host->guest = vmbus_guest_new(1, 16 * MIB);
	config.bus = host->guest->bus;
	config.loop = host->guest->loop;
	config.port_fd = fds[0];
	assert_int_equal(netvsp_new(&config, &host->nic, &err), 0);
	assert_true(vmbus_guest_connect(host->guest, VMBUS_VERSION_5_3));
	host->driver = netvsc_guest_open(host->guest, &options);
	netvsc_guest_start(host->driver, FILTER);
	tiny_ip_init(&host->ip, &link, config.mac);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	spawn_switch(f);
	assert_string_equal(request(f, json_pack("{s:s}", "op", "status"), -1, NULL), "");
	assert_string_equal(
	    request(f,
		    json_pack("{s:s, s:s, s:s, s:s, s:s}", "op", "configure", "name", "test",
			      "type", "nat", "subnet", "172.30.77.0/24", "subnet6", "fd00:77::"),
		    -1, NULL),
	    "");
	for (unsigned i = 0; i < 2; i++)
		start_host(f, i);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int status = -1;

	for (unsigned i = 0; i < 2; i++) {
		netvsc_guest_close(f->hosts[i].driver);
		netvsp_free(f->hosts[i].nic);
		vmbus_guest_free(f->hosts[i].guest);
	}
	if (f->control >= 0)
		close(f->control);
	assert_int_equal(waitpid(f->pid, &status, 0), f->pid);
	assert_int_equal(status, 0);
	free(f);
	return 0;
}

/* ---- a server on the host ---- */

static uint8_t pattern(uint64_t i)
{
	return (uint8_t)(i * 31 + (i >> 8) * 7 + (i >> 16));
}

struct server {
	pthread_t thread;
	int fd;
	uint16_t port;
	bool reads;
	uint64_t received;
	bool damaged;
};

static void serve_out(int fd)
{
	uint8_t *data = malloc(TRANSFER_BYTES);
	size_t done = 0;

	for (uint64_t i = 0; i < TRANSFER_BYTES; i++)
		data[i] = pattern(i);
	while (done < TRANSFER_BYTES) {
		ssize_t n = send(fd, data + done, TRANSFER_BYTES - done, MSG_NOSIGNAL);

		if (n <= 0)
			break;
		done += (size_t)n;
	}
	free(data);
}

static void *serve(void *user)
{
	struct server *server = user;
	int fd = accept(server->fd, NULL, NULL);
	uint8_t buf[65536];
	ssize_t n;

	if (!server->reads)
		serve_out(fd);
	while (server->reads && (n = recv(fd, buf, sizeof(buf), 0)) > 0)
		for (ssize_t i = 0; i < n; i++)
			server->damaged |= buf[i] != pattern(server->received++);
	close(fd);
	return NULL;
}

static void start_server(struct server *server, bool reads)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(address);

	*server = (struct server){ .reads = reads };
	server->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(server->fd, (void *)&address, sizeof(address)), 0);
	assert_int_equal(listen(server->fd, 4), 0);
	assert_int_equal(getsockname(server->fd, (void *)&address, &len), 0);
	server->port = ntohs(address.sin_port);
	assert_int_equal(pthread_create(&server->thread, NULL, serve, server), 0);
}

static void stop_server(struct server *server)
{
	pthread_join(server->thread, NULL);
	close(server->fd);
}

/* ---- tests ---- */

static void test_addresses(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 2; i++) {
		struct tiny_ip *ip = &f->hosts[i].ip;

		assert_true(tiny_ip_configure(ip));
		assert_int_equal(ip->netmask, 0xFFFFFF00);
		assert_int_equal(ip->gateway, 0xAC1E4D01);
		assert_int_equal(ip->nameserver, 0xAC1E4D02);
		assert_int_equal(ip->address & 0xFFFFFF00, 0xAC1E4D00);
		assert_true(tiny_ip_ping(ip, ip->gateway));
		assert_int_equal(ip->bad_checksums, 0);
	}
	assert_int_not_equal(f->hosts[0].ip.address, f->hosts[1].ip.address);
}

static void test_between_guests(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[1000] = { 0, 0x15, 0x5d, 0, 0, 2, 0, 0x15, 0x5d, 0, 0, 1, 0x88, 0xB5, 42 };
	struct netvsc_guest_frame got;

	assert_true(netvsc_guest_send(f->hosts[0].driver, frame, sizeof(frame), NULL));
	assert_true(netvsc_guest_receive(f->hosts[1].driver, &got, 2000));
	assert_int_equal(got.len, sizeof(frame));
	assert_memory_equal(got.data, frame, sizeof(frame));
	/* Under another one's address: not forwarded, but counted. */
	frame[11] = 7;
	assert_true(netvsc_guest_send(f->hosts[0].driver, frame, sizeof(frame), NULL));
	assert_false(netvsc_guest_receive(f->hosts[1].driver, &got, 200));
}

static void download(struct fixture *f)
{
	struct tiny_ip *ip = &f->hosts[0].ip;
	struct server server;
	uint64_t start, spent;

	assert_true(tiny_ip_configure(ip));
	start_server(&server, false);
	assert_true(tiny_ip_connect(ip, ip->gateway, server.port));
	start = clock_now_ns();
	assert_int_equal(tiny_ip_download(ip, pattern), TRANSFER_BYTES);
	spent = clock_now_ns() - start;
	assert_int_equal(ip->bad_checksums, 0);
	stop_server(&server);
	print_message("%.1f MB/s down\n", (double)TRANSFER_BYTES * 1e3 / (double)spent);
}

static void test_download(void **state)
{
	struct fixture *f = *state;

	download(f);
	assert_true(f->hosts[0].ip.largest <= 1460);
}

static void test_download_large(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(netvsc_guest_offloads(f->hosts[0].driver, NDIS_OFFLOAD_BOTH, true), 0);
	download(f);
	assert_true(f->hosts[0].ip.largest > 2 * 1460);
}

static void upload(struct fixture *f, uint32_t chunk)
{
	struct tiny_ip *ip = &f->hosts[1].ip;
	struct server server;
	uint64_t start, spent;

	assert_true(tiny_ip_configure(ip));
	start_server(&server, true);
	assert_true(tiny_ip_connect(ip, ip->gateway, server.port));
	start = clock_now_ns();
	assert_true(tiny_ip_upload(ip, TRANSFER_BYTES, chunk, pattern));
	spent = clock_now_ns() - start;
	stop_server(&server);
	print_message("%.1f MB/s up\n", (double)TRANSFER_BYTES * 1e3 / (double)spent);
	assert_int_equal(server.received, TRANSFER_BYTES);
	assert_false(server.damaged);
}

static void test_upload(void **state)
{
	upload(*state, 1460);
}

static void test_upload_large(void **state)
{
	upload(*state, 60000);
}

static void test_requests(void **state)
{
	struct fixture *f = *state;
	json_t *reply;

	assert_string_equal(request(f, json_pack("{s:s}", "op", "nonsense"), -1, NULL),
			    "unsupported");
	assert_string_equal(
	    request(f, json_pack("{s:s, s:s}", "op", "configure", "type", "nat"), -1, NULL),
	    "state");
	assert_string_equal(
	    request(f, json_pack("{s:s, s:s}", "op", "add-port", "port", "x"), -1, NULL),
	    "invalid");
	assert_string_equal(
	    request(f, json_pack("{s:s, s:s}", "op", "add-port", "port", "x"), 0, NULL), "invalid");
	assert_string_equal(
	    request(f, json_pack("{s:s, s:s}", "op", "remove-port", "port", "x"), -1, NULL),
	    "not-found");
	assert_string_equal(request(f, json_pack("{s:s}", "op", "status"), -1, &reply), "");
	assert_int_equal(json_array_size(json_object_get(reply, "ports")), 2);
	json_decref(reply);
	assert_string_equal(
	    request(f, json_pack("{s:s, s:s}", "op", "remove-port", "port", "vm0"), -1, NULL), "");
	assert_int_equal(netvsc_guest_indication(f->hosts[0].driver),
			 RNDIS_STATUS_MEDIA_DISCONNECT);
}

static bool has_ended(pid_t pid, unsigned wait_ms, int *ret_status)
{
	for (unsigned i = 0; i <= wait_ms / 10; i++) {
		if (waitpid(pid, ret_status, WNOHANG) == pid)
			return true;
		usleep(10000);
	}
	return false;
}

/* Without the daemon it lives on while it has ports, if it was told to. */
static void test_keep(void **state)
{
	static const uint8_t frame[60] = { 255, 255, 255, 255, 255, 255, 2 };
	struct fixture f = { 0 };
	int a[2], b[2], status = -1;
	uint8_t back[200];

	(void)state;
	spawn_switch(&f);
	assert_string_equal(
	    request(&f,
		    json_pack("{s:s, s:s, s:b}", "op", "configure", "type", "private", "keep", 1),
		    -1, NULL),
	    "");
	assert_int_equal(port_socketpair(a, NULL) | port_socketpair(b, NULL), 0);
	assert_string_equal(
	    request(&f, json_pack("{s:s, s:s}", "op", "add-port", "port", "a"), a[1], NULL), "");
	assert_string_equal(
	    request(&f, json_pack("{s:s, s:s}", "op", "add-port", "port", "b"), b[1], NULL), "");
	close(a[1]);
	close(b[1]);
	close(f.control);
	assert_false(has_ended(f.pid, 100, &status));
	/* A header of version 1, then the frame. */
	memset(back, 0, sizeof(back));
	back[0] = 1;
	memcpy(back + 16, frame, sizeof(frame));
	assert_int_equal(send(a[0], back, 76, 0), 76);
	assert_int_equal(recv(b[0], back, sizeof(back), 0), 76);
	close(a[0]);
	assert_false(has_ended(f.pid, 100, &status));
	close(b[0]);
	assert_true(has_ended(f.pid, 5000, &status));
	assert_int_equal(status, 0);
}

/* A later daemon finds the switch and its ports; with the last port gone, it ends with that one. */
static void test_next_daemon(void **state)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	socklen_t len = sizeof(address);
	struct fixture f = { 0 };
	int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int a[2], status = -1;
	json_t *reply;

	(void)state;
	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(sa_family_t)), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &len), 0);
	assert_int_equal(listen(listener, 1), 0);
	spawn_switch(&f);
	assert_string_equal(
	    request(&f,
		    json_pack("{s:s, s:s, s:b}", "op", "configure", "type", "private", "keep", 1),
		    listener, NULL),
	    "");
	close(listener);
	assert_int_equal(port_socketpair(a, NULL), 0);
	assert_string_equal(
	    request(&f, json_pack("{s:s, s:s}", "op", "add-port", "port", "a"), a[1], NULL), "");
	close(a[1]);
	close(f.control);
	assert_false(has_ended(f.pid, 100, &status));
	for (unsigned i = 0; i < 2; i++) {
		int old = f.control;

		/* The second one comes while the first is still there. */
		f.control = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
		assert_int_equal(connect(f.control, (struct sockaddr *)&address, len), 0);
		assert_string_equal(request(&f, json_pack("{s:s}", "op", "status"), -1, &reply),
				    "");
		assert_int_equal(json_array_size(json_object_get(reply, "ports")), 1);
		json_decref(reply);
		if (i)
			close(old);
	}
	close(a[0]);
	assert_false(has_ended(f.pid, 100, &status));
	close(f.control);
	assert_true(has_ended(f.pid, 5000, &status));
	assert_int_equal(status, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(test_addresses),
		TEST(test_between_guests),
		TEST(test_download),
		TEST(test_download_large),
		TEST(test_upload),
		TEST(test_upload_large),
		TEST(test_requests),
		cmocka_unit_test(test_keep),
		cmocka_unit_test(test_next_daemon),
	};

	if (argc < 2)
		return 2;
	switch_path = argv[1];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
