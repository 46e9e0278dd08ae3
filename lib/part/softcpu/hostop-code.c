/*
 * Generated code: one memfd mapped twice, writable and executable. Nothing is ever removed: a
 * recipe is determined by opcode, operand kinds and an 8-bit immediate (and register numbers for
 * MMX), which bounds what a guest can make us generate to some 10 MiB.
 */
#include "part/softcpu/hostop-impl.h"

#include "base/host.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ARENA_SIZE    (32u << 20)
#define MAX_CODE_SIZE 512 /* of one recipe, both entries */

_Static_assert(sizeof(struct code_recipe) == 40, "no padding");

struct code_slot {
	struct code_recipe recipe;
	struct code_entry entry; /* entry.code NULL: free slot */
};

struct hostop_arena {
	pthread_mutex_t lock; /* all below */
	uint8_t *rw, *rx;
	size_t used;
	struct code_slot *slots; /* open addressing; slot_count is a power of two */
	size_t slot_count, slots_used;
};

/* ---- emitter ---- */

struct emitter {
	uint8_t *p;
};

static void emit_bytes(struct emitter *e, const void *bytes, size_t length)
{
	memcpy(e->p, bytes, length);
	e->p += length;
}

#define EMIT(e, ...)                                                                               \
	emit_bytes(e, (const uint8_t[]){ __VA_ARGS__ }, sizeof((uint8_t[]){ __VA_ARGS__ }))

static void emit32(struct emitter *e, uint32_t value)
{
	emit_bytes(e, &value, 4);
}

#define REGS_OFFSET(field) ((uint32_t)offsetof(struct hostop_regs, field))

/* From where a register's lower half is to its upper one. */
#define YMM_HIGH                                                                                   \
	(uint32_t)(offsetof(struct hostop_regs, ymm_high) - offsetof(struct hostop_regs, fpu.xmm))

/* movzx eax, word [r10 + the operand's offset]; then its register from [rdi + rax]. */
static void emit_load_vector(struct emitter *e, bool whole, unsigned number)
{
	uint8_t modrm = (uint8_t)(0x04 | number << 3);

	if (!whole) {
		EMIT(e, 0x0f, 0x10, modrm, 0x07); /* movups xmm, [rdi + rax] */
		return;
	}
	EMIT(e, 0xc5, 0xf8, 0x10, modrm, 0x07); /* vmovups; vinsertf128 ymm, [rdi + rax + ...], 1 */
	EMIT(e, 0xc4, 0xe3, (uint8_t)((~number & 15) << 3 | 5), 0x18, modrm | 0x80, 0x07);
	emit32(e, YMM_HIGH);
	EMIT(e, 1);
}

/* The same to [rdi + r11]. */
static void emit_store_vector(struct emitter *e, bool whole, unsigned number)
{
	uint8_t modrm = (uint8_t)(0x04 | number << 3);

	if (!whole) {
		EMIT(e, 0x42, 0x0f, 0x11, modrm, 0x1f); /* movups [rdi + r11], xmm */
		return;
	}
	EMIT(e, 0xc4, 0xa1, 0x78, 0x11, modrm, 0x1f); /* vmovups, vextractf128 */
	EMIT(e, 0xc4, 0xa3, 0x7d, 0x19, modrm | 0x80, 0x1f);
	emit32(e, YMM_HIGH);
	EMIT(e, 1);
}

static bool is_vector(const struct code_operand *o)
{
	return o->kind == OPERAND_XMM || o->kind == OPERAND_YMM;
}

static void emit_load_operand(struct emitter *e, const struct code_operand *o, uint8_t offset,
			      unsigned vector, unsigned gpr)
{
	if (!o->load)
		return;
	EMIT(e, 0x41, 0x0f, 0xb7, 0x42, offset); /* movzx eax, word [r10 + offset] */
	if (is_vector(o))
		emit_load_vector(e, o->kind == OPERAND_YMM, vector);
	else if (o->kind == OPERAND_GPR) /* mov r8 or r9, [rdi + rax] */
		EMIT(e, 0x4c, 0x8b, (uint8_t)(0x04 | (gpr & 7) << 3), 0x07);
	else /* movzx r8d or r9d, byte [rdi + rax] */
		EMIT(e, 0x44, 0x0f, 0xb6, (uint8_t)(0x04 | (gpr & 7) << 3), 0x07);
}

