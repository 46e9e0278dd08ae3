#include "undo.h"

#include "base/guid.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "config/config-json.h"
#include "output.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define FOLDER      "unfinished"
#define NS_OF(time) ((json_int_t)(time).tv_sec * 1000000000 + (json_int_t)(time).tv_nsec)

struct undo {
	struct daemon *daemon;
	json_t *entries; /* list of {"kind", "path"} and, when it is made, "dev", "ino", "born" */
	char *file;      /* of the journal; NULL: not written yet, or committed */
};

static const char *const kinds[UNDO_KIND_COUNT] = { [UNDO_SHARED_FOLDER] = "shared-folder",
						    [UNDO_OWN_FOLDER] = "own-folder",
						    [UNDO_FILE] = "file",
						    [UNDO_LINK] = "link" };

static const char *text_in(const json_t *entry, const char *name)
{
	const char *text = json_string_value(json_object_get(entry, name));

	return text ? text : "";
}

static bool is(const json_t *entry, enum undo_kind kind)
{
	return strcmp(text_in(entry, "kind"), kinds[kind]) == 0;
}

/* ---- which file it is ---- */

static json_t *identity(int fd, const char *path)
{
	struct statx st;

	if (statx(fd, path, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, &st) < 0)
		return NULL;
	return json_pack(
	    "{s:I, s:I, s:I}", "dev", (json_int_t)st.stx_dev_major << 32 | st.stx_dev_minor, "ino",
	    (json_int_t)st.stx_ino, "born", st.stx_mask & STATX_BTIME ? NS_OF(st.stx_btime) : 0);
}

static void note_identity(json_t *entry, int fd, const char *path)
{
	json_t *now = identity(fd, path);

	json_object_update(entry, now);
	json_decref(now);
}

static bool is_known(const json_t *entry)
{
	return json_object_get(entry, "ino") != NULL;
}

/* What is there under the entry's name is what was made. */
static bool is_same(const json_t *entry)
{
	static const char *const members[] = { "dev", "ino", "born" };
	json_t *now = identity(AT_FDCWD, text_in(entry, "path"));
	bool same = now && is_known(entry);

	for (size_t i = 0; same && i < ARRAY_SIZE(members); i++)
		same = json_equal(json_object_get(entry, members[i]),
				  json_object_get(now, members[i]));
	json_decref(now);
	return same;
}

/* ---- the journal ---- */

static char *journals(const struct daemon *daemon)
{
	char *path = NULL;

	if (asprintf(&path, "%s/" FOLDER, daemon->paths.state) < 0)
		abort();
	return path;
}

static int open_journals(const struct daemon *daemon, struct error *err)
{
	AUTO_FREE char *path = journals(daemon);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? error_set_errno(err, errno, "opening the folder '%.200s'", path) : fd;
}

static int write_down(const struct undo *undo, struct error *err)
{
	AUTO_CLOSE int fd = open_journals(undo->daemon, err);

	return fd < 0 ? fd : config_save_json(fd, undo->file, undo->entries, err);
}

static int name_journal(struct undo *undo, struct error *err)
{
	AUTO_FREE char *path = journals(undo->daemon);
	char id[GUID_TEXT_SIZE];
	struct guid guid;

	guid_generate(&guid);
	guid_format(&guid, id);
	if (asprintf(&undo->file, "%s.json", id) < 0)
		abort();
	return config_make_private_folder(path, err);
}

static int remove_journal(const struct daemon *daemon, const char *file, struct error *err)
{
	AUTO_CLOSE int fd = open_journals(daemon, err);

	if (fd < 0)
		return fd;
	if (unlinkat(fd, file, 0) < 0 || fsync(fd) < 0)
		return error_set_errno(err, errno, "removing the journal '%.100s'", file);
	return 0;
}

/* ---- taking away ---- */

static bool remove_inside(int folder);

static bool remove_in(int folder, const char *name)
{
	AUTO_CLOSE int child =
	    openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (child < 0)
		return unlinkat(folder, name, 0) == 0 || errno == ENOENT;
	return remove_inside(child) && unlinkat(folder, name, AT_REMOVEDIR) == 0;
}

