/*
 * One direction of a channel's ring pair: a control page and data pages, scattered in guest RAM.
 * Indices are 32-bit loads and stores of the guest's processor; the data wraps at any multiple
 * of 8.
 */
#include "vmbus/vmbus-impl.h"

#include "base/macros.h"

#include <string.h>

static uint32_t *field_of(const struct vmbus_ring *ring, size_t field)
{
	return (uint32_t *)(ring->control + field);
}

uint32_t vmbus_ring_load(const struct vmbus_ring *ring, size_t field)
{
	return __atomic_load_n(field_of(ring, field), __ATOMIC_ACQUIRE);
}

void vmbus_ring_store(struct vmbus_ring *ring, struct mem *mem, size_t field, uint32_t value)
{
	__atomic_store_n(field_of(ring, field), value, __ATOMIC_RELEASE);
	mem_written(mem, ring->control_gpa + field, sizeof(value));
}

bool vmbus_ring_other_index(const struct vmbus_ring *ring, size_t field, uint32_t *ret)
{
	uint32_t index = vmbus_ring_load(ring, field);

	if (index >= ring->size || index % 8)
		return false;
	*ret = index;
	return true;
}

bool vmbus_ring_init(struct vmbus_ring *ring, struct mem *mem, const uint64_t *gpa,
		     uint32_t page_count, size_t our_index)
{
	uint32_t data_pages = page_count - 1;

	memset(ring, 0, sizeof(*ring));
	ring->control = mem_ptr(mem, gpa[0], VMBUS_PAGE_BYTES);
	ring->control_gpa = gpa[0];
	ring->size = data_pages * VMBUS_PAGE_BYTES;
	ring->page = malloc(data_pages * (sizeof(*ring->page) + sizeof(*ring->gpa)));
	if (!ring->control || !ring->page)
		goto fail;
	ring->gpa = (uint64_t *)(ring->page + data_pages);
	for (uint32_t i = 0; i < data_pages; i++) {
		ring->gpa[i] = gpa[i + 1];
		ring->page[i] = mem_ptr(mem, gpa[i + 1], VMBUS_PAGE_BYTES);
		if (!ring->page[i])
			goto fail;
	}
	if (!vmbus_ring_other_index(ring, our_index, &ring->index))
		goto fail;
	return true;
fail:
	vmbus_ring_done(ring);
	return false;
}

void vmbus_ring_done(struct vmbus_ring *ring)
{
	free(ring->page);
	memset(ring, 0, sizeof(*ring));
}

uint32_t vmbus_ring_distance(const struct vmbus_ring *ring, uint32_t from, uint32_t to)
{
	return to >= from ? to - from : ring->size - from + to;
}

uint32_t vmbus_ring_advance(const struct vmbus_ring *ring, uint32_t at, uint32_t len)
{
	at += len;
	return at >= ring->size ? at - ring->size : at;
}

static uint32_t bytes_in_page(uint32_t at, uint32_t len)
{
	uint32_t left = VMBUS_PAGE_BYTES - at % VMBUS_PAGE_BYTES;

	return MIN(left, len);
}

uint32_t vmbus_ring_read(const struct vmbus_ring *ring, uint32_t at, void *buf, uint32_t len)
{
	uint8_t *to = buf;

	while (len) {
		uint32_t n = bytes_in_page(at, len);

		memcpy(to, ring->page[at / VMBUS_PAGE_BYTES] + at % VMBUS_PAGE_BYTES, n);
		to += n;
		len -= n;
		at = vmbus_ring_advance(ring, at, n);
	}
	return at;
}

uint32_t vmbus_ring_write(struct vmbus_ring *ring, struct mem *mem, uint32_t at, const void *buf,
			  uint32_t len)
{
	const uint8_t *from = buf;

	while (len) {
		uint32_t n = bytes_in_page(at, len);
		uint32_t offset = at % VMBUS_PAGE_BYTES;

		memcpy(ring->page[at / VMBUS_PAGE_BYTES] + offset, from, n);
		mem_written(mem, ring->gpa[at / VMBUS_PAGE_BYTES] + offset, n);
		from += n;
		len -= n;
		at = vmbus_ring_advance(ring, at, n);
	}
	return at;
}
