/* A kernel image and an initramfs of any bytes: linux_load() refuses or loads them. */
#include "base/macros.h"
#include "fw/linux.h"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct mem *mem;
	struct linux_entry entry;
	struct linux_boot boot = { .initrd_fd = -1, .cmdline = "console=ttyS0" };

	if (!mem && mem_new(32 * MIB, &mem, NULL) < 0)
		return 0;
	boot.kernel_fd = memfd_create("kernel", MFD_CLOEXEC);
	if (write(boot.kernel_fd, data, size) == (ssize_t)size) {
		boot.initrd_fd = size % 2 ? boot.kernel_fd : -1;
		linux_load(mem, &boot, &entry, NULL);
	}
	close(boot.kernel_fd);
	return 0;
}
