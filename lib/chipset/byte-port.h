/*
 * For devices with 8-bit registers on the ISA bus: a wider access becomes byte accesses, lowest
 * port first. The bus has checked that all of them lie in the device's region.
 */
#ifndef CHIPSET_BYTE_PORT_H
#define CHIPSET_BYTE_PORT_H

#include <stdint.h>

static inline uint64_t byte_port_read(uint8_t (*read)(void *dev, unsigned reg), void *dev,
				      uint64_t offset, unsigned size)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)read(dev, (unsigned)offset + i) << (8 * i);
	return value;
}

static inline void byte_port_write(void (*write)(void *dev, unsigned reg, uint8_t value), void *dev,
				   uint64_t offset, unsigned size, uint64_t value)
{
	for (unsigned i = 0; i < size; i++)
		write(dev, (unsigned)offset + i, (uint8_t)(value >> (8 * i)));
}

#endif
