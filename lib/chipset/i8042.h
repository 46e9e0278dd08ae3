/*
 * What is left of the keyboard controller (ports 60h and 64h) and system control port A (92h) when
 * no keyboard and no mouse is attached: self tests pass, every byte sent to a device is answered by
 * a time-out at once, and the ways to reset the machine work. A20 is always open; its bits are
 * kept.
 *
 * Registers: any thread. `reset` is called on the VP's thread without the lock.
 *
 * Specification: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device
 * Controller".
 */
#ifndef CHIPSET_I8042_H
#define CHIPSET_I8042_H

#include "bus/bus.h"
#include "state/state.h"

struct i8042;

struct i8042_config {
	struct bus *bus;              /* borrowed */
	struct irq_line keyboard_irq; /* IRQ 1 */
	struct irq_line mouse_irq;    /* IRQ 12 */
	void *user;
	void (*reset)(void *user);
};

struct i8042_state {
	uint8_t command_byte;
	uint8_t status; /* OBF, SYS, CMD, AUX and TIMEOUT bits; IBF is never seen set */
	uint8_t output;
	uint8_t pending_command; /* waits for its data byte; 0: none */
	uint8_t ram[32];
	uint8_t port92;
};

extern const struct state_desc i8042_state_desc;

int i8042_new(const struct i8042_config *config, struct i8042 **ret, struct error *err);
void i8042_free(struct i8042 *i8042);
void i8042_reset(struct i8042 *i8042);

/* Both while the VPs stand still; the restored lines and timers are set. */
void i8042_save(struct i8042 *i8042, struct state_out *out);
int i8042_restore(struct i8042 *i8042, struct state_in *in, struct error *err);

#endif
