/*
 * GPADLs: page lists that the guest builds by one GPADL_HEADER and any number of GPADL_BODY
 * messages. Every page is checked to be RAM before GPADL_CREATED says yes, so that later accesses
 * can't fail. Nothing behind them is read here.
 */
#include "vmbus/vmbus-impl.h"
#include "vmbus/vmbus-state.h"

#include "base/bytes.h"
#include "base/log.h"
#include "base/macros.h"

#include <string.h>

static struct vmbus_gpadl **bucket_of(struct vmbus *bus, uint32_t id)
{
	return &bus->gpadls[id % VMBUS_GPADL_BUCKETS];
}

struct vmbus_gpadl *vmbus_gpadl_find(struct vmbus *bus, uint32_t id)
{
	struct vmbus_gpadl *gpadl = *bucket_of(bus, id);

	while (gpadl && gpadl->id != id)
		gpadl = gpadl->next;
	return gpadl;
}

static void send_created(struct vmbus *bus, uint32_t relid, uint32_t id, uint32_t status)
{
	struct vmbus_spec_gpadl_created msg = { .relid = relid, .gpadl = id, .status = status };

	vmbus_post(bus, &msg, sizeof(msg), VMBUS_MSG_GPADL_CREATED);
}

static void send_torndown(struct vmbus *bus, uint32_t id)
{
	struct vmbus_spec_gpadl_torndown msg = { .gpadl = id };

	vmbus_post(bus, &msg, sizeof(msg), VMBUS_MSG_GPADL_TORNDOWN);
}

/* Unlinks and frees *link. */
static void remove_at(struct vmbus *bus, struct vmbus_gpadl **link)
{
	struct vmbus_gpadl *gpadl = *link;

	*link = gpadl->next;
	bus->gpadl_count--;
	bus->gpadl_pages -= gpadl->page_count;
	free(gpadl);
}

static void remove_gpadl(struct vmbus *bus, struct vmbus_gpadl *gpadl)
{
	struct vmbus_gpadl **link = bucket_of(bus, gpadl->id);

	while (*link != gpadl)
		link = &(*link)->next;
	remove_at(bus, link);
}

static bool pages_are_ram(struct vmbus *bus, const struct vmbus_gpadl *gpadl)
{
	for (uint32_t i = 0; i < gpadl->page_count; i++)
		if (!mem_ptr(bus->mem, gpadl->gpa[i], VMBUS_PAGE_BYTES))
			return false;
	return true;
}

static void finish(struct vmbus *bus, struct vmbus_gpadl *gpadl)
{
	if (pages_are_ram(bus, gpadl)) {
		send_created(bus, gpadl->relid, gpadl->id, VMBUS_STATUS_SUCCESS);
		return;
	}
	log_guest("GPADL %#x names pages that are not RAM", gpadl->id);
	send_created(bus, gpadl->relid, gpadl->id, VMBUS_STATUS_INVALID_PARAMETER);
	remove_gpadl(bus, gpadl);
}

static void add_pages(struct vmbus *bus, struct vmbus_gpadl *gpadl, const uint8_t *bytes,
		      uint32_t len)
{
	uint32_t count = MIN(len / 8, gpadl->page_count - gpadl->pages_seen);

	for (uint32_t i = 0; i < count; i++) {
		uint64_t pfn = load_le64(bytes + i * 8);

		/* A PFN whose address overflows becomes an address that is not RAM. */
		gpadl->gpa[gpadl->pages_seen++] =
		    pfn >> 52 ? ALIGN_DOWN(UINT64_MAX, VMBUS_PAGE_BYTES) : pfn << 12;
	}
	if (gpadl->pages_seen == gpadl->page_count)
		finish(bus, gpadl);
}

/* Pages that the range needs; 0 if it is malformed. The announced list may be longer. */
static uint32_t pages_of(const struct vmbus_spec_gpadl_header *msg)
{
	uint64_t bytes = (uint64_t)msg->byte_offset + msg->byte_count;
	uint64_t pages = (bytes + VMBUS_PAGE_BYTES - 1) / VMBUS_PAGE_BYTES;

	if (msg->range_count != 1 || msg->byte_offset >= VMBUS_PAGE_BYTES || !msg->byte_count ||
	    msg->range_buflen < 8 || pages > (msg->range_buflen - 8u) / 8)
		return 0;
	return (uint32_t)pages;
}

static struct vmbus_gpadl *add(struct vmbus *bus, uint32_t id, uint32_t pages)
{
	struct vmbus_gpadl *gpadl, **link = bucket_of(bus, id);

	gpadl = calloc(1, sizeof(*gpadl) + pages * sizeof(gpadl->gpa[0]));
	if (!gpadl)
		return NULL;
	gpadl->id = id;
	gpadl->page_count = pages;
	gpadl->next = *link;
	*link = gpadl;
	bus->gpadl_count++;
	bus->gpadl_pages += pages;
	return gpadl;
}

