#include "machine/machine-impl.h"

#include "base/macros.h"
#include "chipset/chipset.h"
#include "chipset/ioapic.h"
#include "chipset/pci.h"
#include "chipset/pm.h"
#include "fw/acpi.h"
#include "fw/linux.h"
#include "fw/smbios.h"

#include <stdlib.h>

/* Windows for the memory of VMBus devices: the hole below 4 GiB up to the IOAPIC, and 4 GiB above
 * all RAM. */
#define LOW_WINDOW_END    IOAPIC_BASE
#define HIGH_WINDOW_BYTES (4 * GIB)

struct platform {
	struct machine *machine;
	struct bus *bus;
	struct chipset *chipset;
};

struct bus *platform_bus(struct platform *platform)
{
	return platform->bus;
}

/* ---- what the chipset asks for ---- */

static void on_msi(void *user, uint64_t address, uint32_t data)
{
	part_msi(((struct platform *)user)->machine->part, address, data);
}

static void on_route(void *user, unsigned pin, uint64_t address, uint32_t data, bool masked)
{
	part_ioapic_route(((struct platform *)user)->machine->part, pin, address, data, masked);
}

static void on_intr(void *user, bool level)
{
	part_extint_set(((struct platform *)user)->machine->part, level);
}

static void on_uart_output(void *user, unsigned port, const void *data, size_t len)
{
	const struct machine_events *events = &((struct platform *)user)->machine->events;

	events->console_output(events->user, port, data, len);
}

static void on_uart_room(void *user, unsigned port)
{
	const struct machine_events *events = &((struct platform *)user)->machine->events;

	events->console_room(events->user, port);
}

static void on_power_off(void *user)
{
	machine_ask_off(((struct platform *)user)->machine, MACHINE_OFF_GUEST,
			"the guest operating system shut down");
}

static void on_reset(void *user)
{
	machine_ask_reset(((struct platform *)user)->machine);
}

/* ---- life ---- */

static bool has_legacy_devices(const struct machine *machine)
{
	return machine->config->generation == 1;
}

int platform_new(struct machine *machine, struct platform **ret, struct error *err)
{
	struct platform *platform = calloc(1, sizeof(*platform));
	int r;

	if (!platform)
		return error_set(err, ERR_NO_MEMORY, "no memory for the chipset");
	platform->machine = machine;
	r = bus_new(&platform->bus, err);
	if (r == 0) {
		const struct chipset_config config = {
			.bus = platform->bus,
			.loop = machine->loop,
			.legacy = has_legacy_devices(machine),
			.host = { platform, on_msi, on_route, on_intr, on_uart_output, on_uart_room,
				  on_power_off, on_reset },
		};

		r = chipset_new(&config, &platform->chipset, err);
	}
	if (r < 0) {
		platform_free(platform);
		return r;
	}
	*ret = platform;
	return 0;
}

void platform_free(struct platform *platform)
{
	if (!platform)
		return;
	chipset_free(platform->chipset);
	bus_free(platform->bus);
	free(platform);
}

void platform_reset(struct platform *platform)
{
	chipset_reset(platform->chipset);
}

void platform_save(struct platform *platform, struct state_out *out)
{
	chipset_save(platform->chipset, out);
}

int platform_restore(struct platform *platform, struct state_in *in, struct error *err)
{
	return chipset_restore(platform->chipset, in, err);
}

void platform_flush(struct platform *platform)
{
	chipset_flush(platform->chipset);
}

void platform_eoi(struct platform *platform, uint8_t vector)
{
	chipset_eoi(platform->chipset, vector);
}

int platform_extint_ack(struct platform *platform)
{
	return chipset_extint_ack(platform->chipset);
}

size_t platform_console_input(struct platform *platform, unsigned port, const void *data,
			      size_t len)
{
	return chipset_uart_input(platform->chipset, port, data, len);
}

/* ---- boot ---- */

static void set_segment(struct part_segment *segment, uint16_t selector, uint16_t attributes)
{
	*segment = (struct part_segment){ 0, 0xffffffff, selector, attributes };
}

/* As firmware leaves it, on all processors: MTRRs on, all memory write-back. Without it the guest
 * forgoes its page attributes. */
