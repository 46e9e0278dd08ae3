/*
 * The thread-pool engine, for hosts that refuse io_uring. Threads take requests from one queue and
 * put finished ones into another; a kick makes the loop give them back.
 */
#include "disk/file.h"

#include "base/macros.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define MAX_THREADS 16u

struct file_threads {
	struct file file;
	int fd;
	struct loop_kick *finished_kick;
	pthread_t threads[MAX_THREADS];
	unsigned thread_count;
	/* The lock guards what follows. */
	pthread_mutex_t lock;
	pthread_cond_t work, finished_some;
	bool stop;
	struct file_request *queue, **queue_tail;
	struct file_request *finished, **finished_tail;
};

/* The next request, or NULL when the pool ends. Called and returns with the lock held. */
static struct file_request *next_request(struct file_threads *f)
{
	struct file_request *req;

	while (!f->queue && !f->stop)
		pthread_cond_wait(&f->work, &f->lock);
	req = f->queue;
	if (req) {
		f->queue = req->next;
		if (!f->queue)
			f->queue_tail = &f->queue;
	}
	return req;
}

static void *thread_main(void *user)
{
	struct file_threads *f = user;
	struct file_request *req;

	pthread_mutex_lock(&f->lock);
	while ((req = next_request(f))) {
		pthread_mutex_unlock(&f->lock);
		while (!file_advance(req, file_perform(f->fd, req)))
			;
		pthread_mutex_lock(&f->lock);
		req->next = NULL;
		*f->finished_tail = req;
		f->finished_tail = &req->next;
		pthread_cond_signal(&f->finished_some);
		loop_kick(f->finished_kick);
	}
	pthread_mutex_unlock(&f->lock);
	return NULL;
}

static void threads_submit(struct file *file, struct file_request *req)
{
	struct file_threads *f = container_of(file, struct file_threads, file);

	req->next = NULL;
	pthread_mutex_lock(&f->lock);
	*f->queue_tail = req;
	f->queue_tail = &req->next;
	pthread_cond_signal(&f->work);
	pthread_mutex_unlock(&f->lock);
}

/* A finished request. Without `block`: or NULL when there is none yet. */
static struct file_request *take_finished(struct file_threads *f, bool block)
{
	struct file_request *req;

	pthread_mutex_lock(&f->lock);
	while (block && !f->finished)
		pthread_cond_wait(&f->finished_some, &f->lock);
	req = f->finished;
	if (req) {
		f->finished = req->next;
		if (!f->finished)
			f->finished_tail = &f->finished;
	}
	pthread_mutex_unlock(&f->lock);
	return req;
}

static void threads_kicked(void *user)
{
	struct file_request *req;

	/* One at a time: a callback may wait for another request of the list. */
	while ((req = take_finished(user, false)))
		file_finish(req);
}

static void threads_wait(struct file *file)
{
	file_finish(take_finished(container_of(file, struct file_threads, file), true));
}

static int threads_set_size(struct file *file, uint64_t size_bytes)
{
	struct file_threads *f = container_of(file, struct file_threads, file);

	return ftruncate(f->fd, (off_t)size_bytes) < 0 ? -errno : 0;
}

static int threads_extent(struct file *file, uint64_t offset, bool *ret_data, uint64_t *ret_end)
{
	return file_extent_of_fd(container_of(file, struct file_threads, file)->fd, offset,
				 ret_data, ret_end);
}

static void threads_free(struct file *file, bool close_fd)
{
	struct file_threads *f = container_of(file, struct file_threads, file);

	pthread_mutex_lock(&f->lock);
	f->stop = true;
	pthread_cond_broadcast(&f->work);
	pthread_mutex_unlock(&f->lock);
	for (unsigned i = 0; i < f->thread_count; i++)
		pthread_join(f->threads[i], NULL);
	loop_kick_free(f->finished_kick);
	file_done(&f->file);
	pthread_mutex_destroy(&f->lock);
	pthread_cond_destroy(&f->work);
	pthread_cond_destroy(&f->finished_some);
	file_unlock(f->fd);
	if (close_fd)
		close(f->fd);
	free(f);
}

static const struct file_ops threads_ops = {
	.name = "threads",
	.submit = threads_submit,
	.wait = threads_wait,
	.set_size = threads_set_size,
	.extent = threads_extent,
	.free = threads_free,
};

static int start_threads(struct file_threads *f, unsigned thread_count, struct error *err)
{
	sigset_t all, old;
	int rc = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (f->thread_count < MIN(thread_count, MAX_THREADS) && rc == 0) {
		rc = pthread_create(&f->threads[f->thread_count], NULL, thread_main, f);
		f->thread_count += rc == 0;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	/* Fewer than wanted is slower, none is a failure. */
	return f->thread_count == 0 ? error_set_errno(err, rc, "starting a disk thread") : 0;
}

int file_open_threads(struct loop *loop, int fd, unsigned thread_count, struct file **ret,
		      struct error *err)
{
	struct file_threads *f = calloc(1, sizeof(*f));
	off_t size = lseek(fd, 0, SEEK_END);
	int rc;

	if (size < 0) {
		rc = error_set_errno(err, errno, "reading the size of the disk's file");
		free(f);
		return rc;
	}
	if (!f)
		return error_set(err, ERR_NO_MEMORY, "no memory for a disk");
	f->fd = fd;
	f->queue_tail = &f->queue;
	f->finished_tail = &f->finished;
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->work, NULL);
	pthread_cond_init(&f->finished_some, NULL);
	rc = file_init(&f->file, &threads_ops, loop, (uint64_t)size, err);
	if (rc == 0)
		rc = loop_kick_new(loop, threads_kicked, f, &f->finished_kick, err);
	if (rc == 0)
		rc = start_threads(f, thread_count, err);
	if (rc < 0) {
		threads_free(&f->file, false);
		return rc;
	}
	*ret = &f->file;
	return 0;
}
