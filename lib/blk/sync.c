#include "blk/sync.h"

#include "base/macros.h"
#include "blk/blk-backend.h"

struct waiting {
	struct blk_request req;
	bool done;
	enum blk_result result;
};

static void arrived(struct blk_request *req, enum blk_result result)
{
	struct waiting *w = container_of(req, struct waiting, req);

	w->done = true;
	w->result = result;
}

enum blk_result blk_run_now(struct blk *blk, enum blk_op op, uint32_t flags, uint64_t offset,
			    void *buf, uint64_t length)
{
	struct iovec iov = { buf, length };
	struct waiting w = { .req = { .op = op,
				      .flags = flags,
				      .offset = offset,
				      .length = length,
				      .iov = &iov,
				      .iov_count = 1,
				      .done = arrived } };

	blk_submit(blk, &w.req);
	while (!w.done)
		blk->ops->wait(blk);
	return w.result;
}
