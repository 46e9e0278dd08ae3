/*
 * Privileged and system instructions. Those that change the mode, the address space or whether
 * interrupts are taken end their block.
 */
#include "part/softcpu/exec.h"
#include "part/softcpu/fast.h"

#include <sched.h>
#include <x86intrin.h>

static void need_cpl0(struct vp *c, struct uop *u)
{
	if (unlikely(c->cpl != 0))
		sc_gp(c, u);
}

static void need_protected(struct vp *c, struct uop *u)
{
	if (!(c->cr0 & CR0_PE))
		sc_ud(c, u);
}

static struct block *end_block(struct vp *c, struct uop *u)
{
	RIP(c) = NEXT_RIP(c, u);
	return NULL;
}

static bool canonical(uint64_t va)
{
	return (uint64_t)((int64_t)(va << 16) >> 16) == va;
}

/* ---- interrupts ---- */

static void need_iopl(struct vp *c, struct uop *u)
{
	if (unlikely(c->cpl > ((c->rf & RF_IOPL) >> 12)))
		sc_gp(c, u);
}

struct block *sc_cli(struct vp *c, struct uop *u)
{
	need_iopl(c, u);
	c->rf &= ~RF_IF;
	NEXT;
}

struct block *sc_sti(struct vp *c, struct uop *u)
{
	need_iopl(c, u);
	if (c->rf & RF_IF)
		NEXT;
	c->rf |= RF_IF;
	/* What is or may be pending is taken after the next instruction. Within a block nothing is
	 * taken, so when nothing is pending only the end of the block needs care (aux). */
	if (!c->irq_waiting && !u->aux &&
	    !atomic_load_explicit(&c->attention, memory_order_relaxed))
		NEXT;
	c->shadow = SHADOW_STI;
	sc_attention(c, ATT_STEP | ATT_EVAL);
	return end_block(c, u);
}

struct block *sc_hlt(struct vp *c, struct uop *u)
{
	need_cpl0(c, u);
	c->halted = true;
	sc_attention(c, ATT_HALT);
	return end_block(c, u);
}

/* Somebody who spins may wait for a VP whose thread the host doesn't run. */
#define PAUSES_PER_YIELD 4096

struct block *sc_pause(struct vp *c, struct uop *u)
{
	if (++c->pauses % PAUSES_PER_YIELD == 0)
		sched_yield();
	else
		_mm_pause();
	NEXT;
}

struct block *sc_fence(struct vp *c, struct uop *u)
{
	atomic_thread_fence(memory_order_seq_cst);
	NEXT;
}

/* ---- ports ---- */

/* The I/O permission bitmap of the TSS (SDM volume 1, 19.5.2). */
static bool io_bitmap_allows(struct vp *c, struct uop *u, uint16_t port, unsigned size)
{
	const struct part_segment *tr = &c->seg[PART_TR];
	unsigned base, bits, mask = (1u << size) - 1;

	if (!(tr->attributes & SEG_P) || !(SEG_TYPE(tr->attributes) & 8) || tr->limit < 103)
		return false;
	base = (unsigned)sc_load_as(c, u, 0, tr->base + 102, 2) + port / 8;
	if (base + 1 > tr->limit)
		return false;
	bits = (unsigned)sc_load_as(c, u, 0, tr->base + base, 2) >> (port & 7);
	return (bits & mask) == 0;
}

void sc_check_io(struct vp *c, struct uop *u, uint16_t port, unsigned size)
{
	if ((c->cr0 & CR0_PE) && c->cpl > ((c->rf & RF_IOPL) >> 12) &&
	    !io_bitmap_allows(c, u, port, size))
		sc_gp(c, u);
}

/* aux: 1 port in DX, 0 in imm */
static uint16_t io_port(struct vp *c, struct uop *u)
{
	return u->aux ? (uint16_t)c->gpr[PART_RDX] : (uint16_t)(u->imm & 0xff);
}

struct block *sc_in(struct vp *c, struct uop *u)
{
	uint16_t port = io_port(c, u);

	sc_check_io(c, u, port, u->size);
	sc_set_reg(c, PART_RAX * 8, u->size,
		   c->vm->host.pio_read(c->vm->host.user, c->index, port, u->size));
	NEXT;
}

struct block *sc_out(struct vp *c, struct uop *u)
{
	uint16_t port = io_port(c, u);

	sc_check_io(c, u, port, u->size);
	c->vm->host.pio_write(c->vm->host.user, c->index, port, u->size,
			      (uint32_t)sc_get_reg(c, PART_RAX * 8, u->size));
	return end_block(c, u);
}

