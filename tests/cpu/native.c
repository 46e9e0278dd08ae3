/*
 * The real processor. A child process loads each case's registers by returning from a signal
 * handler into the code; the INT3 behind it, or the fault, is the next signal, whose context is the
 * outcome. 64-bit cases go in, and out where they don't fault, by direct.c. The child is confined
 * by seccomp to read, write, sigreturn and exit.
 */
#include "base/host.h"
#include "case.h"
#include "direct.h"

#include <asm/ldt.h>
#include <poll.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

/* In memory that parent and child share. */
struct batch {
	unsigned count, next;
	struct cpu_case cases[NATIVE_BATCH];
	struct cpu_outcome outcomes[NATIVE_BATCH];
};

struct native {
	struct batch *batch;
	uint8_t *code_alias; /* writable view of the code pages */
	enum cpu_mode mode;
	bool direct;     /* by direct.c */
	uint16_t cs, ss; /* selectors of cases; DS and ES are as SS */
	pid_t child;
	int to_child, from_child;
};

/* The child's signal handlers have no argument to reach it by. */
static struct native *the_native;
static bool in_case;
static ucontext_t home;
static uint8_t home_fpu[512];

/* ---- mappings, the same in parent and child ---- */

static void *map_at(uint64_t address, size_t size, int protection, int flags, int fd)
{
	void *p = mmap((void *)(uintptr_t)address, size, protection,
		       flags | (address ? MAP_FIXED_NOREPLACE : 0), fd, 0);

	if (p == MAP_FAILED) {
		perror("mmap");
		exit(2);
	}
	return p;
}