/* Borrows the descriptor. */
static bool remove_inside(int folder)
{
	int fd = fcntl(folder, F_DUPFD_CLOEXEC, 0);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	bool ok = dir != NULL;

	if (!dir && fd >= 0)
		close(fd);
	while (dir && (entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			ok = remove_in(folder, entry->d_name) && ok;
	if (dir)
		closedir(dir);
	return ok;
}

static bool remove_folder(const char *path)
{
	/* One that is not empty has come to be somebody else's, too. */
	return rmdir(path) == 0 || errno == ENOENT || errno == ENOTDIR || errno == ENOTEMPTY ||
	       errno == EEXIST;
}

static bool remove_all(const char *path)
{
	return remove_in(AT_FDCWD, path);
}

static bool remove_file(const char *path)
{
	return unlink(path) == 0 || errno == ENOENT;
}

static bool remove_link(const char *path)
{
	struct stat st;

	return lstat(path, &st) < 0 || !S_ISLNK(st.st_mode) || remove_file(path);
}

/* False: it is still there. */
static bool take_one(const json_t *entry)
{
	const char *path = text_in(entry, "path");

	if (path[0] != '/')
		return true;
	if (is(entry, UNDO_LINK))
		return remove_link(path);
	if (is(entry, UNDO_FILE)) {
		output_sweep(path);
		return !is_same(entry) || remove_file(path);
	}
	if (is(entry, UNDO_OWN_FOLDER) && is_same(entry))
		return remove_all(path);
	return remove_folder(path);
}

/* What was made last goes first. */
static bool take_all(const json_t *entries)
{
	bool gone = true;

	for (size_t i = json_array_size(entries); i-- > 0;)
		if (!take_one(json_array_get(entries, i))) {
			log_error("'%s' is of an operation that came to nothing, and can't be "
				  "removed: %s",
				  text_in(json_array_get(entries, i), "path"), strerror(errno));
			gone = false;
		}
	return gone;
}

/* ---- an operation ---- */

struct undo *undo_new(struct daemon *daemon)
{
	struct undo *undo = calloc(1, sizeof(*undo));

	if (!undo)
		abort();
	*undo = (struct undo){ .daemon = daemon, .entries = json_array() };
	return undo;
}

/* NULL: none. */
static json_t *entry_of(const struct undo *undo, const char *path)
{
	json_t *entry;
	size_t i;

	json_array_foreach(undo->entries, i, entry)
	{
		if (strcmp(text_in(entry, "path"), path) == 0)
			return entry;
	}
	return NULL;
}

static void add(struct undo *undo, enum undo_kind kind, const char *path)
{
	json_array_append_new(undo->entries,
			      json_pack("{s:s, s:s}", "kind", kinds[kind], "path", path));
}

static void add_folder(struct undo *undo, const char *path)
{
	AUTO_FREE char *parent = text_folder(path);
	struct stat st;

	if (lstat(parent, &st) < 0 && errno == ENOENT)
		add_folder(undo, parent);
	if (!entry_of(undo, path))
		add(undo, UNDO_SHARED_FOLDER, path);
}

void undo_add(struct undo *undo, enum undo_kind kind, const char *path)
{
	if (kind == UNDO_SHARED_FOLDER)
		add_folder(undo, path);
	else
		add(undo, kind, path);
}

/* Shared folders that are there already are nobody's to take away. */
static int check_free(struct undo *undo, struct error *err)
{
	for (size_t i = 0; i < json_array_size(undo->entries);) {
		const json_t *entry = json_array_get(undo->entries, i);
		const char *path = text_in(entry, "path");
		struct stat st;

		if (lstat(path, &st) < 0) {
			i++;
		} else if (is(entry, UNDO_SHARED_FOLDER)) {
			if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode))
				return error_set(err, ERR_INVALID, "'%.300s' is no folder", path);
			json_array_remove(undo->entries, i);
		} else {
			return error_set(err, ERR_EXISTS, "there is '%.300s' already", path);
		}
	}
	return 0;
}

static int make_folders(struct undo *undo, struct error *err)
{
	json_t *entry;
	size_t i;

	json_array_foreach(undo->entries, i, entry)
	{
		const char *path = text_in(entry, "path");

		if (!is(entry, UNDO_SHARED_FOLDER) && !is(entry, UNDO_OWN_FOLDER))
			continue;
		if (mkdir(path, 0755) < 0)
			return error_set_errno(err, errno, "making the folder '%.300s'", path);
		note_identity(entry, AT_FDCWD, path);
	}
	return write_down(undo, err);
}

int undo_begin(struct undo *undo, struct error *err)
{
	int r = check_free(undo, err);

	if (r == 0)
		r = name_journal(undo, err);
	if (r == 0)
		r = write_down(undo, err);
	return r == 0 ? make_folders(undo, err) : r;
}

int undo_made(struct undo *undo, const char *path, int fd, struct error *err)
{
	json_t *entry = entry_of(undo, path);

	if (!entry || !is(entry, UNDO_FILE))
		return 0;
	note_identity(entry, fd, "");
	return write_down(undo, err);
}

static void forget(struct undo *undo)
{
	free(undo->file);
	undo->file = NULL;
}

int undo_commit(struct undo *undo, struct error *err)
{
	int r = remove_journal(undo->daemon, undo->file, err);

	if (r == 0)
		forget(undo);
	return r;
}

void undo_free(struct undo *undo)
{
	if (!undo)
		return;
	/* What can't be taken away now may be when the service starts again. */
	if (undo->file && take_all(undo->entries))
		remove_journal(undo->daemon, undo->file, NULL);
	forget(undo);
	json_decref(undo->entries);
	free(undo);
}

/* ---- after an interruption ---- */

static void take_interrupted(struct daemon *daemon, int folder, const char *file)
{
	json_t *entries = NULL;
	struct error err;

	/* One that was being written: nothing had been made by then. */
	if (file[0] == '.') {
		unlinkat(folder, file, 0);
		return;
	}
	if (config_load_json(folder, file, &entries, &err) < 0) {
		log_error("the journal of an interrupted operation can't be read: %s", err.text);
		return;
	}
	log_info("an operation was interrupted: what it made is taken away (%s)", file);
	if (take_all(entries) && remove_journal(daemon, file, &err) < 0)
		log_error("%s", err.text);
	json_decref(entries);
}

void undo_interrupted(struct daemon *daemon)
{
	AUTO_FREE char *path = journals(daemon);
	AUTO_CLOSE int fd = open_journals(daemon, NULL);
	DIR *folder = fd < 0 ? NULL : opendir(path);
	struct dirent *entry;

	while (folder && (entry = readdir(folder)))
		if (entry->d_type != DT_DIR)
			take_interrupted(daemon, fd, entry->d_name);
	if (folder)
		closedir(folder);
}
