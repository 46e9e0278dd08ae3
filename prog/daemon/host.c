#include "host.h"

#include "base/macros.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

/* Is one of these words in the first "flags" line of /proc/cpuinfo? */
static bool has_virtualization_flag(void)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	AUTO_FREE char *line = NULL;
	size_t size = 0;
	bool found = false;

	while (f && getline(&line, &size, f) > 0) {
		if (strncmp(line, "flags", 5) != 0)
			continue;
		line[strcspn(line, "\n")] = ' ';
		found = strstr(line, " vmx ") || strstr(line, " svm ");
		break;
	}
	if (f)
		fclose(f);
	return found;
}

int host_open_kvm(char *ret_reason, size_t size)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int version;

	if (fd < 0) {
		snprintf(ret_reason, size, "/dev/kvm: %s", strerror(errno));
		return -1;
	}
	version = ioctl(fd, KVM_GET_API_VERSION, 0);
	if (version == KVM_API_VERSION && has_virtualization_flag())
		return fd;
	close(fd);
	if (version != KVM_API_VERSION)
		snprintf(ret_reason, size, "/dev/kvm does not answer as KVM does");
	else
		snprintf(
		    ret_reason, size,
		    "/dev/kvm is there, but the processor has neither vmx nor svm, so it can't "
		    "run stock kernels");
	return -1;
}

uint64_t host_memory_bytes(void)
{
	return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

unsigned host_processors(void)
{
	return (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
}
