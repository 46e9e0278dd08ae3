/*
 * The inside of the software CPU, shared by its source files and by nobody else (softcpu.h is the
 * outside).
 *
 * How it works. Guest code is decoded once (decode.c) into blocks of micro-operations, struct uop:
 * a pointer to a handler and the operands as byte offsets into struct vp. A handler does its work
 * and calls the next one as a tail call; the last of a block returns the next block, if it knows
 * it, to the loop in run.c. Blocks are found by physical address and mode (block.c), so they
 * survive changes of address space.
 *
 * Memory is reached through a direct-mapped software TLB (mmu.c) whose entries hold host addresses.
 * Only RAM gets entries; everything else takes the slow path. No other way leads from a guest
 * address to a host pointer.
 *
 * Exceptions leave handlers by longjmp to the loop. So a handler changes registers only after the
 * last thing in it that can fault; then the instruction can be restarted.
 *
 * Arithmetic flags are kept as the host's LAHF and SETO give them: the handlers execute the guest's
 * instruction itself on the host and store its flags, undefined ones included.
 *
 * Every struct vp belongs to one thread. Others may touch only what the comments say.
 */
#ifndef PART_SOFTCPU_CPU_H
#define PART_SOFTCPU_CPU_H

#include "base/macros.h"
#include "part/part.h"
#include "part/profile.h"
#include "part/softcpu/hostop.h"
#include "part/softcpu/lapic.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define SC_COLD     __attribute__((cold, noinline))

/* ---- architecture (SDM volume 3) ---- */

#define CR0_PE BIT(0)
#define CR0_MP BIT(1)
#define CR0_EM BIT(2)
#define CR0_TS BIT(3)
#define CR0_ET BIT(4)
#define CR0_NE BIT(5)
#define CR0_WP BIT(16)
#define CR0_AM BIT(18)
#define CR0_NW BIT(29)
#define CR0_CD BIT(30)
#define CR0_PG BIT(31)

#define CR4_VME        BIT(0)
#define CR4_PVI        BIT(1)
#define CR4_TSD        BIT(2)
#define CR4_DE         BIT(3)
#define CR4_PSE        BIT(4)
#define CR4_PAE        BIT(5)
#define CR4_MCE        BIT(6)
#define CR4_PGE        BIT(7)
#define CR4_PCE        BIT(8)
#define CR4_OSFXSR     BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_UMIP       BIT(11)
#define CR4_FSGSBASE   BIT(16)
#define CR4_OSXSAVE    BIT(18)
#define CR4_SMEP       BIT(20)
#define CR4_SMAP       BIT(21)

#define EFER_SCE BIT(0)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)
#define EFER_NXE BIT(11)

#define RF_CF   BIT(0)
#define RF_ONE  BIT(1)
#define RF_PF   BIT(2)
#define RF_AF   BIT(4)
#define RF_ZF   BIT(6)
#define RF_SF   BIT(7)
#define RF_TF   BIT(8)
#define RF_IF   BIT(9)
#define RF_DF   BIT(10)
#define RF_OF   BIT(11)
#define RF_IOPL (BIT(12) | BIT(13))
#define RF_NT   BIT(14)
#define RF_RF   BIT(16)
#define RF_VM   BIT(17)
#define RF_AC   BIT(18)
#define RF_VIF  BIT(19)
#define RF_VIP  BIT(20)
#define RF_ID   BIT(21)
/* what SYSRET takes from R11 */
#define SYSRET_FLAGS 0x3c7fd7u
/* the flags that the handlers keep in vp.flags; all others are in vp.rf */
#define RF_ARITH (RF_CF | RF_PF | RF_AF | RF_ZF | RF_SF | RF_OF)

/* attributes of struct part_segment */
#define SEG_TYPE(a)  ((a)&15)
#define SEG_S        BIT(4)
#define SEG_DPL(a)   (((a) >> 5) & 3)
#define SEG_P        BIT(7)
#define SEG_L        BIT(13)
#define SEG_DB       BIT(14)
#define SEG_G        BIT(15)
#define SEG_CODE     BIT(3) /* type bit of S = 1 descriptors */
#define SEG_CONFORM  BIT(2) /* of code */
#define SEG_DOWN     BIT(2) /* of data: expand down */
#define SEG_RW       BIT(1) /* readable code, writable data */
#define SEG_ACCESSED BIT(0)

enum sc_vector {
	VEC_DE = 0,
	VEC_DB = 1,
	VEC_NMI = 2,
	VEC_BP = 3,
	VEC_OF = 4,
	VEC_BR = 5,
	VEC_UD = 6,
	VEC_NM = 7,
	VEC_DF = 8,
	VEC_TS = 10,
	VEC_NP = 11,
	VEC_SS = 12,
	VEC_GP = 13,
	VEC_PF = 14,
	VEC_MF = 16,
	VEC_AC = 17,
	VEC_MC = 18,
	VEC_XM = 19,
};

