/*
 * Interrupts. With the split irqchip all but the local APICs is in user space:
 * - MSIs, also those of the IOAPIC's pins, by KVM_SIGNAL_MSI;
 * - EOIs of level-triggered vectors leave the guest if a route of KVM_SET_GSI_ROUTING says "level";
 * - the PIC's interrupts by KVM_INTERRUPT on VP 0, when it can take one.
 *
 * Automatic EOI. KVM's local APIC has none, so the vector goes into service as any other does. The
 * VP is made to leave the guest until the vector is seen in service, then the EOI is written for
 * it, through KVM's own implementation of the MSR HV_X64_MSR_EOI, which works in xAPIC and x2APIC
 * mode alike. Guests that obey the hint "deprecate auto-EOI" (Linux, Windows) never come here;
 * iPXE and FreeBSD do. What differs from TLFS 11.8.1: vectors of the same or lower priority wait up
 * to some 50 us longer.
 */
#include "part/kvm/kvm-impl.h"

#include "base/log.h"
#include "base/macros.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MSI_ADDRESS_BASE    0xFEE00000u
#define MSI_DESTINATION_BIT 12
#define MSI_LEVEL_TRIGGERED BIT(15)

#define HV_X64_MSR_EOI 0x40000070u

/* Offsets in the local APIC's page (SDM volume 3, table 11-1); one bit per vector, 32 of them every
 * 16 bytes. */
#define APIC_ISR 0x100
#define APIC_IRR 0x200

#define AUTO_EOI_WAIT_MIN_NS 50000u
#define AUTO_EOI_WAIT_MAX_NS 10000000u

/* ---- MSIs ---- */

void kvm_msi(struct part *part, uint64_t address, uint32_t data)
{
	struct kvm_msi msi = { .address_lo = (uint32_t)address,
			       .address_hi = (uint32_t)(address >> 32),
			       .data = data };

	/* EPERM: nobody took it. It is lost, as on the bus. */
	if (kvm_ioctl(kvm_of(part)->vm_fd, KVM_SIGNAL_MSI, &msi) < 0 && errno != EPERM)
		log_guest("MSI 0x%llx, 0x%x refused: %s", (unsigned long long)address, data,
			  strerror(errno));
}

void kvm_interrupt(struct part *part, unsigned vp, uint8_t vector, bool auto_eoi)
{
	struct kvm_vp *kvp = &kvm_of(part)->vp[vp];

	kvm_msi(part, MSI_ADDRESS_BASE | vp << MSI_DESTINATION_BIT, vector);
	if (!auto_eoi)
		return;
	atomic_fetch_or(&kvp->auto_eoi[vector / 64], BIT(vector % 64));
	kvm_vp_kick(kvp);
}

/* ---- routes ---- */

static int write_routes(struct kvm_part *kvm)
{
	union {
		struct kvm_irq_routing head;
		uint8_t room[sizeof(struct kvm_irq_routing) +
			     KVM_IOAPIC_PINS * sizeof(struct kvm_irq_routing_entry)];
	} table = { 0 };

	for (uint32_t pin = 0; pin < KVM_IOAPIC_PINS; pin++) {
		if (!kvm->route[pin].used)
			continue;
		table.head.entries[table.head.nr++] = (struct kvm_irq_routing_entry){
			.gsi = pin,
			.type = KVM_IRQ_ROUTING_MSI,
			.u.msi = { .address_lo = (uint32_t)kvm->route[pin].address,
				   .address_hi = (uint32_t)(kvm->route[pin].address >> 32),
				   .data = kvm->route[pin].data },
		};
	}
	return kvm_ioctl(kvm->vm_fd, KVM_SET_GSI_ROUTING, &table);
}

int kvm_irq_init(struct kvm_part *kvm, struct error *err)
{
	if (write_routes(kvm) < 0)
		return error_set_errno(err, errno, "KVM: setting interrupt routes");
	return 0;
}

/*
 * The routes serve only to tell KVM which vectors' EOIs are wanted, so those of edge-triggered pins
 * are left out: a change costs the kernel a grace period. A masked pin keeps its route: it may be
 * masked between its interrupt and the EOI.
 */
void kvm_ioapic_route(struct part *part, unsigned pin, uint64_t address, uint32_t data, bool masked)
{
	struct kvm_part *kvm = kvm_of(part);
	bool level = data & MSI_LEVEL_TRIGGERED;

	if (pin >= KVM_IOAPIC_PINS || masked)
		return;
	pthread_mutex_lock(&kvm->route_lock);
	if (kvm->route[pin].used != level ||
	    (level && (kvm->route[pin].address != address || kvm->route[pin].data != data))) {
		kvm->route[pin].used = level;
		kvm->route[pin].address = address;
		kvm->route[pin].data = data;
		if (write_routes(kvm) < 0)
			log_guest("route of IOAPIC pin %u refused: %s", pin, strerror(errno));
	}
	pthread_mutex_unlock(&kvm->route_lock);
}

/* ---- NMI and the PIC ---- */

void kvm_nmi(struct part *part, unsigned vp)
{
	struct kvm_vp *kvp = &kvm_of(part)->vp[vp];

	atomic_store(&kvp->nmi, true);
	kvm_vp_kick(kvp);
}

