/*
 * The handlers by form and size, as the decoder picks them. Sizes are indexed by log2 of the
 * operand size in bytes (0..3). A NULL entry doesn't exist.
 */
#ifndef PART_SOFTCPU_EXEC_H
#define PART_SOFTCPU_EXEC_H

#include "part/softcpu/cpu.h"

/* Operand forms: the first letter is the destination. R and the register form of r/m; M memory;
 * I immediate. In RR and RI, uop.rm is the destination; in RM, uop.reg is. */
enum sc_form { FORM_RR, FORM_RI, FORM_RM, FORM_MR, FORM_MI, FORM_COUNT };

enum sc_alu {
	ALU_ADD,
	ALU_OR,
	ALU_ADC,
	ALU_SBB,
	ALU_AND,
	ALU_SUB,
	ALU_XOR,
	ALU_CMP,
	ALU_TEST,
	ALU_COUNT
};
extern sc_fn *const sc_alu[ALU_COUNT][FORM_COUNT][4];
/* With the Jcc whose uop follows, which then isn't executed by itself; NULL where there is none. */
#define UOP_FUSED 0x80 /* uop.aux of an ALU instruction: its handler is one of these */
extern sc_fn *const sc_alu_jcc[ALU_COUNT][FORM_COUNT][4];
extern sc_fn *const sc_alu_locked[ALU_COUNT][2][4]; /* MR, MI */

enum sc_unary { UNARY_INC, UNARY_DEC, UNARY_NEG, UNARY_NOT, UNARY_COUNT };
extern sc_fn *const sc_unary_jcc[UNARY_COUNT][4]; /* R */
extern sc_fn *const sc_unary[UNARY_COUNT][3][4];  /* R, M, locked M */

/* aux: 0 count in imm, 1 in CL */
enum sc_shift {
	SHIFT_ROL,
	SHIFT_ROR,
	SHIFT_RCL,
	SHIFT_RCR,
	SHIFT_SHL,
	SHIFT_SHR,
	SHIFT_SAR,
	SHIFT_COUNT
};
extern sc_fn *const sc_shift[SHIFT_COUNT][2][4]; /* R, M */
extern sc_fn *const sc_shift_double[2][2][4];    /* SHLD, SHRD; R, M */

extern sc_fn *const sc_mov[FORM_COUNT][4];
extern sc_fn *const sc_movzx[2][2][4]; /* register or memory source; its size 1, 2; result size */
extern sc_fn *const sc_movsx[2][3][4]; /* sizes 1, 2, 4 */
extern sc_fn *const sc_lea[4];
extern sc_fn *const sc_xchg[2][4]; /* R, M */
extern sc_fn *const sc_xadd[2][4];
extern sc_fn *const sc_cmpxchg[2][4];
extern sc_fn *const sc_imul2[2][4]; /* reg *= rm (R, M) */
extern sc_fn *const sc_imul3[2][4]; /* reg = rm * imm */
/* aux: 0 MUL, 1 IMUL, 2 DIV, 3 IDIV */
extern sc_fn *const sc_muldiv[2][4];
extern sc_fn *const sc_setcc[16][2];   /* R, M */
extern sc_fn *const sc_cmov[16][2][4]; /* R, M */
extern sc_fn *const sc_bt[4][2][2][4]; /* BT BTS BTR BTC; index in reg or imm; R, M; aux: locked */
extern sc_fn *const sc_bitscan[2][2][4]; /* BSF BSR; R, M */
extern sc_fn *const sc_bswap[4];
extern sc_fn sc_mov_ri64, sc_mov_moffs_load, sc_mov_moffs_store;
extern sc_fn sc_nop, sc_cbw, sc_cwde, sc_cdqe, sc_cwd, sc_cdq, sc_cqo, sc_lahf, sc_sahf;
extern sc_fn sc_clc, sc_stc, sc_cmc, sc_cld, sc_std, sc_salc, sc_xlat;
extern sc_fn sc_cmpxchg8b, sc_cmpxchg16b, sc_movbe, sc_popcnt;
extern sc_fn sc_aaa, sc_aas, sc_daa, sc_das, sc_aam, sc_aad, sc_bound, sc_arpl;

