/*
 * The VPs' threads: each runs its VP until an exit wants the host.
 *
 * Kicks. Who wants a VP's attention sets its request first, then run->immediate_exit, then signals
 * the thread. The thread clears immediate_exit before it looks for requests. So a request that it
 * misses finds either KVM_RUN still to come (which returns at once) or under way (which the signal
 * interrupts).
 *
 * Completion. KVM finishes an IN, an MMIO read or an MSR access of the guest when KVM_RUN is called
 * again. A VP therefore completes it, without executing more, before it waits: registers are whole
 * in every paused VP.
 */
#include "part/kvm/kvm-impl.h"

#include "base/clock.h"
#include "base/macros.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

/* ---- kicks ---- */

static __thread struct kvm_run *this_run;

static int kick_signal(void)
{
	return SIGRTMIN + 4;
}

/* Also the auto-EOI timer's signal; without immediate_exit one that arrives just before KVM_RUN
 * would be lost. */
static void kick_arrived(int signal)
{
	if (this_run)
		__atomic_store_n(&this_run->immediate_exit, 1, __ATOMIC_SEQ_CST);
}

void kvm_install_kick_handler(void)
{
	struct sigaction action = { .sa_handler = kick_arrived };

	sigaction(kick_signal(), &action, NULL);
}

void kvm_vp_kick(struct kvm_vp *vp)
{
	struct kvm_part *kvm = vp->kvm;

	if (!vp->run)
		return;
	__atomic_store_n(&vp->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_lock(&kvm->lock);
	if (vp->has_thread && !pthread_equal(vp->thread, pthread_self()))
		pthread_kill(vp->thread, kick_signal());
	pthread_mutex_unlock(&kvm->lock);
}

/* ---- what ends a VP's work ---- */

static void park(struct kvm_vp *vp)
{
	pthread_mutex_lock(&vp->kvm->lock);
	vp->parked = true;
	pthread_mutex_unlock(&vp->kvm->lock);
}

void kvm_vp_fatal(struct kvm_vp *vp, const char *fmt, ...)
{
	const struct part_host *host = &vp->kvm->part.host;
	char text[384];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	park(vp);
	host->fatal(host->user, vp->index, text);
}

static void fatal_internal_error(struct kvm_vp *vp)
{
	const struct kvm_run *run = vp->run;
	struct kvm_regs regs = { 0 };
	char bytes[3 * 15 + 1] = "";

	kvm_ioctl(vp->fd, KVM_GET_REGS, &regs);
	if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION && run->internal.ndata >= 3 &&
	    run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)
		for (unsigned i = 0; i < MIN(run->emulation_failure.insn_size, 15); i++)
			snprintf(bytes + 3 * i, 4, " %02x", run->emulation_failure.insn_bytes[i]);
	kvm_vp_fatal(vp, "KVM: internal error %u on processor %u at RIP 0x%llx%s%s",
		     run->internal.suberror, vp->index, (unsigned long long)regs.rip,
		     bytes[0] ? ", instruction" : "", bytes);
}

static void triple_fault(struct kvm_vp *vp)
{
	const struct part_host *host = &vp->kvm->part.host;

	park(vp);
	host->triple_fault(host->user, vp->index);
}

/* ---- exits ---- */

static uint32_t load_bytes(const uint8_t *p, unsigned size)
{
	uint32_t value = 0;

	memcpy(&value, p, MIN(size, sizeof(value)));
	return value;
}

/* REP INS and OUTS come as one exit with count > 1. */
static void exit_io(struct kvm_vp *vp)
{
	const struct part_host *host = &vp->kvm->part.host;
	struct kvm_run *run = vp->run;
	unsigned size = run->io.size;
	uint16_t port = run->io.port;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	if (port == KVM_HYPERCALL_PORT && run->io.direction == KVM_EXIT_IO_OUT) {
		kvm_vp_hypercall(vp);
		return;
	}
	for (uint32_t i = 0; i < run->io.count; i++, data += size) {
		if (run->io.direction == KVM_EXIT_IO_OUT) {
			host->pio_write(host->user, vp->index, port, size, load_bytes(data, size));
		} else {
			uint32_t value = host->pio_read(host->user, vp->index, port, size);

			memcpy(data, &value, MIN(size, sizeof(value)));
		}
	}
}

/* The largest access of 1, 2, 4 or 8 bytes that stays in its 8 bytes: those of a guest's
 * instruction that crosses a page can have any length. */
