/*
 * Copy-Item of files; direct-folder.c has folders. A file grows beside its place, as
 * NAME.oyako-part, and takes its place only when all of it is there. The part of a copy that was
 * interrupted stays; the next copy of that file goes on behind it, if the part is what the file
 * begins with: both sides compute its SHA-256.
 */
#include "direct-copy.h"

#include "base/macros.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

/* A shorter part is not worth the questions. */
#define RESUME_MIN  ((long long)MIB)
#define PROGRESS_MS 500

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash && slash[1] ? slash + 1 : path;
}

int copy_run_script(const struct copy *copy, char *script, int in, int out, struct error *err)
{
	AUTO_FREE char *quoted = direct_quote(script), *text = NULL;
	struct direct_command command = { .in = in, .out = out, .err = STDERR_FILENO };

	free(script);
	if (asprintf(&text, "exec /bin/sh -c %s", quoted) < 0)
		abort();
	command.text = text;
	return direct_run(copy->client, copy->vm, copy->credential, &command, err);
}

int copy_judge(int status, const char *what, struct error *err)
{
	if (status > 128)
		return error_set(err, ERR_CANCELLED,
				 "copying '%.200s' was interrupted in the guest", what);
	if (status > 0)
		return error_set(err, ERR_IO, "copying '%.200s' failed in the guest", what);
	return status;
}

/* ---- progress ---- */

/* Says on a terminal how far a copy is, in a thread of its own. Whoever moves the bytes, we or ssh:
 * the offset of the file's descriptor is the same. */
struct progress {
	const char *name;
	int fd;
	long long total; /* 0: not known */
	int stop_fd;     /* -1: nobody looks */
	pthread_t thread;
};

static void show(const struct progress *progress)
{
	long long at = lseek(progress->fd, 0, SEEK_CUR);

	if (progress->total)
		fprintf(stderr, "\r\033[K%s: copying, %lld of %lld KB (%d%%)", progress->name,
			at / 1024, progress->total / 1024,
			(int)(MIN(at, progress->total) * 100 / progress->total));
	else
		fprintf(stderr, "\r\033[K%s: copying, %lld KB", progress->name, at / 1024);
	fflush(stderr);
}

static void *watch(void *user)
{
	const struct progress *progress = user;
	struct pollfd stop = { progress->stop_fd, POLLIN, 0 };

	while (poll(&stop, 1, PROGRESS_MS) <= 0)
		show(progress);
	fprintf(stderr, "\r\033[K");
	return NULL;
}

static void progress_start(struct progress *progress)
{
	progress->stop_fd = isatty(STDERR_FILENO) ? eventfd(0, EFD_CLOEXEC) : -1;
	if (progress->stop_fd >= 0 && pthread_create(&progress->thread, NULL, watch, progress) != 0)
		close(TAKE_FD(progress->stop_fd));
}

static void progress_end(struct progress *progress)
{
	if (progress->stop_fd < 0)
		return;
	eventfd_write(progress->stop_fd, 1);
	pthread_join(progress->thread, NULL);
	close(progress->stop_fd);
}

/* ---- what is there of an interrupted copy ---- */

#define HASH_BYTES 32
#define HASH_TEXT  (2 * HASH_BYTES + 1)

/* Of the first len bytes; false: the file is shorter, or can't be read. */
static bool hash_file(int fd, long long len, char ret[HASH_TEXT])
{
	uint8_t digest[HASH_BYTES], *block = malloc(MIB);
	gnutls_hash_hd_t hash;
	long long at = 0;
	ssize_t n = 1;

	if (!block || gnutls_hash_init(&hash, GNUTLS_DIG_SHA256) < 0)
		abort();
	for (; at < len && n > 0; at += MAX(n, 0)) {
		n = pread(fd, block, (size_t)MIN((long long)MIB, len - at), at);
		if (n > 0)
			gnutls_hash(hash, block, (size_t)n);
	}
	gnutls_hash_deinit(hash, digest);
	free(block);
	for (size_t i = 0; i < HASH_BYTES; i++)
		snprintf(ret + 2 * i, 3, "%02x", digest[i]);
	return at == len;
}

