#include "base/loop.h"

#include "base/clock.h"
#include "base/macros.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define EVENTS_PER_WAIT 32

struct loop_fd {
	struct loop *loop;
	int fd;
	void (*ready)(void *user, uint32_t events);
	void *user;
	bool removed;
	struct loop_fd *next;      /* in loop->fds */
	struct loop_fd *next_dead; /* in loop->dead_fds: freed after the batch that may name it */
};

struct loop_timer {
	struct loop *loop;
	void (*fire)(void *user);
	void *user;
	uint64_t deadline_ns; /* 0: not armed */
	struct loop_timer *next;
};

struct loop_kick {
	struct loop *loop;
	void (*kicked)(void *user);
	void *user;
	int pending;            /* atomic: queued, or about to be */
	bool freed;             /* loop thread only */
	struct loop_kick *next; /* in loop->kicks */
};

struct work {
	void (*run)(void *user);
	void *user;
	struct work *next;
};

/*
 * The lock guards the timer list, the kick list and the posted work; callbacks run without it.
 * wake_fd interrupts epoll_wait; the timerfd holds the earliest deadline.
 */
struct loop {
	int epoll_fd, wake_fd, timer_fd;
	bool stop; /* atomic */
	int awake; /* atomic: wake_fd is written, or about to be, and not read yet */
	struct loop_fd *fds, *dead_fds;
	pthread_mutex_t lock;
	struct loop_timer *timers;
	uint64_t programmed_ns; /* what timer_fd is set to; 0: disarmed */
	struct loop_kick *kicks, **kicks_tail;
	struct work *works, **works_tail;
	const struct loop_wait *lent; /* NULL: epoll_wait is what it waits in */
};

static void wake(struct loop *loop)
{
	uint64_t one = 1;

	if (__atomic_exchange_n(&loop->awake, 1, __ATOMIC_SEQ_CST) == 0)
		while (write(loop->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
			;
}

static int add_internal(struct loop *loop, int fd)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = NULL };

	return epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

int loop_new(struct loop **ret, struct error *err)
{
	struct loop *loop = calloc(1, sizeof(*loop));

	if (!loop)
		return error_set(err, ERR_NO_MEMORY, "no memory for an event loop");
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	pthread_mutex_init(&loop->lock, NULL);
	loop->kicks_tail = &loop->kicks;
	loop->works_tail = &loop->works;
	if (loop->epoll_fd < 0 || loop->wake_fd < 0 || loop->timer_fd < 0 ||
	    add_internal(loop, loop->wake_fd) < 0 || add_internal(loop, loop->timer_fd) < 0) {
		int e = errno;

		loop_free(loop);
		return error_set_errno(err, e, "creating an event loop");
	}
	*ret = loop;
	return 0;
}

static void free_dead_fds(struct loop *loop)
{
	while (loop->dead_fds) {
		struct loop_fd *lfd = loop->dead_fds;

		loop->dead_fds = lfd->next_dead;
		free(lfd);
	}
}

void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	while (loop->fds)
		loop_fd_remove(loop->fds);
	free_dead_fds(loop);
	while (loop->timers)
		loop_timer_free(loop->timers);
	while (loop->works) {
		struct work *work = loop->works;

		loop->works = work->next;
		free(work);
	}
	while (loop->kicks) {
		struct loop_kick *kick = loop->kicks;

		loop->kicks = kick->next;
		if (kick->freed)
			free(kick);
	}
	pthread_mutex_destroy(&loop->lock);
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	if (loop->timer_fd >= 0)
		close(loop->timer_fd);
	free(loop);
}

/* ---- descriptors ---- */

int loop_fd_add(struct loop *loop, int fd, uint32_t events,
		void (*ready)(void *user, uint32_t events), void *user, struct loop_fd **ret,
		struct error *err)
{
	struct loop_fd *lfd = calloc(1, sizeof(*lfd));
	struct epoll_event event = { .events = events, .data.ptr = lfd };

	if (!lfd)
		return error_set(err, ERR_NO_MEMORY, "no memory to watch a descriptor");
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
		int e = errno;

		free(lfd);
		return error_set_errno(err, e, "watching descriptor %d", fd);
	}
	*lfd = (struct loop_fd){ loop, fd, ready, user, false, loop->fds, NULL };
	loop->fds = lfd;
	*ret = lfd;
	return 0;
}

void loop_fd_set(struct loop_fd *lfd, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = lfd };

	epoll_ctl(lfd->loop->epoll_fd, EPOLL_CTL_MOD, lfd->fd, &event);
}

void loop_fd_remove(struct loop_fd *lfd)
{
	struct loop_fd **link;

	if (!lfd)
		return;
	epoll_ctl(lfd->loop->epoll_fd, EPOLL_CTL_DEL, lfd->fd, NULL);
	for (link = &lfd->loop->fds; *link != lfd; link = &(*link)->next)
		;
	*link = lfd->next;
	lfd->removed = true;
	lfd->next_dead = lfd->loop->dead_fds;
	lfd->loop->dead_fds = lfd;
}

