#include "machine/machine-impl.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "dev/balloon.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *machine_off_reason_name(enum machine_off_reason reason)
{
	static const char *const names[] = {
		[MACHINE_OFF_GUEST] = "guest-shutdown", [MACHINE_OFF_TURNED_OFF] = "turned-off",
		[MACHINE_OFF_CRASH] = "guest-crash",    [MACHINE_OFF_ERROR] = "worker-error",
		[MACHINE_OFF_SAVED] = "saved",
	};

	return names[reason];
}

/* ---- the partition's callbacks, on VP threads ---- */

static uint32_t on_pio_read(void *user, unsigned vp, uint16_t port, unsigned size)
{
	struct machine *machine = user;

	return bus_pio_read(platform_bus(machine->platform), port, size);
}

static void on_pio_write(void *user, unsigned vp, uint16_t port, unsigned size, uint32_t value)
{
	struct machine *machine = user;

	bus_pio_write(platform_bus(machine->platform), port, size, value);
}

static uint64_t on_mmio_read(void *user, unsigned vp, uint64_t gpa, unsigned size)
{
	struct machine *machine = user;

	return bus_mmio_read(platform_bus(machine->platform), gpa, size);
}

static void on_mmio_write(void *user, unsigned vp, uint64_t gpa, unsigned size, uint64_t value)
{
	struct machine *machine = user;

	bus_mmio_write(platform_bus(machine->platform), gpa, size, value);
}

static bool on_msr_read(void *user, unsigned vp, uint32_t msr, uint64_t *ret)
{
	return hv_msr_read(((struct machine *)user)->hv, vp, msr, ret);
}

static bool on_msr_write(void *user, unsigned vp, uint32_t msr, uint64_t value)
{
	return hv_msr_write(((struct machine *)user)->hv, vp, msr, value);
}

static void on_hypercall(void *user, unsigned vp, struct part_hypercall *call)
{
	hv_hypercall(((struct machine *)user)->hv, vp, call);
}

static void on_eoi(void *user, uint8_t vector)
{
	platform_eoi(((struct machine *)user)->platform, vector);
}

static int on_extint_ack(void *user)
{
	return platform_extint_ack(((struct machine *)user)->platform);
}

static void on_triple_fault(void *user, unsigned vp)
{
	machine_ask_reset(user);
}

static void on_vp_reset(void *user, unsigned vp)
{
	struct machine *machine = user;

	if (machine->hv)
		hv_vp_reset(machine->hv, vp);
}

static void on_fatal(void *user, unsigned vp, const char *text)
{
	machine_ask_off(user, MACHINE_OFF_ERROR, text);
}

/* ---- requests from VP threads ---- */

struct off_request {
	struct machine *machine;
	enum machine_off_reason reason;
	char text[1200];
};

void machine_go_off(struct machine *machine, enum machine_off_reason reason, const char *text)
{
	if (machine->off)
		return;
	machine->off = true;
	save_cancel(machine);
	if (machine->running && !machine->paused)
		part_pause(machine->part);
	machine->paused = true;
	platform_flush(machine->platform);
	machine->events.off(machine->events.user, reason, text);
}

static void carry_out_off(void *user)
{
	struct off_request *request = user;

	machine_go_off(request->machine, request->reason, request->text);
	free(request);
}

void machine_ask_off(struct machine *machine, enum machine_off_reason reason, const char *text)
{
	struct off_request *request = calloc(1, sizeof(*request));

	if (!request)
		abort(); /* a few bytes: the host is beyond help */
	request->machine = machine;
	request->reason = reason;
	snprintf(request->text, sizeof(request->text), "%s", text);
	loop_post(machine->loop, carry_out_off, request);
}

static void carry_out_reset(void *user)
{
	struct machine *machine = user;

	__atomic_store_n(&machine->reset_asked, false, __ATOMIC_SEQ_CST);
	if (machine->off)
		return;
	machine->events.guest_reset(machine->events.user);
	machine_reset(machine);
}

