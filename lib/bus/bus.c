#include "bus/bus.h"

#include "base/macros.h"

#include <stdlib.h>
#include <string.h>

struct region {
	uint64_t base, len;
	const struct bus_ops *ops;
	void *dev;
};

struct space {
	struct region *regions; /* sorted by base, no overlaps */
	size_t count;
};

struct bus {
	struct space pio, mmio;
};

int bus_new(struct bus **ret, struct error *err)
{
	struct bus *bus = calloc(1, sizeof(*bus));

	if (!bus)
		return error_set(err, ERR_NO_MEMORY, "no memory for a bus");
	*ret = bus;
	return 0;
}

void bus_free(struct bus *bus)
{
	if (!bus)
		return;
	free(bus->pio.regions);
	free(bus->mmio.regions);
	free(bus);
}

/* Index of the first region that ends above addr. */
static size_t lower_bound(const struct space *space, uint64_t addr)
{
	size_t low = 0, high = space->count;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (space->regions[mid].base + (space->regions[mid].len - 1) < addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static int add_region(struct space *space, struct region region, const char *what,
		      struct error *err)
{
	size_t at = lower_bound(space, region.base);
	struct region *grown;

	if (at < space->count && space->regions[at].base <= region.base + (region.len - 1))
		return error_set(err, ERR_EXISTS, "%s region 0x%llx+0x%llx overlaps one at 0x%llx",
				 what, (unsigned long long)region.base,
				 (unsigned long long)region.len,
				 (unsigned long long)space->regions[at].base);
	grown = realloc(space->regions, (space->count + 1) * sizeof(region));
	if (!grown)
		return error_set(err, ERR_NO_MEMORY, "no memory for a %s region", what);
	memmove(grown + at + 1, grown + at, (space->count - at) * sizeof(region));
	grown[at] = region;
	space->regions = grown;
	space->count++;
	return 0;
}

int bus_add_pio(struct bus *bus, uint16_t base, uint32_t len, const struct bus_ops *ops, void *dev,
		struct error *err)
{
	return add_region(&bus->pio, (struct region){ base, len, ops, dev }, "port", err);
}

int bus_add_mmio(struct bus *bus, uint64_t base, uint64_t len, const struct bus_ops *ops, void *dev,
		 struct error *err)
{
	return add_region(&bus->mmio, (struct region){ base, len, ops, dev }, "MMIO", err);
}

static void remove_regions(struct space *space, const void *dev)
{
	size_t kept = 0;

	for (size_t i = 0; i < space->count; i++)
		if (space->regions[i].dev != dev)
			space->regions[kept++] = space->regions[i];
	space->count = kept;
}

void bus_remove(struct bus *bus, void *dev)
{
	remove_regions(&bus->pio, dev);
	remove_regions(&bus->mmio, dev);
}

/* The region that holds all of [addr, addr + size), or NULL. */
static const struct region *find(const struct space *space, uint64_t addr, unsigned size)
{
	size_t at = lower_bound(space, addr);
	const struct region *region = &space->regions[at];

	if (at == space->count || addr < region->base ||
	    !RANGE_OK(addr - region->base, size, region->len))
		return NULL;
	return region;
}

static uint64_t all_ones(unsigned size)
{
	return UINT64_MAX >> (64 - size * 8);
}

static uint64_t space_read(const struct space *space, uint64_t addr, unsigned size)
{
	const struct region *region = find(space, addr, size);

	if (!region)
		return all_ones(size);
	return region->ops->read(region->dev, addr - region->base, size) & all_ones(size);
}

static void space_write(const struct space *space, uint64_t addr, unsigned size, uint64_t value)
{
	const struct region *region = find(space, addr, size);

	if (region)
		region->ops->write(region->dev, addr - region->base, size, value & all_ones(size));
}

uint32_t bus_pio_read(struct bus *bus, uint16_t port, unsigned size)
{
	return (uint32_t)space_read(&bus->pio, port, size);
}

void bus_pio_write(struct bus *bus, uint16_t port, unsigned size, uint32_t value)
{
	space_write(&bus->pio, port, size, value);
}

uint64_t bus_mmio_read(struct bus *bus, uint64_t gpa, unsigned size)
{
	return space_read(&bus->mmio, gpa, size);
}

void bus_mmio_write(struct bus *bus, uint64_t gpa, unsigned size, uint64_t value)
{
	space_write(&bus->mmio, gpa, size, value);
}
