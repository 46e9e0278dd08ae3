#include "sandbox.h"

#include "base/log.h"
#include "base/macros.h"

#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/kvm.h>
#include <sched.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOBODY 65534

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
	snprintf(text, sizeof(text), "%d %u 1", NOBODY, uid);
	if (!write_file("/proc/self/uid_map", text))
		return false;
	snprintf(text, sizeof(text), "%d %u 1", NOBODY, gid);
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
	uid_t uid = getuid();
	gid_t gid = getgid();

	/* Root leaves its identity first, so that the namespace maps an ordinary user. */
	if (uid == 0) {
		if (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 ||
		    setresuid(NOBODY, NOBODY, NOBODY) < 0)
			return false;
		uid = gid = NOBODY;
		/* A change of user makes /proc/self root's; the maps must be writable once more. */
		prctl(PR_SET_DUMPABLE, 1);
	}
	if (unshare(CLONE_NEWUSER) < 0 || !map_ids(uid, gid))
		return false;
	if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0)
		return false;
	return empty_root();
}

static void drop_capabilities(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { 0 };

	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	syscall(SYS_capset, &header, data);
}

int sandbox_enter_namespaces(bool *ret_namespaces, struct error *err)
{
	struct rlimit none = { 0, 0 };

	setrlimit(RLIMIT_CORE, &none);
	*ret_namespaces = enter_namespaces();
	drop_capabilities();
	prctl(PR_SET_DUMPABLE, 0);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return error_set_errno(err, errno, "giving up the right to gain privileges");
	if (getuid() == 0)
		return error_set(err, ERR_DENIED, "the worker could not give up the root user");
	return 0;
}

static const int allowed_calls[] = {
	/* data */
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64),
	SCMP_SYS(pwrite64), SCMP_SYS(preadv), SCMP_SYS(pwritev), SCMP_SYS(preadv2),
	SCMP_SYS(pwritev2), SCMP_SYS(fsync), SCMP_SYS(fdatasync), SCMP_SYS(fallocate),
	SCMP_SYS(ftruncate), SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(statx),
	SCMP_SYS(lseek), SCMP_SYS(close), SCMP_SYS(dup), SCMP_SYS(fcntl), SCMP_SYS(sync_file_range),
	SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_setup), SCMP_SYS(io_uring_register),
	/* events */
	SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_pwait2), SCMP_SYS(epoll_ctl),
	SCMP_SYS(epoll_create1), SCMP_SYS(eventfd2), SCMP_SYS(timerfd_create),
	SCMP_SYS(timerfd_settime), SCMP_SYS(timerfd_gettime), SCMP_SYS(poll), SCMP_SYS(ppoll),
	/* sockets that were given, and what they accept */
	SCMP_SYS(accept4), SCMP_SYS(recvmsg), SCMP_SYS(sendmsg), SCMP_SYS(recvmmsg),
	SCMP_SYS(sendmmsg), SCMP_SYS(recvfrom), SCMP_SYS(sendto), SCMP_SYS(shutdown),
	SCMP_SYS(getsockopt), SCMP_SYS(setsockopt),
	/* memory */
	SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(brk),
	SCMP_SYS(memfd_create), SCMP_SYS(mlock), SCMP_SYS(munlock),
	/* threads, signals and time */
	SCMP_SYS(clone), SCMP_SYS(clone3), SCMP_SYS(futex), SCMP_SYS(set_robust_list),
	SCMP_SYS(rseq), SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(sched_yield),
	SCMP_SYS(sched_getaffinity), SCMP_SYS(sched_setaffinity), SCMP_SYS(gettid),
	SCMP_SYS(getpid), SCMP_SYS(tgkill), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigtimedwait), SCMP_SYS(sigaltstack),
	SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep), SCMP_SYS(nanosleep),
	SCMP_SYS(clock_getres), SCMP_SYS(gettimeofday), SCMP_SYS(restart_syscall),
	SCMP_SYS(getrandom), SCMP_SYS(prlimit64), SCMP_SYS(getrusage), SCMP_SYS(membarrier),
	SCMP_SYS(timer_create), SCMP_SYS(timer_settime), SCMP_SYS(timer_delete), /* part/kvm */
};

/* Nothing in the worker calls these: whoever does has taken it over. */
static const int deadly_calls[] = {
	SCMP_SYS(execve),     SCMP_SYS(execveat),
	SCMP_SYS(ptrace),     SCMP_SYS(fork),
	SCMP_SYS(vfork),      SCMP_SYS(bpf),
	SCMP_SYS(setns),      SCMP_SYS(unshare),
	SCMP_SYS(mount),      SCMP_SYS(chroot),
	SCMP_SYS(pivot_root), SCMP_SYS(init_module),
	SCMP_SYS(kexec_load), SCMP_SYS(process_vm_writev),
};

int sandbox_enter_filter(struct error *err)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int r = filter ? 0 : -ENOMEM;

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(allowed_calls); i++)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed_calls[i], 0);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(deadly_calls); i++)
		r = seccomp_rule_add(filter, SCMP_ACT_KILL_PROCESS, deadly_calls[i], 0);
	/* Of all ioctls only KVM's (type 0xAE). No memory becomes executable any more: the software
	 * CPU's generated code was mapped when the machine was made. */
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				     SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00, KVMIO << 8));
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
				     SCMP_A2(SCMP_CMP_MASKED_EQ, 0x4 /* PROT_EXEC */, 0));
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
				     SCMP_A2(SCMP_CMP_MASKED_EQ, 0x4 /* PROT_EXEC */, 0));
	/* softcpu's VP threads, where the host has no instruction for it */
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(arch_prctl), 1,
				     SCMP_A0(SCMP_CMP_EQ, ARCH_SET_GS));
	if (r == 0)
		r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
	if (r == 0)
		r = seccomp_load(filter);
	seccomp_release(filter);
	return r < 0 ? error_set_errno(err, -r, "installing the system call filter") : 0;
}
