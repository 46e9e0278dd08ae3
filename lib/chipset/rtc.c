#include "chipset/rtc.h"

#include "base/clock.h"
#include "base/macros.h"
#include "chipset/byte-port.h"

#include <pthread.h>
#include <stdlib.h>

enum {
	REG_SECONDS,
	REG_SECONDS_ALARM,
	REG_MINUTES,
	REG_MINUTES_ALARM,
	REG_HOURS,
	REG_HOURS_ALARM,
	REG_WEEKDAY,
	REG_DAY,
	REG_MONTH,
	REG_YEAR,
	REG_A,
	REG_B,
	REG_C,
	REG_D
};

#define A_UPDATING 0x80
#define A_DIVIDER  0x70 /* 02h: running at 32768 Hz; 06h and 07h: held in reset */
#define A_RATE     0x0f
#define B_SET      0x80
#define B_PERIODIC 0x40 /* the three enables stand where C has the flags */
#define B_ALARM    0x20
#define B_UPDATE   0x10
#define B_BINARY   0x04
#define B_24_HOURS 0x02
#define FLAGS      (B_PERIODIC | B_ALARM | B_UPDATE)
#define C_IRQ      0x80
#define D_VALID    0x80

#define SECONDS_PER_DAY   86400
#define UPDATE_WARNING_NS 244000 /* UIP is set at least this long before an update */

struct rtc {
	struct rtc_config cfg;
	struct loop_timer *timer;
	pthread_mutex_t lock;
	struct rtc_state st;
};

struct instant {
	int64_t s; /* since 1970 */
	uint32_t ns;
};

static struct instant guest_now(const struct rtc_state *st)
{
	uint64_t wall = clock_wall_ns();
	uint64_t ns = wall % NS_PER_SEC + st->offset_ns;

	return (struct instant){ (int64_t)(wall / NS_PER_SEC) + st->offset_s +
				     (int64_t)(ns / NS_PER_SEC),
				 (uint32_t)(ns % NS_PER_SEC) };
}

static void set_guest_now(struct rtc_state *st, struct instant now)
{
	uint64_t wall = clock_wall_ns();
	int64_t ns = (int64_t)now.ns - (int64_t)(wall % NS_PER_SEC);

	st->offset_s = now.s - (int64_t)(wall / NS_PER_SEC);
	if (ns < 0) {
		ns += (int64_t)NS_PER_SEC;
		st->offset_s--;
	}
	st->offset_ns = (uint32_t)ns;
}

/* ---- calendar: proleptic Gregorian, days since 1970-01-01 ---- */

static int64_t days_from_date(int64_t year, int month, int day)
{
	int64_t era, year_of_era, day_of_year;

	year -= month <= 2; /* years that begin in March end with the leap day */
	era = year / 400;
	year_of_era = year - era * 400;
	day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
	return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 +
	       day_of_year - 719468;
}