/* What the guest says to a script is a number and a hash, as `wc -c` and `sha256sum` print them.
 * Either may be missing: *ret_size is 0 then, ret_hash empty. */
static int ask_guest(const struct copy *copy, char *script, long long *ret_size,
		     char ret_hash[HASH_TEXT], struct error *err)
{
	char answer[200] = "";
	int pipe_fds[2], r;

	if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) < 0)
		abort();
	r = copy_run_script(copy, script, -1, pipe_fds[1], err);
	close(pipe_fds[1]);
	if (r == 0 && read(pipe_fds[0], answer, sizeof(answer) - 1) < 0)
		answer[0] = '\0';
	close(pipe_fds[0]);
	*ret_size = 0;
	ret_hash[0] = '\0';
	if (sscanf(answer, "%18lld %64[0-9a-f]", ret_size, ret_hash) < 1 || *ret_size < 0)
		*ret_size = 0;
	return copy_judge(r, "asking for a part", err);
}

/* ---- a file to the guest ---- */

/* Sets $d to the file's place in the guest and $t to its part. */
static char *place_in_guest(const struct copy *copy, const char *path)
{
	AUTO_FREE char *to = direct_quote(copy->destination), *name = direct_quote(base_name(path));

	return text_format("d=%s; %sif [ -d \"$d\" ]; then d=\"${d%%/}/\"%s; fi; "
			   "t=\"$d.oyako-part\"; ",
			   to, copy->into_folder ? "mkdir -p \"$d\"; " : "", name);
}

/* How much of the file the guest has already. */
static int find_part_in_guest(const struct copy *copy, const char *place, int fd, long long size,
			      long long *ret, struct error *err)
{
	char theirs[HASH_TEXT], ours[HASH_TEXT];
	long long part;
	int r;

	*ret = 0;
	if (size < RESUME_MIN)
		return 0;
	r = ask_guest(copy,
		      text_format("%s [ ! -f \"$t\" ] || { s=$(wc -c <\"$t\"); echo $s; "
				  "[ $s -lt %lld ] || [ $s -gt %lld ] || sha256sum <\"$t\"; }",
				  place, RESUME_MIN, size),
		      &part, theirs, err);
	if (r == 0 && part >= RESUME_MIN && part <= size && hash_file(fd, part, ours) &&
	    strcmp(ours, theirs) == 0)
		*ret = part;
	return r;
}

/* A part that the guest could not write goes; one whose copy was interrupted stays. */
int copy_file_to_guest(const struct copy *copy, const char *path, int fd, const struct stat *st,
		       struct error *err)
{
	AUTO_FREE char *place = place_in_guest(copy, path);
	struct progress progress = { .name = path, .fd = fd, .total = st->st_size };
	long long at = 0;
	int r = find_part_in_guest(copy, place, fd, st->st_size, &at, err);

