/* Translation: permissions, accessed and dirty bits, page sizes, flushes, in all paging modes. */
#include "base/macros.h"
#include "part/softcpu/test-guest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define P  BIT(0)
#define W  BIT(1)
#define U  BIT(2)
#define A  BIT(5)
#define D  BIT(6)
#define PS BIT(7)
#define G  BIT(8)
#define NX BIT(63)

#define PAGE UINT64_C(0x20000) /* under test */

#define ERR_P 1u
#define ERR_W 2u
#define ERR_U 4u
#define ERR_R 8u
#define ERR_I 16u

GUEST(code_read, 64, "mov (%rbx), %rax; hlt");
GUEST(code_write, 64, "mov %rax, (%rbx); hlt");
GUEST(code_jump, 64, "jmp *%rbx");
GUEST(code_rmw, 64, "addl $1, (%rbx); hlt");
GUEST(code_read32, 32, "mov (%ebx), %eax; hlt");
GUEST(code_write32, 32, "mov %eax, (%ebx); hlt");

static int setup(void **state)
{
	*state = guest_new(1);
	return 0;
}

static int teardown(void **state)
{
	guest_free(*state);
	return 0;
}

enum access { READ, WRITE, EXECUTE };

/* The access with RBX = va; HLT of user code raises #GP, which here means that it got that far. */
static void access_at(struct guest *g, uint64_t va, enum access access)
{
	static const uint8_t hlt = 0xf4;

	guest_load(g, PAGE, &hlt, 1);
	g->s.rip = GUEST_CODE;
	g->s.gpr[PART_RBX] = va;
	switch (access) {
	case READ:
		guest_execute(g, code_read);
		break;
	case WRITE:
		guest_execute(g, code_write);
		break;
	case EXECUTE:
		guest_execute(g, code_jump);
		break;
	}
}

static void expect_fault(struct guest *g, uint64_t va, unsigned error)
{
	assert_int_equal(g->result.reason, SOFTCPU_EXCEPTION);
	assert_int_equal(g->result.vector, 14);
	assert_int_equal(g->result.error, error);
	assert_int_equal(g->result.cr2, va);
}

static void expect_done(struct guest *g, bool user)
{
	if (user) {
		assert_int_equal(g->result.reason, SOFTCPU_EXCEPTION);
		assert_int_equal(g->result.vector, 13);
	} else {
		assert_int_equal(g->result.reason, SOFTCPU_HALTED);
	}
}

struct rights {
	bool present, writable, user, nx;
};

static bool allowed(struct rights r, bool user, bool wp, enum access access)
{
	if (!r.present || (user && !r.user))
		return false;
	if (access == EXECUTE)
		return !r.nx;
	return access == READ || r.writable || (!user && !wp);
}

static void one_combination(struct guest *g, struct rights r, bool user, bool wp,
			    enum access access)
{
	uint64_t pte =
	    PAGE | (r.present ? P : 0) | (r.writable ? W : 0) | (r.user ? U : 0) | (r.nx ? NX : 0);
	unsigned error = (r.present ? ERR_P : 0) | (access == WRITE ? ERR_W : 0) |
			 (user ? ERR_U : 0) | (access == EXECUTE ? ERR_I : 0);

	guest_long(g);
	if (user)
		guest_user(g);
	if (!wp)
		g->s.cr0 &= ~BIT(16);
	guest_set_pte(g, PAGE, pte);
	access_at(g, PAGE, access);
	if (!allowed(r, user, wp, access)) {
		expect_fault(g, PAGE, error);
		assert_int_equal(guest_pte(g, PAGE), pte);
		return;
	}
	expect_done(g, user);
	assert_int_equal(guest_pte(g, PAGE), pte | A | (access == WRITE ? D : 0));
}

static void permission_matrix(void **state)
{
	for (unsigned i = 0; i < 64; i++)
		for (enum access access = READ; access <= EXECUTE; access++)
			one_combination(*state, (struct rights){ i & 1, i & 2, i & 4, i & 8 },
					i & 16, i & 32, access);
}

