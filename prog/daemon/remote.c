#include "remote.h"

#include "access/access.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "config/config-json.h"
#include "host.h"
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>

#define ACCESS_FILE      "access.json"
#define BACKLOG          64
#define MAX_PEM_BYTES    65536
#define SECONDS_PER_YEAR (366 * 86400L)
#define VALID_YEARS      20 /* clients keep its fingerprint: it should outlive the host */

/* ---- users ---- */

int remote_load(struct daemon *daemon, struct error *err)
{
	AUTO_CLOSE int fd = host_open_state(daemon, err);
	struct access *access = NULL;
	json_t *json = NULL;
	int r;

	if (fd < 0)
		return fd;
	r = config_load_json(fd, ACCESS_FILE, &json, err);
	if (r == -ERR_NOT_FOUND) {
		access = access_new();
		r = 0;
	} else if (r == 0) {
		r = access_from_json(json, &access, err);
	}
	json_decref(json);
	if (r < 0)
		return error_prefix(err, "the users of the API, '%.200s/" ACCESS_FILE "'",
				    daemon->paths.state);
	access_free(daemon->access);
	daemon->access = access;
	return 0;
}

int remote_save_users(struct daemon *daemon, struct error *err)
{
	AUTO_CLOSE int fd = host_open_state(daemon, err);
	json_t *json = access_to_json(daemon->access);
	int r = fd < 0 ? fd : config_save_json(fd, ACCESS_FILE, json, err);
	struct error ignored;

	json_decref(json);
	if (r < 0)
		remote_load(daemon, &ignored);
	return r;
}

/* ---- certificate ---- */

static int read_pem(int folder, const char *name, char **ret, struct error *err)
{
	AUTO_CLOSE int fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
	char *text;
	ssize_t len;

	if (fd < 0)
		return error_set_errno(err, errno, "opening 'tls/%s'", name);
	text = calloc(1, MAX_PEM_BYTES + 1);
	if (!text)
		abort();
	len = read(fd, text, MAX_PEM_BYTES);
	if (len <= 0) {
		free(text);
		return error_set(err, ERR_CORRUPT, "'tls/%s' is empty", name);
	}
	*ret = text;
	return 0;
}

static int write_pem(int folder, const char *name, const gnutls_datum_t *text, struct error *err)
{
	AUTO_CLOSE int fd = openat(folder, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, text->data, text->size) != (ssize_t)text->size || fsync(fd) < 0)
		return error_set_errno(err, errno, "writing 'tls/%s'", name);
	return 0;
}

static int describe_certificate(gnutls_x509_crt_t certificate, gnutls_x509_privkey_t key)
{
	uint8_t serial[16] = { 1 };
	struct utsname host;
	int r;

	uname(&host);
	gnutls_rnd(GNUTLS_RND_NONCE, serial + 1, sizeof(serial) - 1);
	r = gnutls_x509_crt_set_version(certificate, 3);
	if (r == 0)
		r = gnutls_x509_crt_set_serial(certificate, serial, sizeof(serial));
	if (r == 0)
		r = gnutls_x509_crt_set_dn_by_oid(certificate, GNUTLS_OID_X520_COMMON_NAME, 0,
						  host.nodename, (unsigned)strlen(host.nodename));
	if (r == 0)
		r = gnutls_x509_crt_set_subject_alt_name(
		    certificate, GNUTLS_SAN_DNSNAME, host.nodename, (unsigned)strlen(host.nodename),
		    GNUTLS_FSAN_SET);
	if (r == 0)
		r = gnutls_x509_crt_set_activation_time(certificate, time(NULL) - 86400);
	if (r == 0)
		r = gnutls_x509_crt_set_expiration_time(
		    certificate, time(NULL) + VALID_YEARS * SECONDS_PER_YEAR);
	if (r == 0)
		r = gnutls_x509_crt_set_key(certificate, key);
	return r == 0 ? gnutls_x509_crt_sign2(certificate, certificate, key, GNUTLS_DIG_SHA256, 0)
		      : r;
}

/* Signed by itself. The key first: a certificate without one is of no use. */
static int make_certificate(int folder, struct error *err)
{
	gnutls_datum_t key_pem = { NULL, 0 }, certificate_pem = { NULL, 0 };
	gnutls_x509_crt_t certificate;
	gnutls_x509_privkey_t key;
	int r;

	if (gnutls_x509_crt_init(&certificate) < 0 || gnutls_x509_privkey_init(&key) < 0)
		abort();
	r = gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA,
					 GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
	if (r == 0)
		r = describe_certificate(certificate, key);
	if (r == 0)
		r = gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &key_pem);
	if (r == 0)
		r = gnutls_x509_crt_export2(certificate, GNUTLS_X509_FMT_PEM, &certificate_pem);
	if (r < 0)
		r = error_set(err, ERR_INTERNAL, "making a certificate: %s", gnutls_strerror(r));
	if (r == 0)
		r = write_pem(folder, "key.pem", &key_pem, err);
	if (r == 0)
		r = write_pem(folder, "certificate.pem", &certificate_pem, err);
	gnutls_x509_crt_deinit(certificate);
	gnutls_x509_privkey_deinit(key);
	gnutls_free(key_pem.data);
	gnutls_free(certificate_pem.data);
	return r;
}