void machine_ask_reset(struct machine *machine)
{
	if (!__atomic_exchange_n(&machine->reset_asked, true, __ATOMIC_SEQ_CST))
		loop_post(machine->loop, carry_out_reset, machine);
}

static void on_hv_reset(void *user, unsigned vp)
{
	machine_ask_reset(user);
}

struct crash_report {
	struct machine *machine;
	uint64_t params[HV_CRASH_PARAMS];
	char *text;
};

static void tell_crash(void *user)
{
	struct crash_report *report = user;
	struct machine *machine = report->machine;

	machine->events.guest_crash(machine->events.user, report->params, report->text);
	free(report->text);
	free(report);
}

static void on_hv_crash(void *user, unsigned vp, const struct hv_crash *crash)
{
	struct crash_report *report = calloc(1, sizeof(*report));

	if (!report)
		return;
	report->machine = user;
	memcpy(report->params, crash->params, sizeof(report->params));
	if (crash->text)
		report->text = strndup(crash->text, crash->text_len);
	loop_post(report->machine->loop, tell_crash, report);
}

/* ---- construction ---- */

static enum part_backend wanted_backend(const struct config_vm *config)
{
	switch (config->backend) {
	case CONFIG_BACKEND_KVM:
		return PART_KVM;
	case CONFIG_BACKEND_SOFT:
		return PART_SOFT;
	case CONFIG_BACKEND_SOFT_INTERPRETER:
		return PART_SOFT_INTERPRETER;
	case CONFIG_BACKEND_SOFT_LOCKSTEP:
		return PART_SOFT_LOCKSTEP;
	default:
		return PART_AUTO;
	}
}

/* Of the host's, those that we may run on. */
static unsigned usable_processors(void)
{
	cpu_set_t set;

	/* Refused where there are more than fit in. */
	return sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : UINT_MAX;
}

static int new_partition(struct machine *machine, struct error *err)
{
	const struct config_vm *config = machine->config;
	/* The timers of the SynIC replace the local APIC's only where an arming costs no exit. */
	struct hv_features features = { .reference_tsc = true, .memory_hints = true };
	struct part_cpuid leaves[HV_CPUID_COUNT];
	struct part_config part = {
		.backend = wanted_backend(config),
		.mem = machine->mem,
		.vp_count = config->processor_count,
		.host = { machine, on_pio_read, on_pio_write, on_mmio_read, on_mmio_write,
			  on_msr_read, on_msr_write, on_hypercall, on_eoi, on_extint_ack,
			  on_triple_fault, on_vp_reset, on_fatal },
		.cpuid = leaves,
		.cpuid_count = HV_CPUID_COUNT,
		.code_cache_bytes = config->code_cache_bytes,
		.compatible = config->processor.compatible,
		.kvm_fd = machine->files.kvm,
	};
	enum part_backend detected;
	struct hv_config hv;
	int r;

	detected = part_backend_detect(machine->files.kvm, machine->backend_reason,
				       sizeof(machine->backend_reason));
	if (part.backend != PART_AUTO && part.backend != detected)
		snprintf(machine->backend_reason, sizeof(machine->backend_reason),
			 "asked for by the VM's configuration");
	features.synthetic_timers =
	    (part.backend == PART_AUTO ? detected : part.backend) != PART_KVM;
	/* In KVM what IPIs cost goes up for it. The software CPU's VPs let go when they spin. */
	features.overcommitted =
	    !features.synthetic_timers && config->processor_count > usable_processors();
	if (machine->restore) {
		features = machine->restore->features;
		part.saved = &machine->restore->part;
	}
	hv_cpuid(config->processor_count, &features, leaves);
	hv = (struct hv_config){
		.loop = machine->loop,
		.mem = machine->mem,
		.vp_count = config->processor_count,
		.features = features,
		.events = { machine, on_hv_reset, on_hv_crash },
	};
	r = hv_new(&hv, &machine->hv, err);
	if (r == 0)
		r = part_new(&part, &machine->part, err);
	if (r == 0)
		hv_set_part(machine->hv, machine->part);
	return r;
}

