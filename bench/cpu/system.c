/* What goes through the kernel: calls, faults, processes, pipes, signals. */
#include "parts.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

uint64_t part_syscall(uint64_t ops)
{
	uint64_t same = 0;
	long parent = getppid();

	for (uint64_t i = 0; i < ops; i++)
		same += syscall(SYS_getppid) == parent;
	return same;
}

uint64_t part_read(uint64_t ops)
{
	static uint8_t buf[4096];
	int fd = open("/dev/zero", O_RDONLY);
	uint64_t got = 0;

	if (fd < 0)
		die("/dev/zero");
	for (uint64_t i = 0; i < ops; i++)
		got += (uint64_t)read(fd, buf, sizeof(buf)) + buf[i & 4095];
	close(fd);
	return got;
}

#define PAGE 4096u

static uint8_t *pages(uint64_t count)
{
	uint8_t *p =
	    mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	madvise(p, count * PAGE, MADV_NOHUGEPAGE);
	return p;
}

/* First touches of fresh pages, 256 at a time. */
uint64_t part_page_fault(uint64_t ops)
{
	uint64_t sum = 0;

	for (uint64_t done = 0; done < ops; done += 256) {
		volatile uint8_t *p = pages(256);

		for (unsigned i = 0; i < 256; i++) {
			sum += p[i * PAGE] + 1u;
			p[i * PAGE] = (uint8_t)i;
		}
		munmap((void *)p, 256 * PAGE);
	}
	return sum;
}

uint64_t part_mprotect(uint64_t ops)
{
	volatile uint8_t *p = pages(8);
	uint64_t sum = 0;

	for (uint64_t i = 0; i < ops; i++) {
		mprotect((void *)p, 8 * PAGE, PROT_READ);
		sum += p[(i & 7) * PAGE];
		mprotect((void *)p, 8 * PAGE, PROT_READ | PROT_WRITE);
		p[(i & 7) * PAGE] = (uint8_t)(i + 1);
	}
	munmap((void *)p, 8 * PAGE);
	return sum;
}

static uint64_t wait_for(pid_t child)
{
	int status;

	if (child < 0)
		die("fork");
	if (waitpid(child, &status, 0) != child)
		die("waitpid");
	return (uint64_t)status;
}

uint64_t part_fork(uint64_t ops)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < ops; i++) {
		pid_t child = fork();

		if (child == 0)
			_exit((int)(i & 63));
		sum += wait_for(child);
	}
	return sum;
}

static uint64_t run_often(const char *path, char *const argv[], uint64_t ops)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < ops; i++) {
		pid_t child = fork();

		if (child == 0) {
			execv(path, argv);
			_exit(127);
		}
		sum += wait_for(child) + 1;
	}
	return sum;
}

uint64_t part_exec(uint64_t ops)
{
	static char *const argv[] = { "cpu-bench", "exit", NULL };

	return run_often("/proc/self/exe", argv, ops);
}

/* Of another program, which lies beside this one. */
uint64_t part_exec_dynamic(uint64_t ops)
{
	static char *const argv[] = { "child", NULL };
	char path[4096];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 8);

	if (n < 0)
		die("/proc/self/exe");
	strcpy(path + n, "-child");
	return run_often(path, argv, ops);
}

static void echo(int in, int out)
{
	uint8_t v;

	while (read(in, &v, 1) == 1) {
		v ^= 0x5a;
		if (write(out, &v, 1) != 1)
			_exit(1);
	}
	_exit(0);
}

/* A byte to another process and back. */
uint64_t part_pipe(uint64_t ops)
{
	int there[2], back[2];
	uint64_t sum = 0;
	pid_t child;

	if (pipe(there) < 0 || pipe(back) < 0)
		die("pipe");
	child = fork();
	if (child == 0) {
		close(there[1]);
		echo(there[0], back[1]);
	}
	close(there[0]);
	for (uint64_t i = 0; i < ops; i++) {
		uint8_t v = (uint8_t)i;

		if (write(there[1], &v, 1) != 1 || read(back[0], &v, 1) != 1)
			die("pipe");
		sum = sum * 31 + v;
	}
	close(there[1]);
	wait_for(child);
	close(back[0]);
	close(back[1]);
	return sum;
}

static volatile uint64_t signals;

static void count_signal(int number)
{
	(void)number;
	signals++;
}

uint64_t part_signal(uint64_t ops)
{
	struct sigaction action = { .sa_handler = count_signal };

	signals = 0;
	sigaction(SIGUSR1, &action, NULL);
	for (uint64_t i = 0; i < ops; i++)
		raise(SIGUSR1);
	return signals;
}

static sigjmp_buf after_fault;

static void leave_fault(int number)
{
	signals += (uint64_t)number;
	siglongjmp(after_fault, 1);
}

uint64_t part_fault_signal(uint64_t ops)
{
	struct sigaction action = { .sa_handler = leave_fault }, before;
	volatile uint8_t *p = pages(1);
	volatile uint64_t i;

	mprotect((void *)p, PAGE, PROT_NONE);
	signals = 0;
	sigaction(SIGSEGV, &action, &before);
	for (i = 0; i < ops; i++)
		if (sigsetjmp(after_fault, 1) == 0)
			*p = 1;
	sigaction(SIGSEGV, &before, NULL);
	munmap((void *)p, PAGE);
	return signals;
}

static void *add_one(void *user)
{
	__atomic_fetch_add((uint64_t *)user, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

uint64_t part_threads(uint64_t ops)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < ops; i++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, add_one, &sum) != 0)
			die("pthread_create");
		pthread_join(thread, NULL);
	}
	return sum;
}
