/*
 * The 8254 interval timer of a PC (ports 40h-43h) and the system control port 61h that gates its
 * channel 2. Channel 0 drives IRQ 0; channel 1 (refresh) only counts; channel 2 (speaker) is read
 * back by guests that calibrate against it.
 *
 * Counting is arithmetic on the host's clock; a timer of the loop makes the edges of IRQ 0. If the
 * loop is late, edges that were missed are not made up for. All functions: any thread, but new and
 * free belong to the loop's. The line is set under the PIT's lock.
 *
 * Specification: Intel 8254 data sheet (231164-005).
 */
#ifndef CHIPSET_PIT_H
#define CHIPSET_PIT_H

#include "base/loop.h"
#include "bus/bus.h"
#include "state/state.h"

#define PIT_HZ 1193182u

struct pit;

struct pit_config {
	struct bus *bus;   /* borrowed */
	struct loop *loop; /* borrowed */
	struct irq_line irq;
};

struct pit_channel_state {
	uint8_t mode;   /* 0..5 */
	uint8_t access; /* 1: low byte, 2: high byte, 3: low then high */
	bool bcd;
	bool gate;
	bool armed;           /* a count was loaded; false from a control word to the count */
	bool triggered;       /* modes 1 and 5: the gate rose since the count was written */
	uint32_t reload;      /* 1..65536: counts of a cycle */
	uint32_t next_reload; /* from the next cycle or trigger on; 0: none */
	/* Clocks counted until counting last stopped, and since when it runs again. */
	uint64_t ticks_before, since_ns;
	bool write_high, read_high; /* the next byte of access 3 is the high one */
	uint8_t write_low;
	bool count_latched, status_latched;
	uint16_t latched_count;
	uint8_t latched_status;
};

struct pit_state {
	struct pit_channel_state channel[3];
	uint8_t port61; /* bits 0..3 as written */
	uint8_t reserved[7];
};

extern const struct state_desc pit_channel_state_desc, pit_state_desc;

int pit_new(const struct pit_config *config, struct pit **ret, struct error *err);
void pit_free(struct pit *pit);
void pit_reset(struct pit *pit);

/* Both while the VPs stand still; the restored lines and timers are set. */
void pit_save(struct pit *pit, struct state_out *out);
int pit_restore(struct pit *pit, struct state_in *in, struct error *err);

#endif
