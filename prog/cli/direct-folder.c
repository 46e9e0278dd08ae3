/*
 * Copy-Item of folders: by tar, but large files each by itself, so that one that broke off goes on.
 * What an earlier copy has brought is left out: files of the same size and time of change, which
 * tar and we set when a file is complete.
 *
 * To a guest files go to their places. From a guest they gather in NAME.oyako-part, which becomes
 * NAME when all is there, or is merged into it. The guest may lie about everything, so tar only
 * ever runs where no symbolic link leads out: what an interrupted copy left of them is removed
 * first, and what is merged follows none.
 */
#include "direct-copy.h"

#include "base/macros.h"
#include "base/text.h"
#include "direct/listing.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define BIG_FILE    ((long long)(16 * MIB))
#define LISTING_MAX (64 * MIB)

#define TAR_CREATE                                                                                 \
	"--format=posix", "--pax-option=delete=atime,delete=ctime", "--no-recursion", "--null",    \
	    "--verbatim-files-from", "-T", "-", "-cf", "-"
#define TAR_CREATE_TEXT                                                                            \
	"tar --format=posix --pax-option=delete=atime,delete=ctime --no-recursion --null "         \
	"--verbatim-files-from -T - -cf -"

/* ---- tar on this side ---- */

/* A process of ours: reads the archive from a pipe, or reads in and writes the archive to a pipe;
 * the pipe's other end is returned. */
static int start_tar(const char *const *arguments, int in, pid_t *ret_pid)
{
	bool extracts = in < 0;
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		abort();
	*ret_pid = fork();
	if (*ret_pid == 0) {
		dup2(extracts ? fds[0] : in, STDIN_FILENO);
		if (!extracts)
			dup2(fds[1], STDOUT_FILENO);
		execvp("tar", (char *const *)(uintptr_t)arguments);
		_exit(127);
	}
	close(fds[extracts ? 0 : 1]);
	return fds[extracts ? 1 : 0];
}

static int end_tar(pid_t pid, int r, const char *what, struct error *err)
{
	int status;

	if (waitpid(pid, &status, 0) < 0 || status != 0)
		return r < 0 ? r : error_set(err, ERR_IO, "tar failed for '%.200s'", what);
	return r;
}

/* ---- names ---- */

/* Of a folder, without what is around it; NULL: it has none. The caller's. */
static char *name_of(const char *path)
{
	size_t end = strlen(path), start;

	while (end > 0 && path[end - 1] == '/')
		end--;
	for (start = end; start > 0 && path[start - 1] != '/'; start--)
		;
	if (start == end || (end - start <= 2 && strncmp(path + start, "..", end - start) == 0))
		return NULL;
	return strndup(path + start, end - start);
}

/* The names that tar is to take, each with a zero behind. */
static FILE *list_new(int *ret_fd)
{
	FILE *list;

	*ret_fd = memfd_create("names", MFD_CLOEXEC);
	list = *ret_fd < 0 ? NULL : fdopen(*ret_fd, "w");
	if (!list)
		abort();
	return list;
}

static int list_end(FILE *list, int fd, struct error *err)
{
	if (fflush(list) != 0 || lseek(fd, 0, SEEK_SET) < 0)
		return error_set_errno(err, errno, "a list of names");
	return 0;
}

/* ---- what the guest has ---- */

struct listing {
	char *text;
	struct direct_item *items;
	size_t count;
};

static void listing_done(struct listing *listing)
{
	free(listing->items);
	free(listing->text);
}

static int parse(struct listing *listing, size_t size, struct error *err)
{
	char *at = listing->text;
	size_t room = 0;
	int r = 1;

	while (r > 0) {
		if (listing->count == room) {
			room = room ? 2 * room : 256;
			listing->items =
			    reallocarray(listing->items, room, sizeof(*listing->items));
			if (!listing->items)
				abort();
		}
		r = direct_listing_next(&at, listing->text + size, &listing->items[listing->count]);
		listing->count += r > 0;
	}
	return r < 0 ? error_set(err, ERR_CORRUPT, "the guest's list of a folder is rubbish") : 0;
}

