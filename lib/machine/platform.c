#include "machine/machine-impl.h"

#include "base/macros.h"
#include "chipset/i8042.h"
#include "chipset/ioapic.h"
#include "chipset/pic.h"
#include "chipset/pit.h"
#include "chipset/pm.h"
#include "chipset/rtc.h"
#include "chipset/uart.h"
#include "fw/acpi.h"
#include "fw/linux.h"
#include "fw/smbios.h"

#include <stdlib.h>

struct com_port {
	struct platform *platform;
	unsigned number; /* 0: COM1 */
	struct uart *uart;
};

struct platform {
	struct machine *machine;
	struct bus *bus;
	struct ioapic *ioapic;
	struct pic *pic;
	struct pit *pit;
	struct rtc *rtc;
	struct pm *pm;
	struct i8042 *i8042;
	struct com_port com[2];
};

struct bus *platform_bus(struct platform *platform)
{
	return platform->bus;
}

/* ---- interrupts ---- */

/* An ISA interrupt reaches both controllers; the timer's IOAPIC pin is 2 (MADT override). */
static void set_isa_irq(void *user, unsigned irq, bool level)
{
	struct platform *platform = user;

	pic_set_irq(platform->pic, irq, level);
	ioapic_set_irq(platform->ioapic, irq == 0 ? 2 : irq, level);
}

static struct irq_line isa_line(struct platform *platform, unsigned irq)
{
	return (struct irq_line){ set_isa_irq, platform, irq };
}

static void on_ioapic_msi(void *user, uint64_t address, uint32_t data)
{
	part_msi(((struct platform *)user)->machine->part, address, data);
}

static void on_ioapic_route(void *user, unsigned pin, uint64_t address, uint32_t data, bool masked)
{
	part_ioapic_route(((struct platform *)user)->machine->part, pin, address, data, masked);
}

static void on_pic_intr(void *user, bool level)
{
	part_extint_set(((struct platform *)user)->machine->part, level);
}

void platform_eoi(struct platform *platform, uint8_t vector)
{
	ioapic_eoi(platform->ioapic, vector);
}

int platform_extint_ack(struct platform *platform)
{
	return pic_ack(platform->pic);
}

/* ---- power ---- */

static void on_reset(void *user)
{
	machine_ask_reset(((struct platform *)user)->machine);
}

static void on_power_off(void *user)
{
	machine_ask_off(((struct platform *)user)->machine, MACHINE_OFF_GUEST,
			"the guest operating system shut down");
}

/* ---- serial ports ---- */

static void on_uart_output(void *user, const void *data, size_t len)
{
	struct com_port *com = user;
	const struct machine_events *events = &com->platform->machine->events;

	events->console_output(events->user, com->number, data, len);
}

static void on_uart_room(void *user)
{
	struct com_port *com = user;
	const struct machine_events *events = &com->platform->machine->events;

	events->console_room(events->user, com->number);
}

size_t platform_console_input(struct platform *platform, unsigned port, const void *data,
			      size_t len)
{
	return uart_input(platform->com[port].uart, data, len);
}

static int new_uarts(struct platform *platform, struct error *err)
{
	static const struct {
		uint16_t port;
		unsigned irq;
	} where[2] = { { UART_COM1_PORT, UART_COM1_IRQ }, { UART_COM2_PORT, UART_COM2_IRQ } };

	for (unsigned i = 0; i < 2; i++) {
		struct com_port *com = &platform->com[i];
		const struct uart_config config = {
			.bus = platform->bus,
			.loop = platform->machine->loop,
			.port = where[i].port,
			.irq = isa_line(platform, where[i].irq),
			.output = on_uart_output,
			.room = on_uart_room,
			.user = com,
		};
		int r;

		com->platform = platform;
		com->number = i;
		r = uart_new(&config, &com->uart, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- life ---- */

static int new_interrupt_controllers(struct platform *platform, struct error *err)
{
	const struct ioapic_config ioapic = { platform->bus, 0, on_ioapic_msi, on_ioapic_route,
					      platform };
	const struct pic_config pic = { platform->bus, on_pic_intr, platform };
	int r = ioapic_new(&ioapic, &platform->ioapic, err);

	return r < 0 ? r : pic_new(&pic, &platform->pic, err);
}

static int new_devices(struct platform *platform, struct error *err)
{
	struct loop *loop = platform->machine->loop;
	const struct pit_config pit = { platform->bus, loop, isa_line(platform, 0) };
	const struct rtc_config rtc = { platform->bus, loop, isa_line(platform, 8) };
	const struct pm_config pm = { .bus = platform->bus,
				      .loop = loop,
				      .sci = isa_line(platform, 9),
				      .power_off = on_power_off,
				      .reset = on_reset,
				      .user = platform };
	const struct i8042_config i8042 = { .bus = platform->bus,
					    .reset = on_reset,
					    .user = platform };
	int r = pit_new(&pit, &platform->pit, err);

	if (r == 0)
		r = rtc_new(&rtc, &platform->rtc, err);
	if (r == 0)
		r = pm_new(&pm, &platform->pm, err);
	if (r == 0)
		r = i8042_new(&i8042, &platform->i8042, err);
	return r < 0 ? r : new_uarts(platform, err);
}

int platform_new(struct machine *machine, struct platform **ret, struct error *err)
{
	struct platform *platform = calloc(1, sizeof(*platform));
	int r;

	if (!platform)
		return error_set(err, ERR_NO_MEMORY, "no memory for the chipset");
	platform->machine = machine;
	r = bus_new(&platform->bus, err);
	if (r == 0)
		r = new_interrupt_controllers(platform, err);
	if (r == 0)
		r = new_devices(platform, err);
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
	for (unsigned i = 0; i < 2; i++)
		uart_free(platform->com[i].uart);
	i8042_free(platform->i8042);
	pm_free(platform->pm);
	rtc_free(platform->rtc);
	pit_free(platform->pit);
	pic_free(platform->pic);
	ioapic_free(platform->ioapic);
	bus_free(platform->bus);
	free(platform);
}

void platform_reset(struct platform *platform)
{
	for (unsigned i = 0; i < 2; i++)
		uart_reset(platform->com[i].uart);
	i8042_reset(platform->i8042);
	pm_reset(platform->pm);
	rtc_reset(platform->rtc);
	pit_reset(platform->pit);
	pic_reset(platform->pic);
	ioapic_reset(platform->ioapic);
}

/* ---- boot ---- */

static void set_segment(struct part_segment *segment, uint16_t selector, uint16_t attributes)
{
	*segment = (struct part_segment){ 0, 0xffffffff, selector, attributes };
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
	state.gdt_base = entry->gdt_base;
	state.gdt_limit = entry->gdt_limit;
	set_segment(&state.seg[PART_CS], entry->code_selector, 0xa09b);
	set_segment(&state.seg[PART_DS], entry->data_selector, 0xc093);
	set_segment(&state.seg[PART_ES], entry->data_selector, 0xc093);
	set_segment(&state.seg[PART_SS], entry->data_selector, 0xc093);
	set_segment(&state.seg[PART_FS], entry->data_selector, 0xc093);
	set_segment(&state.seg[PART_GS], entry->data_selector, 0xc093);
	part_vp_set_state(machine->part, 0, &state);
}
