/*
 * The guest's TSC. It is the host's, plus an offset, where that one counts at a constant rate
 * (invariant TSC); else CLOCK_MONOTONIC, at the rate that the host's TSC has now: KVM would show
 * that one, and a saved guest goes on under both. A saved guest that knows another rate has
 * CLOCK_MONOTONIC at that one.
 */
#include "part/softcpu/cpu.h"
#include "base/clock.h"
#include "part/part-impl.h"

#include <cpuid.h>
#include <time.h>
#include <x86intrin.h>

#define LEAF_POWER    0x80000007
#define INVARIANT_TSC BIT(8)
#define MEASURE_NS    (20 * NS_PER_MSEC)
#define HZ_STEP       UINT64_C(10000)

static uint64_t raw_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* The clock and the TSC at one moment: the pair that took the least time of a few. */
static void sample(uint64_t *ns, uint64_t *tsc)
{
	uint64_t best = UINT64_MAX;

	for (unsigned i = 0; i < 10; i++) {
		uint64_t t0 = __rdtsc(), n = raw_ns(), t1 = __rdtsc();

		if (t1 - t0 < best) {
			best = t1 - t0;
			*ns = n;
			*tsc = t0 + (t1 - t0) / 2;
		}
	}
}

static uint64_t measure_hz(void)
{
	uint64_t ns0, tsc0, ns1, tsc1, hz;
	struct timespec pause = { 0, (long)MEASURE_NS };

	sample(&ns0, &tsc0);
	nanosleep(&pause, NULL);
	sample(&ns1, &tsc1);
	hz = (uint64_t)((unsigned __int128)(tsc1 - tsc0) * NS_PER_SEC / (ns1 - ns0));
	return (hz + HZ_STEP / 2) / HZ_STEP * HZ_STEP;
}

/* The host's rate doesn't change: once is enough. */
static uint64_t measured_hz(void)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static uint64_t hz;
	uint64_t r;

	pthread_mutex_lock(&lock);
	if (!hz)
		hz = measure_hz();
	r = hz;
	pthread_mutex_unlock(&lock);
	return r;
}

/* Leaf 0x15: the ratio of TSC to a crystal whose rate is given. 0: not told. */
static uint64_t cpuid_hz(void)
{
	unsigned a, b, c, d;

	if (!__get_cpuid(0x15, &a, &b, &c, &d) || !a || !b || !c)
		return 0;
	return (uint64_t)c * b / a;
}

void sc_time_init(struct sc_vm *vm, uint64_t saved_hz)
{
	unsigned a, b, c, d;

	vm->tsc_is_host = __get_cpuid(LEAF_POWER, &a, &b, &c, &d) && (d & INVARIANT_TSC);
	vm->tsc_hz = cpuid_hz();
	if (!vm->tsc_hz)
		vm->tsc_hz = measured_hz();
	if (saved_hz && part_adopt_tsc_hz(&vm->tsc_hz, saved_hz, NULL) < 0) {
		vm->tsc_is_host = false;
		vm->tsc_hz = saved_hz;
	}
	atomic_store(&vm->tsc_offset, -(int64_t)sc_host_ticks(vm));
}

uint64_t sc_host_ticks(const struct sc_vm *vm)
{
	if (vm->tsc_is_host)
		return __rdtsc();
	return (uint64_t)((unsigned __int128)clock_now_ns() * vm->tsc_hz / NS_PER_SEC);
}

void sc_tsc_changed(struct vp *c)
{
	c->tsc_ahead = (uint64_t)atomic_load(&c->vm->tsc_offset) + (uint64_t)c->tsc_adjust;
	lapic_tsc_changed(c->lapic);
}