static void emit_load_operands(struct emitter *e, const struct code_recipe *r)
{
	emit_load_operand(e, &r->reg, offsetof(struct hostop, reg), HOST_XMM_REG, HOST_GPR_REG);
	emit_load_operand(e, &r->rm, offsetof(struct hostop, rm), HOST_XMM_RM, HOST_GPR_RM);
	if (is_vector(&r->vex))
		emit_load_operand(e, &r->vex, offsetof(struct hostop, vex), HOST_XMM_VEX, 0);
	emit_load_operand(e, &r->is4, offsetof(struct hostop, is4), HOST_XMM_IS4, 0);
}

/* The status flags only: POPF would be slow, and would let AC, TF and DF through. */
static void emit_load_flags(struct emitter *e)
{
	EMIT(e, 0x8b, 0x8f); /* mov ecx, [rdi + rflags] */
	emit32(e, REGS_OFFSET(rflags));
	EMIT(e, 0x89, 0xc8);       /* mov eax, ecx */
	EMIT(e, 0xc1, 0xe8, 0x0b); /* shr eax, 11 */
	EMIT(e, 0x83, 0xe0, 0x01); /* and eax, 1 */
	EMIT(e, 0x04, 0x7f);       /* add al, 127: OF if it was set */
	EMIT(e, 0x88, 0xcc);       /* mov ah, cl */
	EMIT(e, 0x9e);             /* sahf */
}

static void emit_load_implicit(struct emitter *e, uint8_t set)
{
	if (set & IMPLICIT_XMM0) {
		EMIT(e, 0x0f, 0x10, 0x87); /* movups xmm0, [rdi + ...] */
		emit32(e, REGS_OFFSET(fpu.xmm));
	}
	if (set & IMPLICIT_RAX)
		EMIT(e, 0x48, 0x8b, 0x07);
	if (set & IMPLICIT_RCX)
		EMIT(e, 0x48, 0x8b, 0x4f, 0x08);
	if (set & IMPLICIT_RDX)
		EMIT(e, 0x48, 0x8b, 0x57, 0x10);
	if (set & IMPLICIT_RBX)
		EMIT(e, 0x48, 0x8b, 0x5f, 0x18);
}

static void emit_store_implicit(struct emitter *e, uint8_t set)
{
	if (set & IMPLICIT_XMM0) {
		EMIT(e, 0x0f, 0x11, 0x87); /* movups [rdi + ...], xmm0 */
		emit32(e, REGS_OFFSET(fpu.xmm));
	}
	if (set & IMPLICIT_RAX)
		EMIT(e, 0x48, 0x89, 0x07);
	if (set & IMPLICIT_RCX)
		EMIT(e, 0x48, 0x89, 0x4f, 0x08);
	if (set & IMPLICIT_RDX)
		EMIT(e, 0x48, 0x89, 0x57, 0x10);
	if (set & IMPLICIT_RBX)
		EMIT(e, 0x48, 0x89, 0x5f, 0x18);
}

/* After all else that needs RAX. */
static void emit_load_vex(struct emitter *e, const struct code_recipe *r)
{
	if (!r->vex.load || is_vector(&r->vex))
		return;
	/* movzx eax, word [r10 + vex]; mov rax, [rdi + rax] */
	EMIT(e, 0x41, 0x0f, 0xb7, 0x42, offsetof(struct hostop, vex));
	EMIT(e, 0x48, 0x8b, 0x04, 0x07);
}

static void emit_store_operand(struct emitter *e, const struct code_operand *o, uint8_t offset,
			       unsigned vector, unsigned gpr)
{
	uint8_t modrm = (uint8_t)(0x04 | (gpr & 7) << 3);

	if (!o->store)
		return;
	EMIT(e, 0x45, 0x0f, 0xb7, 0x5a, offset); /* movzx r11d, word [r10 + offset] */
	if (is_vector(o))
		emit_store_vector(e, o->kind == OPERAND_YMM, vector);
	else if (o->kind == OPERAND_GPR) /* mov [rdi + r11], gpr */
		EMIT(e, gpr & 8 ? 0x4e : 0x4a, 0x89, modrm, 0x1f);
	else /* mov [rdi + r11], r8b or r9b */
		EMIT(e, 0x46, 0x88, modrm, 0x1f);
}

/* After the implicit ones (CMPXCHG with RAX as destination), rm after reg (XADD with itself), reg
 * after that of VEX.vvvv: if MULX has both results go to one register, the upper half stays. */