/* ---- blocks and micro-operations ---- */

struct vp;
struct uop;
struct block;
struct xl_insn;

/* Returns the next block, or NULL when the loop shall look it up at vp's RIP. */
typedef struct block *sc_fn(struct vp *c, struct uop *u);

/* How a memory operand's address is formed; 0 is the common case: 64-bit, unsegmented or FS/GS. */
#define EA_A16        0x01 /* 16-bit address size */
#define EA_A32        0x02 /* 32-bit address size */
#define EA_SEG        0x04 /* segment type and limit apply (not 64-bit mode) */
#define EA_WRITE      0x08 /* the operand is written */
#define EA_SIZE_SHIFT 4    /* bits 4..7: log2 of the operand's size, for the limit check */

/* Register operands are byte offsets into struct vp. */
struct uop {
	sc_fn *fn;
	int64_t disp; /* displacement, or a 64-bit immediate */
	int32_t imm;
	uint16_t off; /* of the instruction's first byte in the block */
	uint8_t len;  /* of the instruction in bytes */
	uint8_t size; /* operand size in bytes */
	uint8_t reg;  /* the register operand; Jcc of 64-bit mode: of block.chain, when taken */
	uint8_t rm;   /* the other one, when it is a register; OFF_NONE: memory */
	uint8_t base, index, scale; /* index: of a passed Jcc, how much more often it was
					taken than not, of late */
	uint8_t seg;                /* enum part_seg, or SEG_SLOT_ZERO */
	uint8_t ea;                 /* EA_* */
	uint8_t aux;                /* the handler's own */
};

#define OFF_RIP  136u /* RIP of the block's first instruction */
#define OFF_ZERO 152u /* a register that is always 0: no base, no index */
#define OFF_NONE 255u

#define HOSTOP_UOPS 2 /* uops whose room a struct hostop takes */

#define SEG_SLOT_ZERO 6 /* index into vp.segbase whose base is 0 */

enum sc_mode { MODE_16, MODE_32, MODE_64 };

/* block.key */
#define KEY_MODE  3u  /* enum sc_mode */
#define KEY_STEP  4u  /* exactly one instruction */
#define KEY_FLAT  8u  /* MODE_32 with vp.flat */
#define KEY_USER  16u /* CPL 3: translated code knows its TLB */
#define KEY_ALIGN 32u /* vp.align_check: never translated */
#define KEY_APART 64u /* not for the loop: whose accesses the translator looks up one by one */

#define BLOCK_MAX_INSNS 48
/* Conditional branches that a block goes on behind, as they aren't taken: forward ones within the
 * page, which compilers make of what is rare. */
#define BLOCK_MAX_PASSED 2
/* block.chain: successors of the block's end, and of the passed branch number i; first where it
 * isn't taken, then where it is. */
#define CHAIN_END_TAKEN       1
#define CHAIN_PASSED_TAKEN(i) (2 * (i) + 3)
#define CHAINS                (2 * BLOCK_MAX_PASSED + 2)
#define INSN_MAX_BYTES        15u

struct block {
	struct block *hash_next;
	struct block *page_next[2];  /* other blocks on the same page; [1] for the second page */
	struct block *chain[CHAINS]; /* successors */
	uint64_t gpa;                /* of the first byte */
	uint64_t gpa2;               /* page of the last byte if it is another one, else GPA_NONE */
	uint16_t len;
	uint8_t insns;
	uint8_t key;
	bool live; /* false: its code was written; only to be left */
	/* For lockstep.c: whether it compares the block, and the RF_ARITH that the block sets and
	 * those that it leaves undefined. */
	bool comparable;
	uint16_t flags_set, flags_undefined;
	uint8_t uop_count;
	/* Bytes of the page of gpa, its own included, that its translations were made from. */
	uint16_t seen_from, seen_to;
	uint16_t heat;    /* times that the loop began it before it was to be translated */
	uint16_t misses;  /* times that there was no translation for the address */
	struct xl *xls;   /* translations, by address (translate.h) */
	sc_fn *interpret; /* of uops[0], when uops[0].fn enters translations */
	struct uop uops[];
};

#define GPA_NONE UINT64_MAX

/* ---- the software TLB ---- */

#define TLB_BITS 14
#define TLB_SIZE (1u << TLB_BITS)

/* A tag is a page's linear address; a free one is an address of another slot, TLB_SIZE / 2 pages or
 * more from any of its own. */
struct sc_tlb_entry {
	uint64_t rtag, wtag;
	uint64_t page;  /* the page's host address */
	uint8_t *flags; /* the page's byte in mem_page_flags */
};

#define TLB_GLOBAL 1
#define TLB_LARGE  2 /* part of a page larger than 4 KiB */

