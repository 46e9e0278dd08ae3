#include "chipset/i8042.h"

#include "chipset/byte-port.h"

#include <pthread.h>
#include <stdlib.h>

#define STATUS_OUTPUT   0x01
#define STATUS_SYSTEM   0x04
#define STATUS_COMMAND  0x08 /* the last write went to 64h */
#define STATUS_UNLOCKED 0x10
#define STATUS_AUX      0x20
#define STATUS_TIMEOUT  0x40

#define BYTE_KEYBOARD_IRQ 0x01
#define BYTE_MOUSE_IRQ    0x02
#define BYTE_SYSTEM       0x04
#define BYTE_KEYBOARD_OFF 0x10
#define BYTE_MOUSE_OFF    0x20

#define REPLY_TIMEOUT     0xfe
#define CLOCK_STUCK_LOW   0x01
#define SELF_TEST_OK      0x55
#define PORT_NOT_RESET    0x01
#define PORT_A20          0x02
#define PORT92_FAST_RESET 0x01
#define PORT92_A20        0x02

struct i8042 {
	struct i8042_config cfg;
	pthread_mutex_t lock;
	struct i8042_state st;
};

static void update_irqs(struct i8042 *i8042)
{
	const struct i8042_state *st = &i8042->st;
	bool full = st->status & STATUS_OUTPUT, aux = st->status & STATUS_AUX;

	irq_set(&i8042->cfg.keyboard_irq, full && !aux && (st->command_byte & BYTE_KEYBOARD_IRQ));
	irq_set(&i8042->cfg.mouse_irq, full && aux && (st->command_byte & BYTE_MOUSE_IRQ));
}

static void put(struct i8042_state *st, uint8_t value, uint8_t status)
{
	st->output = value;
	st->status &= (uint8_t) ~(STATUS_AUX | STATUS_TIMEOUT);
	st->status |= STATUS_OUTPUT | status;
}

/* Commands at 64h that need no data byte. True: reset the machine. */
static bool run_command(struct i8042_state *st, uint8_t command)
{
	if (command >= 0x20 && command < 0x40) {
		put(st, command == 0x20 ? st->command_byte : st->ram[command & 0x1f], 0);
		return false;
	}
	/* F0h-FFh pulse the output lines whose bits are 0; line 0 is the processor's reset. */
	if (command >= 0xf0)
		return !(command & 0x01);
	switch (command) {
	case 0xa7:
		st->command_byte |= BYTE_MOUSE_OFF;
		break;
	case 0xa8:
		st->command_byte &= (uint8_t)~BYTE_MOUSE_OFF;
		break;
	case 0xa9: /* tests of the two interfaces: nothing drives the clock */
	case 0xab:
		put(st, CLOCK_STUCK_LOW, 0);
		break;
	case 0xaa:
		st->status |= STATUS_SYSTEM;
		put(st, SELF_TEST_OK, 0);
		break;
	case 0xad:
		st->command_byte |= BYTE_KEYBOARD_OFF;
		break;
	case 0xae:
		st->command_byte &= (uint8_t)~BYTE_KEYBOARD_OFF;
		break;
	case 0xc0: /* input port: keyboard not locked */
		put(st, 0x80, 0);
		break;
	case 0xd0:
		put(st, PORT_NOT_RESET | PORT_A20, 0);
		break;
	}
	return false;
}

static bool takes_data(uint8_t command)
{
	return (command >= 0x60 && command < 0x80) || (command >= 0xd1 && command <= 0xd4);
}

static void write_ram(struct i8042_state *st, unsigned index, uint8_t value)
{
	st->ram[index] = value;
	if (index)
		return;
	st->command_byte = value;
	if (value & BYTE_SYSTEM)
		st->status |= STATUS_SYSTEM;
	else
		st->status &= (uint8_t)~STATUS_SYSTEM;
}

/* The data byte of `command`; 0: a byte for the keyboard. True: reset the machine. */
static bool run_data(struct i8042_state *st, uint8_t command, uint8_t value)
{
	if (command >= 0x60 && command < 0x80) {
		write_ram(st, command & 0x1f, value);
		return false;
	}
	switch (command) {
	case 0xd1: /* output port */
		return !(value & PORT_NOT_RESET);
	case 0xd2: /* as if the keyboard had sent it */
		put(st, value, 0);
		break;
	case 0xd3:
		put(st, value, STATUS_AUX);
		break;
	case 0xd4:
		put(st, REPLY_TIMEOUT, STATUS_AUX | STATUS_TIMEOUT);
		break;
	default:
		put(st, REPLY_TIMEOUT, STATUS_TIMEOUT);
	}
	return false;
}

static uint64_t data_read(void *dev, uint64_t offset, unsigned size)
{
	struct i8042 *i8042 = dev;
	uint8_t value;

	pthread_mutex_lock(&i8042->lock);
	value = i8042->st.output;
	i8042->st.status &= (uint8_t) ~(STATUS_OUTPUT | STATUS_AUX | STATUS_TIMEOUT);
	update_irqs(i8042);
	pthread_mutex_unlock(&i8042->lock);
	return value;
}

