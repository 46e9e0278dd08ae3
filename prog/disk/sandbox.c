#include "sandbox.h"

#include "base/macros.h"
#include "rights/rights.h"

#include <linux/fs.h>

#ifdef OYAKO_SANITIZE
/* The leak checker traces its own process when it ends, which the filter takes for an intrusion. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}
#endif

static const int working_calls[] = {
	SCMP_SYS(pread64),
	SCMP_SYS(pwrite64),
	SCMP_SYS(preadv),
	SCMP_SYS(pwritev),
	SCMP_SYS(preadv2),
	SCMP_SYS(pwritev2),
	SCMP_SYS(fsync),
	SCMP_SYS(fdatasync),
	SCMP_SYS(fallocate),
	SCMP_SYS(ftruncate),
	SCMP_SYS(fstatfs),
	SCMP_SYS(fadvise64),
	SCMP_SYS(io_uring_enter),
	SCMP_SYS(io_uring_setup),
	SCMP_SYS(io_uring_register),
	SCMP_SYS(signalfd4),
	SCMP_SYS(mmap),
	SCMP_SYS(clone),
	SCMP_SYS(clone3),
	SCMP_SYS(sched_getaffinity),
	SCMP_SYS(prlimit64),
	SCMP_SYS(membarrier),
};

static const struct rights_call working_some[] = {
	RIGHTS_MPROTECT_NO_EXEC,
	{ SCMP_SYS(ioctl), 1, UINT64_MAX, BLKGETSIZE64 },
};

/* To find a chain's parents, and to install the second filter under the first one. */
static const int opening_calls[] = {
	SCMP_SYS(statx),    SCMP_SYS(access),     SCMP_SYS(faccessat), SCMP_SYS(faccessat2),
	SCMP_SYS(getcwd),   SCMP_SYS(stat),       SCMP_SYS(lstat),     SCMP_SYS(getdents64),
	SCMP_SYS(readlink), SCMP_SYS(readlinkat), SCMP_SYS(seccomp),   SCMP_SYS(prctl),
};

static const struct rights_call opening_some[] = { RIGHTS_OPEN_READING };

static const struct rights_filter filters[] = {
	{ working_calls, ARRAY_SIZE(working_calls), working_some, ARRAY_SIZE(working_some) },
	{ opening_calls, ARRAY_SIZE(opening_calls), opening_some, ARRAY_SIZE(opening_some) },
};

int sandbox_enter_opening(struct error *err)
{
	int r = rights_no_new(err);

	return r < 0 ? r : rights_filter(filters, 2, err);
}

int sandbox_enter_working(struct error *err)
{
	return rights_filter(filters, 1, err);
}
