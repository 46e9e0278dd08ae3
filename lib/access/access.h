/*
 * Who may use the API from elsewhere: users, each with a role and with what proves who it is (the
 * SHA-256 of a token or of a certificate), and the virtual machines whose consoles it was granted.
 * A token itself is kept nowhere. The list is JSON in the state folder (docs/api.md).
 *
 * What a client shows before it is known, a header or a certificate, is hostile: it is only
 *measured and hashed, and never part of a text.
 *
 *	access_from_json(json, &access, &err);
 *	user = access_by_token(access, header, now);	(NULL: nobody)
 *
 * Belongs to one thread. Results that are users are borrowed until the next change.
 */
#ifndef ACCESS_ACCESS_H
#define ACCESS_ACCESS_H

#include "base/error.h"
#include "cmdlet/cmdlet.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define ACCESS_NAME_MAX    64
#define ACCESS_MAX_USERS   1000
#define ACCESS_MAX_GRANTS  1000 /* consoles of one user */
#define ACCESS_DIGEST_SIZE 32
#define ACCESS_TOKEN_SIZE  71 /* with the NUL */

enum access_proof { ACCESS_BY_TOKEN, ACCESS_BY_CERTIFICATE };

struct access_user {
	char name[ACCESS_NAME_MAX + 1];
	enum cmdlet_role role;
	enum access_proof proof;
	uint8_t digest[ACCESS_DIGEST_SIZE];
	int64_t created, expires; /* seconds since 1970; expires 0: never */
	json_t *consoles;         /* list of identifiers of VMs */
};

struct access;

struct access *access_new(void);
void access_free(struct access *access);
int access_from_json(const json_t *json, struct access **ret, struct error *err);
/* The caller's. */
json_t *access_to_json(const struct access *access);

/* ---- who is it? NULL: nobody that we know, or one whose time has passed ---- */

/* header: what follows "Authorization:", or NULL. */
const struct access_user *access_by_token(const struct access *access, const char *header,
					  int64_t now);
const struct access_user *access_by_certificate(const struct access *access, const void *der,
						size_t size, int64_t now);

/* ---- the list ---- */

/* The n-th; NULL behind the last. */
const struct access_user *access_at(const struct access *access, size_t n);
const struct access_user *access_find(const struct access *access, const char *name);
/* Copies user, but for its consoles. ERR_EXISTS, ERR_LIMIT, or a bad name. */
int access_add(struct access *access, const struct access_user *user, struct error *err);
void access_remove(struct access *access, const char *name);
/* False: nothing to change. */
bool access_grant(struct access *access, const char *name, const char *vm_id);
bool access_revoke(struct access *access, const char *name, const char *vm_id);
/* May it see the VM and open its console? */
bool access_is_granted(const struct access_user *user, const char *vm_id);

/* ---- proofs ---- */

/* Draws a token and gives its digest, too. */
void access_new_token(char ret_token[static ACCESS_TOKEN_SIZE],
		      uint8_t ret_digest[static ACCESS_DIGEST_SIZE]);
void access_digest(const void *data, size_t size, uint8_t ret[static ACCESS_DIGEST_SIZE]);
/* The first certificate of a PEM text. */
int access_certificate_digest(const void *pem, size_t size, uint8_t ret[static ACCESS_DIGEST_SIZE],
			      struct error *err);
#define ACCESS_DIGEST_TEXT (2 * ACCESS_DIGEST_SIZE + 1)
char *access_digest_text(const uint8_t digest[static ACCESS_DIGEST_SIZE],
			 char ret[static ACCESS_DIGEST_TEXT]);

#endif
