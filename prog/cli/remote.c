#include "remote.h"

#include "base/macros.h"
#include "base/text.h"
#include "tls/tunnel.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define CONNECT_MSEC     15000
#define MAX_TOKEN_BYTES  1024
#define FINGERPRINT_TEXT 65

struct remote {
	char *host, *port, *name, *folder, *token;
};

/* A connection, which its thread owns. */
struct far {
	gnutls_certificate_credentials_t credentials;
	struct tls_tunnel *tunnel;
	int net, plain; /* the tunnel's */
};

/* ---- what is kept about a host ---- */

/* A name that can be one of a folder, too. */
static int split(const char *text, struct remote *remote, struct error *err)
{
	size_t len = strlen(text);

	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)text[i]) && !strchr(".-_:[]%", text[i]))
			len = 0;
	if (len == 0 || len > 255 || text[0] == '.' || text[0] == '-')
		return error_set(err, ERR_INVALID, "'%.100s' is no host:port", text);
	text_split_address(text, &remote->host, &remote->port);
	if (!remote->port)
		remote->port = text_format("%s", REMOTE_DEFAULT_PORT);
	remote->name = text_format(strchr(remote->host, ':') ? "[%s]:%s" : "%s:%s", remote->host,
				   remote->port);
	return 0;
}

static char *config_folder(void)
{
	const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");

	if (config && config[0] == '/')
		return text_format("%s/oyako/hosts", config);
	return text_format("%s/.config/oyako/hosts", home ? home : "");
}

/* The first line of a file that only we may read; NULL with err unset (code ERR_OK): no file. */
static char *read_secret(const char *path, struct error *err)
{
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[MAX_TOKEN_BYTES + 1];
	struct stat st;
	ssize_t len;

	err->code = ERR_OK;
	if (fd < 0 && errno == ENOENT)
		return NULL;
	if (fd < 0 || fstat(fd, &st) < 0) {
		error_set_errno(err, errno, "opening '%.300s'", path);
		return NULL;
	}
	if (st.st_mode & 077) {
		error_set(err, ERR_DENIED, "'%.300s' may be read by others: chmod 600 it", path);
		return NULL;
	}
	len = read(fd, text, MAX_TOKEN_BYTES);
	text[len > 0 ? len : 0] = '\0';
	text[strcspn(text, "\r\n")] = '\0';
	return strdup(text);
}

static int find_token(struct remote *remote, struct error *err)
{
	const char *given = getenv("OYAKO_TOKEN"), *file = getenv("OYAKO_TOKEN_FILE");
	AUTO_FREE char *path =
	    file && *file ? strdup(file) : text_format("%s/token", remote->folder);

	if (given && *given) {
		remote->token = strdup(given);
	} else {
		remote->token = read_secret(path, err);
		if (!remote->token && err->code != ERR_OK)
			return -(int)err->code;
		if (!remote->token && file && *file)
			return error_set(err, ERR_NOT_FOUND, "there is no file '%.300s'", file);
	}
	/* It becomes part of a header. */
	for (const char *p = remote->token; p && *p; p++)
		if (!isgraph((unsigned char)*p))
			return error_set(err, ERR_INVALID, "the token for %.100s is no token",
					 remote->name);
	return 0;
}

int remote_new(const char *host, struct remote **ret, struct error *err)
{
	struct remote *remote = calloc(1, sizeof(*remote));
	AUTO_FREE char *config = config_folder();
	int r;

	if (!remote)
		abort();
	r = split(host, remote, err);
	if (r == 0) {
		remote->folder = text_format("%s/%s", config, remote->name);
		r = find_token(remote, err);
	}
	if (r < 0)
		remote_free(remote);
	else
		*ret = remote;
	return r;
}

void remote_free(struct remote *remote)
{
	if (!remote)
		return;
	free(remote->host);
	free(remote->port);
	free(remote->name);
	free(remote->folder);
	free(remote->token);
	free(remote);
}

const char *remote_token(const struct remote *remote)
{
	return remote->token;
}

const char *remote_name(const struct remote *remote)
{
	return remote->name;
}

const char *remote_folder(const struct remote *remote)
{
	return remote->folder;
}

/* ---- is it the right one? ---- */

static int fingerprint_of(gnutls_session_t session, char ret[static FINGERPRINT_TEXT])
{
	const gnutls_datum_t *list;
	unsigned count = 0;
	uint8_t digest[32];

	list = gnutls_certificate_get_peers(session, &count);
	if (!list || !count ||
	    gnutls_hash_fast(GNUTLS_DIG_SHA256, list[0].data, list[0].size, digest) < 0)
		return -1;
	for (size_t i = 0; i < sizeof(digest); i++)
		sprintf(ret + 2 * i, "%02x", digest[i]);
	return 0;
}

