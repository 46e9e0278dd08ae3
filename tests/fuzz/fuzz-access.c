/*
 * What a client from elsewhere sends before it is known. The first byte chooses: a whole request as
 * the HTTP server reads it, whose Authorization is then judged; that header alone; the list of
 * users; a certificate. Nobody may be taken for a user but by the one token that is in the list,
 * and a list that was read is written and read again, unchanged.
 */
#include "access/access.h"

#include <microhttpd.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define STEPS 8

static struct access *access_list;
static char token[ACCESS_TOKEN_SIZE];

static void judge(const char *header)
{
	const struct access_user *user = access_by_token(access_list, header, 0);

	if (user && !strstr(header, token))
		abort();
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *url,
				  const char *method, const char *version, const char *data,
				  size_t *size, void **state)
{
	struct MHD_Response *response;
	enum MHD_Result r;

	judge(MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Authorization"));
	response =
	    MHD_create_response_from_buffer(2, (void *)(uintptr_t) "{}", MHD_RESPMEM_PERSISTENT);
	r = MHD_queue_response(connection, MHD_HTTP_UNAUTHORIZED, response);
	MHD_destroy_response(response);
	return r;
}

static void fuzz_request(const uint8_t *data, size_t size)
{
	const struct sockaddr_un nobody = { .sun_family = AF_UNIX };
	static struct MHD_Daemon *http;
	int ends[2];

	if (!http)
		http = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET, 0, NULL, NULL,
					on_request, NULL, MHD_OPTION_END);
	if (!http || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) < 0)
		abort();
	MHD_add_connection(http, ends[1], (const struct sockaddr *)&nobody, sizeof(nobody));
	if (send(ends[0], data, size, MSG_NOSIGNAL) >= 0)
		shutdown(ends[0], SHUT_WR);
	for (int i = 0; i < STEPS; i++)
		MHD_run(http);
	close(ends[0]);
	MHD_run(http);
}

static void fuzz_list(const char *text, size_t size)
{
	json_t *json = json_loadb(text, size, 0, NULL), *first, *second;
	struct access *access, *again;
	struct error err;

	if (json && access_from_json(json, &access, &err) == 0) {
		first = access_to_json(access);
		if (access_from_json(first, &again, &err) < 0)
			abort();
		second = access_to_json(again);
		if (!json_equal(first, second))
			abort();
		json_decref(first);
		json_decref(second);
		access_free(access);
		access_free(again);
	}
	json_decref(json);
}

static void fuzz_certificate(const char *text, size_t size)
{
	uint8_t digest[ACCESS_DIGEST_SIZE];
	struct error err;

	access_certificate_digest(text, size, digest, &err);
	if (access_by_certificate(access_list, text, size, 0))
		abort();
}

static void make_list(void)
{
	struct access_user user = { .name = "a", .role = CMDLET_ROLE_READER };
	struct error err;

	access_list = access_new();
	memset(token, '0', sizeof(token) - 1);
	memcpy(token, "oyako_", 6);
	access_digest(token, sizeof(token) - 1, user.digest);
	if (access_add(access_list, &user, &err) < 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text;

	if (!access_list)
		make_list();
	if (size < 1)
		return 0;
	text = malloc(size);
	if (!text)
		return 0;
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	switch (data[0] % 4) {
	case 0:
		fuzz_request(data + 1, size - 1);
		break;
	case 1:
		judge(text);
		break;
	case 2:
		fuzz_list(text, size - 1);
		break;
	default:
		fuzz_certificate(text, size - 1);
		break;
	}
	free(text);
	return 0;
}