static void emit_store_operands(struct emitter *e, const struct code_recipe *r)
{
	emit_store_operand(e, &r->vex, offsetof(struct hostop, vex), HOST_XMM_VEX, HOST_GPR_VEX);
	emit_store_operand(e, &r->reg, offsetof(struct hostop, reg), HOST_XMM_REG, HOST_GPR_REG);
	emit_store_operand(e, &r->rm, offsetof(struct hostop, rm), HOST_XMM_RM, HOST_GPR_RM);
}

/* What C code, which has no AVX, would wait for. */
static void emit_leave_avx(struct emitter *e, const struct code_recipe *r)
{
	if (r->vex_xmm0) {
		/* vextractf128 [rdi + ...], ymm0, 1 */
		EMIT(e, 0xc4, 0xe3, 0x7d, 0x19, 0x87);
		emit32(e, REGS_OFFSET(ymm_high));
		EMIT(e, 1);
	}
	if (r->reg.kind == OPERAND_YMM || r->rm.kind == OPERAND_YMM || r->vex_xmm0)
		EMIT(e, 0xc5, 0xf8, 0x77); /* vzeroupper */
}

static void emit_store_flags(struct emitter *e, uint32_t flags)
{
	EMIT(e, 0x9c, 0x41, 0x5b); /* pushfq; pop r11 */
	EMIT(e, 0x41, 0x81, 0xe3); /* and r11d, flags */
	emit32(e, flags);
	EMIT(e, 0x4c, 0x8b, 0x97); /* mov r10, [rdi + rflags] */
	emit32(e, REGS_OFFSET(rflags));
	EMIT(e, 0x49, 0x81, 0xe2); /* and r10, ~flags */
	emit32(e, ~flags);
	EMIT(e, 0x4d, 0x09, 0xda); /* or r10, r11 */
	EMIT(e, 0x4c, 0x89, 0x97); /* mov [rdi + rflags], r10 */
	emit32(e, REGS_OFFSET(rflags));
}

static void emit_fpu_load(struct emitter *e)
{
	EMIT(e, 0x48, 0x83, 0xec, 0x08); /* sub rsp, 8 */
	EMIT(e, 0x0f, 0xae, 0x1c, 0x24); /* stmxcsr [rsp] */
	EMIT(e, 0x48, 0x0f, 0xae, 0x8f); /* fxrstor64 [rdi + fpu] */
	emit32(e, REGS_OFFSET(fpu));
}

/* Leaves the host's x87 as the ABI wants it, and no flag changed. */
static void emit_fpu_store(struct emitter *e)
{
	EMIT(e, 0x48, 0x0f, 0xae, 0x87); /* fxsave64 [rdi + fpu] */
	emit32(e, REGS_OFFSET(fpu));
	EMIT(e, 0xdb, 0xe3);                   /* fninit */
	EMIT(e, 0x0f, 0xae, 0x14, 0x24);       /* ldmxcsr [rsp] */
	EMIT(e, 0x48, 0x8d, 0x64, 0x24, 0x08); /* lea rsp, [rsp + 8] */
}

static void emit_light_load(struct emitter *e, uint8_t light)
{
	if (light & LIGHT_LOAD_STI) {
		/* movzx ecx, word [r10 + rm]; fld tbyte [rdi + rcx] */
		EMIT(e, 0x41, 0x0f, 0xb7, 0x4a, offsetof(struct hostop, rm));
		EMIT(e, 0xdb, 0x2c, 0x0f);
	}
	if (light & LIGHT_LOAD_ST0) {
		EMIT(e, 0xdb, 0xaf); /* fld tbyte [rdi + st0] */
		emit32(e, REGS_OFFSET(fpu.st));
	}
}

static void emit_drop(struct emitter *e)
{
	EMIT(e, 0xdd, 0xd8); /* fstp st0 */
}

/* The status word goes to R9 and is returned. What it says is forgotten by the host. */
static void emit_light_store(struct emitter *e, uint8_t light)
{
	EMIT(e, 0xdf, 0xe0, 0x41, 0x89, 0xc1); /* fnstsw ax; mov r9d, eax */
	if (light & LIGHT_DROP_FIRST)
		emit_drop(e);
	if (light & LIGHT_STORE_ST0) {
		EMIT(e, 0xdb, 0xbf); /* fstp tbyte [rdi + st0] */
		emit32(e, REGS_OFFSET(fpu.st));
	}
	if (light & LIGHT_STORE_STI) {
		/* movzx ecx, word [r10 + rm]; fstp tbyte [rdi + rcx] */
		EMIT(e, 0x41, 0x0f, 0xb7, 0x4a, offsetof(struct hostop, rm));
		EMIT(e, 0xdb, 0x3c, 0x0f);
	}
	if (light & (LIGHT_DROP_LAST | LIGHT_DROP_TWO))
		emit_drop(e);
	if (light & LIGHT_DROP_TWO)
		emit_drop(e);
}

