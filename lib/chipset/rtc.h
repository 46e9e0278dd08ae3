/*
 * The real-time clock and CMOS memory of a PC: MC146818 at ports 70h and 71h, IRQ 8 (level until
 * register C is read), 128 bytes, century in 32h.
 *
 * The clock shows the host's wall clock in UTC plus what the guest set it ahead. Flags are computed
 * when somebody looks; the loop's timer runs only while an interrupt is enabled and not yet
 * pending. All functions: any thread, but new and free belong to the loop's.
 *
 * Specification: Motorola MC146818A data sheet; century byte as the FADT names it.
 */
#ifndef CHIPSET_RTC_H
#define CHIPSET_RTC_H

#include "base/loop.h"
#include "bus/bus.h"
#include "state/state.h"

#define RTC_CMOS_SIZE   128
#define RTC_REG_CENTURY 0x32

struct rtc;

struct rtc_config {
	struct bus *bus;   /* borrowed */
	struct loop *loop; /* borrowed */
	struct irq_line irq;
};

struct rtc_state {
	uint8_t index;
	uint8_t cmos[RTC_CMOS_SIZE]; /* time bytes are valid only while the clock stands */
	/* The guest's clock minus the host's wall clock. */
	int64_t offset_s;
	uint32_t offset_ns;
	/* Up to where flags have been computed: second, and count of the periodic rate. */
	int64_t seen_s, seen_period;
};

extern const struct state_desc rtc_state_desc;

int rtc_new(const struct rtc_config *config, struct rtc **ret, struct error *err);
void rtc_free(struct rtc *rtc);
/* As the RESET# pin: interrupts off. Time and memory stay, as the battery keeps them. */
void rtc_reset(struct rtc *rtc);
/* A byte of CMOS memory (0Eh and up), for what firmware wants to find there. */
void rtc_set_cmos(struct rtc *rtc, unsigned reg, uint8_t value);

/* Both while the VPs stand still; the restored lines and timers are set. */
void rtc_save(struct rtc *rtc, struct state_out *out);
int rtc_restore(struct rtc *rtc, struct state_in *in, struct error *err);

#endif