static unsigned mmio_piece(uint64_t gpa, unsigned len)
{
	unsigned room = 8 - gpa % 8, size = 8;

	while (size > len || size > room)
		size /= 2;
	return size;
}

static void exit_mmio(struct kvm_vp *vp)
{
	const struct part_host *host = &vp->kvm->part.host;
	struct kvm_run *run = vp->run;
	unsigned len = MIN(run->mmio.len, sizeof(run->mmio.data)), size;

	for (unsigned done = 0; done < len; done += size) {
		uint64_t gpa = run->mmio.phys_addr + done, value = 0;

		size = mmio_piece(gpa, len - done);
		if (run->mmio.is_write) {
			memcpy(&value, run->mmio.data + done, size);
			host->mmio_write(host->user, vp->index, gpa, size, value);
		} else {
			value = host->mmio_read(host->user, vp->index, gpa, size);
			memcpy(run->mmio.data + done, &value, size);
		}
	}
}

static void exit_rdmsr(struct kvm_vp *vp)
{
	const struct part_host *host = &vp->kvm->part.host;
	uint64_t value = 0;

	vp->run->msr.error = !host->msr_read(host->user, vp->index, vp->run->msr.index, &value);
	vp->run->msr.data = value;
}

static void exit_wrmsr(struct kvm_vp *vp)
{
	const struct part_host *host = &vp->kvm->part.host;

	vp->run->msr.error =
	    !host->msr_write(host->user, vp->index, vp->run->msr.index, vp->run->msr.data);
}