/* The rights of all levels count together. */
static void rights_of_upper_levels(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	guest_write(g, GUEST_PD, GUEST_PT | P | U, 8);
	access_at(g, PAGE, WRITE);
	expect_fault(g, PAGE, ERR_P | ERR_W);

	guest_write(g, GUEST_PD, GUEST_PT | P | W, 8);
	guest_long(g);
	guest_user(g);
	access_at(g, PAGE, READ);
	assert_int_equal(g->result.vector, 14); /* the code's own page already */
	assert_int_equal(g->result.error, ERR_P | ERR_U | ERR_I);
	assert_int_equal(g->result.cr2, GUEST_CODE);
}

static void read_modify_write_of_a_read_only_page(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	guest_set_pte(g, PAGE, PAGE | P);
	guest_write(g, PAGE, 7, 8);
	g->s.gpr[PART_RBX] = PAGE;
	guest_execute(g, code_rmw);
	expect_fault(g, PAGE, ERR_P | ERR_W);
	assert_int_equal(guest_read(g, PAGE, 8), 7);
}

static void dirty_after_read(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	guest_set_pte(g, PAGE, PAGE | P | W);
	access_at(g, PAGE, READ);
	assert_int_equal(guest_pte(g, PAGE), PAGE | P | W | A);
	/* the translation is known now; the write must still set the dirty bit */
	g->s.halted = false;
	access_at(g, PAGE, WRITE);
	assert_int_equal(guest_pte(g, PAGE), PAGE | P | W | A | D);
}

static void reserved_bits(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	guest_set_pte(g, PAGE, PAGE | P | W | BIT(45));
	access_at(g, PAGE, READ);
	expect_fault(g, PAGE, ERR_P | ERR_R);

	/* without EFER.NXE bit 63 is reserved */
	guest_long(g);
	g->s.efer &= ~BIT(11);
	guest_set_pte(g, PAGE, PAGE | P | W | NX);
	access_at(g, PAGE, READ);
	expect_fault(g, PAGE, ERR_P | ERR_R);
}

static void large_pages(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	/* 4 MiB to 6 MiB and 1 GiB on, both onto the start of RAM */
	guest_write(g, GUEST_PD + 2 * 8, 0 | P | W | PS, 8);
	guest_write(g, GUEST_PDPT + 8, 0 | P | W | PS, 8);
	guest_write(g, PAGE + 8, 0x1122334455667788, 8);
	access_at(g, 0x400000 + PAGE + 8, READ);
	assert_int_equal(g->s.gpr[PART_RAX], 0x1122334455667788);
	assert_int_equal(guest_read(g, GUEST_PD + 2 * 8, 8), P | W | PS | A);
	guest_long(g);
	access_at(g, 0x40000000 + PAGE + 8, READ);
	assert_int_equal(g->s.gpr[PART_RAX], 0x1122334455667788);
	guest_long(g);
	access_at(g, 0x40000000 + PAGE + 0x100, WRITE);
	assert_int_equal(guest_read(g, GUEST_PDPT + 8, 8), P | W | PS | A | D);
	/* a misaligned large page has reserved bits set */
	guest_write(g, GUEST_PD + 2 * 8, 0x2000 | P | W | PS, 8);
	guest_long(g);
	access_at(g, 0x400000, READ);
	expect_fault(g, 0x400000, ERR_P | ERR_R);
}

static void non_canonical(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	access_at(g, UINT64_C(0x0000800000000000), READ);
	assert_int_equal(g->result.vector, 13);
	assert_int_equal(g->result.error, 0);
}

/* ---- what the TLB must and must not keep ---- */

GUEST(code_invlpg, 64,
      "mov (%rbx), %rax\n"
      "mov %rdx, (%rcx)\n" /* new PTE */
      "mov (%rbx), %rsi\n"
      "invlpg (%rbx)\n"
      "mov (%rbx), %rdi\n"
      "hlt");
