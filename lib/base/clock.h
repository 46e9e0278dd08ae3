/*
 * The host's clocks, in nanoseconds. Everything above takes time from here, so that save, restore
 * and migration have one place to shift it.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define NS_PER_SEC  UINT64_C(1000000000)
#define NS_PER_MSEC UINT64_C(1000000)

/* CLOCK_MONOTONIC: for timers and durations; stands still while the host sleeps. */
uint64_t clock_now_ns(void);
/* CLOCK_BOOTTIME: also counts the time that the host slept. */
uint64_t clock_boottime_ns(void);
/* CLOCK_REALTIME, since 1970-01-01 UTC. */
uint64_t clock_wall_ns(void);

/* A condition for clock_wait(). */
void clock_init_condition(pthread_cond_t *condition);
/* pthread_cond_wait() until clock_now_ns() is until_ns at most: false then. */
bool clock_wait(pthread_cond_t *condition, pthread_mutex_t *lock, uint64_t until_ns);

#endif
