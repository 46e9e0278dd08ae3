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

#include "base/host.h"
#include "part/softcpu/cpu.h"
#include "part/softcpu/emit.h"
#include "part/softcpu/fast.h"

/* translator.hot as a rule */
#define TRANSLATE_HOT 16
/* How often a block is interpreted where it has no translation, before one is copied there. */
#define COPY_HOT 3

/* A block's translation for one linear address. Its sites and exits lie behind it, and behind them,
 * if it may be copied to other addresses, what a copy must change. */
struct xl {
	struct xl *next; /* of the same block */
	struct block *block;
	uint64_t va;
	/* In the executable mapping: the guest's flags are in vp.flags, or in the host's. */
	const uint8_t *entry, *entry_flags;
	struct xl_exit *incoming; /* exits that are linked to it */
	struct xl_exit *exits;    /* its own */
	struct xl *original;      /* what it is a copy of, or NULL */
	struct xl *next_copy;     /* in the same area of the cache */
	uint8_t *code;            /* in the writable mapping */
	uint32_t code_size, size; /* size: of this and of the sites and exits */
	uint32_t move_count;      /* behind them: struct xl_move; 0: it can't be copied */
	uint16_t second_page;     /* where the version of the block's second page is compared,
				     in the code; 0: it has one page */
	bool guessed;             /* vp.guesses may lead to it */
};

/* A place in a translation's code that is different in a copy for another linear address. */
struct xl_move {
	uint16_t at;  /* from the beginning of the code */
	uint8_t kind; /* enum xl_move_kind */
};

enum xl_move_kind {
	MOVE_SHARED, /* rel32 of shared code */
	MOVE_SITE,   /* id of a site */
	MOVE_EXIT,   /* id of an exit */
	MOVE_GUARD,  /* offset in the VP of the version of a page of code */
	MOVE_VA64,   /* linear addresses: 64 bits, */
	MOVE_VA32,   /* low half, the rest is 0, */
	MOVE_VA_S32, /* low half, sign-extended, */
	MOVE_LOW32,  /* low half, of which no more is used */
};

/* Where translated code calls C for one instruction. */
struct xl_site {
	struct xl *xl;
	uint16_t off, next_off; /* of this and of the next instruction in the block */
	uint8_t size;           /* of the operand that was written; WRITTEN_BULK: vp.scratch[2] */
	uint8_t after;          /* enum xl_after */
	struct uop u[];         /* the instruction, then sc_uop_done */
};

#define WRITTEN_BULK 0

enum xl_after {
	XL_GO_ON,
	XL_LEAVE,             /* for the loop, with RIP at the next instruction */
	XL_REPEAT,            /* and again if RCX isn't 0 */
	XL_LEAVE_JUMPED,      /* for the loop, with RIP as vp.scratch[1] has it */
	XL_SECOND_PAGE_THERE, /* go on, and take the page for the one of xl.second_page */
};

/* A direct branch out of a translation. Code addresses are those of the writable mapping. */
struct xl_exit {
	struct xl *from;
	struct xl_exit *next;      /* of the same translation */
	struct xl *to;             /* linked, or NULL */
	struct xl_exit *next_into; /* in to->incoming */
	struct xl_exit **link;     /* what points to it there */
	uint64_t target;
	uint8_t *jump;  /* the rel32 to be set */
	uint8_t *stub;  /* where it leads when not linked */
	uint8_t *guard; /* the version that is compared first, or NULL: same page */
	uint8_t which;  /* of block.chain */
	bool flags;     /* left with the guest's flags in the host's: for entry_flags */
	/* No branch: the target is in the block, at that uop, and goes on with KEY_APART, once it
	 * was left to the interpreter often enough. */
	bool apart;
	uint8_t uop;
	uint16_t interpreted;
};

/* Copies are many and soon of no use, as the processes are that they were made for: when their area
 * is full, the one that was filled first is emptied. */
#define COPY_AREAS 4u
struct copy_area {
	size_t start, used, end; /* of code */
	uint8_t *data, *data_used, *data_end;
	struct xl *copies;
};

struct code_cache {
	uint8_t *rw, *rx; /* the two mappings */
	/* Offsets: what all translations share, originals, copies. */
	size_t shared_end, used, end, size;
	struct copy_area copies[COPY_AREAS];
	unsigned filling; /* of copies */
	/* Up to where large pages were asked for. */
	size_t originals_large, copies_large;
};

struct translator {
	struct code_cache cache;
	/* Shared code, writable mapping. _flags: gives or takes the guest's flags in the host's.
	 * [1]: SSE and x87 registers that were loaded are loaded again. */
	uint8_t *slow[2], *slow_flags[2];        /* R11D: site */
	uint8_t *stored[2], *stored_flags[2];    /* R11D: site, R10: host address written */
	uint8_t *exit, *exit_flags;              /* R11D: exit */
	uint8_t *load_sse, *load_x87, *load_avx; /* CF: not possible */
	uint8_t *lost_return;                    /* what the last entry of vp.returns leads to */
	struct block *(*enter)(const uint8_t *code);
	bool exact_flags;
	bool written; /* code, since the processor was last told (host_serialize) */
	bool rorx;    /* the host has BMI2 */
	unsigned hot; /* how often a block is interpreted first */
	/* ns: without the copies */
	uint64_t translated_insns, translations, copies, ns;
};

static inline void translate_serialize(struct translator *t)
{
	if (likely(!t->written))
		return;
	t->written = false;
	host_serialize();
}