GUEST(code_cr3, 64,
      "mov (%rbx), %rax\n"
      "mov %rdx, (%rcx)\n"
      "mov %cr3, %rsi\n"
      "mov %rsi, %cr3\n"
      "mov (%rbx), %rsi\n"
      "mov %cr4, %rdi\n"
      "xor $0x80, %rdi\n"
      "mov %rdi, %cr4\n"
      "mov (%rbx), %rdi\n"
      "hlt");

static void change_mapping(struct guest *g, uint64_t flags)
{
	guest_long(g);
	guest_write(g, PAGE, 1, 8);
	guest_write(g, PAGE + 0x1000, 2, 8);
	guest_set_pte(g, PAGE, PAGE | flags);
	g->s.gpr[PART_RBX] = PAGE;
	g->s.gpr[PART_RCX] = GUEST_PT + (PAGE >> 12) * 8;
	g->s.gpr[PART_RDX] = (PAGE + 0x1000) | flags;
}

static void invlpg(void **state)
{
	struct guest *g = *state;

	change_mapping(g, P | W);
	guest_execute(g, code_invlpg);
	assert_int_equal(g->s.gpr[PART_RAX], 1);
	assert_int_equal(g->s.gpr[PART_RDI], 2);
}

static void invlpg_of_a_large_page(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	guest_write(g, PAGE, 1, 8);
	guest_write(g, PAGE + 0x200000, 2, 8);
	guest_write(g, GUEST_PD + 2 * 8, 0 | P | W | PS, 8);
	g->s.gpr[PART_RBX] = 0x400000 + PAGE;
	g->s.gpr[PART_RCX] = GUEST_PD + 2 * 8;
	g->s.gpr[PART_RDX] = 0x200000 | P | W | PS;
	guest_execute(g, code_invlpg);
	assert_int_equal(g->s.gpr[PART_RAX], 1);
	assert_int_equal(g->s.gpr[PART_RDI], 2);
}

static void cr3_flushes(void **state)
{
	struct guest *g = *state;

	change_mapping(g, P | W);
	guest_execute(g, code_cr3);
	assert_int_equal(g->s.gpr[PART_RAX], 1);
	assert_int_equal(g->s.gpr[PART_RSI], 2);
}

static void global_pages_survive_cr3_not_pge(void **state)
{
	struct guest *g = *state;

	change_mapping(g, P | W | G);
	guest_execute(g, code_cr3);
	assert_int_equal(g->s.gpr[PART_RAX], 1);
	assert_int_equal(g->s.gpr[PART_RSI], 1);
	assert_int_equal(g->s.gpr[PART_RDI], 2);
}

/* ---- accesses that cross a page ---- */

static void crossing(void **state)
{
	struct guest *g = *state;
	uint64_t va = PAGE + 0xffd;

	guest_long(g);
	guest_set_pte(g, PAGE + 0x1000, 0x30000 | P | W);
	g->s.gpr[PART_RAX] = 0x0807060504030201;
	access_at(g, va, WRITE);
	assert_int_equal(g->result.reason, SOFTCPU_HALTED);
	assert_int_equal(guest_read(g, va, 3), 0x030201);
	assert_int_equal(guest_read(g, 0x30000, 5), 0x0807060504);
	guest_long(g);
	access_at(g, va, READ);
	assert_int_equal(g->s.gpr[PART_RAX], 0x0807060504030201);
}

static void crossing_into_nothing_writes_nothing(void **state)
{
	struct guest *g = *state;
	uint64_t va = PAGE + 0xffd;

	guest_long(g);
	guest_set_pte(g, PAGE + 0x1000, 0);
	g->s.gpr[PART_RAX] = UINT64_MAX;
	access_at(g, va, WRITE);
	expect_fault(g, PAGE + 0x1000, ERR_W);
	assert_int_equal(guest_read(g, va, 3), 0);
}