static void make_folders(const char *path)
{
	AUTO_FREE char *copy = strdup(path);

	for (char *p = copy + 1; *p; p++)
		if (*p == '/') {
			*p = '\0';
			mkdir(copy, 0700);
			*p = '/';
		}
	mkdir(copy, 0700);
}

static int keep_fingerprint(const struct remote *remote, const char *path, const char *fingerprint,
			    struct error *err)
{
	AUTO_CLOSE int fd = -1;

	make_folders(remote->folder);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || dprintf(fd, "%s\n", fingerprint) < 0)
		return error_set_errno(err, errno, "writing '%.300s'", path);
	return 0;
}

static bool ask(const struct remote *remote, const char *fingerprint)
{
	FILE *terminal = fopen("/dev/tty", "r+e");
	char line[16] = "";
	bool yes;

	if (!terminal)
		return false;
	fprintf(terminal,
		"No authority known here has signed the certificate of %s.\nIts SHA-256 is %s\n"
		"(on the host: oyako get-vmhost -FormatList). Is it the right one? [y/N] ",
		remote->name, fingerprint);
	fflush(terminal);
	yes = fgets(line, sizeof(line), terminal) && strchr("Yy", line[0]) && line[0];
	fclose(terminal);
	return yes;
}

/* As ssh: what was accepted once is kept, another one is refused. */
static int check_fingerprint(const struct remote *remote, gnutls_session_t session,
			     struct error *err)
{
	AUTO_FREE char *path = text_format("%s/fingerprint", remote->folder), *kept = NULL;
	char fingerprint[FINGERPRINT_TEXT];

	if (fingerprint_of(session, fingerprint) < 0)
		return error_set(err, ERR_DENIED, "%.100s shows no certificate", remote->name);
	kept = read_secret(path, err);
	if (!kept && err->code != ERR_OK)
		return -(int)err->code;
	if (kept && strcasecmp(kept, fingerprint) == 0)
		return 0;
	if (kept)
		return error_set(
		    err, ERR_DENIED,
		    "the certificate of %.100s is another one than before (SHA-256 "
		    "%s): somebody may be listening. If it was changed, remove '%.200s'",
		    remote->name, fingerprint, path);
	if (ask(remote, fingerprint))
		return keep_fingerprint(remote, path, fingerprint, err);
	return error_set(
	    err, ERR_DENIED,
	    "no authority known here has signed the certificate of %.60s. If %s is the "
	    "right SHA-256 of it, write that into '%.200s'",
	    remote->name, fingerprint, path);
}

static bool is_signed_for(const struct remote *remote, gnutls_session_t session)
{
	unsigned status = 0;

	return gnutls_certificate_verify_peers3(session, remote->host, &status) == 0 && status == 0;
}

/* ---- the connection ---- */

/* A setting's file: from the environment, or of the host's folder; NULL: there is none. */
static char *setting(const struct remote *remote, const char *variable, const char *name)
{
	const char *given = getenv(variable);
	char *path;

	if (given && *given)
		return strdup(given);
	path = text_format("%s/%s", remote->folder, name);
	if (access(path, F_OK) == 0)
		return path;
	free(path);
	return NULL;
}

static int load_credentials(const struct remote *remote,
			    gnutls_certificate_credentials_t credentials, struct error *err)
{
	AUTO_FREE char *authority = setting(remote, "OYAKO_CA_FILE", "authority.pem");
	AUTO_FREE char *certificate = setting(remote, "OYAKO_CERTIFICATE_FILE", "certificate.pem");
	AUTO_FREE char *key = setting(remote, "OYAKO_KEY_FILE", "key.pem");
	int r;

	if (authority) {
		r = gnutls_certificate_set_x509_trust_file(credentials, authority,
							   GNUTLS_X509_FMT_PEM);
		if (r <= 0)
			return error_set(err, ERR_INVALID, "'%.200s' has no certificates: %s",
					 authority, gnutls_strerror(r));
	} else {
		gnutls_certificate_set_x509_system_trust(credentials);
	}
	if (!certificate)
		return 0;
	r = gnutls_certificate_set_x509_key_file(credentials, certificate, key ? key : certificate,
						 GNUTLS_X509_FMT_PEM);
	return r < 0 ? error_set(err, ERR_INVALID, "the certificate '%.200s' and its key: %s",
				 certificate, gnutls_strerror(r))
		     : 0;
}

static int connect_one(const struct addrinfo *info)
{
	AUTO_CLOSE int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct pollfd wait = { fd, POLLOUT, 0 };
	int failed = 0;
	socklen_t len = sizeof(failed);

	if (fd < 0)
		return -errno;
	if (connect(fd, info->ai_addr, info->ai_addrlen) < 0) {
		if (errno != EINPROGRESS)
			return -errno;
		if (poll(&wait, 1, CONNECT_MSEC) <= 0)
			return -ETIMEDOUT;
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &len);
	}
	return failed ? -failed : TAKE_FD(fd);
}

