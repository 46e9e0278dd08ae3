/* The users of the API, and who may use which console. */
#include "cmdlets.h"

#include "base/macros.h"
#include "host.h"
#include "objects.h"
#include "remote.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define MAX_CERTIFICATE_BYTES 65536
#define SECONDS_PER_DAY       86400

/* ---- users ---- */

static json_t *time_object(int64_t seconds)
{
	time_t time = (time_t)seconds;
	char text[32];
	struct tm tm;

	if (!seconds)
		return json_null();
	gmtime_r(&time, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	return json_string(text);
}

static json_t *user_object(const struct access_user *user)
{
	bool certificate = user->proof == ACCESS_BY_CERTIFICATE;
	char digest[ACCESS_DIGEST_TEXT];

	access_digest_text(user->digest, digest);
	return json_pack("{s:s, s:s, s:s, s:o, s:o, s:s*}", "UserName", user->name, "Role",
			 cmdlet_role_name(user->role), "Proof",
			 certificate ? "Certificate" : "Token", "Created",
			 time_object(user->created), "Expires", time_object(user->expires),
			 "Fingerprint", certificate ? digest : NULL);
}

static int digest_of_file(const char *path, uint8_t ret[static ACCESS_DIGEST_SIZE],
			  struct error *err)
{
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	AUTO_FREE char *text = malloc(MAX_CERTIFICATE_BYTES);
	ssize_t len;

	if (fd < 0 || !text)
		return error_set_errno(err, errno, "opening '%.200s'", path);
	len = read(fd, text, MAX_CERTIFICATE_BYTES);
	if (len < 0)
		return error_set_errno(err, errno, "reading '%.200s'", path);
	return access_certificate_digest(text, (size_t)len, ret, err);
}

static void log_change(struct request *request, const char *what, const char *name)
{
	char text[300];

	snprintf(text, sizeof(text), "%s '%s'%s%s.", what, name,
		 request->owner[0] ? ", by the user " : "", request->owner);
	events_write(request->daemon->events,
		     &(struct event){ .kind = EVENT_ACCESS_CHANGED, .message = text });
}

static int add_user(struct request *request, const struct access_user *user, const char *token,
		    struct error *err)
{
	struct daemon *daemon = request->daemon;
	json_t *object;
	int r = access_add(daemon->access, user, err);

	if (r == 0)
		r = remote_save_users(daemon, err);
	if (r < 0)
		return r;
	object = user_object(user);
	if (*token)
		json_object_set_new(object, "Token", json_string(token));
	request_result(request, object);
	log_change(request, "The API has the new user", user->name);
	return 0;
}

void cmdlet_add_user(struct request *request)
{
	const char *name = request_string(request, "UserName");
	const char *certificate = request_string(request, "CertificatePath");
	int64_t days = request_integer(request, "ExpiresInDays", 0);
	struct access_user user = { .created = time(NULL) };
	char token[ACCESS_TOKEN_SIZE] = "";
	struct error err;
	int r = 0;

	user.expires = days ? user.created + days * SECONDS_PER_DAY : 0;
	cmdlet_role_from_name(request_string(request, "Role"), &user.role);
	if (strlen(name) > ACCESS_NAME_MAX)
		r = error_set(&err, ERR_LIMIT, "a user's name has at most %d characters",
			      ACCESS_NAME_MAX);
	else
		snprintf(user.name, sizeof(user.name), "%s", name);
	if (r == 0 && certificate) {
		user.proof = ACCESS_BY_CERTIFICATE;
		r = digest_of_file(certificate, user.digest, &err);
	} else if (r == 0) {
		access_new_token(token, user.digest);
	}
	if (r == 0)
		r = add_user(request, &user, token, &err);
	if (r < 0)
		request_error(request, name, &err);
}

/* Calls each user that the parameter UserName selects, or reports that there is none. work may
 * remove it. */
static void for_users(struct request *request,
		      void (*work)(struct request *request, const char *name))
{
	const json_t *patterns = json_object_get(request->params, "UserName");
	const struct access *access = request->daemon->access;
	json_t *names = json_array();

	for (size_t k = 0; k < json_array_size(patterns); k++) {
		const char *name = json_string_value(json_array_get(patterns, k));
		struct error err;

		if (cmdlet_has_wildcard(name) || access_find(access, name))
			continue;
		error_set(&err, ERR_NOT_FOUND, "there is no user of this name (Add-VMApiUser)");
		request_error(request, name, &err);
	}
	for (size_t i = 0; access_at(access, i); i++)
		if (cmdlets_list_matches(request, "UserName", access_at(access, i)->name))
			json_array_append_new(names, json_string(access_at(access, i)->name));
	for (size_t i = 0; i < json_array_size(names); i++)
		work(request, json_string_value(json_array_get(names, i)));
	json_decref(names);
}

static void show_user(struct request *request, const char *name)
{
	request_result(request, user_object(access_find(request->daemon->access, name)));
}

void cmdlet_get_user(struct request *request)
{
	for_users(request, show_user);
}

static void remove_user(struct request *request, const char *name)
{
	struct daemon *daemon = request->daemon;
	json_t *object = user_object(access_find(daemon->access, name));
	struct error err;

	access_remove(daemon->access, name);
	if (remote_save_users(daemon, &err) < 0) {
		request_error(request, name, &err);
		json_decref(object);
		return;
	}
	request_result(request, object);
	log_change(request, "The API has no more the user", name);
}

void cmdlet_remove_user(struct request *request)
{
	for_users(request, remove_user);
}

/* ---- consoles ---- */

static void show_grant(struct request *request, const struct vm *vm, const char *user)
{
	request_result(request, json_pack("{s:s, s:s, s:s}", "VMName", vm->config->name, "UserName",
					  user, "VMId", vm->id));
}

/* The VM that `change` works on; a cmdlet's function has no other way to tell it. */
static void for_grants(struct request *request, struct vm *vm,
		       void (*change)(struct request *request, const char *user))
{
	request->context = vm;
	for_users(request, change);
	request->context = NULL;
}

static void save_grant(struct request *request, const char *user, bool changed)
{
	struct error err;

	if (changed && remote_save_users(request->daemon, &err) < 0)
		request_error(request, user, &err);
	else
		show_grant(request, request->context, user);
}

static void grant_user(struct request *request, const char *user)
{
	const struct vm *vm = request->context;

	save_grant(request, user, access_grant(request->daemon->access, user, vm->id));
}

static void revoke_user(struct request *request, const char *user)
{
	const struct vm *vm = request->context;

	save_grant(request, user, access_revoke(request->daemon->access, user, vm->id));
}

static void grant_vm(struct request *request, struct vm *vm)
{
	for_grants(request, vm, grant_user);
}

static void revoke_vm(struct request *request, struct vm *vm)
{
	for_grants(request, vm, revoke_user);
}

/* The machines that the request names, in one way or the other. */
static void for_machines(struct request *request,
			 void (*work)(struct request *request, struct vm *vm))
{
	const json_t *ids = json_object_get(request->params, "VMId");

	if (!ids)
		request_for_vms(request, "VMName", work);
	for (size_t i = 0; i < json_array_size(ids); i++) {
		const char *id = json_string_value(json_array_get(ids, i));
		struct vm *vm = vm_find_id(request->daemon, id);
		struct error err;

		if (vm) {
			work(request, vm);
			continue;
		}
		error_set(&err, ERR_NOT_FOUND, "there is no virtual machine with this identifier");
		request_error(request, id, &err);
	}
}

void cmdlet_grant_access(struct request *request)
{
	for_machines(request, grant_vm);
}

void cmdlet_revoke_access(struct request *request)
{
	for_machines(request, revoke_vm);
}

static void show_grants(struct request *request, struct vm *vm)
{
	bool all = !json_object_get(request->params, "UserName");
	const struct access_user *user;

	for (size_t i = 0; (user = access_at(request->daemon->access, i)); i++)
		if (access_is_granted(user, vm->id) &&
		    (all || cmdlets_list_matches(request, "UserName", user->name)))
			show_grant(request, vm, user->name);
}

void cmdlet_get_access(struct request *request)
{
	for_machines(request, show_grants);
}
