/*
 * One set of small guests for both backends, through part.h alone: test-part soft|kvm. Where the
 * backend can't run, exit status 77 and the reason.
 */
#include "part/part.h"

#include "base/clock.h"
#include "base/macros.h"
#include "part/test-part-guest.h"
#include "state/check-state.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define GUEST(name) extern const uint8_t guest_##name[], guest_##name##_end[];
GUEST(handlers)
GUEST(pio)
GUEST(mmio)
GUEST(poll)
GUEST(msr)
GUEST(cpuid)
GUEST(hypercall64)
GUEST(hypercall32)
GUEST(hypercall_user)
GUEST(wait)
GUEST(wait_x2apic)
GUEST(apic_msrs)
GUEST(busy)
GUEST(dirty)
GUEST(tsc)
GUEST(tsc_set)
GUEST(triple_fault)
GUEST(start_ap)
GUEST(ap)
GUEST(timer)
GUEST(deadline)

#define RAM_SIZE           (64 * MIB)
#define RAM_REACH          (256 * MIB)
#define WAIT_SECONDS       60
#define TEXT_SIZE          4096
#define LOCAL_TIMER_VECTOR 0x50

static enum part_backend backend;

/* What the guest did, in the order in which it did it, as text; and what the test waits for. */
struct machine {
	struct mem *mem;
	struct part *part;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	char log[TEXT_SIZE];
	unsigned done, notes, eois, resets, triple_faults;
	unsigned callbacks; /* under way */
	uint8_t eoi_vector;
	int extint_vector;
	uint16_t string_in;
	bool quiet; /* answers of the busy guest are not logged */
};

/* ---- the host ---- */

