#include "access/access.h"

#include "base/guid.h"
#include "base/macros.h"

#include <ctype.h>
#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#define FILE_VERSION 1
#define TOKEN_PREFIX "oyako_" /* so that a token that has leaked is recognized as one */

struct access {
	struct access_user *users;
	size_t count;
};

static const char *const proof_names[] = { "token_sha256", "certificate_sha256" };

/* ---- life ---- */

struct access *access_new(void)
{
	struct access *access = calloc(1, sizeof(*access));

	if (!access)
		abort();
	return access;
}

void access_free(struct access *access)
{
	if (!access)
		return;
	for (size_t i = 0; i < access->count; i++)
		json_decref(access->users[i].consoles);
	free(access->users);
	free(access);
}

/* ---- digests ---- */

void access_digest(const void *data, size_t size, uint8_t ret[static ACCESS_DIGEST_SIZE])
{
	if (gnutls_hash_fast(GNUTLS_DIG_SHA256, data, size, ret) < 0)
		abort();
}

char *access_digest_text(const uint8_t digest[static ACCESS_DIGEST_SIZE],
			 char ret[static ACCESS_DIGEST_TEXT])
{
	for (size_t i = 0; i < ACCESS_DIGEST_SIZE; i++)
		sprintf(ret + 2 * i, "%02x", digest[i]);
	return ret;
}

static bool digest_from_text(const char *text, uint8_t ret[static ACCESS_DIGEST_SIZE])
{
	if (!text || strlen(text) != 2 * ACCESS_DIGEST_SIZE)
		return false;
	for (size_t i = 0; i < ACCESS_DIGEST_SIZE; i++) {
		const char pair[] = { text[2 * i], text[2 * i + 1], '\0' };

		if (!isxdigit((unsigned char)pair[0]) || !isxdigit((unsigned char)pair[1]))
			return false;
		ret[i] = (uint8_t)strtoul(pair, NULL, 16);
	}
	return true;
}

void access_new_token(char ret_token[static ACCESS_TOKEN_SIZE],
		      uint8_t ret_digest[static ACCESS_DIGEST_SIZE])
{
	uint8_t secret[ACCESS_DIGEST_SIZE];
	char text[ACCESS_DIGEST_TEXT];

	if (getrandom(secret, sizeof(secret), 0) != sizeof(secret))
		abort();
	snprintf(ret_token, ACCESS_TOKEN_SIZE, TOKEN_PREFIX "%s", access_digest_text(secret, text));
	access_digest(ret_token, strlen(ret_token), ret_digest);
}

int access_certificate_digest(const void *pem, size_t size, uint8_t ret[static ACCESS_DIGEST_SIZE],
			      struct error *err)
{
	gnutls_datum_t text = { (unsigned char *)pem, (unsigned)size }, der = { NULL, 0 };
	gnutls_x509_crt_t certificate;
	int r;

	if (gnutls_x509_crt_init(&certificate) < 0)
		return error_set(err, ERR_NO_MEMORY, "no memory for a certificate");
	r = gnutls_x509_crt_import(certificate, &text, GNUTLS_X509_FMT_PEM);
	if (r == 0)
		r = gnutls_x509_crt_export2(certificate, GNUTLS_X509_FMT_DER, &der);
	gnutls_x509_crt_deinit(certificate);
	if (r < 0)
		return error_set(err, ERR_INVALID, "this is no certificate in PEM: %s",
				 gnutls_strerror(r));
	access_digest(der.data, der.size, ret);
	gnutls_free(der.data);
	return 0;
}

/* ---- the list ---- */

static struct access_user *find(const struct access *access, const char *name)
{
	for (size_t i = 0; i < access->count; i++)
		if (strcasecmp(access->users[i].name, name) == 0)
			return &access->users[i];
	return NULL;
}

const struct access_user *access_find(const struct access *access, const char *name)
{
	return find(access, name);
}

const struct access_user *access_at(const struct access *access, size_t n)
{
	return n < access->count ? &access->users[n] : NULL;
}

/* Letters, digits and .-_@, so that a name is harmless in every text. */
static int check_name(const char *name, struct error *err)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < len; i++)
		if (!isascii(name[i]) ||
		    (!isalnum((unsigned char)name[i]) && !strchr(".-_@", name[i])))
			len = 0;
	if (len == 0 || len > ACCESS_NAME_MAX)
		return error_set(err, ERR_INVALID,
				 "a user's name is 1 to %d letters, digits and . - _ @",
				 ACCESS_NAME_MAX);
	return 0;
}

static bool proof_in_use(const struct access *access, const struct access_user *user)
{
	for (size_t i = 0; i < access->count; i++)
		if (memcmp(access->users[i].digest, user->digest, ACCESS_DIGEST_SIZE) == 0)
			return true;
	return false;
}

int access_add(struct access *access, const struct access_user *user, struct error *err)
{
	struct access_user *grown;

	if (check_name(user->name, err) < 0)
		return -ERR_INVALID;
	if (find(access, user->name))
		return error_set(err, ERR_EXISTS, "there is a user of this name already");
	if (proof_in_use(access, user))
		return error_set(err, ERR_EXISTS, "this certificate is another user's");
	if (access->count >= ACCESS_MAX_USERS)
		return error_set(err, ERR_LIMIT, "there are %d users already", ACCESS_MAX_USERS);
	grown = reallocarray(access->users, access->count + 1, sizeof(*grown));
	if (!grown)
		return error_set(err, ERR_NO_MEMORY, "no memory for a user");
	access->users = grown;
	grown[access->count] = *user;
	grown[access->count++].consoles = json_array();
	return 0;
}