struct sc_tlb {
	struct sc_tlb_entry e[TLB_SIZE + 1]; /* the last is free, for code that looks at two */
	uint8_t attr[TLB_SIZE];
	/* Slots filled with non-global translations since the last flush, if no more than fit. */
	uint16_t local[TLB_SIZE];
	unsigned local_count;
	unsigned largest; /* log2 of the largest page of which a part is there */
};

#define XTLB_SIZE 4096u

#define LARGE_REGIONS 4096u

#define XTLB_SHIFT 4

/* The translations of instruction fetches. tag: page address | 1 for user mode; free: all ones. */
struct sc_xtlb_entry {
	uint64_t tag;
	uint64_t gpa_attr; /* page address | log2 of the size of the guest's page << XTLB_SHIFT |
			      TLB_GLOBAL */
	/* Names tag and page while the entry is valid, else 0. Whoever kept it needs to compare
	 * nothing else. It comes back when the same translation does, as long as page_versions has
	 * it. */
	uint32_t version;
};

#define PAGE_VERSIONS_BITS 13

/* The version of a translation of instruction fetches; 0: free. */
struct sc_page_version {
	uint64_t tag, page; /* as in struct sc_xtlb_entry; address of the page */
	uint32_t version;
};

/* Bytes inside one page after translation. */
struct sc_target {
	uint64_t gpa;
	uint8_t *host; /* NULL: not RAM */
};

#define JCACHE_BITS 12
#define JCACHE_SIZE (1u << JCACHE_BITS)

/* Where computed jumps of 64-bit code led last time. Never wrong: xtlb must confirm the page. */
struct sc_jcache_entry {
	uint64_t rip;
	struct block *block; /* never NULL */
};

/* The same for translated code. */
struct sc_jump {
	uint64_t rip;        /* JUMP_FREE: none */
	const uint8_t *code; /* where flags are expected in vp.flags */
	uint32_t xtlb;       /* offset in the VP of the version of the target's page, */
	uint32_t version;    /* and what it must be */
	struct xl *xl;       /* whose code it is */
};
/* Its index: bits JUMP_SHIFT and up of the address's low half, with itself rotated left by that;
 * each byte of a page has one of its own. */
#define JUMP_SHIFT 5 /* log2 of an entry's size */
#define JUMPS      4096u
#define JUMP_FREE  UINT64_C(0x8000000000000000) /* not canonical */
/* The same for jumps of user mode through tables of the guest, by the index into that table and
 * something of where the jump is. One of GUESS_WAIT wrong ones is replaced. */
#define GUESSES    1024u
#define GUESS_WAIT 64
#define GUESS_UNIT 8u /* of guess_slot: an entry */

/*
 * Where calls of translated code expect to be returned to. It is the host's stack while that code
 * runs: a call pushes the guest's return address and calls, a return compares the two and returns,
 * so that the host's processor predicts it. One for each privilege.
 */
#define RETURNS      1024u
#define RETURN_SLACK 4096u /* below the last entry */
#define SIGNAL_STACK (64u << 10)
struct sc_returns {
	_Alignas(16) uint8_t slack[RETURN_SLACK];
	struct {
		const void *code;
		uint64_t rip;
	} entry[RETURNS + 1]; /* the last one is never taken away */
};

/* What translated code has looked up for several accesses (translate-group.c). */
#define GROUP_SLOTS 6u
#define LOOP_GROUPS 12u /* those of a loop */
struct sc_group {
	uint64_t host;  /* address of the lowest byte */
	uint64_t flags; /* where the page's are; not set if nothing is written */
};

enum sc_access { ACCESS_READ, ACCESS_WRITE, ACCESS_EXEC };

/* Whose accesses to RAM go to lockstep's copies of pages. */
enum sc_private { PRIVATE_NONE, PRIVATE_INTERPRETER, PRIVATE_TRANSLATOR };

/* ---- events ---- */

enum sc_event_kind {
	EVENT_FAULT,     /* exception of the CPU */
	EVENT_INTERRUPT, /* external, NMI */
	EVENT_SOFT_INT,  /* INT n, INT3, INTO: gate DPL is checked; RIP after the instruction */
	EVENT_ICEBP,     /* INT1: like a fault, RIP after the instruction */
};

/* Why interrupts are held off for one instruction. After a load of SS debug traps are, too. */
enum sc_shadow { SHADOW_NONE, SHADOW_STI, SHADOW_SS };

struct sc_event {
	uint8_t vector;
	uint8_t kind;
	bool has_error;
	uint32_t error;
	uint8_t insn_len; /* what the saved RIP is ahead of RIP(c): EVENT_SOFT_INT, EVENT_ICEBP */
};

/* vp.attention: reasons to leave the block loop. Set by anyone with sc_attention(). */
#define ATT_EVAL       0x01u /* interrupts, NMI, INIT, SIPI: look at the APIC */
#define ATT_LEAVE      0x02u /* pause, stop */
#define ATT_INVALIDATE 0x08u /* vp.inv holds code ranges that others wrote */
#define ATT_HALT       0x10u /* this thread: HLT or wait-for-SIPI */
#define ATT_STEP       0x20u /* this thread: single step, interrupt shadow */

