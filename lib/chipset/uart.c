#include "chipset/uart.h"

#include "base/macros.h"
#include "chipset/byte-port.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR, REG_COUNT };

#define IER_RX       0x01
#define IER_THR      0x02
#define IER_LINE     0x04
#define IER_MODEM    0x08
#define IIR_NONE     0x01
#define IIR_MODEM    0x00
#define IIR_THR      0x02
#define IIR_RX       0x04
#define IIR_LINE     0x06
#define IIR_TIMEOUT  0x0c
#define IIR_FIFO     0xc0
#define FCR_ENABLE   0x01
#define FCR_CLEAR_RX 0x02
#define FCR_CLEAR_TX 0x04
#define FCR_KEPT     0xc9
#define LCR_DLAB     0x80
#define LCR_BREAK    0x40
#define MCR_DTR      0x01
#define MCR_RTS      0x02
#define MCR_OUT1     0x04
#define MCR_OUT2     0x08
#define MCR_LOOP     0x10
#define LSR_DR       0x01
#define LSR_OE       0x02
#define LSR_BI       0x10
#define LSR_THRE     0x20
#define LSR_TEMT     0x40
#define MSR_DELTAS   0x0f
#define MSR_TERI     0x04
#define MSR_CTS      0x10
#define MSR_DSR      0x20
#define MSR_RI       0x40
#define MSR_DCD      0x80

struct uart {
	struct uart_config cfg;
	struct loop_kick *kick;
	pthread_mutex_t lock;
	bool input_waits; /* uart_input() refused bytes: tell when there is room */
	struct uart_state st;
};

static bool fifo_enabled(const struct uart_state *st)
{
	return st->fcr & FCR_ENABLE;
}

static bool thr_empty(const struct uart_state *st)
{
	return UART_OUTPUT_SIZE - st->tx_count >= UART_FIFO_SIZE;
}

static unsigned rx_size(const struct uart_state *st)
{
	return fifo_enabled(st) ? UART_FIFO_SIZE : 1;
}

static unsigned rx_trigger(const struct uart_state *st)
{
	static const uint8_t levels[] = { 1, 4, 8, 14 };

	return fifo_enabled(st) ? levels[st->fcr >> 6] : 1;
}

/* ---- interrupt ---- */

/* The most urgent enabled source. The time-out of a FIFO below its trigger level comes at once. */
static uint8_t interrupt_id(const struct uart_state *st)
{
	if ((st->ier & IER_LINE) && st->lsr_errors)
		return IIR_LINE;
	if ((st->ier & IER_RX) && st->rx_count)
		return st->rx_count >= rx_trigger(st) ? IIR_RX : IIR_TIMEOUT;
	if ((st->ier & IER_THR) && st->thr_interrupt)
		return IIR_THR;
	if ((st->ier & IER_MODEM) && (st->msr & MSR_DELTAS))
		return IIR_MODEM;
	return IIR_NONE;
}

static void update_irq(struct uart *uart)
{
	irq_set(&uart->cfg.irq, (uart->st.mcr & MCR_OUT2) && interrupt_id(&uart->st) != IIR_NONE);
}

/* ---- receiver ---- */

static void clear_rx(struct uart_state *st)
{
	st->rx_first = st->rx_count = 0;
}

static void receive(struct uart_state *st, uint8_t byte)
{
	if (st->rx_count == rx_size(st)) {
		st->lsr_errors |= LSR_OE;
		if (fifo_enabled(st))
			return; /* the FIFO keeps what it has */
		st->rx_count = 0;
	}
	st->rx[(st->rx_first + st->rx_count) % UART_FIFO_SIZE] = byte;
	st->rx_count++;
}

size_t uart_input(struct uart *uart, const void *data, size_t len)
{
	struct uart_state *st = &uart->st;
	const uint8_t *bytes = data;
	size_t taken = 0;

	pthread_mutex_lock(&uart->lock);
	/* In loopback mode the receiver listens to the transmitter. */
	while (taken < len && st->rx_count < rx_size(st) && !(st->mcr & MCR_LOOP))
		receive(st, bytes[taken++]);
	uart->input_waits = taken < len;
	update_irq(uart);
	pthread_mutex_unlock(&uart->lock);
	return taken;
}

