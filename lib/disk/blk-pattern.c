#include "disk/blk-pattern.h"

#include "base/loop.h"
#include "base/macros.h"
#include "blk/blk-backend.h"

#include <stdlib.h>
#include <string.h>

#define SECTOR 512u

struct pattern {
	struct blk blk;
	struct loop_kick *kick;
	uint64_t (*value_of)(uint64_t offset);
	struct blk_request *first, **tail;
};

/* Up to the end of the sector or of the bytes; returns how many. */
static size_t fill_sector(const struct pattern *p, uint64_t at, uint8_t *bytes, size_t len)
{
	uint64_t value = p->value_of(ALIGN_DOWN(at, (uint64_t)SECTOR)), word[SECTOR / 8];

	for (unsigned i = 0; i < ARRAY_SIZE(word); i++)
		word[i] = value;
	len = MIN(len, SECTOR - at % SECTOR);
	memcpy(bytes, (const uint8_t *)word + at % SECTOR, len);
	return len;
}

static void fill(const struct pattern *p, const struct blk_request *req)
{
	uint64_t at = req->offset;

	for (unsigned i = 0; i < req->iov_count; i++)
		for (size_t done = 0, n; done < req->iov[i].iov_len; done += n, at += n)
			n = fill_sector(p, at, (uint8_t *)req->iov[i].iov_base + done,
					req->iov[i].iov_len - done);
}

static void complete_one(struct pattern *p)
{
	struct blk_request *req = p->first;

	p->first = req->next;
	if (!p->first)
		p->tail = &p->first;
	blk_complete(req, req->result);
}

static void kicked(void *user)
{
	struct pattern *p = user;

	while (p->first)
		complete_one(p);
}

static void pattern_defer(struct blk *blk, struct blk_request *req)
{
	struct pattern *p = container_of(blk, struct pattern, blk);

	*p->tail = req;
	p->tail = &req->next;
	loop_kick(p->kick);
}

static void pattern_submit(struct blk *blk, struct blk_request *req)
{
	if (req->op == BLK_READ)
		fill(container_of(blk, struct pattern, blk), req);
	pattern_defer(blk, req);
}

static void pattern_wait(struct blk *blk)
{
	complete_one(container_of(blk, struct pattern, blk));
}

static int pattern_close(struct blk *blk, struct error *err)
{
	struct pattern *p = container_of(blk, struct pattern, blk);

	loop_kick_free(p->kick);
	free(p);
	return 0;
}

struct blk *blk_pattern_new(struct loop *loop, uint64_t size_bytes, uint32_t logical_sector_bytes,
			    uint64_t (*value_of)(uint64_t offset))
{
	static const struct blk_ops ops = { .name = "pattern",
					    .submit = pattern_submit,
					    .defer = pattern_defer,
					    .wait = pattern_wait,
					    .close = pattern_close };
	struct blk_info info = { .size_bytes = size_bytes,
				 .logical_sector_bytes = logical_sector_bytes,
				 .physical_sector_bytes = logical_sector_bytes,
				 .read_only = true };
	struct pattern *p = calloc(1, sizeof(*p));

	if (!p || loop_kick_new(loop, kicked, p, &p->kick, NULL) < 0)
		abort();
	blk_init(&p->blk, &ops, &info);
	p->value_of = value_of;
	p->tail = &p->first;
	return &p->blk;
}