struct sc_vm;

#define INV_MAX 64

struct sc_dtable {
	uint64_t base;
	uint16_t limit;
};

struct vp {
	/* 16 registers; OFF_RIP; OFF_ZERO, which lies in the padding of struct hostop_regs */
	union {
		struct hostop_regs regs;
		uint64_t gpr[20];
	};
	uint16_t flags; /* SETO in bits 0..7, LAHF in bits 8..15 */
	uint8_t cpl;
	uint8_t mode; /* enum sc_mode */
	/* MODE_32, and CS, DS, ES and SS span 4 GiB from 0: accesses through them can't violate a
	 * segment, and blocks are chained as in 64-bit mode. */
	bool flat;
	/* Translated code has the guest's XMM registers and MXCSR, or x87 registers, in the host's;
	 * never while C code runs. Read together: adjacent. */
	bool sse_loaded, x87_loaded;
	bool avx_loaded; /* the same of the upper halves of the YMM registers; then sse_loaded, too
			  */
	bool avx_on;     /* the guest's system lets AVX be used: CR4.OSXSAVE, XCR0 */
	_Atomic uint32_t attention;
	unsigned key;        /* block.key of what runs now */
	struct sc_tlb *tlb;  /* tlbs[0] for supervisor accesses, [1] for user accesses */
	uint64_t segbase[8]; /* FS, GS as in seg[]; the others 0 in 64-bit mode; [6] always 0 */
	uint64_t rip_mask;   /* of RIP in direct branches */
	struct block *blk;   /* being executed */
	struct block **link; /* where the block that the loop looks up shall be noted */
	uint64_t icount;     /* instructions begun */
	uint64_t rf;         /* RFLAGS but RF_ARITH */
	uint64_t stack_mask; /* of RSP in stack operations */

	struct part_segment seg[8];
	struct sc_dtable gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, efer;
	uint64_t xcr0;
	uint64_t dr[8];
	uint64_t pdpte[4]; /* PAE paging: loaded with CR3 */

	/* paging parameters, derived by sc_mmu_mode_changed */
	uint8_t paging;     /* enum in mmu.c */
	uint64_t rsvd_mask; /* physical address bits that must be 0 in page table entries */

	uint8_t shadow;   /* enum sc_shadow */
	bool irq_waiting; /* something was pending while interrupts were off */
	bool nmi_blocked;
	bool halted;
	bool wait_for_sipi;
	bool shutdown;    /* triple fault */
	unsigned pauses;  /* PAUSE instructions */
	bool align_check; /* misaligned accesses of user code raise #AC */

	/* MSRs */
	uint64_t star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t pat, misc_enable, mtrr_def, mtrr_fixed[11], mtrr_base[8], mtrr_mask[8];
	uint64_t ucode_rev, hwcr, spec_ctrl;
	int64_t tsc_adjust; /* this VP's TSC minus the partition's */
	uint64_t tsc_ahead; /* of sc_host_ticks(): sc_tsc_changed() */

	/* events */
	jmp_buf trap;          /* where sc_raise goes */
	struct sc_event event; /* raised */
	bool event_pending;
	int delivering; /* vector of the event whose delivery goes on, or -1 */
	int delivering_kind;

	/* slow paths */
	_Alignas(64) uint8_t bounce[512]; /* stands for memory that has no host address */
	struct sc_target bounce_part[2];
	unsigned bounce_first; /* bytes in bounce_part[0] */

	struct sc_vm *vm;
	unsigned index;
	struct lapic *lapic;
	struct lockstep *lockstep; /* NULL: one engine only */
	uint8_t private_memory;    /* enum sc_private */
	struct sc_tlb tlbs[3];     /* [0] supervisor, [1] user, [2] always empty */
	struct sc_xtlb_entry xtlb[XTLB_SIZE];
	uint32_t xtlb_versions; /* given out */
	struct sc_page_version page_versions[1u << PAGE_VERSIONS_BITS];
	/* As in struct sc_tlb. */
	uint16_t xtlb_local[XTLB_SIZE];
	unsigned xtlb_local_count;
	/* Where parts of large pages may be in a TLB: 2 MiB regions, hashed, and log2 of the
	 * largest page. Grows until everything is flushed. */
	uint64_t large_regions[LARGE_REGIONS / 64];
	unsigned largest_page;

