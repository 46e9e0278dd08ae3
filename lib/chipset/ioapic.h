/*
 * The I/O APIC: 24 pins, version 20h (as the ICH's, with an EOI register), at IOAPIC_BASE.
 *
 * Lines carry logical levels: true means asserted, whatever polarity the guest programs. Pin
 * numbers are GSIs. All functions: any thread. The callbacks run under the IOAPIC's lock: they must
 * not call the IOAPIC, and whoever calls ioapic_eoi() must not hold a lock that they take.
 *
 * Specification: Intel 82093AA data sheet (290566-001); ICH9 (316972) section 13.5 for version 20h.
 */
#ifndef CHIPSET_IOAPIC_H
#define CHIPSET_IOAPIC_H

#include "bus/bus.h"
#include "state/state.h"

#define IOAPIC_BASE UINT64_C(0xfec00000)
#define IOAPIC_PINS 24

struct ioapic;

struct ioapic_config {
	struct bus *bus; /* borrowed */
	uint8_t id;      /* at reset */
	/* An interrupt message, as a device's MSI would be. */
	void (*msi)(void *user, uint64_t address, uint32_t data);
	/* A redirection entry changed: where the pin's interrupts go from now on. */
	void (*route)(void *user, unsigned pin, uint64_t address, uint32_t data, bool masked);
	void *user;
};

struct ioapic_state {
	uint8_t id;
	uint8_t select;
	uint32_t lines;              /* bit n: pin n is asserted */
	uint64_t entry[IOAPIC_PINS]; /* redirection table, remote IRR included */
};

extern const struct state_desc ioapic_state_desc;

int ioapic_new(const struct ioapic_config *config, struct ioapic **ret, struct error *err);
void ioapic_free(struct ioapic *ioapic);
/* All pins masked. The input lines keep their levels. */
void ioapic_reset(struct ioapic *ioapic);
void ioapic_set_irq(struct ioapic *ioapic, unsigned pin, bool level);
/* A local APIC finished a level-triggered interrupt of this vector. */
void ioapic_eoi(struct ioapic *ioapic, uint8_t vector);

/* Both while the VPs stand still; the restored lines and timers are set. */
void ioapic_save(struct ioapic *ioapic, struct state_out *out);
int ioapic_restore(struct ioapic *ioapic, struct state_in *in, struct error *err);

#endif
