/*
 * XSAVE, XRSTOR and XCR0: x87, SSE and AVX state in the standard form (SDM volume 1, chapter 13).
 * There are no compact forms, no optimized ones and no supervisor state.
 */
#include "part/softcpu/exec.h"
#include "part/softcpu/fast.h"

#include <string.h>

#define XSAVE_ALIGNMENT 64u
#define HEADER          512u
#define HEADER_BYTES    64u
#define CHUNK           256u /* at most that much is looked up at a time */

/* Memory between the image and guest addresses, piece by piece. */
static void load(struct vp *c, struct uop *u, uint64_t va, uint8_t *to, unsigned size)
{
	for (unsigned at = 0; at < size; at += CHUNK)
		sc_load_bytes(c, u, va + at, to + at, MIN(size - at, CHUNK));
}

static void store(struct vp *c, struct uop *u, uint64_t va, const uint8_t *from, unsigned size)
{
	for (unsigned at = 0; at < size; at += CHUNK)
		sc_store_bytes(c, u, va + at, from + at, MIN(size - at, CHUNK));
}

static void probe(struct vp *c, struct uop *u, uint64_t va, unsigned size)
{
	for (unsigned at = 0; at < size; at += CHUNK)
		sc_probe_write(c, u, va + at, MIN(size - at, CHUNK));
}

static unsigned image_size(uint64_t mask)
{
	return mask & HOSTOP_XCR0_AVX ? HOSTOP_XSAVE_BYTES : HEADER + HEADER_BYTES;
}

/* The operand's address; *ret_mask: the components asked for. */
static uint64_t begin(struct vp *c, struct uop *u, uint64_t *ret_mask)
{
	uint64_t va;

	if (!(c->cr4 & CR4_OSXSAVE))
		sc_ud(c, u);
	if (c->cr0 & CR0_TS)
		sc_fault(c, u, VEC_NM);
	va = sc_ea(c, u);
	if (va & (XSAVE_ALIGNMENT - 1))
		sc_gp(c, u);
	*ret_mask = (c->gpr[PART_RDX] << 32 | (uint32_t)c->gpr[PART_RAX]) & c->xcr0;
	return va;
}

static bool is_legacy(const struct vp *c)
{
	return c->mode != MODE_64;
}

/* Where the image is if it lies on one page of RAM, else NULL. */
static uint8_t *on_one_page(struct vp *c, struct uop *u, uint64_t va, unsigned size, bool write)
{
	unsigned room;

	if ((va & (MEM_PAGE_SIZE - 1)) + size > MEM_PAGE_SIZE)
		return NULL;
	return sc_bulk(c, u, va, write, &room);
}

/* aux: the 64-bit form */
struct block *sc_xsave(struct vp *c, struct uop *u)
{
	uint8_t image[HOSTOP_XSAVE_BYTES], *host;
	uint64_t mask, va = begin(c, u, &mask);
	unsigned size = image_size(mask);

	host = on_one_page(c, u, va, size, true);
	if (likely(host != NULL)) {
		hostop_xsave(&c->regs, host, mask, u->aux, is_legacy(c));
		if (unlikely(*sc_flags_at(c->vm, host)))
			sc_stored(c, host, size);
		NEXT;
	}
	probe(c, u, va, size);
	load(c, u, va, image, size); /* what isn't asked for stays */
	hostop_xsave(&c->regs, image, mask, u->aux, is_legacy(c));
	store(c, u, va, image, size);
	NEXT;
}

struct block *sc_xrstor(struct vp *c, struct uop *u)
{
	uint8_t image[HOSTOP_XSAVE_BYTES];
	uint64_t mask, va = begin(c, u, &mask);
	const uint8_t *host = on_one_page(c, u, va, image_size(mask), false);

	if (likely(host != NULL)) /* others may write there */
		memcpy(image, host, image_size(mask));
	else
		load(c, u, va, image, image_size(mask));
	if (!hostop_xrstor(&c->regs, image, mask, c->xcr0, u->aux, is_legacy(c)))
		sc_gp(c, u);
	NEXT;
}

struct block *sc_xgetbv(struct vp *c, struct uop *u)
{
	if (!(c->cr4 & CR4_OSXSAVE))
		sc_ud(c, u);
	if ((uint32_t)c->gpr[PART_RCX] != 0)
		sc_gp(c, u);
	c->gpr[PART_RAX] = (uint32_t)c->xcr0;
	c->gpr[PART_RDX] = c->xcr0 >> 32;
	NEXT;
}

/* x87 always, AVX only with SSE. */
bool sc_xcr0_valid(uint64_t v)
{
	return v == HOSTOP_XCR0_X87 || v == (HOSTOP_XCR0_X87 | HOSTOP_XCR0_SSE) ||
	       v == HOSTOP_XCR0_ALL;
}

struct block *sc_xsetbv(struct vp *c, struct uop *u)
{
	uint64_t v = c->gpr[PART_RDX] << 32 | (uint32_t)c->gpr[PART_RAX];

	if (!(c->cr4 & CR4_OSXSAVE))
		sc_ud(c, u);
	if (c->cpl != 0 || (uint32_t)c->gpr[PART_RCX] != 0 || !sc_xcr0_valid(v))
		sc_gp(c, u);
	c->xcr0 = v;
	sc_avx_changed(c);
	NEXT;
}

void sc_avx_changed(struct vp *c)
{
	c->avx_on =
	    c->vm->has[HOSTOP_FEATURE_AVX] && (c->cr4 & CR4_OSXSAVE) && c->xcr0 == HOSTOP_XCR0_ALL;
}