	/* translated code (translate.h) reaches these relative to GS */
	struct translator *translator;  /* NULL: interpreter only */
	struct sc_jump jumps[2][JUMPS]; /* [1] of user mode */
	struct sc_jump guesses[GUESSES];
	int32_t guess_wait;  /* below 0: where the jump leads that is being made goes to */
	uint32_t guess_slot; /* that one, times GUESS_UNIT */
	uint64_t scratch[4];
	uint32_t host_mxcsr;
	struct vp *self;
	const void *call_slow, *call_stored, *call_exit;
	struct sc_group groups[LOOP_GROUPS];
	/* Of the loop that runs: iterations after the next one until something must be looked up,
	 * and what its counter is then. */
	uint32_t loop_more;
	uint64_t loop_limit;
	struct sc_returns returns[2];                  /* [1] of user mode */
	uint64_t returns_limit[2], returns_top[2];     /* of each as a stack */
	uint64_t translated_rsp, other_translated_rsp; /* at this privilege, at the other */
	uint64_t host_rsp;                             /* while translated code runs */
	const void *resume;                            /* with XL_RESUME: where to */

	/* block cache (block.c) */
	struct sc_jcache_entry jcache[JCACHE_SIZE];
	struct block **hash;
	uint8_t *arena;
	size_t arena_used, arena_size, copies_size; /* copies: behind the arena */
	struct block **page_blocks;                 /* by page index */
	/* By page index: granules whose code was hot when it was written, so that what comes there
	 * is translated soon. */
	uint64_t *rewritten;
	unsigned rewritten_decoded; /* blocks in such granules */
	uint64_t flushes, decoded_insns;
	uint64_t stale_blocks; /* counted: blocks that ceased to be live */
	struct known *known;   /* instructions decoded before */

	/* The period at whose end an idle VP gives memory back (softcpu.c). */
	uint64_t period_end_ns, period_cpu_ns; /* CPU time of the thread at its begin */
	size_t idle_bytes;                     /* that the guest needs even when idle */
	bool gave_back;

	/* Ranges written by others; inv_lock. inv_count > INV_MAX: all. */
	pthread_mutex_t inv_lock;
	unsigned inv_count;
	struct {
		uint64_t gpa;
		uint32_t len;
	} inv[INV_MAX];

	/* softcpu.c: the thread */
	pthread_t thread;
	bool thread_started;
	clockid_t cpu_clock;
	_Atomic bool sleeping;     /* in a futex wait on attention */
	_Atomic uint64_t deadline; /* of the APIC timer, vm time: for the timer thread */
	bool parked;               /* vm->lock: not executing guest code */
	/* Signal handlers run here if they ask for it: not on returns, whose slack is too small. */
	_Alignas(64) uint8_t signal_stack[SIGNAL_STACK];
};

/* After mode, flat, CPL or alignment checking changed. */
static inline void sc_key_changed(struct vp *c)
{
	unsigned before = c->key;

	c->key = c->mode | (c->flat ? KEY_FLAT : 0) | (c->cpl == 3 ? KEY_USER : 0) |
		 (c->align_check ? KEY_ALIGN : 0);
	if ((before ^ c->key) & KEY_USER) {
		uint64_t rsp = c->translated_rsp;

		c->translated_rsp = c->other_translated_rsp;
		c->other_translated_rsp = rsp;
	}
}

#define REG64(c, o) (*(uint64_t *)((char *)(c) + (o)))
#define REG32(c, o) (*(uint32_t *)((char *)(c) + (o)))
#define REG16(c, o) (*(uint16_t *)((char *)(c) + (o)))
#define REG8(c, o)  (*(uint8_t *)((char *)(c) + (o)))
#define RIP(c)      ((c)->regs.rip)
/* RIP of the instruction behind u */
#define NEXT_RIP(c, u) (RIP(c) + (u)->off + (u)->len)

#define ROM_FILTER_BITS 4096

/* What all VPs share. */
struct sc_vm {
	struct mem *mem;
	struct part_host host;
	unsigned vp_count;
	struct vp *vps[PART_MAX_VPS];
	/* RAM: [0, ram_low) and [MEM_HIGH_BASE, ram_high_end), adjacent in the host's memory */
	uint8_t *ram;
	uint64_t ram_low, ram_high_end;
	uint8_t *page_flags;
	/* per page: which of its 64-byte granules hold decoded code of some VP */
	_Atomic uint64_t *granules;
	pthread_mutex_t code_lock; /* granules and MEM_PAGE_CODE change together */
	uint64_t page_count;
	_Atomic uint64_t
	    rom_filter[ROM_FILTER_BITS / 64]; /* pages outside RAM, hashed: code decoded */
	uint8_t always_slow;                  /* 0xff: the flag byte of bounce buffers */
	uint8_t never_slow;                   /* 0: that of lockstep's copies of pages */
	pthread_mutex_t bus_lock; /* held over locked accesses that have no host address */
	bool interpret_only;      /* no translators */
	bool lockstep;            /* lockstep.c */
	size_t code_cache_bytes;  /* of each VP */
	unsigned phys_bits;
	uint64_t cr4_valid; /* bits that may be set */
	const struct profile *profile;
	bool has[HOSTOP_FEATURE_COUNT]; /* features by enum hostop_feature */

	struct lapic_bus *lapics;
	struct hostop_arena *hostops;

