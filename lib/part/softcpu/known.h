/*
 * Instructions that were decoded before: guests have the same ones in many places, and decoding
 * takes its time. What an instruction is depends on its own bytes and the mode alone, so the micro-
 * operations and what the translator needs to know are kept together, by these bytes. Constants of
 * four bytes, as in calls, aren't compared but put in from the code.
 *
 *	k = known_find(table, key, code, length);
 *	if (k)
 *		known_uops(k, code, off, uops);
 *
 * Each VP has its own table.
 */
#ifndef PART_SOFTCPU_KNOWN_H
#define PART_SOFTCPU_KNOWN_H

#include "part/softcpu/translate-gen.h"

#define KNOWN_UOPS (1 + HOSTOP_UOPS)

/* Which bytes make an instruction what it is: the first ones, as many as its length, but not a
 * displacement of four bytes and not the immediate of four bytes at the end. */
typedef uint32_t known_shape;

#define KNOWN_SHAPE(length, disp, imm) ((length) | (disp) << 8 | (imm) << 16)
#define KNOWN_LENGTH(shape)            ((shape)&0xff)
#define KNOWN_DISP(shape)              ((shape) >> 8 & 0xff) /* where it begins, or 0 */
#define KNOWN_IMM(shape)               ((shape) >> 16)       /* 1: there is one */

struct known_insn {
	uint64_t bytes[2]; /* those that are compared */
	known_shape shape;
	uint8_t key; /* KNOWN_KEY of block.key */
	bool used;
	bool end;             /* it ends a block */
	bool fuses;           /* a Jcc that the one before it may do as well */
	bool alone;           /* lockstep: a block of its own */
	bool rip_relative;    /* uops[0].disp counts from the block's begin */
	bool imm_is_disp;     /* the immediate is uops[0].disp, not .imm */
	sc_fn *fusable;       /* what uops[0] would be with a Jcc behind it, or NULL */
	uint16_t flags_set;   /* RF_ARITH that it sets, */
	uint16_t flags_undef; /* and leaves undefined; for lockstep */
	uint8_t uop_count;
	struct uop uops[KNOWN_UOPS];
	struct xl_insn insn; /* if there is a translator */
};

#define KNOWN_KEY (KEY_MODE | KEY_FLAT)

struct known;

struct known *known_new(void); /* NULL: no memory */
void known_free(struct known *table);
/* NULL: not known. length: how many bytes can be read. */
const struct known_insn *known_find(const struct known *table, unsigned key, const uint8_t *code,
				    size_t length);
/* Keeps what in and uops say, with the shape, the bytes and the key. If it can't be kept, what is
 * returned stays until the next call only. */
struct known_insn *known_add(struct known *table, unsigned key, const uint8_t *code, size_t length,
			     const ZydisDecodedInstruction *in, const struct known_insn *insn);

/* The micro-operations of an instruction at off in its block. */
static inline void known_uops(const struct known_insn *k, const uint8_t *code, unsigned off,
			      struct uop *ret)
{
	int32_t v;

	ret[0] = k->uops[0];
	if (k->uop_count > 1)
		memcpy(ret + 1, k->uops + 1, sizeof(k->uops) - sizeof(k->uops[0]));
	ret->off = (uint16_t)off;
	if (KNOWN_DISP(k->shape)) {
		memcpy(&v, code + KNOWN_DISP(k->shape), sizeof(v));
		ret->disp = (int64_t)v + (k->rip_relative ? ret->len : 0);
	}
	if (KNOWN_IMM(k->shape)) {
		memcpy(&v, code + KNOWN_LENGTH(k->shape) - sizeof(v), sizeof(v));
		if (k->imm_is_disp)
			ret->disp = v;
		else
			ret->imm = v;
	}
	if (k->rip_relative)
		ret->disp += off;
}

/* The same for the translator. */
static inline void known_xl(const struct known_insn *k, const uint8_t *code, struct xl_insn *ret)
{
	*ret = k->insn;
	if (KNOWN_IMM(k->shape) && ret->imm_len) {
		memcpy(ret->imm, code + ret->len - sizeof(ret->rel), sizeof(ret->rel));
		memcpy(&ret->rel, ret->imm, sizeof(ret->rel));
	}
}

/* decode.c: decodes the instruction if it isn't known yet. NULL: it is none, ret_status (may be
 * NULL) says why. */
const struct known_insn *sc_known_insn(struct vp *c, unsigned key, const uint8_t *code,
				       size_t length, ZyanStatus *ret_status);

#endif