static int build(struct machine *machine, struct error *err)
{
	int r = 0;

	if (machine->files.saved >= 0)
		r = restore_begin(machine->files.saved, &machine->restore, err);
	if (r == 0)
		r = memory_new(machine, err);
	if (r == 0)
		r = new_partition(machine, err);
	if (r == 0)
		r = platform_new(machine, &machine->platform, err);
	if (r == 0)
		r = vmbus_new(machine->loop, machine->mem, machine->hv, &machine->vmbus, err);
	if (r == 0)
		r = memory_offer(machine, err);
	if (r == 0 && machine->config->video.enabled)
		r = display_new(machine, &machine->display, err);
	if (r == 0)
		r = storage_new(machine, &machine->storage, err);
	if (r == 0)
		r = adapters_new(machine, &machine->adapters, err);
	if (r == 0)
		r = synthetic_new(machine, &machine->synthetic, err);
	if (r == 0 && machine->restore)
		r = machine_take_state(machine, err);
	else if (r == 0)
		r = platform_load(machine->platform, err);
	return r;
}

/* The caller's copies become ours. */
static void take_files(struct machine_files *ret, struct machine_files *files)
{
	*ret = *files;
	files->kernel = files->initrd = files->kvm = files->saved = -1;
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		files->disks[i] = files->tracks[i] = -1;
	memset(files->parents, 0, sizeof(files->parents));
	for (unsigned i = 0; i < CONFIG_MAX_NICS; i++)
		files->nics[i] = -1;
}

void machine_parents_done(struct machine_parents *parents)
{
	for (unsigned i = 0; i < parents->count; i++)
		close(parents->fds[i]);
	free(parents->fds);
	*parents = (struct machine_parents){ 0 };
}

static void close_files(struct machine_files *files)
{
	const int single[] = { files->kernel, files->initrd, files->kvm, files->saved };

	for (size_t i = 0; i < ARRAY_SIZE(single); i++)
		if (single[i] >= 0)
			close(single[i]);
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		if (files->disks[i] >= 0)
			close(files->disks[i]);
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		if (files->tracks[i] >= 0)
			close(files->tracks[i]);
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		machine_parents_done(&files->parents[i]);
	for (unsigned i = 0; i < CONFIG_MAX_NICS; i++)
		if (files->nics[i] >= 0)
			close(files->nics[i]);
}

int machine_new(struct loop *loop, const struct config_vm *config, struct machine_files *files,
		const struct machine_events *events, struct machine **ret, struct error *err)
{
	struct machine *machine = calloc(1, sizeof(*machine));
	int r;

	if (!machine)
		return error_set(err, ERR_NO_MEMORY, "no memory for a virtual machine");
	machine->loop = loop;
	machine->config = config;
	machine->events = *events;
	take_files(&machine->files, files);
	r = build(machine, err);
	if (r < 0) {
		machine_free(machine);
		return r;
	}
	*ret = machine;
	return 0;
}

void machine_free(struct machine *machine)
{
	if (!machine)
		return;
	save_cancel(machine);
	if (machine->running)
		part_stop(machine->part);
	restore_free(machine->restore);
	synthetic_free(machine->synthetic);
	adapters_free(machine->adapters);
	storage_free(machine->storage);
	display_free(machine->display);
	balloon_free(machine->balloon);
	vmbus_free(machine->vmbus);
	platform_free(machine->platform);
	hv_free(machine->hv);
	part_free(machine->part);
	mem_free(machine->mem);
	close_files(&machine->files);
	free(machine);
}

/* ---- life ---- */