static void check_room(struct uart *uart)
{
	if (uart->input_waits && !uart->st.rx_count && !(uart->st.mcr & MCR_LOOP))
		loop_kick(uart->kick);
}

static uint8_t read_rbr(struct uart *uart)
{
	struct uart_state *st = &uart->st;
	uint8_t value;

	if (!st->rx_count)
		return 0;
	value = st->rx[st->rx_first];
	st->rx_first = (st->rx_first + 1) % UART_FIFO_SIZE;
	st->rx_count--;
	check_room(uart);
	return value;
}

/* ---- transmitter ---- */

static void write_thr(struct uart *uart, uint8_t byte)
{
	struct uart_state *st = &uart->st;

	if (st->mcr & MCR_LOOP) {
		receive(st, byte);
	} else if (st->tx_count < UART_OUTPUT_SIZE) {
		st->tx[(st->tx_first + st->tx_count) % UART_OUTPUT_SIZE] = byte;
		st->tx_count++;
		loop_kick(uart->kick);
	} /* else: the guest wrote to a full FIFO, and loses the byte */
	st->thr_interrupt = thr_empty(st);
}

/* Moves output into buf; what is left is more than buf can hold, or nothing. */
static size_t take_output(struct uart *uart, uint8_t *buf, size_t size)
{
	struct uart_state *st = &uart->st;
	bool was_empty;
	size_t len, head;

	pthread_mutex_lock(&uart->lock);
	was_empty = thr_empty(st);
	len = MIN((size_t)st->tx_count, size);
	head = MIN(len, (size_t)(UART_OUTPUT_SIZE - st->tx_first));
	memcpy(buf, st->tx + st->tx_first, head);
	memcpy(buf + head, st->tx, len - head);
	st->tx_first = (uint16_t)((st->tx_first + len) % UART_OUTPUT_SIZE);
	st->tx_count = (uint16_t)(st->tx_count - len);
	if (!was_empty && thr_empty(st))
		st->thr_interrupt = true;
	update_irq(uart);
	pthread_mutex_unlock(&uart->lock);
	return len;
}

void uart_flush(struct uart *uart)
{
	uint8_t buf[UART_OUTPUT_SIZE];
	size_t len = take_output(uart, buf, sizeof(buf));

	if (len)
		uart->cfg.output(uart->cfg.user, buf, len);
}

/* On the loop: the guest wrote something, or has room for input again. */
static void kicked(void *user)
{
	struct uart *uart = user;
	bool room;

	uart_flush(uart);
	pthread_mutex_lock(&uart->lock);
	room = uart->input_waits && uart->st.rx_count < rx_size(&uart->st);
	if (room)
		uart->input_waits = false;
	pthread_mutex_unlock(&uart->lock);
	if (room)
		uart->cfg.room(uart->cfg.user);
}

/* ---- modem lines ---- */

