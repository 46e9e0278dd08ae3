/*
 * Translator and interpreter on the same guest instructions (cpu.h, docs/translator.md).
 *
 * A block is interpreted first, on private copies of the pages that it touches, then its
 * translation runs in earnest. Registers, exceptions and the pages must be the same afterwards. If
 * they aren't, devices or other VPs may have written in between; so the translation runs once more,
 * on private copies of what the interpreter began with. A difference that is still there is the
 * translator's, unless page table entries that the interpreter walked have changed since: then the
 * two may rightly have used different ones, the translation those of the TLB.
 *
 * Compared are blocks of instructions that the translator executes itself. What the interpreter's
 * handlers do anyway, and what has effects beyond registers and RAM, stands in blocks of its own
 * (sc_lockstep_alone) and runs once. Device memory ends a comparison before anything happened.
 *
 * Arithmetic flags that nothing reads may be anything in translated code. So interpreter and
 * translation each go on with flags of their own from block to block: flags that are read although
 * they were thought dead make a difference then. Flags that an instruction leaves undefined are the
 * same for both from the next block on.
 */
#include "part/softcpu/cpu.h"
#include "part/softcpu/fast.h"
#include "part/softcpu/translate-gen.h"
#include "part/softcpu/translate.h"
#include "part/softcpu/zydis.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A block's accesses, two pages each, and what FXSAVE or a stack frame adds. */
#define PAGES        (2 * BLOCK_MAX_INSNS + 4)
#define COPIES       3u
#define LEVELS       4u  /* of a page walk */
#define REPORT_BYTES 64u /* of the code, in a report */
#define MEMORY_BYTES ((size_t)PAGES * COPIES * MEM_PAGE_SIZE)

/* What sc_raise's longjmp gives, and ours: nothing that can be compared. */
enum { TRAP_RAISED = 1, TRAP_GIVEN_UP = 2 };

/* A page of the guest and its copies: as it was, as the interpreter left it if it wrote there, as
 * the translation left it that ran on copies. */
struct page {
	uint8_t *host;
	bool written;
	uint8_t *orig, *interpreted, *translated;
};

/* A page table entry as the interpreter found it, with the bits that it set. */
struct walked {
	const uint8_t *entry;
	unsigned size;
	uint64_t value;
};

/* All that an instruction that is compared may change. */
struct state {
	struct hostop_regs regs;
	uint64_t rf, cr2, segbase_gs, gs_base, kernel_gs_base, translated_rsp;
	struct sc_event event;
	uint16_t flags;
	uint8_t shadow;
	bool raised;
};

struct lockstep {
	struct page pages[PAGES];
	unsigned count;
	struct walked walked[LEVELS * PAGES];
	unsigned walked_count;
	uint8_t *memory;    /* of all pages */
	uint16_t flags;     /* the interpreter's */
	uint32_t undefined; /* of them, RF_ARITH */
	bool left_early;    /* the translation ended inside the block */
	uint64_t compared, races;
	struct state before, interpreted, translated;
	char text[900];
	size_t text_len;
};

int sc_lockstep_init(struct vp *c, struct error *err)
{
	struct lockstep *l = aligned_alloc(64, ALIGN_UP(sizeof(*l), 64));

	if (!l)
		return error_set(err, ERR_NO_MEMORY, "no memory for lockstep");
	memset(l, 0, sizeof(*l));
	c->lockstep = l;
	l->memory = sc_map(MEMORY_BYTES);
	if (!l->memory)
		return error_set(err, ERR_NO_MEMORY, "no memory for lockstep");
	for (unsigned i = 0; i < PAGES; i++) {
		l->pages[i].orig = l->memory + (size_t)i * COPIES * MEM_PAGE_SIZE;
		l->pages[i].interpreted = l->pages[i].orig + MEM_PAGE_SIZE;
		l->pages[i].translated = l->pages[i].interpreted + MEM_PAGE_SIZE;
	}
	c->translator->hot = 1;
	return 0;
}

void sc_lockstep_done(struct vp *c)
{
	if (c->lockstep)
		sc_unmap(c->lockstep->memory, MEMORY_BYTES);
	free(c->lockstep);
	c->lockstep = NULL;
}

void sc_lockstep_begin(struct vp *c)
{
	c->lockstep->flags = c->flags;
	c->lockstep->undefined = 0;
}

/* ---- private pages ---- */

static _Noreturn void give_up(struct vp *c)
{
	longjmp(c->trap, TRAP_GIVEN_UP);
}

