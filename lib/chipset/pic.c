#include "chipset/pic.h"

#include "chipset/byte-port.h"

#include <pthread.h>
#include <stdlib.h>

#define CASCADE 2 /* the master's input that the slave drives */

struct pic {
	struct pic_config cfg;
	pthread_mutex_t lock;
	struct pic_state st;
};

/* Rank of the most urgent of the given inputs (0 is the most urgent); 8 if there is none. */
static unsigned rank(const struct pic_chip_state *chip, uint8_t inputs)
{
	unsigned i;

	for (i = 0; i < 8; i++)
		if (inputs & (1 << ((chip->lowest + 1 + i) & 7)))
			break;
	return i;
}

/* The input that the chip requests service for, or -1. */
static int requested(const struct pic_chip_state *chip, bool master)
{
	uint8_t in_service = chip->isr;
	unsigned request = rank(chip, chip->irr & ~chip->imr);

	if (chip->init_step || request == 8)
		return -1;
	if (chip->special_mask)
		in_service &= (uint8_t)~chip->imr;
	/* Lets further, more urgent inputs of the slave through while one is being served. */
	if (master && chip->special_fully_nested)
		in_service &= (uint8_t) ~(1 << CASCADE);
	if (request >= rank(chip, in_service))
		return -1;
	return (int)((chip->lowest + 1 + request) & 7);
}

static void set_line(struct pic_chip_state *chip, unsigned input, bool level)
{
	uint8_t bit = (uint8_t)(1 << input);
	bool rises = level && !(chip->lines & bit);

	if (level)
		chip->lines |= bit;
	else
		chip->lines &= (uint8_t)~bit;
	/* A request vanishes with its line, in both modes; in edge mode it takes an edge to be
	 * made. */
	if (!level)
		chip->irr &= (uint8_t)~bit;
	else if (rises || (chip->elcr & bit))
		chip->irr |= bit;
}

static void update(struct pic *pic)
{
	struct pic_chip_state *master = &pic->st.chip[0];
	bool intr;

	/* Between the two chips the line is wired, and seen as a level. */
	if (requested(&pic->st.chip[1], false) >= 0)
		master->irr |= 1 << CASCADE;
	else
		master->irr &= (uint8_t) ~(1 << CASCADE);
	intr = requested(master, true) >= 0;
	if (intr == pic->st.intr)
		return;
	pic->st.intr = intr;
	pic->cfg.intr(pic->cfg.user, intr);
}

void pic_set_irq(struct pic *pic, unsigned irq, bool level)
{
	if (irq > 15 || irq == CASCADE)
		return;
	pthread_mutex_lock(&pic->lock);
	set_line(&pic->st.chip[irq / 8], irq & 7, level);
	update(pic);
	pthread_mutex_unlock(&pic->lock);
}

static void acknowledge(struct pic_chip_state *chip, unsigned input)
{
	uint8_t bit = (uint8_t)(1 << input);

	if (!(chip->elcr & bit))
		chip->irr &= (uint8_t)~bit;
	if (!chip->auto_eoi)
		chip->isr |= bit;
	else if (chip->rotate_on_auto_eoi)
		chip->lowest = (uint8_t)input;
}

static int acknowledge_slave(struct pic_chip_state *slave)
{
	int input = requested(slave, false);

	if (input < 0)
		return slave->base + 7; /* spurious: no in-service bit */
	acknowledge(slave, (unsigned)input);
	return slave->base + input;
}

int pic_ack(struct pic *pic)
{
	struct pic_chip_state *master = &pic->st.chip[0];
	int input, vector = -1;

	pthread_mutex_lock(&pic->lock);
	input = requested(master, true);
	if (input >= 0) {
		acknowledge(master, (unsigned)input);
		vector = input == CASCADE && !master->single ? acknowledge_slave(&pic->st.chip[1])
							     : master->base + input;
		update(pic);
	}
	pthread_mutex_unlock(&pic->lock);
	return vector;
}

/* ---- registers ---- */

static void start_init(struct pic_chip_state *chip, uint8_t icw1)
{
	chip->icw4 = icw1 & 0x01;
	chip->single = icw1 & 0x02;
	chip->init_step = 2;
	chip->imr = chip->isr = 0;
	chip->irr = chip->lines & chip->elcr; /* edges must come anew */
	chip->lowest = 7;
	chip->special_mask = chip->poll = chip->read_isr = false;
	chip->auto_eoi = chip->rotate_on_auto_eoi = chip->special_fully_nested = false;
}