static void map_all(struct native *native)
{
	int fd = memfd_create("cpu-test-code", MFD_CLOEXEC);
	int anonymous = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE;
	uint8_t *readonly;

	if (fd < 0 || ftruncate(fd, CODE_SIZE) < 0) {
		perror("memfd_create");
		exit(2);
	}
	native->code_alias = map_at(0, CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	map_at(CODE_ADDRESS, CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_POPULATE, fd);
	close(fd);
	memset(native->code_alias, 0xcc, CODE_SIZE);
	map_at(DATA_ADDRESS, DATA_SIZE, PROT_READ | PROT_WRITE, anonymous, -1);
	readonly = map_at(READONLY_ADDRESS, PAGE, PROT_READ | PROT_WRITE, anonymous, -1);
	for (unsigned i = 0; i < PAGE; i++)
		readonly[i] = READONLY_BYTE(i);
	mprotect(readonly, PAGE, PROT_READ);
	native->batch = map_at(0, sizeof(*native->batch), PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1);
}

/* ---- child: contexts ---- */

static const int greg_of[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
				 REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
				 REG_R12, REG_R13, REG_R14, REG_R15 };

#define FXSAVE_USED 416 /* bytes; behind are software's */

/* Selectors as the kernel keeps them in one word: CS, GS, FS, SS. */
static uint64_t with_selectors(uint64_t word, uint16_t cs, uint16_t ss)
{
	return (word & 0x0000ffffffff0000) | cs | (uint64_t)ss << 48;
}

static uint8_t *code_alias_of(const struct cpu_case *c)
{
	return the_native->code_alias + (case_code_address(c) - CODE_ADDRESS);
}

/* As XSAVE stores it, and as the signal's frame has it. */
static void load_fpu(const struct cpu_case *c, uint8_t *xsave)
{
	memcpy(xsave, &c->before.fpu, FXSAVE_USED);
	xsave[XSTATE_BV] |= XSTATE_LEGACY;
	if (__builtin_cpu_supports("avx")) {
		xsave[XSTATE_BV] |= XSTATE_AVX;
		memcpy(xsave + YMM_HIGH, c->before.ymm_high, YMM_HIGH_BYTES);
	}
}

static void save_fpu(const uint8_t *xsave, struct cpu_state *ret)
{
	memcpy(&ret->fpu, xsave, FXSAVE_USED);
	memset((uint8_t *)&ret->fpu + FXSAVE_USED, 0, 512 - FXSAVE_USED);
	memset(ret->ymm_high, 0, YMM_HIGH_BYTES);
	if (xsave[XSTATE_BV] & XSTATE_AVX && __builtin_cpu_supports("avx"))
		memcpy(ret->ymm_high, xsave + YMM_HIGH, YMM_HIGH_BYTES);
}

/* Is there room for the jump, where no branch of the case goes (see tame_relative())? */
static bool has_jump(const struct cpu_case *c)
{
	return the_native->direct && c->code_length + DIRECT_JUMP_SIZE <= CASE_MAX_CODE &&
	       case_code_address(c) + CASE_MAX_CODE <= CODE_ADDRESS + CODE_SIZE;
}

static void write_code(const struct cpu_case *c)
{
	uint8_t jump[DIRECT_JUMP_SIZE];

	host_copy_code(code_alias_of(c), c->code, case_present_length(c));
	if (has_jump(c)) {
		direct_jump(case_code_address(c) + c->code_length, jump);
		host_copy_code(code_alias_of(c) + c->code_length, jump, sizeof(jump));
	}
	host_serialize();
}

static void load_memory(const struct cpu_case *c)
{
	memcpy((void *)(uintptr_t)DATA_ADDRESS, c->before.data, DATA_SIZE);
	if (c->first)
		write_code(c);
}

static void save_memory(const struct cpu_case *c, struct cpu_outcome *ret)
{
	memcpy(ret->state.data, (void *)(uintptr_t)DATA_ADDRESS, DATA_SIZE);
	if (c->last)
		memset(code_alias_of(c), 0xcc,
		       case_present_length(c) + (has_jump(c) ? DIRECT_JUMP_SIZE : 0));
}

static void load_case(const struct cpu_case *c, ucontext_t *uc)
{
	for (unsigned i = 0; i < 16; i++)
		uc->uc_mcontext.gregs[greg_of[i]] = (long long)c->before.gpr[i];
	uc->uc_mcontext.gregs[REG_RIP] = (long long)c->before.rip;
	uc->uc_mcontext.gregs[REG_EFL] = (long long)c->before.rflags;
	uc->uc_mcontext.gregs[REG_CSGSFS] = (long long)with_selectors(
	    (uint64_t)uc->uc_mcontext.gregs[REG_CSGSFS], the_native->cs, the_native->ss);
	load_fpu(c, (uint8_t *)uc->uc_mcontext.fpregs);
	load_memory(c);
}

static void save_outcome(const struct cpu_case *c, const ucontext_t *uc, struct cpu_outcome *ret)
{
	const greg_t *greg = uc->uc_mcontext.gregs;

	for (unsigned i = 0; i < 16; i++)
		ret->state.gpr[i] = (uint64_t)greg[greg_of[i]];
	ret->state.rip = (uint64_t)greg[REG_RIP];
	ret->state.rflags = (uint64_t)greg[REG_EFL];
	save_fpu((const uint8_t *)uc->uc_mcontext.fpregs, &ret->state);
	ret->vector = (unsigned)greg[REG_TRAPNO];
	ret->error_code = (unsigned)greg[REG_ERR];
	ret->fault_address = ret->vector == VECTOR_PF ? (uint64_t)greg[REG_CR2] : 0;
	if (ret->vector == VECTOR_BP)
		ret->state.rip--;
	save_memory(c, ret);
}

/* The same without signals, but for faults. */
static void load_direct(const struct cpu_case *c)
{
	memcpy(direct_state.gpr, c->before.gpr, sizeof(direct_state.gpr));
	direct_state.rip = c->before.rip;
	direct_state.rflags = c->before.rflags;
	load_fpu(c, direct_state.xsave);
	load_memory(c);
}

static void save_direct(const struct cpu_case *c, struct cpu_outcome *ret)
{
	memcpy(ret->state.gpr, direct_state.gpr, sizeof(ret->state.gpr));
	ret->state.rip = c->before.rip + c->code_length;
	ret->state.rflags = direct_state.rflags;
	save_fpu(direct_state.xsave, &ret->state);
	ret->vector = VECTOR_BP;
	ret->error_code = 0;
	ret->fault_address = 0;
	save_memory(c, ret);
}

static void run_directly(struct batch *batch)
{
	for (; batch->next < batch->count; batch->next++) {
		const struct cpu_case *c = &batch->cases[batch->next];

		load_direct(c);
		if (direct_enter())
			save_direct(c, &batch->outcomes[batch->next]);
	}
}

static void go_home(ucontext_t *uc)
{
	memcpy(uc->uc_mcontext.gregs, home.uc_mcontext.gregs, sizeof(gregset_t));
	memcpy(uc->uc_mcontext.fpregs, home_fpu, FXSAVE_USED);
	((uint8_t *)uc->uc_mcontext.fpregs)[XSTATE_BV] &= (uint8_t)~XSTATE_AVX;
	in_case = false;
}

/* True if there is nothing to return to. */
__attribute__((used)) static bool on_signal(int signal_number, siginfo_t *info, void *context)
{
	struct batch *batch = the_native->batch;
	ucontext_t *uc = context;

	if (the_native->direct) {
		save_outcome(&batch->cases[batch->next], uc, &batch->outcomes[batch->next]);
		return true;
	}
	if (!in_case) { /* the INT3 of child_main */
		home = *uc;
		memcpy(home_fpu, uc->uc_mcontext.fpregs, FXSAVE_USED);
		in_case = true;
	} else {
		save_outcome(&batch->cases[batch->next], uc, &batch->outcomes[batch->next]);
		batch->next++;
	}
	if (batch->next < batch->count)
		load_case(&batch->cases[batch->next], uc);
	else
		go_home(uc);
	return false;
}

/* The kernel leaves AC as the case had it, which compiled code can't stand. */
__attribute__((naked)) static void signal_entry(int signal_number, siginfo_t *info, void *context)
{
	__asm__ volatile("pushfq\n\t"
			 "andl $~0x40000, (%rsp)\n\t"
			 "popfq\n\t"
			 "subq $8, %rsp\n\t"
			 "call on_signal\n\t"
			 "testb %al, %al\n\t"
			 "jne direct_leave\n\t"
			 "addq $8, %rsp\n\t"
			 "ret");
}

/* ---- child: modes ---- */

#define SELECTOR_USER_CODE_64 0x33
#define SELECTOR_USER_CODE_32 0x23
#define SELECTOR_USER_DATA    0x2b
#define SELECTOR_LDT(entry)   ((entry) << 3 | 7)

static void set_ldt(unsigned entry, uint64_t base, unsigned contents)
{
	struct user_desc desc = {
		.entry_number = entry,
		.base_addr = (unsigned)base,
		.limit = 0xffff,
		.contents = contents,
	};

	if (syscall(SYS_modify_ldt, 0x11, &desc, sizeof(desc)) != 0) {
		perror("modify_ldt");
		_exit(2);
	}
}

static void choose_selectors(struct native *native)
{
	native->cs = SELECTOR_USER_CODE_64;
	native->ss = SELECTOR_USER_DATA;
	if (native->mode == CPU_MODE_32)
		native->cs = SELECTOR_USER_CODE_32;
	if (native->mode == CPU_MODE_16) {
		set_ldt(0, cpu_layouts[CPU_MODE_16].code_base, MODIFY_LDT_CONTENTS_CODE);
		set_ldt(1, cpu_layouts[CPU_MODE_16].data_base, MODIFY_LDT_CONTENTS_DATA);
		native->cs = SELECTOR_LDT(0);
		native->ss = SELECTOR_LDT(1);
	}
}

static bool is_selector(uint32_t selector)
{
	uint32_t rights;
	bool valid;

	__asm__("lar %2, %0" : "=r"(rights), "=@ccz"(valid) : "r"(selector));
	return valid;
}

static void enter_mode(struct native *native)
{
	choose_selectors(native);
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"((uint32_t)native->ss));
}

static void install_handlers(void)
{
	static const int signals[] = { SIGTRAP, SIGSEGV, SIGBUS, SIGFPE, SIGILL };
	/* No signal is blocked in its handler, which may never return. */
	struct sigaction action = { .sa_sigaction = signal_entry,
				    .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	stack_t stack = { .ss_size = 1 << 18 };

	stack.ss_sp =
	    mmap(NULL, stack.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	sigaltstack(&stack, NULL);
	for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaction(signals[i], &action, NULL);
}

static void confine(void)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int rc = 0;

	rc |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(read), 0);
	rc |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(write), 0);
	rc |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(rt_sigreturn), 0);
	rc |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(exit_group), 0);
	if (rc || seccomp_load(filter) != 0)
		_exit(2);
	seccomp_release(filter);
}

