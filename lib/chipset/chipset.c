#include "chipset/chipset.h"

#include "chipset/i8042.h"
#include "chipset/ioapic.h"
#include "chipset/pic.h"
#include "chipset/pci.h"
#include "chipset/pit.h"
#include "chipset/pm.h"
#include "chipset/rtc.h"

#include <stdlib.h>

#define POST_PORT 0x80 /* firmware's progress codes, and everybody's short delay */

/* The PIT's, where there is one. Linux looks there what an NMI is for (on Hyper-V's generation 2
 * only if it was not booted by EFI): all ones would be an error of RAM and PCI, not the
 * administrator's NMI. OUT2 reads high as if nothing was there, since others wait for it. */
#define CONTROL_PORT  0x61
#define CONTROL_VALUE 0x20

struct port {
	struct chipset *chipset;
	unsigned index;
};

struct chipset {
	struct chipset_config cfg;
	struct pic *pic; /* NULL without legacy devices, like pit and i8042 */
	struct pit *pit;
	struct i8042 *i8042;
	struct ioapic *ioapic;
	struct rtc *rtc;
	struct pm *pm;
	struct pci *pci;
	struct port ports[CHIPSET_UARTS];
	struct uart *uart[CHIPSET_UARTS];
};

static void set_isa_irq(void *user, unsigned irq, bool level)
{
	struct chipset *chipset = user;

	if (chipset->pic)
		pic_set_irq(chipset->pic, irq, level);
	ioapic_set_irq(chipset->ioapic, irq == 0 ? 2 : irq, level);
}

struct irq_line chipset_isa_irq(struct chipset *chipset, unsigned irq)
{
	return (struct irq_line){ set_isa_irq, chipset, irq };
}

static void forward_msi(void *user, uint64_t address, uint32_t data)
{
	struct chipset *chipset = user;

	chipset->cfg.host.msi(chipset->cfg.host.user, address, data);
}

static void forward_route(void *user, unsigned pin, uint64_t address, uint32_t data, bool masked)
{
	struct chipset *chipset = user;

	chipset->cfg.host.route(chipset->cfg.host.user, pin, address, data, masked);
}

static void forward_intr(void *user, bool level)
{
	struct chipset *chipset = user;

	chipset->cfg.host.intr(chipset->cfg.host.user, level);
}

static void forward_power_off(void *user)
{
	struct chipset *chipset = user;

	chipset->cfg.host.power_off(chipset->cfg.host.user);
}

static void forward_reset(void *user)
{
	struct chipset *chipset = user;

	chipset->cfg.host.reset(chipset->cfg.host.user);
}

static void forward_output(void *user, const void *data, size_t len)
{
	struct port *port = user;
	const struct chipset_host *host = &port->chipset->cfg.host;

	host->uart_output(host->user, port->index, data, len);
}

static void forward_room(void *user)
{
	struct port *port = user;
	const struct chipset_host *host = &port->chipset->cfg.host;

	host->uart_room(host->user, port->index);
}

static uint64_t post_read(void *dev, uint64_t offset, unsigned size)
{
	return UINT64_MAX;
}

static uint64_t control_read(void *dev, uint64_t offset, unsigned size)
{
	return CONTROL_VALUE;
}

static void ignore_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
}

static const struct bus_ops post_ops = { post_read, ignore_write };
static const struct bus_ops control_ops = { control_read, ignore_write };

/* ---- assembly ---- */

static int add_interrupt_controllers(struct chipset *chipset, struct error *err)
{
	const struct chipset_config *cfg = &chipset->cfg;
	struct ioapic_config ioapic = {
		.bus = cfg->bus,
		.id = cfg->ioapic_id,
		.msi = forward_msi,
		.route = forward_route,
		.user = chipset,
	};
	struct pic_config pic = { .bus = cfg->bus, .intr = forward_intr, .user = chipset };
	int rc = ioapic_new(&ioapic, &chipset->ioapic, err);

	if (rc < 0 || !cfg->legacy)
		return rc;
	return pic_new(&pic, &chipset->pic, err);
}

static int add_legacy(struct chipset *chipset, struct error *err)
{
	const struct chipset_config *cfg = &chipset->cfg;
	struct pit_config pit = {
		.bus = cfg->bus,
		.loop = cfg->loop,
		.irq = chipset_isa_irq(chipset, 0),
	};
	struct i8042_config i8042 = {
		.bus = cfg->bus,
		.keyboard_irq = chipset_isa_irq(chipset, 1),
		.mouse_irq = chipset_isa_irq(chipset, 12),
		.user = chipset,
		.reset = forward_reset,
	};
	int rc = pit_new(&pit, &chipset->pit, err);

	if (rc < 0)
		return rc;
	return i8042_new(&i8042, &chipset->i8042, err);
}

static int add_uart(struct chipset *chipset, unsigned index, uint16_t port, unsigned irq,
		    struct error *err)
{
	struct uart_config uart = {
		.bus = chipset->cfg.bus,
		.loop = chipset->cfg.loop,
		.port = port,
		.irq = chipset_isa_irq(chipset, irq),
		.user = &chipset->ports[index],
		.output = forward_output,
		.room = forward_room,
	};

	chipset->ports[index] = (struct port){ chipset, index };
	return uart_new(&uart, &chipset->uart[index], err);
}