static void note(struct machine *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void note(struct machine *m, const char *fmt, ...)
{
	size_t used = strlen(m->log);
	va_list args;

	va_start(args, fmt);
	vsnprintf(m->log + used, sizeof(m->log) - used, fmt, args);
	va_end(args);
}

static void count(struct machine *m, unsigned *counter)
{
	pthread_mutex_lock(&m->lock);
	++*counter;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
}

static uint32_t host_pio_read(void *user, unsigned vp, uint16_t port, unsigned size)
{
	struct machine *m = user;
	uint32_t value = 0xA1B2C3D4;

	__atomic_add_fetch(&m->callbacks, 1, __ATOMIC_SEQ_CST);
	if (m->quiet)
		value = 0x5A5A5A5A;
	else if (size == 2)
		value = (uint32_t)(0xC3D4 + m->string_in++);
	else if (size == 1)
		value = 0xD4;
	__atomic_sub_fetch(&m->callbacks, 1, __ATOMIC_SEQ_CST);
	return value;
}

static void host_pio_write(void *user, unsigned vp, uint16_t port, unsigned size, uint32_t value)
{
	struct machine *m = user;

	if (port == GUEST_PORT_DONE)
		count(m, &m->done);
	else if (port == GUEST_PORT_NOTE)
		count(m, &m->notes);
	else
		note(m, "out %x.%u=%x;", port, size, value);
}

static uint64_t host_mmio_read(void *user, unsigned vp, uint64_t gpa, unsigned size)
{
	struct machine *m = user;

	if (m->quiet)
		return 0x5A5A5A5A;
	note(m, "read %llx.%u;", (unsigned long long)gpa, size);
	return 0x8877665544332211 + gpa % 16;
}

static void host_mmio_write(void *user, unsigned vp, uint64_t gpa, unsigned size, uint64_t value)
{
	note(user, "write %llx.%u=%llx;", (unsigned long long)gpa, size, (unsigned long long)value);
}

static bool host_msr_read(void *user, unsigned vp, uint32_t msr, uint64_t *ret)
{
	note(user, "rdmsr %x;", msr);
	*ret = 0x1122334455667788;
	return msr != 0x40000FFF;
}

static bool host_msr_write(void *user, unsigned vp, uint32_t msr, uint64_t value)
{
	note(user, "wrmsr %x=%llx;", msr, (unsigned long long)value);
	return msr != 0x40000FFF;
}

static void host_hypercall(void *user, unsigned vp, struct part_hypercall *call)
{
	note(user, "call %d %llx %llx %llx;", call->long_mode, (unsigned long long)call->control,
	     (unsigned long long)call->input, (unsigned long long)call->output);
	call->result = 0xFEDCBA9876543210;
}

static void host_eoi(void *user, uint8_t vector)
{
	struct machine *m = user;

	m->eoi_vector = vector;
	count(m, &m->eois);
}

/* The PIC drops its line with the acknowledge cycle. */
static int host_extint_ack(void *user)
{
	struct machine *m = user;
	int vector = m->extint_vector;

	m->extint_vector = -1;
	part_extint_set(m->part, false);
	return vector;
}

static void host_triple_fault(void *user, unsigned vp)
{
	count(user, &((struct machine *)user)->triple_faults);
}

static void host_vp_reset(void *user, unsigned vp)
{
	count(user, &((struct machine *)user)->resets);
}

static void host_fatal(void *user, unsigned vp, const char *text)
{
	fprintf(stderr, "fatal on VP %u: %s\n", vp, text);
	abort();
}

/* ---- the machine ---- */

static void make_saved(struct machine *m, unsigned vp_count, const struct part_state *saved)
{
	static const struct part_cpuid leaves[] = {
		{ 0x40000000, 0, 0x40000005, 0x7263694D, 0x666F736F, 0x76482074 },
		{ 0x40000001, 0, 0x31237648, 0, 0, 0 },
	};
	struct part_config config = {
		.backend = backend,
		.vp_count = vp_count,
		.cpuid = leaves,
		.cpuid_count = ARRAY_SIZE(leaves),
		.saved = saved,
		.host = { m, host_pio_read, host_pio_write, host_mmio_read, host_mmio_write,
			  host_msr_read, host_msr_write, host_hypercall, host_eoi, host_extint_ack,
			  host_triple_fault, host_vp_reset, host_fatal },
	};
	struct error err;

	*m = (struct machine){ .extint_vector = -1 };
	pthread_mutex_init(&m->lock, NULL);
	clock_init_condition(&m->changed);
	assert_int_equal(mem_new_growable(RAM_SIZE, RAM_REACH, &m->mem, &err), 0);
	config.mem = m->mem;
	if (part_new(&config, &m->part, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(part_backend(m->part), backend);
}

static void make(struct machine *m, unsigned vp_count)
{
	make_saved(m, vp_count, NULL);
}

static void unmake(struct machine *m)
{
	part_free(m->part);
	mem_free(m->mem);
	pthread_mutex_destroy(&m->lock);
	pthread_cond_destroy(&m->changed);
}

static bool wait_for(struct machine *m, const unsigned *counter, unsigned value, unsigned ms)
{
	uint64_t until = clock_now_ns() + ms * NS_PER_MSEC;
	bool reached;

	pthread_mutex_lock(&m->lock);
	while (*counter < value && clock_wait(&m->changed, &m->lock, until))
		;
	reached = *counter >= value;
	pthread_mutex_unlock(&m->lock);
	return reached;
}

static void expect(struct machine *m, const unsigned *counter, unsigned value)
{
	struct part_vp_state s;

	if (wait_for(m, counter, value, WAIT_SECONDS * 1000))
		return;
	part_pause(m->part);
	part_vp_get_state(m->part, 0, &s);
	fail_msg("the guest did not get there: RIP 0x%llx, RFLAGS 0x%llx, log %s",
		 (unsigned long long)s.rip, (unsigned long long)s.rflags, m->log);
}

static uint64_t result64(struct machine *m, unsigned offset)
{
	uint64_t value;

	assert_true(mem_read(m->mem, GUEST_RESULT + offset, &value, 8));
	return value;
}

static uint32_t result32(struct machine *m, unsigned offset)
{
	return (uint32_t)result64(m, offset);
}

static void store64(struct machine *m, uint64_t gpa, uint64_t value)
{
	assert_true(mem_write(m->mem, gpa, &value, 8));
}

static void make_page_tables(struct machine *m)
{
	const uint64_t present_writable_user = 7, large = 0x80;

	store64(m, GUEST_PML4, GUEST_PDPT | present_writable_user);
	for (unsigned i = 0; i < 4; i++)
		store64(m, GUEST_PDPT + 8 * i, (GUEST_PD + i * 4096) | present_writable_user);
	for (uint64_t i = 0; i < 2048; i++)
		store64(m, GUEST_PD + 8 * i, i << 21 | present_writable_user | large);
}

static void make_gdt(struct machine *m)
{
	store64(m, GUEST_GDT + GUEST_CS64, 0x00AF9B000000FFFF);
	store64(m, GUEST_GDT + GUEST_DATA_S, 0x00CF93000000FFFF);
	store64(m, GUEST_GDT + GUEST_CS32, 0x00CF9B000000FFFF);
	store64(m, GUEST_GDT + (GUEST_CS64_3 & ~3), 0x00AFFB000000FFFF);
	store64(m, GUEST_GDT + (GUEST_DATA_3 & ~3), 0x00CFF3000000FFFF);
	store64(m, GUEST_GDT + GUEST_TR, 0x00008B0000000067 | (uint64_t)GUEST_TSS << 16);
	store64(m, GUEST_TSS + 4, GUEST_STACK_TOP); /* RSP0 */
}

static void set_gate(struct machine *m, unsigned vector, unsigned handler)
{
	uint64_t offset = GUEST_HANDLERS + handler * GUEST_HANDLER_SIZE;

	store64(m, GUEST_IDT + 16 * vector,
		(offset & 0xFFFF) | GUEST_CS64 << 16 | 0x8E0000000000 | (offset >> 16) << 48);
	store64(m, GUEST_IDT + 16 * vector + 8, 0);
}

static void load_at(struct machine *m, uint64_t gpa, const uint8_t *code, const uint8_t *end)
{
	assert_true(mem_write(m->mem, gpa, code, (size_t)(end - code)));
}

/* Descriptors and page tables, the hypercall page, and the code. */
static void load(struct machine *m, const uint8_t *code, const uint8_t *end)
{
	uint8_t page[64];
	unsigned len = part_hypercall_code(m->part, page);

	assert_in_range(len, 1, 64);
	assert_true(mem_write(m->mem, GUEST_HYPERCALL, page, len));
	make_page_tables(m);
	make_gdt(m);
	set_gate(m, 2, GUEST_HANDLER_NMI);
	set_gate(m, 6, GUEST_HANDLER_UD);
	set_gate(m, 13, GUEST_HANDLER_GP);
	for (unsigned vector = 32; vector < 128; vector++)
		set_gate(m, vector, GUEST_HANDLER_EOI);
	for (unsigned vector = 128; vector < 256; vector++)
		set_gate(m, vector, GUEST_HANDLER_NO_EOI);
	load_at(m, GUEST_HANDLERS, guest_handlers, guest_handlers_end);
	load_at(m, GUEST_CODE, code, end);
}
#define LOAD(m, name) load(m, guest_##name, guest_##name##_end)

static void state_long_mode(struct part_vp_state *s)
{
	part_vp_state_at_reset(s);
	s->seg[PART_CS] = (struct part_segment){ 0, 0xFFFFFFFF, GUEST_CS64, 0xA09B };
	for (unsigned i = PART_ES; i <= PART_GS; i++)
		if (i != PART_CS)
			s->seg[i] = (struct part_segment){ 0, 0xFFFFFFFF, GUEST_DATA_S, 0xC093 };
	s->seg[PART_TR] = (struct part_segment){ GUEST_TSS, 0x67, GUEST_TR, 0x008B };
	s->gdt_base = GUEST_GDT;
	s->gdt_limit = GUEST_TR + 15;
	s->idt_base = GUEST_IDT;
	s->idt_limit = 4095;
	s->cr0 = 0x80000033;
	s->cr3 = GUEST_PML4;
	s->cr4 = 0x620; /* PAE, FXSR, exceptions of SSE */
	s->efer = 0x500;
	s->gpr[PART_RSP] = GUEST_STACK_TOP - 0x100;
	s->rip = GUEST_CODE;
	s->rflags = 2;
}

static void state_protected_mode(struct part_vp_state *s)
{
	state_long_mode(s);
	s->seg[PART_CS] = (struct part_segment){ 0, 0xFFFFFFFF, GUEST_CS32, 0xC09B };
	s->cr0 = 0x33;
	s->cr4 = 0;
	s->efer = 0;
}

static void state_user_mode(struct part_vp_state *s)
{
	state_long_mode(s);
	s->seg[PART_CS] = (struct part_segment){ 0, 0xFFFFFFFF, GUEST_CS64_3, 0xA0FB };
	for (unsigned i = PART_ES; i <= PART_GS; i++)
		if (i != PART_CS)
			s->seg[i] = (struct part_segment){ 0, 0xFFFFFFFF, GUEST_DATA_3, 0xC0F3 };
	s->rflags = 0x3002; /* IOPL 3 */
	s->gpr[PART_RSP] = GUEST_STACK_TOP - 0x800;
}

static void start_with(struct machine *m, const struct part_vp_state *s)
{
	struct error err;

	part_vp_set_state(m->part, 0, s);
	if (part_start(m->part, &err) < 0)
		fail_msg("%s", err.text);
}

static void start(struct machine *m)
{
	struct part_vp_state s;

	state_long_mode(&s);
	start_with(m, &s);
}

/* Runs a guest in long mode to its end. */
static void run(struct machine *m, const uint8_t *code, const uint8_t *end)
{
	make(m, 1);
	load(m, code, end);
	start(m);
	expect(m, &m->done, 1);
}
#define RUN(m, name) run(m, guest_##name, guest_##name##_end)

/* ---- exits ---- */

static void test_pio(void **state)
{
	struct machine m;

	RUN(&m, pio);
	assert_string_equal(m.log, "out 3f8.1=12;out 3f8.2=3456;out 3f8.4=789abcde;"
				   "out 3f8.1=6f;out 3f8.1=79;out 3f8.1=61;out 3f8.1=6b;"
				   "out 3f8.1=6f;");
	assert_true(result64(&m, 0) == 0xFFFFFFFFFFFFFFD4);
	assert_true(result64(&m, 8) == 0xFFFFFFFFFFFFC3D4);
	assert_true(result64(&m, 16) == 0xA1B2C3D4);
	assert_true(result64(&m, 0x20) == 0x0000C3D7C3D6C3D5);
	assert_int_equal(result64(&m, 0x18), GUEST_RESULT + 0x26);
	unmake(&m);
}

static void test_mmio(void **state)
{
	struct machine m;

	RUN(&m, mmio);
	assert_string_equal(m.log, "write f8001001.1=11;write f8001002.2=2222;"
				   "write f8001004.4=33333333;"
				   "write f8001008.8=4444444444444444;"
				   "read f8001001.1;read f8001002.2;read f8001004.4;"
				   "read f8001008.8;");
	assert_int_equal(result64(&m, 0), 0x12);
	assert_int_equal(result64(&m, 8), 0x2213);
	assert_int_equal(result64(&m, 16), 0x44332215);
	assert_true(result64(&m, 24) == 0x8877665544332219);
	unmake(&m);
}

#define POLLED UINT64_C(0x1122334455667788)

/* A guest looks at gpa, where there is nothing yet. */
static void start_polling(struct machine *m, uint64_t gpa)
{
	make(m, 1);
	m->quiet = true;
	LOAD(m, poll);
	store64(m, GUEST_RESULT + 8, gpa);
	store64(m, GUEST_RESULT + 16, POLLED);
	start(m);
	assert_false(wait_for(m, &m->done, 1, 20));
	part_pause(m->part);
}

static void test_memory_grows(void **state)
{
	uint64_t gpa = 128 * MIB - 24, value;
	struct machine m;
	struct error err;

	start_polling(&m, gpa);
	mem_grow(m.mem, 128 * MIB);
	assert_int_equal(part_memory_changed(m.part, &err), 0);
	store64(&m, gpa, POLLED);
	store64(&m, gpa + 8, 77);
	part_resume(m.part);
	expect(&m, &m.done, 1);
	assert_int_equal(result64(&m, 0), 77);
	assert_true(mem_read(m.mem, gpa + 16, &value, 8));
	assert_int_equal(value, 0x1234);
	/* As after a reset: it is gone again. */
	part_pause(m.part);
	mem_clear(m.mem);
	assert_int_equal(part_memory_changed(m.part, &err), 0);
	assert_false(mem_read(m.mem, gpa, &value, 8));
	unmake(&m);
}

/* What is released while a guest looks at it reads as zeros, and what it writes then stays. */
static void test_memory_released(void **state)
{
	uint64_t gpa = 32 * MIB;
	struct machine m;
	uint64_t value;

	start_polling(&m, gpa);
	store64(&m, gpa + 8, 1);
	mem_release(m.mem, gpa, MEM_PAGE_SIZE);
	part_resume(m.part);
	assert_false(wait_for(&m, &m.done, 1, 20));
	store64(&m, gpa + 8, 88);
	store64(&m, gpa, POLLED);
	expect(&m, &m.done, 1);
	assert_int_equal(result64(&m, 0), 88);
	assert_true(mem_read(m.mem, gpa + 16, &value, 8));
	assert_int_equal(value, 0x1234);
	unmake(&m);
}

/* On KVM; the software CPU's host pages are the translator's business. */
static void test_touched_memory_is_large(void **state)
{
	const uint64_t large = 2 * MIB, gpa = 32 * MIB;
	struct machine m;

	if (backend != PART_KVM)
		skip();
	start_polling(&m, gpa);
	part_resume(m.part);
	for (unsigned i = 0; i < 100 * WAIT_SECONDS && mem_backed_bytes(m.mem) % large; i++)
		usleep(10000);
	assert_int_equal(mem_backed_bytes(m.mem) % large, 0);
	store64(&m, gpa + 8, 88);
	store64(&m, gpa, POLLED);
	expect(&m, &m.done, 1);
	assert_int_equal(result64(&m, 0), 88);
	unmake(&m);
}

static void test_device_memory(void **state)
{
	static uint64_t memory[512] __attribute__((aligned(4096)));
	struct machine m;
	struct error err;
	int r;

	start_polling(&m, GUEST_MMIO & ~UINT64_C(0xFFF));
	memory[0] = POLLED;
	memory[1] = 99;
	r = part_map_device(m.part, GUEST_MMIO & ~UINT64_C(0xFFF), memory, sizeof(memory), &err);
	if (r == -ERR_UNSUPPORTED) {
		assert_int_equal(backend, PART_SOFT);
	} else {
		assert_int_equal(r, 0);
		part_resume(m.part);
		expect(&m, &m.done, 1);
		assert_int_equal(result64(&m, 0), 99);
		assert_int_equal(memory[2], 0x1234);
		part_pause(m.part);
		assert_int_equal(part_map_device(m.part, 0, NULL, 0, &err), 0);
	}
	unmake(&m);
}

static void test_msr(void **state)
{
	struct machine m;

	RUN(&m, msr);
	assert_string_equal(m.log, "rdmsr 40000002;wrmsr 400010ff=123456789abcdef;"
				   "rdmsr 40000fff;wrmsr 40000fff=123456789abcdef;");
	assert_true(result64(&m, 0) == 0x1122334455667788);
	assert_int_equal(result32(&m, GUEST_COUNT_GP), 2);
	unmake(&m);
}

/* The leaves that the guest asks for, four registers each. */
static void test_cpuid(void **state)
{
	enum { EAX = 0, EBX = 4, ECX = 8, EDX = 12 };
	uint32_t avx = BIT(12) | BIT(26) | BIT(28), shown; /* FMA, XSAVE, AVX: all or none */
	struct machine m;

	RUN(&m, cpuid);
	shown = result32(&m, 1 * 16 + ECX) & avx;
	assert_true(shown == avx || shown == 0);
	assert_int_equal(result32(&m, 0 * 16 + EAX), shown ? 0xD : 0xB);
	assert_int_equal(result32(&m, 1 * 16 + ECX) >> 31, 1);
	assert_int_equal(result32(&m, 1 * 16 + EBX) >> 24, 0);
	assert_int_equal(result32(&m, 1 * 16 + EDX), 0x078BFBFD);
	assert_int_equal(result32(&m, 2 * 16 + EDX), 0);
	assert_int_equal(result32(&m, 3 * 16 + EAX), 0x40000005);
	assert_int_equal(result32(&m, 3 * 16 + EBX), 0x7263694D);
	assert_int_equal(result32(&m, 4 * 16 + EAX), 0x31237648);
	assert_int_not_equal(result32(&m, 5 * 16 + EBX), 0x4B4D564B); /* "KVMK" */
	assert_int_equal(result32(&m, 6 * 16 + EDX) & 0x20100800, 0x20100800);
	assert_int_equal(result32(&m, 7 * 16 + EAX) & 0xFFFF, 0x3024);
	unmake(&m);
}

static void test_hypercall64(void **state)
{
	struct machine m;

	RUN(&m, hypercall64);
	assert_string_equal(m.log, "call 1 123456789abcdef 1111222233334444 5555666677778888;");
	assert_true(result64(&m, 0) == 0xFEDCBA9876543210);
	assert_int_equal(result64(&m, 16), GUEST_STACK_TOP - 0x100);
	unmake(&m);
}

static void test_hypercall32(void **state)
{
	struct part_vp_state s;
	struct machine m;

	make(&m, 1);
	LOAD(&m, hypercall32);
	state_protected_mode(&s);
	start_with(&m, &s);
	expect(&m, &m.done, 1);
	assert_string_equal(m.log, "call 0 123456789abcdef 1111222233334444 5555666677778888;");
	assert_int_equal(result32(&m, 0), 0x76543210);
	assert_int_equal(result32(&m, 4), 0xFEDCBA98);
	assert_int_equal(result32(&m, 8), GUEST_STACK_TOP - 0x100);
	unmake(&m);
}

static void test_hypercall_user(void **state)
{
	struct part_vp_state s;
	struct machine m;

	make(&m, 1);
	LOAD(&m, hypercall_user);
	state_user_mode(&s);
	start_with(&m, &s);
	expect(&m, &m.done, 1);
	assert_string_equal(m.log, "");
	assert_int_equal(result32(&m, GUEST_COUNT_UD), 1);
	/* RIP of the fault: within the hypercall page, at the instruction itself */
	assert_in_range(result64(&m, 0), GUEST_HYPERCALL, GUEST_HYPERCALL + 16);
	unmake(&m);
}

static void test_triple_fault(void **state)
{
	struct machine m;

	make(&m, 1);
	LOAD(&m, triple_fault);
	start(&m);
	expect(&m, &m.triple_faults, 1);
	/* The VP waits, and can be paused, reset and started anew. */
	part_pause(m.part);
	part_reset(m.part);
	assert_int_equal(m.resets, 1);
	LOAD(&m, tsc);
	{
		struct part_vp_state s;

		state_long_mode(&s);
		part_vp_set_state(m.part, 0, &s);
	}
	part_resume(m.part);
	expect(&m, &m.done, 1);
	assert_int_equal(m.triple_faults, 1);
	unmake(&m);
}

/* ---- interrupts ---- */

static void make_waiting(struct machine *m, unsigned vp_count)
{
	make(m, vp_count);
	LOAD(m, wait);
	start(m);
	expect(m, &m->notes, 1);
}

static void test_msi(void **state)
{
	struct machine m;

	make_waiting(&m, 1);
	for (unsigned i = 0; i < 20; i++) {
		part_msi(m.part, 0xFEE00000, 0x41);
		expect(&m, &m.notes, 2 + i);
	}
	part_msi(m.part, 0xFEE01000, 0x41); /* nobody has APIC id 1 */
	assert_false(wait_for(&m, &m.notes, 22, 50));
	assert_int_equal(result32(&m, GUEST_COUNT_IRQ), 20);
	assert_int_equal(m.eois, 0);
	unmake(&m);
}

static void test_interrupt(void **state)
{
	struct machine m;

	make_waiting(&m, 1);
	part_interrupt(m.part, 0, 0x50, false);
	expect(&m, &m.notes, 2);
	/* Without an EOI the vector stays in service and blocks itself. */
	part_interrupt(m.part, 0, 0xF3, false);
	expect(&m, &m.notes, 3);
	part_interrupt(m.part, 0, 0xF3, false);
	assert_false(wait_for(&m, &m.notes, 4, 100));
	unmake(&m);
}

static void send_auto_eoi(struct machine *m, unsigned first_note)
{
	for (unsigned i = 0; i < 10; i++) {
		part_interrupt(m->part, 0, 0xF3, true);
		expect(m, &m->notes, first_note + i);
	}
}

static void test_auto_eoi(void **state)
{
	struct machine m;

	make_waiting(&m, 1);
	send_auto_eoi(&m, 2);
	part_interrupt(m.part, 0, 0x41, false); /* lower priority: nothing is left in service */
	expect(&m, &m.notes, 12);
	unmake(&m);
}

static void test_auto_eoi_x2apic(void **state)
{
	struct machine m;

	make(&m, 1);
	LOAD(&m, wait_x2apic);
	start(&m);
	expect(&m, &m.notes, 1);
	send_auto_eoi(&m, 2);
	unmake(&m);
}

static void test_apic_msrs(void **state)
{
	struct machine m;

	RUN(&m, apic_msrs);
	assert_int_equal(result32(&m, 0), 1);
	assert_int_equal(result32(&m, 4), 2);
	assert_int_equal(result32(&m, 8), 0x50);
	assert_int_equal(result32(&m, 12), 0x20);
	assert_int_equal(result32(&m, GUEST_COUNT_GP), 0);
	unmake(&m);
}

static void test_extint(void **state)
{
	struct machine m;

	make_waiting(&m, 1);
	for (unsigned i = 0; i < 10; i++) {
		m.extint_vector = 0x88; /* whose handler writes no EOI */
		part_extint_set(m.part, true);
		expect(&m, &m.notes, 2 + i);
		assert_int_equal(m.extint_vector, -1);
	}
	part_extint_set(m.part, true); /* spurious */
	assert_false(wait_for(&m, &m.notes, 12, 50));
	unmake(&m);
}

static void test_level_eoi(void **state)
{
	const uint32_t level_asserted = 0xC000;
	struct machine m;

	make_waiting(&m, 1);
	part_ioapic_route(m.part, 10, 0xFEE00000, level_asserted | 0x42, false);
	part_ioapic_route(m.part, 11, 0xFEE00000, 0x43, false);
	for (unsigned i = 0; i < 10; i++) {
		part_msi(m.part, 0xFEE00000, level_asserted | 0x42);
		expect(&m, &m.notes, 2 + i);
		expect(&m, &m.eois, 1 + i);
		assert_int_equal(m.eoi_vector, 0x42);
	}
	part_msi(m.part, 0xFEE00000, 0x43);
	expect(&m, &m.notes, 12);
	assert_int_equal(m.eois, 10);
	unmake(&m);
}

static void test_nmi(void **state)
{
	struct machine m;

	make_waiting(&m, 1);
	for (unsigned i = 0; i < 5; i++) {
		part_nmi(m.part, 0);
		expect(&m, &m.notes, 2 + i);
	}
	assert_int_equal(result32(&m, GUEST_COUNT_NMI), 5);
	unmake(&m);
}

static void test_second_processor(void **state)
{
	struct part_vp_state s;
	struct machine m;

	make(&m, 2);
	LOAD(&m, start_ap);
	load_at(&m, GUEST_AP_CODE, guest_ap, guest_ap_end);
	start(&m);
	expect(&m, &m.done, 1);
	assert_int_equal(result32(&m, 0), 0x12340000 | GUEST_AP_CODE >> 4);
	part_pause(m.part);
	part_vp_get_state(m.part, 1, &s);
	assert_int_equal(s.seg[PART_CS].selector, GUEST_AP_CODE >> 4);
	assert_false(s.wait_for_sipi);
	part_reset(m.part);
	part_vp_get_state(m.part, 1, &s);
	assert_true(s.wait_for_sipi);
	part_vp_get_state(m.part, 0, &s);
	assert_false(s.wait_for_sipi);
	unmake(&m);
}

static void test_interrupt_to_second(void **state)
{
	struct part_vp_state s;
	struct machine m;

	make(&m, 2);
	LOAD(&m, wait);
	state_long_mode(&s);
	s.gpr[PART_RSP] -= 0x800;
	part_vp_set_state(m.part, 1, &s);
	start(&m);
	expect(&m, &m.notes, 2);
	part_interrupt(m.part, 1, 0x60, false);
	expect(&m, &m.notes, 3);
	part_msi(m.part, 0xFEE01000, 0x61);
	expect(&m, &m.notes, 4);
	part_nmi(m.part, 1);
	expect(&m, &m.notes, 5);
	unmake(&m);
}

/* ---- life cycle ---- */

static void test_pause_under_load(void **state)
{
	struct part_vp_state s;
	struct machine m;
	uint64_t before;

	make(&m, 2);
	m.quiet = true;
	LOAD(&m, busy);
	state_long_mode(&s);
	part_vp_set_state(m.part, 1, &s);
	start(&m);
	for (unsigned i = 0; i < 200; i++) {
		uint64_t deadline = clock_now_ns() + WAIT_SECONDS * NS_PER_SEC;

		part_pause(m.part);
		before = result64(&m, 0);
		assert_int_equal(__atomic_load_n(&m.callbacks, __ATOMIC_SEQ_CST), 0);
		part_vp_get_state(m.part, 1, &s);
		assert_in_range(s.rip, GUEST_CODE, GUEST_CODE + (guest_busy_end - guest_busy));
		part_vp_set_state(m.part, 1, &s);
		assert_true(result64(&m, 0) == before);
		part_resume(m.part);
		while (result64(&m, 0) == before)
			assert_true(clock_now_ns() < deadline);
	}
	assert_int_equal(m.done, 0);
	assert_true(part_vp_runtime_ns(m.part, 0) > 0);
	unmake(&m);
}

static void test_interrupts_while_paused(void **state)
{
	struct machine m;

	make_waiting(&m, 1);
	part_pause(m.part);
	part_interrupt(m.part, 0, 0x41, false);
	assert_false(wait_for(&m, &m.notes, 2, 20));
	part_resume(m.part);
	expect(&m, &m.notes, 2);
	part_stop(m.part);
	part_interrupt(m.part, 0, 0x42, false); /* nothing to see, and no harm */
	part_nmi(m.part, 0);
	unmake(&m);
}

static void test_reset(void **state)
{
	struct part_vp_state s, at_reset;
	struct machine m;

	make(&m, 1);
	LOAD(&m, wait_x2apic);
	start(&m);
	expect(&m, &m.notes, 1);
	part_interrupt(m.part, 0, 0xF3, false); /* left in service */
	expect(&m, &m.notes, 2);
	part_pause(m.part);
	part_interrupt(m.part, 0, 0xF3, false); /* left pending */
	part_reset(m.part);
	assert_int_equal(m.resets, 1);
	part_vp_get_state(m.part, 0, &s);
	part_vp_state_at_reset(&at_reset);
	assert_memory_equal(s.seg, at_reset.seg, sizeof(s.seg[0]) * PART_LDTR);
	assert_int_equal(s.rip, 0xFFF0);
	assert_int_equal(s.cr0, 0x60000010);
	assert_int_equal(s.cr3 | s.cr4 | s.efer | s.cr8 | s.mtrr_def_type, 0);
	assert_int_equal(s.rflags, 2);
	assert_false(s.halted);

	/* The APIC is in xAPIC mode and empty again. */
	LOAD(&m, wait);
	state_long_mode(&s);
	part_vp_set_state(m.part, 0, &s);
	part_resume(m.part);
	expect(&m, &m.notes, 3);
	part_interrupt(m.part, 0, 0x41, false);
	expect(&m, &m.notes, 4);
	assert_false(wait_for(&m, &m.notes, 5, 20));
	unmake(&m);
}

static void test_state_round_trip(void **state)
{
	struct part_vp_state s, got;
	struct machine m;

	make(&m, 2);
	LOAD(&m, wait);
	state_long_mode(&s);
	for (unsigned i = 0; i < 16; i++)
		s.gpr[i] = 0x0101010101010101 * (i + 1);
	s.cr2 = 0x123456789000;
	s.cr8 = 7;
	s.mtrr_def_type = 0xC06;
	s.seg[PART_GS].base = 0xFFFF888012345000;
	s.halted = true;
	part_vp_set_state(m.part, 1, &s);
	part_vp_get_state(m.part, 1, &got);
	assert_memory_equal(got.gpr, s.gpr, sizeof(s.gpr));
	for (unsigned i = 0; i < 8; i++) {
		assert_true(got.seg[i].base == s.seg[i].base);
		assert_int_equal(got.seg[i].selector, s.seg[i].selector);
		if (i != PART_LDTR) /* whose selector is null */
			assert_int_equal(got.seg[i].attributes & 0xF0FF,
					 s.seg[i].attributes & 0xF0FF);
	}
	assert_true(got.cr2 == s.cr2 && got.cr3 == s.cr3 && got.cr4 == s.cr4);
	assert_int_equal(got.cr0, s.cr0);
	assert_int_equal(got.cr8, 7);
	assert_int_equal(got.mtrr_def_type, 0xC06);
	assert_int_equal(got.efer, s.efer);
	assert_int_equal(got.gdt_limit, s.gdt_limit);
	assert_int_equal(got.idt_base, s.idt_base);
	assert_true(got.halted);
	unmake(&m);
}

/* ---- memory and time ---- */

static void test_dirty_log(void **state)
{
	uint64_t bitmap[RAM_SIZE / MEM_PAGE_SIZE / 64] = { 0 };
	const uint64_t first = GUEST_DATA / MEM_PAGE_SIZE;
	struct machine m;

	make(&m, 1);
	LOAD(&m, dirty);
	mem_dirty_log_start(m.mem);
	part_dirty_log_collect(m.part); /* may tell too much */
	mem_dirty_log_take(m.mem, bitmap);
	memset(bitmap, 0, sizeof(bitmap));
	start(&m);
	expect(&m, &m.done, 1);
	/* AMD's processors write to page tables when they walk them below nested ones (APM volume
	 * 2, 15.25.5), so whatever still runs dirties them. */
	part_pause(m.part);
	part_dirty_log_collect(m.part);
	mem_dirty_log_take(m.mem, bitmap);
	assert_int_equal(bitmap[first / 64] >> first % 64, 1 << 3 | 1 << 7);
	for (size_t i = first / 64 + 1; i < ARRAY_SIZE(bitmap); i++)
		assert_int_equal(bitmap[i], 0);
	memset(bitmap, 0, sizeof(bitmap));
	part_dirty_log_collect(m.part);
	mem_dirty_log_take(m.mem, bitmap);
	for (size_t i = 0; i < ARRAY_SIZE(bitmap); i++)
		assert_int_equal(bitmap[i], 0);
	mem_dirty_log_stop(m.mem);
	part_dirty_log_collect(m.part);
	unmake(&m);
}

static void test_tsc(void **state)
{
	struct machine m;
	uint64_t before, after;

	make(&m, 1);
	LOAD(&m, tsc);
	before = part_tsc_now(m.part);
	start(&m);
	expect(&m, &m.done, 1);
	after = part_tsc_now(m.part);
	assert_in_range(result64(&m, 0), before, after);
	assert_true(part_tsc_hz(m.part) > 1000000);

	/* It goes on at its rate while the VP is paused. */
	part_pause(m.part);
	before = part_tsc_now(m.part);
	usleep(200000);
	after = part_tsc_now(m.part);
	assert_in_range(after - before, part_tsc_hz(m.part) / 5, part_tsc_hz(m.part) * 5);
	unmake(&m);
}

/* A guest that sets its own TSC back moves no one else's time. */
static void test_tsc_set_by_the_guest(void **state)
{
	struct machine m;
	uint64_t before;

	make(&m, 1);
	LOAD(&m, tsc_set);
	usleep(200000);
	before = part_tsc_now(m.part);
	start(&m);
	expect(&m, &m.done, 1);
	assert_in_range(result64(&m, 0), 0, part_tsc_now(m.part) - before);
	assert_true(part_tsc_now(m.part) > before);
	unmake(&m);
}

/* 50 million ticks; at least, and not by seconds too late on a loaded host. */
static void check_timer(struct machine *m, uint64_t hz)
{
	uint64_t ticks = result64(m, 8) - result64(m, 0);
	uint64_t expected = (uint64_t)(50e6 / (double)hz * (double)part_tsc_hz(m->part));

	assert_in_range(ticks, expected * 99 / 100, expected + 20 * part_tsc_hz(m->part));
}

static void test_apic_timer(void **state)
{
	struct machine m;

	RUN(&m, timer);
	check_timer(&m, part_apic_hz(m.part));
	unmake(&m);
}

static void test_tsc_deadline(void **state)
{
	struct machine m;

	RUN(&m, deadline);
	check_timer(&m, part_tsc_hz(m.part));
	unmake(&m);
}

/* ---- saved here, restored there ---- */

/* Puts a stopped machine's state through a stream into a new one of the backend `to`. */
static void move(struct machine *from, struct machine *ret, enum part_backend to)
{
	struct state_out *out = state_out_new(0);
	struct part_vp_context context;
	struct part_state whole;
	enum part_backend before = backend;
	const uint8_t *bytes;
	struct state_in *in;
	struct error err;
	size_t size;

	part_get_state(from->part, &whole);
	part_vp_get_context(from->part, 0, &context);
	state_put(out, &part_desc, NULL, &whole);
	state_put(out, &part_vp_desc, "0", &context);
	assert_int_equal(state_out_bytes(out, &bytes, &size, &err), 0);
	assert_int_equal(state_in_new(bytes, size, 0, &in, &err), 0);
	if (state_get(in, &part_desc, NULL, &whole, &err) < 0 ||
	    state_get(in, &part_vp_desc, "0", &context, &err) < 0)
		fail_msg("%s", err.text);
	backend = to;
	make_saved(ret, 1, &whole);
	backend = before;
	memcpy(mem_ptr(ret->mem, 0, RAM_SIZE), mem_ptr(from->mem, 0, RAM_SIZE), RAM_SIZE);
	ret->quiet = from->quiet;
	part_set_tsc(ret->part, whole.tsc);
	if (part_vp_set_context(ret->part, 0, &context, &err) < 0)
		fail_msg("%s", err.text);
	state_in_free(in);
	state_out_free(out);
}

/* From where it was saved. */
static void go_on(struct machine *m)
{
	struct error err;

	if (part_start(m->part, &err) < 0)
		fail_msg("%s", err.text);
}

static bool possible(enum part_backend one)
{
	return one == PART_SOFT || backend == PART_KVM;
}

/* Each way that this host can: the guest's own checks hold on both sides. */
static void for_all_ways(void (*check)(enum part_backend from, enum part_backend to))
{
	static const enum part_backend both[] = { PART_SOFT, PART_KVM };
	enum part_backend before = backend;

	for (unsigned i = 0; i < 4; i++) {
		if (!possible(both[i / 2]) || !possible(both[i % 2]))
			continue;
		check(both[i / 2], both[i % 2]);
		backend = before;
	}
}

static void move_busy(enum part_backend from, enum part_backend to)
{
	struct machine a, b;
	uint64_t before;

	backend = from;
	make(&a, 1);
	a.quiet = true;
	LOAD(&a, busy);
	start(&a);
	for (unsigned i = 0; i < 20; i++) {
		usleep(20000);
		part_pause(a.part);
		move(&a, &b, to);
		before = result64(&b, 0);
		go_on(&b);
		for (unsigned k = 0; k < 3000 && result64(&b, 0) < before + 1000; k++)
			usleep(1000);
		part_pause(b.part);
		assert_true(result64(&b, 0) >= before + 1000);
		/* It ends when a register or an answer is not as it should be. */
		assert_int_equal(b.done, 0);
		unmake(&b);
		part_resume(a.part);
	}
	assert_int_equal(a.done, 0);
	unmake(&a);
}

static void test_move_busy(void **state)
{
	for_all_ways(move_busy);
}

static void move_sleeping(enum part_backend from, enum part_backend to, const uint8_t *code,
			  const uint8_t *end, bool by_count)
{
	struct machine a, b;
	uint64_t hz, expected, passed;

	backend = from;
	make(&a, 1);
	load(&a, code, end);
	start(&a);
	usleep(by_count ? 10000 : 2000);
	part_pause(a.part);
	move(&a, &b, to);
	hz = by_count ? part_apic_hz(a.part) : part_tsc_hz(a.part);
	expected = (uint64_t)(50e6 / (double)hz * (double)part_tsc_hz(a.part));
	go_on(&b);
	expect(&b, &b.done, 1);
	passed = result64(&b, 8) - result64(&b, 0);
	/* Neither before its time nor anew from the beginning. */
	if (passed < expected * 99 / 100 || passed > expected + 20 * part_tsc_hz(b.part))
		fail_msg("%s to %s: %llu ticks instead of %llu", part_backend_name(from),
			 part_backend_name(to), (unsigned long long)passed,
			 (unsigned long long)expected);
	unmake(&a);
	unmake(&b);
}

static void move_deadline(enum part_backend from, enum part_backend to)
{
	move_sleeping(from, to, guest_deadline, guest_deadline_end, false);
}

static void test_move_deadline(void **state)
{
	for_all_ways(move_deadline);
}

static void move_timer(enum part_backend from, enum part_backend to)
{
	/* KVM before Linux 6.11 counts at its own rate only: refused, and tested below. */
	if (from == to)
		move_sleeping(from, to, guest_timer, guest_timer_end, true);
}

static void test_move_timer(void **state)
{
	for_all_ways(move_timer);
}

static void fill_context(struct part_vp_context *c, uint64_t x)
{
	uint64_t *const addresses[] = { &c->lstar, &c->cstar, &c->kernel_gs_base };

	for (unsigned i = 0; i < ARRAY_SIZE(addresses); i++)
		*addresses[i] = 0xFFFF800000000000 | (x + i) << 12;
	c->star = 0x0023001000000000;
	c->sfmask = 0x47700;
	c->sysenter_cs = 0x10;
	c->sysenter_esp = 0x12345000; /* an AMD processor has 32 bits of these two */
	c->sysenter_eip = 0x23456000;
	for (unsigned i = 0; i < 4; i++)
		c->dr[i] = x + i;
	c->fpu.fcw = 0x27F;
	c->fpu.fsw = 0x3800;
	c->fpu.ftw = 0x81;
	c->fpu.mxcsr = 0x1FA0;
	memset(c->fpu.xmm, 0x5A, sizeof(c->fpu.xmm));
	for (unsigned i = 0; i < 8; i++)
		memset(c->fpu.st[i], 0x30 + (int)i, 10);
	if (c->fpu.xcr0) { /* AVX */
		c->fpu.xcr0 = 7;
		memset(c->fpu.ymm_high, 0x6B, sizeof(c->fpu.ymm_high));
	}
	c->nmi_blocked = true;
	c->apic.svr = 0x1FF;
	c->apic.tpr = 0x20;
	c->regs.cr8 = 2;
	c->apic.irr[1] = 0x00010000;
	c->apic.isr[2] = 0x80;
	c->apic.lvt[3] = 0x10700;
}

static void move_context(enum part_backend from, enum part_backend to)
{
	struct part_vp_context c, got;
	struct machine a, b;
	struct error err;

	backend = from;
	make(&a, 1);
	LOAD(&a, wait);
	part_vp_get_context(a.part, 0, &c);
	fill_context(&c, 0x1234);
	if (part_vp_set_context(a.part, 0, &c, &err) < 0)
		fail_msg("%s", err.text);
	move(&a, &b, to);
	part_vp_get_context(b.part, 0, &got);
	assert_memory_equal(&got.fpu, &c.fpu, sizeof(c.fpu));
	assert_memory_equal(got.dr, c.dr, sizeof(c.dr));
	assert_true(got.star == c.star && got.lstar == c.lstar && got.cstar == c.cstar);
	assert_true(got.sfmask == c.sfmask && got.kernel_gs_base == c.kernel_gs_base);
	assert_true(got.sysenter_cs == c.sysenter_cs && got.sysenter_eip == c.sysenter_eip);
	assert_true(got.pat == c.pat && got.nmi_blocked);
	assert_memory_equal(got.regs.gpr, c.regs.gpr, sizeof(c.regs.gpr));
	assert_true(got.regs.rip == c.regs.rip && got.regs.cr3 == c.regs.cr3);
	assert_memory_equal(got.apic.irr, c.apic.irr, sizeof(c.apic.irr));
	assert_memory_equal(got.apic.isr, c.apic.isr, sizeof(c.apic.isr));
	assert_memory_equal(got.apic.lvt, c.apic.lvt, sizeof(c.apic.lvt));
	assert_int_equal(got.apic.svr, 0x1FF);
	assert_int_equal(got.apic.tpr, 0x20);
	unmake(&a);
	unmake(&b);
}

static void test_move_context(void **state)
{
	for_all_ways(move_context);
}

static void test_state_tables(void **state)
{
	STATE_CHECK(struct part_vp_context, part_vp_desc);
	STATE_CHECK(struct part_state, part_desc);
}

/* What this processor has not is refused by name. */
static void test_foreign_state(void **state)
{
	struct part_config config = { .backend = backend, .vp_count = 1 };
	struct part_state saved;
	struct part *part;
	struct machine m;
	struct error err;

	make(&m, 1);
	part_get_state(m.part, &saved);
	config.mem = m.mem;
	config.saved = &saved;
	saved.features[2] |= 1u << 16; /* AVX-512 */
	saved.physical_bits = 52;
	assert_int_equal(part_new(&config, &part, &err), -ERR_UNSUPPORTED);
	unmake(&m);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pio),
		cmocka_unit_test(test_mmio),
		cmocka_unit_test(test_memory_grows),
		cmocka_unit_test(test_memory_released),
		cmocka_unit_test(test_touched_memory_is_large),
		cmocka_unit_test(test_device_memory),
		cmocka_unit_test(test_msr),
		cmocka_unit_test(test_cpuid),
		cmocka_unit_test(test_hypercall64),
		cmocka_unit_test(test_hypercall32),
		cmocka_unit_test(test_hypercall_user),
		cmocka_unit_test(test_triple_fault),
		cmocka_unit_test(test_msi),
		cmocka_unit_test(test_interrupt),
		cmocka_unit_test(test_auto_eoi),
		cmocka_unit_test(test_auto_eoi_x2apic),
		cmocka_unit_test(test_apic_msrs),
		cmocka_unit_test(test_extint),
		cmocka_unit_test(test_level_eoi),
		cmocka_unit_test(test_nmi),
		cmocka_unit_test(test_second_processor),
		cmocka_unit_test(test_interrupt_to_second),
		cmocka_unit_test(test_pause_under_load),
		cmocka_unit_test(test_interrupts_while_paused),
		cmocka_unit_test(test_reset),
		cmocka_unit_test(test_state_round_trip),
		cmocka_unit_test(test_dirty_log),
		cmocka_unit_test(test_tsc),
		cmocka_unit_test(test_tsc_set_by_the_guest),
		cmocka_unit_test(test_apic_timer),
		cmocka_unit_test(test_tsc_deadline),
		cmocka_unit_test(test_move_busy),
		cmocka_unit_test(test_move_deadline),
		cmocka_unit_test(test_move_timer),
		cmocka_unit_test(test_move_context),
		cmocka_unit_test(test_state_tables),
		cmocka_unit_test(test_foreign_state),
	};
	struct machine m = { 0 };
	struct error err = { 0 };

	if (argc < 2) {
		fprintf(stderr, "usage: test-part soft|kvm [TEST]\n");
		return 2;
	}
	backend = strcmp(argv[1], "kvm") == 0 ? PART_KVM : PART_SOFT;
	if (mem_new(MIB, &m.mem, &err) < 0 ||
	    part_new(&(struct part_config){ .backend = backend, .mem = m.mem, .vp_count = 1 },
		     &m.part, &err) < 0) {
		printf("skipped: %s\n", err.text);
		mem_free(m.mem);
		return err.code == ERR_UNSUPPORTED ? 77 : 1;
	}
	part_free(m.part);
	mem_free(m.mem);
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return cmocka_run_group_tests_name(argv[1], tests, NULL, NULL);
}
