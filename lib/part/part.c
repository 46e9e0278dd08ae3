/* The partition's life cycle and its dispatch to the backend; see part-impl.h for the contract. */
#include "part/part-impl.h"

#include "base/host.h"
#include "part/kvm/kvm.h"
#include "part/softcpu/softcpu.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

const char *part_backend_name(enum part_backend backend)
{
	static const char *const names[] = {
		[PART_AUTO] = "auto",
		[PART_KVM] = "kvm",
		[PART_SOFT] = "soft",
		[PART_SOFT_INTERPRETER] = "soft-interpreter",
		[PART_SOFT_LOCKSTEP] = "soft-lockstep",
	};

	return names[backend];
}

enum part_backend part_backend_detect(int kvm_fd, char *reason, size_t reason_size)
{
	char why[256];
	bool usable = host_kvm_usable(kvm_fd, why, sizeof(why));

	if (reason && reason_size)
		snprintf(reason, reason_size, "%s", why);
	return usable ? PART_KVM : PART_SOFT;
}

static const struct part_backend_ops *backend_ops(enum part_backend backend, int kvm_fd,
						  struct error *err)
{
	char why[256];
	bool soft = backend == PART_SOFT || backend == PART_SOFT_INTERPRETER ||
		    backend == PART_SOFT_LOCKSTEP;

	if (!soft && host_kvm_usable(kvm_fd, why, sizeof(why)))
		return &kvm_backend_ops;
	if (backend == PART_KVM) {
		error_set(err, ERR_UNSUPPORTED, "%s", why);
		return NULL;
	}
	return &softcpu_backend_ops;
}

int part_new(const struct part_config *config, struct part **ret, struct error *err)
{
	const struct part_backend_ops *ops = backend_ops(config->backend, config->kvm_fd, err);
	struct part *part;
	int rc;

	if (!ops)
		return -ERR_UNSUPPORTED;
	if (config->vp_count < 1 || config->vp_count > PART_MAX_VPS)
		return error_set(err, ERR_LIMIT, "%u virtual processors: 1 to %u are possible",
				 config->vp_count, PART_MAX_VPS);
	part = calloc(1, ops->size);
	if (!part)
		return error_set(err, ERR_NO_MEMORY, "no memory for the partition");
	part->ops = ops;
	part->backend = ops->backend == PART_SOFT && config->backend != PART_AUTO ? config->backend
										  : ops->backend;
	part->mem = config->mem;
	part->vp_count = config->vp_count;
	part->host = config->host;
	part->saved_apic_hz = config->saved ? config->saved->apic_hz : 0;
	rc = ops->init(part, config, err);
	if (rc < 0) {
		part_free(part);
		return rc;
	}
	*ret = part;
	return 0;
}

void part_free(struct part *part)
{
	if (!part)
		return;
	part_stop(part);
	part->ops->done(part);
	profile_done(&part->profile);
	free(part);
}

enum part_backend part_backend(const struct part *part)
{
	return part->backend;
}

/* ---- life cycle ---- */

int part_start(struct part *part, struct error *err)
{
	int rc;

	if (part->phase != PART_NEW)
		return error_set(err, ERR_STATE, "the partition was started before");
	rc = part->ops->start(part, err);
	if (rc == 0)
		part->phase = PART_RUNNING;
	return rc;
}

void part_pause(struct part *part)
{
	if (part->phase != PART_RUNNING)
		return;
	part->ops->pause(part);
	part->phase = PART_PAUSED;
}

void part_resume(struct part *part)
{
	if (part->phase != PART_PAUSED)
		return;
	part->phase = PART_RUNNING;
	part->ops->resume(part);
}

void part_stop(struct part *part)
{
	if (part->phase == PART_RUNNING || part->phase == PART_PAUSED)
		part->ops->stop(part);
	part->phase = PART_STOPPED;
}

void part_reset(struct part *part)
{
	assert(part->phase != PART_RUNNING);
	part->ops->reset(part);
}

int part_memory_changed(struct part *part, struct error *err)
{
	assert(part->phase != PART_RUNNING);
	return part->ops->memory_changed(part, err);
}

int part_map_device(struct part *part, uint64_t gpa, void *host, uint64_t len, struct error *err)
{
	assert(part->phase != PART_RUNNING);
	if (!part->ops->map_device)
		return error_set(err, ERR_UNSUPPORTED, "device memory is reached by MMIO");
	return part->ops->map_device(part, gpa, host, len, err);
}

bool part_stands(const struct part *part)
{
	return part->phase != PART_RUNNING;
}

void part_vp_get_state(struct part *part, unsigned vp, struct part_vp_state *ret)
{
	assert(vp < part->vp_count && part->phase != PART_RUNNING);
	part->ops->vp_get_state(part, vp, ret);
}

void part_vp_set_state(struct part *part, unsigned vp, const struct part_vp_state *state)
{
	assert(vp < part->vp_count && part->phase != PART_RUNNING);
	part->ops->vp_set_state(part, vp, state);
}

/* SDM volume 3, table 10-1 */
void part_vp_state_at_reset(struct part_vp_state *ret)
{
	*ret = (struct part_vp_state){ 0 };
	for (unsigned i = PART_ES; i <= PART_GS; i++)
		ret->seg[i] = (struct part_segment){ 0, 0xFFFF, 0, 0x0093 };
	ret->seg[PART_CS] = (struct part_segment){ 0xFFFF0000, 0xFFFF, 0xF000, 0x009B };
	ret->seg[PART_LDTR] = (struct part_segment){ 0, 0xFFFF, 0, 0x0082 };
	ret->seg[PART_TR] = (struct part_segment){ 0, 0xFFFF, 0, 0x008B };
	ret->gdt_limit = ret->idt_limit = 0xFFFF;
	ret->rip = 0xFFF0;
	ret->rflags = 2;
	ret->cr0 = 0x60000010;
}

/* ---- services ---- */

void part_interrupt(struct part *part, unsigned vp, uint8_t vector, bool auto_eoi)
{
	assert(vp < part->vp_count);
	part->ops->interrupt(part, vp, vector, auto_eoi);
}

void part_msi(struct part *part, uint64_t address, uint32_t data)
{
	part->ops->msi(part, address, data);
}

void part_ioapic_route(struct part *part, unsigned pin, uint64_t address, uint32_t data,
		       bool masked)
{
	part->ops->ioapic_route(part, pin, address, data, masked);
}

void part_nmi(struct part *part, unsigned vp)
{
	assert(vp < part->vp_count);
	part->ops->nmi(part, vp);
}

void part_extint_set(struct part *part, bool level)
{
	part->ops->extint_set(part, level);
}

uint64_t part_tsc_hz(const struct part *part)
{
	return part->ops->tsc_hz(part);
}

uint64_t part_tsc_now(const struct part *part)
{
	return part->ops->partition_tsc(part);
}

uint64_t part_apic_hz(const struct part *part)
{
	return part->ops->apic_hz(part);
}

uint64_t part_vp_runtime_ns(const struct part *part, unsigned vp)
{
	assert(vp < part->vp_count);
	return part->ops->vp_runtime_ns(part, vp);
}

unsigned part_hypercall_code(const struct part *part, uint8_t ret[static 64])
{
	return part->ops->hypercall_code(part, ret);
}

void part_dirty_log_collect(struct part *part)
{
	part->ops->dirty_log_collect(part);
}
