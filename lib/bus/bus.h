/*
 * Routing of port and memory-mapped accesses to devices, and interrupt lines.
 *
 * Regions are added before the VM starts, or while it is paused. Look-ups run on VP threads without
 * a lock. A device's callback runs on the accessing VP's thread: a device that is touched by more
 * than one thread has its own lock.
 */
#ifndef BUS_BUS_H
#define BUS_BUS_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct bus;

/* offset counts from the region's base; size is 1, 2, 4 or 8 (ports: at most 4). */
struct bus_ops {
	uint64_t (*read)(void *dev, uint64_t offset, unsigned size);
	void (*write)(void *dev, uint64_t offset, unsigned size, uint64_t value);
};

int bus_new(struct bus **ret, struct error *err);
void bus_free(struct bus *bus);
/* Refuses a region that overlaps another (ERR_EXISTS). ops and dev are borrowed. */
int bus_add_pio(struct bus *bus, uint16_t base, uint32_t len, const struct bus_ops *ops, void *dev,
		struct error *err);
int bus_add_mmio(struct bus *bus, uint64_t base, uint64_t len, const struct bus_ops *ops, void *dev,
		 struct error *err);
void bus_remove(struct bus *bus, void *dev); /* all regions of dev */

/* Unclaimed: reads give all ones, writes vanish. */
uint32_t bus_pio_read(struct bus *bus, uint16_t port, unsigned size);
void bus_pio_write(struct bus *bus, uint16_t port, unsigned size, uint32_t value);
uint64_t bus_mmio_read(struct bus *bus, uint64_t gpa, unsigned size);
void bus_mmio_write(struct bus *bus, uint64_t gpa, unsigned size, uint64_t value);

/* An interrupt line as a device sees it: it raises and lowers a level, any thread. */
struct irq_line {
	void (*set)(void *user, unsigned pin, bool level);
	void *user;
	unsigned pin;
};
static inline void irq_set(const struct irq_line *line, bool level)
{
	if (line->set)
		line->set(line->user, line->pin, level);
}

#endif
