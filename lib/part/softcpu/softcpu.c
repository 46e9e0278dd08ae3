/*
 * The software CPU as a backend of the partition: VPs with their threads, sleeping and waking, the
 * timer thread, and the life cycle.
 */
#include "part/softcpu/softcpu.h"
#include "base/clock.h"
#include "part/softcpu/cpu.h"
#include "part/softcpu/translate.h"

#include <errno.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

/* Hyper-V's local APICs count at this rate. */
#define APIC_HZ UINT64_C(200000000)

struct softcpu {
	struct part part;
	struct sc_vm vm;
	uint64_t apic_hz;
};

static struct sc_vm *vm_of(const struct part *part)
{
	return &((struct softcpu *)part)->vm;
}

/* ---- time that stands still while paused ---- */

static uint64_t vm_now_ns(void *user)
{
	struct sc_vm *vm = user;
	uint64_t paused_at = atomic_load(&vm->paused_at_ns);
	uint64_t now = paused_at ? paused_at : clock_now_ns();

	return now - atomic_load(&vm->paused_total_ns);
}

static uint64_t lapic_tsc_now(void *user, unsigned vp)
{
	return sc_tsc(((struct sc_vm *)user)->vps[vp]);
}

/* ---- sleeping and waking ---- */

static void kick(struct vp *c, uint32_t why)
{
	atomic_fetch_or(&c->attention, why);
	if (atomic_load(&c->sleeping))
		syscall(SYS_futex, &c->attention, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void lapic_wake(void *user, unsigned vp)
{
	kick(((struct sc_vm *)user)->vps[vp], ATT_EVAL);
}

static void lapic_eoi(void *user, uint8_t vector)
{
	struct sc_vm *vm = user;

	vm->host.eoi(vm->host.user, vector);
}

static int lapic_extint_ack(void *user)
{
	struct sc_vm *vm = user;

	return vm->host.extint_ack(vm->host.user);
}

/*
 * A guest that is idle needs little of what was decoded and translated when it booted. At the end
 * of a period in which the VP hardly ran, its caches are emptied and their memory given back. What
 * it fills again while idle is left alone: else that would be decoded anew for ever.
 */
#define PERIOD_NS     (5 * NS_PER_SEC)
#define IDLE_PER_CENT 2u
#define WORTHWHILE    (2 * MIB)

static uint64_t thread_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

static void end_period(struct vp *c, uint64_t now)
{
	uint64_t cpu = thread_cpu_ns();
	bool idle = (cpu - c->period_cpu_ns) * 100 < PERIOD_NS * IDLE_PER_CENT;
	size_t held = sc_blocks_held(c);

	c->period_end_ns = now + PERIOD_NS;
	c->period_cpu_ns = cpu;
	if (!idle)
		return;
	if (c->gave_back)
		c->idle_bytes = held;
	c->gave_back = held > 2 * c->idle_bytes + WORTHWHILE;
	if (c->gave_back)
		sc_blocks_release(c);
}

/* How long the VP may sleep until its period is to be ended; UINT64_MAX: there is no need. */
static uint64_t rest_of_period(struct vp *c)
{
	uint64_t now = clock_now_ns();

	if (now >= c->period_end_ns)
		end_period(c, now);
	return sc_blocks_held(c) > 2 * c->idle_bytes + WORTHWHILE ? c->period_end_ns - now
								  : UINT64_MAX;
}

/* Until attention, the APIC timer's deadline, or the end of a period. */
static void sleep_until_attention(struct vp *c)
{
	uint64_t deadline = lapic_timer_deadline_ns(c->lapic), now = vm_now_ns(c->vm);
	uint64_t ns = rest_of_period(c);
	struct timespec ts, *timeout = NULL;

	if (deadline != LAPIC_NEVER && !c->shutdown)
		ns = MIN(ns, deadline > now ? deadline - now : 0);
	if (ns != UINT64_MAX) {
		ts = (struct timespec){ (time_t)(ns / NS_PER_SEC), (long)(ns % NS_PER_SEC) };
		timeout = &ts;
	}
	atomic_store(&c->sleeping, true);
	syscall(SYS_futex, &c->attention, FUTEX_WAIT_PRIVATE, 0, timeout, NULL, 0);
	atomic_store(&c->sleeping, false);
}

/* HLT, wait-for-SIPI and shutdown. Returns when the VP has something to do, or must park. */
static void wait_idle(struct vp *c)
{
	while (!(atomic_load(&c->attention) & ATT_LEAVE)) {
		/* from here on a kick makes the futex refuse to wait */
		uint32_t why = atomic_fetch_and(&c->attention, ATT_LEAVE);

		if (why & ATT_INVALIDATE)
			break;
		if (!c->shutdown && lapic_wakes(c->lapic, (c->rf & RF_IF) && !c->wait_for_sipi,
						!c->nmi_blocked && !c->wait_for_sipi))
			break;
		sleep_until_attention(c);
	}
	/* the loop looks at everything */
	sc_attention(c, ATT_EVAL | ATT_INVALIDATE);
}

/* ---- the timer thread: tells running VPs that their APIC timer is due ---- */

void sc_deadline_changed(struct vp *c)
{
	uint64_t deadline = lapic_timer_deadline_ns(c->lapic);
	struct sc_vm *vm = c->vm;

	if (!vm->timer_started ||
	    atomic_load_explicit(&c->deadline, memory_order_relaxed) == deadline)
		return;
	atomic_store(&c->deadline, deadline);
	if (deadline >= atomic_load(&vm->timer_wakes_at))
		return;
	pthread_mutex_lock(&vm->timer_lock);
	pthread_cond_signal(&vm->timer_changed);
	pthread_mutex_unlock(&vm->timer_lock);
}

/* Kicks the VPs that are due; the earliest deadline of the others. */
static uint64_t fire_timers(struct sc_vm *vm)
{
	uint64_t earliest = LAPIC_NEVER, now = vm_now_ns(vm);

	for (unsigned i = 0; i < vm->vp_count; i++) {
		uint64_t deadline = atomic_load(&vm->vps[i]->deadline);

		if (deadline <= now && deadline != LAPIC_NEVER) {
			if (atomic_compare_exchange_strong(&vm->vps[i]->deadline, &deadline,
							   LAPIC_NEVER))
				kick(vm->vps[i], ATT_EVAL);
			else
				earliest = MIN(earliest, deadline);
		} else {
			earliest = MIN(earliest, deadline);
		}
	}
	return earliest;
}

static void *timer_thread(void *arg)
{
	struct sc_vm *vm = arg;

	pthread_mutex_lock(&vm->timer_lock);
	while (!vm->timer_stop) {
		uint64_t earliest;

		atomic_store(&vm->timer_wakes_at, 0); /* whoever changes a deadline now must wait
						       * for the lock and then signals */
		earliest = fire_timers(vm);
		atomic_store(&vm->timer_wakes_at, earliest);
		/* a deadline set between the two stores is seen here */
		earliest = MIN(earliest, fire_timers(vm));
		if (earliest == LAPIC_NEVER || atomic_load(&vm->paused_at_ns)) {
			pthread_cond_wait(&vm->timer_changed, &vm->timer_lock);
		} else {
			clock_wait(&vm->timer_changed, &vm->timer_lock,
				   earliest + atomic_load(&vm->paused_total_ns));
		}
	}
	pthread_mutex_unlock(&vm->timer_lock);
	return NULL;
}

static void signal_timer(struct sc_vm *vm)
{
	pthread_mutex_lock(&vm->timer_lock);
	pthread_cond_signal(&vm->timer_changed);
	pthread_mutex_unlock(&vm->timer_lock);
}

/* ---- VP threads ---- */

/* Waits while the partition is paused; false: stopping. */
static bool park(struct vp *c)
{
	struct sc_vm *vm = c->vm;
	bool stopping;

	pthread_mutex_lock(&vm->lock);
	c->parked = true;
	pthread_cond_broadcast(&vm->changed);
	while (vm->paused && !vm->stopping)
		pthread_cond_wait(&vm->changed, &vm->lock);
	c->parked = false;
	atomic_fetch_and(&c->attention, ~ATT_LEAVE);
	stopping = vm->stopping;
	pthread_mutex_unlock(&vm->lock);
	return !stopping;
}

static void *vp_thread(void *arg)
{
	struct vp *c = arg;
	bool told = false;
	stack_t own = { .ss_sp = c->signal_stack, .ss_size = sizeof(c->signal_stack) }, before;

	sigaltstack(&own, &before); /* a signal may find vp.returns as stack */
	sc_attention(c, ATT_EVAL);
	for (;;) {
		if ((atomic_load(&c->attention) & ATT_LEAVE) && !park(c))
			break;
		if (!c->shutdown)
			told = false;
		sc_run(c);
		if (c->shutdown && !told) {
			told = true;
			c->vm->host.triple_fault(c->vm->host.user, c->index);
		}
		if (c->halted || c->wait_for_sipi || c->shutdown)
			wait_idle(c);
	}
	pthread_mutex_lock(&c->vm->lock);
	c->parked = true;
	pthread_cond_broadcast(&c->vm->changed);
	pthread_mutex_unlock(&c->vm->lock);
	sigaltstack(&before, NULL); /* whoever set it may take it away with the thread */
	return NULL;
}

static int softcpu_start(struct part *part, struct error *err)
{
	struct sc_vm *vm = vm_of(part);
	int rc;

	rc = pthread_create(&vm->timer_thread, NULL, timer_thread, vm);
	if (rc)
		return error_set_errno(err, rc, "starting the APIC timer's thread");
	vm->timer_started = true;
	for (unsigned i = 0; i < vm->vp_count; i++) {
		rc = pthread_create(&vm->vps[i]->thread, NULL, vp_thread, vm->vps[i]);
		if (rc)
			return error_set_errno(err, rc, "starting the thread of VP %u", i);
		vm->vps[i]->thread_started = true;
		pthread_getcpuclockid(vm->vps[i]->thread, &vm->vps[i]->cpu_clock);
	}
	return 0;
}

static bool all_parked(const struct sc_vm *vm)
{
	for (unsigned i = 0; i < vm->vp_count; i++)
		if (vm->vps[i]->thread_started && !vm->vps[i]->parked)
			return false;
	return true;
}

static void softcpu_pause(struct part *part)
{
	struct sc_vm *vm = vm_of(part);

	pthread_mutex_lock(&vm->lock);
	vm->paused = true;
	for (unsigned i = 0; i < vm->vp_count; i++)
		kick(vm->vps[i], ATT_LEAVE);
	while (!all_parked(vm))
		pthread_cond_wait(&vm->changed, &vm->lock);
	pthread_mutex_unlock(&vm->lock);
	atomic_store(&vm->paused_at_ns, clock_now_ns());
}

static void softcpu_resume(struct part *part)
{
	struct sc_vm *vm = vm_of(part);
	uint64_t paused_at = atomic_exchange(&vm->paused_at_ns, 0);

	atomic_fetch_add(&vm->paused_total_ns, clock_now_ns() - paused_at);
	pthread_mutex_lock(&vm->lock);
	vm->paused = false;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
	signal_timer(vm);
}

static void stop_timer(struct sc_vm *vm)
{
	if (!vm->timer_started)
		return;
	pthread_mutex_lock(&vm->timer_lock);
	vm->timer_stop = true;
	pthread_cond_signal(&vm->timer_changed);
	pthread_mutex_unlock(&vm->timer_lock);
	pthread_join(vm->timer_thread, NULL);
	vm->timer_started = false;
}

static void softcpu_stop(struct part *part)
{
	struct sc_vm *vm = vm_of(part);

	pthread_mutex_lock(&vm->lock);
	vm->stopping = true;
	for (unsigned i = 0; i < vm->vp_count; i++)
		kick(vm->vps[i], ATT_LEAVE);
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
	for (unsigned i = 0; i < vm->vp_count; i++) {
		if (!vm->vps[i]->thread_started)
			continue;
		pthread_join(vm->vps[i]->thread, NULL);
		vm->vps[i]->thread_started = false;
	}
	stop_timer(vm);
}

static void softcpu_reset(struct part *part)
{
	struct sc_vm *vm = vm_of(part);

	for (unsigned i = 0; i < vm->vp_count; i++) {
		struct vp *c = vm->vps[i];

		lapic_reset(c->lapic);
		sc_vp_power_on(c);
		sc_attention(c, ATT_EVAL);
		vm->host.vp_reset(vm->host.user, i);
	}
}

/* ---- making and freeing ---- */

static void written_by_others(void *user, uint64_t gpa, uint64_t len)
{
	sc_code_written(user, NULL, gpa, len);
}

static void set_ram(struct sc_vm *vm)
{
	struct mem_range ranges[2];
	unsigned count = mem_ranges(vm->mem, ranges);

	vm->ram_low = ranges[0].size_bytes;
	vm->ram_high_end = count > 1 ? ranges[1].gpa + ranges[1].size_bytes : 0;
}

static void init_ram(struct sc_vm *vm)
{
	vm->ram = mem_ptr(vm->mem, 0, MEM_PAGE_SIZE);
	vm->page_flags = mem_page_flags(vm->mem);
	vm->page_count = mem_reach_bytes(vm->mem) >> MEM_PAGE_SHIFT;
	set_ram(vm);
}

/* Translations may lead to what was, or was not, RAM. */
static int softcpu_memory_changed(struct part *part, struct error *err)
{
	struct sc_vm *vm = vm_of(part);

	set_ram(vm);
	for (unsigned i = 0; i < vm->vp_count; i++)
		sc_tlb_flush_all(vm->vps[i]);
	return 0;
}

/* Which of hostop's features the profile shows. */
static void init_features(struct sc_vm *vm)
{
	static const struct {
		uint8_t feature, word, bit;
	} map[] = {
		{ HOSTOP_FEATURE_X87, PROFILE_1_EDX, 0 },
		{ HOSTOP_FEATURE_CX8, PROFILE_1_EDX, 8 },
		{ HOSTOP_FEATURE_CMOV, PROFILE_1_EDX, 15 },
		{ HOSTOP_FEATURE_MMX, PROFILE_1_EDX, 23 },
		{ HOSTOP_FEATURE_FXSR, PROFILE_1_EDX, 24 },
		{ HOSTOP_FEATURE_SSE, PROFILE_1_EDX, 25 },
		{ HOSTOP_FEATURE_SSE2, PROFILE_1_EDX, 26 },
		{ HOSTOP_FEATURE_SSE3, PROFILE_1_ECX, 0 },
		{ HOSTOP_FEATURE_PCLMULQDQ, PROFILE_1_ECX, 1 },
		{ HOSTOP_FEATURE_SSSE3, PROFILE_1_ECX, 9 },
		{ HOSTOP_FEATURE_CX16, PROFILE_1_ECX, 13 },
		{ HOSTOP_FEATURE_SSE4_1, PROFILE_1_ECX, 19 },
		{ HOSTOP_FEATURE_SSE4_2, PROFILE_1_ECX, 20 },
		{ HOSTOP_FEATURE_MOVBE, PROFILE_1_ECX, 22 },
		{ HOSTOP_FEATURE_POPCNT, PROFILE_1_ECX, 23 },
		{ HOSTOP_FEATURE_AES, PROFILE_1_ECX, 25 },
		{ HOSTOP_FEATURE_BMI1, PROFILE_7_EBX, 3 },
		{ HOSTOP_FEATURE_BMI2, PROFILE_7_EBX, 8 },
		{ HOSTOP_FEATURE_ADX, PROFILE_7_EBX, 19 },
		{ HOSTOP_FEATURE_SHA, PROFILE_7_EBX, 29 },
		{ HOSTOP_FEATURE_LAHF64, PROFILE_81_ECX, 0 },
		{ HOSTOP_FEATURE_LZCNT, PROFILE_81_ECX, 5 },
		{ HOSTOP_FEATURE_FMA, PROFILE_1_ECX, 12 },
		{ HOSTOP_FEATURE_AVX, PROFILE_1_ECX, 28 },
		{ HOSTOP_FEATURE_F16C, PROFILE_1_ECX, 29 },
		{ HOSTOP_FEATURE_AVX2, PROFILE_7_EBX, 5 },
	};

	vm->has[HOSTOP_BASE] = true;
	for (unsigned i = 0; i < ARRAY_SIZE(map); i++)
		vm->has[map[i].feature] =
		    profile_has(vm->profile, (enum profile_word)map[i].word, map[i].bit);
}

static uint64_t valid_cr4(const struct profile *p)
{
	uint64_t v = CR4_TSD | CR4_PSE | CR4_PAE | CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT;

	if (profile_has(p, PROFILE_1_EDX, 1))
		v |= CR4_VME | CR4_PVI;
	if (profile_has(p, PROFILE_1_EDX, 2))
		v |= CR4_DE;
	if (profile_has(p, PROFILE_1_EDX, 7))
		v |= CR4_MCE;
	if (profile_has(p, PROFILE_1_EDX, 13))
		v |= CR4_PGE;
	if (profile_has(p, PROFILE_7_EBX, 0))
		v |= CR4_FSGSBASE;
	if (profile_has(p, PROFILE_1_ECX, 26))
		v |= CR4_OSXSAVE;
	return v;
}

static void init_sync(struct sc_vm *vm)
{

	pthread_mutex_init(&vm->lock, NULL);
	pthread_mutex_init(&vm->bus_lock, NULL);
	pthread_mutex_init(&vm->code_lock, NULL);
	pthread_mutex_init(&vm->timer_lock, NULL);
	pthread_cond_init(&vm->changed, NULL);
	clock_init_condition(&vm->timer_changed);
	syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
}

static int new_lapics(struct sc_vm *vm, uint64_t apic_hz, struct error *err)
{
	const struct profile *p = vm->profile;
	struct lapic_config config = {
		.count = vm->vp_count,
		.apic_hz = apic_hz,
		.tsc_hz = vm->tsc_hz,
		.phys_bits = vm->phys_bits,
		.x2apic = profile_has(p, PROFILE_1_ECX, 21),
		.tsc_deadline = profile_has(p, PROFILE_1_ECX, 24),
		.host = { vm, vm_now_ns, lapic_tsc_now, lapic_wake, lapic_eoi, lapic_extint_ack },
	};

	return lapic_bus_new(&config, &vm->lapics, err);
}

#define CODE_CACHE_TOTAL (1024 * MIB) /* of all VPs */
#define CODE_CACHE_MAX   (64 * MIB)
#define CODE_CACHE_MIN   (16 * MIB)
#define CODE_CACHE_LEAST (1 * MIB) /* when asked for */

static size_t code_cache_bytes(const struct sc_vm *vm, size_t wanted)
{
	if (wanted)
		return MAX(wanted, CODE_CACHE_LEAST);
	return MIN(MAX(CODE_CACHE_TOTAL / vm->vp_count, CODE_CACHE_MIN), CODE_CACHE_MAX);
}

/* What is kept of code takes about two thirds of what it does itself. */
size_t sc_code_bytes(const struct sc_vm *vm)
{
	if (vm->interpret_only)
		return 0;
	return ALIGN_UP(vm->code_cache_bytes / 16 * 9 / 5 * 3, MEM_PAGE_SIZE);
}

static int new_vp(struct sc_vm *vm, unsigned index, struct error *err)
{
	struct vp *c = sc_map(sc_vp_bytes(vm));
	int rc;

	if (!c)
		return error_set(err, ERR_NO_MEMORY, "no memory for VP %u", index);
	vm->vps[index] = c;
	c->vm = vm;
	c->index = index;
	c->lapic = lapic_bus_get(vm->lapics, index);
	atomic_store(&c->deadline, LAPIC_NEVER);
	pthread_mutex_init(&c->inv_lock, NULL);
	sc_mmu_init(c);
	rc = sc_blocks_init(c, err);
	if (rc == 0 && !vm->interpret_only)
		rc = sc_translator_init(c, err);
	if (rc == 0 && vm->lockstep)
		rc = sc_lockstep_init(c, err);
	if (rc == 0)
		sc_vp_power_on(c);
	return rc;
}

static int softcpu_init(struct part *part, const struct part_config *config, struct error *err)
{
	struct sc_vm *vm = vm_of(part);
	struct profile_cpu cpu;
	int rc;

	init_sync(vm);
	vm->mem = part->mem;
	vm->host = part->host;
	vm->vp_count = part->vp_count;
	vm->profile = &part->profile;
	vm->always_slow = 0xff;
	vm->code_cache_bytes = code_cache_bytes(vm, config->code_cache_bytes);
	vm->interpret_only = config->backend == PART_SOFT_INTERPRETER;
	vm->lockstep = config->backend == PART_SOFT_LOCKSTEP;
	profile_cpu_soft(&cpu);
	rc = profile_init(&part->profile, &cpu, config, err);
	if (rc < 0)
		return rc;
	vm->phys_bits = part->profile.physical_bits;
	vm->cr4_valid = valid_cr4(&part->profile);
	init_features(vm);
	init_ram(vm);
	vm->granules = mmap(NULL, vm->page_count * sizeof(vm->granules[0]), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (vm->granules == MAP_FAILED) {
		vm->granules = NULL;
		return error_set(err, ERR_NO_MEMORY, "no memory for the map of guest code");
	}
	sc_time_init(vm, config->saved ? config->saved->tsc_hz : 0);
	if (sc_decode_init() < 0)
		return error_set(err, ERR_INTERNAL, "the instruction decoder refuses its modes");
	rc = hostop_arena_new(&vm->hostops, err);
	if (rc < 0)
		return rc;
	((struct softcpu *)part)->apic_hz = config->saved ? config->saved->apic_hz : APIC_HZ;
	rc = new_lapics(vm, ((struct softcpu *)part)->apic_hz, err);
	for (unsigned i = 0; rc == 0 && i < vm->vp_count; i++)
		rc = new_vp(vm, i, err);
	if (rc == 0)
		mem_set_code_hook(vm->mem, written_by_others, vm);
	return rc;
}

static void free_vp(struct vp *c)
{
	sc_lockstep_done(c);
	sc_translator_done(c);
	sc_blocks_done(c);
	pthread_mutex_destroy(&c->inv_lock);
	sc_unmap(c, sc_vp_bytes(c->vm));
}

static void softcpu_done(struct part *part)
{
	struct sc_vm *vm = vm_of(part);

	stop_timer(vm);
	if (vm->mem)
		mem_set_code_hook(vm->mem, NULL, NULL);
	for (unsigned i = 0; i < vm->vp_count; i++)
		if (vm->vps[i])
			free_vp(vm->vps[i]);
	lapic_bus_free(vm->lapics);
	hostop_arena_free(vm->hostops);
	if (vm->granules)
		munmap(vm->granules, vm->page_count * sizeof(vm->granules[0]));
}

/* ---- state ---- */

static void softcpu_vp_get_state(struct part *part, unsigned vp, struct part_vp_state *ret)
{
	struct vp *c = vm_of(part)->vps[vp];

	memcpy(ret->gpr, c->gpr, sizeof(ret->gpr));
	ret->rip = RIP(c);
	ret->rflags = sc_rflags(c);
	memcpy(ret->seg, c->seg, sizeof(ret->seg));
	ret->gdt_base = c->gdt.base;
	ret->gdt_limit = c->gdt.limit;
	ret->idt_base = c->idt.base;
	ret->idt_limit = c->idt.limit;
	ret->cr0 = c->cr0;
	ret->cr2 = c->cr2;
	ret->cr3 = c->cr3;
	ret->cr4 = c->cr4;
	ret->cr8 = lapic_cr8(c->lapic);
	ret->efer = c->efer;
	ret->mtrr_def_type = c->mtrr_def;
	ret->halted = c->halted;
	ret->wait_for_sipi = c->wait_for_sipi;
}

static void softcpu_vp_set_state(struct part *part, unsigned vp, const struct part_vp_state *state)
{
	struct vp *c = vm_of(part)->vps[vp];

	memcpy(c->gpr, state->gpr, sizeof(state->gpr));
	RIP(c) = state->rip;
	sc_set_rflags(c, state->rflags);
	memcpy(c->seg, state->seg, sizeof(c->seg));
	c->gdt = (struct sc_dtable){ state->gdt_base, state->gdt_limit };
	c->idt = (struct sc_dtable){ state->idt_base, state->idt_limit };
	c->cr0 = state->cr0 | CR0_ET;
	c->cr2 = state->cr2;
	c->cr3 = state->cr3;
	c->cr4 = state->cr4;
	sc_avx_changed(c);
	c->efer = state->efer;
	c->mtrr_def = state->mtrr_def_type;
	lapic_set_cr8(c->lapic, state->cr8 & 15);
	c->halted = state->halted;
	c->wait_for_sipi = state->wait_for_sipi;
	c->shadow = SHADOW_NONE;
	c->shutdown = c->event_pending = false;
	c->cpl = c->cr0 & CR0_PE ? SEG_DPL(c->seg[PART_SS].attributes) : 0;
	sc_segs_changed(c);
	sc_mmu_mode_changed(c);
	if ((c->cr0 & CR0_PG) && (c->cr4 & CR4_PAE) && !(c->efer & EFER_LMA))
		sc_load_pdptes(c, c->cr3);
	sc_attention(c, ATT_EVAL);
}

static void get_fpu(const struct hostop_fpu *fpu, struct part_fpu_state *ret)
{
	*ret = (struct part_fpu_state){ .fcw = fpu->fcw,
					.fsw = fpu->fsw,
					.fop = fpu->fop,
					.ftw = fpu->ftw,
					.mxcsr = fpu->mxcsr,
					.fip = fpu->fip,
					.fdp = fpu->fdp };
	memcpy(ret->st, fpu->st, sizeof(ret->st));
	memcpy(ret->xmm, fpu->xmm, sizeof(ret->xmm));
}

static void set_fpu(struct hostop_fpu *fpu, const struct part_fpu_state *state)
{
	hostop_fpu_reset(fpu);
	fpu->fcw = state->fcw;
	fpu->fsw = state->fsw;
	fpu->fop = state->fop;
	fpu->ftw = state->ftw;
	fpu->mxcsr = state->mxcsr & HOSTOP_MXCSR_MASK;
	fpu->fip = state->fip;
	fpu->fdp = state->fdp;
	memcpy(fpu->st, state->st, sizeof(fpu->st));
	memcpy(fpu->xmm, state->xmm, sizeof(fpu->xmm));
}

/* MSRs that are a plain register on both sides. */
static const struct {
	size_t vp, context;
} plain_msrs[] = {
#define MSR_PAIR(name)                                                                             \
	{                                                                                          \
		offsetof(struct vp, name), offsetof(struct part_vp_context, name)                  \
	}
	MSR_PAIR(star),        MSR_PAIR(lstar),        MSR_PAIR(cstar),
	MSR_PAIR(sfmask),      MSR_PAIR(tsc_aux),      MSR_PAIR(kernel_gs_base),
	MSR_PAIR(sysenter_cs), MSR_PAIR(sysenter_esp), MSR_PAIR(sysenter_eip),
	MSR_PAIR(pat),         MSR_PAIR(misc_enable),  MSR_PAIR(spec_ctrl),
	MSR_PAIR(hwcr),
#undef MSR_PAIR
};

static void softcpu_vp_get_context(struct part *part, unsigned vp, struct part_vp_context *ret)
{
	struct vp *c = vm_of(part)->vps[vp];

	memcpy(ret->dr, c->dr, sizeof(ret->dr));
	ret->dr6 = c->dr[6];
	ret->dr7 = c->dr[7];
	get_fpu(&c->regs.fpu, &ret->fpu);
	ret->fpu.xcr0 = c->vm->has[HOSTOP_FEATURE_AVX] ? c->xcr0 : 0;
	memcpy(ret->fpu.ymm_high, c->regs.ymm_high, sizeof(ret->fpu.ymm_high));
	for (size_t i = 0; i < ARRAY_SIZE(plain_msrs); i++)
		memcpy((char *)ret + plain_msrs[i].context, (char *)c + plain_msrs[i].vp, 8);
	memcpy(ret->mtrr_fixed, c->mtrr_fixed, sizeof(ret->mtrr_fixed));
	memcpy(ret->mtrr_base, c->mtrr_base, sizeof(ret->mtrr_base));
	memcpy(ret->mtrr_mask, c->mtrr_mask, sizeof(ret->mtrr_mask));
	ret->tsc_adjust = c->tsc_adjust;
	ret->shadow = c->shadow == SHADOW_STI  ? PART_SHADOW_STI
		      : c->shadow == SHADOW_SS ? PART_SHADOW_SS
					       : 0;
	ret->nmi_blocked = c->nmi_blocked;
	/* A paused VP has delivered what it took. */
	lapic_get_state(c->lapic, &ret->apic);
}

static void set_event(struct vp *c, const struct part_vp_context *context)
{
	c->event_pending = context->event_kind != PART_EVENT_NONE;
	c->event = (struct sc_event){
		.vector = context->event_vector,
		.kind = context->event_kind == PART_EVENT_EXCEPTION ? EVENT_FAULT : EVENT_INTERRUPT,
		.has_error = context->event_has_error,
		.error = context->event_error,
	};
	if (context->event_kind == PART_EVENT_NMI)
		c->event.vector = VEC_NMI;
}

static int softcpu_vp_set_context(struct part *part, unsigned vp,
				  const struct part_vp_context *context, struct error *err)
{
	struct sc_vm *vm = vm_of(part);
	struct vp *c = vm->vps[vp];
	const uint64_t efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;

	if (context->regs.cr4 & ~vm->cr4_valid || context->regs.efer & ~efer)
		return error_set(err, ERR_UNSUPPORTED,
				 "CR4 or EFER uses what the software CPU has not");
	if (!lapic_set_state(c->lapic, &context->apic))
		return error_set(err, ERR_CORRUPT, "the state of its local APIC is impossible");
	memcpy(c->dr, context->dr, sizeof(context->dr));
	c->dr[6] = context->dr6;
	c->dr[7] = context->dr7;
	set_fpu(&c->regs.fpu, &context->fpu);
	c->xcr0 = context->fpu.xcr0 ? context->fpu.xcr0 : HOSTOP_XCR0_X87;
	memcpy(c->regs.ymm_high, context->fpu.ymm_high, sizeof(c->regs.ymm_high));
	for (size_t i = 0; i < ARRAY_SIZE(plain_msrs); i++)
		memcpy((char *)c + plain_msrs[i].vp, (char *)context + plain_msrs[i].context, 8);
	memcpy(c->mtrr_fixed, context->mtrr_fixed, sizeof(c->mtrr_fixed));
	memcpy(c->mtrr_base, context->mtrr_base, sizeof(c->mtrr_base));
	memcpy(c->mtrr_mask, context->mtrr_mask, sizeof(c->mtrr_mask));
	c->tsc_adjust = context->tsc_adjust;
	sc_tsc_changed(c);
	softcpu_vp_set_state(part, vp, &context->regs);
	c->nmi_blocked = context->nmi_blocked;
	c->shadow = context->shadow & PART_SHADOW_SS    ? SHADOW_SS
		    : context->shadow & PART_SHADOW_STI ? SHADOW_STI
							: SHADOW_NONE;
	if (c->shadow != SHADOW_NONE)
		sc_attention(c, ATT_STEP);
	set_event(c, context);
	return 0;
}

static uint64_t softcpu_partition_tsc(const struct part *part)
{
	return sc_vm_tsc(vm_of(part));
}

static void softcpu_set_tsc(struct part *part, uint64_t tsc)
{
	struct sc_vm *vm = vm_of(part);

	atomic_store(&vm->tsc_offset, (int64_t)(tsc - sc_host_ticks(vm)));
	for (unsigned i = 0; i < vm->vp_count; i++)
		sc_tsc_changed(vm->vps[i]);
}

/* ---- the rest of the backend's table ---- */

static void softcpu_interrupt(struct part *part, unsigned vp, uint8_t vector, bool auto_eoi)
{
	lapic_bus_interrupt(vm_of(part)->lapics, vp, vector, auto_eoi);
}

static void softcpu_msi(struct part *part, uint64_t address, uint32_t data)
{
	lapic_bus_msi(vm_of(part)->lapics, address, data);
}

/* EOIs of all level-triggered vectors are reported: no routes to know. */
static void softcpu_ioapic_route(struct part *part, unsigned pin, uint64_t address, uint32_t data,
				 bool masked)
{
}

static void softcpu_nmi(struct part *part, unsigned vp)
{
	lapic_bus_nmi(vm_of(part)->lapics, vp);
}

static void softcpu_extint_set(struct part *part, bool level)
{
	lapic_bus_extint_set(vm_of(part)->lapics, level);
}

static uint64_t softcpu_tsc_hz(const struct part *part)
{
	return vm_of(part)->tsc_hz;
}

static uint64_t softcpu_apic_hz(const struct part *part)
{
	return ((const struct softcpu *)part)->apic_hz;
}

static uint64_t softcpu_vp_runtime_ns(const struct part *part, unsigned vp)
{
	struct vp *c = vm_of(part)->vps[vp];
	struct timespec ts;

	if (!c->thread_started || clock_gettime(c->cpu_clock, &ts) < 0)
		return 0;
	return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* ENDBR64; VMCALL; RET */
static unsigned softcpu_hypercall_code(const struct part *part, uint8_t ret[static 64])
{
	static const uint8_t code[] = { 0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x01, 0xc1, 0xc3 };

	memcpy(ret, code, sizeof(code));
	return sizeof(code);
}

/* VPs mark pages when they write them. */
static void softcpu_dirty_log_collect(struct part *part)
{
}

const struct part_backend_ops softcpu_backend_ops = {
	.backend = PART_SOFT,
	.name = "soft",
	.size = sizeof(struct softcpu),
	.init = softcpu_init,
	.done = softcpu_done,
	.start = softcpu_start,
	.pause = softcpu_pause,
	.resume = softcpu_resume,
	.memory_changed = softcpu_memory_changed,
	.stop = softcpu_stop,
	.reset = softcpu_reset,
	.vp_get_state = softcpu_vp_get_state,
	.vp_set_state = softcpu_vp_set_state,
	.vp_get_context = softcpu_vp_get_context,
	.vp_set_context = softcpu_vp_set_context,
	.set_tsc = softcpu_set_tsc,
	.partition_tsc = softcpu_partition_tsc,
	.interrupt = softcpu_interrupt,
	.msi = softcpu_msi,
	.ioapic_route = softcpu_ioapic_route,
	.nmi = softcpu_nmi,
	.extint_set = softcpu_extint_set,
	.tsc_hz = softcpu_tsc_hz,
	.apic_hz = softcpu_apic_hz,
	.vp_runtime_ns = softcpu_vp_runtime_ns,
	.hypercall_code = softcpu_hypercall_code,
	.dirty_log_collect = softcpu_dirty_log_collect,
};

/* ---- for tests ---- */

void softcpu_run(struct part *part, unsigned vp, uint64_t count, bool deliver,
		 struct softcpu_result *ret)
{
	struct vp *c = vm_of(part)->vps[vp];

	*ret = (struct softcpu_result){ .reason = SOFTCPU_COUNT };
	sc_run_steps(c, count, deliver);
	if (c->event_pending) {
		c->event_pending = false;
		ret->reason = SOFTCPU_EXCEPTION;
		ret->vector = c->event.vector;
		ret->has_error = c->event.has_error;
		ret->error = c->event.error;
		ret->cr2 = c->cr2;
	} else if (c->shutdown) {
		ret->reason = SOFTCPU_SHUTDOWN;
	} else if (c->halted) {
		ret->reason = SOFTCPU_HALTED;
	}
}

void softcpu_run_blocks(struct part *part, unsigned vp, uint64_t count, struct softcpu_result *ret)
{
	struct vp *c = vm_of(part)->vps[vp];

	*ret = (struct softcpu_result){ .reason = SOFTCPU_COUNT };
	sc_run_budget(c, count);
	if (c->shutdown)
		ret->reason = SOFTCPU_SHUTDOWN;
	else if (c->halted)
		ret->reason = SOFTCPU_HALTED;
}

struct hostop_fpu *softcpu_fpu(struct part *part, unsigned vp)
{
	return &vm_of(part)->vps[vp]->regs.fpu;
}

struct vp *softcpu_vp(struct part *part, unsigned vp)
{
	return vm_of(part)->vps[vp];
}

void softcpu_stats(struct part *part, unsigned vp, struct softcpu_stats *ret)
{
	const struct vp *c = vm_of(part)->vps[vp];

	*ret = (struct softcpu_stats){ 0 };
	ret->instructions = c->icount;
	ret->decoded = c->decoded_insns;
	ret->flushes = c->flushes;
	if (c->translator) {
		ret->translated = c->translator->translated_insns;
		ret->copied = c->translator->copies;
		ret->translate_ns = c->translator->ns;
	}
	if (c->lockstep)
		sc_lockstep_stats(c, &ret->compared, &ret->races);
}

void softcpu_do_as_amd(struct part *part)
{
	vm_of(part)->amd = true;
}

void softcpu_enable_avx(struct part *part, unsigned vp)
{
	struct vp *c = vm_of(part)->vps[vp];

	if (!c->vm->has[HOSTOP_FEATURE_AVX])
		return;
	c->cr4 |= CR4_OSXSAVE;
	c->xcr0 = HOSTOP_XCR0_ALL;
	sc_avx_changed(c);
}

uint8_t (*softcpu_ymm_high(struct part *part, unsigned vp))[16]
{
	return vm_of(part)->vps[vp]->regs.ymm_high;
}

void softcpu_tune(struct part *part, unsigned vp, unsigned hot, bool exact_flags)
{
	struct translator *t = vm_of(part)->vps[vp]->translator;

	if (!t)
		return;
	t->hot = hot;
	t->exact_flags = exact_flags;
}