/* ---- timers ---- */

/* Sets the timerfd to the earliest deadline. Caller holds the lock. */
static void program_timer(struct loop *loop)
{
	uint64_t earliest = 0;
	struct itimerspec spec = { 0 };

	for (struct loop_timer *t = loop->timers; t; t = t->next)
		if (t->deadline_ns && (!earliest || t->deadline_ns < earliest))
			earliest = t->deadline_ns;
	if (earliest == loop->programmed_ns)
		return;
	loop->programmed_ns = earliest;
	spec.it_value.tv_sec = (time_t)(earliest / NS_PER_SEC);
	spec.it_value.tv_nsec = (long)(earliest % NS_PER_SEC);
	timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

int loop_timer_new(struct loop *loop, void (*fire)(void *user), void *user, struct loop_timer **ret,
		   struct error *err)
{
	struct loop_timer *timer = calloc(1, sizeof(*timer));

	if (!timer)
		return error_set(err, ERR_NO_MEMORY, "no memory for a timer");
	*timer = (struct loop_timer){ loop, fire, user, 0, NULL };
	pthread_mutex_lock(&loop->lock);
	timer->next = loop->timers;
	loop->timers = timer;
	pthread_mutex_unlock(&loop->lock);
	*ret = timer;
	return 0;
}

static void set_deadline(struct loop_timer *timer, uint64_t deadline_ns)
{
	struct loop *loop = timer->loop;

	pthread_mutex_lock(&loop->lock);
	timer->deadline_ns = deadline_ns;
	/* A later or no deadline need not be programmed: the timerfd then fires once for nothing.
	 */
	if (deadline_ns && (!loop->programmed_ns || deadline_ns < loop->programmed_ns))
		program_timer(loop);
	pthread_mutex_unlock(&loop->lock);
}

void loop_timer_arm(struct loop_timer *timer, uint64_t deadline_ns)
{
	set_deadline(timer, deadline_ns ? deadline_ns : 1);
}

void loop_timer_cancel(struct loop_timer *timer)
{
	set_deadline(timer, 0);
}

void loop_timer_free(struct loop_timer *timer)
{
	struct loop_timer **link;
	struct loop *loop;

	if (!timer)
		return;
	loop = timer->loop;
	pthread_mutex_lock(&loop->lock);
	for (link = &loop->timers; *link != timer; link = &(*link)->next)
		;
	*link = timer->next;
	pthread_mutex_unlock(&loop->lock);
	free(timer);
}

/* Takes one timer that is due out of the list; false if there is none. */
static bool take_due(struct loop *loop, uint64_t now, void (**fire)(void *), void **user)
{
	struct loop_timer *timer;
	bool due = false;

	pthread_mutex_lock(&loop->lock);
	for (timer = loop->timers; timer; timer = timer->next)
		if (timer->deadline_ns && timer->deadline_ns <= now)
			break;
	if (timer) {
		timer->deadline_ns = 0;
		*fire = timer->fire;
		*user = timer->user;
		due = true;
	} else {
		program_timer(loop);
	}
	pthread_mutex_unlock(&loop->lock);
	return due;
}

static void run_timers(struct loop *loop)
{
	uint64_t now = clock_now_ns(), count, programmed_ns;
	void (*fire)(void *user);
	void *user;

	/* Most steps come from descriptors; they need not ask the kernel. */
	pthread_mutex_lock(&loop->lock);
	programmed_ns = loop->programmed_ns;
	pthread_mutex_unlock(&loop->lock);
	if (!programmed_ns || programmed_ns > now)
		return;
	if (read(loop->timer_fd, &count, sizeof(count)) == (ssize_t)sizeof(count)) {
		pthread_mutex_lock(&loop->lock);
		loop->programmed_ns = 0;
		pthread_mutex_unlock(&loop->lock);
	} else if (errno == EAGAIN) {
		return;
	}
	while (take_due(loop, now, &fire, &user))
		fire(user);
}

/* ---- kicks and posted work ---- */

int loop_kick_new(struct loop *loop, void (*kicked)(void *user), void *user, struct loop_kick **ret,
		  struct error *err)
{
	struct loop_kick *kick = calloc(1, sizeof(*kick));

	if (!kick)
		return error_set(err, ERR_NO_MEMORY, "no memory for a loop kick");
	*kick = (struct loop_kick){ loop, kicked, user, 0, false, NULL };
	*ret = kick;
	return 0;
}

void loop_kick(struct loop_kick *kick)
{
	struct loop *loop = kick->loop;

	if (__atomic_exchange_n(&kick->pending, 1, __ATOMIC_SEQ_CST))
		return;
	pthread_mutex_lock(&loop->lock);
	kick->next = NULL;
	*loop->kicks_tail = kick;
	loop->kicks_tail = &kick->next;
	pthread_mutex_unlock(&loop->lock);
	wake(loop);
}

void loop_kick_free(struct loop_kick *kick)
{
	if (!kick)
		return;
	/* A queued kick is freed when its turn comes. Claiming `pending` keeps it off the queue. */
	kick->freed = true;
	if (__atomic_exchange_n(&kick->pending, 1, __ATOMIC_SEQ_CST) == 0)
		free(kick);
}

static struct loop_kick *take_kick(struct loop *loop)
{
	struct loop_kick *kick;

	pthread_mutex_lock(&loop->lock);
	kick = loop->kicks;
	if (kick) {
		loop->kicks = kick->next;
		if (!loop->kicks)
			loop->kicks_tail = &loop->kicks;
	}
	pthread_mutex_unlock(&loop->lock);
	return kick;
}

void loop_post(struct loop *loop, void (*work_fn)(void *user), void *user)
{
	struct work *work = malloc(sizeof(*work));

	if (!work)
		abort(); /* a few bytes: the host is beyond help */
	*work = (struct work){ work_fn, user, NULL };
	pthread_mutex_lock(&loop->lock);
	*loop->works_tail = work;
	loop->works_tail = &work->next;
	pthread_mutex_unlock(&loop->lock);
	wake(loop);
}

static struct work *take_work(struct loop *loop)
{
	struct work *work;

	pthread_mutex_lock(&loop->lock);
	work = loop->works;
	if (work) {
		loop->works = work->next;
		if (!loop->works)
			loop->works_tail = &loop->works;
	}
	pthread_mutex_unlock(&loop->lock);
	return work;
}

/* One pass over what is queued; what callbacks add waits for the next round, so that descriptors
 * and timers get their turn. */
static void run_queued(struct loop *loop)
{
	struct loop_kick *kick;
	struct work *work;
	uint64_t count;
	ssize_t n;

	if (!__atomic_load_n(&loop->awake, __ATOMIC_SEQ_CST))
		return;
	while ((n = read(loop->wake_fd, &count, sizeof(count))) < 0 && errno == EINTR)
		;
	/* Else who wakes has said so and is about to write: that has to be read, too. */
	if (n > 0)
		__atomic_store_n(&loop->awake, 0, __ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < 64 && (kick = take_kick(loop)); i++) {
		if (kick->freed) {
			free(kick);
			continue;
		}
		/* From here on a new kick queues again. */
		__atomic_store_n(&kick->pending, 0, __ATOMIC_SEQ_CST);
		kick->kicked(kick->user);
	}
	for (unsigned i = 0; i < 64 && (work = take_work(loop)); i++) {
		work->run(work->user);
		free(work);
	}
	pthread_mutex_lock(&loop->lock);
	if (loop->kicks || loop->works) {
		pthread_mutex_unlock(&loop->lock);
		wake(loop);
		return;
	}
	pthread_mutex_unlock(&loop->lock);
}

/* ---- running ---- */

bool loop_lend_wait(struct loop *loop, const struct loop_wait *wait)
{
	if (loop->lent)
		return false;
	loop->lent = wait;
	return true;
}

void loop_take_back(struct loop *loop)
{
	loop->lent = NULL;
}

static int wait_for_events(struct loop *loop, struct epoll_event *events, int timeout_ms)
{
	if (loop->lent && !loop->lent->wait(loop->lent->user, loop->epoll_fd, &timeout_ms))
		return 0;
	return epoll_wait(loop->epoll_fd, events, EVENTS_PER_WAIT, timeout_ms);
}

void loop_step(struct loop *loop, int timeout_ms)
{
	struct epoll_event events[EVENTS_PER_WAIT];
	int count = wait_for_events(loop, events, timeout_ms);

	run_queued(loop);
	run_timers(loop);
	for (int i = 0; i < count; i++) {
		struct loop_fd *lfd = events[i].data.ptr;

		if (lfd && !lfd->removed)
			lfd->ready(lfd->user, events[i].events);
	}
	free_dead_fds(loop);
}

void loop_run(struct loop *loop)
{
	while (!__atomic_load_n(&loop->stop, __ATOMIC_ACQUIRE))
		loop_step(loop, -1);
	__atomic_store_n(&loop->stop, false, __ATOMIC_RELEASE);
	if (loop->lent)
		loop->lent->begin(loop->lent->user);
}

void loop_stop(struct loop *loop)
{
	__atomic_store_n(&loop->stop, true, __ATOMIC_RELEASE);
	wake(loop);
}

int loop_poll_fd(const struct loop *loop)
{
	return loop->epoll_fd;
}