/* A run on copies comes to nothing then: what made this one end may not be there in the other. */
void sc_lockstep_left_early(struct vp *c)
{
	if (c->private_memory)
		give_up(c);
	c->lockstep->left_early = true;
}

static struct page *find_page(struct lockstep *l, const uint8_t *host)
{
	for (unsigned i = 0; i < l->count; i++)
		if (l->pages[i].host == host)
			return &l->pages[i];
	return NULL;
}

static struct page *new_page(struct vp *c, uint8_t *host)
{
	struct lockstep *l = c->lockstep;
	struct page *p = &l->pages[l->count];

	if (l->count == PAGES)
		give_up(c);
	l->count++;
	p->host = host;
	p->written = false;
	memcpy(p->orig, host, MEM_PAGE_SIZE);
	if (c->private_memory == PRIVATE_TRANSLATOR)
		memcpy(p->translated, host, MEM_PAGE_SIZE);
	return p;
}

static uint8_t *interpreted(const struct page *p)
{
	return p->written ? p->interpreted : p->orig;
}

uint8_t *sc_lockstep_page(struct vp *c, uint8_t *host, bool write)
{
	struct page *p;

	if (!host) /* not RAM */
		give_up(c);
	p = find_page(c->lockstep, host);
	if (!p)
		p = new_page(c, host);
	if (c->private_memory == PRIVATE_TRANSLATOR)
		return p->translated;
	if (write && !p->written) {
		memcpy(p->interpreted, p->orig, MEM_PAGE_SIZE);
		p->written = true;
	}
	return interpreted(p);
}

/* What a walk finds in RAM is what the copies hold, or the walk can't be compared. */
void sc_lockstep_walks(struct vp *c, const uint8_t *entry, unsigned size, uint64_t value)
{
	struct lockstep *l = c->lockstep;
	size_t off = (uintptr_t)entry & (MEM_PAGE_SIZE - 1);
	const struct page *p = find_page(l, entry - off);

	if (p && sc_table_entry(interpreted(p) + off, size) != value)
		give_up(c);
	if (c->private_memory != PRIVATE_INTERPRETER)
		return;
	if (l->walked_count == LEVELS * PAGES)
		give_up(c);
	l->walked[l->walked_count++] = (struct walked){ entry, size, value };
}

void sc_lockstep_walked(struct vp *c, const uint8_t *entry, unsigned size, uint64_t value)
{
	struct lockstep *l = c->lockstep;
	size_t off = (uintptr_t)entry & (MEM_PAGE_SIZE - 1);
	struct page *p = find_page(l, entry - off);

	for (unsigned i = 0; i < l->walked_count; i++)
		if (l->walked[i].entry == entry)
			l->walked[i].value = value;
	if (!p)
		return;
	memcpy(p->orig + off, entry, size);
	memcpy(p->interpreted + off, entry, size);
	memcpy(p->translated + off, entry, size);
}

/* Whether the page tables are still as the interpreter walked them. */
static bool same_tables(const struct lockstep *l)
{
	for (unsigned i = 0; i < l->walked_count; i++)
		if (sc_table_entry(l->walked[i].entry, l->walked[i].size) != l->walked[i].value)
			return false;
	return true;
}

/* ---- registers ---- */

static void take(const struct vp *c, struct state *s, bool raised)
{
	s->regs = c->regs;
	s->flags = c->flags;
	s->rf = c->rf;
	s->cr2 = c->cr2;
	s->segbase_gs = c->segbase[PART_GS];
	s->gs_base = c->seg[PART_GS].base;
	s->kernel_gs_base = c->kernel_gs_base;
	s->translated_rsp = c->translated_rsp;
	s->shadow = c->shadow;
	s->event = c->event;
	s->raised = raised;
}

static void put(struct vp *c, const struct state *s)
{
	c->regs = s->regs;
	c->flags = s->flags;
	c->rf = s->rf;
	c->cr2 = s->cr2;
	c->segbase[PART_GS] = s->segbase_gs;
	c->seg[PART_GS].base = s->gs_base;
	c->kernel_gs_base = s->kernel_gs_base;
	c->translated_rsp = s->translated_rsp;
	c->shadow = s->shadow;
	c->event = s->event;
	c->event_pending = s->raised;
	c->link = NULL;
}

/* ---- comparing ---- */

static __attribute__((format(printf, 2, 3))) void say(struct lockstep *l, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(l->text + l->text_len, sizeof(l->text) - l->text_len, fmt, args);
	va_end(args);
	l->text_len = MIN(l->text_len + (size_t)n, sizeof(l->text) - 1);
}

