#include "cgroup.h"

#include "base/log.h"
#include "base/macros.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#define MOUNT        "/sys/fs/cgroup"
#define OURS         "service" /* the group of the service's own processes */
#define PERIOD_US    100000    /* of cpu.max: the kernel's default */
#define MIN_QUOTA_US 1000      /* the least that the kernel takes */
#define MAX_WEIGHT   10000     /* Documentation/admin-guide/cgroup-v2.rst, cpu.weight */

struct cgroup {
	int fd; /* of the group that is ours; -1: there is none */
	char missing[300];
};

/* ---- files of a group ---- */

static int write_file(int group, const char *name, const char *text, struct error *err)
{
	AUTO_CLOSE int fd = openat(group, name, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		return error_set_errno(err, errno, "writing '%s' into the control group's '%s'",
				       text, name);
	return 0;
}

static bool has_controller(int group, const char *name)
{
	AUTO_CLOSE int fd = openat(group, "cgroup.controllers", O_RDONLY | O_CLOEXEC);
	char text[512];
	ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	char *rest = text;

	text[MAX(len, 0)] = '\0';
	for (char *word; (word = strsep(&rest, " \n"));)
		if (strcmp(word, name) == 0)
			return true;
	return false;
}

static int open_group(int parent, const char *name, struct error *err)
{
	int fd;

	if (mkdirat(parent, name, 0755) < 0 && errno != EEXIST)
		return error_set_errno(err, errno, "making the control group '%s'", name);
	fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? error_set_errno(err, errno, "opening the control group '%s'", name) : fd;
}

/* ---- the group that is ours ---- */

/* The folder of the group that this process is in; the caller's. */
static int own_folder(char **ret, struct error *err)
{
	FILE *file = fopen("/proc/self/cgroup", "re");
	char line[4096];
	bool found = false;
	struct statfs fs;

	if (statfs(MOUNT, &fs) < 0 || fs.f_type != CGROUP2_SUPER_MAGIC)
		snprintf(line, sizeof(line),
			 "this host has no control groups of version 2 at " MOUNT);
	else
		snprintf(line, sizeof(line), "the service is in no control group");
	while (file && fs.f_type == CGROUP2_SUPER_MAGIC && !found &&
	       fgets(line, sizeof(line), file))
		found = strncmp(line, "0::/", 4) == 0;
	if (file)
		fclose(file);
	if (!found)
		return error_set(err, ERR_UNSUPPORTED, "%.200s", line);
	line[strcspn(line, "\n")] = '\0';
	if (asprintf(ret, MOUNT "%s", line + 3) < 0)
		abort();
	return 0;
}

/* systemd marks what it delegates, for everybody since version 251, for root before, too. */
static bool is_delegated(const char *folder)
{
	static const char *const marks[] = { "user.delegate", "trusted.delegate" };
	char value = 0;

	for (size_t i = 0; i < ARRAY_SIZE(marks) && value != '1'; i++)
		if (getxattr(folder, marks[i], &value, 1) != 1)
			value = 0;
	return value == '1';
}

/* A group that has others with limits below it can have no processes itself. */
static int leave(int group, struct error *err)
{
	AUTO_CLOSE int ours = open_group(group, OURS, err);
	int fd = ours < 0 ? -1 : openat(group, "cgroup.procs", O_RDONLY | O_CLOEXEC);
	FILE *file = fd < 0 ? NULL : fdopen(fd, "r");
	char pid[32];
	int r = 0;

	if (ours < 0)
		return ours;
	if (!file)
		return error_set_errno(err, errno, "reading a control group's processes");
	while (r == 0 && fgets(pid, sizeof(pid), file))
		r = write_file(ours, "cgroup.procs", pid, err);
	fclose(file);
	return r;
}

static int open_delegated(struct error *err)
{
	AUTO_FREE char *folder = NULL;
	AUTO_CLOSE int fd = -1;
	char *last;
	int r = own_folder(&folder, err);

	if (r < 0)
		return r;
	last = strrchr(folder, '/');
	if (strcmp(last, "/" OURS) == 0)
		*last = '\0';
	if (!is_delegated(folder))
		return error_set(err, ERR_UNSUPPORTED,
				 "no control group is delegated to the service (systemd: "
				 "Delegate=cpu; or OYAKO_CGROUP names one)");
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return error_set_errno(err, errno, "opening '%.200s'", folder);
	r = leave(fd, err);
	return r < 0 ? r : TAKE_FD(fd);
}

static int open_ours(struct error *err)
{
	const char *named = getenv("OYAKO_CGROUP");
	AUTO_CLOSE int fd =
	    named ? open(named, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : open_delegated(err);
	int r;

	if (named && fd < 0)
		return error_set_errno(err, errno, "OYAKO_CGROUP '%.150s'", named);
	if (fd < 0)
		return fd;
	if (!has_controller(fd, "cpu"))
		return error_set(err, ERR_UNSUPPORTED,
				 "the service's control group has no controller 'cpu'");
	r = write_file(fd, "cgroup.subtree_control", "+cpu", err);
	return r < 0 ? r : TAKE_FD(fd);
}

struct cgroup *cgroup_new(void)
{
	struct cgroup *cgroup = calloc(1, sizeof(*cgroup));
	struct error err = { 0 };

	if (!cgroup)
		abort();
	cgroup->fd = open_ours(&err);
	if (cgroup->fd < 0)
		snprintf(cgroup->missing, sizeof(cgroup->missing), "%.299s", err.text);
	return cgroup;
}

void cgroup_free(struct cgroup *cgroup)
{
	if (!cgroup)
		return;
	if (cgroup->fd >= 0)
		close(cgroup->fd);
	free(cgroup);
}

const char *cgroup_missing(const struct cgroup *cgroup)
{
	return cgroup->fd < 0 ? cgroup->missing : NULL;
}

/* ---- the groups of VMs ---- */

static void group_name(const char *id, char ret[static 64])
{
	snprintf(ret, 64, "vm-%.50s", id);
}

static int open_vm(const struct cgroup *cgroup, const char *id, struct error *err)
{
	char name[64];

	if (cgroup->fd < 0)
		return error_set(err, ERR_UNSUPPORTED, "%s", cgroup->missing);
	group_name(id, name);
	return open_group(cgroup->fd, name, err);
}

int cgroup_add(const struct cgroup *cgroup, const char *id, pid_t pid, struct error *err)
{
	AUTO_CLOSE int group = open_vm(cgroup, id, err);
	char text[16];

	snprintf(text, sizeof(text), "%d", (int)pid);
	return group < 0 ? group : write_file(group, "cgroup.procs", text, err);
}

/* A limit is a share of all the VM's processors; a weight is that of each of them. */
int cgroup_limit(const struct cgroup *cgroup, const char *id, const struct config_vm *config,
		 struct error *err)
{
	AUTO_CLOSE int group = open_vm(cgroup, id, err);
	const struct config_processor *processor = &config->processor;
	unsigned quota_us = PERIOD_US / 100 * processor->maximum_percent * config->processor_count;
	char quota[40], weight[16];
	int r;

	if (group < 0)
		return group;
	if (processor->maximum_percent == 100)
		snprintf(quota, sizeof(quota), "max %d", PERIOD_US);
	else
		snprintf(quota, sizeof(quota), "%u %d", MAX(quota_us, MIN_QUOTA_US), PERIOD_US);
	snprintf(weight, sizeof(weight), "%u",
		 MIN(processor->weight * config->processor_count, MAX_WEIGHT));
	r = write_file(group, "cpu.max", quota, err);
	return r < 0 ? r : write_file(group, "cpu.weight", weight, err);
}

void cgroup_remove(const struct cgroup *cgroup, const char *id)
{
	char name[64];

	group_name(id, name);
	if (cgroup->fd >= 0 && unlinkat(cgroup->fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		log_debug("the control group '%s' stays: %s", name, strerror(errno));
}
