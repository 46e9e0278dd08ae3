/*
 * Stack and control flow. The 64-bit forms of the frequent ones stand by themselves; the others
 * work in every mode.
 */
#include "part/softcpu/exec.h"
#include "part/softcpu/fast.h"

#define RSP(c) ((c)->gpr[PART_RSP])

static struct block *end_block(struct vp *c, struct uop *u)
{
	RIP(c) = NEXT_RIP(c, u);
	return NULL;
}

struct block *sc_block_end(struct vp *c, struct uop *u)
{
	if (likely(c->mode == MODE_64) || c->flat)
		return sc_goto(c, 0, RIP(c) + u->off);
	RIP(c) += u->off;
	return NULL;
}

struct block *sc_check_second_page(struct vp *c, struct uop *u)
{
	uint64_t va = c->segbase[PART_CS] + RIP(c) + MEM_PAGE_SIZE;

	va &= ~(uint64_t)(MEM_PAGE_SIZE - 1);
	if (c->mode != MODE_64)
		va &= UINT32_MAX;
	if (sc_fetch_gpa(c, va, u) != c->blk->gpa2) {
		sc_make_stale(c, c->blk); /* decoded anew with what is there now */
		return NULL;
	}
	NEXT;
}

struct block *sc_raise_uop(struct vp *c, struct uop *u)
{
	if (u->aux)
		sc_fault_code(c, u, (enum sc_vector)u->imm, 0);
	sc_fault(c, u, (enum sc_vector)u->imm);
}

/* ---- stack, 64-bit ---- */

static inline void push64(struct vp *c, struct uop *u, uint64_t v)
{
	sc_store64(c, u, RSP(c) - 8, v);
	RSP(c) -= 8;
}