static void data_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct i8042 *i8042 = dev;
	struct i8042_state *st = &i8042->st;
	uint8_t command;
	bool reset;

	pthread_mutex_lock(&i8042->lock);
	command = st->pending_command;
	st->pending_command = 0;
	st->status &= (uint8_t)~STATUS_COMMAND;
	reset = run_data(st, command, (uint8_t)value);
	update_irqs(i8042);
	pthread_mutex_unlock(&i8042->lock);
	if (reset)
		i8042->cfg.reset(i8042->cfg.user);
}

static uint64_t command_read(void *dev, uint64_t offset, unsigned size)
{
	struct i8042 *i8042 = dev;
	uint8_t value;

	pthread_mutex_lock(&i8042->lock);
	value = i8042->st.status | STATUS_UNLOCKED;
	pthread_mutex_unlock(&i8042->lock);
	return value;
}

static void command_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct i8042 *i8042 = dev;
	struct i8042_state *st = &i8042->st;
	uint8_t command = (uint8_t)value;
	bool reset = false;

	pthread_mutex_lock(&i8042->lock);
	st->status |= STATUS_COMMAND;
	st->pending_command = takes_data(command) ? command : 0;
	if (!st->pending_command)
		reset = run_command(st, command);
	update_irqs(i8042);
	pthread_mutex_unlock(&i8042->lock);
	if (reset)
		i8042->cfg.reset(i8042->cfg.user);
}

static uint64_t port92_read(void *dev, uint64_t offset, unsigned size)
{
	struct i8042 *i8042 = dev;
	uint8_t value;

	pthread_mutex_lock(&i8042->lock);
	value = i8042->st.port92;
	pthread_mutex_unlock(&i8042->lock);
	return value;
}

static void port92_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct i8042 *i8042 = dev;
	bool reset;

	pthread_mutex_lock(&i8042->lock);
	reset = (value & PORT92_FAST_RESET) && !(i8042->st.port92 & PORT92_FAST_RESET);
	i8042->st.port92 = value & (PORT92_FAST_RESET | PORT92_A20);
	pthread_mutex_unlock(&i8042->lock);
	if (reset)
		i8042->cfg.reset(i8042->cfg.user);
}

static const struct bus_ops data_ops = { data_read, data_write };
static const struct bus_ops command_ops = { command_read, command_write };
static const struct bus_ops port92_ops = { port92_read, port92_write };

static void reset_state(struct i8042 *i8042)
{
	i8042->st = (struct i8042_state){
		.command_byte = BYTE_KEYBOARD_OFF | BYTE_MOUSE_OFF | BYTE_SYSTEM,
		.status = STATUS_SYSTEM,
		.port92 = PORT92_A20,
	};
}

void i8042_reset(struct i8042 *i8042)
{
	pthread_mutex_lock(&i8042->lock);
	reset_state(i8042);
	update_irqs(i8042);
	pthread_mutex_unlock(&i8042->lock);
}

/* ---- state ---- */

static const struct state_field i8042_fields[] = {
	STATE(1, struct i8042_state, command_byte),
	STATE(2, struct i8042_state, status),
	STATE(3, struct i8042_state, output),
	STATE(4, struct i8042_state, pending_command),
	STATE(5, struct i8042_state, ram),
	STATE(6, struct i8042_state, port92),
	STATE_END,
};
const struct state_desc i8042_state_desc = { "i8042", sizeof(struct i8042_state), i8042_fields,
					     NULL };

void i8042_save(struct i8042 *i8042, struct state_out *out)
{
	pthread_mutex_lock(&i8042->lock);
	state_put(out, &i8042_state_desc, NULL, &i8042->st);
	pthread_mutex_unlock(&i8042->lock);
}

int i8042_restore(struct i8042 *i8042, struct state_in *in, struct error *err)
{
	struct i8042_state st;
	int rc = state_get(in, &i8042_state_desc, NULL, &st, err);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&i8042->lock);
	i8042->st = st;
	update_irqs(i8042);
	pthread_mutex_unlock(&i8042->lock);
	return 0;
}

int i8042_new(const struct i8042_config *config, struct i8042 **ret, struct error *err)
{
	struct i8042 *i8042 = calloc(1, sizeof(*i8042));

	if (!i8042)
		return error_set(err, ERR_NO_MEMORY, "no memory for a keyboard controller");
	i8042->cfg = *config;
	pthread_mutex_init(&i8042->lock, NULL);
	reset_state(i8042);
	if (bus_add_pio(config->bus, 0x60, 1, &data_ops, i8042, err) < 0 ||
	    bus_add_pio(config->bus, 0x64, 1, &command_ops, i8042, err) < 0 ||
	    bus_add_pio(config->bus, 0x92, 1, &port92_ops, i8042, err) < 0) {
		i8042_free(i8042);
		return error_prefix(err, "keyboard controller");
	}
	*ret = i8042;
	return 0;
}

void i8042_free(struct i8042 *i8042)
{
	if (!i8042)
		return;
	bus_remove(i8042->cfg.bus, i8042);
	pthread_mutex_destroy(&i8042->lock);
	free(i8042);
}