bool vmbus_gpadl_restore(struct vmbus *bus, const struct vmbus_gpadl_state *from,
			 const uint64_t *pages)
{
	struct vmbus_gpadl *gpadl;

	if (vmbus_gpadl_find(bus, from->id))
		return false;
	gpadl = add(bus, from->id, from->page_count);
	if (!gpadl)
		return false;
	gpadl->relid = from->relid;
	gpadl->byte_count = from->byte_count;
	gpadl->byte_offset = from->byte_offset;
	gpadl->pages_seen = from->pages_seen;
	memcpy(gpadl->gpa, pages, from->page_count * sizeof(*pages));
	/* Of an unfinished one the pages are looked at when the last has come. */
	return gpadl->pages_seen < gpadl->page_count || pages_are_ram(bus, gpadl);
}

static uint32_t create(struct vmbus *bus, const struct vmbus_spec_gpadl_header *msg,
		       struct vmbus_gpadl **ret)
{
	uint32_t pages = pages_of(msg);
	struct vmbus_gpadl *gpadl;

	if (!pages || !msg->gpadl || vmbus_gpadl_find(bus, msg->gpadl) ||
	    !vmbus_channel_find(bus, msg->relid))
		return VMBUS_STATUS_INVALID_PARAMETER;
	if (bus->gpadl_count >= VMBUS_GPADLS_MAX ||
	    pages > VMBUS_GPADL_PAGES_MAX - bus->gpadl_pages)
		return VMBUS_STATUS_INSUFFICIENT_RESOURCES;
	gpadl = add(bus, msg->gpadl, pages);
	if (!gpadl)
		return VMBUS_STATUS_INSUFFICIENT_RESOURCES;
	gpadl->relid = msg->relid;
	gpadl->byte_count = msg->byte_count;
	gpadl->byte_offset = msg->byte_offset;
	*ret = gpadl;
	return VMBUS_STATUS_SUCCESS;
}

void vmbus_gpadl_header(struct vmbus *bus, const uint8_t *bytes, uint32_t len)
{
	struct vmbus_spec_gpadl_header msg;
	struct vmbus_gpadl *gpadl;
	uint32_t status;

	memcpy(&msg, bytes, sizeof(msg));
	status = create(bus, &msg, &gpadl);
	if (status) {
		log_guest("GPADL %#x refused: relid %u, %u bytes", msg.gpadl, msg.relid,
			  msg.byte_count);
		send_created(bus, msg.relid, msg.gpadl, status);
		return;
	}
	add_pages(bus, gpadl, bytes + sizeof(msg), len - (uint32_t)sizeof(msg));
}

void vmbus_gpadl_body(struct vmbus *bus, const uint8_t *bytes, uint32_t len)
{
	struct vmbus_spec_gpadl_body msg;
	struct vmbus_gpadl *gpadl;

	memcpy(&msg, bytes, sizeof(msg));
	gpadl = vmbus_gpadl_find(bus, msg.gpadl);
	/* A body of a list that was refused, or that is complete. */
	if (!gpadl || gpadl->pages_seen == gpadl->page_count)
		return;
	add_pages(bus, gpadl, bytes + sizeof(msg), len - (uint32_t)sizeof(msg));
}

void vmbus_gpadl_teardown(struct vmbus *bus, const struct vmbus_spec_gpadl_teardown *msg)
{
	struct vmbus_gpadl *gpadl = vmbus_gpadl_find(bus, msg->gpadl);
	struct vmbus_channel *channel;

	if (!gpadl) {
		send_torndown(bus, msg->gpadl);
		return;
	}
	channel = gpadl->relid <= VMBUS_MAX_RELID ? bus->by_relid[gpadl->relid] : NULL;
	/* A guest that takes the rings away from an open channel has closed it. */
	if (channel && channel->state != VMBUS_CHANNEL_CLOSED && channel->ring_gpadl == gpadl->id) {
		gpadl->torn_down = true;
		vmbus_channel_close(channel);
		gpadl = vmbus_gpadl_find(bus, msg->gpadl);
		if (!gpadl) /* the device rescinded the channel: answered there */
			return;
		channel = bus->by_relid[gpadl->relid];
	}
	if (channel && channel->holds) {
		gpadl->torn_down = true;
		return;
	}
	remove_gpadl(bus, gpadl);
	send_torndown(bus, msg->gpadl);
}