static void emit_light_return(struct emitter *e)
{
	EMIT(e, 0x41, 0xf6, 0xc1, 0x7f); /* test r9b, 0x7f */
	EMIT(e, 0x74, 0x02, 0xdb, 0xe2); /* jz over fnclex */
	EMIT(e, 0x44, 0x89, 0xc8, 0xc3); /* mov eax, r9d; ret */
}

/* Leaves for hostop_run_fp unless the guest's MXCSR masks everything and rounds to nearest without
 * flushing, as C code's does; then only its status flags are the host's afterwards. */
static void emit_check_mxcsr(struct emitter *e)
{
	const uint8_t slow[] = { 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, /* mov rax, imm64 */
				 0xff, 0xe0 };                       /* jmp rax */
	hostop_fn *target = hostop_run_fp;

	EMIT(e, 0x8b, 0x87); /* mov eax, [rdi + mxcsr] */
	emit32(e, REGS_OFFSET(fpu.mxcsr));
	EMIT(e, 0x89, 0xc1);       /* mov ecx, eax */
	EMIT(e, 0x83, 0xe1, 0xc0); /* and ecx, ~0x3f */
	EMIT(e, 0x81, 0xf9);       /* cmp ecx, 0x1f80 */
	emit32(e, HOSTOP_MXCSR_RESET);
	EMIT(e, 0x74, sizeof(slow)); /* je over it */
	emit_bytes(e, slow, sizeof(slow));
	memcpy(e->p - 10, &target, 8);
	EMIT(e, 0x0f, 0xae, 0x97); /* ldmxcsr [rdi + mxcsr] */
	emit32(e, REGS_OFFSET(fpu.mxcsr));
}

static void emit_body(struct emitter *e, const struct code_recipe *r, bool store_mxcsr)
{
	uint8_t implicit = r->implicit_load | r->implicit_store;

	EMIT(e, 0x49, 0x89, 0xd2); /* mov r10, rdx */
	if (implicit & IMPLICIT_RBX)
		EMIT(e, 0x53); /* push rbx */
	if (r->fpu_image)
		emit_fpu_load(e);
	emit_load_operands(e, r);
	if (r->flags_in)
		emit_load_flags(e);
	emit_light_load(e, r->light);
	emit_load_implicit(e, r->implicit_load);
	emit_load_vex(e, r);
	if (r->mem_in_rdi)
		EMIT(e, 0x49, 0x89, 0xfb, 0x48, 0x89, 0xf7); /* mov r11, rdi; mov rdi, rsi */
	emit_bytes(e, r->insn, r->length);
	if (r->mem_in_rdi)
		EMIT(e, 0x4c, 0x89, 0xdf); /* mov rdi, r11 */
	if (r->fpu_image)
		emit_fpu_store(e);
	if (r->light)
		emit_light_store(e, r->light);
	emit_store_implicit(e, r->implicit_store);
	emit_store_operands(e, r);
	emit_leave_avx(e, r);
	if (r->flags_out)
		emit_store_flags(e, r->flags_out);
	if (implicit & IMPLICIT_RBX)
		EMIT(e, 0x5b); /* pop rbx */
	if (store_mxcsr) {
		EMIT(e, 0x0f, 0xae, 0x9f); /* stmxcsr [rdi + mxcsr] */
		emit32(e, REGS_OFFSET(fpu.mxcsr));
	}
	if (r->light)
		emit_light_return(e);
	else
		EMIT(e, 0x31, 0xc0, 0xc3); /* xor eax, eax; ret */
}

static hostop_fn *function_at(const uint8_t *address)
{
	hostop_fn *fn;

	memcpy(&fn, &address, sizeof(fn));
	return fn;
}

static struct code_entry generate(struct hostop_arena *arena, const struct code_recipe *recipe)
{
	struct emitter e = { arena->rw + arena->used };
	struct code_entry entry;

	entry.code = entry.plain = function_at(arena->rx + arena->used);
	emit_body(&e, recipe, false);
	if (recipe->check_mxcsr) {
		while ((uintptr_t)e.p % 16)
			EMIT(&e, 0xcc);
		entry.plain = function_at(arena->rx + (e.p - arena->rw));
		emit_check_mxcsr(&e);
		emit_body(&e, recipe, true);
	}
	while ((uintptr_t)e.p % 16)
		EMIT(&e, 0xcc);
	arena->used = (size_t)(e.p - arena->rw);
	host_serialize();
	return entry;
}

