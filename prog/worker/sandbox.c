#include "sandbox.h"

#include "base/macros.h"
#include "rights/rights.h"

#include <asm/prctl.h>
#include <errno.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef OYAKO_SANITIZE
/* The leak checker traces its own process when it ends, which the filter takes for an intrusion. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}
#endif

static bool write_file(const char *path, const char *text)
{
	AUTO_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);

	return fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
}

/* In the new user namespace the worker is nobody; the mapping names its real ids. */
static bool map_ids(uid_t uid, gid_t gid)
{
	char text[64];

	if (!write_file("/proc/self/setgroups", "deny"))
		return false;
	snprintf(text, sizeof(text), "%d %u 1", RIGHTS_NOBODY, uid);
	if (!write_file("/proc/self/uid_map", text))
		return false;
	snprintf(text, sizeof(text), "%d %u 1", RIGHTS_NOBODY, gid);
	return write_file("/proc/self/gid_map", text);
}

/* An empty, read-only file system as root; the old one is gone afterwards. */
static bool empty_root(void)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return false;
	if (mount("none", "/tmp", "tmpfs", MS_NODEV | MS_NOEXEC | MS_NOSUID, "size=4k,mode=555") <
	    0)
		return false;
	if (chdir("/tmp") < 0 || syscall(SYS_pivot_root, ".", ".") < 0)
		return false;
	if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return false;
	return mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC,
		     NULL) == 0 ||
	       errno == EINVAL;
}

static bool enter_namespaces(void)
{
	/* Root leaves its identity first, so that the namespace maps an ordinary user. */
	if (rights_leave_root(NULL) < 0)
		return false;
	/* A change of user makes /proc/self root's; the maps must be writable once more. */
	prctl(PR_SET_DUMPABLE, 1);
	if (unshare(CLONE_NEWUSER) < 0 || !map_ids(geteuid(), getegid()))
		return false;
	if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0)
		return false;
	return empty_root();
}

int sandbox_enter_namespaces(bool *ret_namespaces, struct error *err)
{
	int r;

	*ret_namespaces = enter_namespaces();
	rights_drop_capabilities();
	r = rights_no_new(err);
	if (r < 0)
		return r;
	if (getuid() == 0)
		return error_set(err, ERR_DENIED, "the worker could not give up the root user");
	return 0;
}

static const int worker_calls[] = {
	/* data */
	SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(preadv), SCMP_SYS(pwritev),
	SCMP_SYS(preadv2), SCMP_SYS(pwritev2), SCMP_SYS(fsync), SCMP_SYS(fdatasync),
	SCMP_SYS(fallocate), SCMP_SYS(ftruncate), SCMP_SYS(statx), SCMP_SYS(sync_file_range),
	SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_setup), SCMP_SYS(io_uring_register),
	SCMP_SYS(timerfd_gettime),
	/* sockets that were given, and what they accept */
	SCMP_SYS(recvmmsg), SCMP_SYS(sendmmsg), SCMP_SYS(getsockopt), SCMP_SYS(setsockopt),
	/* memory */
	SCMP_SYS(memfd_create), SCMP_SYS(mlock), SCMP_SYS(munlock),
	/* threads, signals and time */
	SCMP_SYS(clone), SCMP_SYS(clone3), SCMP_SYS(sched_getaffinity), SCMP_SYS(sched_setaffinity),
	SCMP_SYS(rt_sigtimedwait), SCMP_SYS(clock_getres), SCMP_SYS(prlimit64),
	SCMP_SYS(membarrier), SCMP_SYS(timer_create), SCMP_SYS(timer_settime),
	SCMP_SYS(timer_delete), /* part/kvm */
};

/* Of all ioctls only KVM's (type 0xAE). No memory becomes executable any more: the software CPU's
 * generated code was mapped when the machine was made. Its VP threads set GS where the host has no
 * instruction for it. */
static const struct rights_call worker_some[] = {
	{ SCMP_SYS(ioctl), 1, 0xff00, KVMIO << 8 },
	RIGHTS_MPROTECT_NO_EXEC,
	RIGHTS_MMAP_NO_EXEC,
	{ SCMP_SYS(arch_prctl), 0, UINT64_MAX, ARCH_SET_GS },
};

int sandbox_enter_filter(struct error *err)
{
	const struct rights_filter filter = { worker_calls, ARRAY_SIZE(worker_calls), worker_some,
					      ARRAY_SIZE(worker_some) };

	return rights_filter(&filter, 1, err);
}
