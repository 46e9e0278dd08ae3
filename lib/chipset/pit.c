#include "chipset/pit.h"

#include "base/clock.h"
#include "base/macros.h"
#include "chipset/byte-port.h"

#include <pthread.h>
#include <stdlib.h>

/* IRQ 0 comes no faster than this, whatever the guest programs: 838 ns would starve the loop. */
#define MIN_PERIOD_NS 50000

#define PORT61_GATE2    0x01
#define PORT61_SPEAKER  0x02
#define PORT61_WRITABLE 0x0f
#define PORT61_REFRESH  0x10
#define PORT61_OUT2     0x20
#define REFRESH_NS      15085 /* half a period of channel 1's usual 66.3 kHz */

struct pit {
	struct pit_config cfg;
	struct loop_timer *timer;
	pthread_mutex_t lock;
	uint64_t edge_ns; /* when IRQ 0 is due; 0: not */
	struct pit_state st;
};

static uint64_t ns_to_ticks(uint64_t ns)
{
	return (uint64_t)((unsigned __int128)ns * PIT_HZ / NS_PER_SEC);
}

/* The first nanosecond at which ns_to_ticks() gives `ticks`. */
static uint64_t ticks_to_ns(uint64_t ticks)
{
	return (uint64_t)(((unsigned __int128)ticks * NS_PER_SEC + PIT_HZ - 1) / PIT_HZ);
}

/* ---- the counting element ---- */

static bool is_periodic(const struct pit_channel_state *ch)
{
	return ch->mode == 2 || ch->mode == 3;
}

static bool is_one_shot(const struct pit_channel_state *ch)
{
	return ch->mode == 1 || ch->mode == 5;
}

static bool counts(const struct pit_channel_state *ch)
{
	return ch->armed && (is_one_shot(ch) ? ch->triggered : ch->gate);
}

static uint64_t elapsed(const struct pit_channel_state *ch, uint64_t now)
{
	return ch->ticks_before + (counts(ch) ? ns_to_ticks(now - ch->since_ns) : 0);
}

static void restart(struct pit_channel_state *ch, uint64_t now)
{
	ch->ticks_before = 0;
	ch->since_ns = now;
}

/* A count written to a running periodic channel takes effect when the present cycle ends; one
 * written to a running one-shot channel, at the next trigger. */
static void adopt_next_reload(struct pit_channel_state *ch, uint64_t now)
{
	uint64_t past;

	if (!ch->next_reload || !is_periodic(ch))
		return;
	past = elapsed(ch, now);
	if (past < ch->reload)
		return;
	ch->since_ns = now - ticks_to_ns(past - ch->reload);
	ch->ticks_before = 0;
	ch->reload = ch->next_reload;
	ch->next_reload = 0;
}

static bool output(const struct pit_channel_state *ch, uint64_t now)
{
	uint64_t past = elapsed(ch, now);

	switch (ch->mode) {
	case 0:
		return ch->armed && past >= ch->reload;
	case 1:
		return !counts(ch) || past >= ch->reload;
	case 2:
		return !counts(ch) || past % ch->reload != ch->reload - 1;
	case 3:
		return !counts(ch) || past % ch->reload < (ch->reload + 1) / 2;
	default:
		return !counts(ch) || past != ch->reload;
	}
}

static uint16_t to_bcd(uint32_t value)
{
	return (uint16_t)(value / 1000 % 10 << 12 | value / 100 % 10 << 8 | value / 10 % 10 << 4 |
			  value % 10);
}

static uint32_t from_bcd(uint16_t value)
{
	return (value >> 12) * 1000u + (value >> 8 & 15) * 100u + (value >> 4 & 15) * 10u +
	       (value & 15);
}

static uint16_t count_value(const struct pit_channel_state *ch, uint64_t now)
{
	uint32_t modulus = ch->bcd ? 10000 : 65536, value;
	uint64_t past = elapsed(ch, now);

	if (ch->mode == 2)
		value = ch->reload - (uint32_t)(past % ch->reload);
	else if (ch->mode == 3) /* counts down by two, twice per cycle */
		value = ch->reload - (uint32_t)(2 * past % ch->reload & ~UINT64_C(1));
	else
		value = (uint32_t)((ch->reload + modulus - past % modulus) % modulus);
	value %= modulus;
	return ch->bcd ? to_bcd(value) : (uint16_t)value;
}