/* Fast and slow twins, as LOAD_HANDLER and STORE_HANDLER make them. */
#define DEFINE_PUSH64(name, value)                                                                 \
	SLOW_HANDLER(name##_slow)                                                                  \
	{                                                                                          \
		push64(c, u, (value));                                                             \
		NEXT;                                                                              \
	}                                                                                          \
	struct block *name(struct vp *c, struct uop *u)                                            \
	{                                                                                          \
		uint64_t v = (value);                                                              \
		uint8_t *flags, *p = sc_fast_write(c, RSP(c) - 8, 8, &flags);                      \
                                                                                                   \
		if (unlikely(!p))                                                                  \
			return name##_slow(c, u);                                                  \
		HOST(64, p) = v;                                                                   \
		RSP(c) -= 8;                                                                       \
		NEXT_WRITTEN(p, 8, flags);                                                         \
	}

DEFINE_PUSH64(sc_push64_r, REG64(c, u->rm))
DEFINE_PUSH64(sc_push64_i, (uint64_t)(int64_t)u->imm)

/* For an instruction that has a memory operand in another segment too: faults of the push are the
 * stack's. */
static SC_COLD void push64_slow(struct vp *c, const struct uop *u, uint64_t v)
{
	struct uop stack = *u;

	stack.seg = PART_SS;
	push64(c, &stack, v);
}

static inline void push64_beside(struct vp *c, struct uop *u, uint64_t v)
{
	uint64_t va = RSP(c) - 8;

	if (likely((va ^ sc_tlb_slot(c, va)->wtag) <= MEM_PAGE_SIZE - 8))
		push64(c, u, v);
	else
		push64_slow(c, u, v);
}

struct block *sc_push64_m(struct vp *c, struct uop *u)
{
	push64_beside(c, u, sc_load64(c, u, sc_ea(c, u)));
	NEXT;
}

SLOW_HANDLER(pop64_r_slow)
{
	uint64_t v = sc_load64(c, u, RSP(c));

	RSP(c) += 8;
	REG64(c, u->rm) = v;
	NEXT;
}

struct block *sc_pop64_r(struct vp *c, struct uop *u)
{
	uint64_t v;

	if (unlikely(!sc_fast_load64(c, RSP(c), &v)))
		return pop64_r_slow(c, u);
	RSP(c) += 8;
	REG64(c, u->rm) = v;
	NEXT;
}

struct block *sc_leave64(struct vp *c, struct uop *u)
{
	uint64_t v = sc_load64(c, u, c->gpr[PART_RBP]);

	RSP(c) = c->gpr[PART_RBP] + 8;
	c->gpr[PART_RBP] = v;
	NEXT;
}

/* ---- stack, any mode ---- */

static void set_sp(struct vp *c, uint64_t sp)
{
	RSP(c) = (RSP(c) & ~c->stack_mask) | (sp & c->stack_mask);
}

static void push_at(struct vp *c, struct uop *u, uint64_t *sp, uint64_t v, unsigned size)
{
	struct uop stack = *u;

	stack.seg = PART_SS;
	*sp = (*sp - size) & c->stack_mask;
	sc_store(c, &stack, sc_linear(c, u, PART_SS, *sp, size, true), v, size);
}

static void push(struct vp *c, struct uop *u, uint64_t v, unsigned size)
{
	uint64_t sp = RSP(c);

	push_at(c, u, &sp, v, size);
	set_sp(c, sp);
}

static uint64_t peek(struct vp *c, struct uop *u, unsigned at, unsigned size)
{
	uint64_t sp = (RSP(c) + at) & c->stack_mask;
	struct uop stack = *u;

	stack.seg = PART_SS;
	return sc_load(c, &stack, sc_linear(c, u, PART_SS, sp, size, false), size);
}

/* aux 1: the immediate */
struct block *sc_push(struct vp *c, struct uop *u)
{
	push(c, u, u->aux ? (uint64_t)(int64_t)u->imm : sc_get_rm(c, u, u->size), u->size);
	NEXT;
}

struct block *sc_pop(struct vp *c, struct uop *u)
{
	uint64_t v = peek(c, u, 0, u->size);
	struct uop moved = *u;

	if (!sc_is_mem(u)) {
		set_sp(c, RSP(c) + u->size);
		sc_set_reg(c, u->rm, u->size, v);
		NEXT;
	}
	if (u->base == PART_RSP * 8) /* the address is formed with the new RSP */
		moved.disp += u->size;
	sc_store(c, u, sc_ea(c, &moved), v, u->size);
	set_sp(c, RSP(c) + u->size);
	NEXT;
}

/* reg: enum part_seg. With 32-bit operands processors write 16 bits only. */
struct block *sc_push_seg(struct vp *c, struct uop *u)
{
	uint16_t v = c->seg[u->reg].selector;
	uint64_t sp = (RSP(c) - u->size) & c->stack_mask;

	if (u->size == 4)
		sc_store16(c, u, sc_linear(c, u, PART_SS, sp, 2, true), v);
	else
		sc_store(c, u, sc_linear(c, u, PART_SS, sp, u->size, true), v, u->size);
	set_sp(c, sp);
	NEXT;
}

struct block *sc_pop_seg(struct vp *c, struct uop *u)
{
	uint16_t v = (uint16_t)peek(c, u, 0, 2);
	uint64_t sp = RSP(c) + u->size, mask = c->stack_mask;

	sc_load_seg(c, u, (enum part_seg)u->reg, v);
	RSP(c) = (RSP(c) & ~mask) | (sp & mask);
	if (u->reg == PART_SS) {
		c->shadow = SHADOW_SS;
		sc_attention(c, ATT_STEP);
	}
	return end_block(c, u);
}

struct block *sc_pusha(struct vp *c, struct uop *u)
{
	uint64_t sp = RSP(c), old = RSP(c);

	for (unsigned r = PART_RAX; r <= PART_RDI; r++)
		push_at(c, u, &sp, r == PART_RSP ? old : c->gpr[r], u->size);
	set_sp(c, sp);
	NEXT;
}

struct block *sc_popa(struct vp *c, struct uop *u)
{
	uint64_t v[8];

	for (unsigned i = 0; i < 8; i++)
		v[i] = peek(c, u, i * u->size, u->size);
	set_sp(c, RSP(c) + 8 * u->size);
	for (unsigned i = 0; i < 8; i++)
		if (7 - i != PART_RSP)
			sc_set_reg(c, (7 - i) * 8, u->size, v[i]);
	NEXT;
}

struct block *sc_leave(struct vp *c, struct uop *u)
{
	uint64_t bp = c->gpr[PART_RBP] & c->stack_mask;
	uint64_t v = sc_load(c, u, sc_linear(c, u, PART_SS, bp, u->size, false), u->size);

	set_sp(c, bp + u->size);
	sc_set_reg(c, PART_RBP * 8, u->size, v);
	NEXT;
}

/* imm: bytes to reserve; aux: nesting level */
struct block *sc_enter(struct vp *c, struct uop *u)
{
	uint64_t sp = RSP(c), bp = c->gpr[PART_RBP], frame;
	unsigned level = u->aux & 31;

	push_at(c, u, &sp, bp, u->size);
	frame = (RSP(c) & ~c->stack_mask) | sp; /* with a 16-bit stack: all of ESP */
	for (unsigned i = 1; i < level; i++) {
		bp = (bp - u->size) & c->stack_mask;
		push_at(c, u, &sp,
			sc_load(c, u, sc_linear(c, u, PART_SS, bp, u->size, false), u->size),
			u->size);
	}
	if (level)
		push_at(c, u, &sp, frame, u->size);
	sp -= (uint16_t)u->imm;
	/* the instruction faults if the new top can't be written */
	sc_probe_write(c, u, c->segbase[PART_SS] + (sp & c->stack_mask), u->size);
	set_sp(c, sp);
	sc_set_reg(c, PART_RBP * 8, u->size, frame);
	NEXT;
}

struct block *sc_pushf(struct vp *c, struct uop *u)
{
	uint64_t v = sc_rflags(c) & ~(RF_RF | RF_VM);

	if (likely(u->size == 8))
		push64(c, u, v);
	else
		push(c, u, v, u->size);
	NEXT;
}

struct block *sc_popf(struct vp *c, struct uop *u)
{
	uint64_t v = peek(c, u, 0, u->size);
	uint64_t mask = RF_ARITH | RF_TF | RF_DF | RF_NT;

	if (u->size != 2)
		mask |= RF_AC | RF_ID | RF_RF;
	if (c->cpl == 0)
		mask |= RF_IOPL;
	if (c->cpl <= ((c->rf & RF_IOPL) >> 12))
		mask |= RF_IF;
	set_sp(c, RSP(c) + u->size);
	sc_change_rflags(c, v & ~RF_RF, mask);
	return end_block(c, u);
}

/* ---- near branches, 64-bit ---- */

#define DEFINE_JCC(cc)                                                                             \
	HANDLER(jcc64_##cc)                                                                        \
	{                                                                                          \
		uint64_t next = NEXT_RIP(c, u);                                                    \
                                                                                                   \
		if (sc_cond(c->flags, cc))                                                         \
			return sc_goto_taken(c, u, next);                                          \
		return sc_goto_passed(c, u, next);                                                 \
	}

DEFINE_JCC(0)
DEFINE_JCC(1)
DEFINE_JCC(2)
DEFINE_JCC(3)
DEFINE_JCC(4)
DEFINE_JCC(5)
DEFINE_JCC(6)
DEFINE_JCC(7)
DEFINE_JCC(8)
DEFINE_JCC(9)
DEFINE_JCC(10)
DEFINE_JCC(11)
DEFINE_JCC(12)
DEFINE_JCC(13)
DEFINE_JCC(14)
DEFINE_JCC(15)

sc_fn *const sc_jcc64[16] = { jcc64_0,  jcc64_1,  jcc64_2,  jcc64_3, jcc64_4,  jcc64_5,
			      jcc64_6,  jcc64_7,  jcc64_8,  jcc64_9, jcc64_10, jcc64_11,
			      jcc64_12, jcc64_13, jcc64_14, jcc64_15 };

struct block *sc_jmp64(struct vp *c, struct uop *u)
{
	return sc_goto(c, 1, NEXT_RIP(c, u) + (uint64_t)(int64_t)u->imm);
}

SLOW_HANDLER(call64_slow)
{
	uint64_t next = NEXT_RIP(c, u);

	push64(c, u, next);
	return sc_goto(c, 1, next + (uint64_t)(int64_t)u->imm);
}

struct block *sc_call64(struct vp *c, struct uop *u)
{
	uint64_t next = NEXT_RIP(c, u);
	uint8_t *flags, *p = sc_fast_write(c, RSP(c) - 8, 8, &flags);

	if (unlikely(!p) || unlikely(*(volatile uint8_t *)flags))
		return call64_slow(c, u);
	HOST(64, p) = next;
	RSP(c) -= 8;
	return sc_goto(c, 1, next + (uint64_t)(int64_t)u->imm);
}

static void check_canonical(struct vp *c, struct uop *u, uint64_t va)
{
	if (unlikely((uint64_t)((int64_t)(va << 16) >> 16) != va))
		sc_gp(c, u);
}

SLOW_HANDLER(ret64_slow)
{
	uint64_t target = sc_load64(c, u, RSP(c));

	check_canonical(c, u, target);
	RSP(c) += 8 + (uint64_t)u->imm;
	return sc_goto_indirect(c, target);
}

struct block *sc_ret64(struct vp *c, struct uop *u)
{
	struct block *next;
	uint64_t target;

	if (unlikely(!sc_fast_load64(c, RSP(c), &target)))
		return ret64_slow(c, u);
	next = sc_jcache_find(c, target);
	if (unlikely(!next))
		return ret64_slow(c, u);
	RSP(c) += 8 + (uint64_t)u->imm;
	RIP(c) = target;
	return next;
}

SLOW_HANDLER(jmp64_r_slow)
{
	check_canonical(c, u, REG64(c, u->rm));
	return sc_goto_indirect(c, REG64(c, u->rm));
}

struct block *sc_jmp64_r(struct vp *c, struct uop *u)
{
	struct block *next = sc_jcache_find(c, REG64(c, u->rm));

	if (unlikely(!next))
		return jmp64_r_slow(c, u);
	RIP(c) = REG64(c, u->rm);
	return next;
}

SLOW_HANDLER(jmp64_m_slow)
{
	uint64_t target = sc_load64(c, u, sc_ea(c, u));

	check_canonical(c, u, target);
	return sc_goto_indirect(c, target);
}

struct block *sc_jmp64_m(struct vp *c, struct uop *u)
{
	struct block *next;
	uint64_t target, va;

	if (unlikely(!sc_fast_ea(c, u, &va)) || unlikely(!sc_fast_load64(c, va, &target)))
		return jmp64_m_slow(c, u);
	next = sc_jcache_find(c, target);
	if (unlikely(!next))
		return jmp64_m_slow(c, u);
	RIP(c) = target;
	return next;
}

struct block *sc_call64_r(struct vp *c, struct uop *u)
{
	uint64_t target = REG64(c, u->rm);
	struct block *next = sc_jcache_find(c, target);

	check_canonical(c, u, target);
	push64(c, u, NEXT_RIP(c, u));
	RIP(c) = target;
	return next;
}

struct block *sc_call64_m(struct vp *c, struct uop *u)
{
	uint64_t target = sc_load64(c, u, sc_ea(c, u));
	struct block *next = sc_jcache_find(c, target);

	check_canonical(c, u, target);
	push64_beside(c, u, NEXT_RIP(c, u));
	RIP(c) = target;
	return next;
}

/* ---- near branches, any mode. size: operand size ---- */

/* The target that the operand size leaves, after its check. */
static uint64_t checked_target(struct vp *c, struct uop *u, uint64_t target)
{
	if (c->mode == MODE_64) {
		if (u->size == 2)
			target &= 0xffff;
		check_canonical(c, u, target);
		return target;
	}
	target &= u->size == 2 ? 0xffff : UINT32_MAX;
	if (target > c->seg[PART_CS].limit)
		sc_gp(c, u);
	return target;
}

static struct block *branch(struct vp *c, struct uop *u, bool taken)
{
	uint64_t next = NEXT_RIP(c, u);

	if (!taken)
		return sc_goto_indirect(c, next);
	return sc_goto_indirect(c, checked_target(c, u, next + (uint64_t)(int64_t)u->imm));
}

struct block *sc_jcc(struct vp *c, struct uop *u)
{
	return branch(c, u, sc_cond(c->flags, u->aux));
}

struct block *sc_jmp(struct vp *c, struct uop *u)
{
	return branch(c, u, true);
}

struct block *sc_call(struct vp *c, struct uop *u)
{
	uint64_t next = NEXT_RIP(c, u);
	uint64_t target = checked_target(c, u, next + (uint64_t)(int64_t)u->imm);

	push(c, u, next, u->size);
	return c->flat ? sc_goto(c, 1, target) : sc_goto_indirect(c, target);
}

struct block *sc_ret(struct vp *c, struct uop *u)
{
	uint64_t target = checked_target(c, u, peek(c, u, 0, u->size));

	set_sp(c, RSP(c) + u->size + (uint64_t)u->imm);
	return sc_goto_indirect(c, target);
}

struct block *sc_jmp_rm(struct vp *c, struct uop *u)
{
	return sc_goto_indirect(c, checked_target(c, u, sc_get_rm(c, u, u->size)));
}

struct block *sc_call_rm(struct vp *c, struct uop *u)
{
	uint64_t target = checked_target(c, u, sc_get_rm(c, u, u->size));

	push(c, u, NEXT_RIP(c, u), u->size);
	return sc_goto_indirect(c, target);
}

static unsigned address_size(const struct uop *u)
{
	return u->ea & EA_A16 ? 2 : u->ea & EA_A32 ? 4 : 8;
}

struct block *sc_loop(struct vp *c, struct uop *u)
{
	unsigned size = address_size(u);
	uint64_t n = sc_get_reg(c, PART_RCX * 8, size) - 1;
	bool zf = c->flags & FL_ZF, taken;
	uint64_t next = NEXT_RIP(c, u), target = next + (uint64_t)(int64_t)u->imm;

	n &= size == 8 ? UINT64_MAX : size == 4 ? UINT32_MAX : 0xffff;
	taken = n && (u->aux == LOOP_ALWAYS || (u->aux == LOOP_ZERO) == zf);
	if (taken)
		target = checked_target(c, u, target);
	sc_set_reg(c, PART_RCX * 8, size, n);
	return sc_goto_indirect(c, taken ? target : next);
}

struct block *sc_jcxz(struct vp *c, struct uop *u)
{
	return branch(c, u, sc_get_reg(c, PART_RCX * 8, address_size(u)) == 0);
}

/* ---- far branches ---- */

/* disp: offset, imm: selector */
struct block *sc_jmp_far(struct vp *c, struct uop *u)
{
	sc_far_jump(c, u, (uint16_t)u->imm, (uint64_t)u->disp, u->size);
	return NULL;
}

struct block *sc_call_far(struct vp *c, struct uop *u)
{
	sc_far_call(c, u, (uint16_t)u->imm, (uint64_t)u->disp, u->size);
	return NULL;
}

struct block *sc_jmp_far_m(struct vp *c, struct uop *u)
{
	uint64_t va = sc_ea(c, u), off = sc_load(c, u, va, u->size);

	sc_far_jump(c, u, sc_load16(c, u, va + u->size), off, u->size);
	return NULL;
}

struct block *sc_call_far_m(struct vp *c, struct uop *u)
{
	uint64_t va = sc_ea(c, u), off = sc_load(c, u, va, u->size);

	sc_far_call(c, u, sc_load16(c, u, va + u->size), off, u->size);
	return NULL;
}

struct block *sc_ret_far(struct vp *c, struct uop *u)
{
	sc_far_return(c, u, u->size, (unsigned)u->imm);
	return NULL;
}

struct block *sc_iret_uop(struct vp *c, struct uop *u)
{
	sc_iret(c, u, u->size);
	return NULL;
}

/* ---- software interrupts ---- */

static _Noreturn void raise_soft(struct vp *c, struct uop *u, unsigned vector, unsigned kind)
{
	sc_raise(c, u, &(struct sc_event){ (uint8_t)vector, (uint8_t)kind, false, 0, u->len });
}

struct block *sc_int(struct vp *c, struct uop *u)
{
	raise_soft(c, u, (uint8_t)u->imm, EVENT_SOFT_INT);
}

struct block *sc_int3(struct vp *c, struct uop *u)
{
	raise_soft(c, u, VEC_BP, EVENT_SOFT_INT);
}

struct block *sc_into(struct vp *c, struct uop *u)
{
	if (c->flags & FL_OF)
		raise_soft(c, u, VEC_OF, EVENT_SOFT_INT);
	NEXT;
}

struct block *sc_int1(struct vp *c, struct uop *u)
{
	raise_soft(c, u, VEC_DB, EVENT_ICEBP);
}

/* ---- fast system calls ---- */

struct block *sc_syscall(struct vp *c, struct uop *u)
{
	bool wide = c->mode == MODE_64;

	/* Outside 64-bit mode only AMD's processors have it. */
	if (!(c->efer & EFER_SCE) || !(c->efer & EFER_LMA) || (!wide && !c->vm->amd))
		sc_ud(c, u);
	c->gpr[PART_RCX] = NEXT_RIP(c, u);
	c->gpr[11] = sc_rflags(c) & ~RF_RF;
	RIP(c) = wide ? c->lstar : c->cstar;
	sc_set_rflags(c, sc_rflags(c) & ~(c->sfmask | RF_RF));
	sc_flat_cs(c, (uint16_t)((c->star >> 32) & 0xfffc), 0, true);
	sc_flat_ss(c, (uint16_t)(((c->star >> 32) & 0xfffc) + 8), 0);
	sc_set_cpl(c, 0);
	sc_segs_changed(c);
	return NULL;
}

struct block *sc_sysret(struct vp *c, struct uop *u)
{
	uint16_t base = (uint16_t)(c->star >> 48);
	bool wide = u->size == 8;

	if (!(c->efer & EFER_SCE) || c->mode != MODE_64)
		sc_ud(c, u);
	if (c->cpl != 0)
		sc_gp(c, u);
	if (wide)
		check_canonical(c, u, c->gpr[PART_RCX]);
	RIP(c) = wide ? c->gpr[PART_RCX] : (uint32_t)c->gpr[PART_RCX];
	sc_flat_cs(c, (uint16_t)((wide ? base + 16 : base) | 3), 3, wide);
	sc_flat_ss(c, (uint16_t)((base + 8) | 3), 3);
	sc_set_cpl(c, 3);
	sc_segs_changed(c);
	sc_set_rflags(c, c->gpr[11] & SYSRET_FLAGS);
	return NULL;
}

/* AMD's processors have SYSENTER and SYSEXIT in legacy mode only (APM volume 3). */
static void check_sysenter(struct vp *c, struct uop *u)
{
	if (c->vm->amd && c->efer & EFER_LMA)
		sc_ud(c, u);
}

struct block *sc_sysenter(struct vp *c, struct uop *u)
{
	bool lma = c->efer & EFER_LMA;
	uint16_t cs = (uint16_t)(c->sysenter_cs & 0xfffc);

	check_sysenter(c, u);
	if (!(c->cr0 & CR0_PE) || !cs)
		sc_gp(c, u);
	c->rf &= ~(RF_IF | RF_VM);
	sc_flat_cs(c, cs, 0, lma);
	sc_flat_ss(c, (uint16_t)(cs + 8), 0);
	sc_set_cpl(c, 0);
	RSP(c) = lma ? c->sysenter_esp : (uint32_t)c->sysenter_esp;
	RIP(c) = lma ? c->sysenter_eip : (uint32_t)c->sysenter_eip;
	sc_segs_changed(c);
	return NULL;
}

struct block *sc_sysexit(struct vp *c, struct uop *u)
{
	uint16_t cs = (uint16_t)(c->sysenter_cs & 0xfffc);
	bool wide = u->size == 8;

	check_sysenter(c, u);
	if (!(c->cr0 & CR0_PE) || !cs || c->cpl != 0)
		sc_gp(c, u);
	if (wide) {
		check_canonical(c, u, c->gpr[PART_RDX]);
		check_canonical(c, u, c->gpr[PART_RCX]);
	}
	RIP(c) = wide ? c->gpr[PART_RDX] : (uint32_t)c->gpr[PART_RDX];
	RSP(c) = wide ? c->gpr[PART_RCX] : (uint32_t)c->gpr[PART_RCX];
	sc_flat_cs(c, (uint16_t)((cs + (wide ? 32 : 16)) | 3), 3, wide);
	sc_flat_ss(c, (uint16_t)((cs + (wide ? 40 : 24)) | 3), 3);
	sc_set_cpl(c, 3);
	sc_segs_changed(c);
	return NULL;
}