void vmbus_gpadls_settle(struct vmbus *bus, uint32_t relid, bool all)
{
	for (unsigned i = 0; i < VMBUS_GPADL_BUCKETS; i++) {
		struct vmbus_gpadl **link = &bus->gpadls[i];

		while (*link) {
			struct vmbus_gpadl *gpadl = *link;

			if (gpadl->relid != relid || !(all || gpadl->torn_down)) {
				link = &gpadl->next;
				continue;
			}
			if (gpadl->torn_down)
				send_torndown(bus, gpadl->id);
			remove_at(bus, link);
		}
	}
}

void vmbus_gpadls_forget(struct vmbus *bus)
{
	for (unsigned i = 0; i < VMBUS_GPADL_BUCKETS; i++)
		while (bus->gpadls[i])
			remove_at(bus, &bus->gpadls[i]);
}

/* ---- for devices ---- */

static bool same_device(const struct vmbus_channel *a, const struct vmbus_channel *b)
{
	return guid_equal(&a->offer.class_id, &b->offer.class_id) &&
	       guid_equal(&a->offer.instance_id, &b->offer.instance_id);
}

static const struct vmbus_gpadl *usable(struct vmbus_channel *channel, uint32_t id)
{
	const struct vmbus_gpadl *gpadl = vmbus_gpadl_find(channel->bus, id);
	const struct vmbus_channel *owner;

	if (!gpadl || !vmbus_gpadl_complete(gpadl))
		return NULL;
	owner = channel->bus->by_relid[gpadl->relid];
	return owner && same_device(owner, channel) ? gpadl : NULL;
}

uint64_t vmbus_gpadl_bytes(struct vmbus_channel *channel, uint32_t gpadl_id)
{
	const struct vmbus_gpadl *gpadl = usable(channel, gpadl_id);

	return gpadl ? gpadl->byte_count : 0;
}

static const struct vmbus_gpadl *usable_range(struct vmbus_channel *channel, uint32_t id,
					      uint64_t offset, size_t len)
{
	const struct vmbus_gpadl *gpadl = usable(channel, id);

	return gpadl && RANGE_OK(offset, len, gpadl->byte_count) ? gpadl : NULL;
}

/* GPA of offset, and how many of len bytes follow there in the same page. */
static uint64_t locate(const struct vmbus_gpadl *gpadl, uint64_t offset, size_t len, size_t *ret)
{
	uint64_t at = gpadl->byte_offset + offset;
	size_t left = VMBUS_PAGE_BYTES - at % VMBUS_PAGE_BYTES;

	*ret = MIN(left, len);
	return gpadl->gpa[at / VMBUS_PAGE_BYTES] + at % VMBUS_PAGE_BYTES;
}

bool vmbus_gpadl_read(struct vmbus_channel *channel, uint32_t gpadl_id, uint64_t offset, void *buf,
		      size_t len)
{
	const struct vmbus_gpadl *gpadl = usable_range(channel, gpadl_id, offset, len);
	uint8_t *to = buf;
	size_t n;

	for (; gpadl && len; len -= n, offset += n, to += n) {
		uint64_t gpa = locate(gpadl, offset, len, &n);

		mem_read(channel->bus->mem, gpa, to, n);
	}
	return gpadl != NULL;
}

bool vmbus_gpadl_write(struct vmbus_channel *channel, uint32_t gpadl_id, uint64_t offset,
		       const void *buf, size_t len)
{
	const struct vmbus_gpadl *gpadl = usable_range(channel, gpadl_id, offset, len);
	const uint8_t *from = buf;
	size_t n;

	for (; gpadl && len; len -= n, offset += n, from += n) {
		uint64_t gpa = locate(gpadl, offset, len, &n);

		mem_write(channel->bus->mem, gpa, from, n);
	}
	return gpadl != NULL;
}

unsigned vmbus_gpadl_map(struct vmbus_channel *channel, uint32_t gpadl_id, uint64_t offset,
			 size_t len, struct iovec *iov, uint64_t *gpa_ret, unsigned max)
{
	const struct vmbus_gpadl *gpadl = usable_range(channel, gpadl_id, offset, len);
	uint64_t next_gpa = 0;
	unsigned count = 0;
	size_t n;

	for (; gpadl && len; len -= n, offset += n) {
		uint64_t gpa = locate(gpadl, offset, len, &n);
		uint8_t *host = mem_ptr(channel->bus->mem, gpa, n);
		struct iovec *last = count ? &iov[count - 1] : NULL;

		/* Both ends of the MMIO hole are neighbours in the host, but not for the guest. */
		if (last && gpa == next_gpa && (uint8_t *)last->iov_base + last->iov_len == host) {
			last->iov_len += n;
			next_gpa = gpa + n;
			continue;
		}
		if (count == max)
			return 0;
		iov[count] = (struct iovec){ .iov_base = host, .iov_len = n };
		if (gpa_ret)
			gpa_ret[count] = gpa;
		next_gpa = gpa + n;
		count++;
	}
	return count;
}
