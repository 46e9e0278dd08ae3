/*
 * Some pieces are on their way at once, each in a buffer of its own: read, then written where it is
 * not zero, run by run. The next piece is looked for while there is a free buffer.
 */
#include "blk/copy.h"

#include "base/loop.h"
#include "base/macros.h"
#include "blk/sync.h"

#include <string.h>

#define SLOT_COUNT  8u
#define SLOT_BYTES  (256 * KIB)
#define GRAIN_BYTES (64 * KIB) /* zeros of at least so many bytes are left out */
/* Metadata is asked for at most so much at once, so that the copy can be cancelled. */
#define LOOK_BYTES (64 * GIB)

struct copy;

struct slot {
	struct copy *copy;
	struct blk_request req;
	struct iovec iov;
	uint8_t *buf;
	uint64_t offset, length; /* of the piece */
	uint64_t written;        /* of the piece, with the zeros between */
	struct slot *next_free;
};

struct copy {
	const struct blk_copy *options;
	struct slot slots[SLOT_COUNT];
	struct slot *free;
	unsigned busy;
	uint64_t size, next; /* where to look for the next piece */
	uint64_t data_left;  /* of the extent at next */
	uint64_t done;
	struct error failure; /* code ERR_OK: none */
};

static bool is_zero(const uint8_t *p, size_t len)
{
	return len == 0 || (p[0] == 0 && memcmp(p, p + 1, len - 1) == 0);
}

static void fail(struct copy *copy, enum blk_result result, const char *what, uint64_t offset)
{
	if (copy->failure.code)
		return;
	if (result == BLK_NO_SPACE)
		error_set(&copy->failure, ERR_NO_SPACE, "the host's storage is full");
	else
		error_set(&copy->failure, ERR_IO, "%s the disk at %#lx failed (%s)", what, offset,
			  blk_result_name(result));
}

static void put_slot(struct slot *slot)
{
	slot->next_free = slot->copy->free;
	slot->copy->free = slot;
	slot->copy->busy--;
	slot->copy->done += slot->length;
}

static void write_next_run(struct slot *slot);

static void written(struct blk_request *req, enum blk_result result)
{
	struct slot *slot = container_of(req, struct slot, req);

	if (result != BLK_OK)
		fail(slot->copy, result, "writing", slot->req.offset);
	write_next_run(slot);
}

/* The grain at `at` of the piece; the last one may be short. */
static bool grain_is_zero(const struct slot *slot, uint64_t at)
{
	return is_zero(slot->buf + at, MIN(GRAIN_BYTES, slot->length - at));
}

static void write_next_run(struct slot *slot)
{
	uint64_t start = slot->written, end;

	while (start < slot->length && grain_is_zero(slot, start))
		start += GRAIN_BYTES;
	if (start >= slot->length || slot->copy->failure.code) {
		put_slot(slot);
		return;
	}
	end = start + GRAIN_BYTES;
	while (end < slot->length && !grain_is_zero(slot, end))
		end += GRAIN_BYTES;
	end = MIN(end, slot->length);
	slot->written = end;
	slot->iov = (struct iovec){ slot->buf + start, end - start };
	slot->req = (struct blk_request){ .op = BLK_WRITE,
					  .offset = slot->offset + start,
					  .length = end - start,
					  .iov = &slot->iov,
					  .iov_count = 1,
					  .done = written };
	blk_submit(slot->copy->options->target, &slot->req);
}

static void was_read(struct blk_request *req, enum blk_result result)
{
	struct slot *slot = container_of(req, struct slot, req);

	if (result != BLK_OK)
		fail(slot->copy, result, "reading", slot->offset);
	slot->written = 0;
	write_next_run(slot);
}

static void read_piece(struct copy *copy, uint64_t length)
{
	struct slot *slot = copy->free;

	copy->free = slot->next_free;
	copy->busy++;
	slot->offset = copy->next;
	slot->length = length;
	slot->iov = (struct iovec){ slot->buf, length };
	slot->req = (struct blk_request){ .op = BLK_READ,
					  .offset = slot->offset,
					  .length = length,
					  .iov = &slot->iov,
					  .iov_count = 1,
					  .done = was_read };
	copy->next += length;
	copy->data_left -= length;
	blk_submit(copy->options->source->layers[0], &slot->req);
}

static void look_further(struct copy *copy)
{
	struct blk_extent extent;

	if (blk_layers_extent(copy->options->source, copy->next,
			      MIN(LOOK_BYTES, copy->size - copy->next), &extent,
			      &copy->failure) < 0)
		return;
	if (extent.kind == BLK_EXTENT_DATA) {
		copy->data_left = extent.length_bytes;
	} else {
		copy->next += extent.length_bytes;
		copy->done += extent.length_bytes;
	}
}

/* Pieces end at multiples of SLOT_BYTES, so that no block of the target is touched by two. */
static void start_some(struct copy *copy)
{
	if (copy->data_left == 0)
		look_further(copy);
	while (copy->free && copy->data_left > 0 && !copy->failure.code)
		read_piece(copy, MIN(copy->data_left, SLOT_BYTES - copy->next % SLOT_BYTES));
}

static void run(struct copy *copy)
{
	const struct blk_copy *options = copy->options;

	while ((copy->next < copy->size && !copy->failure.code) || copy->busy) {
		if (copy->next < copy->size && copy->free && !copy->failure.code)
			start_some(copy);
		if (!copy->free || copy->next >= copy->size || copy->failure.code) {
			if (copy->busy)
				loop_step(options->loop, -1);
		} else {
			loop_step(options->loop, 0);
		}
		if (options->step && !copy->failure.code &&
		    !options->step(options->user, copy->done, copy->size))
			error_set(&copy->failure, ERR_CANCELLED, "it was cancelled");
	}
}

static int get_buffers(struct copy *copy, struct error *err)
{
	for (unsigned i = 0; i < SLOT_COUNT; i++) {
		struct slot *slot = &copy->slots[i];

		if (posix_memalign((void **)&slot->buf, 4096, SLOT_BYTES) != 0) {
			slot->buf = NULL;
			return error_set(err, ERR_NO_MEMORY, "no memory to copy a disk");
		}
		slot->copy = copy;
		slot->next_free = copy->free;
		copy->free = slot;
	}
	return 0;
}

int blk_copy(const struct blk_copy *options, struct error *err)
{
	struct copy *copy = calloc(1, sizeof(*copy));
	int r;

	if (!copy)
		return error_set(err, ERR_NO_MEMORY, "no memory to copy a disk");
	copy->options = options;
	copy->size = blk_info(options->source->layers[0])->size_bytes;
	r = get_buffers(copy, err);
	if (r == 0) {
		run(copy);
		if (!copy->failure.code) {
			enum blk_result result = blk_flush_now(options->target);

			if (result != BLK_OK)
				fail(copy, result, "syncing", copy->size);
		}
		if (copy->failure.code && err)
			*err = copy->failure;
		r = -(int)copy->failure.code;
	}
	for (unsigned i = 0; i < SLOT_COUNT; i++)
		free(copy->slots[i].buf);
	free(copy);
	return r;
}