	/* time */
	uint64_t tsc_hz;
	_Atomic int64_t tsc_offset; /* guest TSC minus sc_host_tsc() */
	bool tsc_is_host;
	bool amd; /* where they differ, do as AMD's processors, not Intel's: only to be compared */

	/* softcpu.c */
	pthread_mutex_t lock; /* paused, stopping, vp.parked */
	pthread_cond_t changed;
	bool paused, stopping;
	_Atomic uint64_t paused_at_ns, paused_total_ns; /* paused_at_ns 0: running */
	pthread_mutex_t timer_lock;
	pthread_cond_t timer_changed;
	pthread_t timer_thread;
	bool timer_started, timer_stop;
	_Atomic uint64_t timer_wakes_at;
};

/* ---- mmu.c ---- */

/* A page table entry of 4 or 8 bytes as it is now; other VPs may write to it. */
static inline uint64_t sc_table_entry(const uint8_t *entry, unsigned size)
{
	return size == 8 ? __atomic_load_n((const uint64_t *)entry, __ATOMIC_RELAXED)
			 : __atomic_load_n((const uint32_t *)entry, __ATOMIC_RELAXED);
}

void sc_mmu_init(struct vp *c);
/* CR0, CR3, CR4 or EFER changed in a way that matters for translation; flushes everything. */
void sc_mmu_mode_changed(struct vp *c);
/* CPL or RFLAGS.AC changed: selects the TLB. */
void sc_mmu_cpl_changed(struct vp *c);
void sc_tlb_flush_all(struct vp *c);
void sc_tlb_flush_local(struct vp *c); /* keeps global translations */
void sc_tlb_flush_page(struct vp *c, uint64_t va);
/* Forgets all instruction fetch translations and begins with their versions anew. */
void sc_xtlb_new_versions(struct vp *c);
/* PAE without long mode: reads the four entries; false: a reserved bit is set. */
bool sc_load_pdptes(struct vp *c, uint64_t cr3);

/* va to gpa for an instruction fetch at vp's CPL; raises #PF, #GP. */
uint64_t sc_fetch_gpa(struct vp *c, uint64_t va, struct uop *u);
/* Host address of a GPA, good to the end of its page; NULL if it isn't RAM. */
static inline uint8_t *sc_ram(const struct sc_vm *vm, uint64_t gpa)
{
	if (likely(gpa < vm->ram_low))
		return vm->ram + gpa;
	if (gpa >= MEM_HIGH_BASE && gpa < vm->ram_high_end)
		return vm->ram + (gpa - MEM_HIGH_BASE) + vm->ram_low;
	return NULL;
}
static inline uint64_t sc_host_to_gpa(const struct sc_vm *vm, const uint8_t *host)
{
	uint64_t off = (uint64_t)(host - vm->ram);

	return off < vm->ram_low ? off : off - vm->ram_low + MEM_HIGH_BASE;
}
static inline uint64_t sc_page_of(const struct sc_vm *vm, const uint8_t *host)
{
	return (uint64_t)(host - vm->ram) >> MEM_PAGE_SHIFT;
}

/* #AC if alignment checking is on and asks for it; sizes that aren't a power of two go unchecked.
 */
void sc_check_alignment(struct vp *c, struct uop *u, uint64_t va, unsigned size);
/* What may lie on two pages, or in device memory. Alignment isn't checked. */
void sc_load_bytes(struct vp *c, struct uop *u, uint64_t va, void *ret, unsigned size);
void sc_store_bytes(struct vp *c, struct uop *u, uint64_t va, const void *v, unsigned size);
/* The slow halves of fast.h. size 1..8 */
void sc_load_slow(struct vp *c, struct uop *u, uint64_t va, void *ret, unsigned size);
void sc_store_slow(struct vp *c, struct uop *u, uint64_t va, const void *v, unsigned size);
uint8_t *sc_rmw_slow(struct vp *c, struct uop *u, uint64_t va, unsigned size, uint8_t **flags);
void sc_rmw_end_slow(struct vp *c, struct uop *u, uint8_t *host, unsigned size);
/* A store to a page whose flag byte is not 0 has been done. */
void sc_stored(struct vp *c, uint8_t *host, unsigned size);
/* The same as the end of u's handler: goes on with the next uop. */
struct block *sc_stored_next(struct vp *c, struct uop *u, uint8_t *host, unsigned size);
/* Effective address of all forms; raises #GP, #SS for segment violations. */
uint64_t sc_ea_slow(struct vp *c, struct uop *u);
/* Linear address of seg:off after checks (type, limit, canonical is left to the access). */
uint64_t sc_linear(struct vp *c, struct uop *u, unsigned seg, uint64_t off, unsigned size,
		   bool write);
/* Makes sure that [va, va + len) can be written; len up to a page. Raises #PF. */
void sc_probe_write(struct vp *c, struct uop *u, uint64_t va, unsigned len);
/* Host address of va with at least ret_len bytes up to the page's end for bulk access, or NULL
 * when it must go through single accesses. Raises #PF. */