/* ---- identification, time, MSRs ---- */

struct block *sc_cpuid_uop(struct vp *c, struct uop *u)
{
	uint32_t r[4];

	sc_cpuid(c, (uint32_t)c->gpr[PART_RAX], (uint32_t)c->gpr[PART_RCX], r);
	c->gpr[PART_RAX] = r[0];
	c->gpr[PART_RBX] = r[1];
	c->gpr[PART_RCX] = r[2];
	c->gpr[PART_RDX] = r[3];
	return end_block(c, u);
}

static void set_edx_eax(struct vp *c, uint64_t v)
{
	c->gpr[PART_RAX] = (uint32_t)v;
	c->gpr[PART_RDX] = v >> 32;
}

struct block *sc_rdtsc(struct vp *c, struct uop *u)
{
	if ((c->cr4 & CR4_TSD) && c->cpl != 0)
		sc_gp(c, u);
	set_edx_eax(c, sc_tsc(c));
	NEXT;
}

struct block *sc_rdtscp(struct vp *c, struct uop *u)
{
	if ((c->cr4 & CR4_TSD) && c->cpl != 0)
		sc_gp(c, u);
	set_edx_eax(c, sc_tsc(c));
	c->gpr[PART_RCX] = (uint32_t)c->tsc_aux;
	NEXT;
}

struct block *sc_rdpmc(struct vp *c, struct uop *u)
{
	sc_gp(c, u); /* no counters */
}

struct block *sc_rdmsr(struct vp *c, struct uop *u)
{
	uint64_t v;

	need_cpl0(c, u);
	if (!sc_msr_read(c, (uint32_t)c->gpr[PART_RCX], &v))
		sc_gp(c, u);
	set_edx_eax(c, v);
	return end_block(c, u);
}

struct block *sc_wrmsr(struct vp *c, struct uop *u)
{
	uint64_t v = (uint32_t)c->gpr[PART_RAX] | c->gpr[PART_RDX] << 32;

	need_cpl0(c, u);
	if (!sc_msr_write(c, (uint32_t)c->gpr[PART_RCX], v))
		sc_gp(c, u);
	sc_attention(c, ATT_EVAL);
	return end_block(c, u);
}

struct block *sc_rdrand(struct vp *c, struct uop *u)
{
	uint64_t v = sc_random(c);

	sc_set_reg(c, u->rm, u->size, v);
	c->flags = FL_CF;
	NEXT;
}

/* ---- control and debug registers ---- */

/* reg: the number of the control register */
struct block *sc_mov_from_cr(struct vp *c, struct uop *u)
{
	uint64_t v;

	need_cpl0(c, u);
	switch (u->reg) {
	case 0:
		v = c->cr0;
		break;
	case 2:
		v = c->cr2;
		break;
	case 3:
		v = c->cr3;
		break;
	case 4:
		v = c->cr4;
		break;
	case 8:
		v = lapic_cr8(c->lapic);
		break;
	default:
		sc_ud(c, u);
	}
	sc_set_reg(c, u->rm, u->size, v);
	NEXT;
}

static void write_cr0(struct vp *c, struct uop *u, uint64_t v)
{
	uint64_t old = c->cr0, changed;
	bool lme = c->efer & EFER_LME;

	if (v >> 32 || ((v & CR0_PG) && !(v & CR0_PE)) || ((v & CR0_NW) && !(v & CR0_CD)))
		sc_gp(c, u);
	v = (v & (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD |
		  CR0_PG)) |
	    CR0_ET;
	changed = old ^ v;
	if ((changed & v & CR0_PG) && lme &&
	    (!(c->cr4 & CR4_PAE) || (c->seg[PART_CS].attributes & SEG_L)))
		sc_gp(c, u);
	if ((changed & CR0_PG) && !(v & CR0_PG) && c->mode == MODE_64)
		sc_gp(c, u);
	if ((changed & v & CR0_PG) && !lme && (c->cr4 & CR4_PAE) && !sc_load_pdptes(c, c->cr3))
		sc_gp(c, u);
	c->cr0 = v;
	if (changed & CR0_PG) {
		c->efer &= ~EFER_LMA;
		if ((v & CR0_PG) && lme)
			c->efer |= EFER_LMA;
	}
	if (changed & (CR0_PG | CR0_WP | CR0_PE))
		sc_mmu_mode_changed(c);
	sc_segs_changed(c);
}

