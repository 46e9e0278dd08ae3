/*
 * The rate is kept by virtual scheduling: next_ns is when the next request would be due if all came
 * evenly; one may come so much earlier that BURST_NS of them are let through at once.
 */
#include "blk/gate.h"

#include "base/clock.h"
#include "base/loop.h"
#include "base/macros.h"
#include "blk/blk-backend.h"
#include "blk/pool.h"

#include <stdlib.h>

#define BURST_NS  (50 * NS_PER_MSEC)
#define WINDOW_NS (2 * NS_PER_SEC) /* over which the minimum is watched */

struct gate_io {
	struct blk_request below;
	struct blk_request *req;
	struct gate *gate;
	struct gate_io *next;
	bool troubled; /* the storage has failed it before */
};

struct gate_list {
	struct gate_io *first, **tail;
};

struct gate {
	struct blk blk;
	struct blk *below;
	struct gate_events events;
	struct pool ios;
	unsigned passed; /* requests below */

	uint32_t maximum;
	uint64_t next_ns;
	struct gate_list early; /* in front of the rate */
	struct loop_timer *timer;

	uint32_t minimum;
	uint64_t window_ns, window_units; /* begun at; done since */
	bool slow;

	struct gate_list failed;
	unsigned troubled; /* those, and what is being tried again */
};

static struct gate *gate_of(const struct blk *blk)
{
	return container_of(blk, struct gate, blk);
}

/* ---- lists ---- */

static void list_init(struct gate_list *list)
{
	list->first = NULL;
	list->tail = &list->first;
}

static void list_add(struct gate_list *list, struct gate_io *io)
{
	io->next = NULL;
	*list->tail = io;
	list->tail = &io->next;
}

static struct gate_io *list_take(struct gate_list *list)
{
	struct gate_io *io = list->first;

	if (io)
		list->first = io->next;
	if (!list->first)
		list->tail = &list->first;
	return io;
}

/* ---- the minimum ---- */

static uint64_t units(const struct blk_request *req)
{
	bool transfers = req->op == BLK_READ || req->op == BLK_WRITE;

	return transfers
		   ? MAX((req->length + GATE_NORMAL_BYTES - 1) / GATE_NORMAL_BYTES, UINT64_C(1))
		   : 1;
}

static void begin_window(struct gate *gate)
{
	gate->window_ns = clock_now_ns();
	gate->window_units = 0;
}

static void watch(struct gate *gate, const struct blk_request *req)
{
	uint64_t passed;
	bool slow;

	gate->window_units += units(req);
	passed = clock_now_ns() - gate->window_ns;
	if (passed < WINDOW_NS)
		return;
	slow = gate->window_units < gate->minimum * (passed / NS_PER_MSEC) / 1000;
	begin_window(gate);
	if (slow == gate->slow)
		return;
	gate->slow = slow;
	gate->events.slow(gate->events.user, slow);
}

/* ---- requests ---- */

/* The answer is the administrator's to wait for: the guest knows of nothing. */
static bool hold(struct gate *gate, struct gate_io *io, enum blk_result result)
{
	if ((result != BLK_IO_ERROR && result != BLK_NO_SPACE) ||
	    !gate->events.hold(gate->events.user, result))
		return false;
	gate->troubled += !io->troubled;
	io->troubled = true;
	io->req->result = result;
	list_add(&gate->failed, io);
	return true;
}

static void end(struct gate_io *io, enum blk_result result)
{
	struct gate *gate = io->gate;
	struct blk_request *req = io->req;
	bool recovered = false;

	if (io->troubled)
		recovered = --gate->troubled == 0;
	if (gate->minimum)
		watch(gate, req);
	pool_put(&gate->ios, io);
	blk_complete(req, result);
	if (recovered)
		gate->events.recovered(gate->events.user);
}

static void below_done(struct blk_request *below, enum blk_result result)
{
	struct gate_io *io = container_of(below, struct gate_io, below);

	io->gate->passed--;
	if (!hold(io->gate, io, result))
		end(io, result);
}

static void pass_on(struct gate_io *io)
{
	const struct blk_request *req = io->req;

	io->below = blk_same_request(req, below_done);
	io->gate->passed++;
	blk_submit(io->gate->below, &io->below);
}

static struct gate_io *new_io(struct gate *gate, struct blk_request *req)
{
	struct gate_io *io = pool_get(&gate->ios);

	/* Without memory for a request of some hundred bytes nothing else would work either. */
	if (!io)
		abort();
	io->req = req;
	io->gate = gate;
	io->troubled = false;
	if (gate->minimum && gate->blk.in_flight == 1)
		begin_window(gate);
	return io;
}

