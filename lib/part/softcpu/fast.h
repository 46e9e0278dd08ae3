/*
 * The fast halves of memory access and flag evaluation, inlined into handlers. See cpu.h.
 */
#ifndef PART_SOFTCPU_FAST_H
#define PART_SOFTCPU_FAST_H

#include "part/softcpu/cpu.h"

/* Goes on with the next micro-operation of the block. */
#define NEXT          return u[1].fn(c, u + 1)
#define HANDLER(name) static struct block *name(struct vp *c, struct uop *u)

/* Host memory that the guest's other processors use too: one access of exactly this size. */
#define SC_ANY(N)                                                                                  \
	typedef struct {                                                                           \
		volatile uint##N##_t v;                                                            \
	} __attribute__((packed, may_alias)) sc_any##N
SC_ANY(8);
SC_ANY(16);
SC_ANY(32);
SC_ANY(64);
#define HOST(N, p) (((sc_any##N *)(p))->v)

static inline uint64_t sc_ea(struct vp *c, struct uop *u)
{
	if (unlikely(u->ea))
		return sc_ea_slow(c, u);
	return REG64(c, u->base) + (REG64(c, u->index) << u->scale) + (uint64_t)u->disp +
	       c->segbase[u->seg];
}

static inline struct sc_tlb_entry *sc_tlb_slot(struct vp *c, uint64_t va)
{
	return &c->tlb->e[(va >> MEM_PAGE_SHIFT) & (TLB_SIZE - 1)];
}

#define SC_ACCESS(N)                                                                               \
	static inline uint##N##_t sc_load##N(struct vp *c, struct uop *u, uint64_t va)             \
	{                                                                                          \
		struct sc_tlb_entry *e = sc_tlb_slot(c, va);                                       \
		uint##N##_t v;                                                                     \
                                                                                                   \
		if (likely((va ^ e->rtag) <= MEM_PAGE_SIZE - N / 8))                               \
			return HOST(N, e->page + (va ^ e->rtag));                                  \
		sc_load_slow(c, u, va, &v, N / 8);                                                 \
		return v;                                                                          \
	}                                                                                          \
	static inline void sc_store##N(struct vp *c, struct uop *u, uint64_t va, uint##N##_t v)    \
	{                                                                                          \
		struct sc_tlb_entry *e = sc_tlb_slot(c, va);                                       \
                                                                                                   \
		if (likely((va ^ e->wtag) <= MEM_PAGE_SIZE - N / 8)) {                             \
			HOST(N, e->page + (va ^ e->wtag)) = v;                                     \
			if (unlikely(*(volatile uint8_t *)e->flags))                               \
				sc_stored(c, (uint8_t *)(e->page + (va ^ e->wtag)), N / 8);        \
			return;                                                                    \
		}                                                                                  \
		sc_store_slow(c, u, va, &v, N / 8);                                                \
	}
SC_ACCESS(8)
SC_ACCESS(16)
SC_ACCESS(32)
SC_ACCESS(64)

/*
 * Frequent handlers with a memory operand come twice. The one that the decoder picks knows only
 * 64-bit addresses and hits of the TLB; for everything else it leaves for its slow twin, which
 * starts the instruction anew. As that is a tail call, the fast one needs no stack frame.
 */
#define SLOW_HANDLER(name) static SC_COLD struct block *name(struct vp *c, struct uop *u)

static inline bool sc_fast_ea(struct vp *c, struct uop *u, uint64_t *ret)
{
	uint64_t off = REG64(c, u->base) + (REG64(c, u->index) << u->scale) + (uint64_t)u->disp;

	if (unlikely(u->ea)) {
		if (u->ea != EA_A32)
			return false;
		off &= UINT32_MAX;
	}
	*ret = off + c->segbase[u->seg];
	return true;
}

#define SC_FAST_LOAD(N)                                                                            \
	static inline bool sc_fast_load##N(struct vp *c, uint64_t va, uint##N##_t *ret)            \
	{                                                                                          \
		struct sc_tlb_entry *e = sc_tlb_slot(c, va);                                       \
                                                                                                   \
		if (unlikely((va ^ e->rtag) > MEM_PAGE_SIZE - N / 8))                              \
			return false;                                                              \
		*ret = HOST(N, e->page + (va ^ e->rtag));                                          \
		return true;                                                                       \
	}