static void child_main(int commands, int answers)
{
	char byte;

	install_handlers();
	enter_mode(the_native);
	confine();
	while (read(commands, &byte, 1) == 1) {
		if (the_native->direct)
			run_directly(the_native->batch);
		else
			__asm__ volatile("int3" ::: "memory");
		if (write(answers, &byte, 1) != 1)
			break;
	}
	_exit(0);
}

/* ---- parent ---- */

static void start_child(struct native *native)
{
	int down[2], up[2];

	if (pipe(down) < 0 || pipe(up) < 0) {
		perror("pipe");
		exit(2);
	}
	fflush(stdout);
	native->child = fork();
	if (native->child < 0) {
		perror("fork");
		exit(2);
	}
	if (native->child == 0) {
		close(down[1]);
		close(up[0]);
		the_native = native;
		child_main(down[0], up[1]);
	}
	close(down[0]);
	close(up[1]);
	native->to_child = down[1];
	native->from_child = up[0];
}

static void stop_child(struct native *native)
{
	close(native->to_child);
	close(native->from_child);
	waitpid(native->child, NULL, 0);
}

/* Asked in another child, as the selectors may be of an LDT. */
static bool has_mode(struct native *native)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		choose_selectors(native);
		_exit(!is_selector(native->cs) || !is_selector(native->ss));
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid) {
		perror("fork");
		exit(2);
	}
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