static int add_rtc_pm_and_pci(struct chipset *chipset, struct error *err)
{
	const struct chipset_config *cfg = &chipset->cfg;
	struct rtc_config rtc = {
		.bus = cfg->bus,
		.loop = cfg->loop,
		.irq = chipset_isa_irq(chipset, 8),
	};
	struct pm_config pm = {
		.bus = cfg->bus,
		.loop = cfg->loop,
		.sci = chipset_isa_irq(chipset, PM_SCI_IRQ),
		.user = chipset,
		.power_off = forward_power_off,
	};
	struct pci_config pci = { cfg->bus, chipset, forward_reset };
	int rc = rtc_new(&rtc, &chipset->rtc, err);

	if (rc == 0)
		rc = pm_new(&pm, &chipset->pm, err);
	if (rc == 0)
		rc = pci_new(&pci, &chipset->pci, err);
	return rc;
}

static int add_devices(struct chipset *chipset, struct error *err)
{
	int rc = add_interrupt_controllers(chipset, err);

	if (rc == 0 && chipset->cfg.legacy)
		rc = add_legacy(chipset, err);
	if (rc == 0)
		rc = add_rtc_pm_and_pci(chipset, err);
	if (rc == 0)
		rc = add_uart(chipset, 0, UART_COM1_PORT, UART_COM1_IRQ, err);
	if (rc == 0)
		rc = add_uart(chipset, 1, UART_COM2_PORT, UART_COM2_IRQ, err);
	if (rc == 0)
		rc = bus_add_pio(chipset->cfg.bus, POST_PORT, 1, &post_ops, chipset, err);
	if (rc == 0 && !chipset->cfg.legacy)
		rc = bus_add_pio(chipset->cfg.bus, CONTROL_PORT, 1, &control_ops, chipset, err);
	return rc;
}

int chipset_new(const struct chipset_config *config, struct chipset **ret, struct error *err)
{
	struct chipset *chipset = calloc(1, sizeof(*chipset));
	int rc;

	if (!chipset)
		return error_set(err, ERR_NO_MEMORY, "no memory for a chipset");
	chipset->cfg = *config;
	rc = add_devices(chipset, err);
	if (rc < 0) {
		chipset_free(chipset);
		return rc;
	}
	*ret = chipset;
	return 0;
}

void chipset_free(struct chipset *chipset)
{
	if (!chipset)
		return;
	bus_remove(chipset->cfg.bus, chipset);
	for (unsigned i = 0; i < CHIPSET_UARTS; i++)
		uart_free(chipset->uart[i]);
	pci_free(chipset->pci);
	pm_free(chipset->pm);
	rtc_free(chipset->rtc);
	i8042_free(chipset->i8042);
	pit_free(chipset->pit);
	pic_free(chipset->pic);
	ioapic_free(chipset->ioapic);
	free(chipset);
}

void chipset_reset(struct chipset *chipset)
{
	/* Interrupt controllers first: what the devices' lines do afterwards then falls on masks.
	 */
	ioapic_reset(chipset->ioapic);
	if (chipset->cfg.legacy) {
		pic_reset(chipset->pic);
		pit_reset(chipset->pit);
		i8042_reset(chipset->i8042);
	}
	rtc_reset(chipset->rtc);
	pm_reset(chipset->pm);
	pci_reset(chipset->pci);
	for (unsigned i = 0; i < CHIPSET_UARTS; i++)
		uart_reset(chipset->uart[i]);
}

void chipset_save(struct chipset *chipset, struct state_out *out)
{
	ioapic_save(chipset->ioapic, out);
	if (chipset->cfg.legacy) {
		pic_save(chipset->pic, out);
		pit_save(chipset->pit, out);
		i8042_save(chipset->i8042, out);
	}
	rtc_save(chipset->rtc, out);
	pm_save(chipset->pm, out);
	pci_save(chipset->pci, out);
	for (unsigned i = 0; i < CHIPSET_UARTS; i++)
		uart_save(chipset->uart[i], out);
}

static int restore_legacy(struct chipset *chipset, struct state_in *in, struct error *err)
{
	int rc = pic_restore(chipset->pic, in, err);

	if (rc == 0)
		rc = pit_restore(chipset->pit, in, err);
	if (rc == 0)
		rc = i8042_restore(chipset->i8042, in, err);
	return rc;
}

/* Interrupt controllers first: the devices' lines are then as these know them already. */
int chipset_restore(struct chipset *chipset, struct state_in *in, struct error *err)
{
	int rc = ioapic_restore(chipset->ioapic, in, err);

	if (rc == 0 && chipset->cfg.legacy)
		rc = restore_legacy(chipset, in, err);
	if (rc == 0)
		rc = rtc_restore(chipset->rtc, in, err);
	if (rc == 0)
		rc = pm_restore(chipset->pm, in, err);
	if (rc == 0)
		rc = pci_restore(chipset->pci, in, err);
	for (unsigned i = 0; rc == 0 && i < CHIPSET_UARTS; i++)
		rc = uart_restore(chipset->uart[i], in, err);
	return rc;
}

void chipset_eoi(struct chipset *chipset, uint8_t vector)
{
	ioapic_eoi(chipset->ioapic, vector);
}

int chipset_extint_ack(struct chipset *chipset)
{
	return chipset->pic ? pic_ack(chipset->pic) : -1;
}

void chipset_power_button(struct chipset *chipset)
{
	pm_power_button(chipset->pm);
}

size_t chipset_uart_input(struct chipset *chipset, unsigned port, const void *data, size_t len)
{
	return port < CHIPSET_UARTS ? uart_input(chipset->uart[port], data, len) : len;
}

void chipset_flush(struct chipset *chipset)
{
	for (unsigned i = 0; i < CHIPSET_UARTS; i++)
		uart_flush(chipset->uart[i]);
}

void chipset_set_cmos(struct chipset *chipset, unsigned reg, uint8_t value)
{
	rtc_set_cmos(chipset->rtc, reg, value);
}
