/*
 * The translator: blocks that run often become host code. docs/translator.md has the design.
 *
 *	sc_translator_init(c, ...)		once per VP
 *	if (++b->heat == HEAT_TRANSLATE)	in the loop of run.c
 *		sc_translate(c, b);
 *
 * After that the block's first handler enters the code, and everything else is as before: the
 *handler returns the next block, or NULL. All here belongs to one VP and is called by its thread
 *only.
 */
#ifndef PART_SOFTCPU_TRANSLATE_H
#define PART_SOFTCPU_TRANSLATE_H

#include "part/softcpu/cpu.h"
#include "part/softcpu/emit.h"
#include "part/softcpu/fast.h"

/* translator.hot as a rule */
#define TRANSLATE_HOT 16

/* A block's translation for one linear address. */
struct xl {
	struct xl *next; /* of the same block */
	struct block *block;
	uint64_t va;
	/* In the executable mapping: the guest's flags are in vp.flags, or in the host's. */
	const uint8_t *entry, *entry_flags;
	struct xl_exit *incoming; /* exits that are linked to it */
};

/* Where translated code calls C for one instruction. */
struct xl_site {
	struct block *block;
	uint64_t va;            /* of the translation */
	uint16_t off, next_off; /* of this and of the next instruction in the block */
	uint8_t size;           /* of the operand that was written; WRITTEN_BULK: vp.scratch[2] */
	uint8_t after;          /* enum xl_after */
	struct uop *rest;       /* for translate_rest: the block's own */
	struct uop u[];         /* the instruction, then sc_uop_done */
};

#define WRITTEN_BULK 0

enum xl_after {
	XL_GO_ON,
	XL_LEAVE,        /* for the loop, with RIP at the next instruction */
	XL_REPEAT,       /* and again if RCX isn't 0 */
	XL_LEAVE_JUMPED, /* for the loop, with RIP as vp.scratch[1] has it */
};

/* A direct branch out of a translation. Code addresses are those of the writable mapping. */
struct xl_exit {
	struct xl *from;
	struct xl *to;             /* linked, or NULL */
	struct xl_exit *next_into; /* in to->incoming */
	struct xl_exit **link;     /* what points to it there */
	uint64_t target;
	uint8_t *jump;  /* the rel32 to be set */
	uint8_t *stub;  /* where it leads when not linked */
	uint8_t *guard; /* the version that is compared first, or NULL: same page */
	uint8_t which;  /* of block.chain */
	bool flags;     /* left with the guest's flags in the host's: for entry_flags */
};

struct code_cache {
	uint8_t *rw, *rx; /* the two mappings */
	size_t size, used, shared_end;
	size_t large_end; /* up to where large pages were asked for */
	uint8_t *data;    /* struct xl, xl_site, xl_exit */
	size_t data_size, data_used;
};

struct translator {
	struct code_cache cache;
	/* Shared code, writable mapping. _flags: gives or takes the guest's flags in the host's.
	 * [1]: SSE and x87 registers that were loaded are loaded again. */
	uint8_t *slow[2], *slow_flags[2];     /* R11D: site */
	uint8_t *rest;                        /* R11D: site; does not come back */
	uint8_t *stored[2], *stored_flags[2]; /* R11D: site, R10: host address written */
	uint8_t *exit, *exit_flags;           /* R11D: exit */
	uint8_t *load_sse, *load_x87;         /* CF: not possible */
	uint8_t *lost_return;                 /* what the last entry of vp.returns leads to */
	struct block *(*enter)(const uint8_t *code);
	bool exact_flags;
	bool rorx;    /* the host has BMI2 */
	unsigned hot; /* how often a block is interpreted first */
	uint64_t translated_insns, translations, ns;
};

/* cache_bytes: for code and tables. */
int sc_translator_init(struct vp *c, size_t cache_bytes, struct error *err);
void sc_translator_done(struct vp *c);
/* Translates the block for the address in RIP(c). It may flush all blocks, this one too, when there
 * is no room: false then. */