static void write_cr3(struct vp *c, struct uop *u, uint64_t v)
{
	bool lma = c->efer & EFER_LMA;

	if (lma && (v & ~(BIT(c->vm->phys_bits) - 1)))
		sc_gp(c, u);
	if (!lma && (c->cr0 & CR0_PG) && (c->cr4 & CR4_PAE) && !sc_load_pdptes(c, v))
		sc_gp(c, u);
	c->cr3 = v;
	sc_tlb_flush_local(c);
}

static void write_cr4(struct vp *c, struct uop *u, uint64_t v)
{
	uint64_t changed = c->cr4 ^ v;

	if (v & ~c->vm->cr4_valid)
		sc_gp(c, u);
	if ((c->efer & EFER_LMA) && !(v & CR4_PAE))
		sc_gp(c, u);
	if ((changed & v & CR4_PAE) && (c->cr0 & CR0_PG) && !sc_load_pdptes(c, c->cr3))
		sc_gp(c, u);
	c->cr4 = v;
	sc_avx_changed(c);
	if (changed & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP | CR4_SMAP))
		sc_mmu_mode_changed(c);
}

struct block *sc_mov_to_cr(struct vp *c, struct uop *u)
{
	uint64_t v = sc_get_reg(c, u->rm, u->size);

	need_cpl0(c, u);
	switch (u->reg) {
	case 0:
		write_cr0(c, u, v);
		break;
	case 2:
		c->cr2 = v;
		break;
	case 3:
		write_cr3(c, u, v);
		break;
	case 4:
		write_cr4(c, u, v);
		break;
	case 8:
		if (v > 15)
			sc_gp(c, u);
		lapic_set_cr8(c->lapic, v);
		sc_attention(c, ATT_EVAL);
		break;
	default:
		sc_ud(c, u);
	}
	return end_block(c, u);
}

/* DR4 and DR5 are DR6 and DR7 unless CR4.DE. */
static unsigned debug_reg(struct vp *c, struct uop *u)
{
	unsigned n = u->reg;

	if (n > 7 || ((n == 4 || n == 5) && (c->cr4 & CR4_DE)))
		sc_ud(c, u);
	need_cpl0(c, u);
	return n == 4 || n == 5 ? n + 2 : n;
}

#define DR7_GD BIT(13)

struct block *sc_mov_from_dr(struct vp *c, struct uop *u)
{
	unsigned n = debug_reg(c, u);

	sc_set_reg(c, u->rm, u->size, c->dr[n]);
	NEXT;
}

struct block *sc_mov_to_dr(struct vp *c, struct uop *u)
{
	uint64_t v = sc_get_reg(c, u->rm, u->size);
	unsigned n = debug_reg(c, u);

	if (n >= 6 && v >> 32)
		sc_gp(c, u);
	if (n == 6)
		v = (v & 0xe00f) | 0xffff0ff0;
	else if (n == 7)
		v = (v & 0xffff2fff) | 0x400;
	c->dr[n] = v;
	return end_block(c, u);
}

struct block *sc_clts(struct vp *c, struct uop *u)
{
	need_cpl0(c, u);
	c->cr0 &= ~CR0_TS;
	NEXT;
}

struct block *sc_smsw(struct vp *c, struct uop *u)
{
	sc_set_rm(c, u, sc_is_mem(u) ? 2 : u->size, c->cr0);
	NEXT;
}

struct block *sc_lmsw(struct vp *c, struct uop *u)
{
	uint64_t v = sc_get_rm(c, u, 2);

	need_cpl0(c, u);
	/* sets PE but can't clear it */
	write_cr0(c, u, (c->cr0 & ~UINT64_C(14)) | (v & 15));
	return end_block(c, u);
}

/* ---- descriptor tables ---- */

static struct block *load_table(struct vp *c, struct uop *u, struct sc_dtable *t)
{
	uint64_t va, base;
	uint16_t limit;

	need_cpl0(c, u);
	va = sc_ea(c, u);
	limit = sc_load16(c, u, va);
	base = c->mode == MODE_64 ? sc_load64(c, u, va + 2) : sc_load32(c, u, va + 2);
	if (c->mode == MODE_64 && !canonical(base))
		sc_gp(c, u);
	if (c->mode != MODE_64 && u->size == 2)
		base &= 0xffffff;
	t->limit = limit;
	t->base = base;
	return end_block(c, u);
}

static struct block *store_table(struct vp *c, struct uop *u, const struct sc_dtable *t)
{
	uint64_t va = sc_ea(c, u);

