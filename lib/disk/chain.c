#include "disk/chain.h"

#include "base/macros.h"
#include "base/text.h"
#include "spec/vhd.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

/* In the order in which Hyper-V looks. */
static const struct {
	const char *key;
	bool relative;
} path_keys[] = {
	{ "relative_path", true },          { VHD_LOCATOR_RELATIVE, true },
	{ VHD_LOCATOR_OLD_RELATIVE, true }, { "absolute_win32_path", false },
	{ VHD_LOCATOR_ABSOLUTE, false },    { VHD_LOCATOR_OLD_ABSOLUTE, false },
	{ "volume_path", false },           { "parent_name", false },
};

static int no_memory(struct error *err)
{
	return error_set(err, ERR_NO_MEMORY, "no memory for a disk's chain");
}

/* ---- paths ---- */

static void slashes(char *path)
{
	for (; *path; path++)
		if (*path == '\\')
			*path = '/';
}

static char *joined(const char *folder, const char *name)
{
	char *path;

	return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

/* A Windows path, slashes turned, as a path of this host: without `//?/` and drive or volume. */
static const char *without_drive(const char *path)
{
	if (strncmp(path, "//?/", 4) == 0 || strncmp(path, "//./", 4) == 0)
		path += 3;
	while (path[0] == '/' && path[1] == '/')
		path++;
	if (strncasecmp(path, "/Volume{", 8) == 0)
		return strchrnul(path + 1, '/');
	if (path[0] == '/' && isalpha((unsigned char)path[1]) && path[2] == ':')
		path++;
	if (isalpha((unsigned char)path[0]) && path[1] == ':')
		path += 2;
	return path;
}

/* The entry of a folder that is called so but for case; NULL if there is none. */
static char *entry_regardless_of_case(const char *folder, const char *name)
{
	DIR *dir = opendir(*folder ? folder : ".");
	struct dirent *entry;
	char *found = NULL;

	while (dir && !found && (entry = readdir(dir)))
		if (strcasecmp(entry->d_name, name) == 0)
			found = strdup(entry->d_name);
	if (dir)
		closedir(dir);
	return found;
}

/* Appends name, as it stands or as it is written there; NULL if neither is there. Frees folder. */
static char *descend(char *folder, const char *name)
{
	char *path = joined(folder, name);

	if (path && access(path, F_OK) < 0) {
		AUTO_FREE char *other = entry_regardless_of_case(folder, name);

		free(path);
		path = other ? joined(folder, other) : NULL;
	}
	free(folder);
	return path;
}

/* The path, each of its parts as it is written on this host; NULL if it is not there. */
static char *existing(const char *path)
{
	AUTO_FREE char *parts = strdup(path);
	char *found, *part, *rest = NULL;

	if (access(path, F_OK) == 0)
		return strdup(path);
	found = strdup(path[0] == '/' ? "" : ".");
	if (!parts || !found) {
		free(found);
		return NULL;
	}
	for (part = strtok_r(parts, "/", &rest); part && found; part = strtok_r(NULL, "/", &rest))
		if (strcmp(part, ".") != 0)
			found = descend(found, part);
	return found;
}

/* ---- one layer ---- */

static void layer_done(struct chain_layer *layer)
{
	if (!layer->path)
		return;
	disk_details_done(&layer->details);
	close(layer->fd);
	free(layer->path);
	layer->path = NULL;
}

static int open_layer(const char *path, struct chain_layer *ret, struct error *err)
{
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	struct chain_layer layer = { 0 };
	int rc;

	if (fd < 0)
		return error_set_errno(err, errno, "opening disk '%s'", path);
	rc = disk_describe(fd, &layer.details, err);
	if (rc < 0)
		return error_prefix(err, "disk '%s'", path);
	layer.path = strdup(path);
	if (!layer.path) {
		disk_details_done(&layer.details);
		return no_memory(err);
	}
	layer.fd = TAKE_FD(fd);
	*ret = layer;
	return 0;
}

/* ---- looking for a parent ---- */

struct search {
	const struct chain *chain;
	const struct chain_layer *child;
	char *folder; /* the child's */
	struct chain_layer found;
	bool circle;
	struct error why_not; /* of the first file that was there but isn't the parent */
	char looked[256];     /* where */
};

static bool same_file(int a, int b)
{
	struct stat x, y;

	return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev &&
	       x.st_ino == y.st_ino;
}

static bool already_there(const struct chain *chain, int fd)
{
	for (unsigned i = 0; i < chain->count; i++)
		if (same_file(chain->layers[i].fd, fd))
			return true;
	return false;
}

static void note_place(struct search *s, const char *path)
{
	size_t used = strlen(s->looked), left = sizeof(s->looked) - used;

	if (left > strlen(path) + 5 && !strstr(s->looked, path))
		snprintf(s->looked + used, left, "%s'%s'", used ? ", " : "", path);
}

/* True if the parent is there. */
static bool try_place(struct search *s, const char *path)
{
	AUTO_FREE char *here = existing(path);
	struct chain_layer layer = { 0 };
	struct error err;
	int rc;

	note_place(s, path);
	if (!here)
		return false;
	rc = open_layer(here, &layer, &err);
	if (rc == 0) {
		rc = disk_check_parent(&s->child->details, &layer.details, &err);
		if (rc < 0)
			error_prefix(&err, "'%s' is not the parent", here);
	}
	if (rc == 0 && already_there(s->chain, layer.fd)) {
		s->circle = true;
		rc = error_set(&err, ERR_CORRUPT, "'%s' would be its own parent", here);
	}
	if (rc == 0) {
		s->found = layer;
		return true;
	}
	layer_done(&layer);
	if (!s->why_not.text[0])
		s->why_not = err;
	return false;
}

static bool try_in_folder(struct search *s, const char *name)
{
	AUTO_FREE char *path = joined(s->folder, name);

	return path && try_place(s, path);
}

static bool try_key(struct search *s, const char *value, bool relative)
{
	AUTO_FREE char *path = strdup(value);

	if (!path)
		return false;
	slashes(path);
	if (relative || !strchr(path, '/'))
		return try_in_folder(s, path);
	return try_place(s, path) || (without_drive(path)[0] && try_place(s, without_drive(path)));
}

static bool try_last_component(struct search *s, const char *value)
{
	AUTO_FREE char *path = strdup(value);
	const char *name;

	if (!path)
		return false;
	slashes(path);
	name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	return *name && try_in_folder(s, name);
}

static bool try_everything(struct search *s)
{
	for (int last = 0; last < 2; last++) {
		for (size_t i = 0; i < ARRAY_SIZE(path_keys); i++) {
			const char *value =
			    disk_locator_value(&s->child->details, path_keys[i].key);

			if (value && (last ? try_last_component(s, value)
					   : try_key(s, value, path_keys[i].relative)))
				return true;
		}
	}
	return false;
}

static int explain(const struct search *s, struct error *err)
{
	if (s->circle)
		return error_set(err, ERR_CORRUPT, "the parents of disk '%s' form a circle: %s",
				 s->child->path, s->why_not.text);
	if (s->why_not.text[0])
		return error_set(err, ERR_INVALID,
				 "the parent of disk '%s' is not found: %s. If that or another "
				 "file is the right one, tell it by Set-VHD -ParentPath",
				 s->child->path, s->why_not.text);
	return error_set(err, ERR_NOT_FOUND,
			 "the parent of disk '%s' is not there: tell its place by Set-VHD "
			 "-ParentPath (looked for %s)",
			 s->child->path, s->looked[0] ? s->looked : "nothing: it names no path");
}

static int find_parent(const struct chain *chain, struct chain_layer *ret, struct error *err)
{
	struct search s = { .chain = chain, .child = &chain->layers[chain->count - 1] };
	int rc = 0;

	s.folder = text_folder(s.child->path);
	if (try_everything(&s))
		*ret = s.found;
	else
		rc = explain(&s, err);
	free(s.folder);
	return rc;
}

/* ---- the chain ---- */

static int add_layer(struct chain *chain, struct chain_layer *layer, struct error *err)
{
	struct chain_layer *bigger =
	    realloc(chain->layers, (chain->count + 1) * sizeof(*chain->layers));

	if (!bigger) {
		layer_done(layer);
		return no_memory(err);
	}
	chain->layers = bigger;
	chain->layers[chain->count++] = *layer;
	return 0;
}

int chain_resolve(const char *path, struct chain *ret, struct error *err)
{
	struct chain chain = { 0 };
	struct chain_layer layer;
	int rc = open_layer(path, &layer, err);

	if (rc == 0)
		rc = add_layer(&chain, &layer, err);
	while (rc == 0 && chain.layers[chain.count - 1].details.type == DISK_DIFFERENCING) {
		if (chain.count == DISK_CHAIN_MAX) {
			rc = error_set(err, ERR_LIMIT,
				       "disk '%s' has more than %u layers of parents", path,
				       DISK_CHAIN_MAX);
			break;
		}
		rc = find_parent(&chain, &layer, err);
		if (rc == 0)
			rc = add_layer(&chain, &layer, err);
	}
	if (rc < 0)
		chain_done(&chain);
	else
		*ret = chain;
	return rc;
}

void chain_done(struct chain *chain)
{
	for (unsigned i = 0; i < chain->count; i++)
		layer_done(&chain->layers[i]);
	free(chain->layers);
	*chain = (struct chain){ 0 };
}

int chain_layer_open(const struct chain_layer *layer, bool writable, struct error *err)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", layer->fd);
	fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	return fd < 0 ? error_set_errno(err, errno, "opening disk '%s'%s", layer->path,
					writable ? " for writing" : "")
		      : fd;
}

int chain_open(struct loop *loop, const struct chain *chain, const struct disk_options *options,
	       struct blk **ret, struct error *err)
{
	AUTO_FREE int *fds = calloc(chain->count, sizeof(*fds));
	unsigned count = 0;
	int rc = 0;

	if (!fds)
		return no_memory(err);
	while (rc == 0 && count < chain->count) {
		bool writable = count == 0 && !(options && options->read_only);

		fds[count] = chain_layer_open(&chain->layers[count], writable, err);
		if (fds[count] < 0)
			rc = fds[count];
		else
			count++;
	}
	if (rc == 0)
		rc = disk_open_chain(loop, fds, count, options, ret, err);
	if (rc < 0)
		while (count > 0)
			close(fds[--count]);
	return rc < 0 ? error_prefix(err, "disk '%s'", chain->layers[0].path) : 0;
}