static bool same64(struct lockstep *l, const char *name, uint64_t i, uint64_t t)
{
	if (i != t)
		say(l, "; %s 0x%llx interpreted, 0x%llx translated", name, (unsigned long long)i,
		    (unsigned long long)t);
	return i == t;
}

static void say_bytes(struct lockstep *l, const uint8_t *bytes, size_t len)
{
	for (size_t i = 0; i < MIN(len, 8u); i++)
		say(l, "%02x", bytes[i]);
}

static bool same_bytes(struct lockstep *l, const char *name, const void *i, const void *t,
		       size_t len)
{
	const uint8_t *a = i, *b = t;
	size_t at = 0;

	if (memcmp(i, t, len) == 0)
		return true;
	while (a[at] == b[at])
		at++;
	say(l, "; %s+0x%zx ", name, at);
	say_bytes(l, a + at, len - at);
	say(l, " interpreted, ");
	say_bytes(l, b + at, len - at);
	say(l, " translated");
	return false;
}

static bool same_event(struct lockstep *l, const struct state *i, const struct state *t)
{
	bool same = same64(l, "exception", i->raised, t->raised);

	if (!i->raised || !t->raised)
		return same;
	same &= same64(l, "vector", i->event.vector, t->event.vector);
	same &= same64(l, "error code", i->event.error, t->event.error);
	same &= same64(l, "CR2", i->cr2, t->cr2);
	return same;
}

static bool same_registers(struct lockstep *l, const struct state *i, const struct state *t)
{
	static const char *const names[] = {
		"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
		"R8",  "R9",  "R10", "R11", "R12", "R13", "R14", "R15"
	};
	bool same = same64(l, "RIP", i->regs.rip, t->regs.rip);

	for (unsigned r = 0; r < 16; r++)
		same &= same64(l, names[r], i->regs.gpr[r], t->regs.gpr[r]);
	same &= same64(l, "RFLAGS", i->rf, t->rf);
	same &= same64(l, "GS", i->segbase_gs, t->segbase_gs);
	same &= same64(l, "GS.base", i->gs_base, t->gs_base);
	same &= same64(l, "KernelGSbase", i->kernel_gs_base, t->kernel_gs_base);
	same &= same_bytes(l, "YMM registers", i->regs.ymm_high, t->regs.ymm_high,
			   sizeof(t->regs.ymm_high));
	same &= same_bytes(l, "FXSAVE image", &i->regs.fpu, &t->regs.fpu,
			   offsetof(struct hostop_fpu, unused));
	same &= same_event(l, i, t);
	return same;
}

/* What the interpreter left of the pages, and what the translation left there or in its copies. */
static bool same_pages(struct vp *c, bool copies)
{
	struct lockstep *l = c->lockstep;
	bool same = true;

	for (unsigned i = 0; i < l->count; i++) {
		const struct page *p = &l->pages[i];
		char name[40];

		snprintf(name, sizeof(name), "GPA 0x%llx",
			 (unsigned long long)sc_host_to_gpa(c->vm, p->host));
		same &= same_bytes(l, name, interpreted(p), copies ? p->translated : p->host,
				   MEM_PAGE_SIZE);
	}
	return same;
}

/* Looks at everything in any case, for the report. */
static bool same(struct vp *c, const struct state *translated, bool copies)
{
	struct lockstep *l = c->lockstep;
	bool registers, pages;

	l->text_len = 0;
	registers = same_registers(l, &l->interpreted, translated);
	pages = same_pages(c, copies);
	return registers && pages;
}

/* ---- running ---- */

/* fn from the VP's state; false: what can't be compared came up. */
static bool run(struct vp *c, struct block *b, sc_fn *fn, struct state *ret, struct block **next)
{
	jmp_buf outer;
	int trap;

	memcpy(outer, c->trap, sizeof(outer));
	c->blk = b;
	trap = setjmp(c->trap);
	if (trap == 0)
		*next = fn(c, b->uops);
	memcpy(c->trap, outer, sizeof(outer));
	c->private_memory = PRIVATE_NONE;
	sc_mmu_cpl_changed(c); /* selects the TLB again */
	take(c, ret, trap == TRAP_RAISED);
	return trap != TRAP_GIVEN_UP;
}

/* RF_ARITH as vp.flags has them. */
static uint16_t in_vp_flags(uint32_t rf)
{
	return (uint16_t)((rf & 0xd5) << 8 | (rf & RF_OF ? FL_OF : 0));
}

