/*
 * SSE, MMX, x87: executed by the host processor (hostop.h). The struct hostop lies behind the uop
 * in the block, in the room of HOSTOP_UOPS others.
 */
#include "part/softcpu/exec.h"
#include "part/softcpu/fast.h"

#include <string.h>

_Static_assert(sizeof(struct hostop) <= HOSTOP_UOPS * sizeof(struct uop), "room behind the uop");

/* CR0 and CR4 decide whether the unit may be used (SDM volume 3, tables 2-2 and 14-1). */
static void check_unit(struct vp *c, struct uop *u, unsigned unit)
{
	uint64_t cr0 = c->cr0;

	switch (unit) {
	case HOSTOP_SSE:
	case HOSTOP_SSE_MMX:
		if ((cr0 & CR0_EM) || !(c->cr4 & CR4_OSFXSR))
			sc_ud(c, u);
		if (cr0 & CR0_TS)
			sc_fault(c, u, VEC_NM);
		break;
	case HOSTOP_AVX:
		if (!c->avx_on)
			sc_ud(c, u);
		if (cr0 & CR0_TS)
			sc_fault(c, u, VEC_NM);
		break;
	case HOSTOP_MMX:
		if (cr0 & CR0_EM)
			sc_ud(c, u);
		if (cr0 & CR0_TS)
			sc_fault(c, u, VEC_NM);
		break;
	case HOSTOP_X87:
	case HOSTOP_FXSAVE:
		if (cr0 & (CR0_EM | CR0_TS))
			sc_fault(c, u, VEC_NM);
		break;
	case HOSTOP_FWAIT:
		if ((cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
			sc_fault(c, u, VEC_NM);
		break;
	default:
		break;
	}
}

static inline bool unit_ready(struct vp *c, unsigned unit)
{
	if (unlikely(unit == HOSTOP_AVX))
		return c->avx_on && !(c->cr0 & CR0_TS);
	return unit == HOSTOP_INTEGER || (!(c->cr0 & (CR0_EM | CR0_TS)) && (c->cr4 & CR4_OSFXSR));
}

void sc_check_avx(struct vp *c, struct uop *u)
{
	if (unlikely(!unit_ready(c, HOSTOP_AVX)))
		check_unit(c, u, HOSTOP_AVX);
}

static _Noreturn void raise_result(struct vp *c, struct uop *u, unsigned vector)
{
	if (vector == VEC_GP)
		sc_gp(c, u);
	if (vector == VEC_XM && !(c->cr4 & CR4_OSXMMEXCPT))
		sc_ud(c, u);
	sc_fault(c, u, (enum sc_vector)vector);
}

/* What alignment checking asks for (SDM volume 3, table 6-7), by the operand's size in bytes. Of
 * the 16-byte operands that needn't be aligned (MOVUPS) only AMD's processors check it; the others
 * were checked before, in any case. */
static unsigned natural_alignment(const struct vp *c, const struct hostop *op)
{
	/* Intel's don't check F16C's operands (SDM volume 2, 2.4: type 11). */
	if (op->feature == HOSTOP_FEATURE_F16C && !c->vm->amd)
		return 1;
	switch (op->mem_size) {
	case 16:
		return c->vm->amd ? 16 : 1;
	case 32:
		return 1; /* Intel's processors don't check it */
	case 10:
		return 8;
	case 14: /* x87 environment and state, 16-bit */
	case 94:
		return 2;
	case 28:
	case 108:
		return 4;
	case 512: /* checked by itself */
		return 1;
	default:
		return op->mem_size;
	}
}

/* Intel's VCVTPS2PH computes before it looks at its memory: MXCSR has its flags even if that
 * faults. */
static unsigned compute_first(struct vp *c, const struct hostop *op)
{
	struct hostop_regs regs = c->regs;
	unsigned vector = hostop_run(op, &regs, c->bounce);

	c->regs.fpu.mxcsr = regs.fpu.mxcsr;
	return vector;
}

/* Runs on guest RAM if the operand lies in one page of it, else on the bounce buffer. */
static unsigned run_on_memory(struct vp *c, struct uop *u, const struct hostop *op, uint64_t va)
{
	bool write = op->mem_access & HOSTOP_MEM_WRITE;
	unsigned room, vector;
	uint8_t *host = NULL;

	if (unlikely(op->unit == HOSTOP_AVX && write && op->run != op->code && !c->vm->amd)) {
		vector = compute_first(c, op);
		if (vector)
			return vector;
	}

	if (unlikely(c->align_check))
		sc_check_alignment(c, u, va, natural_alignment(c, op));
	if ((va & (MEM_PAGE_SIZE - 1)) + op->mem_size <= MEM_PAGE_SIZE)
		host = sc_bulk(c, u, va, write, &room);
	if (host) {
		vector = hostop_run(op, &c->regs, host);
		if (write && unlikely(*sc_flags_at(c->vm, host)))
			sc_stored(c, host, op->mem_size);
		return vector;
	}
	if (write)
		sc_probe_write(c, u, va, op->mem_size);
	if (op->mem_access & HOSTOP_MEM_READ)
		sc_load_bytes(c, u, va, c->bounce, op->mem_size);
	vector = hostop_run(op, &c->regs, c->bounce);
	if (write && vector == 0)
		sc_store_bytes(c, u, va, c->bounce, op->mem_size);
	return vector;
}

#define X87_STORE_ABORTS 0x1fu /* by all exceptions but inexact results */

/* A store that an unmasked exception keeps from happening: Intel's processors don't look at its
 * operand then, AMD's do first. */
static bool store_aborts(struct vp *c, const struct uop *u, const struct hostop *op)
{
	struct hostop_regs regs;
	struct uop unchecked;

	if (!op->waits || !(op->mem_access & HOSTOP_MEM_WRITE) || c->vm->amd ||
	    !(~c->regs.fpu.fcw & X87_STORE_ABORTS))
		return false;
	unchecked = *u;
	unchecked.ea &= (uint8_t)~EA_SEG;
	regs = c->regs;
	regs.rip += u->off;
	regs.ea = sc_ea(c, &unchecked) - c->segbase[u->seg];
	hostop_run(op, &regs, c->bounce);
	if (!(regs.fpu.fsw & ~regs.fpu.fcw & X87_STORE_ABORTS))
		return false;
	c->regs.fpu = regs.fpu;
	return true;
}

/* x87 instructions note their address and that of their operand. */
static unsigned run_x87(struct vp *c, struct uop *u, const struct hostop *op)
{
	struct uop here = *u;
	uint64_t block_rip = RIP(c), va;
	unsigned vector;

	if (unlikely(store_aborts(c, u, op)))
		return 0;
	va = op->mem_size ? sc_ea(c, u) : 0;
	RIP(c) += u->off;
	here.off = 0;
	c->regs.ea = va - c->segbase[u->seg];
	vector = op->mem_size ? run_on_memory(c, &here, op, va) : hostop_run(op, &c->regs, NULL);
	RIP(c) = block_rip;
	return vector;
}

struct block *sc_hostop(struct vp *c, struct uop *u)
{
	const struct hostop *op = (const struct hostop *)(u + 1);
	unsigned vector;
	uint64_t va;

	if (unlikely(!unit_ready(c, op->unit)))
		check_unit(c, u, op->unit);
	if (unlikely(hostop_x87_fault(op, &c->regs)))
		sc_fault(c, u, VEC_MF);
	if (op->flags_read)
		c->regs.rflags = sc_rflags(c);
	if (op->unit == HOSTOP_X87) {
		vector = run_x87(c, u, op);
	} else if (op->mem_size) {
		va = sc_ea(c, u);
		if (unlikely(va & (op->mem_align - 1u)))
			sc_gp(c, u);
		vector = run_on_memory(c, u, op, va);
	} else {
		vector = hostop_run(op, &c->regs, NULL);
	}
	if (unlikely(vector))
		raise_result(c, u, vector);
	if (op->flags_written)
		c->flags =
		    (uint16_t)((c->regs.rflags & 0xd5) << 8 | (c->regs.rflags & RF_OF ? FL_OF : 0));
	return u[1 + HOSTOP_UOPS].fn(c, u + 1 + HOSTOP_UOPS);
}