/* ---- IRQ 0 ---- */

static uint64_t next_edge_ns(const struct pit_channel_state *ch, uint64_t now)
{
	uint64_t past, ticks;

	if (!counts(ch) || is_one_shot(ch))
		return 0;
	past = elapsed(ch, now);
	if (is_periodic(ch))
		ticks = (past / ch->reload + 1) * ch->reload;
	else if (past < ch->reload)
		ticks = ch->reload;
	else
		return 0;
	return ch->since_ns + ticks_to_ns(ticks - ch->ticks_before);
}

static void schedule(struct pit *pit, uint64_t earliest)
{
	pit->edge_ns = next_edge_ns(&pit->st.channel[0], clock_now_ns());
	if (pit->edge_ns)
		loop_timer_arm(pit->timer, MAX(pit->edge_ns, earliest));
	else
		loop_timer_cancel(pit->timer);
}

/* The rising edge of OUT 0 is due. The line stays high until shortly before the next one. */
static void fire(void *user)
{
	struct pit *pit = user;
	struct pit_channel_state *ch = &pit->st.channel[0];
	uint64_t now;

	pthread_mutex_lock(&pit->lock);
	now = clock_now_ns();
	adopt_next_reload(ch, now);
	/* Not due: the guest reprogrammed the channel while the timer was firing. */
	if (pit->edge_ns && pit->edge_ns <= now) {
		irq_set(&pit->cfg.irq, false);
		irq_set(&pit->cfg.irq, true);
	}
	schedule(pit, now + MIN_PERIOD_NS);
	pthread_mutex_unlock(&pit->lock);
}

/* Channel 0 was reprogrammed. */
static void renew_irq(struct pit *pit)
{
	irq_set(&pit->cfg.irq, output(&pit->st.channel[0], clock_now_ns()));
	schedule(pit, 0);
}

/* ---- registers ---- */

static void load_count(struct pit *pit, unsigned index, uint16_t raw, uint64_t now)
{
	struct pit_channel_state *ch = &pit->st.channel[index];
	uint32_t count = ch->bcd ? from_bcd(raw) : raw;

	if (!count)
		count = ch->bcd ? 10000 : 65536;
	if (ch->armed && (is_periodic(ch) || (is_one_shot(ch) && ch->triggered))) {
		ch->next_reload = count;
		return;
	}
	ch->reload = count;
	ch->armed = true;
	if (!is_one_shot(ch))
		restart(ch, now);
	if (index == 0)
		renew_irq(pit);
}

static void write_counter(struct pit *pit, unsigned index, uint8_t value, uint64_t now)
{
	struct pit_channel_state *ch = &pit->st.channel[index];

	adopt_next_reload(ch, now);
	if (ch->access == 1) {
		load_count(pit, index, value, now);
	} else if (ch->access == 2) {
		load_count(pit, index, (uint16_t)(value << 8), now);
	} else if (!ch->write_high) {
		ch->write_low = value;
		ch->write_high = true;
		if (ch->mode == 0) { /* the first byte stops the count, the second starts it */
			ch->armed = false;
			if (index == 0)
				renew_irq(pit);
		}
	} else {
		ch->write_high = false;
		load_count(pit, index, (uint16_t)(value << 8 | ch->write_low), now);
	}
}

static void latch_count(struct pit_channel_state *ch, uint64_t now)
{
	if (ch->count_latched)
		return;
	ch->latched_count = count_value(ch, now);
	ch->count_latched = true;
}

static void latch_status(struct pit_channel_state *ch, uint64_t now)
{
	if (ch->status_latched)
		return;
	ch->latched_status = (uint8_t)(output(ch, now) << 7 | (!ch->armed || ch->next_reload) << 6 |
				       ch->access << 4 | ch->mode << 1 | ch->bcd);
	ch->status_latched = true;
}

/* Bits 5 and 4 ask, active low, for count and status; bits 1..3 choose channels. */
static void read_back(struct pit *pit, uint8_t command, uint64_t now)
{
	for (unsigned i = 0; i < 3; i++) {
		struct pit_channel_state *ch = &pit->st.channel[i];

		if (!(command & 2 << i))
			continue;
		adopt_next_reload(ch, now);
		if (!(command & 0x20))
			latch_count(ch, now);
		if (!(command & 0x10))
			latch_status(ch, now);
	}
}

