/*
 * ACPI power management hardware: PM1a event and control registers, the PM timer, GPE block 0.
 * Always in ACPI mode (SCI_EN reads 1, no SMI command port).
 *
 * Block at PM_BASE: +0 PM1 status, +2 PM1 enable, +4 PM1 control, +8 PM timer, +0Ch GPE0 status,
 * +0Eh GPE0 enable.
 *
 * Registers and pm_power_button, pm_gpe: any thread. power_off is called on the VP's
 * thread without the lock; the guest runs on until somebody stops it. new, free: the loop's.
 *
 * Specification: ACPI 6.4, section 4.8.
 */
#ifndef CHIPSET_PM_H
#define CHIPSET_PM_H

#include "base/loop.h"
#include "bus/bus.h"
#include "state/state.h"

#define PM_BASE       0x400
#define PM_SCI_IRQ    9
#define PM_TIMER_HZ   3579545u
#define PM_SLP_TYP_S5 0 /* what the DSDT's _S5 says */

struct pm;

struct pm_config {
	struct bus *bus;   /* borrowed */
	struct loop *loop; /* borrowed */
	struct irq_line sci;
	bool timer_24_bit; /* else 32 bits, as the FADT's TMR_VAL_EXT says */
	void *user;
	void (*power_off)(void *user);
};

struct pm_state {
	uint16_t pm1_status, pm1_enable, pm1_control;
	uint16_t gpe_status, gpe_enable;
	uint64_t timer_zero_ns; /* when the PM timer was 0 */
	uint64_t timer_half;    /* half-periods of the timer seen: a new one sets TMR_STS */
};

extern const struct state_desc pm_state_desc;

int pm_new(const struct pm_config *config, struct pm **ret, struct error *err);
void pm_free(struct pm *pm);
void pm_reset(struct pm *pm);
void pm_power_button(struct pm *pm);
/* Raises general-purpose event 0..15. */
void pm_gpe(struct pm *pm, unsigned event);

/* Both while the VPs stand still; the restored lines and timers are set. */
void pm_save(struct pm *pm, struct state_out *out);
int pm_restore(struct pm *pm, struct state_in *in, struct error *err);

#endif
