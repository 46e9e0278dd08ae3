#include "chipset/pm.h"

#include "base/clock.h"
#include "base/macros.h"
#include "chipset/byte-port.h"

#include <pthread.h>
#include <stdlib.h>

#define BLOCK_SIZE 16

#define PM1_TIMER       0x0001 /* status and enable bits have the same places */
#define PM1_GLOBAL      0x0020
#define PM1_BUTTON      0x0100
#define PM1_RTC         0x0400
#define PM1_WAKE        0x8000
#define PM1_STATUS_BITS (PM1_TIMER | PM1_GLOBAL | PM1_BUTTON | PM1_RTC | PM1_WAKE)
#define PM1_ENABLE_BITS (PM1_TIMER | PM1_GLOBAL | PM1_BUTTON | PM1_RTC)

#define CONTROL_SCI_EN    0x0001
#define CONTROL_KEPT      0x1c03 /* SCI_EN, BM_RLD, SLP_TYP; GBL_RLS and SLP_EN read 0 */
#define CONTROL_TYP_SHIFT 10
#define CONTROL_SLP_EN    0x2000

struct pm {
	struct pm_config cfg;
	struct loop_timer *timer;
	pthread_mutex_t lock;
	struct pm_state st;
};

/* ---- PM timer ---- */

static uint64_t timer_ticks(const struct pm *pm)
{
	uint64_t ns = clock_now_ns() - pm->st.timer_zero_ns;

	return (uint64_t)((unsigned __int128)ns * PM_TIMER_HZ / NS_PER_SEC);
}

static unsigned timer_bits(const struct pm *pm)
{
	return pm->cfg.timer_24_bit ? 24 : 32;
}

static uint32_t read_timer(const struct pm *pm)
{
	return (uint32_t)(timer_ticks(pm) & (BIT(timer_bits(pm)) - 1));
}

/* TMR_STS is set whenever the most significant bit of the timer changes. */
static void catch_up(struct pm *pm)
{
	uint64_t half = timer_ticks(pm) >> (timer_bits(pm) - 1);

	if (half != pm->st.timer_half)
		pm->st.pm1_status |= PM1_TIMER;
	pm->st.timer_half = half;
}

static uint64_t next_half_ns(const struct pm *pm)
{
	uint64_t ticks = (pm->st.timer_half + 1) << (timer_bits(pm) - 1);

	return pm->st.timer_zero_ns +
	       (uint64_t)(((unsigned __int128)ticks * NS_PER_SEC + PM_TIMER_HZ - 1) / PM_TIMER_HZ);
}

static void update_sci(struct pm *pm)
{
	struct pm_state *st = &pm->st;

	catch_up(pm);
	irq_set(&pm->cfg.sci,
		(st->pm1_status & st->pm1_enable) || (st->gpe_status & st->gpe_enable));
	if ((st->pm1_enable & PM1_TIMER) && !(st->pm1_status & PM1_TIMER))
		loop_timer_arm(pm->timer, next_half_ns(pm));
	else
		loop_timer_cancel(pm->timer);
}

static void fire(void *user)
{
	struct pm *pm = user;

	pthread_mutex_lock(&pm->lock);
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
}

/* ---- registers ---- */

/* The block as bytes; the timer is sampled once per access. */
static void compose(struct pm *pm, uint8_t image[static BLOCK_SIZE])
{
	const struct pm_state *st = &pm->st;
	uint32_t timer = read_timer(pm);
	const uint16_t words[BLOCK_SIZE / 2] = {
		st->pm1_status,  st->pm1_enable,          st->pm1_control, 0,
		(uint16_t)timer, (uint16_t)(timer >> 16), st->gpe_status,  st->gpe_enable,
	};

	for (unsigned i = 0; i < BLOCK_SIZE; i++)
		image[i] = (uint8_t)(words[i / 2] >> (i % 2 * 8));
}

static uint64_t block_read(void *dev, uint64_t offset, unsigned size)
{
	struct pm *pm = dev;
	uint8_t image[BLOCK_SIZE];
	uint64_t value = 0;

	pthread_mutex_lock(&pm->lock);
	catch_up(pm);
	compose(pm, image);
	pthread_mutex_unlock(&pm->lock);
	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)image[offset + i] << (8 * i);
	return value;
}