void kvm_extint_set(struct part *part, bool level)
{
	struct kvm_part *kvm = kvm_of(part);

	/* Nobody needs to know of a level that falls: it is looked at before use. */
	if (!atomic_exchange(&kvm->extint, level) && level)
		kvm_vp_kick(&kvm->vp[0]);
}

/* The acknowledge cycle takes the vector out of the PIC, so it is run only when KVM has room for
 * the vector; else KVM says when it has. */
static void deliver_extint(struct kvm_vp *vp)
{
	const struct part_host *host = &vp->kvm->part.host;
	struct kvm_run *run = vp->run;

	if (atomic_load(&vp->kvm->extint) && run->ready_for_interrupt_injection) {
		int vector = host->extint_ack(host->user);
		struct kvm_interrupt interrupt = { .irq = (uint32_t)vector };

		if (vector >= 0 && kvm_ioctl(vp->fd, KVM_INTERRUPT, &interrupt) < 0)
			log_warn("KVM: the PIC's vector 0x%x is lost: %s", (unsigned)vector,
				 strerror(errno));
		run->ready_for_interrupt_injection = 0;
	}
	run->request_interrupt_window = atomic_load(&vp->kvm->extint);
}

/* ---- automatic EOI ---- */

static bool auto_eoi_wanted(struct kvm_vp *vp)
{
	uint64_t any = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(vp->auto_eoi); i++)
		any |= atomic_load(&vp->auto_eoi[i]);
	return any;
}

static bool apic_bit(const struct kvm_lapic_state *lapic, unsigned offset, unsigned vector)
{
	return (uint8_t)lapic->regs[offset + vector / 32 * 16 + vector % 32 / 8] >> vector % 8 & 1;
}

static int highest_in_service(const struct kvm_lapic_state *lapic)
{
	int vector = 255;

	while (vector >= 0 && !apic_bit(lapic, APIC_ISR, (unsigned)vector))
		vector--;
	return vector;
}

static bool write_eoi(struct kvm_vp *vp)
{
	if (kvm_set_msr(vp, HV_X64_MSR_EOI, 0) == 0)
		return true;
	log_guest("automatic EOI needs a KVM with Hyper-V emulation");
	return false;
}

static void auto_eoi_arm(struct kvm_vp *vp)
{
	struct itimerspec when = { .it_value.tv_nsec = vp->auto_eoi_wait_ns };

	if (vp->has_auto_eoi_timer)
		timer_settime(vp->auto_eoi_timer, 0, &when, NULL);
	vp->auto_eoi_wait_ns = MIN(vp->auto_eoi_wait_ns * 2, AUTO_EOI_WAIT_MAX_NS);
}

/* An EOI ends the highest vector in service; those below wait for their turn. The wishes are taken
 * before the APIC is read, so that one which arrives meanwhile is not forgotten. */
static void auto_eoi(struct kvm_vp *vp)
{
	struct kvm_lapic_state lapic;
	uint64_t wanted[4], waiting = 0;
	int vector;

	for (unsigned i = 0; i < ARRAY_SIZE(wanted); i++)
		wanted[i] = atomic_exchange(&vp->auto_eoi[i], 0);
	if (kvm_ioctl(vp->fd, KVM_GET_LAPIC, &lapic) < 0)
		return;
	for (unsigned i = 0; i < 256; i++) {
		vector = highest_in_service(&lapic);
		if (vector < 0 || !(wanted[vector / 64] >> vector % 64 & 1))
			break;
		if (!write_eoi(vp) || kvm_ioctl(vp->fd, KVM_GET_LAPIC, &lapic) < 0)
			return;
	}
	for (unsigned v = 0; v < 256; v++) {
		if (!(wanted[v / 64] >> v % 64 & 1) ||
		    (!apic_bit(&lapic, APIC_IRR, v) && !apic_bit(&lapic, APIC_ISR, v)))
			continue;
		atomic_fetch_or(&vp->auto_eoi[v / 64], BIT(v % 64));
		waiting++;
	}
	if (waiting)
		auto_eoi_arm(vp);
	else
		vp->auto_eoi_wait_ns = AUTO_EOI_WAIT_MIN_NS;
}

void kvm_vp_auto_eoi_begin(struct kvm_vp *vp)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 4 };

	event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	vp->has_auto_eoi_timer = timer_create(CLOCK_MONOTONIC, &event, &vp->auto_eoi_timer) == 0;
	vp->auto_eoi_wait_ns = AUTO_EOI_WAIT_MIN_NS;
}

void kvm_vp_auto_eoi_end(struct kvm_vp *vp)
{
	if (vp->has_auto_eoi_timer)
		timer_delete(vp->auto_eoi_timer);
	vp->has_auto_eoi_timer = false;
}

/* ---- before each entry ---- */

void kvm_vp_deliver(struct kvm_vp *vp)
{
	if (atomic_load(&vp->nmi) && atomic_exchange(&vp->nmi, false))
		kvm_ioctl(vp->fd, KVM_NMI, NULL);
	if (vp->index == 0)
		deliver_extint(vp);
	if (auto_eoi_wanted(vp))
		auto_eoi(vp);
}

void kvm_vp_irq_reset(struct kvm_vp *vp)
{
	atomic_store(&vp->nmi, false);
	for (unsigned i = 0; i < ARRAY_SIZE(vp->auto_eoi); i++)
		atomic_store(&vp->auto_eoi[i], 0);
	vp->run->ready_for_interrupt_injection = 0;
}