uint8_t *sc_bulk(struct vp *c, struct uop *u, uint64_t va, bool write, unsigned *ret_len);

/* The flag byte of the page at host: RAM or a copy of it. */
static inline uint8_t *sc_flags_at(struct sc_vm *vm, const uint8_t *host)
{
	uint64_t page = sc_page_of(vm, host);

	return likely(page < vm->page_count) ? &vm->page_flags[page] : &vm->never_slow;
}

/* With the rights of cpl, whatever the current one is. Descriptor tables and task state: 0. */
uint64_t sc_load_as(struct vp *c, struct uop *u, unsigned cpl, uint64_t va, unsigned size);
void sc_store_as(struct vp *c, struct uop *u, unsigned cpl, uint64_t va, uint64_t v, unsigned size);

/* ---- event.c ---- */

/* u: the instruction at fault, or NULL when RIP itself is. */
_Noreturn void sc_raise(struct vp *c, struct uop *u, const struct sc_event *ev);
_Noreturn void sc_fault(struct vp *c, struct uop *u, enum sc_vector vector);
_Noreturn void sc_fault_code(struct vp *c, struct uop *u, enum sc_vector vector, uint32_t error);
static inline _Noreturn void sc_ud(struct vp *c, struct uop *u)
{
	sc_fault(c, u, VEC_UD);
}
static inline _Noreturn void sc_gp(struct vp *c, struct uop *u)
{
	sc_fault_code(c, u, VEC_GP, 0);
}
/* Delivers through the IDT; may raise. RIP(c) is what goes to the stack. */
void sc_deliver(struct vp *c, const struct sc_event *ev);
/* Handles c->event after sc_raise, with double and triple faults; may raise again. */
void sc_deliver_raised(struct vp *c);

uint64_t sc_rflags(const struct vp *c);
void sc_set_rflags(struct vp *c, uint64_t v); /* all bits, no checks */
/* POPF, IRET: changes the bits of mask only; notices IF and TF. */
void sc_change_rflags(struct vp *c, uint64_t v, uint64_t mask);

/* ---- segment.c ---- */

/* Loads a segment register as MOV and POP do, with all checks; real mode too. */
void sc_load_seg(struct vp *c, struct uop *u, enum part_seg seg, uint16_t selector);
/* Mode, stack width, segbase after CS, SS or EFER changed. */
void sc_segs_changed(struct vp *c);
void sc_set_cpl(struct vp *c, unsigned cpl);
/* Reads a descriptor; false: null or outside its table. */
bool sc_read_descriptor(struct vp *c, struct uop *u, uint16_t selector, uint64_t *ret);
void sc_unpack_descriptor(uint64_t desc, uint16_t selector, struct part_segment *ret);
void sc_set_accessed(struct vp *c, struct uop *u, uint16_t selector, uint64_t desc);
/* Loads SS for an inner stack; every violation is #TS. */
struct part_segment sc_inner_ss(struct vp *c, struct uop *u, uint16_t selector, unsigned cpl,
				unsigned ext);
void sc_flat_cs(struct vp *c, uint16_t selector, unsigned cpl, bool long_mode);
void sc_flat_ss(struct vp *c, uint16_t selector, unsigned cpl);
/* FAR JMP, CALL, RET and IRET. size: operand size in bytes. */
void sc_far_jump(struct vp *c, struct uop *u, uint16_t selector, uint64_t off, unsigned size);
void sc_far_call(struct vp *c, struct uop *u, uint16_t selector, uint64_t off, unsigned size);
void sc_far_return(struct vp *c, struct uop *u, unsigned size, unsigned pop_bytes);
void sc_iret(struct vp *c, struct uop *u, unsigned size);
void sc_load_ldtr(struct vp *c, struct uop *u, uint16_t selector);
void sc_load_tr(struct vp *c, struct uop *u, uint16_t selector);

/* ---- decode.c ---- */

int sc_decode_init(void);
/* The decoder of enum sc_mode as this CPU wants it; for zydis_decode. */
/* Decodes at RIP into a new block. Raises fetch faults. */
struct block *sc_decode(struct vp *c, uint64_t gpa, unsigned key);

/* ---- exec-xsave.c ---- */

/* After a change of XCR0 or CR4. */
void sc_avx_changed(struct vp *c);
bool sc_xcr0_valid(uint64_t v);

/* ---- block.c ---- */

/* Memory for what is touched at random all the time; freed with the same size. NULL: none. */
void *sc_map(size_t size);
void sc_unmap(void *p, size_t size);
/* A VP's, with its hash and arena. */
size_t sc_vp_bytes(const struct sc_vm *vm);
/* Of these caches, translated code itself. */
size_t sc_code_bytes(const struct sc_vm *vm);

