/*
 * Encoding single x86-64 instructions into a buffer.
 *
 *	struct emitter e = { start, end };
 *	emit_rr(&e, &(struct opcode){ .op = 0x89, .w = true }, H_RAX, H_RBX);	// mov rbx, rax
 *
 * The buffer's end is not checked at each byte: the caller makes sure that there is room for what
 *it emits between two calls of emit_room().
 */
#ifndef PART_SOFTCPU_EMIT_H
#define PART_SOFTCPU_EMIT_H

#include "base/macros.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct emitter {
	uint8_t *p, *end;
};

/* Registers of the host, by their numbers in encodings. */
enum host_reg {
	H_RAX,
	H_RCX,
	H_RDX,
	H_RBX,
	H_RSP,
	H_RBP,
	H_RSI,
	H_RDI,
	H_R8,
	H_R9,
	H_R10,
	H_R11,
	H_R12,
	H_R13,
	H_R14,
	H_R15,
	H_NONE = 0xff
};

enum opcode_map { MAP_ONE, MAP_0F, MAP_0F38, MAP_0F3A };

struct opcode {
	uint8_t map, op;
	uint8_t prefix; /* mandatory or operand-size prefix: 0x66, 0xf2, 0xf3 or 0 */
	uint8_t size66; /* 0x66 beside a mandatory F2 or F3 (CRC32) */
	bool w, lock;
	bool rex; /* a REX even if it is empty: SPL, BPL, SIL, DIL */
	/* With a VEX prefix, where prefix, map and w are its fields, too; its register. */
	bool vex, l256; /* l256: of 256 bits */
	uint8_t vvvv;
};

/* [base + index << scale + disp], in GS if gs. */
struct host_mem {
	uint8_t base, index, scale;
	bool gs;
	int32_t disp;
};

static inline bool emit_room(const struct emitter *e, size_t bytes)
{
	return (size_t)(e->end - e->p) >= bytes;
}

static inline void emit8(struct emitter *e, unsigned v)
{
	*e->p++ = (uint8_t)v;
}

static inline void emit32(struct emitter *e, uint32_t v)
{
	memcpy(e->p, &v, 4);
	e->p += 4;
}

static inline void emit64(struct emitter *e, uint64_t v)
{
	memcpy(e->p, &v, 8);
	e->p += 8;
}

static inline bool fits_s8(int64_t v)
{
	return v == (int8_t)v;
}

static inline bool fits_s32(int64_t v)
{
	return v == (int32_t)v;
}

/* Where the next byte goes is kept in a register: for the compiler each byte could be a part of the
 * emitter. Most callers' opcodes and registers are constants, of which little is left inline. */
#define EMIT_INLINE static inline __attribute__((always_inline))

EMIT_INLINE uint8_t *put8(uint8_t *p, unsigned v)
{
	*p = (uint8_t)v;
	return p + 1;
}

EMIT_INLINE uint8_t *put32(uint8_t *p, uint32_t v)
{
	memcpy(p, &v, 4);
	return p + 4;
}

/* The form of three bytes. */
static inline uint8_t *put_vex(uint8_t *p, const struct opcode *o, unsigned r, unsigned x,
			       unsigned b)
{
	static const uint8_t pp[4] = { 0, 0x66, 0xf3, 0xf2 };
	unsigned selector = 0;

	while (pp[selector] != o->prefix)
		selector++;
	p = put8(p, 0xc4);
	p = put8(p, (r & 8 ? 0 : 0x80) | (x & 8 ? 0 : 0x40) | (b & 8 ? 0 : 0x20) | o->map);
	p = put8(p, (o->w ? 0x80u : 0) | (~(unsigned)o->vvvv & 15) << 3 | (o->l256 ? 4 : 0) |
			selector);
	return put8(p, o->op);
}

/* Prefixes and opcode; r, x, b: the register numbers that go to ModRM.reg, SIB.index and rm/base.
 */