static bool interpret(struct vp *c, struct block *b)
{
	struct lockstep *l = c->lockstep;
	uint16_t undefined = in_vp_flags(l->undefined);
	struct block *next;
	bool done;

	take(c, &l->before, false);
	l->count = 0;
	l->walked_count = 0;
	c->flags = (uint16_t)((l->flags & ~undefined) | (c->flags & undefined));
	c->private_memory = PRIVATE_INTERPRETER;
	c->tlb = &c->tlbs[2];
	done = run(c, b, b->interpret, &l->interpreted, &next);
	put(c, &l->before);
	return done;
}

/* On private copies of what the interpreter began with: nobody else can interfere. */
static bool same_on_copies(struct vp *c, struct block *b)
{
	struct lockstep *l = c->lockstep;
	struct state again;
	struct block *next;
	bool done;

	for (unsigned i = 0; i < l->count; i++)
		memcpy(l->pages[i].translated, l->pages[i].orig, MEM_PAGE_SIZE);
	put(c, &l->before);
	sc_tlb_flush_all(c);
	c->private_memory = PRIVATE_TRANSLATOR;
	done = run(c, b, b->uops[0].fn, &again, &next);
	sc_tlb_flush_all(c);
	put(c, &l->translated);
	return !done || same(c, &again, true);
}

static void stop(struct vp *c, const struct block *b)
{
	struct lockstep *l = c->lockstep;
	const uint8_t *code = sc_ram(c->vm, b->gpa);
	char text[sizeof(l->text) + 200], bytes[2 * REPORT_BYTES + 1] = "";

	for (unsigned i = 0; i < MIN(b->len, REPORT_BYTES); i++)
		snprintf(bytes + 2 * i, 3, "%02x", code[i]);
	snprintf(text, sizeof(text), "lockstep: processor %u, code at 0x%llx, %s%s%s", c->index,
		 (unsigned long long)l->before.regs.rip, bytes, b->len > REPORT_BYTES ? ".." : "",
		 l->text);
	c->vm->host.fatal(c->vm->host.user, c->index, text);
	c->shutdown = true;
	sc_attention(c, ATT_EVAL);
}

static struct block *run_once(struct vp *c, struct block *b)
{
	struct block *next = b->uops[0].fn(c, b->uops);

	sc_lockstep_begin(c);
	return next;
}

struct block *sc_lockstep(struct vp *c, struct block *b)
{
	struct lockstep *l = c->lockstep;
	struct block *next = NULL;

	if (b->comparable && !sc_translation_at(b, RIP(c)) && !sc_translate(c, b))
		return NULL;
	if (!b->comparable || !sc_translation_at(b, RIP(c)) || !interpret(c, b))
		return run_once(c, b);
	l->left_early = false;
	run(c, b, b->uops[0].fn, &l->translated, &next);
	if (l->left_early || !b->live) {
		sc_lockstep_begin(c);
	} else if (same(c, &l->translated, false)) {
		l->flags = l->interpreted.flags;
		l->undefined = (l->undefined & ~(uint32_t)b->flags_set) | b->flags_undefined;
		l->compared++;
	} else if (!same_tables(l) || same_on_copies(c, b)) {
		l->races++;
		sc_lockstep_begin(c); /* the flags come from what others have changed, too */
	} else {
		stop(c, b);
		return NULL;
	}
	if (l->translated.raised)
		longjmp(c->trap, TRAP_RAISED);
	return next;
}

/* ---- which instructions are compared ---- */

/* Handlers' work that is translated nevertheless, and has no effect beyond registers and RAM. */
static bool is_plain_system(const ZydisDecodedInstruction *in)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_CALL:
	case ZYDIS_MNEMONIC_JMP:
	case ZYDIS_MNEMONIC_RET:
		return in->meta.branch_type != ZYDIS_BRANCH_TYPE_FAR;
	case ZYDIS_MNEMONIC_CLI:
	case ZYDIS_MNEMONIC_CLD:
	case ZYDIS_MNEMONIC_SWAPGS:
	case ZYDIS_MNEMONIC_PUSHFQ:
		return true;
	default:
		return false;
	}
}

bool sc_lockstep_alone(const ZydisDecodedInstruction *in, const struct xl_insn *x)
{
	return !is_plain_system(in) && x->kind == XL_INTERPRET;
}

void sc_lockstep_stats(const struct vp *c, uint64_t *ret_compared, uint64_t *ret_races)
{
	*ret_compared = c->lockstep->compared;
	*ret_races = c->lockstep->races;
}