static void date_from_days(int64_t days, int64_t *year, int *month, int *day)
{
	int64_t era, day_of_era, year_of_era, day_of_year, march_month;

	days += 719468;
	era = days / 146097;
	day_of_era = days - era * 146097;
	year_of_era =
	    (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
	day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
	march_month = (5 * day_of_year + 2) / 153;
	*day = (int)(day_of_year - (153 * march_month + 2) / 5 + 1);
	*month = (int)(march_month < 10 ? march_month + 3 : march_month - 9);
	*year = era * 400 + year_of_era + (*month <= 2);
}

/* ---- how time stands in the registers ---- */

static uint8_t encode(const struct rtc_state *st, unsigned value)
{
	if (st->cmos[REG_B] & B_BINARY)
		return (uint8_t)value;
	return (uint8_t)(value / 10 << 4 | value % 10);
}

static unsigned decode(const struct rtc_state *st, uint8_t raw)
{
	if (st->cmos[REG_B] & B_BINARY)
		return raw;
	return (raw >> 4) * 10u + (raw & 15);
}

static uint8_t encode_hour(const struct rtc_state *st, unsigned hour)
{
	unsigned hour12 = hour % 12 ? hour % 12 : 12;

	if (st->cmos[REG_B] & B_24_HOURS)
		return encode(st, hour);
	return (uint8_t)(encode(st, hour12) | (hour >= 12 ? 0x80 : 0));
}

static unsigned decode_hour(const struct rtc_state *st, uint8_t raw)
{
	if (st->cmos[REG_B] & B_24_HOURS)
		return decode(st, raw);
	return decode(st, raw & 0x7f) % 12 + (raw & 0x80 ? 12 : 0);
}

static bool is_time_reg(unsigned reg)
{
	return reg == REG_SECONDS || reg == REG_MINUTES || reg == REG_HOURS ||
	       (reg >= REG_WEEKDAY && reg <= REG_YEAR) || reg == RTC_REG_CENTURY;
}

static bool divider_runs(const struct rtc_state *st)
{
	return (st->cmos[REG_A] & A_DIVIDER) < 0x60;
}

static bool clock_runs(const struct rtc_state *st)
{
	return !(st->cmos[REG_B] & B_SET) && divider_runs(st);
}

static void time_to_regs(struct rtc_state *st, struct instant now)
{
	int64_t days = now.s / SECONDS_PER_DAY, year;
	unsigned second = (unsigned)(now.s % SECONDS_PER_DAY);
	int month, day;

	date_from_days(days, &year, &month, &day);
	st->cmos[REG_SECONDS] = encode(st, second % 60);
	st->cmos[REG_MINUTES] = encode(st, second / 60 % 60);
	st->cmos[REG_HOURS] = encode_hour(st, second / 3600);
	st->cmos[REG_WEEKDAY] = encode(st, (unsigned)((days + 4) % 7 + 1)); /* Sunday is 1 */
	st->cmos[REG_DAY] = encode(st, (unsigned)day);
	st->cmos[REG_MONTH] = encode(st, (unsigned)month);
	st->cmos[REG_YEAR] = encode(st, (unsigned)(year % 100));
	st->cmos[RTC_REG_CENTURY] = encode(st, (unsigned)(year / 100));
}

/* What the guest wrote may be no date at all: fields are brought into range, and years before 1970
 * count as 1970. */
static void time_from_regs(struct rtc_state *st, uint32_t ns)
{
	int64_t year =
	    decode(st, st->cmos[RTC_REG_CENTURY]) * INT64_C(100) + decode(st, st->cmos[REG_YEAR]);
	unsigned month = decode(st, st->cmos[REG_MONTH]), day = decode(st, st->cmos[REG_DAY]);
	int64_t days =
	    days_from_date(MAX(year, 1970), (int)MIN(MAX(month, 1u), 12u), (int)MAX(day, 1u));

	set_guest_now(st, (struct instant){ days * SECONDS_PER_DAY +
						decode_hour(st, st->cmos[REG_HOURS]) * 3600 +
						decode(st, st->cmos[REG_MINUTES]) * 60 +
						decode(st, st->cmos[REG_SECONDS]),
					    ns });
}

/* ---- flags and interrupt ---- */

static unsigned periodic_hz(const struct rtc_state *st)
{
	unsigned rate = st->cmos[REG_A] & A_RATE;

	if (!rate || !divider_runs(st))
		return 0;
	return rate <= 2 ? 256u >> (rate - 1) : 32768u >> (rate - 1);
}

static int64_t period_index(unsigned hz, struct instant now)
{
	return now.s * hz + (int64_t)((uint64_t)now.ns * hz / NS_PER_SEC);
}

/* True if an alarm register (seconds, minutes, hours) accepts the value; C0h-FFh accept any. */
static bool alarm_accepts(const struct rtc_state *st, unsigned reg, unsigned value)
{
	uint8_t raw = st->cmos[reg];

	if (raw >= 0xc0)
		return true;
	return raw == (reg == REG_HOURS_ALARM ? encode_hour(st, value) : encode(st, value));
}

static bool alarm_accepts_any(const struct rtc_state *st, unsigned reg, unsigned limit)
{
	for (unsigned value = 0; value < limit; value++)
		if (alarm_accepts(st, reg, value))
			return true;
	return false;
}

/* The first second after `after` at which the alarm goes off, or -1 if none does. */
static int64_t next_alarm(const struct rtc_state *st, int64_t after)
{
	int64_t start = after + 1, midnight = start - start % SECONDS_PER_DAY;

	if (!alarm_accepts_any(st, REG_MINUTES_ALARM, 60) ||
	    !alarm_accepts_any(st, REG_SECONDS_ALARM, 60))
		return -1;
	for (unsigned hour = (unsigned)(start - midnight) / 3600; hour < 48; hour++) {
		if (!alarm_accepts(st, REG_HOURS_ALARM, hour % 24))
			continue;
		for (unsigned minute = 0; minute < 60; minute++) {
			int64_t minute_start = midnight + hour * 3600 + minute * 60;

			if (minute_start + 59 < start ||
			    !alarm_accepts(st, REG_MINUTES_ALARM, minute))
				continue;
			for (unsigned second = 0; second < 60; second++)
				if (minute_start + second >= start &&
				    alarm_accepts(st, REG_SECONDS_ALARM, second))
					return minute_start + second;
		}
	}
	return -1;
}

/* Sets the flags of what happened since the last look. */
static void catch_up(struct rtc_state *st)
{
	struct instant now = guest_now(st);
	unsigned hz = periodic_hz(st);
	int64_t alarm;

	if (hz && period_index(hz, now) > st->seen_period)
		st->cmos[REG_C] |= B_PERIODIC;
	if (clock_runs(st) && now.s > st->seen_s) {
		st->cmos[REG_C] |= B_UPDATE;
		alarm = next_alarm(st, st->seen_s);
		if (alarm >= 0 && alarm <= now.s)
			st->cmos[REG_C] |= B_ALARM;
	}
	st->seen_s = now.s;
	st->seen_period = hz ? period_index(hz, now) : 0;
}

static uint64_t until_ns(struct instant now, int64_t second)
{
	return (uint64_t)(second - now.s) * NS_PER_SEC - now.ns;
}

/* Time until the next event whose interrupt is enabled and not pending; UINT64_MAX: none. */
static uint64_t next_event_ns(const struct rtc_state *st)
{
	uint8_t wanted = st->cmos[REG_B] & (uint8_t)~st->cmos[REG_C];
	struct instant now = guest_now(st);
	unsigned hz = periodic_hz(st);
	uint64_t wait = UINT64_MAX;
	int64_t alarm;

	if ((wanted & B_PERIODIC) && hz) {
		uint64_t next = (uint64_t)now.ns * hz / NS_PER_SEC + 1;

		wait = (next * NS_PER_SEC + hz - 1) / hz - now.ns;
	}
	if (!clock_runs(st))
		return wait;
	if (wanted & B_UPDATE)
		wait = MIN(wait, until_ns(now, now.s + 1));
	if ((wanted & B_ALARM) && (alarm = next_alarm(st, now.s)) >= 0)
		wait = MIN(wait, until_ns(now, alarm));
	return wait;
}

static void update_irq(struct rtc *rtc)
{
	struct rtc_state *st = &rtc->st;
	bool pending;
	uint64_t wait;

	catch_up(st);
	pending = st->cmos[REG_C] & st->cmos[REG_B] & FLAGS;
	st->cmos[REG_C] = (uint8_t)((st->cmos[REG_C] & FLAGS) | (pending ? C_IRQ : 0));
	irq_set(&rtc->cfg.irq, pending);
	/* While one is pending nothing can be added to the line: reading C continues. */
	wait = pending ? UINT64_MAX : next_event_ns(st);
	if (wait == UINT64_MAX)
		loop_timer_cancel(rtc->timer);
	else
		loop_timer_arm(rtc->timer, clock_now_ns() + wait);
}

static void fire(void *user)
{
	struct rtc *rtc = user;

	pthread_mutex_lock(&rtc->lock);
	update_irq(rtc);
	pthread_mutex_unlock(&rtc->lock);
}

/* ---- registers ---- */

static uint8_t read_reg_a(const struct rtc_state *st)
{
	uint8_t value = st->cmos[REG_A];

	if (clock_runs(st) && guest_now(st).ns >= NS_PER_SEC - UPDATE_WARNING_NS)
		value |= A_UPDATING;
	return value;
}

static uint8_t read_reg(struct rtc *rtc, unsigned reg)
{
	struct rtc_state *st = &rtc->st;
	uint8_t value;

	switch (reg) {
	case REG_A:
		return read_reg_a(st);
	case REG_C:
		update_irq(rtc);
		value = st->cmos[REG_C];
		st->cmos[REG_C] = 0;
		update_irq(rtc);
		return value;
	case REG_D:
		return D_VALID;
	}
	if (is_time_reg(reg) && clock_runs(st))
		time_to_regs(st, guest_now(st));
	return st->cmos[reg];
}

/* From now on, not from before: what a change of the clock skips raises no flag. */
static void forget_past(struct rtc_state *st)
{
	struct instant now = guest_now(st);
	unsigned hz = periodic_hz(st);

	st->seen_s = now.s;
	st->seen_period = hz ? period_index(hz, now) : 0;
}

/* Registers A and B can stop the clock, which then stands in the registers, and start it again. */
static void write_control(struct rtc_state *st, unsigned reg, uint8_t value)
{
	bool ran = clock_runs(st), divider_ran = divider_runs(st);
	struct instant now = guest_now(st);

	if (ran)
		time_to_regs(st, now);
	st->cmos[reg] = value;
	if (reg == REG_B && (value & B_SET))
		st->cmos[REG_B] &= (uint8_t)~B_UPDATE; /* SET clears UIE */
	/* The first update comes half a second after the divider's reset. A running clock keeps its
	 * time when the data mode changes. */
	if (!ran && clock_runs(st))
		time_from_regs(st, divider_ran ? now.ns : NS_PER_SEC / 2);
	forget_past(st);
}

static void write_time(struct rtc_state *st, unsigned reg, uint8_t value)
{
	struct instant now = guest_now(st);

	if (!clock_runs(st)) {
		st->cmos[reg] = value;
		return;
	}
	time_to_regs(st, now);
	st->cmos[reg] = value;
	time_from_regs(st, now.ns);
	forget_past(st);
}

static void write_reg(struct rtc *rtc, unsigned reg, uint8_t value)
{
	struct rtc_state *st = &rtc->st;

	if (reg == REG_C || reg == REG_D)
		return;
	update_irq(rtc);
	if (reg == REG_A)
		write_control(st, reg, value & (uint8_t)~A_UPDATING);
	else if (reg == REG_B)
		write_control(st, reg, value);
	else if (is_time_reg(reg))
		write_time(st, reg, value);
	else
		st->cmos[reg] = value;
	if (reg <= REG_B)
		update_irq(rtc);
}

static uint8_t rtc_read8(void *dev, unsigned port)
{
	struct rtc *rtc = dev;
	uint8_t value = 0xff; /* the index can't be read */

	pthread_mutex_lock(&rtc->lock);
	if (port == 1)
		value = read_reg(rtc, rtc->st.index);
	pthread_mutex_unlock(&rtc->lock);
	return value;
}

static void rtc_write8(void *dev, unsigned port, uint8_t value)
{
	struct rtc *rtc = dev;

	pthread_mutex_lock(&rtc->lock);
	if (port == 0)
		rtc->st.index = value & 0x7f; /* bit 7 masks NMIs on real boards */
	else
		write_reg(rtc, rtc->st.index, value);
	pthread_mutex_unlock(&rtc->lock);
}

static uint64_t rtc_read(void *dev, uint64_t offset, unsigned size)
{
	return byte_port_read(rtc_read8, dev, offset, size);
}

static void rtc_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	byte_port_write(rtc_write8, dev, offset, size, value);
}