int sc_translator_init(struct vp *c, struct error *err);
void sc_translator_done(struct vp *c);
/* Translates the block for the address in RIP(c), by a copy if it can. It may flush all blocks,
 * this one too, when there is no room: false then. */
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
/* It is the block's first one then: processes that run now find theirs soon. */
static inline struct xl *sc_translation_at(struct block *b, uint64_t va)
{
	struct xl **link = &b->xls, *x;

	while ((x = *link) && x->va != va)
		link = &x->next;
	if (x && x != b->xls) {
		*link = x->next;
		x->next = b->xls;
		b->xls = x;
	}
	return x;
}
/* The block's code was written: its translations are cut off. They may be running. */
void sc_translations_drop(struct vp *c, struct block *b);
/* All blocks are gone; no translation runs. */
void sc_translations_flush(struct vp *c);

/* ---- between the translator's files ---- */

/* codecache.c */
/* data: for what belongs to copies. */
int code_cache_init(struct code_cache *cache, size_t bytes, uint8_t *data, size_t data_bytes,
		    struct error *err);
void code_cache_done(struct code_cache *cache);
void code_cache_enlarge_pages(struct code_cache *cache, size_t *large, size_t end);
void copy_area_empty(struct copy_area *area);
/* What comes before shared_end stays. */
void code_cache_empty(struct code_cache *cache);
/* Code is about to be made at its end. Kernel code, translated, is spread over megabytes: with
 * pages of 4 KiB much of a system call's time would be misses of the host's instruction TLB. What
 * an idle guest runs takes no large page. */
#define LARGE_PAGE_WORTH (512u << 10)
static inline void code_cache_touch(struct code_cache *cache)
{
	if (unlikely(cache->used >= cache->originals_large + LARGE_PAGE_WORTH))
		code_cache_enlarge_pages(cache, &cache->originals_large, cache->end);
}
static inline void code_cache_touch_copies(struct code_cache *cache)
{
	if (unlikely(cache->copies[cache->filling].used >= cache->copies_large + LARGE_PAGE_WORTH))
		code_cache_enlarge_pages(cache, &cache->copies_large, cache->size);
}
/* Bytes in use beside the shared code; gives their memory back: nothing may need them any more. */
size_t code_cache_held(const struct code_cache *cache);
void code_cache_release(struct code_cache *cache);
static inline const uint8_t *code_cache_rx(const struct code_cache *cache, const uint8_t *rw)
{
	return cache->rx + (rw - cache->rw);
}
/* What code compares the version of a page with. */
#define NO_VERSION UINT32_MAX /* unlike any */
static inline void put_version(uint8_t *guard, uint32_t version)
{
	memcpy(guard, &version, sizeof(version));
}
/* Of a block that ends on the next page. */
static inline uint64_t second_page_va(const struct vp *c, uint64_t va)
{
	return ((va | (MEM_PAGE_SIZE - 1)) + 1) & c->rip_mask;
}
/* Sites and exits are named by what is between them and the arena's beginning. */
static inline uint32_t translate_id(const struct vp *c, const void *data)
{
	return (uint32_t)((const uint8_t *)data - c->arena);
}
static inline void *translate_named(const struct vp *c, uint32_t id)
{
	return c->arena + id;
}
void translate_shared_code(struct vp *c, struct translator *t);

/* translate-copy.c: a copy of one of the block's translations for that address, which none has yet;
 * NULL: it can't be done. No translation may run. */
struct xl *translate_copy(struct vp *c, struct block *b, uint64_t va);
/* Whether that is worth trying. */
static inline bool translate_can_copy(const struct block *b)
{
	return b->xls && (b->xls->original || b->xls->move_count);
}
/* translate-run.c: empties an area. No translation may run. */
void translate_drop_copies(struct vp *c, struct copy_area *area);

/* The thread's GS base, which all emitted code uses. */
void translate_bind_thread(struct vp *c);

/* translate-run.c: called by the shared code. The block to go on with plus 1; 0: go on in the
 * translation; XL_RESUME: go on at vp.resume, where flags are expected in vp.flags. */
#define XL_RESUME 2
/* The guest address of the entry of vp.returns that is never taken away. */
#define LOST_RETURN_RIP 0
uintptr_t translate_slow(struct vp *c, uint32_t site);
uintptr_t translate_stored(struct vp *c, uint32_t site, uint8_t *host);
uintptr_t translate_exit(struct vp *c, uint32_t exit);
sc_fn sc_uop_done, sc_called;

/* ---- host code that guest registers and flags live in ---- */

#define SCRATCH0  H_R10
#define SCRATCH1  H_R11
#define GUEST_RSP H_R15

#define VP_FIELD(field) ((uint32_t)offsetof(struct vp, field))
#define VP_GPR(number)  ((uint32_t)(offsetof(struct vp, gpr) + 8u * (number)))

#define MXCSR_MASKS 0x1f80u /* all exceptions masked */

/* The host register of a guest register, or H_NONE: in the VP. */
static inline unsigned host_gpr(unsigned guest)
{
	if (guest == PART_RSP)
		return GUEST_RSP;
	return guest == 10 || guest == 11 || guest == 15 ? H_NONE : guest;
}

/* vp.flags from the host's flags and back; the scratch register, SCRATCH1, is lost. */
void emit_save_flags(struct emitter *e, unsigned scratch);
void emit_restore_flags(struct emitter *e);

#endif
