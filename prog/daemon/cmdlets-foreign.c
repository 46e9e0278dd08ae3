/*
 * Convert-VHD from and into formats that only qemu-img knows. The image of ours is served by an
 * oyako-disk as NBD, and qemu-img, a process of its own, reads or fills it there; nothing is
 * written twice.
 *
 *	from qcow2: qemu-img info -> new image, served -> qemu-img convert -> end serving -> name it
 *	into qcow2: image, served -> qemu-img convert into a folder beside -> end serving -> name it
 */
#include "cmdlets.h"

#include "base/guid.h"
#include "base/macros.h"
#include "sockets.h"
#include "tool.h"
#include "undo.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

struct conversion {
	struct request *request;
	struct daemon *daemon;
	const char *source, *target;
	const char *format; /* qemu-img's name of the foreign one */
	bool reads;         /* the source is the foreign one */
	char *socket;
	struct tool *tool;
	struct disk_job *job;
	struct process server; /* oyako-disk, when it serves */
	struct loop_fd *server_watch;
	struct output output; /* of a new image of ours */
	struct undo *undo;    /* of a foreign one: of a folder for it, and */
	char *made;           /* the file in there */
	struct error failure; /* code ERR_OK: none yet */
	bool cancelled;
};

static const struct {
	const char *end, *format;
} formats[] = {
	{ ".qcow2", "qcow2" },
	{ ".vmdk", "vmdk" },
	{ ".vdi", "vdi" },
};

const char *cmdlets_foreign_format(const char *path)
{
	size_t len = strlen(path);

	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		size_t end_len = strlen(formats[i].end);

		if (len > end_len && strcasecmp(path + len - end_len, formats[i].end) == 0)
			return formats[i].format;
	}
	return NULL;
}

/* ---- the end ---- */

static void conversion_free(struct conversion *c)
{
	struct request *request = c->request;

	undo_free(c->undo);
	output_done(&c->output);
	if (c->socket)
		unlink(c->socket);
	free(c->socket);
	free(c->made);
	free(c);
	request_release(request);
}

static void fail(struct conversion *c, const struct error *err)
{
	if (!c->failure.code)
		c->failure = *err;
	if (c->cancelled)
		error_set(&c->failure, ERR_CANCELLED, "it was cancelled");
}

static int sync_file(const char *path, struct error *err)
{
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	return fd < 0 || fsync(fd) < 0 ? error_set_errno(err, errno, "syncing '%.300s'", path) : 0;
}

/* Durable, for the source may be deleted then. */
static int name_foreign(struct conversion *c, struct error *err)
{
	const char *slash = strrchr(c->target, '/');
	AUTO_FREE char *folder = strndup(c->target, (size_t)(slash - c->target) + 1);
	int r = sync_file(c->made, err);

	if (r == 0 && renameat2(AT_FDCWD, c->made, AT_FDCWD, c->target, RENAME_NOREPLACE) < 0)
		r = error_set_errno(err, errno, "naming the finished file '%.300s'", c->target);
	return r == 0 ? sync_file(folder ? folder : "/", err) : r;
}

static void show(struct conversion *c)
{
	struct stat st;

	if (c->reads) {
		cmdlets_show_vhd(c->request, c->target);
		return;
	}
	if (stat(c->target, &st) < 0)
		st.st_size = 0;
	request_result(c->request, json_pack("{s:s, s:s, s:I}", "Path", c->target, "VhdFormat",
					     c->format, "FileSize", (json_int_t)st.st_size));
}

/* Nothing runs any more. */
static void conclude(struct conversion *c)
{
	struct error err;
	int r = 0;

	c->request->cancel = NULL;
	if (!c->failure.code)
		r = c->reads ? output_commit(&c->output, &err) : name_foreign(c, &err);
	if (r == 0 && !c->failure.code && request_switch(c->request, "DeleteSource") &&
	    unlink(c->source) < 0)
		r = error_set_errno(&err, errno, "it was converted, but deleting it failed");
	if (r < 0)
		fail(c, &err);
	if (c->failure.code)
		request_error(c->request, c->source, &c->failure);
	else
		show(c);
	conversion_free(c);
}

/* ---- the server ---- */

static void server_ended(void *user, uint32_t events)
{
	struct conversion *c = user;
	struct error err;
	char how[128];

	loop_fd_remove(c->server_watch);
	c->server_watch = NULL;
	spawn_reap(&c->server, how, sizeof(how));
	if (strcmp(how, "ended with status 0") != 0) {
		error_set(&err, ERR_IO, "the program oyako-disk %s", how);
		fail(c, &err);
	}
	/* If qemu-img still works, it fails now. */
	if (!c->tool)
		conclude(c);
}