static const struct bus_ops rtc_ops = { rtc_read, rtc_write };

void rtc_set_cmos(struct rtc *rtc, unsigned reg, uint8_t value)
{
	if (reg <= REG_D || reg >= RTC_CMOS_SIZE || reg == RTC_REG_CENTURY)
		return;
	pthread_mutex_lock(&rtc->lock);
	rtc->st.cmos[reg] = value;
	pthread_mutex_unlock(&rtc->lock);
}

void rtc_reset(struct rtc *rtc)
{
	pthread_mutex_lock(&rtc->lock);
	rtc->st.cmos[REG_B] &= (uint8_t)~FLAGS;
	rtc->st.cmos[REG_C] = 0;
	update_irq(rtc);
	pthread_mutex_unlock(&rtc->lock);
}

/* ---- state ---- */

/* Tens of thousands of years: nothing overflows that is computed from it. */
#define SECONDS_MAX (INT64_C(1) << 40)

static bool is_sane(int64_t seconds)
{
	return seconds >= -SECONDS_MAX && seconds <= SECONDS_MAX;
}

static const char *check(const void *state)
{
	const struct rtc_state *st = state;

	return is_sane(st->offset_s) && is_sane(st->seen_s) ? NULL : "its time is beyond all time";
}

static const struct state_field rtc_fields[] = {
	STATE(1, struct rtc_state, index, .max = RTC_CMOS_SIZE - 1),
	STATE(2, struct rtc_state, cmos),
	STATE(3, struct rtc_state, offset_s),
	STATE(4, struct rtc_state, offset_ns, .max = NS_PER_SEC - 1),
	STATE(5, struct rtc_state, seen_s),
	STATE(6, struct rtc_state, seen_period),
	STATE_END,
};
const struct state_desc rtc_state_desc = { "rtc", sizeof(struct rtc_state), rtc_fields, check };

