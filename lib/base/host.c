#include "base/host.h"

#include "base/macros.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static bool cpuid_has_serialize(void)
{
	uint32_t eax, ebx, ecx, edx;

	return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && edx & BIT(14);
}

/* Which CPUID itself would be, too, but it takes a hypervisor's exit; IRET is everywhere. */
void host_serialize(void)
{
	static atomic_int known; /* 1: SERIALIZE, -1: none */
	int has = atomic_load_explicit(&known, memory_order_relaxed);
	uint64_t rsp, scratch;

	if (!has) {
		has = cpuid_has_serialize() ? 1 : -1;
		atomic_store_explicit(&known, has, memory_order_relaxed);
	}
	if (has > 0) {
		asm volatile(".byte 0x0f, 0x01, 0xe8" ::: "memory"); /* serialize */
		return;
	}
	asm volatile("mov %%rsp, %0\n\t"
		     "lea -128(%%rsp), %%rsp\n\t" /* the red zone */
		     "mov %%ss, %k1; push %q1\n\t"
		     "push %0\n\t"
		     "pushfq\n\t"
		     "mov %%cs, %k1; push %q1\n\t"
		     "lea 1f(%%rip), %q1; push %q1\n\t"
		     "iretq\n"
		     "1:"
		     : "=&r"(rsp), "=&r"(scratch)
		     :
		     : "cc", "memory");
}

void host_copy_code(uint8_t *to, const uint8_t *from, size_t size)
{
	uint64_t v;

	for (; size >= sizeof(v); size -= sizeof(v), to += sizeof(v), from += sizeof(v)) {
		memcpy(&v, from, sizeof(v));
		memcpy(to, &v, sizeof(v));
		asm volatile("" ::: "memory"); /* or the compiler makes one memcpy() of it */
	}
	while (size--) {
		*to++ = *from++;
		asm volatile("" ::: "memory");
	}
}

static bool cpuid_has_virtualization(const char **ret_name)
{
	uint32_t eax, ebx, ecx, edx;
	bool vmx = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && ecx & BIT(5);
	bool svm = __get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) && ecx & BIT(2);

	*ret_name = vmx ? "VT-x (vmx)" : "SVM (svm)";
	return vmx || svm;
}

/* Looks for the words vmx and svm in the first flags line: the kernel takes them out if it can't
 * use them. Without /proc (in a sandbox) the processor itself is asked. */
static bool host_has_virtualization(const char **ret_name)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	AUTO_FREE char *line = NULL;
	size_t size = 0;
	bool found = false;

	if (!f)
		return cpuid_has_virtualization(ret_name);
	while (!found && getline(&line, &size, f) > 0) {
		if (strncmp(line, "flags", 5) != 0)
			continue;
		for (char *rest, *word = strtok_r(line, " \t\n", &rest); word && !found;
		     word = strtok_r(NULL, " \t\n", &rest)) {
			found = strcmp(word, "vmx") == 0 || strcmp(word, "svm") == 0;
			*ret_name = word[0] == 'v' ? "VT-x (vmx)" : "SVM (svm)";
		}
		break;
	}
	fclose(f);
	return found;
}

bool host_kvm_usable(int fd, char *reason, size_t reason_size)
{
	AUTO_CLOSE int own = fd > 0 ? -1 : open("/dev/kvm", O_RDWR | O_CLOEXEC);
	const char *name = "";
	int version;

	if (fd <= 0 && own < 0) {
		snprintf(reason, reason_size, "/dev/kvm does not open: %s", strerror(errno));
		return false;
	}
	version = ioctl(fd > 0 ? fd : own, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION) {
		snprintf(reason, reason_size, "/dev/kvm answers API version %d: %d is needed",
			 version, KVM_API_VERSION);
		return false;
	}
	/* Paravirtual KVM in some cloud sandboxes opens, too, but runs no stock kernel. */
	if (!host_has_virtualization(&name)) {
		snprintf(reason, reason_size,
			 "/dev/kvm opens, but the processor has neither VT-x (vmx) nor SVM (svm)");
		return false;
	}
	snprintf(reason, reason_size, "/dev/kvm opens, and the processor has %s", name);
	return true;
}

uint64_t host_memory_bytes(void)
{
	return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

unsigned host_processors(void)
{
	return (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
}

void *host_map_large(int fd, size_t size, int protection, int flags)
{
	uint8_t *room = mmap(NULL, size + HOST_LARGE_PAGE, PROT_NONE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *start = (uint8_t *)ALIGN_UP((uintptr_t)room, HOST_LARGE_PAGE);
	size_t before = (size_t)(start - room);
	int saved;

	if (room == MAP_FAILED)
		return MAP_FAILED;
	if (before)
		munmap(room, before);
	munmap(start + size, HOST_LARGE_PAGE - before);
	if (mmap(start, size, protection, MAP_SHARED | MAP_FIXED | flags, fd, 0) == MAP_FAILED) {
		saved = errno;
		munmap(start, size);
		errno = saved;
		return MAP_FAILED;
	}
	return start;
}

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

bool host_collapse(void *p)
{
	return madvise(p, HOST_LARGE_PAGE, MADV_COLLAPSE) == 0;
}