	if (c->cpl != 0 && (c->cr4 & CR4_UMIP))
		sc_gp(c, u);
	if (c->mode == MODE_64) {
		sc_probe_write(c, u, va, 10);
		sc_store16(c, u, va, t->limit);
		sc_store64(c, u, va + 2, t->base);
	} else {
		sc_probe_write(c, u, va, 6);
		sc_store16(c, u, va, t->limit);
		sc_store32(c, u, va + 2, (uint32_t)t->base);
	}
	NEXT;
}

struct block *sc_lgdt(struct vp *c, struct uop *u)
{
	return load_table(c, u, &c->gdt);
}

struct block *sc_lidt(struct vp *c, struct uop *u)
{
	return load_table(c, u, &c->idt);
}

struct block *sc_sgdt(struct vp *c, struct uop *u)
{
	return store_table(c, u, &c->gdt);
}

struct block *sc_sidt(struct vp *c, struct uop *u)
{
	return store_table(c, u, &c->idt);
}

struct block *sc_lldt(struct vp *c, struct uop *u)
{
	need_protected(c, u);
	need_cpl0(c, u);
	sc_load_ldtr(c, u, (uint16_t)sc_get_rm(c, u, 2));
	NEXT;
}

struct block *sc_ltr(struct vp *c, struct uop *u)
{
	need_protected(c, u);
	need_cpl0(c, u);
	sc_load_tr(c, u, (uint16_t)sc_get_rm(c, u, 2));
	NEXT;
}

static struct block *store_selector(struct vp *c, struct uop *u, enum part_seg seg)
{
	need_protected(c, u);
	if (c->cpl != 0 && (c->cr4 & CR4_UMIP))
		sc_gp(c, u);
	sc_set_rm(c, u, sc_is_mem(u) ? 2 : u->size, c->seg[seg].selector);
	NEXT;
}

struct block *sc_sldt(struct vp *c, struct uop *u)
{
	return store_selector(c, u, PART_LDTR);
}

struct block *sc_str(struct vp *c, struct uop *u)
{
	return store_selector(c, u, PART_TR);
}

/* ---- descriptor checks: LAR, LSL, VERR, VERW ---- */

static void set_zf(struct vp *c, bool zf)
{
	c->flags = (uint16_t)((c->flags & ~FL_ZF) | (zf ? FL_ZF : 0));
}

/* Whether the current privilege may see the descriptor. */
static bool visible(struct vp *c, uint16_t selector, unsigned attributes)
{
	bool conforming =
	    (attributes & (SEG_S | SEG_CODE | SEG_CONFORM)) == (SEG_S | SEG_CODE | SEG_CONFORM);

	return conforming ||
	       (SEG_DPL(attributes) >= c->cpl && SEG_DPL(attributes) >= (selector & 3u));
}

static bool system_type_in(unsigned attributes, unsigned types)
{
	return (attributes & SEG_S) || (types >> SEG_TYPE(attributes) & 1);
}

struct block *sc_lar(struct vp *c, struct uop *u)
{
	uint16_t selector;
	uint64_t desc;
	unsigned a, types = c->efer & EFER_LMA ? 0x1a04 : 0x1a36 | 0x0200;
	bool ok;

	need_protected(c, u);
	selector = (uint16_t)sc_get_rm(c, u, 2);
	ok = sc_read_descriptor(c, u, selector, &desc);
	if (ok) {
		a = (desc >> 40) & 0xffff;
		ok = system_type_in(a, types) && visible(c, selector, a);
	}
	if (ok)
		sc_set_reg(c, u->reg, u->size, (desc >> 32) & 0xffff00);
	set_zf(c, ok);
	NEXT;
}

struct block *sc_lsl(struct vp *c, struct uop *u)
{
	struct part_segment s;
	uint16_t selector;
	uint64_t desc;
	unsigned types = c->efer & EFER_LMA ? 0x0a04 : 0x0a0e;
	bool ok;

	need_protected(c, u);
	selector = (uint16_t)sc_get_rm(c, u, 2);
	ok = sc_read_descriptor(c, u, selector, &desc);
	if (ok) {
		sc_unpack_descriptor(desc, selector, &s);
		ok = system_type_in(s.attributes, types) && visible(c, selector, s.attributes);
	}
	if (ok)
		sc_set_reg(c, u->reg, u->size, s.limit);
	set_zf(c, ok);
	NEXT;
}

static struct block *verify(struct vp *c, struct uop *u, bool write)
{
	uint16_t selector;
	uint64_t desc;
	unsigned a;
	bool ok;