void rtc_save(struct rtc *rtc, struct state_out *out)
{
	pthread_mutex_lock(&rtc->lock);
	state_put(out, &rtc_state_desc, NULL, &rtc->st);
	pthread_mutex_unlock(&rtc->lock);
}

int rtc_restore(struct rtc *rtc, struct state_in *in, struct error *err)
{
	struct rtc_state st;
	int rc = state_get(in, &rtc_state_desc, NULL, &st, err);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&rtc->lock);
	rtc->st = st;
	update_irq(rtc);
	pthread_mutex_unlock(&rtc->lock);
	return 0;
}

int rtc_new(const struct rtc_config *config, struct rtc **ret, struct error *err)
{
	struct rtc *rtc = calloc(1, sizeof(*rtc));

	if (!rtc)
		return error_set(err, ERR_NO_MEMORY, "no memory for a real-time clock");
	rtc->cfg = *config;
	pthread_mutex_init(&rtc->lock, NULL);
	rtc->st.cmos[REG_A] = 0x26;
	rtc->st.cmos[REG_B] = B_24_HOURS;
	if (loop_timer_new(config->loop, fire, rtc, &rtc->timer, err) < 0 ||
	    bus_add_pio(config->bus, 0x70, 2, &rtc_ops, rtc, err) < 0) {
		rtc_free(rtc);
		return error_prefix(err, "real-time clock");
	}
	forget_past(&rtc->st);
	*ret = rtc;
	return 0;
}

void rtc_free(struct rtc *rtc)
{
	if (!rtc)
		return;
	bus_remove(rtc->cfg.bus, rtc);
	loop_timer_free(rtc->timer);
	pthread_mutex_destroy(&rtc->lock);
	free(rtc);
}