/* A file that can't grow beyond what a guest may say. */
static int bounded_file(void)
{
	int fd = memfd_create("listing", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, (off_t)LISTING_MAX) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_GROW) < 0)
		abort();
	return fd;
}

static int by_path(const void *a, const void *b)
{
	return strcmp(((const struct direct_item *)a)->path, ((const struct direct_item *)b)->path);
}

static const struct direct_item *find_item(const struct listing *listing, const char *path)
{
	const struct direct_item key = { .path = path };

	if (!listing->count)
		return NULL;
	return bsearch(&key, listing->items, listing->count, sizeof(key), by_path);
}

/* Exit status of the script, or -code. Of what `find` says of the folder $p. */
static int ask_listing(const struct copy *copy, char *script, struct listing *ret,
		       struct error *err)
{
	AUTO_CLOSE int fd = bounded_file();
	int status = copy_run_script(copy, script, -1, fd, err), r;
	off_t size = lseek(fd, 0, SEEK_CUR);

	*ret = (struct listing){ 0 };
	if (status < 0 || status > 128)
		return copy_judge(status, "asking for a folder", err);
	ret->text = malloc((size_t)size + 1);
	if (!ret->text || pread(fd, ret->text, (size_t)size, 0) != size)
		return error_set(err, ERR_NO_MEMORY, "no memory for the list of a folder");
	r = parse(ret, (size_t)size, err);
	if (r < 0)
		return r;
	qsort(ret->items, ret->count, sizeof(*ret->items), by_path);
	return status;
}

static bool is_same_file(const struct direct_item *item, const struct stat *st)
{
	return item && item->type == 'f' && S_ISREG(st->st_mode) && item->size == st->st_size &&
	       item->modified.tv_sec == st->st_mtim.tv_sec &&
	       item->modified.tv_nsec == st->st_mtim.tv_nsec;
}

/* ---- to the guest ---- */

/* One copy of a folder to the guest. */
struct sending {
	const struct copy *copy;
	char *parent, *name; /* of the folder here */
	struct listing there;
	FILE *names;
};

