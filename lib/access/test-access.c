#include "access/access.h"

#include "base/macros.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define VM_ID "f8615163-df3e-46c5-913f-f2d2f965ed0e"

static void add(struct access *access, const char *name, enum cmdlet_role role, char *ret_token,
		int64_t expires)
{
	struct access_user user = { .role = role, .expires = expires };
	struct error err;

	strcpy(user.name, name);
	access_new_token(ret_token, user.digest);
	assert_int_equal(access_add(access, &user, &err), 0);
}

static const struct access_user *who(const struct access *access, const char *token, int64_t now)
{
	char header[200];

	snprintf(header, sizeof(header), "bearer  %s", token);
	return access_by_token(access, header, now);
}

static void test_tokens(void **state)
{
	struct access *access = access_new();
	char a[ACCESS_TOKEN_SIZE], b[ACCESS_TOKEN_SIZE], wrong[ACCESS_TOKEN_SIZE];

	add(access, "a", CMDLET_ROLE_READER, a, 0);
	add(access, "b", CMDLET_ROLE_OPERATOR, b, 1000);
	assert_string_equal(who(access, a, 5000)->name, "a");
	assert_string_equal(who(access, b, 999)->name, "b");
	assert_null(who(access, b, 1000));
	strcpy(wrong, a);
	wrong[ACCESS_TOKEN_SIZE - 2] ^= 1;
	assert_null(who(access, wrong, 0));
	assert_null(who(access, "", 0));
	assert_null(access_by_token(access, NULL, 0));
	assert_null(access_by_token(access, a, 0));
	assert_null(access_by_token(access, "Basic YTpi", 0));
	access_remove(access, "A");
	assert_null(who(access, a, 0));
	assert_string_equal(who(access, b, 0)->name, "b");
	access_free(access);
}

static void test_names(void **state)
{
	static const char *const bad[] = { "", "a b", "a/b", "../a", "a\n", "\xc3\xa4" };
	struct access_user user = { .digest = { 1 } };
	struct access *access = access_new();
	struct error err;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		strcpy(user.name, bad[i]);
		assert_int_equal(access_add(access, &user, &err), -ERR_INVALID);
	}
	strcpy(user.name, "a.b-c_d@e");
	assert_int_equal(access_add(access, &user, &err), 0);
	assert_int_equal(access_add(access, &user, &err), -ERR_EXISTS);
	strcpy(user.name, "other"); /* of the same proof */
	assert_int_equal(access_add(access, &user, &err), -ERR_EXISTS);
	access_free(access);
}

static void test_grants_and_json(void **state)
{
	struct access *access = access_new(), *again;
	char token[ACCESS_TOKEN_SIZE];
	struct error err;
	json_t *json;

	add(access, "a", CMDLET_ROLE_CONSOLE, token, 7);
	assert_true(access_grant(access, "a", VM_ID));
	assert_false(access_grant(access, "a", VM_ID));
	assert_false(access_grant(access, "nobody", VM_ID));
	json = access_to_json(access);
	assert_int_equal(access_from_json(json, &again, &err), 0);
	json_decref(json);
	assert_string_equal(who(again, token, 0)->name, "a");
	assert_int_equal(access_at(again, 0)->role, CMDLET_ROLE_CONSOLE);
	assert_int_equal(access_at(again, 0)->expires, 7);
	assert_true(access_is_granted(access_at(again, 0), VM_ID));
	assert_true(access_revoke(again, "a", VM_ID));
	assert_false(access_revoke(again, "a", VM_ID));
	assert_false(access_is_granted(access_at(again, 0), VM_ID));
	assert_null(access_at(again, 1));
	access_free(access);
	access_free(again);
}