int machine_start(struct machine *machine, struct error *err)
{
	int r = part_start(machine->part, err);

	if (r < 0)
		return r;
	machine->running = true;
	machine->started_ns = clock_boottime_ns();
	return 0;
}

/* While a save has the guest stand still, only what comes after it changes. */
void machine_pause(struct machine *machine)
{
	if (machine->off || machine->paused)
		return;
	machine->paused = true;
	if (!machine->resetting)
		part_pause(machine->part);
}

void machine_resume(struct machine *machine)
{
	if (machine->off || !machine->paused)
		return;
	if (machine->critical) {
		machine->critical_resumes = true;
		storage_retry(machine->storage);
		return;
	}
	machine->paused = false;
	if (!machine->resetting && !save_has_guest(machine))
		part_resume(machine->part);
}

bool machine_critical(const struct machine *machine)
{
	return machine->critical;
}

bool machine_enter_critical(struct machine *machine, const char *text)
{
	/* What is being saved must come to an end. */
	if (machine->off || machine->critical_ignored || save_has_guest(machine))
		return false;
	if (machine->critical)
		return true;
	machine->critical = true;
	machine->critical_resumes = !machine->paused;
	machine_pause(machine);
	machine->events.critical(machine->events.user, text);
	return true;
}

void machine_leave_critical(struct machine *machine)
{
	if (!machine->critical || machine->off)
		return;
	machine->critical = false;
	if (machine->critical_resumes)
		machine_resume(machine);
	machine->events.critical(machine->events.user, NULL);
}

void machine_set_critical_pause(struct machine *machine, bool pause)
{
	machine->critical_ignored = !pause;
	if (!pause)
		storage_give_up(machine->storage);
}

void machine_turn_off(struct machine *machine)
{
	machine_go_off(machine, MACHINE_OFF_TURNED_OFF, "turned off");
}

/* VMBus holds nothing of the guest any more: the rest of the machine starts over. */
static void finish_reset(void *user)
{
	struct machine *machine = user;
	struct error err = { 0 };

	machine->resetting = false;
	if (machine->off)
		return;
	hv_reset(machine->hv);
	platform_reset(machine->platform);
	part_reset(machine->part);
	if (memory_reset(machine, &err) < 0 || platform_load(machine->platform, &err) < 0) {
		machine_go_off(machine, MACHINE_OFF_ERROR, err.text);
		return;
	}
	if (!machine->paused)
		part_resume(machine->part);
}

void machine_reset(struct machine *machine)
{
	/* A guest that has been saved does not run any more. */
	if (machine->off || machine->resetting || save_has_guest(machine))
		return;
	save_cancel(machine);
	machine->resetting = true;
	if (!machine->paused)
		part_pause(machine->part);
	vmbus_reset(machine->vmbus, finish_reset, machine);
}

void machine_nmi(struct machine *machine)
{
	if (!machine->off)
		part_nmi(machine->part, 0);
}

size_t machine_console_input(struct machine *machine, unsigned port, const void *data, size_t len)
{
	return platform_console_input(machine->platform, port, data, len);
}

/* ---- state ---- */

const char *machine_backend_name(const struct machine *machine)
{
	return part_backend_name(part_backend(machine->part));
}

const char *machine_backend_reason(const struct machine *machine)
{
	return machine->backend_reason;
}

bool machine_paused(const struct machine *machine)
{
	return machine->paused;
}

uint64_t machine_vp_runtime_ns(const struct machine *machine, unsigned vp)
{
	return part_vp_runtime_ns(machine->part, vp);
}

uint64_t machine_uptime_ns(const struct machine *machine)
{
	return machine->started_ns ? clock_boottime_ns() - machine->started_ns : 0;
}

void machine_usage(const struct machine *machine, struct machine_usage *ret)
{
	*ret = (struct machine_usage){ 0 };
	storage_usage(machine->storage, ret);
	adapters_usage(machine->adapters, ret);
}