/* ---- table ---- */

static size_t hash_recipe(const struct code_recipe *recipe)
{
	const uint8_t *bytes = (const uint8_t *)recipe;
	uint64_t hash = 0xcbf29ce484222325u;

	for (size_t i = 0; i < sizeof(*recipe); i++)
		hash = (hash ^ bytes[i]) * 0x100000001b3u;
	return (size_t)(hash ^ hash >> 29);
}

static struct code_slot *find_slot(struct code_slot *slots, size_t count,
				   const struct code_recipe *recipe)
{
	size_t i = hash_recipe(recipe) & (count - 1);

	while (slots[i].entry.code && memcmp(&slots[i].recipe, recipe, sizeof(*recipe)) != 0)
		i = (i + 1) & (count - 1);
	return &slots[i];
}

static bool grow(struct hostop_arena *arena)
{
	size_t count = arena->slot_count * 2;
	struct code_slot *slots = calloc(count, sizeof(*slots));

	if (!slots)
		return false;
	for (size_t i = 0; i < arena->slot_count; i++)
		if (arena->slots[i].entry.code)
			*find_slot(slots, count, &arena->slots[i].recipe) = arena->slots[i];
	free(arena->slots);
	arena->slots = slots;
	arena->slot_count = count;
	return true;
}

static bool get_locked(struct hostop_arena *arena, const struct code_recipe *recipe,
		       struct code_entry *ret)
{
	struct code_slot *slot = find_slot(arena->slots, arena->slot_count, recipe);

	if (!slot->entry.code) {
		if (arena->used + MAX_CODE_SIZE > ARENA_SIZE)
			return false;
		if (arena->slots_used * 2 >= arena->slot_count) {
			if (!grow(arena))
				return false;
			slot = find_slot(arena->slots, arena->slot_count, recipe);
		}
		slot->recipe = *recipe;
		slot->entry = generate(arena, recipe);
		arena->slots_used++;
	}
	*ret = slot->entry;
	return true;
}

bool hostop_code_get(struct hostop_arena *arena, const struct code_recipe *recipe,
		     struct code_entry *ret)
{
	bool ok;

	pthread_mutex_lock(&arena->lock);
	ok = get_locked(arena, recipe, ret);
	pthread_mutex_unlock(&arena->lock);
	return ok;
}

/* ---- arena ---- */

static int map_code(struct hostop_arena *arena, struct error *err)
{
	int fd = memfd_create("oyako-code", MFD_CLOEXEC);

	if (fd < 0)
		return error_set_errno(err, errno, "creating memory for generated code");
	if (ftruncate(fd, ARENA_SIZE) < 0) {
		error_set_errno(err, errno, "sizing memory for generated code");
		close(fd);
		return -err->code;
	}
	arena->rw = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	arena->rx = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	close(fd);
	if (arena->rw == MAP_FAILED || arena->rx == MAP_FAILED)
		return error_set_errno(err, errno, "mapping memory for generated code");
	return 0;
}

int hostop_arena_new(struct hostop_arena **ret, struct error *err)
{
	struct hostop_arena *arena = calloc(1, sizeof(*arena));
	struct error local;
	int rc;

	if (!arena)
		return error_set(err, ERR_NO_MEMORY, "no memory for the table of generated code");
	pthread_mutex_init(&arena->lock, NULL);
	arena->rw = arena->rx = MAP_FAILED;
	arena->slot_count = 1024;
	arena->slots = calloc(arena->slot_count, sizeof(*arena->slots));
	if (!arena->slots)
		rc = error_set(err, ERR_NO_MEMORY, "no memory for the table of generated code");
	else
		rc = map_code(arena, err ? err : &local);
	if (rc < 0) {
		hostop_arena_free(arena);
		return rc;
	}
	*ret = arena;
	return 0;
}

void hostop_arena_free(struct hostop_arena *arena)
{
	if (!arena)
		return;
	if (arena->rw != MAP_FAILED)
		munmap(arena->rw, ARENA_SIZE);
	if (arena->rx != MAP_FAILED)
		munmap(arena->rx, ARENA_SIZE);
	pthread_mutex_destroy(&arena->lock);
	free(arena->slots);
	free(arena);
}
