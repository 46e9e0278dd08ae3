/*
 * The instructions of AVX and AVX2 that touch only parts of their memory, which a mask names:
 * VMASKMOVPS and the like, and gathers (SDM volume 2). All others are hostop's.
 */
#include "part/softcpu/exec.h"
#include "part/softcpu/fast.h"

#include <string.h>

#define VECTOR_MAX 32

static void get_vector(const struct vp *c, unsigned number, uint8_t ret[static VECTOR_MAX])
{
	memcpy(ret, c->regs.fpu.xmm[number], 16);
	memcpy(ret + 16, c->regs.ymm_high[number], 16);
}

static void set_vector(struct vp *c, unsigned number, const uint8_t v[static VECTOR_MAX])
{
	memcpy(c->regs.fpu.xmm[number], v, 16);
	memcpy(c->regs.ymm_high[number], v + 16, 16);
}

/* The highest bit of an element. */
static bool named(const uint8_t *mask, unsigned element, unsigned size)
{
	return mask[element * size + size - 1] & 0x80;
}

/* None of these checks alignment. */
static uint64_t load(struct vp *c, struct uop *u, uint64_t va, unsigned size)
{
	uint64_t v = 0;

	if (va % size == 0)
		return sc_load(c, u, va, size);
	sc_load_bytes(c, u, va, &v, size);
	return v;
}

static void store(struct vp *c, struct uop *u, uint64_t va, uint64_t v, unsigned size)
{
	if (va % size == 0)
		sc_store(c, u, va, v, size);
	else
		sc_store_bytes(c, u, va, &v, size);
}

/* A segment's limit matters to elements that the mask names, to no others. */
static uint64_t element_address(struct vp *c, const struct uop *u, unsigned element, unsigned size)
{
	struct uop at = *u;

	if (!(u->ea & EA_SEG))
		return sc_ea(c, &at) + element * size;
	at.disp += element * size;
	at.ea &= (1u << EA_SIZE_SHIFT) - 1;
	at.ea |= (uint8_t)(__builtin_ctz(size) << EA_SIZE_SHIFT);
	return sc_ea_slow(c, &at);
}

struct block *sc_masked_load(struct vp *c, struct uop *u)
{
	unsigned size = AVX_ELEMENT(u->imm), count = AVX_COUNT(u->imm);
	uint8_t mask[VECTOR_MAX], v[VECTOR_MAX] = { 0 };
	uint64_t e;

	sc_check_avx(c, u);
	get_vector(c, AVX_MASK(u->imm), mask);
	for (unsigned i = 0; i < count; i++) {
		if (!named(mask, i, size))
			continue;
		e = load(c, u, element_address(c, u, i, size), size);
		memcpy(v + i * size, &e, size);
	}
	set_vector(c, AVX_REG(u->imm), v);
	NEXT;
}

/* Nothing is stored if any part can't be. */
struct block *sc_masked_store(struct vp *c, struct uop *u)
{
	unsigned size = AVX_ELEMENT(u->imm), count = AVX_COUNT(u->imm);
	uint8_t mask[VECTOR_MAX], v[VECTOR_MAX];
	uint64_t e = 0;

	sc_check_avx(c, u);
	get_vector(c, AVX_MASK(u->imm), mask);
	get_vector(c, AVX_REG(u->imm), v);
	for (unsigned i = 0; i < count; i++)
		if (named(mask, i, size))
			sc_probe_write(c, u, element_address(c, u, i, size), size);
	for (unsigned i = 0; i < count; i++) {
		if (!named(mask, i, size))
			continue;
		memcpy(&e, v + i * size, size);
		store(c, u, element_address(c, u, i, size), e, size);
	}
	NEXT;
}

static uint64_t gathered_address(struct vp *c, struct uop *u, const uint8_t *index,
				 unsigned element)
{
	int64_t at = 0;
	uint64_t off;

	if (AVX_INDEX_SIZE(u->imm) == 8) {
		memcpy(&at, index + element * 8, 8);
	} else {
		int32_t narrow;

		memcpy(&narrow, index + element * 4, 4);
		at = narrow;
	}
	off = REG64(c, u->base) + ((uint64_t)at << u->scale) + (uint64_t)u->disp;
	if (u->ea & EA_A32)
		off &= UINT32_MAX;
	return u->ea & EA_SEG ? sc_linear(c, u, u->seg, off, AVX_ELEMENT(u->imm), false)
			      : c->segbase[u->seg] + off;
}

/* Whole elements of ones or zeroes, in as many bytes as the instruction is wide. */
static void spread_mask(uint8_t mask[static VECTOR_MAX], unsigned size, unsigned bytes)
{
	for (unsigned i = 0; i < bytes / size; i++)
		memset(mask + i * size, named(mask, i, size) ? 0xff : 0, size);
	memset(mask + bytes, 0, VECTOR_MAX - bytes);
}

/* What has been loaded when an element faults stays, and is not named any more. AMD's processors
 * leave the rest of the mask as it was then. */
struct block *sc_gather(struct vp *c, struct uop *u)
{
	unsigned size = AVX_ELEMENT(u->imm), count = AVX_COUNT(u->imm);
	uint8_t index[VECTOR_MAX], mask[VECTOR_MAX], v[VECTOR_MAX];
	static const uint8_t none[VECTOR_MAX];
	uint64_t e;

	sc_check_avx(c, u);
	get_vector(c, AVX_INDEX(u->imm), index);
	get_vector(c, AVX_MASK(u->imm), mask);
	if (!c->vm->amd)
		spread_mask(mask, size, count * MAX(size, AVX_INDEX_SIZE(u->imm)));
	set_vector(c, AVX_MASK(u->imm), mask);
	for (unsigned i = 0; i < count; i++) {
		if (named(mask, i, size)) {
			e = load(c, u, gathered_address(c, u, index, i), size);
			get_vector(c, AVX_REG(u->imm), v);
			memcpy(v + i * size, &e, size);
			set_vector(c, AVX_REG(u->imm), v);
		}
		memset(mask + i * size, 0, size);
		set_vector(c, AVX_MASK(u->imm), mask);
	}
	get_vector(c, AVX_REG(u->imm), v);
	memset(v + count * size, 0, VECTOR_MAX - count * size);
	set_vector(c, AVX_REG(u->imm), v);
	set_vector(c, AVX_MASK(u->imm), none);
	NEXT;
}
