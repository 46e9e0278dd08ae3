/*
 * Integer instructions. Each handler executes the guest's instruction itself on the host by inline
 * assembly and keeps the flags that the host gave; see cpu.h.
 */
#include "part/softcpu/exec.h"
#include "part/softcpu/fast.h"

/* op b, a; the instruction's size suffix follows from the operands' types */
#define STORE_FLAGS "\n\tlahf\n\tseto %%al"
#define LOAD_CARRY  "btw $8, %[fl]\n\t"

#define DEFINE_BINARY(name, insn, pre, N)                                                          \
	static inline uint##N##_t do_##name##N(struct vp *c, uint##N##_t a, uint##N##_t b)         \
	{                                                                                          \
		uint16_t f;                                                                        \
                                                                                                   \
		asm(pre insn " %[b], %[a]" STORE_FLAGS                                             \
		    : [a] "+r"(a), "=&a"(f)                                                        \
		    : [b] "r"(b), [fl] "m"(c->flags)                                               \
		    : "cc");                                                                       \
		c->flags = f;                                                                      \
		return a;                                                                          \
	}                                                                                          \
	static inline void do_locked_##name##N(struct vp *c, void *p, uint##N##_t b)               \
	{                                                                                          \
		uint16_t f;                                                                        \
                                                                                                   \
		asm volatile(pre "lock " insn " %[b], %[m]" STORE_FLAGS                            \
			     : [m] "+m"(*(uint##N##_t *)p), "=&a"(f)                               \
			     : [b] "r"(b), [fl] "m"(c->flags)                                      \
			     : "cc", "memory");                                                    \
		c->flags = f;                                                                      \
	}

#define DEFINE_COMPARE(name, insn, N)                                                              \
	static inline void do_##name##N(struct vp *c, uint##N##_t a, uint##N##_t b)                \
	{                                                                                          \
		uint16_t f;                                                                        \
                                                                                                   \
		asm(insn " %[b], %[a]" STORE_FLAGS : "=&a"(f) : [a] "r"(a), [b] "r"(b) : "cc");    \
		c->flags = f;                                                                      \
	}

#define BINARY_HANDLERS(name, N)                                                                   \
	HANDLER(name##_rr##N)                                                                      \
	{                                                                                          \
		SET##N(c, u->rm, do_##name##N(c, GET##N(c, u->rm), GET##N(c, u->reg)));            \
		NEXT;                                                                              \
	}                                                                                          \
	HANDLER(name##_ri##N)                                                                      \
	{                                                                                          \
		SET##N(c, u->rm, do_##name##N(c, GET##N(c, u->rm), (uint##N##_t)(int64_t)u->imm)); \
		NEXT;                                                                              \
	}                                                                                          \
	LOAD_HANDLER(name##_rm##N, N, SET##N(c, u->reg, do_##name##N(c, GET##N(c, u->reg), v)),    \
		     NEXT)                                                                         \
	RMW_HANDLER(name##_mr##N, N, HOST(N, p) = do_##name##N(c, HOST(N, p), GET##N(c, u->reg)))  \
	RMW_HANDLER(name##_mi##N, N,                                                               \
		    HOST(N, p) = do_##name##N(c, HOST(N, p), (uint##N##_t)(int64_t)u->imm))        \
	HANDLER(name##_locked_mr##N)                                                               \
	{                                                                                          \
		uint8_t *flags, *p = sc_rmw(c, u, sc_ea(c, u), N / 8, &flags);                     \
                                                                                                   \
		do_locked_##name##N(c, p, GET##N(c, u->reg));                                      \
		sc_rmw_end(c, u, p, N / 8, flags);                                                 \
		NEXT;                                                                              \
	}                                                                                          \
	HANDLER(name##_locked_mi##N)                                                               \
	{                                                                                          \
		uint8_t *flags, *p = sc_rmw(c, u, sc_ea(c, u), N / 8, &flags);                     \
                                                                                                   \
		do_locked_##name##N(c, p, (uint##N##_t)(int64_t)u->imm);                           \
		sc_rmw_end(c, u, p, N / 8, flags);                                                 \
		NEXT;                                                                              \
	}

/* Each also with the Jcc behind it, in one. */
#define COMPARE_FORMS(name, N, suffix, end)                                                        \
	HANDLER(name##_rr##suffix##N)                                                              \
	{                                                                                          \
		do_##name##N(c, GET##N(c, u->rm), GET##N(c, u->reg));                              \
		end;                                                                               \
	}                                                                                          \
	HANDLER(name##_ri##suffix##N)                                                              \
	{                                                                                          \
		do_##name##N(c, GET##N(c, u->rm), (uint##N##_t)(int64_t)u->imm);                   \
		end;                                                                               \
	}                                                                                          \
	LOAD_HANDLER(name##_rm##suffix##N, N, do_##name##N(c, GET##N(c, u->reg), v), end)          \
	LOAD_HANDLER(name##_mr##suffix##N, N, do_##name##N(c, v, GET##N(c, u->reg)), end)          \
	LOAD_HANDLER(name##_mi##suffix##N, N, do_##name##N(c, v, (uint##N##_t)(int64_t)u->imm), end)

#define COMPARE_HANDLERS(name, N)                                                                  \
	COMPARE_FORMS(name, N, , NEXT)                                                             \
	COMPARE_FORMS(name, N, _jcc, return sc_jcc_masked(c, u + 1))

/* Arithmetic on registers with the Jcc behind it. */
#define BINARY_JCC(name, N)                                                                        \
	HANDLER(name##_rr_jcc##N)                                                                  \
	{                                                                                          \
		SET##N(c, u->rm, do_##name##N(c, GET##N(c, u->rm), GET##N(c, u->reg)));            \
		return sc_jcc_masked(c, u + 1);                                                    \
	}                                                                                          \
	HANDLER(name##_ri_jcc##N)                                                                  \
	{                                                                                          \
		SET##N(c, u->rm, do_##name##N(c, GET##N(c, u->rm), (uint##N##_t)(int64_t)u->imm)); \
		return sc_jcc_masked(c, u + 1);                                                    \
	}

#define BINARY_JCC_ALL(name)                                                                       \
	BINARY_JCC(name, 8)                                                                        \
	BINARY_JCC(name, 16)                                                                       \
	BINARY_JCC(name, 32)                                                                       \
	BINARY_JCC(name, 64)

#define DEFINE_BINARY_ALL(name, insn, pre)                                                         \
	DEFINE_BINARY(name, insn "b", pre, 8)                                                      \
	DEFINE_BINARY(name, insn "w", pre, 16)                                                     \
	DEFINE_BINARY(name, insn "l", pre, 32)                                                     \
	DEFINE_BINARY(name, insn "q", pre, 64)                                                     \
	BINARY_HANDLERS(name, 8)                                                                   \
	BINARY_HANDLERS(name, 16)                                                                  \
	BINARY_HANDLERS(name, 32)                                                                  \
	BINARY_HANDLERS(name, 64)

#define DEFINE_COMPARE_ALL(name, insn)                                                             \
	DEFINE_COMPARE(name, insn "b", 8)                                                          \
	DEFINE_COMPARE(name, insn "w", 16)                                                         \
	DEFINE_COMPARE(name, insn "l", 32)                                                         \
	DEFINE_COMPARE(name, insn "q", 64)                                                         \
	COMPARE_HANDLERS(name, 8)                                                                  \
	COMPARE_HANDLERS(name, 16)                                                                 \
	COMPARE_HANDLERS(name, 32)                                                                 \
	COMPARE_HANDLERS(name, 64)

DEFINE_BINARY_ALL(add, "add", "")
DEFINE_BINARY_ALL(or, "or", "")
DEFINE_BINARY_ALL(adc, "adc", LOAD_CARRY)
DEFINE_BINARY_ALL(sbb, "sbb", LOAD_CARRY)
DEFINE_BINARY_ALL(and, "and", "")
DEFINE_BINARY_ALL(sub, "sub", "")
DEFINE_BINARY_ALL(xor, "xor", "")
DEFINE_COMPARE_ALL(cmp, "cmp")
DEFINE_COMPARE_ALL(test, "test")
BINARY_JCC_ALL(add)
BINARY_JCC_ALL(and)
BINARY_JCC_ALL(sub)

#define SIZES(prefix)                                                                              \
	{                                                                                          \
		prefix##8, prefix##16, prefix##32, prefix##64                                      \
	}
#define SIZES_16_UP(prefix)                                                                        \
	{                                                                                          \
		NULL, prefix##16, prefix##32, prefix##64                                           \
	}
#define FORMS(name)                                                                                \
	{                                                                                          \
		SIZES(name##_rr), SIZES(name##_ri), SIZES(name##_rm), SIZES(name##_mr),            \
		    SIZES(name##_mi)                                                               \
	}

sc_fn *const sc_alu[ALU_COUNT][FORM_COUNT][4] = {
	[ALU_ADD] = FORMS(add), [ALU_OR] = FORMS(or),   [ALU_ADC] = FORMS(adc),
	[ALU_SBB] = FORMS(sbb), [ALU_AND] = FORMS(and), [ALU_SUB] = FORMS(sub),
	[ALU_XOR] = FORMS(xor), [ALU_CMP] = FORMS(cmp), [ALU_TEST] = FORMS(test),
};

#define JCC_FORMS(name)                                                                            \
	{                                                                                          \
		SIZES(name##_rr_jcc), SIZES(name##_ri_jcc)                                         \
	}
#define COMPARE_JCC_FORMS(name)                                                                    \
	{                                                                                          \
		SIZES(name##_rr_jcc), SIZES(name##_ri_jcc), SIZES(name##_rm_jcc),                  \
		    SIZES(name##_mr_jcc), SIZES(name##_mi_jcc)                                     \
	}

sc_fn *const sc_alu_jcc[ALU_COUNT][FORM_COUNT][4] = {
	[ALU_ADD] = JCC_FORMS(add),           [ALU_AND] = JCC_FORMS(and),
	[ALU_SUB] = JCC_FORMS(sub),           [ALU_CMP] = COMPARE_JCC_FORMS(cmp),
	[ALU_TEST] = COMPARE_JCC_FORMS(test),
};

#define LOCKED_FORMS(name)                                                                         \
	{                                                                                          \
		SIZES(name##_locked_mr), SIZES(name##_locked_mi)                                   \
	}

sc_fn *const sc_alu_locked[ALU_COUNT][2][4] = {
	[ALU_ADD] = LOCKED_FORMS(add), [ALU_OR] = LOCKED_FORMS(or),   [ALU_ADC] = LOCKED_FORMS(adc),
	[ALU_SBB] = LOCKED_FORMS(sbb), [ALU_AND] = LOCKED_FORMS(and), [ALU_SUB] = LOCKED_FORMS(sub),
	[ALU_XOR] = LOCKED_FORMS(xor),
};

/* ---- INC, DEC, NEG, NOT ---- */

#define DEFINE_UNARY(name, insn, pre, N)                                                           \
	static inline uint##N##_t do_##name##N(struct vp *c, uint##N##_t a)                        \
	{                                                                                          \
		uint16_t f;                                                                        \
                                                                                                   \
		asm(pre insn " %[a]" STORE_FLAGS                                                   \
		    : [a] "+r"(a), "=&a"(f)                                                        \
		    : [fl] "m"(c->flags)                                                           \
		    : "cc");                                                                       \
		c->flags = f;                                                                      \
		return a;                                                                          \
	}                                                                                          \
	static inline void do_locked_##name##N(struct vp *c, void *p)                              \
	{                                                                                          \
		uint16_t f;                                                                        \
                                                                                                   \
		asm volatile(pre "lock " insn " %[m]" STORE_FLAGS                                  \
			     : [m] "+m"(*(uint##N##_t *)p), "=&a"(f)                               \
			     : [fl] "m"(c->flags)                                                  \
			     : "cc", "memory");                                                    \
		c->flags = f;                                                                      \
	}

#define UNARY_HANDLERS(name, N)                                                                    \
	HANDLER(name##_r##N)                                                                       \
	{                                                                                          \
		SET##N(c, u->rm, do_##name##N(c, GET##N(c, u->rm)));                               \
		NEXT;                                                                              \
	}                                                                                          \
	RMW_HANDLER(name##_m##N, N, HOST(N, p) = do_##name##N(c, HOST(N, p)))                      \
	HANDLER(name##_locked##N)                                                                  \
	{                                                                                          \
		uint8_t *flags, *p = sc_rmw(c, u, sc_ea(c, u), N / 8, &flags);                     \
                                                                                                   \
		do_locked_##name##N(c, p);                                                         \
		sc_rmw_end(c, u, p, N / 8, flags);                                                 \
		NEXT;                                                                              \
	}

#define DEFINE_UNARY_ALL(name, insn, pre)                                                          \
	DEFINE_UNARY(name, insn "b", pre, 8)                                                       \
	DEFINE_UNARY(name, insn "w", pre, 16)                                                      \
	DEFINE_UNARY(name, insn "l", pre, 32)                                                      \
	DEFINE_UNARY(name, insn "q", pre, 64)                                                      \
	UNARY_HANDLERS(name, 8)                                                                    \
	UNARY_HANDLERS(name, 16)                                                                   \
	UNARY_HANDLERS(name, 32)                                                                   \
	UNARY_HANDLERS(name, 64)

/* NOT changes no flags. */
#define DEFINE_NOT(N)                                                                              \
	static inline uint##N##_t do_not##N(struct vp *c, uint##N##_t a)                           \
	{                                                                                          \
		return (uint##N##_t) ~a;                                                           \
	}                                                                                          \
	static inline void do_locked_not##N(struct vp *c, void *p)                                 \
	{                                                                                          \
		asm volatile("lock xor %1, %0"                                                     \
			     : "+m"(*(uint##N##_t *)p)                                             \
			     : "r"((uint##N##_t) - 1)                                              \
			     : "cc", "memory");                                                    \
	}                                                                                          \
	UNARY_HANDLERS(not, N)

DEFINE_UNARY_ALL(inc, "inc", LOAD_CARRY)
DEFINE_UNARY_ALL(dec, "dec", LOAD_CARRY)
DEFINE_UNARY_ALL(neg, "neg", "")
DEFINE_NOT(8)
DEFINE_NOT(16)
DEFINE_NOT(32)
DEFINE_NOT(64)

#define UNARY_JCC(name, N)                                                                         \
	HANDLER(name##_jcc##N)                                                                     \
	{                                                                                          \
		SET##N(c, u->rm, do_##name##N(c, GET##N(c, u->rm)));                               \
		return sc_jcc_masked(c, u + 1);                                                    \
	}

UNARY_JCC(inc, 8)
UNARY_JCC(inc, 16)
UNARY_JCC(inc, 32)
UNARY_JCC(inc, 64)
UNARY_JCC(dec, 8)
UNARY_JCC(dec, 16)
UNARY_JCC(dec, 32)
UNARY_JCC(dec, 64)

sc_fn *const sc_unary_jcc[UNARY_COUNT][4] = {
	[UNARY_INC] = SIZES(inc_jcc),
	[UNARY_DEC] = SIZES(dec_jcc),
};

#define UNARY_FORMS(name)                                                                          \
	{                                                                                          \
		SIZES(name##_r), SIZES(name##_m), SIZES(name##_locked)                             \
	}

sc_fn *const sc_unary[UNARY_COUNT][3][4] = {
	[UNARY_INC] = UNARY_FORMS(inc),
	[UNARY_DEC] = UNARY_FORMS(dec),
	[UNARY_NEG] = UNARY_FORMS(neg),
	[UNARY_NOT] = UNARY_FORMS(not ),
};

/* ---- shifts and rotates ---- */

static inline unsigned shift_count(struct vp *c, struct uop *u, unsigned bits)
{
	unsigned n = u->aux ? REG8(c, PART_RCX * 8) : (unsigned)u->imm;

	return n & (bits == 64 ? 63 : 31);
}

/* Shifts set all flags; a count of 0 sets none. */
#define DEFINE_SHIFT(name, insn, N)                                                                \
	static inline uint##N##_t do_##name##N(struct vp *c, uint##N##_t a, unsigned n)            \
	{                                                                                          \
		uint16_t f;                                                                        \
                                                                                                   \
		if (n == 0)                                                                        \
			return a;                                                                  \
		asm(insn " %%cl, %[a]" STORE_FLAGS : [a] "+r"(a), "=&a"(f) : "c"(n) : "cc");       \
		c->flags = f;                                                                      \
		return a;                                                                          \
	}

/* Rotates set CF and OF only. */
#define DEFINE_ROTATE(name, insn, pre, N)                                                          \
	static inline uint##N##_t do_##name##N(struct vp *c, uint##N##_t a, unsigned n)            \
	{                                                                                          \
		uint8_t cf, of;                                                                    \
                                                                                                   \
		if (n == 0)                                                                        \
			return a;                                                                  \
		asm(pre insn " %%cl, %[a]\n\tsetc %[cf]\n\tseto %[of]"                             \
		    : [a] "+r"(a), [cf] "=&q"(cf), [of] "=&q"(of)                                  \
		    : "c"(n), [fl] "m"(c->flags)                                                   \
		    : "cc");                                                                       \
		c->flags = (uint16_t)((c->flags & ~(FL_CF | FL_OF)) | cf << 8 | of);               \
		return a;                                                                          \
	}

#define SHIFT_HANDLERS(name, N)                                                                    \
	HANDLER(name##_r##N)                                                                       \
	{                                                                                          \
		SET##N(c, u->rm, do_##name##N(c, GET##N(c, u->rm), shift_count(c, u, N)));         \
		NEXT;                                                                              \
	}                                                                                          \
	HANDLER(name##_m##N)                                                                       \
	{                                                                                          \
		unsigned n = shift_count(c, u, N);                                                 \
		uint8_t *flags, *p = sc_rmw(c, u, sc_ea(c, u), N / 8, &flags);                     \
                                                                                                   \
		HOST(N, p) = do_##name##N(c, HOST(N, p), n);                                       \
		sc_rmw_end(c, u, p, N / 8, flags);                                                 \
		NEXT;                                                                              \
	}

#define DEFINE_SHIFT_ALL(name, insn)                                                               \
	DEFINE_SHIFT(name, insn "b", 8)                                                            \
	DEFINE_SHIFT(name, insn "w", 16)                                                           \
	DEFINE_SHIFT(name, insn "l", 32)                                                           \
	DEFINE_SHIFT(name, insn "q", 64)                                                           \
	SHIFT_HANDLERS(name, 8)                                                                    \
	SHIFT_HANDLERS(name, 16)                                                                   \
	SHIFT_HANDLERS(name, 32)                                                                   \
	SHIFT_HANDLERS(name, 64)

#define DEFINE_ROTATE_ALL(name, insn, pre)                                                         \
	DEFINE_ROTATE(name, insn "b", pre, 8)                                                      \
	DEFINE_ROTATE(name, insn "w", pre, 16)                                                     \
	DEFINE_ROTATE(name, insn "l", pre, 32)                                                     \
	DEFINE_ROTATE(name, insn "q", pre, 64)                                                     \
	SHIFT_HANDLERS(name, 8)                                                                    \
	SHIFT_HANDLERS(name, 16)                                                                   \
	SHIFT_HANDLERS(name, 32)                                                                   \
	SHIFT_HANDLERS(name, 64)

DEFINE_ROTATE_ALL(rol, "rol", "")
DEFINE_ROTATE_ALL(ror, "ror", "")
DEFINE_ROTATE_ALL(rcl, "rcl", LOAD_CARRY)
DEFINE_ROTATE_ALL(rcr, "rcr", LOAD_CARRY)
DEFINE_SHIFT_ALL(shl, "shl")
DEFINE_SHIFT_ALL(shr, "shr")
DEFINE_SHIFT_ALL(sar, "sar")

#define RM_FORMS(name)                                                                             \
	{                                                                                          \
		SIZES(name##_r), SIZES(name##_m)                                                   \
	}
#define RM_FORMS_16_UP(name)                                                                       \
	{                                                                                          \
		SIZES_16_UP(name##_r), SIZES_16_UP(name##_m)                                       \
	}

sc_fn *const sc_shift[SHIFT_COUNT][2][4] = {
	[SHIFT_ROL] = RM_FORMS(rol), [SHIFT_ROR] = RM_FORMS(ror), [SHIFT_RCL] = RM_FORMS(rcl),
	[SHIFT_RCR] = RM_FORMS(rcr), [SHIFT_SHL] = RM_FORMS(shl), [SHIFT_SHR] = RM_FORMS(shr),
	[SHIFT_SAR] = RM_FORMS(sar),
};

#define DEFINE_SHIFT_DOUBLE(name, insn, N)                                                         \
	static inline uint##N##_t do_##name##N(struct vp *c, struct uop *u, uint##N##_t a)         \
	{                                                                                          \
		unsigned n = shift_count(c, u, N);                                                 \
		uint16_t f;                                                                        \
                                                                                                   \
		if (n == 0)                                                                        \
			return a;                                                                  \
		asm(insn " %%cl, %[b], %[a]" STORE_FLAGS                                           \
		    : [a] "+r"(a), "=&a"(f)                                                        \
		    : [b] "r"(GET##N(c, u->reg)), "c"(n)                                           \
		    : "cc");                                                                       \
		c->flags = f;                                                                      \
		return a;                                                                          \
	}                                                                                          \
	HANDLER(name##_r##N)                                                                       \
	{                                                                                          \
		SET##N(c, u->rm, do_##name##N(c, u, GET##N(c, u->rm)));                            \
		NEXT;                                                                              \
	}                                                                                          \
	HANDLER(name##_m##N)                                                                       \
	{                                                                                          \
		uint8_t *flags, *p = sc_rmw(c, u, sc_ea(c, u), N / 8, &flags);                     \
                                                                                                   \
		HOST(N, p) = do_##name##N(c, u, HOST(N, p));                                       \
		sc_rmw_end(c, u, p, N / 8, flags);                                                 \
		NEXT;                                                                              \
	}

DEFINE_SHIFT_DOUBLE(shld, "shldw", 16)
DEFINE_SHIFT_DOUBLE(shld, "shldl", 32)
DEFINE_SHIFT_DOUBLE(shld, "shldq", 64)
DEFINE_SHIFT_DOUBLE(shrd, "shrdw", 16)
DEFINE_SHIFT_DOUBLE(shrd, "shrdl", 32)
DEFINE_SHIFT_DOUBLE(shrd, "shrdq", 64)

sc_fn *const sc_shift_double[2][2][4] = { RM_FORMS_16_UP(shld), RM_FORMS_16_UP(shrd) };

/* ---- moves ---- */

#define DEFINE_MOV(N)                                                                              \
	HANDLER(mov_rr##N)                                                                         \
	{                                                                                          \
		SET##N(c, u->rm, GET##N(c, u->reg));                                               \
		NEXT;                                                                              \
	}                                                                                          \
	HANDLER(mov_ri##N)                                                                         \
	{                                                                                          \
		SET##N(c, u->rm, (uint##N##_t)(int64_t)u->imm);                                    \
		NEXT;                                                                              \
	}                                                                                          \
	LOAD_HANDLER(mov_rm##N, N, SET##N(c, u->reg, v), NEXT)                                     \
	STORE_HANDLER(mov_mr##N, N, GET##N(c, u->reg))                                             \
	STORE_HANDLER(mov_mi##N, N, (uint##N##_t)(int64_t)u->imm)

DEFINE_MOV(8)
DEFINE_MOV(16)
DEFINE_MOV(32)
DEFINE_MOV(64)

sc_fn *const sc_mov[FORM_COUNT][4] = FORMS(mov);

struct block *sc_mov_ri64(struct vp *c, struct uop *u)
{
	REG64(c, u->rm) = (uint64_t)u->disp;
	NEXT;
}

#define DEFINE_EXTEND(name, from, cast, N)                                                         \
	HANDLER(name##_r##from##_##N)                                                              \
	{                                                                                          \
		SET##N(c, u->reg, (uint##N##_t)(cast)GET##from(c, u->rm));                         \
		NEXT;                                                                              \
	}                                                                                          \
	LOAD_HANDLER(name##_m##from##_##N, from, SET##N(c, u->reg, (uint##N##_t)(cast)v), NEXT)

DEFINE_EXTEND(movzx, 8, uint8_t, 16)
DEFINE_EXTEND(movzx, 8, uint8_t, 32)
DEFINE_EXTEND(movzx, 8, uint8_t, 64)
DEFINE_EXTEND(movzx, 16, uint16_t, 16)
DEFINE_EXTEND(movzx, 16, uint16_t, 32)
DEFINE_EXTEND(movzx, 16, uint16_t, 64)
DEFINE_EXTEND(movsx, 8, int8_t, 16)
DEFINE_EXTEND(movsx, 8, int8_t, 32)
DEFINE_EXTEND(movsx, 8, int8_t, 64)
DEFINE_EXTEND(movsx, 16, int16_t, 16)
DEFINE_EXTEND(movsx, 16, int16_t, 32)
DEFINE_EXTEND(movsx, 16, int16_t, 64)
DEFINE_EXTEND(movsx, 32, int32_t, 16)
DEFINE_EXTEND(movsx, 32, int32_t, 32)
DEFINE_EXTEND(movsx, 32, int32_t, 64)

#define EXTEND_SIZES(name)                                                                         \
	{                                                                                          \
		NULL, name##_16, name##_32, name##_64                                              \
	}

sc_fn *const sc_movzx[2][2][4] = { { EXTEND_SIZES(movzx_r8), EXTEND_SIZES(movzx_r16) },
				   { EXTEND_SIZES(movzx_m8), EXTEND_SIZES(movzx_m16) } };
sc_fn *const sc_movsx[2][3][4] = {
	{ EXTEND_SIZES(movsx_r8), EXTEND_SIZES(movsx_r16), EXTEND_SIZES(movsx_r32) },
	{ EXTEND_SIZES(movsx_m8), EXTEND_SIZES(movsx_m16), EXTEND_SIZES(movsx_m32) }
};

/* LEA: the offset without segment; the decoder sets u->ea for short address sizes. */
static inline uint64_t lea_offset(struct vp *c, struct uop *u)
{
	uint64_t off = REG64(c, u->base) + (REG64(c, u->index) << u->scale) + (uint64_t)u->disp;

	if (unlikely(u->ea & EA_A16))
		return off & 0xffff;
	return unlikely(u->ea & EA_A32) ? off & UINT32_MAX : off;
}

#define DEFINE_LEA(N)                                                                              \
	HANDLER(lea_##N)                                                                           \
	{                                                                                          \
		SET##N(c, u->reg, (uint##N##_t)lea_offset(c, u));                                  \
		NEXT;                                                                              \
	}

DEFINE_LEA(16)
DEFINE_LEA(32)
DEFINE_LEA(64)
sc_fn *const sc_lea[4] = SIZES_16_UP(lea_);

/* ---- exchange ---- */

/* XCHG with memory, XADD and CMPXCHG are always done as locked ones: it makes no difference to the
 * guest. */
#define DEFINE_EXCHANGE(N)                                                                         \
	HANDLER(xchg_r##N)                                                                         \
	{                                                                                          \
		uint##N##_t a = GET##N(c, u->rm), b = GET##N(c, u->reg);                           \
                                                                                                   \
		SET##N(c, u->rm, b);                                                               \
		SET##N(c, u->reg, a);                                                              \
		NEXT;                                                                              \
	}                                                                                          \
	HANDLER(xchg_m##N)                                                                         \
	{                                                                                          \
		uint8_t *flags, *p = sc_rmw(c, u, sc_ea(c, u), N / 8, &flags);                     \
		uint##N##_t v = GET##N(c, u->reg);                                                 \
                                                                                                   \
		asm volatile("xchg %0, %1" : "+r"(v), "+m"(*(uint##N##_t *)p) : : "memory");       \
		SET##N(c, u->reg, v);                                                              \
		sc_rmw_end(c, u, p, N / 8, flags);                                                 \
		NEXT;                                                                              \
	}                                                                                          \
	HANDLER(xadd_r##N)                                                                         \
	{                                                                                          \
		uint##N##_t a = GET##N(c, u->rm), b = GET##N(c, u->reg);                           \
		uint##N##_t sum = do_add##N(c, a, b);                                              \
                                                                                                   \
		SET##N(c, u->reg, a);                                                              \
		SET##N(c, u->rm, sum);                                                             \
		NEXT;                                                                              \
	}                                                                                          \
	HANDLER(xadd_m##N)                                                                         \
	{                                                                                          \
		uint8_t *flags, *p = sc_rmw(c, u, sc_ea(c, u), N / 8, &flags);                     \
		uint##N##_t v = GET##N(c, u->reg);                                                 \
		uint16_t f;                                                                        \
                                                                                                   \
		asm volatile("lock xadd %[v], %[m]" STORE_FLAGS                                    \
			     : [v] "+r"(v), [m] "+m"(*(uint##N##_t *)p), "=&a"(f)                  \
			     :                                                                     \
			     : "cc", "memory");                                                    \
		c->flags = f;                                                                      \
		SET##N(c, u->reg, v);                                                              \
		sc_rmw_end(c, u, p, N / 8, flags);                                                 \
		NEXT;                                                                              \
	}                                                                                          \
	HANDLER(cmpxchg_r##N)                                                                      \
	{                                                                                          \
		uint##N##_t a = GET##N(c, PART_RAX * 8), d = GET##N(c, u->rm);                     \
                                                                                                   \
		do_cmp##N(c, a, d);                                                                \
		if (a == d)                                                                        \
			SET##N(c, u->rm, GET##N(c, u->reg));                                       \
		else                                                                               \
			SET##N(c, PART_RAX * 8, d);                                                \
		NEXT;                                                                              \
	}                                                                                          \
	HANDLER(cmpxchg_m##N)                                                                      \
	{                                                                                          \
		uint8_t *flags, *p = sc_rmw(c, u, sc_ea(c, u), N / 8, &flags);                     \
		uint##N##_t a = GET##N(c, PART_RAX * 8), d = a;                                    \
                                                                                                   \
		asm volatile("lock cmpxchg %[v], %[m]"                                             \
			     : "+a"(d), [m] "+m"(*(uint##N##_t *)p)                                \
			     : [v] "r"(GET##N(c, u->reg))                                          \
			     : "cc", "memory");                                                    \
		do_cmp##N(c, a, d);                                                                \
		if (a != d)                                                                        \
			SET##N(c, PART_RAX * 8, d);                                                \
		sc_rmw_end(c, u, p, N / 8, flags);                                                 \
		NEXT;                                                                              \
	}

DEFINE_EXCHANGE(8)
DEFINE_EXCHANGE(16)
DEFINE_EXCHANGE(32)
DEFINE_EXCHANGE(64)

sc_fn *const sc_xchg[2][4] = RM_FORMS(xchg);
sc_fn *const sc_xadd[2][4] = RM_FORMS(xadd);
sc_fn *const sc_cmpxchg[2][4] = RM_FORMS(cmpxchg);

static void set_zf(struct vp *c, bool zf)
{
	c->flags = (uint16_t)((c->flags & ~FL_ZF) | (zf ? FL_ZF : 0));
}

struct block *sc_cmpxchg8b(struct vp *c, struct uop *u)
{
	uint8_t *flags, *p = sc_rmw(c, u, sc_ea(c, u), 8, &flags);
	uint64_t old = (uint64_t)REG32(c, PART_RDX * 8) << 32 | REG32(c, PART_RAX * 8);
	uint64_t new = (uint64_t)REG32(c, PART_RCX * 8) << 32 | REG32(c, PART_RBX * 8);
	uint64_t seen = old;

	asm volatile("lock cmpxchgq %[n], %[m]"
		     : "+a"(seen), [m] "+m"(*(uint64_t *)p)
		     : [n] "r"(new)
		     : "cc", "memory");
	set_zf(c, seen == old);
	if (seen != old) {
		c->gpr[PART_RAX] = (uint32_t)seen;
		c->gpr[PART_RDX] = seen >> 32;
	}
	sc_rmw_end(c, u, p, 8, flags);
	NEXT;
}

struct block *sc_cmpxchg16b(struct vp *c, struct uop *u)
{
	uint64_t va = sc_ea(c, u), lo = c->gpr[PART_RAX], hi = c->gpr[PART_RDX];
	uint8_t *flags, *p;
	bool equal;

	if (va & 15)
		sc_gp(c, u);
	p = sc_rmw(c, u, va, 16, &flags);
	asm volatile("lock cmpxchg16b %[m]"
		     : "+a"(lo), "+d"(hi), [m] "+m"(*(unsigned __int128 *)p), "=@ccz"(equal)
		     : "b"(c->gpr[PART_RBX]), "c"(c->gpr[PART_RCX])
		     : "memory");
	set_zf(c, equal);
	if (!equal) {
		c->gpr[PART_RAX] = lo;
		c->gpr[PART_RDX] = hi;
	}
	sc_rmw_end(c, u, p, 16, flags);
	NEXT;
}

/* ---- multiply and divide ---- */

#define DEFINE_IMUL(N)                                                                             \
	static inline uint##N##_t do_imul##N(struct vp *c, uint##N##_t a, uint##N##_t b)           \
	{                                                                                          \
		uint16_t f;                                                                        \
                                                                                                   \
		asm("imul %[b], %[a]" STORE_FLAGS : [a] "+r"(a), "=&a"(f) : [b] "r"(b) : "cc");    \
		c->flags = f;                                                                      \
		return a;                                                                          \
	}                                                                                          \
	HANDLER(imul2_r##N)                                                                        \
	{                                                                                          \
		SET##N(c, u->reg, do_imul##N(c, GET##N(c, u->reg), GET##N(c, u->rm)));             \
		NEXT;                                                                              \
	}                                                                                          \
	LOAD_HANDLER(imul2_m##N, N, SET##N(c, u->reg, do_imul##N(c, GET##N(c, u->reg), v)), NEXT)  \
	HANDLER(imul3_r##N)                                                                        \
	{                                                                                          \
		SET##N(c, u->reg, do_imul##N(c, GET##N(c, u->rm), (uint##N##_t)(int64_t)u->imm));  \
		NEXT;                                                                              \
	}                                                                                          \
	LOAD_HANDLER(imul3_m##N, N,                                                                \
		     SET##N(c, u->reg, do_imul##N(c, v, (uint##N##_t)(int64_t)u->imm)), NEXT)

DEFINE_IMUL(16)
DEFINE_IMUL(32)
DEFINE_IMUL(64)
sc_fn *const sc_imul2[2][4] = RM_FORMS_16_UP(imul2);
sc_fn *const sc_imul3[2][4] = RM_FORMS_16_UP(imul3);

enum { OP_MUL, OP_IMUL, OP_DIV, OP_IDIV };

static inline void do_multiply8(struct vp *c, bool is_signed, uint8_t v)
{
	uint64_t ax = REG8(c, PART_RAX * 8);
	uint16_t product;

	if (is_signed)
		asm("imulb %[v]\n\tmovw %%ax, %[p]" STORE_FLAGS
		    : [p] "=&r"(product), "+&a"(ax)
		    : [v] "r"(v)
		    : "cc");
	else
		asm("mulb %[v]\n\tmovw %%ax, %[p]" STORE_FLAGS
		    : [p] "=&r"(product), "+&a"(ax)
		    : [v] "r"(v)
		    : "cc");
	c->flags = (uint16_t)ax;
	REG16(c, PART_RAX * 8) = product;
}

#define DEFINE_MULTIPLY(N, S, reg)                                                                 \
	static inline void do_multiply##N(struct vp *c, bool is_signed, uint##N##_t v)             \
	{                                                                                          \
		uint64_t ax = c->gpr[PART_RAX];                                                    \
		uint##N##_t lo, hi;                                                                \
                                                                                                   \
		if (is_signed)                                                                     \
			asm("imul" S " %[v]\n\tmov %%" reg ", %[lo]" STORE_FLAGS                   \
			    : [lo] "=&r"(lo), "+&a"(ax), "=&d"(hi)                                 \
			    : [v] "r"(v)                                                           \
			    : "cc");                                                               \
		else                                                                               \
			asm("mul" S " %[v]\n\tmov %%" reg ", %[lo]" STORE_FLAGS                    \
			    : [lo] "=&r"(lo), "+&a"(ax), "=&d"(hi)                                 \
			    : [v] "r"(v)                                                           \
			    : "cc");                                                               \
		c->flags = (uint16_t)ax;                                                           \
		SET##N(c, PART_RAX * 8, lo);                                                       \
		SET##N(c, PART_RDX * 8, hi);                                                       \
	}

DEFINE_MULTIPLY(16, "w", "ax")
DEFINE_MULTIPLY(32, "l", "eax")
DEFINE_MULTIPLY(64, "q", "rax")

static inline void do_divide8(struct vp *c, struct uop *u, bool is_signed, uint8_t v)
{
	uint16_t n = REG16(c, PART_RAX * 8);
	int q, r;

	if (v == 0)
		sc_fault(c, u, VEC_DE);
	if (is_signed) {
		q = (int16_t)n / (int8_t)v;
		r = (int16_t)n % (int8_t)v;
		if (q != (int8_t)q)
			sc_fault(c, u, VEC_DE);
	} else {
		q = n / v;
		r = n % v;
		if (q > 0xff)
			sc_fault(c, u, VEC_DE);
	}
	REG16(c, PART_RAX * 8) = (uint16_t)((q & 0xff) | (r & 0xff) << 8);
}

/* W is twice as wide; the one quotient that W's division can't form is caught before. */
#define DEFINE_DIVIDE(N, U, S)                                                                     \
	static inline void do_divide##N(struct vp *c, struct uop *u, bool is_signed,               \
					uint##N##_t v)                                             \
	{                                                                                          \
		U n = (U)GET##N(c, PART_RDX * 8) << N | GET##N(c, PART_RAX * 8);                   \
		U q, r;                                                                            \
                                                                                                   \
		if (v == 0)                                                                        \
			sc_fault(c, u, VEC_DE);                                                    \
		if (is_signed) {                                                                   \
			if (n == (U)1 << (2 * N - 1) && v == (uint##N##_t) - 1)                    \
				sc_fault(c, u, VEC_DE);                                            \
			q = (U)((S)n / (int##N##_t)v);                                             \
			r = (U)((S)n % (int##N##_t)v);                                             \
			if ((S)q != (int##N##_t)q)                                                 \
				sc_fault(c, u, VEC_DE);                                            \
		} else {                                                                           \
			q = n / v;                                                                 \
			r = n % v;                                                                 \
			if (q != (uint##N##_t)q)                                                   \
				sc_fault(c, u, VEC_DE);                                            \
		}                                                                                  \
		SET##N(c, PART_RAX * 8, (uint##N##_t)q);                                           \
		SET##N(c, PART_RDX * 8, (uint##N##_t)r);                                           \
	}

DEFINE_DIVIDE(16, uint32_t, int32_t)
DEFINE_DIVIDE(32, uint64_t, int64_t)
DEFINE_DIVIDE(64, unsigned __int128, __int128)

#define MULDIV_HANDLERS(N)                                                                         \
	static inline void do_muldiv##N(struct vp *c, struct uop *u, uint##N##_t v)                \
	{                                                                                          \
		if (u->aux <= OP_IMUL)                                                             \
			do_multiply##N(c, u->aux == OP_IMUL, v);                                   \
		else                                                                               \
			do_divide##N(c, u, u->aux == OP_IDIV, v);                                  \
	}                                                                                          \
	HANDLER(muldiv_r##N)                                                                       \
	{                                                                                          \
		do_muldiv##N(c, u, GET##N(c, u->rm));                                              \
		NEXT;                                                                              \
	}                                                                                          \
	HANDLER(muldiv_m##N)                                                                       \
	{                                                                                          \
		do_muldiv##N(c, u, sc_load##N(c, u, sc_ea(c, u)));                                 \
		NEXT;                                                                              \
	}

MULDIV_HANDLERS(8)
MULDIV_HANDLERS(16)
MULDIV_HANDLERS(32)
MULDIV_HANDLERS(64)
sc_fn *const sc_muldiv[2][4] = RM_FORMS(muldiv);

/* ---- conditions ---- */

#define DEFINE_CMOV(cc, N)                                                                         \
	HANDLER(cmov##cc##_r##N)                                                                   \
	{                                                                                          \
		uint##N##_t v = GET##N(c, sc_cond(c->flags, cc) ? u->rm : u->reg);                 \
                                                                                                   \
		SET##N(c, u->reg, v);                                                              \
		NEXT;                                                                              \
	}                                                                                          \
	LOAD_HANDLER(cmov##cc##_m##N, N,                                                           \
		     SET##N(c, u->reg, sc_cond(c->flags, cc) ? v : GET##N(c, u->reg)), NEXT)

#define DEFINE_CC(cc)                                                                              \
	DEFINE_CMOV(cc, 16)                                                                        \
	DEFINE_CMOV(cc, 32)                                                                        \
	DEFINE_CMOV(cc, 64)                                                                        \
	HANDLER(setcc##cc##_r)                                                                     \
	{                                                                                          \
		REG8(c, u->rm) = sc_cond(c->flags, cc);                                            \
		NEXT;                                                                              \
	}                                                                                          \
	STORE_HANDLER(setcc##cc##_m, 8, sc_cond(c->flags, cc))

DEFINE_CC(0)
DEFINE_CC(1)
DEFINE_CC(2)
DEFINE_CC(3)
DEFINE_CC(4)
DEFINE_CC(5)
DEFINE_CC(6)
DEFINE_CC(7)
DEFINE_CC(8)
DEFINE_CC(9)
DEFINE_CC(10)
DEFINE_CC(11)
DEFINE_CC(12)
DEFINE_CC(13)
DEFINE_CC(14)
DEFINE_CC(15)

#define SETCC(cc)                                                                                  \
	{                                                                                          \
		setcc##cc##_r, setcc##cc##_m                                                       \
	}
#define CMOV(cc) RM_FORMS_16_UP(cmov##cc##_)

sc_fn *const sc_setcc[16][2] = { SETCC(0),  SETCC(1),  SETCC(2),  SETCC(3), SETCC(4),  SETCC(5),
				 SETCC(6),  SETCC(7),  SETCC(8),  SETCC(9), SETCC(10), SETCC(11),
				 SETCC(12), SETCC(13), SETCC(14), SETCC(15) };
#undef RM_FORMS_16_UP
#define RM_FORMS_16_UP(name)                                                                       \
	{                                                                                          \
		SIZES_16_UP(name##r), SIZES_16_UP(name##m)                                         \
	}
sc_fn *const sc_cmov[16][2][4] = { CMOV(0),  CMOV(1),  CMOV(2),  CMOV(3), CMOV(4),  CMOV(5),
				   CMOV(6),  CMOV(7),  CMOV(8),  CMOV(9), CMOV(10), CMOV(11),
				   CMOV(12), CMOV(13), CMOV(14), CMOV(15) };

/* ---- bits ---- */

enum { BIT_TEST, BIT_SET, BIT_RESET, BIT_COMPLEMENT };

static inline void set_cf(struct vp *c, bool cf)
{
	c->flags = (uint16_t)((c->flags & ~FL_CF) | (cf ? FL_CF : 0));
}

static inline uint64_t change_bit(uint64_t v, unsigned op, uint64_t mask)
{
	switch (op) {
	case BIT_SET:
		return v | mask;
	case BIT_RESET:
		return v & ~mask;
	case BIT_COMPLEMENT:
		return v ^ mask;
	default:
		return v;
	}
}

/* All on memory are done atomically: it makes no difference to the guest. */
#define CHANGE_BIT_MEM(N)                                                                          \
	static inline uint##N##_t change_bit_mem##N(void *p, unsigned op, uint##N##_t mask)        \
	{                                                                                          \
		switch (op) {                                                                      \
		case BIT_SET:                                                                      \
			return __atomic_fetch_or((uint##N##_t *)p, mask, __ATOMIC_SEQ_CST);        \
		case BIT_RESET:                                                                    \
			return __atomic_fetch_and((uint##N##_t *)p, (uint##N##_t) ~mask,           \
						  __ATOMIC_SEQ_CST);                               \
		default:                                                                           \
			return __atomic_fetch_xor((uint##N##_t *)p, mask, __ATOMIC_SEQ_CST);       \
		}                                                                                  \
	}

/* With the index in a register, memory is a bit string that extends both ways. */
#define DEFINE_BT(N)                                                                               \
	static inline void do_bt_r##N(struct vp *c, struct uop *u, unsigned op, uint64_t index)    \
	{                                                                                          \
		uint64_t v = GET##N(c, u->rm), mask = BIT(index & (N - 1));                        \
                                                                                                   \
		if (op != BIT_TEST)                                                                \
			SET##N(c, u->rm, (uint##N##_t)change_bit(v, op, mask));                    \
		set_cf(c, v &mask);                                                                \
	}                                                                                          \
	static inline void do_bt_m##N(struct vp *c, struct uop *u, unsigned op, uint64_t index,    \
				      int64_t units)                                               \
	{                                                                                          \
		uint##N##_t mask = (uint##N##_t)BIT(index & (N - 1)), v;                           \
		uint64_t va = bit_string_ea(c, u, units * (N / 8));                                \
		uint8_t *flags, *p;                                                                \
                                                                                                   \
		if (op == BIT_TEST) {                                                              \
			v = sc_load##N(c, u, va);                                                  \
		} else {                                                                           \
			p = sc_rmw(c, u, va, N / 8, &flags);                                       \
			v = change_bit_mem##N(p, op, mask);                                        \
			sc_rmw_end(c, u, p, N / 8, flags);                                         \
		}                                                                                  \
		set_cf(c, v &mask);                                                                \
	}

static inline uint64_t bit_string_ea(struct vp *c, struct uop *u, int64_t bytes)
{
	struct uop moved = *u;

	if (likely(!u->ea))
		return sc_ea(c, u) + (uint64_t)bytes;
	moved.disp += bytes;
	return sc_ea_slow(c, &moved);
}

CHANGE_BIT_MEM(16)
CHANGE_BIT_MEM(32)
CHANGE_BIT_MEM(64)
DEFINE_BT(16)
DEFINE_BT(32)
DEFINE_BT(64)

#define BT_HANDLERS(name, op, N)                                                                   \
	HANDLER(name##_reg_r##N)                                                                   \
	{                                                                                          \
		do_bt_r##N(c, u, op, GET##N(c, u->reg));                                           \
		NEXT;                                                                              \
	}                                                                                          \
	HANDLER(name##_reg_m##N)                                                                   \
	{                                                                                          \
		int64_t index = (int##N##_t)GET##N(c, u->reg);                                     \
                                                                                                   \
		do_bt_m##N(c, u, op, (uint64_t)index, index >> __builtin_ctz(N));                  \
		NEXT;                                                                              \
	}                                                                                          \
	HANDLER(name##_imm_r##N)                                                                   \
	{                                                                                          \
		do_bt_r##N(c, u, op, (uint64_t)u->imm);                                            \
		NEXT;                                                                              \
	}                                                                                          \
	HANDLER(name##_imm_m##N)                                                                   \
	{                                                                                          \
		do_bt_m##N(c, u, op, (uint64_t)u->imm, 0);                                         \
		NEXT;                                                                              \
	}

#define BT_ALL(name, op)                                                                           \
	BT_HANDLERS(name, op, 16)                                                                  \
	BT_HANDLERS(name, op, 32)                                                                  \
	BT_HANDLERS(name, op, 64)

BT_ALL(bt, BIT_TEST)
BT_ALL(bts, BIT_SET)
BT_ALL(btr, BIT_RESET)
BT_ALL(btc, BIT_COMPLEMENT)

#define BT_FORMS(name)                                                                             \
	{                                                                                          \
		RM_FORMS_16_UP(name##_reg_), RM_FORMS_16_UP(name##_imm_)                           \
	}

sc_fn *const sc_bt[4][2][2][4] = { BT_FORMS(bt), BT_FORMS(bts), BT_FORMS(btr), BT_FORMS(btc) };

/* A source of 0 leaves the destination as it is. */
#define DEFINE_BITSCAN(name, insn, N)                                                              \
	static inline void do_##name##N(struct vp *c, struct uop *u, uint##N##_t v)                \
	{                                                                                          \
		uint##N##_t r;                                                                     \
		uint16_t f;                                                                        \
                                                                                                   \
		asm(insn " %[v], %[r]" STORE_FLAGS : [r] "=&r"(r), "=&a"(f) : [v] "r"(v) : "cc");  \
		c->flags = f;                                                                      \
		if (v)                                                                             \
			SET##N(c, u->reg, r);                                                      \
	}                                                                                          \
	HANDLER(name##_r##N)                                                                       \
	{                                                                                          \
		do_##name##N(c, u, GET##N(c, u->rm));                                              \
		NEXT;                                                                              \
	}                                                                                          \
	HANDLER(name##_m##N)                                                                       \
	{                                                                                          \
		do_##name##N(c, u, sc_load##N(c, u, sc_ea(c, u)));                                 \
		NEXT;                                                                              \
	}

DEFINE_BITSCAN(bsf, "bsf", 16)
DEFINE_BITSCAN(bsf, "bsf", 32)
DEFINE_BITSCAN(bsf, "bsf", 64)
DEFINE_BITSCAN(bsr, "bsr", 16)
DEFINE_BITSCAN(bsr, "bsr", 32)
DEFINE_BITSCAN(bsr, "bsr", 64)
sc_fn *const sc_bitscan[2][2][4] = { RM_FORMS_16_UP(bsf_), RM_FORMS_16_UP(bsr_) };

HANDLER(bswap_16) /* undefined; processors give 0 */
{
	REG16(c, u->rm) = 0;
	NEXT;
}

HANDLER(bswap_32)
{
	REG64(c, u->rm) = __builtin_bswap32(REG32(c, u->rm));
	NEXT;
}

HANDLER(bswap_64)
{
	REG64(c, u->rm) = __builtin_bswap64(REG64(c, u->rm));
	NEXT;
}

sc_fn *const sc_bswap[4] = SIZES_16_UP(bswap_);

struct block *sc_popcnt(struct vp *c, struct uop *u)
{
	uint64_t v = sc_get_rm(c, u, u->size);

	sc_set_reg(c, u->reg, u->size, (uint64_t)__builtin_popcountll(v));
	c->flags = v ? 0 : FL_ZF;
	NEXT;
}

/* ---- conversions and single flags ---- */

struct block *sc_nop(struct vp *c, struct uop *u)
{
	NEXT;
}

struct block *sc_cbw(struct vp *c, struct uop *u)
{
	REG16(c, PART_RAX * 8) = (uint16_t)(int8_t)c->gpr[PART_RAX];
	NEXT;
}

struct block *sc_cwde(struct vp *c, struct uop *u)
{
	c->gpr[PART_RAX] = (uint32_t)(int16_t)c->gpr[PART_RAX];
	NEXT;
}

struct block *sc_cdqe(struct vp *c, struct uop *u)
{
	c->gpr[PART_RAX] = (uint64_t)(int32_t)c->gpr[PART_RAX];
	NEXT;
}

struct block *sc_cwd(struct vp *c, struct uop *u)
{
	REG16(c, PART_RDX * 8) = c->gpr[PART_RAX] & 0x8000 ? 0xffff : 0;
	NEXT;
}

struct block *sc_cdq(struct vp *c, struct uop *u)
{
	c->gpr[PART_RDX] = c->gpr[PART_RAX] & BIT(31) ? UINT32_MAX : 0;
	NEXT;
}

struct block *sc_cqo(struct vp *c, struct uop *u)
{
	c->gpr[PART_RDX] = c->gpr[PART_RAX] & BIT(63) ? UINT64_MAX : 0;
	NEXT;
}

struct block *sc_lahf(struct vp *c, struct uop *u)
{
	REG8(c, PART_RAX * 8 + 1) = (uint8_t)(sc_rflags(c) & 0xff);
	NEXT;
}

struct block *sc_sahf(struct vp *c, struct uop *u)
{
	c->flags = (uint16_t)((c->flags & FL_OF) | (REG8(c, PART_RAX * 8 + 1) & 0xd5u) << 8);
	NEXT;
}

struct block *sc_clc(struct vp *c, struct uop *u)
{
	c->flags &= (uint16_t)~FL_CF;
	NEXT;
}

struct block *sc_stc(struct vp *c, struct uop *u)
{
	c->flags |= FL_CF;
	NEXT;
}

struct block *sc_cmc(struct vp *c, struct uop *u)
{
	c->flags ^= FL_CF;
	NEXT;
}

struct block *sc_cld(struct vp *c, struct uop *u)
{
	c->rf &= ~RF_DF;
	NEXT;
}

struct block *sc_std(struct vp *c, struct uop *u)
{
	c->rf |= RF_DF;
	NEXT;
}

struct block *sc_salc(struct vp *c, struct uop *u)
{
	REG8(c, PART_RAX * 8) = c->flags & FL_CF ? 0xff : 0;
	NEXT;
}

/* The decoder made BX the base and AL the index of the operand; AL is added here, being 8 bits. */
struct block *sc_xlat(struct vp *c, struct uop *u)
{
	struct uop moved = *u;

	moved.disp += REG8(c, PART_RAX * 8);
	REG8(c, PART_RAX * 8) = sc_load8(c, u, sc_ea(c, &moved));
	NEXT;
}

/* ---- decimal arithmetic (not in 64-bit mode) ---- */

static void set_szp(struct vp *c, uint8_t v, unsigned cf_af)
{
	unsigned f = cf_af;

	f |= v == 0 ? FL_ZF : 0;
	f |= v & 0x80 ? FL_SF : 0;
	f |= __builtin_parity(v) ? 0 : FL_PF;
	c->flags = (uint16_t)f;
}

static void decimal_adjust(struct vp *c, int sign)
{
	uint8_t al = REG8(c, PART_RAX * 8), old = al;
	bool cf = c->flags & FL_CF;
	unsigned f = 0;

	if ((al & 15) > 9 || (c->flags & FL_AF)) {
		al = (uint8_t)(al + 6 * sign);
		f |= FL_AF;
		if (cf || (sign < 0 && old < 6) || (sign > 0 && old > 0xf9))
			f |= FL_CF;
	}
	if (old > 0x99 || cf) {
		al = (uint8_t)(al + 0x60 * sign);
		f |= FL_CF;
	} else if (sign > 0) {
		f &= ~FL_CF;
	}
	REG8(c, PART_RAX * 8) = al;
	set_szp(c, al, f);
}

struct block *sc_daa(struct vp *c, struct uop *u)
{
	decimal_adjust(c, 1);
	NEXT;
}

struct block *sc_das(struct vp *c, struct uop *u)
{
	decimal_adjust(c, -1);
	NEXT;
}

static void ascii_adjust(struct vp *c, int sign)
{
	uint16_t ax = REG16(c, PART_RAX * 8);
	unsigned f = 0;

	if ((ax & 15) > 9 || (c->flags & FL_AF)) {
		ax = (uint16_t)(ax + 0x106 * sign);
		f = FL_AF | FL_CF;
	}
	REG16(c, PART_RAX * 8) = ax & 0xff0f;
	set_szp(c, ax & 15, f);
}

struct block *sc_aaa(struct vp *c, struct uop *u)
{
	ascii_adjust(c, 1);
	NEXT;
}

struct block *sc_aas(struct vp *c, struct uop *u)
{
	ascii_adjust(c, -1);
	NEXT;
}

struct block *sc_aam(struct vp *c, struct uop *u)
{
	uint8_t al = REG8(c, PART_RAX * 8), base = (uint8_t)u->imm;

	if (base == 0)
		sc_fault(c, u, VEC_DE);
	REG16(c, PART_RAX * 8) = (uint16_t)((al / base) << 8 | al % base);
	set_szp(c, al % base, 0);
	NEXT;
}

struct block *sc_aad(struct vp *c, struct uop *u)
{
	uint16_t ax = REG16(c, PART_RAX * 8);
	uint8_t al = (uint8_t)((ax & 0xff) + (ax >> 8) * (uint8_t)u->imm);

	REG16(c, PART_RAX * 8) = al;
	set_szp(c, al, 0);
	NEXT;
}

/* Bounds are two signed values in memory. */
struct block *sc_bound(struct vp *c, struct uop *u)
{
	uint64_t va = sc_ea(c, u);
	int64_t lo, hi, v;

	if (u->size == 2) {
		lo = (int16_t)sc_load16(c, u, va);
		hi = (int16_t)sc_load16(c, u, va + 2);
		v = (int16_t)REG16(c, u->reg);
	} else {
		lo = (int32_t)sc_load32(c, u, va);
		hi = (int32_t)sc_load32(c, u, va + 4);
		v = (int32_t)REG32(c, u->reg);
	}
	if (v < lo || v > hi)
		sc_fault(c, u, VEC_BR);
	NEXT;
}

struct block *sc_arpl(struct vp *c, struct uop *u)
{
	uint16_t dst, src = REG16(c, u->reg);

	if (!(c->cr0 & CR0_PE))
		sc_ud(c, u);
	dst = (uint16_t)sc_get_rm(c, u, 2);
	if ((dst & 3) < (src & 3))
		sc_set_rm(c, u, 2, (dst & ~3u) | (src & 3));
	set_zf(c, (dst & 3) < (src & 3));
	NEXT;
}
