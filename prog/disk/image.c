#include "image.h"

#include "sandbox.h"

#include "base/macros.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

/* ---- finding ---- */

/* O_NONBLOCK: a FIFO in the file's place must not stop us. */
static int open_leaf(const char *path, int flags, struct error *err)
{
	AUTO_CLOSE int fd = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set_errno(err, errno, "opening it");
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return error_set(err, ERR_INVALID, "it is no file");
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	return TAKE_FD(fd);
}

static int describe_raw(int fd, struct disk_details *ret, struct error *err)
{
	off_t size = lseek(fd, 0, SEEK_END);

	if (size < 0)
		return error_set_errno(err, errno, "looking for its size");
	*ret = (struct disk_details){
		.format = DISK_RAW,
		.type = DISK_FIXED,
		.size_bytes = ALIGN_UP((uint64_t)size, 512),
		.file_bytes = (uint64_t)size,
		.logical_sector_bytes = 512,
		.physical_sector_bytes = 512,
	};
	return 0;
}

/* The leaf alone: it is raw, or its chain is not whole. */
static int find_leaf(const char *path, bool raw, struct chain *ret, struct error *err)
{
	struct chain_layer *layer = calloc(1, sizeof(*layer));
	int r;

	if (!layer)
		return error_set(err, ERR_NO_MEMORY, "no memory for an image");
	*ret = (struct chain){ layer, 1 };
	layer->path = strdup(path);
	layer->fd = open_leaf(path, O_RDONLY, err);
	r = layer->fd;
	if (r >= 0)
		r = raw ? describe_raw(layer->fd, &layer->details, err)
			: disk_describe(layer->fd, &layer->details, err);
	if (r < 0) {
		if (layer->fd >= 0)
			close(layer->fd);
		free(layer->path);
		free(layer);
	}
	return r;
}

static bool ends_with(const char *path, const char *end)
{
	size_t len = strlen(path), end_len = strlen(end);

	return len > end_len && strcasecmp(path + len - end_len, end) == 0;
}

/* What is named as a virtual hard disk and is none must not pass for a raw one. */
static int check_format(const char *path, const struct disk_details *details, struct error *err)
{
	bool vhdx = ends_with(path, ".vhdx") || ends_with(path, ".avhdx");
	bool vhd = ends_with(path, ".vhd") || ends_with(path, ".avhd");

	if ((vhdx && details->format != DISK_VHDX) || (vhd && details->format != DISK_VHD))
		return error_set(err, ERR_CORRUPT, "it is no %s file: it begins and ends as none",
				 vhdx ? "VHDX" : "VHD");
	return 0;
}

static int find_chain(const char *path, unsigned flags, struct image *image, struct error *err)
{
	int r = chain_resolve(path, &image->chain, err);

	if (r < 0 && (flags & IMAGE_LOOSE)) {
		image->chain_failure = *err;
		r = find_leaf(path, false, &image->chain, err);
	}
	if (r < 0)
		return r;
	r = check_format(path, image_details(image), err);
	if (r < 0)
		chain_done(&image->chain);
	else if (image->chain.count > 1)
		/* Without the ".." that relative paths are joined by. */
		image->parent = realpath(image->chain.layers[1].path, NULL);
	return r;
}

/* Between two opens the name may have come to mean another file. */
static int check_same(int a, int b, struct error *err)
{
	struct stat x, y;

	if (fstat(a, &x) < 0 || fstat(b, &y) < 0)
		return error_set_errno(err, errno, "looking at it");
	if (x.st_dev != y.st_dev || x.st_ino != y.st_ino)
		return error_set(err, ERR_BUSY, "it was replaced just now: try again");
	return 0;
}

int image_find(const char *path, unsigned flags, struct image *ret, struct error *err)
{
	struct image image = { .fd = -1 };
	int r;

	if (flags & IMAGE_WRITES) {
		image.fd = open_leaf(path, O_RDWR, err);
		if (image.fd < 0)
			return image.fd;
	}
	r = sandbox_enter_opening(err);
	if (r == 0)
		r = flags & IMAGE_RAW ? find_leaf(path, true, &image.chain, err)
				      : find_chain(path, flags, &image, err);
	if (r < 0) {
		if (image.fd >= 0)
			close(image.fd);
		return r;
	}
	if (image.fd >= 0)
		r = check_same(image.fd, image.chain.layers[0].fd, err);
	if (r < 0)
		image_close(&image, NULL);
	else
		*ret = image;
	return r;
}

/* ---- opening ---- */

/* One layer over those below it. */
static int open_layer(struct image *image, struct loop *loop, unsigned index, unsigned flags,
		      struct error *err)
{
	bool writes = index == 0 && (flags & IMAGE_WRITES);
	const struct chain_layer *layer = &image->chain.layers[index];
	struct disk_options options = {
		.format = layer->details.format,
		.read_only = !writes,
		.unlocked = flags & IMAGE_LOOKS,
		.parent = index + 1 < image->chain.count ? image->layers[index + 1] : NULL,
	};
	int fd = fcntl(writes ? image->fd : layer->fd, F_DUPFD_CLOEXEC, 0);
	int r;