static uint8_t modem_lines(const struct uart_state *st)
{
	uint8_t lines = 0;

	if (!(st->mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	if (st->mcr & MCR_RTS)
		lines |= MSR_CTS;
	if (st->mcr & MCR_DTR)
		lines |= MSR_DSR;
	if (st->mcr & MCR_OUT1)
		lines |= MSR_RI;
	if (st->mcr & MCR_OUT2)
		lines |= MSR_DCD;
	return lines;
}

static void update_modem(struct uart_state *st)
{
	uint8_t lines = modem_lines(st), old = st->msr & (uint8_t)~MSR_DELTAS;
	uint8_t deltas = (uint8_t)((lines ^ old) >> 4);

	if (lines & MSR_RI) /* only the trailing edge of RI counts */
		deltas &= (uint8_t)~MSR_TERI;
	st->msr = (uint8_t)(lines | (st->msr & MSR_DELTAS) | deltas);
}

/* ---- registers ---- */

static void write_fcr(struct uart *uart, uint8_t value)
{
	struct uart_state *st = &uart->st;

	if ((value ^ st->fcr) & FCR_ENABLE) /* changing the mode empties the FIFOs */
		clear_rx(st);
	st->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
	if (value & FCR_CLEAR_RX)
		clear_rx(st);
	if (value & FCR_CLEAR_TX) /* what left the FIFO has been sent; it is empty now */
		st->thr_interrupt = thr_empty(st);
	check_room(uart);
}

static void write_ier(struct uart_state *st, uint8_t value)
{
	/* Enabling the interrupt while THR is empty makes one at once. */
	if (!(st->ier & IER_THR) && (value & IER_THR))
		st->thr_interrupt = thr_empty(st);
	st->ier = value & 0x0f;
}

static void write_lcr(struct uart_state *st, uint8_t value)
{
	bool break_starts = (value & LCR_BREAK) && !(st->lcr & LCR_BREAK);

	st->lcr = value;
	if (break_starts && (st->mcr & MCR_LOOP)) {
		receive(st, 0);
		st->lsr_errors |= LSR_BI;
	}
}

static uint8_t read_iir(struct uart_state *st)
{
	uint8_t id = interrupt_id(st);

	if (id == IIR_THR)
		st->thr_interrupt = false;
	return id | (fifo_enabled(st) ? IIR_FIFO : 0);
}

static uint8_t read_lsr(struct uart_state *st)
{
	uint8_t value = st->lsr_errors;

	if (st->rx_count)
		value |= LSR_DR;
	if (thr_empty(st))
		value |= LSR_THRE | LSR_TEMT;
	st->lsr_errors = 0;
	return value;
}

static uint8_t read_msr(struct uart_state *st)
{
	uint8_t value = st->msr;

	st->msr &= (uint8_t)~MSR_DELTAS;
	return value;
}

static uint8_t read_reg(struct uart *uart, unsigned reg)
{
	struct uart_state *st = &uart->st;
	bool dlab = st->lcr & LCR_DLAB;

	switch (reg) {
	case REG_DATA:
		return dlab ? st->dll : read_rbr(uart);
	case REG_IER:
		return dlab ? st->dlm : st->ier;
	case REG_IIR_FCR:
		return read_iir(st);
	case REG_LCR:
		return st->lcr;
	case REG_MCR:
		return st->mcr;
	case REG_LSR:
		return read_lsr(st);
	case REG_MSR:
		return read_msr(st);
	default:
		return st->scr;
	}
}

static void write_reg(struct uart *uart, unsigned reg, uint8_t value)
{
	struct uart_state *st = &uart->st;
	bool dlab = st->lcr & LCR_DLAB;

	switch (reg) {
	case REG_DATA:
		if (dlab)
			st->dll = value;
		else
			write_thr(uart, value);
		break;
	case REG_IER:
		if (dlab)
			st->dlm = value;
		else
			write_ier(st, value);
		break;
	case REG_IIR_FCR:
		write_fcr(uart, value);
		break;
	case REG_LCR:
		write_lcr(st, value);
		break;
	case REG_MCR:
		st->mcr = value & 0x1f;
		update_modem(st);
		check_room(uart);
		break;
	case REG_SCR:
		st->scr = value;
		break;
	} /* LSR and MSR: writes are for factory tests */
}

static uint8_t uart_read8(void *dev, unsigned reg)
{
	struct uart *uart = dev;
	uint8_t value;

	pthread_mutex_lock(&uart->lock);
	value = read_reg(uart, reg);
	update_irq(uart);
	pthread_mutex_unlock(&uart->lock);
	return value;
}

static void uart_write8(void *dev, unsigned reg, uint8_t value)
{
	struct uart *uart = dev;

	pthread_mutex_lock(&uart->lock);
	/* A new byte takes the THR interrupt away; that the byte leaves at once brings it back. The
	 * edge between the two matters to an edge-triggered interrupt controller. */
	if (reg == REG_DATA && !(uart->st.lcr & LCR_DLAB)) {
		uart->st.thr_interrupt = false;
		update_irq(uart);
	}
	write_reg(uart, reg, value);
	update_irq(uart);
	pthread_mutex_unlock(&uart->lock);
}

static uint64_t uart_read(void *dev, uint64_t offset, unsigned size)
{
	return byte_port_read(uart_read8, dev, offset, size);
}

static void uart_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	byte_port_write(uart_write8, dev, offset, size, value);
}

static const struct bus_ops uart_ops = { uart_read, uart_write };

static void reset_state(struct uart_state *st)
{
	st->ier = st->fcr = st->lcr = st->mcr = st->lsr_errors = 0;
	st->thr_interrupt = true;
	st->msr = modem_lines(st);
	clear_rx(st);
}

void uart_reset(struct uart *uart)
{
	pthread_mutex_lock(&uart->lock);
	reset_state(&uart->st);
	update_irq(uart);
	check_room(uart);
	pthread_mutex_unlock(&uart->lock);
}

/* ---- state ---- */

static const struct state_field uart_fields[] = {
	STATE(1, struct uart_state, ier),
	STATE(2, struct uart_state, fcr),
	STATE(3, struct uart_state, lcr),
	STATE(4, struct uart_state, mcr),
	STATE(5, struct uart_state, msr),
	STATE(6, struct uart_state, scr),
	STATE(7, struct uart_state, dll),
	STATE(8, struct uart_state, dlm),
	STATE(9, struct uart_state, lsr_errors),
	STATE(10, struct uart_state, thr_interrupt),
	STATE(11, struct uart_state, rx),
	STATE(12, struct uart_state, rx_first, .max = UART_FIFO_SIZE - 1),
	STATE(13, struct uart_state, rx_count, .max = UART_FIFO_SIZE),
	STATE(14, struct uart_state, tx),
	STATE(15, struct uart_state, tx_first, .max = UART_OUTPUT_SIZE - 1),
	STATE(16, struct uart_state, tx_count, .max = UART_OUTPUT_SIZE),
	STATE_END,
};
const struct state_desc uart_state_desc = { "uart", sizeof(struct uart_state), uart_fields, NULL };

static const char *instance(const struct uart *uart, char ret[static 8])
{
	snprintf(ret, 8, "%x", uart->cfg.port);
	return ret;
}

void uart_save(struct uart *uart, struct state_out *out)
{
	char name[8];

	pthread_mutex_lock(&uart->lock);
	state_put(out, &uart_state_desc, instance(uart, name), &uart->st);
	pthread_mutex_unlock(&uart->lock);
}

int uart_restore(struct uart *uart, struct state_in *in, struct error *err)
{
	struct uart_state st;
	char name[8];
	int rc = state_get(in, &uart_state_desc, instance(uart, name), &st, err);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&uart->lock);
	uart->st = st;
	update_irq(uart);
	loop_kick(uart->kick);
	pthread_mutex_unlock(&uart->lock);
	return 0;
}

int uart_new(const struct uart_config *config, struct uart **ret, struct error *err)
{
	struct uart *uart = calloc(1, sizeof(*uart));

	if (!uart)
		return error_set(err, ERR_NO_MEMORY, "no memory for a serial port");
	uart->cfg = *config;
	pthread_mutex_init(&uart->lock, NULL);
	uart->st.dll = 0x0c; /* 9600 baud, as firmware leaves it */
	reset_state(&uart->st);
	if (loop_kick_new(config->loop, kicked, uart, &uart->kick, err) < 0 ||
	    bus_add_pio(config->bus, config->port, REG_COUNT, &uart_ops, uart, err) < 0) {
		uart_free(uart);
		return error_prefix(err, "serial port at 0x%x", config->port);
	}
	*ret = uart;
	return 0;
}

void uart_free(struct uart *uart)
{
	if (!uart)
		return;
	bus_remove(uart->cfg.bus, uart);
	loop_kick_free(uart->kick);
	pthread_mutex_destroy(&uart->lock);
	free(uart);
}
