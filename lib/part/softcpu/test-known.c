/* Instructions that were decoded before are what decoding them again would give. */
#include "base/macros.h"
#include "part/softcpu/known.h"
#include "part/softcpu/softcpu.h"
#include "part/softcpu/test-guest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#ifdef OYAKO_SANITIZE /* each new table takes long */
#define HEADS 400u
#else
#define HEADS 8000u
#endif
#define VARIANTS 4u

struct decoded {
	bool valid;
	ZyanStatus status;
	unsigned length, uop_count;
	bool end, fuses;
	sc_fn *fusable;
	struct uop uops[KNOWN_UOPS];
	struct xl_insn insn;
};

static uint64_t random64(void)
{
	static uint64_t x = UINT64_C(0x9e3779b97f4a7c15);

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

/* Prefixes and an opcode; what follows is anything. */
static unsigned make_head(uint8_t *p)
{
	static const uint8_t prefixes[] = { 0x66, 0xf2, 0xf3, 0x2e, 0x64, 0x67, 0xf0, 0x48 };
	/* those with constants of four bytes */
	static const uint8_t usual[] = { 0x81, 0xc7, 0x69, 0xe8, 0xe9, 0xb8, 0x8b,
					 0x89, 0x8d, 0x05, 0xf7, 0x68, 0xa1 };
	unsigned n = 0;

	while (random64() % 4 == 0 && n < 3)
		p[n++] = prefixes[random64() % sizeof(prefixes)];
	if (random64() % 2)
		p[n++] = 0x40 | (random64() & 15);
	if (random64() % 2) {
		p[n++] = usual[random64() % sizeof(usual)];
		return n;
	}
	if (random64() % 2)
		p[n++] = 0x0f;
	p[n++] = (uint8_t)random64();
	return n;
}

/* Constants, small ones too. */
static void make_rest(uint8_t *p, unsigned count)
{
	static const uint32_t values[] = { 0, 1, 6, UINT32_MAX, 0x80000000, 0x7fffffff };
	uint32_t v;

	for (unsigned i = 0; i + 4 <= count; i += 4) {
		v = random64() % 2 ? (uint32_t)random64() : values[random64() % ARRAY_SIZE(values)];
		memcpy(p + i, &v, 4);
	}
}

static struct decoded decode(struct vp *c, unsigned key, const uint8_t *code)
{
	struct decoded d = { .status = 0 };
	const struct known_insn *k = sc_known_insn(c, key, code, 16, &d.status);

	if (!k)
		return d;
	d = (struct decoded){ .valid = true,
			      .length = KNOWN_LENGTH(k->shape),
			      .uop_count = k->uop_count,
			      .end = k->end,
			      .fuses = k->fuses,
			      .fusable = k->fusable };
	known_uops(k, code, 77, d.uops);
	known_xl(k, code, &d.insn);
	return d;
}

static struct decoded decode_afresh(struct vp *c, unsigned key, const uint8_t *code)
{
	struct known *kept = c->known;
	struct decoded d;

	c->known = known_new();
	assert_non_null(c->known);
	d = decode(c, key, code);
	known_free(c->known);
	c->known = kept;
	return d;
}

static void same_insn(const struct xl_insn *a, const struct xl_insn *b)
{
	assert_int_equal(a->mnemonic, b->mnemonic);
	assert_int_equal(a->kind, b->kind);
	assert_int_equal(a->len, b->len);
	assert_int_equal(a->use, b->use);
	assert_int_equal(a->kill, b->kill);
	assert_int_equal(a->writes_flags, b->writes_flags);
	assert_memory_equal(&a->op, &b->op, sizeof(a->op));
	assert_int_equal(a->extension, b->extension);
	assert_memory_equal(&a->reg, &b->reg, sizeof(a->reg));
	assert_memory_equal(&a->rm, &b->rm, sizeof(a->rm));
	assert_int_equal(a->mem_size, b->mem_size);
	assert_int_equal(a->imm_len, b->imm_len);
	assert_memory_equal(a->imm, b->imm, a->imm_len);
	assert_int_equal(a->rel, b->rel);
}

static void same(const struct decoded *a, const struct decoded *b)
{
	assert_int_equal(a->valid, b->valid);
	if (!a->valid) {
		assert_int_equal(a->status, b->status);
		return;
	}
	assert_int_equal(a->length, b->length);
	assert_int_equal(a->uop_count, b->uop_count);
	assert_memory_equal(a->uops, b->uops, a->uop_count * sizeof(a->uops[0]));
	assert_int_equal(a->end, b->end);
	assert_int_equal(a->fuses, b->fuses);
	assert_ptr_equal(a->fusable, b->fusable);
	same_insn(&a->insn, &b->insn);
}

/* How many were known with other constants than those that they were decoded with. */
static unsigned compare(struct vp *c, unsigned key)
{
	unsigned adapted = 0;

	for (unsigned i = 0; i < HEADS; i++) {
		uint8_t code[16];
		unsigned n = make_head(code), operands = 2;

		make_rest(code + n, 16 - n);
		for (unsigned j = 0; j < operands && n < 14; j++)
			code[n++] = (uint8_t)random64();
		for (unsigned v = 0; v < VARIANTS; v++) {
			bool known = known_find(c->known, key, code, 16) != NULL;
			struct decoded a = decode(c, key, code), b = decode_afresh(c, key, code);

			adapted += known && v;
			same(&a, &b);
			make_rest(code + n - (v & 1), 16 - n + (v & 1));
		}
	}
	return adapted;
}

static void with_other_constants(void **state)
{
	struct guest *g = guest_new(1);
	struct vp *c = softcpu_vp(g->part, 0);

	guest_long(g);
	assert_true(compare(c, MODE_64) > HEADS / 4);
	assert_true(compare(c, MODE_32 | KEY_FLAT) > HEADS / 4);
	assert_true(compare(c, MODE_32) > HEADS / 4);
	compare(c, MODE_16);
	guest_free(g);
}

/* What counts from the next instruction is beyond 32 bits. */
static void farthest_displacement(void **state)
{
	static const uint8_t code[16] = { 0x48, 0x8d, 0x05, 0xff, 0xff, 0xff, 0x7f }; /* lea */
	struct guest *g = guest_new(1);
	struct vp *c = softcpu_vp(g->part, 0);
	struct decoded d = decode(c, MODE_64, code);

	assert_int_equal(d.uops[0].disp, 77 + 7 + (int64_t)INT32_MAX);
	guest_free(g);
}

/* The same bytes are another instruction in another mode. */
static void by_mode(void **state)
{
	static const uint8_t code[16] = { 0x48, 0x01, 0xd8 }; /* add rax, rbx; dec eax */
	struct guest *g = guest_new(1);
	struct vp *c = softcpu_vp(g->part, 0);

	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(decode(c, MODE_64, code).length, 3);
		assert_int_equal(decode(c, MODE_32, code).length, 1);
		assert_int_equal(decode(c, MODE_16, code).length, 1);
	}
	guest_free(g);
}

/* No byte behind those that can be read counts. */
static void cut_off(void **state)
{
	static const uint8_t code[16] = { 0xb8, 1, 2, 3, 4 }; /* mov eax, imm32 */
	struct guest *g = guest_new(1);
	struct vp *c = softcpu_vp(g->part, 0);
	ZyanStatus status;

	assert_non_null(sc_known_insn(c, MODE_64, code, 5, &status));
	assert_non_null(known_find(c->known, MODE_64, code, 5));
	assert_null(sc_known_insn(c, MODE_64, code, 4, &status));
	assert_int_equal(status, ZYDIS_STATUS_NO_MORE_DATA);
	guest_free(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(with_other_constants),
		cmocka_unit_test(farthest_displacement),
		cmocka_unit_test(by_mode),
		cmocka_unit_test(cut_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
