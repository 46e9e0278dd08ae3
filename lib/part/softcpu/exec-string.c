/*
 * String instructions. A repeated one works in chunks: as many elements as lie in one page of the
 * source and one of the destination. Registers are right after each chunk, so a fault or an
 * interrupt between chunks leaves a state that the instruction can be restarted from.
 */
#include "part/softcpu/exec.h"
#include "part/softcpu/fast.h"

#include <string.h>

/* One string instruction being executed. */
struct string_op {
	unsigned size;  /* of an element */
	uint64_t mask;  /* of the address size */
	unsigned width; /* of the address size in bytes */
	int64_t step;   /* +-size */
	uint64_t count; /* elements left */
	uint16_t flags; /* of the last comparison */
	bool repeated;
};

/* Intel's processors begin a repetition with 32-bit addresses by clearing the upper half of RCX,
 * and of the index registers of MOVS and STOS, even if the count is 0 or the first element faults.
 */
static void clear_upper_half(struct vp *c, const struct string_op *s, enum part_gpr reg)
{
	if (s->repeated && s->width == 4 && !c->vm->amd)
		c->gpr[reg] &= UINT32_MAX;
}

static struct string_op string_begin(struct vp *c, struct uop *u)
{
	struct string_op s = { .size = u->size, .flags = c->flags };

	s.width = u->ea & EA_A16 ? 2 : u->ea & EA_A32 ? 4 : 8;
	s.mask = s.width == 8 ? UINT64_MAX : s.width == 4 ? UINT32_MAX : 0xffff;
	s.step = c->rf & RF_DF ? -(int64_t)s.size : (int64_t)s.size;
	s.repeated = u->aux != 0;
	s.count = s.repeated ? c->gpr[PART_RCX] & s.mask : 1;
	clear_upper_half(c, &s, PART_RCX);
	return s;
}

static uint64_t index_reg(struct vp *c, const struct string_op *s, enum part_gpr reg)
{
	return c->gpr[reg] & s->mask;
}

static void advance(struct vp *c, const struct string_op *s, enum part_gpr reg, uint64_t n)
{
	sc_set_reg(c, reg * 8, s->width, c->gpr[reg] + (uint64_t)s->step * n);
}

static void count_down(struct vp *c, struct string_op *s, uint64_t n)
{
	s->count -= n;
	if (s->repeated)
		sc_set_reg(c, PART_RCX * 8, s->width, s->count);
}

/* Whether to leave before the next chunk: something wants the loop, or a trap after each element.
 */
static bool must_leave(struct vp *c, const struct string_op *s)
{
	return s->count && (atomic_load_explicit(&c->attention, memory_order_relaxed) ||
			    (c->rf & RF_TF) || !c->blk->live);
}

static struct block *leave_restartable(struct vp *c, struct uop *u)
{
	RIP(c) += u->off;
	if (unlikely(c->lockstep))
		sc_lockstep_left_early(c);
	return NULL;
}

/* Elements from off on that one chunk may take: forward only, without wrapping the address size and
 * within the segment's limit; one where each is followed by a trap. At least 1. */
static uint64_t chunk_in_segment(struct vp *c, const struct string_op *s, unsigned seg,
				 uint64_t off)
{
	uint64_t n = s->count, room;

	if (s->step < 0 || c->rf & RF_TF)
		return 1;
	room = (s->mask - off) / s->size;
	if (c->mode != MODE_64) {
		const struct part_segment *g = &c->seg[seg];

		if ((g->attributes & (SEG_CODE | SEG_DOWN)) == SEG_DOWN || off > g->limit)
			return 1;
		room = MIN(room, (g->limit - off) / s->size);
	}
	n = MIN(n, room);
	return n ? n : 1;
}

static uint64_t chunk_in_page(const struct string_op *s, uint64_t va, uint64_t n)
{
	return MIN(n, (MEM_PAGE_SIZE - (va & (MEM_PAGE_SIZE - 1))) / s->size);
}

static void note_bulk_write(struct vp *c, uint8_t *host, uint64_t bytes)
{
	if (unlikely(*(volatile uint8_t *)sc_flags_at(c->vm, host)))
		sc_stored(c, host, (unsigned)bytes);
}

/* ---- MOVS ---- */