/* OCW2, bits 7..5: R, SL, EOI. */
static void end_of_interrupt(struct pic_chip_state *chip, uint8_t ocw2)
{
	bool rotate = ocw2 & 0x80, specific = ocw2 & 0x40, eoi = ocw2 & 0x20;
	unsigned input = ocw2 & 7;

	if (!eoi) {
		if (specific && rotate)
			chip->lowest = (uint8_t)input;
		else if (!specific)
			chip->rotate_on_auto_eoi = rotate;
		return;
	}
	if (!specific) {
		unsigned served =
		    rank(chip, chip->special_mask ? chip->isr & ~chip->imr : chip->isr);

		if (served == 8)
			return;
		input = (chip->lowest + 1 + served) & 7;
	}
	chip->isr &= (uint8_t) ~(1 << input);
	if (rotate)
		chip->lowest = (uint8_t)input;
}

static void write_ocw3(struct pic_chip_state *chip, uint8_t ocw3)
{
	if (ocw3 & 0x40)
		chip->special_mask = ocw3 & 0x20;
	if (ocw3 & 0x04)
		chip->poll = true;
	if (ocw3 & 0x02)
		chip->read_isr = ocw3 & 0x01;
}

static void write_command(struct pic_chip_state *chip, uint8_t value)
{
	if (value & 0x10)
		start_init(chip, value);
	else if (value & 0x08)
		write_ocw3(chip, value);
	else
		end_of_interrupt(chip, value);
}

static void write_data(struct pic_chip_state *chip, uint8_t value)
{
	switch (chip->init_step) {
	case 2:
		chip->base = value & 0xf8;
		chip->init_step = !chip->single ? 3 : chip->icw4 ? 4 : 0;
		break;
	case 3: /* who sits where is fixed on this board */
		chip->init_step = chip->icw4 ? 4 : 0;
		break;
	case 4:
		chip->auto_eoi = value & 0x02;
		chip->special_fully_nested = value & 0x10;
		chip->init_step = 0;
		break;
	default:
		chip->imr = value;
	}
}

/* A read in poll mode acknowledges, like INTA, and says which input it was. */
static uint8_t read_poll(struct pic_chip_state *chip, bool master)
{
	int input = requested(chip, master);

	chip->poll = false;
	if (input < 0)
		return 0;
	acknowledge(chip, (unsigned)input);
	return (uint8_t)(0x80 | input);
}

static uint8_t read_chip(struct pic *pic, unsigned index, unsigned a0)
{
	struct pic_chip_state *chip = &pic->st.chip[index];
	uint8_t value;

	pthread_mutex_lock(&pic->lock);
	if (chip->poll) {
		value = read_poll(chip, index == 0);
		update(pic);
	} else {
		value = a0 ? chip->imr : chip->read_isr ? chip->isr : chip->irr;
	}
	pthread_mutex_unlock(&pic->lock);
	return value;
}

static void write_chip(struct pic *pic, unsigned index, unsigned a0, uint8_t value)
{
	pthread_mutex_lock(&pic->lock);
	if (a0)
		write_data(&pic->st.chip[index], value);
	else
		write_command(&pic->st.chip[index], value);
	update(pic);
	pthread_mutex_unlock(&pic->lock);
}

static uint8_t master_read8(void *dev, unsigned reg)
{
	return read_chip(dev, 0, reg);
}

static void master_write8(void *dev, unsigned reg, uint8_t value)
{
	write_chip(dev, 0, reg, value);
}

static uint8_t slave_read8(void *dev, unsigned reg)
{
	return read_chip(dev, 1, reg);
}

static void slave_write8(void *dev, unsigned reg, uint8_t value)
{
	write_chip(dev, 1, reg, value);
}

static uint8_t elcr_read8(void *dev, unsigned reg)
{
	struct pic *pic = dev;
	uint8_t value;

	pthread_mutex_lock(&pic->lock);
	value = pic->st.chip[reg].elcr;
	pthread_mutex_unlock(&pic->lock);
	return value;
}

static void elcr_write8(void *dev, unsigned reg, uint8_t value)
{
	struct pic *pic = dev;
	struct pic_chip_state *chip = &pic->st.chip[reg];

	pthread_mutex_lock(&pic->lock);
	/* IRQ 0, 1, 2, 8 and 13 are always edge-triggered. */
	chip->elcr = value & (reg ? 0xde : 0xf8);
	chip->irr |= chip->lines & chip->elcr;
	update(pic);
	pthread_mutex_unlock(&pic->lock);
}