static void test_bad_files(void **state)
{
	static const char digest[] =
	    "\"token_sha256\":\"0000000000000000000000000000000000000000000000000000000000000000\"";
	static const char *const bad[] = {
		"{}",
		"{\"version\":2,\"users\":[]}",
		"{\"version\":1,\"users\":{}}",
		"{\"version\":1,\"users\":[5]}",
		"{\"version\":1,\"users\":[{\"name\":\"a\",\"role\":\"Reader\"}]}",
		"{\"version\":1,\"users\":[{\"name\":\"a\",\"role\":\"Reader\",\"token_sha256\":"
		"\"zz\"}]}",
		"{\"version\":1,\"users\":[{\"name\":\"a\",\"role\":\"King\",%s}]}",
		"{\"version\":1,\"users\":[{\"name\":\"a/\",\"role\":\"Reader\",%s}]}",
		"{\"version\":1,\"users\":[{\"name\":\"a\",\"role\":\"Reader\",%s,\"consoles\":[5]}"
		"]}",
	};
	struct access *access;
	char text[400];
	struct error err;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		const char *at = strstr(bad[i], "%s");
		json_t *json;

		snprintf(text, sizeof(text), "%.*s%s%s", at ? (int)(at - bad[i]) : 400, bad[i],
			 at ? digest : "", at ? at + 2 : "");
		json = json_loads(text, 0, NULL);
		assert_non_null(json);
		assert_int_equal(access_from_json(json, &access, &err),
				 i == 7 ? -ERR_INVALID : -ERR_CORRUPT);
		json_decref(json);
	}
}

static void test_certificates(void **state)
{
	static const char pem[] = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
	struct access_user user = { .name = "c", .proof = ACCESS_BY_CERTIFICATE };
	struct access *access = access_new();
	uint8_t digest[ACCESS_DIGEST_SIZE];
	struct error err;

	assert_int_equal(access_certificate_digest(pem, sizeof(pem) - 1, digest, &err),
			 -ERR_INVALID);
	assert_int_equal(access_certificate_digest("", 0, digest, &err), -ERR_INVALID);
	access_digest("a certificate", 13, user.digest);
	assert_int_equal(access_add(access, &user, &err), 0);
	assert_string_equal(access_by_certificate(access, "a certificate", 13, 0)->name, "c");
	assert_null(access_by_certificate(access, "a certificatf", 13, 0));
	assert_null(access_by_certificate(access, "", 0, 0));
	access_free(access);
}

/* Whoever may do something was thought about: these are the only ones for other than
 * administrators that do more than look. */
static void test_roles(void **state)
{
	const struct cmdlet *cmdlet;
	enum cmdlet_role role;

	assert_true(cmdlet_role_from_name("operator", &role) && role == CMDLET_ROLE_OPERATOR);
	assert_false(cmdlet_role_from_name("", &role));
	assert_int_equal(cmdlet_role_needed(cmdlet_find("Get-VM")), CMDLET_ROLE_CONSOLE);
	assert_int_equal(cmdlet_role_needed(cmdlet_find("Stop-VM")), CMDLET_ROLE_OPERATOR);
	assert_int_equal(cmdlet_role_needed(cmdlet_find("New-VM")), CMDLET_ROLE_ADMINISTRATOR);
	assert_int_equal(cmdlet_role_needed(cmdlet_find("Get-VHD")), CMDLET_ROLE_ADMINISTRATOR);
	for (size_t i = 0; (cmdlet = cmdlet_at(i)); i++)
		if (strncmp(cmdlet->name, "New-", 4) == 0 ||
		    strncmp(cmdlet->name, "Remove-VM", 9) == 0 ||
		    strncmp(cmdlet->name, "Set-", 4) == 0 || strncmp(cmdlet->name, "Add-", 4) == 0)
			assert_int_equal(cmdlet_role_needed(cmdlet), CMDLET_ROLE_ADMINISTRATOR);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tokens),          cmocka_unit_test(test_names),
		cmocka_unit_test(test_grants_and_json), cmocka_unit_test(test_bad_files),
		cmocka_unit_test(test_certificates),    cmocka_unit_test(test_roles),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