#define MTRR_ALL_WRITE_BACK 0xc06

static void prepare_waiting_vps(struct machine *machine)
{
	for (unsigned vp = 1; vp < machine->config->processor_count; vp++) {
		struct part_vp_state state;

		part_vp_get_state(machine->part, vp, &state);
		state.mtrr_def_type = MTRR_ALL_WRITE_BACK;
		part_vp_set_state(machine->part, vp, &state);
	}
}

/* 64-bit mode with paging on, interrupts off (boot protocol, "64-bit boot protocol"). */
static void enter_linux(struct machine *machine, const struct linux_entry *entry)
{
	struct part_vp_state state;

	part_vp_state_at_reset(&state);
	state.rip = entry->rip;
	state.gpr[PART_RSI] = entry->rsi;
	state.rflags = 2;
	state.cr0 = 0x80000031; /* PG, NE, ET, PE */
	state.cr3 = entry->cr3;
	state.cr4 = 0x20;   /* PAE */
	state.efer = 0x500; /* LMA, LME */
	state.mtrr_def_type = MTRR_ALL_WRITE_BACK;
	state.gdt_base = entry->gdt_base;
	state.gdt_limit = entry->gdt_limit;
	set_segment(&state.seg[PART_CS], entry->code_selector, 0xa09b);
	set_segment(&state.seg[PART_DS], entry->data_selector, 0xc093);
	set_segment(&state.seg[PART_ES], entry->data_selector, 0xc093);
	set_segment(&state.seg[PART_SS], entry->data_selector, 0xc093);
	set_segment(&state.seg[PART_FS], entry->data_selector, 0xc093);
	set_segment(&state.seg[PART_GS], entry->data_selector, 0xc093);
	part_vp_set_state(machine->part, 0, &state);
	prepare_waiting_vps(machine);
}

static uint64_t high_window(const struct machine *machine)
{
	return ALIGN_UP(MAX(mem_top_gpa(machine->mem), MEM_HIGH_BASE), GIB);
}

bool platform_in_window(const struct machine *machine, uint64_t gpa, uint64_t len)
{
	uint64_t high = high_window(machine);

	return (gpa >= MEM_LOW_TOP &&
		RANGE_OK(gpa - MEM_LOW_TOP, len, LOW_WINDOW_END - MEM_LOW_TOP)) ||
	       (gpa >= high && RANGE_OK(gpa - high, len, HIGH_WINDOW_BYTES));
}

static uint64_t install_tables(struct machine *machine)
{
	uint64_t high = high_window(machine);
	const struct acpi_config config = {
		.vp_count = machine->config->processor_count,
		.legacy = has_legacy_devices(machine),
		.ioapic_gpa = IOAPIC_BASE,
		.pm1_event_port = PM_BASE,
		.pm1_control_port = PM_BASE + 4,
		.pm_timer_port = PM_BASE + 8,
		.reset_port = PCI_RESET_PORT,
		.reset_value = PCI_RESET_VALUE,
		.sci_irq = PM_SCI_IRQ,
		.s5_type = PM_SLP_TYP_S5,
		.low_window = { MEM_LOW_TOP, LOW_WINDOW_END - MEM_LOW_TOP },
		.high_window = { high, HIGH_WINDOW_BYTES },
	};

	return acpi_install(machine->mem, &config);
}

int platform_load(struct platform *platform, struct error *err)
{
	struct machine *machine = platform->machine;
	struct linux_boot boot = { .kernel_fd = machine->files.kernel,
				   .initrd_fd = machine->files.initrd,
				   .cmdline = machine->config->kernel_cmdline };
	const struct smbios_config smbios = { machine->config->generation, machine->config->id,
					      machine->config->processor_count };
	struct linux_entry entry;
	int r;

	if (boot.kernel_fd < 0)
		return error_set(err, ERR_UNSUPPORTED,
				 "firmware boot is not there yet: give the VM -LinuxKernelPath");
	smbios_install(machine->mem, &smbios);
	boot.rsdp_gpa = install_tables(machine);
	r = linux_load(machine->mem, &boot, &entry, err);
	if (r == 0)
		enter_linux(machine, &entry);
	return r;
}