/* ---- memory that isn't RAM ---- */

static void device_memory(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	guest_set_pte(g, PAGE, UINT64_C(0xfd000000) | P | W);
	g->mmio_value = 0x1111111111111111;
	g->s.gpr[PART_RBX] = PAGE + 0x10;
	guest_execute(g, code_rmw);
	assert_int_equal(g->result.reason, SOFTCPU_HALTED);
	assert_int_equal(g->mmio_count, 2);
	assert_false(g->mmio[0].write);
	assert_true(g->mmio[1].write);
	assert_int_equal(g->mmio[1].gpa, 0xfd000010);
	assert_int_equal(g->mmio[1].size, 4);
	assert_int_equal(g->mmio[1].value, 0x11111112);
}

/* ---- the older kinds of paging ---- */

static void paging_32(void **state)
{
	struct guest *g = *state;

	guest_protected(g);
	g->s.cr0 |= BIT(31) | BIT(16);
	g->s.cr3 = GUEST_PDE32;
	g->s.cr4 = 0x10; /* PSE */
	guest_write(g, GUEST_PTE32 + (PAGE >> 12) * 4, 0x30000 | P, 4);
	guest_write(g, GUEST_PDE32 + 4, 0 | P | W | PS, 4); /* 4 MiB page at 4 MiB */
	guest_write(g, 0x30004, 0x55aa55aa, 4);
	g->s.gpr[PART_RBX] = PAGE + 4;
	guest_execute(g, code_read32);
	assert_int_equal(g->result.reason, SOFTCPU_HALTED);
	assert_int_equal(g->s.gpr[PART_RAX], 0x55aa55aa);
	assert_int_equal(guest_read(g, GUEST_PTE32 + (PAGE >> 12) * 4, 4), 0x30000 | P | A);

	g->s.rip = GUEST_CODE;
	g->s.halted = false;
	guest_execute(g, code_write32);
	expect_fault(g, PAGE + 4, ERR_P | ERR_W);

	g->s.rip = GUEST_CODE;
	g->s.gpr[PART_RBX] = 0x400000 + 0x30004;
	guest_execute(g, code_read32);
	assert_int_equal(g->s.gpr[PART_RAX], 0x55aa55aa);
	assert_int_equal(guest_read(g, GUEST_PDE32 + 4, 4), P | W | PS | A);
}

static void paging_pae(void **state)
{
	struct guest *g = *state;

	guest_protected(g);
	g->s.cr0 |= BIT(31) | BIT(16);
	g->s.cr3 = GUEST_PDPT;
	g->s.cr4 = 0x20;
	guest_write(g, GUEST_PDPT, GUEST_PD | P, 8); /* no rights in a PAE PDPTE */
	guest_write(g, 0x30004, 0x55aa55aa, 4);
	guest_set_pte(g, PAGE, 0x30000 | P);
	g->s.gpr[PART_RBX] = PAGE + 4;
	guest_execute(g, code_read32);
	assert_int_equal(g->result.reason, SOFTCPU_HALTED);
	assert_int_equal(g->s.gpr[PART_RAX], 0x55aa55aa);
	g->s.rip = GUEST_CODE;
	g->s.halted = false;
	g->s.gpr[PART_RBX] = 0x40000000;
	guest_execute(g, code_write32);
	expect_fault(g, 0x40000000, ERR_W);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(permission_matrix),
		T(rights_of_upper_levels),
		T(read_modify_write_of_a_read_only_page),
		T(dirty_after_read),
		T(reserved_bits),
		T(large_pages),
		T(non_canonical),
		T(invlpg),
		T(invlpg_of_a_large_page),
		T(cr3_flushes),
		T(global_pages_survive_cr3_not_pge),
		T(crossing),
		T(crossing_into_nothing_writes_nothing),
		T(device_memory),
		T(paging_32),
		T(paging_pae),
	};

	return cmocka_run_group_tests_name("softcpu-paging", tests, NULL, NULL);
}
