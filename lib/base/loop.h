/*
 * An event loop over epoll: descriptors, one-shot timers and work posted from other threads. One
 * thread runs it; callbacks run on that thread, one at a time. A worker has one loop for all of its
 * devices; an object that "belongs to the loop" is touched only there.
 *
 * May be called from any thread: loop_post, loop_kick, loop_timer_arm, loop_timer_cancel,
 *loop_stop. All else: only on the loop's thread, or while it does not run.
 *
 *	loop_new(&loop, &err);
 *	loop_timer_new(loop, tick, dev, &timer, &err);
 *	loop_timer_arm(timer, clock_now_ns() + NS_PER_SEC);
 *	loop_run(loop);
 *
 * Somebody who has a way to wait of his own, as an io_uring is, can lend it to the loop: its work
 * then begins, and is waited for, in one system call (loop_lend_wait).
 */
#ifndef BASE_LOOP_H
#define BASE_LOOP_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct loop;
struct loop_fd;
struct loop_timer;
struct loop_kick;

int loop_new(struct loop **ret, struct error *err);
/* Frees what is still attached, too. NULL is allowed. */
void loop_free(struct loop *loop);
/* Runs until loop_stop(); may be run again. */
void loop_run(struct loop *loop);
/* Handles what is ready, waiting at most timeout_ms (-1: for ever); for tests. */
void loop_step(struct loop *loop, int timeout_ms);
void loop_stop(struct loop *loop);
/* Readable when loop_step() has work: for a program whose own poll() comes first. Not with a wait
 * that was lent. */
int loop_poll_fd(const struct loop *loop);

/*
 * wait: begins what is to begin, waits until poll_fd is readable or there is work of its own, at
 * most *timeout_ms (-1: for ever), of which it leaves 0, and does that work. True: poll_fd may be
 * readable. One that has nothing of its own to wait for leaves the waiting to the loop. begin: only
 * the first, for nobody may wait again for a while.
 */
struct loop_wait {
	bool (*wait)(void *user, int poll_fd, int *timeout_ms);
	void (*begin)(void *user);
	void *user;
};
/* Borrows wait, until loop_take_back. False: the loop has one already. */
bool loop_lend_wait(struct loop *loop, const struct loop_wait *wait);
void loop_take_back(struct loop *loop);

/* events: EPOLLIN, EPOLLOUT; the callback gets what epoll reported. Borrows fd. */
int loop_fd_add(struct loop *loop, int fd, uint32_t events,
		void (*ready)(void *user, uint32_t events), void *user, struct loop_fd **ret,
		struct error *err);
void loop_fd_set(struct loop_fd *lfd, uint32_t events);
/* Safe inside its own or another callback; NULL is allowed. Does not close the descriptor. */
void loop_fd_remove(struct loop_fd *lfd);

/* A timer fires once per arming, at a clock_now_ns() deadline. Re-arming replaces the deadline. */
int loop_timer_new(struct loop *loop, void (*fire)(void *user), void *user, struct loop_timer **ret,
		   struct error *err);
void loop_timer_arm(struct loop_timer *timer, uint64_t deadline_ns);
void loop_timer_cancel(struct loop_timer *timer);
void loop_timer_free(struct loop_timer *timer);

/*
 * A kick makes the loop call back soon; kicks that arrive before the call are merged into one.
 * loop_kick() is one atomic exchange when already pending: cheap enough for a VP thread. A kick
 * freed on the loop's thread never fires afterwards.
 */
int loop_kick_new(struct loop *loop, void (*kicked)(void *user), void *user, struct loop_kick **ret,
		  struct error *err);
void loop_kick(struct loop_kick *kick);
void loop_kick_free(struct loop_kick *kick);

/* Runs work(user) once on the loop. Never fails for the caller: memory for it is allocated. */
void loop_post(struct loop *loop, void (*work)(void *user), void *user);

#endif