EMIT_INLINE uint8_t *put_head(uint8_t *p, const struct opcode *o, unsigned r, unsigned x,
			      unsigned b)
{
	unsigned rex = (o->w ? 8u : 0u) | (r & 8) >> 1 | (x & 8) >> 2 | (b & 8) >> 3;

	if (o->vex)
		return put_vex(p, o, r, x, b);
	if (o->lock)
		p = put8(p, 0xf0);
	if (o->size66)
		p = put8(p, 0x66);
	if (o->prefix)
		p = put8(p, o->prefix);
	if (rex || o->rex)
		p = put8(p, 0x40 | rex);
	if (o->map != MAP_ONE)
		p = put8(p, 0x0f);
	if (o->map == MAP_0F38)
		p = put8(p, 0x38);
	if (o->map == MAP_0F3A)
		p = put8(p, 0x3a);
	return put8(p, o->op);
}

EMIT_INLINE unsigned modrm_byte(unsigned mod, unsigned reg, unsigned rm)
{
	return mod << 6 | (reg & 7) << 3 | (rm & 7);
}

static inline void emit_head(struct emitter *e, const struct opcode *o, unsigned r, unsigned x,
			     unsigned b)
{
	e->p = put_head(e->p, o, r, x, b);
}

static inline void emit_modrm(struct emitter *e, unsigned mod, unsigned reg, unsigned rm)
{
	emit8(e, modrm_byte(mod, reg, rm));
}

/* reg, rm as registers */
EMIT_INLINE void emit_rr(struct emitter *e, const struct opcode *o, unsigned reg, unsigned rm)
{
	uint8_t *p = put_head(e->p, o, reg, 0, rm);

	e->p = put8(p, modrm_byte(3, reg, rm));
}

/* The register in the opcode's low bits: PUSH, BSWAP, MOV r, imm. */
EMIT_INLINE void emit_plus_r(struct emitter *e, const struct opcode *o, unsigned reg)
{
	struct opcode with = *o;

	with.op |= reg & 7;
	e->p = put_head(e->p, &with, 0, 0, reg);
}

EMIT_INLINE void emit_rm(struct emitter *e, const struct opcode *o, unsigned reg,
			 const struct host_mem *m)
{
	bool sib = m->base == H_NONE || m->index != H_NONE || (m->base & 7) == H_RSP;
	uint8_t *p = e->p;
	unsigned mod;

	if (m->base == H_NONE)
		mod = 0;
	else if (m->disp == 0 && (m->base & 7) != H_RBP)
		mod = 0;
	else
		mod = fits_s8(m->disp) ? 1 : 2;
	if (m->gs)
		p = put8(p, 0x65);
	p = put_head(p, o, reg, m->index == H_NONE ? 0 : m->index, m->base == H_NONE ? 0 : m->base);
	p = put8(p, modrm_byte(mod, reg, sib ? H_RSP : m->base));
	if (sib)
		p = put8(p, m->scale << 6 | (m->index == H_NONE ? 4u : m->index & 7u) << 3 |
				(m->base == H_NONE ? 5u : m->base & 7u));
	if (mod == 1)
		p = put8(p, (uint8_t)m->disp);
	else if (mod == 2 || m->base == H_NONE)
		p = put32(p, (uint32_t)m->disp);
	e->p = p;
}

/* ---- the instructions that the translator itself needs ---- */

#define OP(...) (&(struct opcode){ __VA_ARGS__ })
/* A field of the VP, and one behind an index. */
#define AT_GS(offset)          (&(struct host_mem){ H_NONE, H_NONE, 0, true, (int32_t)(offset) })
#define AT_GS_REG(reg, offset) (&(struct host_mem){ (reg), H_NONE, 0, true, (int32_t)(offset) })
#define AT_REG(reg)            (&(struct host_mem){ (reg), H_NONE, 0, false, 0 })

