/*
 * Runs inside a guest: 4 KiB requests past the page cache, and prints for each pattern
 * "result PATTERN SECONDS". Static, so that it runs in an initramfs.
 *	guest-io DEVICE MIB REQUESTS
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BLOCK   4096
#define THREADS 8

struct job {
	int fd;
	uint64_t blocks; /* of the device, as far as it is used */
	unsigned requests;
	int write, random;
	uint64_t seed;
};

static void *run(void *user)
{
	struct job *job = user;
	uint64_t at = 0, x = job->seed;
	void *buf;

	if (posix_memalign(&buf, BLOCK, BLOCK) != 0)
		exit(1);
	memset(buf, 0x5a, BLOCK);
	for (unsigned i = 0; i < job->requests; i++) {
		ssize_t n;

		if (job->random) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			at = x % job->blocks;
		} else {
			at = i % job->blocks;
		}
		n = job->write ? pwrite(job->fd, buf, BLOCK, (off_t)(at * BLOCK))
			       : pread(job->fd, buf, BLOCK, (off_t)(at * BLOCK));
		if (n != BLOCK) {
			perror("guest-io");
			exit(1);
		}
	}
	free(buf);
	return NULL;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void measure(const char *name, struct job job, unsigned threads)
{
	pthread_t thread[THREADS];
	struct job jobs[THREADS];
	double start = now();

	for (unsigned i = 0; i < threads; i++) {
		jobs[i] = job;
		jobs[i].seed = 88172645463325252ull + i;
		jobs[i].requests = job.requests / threads;
		pthread_create(&thread[i], NULL, run, &jobs[i]);
	}
	for (unsigned i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	printf("result %s %.4f\n", name, now() - start);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct job job = { .fd = argc == 4 ? open(argv[1], O_RDWR | O_DIRECT) : -1 };

	if (job.fd < 0) {
		fprintf(stderr, "usage: guest-io DEVICE MIB REQUESTS\n");
		return 2;
	}
	job.blocks = strtoull(argv[2], NULL, 10) * 256;
	job.requests = (unsigned)strtoul(argv[3], NULL, 10);
	measure("sequential-read", job, 1);
	measure("sequential-write", (struct job){ job.fd, job.blocks, job.requests, 1, 0, 0 }, 1);
	measure("random-read", (struct job){ job.fd, job.blocks, job.requests, 0, 1, 0 }, 1);
	measure("random-write", (struct job){ job.fd, job.blocks, job.requests, 1, 1, 0 }, 1);
	measure("random-read-8-deep", (struct job){ job.fd, job.blocks, job.requests, 0, 1, 0 },
		THREADS);
	measure("random-write-8-deep", (struct job){ job.fd, job.blocks, job.requests, 1, 1, 0 },
		THREADS);
	printf("result end 0\n");
	return 0;
}
