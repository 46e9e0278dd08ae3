#include "rights/rights.h"

#include "base/macros.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

int rights_no_new(struct error *err)
{
	struct rlimit none = { 0, 0 };

	setrlimit(RLIMIT_CORE, &none);
	prctl(PR_SET_DUMPABLE, 0);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return error_set_errno(err, errno, "giving up the right to gain privileges");
	return 0;
}

int rights_leave_root(struct error *err)
{
	if (getuid() != 0)
		return 0;
	if (setgroups(0, NULL) < 0 || setresgid(RIGHTS_NOBODY, RIGHTS_NOBODY, RIGHTS_NOBODY) < 0 ||
	    setresuid(RIGHTS_NOBODY, RIGHTS_NOBODY, RIGHTS_NOBODY) < 0)
		return error_set_errno(err, errno, "giving up the root user");
	return 0;
}

void rights_drop_capabilities(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { 0 };

	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	syscall(SYS_capset, &header, data);
}

/* ---- system calls ---- */

static const int common_calls[] = {
	/* data of what is open */
	SCMP_SYS(read),
	SCMP_SYS(write),
	SCMP_SYS(readv),
	SCMP_SYS(writev),
	SCMP_SYS(close),
	SCMP_SYS(fstat),
	SCMP_SYS(newfstatat),
	SCMP_SYS(lseek),
	SCMP_SYS(fcntl),
	SCMP_SYS(dup),
	SCMP_SYS(accept4),
	SCMP_SYS(recvmsg),
	SCMP_SYS(sendmsg),
	SCMP_SYS(recvfrom),
	SCMP_SYS(sendto),
	SCMP_SYS(shutdown),
	/* events */
	SCMP_SYS(epoll_wait),
	SCMP_SYS(epoll_pwait),
	SCMP_SYS(epoll_pwait2),
	SCMP_SYS(epoll_ctl),
	SCMP_SYS(epoll_create1),
	SCMP_SYS(eventfd2),
	SCMP_SYS(timerfd_create),
	SCMP_SYS(timerfd_settime),
	SCMP_SYS(poll),
	SCMP_SYS(ppoll),
	/* memory */
	SCMP_SYS(munmap),
	SCMP_SYS(mremap),
	SCMP_SYS(madvise),
	SCMP_SYS(brk),
	/* threads, signals and time */
	SCMP_SYS(futex),
	SCMP_SYS(set_robust_list),
	SCMP_SYS(rseq),
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
	SCMP_SYS(sched_yield),
	SCMP_SYS(gettid),
	SCMP_SYS(getpid),
	SCMP_SYS(tgkill),
	SCMP_SYS(rt_sigaction),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(sigaltstack),
	SCMP_SYS(clock_gettime),
	SCMP_SYS(clock_nanosleep),
	SCMP_SYS(nanosleep),
	SCMP_SYS(gettimeofday),
	SCMP_SYS(restart_syscall),
	SCMP_SYS(getrandom),
	SCMP_SYS(getrusage),
};

/* Nothing of ours calls these behind a filter: whoever does has taken the program over. */
static const int deadly_calls[] = {
	SCMP_SYS(execve),     SCMP_SYS(execveat),
	SCMP_SYS(ptrace),     SCMP_SYS(fork),
	SCMP_SYS(vfork),      SCMP_SYS(bpf),
	SCMP_SYS(setns),      SCMP_SYS(unshare),
	SCMP_SYS(mount),      SCMP_SYS(chroot),
	SCMP_SYS(pivot_root), SCMP_SYS(init_module),
	SCMP_SYS(kexec_load), SCMP_SYS(process_vm_writev),
};

static int add_calls(scmp_filter_ctx ctx, uint32_t action, const int *calls, size_t count)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < count; i++)
		r = seccomp_rule_add(ctx, action, calls[i], 0);
	return r;
}

static int add_filter(scmp_filter_ctx ctx, const struct rights_filter *f)
{
	int r = add_calls(ctx, SCMP_ACT_ALLOW, f->calls, f->call_count);

	for (size_t i = 0; r == 0 && i < f->some_count; i++) {
		const struct rights_call *s = &f->some[i];

		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, s->call, 1,
				     SCMP_CMP(s->argument, SCMP_CMP_MASKED_EQ, s->mask, s->value));
	}
	return r;
}

int rights_filter(const struct rights_filter *filters, size_t count, struct error *err)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int r = ctx ? 0 : -ENOMEM;

	if (r == 0)
		r = add_calls(ctx, SCMP_ACT_ALLOW, common_calls, ARRAY_SIZE(common_calls));
	for (size_t i = 0; r == 0 && i < count; i++)
		r = add_filter(ctx, &filters[i]);
	if (r == 0)
		r = add_calls(ctx, SCMP_ACT_KILL_PROCESS, deadly_calls, ARRAY_SIZE(deadly_calls));
	if (r == 0)
		r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
	if (r == 0)
		r = seccomp_load(ctx);
	seccomp_release(ctx);
	return r < 0 ? error_set_errno(err, -r, "installing the system call filter") : 0;
}