bool sc_translate(struct vp *c, struct block *b);
/* For the loop, before it begins a block: counts, and translates when it is time. False: all blocks
 * were flushed. */
static inline bool sc_translate_hot(struct vp *c, struct block *b)
{
	const struct translator *t = c->translator;

	if (!t || likely(b->heat >= t->hot) || ++b->heat < t->hot)
		return true;
	return sc_translate(c, b);
}
static inline struct xl *sc_translation_at(const struct block *b, uint64_t va)
{
	struct xl *x = b->xls;

	while (x && x->va != va)
		x = x->next;
	return x;
}
/* The block's code was written: its translations are cut off. They may be running. */
void sc_translations_drop(struct vp *c, struct block *b);
/* All blocks are gone; no translation runs. */
void sc_translations_flush(struct vp *c);

/* ---- between the translator's files ---- */

/* codecache.c */
int code_cache_init(struct code_cache *cache, size_t bytes, struct error *err);
void code_cache_done(struct code_cache *cache);
void code_cache_enlarge_pages(struct code_cache *cache);
void *code_cache_data(struct code_cache *cache, size_t size); /* NULL: full */
/* Code is about to be made at its end. Kernel code, translated, is spread over megabytes: with
 * pages of 4 KiB much of a system call's time would be misses of the host's instruction TLB. What
 * an idle guest runs takes no large page. */
#define LARGE_PAGE_WORTH (512u << 10)
static inline void code_cache_touch(struct code_cache *cache)
{
	if (unlikely(cache->used >= cache->large_end + LARGE_PAGE_WORTH))
		code_cache_enlarge_pages(cache);
}
/* Bytes in use beside the shared code; gives their memory back: nothing may need them any more. */
size_t code_cache_held(const struct code_cache *cache);
void code_cache_release(struct code_cache *cache);
static inline const uint8_t *code_cache_rx(const struct code_cache *cache, const uint8_t *rw)
{
	return cache->rx + (rw - cache->rw);
}
static inline uint32_t code_cache_id(const struct code_cache *cache, const void *data)
{
	return (uint32_t)((const uint8_t *)data - cache->data);
}
void translate_shared_code(struct vp *c, struct translator *t);

/* The thread's GS base, which all emitted code uses. */
void translate_bind_thread(struct vp *c);

/* translate-run.c: called by the shared code. The block to go on with plus 1; 0: go on in the
 * translation; XL_RESUME: go on at vp.resume, where flags are expected in vp.flags. */
#define XL_RESUME 2
/* The guest address of the entry of vp.returns that is never taken away. */
#define LOST_RETURN_RIP 0
uintptr_t translate_slow(struct vp *c, uint32_t site);
uintptr_t translate_rest(struct vp *c, uint32_t site);
uintptr_t translate_stored(struct vp *c, uint32_t site, uint8_t *host);
uintptr_t translate_exit(struct vp *c, uint32_t exit);
sc_fn sc_uop_done, sc_called;

/* ---- host code that guest registers and flags live in ---- */

#define SCRATCH0  H_R10
#define SCRATCH1  H_R11
#define GUEST_RSP H_R15

#define VP_FIELD(field) ((uint32_t)offsetof(struct vp, field))
#define VP_GPR(number)  ((uint32_t)(offsetof(struct vp, gpr) + 8u * (number)))

/* The host register of a guest register, or H_NONE: in the VP. */
static inline unsigned host_gpr(unsigned guest)
{
	if (guest == PART_RSP)
		return GUEST_RSP;
	return guest == 10 || guest == 11 || guest == 15 ? H_NONE : guest;
}

/* vp.flags from the host's flags and back; SCRATCH1 is lost. */
void emit_save_flags(struct emitter *e);
void emit_restore_flags(struct emitter *e);

#endif