int sc_blocks_init(struct vp *c, struct error *err);
void sc_blocks_done(struct vp *c);
void sc_blocks_flush(struct vp *c);
/* Bytes of decoded and translated code; flushes it and gives its memory back to the host. */
size_t sc_blocks_held(const struct vp *c);
void sc_blocks_release(struct vp *c);
/* The block at RIP; decodes it if need be. Raises fetch faults. */
struct block *sc_lookup(struct vp *c, unsigned key_flags);
/* In the arena, aligned for any structure; NULL: full. */
void *sc_arena_alloc(struct vp *c, size_t size);
/* Room for a block of uop_count; may flush everything. */
struct block *sc_block_alloc(struct vp *c, unsigned uop_count);
void sc_block_insert(struct vp *c, struct block *b);
/* The block isn't what is at its address any more: nobody finds or enters it again. It may be
 * running, and is left behind the instruction. */
void sc_make_stale(struct vp *c, struct block *b);
/* Code bytes of RAM page at gpa are about to be read: from now on writes to them are noticed. */
void sc_mark_code(struct vp *c, uint64_t gpa, unsigned len);
/* Own and others' blocks in the range are stale. Any thread; self is NULL or the calling VP. */
void sc_code_written(struct sc_vm *vm, struct vp *self, uint64_t gpa, uint64_t len);
void sc_invalidate_posted(struct vp *c);
/* Everything goes at the VP's next look at its attention. */
void sc_invalidate_all(struct vp *c);
/* A guest wrote device memory: it may be where code was decoded from. */
void sc_device_written(struct sc_vm *vm, uint64_t gpa);
sc_fn sc_uop_stale;

/* ---- run.c ---- */

static inline void sc_attention(struct vp *c, uint32_t why)
{
	atomic_fetch_or_explicit(&c->attention, why, memory_order_release);
}

/* Blocks until attention asks for what only the thread can do, or the VP is idle. */
void sc_run(struct vp *c);
/* For tests: instructions one by one; deliver: through the IDT, else stops with event_pending. */
void sc_run_steps(struct vp *c, uint64_t count, bool deliver);
/* For tests: blocks with event delivery, until about count instructions were begun or the VP idles.
 */
void sc_run_budget(struct vp *c, uint64_t count);
void sc_vp_power_on(struct vp *c);

/* ---- lockstep.c: translator and interpreter on the same instructions ---- */

int sc_lockstep_init(struct vp *c, struct error *err);
void sc_lockstep_done(struct vp *c);
/* Flags may have changed by other means than blocks. */
void sc_lockstep_begin(struct vp *c);
/* Executes the block as its first handler does, and compares. On a difference the host is told and
 * the VP shuts down. */
struct block *sc_lockstep(struct vp *c, struct block *b);
/* The decoder's question: whether the instruction shall be a block of its own, not compared. */
bool sc_lockstep_alone(const ZydisDecodedInstruction *in, const struct xl_insn *x);
/* What runs of a block ends inside it. */
void sc_lockstep_left_early(struct vp *c);
/* The private copy of a page of RAM (NULL: no RAM); doesn't return if there can be none. */
uint8_t *sc_lockstep_page(struct vp *c, uint8_t *host, bool write);
/* A page walk has read, and changed, an entry; the copies are to have it, too. */
void sc_lockstep_walks(struct vp *c, const uint8_t *entry, unsigned size, uint64_t value);
void sc_lockstep_walked(struct vp *c, const uint8_t *entry, unsigned size, uint64_t value);
void sc_lockstep_stats(const struct vp *c, uint64_t *ret_compared, uint64_t *ret_races);

/* ---- softcpu.c ---- */

/* The APIC timer's deadline may have changed. */
void sc_deadline_changed(struct vp *c);

/* ---- exec-system.c ---- */

/* #GP unless the privilege level or the TSS allows the port. */
void sc_check_io(struct vp *c, struct uop *u, uint16_t port, unsigned size);

/* ---- msr.c ---- */

bool sc_msr_read(struct vp *c, uint32_t msr, uint64_t *ret);
bool sc_msr_write(struct vp *c, uint32_t msr, uint64_t v);
void sc_cpuid(struct vp *c, uint32_t leaf, uint32_t subleaf, uint32_t ret[static 4]);
uint64_t sc_random(struct vp *c);

/* ---- time.c ---- */

void sc_time_init(struct sc_vm *vm, uint64_t saved_hz); /* 0: a new VM */
uint64_t sc_host_ticks(const struct sc_vm *vm);
static inline uint64_t sc_vm_tsc(struct sc_vm *vm)
{
	return sc_host_ticks(vm) +
	       (uint64_t)atomic_load_explicit(&vm->tsc_offset, memory_order_relaxed);
}
static inline uint64_t sc_tsc(struct vp *c)
{
	return sc_vm_tsc(c->vm) + (uint64_t)c->tsc_adjust;
}
/* The VP's TSC was set, or the partition's. */
void sc_tsc_changed(struct vp *c);

#endif