/* False: it is too early for it. */
static bool admit(struct gate *gate, const struct blk_request *req)
{
	uint64_t now;

	if (!gate->maximum)
		return true;
	now = clock_now_ns();
	if (gate->next_ns > now + BURST_NS)
		return false;
	gate->next_ns = MAX(gate->next_ns, now) + units(req) * NS_PER_SEC / gate->maximum;
	return true;
}

static void let_through(void *user)
{
	struct gate *gate = user;

	blk_plug(gate->below);
	while (gate->early.first && admit(gate, gate->early.first->req))
		pass_on(list_take(&gate->early));
	blk_unplug(gate->below);
	if (gate->early.first)
		loop_timer_arm(gate->timer, gate->next_ns - BURST_NS);
}

static void gate_submit(struct blk *blk, struct blk_request *req)
{
	struct gate *gate = gate_of(blk);
	struct gate_io *io = new_io(gate, req);

	if (!gate->early.first && admit(gate, req)) {
		pass_on(io);
		return;
	}
	if (!gate->early.first)
		loop_timer_arm(gate->timer, gate->next_ns - BURST_NS);
	list_add(&gate->early, io);
}

/* The disk below answers the same: it checks the same. */
static void gate_defer(struct blk *blk, struct blk_request *req)
{
	pass_on(new_io(gate_of(blk), req));
}

static void gate_wait(struct blk *blk)
{
	struct gate *gate = gate_of(blk);

	if (gate->passed > 0)
		gate->below->ops->wait(gate->below);
	else if (gate->early.first)
		pass_on(list_take(&gate->early));
	else
		gate_give_up(blk);
}

static void gate_plug(struct blk *blk)
{
	blk_plug(gate_of(blk)->below);
}

static void gate_unplug(struct blk *blk)
{
	blk_unplug(gate_of(blk)->below);
}

static int gate_grow(struct blk *blk, uint64_t size_bytes, struct error *err)
{
	struct gate *gate = gate_of(blk);
	int r = blk_grow(gate->below, size_bytes, err);

	blk->info.size_bytes = blk_info(gate->below)->size_bytes;
	return r;
}

static int gate_extent(struct blk *blk, uint64_t offset, uint64_t max_bytes, struct blk_extent *ret,
		       struct error *err)
{
	return blk_extent(gate_of(blk)->below, offset, max_bytes, ret, err);
}

static int gate_close(struct blk *blk, struct error *err)
{
	struct gate *gate = gate_of(blk);
	int r = blk_close(gate->below, err);

	loop_timer_free(gate->timer);
	pool_done(&gate->ios);
	free(gate);
	return r;
}

static const struct blk_ops gate_ops = {
	.name = "gate",
	.submit = gate_submit,
	.defer = gate_defer,
	.wait = gate_wait,
	.plug = gate_plug,
	.unplug = gate_unplug,
	.grow = gate_grow,
	.extent = gate_extent,
	.close = gate_close,
};

int gate_new(struct loop *loop, struct blk *below, const struct gate_events *events,
	     struct blk **ret, struct error *err)
{
	struct gate *gate = calloc(1, sizeof(*gate));
	int r;

	if (!gate)
		return error_set(err, ERR_NO_MEMORY, "no memory for a disk");
	blk_init(&gate->blk, &gate_ops, blk_info(below));
	gate->below = below;
	gate->events = *events;
	list_init(&gate->early);
	list_init(&gate->failed);
	pool_init(&gate->ios, sizeof(struct gate_io));
	r = loop_timer_new(loop, let_through, gate, &gate->timer, err);
	if (r < 0) {
		free(gate);
		return r;
	}
	*ret = &gate->blk;
	return 0;
}

void gate_set_rates(struct blk *blk, uint32_t minimum, uint32_t maximum)
{
	struct gate *gate = gate_of(blk);

	gate->minimum = minimum;
	gate->maximum = maximum;
	gate->next_ns = 0;
	begin_window(gate);
	loop_timer_cancel(gate->timer);
	let_through(gate);
}

/* What fails again, or comes meanwhile, waits behind those of now. */
void gate_retry(struct blk *blk)
{
	struct gate *gate = gate_of(blk);
	struct gate_io *io = gate->failed.first;

	list_init(&gate->failed);
	while (io) {
		struct gate_io *next = io->next;

		pass_on(io);
		io = next;
	}
}

void gate_give_up(struct blk *blk)
{
	struct gate *gate = gate_of(blk);
	struct gate_io *io = gate->failed.first;

	list_init(&gate->failed);
	while (io) {
		struct gate_io *next = io->next;

		end(io, io->req->result);
		io = next;
	}
}
