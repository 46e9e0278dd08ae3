/* Cmdlets about disk images that a running VM has: what its worker does behind the guest. */
#include "cmdlets.h"

#include "base/macros.h"
#include "base/parent-paths.h"
#include "checkpoint-fold.h"
#include "disk-user.h"
#include "files.h"
#include "mounts.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- Resize-VHD ---- */

void cmdlets_grow_live(struct request *request, const char *path, struct disk_user who)
{
	struct error err;

	if (request_switch(request, "ToMinimumSize")) {
		error_set(&err, ERR_STATE,
			  "it is in use by virtual machine '%.100s', and can only grow under it",
			  who.vm->config->name);
		request_error(request, path, &err);
		return;
	}
	disk_user_ask(request, path, who,
		      json_pack("{s:s, s:I}", "op", "grow-drive", "size_bytes",
				request_integer(request, "SizeBytes", 0)),
		      NULL, 0);
}

/* ---- Set-VHD -ParentPath -LeafPath ---- */

static int set_parent(struct request *request, struct disk_user who, struct error *err)
{
	const char *path = request_string(request, "Path");
	const char *parent = request_string(request, "ParentPath");
	AUTO_CLOSE int child_fd = files_open_layer(path, O_RDWR, err), parent_fd = -1;
	struct parent_paths paths;
	int r = child_fd;

	if (r >= 0)
		r = parent_fd = files_open_layer(parent, O_RDONLY, err);
	if (r >= 0)
		r = parent_paths_make(path, parent, &paths, err);
	if (r < 0)
		return r;
	disk_user_ask(request, path, who,
		      json_pack("{s:s, s:s, s:s}", "op", "set-parent-path", "absolute",
				paths.absolute, "relative", paths.relative),
		      (int[]){ child_fd, parent_fd }, 2);
	parent_paths_done(&paths);
	return 0;
}

void cmdlets_set_parent_live(struct request *request, struct disk_user who)
{
	struct error err;

	if (set_parent(request, who, &err) < 0)
		request_error(request, request_string(request, "Path"), &err);
}

/* ---- Merge-VHD ---- */

struct live_merge {
	struct request *request;
	struct vm *vm; /* NULL: it is looked for */
	char *path, *into;
};

static void merge_free(struct live_merge *merge)
{
	struct request *request = merge->request;

	if (merge->vm) {
		fold_forget(merge->vm, request);
		vm_unref(merge->vm);
	}
	free(merge->path);
	free(merge->into);
	free(merge);
	request_release(request);
}

static void merged(void *user, const char *into, const struct error *err)
{
	struct live_merge *merge = user;

	merge->request->cancel = NULL;
	if (err)
		request_error(merge->request, merge->path, err);
	else
		cmdlets_show_vhd(merge->request, into);
	merge_free(merge);
}

static void cancel_merge(struct request *request)
{
	struct live_merge *merge = request->context;

	if (merge->vm)
		fold_cancel(merge->vm, merge);
}

static int begin_merge(struct live_merge *merge, struct disk_user who, struct error *err)
{
	const struct fold_merge what = { .disk = who.disk,
					 .path = merge->path,
					 .into = merge->into,
					 .watcher = merge->request,
					 .done = merged,
					 .user = merge };
	const struct mount *mount = mounts_by_path(merge->request->daemon->mounts, merge->path);

	if (merge->request->cancelled)
		return error_set(err, ERR_CANCELLED, "it was cancelled");
	if (mount)
		return error_set(err, ERR_BUSY,
				 "it is mounted as disk %u: Dismount-VHD comes first",
				 mount->number);
	if (!who.vm)
		return error_set(err, ERR_BUSY, "it is in use by another process");
	merge->vm = vm_ref(who.vm);
	return fold_merge(who.vm, &what, err);
}

static void user_found(void *user, struct disk_user who, const struct error *failure)
{
	struct live_merge *merge = user;
	struct error err;

	merge->request->context = merge;
	merge->request->cancel = cancel_merge;
	if (!failure && begin_merge(merge, who, &err) == 0)
		return;
	merge->request->cancel = NULL;
	request_error(merge->request, merge->path, failure ? failure : &err);
	merge_free(merge);
}

void cmdlets_merge_live(struct request *request, const char *path, const char *into)
{
	struct live_merge *merge = calloc(1, sizeof(*merge));

	if (!merge)
		abort();
	*merge =
	    (struct live_merge){ .request = request, .path = strdup(path), .into = strdup(into) };
	if (!merge->path || !merge->into)
		abort();
	request_hold(request);
	disk_user_find(request->daemon, path, user_found, merge);
}