	need_protected(c, u);
	selector = (uint16_t)sc_get_rm(c, u, 2);
	ok = sc_read_descriptor(c, u, selector, &desc);
	if (ok) {
		a = (desc >> 40) & 0xffff;
		ok = (a & SEG_S) && visible(c, selector, a);
		if (write)
			ok = ok && (a & (SEG_CODE | SEG_RW)) == SEG_RW;
		else
			ok = ok && (a & (SEG_CODE | SEG_RW)) != SEG_CODE;
	}
	set_zf(c, ok);
	NEXT;
}

struct block *sc_verr(struct vp *c, struct uop *u)
{
	return verify(c, u, false);
}

struct block *sc_verw(struct vp *c, struct uop *u)
{
	return verify(c, u, true);
}

/* ---- caches and TLB ---- */

struct block *sc_invlpg(struct vp *c, struct uop *u)
{
	need_cpl0(c, u);
	sc_tlb_flush_page(c, sc_ea(c, u));
	return end_block(c, u);
}

/* INVD, WBINVD: memory is coherent. */
struct block *sc_invd(struct vp *c, struct uop *u)
{
	need_cpl0(c, u);
	NEXT;
}

/* CLFLUSH: a read as far as protection goes. */
struct block *sc_clflush(struct vp *c, struct uop *u)
{
	sc_load8(c, u, sc_ea(c, u));
	NEXT;
}

/* ---- segment registers ---- */

struct block *sc_swapgs(struct vp *c, struct uop *u)
{
	uint64_t base = c->seg[PART_GS].base;

	need_cpl0(c, u);
	c->seg[PART_GS].base = c->segbase[PART_GS] = c->kernel_gs_base;
	c->kernel_gs_base = base;
	NEXT;
}

static void need_fsgsbase(struct vp *c, struct uop *u)
{
	if (!(c->cr4 & CR4_FSGSBASE))
		sc_ud(c, u);
}

/* reg: PART_FS or PART_GS */
struct block *sc_rdfsgsbase(struct vp *c, struct uop *u)
{
	need_fsgsbase(c, u);
	sc_set_reg(c, u->rm, u->size, c->seg[u->reg].base);
	NEXT;
}

struct block *sc_wrfsgsbase(struct vp *c, struct uop *u)
{
	uint64_t v = sc_get_reg(c, u->rm, u->size);

	need_fsgsbase(c, u);
	if (!canonical(v))
		sc_gp(c, u);
	c->seg[u->reg].base = c->segbase[u->reg] = v;
	NEXT;
}

/* reg: enum part_seg */
struct block *sc_mov_from_seg(struct vp *c, struct uop *u)
{
	sc_set_rm(c, u, sc_is_mem(u) ? 2 : u->size, c->seg[u->reg].selector);
	NEXT;
}

struct block *sc_mov_to_seg(struct vp *c, struct uop *u)
{
	uint16_t v = (uint16_t)sc_get_rm(c, u, 2);

	sc_load_seg(c, u, (enum part_seg)u->reg, v);
	if (u->reg == PART_SS) {
		c->shadow = SHADOW_SS;
		sc_attention(c, ATT_STEP);
	}
	return end_block(c, u);
}

/* LDS, LES, LSS, LFS, LGS; aux: enum part_seg */
struct block *sc_lds(struct vp *c, struct uop *u)
{
	uint64_t va = sc_ea(c, u), off = sc_load(c, u, va, u->size);

	sc_load_seg(c, u, (enum part_seg)u->aux, sc_load16(c, u, va + u->size));
	sc_set_reg(c, u->reg, u->size, off);
	return end_block(c, u);
}

/* ---- hypercalls ---- */

/* VMCALL of the hypercall page; registers as TLFS section 3 has them. */
struct block *sc_hypercall(struct vp *c, struct uop *u)
{
	bool wide = c->mode == MODE_64;
	uint64_t *g = c->gpr;
	struct part_hypercall call = { .long_mode = wide };

	if (c->cpl != 0 || !(c->cr0 & CR0_PE))
		sc_ud(c, u);
	if (wide) {
		call.control = g[PART_RCX];
		call.input = g[PART_RDX];
		call.output = g[8];
	} else {
		call.control = g[PART_RDX] << 32 | (uint32_t)g[PART_RAX];
		call.input = g[PART_RBX] << 32 | (uint32_t)g[PART_RCX];
		call.output = g[PART_RDI] << 32 | (uint32_t)g[PART_RSI];
	}
	c->vm->host.hypercall(c->vm->host.user, c->index, &call);
	if (wide)
		g[PART_RAX] = call.result;
	else
		set_edx_eax(c, call.result);
	sc_attention(c, ATT_EVAL);
	return end_block(c, u);
}