SC_FAST_LOAD(8)
SC_FAST_LOAD(16)
SC_FAST_LOAD(32)
SC_FAST_LOAD(64)

/* Host address of an operand that may be written, or NULL; *flags as for sc_rmw. */
static inline uint8_t *sc_fast_write(struct vp *c, uint64_t va, unsigned size, uint8_t **flags)
{
	struct sc_tlb_entry *e = sc_tlb_slot(c, va);

	if (unlikely((va ^ e->wtag) > MEM_PAGE_SIZE - size))
		return NULL;
	*flags = e->flags;
	return (uint8_t *)(e->page + (va ^ e->wtag));
}

/* After the write: NEXT, or what the page's flags ask for before. */
#define NEXT_WRITTEN(p, size, flags)                                                               \
	do {                                                                                       \
		if (unlikely(*(volatile uint8_t *)(flags)))                                        \
			return sc_stored_next(c, u, p, size);                                      \
		NEXT;                                                                              \
	} while (0)

/* v: the loaded value, in body */
#define LOAD_HANDLER(name, N, body, end)                                                           \
	SLOW_HANDLER(name##_slow)                                                                  \
	{                                                                                          \
		uint##N##_t v = sc_load##N(c, u, sc_ea(c, u));                                     \
                                                                                                   \
		body;                                                                              \
		end;                                                                               \
	}                                                                                          \
	HANDLER(name)                                                                              \
	{                                                                                          \
		uint##N##_t v;                                                                     \
		uint64_t va;                                                                       \
                                                                                                   \
		if (unlikely(!sc_fast_ea(c, u, &va)) || unlikely(!sc_fast_load##N(c, va, &v)))     \
			return name##_slow(c, u);                                                  \
		body;                                                                              \
		end;                                                                               \
	}

#define STORE_HANDLER(name, N, value)                                                              \
	SLOW_HANDLER(name##_slow)                                                                  \
	{                                                                                          \
		sc_store##N(c, u, sc_ea(c, u), (value));                                           \
		NEXT;                                                                              \
	}                                                                                          \
	HANDLER(name)                                                                              \
	{                                                                                          \
		uint8_t *flags, *p;                                                                \
		uint64_t va;                                                                       \
                                                                                                   \
		if (unlikely(!sc_fast_ea(c, u, &va)))                                              \
			return name##_slow(c, u);                                                  \
		p = sc_fast_write(c, va, N / 8, &flags);                                           \
		if (unlikely(!p))                                                                  \
			return name##_slow(c, u);                                                  \
		HOST(N, p) = (value);                                                              \
		NEXT_WRITTEN(p, N / 8, flags);                                                     \
	}

/* p: where the operand is, in body */
#define RMW_HANDLER(name, N, body)                                                                 \
	SLOW_HANDLER(name##_slow)                                                                  \
	{                                                                                          \
		uint8_t *flags, *p = sc_rmw(c, u, sc_ea(c, u), N / 8, &flags);                     \
                                                                                                   \
		body;                                                                              \
		sc_rmw_end(c, u, p, N / 8, flags);                                                 \
		NEXT;                                                                              \
	}                                                                                          \
	HANDLER(name)                                                                              \
	{                                                                                          \
		uint8_t *flags, *p;                                                                \
		uint64_t va;                                                                       \
                                                                                                   \
		if (unlikely(!sc_fast_ea(c, u, &va)))                                              \
			return name##_slow(c, u);                                                  \
		p = sc_fast_write(c, va, N / 8, &flags);                                           \
		if (unlikely(!p))                                                                  \
			return name##_slow(c, u);                                                  \
		body;                                                                              \
		NEXT_WRITTEN(p, N / 8, flags);                                                     \
	}

/* Read-modify-write: host address of the operand, writable; sc_rmw_end after the write. *flags is
 * the page's flag byte. When the operand has no single host address, it is a buffer. */
static inline uint8_t *sc_rmw(struct vp *c, struct uop *u, uint64_t va, unsigned size,
			      uint8_t **flags)
{
	struct sc_tlb_entry *e = sc_tlb_slot(c, va);

	if (likely((va ^ e->wtag) <= MEM_PAGE_SIZE - size)) {
		*flags = e->flags;
		return (uint8_t *)(e->page + (va ^ e->wtag));
	}
	return sc_rmw_slow(c, u, va, size, flags);
}

static inline void sc_rmw_end(struct vp *c, struct uop *u, uint8_t *host, unsigned size,
			      uint8_t *flags)
{
	if (unlikely(*(volatile uint8_t *)flags))
		sc_rmw_end_slow(c, u, host, size);
}

/* Register writes as 64-bit mode has them: 32 bits are zero-extended. */
#define GET8(c, o)     REG8(c, o)
#define GET16(c, o)    REG16(c, o)
#define GET32(c, o)    REG32(c, o)
#define GET64(c, o)    REG64(c, o)
#define SET8(c, o, v)  (REG8(c, o) = (v))
#define SET16(c, o, v) (REG16(c, o) = (v))
#define SET32(c, o, v) (REG64(c, o) = (uint32_t)(v))
#define SET64(c, o, v) (REG64(c, o) = (v))

/* The same with the size at run time, for the rarer handlers. */
static inline uint64_t sc_get_reg(struct vp *c, unsigned off, unsigned size)
{
	switch (size) {
	case 1:
		return REG8(c, off);
	case 2:
		return REG16(c, off);
	case 4:
		return REG32(c, off);
	default:
		return REG64(c, off);
	}
}

static inline void sc_set_reg(struct vp *c, unsigned off, unsigned size, uint64_t v)
{
	switch (size) {
	case 1:
		REG8(c, off) = (uint8_t)v;
		break;
	case 2:
		REG16(c, off) = (uint16_t)v;
		break;
	case 4:
		REG64(c, off) = (uint32_t)v;
		break;
	default:
		REG64(c, off) = v;
	}
}

static inline uint64_t sc_load(struct vp *c, struct uop *u, uint64_t va, unsigned size)
{
	switch (size) {
	case 1:
		return sc_load8(c, u, va);
	case 2:
		return sc_load16(c, u, va);
	case 4:
		return sc_load32(c, u, va);
	default:
		return sc_load64(c, u, va);
	}
}

static inline void sc_store(struct vp *c, struct uop *u, uint64_t va, uint64_t v, unsigned size)
{
	switch (size) {
	case 1:
		sc_store8(c, u, va, (uint8_t)v);
		break;
	case 2:
		sc_store16(c, u, va, (uint16_t)v);
		break;
	case 4:
		sc_store32(c, u, va, (uint32_t)v);
		break;
	default:
		sc_store64(c, u, va, v);
	}
}

static inline bool sc_is_mem(const struct uop *u)
{
	return u->rm == OFF_NONE;
}

/* The register-or-memory operand. */
static inline uint64_t sc_get_rm(struct vp *c, struct uop *u, unsigned size)
{
	return sc_is_mem(u) ? sc_load(c, u, sc_ea(c, u), size) : sc_get_reg(c, u->rm, size);
}

static inline void sc_set_rm(struct vp *c, struct uop *u, unsigned size, uint64_t v)
{
	if (sc_is_mem(u))
		sc_store(c, u, sc_ea(c, u), v, size);
	else
		sc_set_reg(c, u->rm, size, v);
}

/* ---- flags, in vp.flags' layout ---- */

#define FL_OF 0x0001u
#define FL_CF 0x0100u
#define FL_PF 0x0400u
#define FL_AF 0x1000u
#define FL_ZF 0x4000u
#define FL_SF 0x8000u

/* cc: the low four bits of Jcc's opcode */
static inline bool sc_cond(unsigned f, unsigned cc)
{
	bool r;

	switch (cc >> 1) {
	case 0:
		r = f & FL_OF;
		break;
	case 1:
		r = f & FL_CF;
		break;
	case 2:
		r = f & FL_ZF;
		break;
	case 3:
		r = f & (FL_CF | FL_ZF);
		break;
	case 4:
		r = f & FL_SF;
		break;
	case 5:
		r = f & FL_PF;
		break;
	case 6:
		r = (f ^ (f >> 15)) & 1;
		break;
	default:
		r = ((f ^ (f >> 15)) & 1) | (f & FL_ZF);
	}
	return r ^ (cc & 1);
}

/* ---- leaving a block ---- */

static inline struct sc_xtlb_entry *sc_xtlb_slot(struct vp *c, uint64_t va)
{
	return &c->xtlb[(va >> MEM_PAGE_SHIFT) & (XTLB_SIZE - 1)];
}

/* The virtual address's page is still mapped to the block's page. */
static inline bool sc_xtlb_maps(struct vp *c, uint64_t va, const struct block *b)
{
	const struct sc_xtlb_entry *x = sc_xtlb_slot(c, va);

	return x->tag == ((va & ~(uint64_t)(MEM_PAGE_SIZE - 1)) | (c->cpl == 3)) &&
	       (x->gpa_attr ^ b->gpa) < MEM_PAGE_SIZE;
}

/* To target by a direct branch of the current block, in 64-bit mode or flat 32-bit code. */
static inline struct block *sc_goto(struct vp *c, unsigned which, uint64_t target)
{
	uint64_t from = RIP(c);
	struct block *n = c->blk->chain[which];

	target &= c->rip_mask;
	RIP(c) = target;
	if (likely(n && n->live)) {
		if (likely((from ^ target) < MEM_PAGE_SIZE) || sc_xtlb_maps(c, target, n))
			return n;
	}
	c->link = &c->blk->chain[which];
	return NULL;
}

/* A conditional branch is taken. */
static inline struct block *sc_goto_taken(struct vp *c, struct uop *u, uint64_t next)
{
	if (u->index != UINT8_MAX)
		u->index++;
	return sc_goto(c, u->reg, next + (uint64_t)(int64_t)u->imm);
}

/* It isn't. */
static inline struct block *sc_goto_passed(struct vp *c, struct uop *u, uint64_t next)
{
	if (u->reg == CHAIN_END_TAKEN)
		return sc_goto(c, 0, next);
	if (u->index)
		u->index--;
	NEXT;
}

/* Jcc in 64-bit mode by a mask of the flags that it looks at (emit_jcc). The host must branch here:
 * choosing the next block by arithmetic makes all that follows wait for the comparison. */
#define FL_LESS 2u /* SF differs from OF: derived */

static inline struct block *sc_jcc_masked(struct vp *c, struct uop *u)
{
	unsigned f = c->flags;
	uint64_t next = NEXT_RIP(c, u);

	f |= ((f ^ (f >> 15)) & 1) << 1;
	if (((f & (unsigned)u->disp) != 0) ^ (u->aux & 1))
		return sc_goto_taken(c, u, next);
	asm volatile(""); /* so that the compiler doesn't join the two */
	return sc_goto_passed(c, u, next);
}

/* In user and supervisor mode the same address may be different code. */
static inline struct sc_jump *sc_jump_slot(struct vp *c, unsigned key, uint64_t rip)
{
	uint32_t low = (uint32_t)rip, mixed = low ^ (low << JUMP_SHIFT | low >> (32 - JUMP_SHIFT));

	return &c->jumps[(key & KEY_USER) != 0][mixed >> JUMP_SHIFT & (JUMPS - 1)];
}

static inline struct sc_jcache_entry *sc_jcache_slot(struct vp *c, uint64_t rip)
{
	return &c->jcache[(rip ^ (rip >> JCACHE_BITS)) & (JCACHE_SIZE - 1)];
}

/* The block at a computed target in 64-bit mode, or NULL: look it up. */
static inline struct block *sc_jcache_find(struct vp *c, uint64_t target)
{
	struct sc_jcache_entry *e = sc_jcache_slot(c, target);

	if (likely(e->rip == target && e->block->live && e->block->key == c->key &&
		   sc_xtlb_maps(c, target, e->block)))
		return e->block;
	return NULL;
}

/* To a target that the instruction computed. */
static inline struct block *sc_goto_indirect(struct vp *c, uint64_t target)
{
	RIP(c) = target;
	return NULL;
}

#endif