static inline void emit_mov64(struct emitter *e, unsigned dst, unsigned src)
{
	emit_rr(e, OP(.op = 0x89, .w = true), src, dst);
}

static inline void emit_mov32(struct emitter *e, unsigned dst, unsigned src)
{
	emit_rr(e, OP(.op = 0x89), src, dst);
}

static inline void emit_load64(struct emitter *e, unsigned dst, const struct host_mem *m)
{
	emit_rm(e, OP(.op = 0x8b, .w = true), dst, m);
}

static inline void emit_load32(struct emitter *e, unsigned dst, const struct host_mem *m)
{
	emit_rm(e, OP(.op = 0x8b), dst, m);
}

static inline void emit_store64(struct emitter *e, unsigned src, const struct host_mem *m)
{
	emit_rm(e, OP(.op = 0x89, .w = true), src, m);
}

static inline void emit_lea64(struct emitter *e, unsigned dst, const struct host_mem *m)
{
	emit_rm(e, OP(.op = 0x8d, .w = true), dst, m);
}

/* The shortest form; no flags change. */
static inline void emit_mov_imm(struct emitter *e, unsigned dst, uint64_t v)
{
	if (v <= UINT32_MAX) {
		emit_plus_r(e, OP(.op = 0xb8), dst);
		emit32(e, (uint32_t)v);
	} else if (fits_s32((int64_t)v)) {
		emit_rr(e, OP(.op = 0xc7, .w = true), 0, dst);
		emit32(e, (uint32_t)v);
	} else {
		emit_plus_r(e, OP(.op = 0xb8, .w = true), dst);
		emit64(e, v);
	}
}

/* RORX dst32, src32, by; no flags change. For hosts with BMI2. */
static inline void emit_rorx32(struct emitter *e, unsigned dst, unsigned src, unsigned by)
{
	emit8(e, 0xc4);
	emit8(e, (dst & 8 ? 0 : 0x80) | 0x40 | (src & 8 ? 0 : 0x20) | 0x03);
	emit8(e, 0x7b);
	emit8(e, 0xf0);
	emit_modrm(e, 3, dst, src);
	emit8(e, by);
}

/* MOV qword [m], sign-extended immediate */
static inline void emit_store_imm64(struct emitter *e, const struct host_mem *m, int32_t v)
{
	emit_rm(e, OP(.op = 0xc7, .w = true), 0, m);
	emit32(e, (uint32_t)v);
}

/* Conditions, as in the low bits of Jcc's opcode. */
enum host_cc { CC_AE = 3, CC_E = 4, CC_NE = 5, CC_BE = 6, CC_A = 7 };

static inline void emit_rel32(struct emitter *e, const uint8_t *target)
{
	emit32(e, (uint32_t)(target - (e->p + 4)));
}

static inline void emit_jmp(struct emitter *e, const uint8_t *target)
{
	emit8(e, 0xe9);
	emit_rel32(e, target);
}

static inline void emit_call(struct emitter *e, const uint8_t *target)
{
	emit8(e, 0xe8);
	emit_rel32(e, target);
}

/* A Jcc whose target is set later, by emit_here(). */
static inline uint8_t *emit_jcc(struct emitter *e, unsigned cc)
{
	emit8(e, 0x0f);
	emit8(e, 0x80 | cc);
	emit32(e, 0);
	return e->p - 4;
}

static inline void emit_set_rel32(uint8_t *at, const uint8_t *target)
{
	uint32_t v = (uint32_t)(target - (at + 4));

	memcpy(at, &v, 4);
}

static inline void emit_here(const struct emitter *e, uint8_t *at)
{
	emit_set_rel32(at, e->p);
}

static inline uint8_t *emit_jcc8(struct emitter *e, unsigned cc)
{
	emit8(e, 0x70 | cc);
	emit8(e, 0);
	return e->p - 1;
}

static inline void emit_here8(const struct emitter *e, uint8_t *at)
{
	*at = (uint8_t)(e->p - (at + 1));
}

#endif
