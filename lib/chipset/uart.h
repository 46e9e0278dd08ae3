/*
 * A 16550A serial port. Output never holds up a virtual processor: bytes go into a bounded buffer
 * that the loop empties. While less than a FIFO's worth of room is left in it, THRE stays clear, so
 * a guest that looks at it loses nothing.
 *
 * Transmission takes no time otherwise, whatever the divisor says. DCD, DSR and CTS are always on.
 * As on a PC, OUT2 gates the interrupt.
 *
 * Threads: registers, any. uart_input, uart_flush, new, free: the loop's. The callbacks run on the
 * loop without the lock; they may call uart_input.
 *
 * Specification: National Semiconductor PC16550D data sheet (June 1995).
 */
#ifndef CHIPSET_UART_H
#define CHIPSET_UART_H

#include "base/loop.h"
#include "bus/bus.h"
#include "state/state.h"

#include <stddef.h>

#define UART_FIFO_SIZE   16
#define UART_OUTPUT_SIZE 4096
#define UART_COM1_PORT   0x3f8
#define UART_COM1_IRQ    4
#define UART_COM2_PORT   0x2f8
#define UART_COM2_IRQ    3

struct uart;

struct uart_config {
	struct bus *bus;   /* borrowed */
	struct loop *loop; /* borrowed */
	uint16_t port;
	struct irq_line irq;
	void *user;
	void (*output)(void *user, const void *data, size_t len);
	/* The guest emptied its receiver after uart_input() took less than all. */
	void (*room)(void *user);
};

struct uart_state {
	uint8_t ier, fcr, lcr, mcr, msr, scr;
	uint8_t dll, dlm;
	uint8_t lsr_errors; /* overrun and break, until LSR is read */
	bool thr_interrupt; /* THR became empty, and nobody has seen it in IIR */
	uint8_t rx[UART_FIFO_SIZE];
	uint8_t rx_first, rx_count;
	/* Sent by the guest, not yet taken by the host. */
	uint8_t tx[UART_OUTPUT_SIZE];
	uint16_t tx_first, tx_count;
};

extern const struct state_desc uart_state_desc;

int uart_new(const struct uart_config *config, struct uart **ret, struct error *err);
void uart_free(struct uart *uart);
/* Bytes on their way to the host are kept, those on their way to the guest dropped. */
void uart_reset(struct uart *uart);
/* How many of the bytes the receiver took; `room` follows if these were not all. */
size_t uart_input(struct uart *uart, const void *data, size_t len);
/* Hands all output to the callback now. */
void uart_flush(struct uart *uart);

/* Both while the VPs stand still; the restored lines and timers are set. */
void uart_save(struct uart *uart, struct state_out *out);
int uart_restore(struct uart *uart, struct state_in *in, struct error *err);

#endif
