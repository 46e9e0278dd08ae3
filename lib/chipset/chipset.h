/*
 * The board: all platform devices of a VM, wired to one bus and one loop. ISA IRQ n reaches PIC
 * input n and I/O APIC pin n, IRQ 0 pin 2 (the MADT says so); the SCI is IRQ 9, level-triggered.
 *
 * new, free, reset, flush, uart_input: the loop's thread (reset: while the VPs stand still). The
 * others: any thread. Callbacks towards the partition (msi, route, intr) run under a device's lock,
 * on whatever thread caused them; chipset_eoi and chipset_extint_ack take the same locks, so the
 * caller must not hold one that the callbacks need. power_off and reset come from VP threads
 * without a lock.
 */
#ifndef CHIPSET_CHIPSET_H
#define CHIPSET_CHIPSET_H

#include "base/loop.h"
#include "bus/bus.h"
#include "chipset/uart.h"

#define CHIPSET_UARTS 2

struct chipset;

struct chipset_host {
	void *user;
	void (*msi)(void *user, uint64_t address, uint32_t data); /* part_msi */
	void (*route)(void *user, unsigned pin, uint64_t address, uint32_t data,
		      bool masked);           /* part_ioapic_route */
	void (*intr)(void *user, bool level); /* part_extint_set */
	void (*uart_output)(void *user, unsigned port, const void *data, size_t len);
	void (*uart_room)(void *user, unsigned port);
	void (*power_off)(void *user);
	void (*reset)(void *user);
};

struct chipset_config {
	struct bus *bus;   /* borrowed */
	struct loop *loop; /* borrowed */
	bool legacy;       /* PIC, PIT and keyboard controller: generation 1 */
	uint8_t ioapic_id; /* as in the MADT */
	struct chipset_host host;
};

int chipset_new(const struct chipset_config *config, struct chipset **ret, struct error *err);
void chipset_free(struct chipset *chipset);
void chipset_reset(struct chipset *chipset);

/* State, while the VPs stand still: of all devices. Restored before anything else could raise a
 * line; the partition has its interrupt routes from it. */
void chipset_save(struct chipset *chipset, struct state_out *out);
int chipset_restore(struct chipset *chipset, struct state_in *in, struct error *err);

/* For struct part_host. */
void chipset_eoi(struct chipset *chipset, uint8_t vector);
int chipset_extint_ack(struct chipset *chipset);

void chipset_power_button(struct chipset *chipset);
size_t chipset_uart_input(struct chipset *chipset, unsigned port, const void *data, size_t len);
/* Hands out what the guest has written to its serial ports: before the VM goes away. */
void chipset_flush(struct chipset *chipset);
/* The line of an ISA interrupt, for devices outside this room. */
struct irq_line chipset_isa_irq(struct chipset *chipset, unsigned irq);
/* A byte of CMOS memory (rtc_set_cmos). */
void chipset_set_cmos(struct chipset *chipset, unsigned reg, uint8_t value);

#endif
