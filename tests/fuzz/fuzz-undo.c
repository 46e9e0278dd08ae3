/* A journal of an interrupted operation that somebody else has written to: nothing goes but what it
 * may name, and nothing outside of the folders that it names. Its paths are taken as below a folder
 * of this target. */
#include "daemon.h"

#include "../../prog/daemon/undo.h"
#include "base/macros.h"
#include "base/text.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is there before. */
static const char *const files[] = {
	"stage/a",     "stage/b.vhdx",     "stage/.b.vhdx.01234567.new",
	"stage/own/c", "stage/own/deep/d", "outside/e"
};
static const char *const folders[] = { "stage",       "stage/own", "stage/own/deep",
				       "stage/empty", "outside",   "state/unfinished" };

static void set_up(void)
{
	AUTO_FREE char *link = fuzz_path("stage/own/link"), *outside = fuzz_path("outside");

	for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
		AUTO_FREE char *path = fuzz_path(folders[i]);

		mkdir(path, 0700);
	}
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		AUTO_FREE char *path = fuzz_path(files[i]);

		fuzz_write(path, "x", 1);
	}
	if (symlink(outside, link) < 0 && access(link, F_OK) < 0)
		abort();
}

/* Below the stage, and known by what is there where the journal wants that. */
static void stage(json_t *entry)
{
	const char *path = json_string_value(json_object_get(entry, "path"));
	AUTO_FREE char *root = fuzz_path(""), *staged = NULL;
	struct statx st;

	if (!path || path[0] != '/')
		return;
	staged = text_format("%sstage%s", root, strstr(path, "..") ? "/a" : path);
	json_object_set_new(entry, "path", json_string(staged));
	if (!json_is_true(json_object_get(entry, "same")) ||
	    statx(AT_FDCWD, staged, AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, &st) < 0)
		return;
	json_object_set_new(
	    entry, "dev",
	    json_integer((json_int_t)st.stx_dev_major << 32 | (json_int_t)st.stx_dev_minor));
	json_object_set_new(entry, "ino", json_integer((json_int_t)st.stx_ino));
	json_object_set_new(entry, "born",
			    json_integer(st.stx_mask & STATX_BTIME
					     ? (json_int_t)st.stx_btime.tv_sec * 1000000000 +
						   (json_int_t)st.stx_btime.tv_nsec
					     : 0));
}

static void write_journal(const uint8_t *data, size_t size)
{
	AUTO_FREE char *path =
	    fuzz_path("state/unfinished/11111111-2222-3333-4444-555555555555.json");
	json_t *json = json_loadb((const char *)data, size, JSON_DECODE_ANY, NULL);
	AUTO_FREE char *text = NULL;

	for (size_t i = 0; i < json_array_size(json); i++)
		stage(json_array_get(json, i));
	text = json ? json_dumps(json, JSON_ENCODE_ANY) : NULL;
	if (text)
		fuzz_write(path, text, strlen(text));
	else
		fuzz_write(path, data, size);
	json_decref(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	AUTO_FREE char *outside = NULL;
	struct daemon *daemon = fuzz_daemon();

	set_up();
	write_journal(data, size);
	undo_interrupted(daemon);
	outside = fuzz_path("outside/e");
	if (access(outside, F_OK) < 0)
		abort();
	return 0;
}