static void converted(void *user, const char *text, const struct error *err)
{
	struct conversion *c = user;

	c->tool = NULL;
	if (err)
		fail(c, err);
	if (c->server_watch)
		spawn_end(&c->server);
	else
		conclude(c);
}

/* "    (12.34/100%)\r" */
static void on_progress(void *user, const char *text)
{
	struct conversion *c = user;
	const char *last = strrchr(text, '(');
	double percent;

	if (last && sscanf(last, "(%lf/100%%)", &percent) == 1)
		request_progress(c->request, c->source, "converting it, %.0f %%", percent);
}

static int run_qemu_img(struct conversion *c, struct error *err)
{
	static const struct tool_events events = { on_progress, converted };
	AUTO_FREE char *uri = NULL;
	int r;

	if (asprintf(&uri, "nbd+unix:///?socket=%s", c->socket) < 0)
		abort();
	if (c->reads) {
		const char *const arguments[] = {
			"qemu-img", "convert", "-p", "-n",  "--target-is-zero",
			"-f",       c->format, "-O", "raw", c->source,
			uri,        NULL
		};

		r = tool_start(c->daemon, arguments, &events, c, &c->tool, err);
	} else {
		const char *const arguments[] = { "qemu-img", "convert", "-p", "-f",    "raw",
						  "-O",       c->format, uri,  c->made, NULL };

		r = tool_start(c->daemon, arguments, &events, c, &c->tool, err);
	}
	return r;
}

static void serving(void *user, const json_t *result, struct process *process,
		    const struct error *err)
{
	struct conversion *c = user;
	struct error failure = { 0 };

	c->job = NULL;
	if (err) {
		fail(c, err);
		conclude(c);
		return;
	}
	c->server = *process;
	if (loop_fd_add(c->daemon->loop, c->server.pidfd, EPOLLIN, server_ended, c,
			&c->server_watch, &failure) < 0)
		abort();
	if (c->cancelled || run_qemu_img(c, &failure) < 0) {
		fail(c, &failure);
		spawn_end(&c->server);
	}
}

/* Takes message. */
static int start_server(struct conversion *c, json_t *message, struct error *err)
{
	static const struct disk_job_events events = { NULL, serving };
	AUTO_CLOSE int fd = -1;
	int fds[2];

	if (asprintf(&c->socket, "%s/disk/convert-%u.sock", c->daemon->paths.runtime,
		     c->request->id) < 0)
		abort();
	fd = sockets_listen(c->socket, SOCK_STREAM, err);
	if (fd < 0) {
		json_decref(message);
		return fd;
	}
	fds[0] = c->reads ? c->output.fd : fd;
	fds[1] = fd;
	return disk_job_start(c->daemon, message, fds, c->reads ? 2 : 1, DISK_JOB_SERVES, &events,
			      c, &c->job, err);
}

/* ---- from a foreign image ---- */

static bool in_folder_of(const char *file, const char *path)
{
	const char *a = strrchr(file, '/'), *b = strrchr(path, '/');

	return a && b && a - file == b - path && strncmp(file, path, (size_t)(a - file)) == 0;
}

/* An image may name any file of the host as a part of it, to have it copied into the disk. */
static int judge_parts(const struct conversion *c, const json_t *info, struct error *err)
{
	const json_t *data = json_object_get(json_object_get(info, "format-specific"), "data");
	const json_t *extents = json_object_get(data, "extents");

	if (json_object_get(info, "backing-filename") || json_object_get(data, "data-file"))
		return error_set(err, ERR_UNSUPPORTED,
				 "it stands on another file: make one image of both by "
				 "`qemu-img convert` first");
	for (size_t i = 0; i < json_array_size(extents); i++) {
		const char *file =
		    json_string_value(json_object_get(json_array_get(extents, i), "filename"));

		if (!file || !in_folder_of(file, c->source))
			return error_set(err, ERR_DENIED,
					 "its part '%.200s' is not in its own folder",
					 file ? file : "");
	}
	return 0;
}

static json_t *new_image(const struct conversion *c, uint64_t size)
{
	const char *type = request_string(c->request, "VHDType");
	bool azure = request_switch(c->request, "ForAzure");
	const char *format = NULL;

	if (cmdlets_target_format(c->request, c->target, &format, NULL) < 0)
		return NULL;
	return json_pack("{s:s, s:s, s:s, s:I, s:I, s:b}", "op", "serve", "format", format, "type",
			 azure || (type && strcmp(type, "Fixed") == 0) ? "fixed" : "dynamic",
			 "size", (json_int_t)ALIGN_UP(size, azure ? MIB : 512), "block",
			 request_integer(c->request, "BlockSizeBytes", 0), "sparse", !type);
}