static int load_certificate(struct daemon *daemon, char **ret_certificate, char **ret_key,
			    struct error *err)
{
	AUTO_FREE char *path = NULL;
	AUTO_CLOSE int folder = -1;
	int r;

	if (asprintf(&path, "%s/tls", daemon->paths.state) < 0)
		abort();
	r = config_make_private_folder(path, err);
	if (r < 0)
		return r;
	folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (folder < 0)
		return error_set_errno(err, errno, "opening '%.200s'", path);
	if (faccessat(folder, "certificate.pem", F_OK, 0) < 0 && errno == ENOENT)
		r = make_certificate(folder, err);
	if (r == 0)
		r = read_pem(folder, "certificate.pem", ret_certificate, err);
	if (r == 0)
		r = read_pem(folder, "key.pem", ret_key, err);
	return r;
}

/* ---- listening ---- */

/* Splits "host:port", "[v6]:port", "port"; both results are the caller's, host NULL: all. */
static int split_address(const char *text, char **ret_host, char **ret_port, struct error *err)
{
	AUTO_FREE char *host = NULL, *port = NULL;

	text_split_address(text, &host, &port);
	if (!port) {
		port = host;
		host = text_format("%s", "");
	}
	if (!*port || strspn(port, "0123456789") != strlen(port) || atol(port) > 65535)
		return error_set(err, ERR_INVALID,
				 "'%.100s' is no address to listen on, such as 192.0.2.1:2180, "
				 "[::1]:2180 or 2180",
				 text);
	*ret_host = host[0] ? TAKE(host) : NULL;
	*ret_port = TAKE(port);
	return 0;
}

static int listen_on(const struct addrinfo *info, const char *address, struct error *err)
{
	AUTO_CLOSE int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int on = 1, off = 0;

	if (fd < 0)
		return error_set_errno(err, errno, "making a socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (info->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
		return error_set_errno(err, errno, "listening on '%.100s'", address);
	return TAKE_FD(fd);
}

static int open_listener(const char *address, struct error *err)
{
	struct addrinfo hints = { .ai_family = AF_UNSPEC,
				  .ai_socktype = SOCK_STREAM,
				  .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV };
	AUTO_FREE char *host = NULL, *port = NULL;
	struct addrinfo *found, *best;
	int r = split_address(address, &host, &port, err);

	if (r < 0)
		return r;
	r = getaddrinfo(host, port, &hints, &found);
	if (r != 0)
		return error_set(err, ERR_INVALID, "the address '%.100s' to listen on: %s", address,
				 gai_strerror(r));
	/* Of all addresses, those of IPv6 take IPv4, too. */
	best = found;
	for (struct addrinfo *info = found; !host && info; info = info->ai_next)
		if (info->ai_family == AF_INET6)
			best = info;
	r = listen_on(best, address, err);
	if (r < 0 && !host && best != found)
		r = listen_on(found, address, err);
	freeaddrinfo(found);
	return r;
}

static int open_remote(struct daemon *daemon, const char *address, struct error *err)
{
	AUTO_FREE char *certificate = NULL, *key = NULL;
	uint8_t digest[ACCESS_DIGEST_SIZE];
	int r = load_certificate(daemon, &certificate, &key, err), fd;

	if (r == 0)
		r = access_certificate_digest(certificate, strlen(certificate), digest, err);
	if (r < 0)
		return r;
	/* The old one may be on the same port. */
	server_close_remote(daemon->server);
	daemon->api_fingerprint[0] = '\0';
	fd = open_listener(address, err);
	if (fd < 0)
		return fd;
	r = server_open_remote(daemon->server, fd, certificate, key, err);
	if (r == 0)
		access_digest_text(digest, daemon->api_fingerprint);
	return r;
}

static void log_event(struct daemon *daemon, enum event_kind kind, const char *text)
{
	events_write(daemon->events, &(struct event){ .kind = kind, .message = text });
}

void remote_start(struct daemon *daemon)
{
	struct error err;

	if (daemon->api_address && open_remote(daemon, daemon->api_address, &err) < 0) {
		log_error("the API is not there for other hosts: %s", err.text);
		log_event(daemon, EVENT_REMOTE_FAILED, err.text);
	}
}

int remote_set_address(struct daemon *daemon, const char *address, struct error *err)
{
	char *before = daemon->api_address;
	char text[200];
	int r = 0;

	if (*address) {
		r = open_remote(daemon, address, err);
	} else {
		server_close_remote(daemon->server);
		daemon->api_fingerprint[0] = '\0';
	}
	if (r < 0)
		return r;
	daemon->api_address = *address ? strdup(address) : NULL;
	r = host_save(daemon, err);
	if (r < 0) {
		free(daemon->api_address);
		daemon->api_address = before;
		return r;
	}
	free(before);
	snprintf(text, sizeof(text), "The API is there for other hosts%s%.100s.",
		 *address ? " on " : " no more", address);
	log_event(daemon, EVENT_REMOTE_CHANGED, text);
	return 0;
}

void remote_free(struct daemon *daemon)
{
	access_free(daemon->access);
	free(daemon->api_address);
}