/* entry is of a large file, path where it is in the folder. */
static int send_big(const struct sending *sending, const FTSENT *entry, const char *path,
		    struct error *err)
{
	AUTO_CLOSE int fd = open(entry->fts_path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	AUTO_FREE char *folder =
	    text_format("%s/%s/%.*s", sending->copy->destination, sending->name,
			(int)(strlen(path) - entry->fts_namelen), path);
	struct copy copy = *sending->copy;
	struct stat st;

	copy.destination = folder;
	copy.into_folder = true;
	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set_errno(err, errno, "'%.300s'", entry->fts_path);
	return copy_file_to_guest(&copy, entry->fts_path, fd, &st, err);
}

/* Sends a large file, or leaves what is found to tar. */
static int send_entry(const struct sending *sending, const FTSENT *entry, struct error *err)
{
	const char *path = entry->fts_path + strlen(sending->parent) + 1 + strlen(sending->name);

	path += *path == '/';
	switch (entry->fts_info) {
	case FTS_DP: /* was seen before what is in it */
		return 0;
	case FTS_DNR:
	case FTS_ERR:
	case FTS_NS:
		return error_set_errno(err, entry->fts_errno, "'%.300s'", entry->fts_path);
	case FTS_F:
		if (is_same_file(find_item(&sending->there, path), entry->fts_statp))
			return 0;
		if (entry->fts_statp->st_size >= BIG_FILE)
			return send_big(sending, entry, path, err);
	}
	fprintf(sending->names, "%s%s%s%c", sending->name, *path ? "/" : "", path, '\0');
	return 0;
}

static int walk(const struct sending *sending, struct error *err)
{
	AUTO_FREE char *folder = text_format("%s/%s", sending->parent, sending->name);
	char *const roots[] = { folder, NULL };
	FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
	FTSENT *entry;
	int r = 0;

	if (!fts)
		return error_set_errno(err, errno, "'%.300s'", folder);
	while (r == 0 && (entry = fts_read(fts)))
		r = send_entry(sending, entry, err);
	fts_close(fts);
	return r;
}

static int send_names(const struct sending *sending, int names, struct error *err)
{
	AUTO_FREE char *to = direct_quote(sending->copy->destination);
	const char *const tar[] = { "tar", "-C", *sending->parent ? sending->parent : "/",
				    TAR_CREATE, NULL };
	pid_t pid;
	int fd = start_tar(tar, names, &pid), r;

	r = copy_judge(copy_run_script(sending->copy,
				       text_format("mkdir -p %s && exec tar -C %s -xf -", to, to),
				       fd, STDOUT_FILENO, err),
		       sending->name, err);
	close(fd);
	return end_tar(pid, r, sending->name, err);
}

static int list_guest_folder(struct sending *sending, struct error *err)
{
	AUTO_FREE char *folder = text_format("%s/%s", sending->copy->destination, sending->name),
		       *quoted = direct_quote(folder);
	int r = ask_listing(sending->copy,
			    text_format("cd -- %s 2>/dev/null || exit 0; "
					"exec find . -type f -printf '%%y %%s %%T@ %%P\\0'",
					quoted),
			    &sending->there, err);

	return MIN(r, 0); /* what it can't list is sent again */
}

int copy_folder_to_guest(const struct copy *copy, const char *path, struct error *err)
{
	AUTO_FREE char *parent = realpath(path, NULL), *name = parent ? name_of(parent) : NULL;
	struct sending sending = { .copy = copy, .parent = parent, .name = name };
	int names, r;

	if (!name)
		return error_set(err, ERR_INVALID, "'%.200s' has no name for the guest", path);
	parent[strlen(parent) - strlen(name) - 1] = '\0';
	sending.names = list_new(&names);
	r = list_guest_folder(&sending, err);
	if (r == 0)
		r = walk(&sending, err);
	if (r == 0)
		r = list_end(sending.names, names, err);
	if (r == 0)
		r = send_names(&sending, names, err);
	fclose(sending.names);
	listing_done(&sending.there);
	return r;
}

/* ---- where a folder from the guest gathers ---- */

#define PART_SUFFIX ".oyako-part"

/* One copy of a folder from the guest. */
struct fetching {
	const struct copy *copy;
	const char *path; /* in the guest */
	char *stage;
	int stage_fd;
	struct listing there;
	FILE *names;
	bool incomplete; /* not all of it could be read there */
};

/* Of an earlier copy a file is wanted still if it is what the guest has now, or a part of that. */
static bool is_wanted(const struct listing *there, const char *path, const struct stat *st)
{
	size_t len = strlen(path), suffix = strlen(PART_SUFFIX);
	AUTO_FREE char *whole = len > suffix ? strndup(path, len - suffix) : NULL;
	const struct direct_item *item;

	if (is_same_file(find_item(there, path), st))
		return true;
	item =
	    whole && strcmp(path + len - suffix, PART_SUFFIX) == 0 ? find_item(there, whole) : NULL;
	return item && item->type == 'f' && item->size >= BIG_FILE;
}

static void clean_entry(const struct fetching *fetching, const FTSENT *entry)
{
	const char *path = entry->fts_path + strlen(fetching->stage);
	const struct direct_item *item;

	path += *path == '/';
	switch (entry->fts_info) {
	case FTS_D:
		chmod(entry->fts_accpath, S_IRWXU);
		break;
	case FTS_DP:
		item = find_item(&fetching->there, path);
		if (*path && (!item || item->type != 'd'))
			rmdir(entry->fts_accpath);
		break;
	case FTS_F:
		if (is_wanted(&fetching->there, path, entry->fts_statp))
			break;
		/* fall through */
	default:
		unlink(entry->fts_accpath);
	}
}

/* Calls back for each thing in the stage. */
static void each_entry(struct fetching *fetching,
		       void (*act)(const struct fetching *fetching, const FTSENT *entry))
{
	char *const roots[] = { fetching->stage, NULL };
	FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
	FTSENT *entry;

	while (fts && (entry = fts_read(fts)))
		act(fetching, entry);
	if (fts)
		fts_close(fts);
}

static int open_stage(struct fetching *fetching, struct error *err)
{
	struct stat st;

	if (lstat(fetching->stage, &st) == 0 && !S_ISDIR(st.st_mode))
		unlink(fetching->stage);
	if (mkdir(fetching->stage, S_IRWXU) < 0 && errno != EEXIST)
		return error_set_errno(err, errno, "'%.300s'", fetching->stage);
	each_entry(fetching, clean_entry);
	fetching->stage_fd = open(fetching->stage, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fetching->stage_fd < 0 ? error_set_errno(err, errno, "'%.300s'", fetching->stage)
				      : 0;
}

/* A guest's archive may bring devices, too. */
static void drop_special(const struct fetching *fetching, const FTSENT *entry)
{
	if (entry->fts_info == FTS_DEFAULT)
		unlink(entry->fts_accpath);
}

/* The folders above path, which stays inside. */
static void make_folders(int stage, const char *path)
{
	for (const char *p = path; (p = strchr(p, '/')); p++) {
		AUTO_FREE char *folder = strndup(path, (size_t)(p - path));

		mkdirat(stage, folder, S_IRWXU);
	}
}

/* Where nothing has the name yet; not every file system knows that by itself. */
static int rename_new(int from, const char *name, int to, const char *target)
{
	struct stat st;

	if (renameat2(from, name, to, target, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL || fstatat(to, target, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return -1;
	return renameat(from, name, to, target);
}

static int move_entries(int from, int to, struct error *err);

static int merge_folder(int from, int to, const char *name, mode_t mode, struct error *err)
{
	AUTO_CLOSE int sub = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	AUTO_CLOSE int into = openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int r;

	if (into < 0 && (errno == ENOTDIR || errno == ELOOP) && unlinkat(to, name, 0) == 0 &&
	    renameat(from, name, to, name) == 0)
		return 0;
	if (sub < 0 || into < 0 || fchmod(sub, mode | S_IRWXU) < 0)
		return error_set_errno(err, errno, "the folder '%.200s'", name);
	r = move_entries(sub, into, err);
	if (r == 0 && (fchmod(into, mode) < 0 || unlinkat(from, name, AT_REMOVEDIR) < 0))
		r = error_set_errno(err, errno, "the folder '%.200s'", name);
	return r;
}

static int move_entry(int from, int to, const char *name, struct error *err)
{
	struct stat st;

	if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return error_set_errno(err, errno, "'%.200s'", name);
	if (rename_new(from, name, to, name) == 0)
		return 0;
	if (S_ISDIR(st.st_mode))
		return merge_folder(from, to, name, st.st_mode & 0777, err);
	return renameat(from, name, to, name) < 0 ? error_set_errno(err, errno, "'%.200s'", name)
						  : 0;
}

static int move_entries(int from, int to, struct error *err)
{
	DIR *folder = fdopendir(dup(from));
	struct dirent *entry;
	int r = 0;

	if (!folder)
		return error_set_errno(err, errno, "a folder");
	while (r == 0 && (entry = readdir(folder)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			r = move_entry(from, to, entry->d_name, err);
	closedir(folder);
	return r;
}

/* The stage becomes the folder `name` beside it, or what is in it goes there. */
static int place(struct fetching *fetching, const char *name, struct error *err)
{
	AUTO_FREE char *target = text_format("%s/%s", fetching->copy->destination, name);
	AUTO_CLOSE int to = -1;
	int r;

	each_entry(fetching, drop_special);
	if (rename_new(AT_FDCWD, fetching->stage, AT_FDCWD, target) == 0)
		return 0;
	to = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (to < 0 || fchmod(fetching->stage_fd, S_IRWXU) < 0)
		return error_set_errno(err, errno, "'%.300s'", target);
	r = move_entries(fetching->stage_fd, to, err);
	if (r == 0)
		rmdir(fetching->stage);
	return r;
}

/* ---- from the guest ---- */

static int fetch_big(const struct fetching *fetching, const struct direct_item *item,
		     struct error *err)
{
	AUTO_FREE char *path = text_format("%s/%s", fetching->path, item->path),
		       *target = text_format("%s/%s", fetching->stage, item->path);
	struct timespec times[2] = { item->modified, item->modified };
	struct copy copy = *fetching->copy;
	int r;

	copy.destination = target;
	make_folders(fetching->stage_fd, item->path);
	r = copy_file_from_guest(&copy, path, err);
	if (r == 0)
		utimensat(fetching->stage_fd, item->path, times, AT_SYMLINK_NOFOLLOW);
	return r;
}

/* Fetches a large file, or leaves the item to tar. What is neither file, folder nor link stays
 * where it is. */
static int fetch_item(struct fetching *fetching, const struct direct_item *item, struct error *err)
{
	struct stat st;
	int r;

	if (!strchr("fdl", item->type))
		return 0;
	if (item->type == 'f' &&
	    fstatat(fetching->stage_fd, item->path, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	    is_same_file(item, &st))
		return 0;
	if (item->type != 'f' || item->size < BIG_FILE) {
		fprintf(fetching->names, "./%s%c", item->path, '\0');
		return 0;
	}
	r = fetch_big(fetching, item, err);
	if (r == -ERR_IO)
		fetching->incomplete = true;
	return r == -ERR_IO ? 0 : r;
}

static int fetch_names(struct fetching *fetching, int names, struct error *err)
{
	const char *const tar[] = {
		"tar", "-C", fetching->stage, "--no-same-owner", "--no-same-permissions", "-xf",
		"-",   NULL
	};
	AUTO_FREE char *quoted = direct_quote(fetching->path);
	pid_t pid;
	int fd = start_tar(tar, -1, &pid), status;

	status = copy_run_script(fetching->copy,
				 fetching->there.count
				     ? text_format("cd -- %s && exec " TAR_CREATE_TEXT, quoted)
				     : text_format("cd -- %s && exec tar -cf - .", quoted),
				 fetching->there.count ? names : -1, fd, err);
	close(fd);
	/* What can't be read there is no reason to throw the rest away. */
	if (status > 0 && status <= 128) {
		fetching->incomplete = true;
		status = 0;
	}
	return end_tar(pid, copy_judge(status, fetching->path, err), fetching->path, err);
}

static int fetch_all(struct fetching *fetching, struct error *err)
{
	int names, r = 0;

	fetching->names = list_new(&names);
	for (size_t i = 0; r == 0 && i < fetching->there.count; i++)
		r = fetch_item(fetching, &fetching->there.items[i], err);
	if (r == 0)
		r = list_end(fetching->names, names, err);
	if (r == 0)
		r = fetch_names(fetching, names, err);
	fclose(fetching->names);
	return r;
}

static int fetch_folder(struct fetching *fetching, const char *name, struct error *err)
{
	int r = open_stage(fetching, err);

	if (r == 0)
		r = fetch_all(fetching, err);
	if (r == 0)
		r = place(fetching, name, err);
	else
		rmdir(fetching->stage); /* if there is nothing in it */
	if (r == 0 && fetching->incomplete)
		r = error_set(err, ERR_IO, "not all of '%.200s' could be read in the guest",
			      fetching->path);
	return r;
}

#define IS_FILE 3 /* what a script says */
#define IS_GONE 4

int copy_folder_from_guest(const struct copy *copy, const char *path, struct error *err)
{
	AUTO_FREE char *name = name_of(path), *quoted = direct_quote(path);
	AUTO_FREE char *stage =
	    name ? text_format("%s/%s" PART_SUFFIX, copy->destination, name) : NULL;
	struct fetching fetching = { .copy = copy, .path = path, .stage = stage, .stage_fd = -1 };
	int r;

	if (!name)
		return error_set(err, ERR_INVALID, "'%.200s' is no name of a folder", path);
	if (mkdir(copy->destination, 0777) < 0 && errno != EEXIST)
		return error_set_errno(err, errno, "'%.300s'", copy->destination);
	r = ask_listing(copy,
			text_format("[ ! -f %s ] || exit %d; cd -- %s || exit %d; "
				    "exec find . -printf '%%y %%s %%T@ %%P\\0'",
				    quoted, IS_FILE, quoted, IS_GONE),
			&fetching.there, err);
	fetching.incomplete = r > 0 && fetching.there.count > 0;
	if (r == IS_FILE)
		r = copy_file_from_guest(copy, path, err);
	else if (r == IS_GONE)
		r = copy_judge(r, path, err);
	else if (r >= 0)
		r = fetch_folder(&fetching, name, err);
	if (fetching.stage_fd >= 0)
		close(fetching.stage_fd);
	listing_done(&fetching.there);
	return r;
}