static void informed(void *user, const char *text, const struct error *err)
{
	struct conversion *c = user;
	json_t *info = err ? NULL : json_loads(text, 0, NULL);
	json_int_t size = json_integer_value(json_object_get(info, "virtual-size"));
	struct error failure;
	int r = 0;

	c->tool = NULL;
	if (err)
		fail(c, err);
	else if (size <= 0)
		r = error_set(&failure, ERR_CORRUPT, "qemu-img does not say how large it is");
	else
		r = judge_parts(c, info, &failure);
	if (r == 0 && !c->failure.code && !c->cancelled)
		r = start_server(c, new_image(c, (uint64_t)size), &failure);
	json_decref(info);
	if (r < 0)
		fail(c, &failure);
	else if (c->cancelled)
		fail(c, &(struct error){ ERR_CANCELLED, 0, "" });
	if (c->failure.code)
		conclude(c);
}

static int begin_reading(struct conversion *c, struct error *err)
{
	static const struct tool_events events = { NULL, informed };
	const char *const arguments[] = { "qemu-img", "info", "--output=json", "-f", c->format,
					  c->source,  NULL };
	const char *format;
	int r = cmdlets_target_format(c->request, c->target, &format, err);

	if (r == 0)
		r = output_open(c->target, &c->output, err);
	return r < 0 ? r : tool_start(c->daemon, arguments, &events, c, &c->tool, err);
}

/* ---- into one ---- */

/* A folder, so that the file has its name from the start: VMDK writes it into itself. */
static int make_folder(struct conversion *c, struct error *err)
{
	const char *slash = strrchr(c->target, '/');
	AUTO_FREE char *folder = NULL;
	char id[GUID_TEXT_SIZE];
	struct guid guid;
	struct stat st;

	if (lstat(c->target, &st) == 0)
		return error_set(err, ERR_EXISTS, "there is a file '%.300s' already", c->target);
	guid_generate(&guid);
	guid_format(&guid, id);
	if (asprintf(&folder, "%.*s/.oyako-%.8s", (int)(slash - c->target), c->target, id) < 0 ||
	    asprintf(&c->made, "%s/%s", folder, slash + 1) < 0)
		abort();
	c->undo = undo_new(c->daemon);
	undo_add(c->undo, UNDO_OWN_FOLDER, folder);
	return undo_begin(c->undo, err);
}

static int begin_writing(struct conversion *c, struct error *err)
{
	int r;

	if (request_string(c->request, "VHDType") || request_switch(c->request, "ForAzure") ||
	    json_object_get(c->request->params, "BlockSizeBytes"))
		return error_set(
		    err, ERR_INVALID,
		    "-VHDType, -BlockSizeBytes and -ForAzure are for virtual hard disks");
	r = make_folder(c, err);
	if (r < 0)
		return r;
	return start_server(c,
			    json_pack("{s:s, s:s, s:b, s:b}", "op", "serve", "path", c->source,
				      "read_only", 1, "raw", cmdlets_is_raw(c->source)),
			    err);
}

/* ---- both ---- */

static void cancel(struct request *request)
{
	struct conversion *c = request->context;

	c->cancelled = true;
	if (c->job)
		disk_job_cancel(c->job);
	if (c->tool)
		tool_kill(c->tool);
}

void cmdlets_convert_foreign(struct request *request)
{
	struct conversion *c = calloc(1, sizeof(*c));
	const char *source = request_string(request, "Path");
	const char *target = request_string(request, "DestinationPath");
	struct error err;
	int r;

	if (!c)
		abort();
	*c = (struct conversion){ .request = request,
				  .daemon = request->daemon,
				  .source = source,
				  .target = target,
				  .reads = cmdlets_foreign_format(source) != NULL,
				  .output = { .fd = -1, .folder_fd = -1 } };
	c->format = cmdlets_foreign_format(c->reads ? source : target);
	request->context = c;
	request->cancel = cancel;
	request_hold(request);
	if (c->reads && cmdlets_foreign_format(target))
		r = error_set(&err, ERR_UNSUPPORTED,
			      "neither is a virtual hard disk: `qemu-img convert` does that alone");
	else
		r = c->reads ? begin_reading(c, &err) : begin_writing(c, &err);
	if (r < 0) {
		fail(c, &err);
		conclude(c);
	}
}
