/*
 * The pair of 8259A interrupt controllers of a PC (ports 20h, 21h, A0h, A1h), the slave on the
 * master's IR2, with the edge/level control registers 4D0h and 4D1h of the PIIX.
 *
 * All functions: any thread. `intr` is called under the PIC's lock: it must not call the PIC.
 * Whoever calls pic_ack() must not hold a lock that intr takes.
 *
 * Specification: Intel 8259A data sheet (231468-003); 82371AB (PIIX4) for the ELCR.
 */
#ifndef CHIPSET_PIC_H
#define CHIPSET_PIC_H

#include "bus/bus.h"
#include "state/state.h"

struct pic;

struct pic_config {
	struct bus *bus; /* borrowed */
	/* The level of the master's INT output; called when it changes. */
	void (*intr)(void *user, bool level);
	void *user;
};

struct pic_chip_state {
	uint8_t lines; /* levels of IR0..IR7 */
	uint8_t irr, isr, imr;
	uint8_t elcr;      /* 1: level-triggered */
	uint8_t base;      /* vector of IR0 */
	uint8_t lowest;    /* the input with the lowest priority */
	uint8_t init_step; /* the ICW that is expected next on A0 = 1; 0: none */
	bool icw4, single;
	bool auto_eoi, rotate_on_auto_eoi;
	bool special_mask, special_fully_nested;
	bool poll, read_isr;
};

struct pic_state {
	struct pic_chip_state chip[2]; /* master, slave */
	bool intr;
};

extern const struct state_desc pic_chip_state_desc, pic_state_desc;

int pic_new(const struct pic_config *config, struct pic **ret, struct error *err);
void pic_free(struct pic *pic);
/* To power-on state: everything masked. The input lines keep their levels. */
void pic_reset(struct pic *pic);
/* Input lines 0..15; 2 is the cascade and ignored. */
void pic_set_irq(struct pic *pic, unsigned irq, bool level);
/* Interrupt acknowledge cycle: the vector; -1 if no request is left. */
int pic_ack(struct pic *pic);

/* Both while the VPs stand still; the restored lines and timers are set. */
void pic_save(struct pic *pic, struct state_out *out);
int pic_restore(struct pic *pic, struct state_in *in, struct error *err);

#endif
