/* Making and freeing a partition on /dev/kvm: capabilities, memory, CPUID, the MSR filter. */
#include "part/kvm/kvm-impl.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MSR_FILTER_BASE  0x40000000u
#define MSR_FILTER_COUNT 0x1100u

/* Pages that KVM needs on Intel processors without unrestricted guest mode; in the MMIO hole, below
 * the firmware. */
#define IDENTITY_MAP_GPA UINT64_C(0xFEFFC000)
#define TSS_GPA          UINT64_C(0xFEFFD000)

int kvm_ioctl(int fd, unsigned long request, void *arg)
{
	int rc;

	do
		rc = ioctl(fd, request, arg);
	while (rc < 0 && errno == EINTR);
	return rc;
}

bool kvm_has(const struct kvm_part *kvm, int cap)
{
	return ioctl(kvm->vm_fd >= 0 ? kvm->vm_fd : kvm->kvm_fd, KVM_CHECK_EXTENSION, cap) > 0;
}

static int check_capabilities(struct kvm_part *kvm, struct error *err)
{
	static const struct {
		int cap;
		const char *name;
	} needed[] = {
		{ KVM_CAP_USER_MEMORY, "user memory" },
		{ KVM_CAP_SPLIT_IRQCHIP, "split irqchip" },
		{ KVM_CAP_SIGNAL_MSI, "signal MSI" },
		{ KVM_CAP_IRQ_ROUTING, "interrupt routing" },
		{ KVM_CAP_MP_STATE, "MP state" },
		{ KVM_CAP_IMMEDIATE_EXIT, "immediate exit" },
		{ KVM_CAP_X86_USER_SPACE_MSR, "MSRs in user space" },
		{ KVM_CAP_X86_MSR_FILTER, "MSR filter" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
		if (!kvm_has(kvm, needed[i].cap))
			return error_set(err, ERR_UNSUPPORTED,
					 "this kernel's KVM lacks '%s' (Linux 5.10 has it)",
					 needed[i].name);
	if (ioctl(kvm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS) < (int)kvm->part.vp_count)
		return error_set(err, ERR_LIMIT, "this kernel's KVM can't run %u processors",
				 kvm->part.vp_count);
	kvm->has_sync_regs =
	    ioctl(kvm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS) & KVM_SYNC_X86_REGS;
	return 0;
}

/* ---- the machine ---- */

static int open_kvm(struct kvm_part *kvm, int given_fd, struct error *err)
{
	kvm->kvm_fd = given_fd;
	if (given_fd <= 0) {
		kvm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
		kvm->owns_kvm_fd = kvm->kvm_fd >= 0;
	}
	if (kvm->kvm_fd < 0)
		return error_set_errno(err, errno, "opening /dev/kvm");
	kvm->vm_fd = kvm_ioctl(kvm->kvm_fd, KVM_CREATE_VM, NULL);
	if (kvm->vm_fd < 0)
		return error_set_errno(err, errno, "KVM: creating a VM");
	return 0;
}

static int set_memory_flags(struct kvm_part *kvm, uint32_t flags, struct error *err)
{
	struct mem_range ranges[2];
	unsigned count = mem_ranges(kvm->part.mem, ranges);

	for (unsigned i = 0; i < count; i++) {
		struct kvm_userspace_memory_region region = {
			.slot = i,
			.flags = flags,
			.guest_phys_addr = ranges[i].gpa,
			.memory_size = ranges[i].size_bytes,
			.userspace_addr = (uintptr_t)ranges[i].host,
		};

		if (kvm_ioctl(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
			return error_set_errno(err, errno, "KVM: %llu MiB of RAM at 0x%llx",
					       (unsigned long long)(ranges[i].size_bytes / MIB),
					       (unsigned long long)ranges[i].gpa);
		kvm->slot_bytes[i] = ranges[i].size_bytes;
	}
	return 0;
}

static uint64_t range_bytes(const struct kvm_part *kvm, unsigned slot)
{
	struct mem_range ranges[2];

	return slot < mem_ranges(kvm->part.mem, ranges) ? ranges[slot].size_bytes : 0;
}

/* KVM changes no slot's size: it goes, and comes again. */
static int kvm_memory_changed(struct part *part, struct error *err)
{
	struct kvm_part *kvm = kvm_of(part);

	/* What the slots have logged goes with them. */
	if (kvm->dirty_log)
		part_dirty_log_collect(part);
	for (unsigned i = 0; i < ARRAY_SIZE(kvm->slot_bytes); i++) {
		struct kvm_userspace_memory_region none = { .slot = i };

		if (!kvm->slot_bytes[i] || kvm->slot_bytes[i] == range_bytes(kvm, i))
			continue;
		if (kvm_ioctl(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &none) < 0)
			return error_set_errno(err, errno, "KVM: taking RAM back");
		kvm->slot_bytes[i] = 0;
	}
	return set_memory_flags(kvm, kvm->dirty_log ? KVM_MEM_LOG_DIRTY_PAGES : 0, err);
}

/* Behind the slots of RAM. */
#define DEVICE_SLOT 2

static int kvm_map_device(struct part *part, uint64_t gpa, void *host, uint64_t len,
			  struct error *err)
{
	struct kvm_part *kvm = kvm_of(part);
	struct kvm_userspace_memory_region region = { .slot = DEVICE_SLOT };

	/* A slot that is there goes first. */
	if (kvm->device_mapped && kvm_ioctl(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return error_set_errno(err, errno, "KVM: taking device memory away");
	kvm->device_mapped = false;
	if (!len)
		return 0;
	region.guest_phys_addr = gpa;
	region.memory_size = len;
	region.userspace_addr = (uintptr_t)host;
	if (kvm_ioctl(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return error_set_errno(err, errno, "KVM: device memory at 0x%llx",
				       (unsigned long long)gpa);
	kvm->device_mapped = true;
	return 0;
}

static int enable_cap(int fd, uint32_t cap, uint64_t arg)
{
	struct kvm_enable_cap enable = { .cap = cap, .args = { arg } };

	return kvm_ioctl(fd, KVM_ENABLE_CAP, &enable);
}

/* Hyper-V's synthetic MSRs leave the kernel; so its own Hyper-V emulation never sees them, except
 * those that are registers of the local APIC, which is the kernel's. */
static int filter_msrs(struct kvm_part *kvm, struct error *err)
{
	static uint8_t allowed[MSR_FILTER_COUNT / 8] = { [0x70 / 8] = 7 /* EOI, ICR, TPR */ };
	struct kvm_msr_filter filter = {
		.flags = KVM_MSR_FILTER_DEFAULT_ALLOW,
		.ranges[0] = { .flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
			       .base = MSR_FILTER_BASE,
			       .nmsrs = MSR_FILTER_COUNT,
			       .bitmap = allowed },
	};

	if (enable_cap(kvm->vm_fd, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER) < 0 ||
	    kvm_ioctl(kvm->vm_fd, KVM_X86_SET_MSR_FILTER, &filter) < 0)
		return error_set_errno(err, errno, "KVM: filtering Hyper-V's MSRs");
	return 0;
}

static int set_up_vm(struct kvm_part *kvm, struct error *err)
{
	uint64_t identity_map = IDENTITY_MAP_GPA;

	if (kvm_ioctl(kvm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0 ||
	    kvm_ioctl(kvm->vm_fd, KVM_SET_TSS_ADDR, (void *)TSS_GPA) < 0)
		return error_set_errno(err, errno, "KVM: placing its real mode pages");
	if (enable_cap(kvm->vm_fd, KVM_CAP_SPLIT_IRQCHIP, KVM_IOAPIC_PINS) < 0)
		return error_set_errno(err, errno, "KVM: splitting the irqchip");
	return filter_msrs(kvm, err);
}

/* ---- the processors ---- */

static uint32_t supported_reg(const struct kvm_cpuid2 *cpuid, uint32_t leaf, enum profile_reg reg)
{
	for (uint32_t i = 0; i < cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &cpuid->entries[i];

		if (e->function == leaf && e->index == 0)
			return (const uint32_t[]){ e->eax, e->ebx, e->ecx, e->edx }[reg];
	}
	return 0;
}

/* The host's processor, less what KVM can't give to guests. */
static int supported_cpu(struct kvm_part *kvm, struct profile_cpu *ret, struct error *err)
{
	enum { MAX_ENTRIES = 256 };
	AUTO_FREE struct kvm_cpuid2 *cpuid =
	    calloc(1, sizeof(*cpuid) + MAX_ENTRIES * sizeof(cpuid->entries[0]));

	if (!cpuid)
		return error_set(err, ERR_NO_MEMORY, "no memory for CPUID leaves");
	cpuid->nent = MAX_ENTRIES;
	if (kvm_ioctl(kvm->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0)
		return error_set_errno(err, errno, "KVM: asking for its CPUID leaves");
	profile_cpu_host(ret);
	for (unsigned i = 0; i < PROFILE_WORD_COUNT; i++) {
		uint32_t leaf;
		enum profile_reg reg = profile_word_place(i, &leaf);

		ret->can[i] = supported_reg(cpuid, leaf, reg);
	}
	/* KVM has it, but doesn't list it: it depends on the irqchip. */
	if (kvm_has(kvm, KVM_CAP_TSC_DEADLINE_TIMER))
		ret->can[PROFILE_1_ECX] |= BIT(24);
	return 0;
}

static int set_cpuid(struct kvm_vp *vp, struct error *err)
{
	enum { MAX_LEAVES = 128 };
	struct part_cpuid leaves[MAX_LEAVES];
	unsigned count = profile_leaves(&vp->kvm->part.profile, vp->index, leaves, MAX_LEAVES);
	AUTO_FREE struct kvm_cpuid2 *cpuid =
	    calloc(1, sizeof(*cpuid) + count * sizeof(cpuid->entries[0]));

	if (!cpuid)
		return error_set(err, ERR_NO_MEMORY, "no memory for CPUID leaves");
	cpuid->nent = count;
	for (unsigned i = 0; i < count; i++)
		cpuid->entries[i] = (struct kvm_cpuid_entry2){
			.function = leaves[i].leaf,
			.index = leaves[i].subleaf,
			.flags = profile_leaf_has_subleaves(leaves[i].leaf)
				     ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX
				     : 0,
			.eax = leaves[i].eax,
			.ebx = leaves[i].ebx,
			.ecx = leaves[i].ecx,
			.edx = leaves[i].edx,
		};
	if (kvm_ioctl(vp->fd, KVM_SET_CPUID2, cpuid) < 0)
		return error_set_errno(err, errno, "KVM: CPUID leaves of processor %u", vp->index);
	return 0;
}

static int create_vp(struct kvm_part *kvm, unsigned index, struct error *err)
{
	struct kvm_vp *vp = &kvm->vp[index];
	void *run;

	vp->fd = kvm_ioctl(kvm->vm_fd, KVM_CREATE_VCPU, (void *)(uintptr_t)index);
	if (vp->fd < 0)
		return error_set_errno(err, errno, "KVM: creating processor %u", index);
	run = mmap(NULL, kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vp->fd, 0);
	if (run == MAP_FAILED)
		return error_set_errno(err, errno, "KVM: mapping processor %u", index);
	vp->run = run;
	/* KVM's paravirtual MSRs exist only where its CPUID leaves do: nowhere. */
	if (kvm_has(kvm, KVM_CAP_ENFORCE_PV_FEATURE_CPUID))
		enable_cap(vp->fd, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1);
	return set_cpuid(vp, err);
}

static int create_vps(struct kvm_part *kvm, const struct part_state *saved, struct error *err)
{
	int run_size = ioctl(kvm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	int rc = 0;

	if (run_size < (int)sizeof(struct kvm_run))
		return error_set(err, ERR_UNSUPPORTED, "KVM: run page of %d bytes", run_size);
	kvm->run_size = (size_t)run_size;
	for (unsigned i = 0; i < kvm->part.vp_count && rc == 0; i++)
		rc = create_vp(kvm, i, err);
	if (rc == 0)
		rc = kvm_tsc_init(kvm, saved ? saved->tsc_hz : 0, err);
	for (unsigned i = 0; i < kvm->part.vp_count && rc == 0; i++)
		rc = kvm_vp_snapshot(&kvm->vp[i], err);
	return rc;
}

/* A restored guest keeps the rate that it knows, if the kernel can; part_vp_set_context refuses a
 * timer that it matters to. */
static void choose_apic_rate(struct kvm_part *kvm, const struct part_state *saved)
{
	kvm->apic_hz = KVM_APIC_HZ;
	if (saved && saved->apic_hz != KVM_APIC_HZ && KVM_APIC_HZ % saved->apic_hz == 0 &&
	    kvm_has(kvm, KVM_APIC_BUS_CYCLES_CAP) &&
	    enable_cap(kvm->vm_fd, KVM_APIC_BUS_CYCLES_CAP, KVM_APIC_HZ / saved->apic_hz) == 0)
		kvm->apic_hz = saved->apic_hz;
}

static int kvm_init(struct part *part, const struct part_config *config, struct error *err)
{
	struct kvm_part *kvm = kvm_of(part);
	struct profile_cpu cpu;
	int rc;

	kvm->kvm_fd = kvm->vm_fd = -1;
	pthread_mutex_init(&kvm->lock, NULL);
	clock_init_condition(&kvm->changed);
	pthread_mutex_init(&kvm->route_lock, NULL);
	for (unsigned i = 0; i < PART_MAX_VPS; i++)
		kvm->vp[i] = (struct kvm_vp){ .kvm = kvm, .index = i, .fd = -1 };
	kvm_install_kick_handler();

	if ((rc = open_kvm(kvm, config->kvm_fd, err)) < 0 ||
	    (rc = check_capabilities(kvm, err)) < 0 || (rc = supported_cpu(kvm, &cpu, err)) < 0 ||
	    (rc = profile_init(&part->profile, &cpu, config, err)) < 0 ||
	    (rc = set_up_vm(kvm, err)) < 0 || (rc = set_memory_flags(kvm, 0, err)) < 0 ||
	    (rc = kvm_irq_init(kvm, err)) < 0)
		return rc;
	choose_apic_rate(kvm, config->saved);
	return create_vps(kvm, config->saved, err);
}

static void kvm_done(struct part *part)
{
	struct kvm_part *kvm = kvm_of(part);

	for (unsigned i = 0; i < part->vp_count; i++) {
		struct kvm_vp *vp = &kvm->vp[i];

		if (vp->run)
			munmap(vp->run, kvm->run_size);
		if (vp->fd >= 0)
			close(vp->fd);
		free(vp->at_reset.msrs);
	}
	if (kvm->vm_fd >= 0)
		close(kvm->vm_fd);
	if (kvm->owns_kvm_fd)
		close(kvm->kvm_fd);
	free(kvm->dirty_bitmap);
	pthread_mutex_destroy(&kvm->lock);
	pthread_cond_destroy(&kvm->changed);
	pthread_mutex_destroy(&kvm->route_lock);
}

/* ---- dirty log ---- */

static uint64_t range_pages(const struct mem_range *range)
{
	return range->size_bytes >> MEM_PAGE_SHIFT;
}

/* One more bitmap word than pages need: KVM wants a multiple of 64 bits. */
static bool dirty_log_switch(struct kvm_part *kvm, bool on)
{
	struct error err;

	if (on && !kvm->dirty_bitmap)
		kvm->dirty_bitmap =
		    calloc(mem_reach_bytes(kvm->part.mem) / MEM_PAGE_SIZE / 64 + 1, 8);
	if ((on && !kvm->dirty_bitmap) ||
	    set_memory_flags(kvm, on ? KVM_MEM_LOG_DIRTY_PAGES : 0, &err) < 0) {
		log_error("the dirty log can't be switched %s", on ? "on" : "off");
		return false;
	}
	kvm->dirty_log = on;
	return true;
}

static void mark_range(struct kvm_part *kvm, const struct mem_range *range, const uint64_t *bitmap)
{
	uint64_t first = mem_page_index(kvm->part.mem, range->gpa);

	for (uint64_t page = 0; page < range_pages(range); page++)
		if (!bitmap || bitmap[page / 64] >> page % 64 & 1)
			mem_dirty_log_set(kvm->part.mem, first + page);
}

static void kvm_dirty_log_collect(struct part *part)
{
	struct kvm_part *kvm = kvm_of(part);
	bool wanted = mem_dirty_log_active(part->mem);
	bool was_on = kvm->dirty_log;
	struct mem_range ranges[2];
	unsigned count = mem_ranges(part->mem, ranges);

	if (wanted != was_on)
		dirty_log_switch(kvm, wanted);
	for (unsigned i = 0; wanted && i < count; i++) {
		struct kvm_dirty_log log = { .slot = i, .dirty_bitmap = kvm->dirty_bitmap };
		bool known = was_on && kvm_ioctl(kvm->vm_fd, KVM_GET_DIRTY_LOG, &log) == 0;

		/* Not logged until now: everything may have been written. */
		mark_range(kvm, &ranges[i], known ? kvm->dirty_bitmap : NULL);
	}
}

/* ---- the table ---- */

static uint64_t kvm_tsc_hz(const struct part *part)
{
	return kvm_of(part)->tsc_hz;
}

static uint64_t kvm_apic_hz(const struct part *part)
{
	return kvm_of(part)->apic_hz;
}

const struct part_backend_ops kvm_backend_ops = {
	.backend = PART_KVM,
	.name = "kvm",
	.size = sizeof(struct kvm_part),
	.init = kvm_init,
	.done = kvm_done,
	.start = kvm_vps_start,
	.pause = kvm_vps_pause,
	.resume = kvm_vps_resume,
	.memory_changed = kvm_memory_changed,
	.map_device = kvm_map_device,
	.stop = kvm_vps_stop,
	.reset = kvm_reset,
	.vp_get_state = kvm_vp_get_state,
	.vp_set_state = kvm_vp_set_state,
	.vp_get_context = kvm_vp_get_context,
	.vp_set_context = kvm_vp_set_context,
	.set_tsc = kvm_set_tsc,
	.partition_tsc = kvm_tsc_now,
	.interrupt = kvm_interrupt,
	.msi = kvm_msi,
	.ioapic_route = kvm_ioapic_route,
	.nmi = kvm_nmi,
	.extint_set = kvm_extint_set,
	.tsc_hz = kvm_tsc_hz,
	.apic_hz = kvm_apic_hz,
	.vp_runtime_ns = kvm_vp_runtime_ns,
	.hypercall_code = kvm_hypercall_code,
	.dirty_log_collect = kvm_dirty_log_collect,
};