/* exec-flow.c. The 64-bit forms, and those for all other modes. */
extern sc_fn sc_push64_r, sc_push64_i, sc_push64_m, sc_pop64_r, sc_pop64_m, sc_leave64;
extern sc_fn sc_push, sc_pop, sc_push_seg, sc_pop_seg, sc_pusha, sc_popa, sc_leave, sc_enter;
extern sc_fn sc_pushf, sc_popf;
extern sc_fn *const sc_jcc64[16];
extern sc_fn sc_jmp64, sc_call64, sc_ret64, sc_jmp64_r, sc_jmp64_m, sc_call64_r, sc_call64_m;
/* uop.aux of sc_loop: what else it asks for */
enum { LOOP_ALWAYS, LOOP_ZERO, LOOP_NOT_ZERO };
extern sc_fn sc_jcc, sc_jmp, sc_call, sc_ret, sc_jmp_rm, sc_call_rm, sc_loop, sc_jcxz;
extern sc_fn sc_jmp_far, sc_call_far, sc_jmp_far_m, sc_call_far_m, sc_ret_far, sc_iret_uop;
extern sc_fn sc_int, sc_int3, sc_into, sc_int1, sc_syscall, sc_sysret, sc_sysenter, sc_sysexit;
/* Ends a block that goes on with the next instruction. imm: bytes of the block. */
extern sc_fn sc_block_end;
/* First in a block whose instruction straddles two pages: the second is still the same. */
extern sc_fn sc_check_second_page;
/* Raises imm as the vector (aux: with error code 0). */
extern sc_fn sc_raise_uop;

/* exec-string.c. aux: STRING_* */
#define STRING_REP   1u
#define STRING_REPE  2u
#define STRING_REPNE 3u
enum sc_string {
	STRING_MOVS,
	STRING_STOS,
	STRING_LODS,
	STRING_CMPS,
	STRING_SCAS,
	STRING_INS,
	STRING_OUTS,
	STRING_COUNT
};
extern sc_fn *const sc_string[STRING_COUNT];

/* exec-system.c */
extern sc_fn sc_cli, sc_sti, sc_hlt, sc_cpuid_uop, sc_rdtsc, sc_rdtscp, sc_rdmsr, sc_wrmsr,
    sc_rdpmc;
extern sc_fn sc_mov_from_cr, sc_mov_to_cr, sc_mov_from_dr, sc_mov_to_dr, sc_clts, sc_lmsw, sc_smsw;
extern sc_fn sc_lgdt, sc_lidt, sc_sgdt, sc_sidt, sc_lldt, sc_ltr, sc_sldt, sc_str, sc_lar, sc_lsl;
extern sc_fn sc_verr, sc_verw, sc_invlpg, sc_invd, sc_swapgs, sc_rdfsgsbase, sc_wrfsgsbase;
extern sc_fn sc_mov_from_seg, sc_mov_to_seg, sc_lds, sc_in, sc_out, sc_pause, sc_fence;
extern sc_fn sc_rdrand, sc_hypercall, sc_clflush;

/* exec-host.c: what the host executes. The uop behind holds the struct hostop's address in disp. */
extern sc_fn sc_hostop;
/* #UD or #NM unless AVX may be used. */
void sc_check_avx(struct vp *c, struct uop *u);

/* exec-avx.c. imm: numbers of vector registers, the size of an element and how many there are. */
#define AVX_OPERANDS(reg, mask, element, count)                                                    \
	((int32_t)((reg) | (mask) << 4 | (unsigned)(element) << 12 | (count) << 16))
#define AVX_GATHER(index, size) ((int32_t)((index) << 8 | (unsigned)(size) << 20))
#define AVX_REG(imm)            ((unsigned)(imm)&15)
#define AVX_MASK(imm)           ((unsigned)(imm) >> 4 & 15)
#define AVX_INDEX(imm)          ((unsigned)(imm) >> 8 & 15)
#define AVX_ELEMENT(imm)        ((unsigned)(imm) >> 12 & 15)
#define AVX_COUNT(imm)          ((unsigned)(imm) >> 16 & 15)
#define AVX_INDEX_SIZE(imm)     ((unsigned)(imm) >> 20 & 15)
extern sc_fn sc_masked_load, sc_masked_store, sc_gather;

/* exec-xsave.c */
extern sc_fn sc_xsave, sc_xrstor, sc_xgetbv, sc_xsetbv;

#endif