static void handle_exit(struct kvm_vp *vp)
{
	const struct part_host *host = &vp->kvm->part.host;
	struct kvm_run *run = vp->run;

	vp->io_pending = false;
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		vp->io_pending = true;
		exit_io(vp);
		break;
	case KVM_EXIT_MMIO:
		vp->io_pending = true;
		exit_mmio(vp);
		break;
	case KVM_EXIT_X86_RDMSR:
		vp->io_pending = true;
		exit_rdmsr(vp);
		break;
	case KVM_EXIT_X86_WRMSR:
		vp->io_pending = true;
		exit_wrmsr(vp);
		break;
	case KVM_EXIT_IOAPIC_EOI:
		host->eoi(host->user, run->eoi.vector);
		break;
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_INTR:
		break;
	case KVM_EXIT_SHUTDOWN:
		triple_fault(vp);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		kvm_vp_fatal(vp, "KVM: processor %u can't be entered, hardware reason 0x%llx",
			     vp->index,
			     (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		fatal_internal_error(vp);
		break;
	default:
		kvm_vp_fatal(vp, "KVM: unexpected exit %u of processor %u", run->exit_reason,
			     vp->index);
		break;
	}
}

/* ---- the hypercall page ---- */

unsigned kvm_hypercall_code(const struct part *part, uint8_t ret[static 64])
{
	/* The prefix means nothing: it makes each instruction begin where the software CPU's does
	 * (VMCALL has three bytes), for a VP that is saved in here and goes on there. */
	static const uint8_t code[] = {
		0xF3, 0x0F, 0x1E,
		0xFA,                           /* endbr64; a NOP in 32-bit mode */
		0x2E, 0xE6, KVM_HYPERCALL_PORT, /* cs: out imm8, al */
		0xC3,                           /* ret */
	};

	memcpy(ret, code, sizeof(code));
	return sizeof(code);
}

static void get_regs(struct kvm_vp *vp, struct kvm_regs *ret)
{
	if (vp->kvm->has_sync_regs)
		*ret = vp->run->s.regs.regs;
	else
		kvm_ioctl(vp->fd, KVM_GET_REGS, ret);
}

static void set_regs(struct kvm_vp *vp, const struct kvm_regs *regs)
{
	if (vp->kvm->has_sync_regs) {
		vp->run->s.regs.regs = *regs;
		vp->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
	} else {
		kvm_ioctl(vp->fd, KVM_SET_REGS, (void *)(uintptr_t)regs);
	}
}

static void complete(struct kvm_vp *vp);

/* Other than from CPL 0 the call is an undefined instruction (TLFS 3.7). KVM finishes the OUT
 * first, so RIP is put back onto it. */
static void refuse_hypercall(struct kvm_vp *vp)
{
	enum { OUT_LENGTH = 3, UNDEFINED_OPCODE = 6 };
	struct kvm_vcpu_events events;
	struct kvm_regs regs;

	complete(vp);
	if (kvm_ioctl(vp->fd, KVM_GET_REGS, &regs) < 0 ||
	    kvm_ioctl(vp->fd, KVM_GET_VCPU_EVENTS, &events) < 0)
		return;
	regs.rip -= OUT_LENGTH;
	kvm_ioctl(vp->fd, KVM_SET_REGS, &regs);
	events.flags = 0;
	events.exception.injected = 1;
	events.exception.nr = UNDEFINED_OPCODE;
	events.exception.has_error_code = 0;
	kvm_ioctl(vp->fd, KVM_SET_VCPU_EVENTS, &events);
}

static void hypercall_arguments(const struct kvm_regs *regs, struct part_hypercall *call)
{
	if (call->long_mode) {
		call->control = regs->rcx;
		call->input = regs->rdx;
		call->output = regs->r8;
	} else {
		call->control = regs->rdx << 32 | (uint32_t)regs->rax;
		call->input = regs->rbx << 32 | (uint32_t)regs->rcx;
		call->output = regs->rdi << 32 | (uint32_t)regs->rsi;
	}
}

void kvm_vp_hypercall(struct kvm_vp *vp)
{
	const struct part_host *host = &vp->kvm->part.host;
	const uint64_t efer_lma = BIT(10);
	struct part_hypercall call = { 0 };
	struct kvm_sregs sregs;
	struct kvm_regs regs = { 0 };

	if (kvm_ioctl(vp->fd, KVM_GET_SREGS, &sregs) < 0)
		return;
	if (sregs.ss.dpl != 0) {
		refuse_hypercall(vp);
		return;
	}
	get_regs(vp, &regs);
	call.long_mode = sregs.efer & efer_lma && sregs.cs.l;
	hypercall_arguments(&regs, &call);
	host->hypercall(host->user, vp->index, &call);
	regs.rax = call.long_mode ? call.result : (uint32_t)call.result;
	if (!call.long_mode)
		regs.rdx = call.result >> 32;
	set_regs(vp, &regs);
}

/* ---- the threads ---- */

static int run_once(struct kvm_vp *vp)
{
	int rc = ioctl(vp->fd, KVM_RUN, 0);

	if (rc == 0)
		handle_exit(vp);
	return rc < 0 ? -errno : 0;
}

/* Finishes what the last exit began. A string instruction goes on with its next exit. */
static void complete(struct kvm_vp *vp)
{
	if (!vp->io_pending)
		return;
	vp->io_pending = false;
	do
		__atomic_store_n(&vp->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	while (run_once(vp) == 0 && vp->io_pending);
	vp->io_pending = false;
}

/* Waits while the VP may not run; false: the thread ends. */
static bool wait_until_runnable(struct kvm_vp *vp)
{
	struct kvm_part *kvm = vp->kvm;
	bool stopping;

	complete(vp);
	pthread_mutex_lock(&kvm->lock);
	kvm->active--;
	pthread_cond_broadcast(&kvm->changed);
	while (!kvm->stopping && (kvm->pausing || vp->parked))
		pthread_cond_wait(&kvm->changed, &kvm->lock);
	kvm->active++;
	stopping = kvm->stopping;
	pthread_mutex_unlock(&kvm->lock);
	return !stopping;
}

static void run_vp(struct kvm_vp *vp)
{
	struct kvm_part *kvm = vp->kvm;
	int rc;

	for (;;) {
		__atomic_store_n(&vp->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		if ((atomic_load(&kvm->attention) || vp->parked) && !wait_until_runnable(vp))
			return;
		kvm_vp_deliver(vp);
		rc = run_once(vp);
		/* EAGAIN: a processor that waits for INIT or SIPI got one. */
		if (rc < 0 && rc != -EINTR && rc != -EAGAIN)
			kvm_vp_fatal(vp, "KVM: running processor %u: %s", vp->index, strerror(-rc));
	}
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec ts = { 0 };

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

static void *vp_thread(void *arg)
{
	struct kvm_vp *vp = arg;
	struct kvm_part *kvm = vp->kvm;

	this_run = vp->run;
	kvm_vp_auto_eoi_begin(vp);
	run_vp(vp);
	kvm_vp_auto_eoi_end(vp);
	this_run = NULL;
	atomic_store(&vp->runtime_ns, clock_ns(CLOCK_THREAD_CPUTIME_ID));
	pthread_mutex_lock(&kvm->lock);
	kvm->active--;
	pthread_cond_broadcast(&kvm->changed);
	pthread_mutex_unlock(&kvm->lock);
	return NULL;
}

uint64_t kvm_vp_runtime_ns(const struct part *part, unsigned vp)
{
	struct kvm_part *kvm = kvm_of(part);
	uint64_t ns = atomic_load(&kvm->vp[vp].runtime_ns);
	clockid_t clock;

	pthread_mutex_lock(&kvm->lock);
	if (kvm->vp[vp].has_thread && ns == 0 &&
	    pthread_getcpuclockid(kvm->vp[vp].thread, &clock) == 0)
		ns = clock_ns(clock);
	pthread_mutex_unlock(&kvm->lock);
	return ns;
}

int kvm_thread_create(pthread_t *ret, void *(*run)(void *), void *arg, const char *name,
		      bool kicked)
{
	sigset_t blocked, before;
	int rc;

	sigfillset(&blocked);
	if (kicked)
		sigdelset(&blocked, kick_signal());
	pthread_sigmask(SIG_SETMASK, &blocked, &before);
	rc = pthread_create(ret, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc == 0)
		pthread_setname_np(*ret, name);
	return rc;
}

static int start_vp(struct kvm_vp *vp, struct error *err)
{
	struct kvm_part *kvm = vp->kvm;
	char name[16];
	int rc;

	if (kvm->has_sync_regs)
		vp->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
	snprintf(name, sizeof(name), "vp%u", vp->index);
	pthread_mutex_lock(&kvm->lock);
	rc = kvm_thread_create(&vp->thread, vp_thread, vp, name, true);
	vp->has_thread = rc == 0;
	kvm->active += rc == 0;
	pthread_mutex_unlock(&kvm->lock);
	return rc == 0 ? 0
		       : error_set_errno(err, rc, "starting the thread of processor %u", vp->index);
}

int kvm_vps_start(struct part *part, struct error *err)
{
	struct kvm_part *kvm = kvm_of(part);
	int rc = 0;

	/* They wait until all exist. */
	pthread_mutex_lock(&kvm->lock);
	kvm->pausing = true;
	atomic_store(&kvm->attention, true);
	pthread_mutex_unlock(&kvm->lock);
	for (unsigned i = 0; i < part->vp_count && rc == 0; i++)
		rc = start_vp(&kvm->vp[i], err);
	if (rc == 0)
		rc = kvm_large_start(kvm, err);
	if (rc < 0)
		kvm_vps_stop(part);
	else
		kvm_vps_resume(part);
	return rc;
}

static void kick_all(struct kvm_part *kvm)
{
	for (unsigned i = 0; i < kvm->part.vp_count; i++)
		kvm_vp_kick(&kvm->vp[i]);
}

void kvm_vps_pause(struct part *part)
{
	struct kvm_part *kvm = kvm_of(part);

	pthread_mutex_lock(&kvm->lock);
	kvm->pausing = true;
	atomic_store(&kvm->attention, true);
	pthread_mutex_unlock(&kvm->lock);
	kick_all(kvm);
	pthread_mutex_lock(&kvm->lock);
	while (kvm->active > 0)
		pthread_cond_wait(&kvm->changed, &kvm->lock);
	pthread_mutex_unlock(&kvm->lock);
	kvm_tsc_offset_refresh(kvm);
}

void kvm_vps_resume(struct part *part)
{
	struct kvm_part *kvm = kvm_of(part);

	pthread_mutex_lock(&kvm->lock);
	kvm->pausing = false;
	atomic_store(&kvm->attention, kvm->stopping);
	pthread_cond_broadcast(&kvm->changed);
	pthread_mutex_unlock(&kvm->lock);
}

void kvm_vps_stop(struct part *part)
{
	struct kvm_part *kvm = kvm_of(part);

	pthread_mutex_lock(&kvm->lock);
	kvm->stopping = true;
	atomic_store(&kvm->attention, true);
	pthread_cond_broadcast(&kvm->changed);
	pthread_mutex_unlock(&kvm->lock);
	kick_all(kvm);
	for (unsigned i = 0; i < part->vp_count; i++) {
		if (!kvm->vp[i].has_thread)
			continue;
		pthread_join(kvm->vp[i].thread, NULL);
		pthread_mutex_lock(&kvm->lock);
		kvm->vp[i].has_thread = false;
		pthread_mutex_unlock(&kvm->lock);
	}
	kvm_large_stop(kvm);
}