static int connect_tcp(const struct remote *remote, struct error *err)
{
	struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
	struct addrinfo *found;
	int r = getaddrinfo(remote->host, remote->port, &hints, &found);
	int fd = -EHOSTUNREACH;

	if (r != 0)
		return error_set(err, ERR_NOT_FOUND, "the host '%.100s': %s", remote->name,
				 gai_strerror(r));
	for (const struct addrinfo *info = found; fd < 0 && info; info = info->ai_next)
		fd = connect_one(info);
	freeaddrinfo(found);
	return fd < 0 ? error_set_errno(err, -fd, "connecting to %.100s", remote->name) : fd;
}

/* ---- the thread ---- */

static void *run_tunnel(void *user)
{
	struct far *far = user;
	struct pollfd fds[2];

	do {
		bool now;

		fds[0] = (struct pollfd){ far->net, 0, 0 };
		fds[1] = (struct pollfd){ far->plain, 0, 0 };
		now = tls_tunnel_wants(far->tunnel, &fds[0].events, &fds[1].events);
		for (int i = 0; i < 2; i++)
			if (!fds[i].events)
				fds[i].fd = -1;
		poll(fds, 2, now ? 0 : -1);
	} while (tls_tunnel_step(far->tunnel));
	tls_tunnel_free(far->tunnel);
	gnutls_certificate_free_credentials(far->credentials);
	free(far);
	return NULL;
}

/* Takes far. */
static int start_thread(struct far *far, struct error *err)
{
	pthread_attr_t attributes;
	sigset_t all, before;
	pthread_t thread;
	int r;

	/* Signals are the main thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	r = pthread_create(&thread, &attributes, run_tunnel, far);
	pthread_attr_destroy(&attributes);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r ? error_set_errno(err, r, "starting a thread") : 0;
}

/* ---- TLS ---- */

static int wait_for_hands(const struct remote *remote, gnutls_session_t session, int net,
			  struct error *err)
{
	struct pollfd wait = { net, 0, 0 };
	int r;

	while ((r = gnutls_handshake(session)) < 0 && !gnutls_error_is_fatal(r)) {
		wait.events = gnutls_record_get_direction(session) ? POLLOUT : POLLIN;
		if (poll(&wait, 1, CONNECT_MSEC) == 0)
			return error_set(err, ERR_TIMEOUT, "%.100s does not answer", remote->name);
	}
	return r < 0
		   ? error_set(err, ERR_IO, "TLS with %.100s: %s", remote->name, gnutls_strerror(r))
		   : 0;
}

static int shake_hands(const struct remote *remote, const struct far *far, gnutls_session_t session,
		       struct error *err)
{
	struct in6_addr literal;
	int r;

	if (gnutls_priority_set_direct(session, TLS_PRIORITIES, NULL) < 0)
		return error_set(err, ERR_INTERNAL, "TLS could not be started");
	gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, far->credentials);
	if (inet_pton(AF_INET, remote->host, &literal) != 1 &&
	    inet_pton(AF_INET6, remote->host, &literal) != 1)
		gnutls_server_name_set(session, GNUTLS_NAME_DNS, remote->host,
				       strlen(remote->host));
	gnutls_transport_set_int(session, far->net);
	r = wait_for_hands(remote, session, far->net, err);
	if (r < 0 || is_signed_for(remote, session))
		return r;
	return check_fingerprint(remote, session, err);
}

/* Our end of the socket pair, once TLS stands. */
static int open_tunnel(const struct remote *remote, struct far *far, struct error *err)
{
	gnutls_session_t session;
	int ends[2], r;

	if (gnutls_init(&session, GNUTLS_CLIENT | GNUTLS_NONBLOCK) < 0)
		abort();
	r = shake_hands(remote, far, session, err);
	if (r == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		r = error_set_errno(err, errno, "making a socket");
	if (r < 0) {
		gnutls_deinit(session);
		close(far->net);
		return r;
	}
	far->plain = ends[0];
	far->tunnel = tls_tunnel_new(session, false, far->net, far->plain);
	r = start_thread(far, err);
	if (r == 0)
		return ends[1];
	tls_tunnel_free(far->tunnel);
	close(ends[1]);
	return r;
}

int remote_connect(const struct remote *remote, struct error *err)
{
	struct far *far = calloc(1, sizeof(*far));
	int r;

	if (!far || gnutls_certificate_allocate_credentials(&far->credentials) < 0)
		abort();
	r = load_credentials(remote, far->credentials, err);
	if (r == 0) {
		far->net = connect_tcp(remote, err);
		r = far->net < 0 ? far->net : open_tunnel(remote, far, err);
	}
	if (r < 0) {
		gnutls_certificate_free_credentials(far->credentials);
		free(far);
	}
	return r;
}