static void set_mode(struct pit *pit, unsigned index, uint8_t command)
{
	struct pit_channel_state *ch = &pit->st.channel[index];
	uint8_t mode = command >> 1 & 7;

	*ch = (struct pit_channel_state){
		.mode = mode > 5 ? mode & 3 : mode, /* 6 and 7 mean 2 and 3 */
		.access = command >> 4 & 3,
		.bcd = command & 1,
		.gate = ch->gate,
		.reload = 65536,
	};
	if (index == 0)
		renew_irq(pit);
}

static void write_control(struct pit *pit, uint8_t command, uint64_t now)
{
	unsigned index = command >> 6;

	if (index == 3) {
		read_back(pit, command, now);
	} else if ((command & 0x30) == 0) {
		adopt_next_reload(&pit->st.channel[index], now);
		latch_count(&pit->st.channel[index], now);
	} else {
		set_mode(pit, index, command);
	}
}

static uint8_t read_counter(struct pit_channel_state *ch, uint64_t now)
{
	uint16_t count;
	bool high;

	adopt_next_reload(ch, now);
	if (ch->status_latched) {
		ch->status_latched = false;
		return ch->latched_status;
	}
	count = ch->count_latched ? ch->latched_count : count_value(ch, now);
	if (ch->access == 3) {
		high = ch->read_high;
		ch->read_high = !high;
		if (high)
			ch->count_latched = false;
	} else {
		high = ch->access == 2;
		ch->count_latched = false;
	}
	return (uint8_t)(high ? count >> 8 : count);
}

static uint8_t pit_read8(void *dev, unsigned reg)
{
	struct pit *pit = dev;
	uint8_t value = 0xff; /* the control register can't be read */

	pthread_mutex_lock(&pit->lock);
	if (reg < 3)
		value = read_counter(&pit->st.channel[reg], clock_now_ns());
	pthread_mutex_unlock(&pit->lock);
	return value;
}

static void pit_write8(void *dev, unsigned reg, uint8_t value)
{
	struct pit *pit = dev;

	pthread_mutex_lock(&pit->lock);
	if (reg < 3)
		write_counter(pit, reg, value, clock_now_ns());
	else
		write_control(pit, value, clock_now_ns());
	pthread_mutex_unlock(&pit->lock);
}

static void set_gate(struct pit_channel_state *ch, bool gate, uint64_t now)
{
	bool rises = gate && !ch->gate;

	adopt_next_reload(ch, now);
	ch->ticks_before = elapsed(ch, now);
	ch->since_ns = now;
	ch->gate = gate;
	if (!rises || !ch->armed)
		return;
	if (is_one_shot(ch)) {
		ch->triggered = true;
		ch->reload = ch->next_reload ? ch->next_reload : ch->reload;
		ch->next_reload = 0;
	}
	if (is_one_shot(ch) || is_periodic(ch))
		restart(ch, now);
}

static uint8_t port61_read8(void *dev, unsigned reg)
{
	struct pit *pit = dev;
	uint64_t now;
	uint8_t value;

	pthread_mutex_lock(&pit->lock);
	now = clock_now_ns();
	adopt_next_reload(&pit->st.channel[2], now);
	value = pit->st.port61;
	if (output(&pit->st.channel[2], now))
		value |= PORT61_OUT2;
	pthread_mutex_unlock(&pit->lock);
	if (now / REFRESH_NS & 1)
		value |= PORT61_REFRESH;
	return value;
}

static void port61_write8(void *dev, unsigned reg, uint8_t value)
{
	struct pit *pit = dev;

	pthread_mutex_lock(&pit->lock);
	pit->st.port61 = value & PORT61_WRITABLE;
	set_gate(&pit->st.channel[2], value & PORT61_GATE2, clock_now_ns());
	pthread_mutex_unlock(&pit->lock);
}

static uint64_t pit_read(void *dev, uint64_t offset, unsigned size)
{
	return byte_port_read(pit_read8, dev, offset, size);
}

static void pit_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	byte_port_write(pit_write8, dev, offset, size, value);
}

static uint64_t port61_read(void *dev, uint64_t offset, unsigned size)
{
	return byte_port_read(port61_read8, dev, offset, size);
}

