#include "sandbox.h"

#include "base/macros.h"
#include "rights/rights.h"

#include <libgen.h>
#include <limits.h>
#include <linux/landlock.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- files: what the resolver's configuration may be in ---- */

static void allow_reading(int ruleset, const char *folder)
{
	AUTO_CLOSE int fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct landlock_path_beneath_attr rule = { .allowed_access = LANDLOCK_ACCESS_FS_READ_FILE,
						   .parent_fd = fd };

	if (fd >= 0)
		syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
}

/* Folders, not files: /etc/resolv.conf is replaced now and then, and often a link. A kernel without
 * Landlock leaves it at what an unprivileged user may read. */
static void confine_files(void)
{
	struct landlock_ruleset_attr all = {
		.handled_access_fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1, /* of version 1 */
	};
	AUTO_CLOSE int ruleset = (int)syscall(SYS_landlock_create_ruleset, &all, sizeof(all), 0);
	char target[PATH_MAX];

	if (ruleset < 0)
		return;
	allow_reading(ruleset, "/etc");
	if (realpath("/etc/resolv.conf", target))
		allow_reading(ruleset, dirname(target));
	syscall(SYS_landlock_restrict_self, ruleset, 0);
}

/* ---- system calls ---- */

static const int switch_calls[] = {
	/* the resolver's configuration */
	SCMP_SYS(stat),
	SCMP_SYS(lstat),
	SCMP_SYS(statx),
	SCMP_SYS(access),
	/* sockets */
	SCMP_SYS(connect),
	SCMP_SYS(bind),
	SCMP_SYS(listen),
	SCMP_SYS(accept),
	SCMP_SYS(recvmmsg),
	SCMP_SYS(sendmmsg),
	SCMP_SYS(getsockopt),
	SCMP_SYS(setsockopt),
	SCMP_SYS(getsockname),
	SCMP_SYS(getpeername),
	SCMP_SYS(select),
	SCMP_SYS(pselect6),
	/* who it is: libslirp asks for its own name */
	SCMP_SYS(getuid),
	SCMP_SYS(geteuid),
	SCMP_SYS(getgid),
	SCMP_SYS(getegid),
	SCMP_SYS(uname),
	SCMP_SYS(mmap),
	SCMP_SYS(time),
};

/* Only internet sockets, and the ioctls that libslirp needs. */
static const struct rights_call switch_some[] = {
	RIGHTS_OPEN_READING,
	RIGHTS_MPROTECT_NO_EXEC,
	{ SCMP_SYS(socket), 0, UINT64_MAX, AF_INET },
	{ SCMP_SYS(socket), 0, UINT64_MAX, AF_INET6 },
	{ SCMP_SYS(ioctl), 1, UINT64_MAX, FIONREAD },
	{ SCMP_SYS(ioctl), 1, UINT64_MAX, FIONBIO },
};

int sandbox_enter(struct error *err)
{
	const struct rights_filter filter = { switch_calls, ARRAY_SIZE(switch_calls), switch_some,
					      ARRAY_SIZE(switch_some) };
	int r = rights_leave_root(err);

	if (r < 0)
		return r;
	rights_drop_capabilities();
	r = rights_no_new(err);
	if (r < 0)
		return r;
	confine_files();
	return rights_filter(&filter, 1, err);
}