void access_remove(struct access *access, const char *name)
{
	struct access_user *user = find(access, name);

	if (!user)
		return;
	json_decref(user->consoles);
	access->count--;
	memmove(user, user + 1, (size_t)(access->users + access->count - user) * sizeof(*user));
}

/* ---- consoles ---- */

static size_t grant_index(const struct access_user *user, const char *vm_id)
{
	size_t i = 0;

	while (i < json_array_size(user->consoles) &&
	       strcasecmp(json_string_value(json_array_get(user->consoles, i)), vm_id) != 0)
		i++;
	return i;
}

bool access_is_granted(const struct access_user *user, const char *vm_id)
{
	return grant_index(user, vm_id) < json_array_size(user->consoles);
}

bool access_grant(struct access *access, const char *name, const char *vm_id)
{
	struct access_user *user = find(access, name);

	if (!user || access_is_granted(user, vm_id) ||
	    json_array_size(user->consoles) >= ACCESS_MAX_GRANTS)
		return false;
	return json_array_append_new(user->consoles, json_string(vm_id)) == 0;
}

bool access_revoke(struct access *access, const char *name, const char *vm_id)
{
	struct access_user *user = find(access, name);

	return user && json_array_remove(user->consoles, grant_index(user, vm_id)) == 0;
}

/* ---- who is it? ---- */

/* Digests are compared, and nobody can choose one: how long that takes tells nothing of a secret.
 */
static const struct access_user *by_digest(const struct access *access, enum access_proof proof,
					   const uint8_t digest[static ACCESS_DIGEST_SIZE],
					   int64_t now)
{
	for (size_t i = 0; i < access->count; i++) {
		const struct access_user *user = &access->users[i];

		if (user->proof == proof && memcmp(user->digest, digest, ACCESS_DIGEST_SIZE) == 0)
			return user->expires && user->expires <= now ? NULL : user;
	}
	return NULL;
}

/* RFC 6750, 2.1: "Bearer" and one token. */
const struct access_user *access_by_token(const struct access *access, const char *header,
					  int64_t now)
{
	uint8_t digest[ACCESS_DIGEST_SIZE];
	size_t len;

	if (!header || strncasecmp(header, "Bearer ", 7) != 0)
		return NULL;
	header += 7 + strspn(header + 7, " ");
	len = strlen(header);
	if (len != ACCESS_TOKEN_SIZE - 1)
		return NULL;
	access_digest(header, len, digest);
	return by_digest(access, ACCESS_BY_TOKEN, digest, now);
}

const struct access_user *access_by_certificate(const struct access *access, const void *der,
						size_t size, int64_t now)
{
	uint8_t digest[ACCESS_DIGEST_SIZE];

	access_digest(der, size, digest);
	return by_digest(access, ACCESS_BY_CERTIFICATE, digest, now);
}

/* ---- JSON ---- */

static int consoles_from_json(const json_t *json, struct access *access, const char *name,
			      struct error *err)
{
	const json_t *list = json_object_get(json, "consoles");
	struct guid guid;

	if (list && !json_is_array(list))
		return error_set(err, ERR_CORRUPT, "\"consoles\" is not a list");
	for (size_t i = 0; i < json_array_size(list); i++) {
		const char *id = json_string_value(json_array_get(list, i));

		if (!id || !guid_parse(id, &guid))
			return error_set(err, ERR_CORRUPT,
					 "\"consoles\" has a value that is no GUID");
		access_grant(access, name, id);
	}
	return 0;
}

static int user_from_json(const json_t *json, struct access *access, struct error *err)
{
	const char *name = json_string_value(json_object_get(json, "name"));
	const char *role = json_string_value(json_object_get(json, "role"));
	struct access_user user = {
		.created = json_integer_value(json_object_get(json, "created")),
		.expires = json_integer_value(json_object_get(json, "expires")),
	};
	const char *digest = json_string_value(json_object_get(json, proof_names[ACCESS_BY_TOKEN]));
	int r;

	if (!digest) {
		user.proof = ACCESS_BY_CERTIFICATE;
		digest = json_string_value(json_object_get(json, proof_names[user.proof]));
	}
	if (!name || !role || strlen(name) > ACCESS_NAME_MAX ||
	    !cmdlet_role_from_name(role, &user.role) || !digest_from_text(digest, user.digest))
		return error_set(err, ERR_CORRUPT, "a user has no name, role or digest");
	snprintf(user.name, sizeof(user.name), "%s", name);
	r = access_add(access, &user, err);
	return r < 0 ? r : consoles_from_json(json, access, user.name, err);
}

int access_from_json(const json_t *json, struct access **ret, struct error *err)
{
	const json_t *users = json_object_get(json, "users");
	struct access *access = access_new();
	int r = 0;

	if (json_integer_value(json_object_get(json, "version")) != FILE_VERSION ||
	    !json_is_array(users))
		r = error_set(err, ERR_CORRUPT, "not a list of users of version %d", FILE_VERSION);
	for (size_t i = 0; r == 0 && i < json_array_size(users); i++)
		r = user_from_json(json_array_get(users, i), access, err);
	if (r < 0)
		access_free(access);
	else
		*ret = access;
	return r;
}

json_t *access_to_json(const struct access *access)
{
	json_t *list = json_array();

	for (size_t i = 0; i < access->count; i++) {
		const struct access_user *user = &access->users[i];
		char digest[ACCESS_DIGEST_TEXT];

		json_array_append_new(
		    list, json_pack("{s:s, s:s, s:s, s:I, s:I, s:O}", "name", user->name, "role",
				    cmdlet_role_name(user->role), proof_names[user->proof],
				    access_digest_text(user->digest, digest), "created",
				    (json_int_t)user->created, "expires", (json_int_t)user->expires,
				    "consoles", user->consoles));
	}
	return json_pack("{s:i, s:o}", "version", FILE_VERSION, "users", list);
}