struct native *native_new(enum cpu_mode mode)
{
	struct native *native = calloc(1, sizeof(*native));

	if (!native)
		exit(2);
	native->mode = mode;
	if (!has_mode(native)) {
		printf("skipped: user mode has no segments for that mode here\n");
		free(native);
		return NULL;
	}
	signal(SIGPIPE, SIG_IGN);
	map_all(native);
	native->direct = mode == CPU_MODE_64 && direct_is_possible();
	if (native->direct)
		direct_map(CODE_ADDRESS);
	start_child(native);
	return native;
}

void native_free(struct native *native)
{
	stop_child(native);
	munmap(native->code_alias, CODE_SIZE);
	munmap(native->batch, sizeof(*native->batch));
	munmap((void *)(uintptr_t)CODE_ADDRESS, CODE_SIZE);
	munmap((void *)(uintptr_t)DATA_ADDRESS, DATA_SIZE);
	munmap((void *)(uintptr_t)READONLY_ADDRESS, PAGE);
	free(native);
}

#define PATIENCE_NS 5000000000ull

static uint64_t processor_time_ns(pid_t pid)
{
	struct timespec ts = { 0 };
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) == 0)
		clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* A child that loops is ended: by the time that it had, for on a busy machine others have most. */
static bool await_child(struct native *native)
{
	struct pollfd p = { .fd = native->from_child, .events = POLLIN };
	uint64_t end = processor_time_ns(native->child) + PATIENCE_NS;
	char byte;

	while (poll(&p, 1, 1000) == 0)
		if (processor_time_ns(native->child) >= end)
			kill(native->child, SIGKILL);
	return read(native->from_child, &byte, 1) == 1;
}

struct cpu_case *native_cases(struct native *native)
{
	return native->batch->cases;
}

const struct cpu_outcome *native_outcomes(const struct native *native)
{
	return native->batch->outcomes;
}

bool native_run(struct native *native, unsigned count)
{
	struct batch *batch = native->batch;
	char byte = 0;

	batch->count = count;
	batch->next = 0;
	if (write(native->to_child, &byte, 1) != 1 || !await_child(native)) {
		printf("the native child died in case 0x%016llx\n",
		       (unsigned long long)batch->cases[batch->next].id);
		stop_child(native);
		memset(native->code_alias, 0xcc, CODE_SIZE);
		start_child(native);
		return false;
	}
	return true;
}

bool native_takes_any_rsp(struct native *native)
{
	struct cpu_case *c = native_cases(native);

	memset(c, 0, sizeof(*c));
	c->mode = native->mode;
	c->first = c->last = true;
	c->code[0] = 0x0f; /* UD2, to come by the kernel */
	c->code[1] = 0x0b;
	c->code_length = 2;
	c->before.gpr[4] = cpu_layouts[c->mode].stack_mask & (UINT64_MAX >> 1);
	c->before.rip = CODE_ADDRESS - cpu_layouts[c->mode].code_base;
	c->before.rflags = 0x202;
	c->before.fpu.fcw = 0x37f;
	c->before.fpu.mxcsr = 0x1f80;
	return native_run(native, 1) && native_outcomes(native)[0].vector == VECTOR_UD;
}