/* Writes one byte of a 16-bit register that is kept whole. */
static uint16_t merge(uint16_t old, unsigned byte, uint8_t value)
{
	return (uint16_t)((old & ~(0xff << (8 * byte))) | value << (8 * byte));
}

static void block_write8(void *dev, unsigned reg, uint8_t value)
{
	struct pm *pm = dev;
	struct pm_state *st = &pm->st;
	unsigned byte = reg & 1;

	switch (reg & ~1u) {
	case 0: /* writing 1 clears */
		st->pm1_status &= (uint16_t) ~(value << (8 * byte));
		break;
	case 2:
		st->pm1_enable = merge(st->pm1_enable, byte, value) & PM1_ENABLE_BITS;
		break;
	case 4:
		st->pm1_control = merge(st->pm1_control, byte, value);
		break;
	case 12:
		st->gpe_status &= (uint16_t) ~(value << (8 * byte));
		break;
	case 14:
		st->gpe_enable = merge(st->gpe_enable, byte, value);
		break;
	}
}

static void block_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct pm *pm = dev;
	uint16_t control;

	pthread_mutex_lock(&pm->lock);
	catch_up(pm);
	byte_port_write(block_write8, pm, offset, size, value);
	control = pm->st.pm1_control;
	pm->st.pm1_control = (control & CONTROL_KEPT) | CONTROL_SCI_EN;
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
	/* S5 is the only sleep state that the DSDT offers. */
	if ((control & CONTROL_SLP_EN) && ((control >> CONTROL_TYP_SHIFT) & 7) == PM_SLP_TYP_S5)
		pm->cfg.power_off(pm->cfg.user);
}

static const struct bus_ops block_ops = { block_read, block_write };

void pm_power_button(struct pm *pm)
{
	pthread_mutex_lock(&pm->lock);
	pm->st.pm1_status |= PM1_BUTTON;
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
}

void pm_gpe(struct pm *pm, unsigned event)
{
	pthread_mutex_lock(&pm->lock);
	pm->st.gpe_status |= (uint16_t)BIT(event & 15);
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
}

static void reset_state(struct pm *pm)
{
	pm->st = (struct pm_state){
		.pm1_control = CONTROL_SCI_EN,
		.timer_zero_ns = clock_now_ns(),
	};
}

void pm_reset(struct pm *pm)
{
	pthread_mutex_lock(&pm->lock);
	reset_state(pm);
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
}

/* ---- state ---- */

static const struct state_field pm_fields[] = {
	STATE(1, struct pm_state, pm1_status),
	STATE(2, struct pm_state, pm1_enable),
	STATE(3, struct pm_state, pm1_control),
	STATE(4, struct pm_state, gpe_status),
	STATE(5, struct pm_state, gpe_enable),
	STATE(6, struct pm_state, timer_zero_ns, .clock = true),
	STATE(7, struct pm_state, timer_half),
	STATE_END,
};
const struct state_desc pm_state_desc = { "pm", sizeof(struct pm_state), pm_fields, NULL };

void pm_save(struct pm *pm, struct state_out *out)
{
	pthread_mutex_lock(&pm->lock);
	catch_up(pm);
	state_put(out, &pm_state_desc, NULL, &pm->st);
	pthread_mutex_unlock(&pm->lock);
}

int pm_restore(struct pm *pm, struct state_in *in, struct error *err)
{
	struct pm_state st;
	int rc = state_get(in, &pm_state_desc, NULL, &st, err);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&pm->lock);
	pm->st = st;
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
	return 0;
}

int pm_new(const struct pm_config *config, struct pm **ret, struct error *err)
{
	struct pm *pm = calloc(1, sizeof(*pm));

	if (!pm)
		return error_set(err, ERR_NO_MEMORY, "no memory for power management");
	pm->cfg = *config;
	pthread_mutex_init(&pm->lock, NULL);
	reset_state(pm);
	if (loop_timer_new(config->loop, fire, pm, &pm->timer, err) < 0 ||
	    bus_add_pio(config->bus, PM_BASE, BLOCK_SIZE, &block_ops, pm, err) < 0) {
		pm_free(pm);
		return error_prefix(err, "power management");
	}
	*ret = pm;
	return 0;
}

void pm_free(struct pm *pm)
{
	if (!pm)
		return;
	bus_remove(pm->cfg.bus, pm);
	loop_timer_free(pm->timer);
	pthread_mutex_destroy(&pm->lock);
	free(pm);
}
