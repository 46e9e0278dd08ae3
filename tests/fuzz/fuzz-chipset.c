/*
 * All platform devices on one bus, played random port and MMIO accesses, passing time, EOIs and
 * serial input. Input: records of four bytes, {operation, where, value, value}.
 */
#include "base/clock.h"
#include "base/macros.h"
#include "chipset/chipset.h"
#include "chipset/ioapic.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* In place of base/clock.c: time passes as the input says. */
static uint64_t now_ns = NS_PER_SEC, wall_ns = UINT64_C(1795487100) * NS_PER_SEC;

uint64_t clock_now_ns(void)
{
	return now_ns;
}

uint64_t clock_boottime_ns(void)
{
	return now_ns;
}

uint64_t clock_wall_ns(void)
{
	return wall_ns;
}

static const uint16_t ports[] = {
	0x20,  0x21,  0xa0,  0xa1,  0x4d0, 0x4d1, 0x40,  0x41,  0x42,  0x43,  0x61,
	0x60,  0x64,  0x92,  0x70,  0x71,  0x80,  0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc,
	0x3fd, 0x3fe, 0x3ff, 0x2f8, 0x2f9, 0x2fa, 0x2fc, 0x400, 0x401, 0x402, 0x404,
	0x405, 0x408, 0x40a, 0x40c, 0x40e, 0xcf9, 0xcf8, 0xcfc,
};
static const uint16_t registers[] = { 0x00, 0x10, 0x40, 0x01, 0x12, 0x20, 0xffc };

struct board {
	struct bus *bus;
	struct loop *loop;
	struct chipset *chipset;
	bool intr;
	uint8_t vectors[16]; /* sent, no EOI yet */
	unsigned count;
};

static void require(bool condition)
{
	if (!condition)
		abort();
}

static void on_msi(void *user, uint64_t address, uint32_t data)
{
	struct board *b = user;

	require(address >> 20 == 0xfee);
	require((data & ~0xc7ffu) == 0);
	b->vectors[b->count++ % ARRAY_SIZE(b->vectors)] = (uint8_t)data;
}

static void on_route(void *user, unsigned pin, uint64_t address, uint32_t data, bool masked)
{
	require(pin < IOAPIC_PINS && address >> 20 == 0xfee);
}

static void on_intr(void *user, bool level)
{
	struct board *b = user;

	require(b->intr != level);
	b->intr = level;
}

static void on_output(void *user, unsigned port, const void *bytes, size_t len)
{
	require(port < CHIPSET_UARTS && len > 0 && len <= UART_OUTPUT_SIZE);
}

static void on_room(void *user, unsigned port)
{
	chipset_uart_input(((struct board *)user)->chipset, port, "room", 4);
}

static void on_event(void *user)
{
}

static void access_port(struct board *b, uint8_t op, uint8_t where, uint16_t value)
{
	uint16_t port = ports[where % ARRAY_SIZE(ports)];
	unsigned access = 1u << (op >> 4) % 3;

	if (op & 1) {
		bus_pio_write(b->bus, port, access, value);
	} else {
		uint32_t got = bus_pio_read(b->bus, port, access);

		require(access == 4 || got >> (8 * access) == 0);
	}
}

static void access_ioapic(struct board *b, uint8_t op, uint8_t where, uint16_t value)
{
	uint64_t gpa = IOAPIC_BASE + registers[where % ARRAY_SIZE(registers)];

	if (op & 1)
		bus_mmio_write(b->bus, gpa, 1u << (op >> 4) % 4, value | (uint32_t)value << 16);
	else
		bus_mmio_read(b->bus, gpa, 1u << (op >> 4) % 4);
}

/* As a processor takes interrupts: nothing may be pending without a cause. */
static void take_interrupts(struct board *b)
{
	bool pending = b->intr;
	int vector = chipset_extint_ack(b->chipset);

	require((vector >= 0) == pending && vector < 256);
	for (unsigned i = 0; i < ARRAY_SIZE(b->vectors); i++)
		chipset_eoi(b->chipset, b->vectors[i]);
}

static void run_record(struct board *b, const uint8_t record[static 4])
{
	uint16_t value = (uint16_t)(record[2] | record[3] << 8);

	switch (record[0] >> 1 & 7) {
	case 0:
	case 1:
	case 2:
		access_port(b, record[0], record[1], value);
		break;
	case 3:
		access_ioapic(b, record[0], record[1], value);
		break;
	case 4:
		now_ns += (uint64_t)value << record[1] % 24;
		wall_ns += (uint64_t)value << record[1] % 32;
		loop_step(b->loop, 0);
		break;
	case 5:
		take_interrupts(b);
		break;
	case 6:
		chipset_uart_input(b->chipset, record[1] % 3, record, 4);
		loop_step(b->loop, 0);
		break;
	case 7:
		if (record[1] == 0)
			chipset_reset(b->chipset);
		else if (record[1] == 1)
			chipset_power_button(b->chipset);
		else
			chipset_set_cmos(b->chipset, record[1], record[2]);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct board b = { 0 };
	struct chipset_config config = {
		.legacy = size && data[0] & 1,
		.host = { &b, on_msi, on_route, on_intr, on_output, on_room, on_event, on_event },
	};

	now_ns = NS_PER_SEC;
	wall_ns = UINT64_C(1795487100) * NS_PER_SEC;
	require(bus_new(&b.bus, NULL) == 0 && loop_new(&b.loop, NULL) == 0);
	config.bus = b.bus;
	config.loop = b.loop;
	require(chipset_new(&config, &b.chipset, NULL) == 0);
	for (size_t at = 1; at + 4 <= size; at += 4)
		run_record(&b, data + at);
	chipset_flush(b.chipset);
	chipset_free(b.chipset);
	loop_free(b.loop);
	bus_free(b.bus);
	return 0;
}