/* As the guest's instruction does it, overlap included. */
static void host_movs(void *dst, const void *src, uint64_t n, unsigned size)
{
	switch (size) {
	case 1:
		asm volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
		break;
	case 2:
		asm volatile("rep movsw" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
		break;
	case 4:
		asm volatile("rep movsl" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
		break;
	default:
		asm volatile("rep movsq" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
	}
}

HANDLER(string_movs)
{
	struct string_op s = string_begin(c, u);

	clear_upper_half(c, &s, PART_RSI);
	clear_upper_half(c, &s, PART_RDI);
	while (s.count) {
		uint64_t from = index_reg(c, &s, PART_RSI), to = index_reg(c, &s, PART_RDI), n;
		uint64_t src = sc_linear(c, u, u->seg, from, s.size, false);
		uint64_t dst = sc_linear(c, u, PART_ES, to, s.size, true);
		uint8_t *hs = NULL, *hd = NULL;
		unsigned room;

		n = MIN(chunk_in_segment(c, &s, u->seg, from),
			chunk_in_segment(c, &s, PART_ES, to));
		n = chunk_in_page(&s, dst, chunk_in_page(&s, src, n));
		if (n > 1) {
			hs = sc_bulk(c, u, src, false, &room);
			hd = sc_bulk(c, u, dst, true, &room);
			if (unlikely(c->private_memory)) /* hs may be the page before its copy */
				hs = sc_bulk(c, u, src, false, &room);
		}
		if (hs && hd) {
			host_movs(hd, hs, n, s.size);
			note_bulk_write(c, hd, n * s.size);
		} else {
			n = 1;
			sc_store(c, u, dst, sc_load(c, u, src, s.size), s.size);
		}
		advance(c, &s, PART_RSI, n);
		advance(c, &s, PART_RDI, n);
		count_down(c, &s, n);
		if (must_leave(c, &s))
			return leave_restartable(c, u);
	}
	NEXT;
}

/* ---- STOS ---- */

static void host_stos(void *dst, uint64_t v, uint64_t n, unsigned size)
{
	switch (size) {
	case 1:
		asm volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(v) : "memory");
		break;
	case 2:
		asm volatile("rep stosw" : "+D"(dst), "+c"(n) : "a"(v) : "memory");
		break;
	case 4:
		asm volatile("rep stosl" : "+D"(dst), "+c"(n) : "a"(v) : "memory");
		break;
	default:
		asm volatile("rep stosq" : "+D"(dst), "+c"(n) : "a"(v) : "memory");
	}
}

HANDLER(string_stos)
{
	struct string_op s = string_begin(c, u);

	clear_upper_half(c, &s, PART_RDI);
	while (s.count) {
		uint64_t to = index_reg(c, &s, PART_RDI), n;
		uint64_t dst = sc_linear(c, u, PART_ES, to, s.size, true);
		uint8_t *hd = NULL;
		unsigned room;

		n = chunk_in_page(&s, dst, chunk_in_segment(c, &s, PART_ES, to));
		if (n > 1)
			hd = sc_bulk(c, u, dst, true, &room);
		if (hd) {
			host_stos(hd, c->gpr[PART_RAX], n, s.size);
			note_bulk_write(c, hd, n * s.size);
		} else {
			n = 1;
			sc_store(c, u, dst, c->gpr[PART_RAX], s.size);
		}
		advance(c, &s, PART_RDI, n);
		count_down(c, &s, n);
		if (must_leave(c, &s))
			return leave_restartable(c, u);
	}
	NEXT;
}

/* ---- LODS, CMPS, SCAS ---- */

HANDLER(string_lods)
{
	struct string_op s = string_begin(c, u);

	while (s.count) {
		uint64_t src = sc_linear(c, u, u->seg, index_reg(c, &s, PART_RSI), s.size, false);

		sc_set_reg(c, PART_RAX * 8, s.size, sc_load(c, u, src, s.size));
		advance(c, &s, PART_RSI, 1);
		count_down(c, &s, 1);
		if (must_leave(c, &s))
			return leave_restartable(c, u);
	}
	NEXT;
}

/* Of a repeated comparison that a fault or an interrupt ends before its time, AMD's processors show
 * the last element's flags, Intel's those from before the instruction (SDM volume 2, REP). */
static void compare(struct vp *c, struct string_op *s, uint64_t a, uint64_t b)
{
	unsigned shift = 64 - s->size * 8;
	uint16_t f;

	/* At the top of the register CF, ZF, SF, OF are those of the element; AF and PF aren't. */
	asm("cmpq %2, %1\n\tlahf\n\tseto %%al"
	    : "=&a"(f)
	    : "r"(a << shift), "r"(b << shift)
	    : "cc");
	f &= (uint16_t) ~(FL_AF | FL_PF);
	f |= (a ^ b ^ (a - b)) & 0x10 ? FL_AF : 0;
	f |= __builtin_parity((a - b) & 0xff) ? 0 : FL_PF;
	s->flags = f;
	if (c->vm->amd)
		c->flags = f;
}

/* REPE ends at the first difference, REPNE at the first match. */
static bool string_found(const struct string_op *s, const struct uop *u)
{
	bool equal = s->flags & FL_ZF;

	return u->aux == STRING_REPE ? !equal : equal;
}

/* How many bytes are the same, from the first on: as those at b, or, if that is NULL, as those of
 * v, which repeat. */
static uint64_t count_same(const uint8_t *a, const uint8_t *b, uint64_t v, uint64_t bytes)
{
	uint64_t at = 0, differ = 0;

	for (; at + 8 <= bytes; at += 8) {
		differ = HOST(64, a + at) ^ (b ? HOST(64, b + at) : v);
		if (differ)
			return at + (unsigned)__builtin_ctzll(differ) / 8;
	}
	while (at < bytes && HOST(8, a + at) == (b ? HOST(8, b + at) : (uint8_t)(v >> at % 8 * 8)))
		at++;
	return at;
}

/* How many of n elements differ, from the first on: from those at b or from v. */
#define COUNT_OTHERS(N)                                                                            \
	static uint64_t count_others##N(const uint8_t *a, const uint8_t *b, uint64_t v,            \
					uint64_t n)                                                \
	{                                                                                          \
		uint64_t i = 0;                                                                    \
                                                                                                   \
		while (i < n && HOST(N, a + i * (N / 8)) !=                                        \
				    (b ? HOST(N, b + i * (N / 8)) : (uint##N##_t)v))               \
			i++;                                                                       \
		return i;                                                                          \
	}
COUNT_OTHERS(8)
COUNT_OTHERS(16)
COUNT_OTHERS(32)
COUNT_OTHERS(64)

static uint64_t count_others(const uint8_t *a, const uint8_t *b, uint64_t v, uint64_t n,
			     unsigned size)
{
	const uint8_t *found;

	switch (size) {
	case 1:
		if (b)
			return count_others8(a, b, v, n);
		found = memchr(a, (uint8_t)v, n);
		return found ? (uint64_t)(found - a) : n;
	case 2:
		return count_others16(a, b, v, n);
	case 4:
		return count_others32(a, b, v, n);
	default:
		return count_others64(a, b, v, n);
	}
}

static uint64_t repeated_value(uint64_t v, unsigned size)
{
	static const uint64_t ones[] = { 0, 0x0101010101010101, 0x0001000100010001, 0,
					 0x0000000100000001 };

	return size == 8 ? v : (v & (BIT(8 * size) - 1)) * ones[size];
}

/* How many of n elements at a, compared with those at b or with v, don't end the instruction: at
 * most all but one, for the last one's flags stay. n: as many as both have on one page. */
static uint64_t count_passed(struct vp *c, struct uop *u, uint64_t a, const uint64_t *b, uint64_t v,
			     uint64_t n)
{
	const uint8_t *ha, *hb = NULL;
	unsigned room, size = u->size;

	ha = sc_bulk(c, u, a, false, &room);
	if (b)
		hb = sc_bulk(c, u, *b, false, &room);
	if (b && unlikely(c->private_memory))
		ha = sc_bulk(c, u, a, false, &room);
	if (!ha || (b && !hb) || c->align_check)
		return 0;
	if (u->aux == STRING_REPE)
		return count_same(ha, hb, repeated_value(v, size), (n - 1) * size) / size;
	return count_others(ha, hb, v, n - 1, size);
}

/* So few elements aren't worth the effort. */
#define FEW_COMPARED 4

HANDLER(string_cmps)
{
	struct string_op s = string_begin(c, u);

	while (s.count) {
		uint64_t from = index_reg(c, &s, PART_RSI), to = index_reg(c, &s, PART_RDI), n;
		uint64_t src = sc_linear(c, u, u->seg, from, s.size, false);
		uint64_t dst = sc_linear(c, u, PART_ES, to, s.size, false), a, b;

		n = MIN(chunk_in_segment(c, &s, u->seg, from),
			chunk_in_segment(c, &s, PART_ES, to));
		n = chunk_in_page(&s, dst, chunk_in_page(&s, src, n));
		if (s.repeated && n > FEW_COMPARED) {
			n = count_passed(c, u, src, &dst, 0, n);
			advance(c, &s, PART_RSI, n);
			advance(c, &s, PART_RDI, n);
			count_down(c, &s, n);
			src += n * s.size;
			dst += n * s.size;
		}
		a = sc_load(c, u, src, s.size);
		b = sc_load(c, u, dst, s.size);
		compare(c, &s, a, b);
		advance(c, &s, PART_RSI, 1);
		advance(c, &s, PART_RDI, 1);
		count_down(c, &s, 1);
		if (s.repeated && string_found(&s, u))
			break;
		if (must_leave(c, &s))
			return leave_restartable(c, u);
	}
	c->flags = s.flags;
	NEXT;
}

HANDLER(string_scas)
{
	struct string_op s = string_begin(c, u);

	while (s.count) {
		uint64_t to = index_reg(c, &s, PART_RDI), n;
		uint64_t dst = sc_linear(c, u, PART_ES, to, s.size, false);

		n = chunk_in_page(&s, dst, chunk_in_segment(c, &s, PART_ES, to));
		if (s.repeated && n > FEW_COMPARED) {
			n = count_passed(c, u, dst, NULL, c->gpr[PART_RAX], n);
			advance(c, &s, PART_RDI, n);
			count_down(c, &s, n);
			dst += n * s.size;
		}
		compare(c, &s, sc_get_reg(c, PART_RAX * 8, s.size), sc_load(c, u, dst, s.size));
		advance(c, &s, PART_RDI, 1);
		count_down(c, &s, 1);
		if (s.repeated && string_found(&s, u))
			break;
		if (must_leave(c, &s))
			return leave_restartable(c, u);
	}
	c->flags = s.flags;
	NEXT;
}

/* ---- INS, OUTS ---- */

HANDLER(string_ins)
{
	uint16_t port = (uint16_t)c->gpr[PART_RDX];
	struct sc_vm *vm = c->vm;
	struct string_op s;

	sc_check_io(c, u, port, u->size);
	s = string_begin(c, u);
	while (s.count) {
		uint64_t dst = sc_linear(c, u, PART_ES, index_reg(c, &s, PART_RDI), s.size, true);

		/* The device must not lose a datum to a page fault. */
		sc_probe_write(c, u, dst, s.size);
		sc_store(c, u, dst, vm->host.pio_read(vm->host.user, c->index, port, s.size),
			 s.size);
		advance(c, &s, PART_RDI, 1);
		count_down(c, &s, 1);
		if (must_leave(c, &s))
			return leave_restartable(c, u);
	}
	NEXT;
}

HANDLER(string_outs)
{
	uint16_t port = (uint16_t)c->gpr[PART_RDX];
	struct sc_vm *vm = c->vm;
	struct string_op s;

	sc_check_io(c, u, port, u->size);
	s = string_begin(c, u);
	while (s.count) {
		uint64_t src = sc_linear(c, u, u->seg, index_reg(c, &s, PART_RSI), s.size, false);

		vm->host.pio_write(vm->host.user, c->index, port, s.size,
				   (uint32_t)sc_load(c, u, src, s.size));
		advance(c, &s, PART_RSI, 1);
		count_down(c, &s, 1);
		if (must_leave(c, &s))
			return leave_restartable(c, u);
	}
	NEXT;
}

sc_fn *const sc_string[STRING_COUNT] = {
	[STRING_MOVS] = string_movs, [STRING_STOS] = string_stos, [STRING_LODS] = string_lods,
	[STRING_CMPS] = string_cmps, [STRING_SCAS] = string_scas, [STRING_INS] = string_ins,
	[STRING_OUTS] = string_outs,
};