	if (r < 0)
		return r;
	if (lseek(fd, at, SEEK_SET) < 0)
		return error_set_errno(err, errno, "'%.300s'", path);
	progress_start(&progress);
	r = copy_run_script(
	    copy,
	    text_format("set -e; %s [ %lld -gt 0 ] || : >\"$t\"; "
			"[ \"$(wc -c <\"$t\")\" -eq %lld ]; "
			"cat >>\"$t\" || { [ $? -gt 128 ] || rm -f \"$t\"; exit 1; }; "
			"[ \"$(wc -c <\"$t\")\" -eq %lld ]; chmod %o \"$t\"; "
			"touch -d @%lld.%09ld \"$t\" 2>/dev/null || :; "
			"mv -f \"$t\" \"$d\"",
			place, at, at, (long long)st->st_size, st->st_mode & 0777,
			(long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec),
	    fd, STDOUT_FILENO, err);
	progress_end(&progress);
	return copy_judge(r, path, err);
}

static int item_to_guest(const struct copy *copy, const char *path, struct error *err)
{
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set_errno(err, errno, "'%.300s'", path);
	if (S_ISREG(st.st_mode))
		return copy_file_to_guest(copy, path, fd, &st, err);
	if (!S_ISDIR(st.st_mode))
		return error_set(err, ERR_INVALID, "'%.300s' is neither a file nor a folder", path);
	if (!copy->recurse)
		return error_set(err, ERR_INVALID, "'%.300s' is a folder: add -Recurse", path);
	return copy_folder_to_guest(copy, path, err);
}

/* ---- from the guest ---- */

static char *local_target(const struct copy *copy, const char *path)
{
	struct stat st;

	if (stat(copy->destination, &st) == 0 && S_ISDIR(st.st_mode))
		return text_format("%s/%s", copy->destination, base_name(path));
	return strdup(copy->destination);
}

/* How much of the guest's file the part holds already, and how long the file is (0: nobody wants to
 * know). */
static int check_part(const struct copy *copy, const char *quoted, int fd, long long *ret_at,
		      long long *ret_total, struct error *err)
{
	char theirs[HASH_TEXT], ours[HASH_TEXT];
	long long part = lseek(fd, 0, SEEK_END);
	int r;

	*ret_at = *ret_total = 0;
	part = part < RESUME_MIN ? 0 : part;
	if (!part && !isatty(STDERR_FILENO))
		return 0;
	r = ask_guest(
	    copy,
	    text_format("[ ! -f %s ] || { wc -c <%s; [ %lld -eq 0 ] || head -c %lld <%s | "
			"sha256sum; }",
			quoted, quoted, part, part, quoted),
	    ret_total, theirs, err);
	if (r == 0 && part && *ret_total >= part && hash_file(fd, part, ours) &&
	    strcmp(ours, theirs) == 0)
		*ret_at = part;
	return r;
}

static int fetch(const struct copy *copy, const char *path, int fd, struct error *err)
{
	AUTO_FREE char *quoted = direct_quote(path);
	struct progress progress = { .name = path, .fd = fd };
	long long at;
	int r = check_part(copy, quoted, fd, &at, &progress.total, err);

	if (r < 0)
		return r;
	if (ftruncate(fd, at) < 0 || lseek(fd, at, SEEK_SET) < 0)
		return error_set_errno(err, errno, "the part of '%.300s'", path);
	progress_start(&progress);
	r = copy_run_script(copy, text_format("exec tail -c +%lld -- %s", at + 1, quoted), -1, fd,
			    err);
	progress_end(&progress);
	return copy_judge(r, path, err);
}

int copy_file_from_guest(const struct copy *copy, const char *path, struct error *err)
{
	AUTO_FREE char *target = local_target(copy, path),
		       *part = text_format("%s.oyako-part", target);
	AUTO_CLOSE int fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	struct stat st;
	int r;

	if (fd < 0)
		return error_set_errno(err, errno, "'%.300s'", part);
	r = fetch(copy, path, fd, err);
	if (r == 0 && rename(part, target) < 0)
		r = error_set_errno(err, errno, "'%.300s'", target);
	if (r < 0 && (fstat(fd, &st) < 0 || st.st_size < RESUME_MIN))
		unlink(part);
	return r;
}

static int item_from_guest(const struct copy *copy, const char *path, struct error *err)
{
	return copy->recurse ? copy_folder_from_guest(copy, path, err)
			     : copy_file_from_guest(copy, path, err);
}

int direct_copy_item(struct client *client, const json_t *params)
{
	const char *to = direct_text(params, "ToSession"),
		   *from = direct_text(params, "FromSession");
	const json_t *paths = json_object_get(params, "Path");
	struct direct_credential credential;
	struct copy copy = { .client = client,
			     .vm = to ? to : from,
			     .destination = direct_text(params, "Destination"),
			     .recurse = json_is_true(json_object_get(params, "Recurse")),
			     .credential = &credential };
	struct error err;
	int r = direct_take_credential(params, &credential, &err);

	for (size_t i = 0; r == 0 && i < json_array_size(paths); i++) {
		const char *path = json_string_value(json_array_get(paths, i));

		r = to ? item_to_guest(&copy, path, &err) : item_from_guest(&copy, path, &err);
	}
	direct_forget_credential(&credential);
	return r < 0 ? (direct_complain(copy.vm, &err), 1) : 0;
}
