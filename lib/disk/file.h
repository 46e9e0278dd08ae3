/*
 * An open file or block device with asynchronous operations: what disk formats stand on. Private to
 * this room. Engines: io_uring (file-uring.c), a thread pool (file-threads.c), blocking calls
 * (file-blocking.c, for offline work), memory (file-mem.h, for tests and fuzzing).
 *
 * The caller owns struct file_request and its buffers until done(), which runs on the loop's thread
 * (or inside file_wait) and never inside file_submit. Short transfers are continued by this layer;
 * what is read beyond the end is zeros. Operations in flight are not ordered among each other:
 * FILE_SYNC covers what was done() before it was submitted.
 *
 * System calls, for the worker's seccomp filter (open: disk_open; run: until blk_close):
 *   io_uring  open: io_uring_setup io_uring_register mmap munmap lseek fstat fcntl epoll_ctl close
 *             run:  io_uring_enter ftruncate (growing a VHDX) fcntl epoll_ctl munmap close
 *             io_uring_register (when it is closed)
 *   threads   open: clone3 (or clone) mmap mprotect set_robust_list rseq rt_sigprocmask lseek fstat
 * fcntl run:  preadv pwritev fdatasync fallocate ftruncate futex; at close madvise munmap exit
 */
#ifndef DISK_FILE_H
#define DISK_FILE_H

#include "base/loop.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

enum file_op {
	FILE_READ,
	FILE_WRITE,
	FILE_WRITE_DURABLE, /* this write alone is durable before done() */
	FILE_SYNC,          /* data and what is needed to find it is durable */
	FILE_ZERO,          /* the range reads as zeros; its space stays reserved */
	FILE_PUNCH,   /* the range reads as zeros; its space is given back where the host can */
	FILE_DISCARD, /* as FILE_PUNCH, but fails with -EOPNOTSUPP where the host can't */
};

struct file_request {
	enum file_op op;
	uint64_t offset, length;
	const struct iovec *iov; /* FILE_READ, FILE_WRITE: lengths add up to length */
	unsigned iov_count;
	void (*done)(struct file_request *req, int result); /* 0 or -errno */

	/* This layer's while the request is in flight. */
	struct file *file;
	struct file_request *next;
	uint64_t progress_bytes;
	bool write_zeros; /* FILE_ZERO and FILE_PUNCH where the host has no fallocate */
	int result;
	struct iovec piece;
	uint8_t *bounce; /* direct I/O whose own memory isn't aligned */
};

struct file_ops {
	const char *name;
	/* Starts the piece that file_piece() describes. */
	void (*submit)(struct file *file, struct file_request *req);
	/* Blocks until at least one request in flight moved on. */
	void (*wait)(struct file *file);
	/* May be NULL. */
	void (*plug)(struct file *file);
	void (*unplug)(struct file *file);
	int (*set_size)(struct file *file, uint64_t size_bytes);
	/* NULL: everything is data. */
	int (*extent)(struct file *file, uint64_t offset, bool *ret_data, uint64_t *ret_end);
	void (*free)(struct file *file, bool close_fd);
};

struct file {
	const struct file_ops *ops;
	uint64_t size_bytes; /* as of open and of file_set_size; writes must stay inside */
	unsigned in_flight;
	struct file_request *deferred, **deferred_tail;
	unsigned deferred_count;
	struct loop_kick *kick;
	uint32_t direct_align; /* of memory; 0: no direct I/O */
	int direct_fd;
	struct bounce_pool *bounces;
};

/* 0, or after half a second -ERR_BUSY when another process has the file open in a way that excludes
 * it (open file description locks: one writer, or any number of readers). Where the file system has
 * no locks, none is taken. */
int file_lock(int fd, bool exclusive, struct error *err);
void file_unlock(int fd);

/* Take fd on success: file_close unlocks and closes it. */
int file_open_uring(struct loop *loop, int fd, struct file **ret, struct error *err);
int file_open_threads(struct loop *loop, int fd, unsigned thread_count, struct file **ret,
		      struct error *err);

/* An engine without threads and loop, for offline work: only file_wait (and so the blocking forms)
 * completes anything. Takes the lock. file_abandon gives fd back. */
enum file_locking { FILE_UNLOCKED, FILE_SHARED, FILE_EXCLUSIVE };
int file_open_blocking(int fd, enum file_locking locking, struct file **ret, struct error *err);

/* Direct I/O from now on until the file is closed, if the host can do it for any whole sector of
 * 512 bytes and the file is made of whole sectors; else nothing changes. Memory that isn't aligned
 * as the host wants it is bounced. All transfers must be whole sectors from now on. */
void file_bypass_cache(struct file *file, int fd);

void file_submit(struct file *file, struct file_request *req);
/* req->done(req, result) soon, on the loop. */
void file_defer(struct file *file, struct file_request *req, int result);
/* Blocks until something moved on; done() callbacks run inside. Only while in_flight > 0. */
void file_wait(struct file *file);
void file_plug(struct file *file);
void file_unplug(struct file *file);
/* 0 or -errno. May block for a moment. New bytes are zeros. */
int file_set_size(struct file *file, uint64_t size_bytes);
/* Whether the host has data at offset (< size_bytes) or a hole, and where that run ends (at most
 * size_bytes). 0 or -errno. */
int file_extent(struct file *file, uint64_t offset, bool *ret_data, uint64_t *ret_end);
/* Nothing is in flight. */
void file_close(struct file *file);
/* As file_close, but the descriptor stays open and the caller's. */
void file_abandon(struct file *file);

/* Blocking forms for opening and closing: 0 or -errno. */
int file_read_now(struct file *file, uint64_t offset, void *buf, size_t len);
int file_write_now(struct file *file, uint64_t offset, const void *buf, size_t len);
int file_write_durable_now(struct file *file, uint64_t offset, const void *buf, size_t len);
int file_zero_now(struct file *file, uint64_t offset, uint64_t len);
int file_punch_now(struct file *file, uint64_t offset, uint64_t len);
int file_sync_now(struct file *file);

/* ---- for engines ---- */

int file_init(struct file *file, const struct file_ops *ops, struct loop *loop, uint64_t size_bytes,
	      struct error *err);
void file_done(struct file *file);
/* What the engine has to do next for req: for a transfer the iovec and the offset. */
enum file_op file_piece(struct file_request *req, const struct iovec **iov, unsigned *iov_count,
			uint64_t *offset);
/* Does it by a system call: bytes or -errno. Any thread. */
int64_t file_perform(int fd, struct file_request *req);
/* Takes a piece's result (bytes or -errno); true when the request is finished, with req->result.
 * Touches only req: any thread. */
bool file_advance(struct file_request *req, int64_t piece_result);
/* Gives a finished request back. */
void file_finish(struct file_request *req);
/* file_extent of an open file. */
int file_extent_of_fd(int fd, uint64_t offset, bool *ret_data, uint64_t *ret_end);
/* The fallocate mode of FILE_ZERO, FILE_PUNCH and FILE_DISCARD. */
int file_fallocate_mode(enum file_op op);

#endif