	if (fd < 0)
		return error_set_errno(err, errno, "opening '%.200s'", layer->path);
	r = disk_open(loop, fd, &options, &image->layers[index], err);
	if (r < 0)
		close(fd);
	/* Of the leaf everybody knows that it is meant. */
	return r < 0 && index > 0 ? error_prefix(err, "its parent '%.200s'", layer->path) : r;
}

int image_open(struct image *image, struct loop *loop, unsigned flags, struct error *err)
{
	unsigned count = image->chain.count;
	int r = 0;

	if (image->chain_failure.code) {
		if (err)
			*err = image->chain_failure;
		return -(int)image->chain_failure.code;
	}
	image->layers = calloc(count, sizeof(struct blk *));
	if (!image->layers)
		return error_set(err, ERR_NO_MEMORY, "no memory for a chain of %u images", count);
	for (unsigned i = count; r == 0 && i-- > 0;)
		r = open_layer(image, loop, i, flags, err);
	if (r == 0)
		image->disk = (struct blk_layers){ image->layers, count };
	return r;
}

int image_sync(const struct image *image, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < image->chain.count; i++) {
		r = disk_sync(image->chain.layers[i].fd, err);
		if (r < 0)
			error_prefix(err, "'%.200s'", image->chain.layers[i].path);
	}
	return r;
}

int image_shut(struct image *image, struct error *err)
{
	struct blk *top = NULL;
	int r = 0;

	/* A layer owns its parent; after a failed open the top one is somewhere below. */
	for (unsigned i = 0; image->layers && !top && i < image->chain.count; i++)
		top = image->layers[i];
	if (top)
		r = blk_close(top, err);
	free(image->layers);
	image->layers = NULL;
	return r;
}

int image_close(struct image *image, struct error *err)
{
	int r = image_shut(image, err);

	if (image->fd >= 0)
		close(image->fd);
	chain_done(&image->chain);
	free(image->parent);
	*image = (struct image){ .fd = -1 };
	return r;
}

/* ---- describing ---- */

static const char *type_text(enum disk_type type)
{
	static const char *const names[] = { [DISK_FIXED] = "Fixed",
					     [DISK_DYNAMIC] = "Dynamic",
					     [DISK_DIFFERENCING] = "Differencing" };

	return names[type];
}

static const char *format_text(enum disk_format format)
{
	static const char *const names[] = {
		[DISK_RAW] = "RAW", [DISK_VHD] = "VHD", [DISK_VHDX] = "VHDX"
	};

	return names[format];
}

static json_t *id_text(const struct disk_details *details)
{
	char text[GUID_TEXT_SIZE];

	if (details->format == DISK_RAW)
		return json_null();
	guid_format(&details->id, text);
	for (char *p = text; *p; p++)
		*p = (char)toupper((unsigned char)*p);
	return json_string(text);
}

/* Where the parent is, or, where it can't be found, where the image says that it is. */
static json_t *parent_text(const struct disk_details *details, const char *parent)
{
	static const char *const keys[] = { "absolute_win32_path", "W2ku", "relative_path", "W2ru",
					    "parent_name" };

	if (details->type != DISK_DIFFERENCING)
		return json_null();
	for (size_t i = 0; !parent && i < ARRAY_SIZE(keys); i++)
		parent = disk_locator_value(details, keys[i]);
	return parent ? json_string(parent) : json_null();
}

static json_t *describe(const struct disk_details *details, const char *parent,
			uint64_t minimum_bytes)
{
	json_t *object = json_pack(
	    "{s:s, s:s, s:I, s:I, s:i, s:i, s:i, s:i, s:i}", "VhdFormat",
	    format_text(details->format), "VhdType", type_text(details->type), "FileSize",
	    (json_int_t)details->file_bytes, "Size", (json_int_t)details->size_bytes, "BlockSize",
	    (int)details->block_bytes, "LogicalSectorSize", (int)details->logical_sector_bytes,
	    "PhysicalSectorSize", (int)details->physical_sector_bytes, "FragmentationPercentage",
	    (int)disk_fragmentation_percent(details), "Alignment", 1);
	json_t *path = parent_text(details, parent);

	json_object_set_new(object, "MinimumSize",
			    minimum_bytes ? json_integer((json_int_t)minimum_bytes) : json_null());
	/* A path that is no UTF-8 is none that could be asked for. */
	json_object_set_new(object, "ParentPath", path ? path : json_null());
	json_object_set_new(object, "DiskIdentifier", id_text(details));
	return object;
}

json_t *image_describe(const struct image *image, uint64_t minimum_bytes)
{
	return describe(image_details(image), image->parent, minimum_bytes);
}

int image_describe_file(int fd, const char *parent, json_t **ret, struct error *err)
{
	struct disk_details details;
	int r = disk_describe(fd, &details, err);

	if (r < 0)
		return r;
	*ret = describe(&details, parent, 0);
	disk_details_done(&details);
	return 0;
}