#define PIC_OPS(name)                                                                              \
	static uint64_t name##_read(void *dev, uint64_t offset, unsigned size)                     \
	{                                                                                          \
		return byte_port_read(name##_read8, dev, offset, size);                            \
	}                                                                                          \
	static void name##_write(void *dev, uint64_t offset, unsigned size, uint64_t value)        \
	{                                                                                          \
		byte_port_write(name##_write8, dev, offset, size, value);                          \
	}                                                                                          \
	static const struct bus_ops name##_ops = { name##_read, name##_write };

PIC_OPS(master)
PIC_OPS(slave)
PIC_OPS(elcr)

static void reset_chip(struct pic_chip_state *chip)
{
	*chip = (struct pic_chip_state){ .lines = chip->lines, .imr = 0xff, .lowest = 7 };
}

void pic_reset(struct pic *pic)
{
	pthread_mutex_lock(&pic->lock);
	reset_chip(&pic->st.chip[0]);
	reset_chip(&pic->st.chip[1]);
	update(pic);
	pthread_mutex_unlock(&pic->lock);
}

/* ---- state ---- */

static const struct state_field chip_fields[] = {
	STATE(1, struct pic_chip_state, lines),
	STATE(2, struct pic_chip_state, irr),
	STATE(3, struct pic_chip_state, isr),
	STATE(4, struct pic_chip_state, imr),
	STATE(5, struct pic_chip_state, elcr),
	STATE(6, struct pic_chip_state, base),
	STATE(7, struct pic_chip_state, lowest, .max = 7),
	STATE(8, struct pic_chip_state, init_step, .max = 4),
	STATE(9, struct pic_chip_state, icw4),
	STATE(10, struct pic_chip_state, single),
	STATE(11, struct pic_chip_state, auto_eoi),
	STATE(12, struct pic_chip_state, rotate_on_auto_eoi),
	STATE(13, struct pic_chip_state, special_mask),
	STATE(14, struct pic_chip_state, special_fully_nested),
	STATE(15, struct pic_chip_state, poll),
	STATE(16, struct pic_chip_state, read_isr),
	STATE_END,
};
const struct state_desc pic_chip_state_desc = { "chip", sizeof(struct pic_chip_state), chip_fields,
						NULL };

static const struct state_field pic_fields[] = {
	STATE_PART(1, struct pic_state, chip, 2, pic_chip_state_desc),
	STATE(2, struct pic_state, intr),
	STATE_END,
};
const struct state_desc pic_state_desc = { "pic", sizeof(struct pic_state), pic_fields, NULL };

void pic_save(struct pic *pic, struct state_out *out)
{
	pthread_mutex_lock(&pic->lock);
	state_put(out, &pic_state_desc, NULL, &pic->st);
	pthread_mutex_unlock(&pic->lock);
}

int pic_restore(struct pic *pic, struct state_in *in, struct error *err)
{
	struct pic_state st;
	int rc = state_get(in, &pic_state_desc, NULL, &st, err);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&pic->lock);
	pic->st = st; /* the level of INTR is in the processor's state, too */
	pthread_mutex_unlock(&pic->lock);
	return 0;
}

int pic_new(const struct pic_config *config, struct pic **ret, struct error *err)
{
	struct pic *pic = calloc(1, sizeof(*pic));

	if (!pic)
		return error_set(err, ERR_NO_MEMORY, "no memory for a PIC");
	pic->cfg = *config;
	pthread_mutex_init(&pic->lock, NULL);
	reset_chip(&pic->st.chip[0]);
	reset_chip(&pic->st.chip[1]);
	if (bus_add_pio(config->bus, 0x20, 2, &master_ops, pic, err) < 0 ||
	    bus_add_pio(config->bus, 0xa0, 2, &slave_ops, pic, err) < 0 ||
	    bus_add_pio(config->bus, 0x4d0, 2, &elcr_ops, pic, err) < 0) {
		pic_free(pic);
		return error_prefix(err, "PIC");
	}
	*ret = pic;
	return 0;
}

void pic_free(struct pic *pic)
{
	if (!pic)
		return;
	bus_remove(pic->cfg.bus, pic);
	pthread_mutex_destroy(&pic->lock);
	free(pic);
}
