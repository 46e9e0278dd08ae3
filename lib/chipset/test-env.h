/*
 * A bus, a loop and a stopped clock for the tests of one device. The clock's functions are defined
 * here, so that the linker takes these instead of base/clock.c; time moves only by test_advance().
 */
#ifndef CHIPSET_TEST_ENV_H
#define CHIPSET_TEST_ENV_H

#include "base/clock.h"
#include "base/loop.h"
#include "bus/bus.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* The host has been up for longer: the loop's real timer is then always due. */
static uint64_t test_now_ns = NS_PER_SEC;
/* 2026-11-24 02:25:00 UTC */
static uint64_t test_wall_ns = UINT64_C(1795487100) * NS_PER_SEC;

uint64_t clock_now_ns(void)
{
	return test_now_ns;
}

uint64_t clock_boottime_ns(void)
{
	return test_now_ns;
}

uint64_t clock_wall_ns(void)
{
	return test_wall_ns;
}

struct test_env {
	struct bus *bus;
	struct loop *loop;
	bool level;     /* of the device's interrupt line */
	unsigned rises; /* 0 to 1 changes of it */
};

static inline void test_set_irq(void *user, unsigned pin, bool level)
{
	struct test_env *env = user;

	env->rises += level && !env->level;
	env->level = level;
}

static inline struct irq_line test_irq(struct test_env *env)
{
	return (struct irq_line){ test_set_irq, env, 0 };
}

static inline void test_env_init(struct test_env *env)
{
	*env = (struct test_env){ 0 };
	test_now_ns = NS_PER_SEC;
	assert_int_equal(bus_new(&env->bus, NULL), 0);
	assert_int_equal(loop_new(&env->loop, NULL), 0);
}

static inline void test_env_done(struct test_env *env)
{
	loop_free(env->loop);
	bus_free(env->bus);
}

static inline void test_step(struct test_env *env)
{
	/* More than once: what a callback arms or kicks is due as well. */
	for (int i = 0; i < 3; i++)
		loop_step(env->loop, 0);
}

static inline void test_advance(struct test_env *env, uint64_t ns)
{
	test_now_ns += ns;
	test_wall_ns += ns;
	test_step(env);
}

static inline uint8_t in8(struct test_env *env, uint16_t port)
{
	return (uint8_t)bus_pio_read(env->bus, port, 1);
}

static inline void out8(struct test_env *env, uint16_t port, uint8_t value)
{
	bus_pio_write(env->bus, port, 1, value);
}

#endif