static void port61_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	byte_port_write(port61_write8, dev, offset, size, value);
}

static const struct bus_ops pit_ops = { pit_read, pit_write };
static const struct bus_ops port61_ops = { port61_read, port61_write };

static void reset_state(struct pit *pit)
{
	pit->st = (struct pit_state){ 0 };
	for (unsigned i = 0; i < 3; i++) {
		struct pit_channel_state *ch = &pit->st.channel[i];

		ch->access = 3;
		ch->gate = i != 2;
		ch->reload = 65536;
	}
}

void pit_reset(struct pit *pit)
{
	pthread_mutex_lock(&pit->lock);
	reset_state(pit);
	renew_irq(pit);
	pthread_mutex_unlock(&pit->lock);
}

/* ---- state ---- */

static const struct state_field channel_fields[] = {
	STATE(1, struct pit_channel_state, mode, .max = 5),
	STATE(2, struct pit_channel_state, access, .max = 3),
	STATE(3, struct pit_channel_state, bcd),
	STATE(4, struct pit_channel_state, gate),
	STATE(5, struct pit_channel_state, armed),
	STATE(6, struct pit_channel_state, triggered),
	STATE(7, struct pit_channel_state, reload, .max = 65536),
	STATE(8, struct pit_channel_state, next_reload, .max = 65536),
	STATE(9, struct pit_channel_state, ticks_before),
	STATE(10, struct pit_channel_state, since_ns, .clock = true),
	STATE(11, struct pit_channel_state, write_high),
	STATE(12, struct pit_channel_state, read_high),
	STATE(13, struct pit_channel_state, write_low),
	STATE(14, struct pit_channel_state, count_latched),
	STATE(15, struct pit_channel_state, status_latched),
	STATE(16, struct pit_channel_state, latched_count),
	STATE(17, struct pit_channel_state, latched_status),
	STATE_END,
};
const struct state_desc pit_channel_state_desc = { "channel", sizeof(struct pit_channel_state),
						   channel_fields, NULL };

static const char *check(const void *state)
{
	const struct pit_state *st = state;

	for (unsigned i = 0; i < 3; i++)
		if (!st->channel[i].reload || !st->channel[i].access)
			return "a channel counts from 0, or has no access mode";
	return NULL;
}

static const struct state_field pit_fields[] = {
	STATE_PART(1, struct pit_state, channel, 3, pit_channel_state_desc),
	STATE(2, struct pit_state, port61),
	STATE(3, struct pit_state, reserved),
	STATE_END,
};
const struct state_desc pit_state_desc = { "pit", sizeof(struct pit_state), pit_fields, check };

void pit_save(struct pit *pit, struct state_out *out)
{
	pthread_mutex_lock(&pit->lock);
	state_put(out, &pit_state_desc, NULL, &pit->st);
	pthread_mutex_unlock(&pit->lock);
}

int pit_restore(struct pit *pit, struct state_in *in, struct error *err)
{
	struct pit_state st;
	int rc = state_get(in, &pit_state_desc, NULL, &st, err);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&pit->lock);
	pit->st = st;
	schedule(pit, 0);
	pthread_mutex_unlock(&pit->lock);
	return 0;
}

int pit_new(const struct pit_config *config, struct pit **ret, struct error *err)
{
	struct pit *pit = calloc(1, sizeof(*pit));

	if (!pit)
		return error_set(err, ERR_NO_MEMORY, "no memory for a PIT");
	pit->cfg = *config;
	pthread_mutex_init(&pit->lock, NULL);
	reset_state(pit);
	if (loop_timer_new(config->loop, fire, pit, &pit->timer, err) < 0 ||
	    bus_add_pio(config->bus, 0x40, 4, &pit_ops, pit, err) < 0 ||
	    bus_add_pio(config->bus, 0x61, 1, &port61_ops, pit, err) < 0) {
		pit_free(pit);
		return error_prefix(err, "PIT");
	}
	*ret = pit;
	return 0;
}

void pit_free(struct pit *pit)
{
	if (!pit)
		return;
	bus_remove(pit->cfg.bus, pit);
	loop_timer_free(pit->timer);
	pthread_mutex_destroy(&pit->lock);
	free(pit);
}
