#include "net/vswitch.h"

#include "base/clock.h"
#include "base/macros.h"
#include "net/frame-queue.h"
#include "net/port.h"

#include <stdlib.h>
#include <string.h>

#define TABLE_BUCKETS  1024 /* a power of two */
#define SWEEP_NS       (10 * NS_PER_SEC)
#define FLAGS_OF_GUEST (FRAME_NEEDS_CSUM | FRAME_NEEDS_IP_CSUM)

struct switch_port {
	struct vswitch *sw;
	struct switch_port *next;
	struct port *port;
	char id[VSWITCH_PORT_ID_BYTES];
	bool has_mac, mac_spoofing;
	uint8_t mac[FRAME_MAC_BYTES];
	unsigned learned;
	uint64_t dropped_queue, dropped_spoofed, dropped_malformed;
	struct frame_queue queue;
	bool blocked; /* the socket is full: wait for `writable` */
};

/* Where an address is; port NULL: behind the uplink. */
struct address {
	struct address *next;
	uint8_t mac[FRAME_MAC_BYTES];
	bool fixed;
	struct switch_port *port;
	uint64_t seen_ns;
};

struct vswitch {
	struct loop *loop;
	struct switch_port *ports;
	unsigned port_count;
	struct vswitch_uplink uplink;
	unsigned uplink_learned;
	struct address *table[TABLE_BUCKETS];
	struct loop_timer *sweep;
	uint64_t now_ns;
	void (*gone)(void *user, const char *id);
	void *gone_user;
	uint8_t scratch[FRAME_MAX_BYTES]; /* a frame for the uplink while it is finished */
};

/* ---- addresses ---- */

static unsigned bucket_of(const uint8_t *mac)
{
	uint32_t h = 2166136261u;

	for (unsigned i = 0; i < FRAME_MAC_BYTES; i++)
		h = (h ^ mac[i]) * 16777619u;
	return (h ^ h >> 15) & (TABLE_BUCKETS - 1);
}

static struct address *find_address(const struct vswitch *sw, const uint8_t *mac)
{
	struct address *a = sw->table[bucket_of(mac)];

	while (a && memcmp(a->mac, mac, FRAME_MAC_BYTES) != 0)
		a = a->next;
	return a;
}

static unsigned *learned_counter(struct vswitch *sw, struct switch_port *port)
{
	return port ? &port->learned : &sw->uplink_learned;
}

static struct address *add_address(struct vswitch *sw, const uint8_t *mac, struct switch_port *port)
{
	struct address *a = calloc(1, sizeof(*a)), **bucket = &sw->table[bucket_of(mac)];

	if (!a)
		return NULL;
	memcpy(a->mac, mac, FRAME_MAC_BYTES);
	a->port = port;
	a->seen_ns = sw->now_ns;
	a->next = *bucket;
	*bucket = a;
	return a;
}

static void learn(struct vswitch *sw, const uint8_t *mac, struct switch_port *port)
{
	struct address *a = find_address(sw, mac);

	if (a && a->fixed)
		return;
	if (a && a->port != port) {
		/* moved: from now on it counts for the new port */
		if (*learned_counter(sw, port) >= VSWITCH_MAX_LEARNED)
			return;
		--*learned_counter(sw, a->port);
		++*learned_counter(sw, port);
		a->port = port;
	} else if (!a && *learned_counter(sw, port) < VSWITCH_MAX_LEARNED) {
		a = add_address(sw, mac, port);
		if (a)
			++*learned_counter(sw, port);
	}
	if (a)
		a->seen_ns = sw->now_ns;
}

/* Removes the addresses for which drop says so. */
static void remove_addresses(struct vswitch *sw,
			     bool (*drop)(const struct vswitch *sw, const struct address *a,
					  const struct switch_port *port),
			     const struct switch_port *port)
{
	for (unsigned i = 0; i < TABLE_BUCKETS; i++) {
		struct address **link = &sw->table[i];

		while (*link) {
			struct address *a = *link;

			if (!drop(sw, a, port)) {
				link = &a->next;
				continue;
			}
			if (!a->fixed)
				--*learned_counter(sw, a->port);
			*link = a->next;
			free(a);
		}
	}
}

static bool is_old(const struct vswitch *sw, const struct address *a,
		   const struct switch_port *port)
{
	(void)port;
	return !a->fixed && sw->now_ns - a->seen_ns > VSWITCH_AGE_NS;
}

static bool is_of_port(const struct vswitch *sw, const struct address *a,
		       const struct switch_port *port)
{
	(void)sw;
	return a->port == port;
}

static bool is_any(const struct vswitch *sw, const struct address *a,
		   const struct switch_port *port)
{
	(void)sw, (void)a, (void)port;
	return true;
}

static void on_sweep(void *user)
{
	struct vswitch *sw = user;

	sw->now_ns = clock_now_ns();
	remove_addresses(sw, is_old, NULL);
	loop_timer_arm(sw->sweep, sw->now_ns + SWEEP_NS);
}

/* ---- to a port ---- */

static void enqueue(struct switch_port *port, const struct port_frame *frame, bool join)
{
	if (!frame_queue_push(&port->queue, frame->iov[0].iov_base, frame->iov[0].iov_len,
			      &frame->offload, join))
		port->dropped_queue++;
}

static void send_queue(struct switch_port *port)
{
	while (port->queue.first && !port->blocked) {
		struct port_frame frames[PORT_BATCH];
		struct iovec iov[PORT_BATCH];
		unsigned count = 0, taken;

		for (struct queued_frame *q = port->queue.first; q && count < PORT_BATCH;
		     q = q->next) {
			iov[count] = (struct iovec){ q->data, q->len };
			frames[count] = (struct port_frame){ q->offload, &iov[count], 1 };
			count++;
		}
		taken = port_send(port->port, frames, count);
		port->blocked = taken < count;
		while (taken--)
			frame_queue_drop_first(&port->queue);
	}
}

static void send_to_port(struct switch_port *port, const struct port_frame *frames, unsigned count)
{
	unsigned taken = 0;

	if (!port->queue.first && !port->blocked) {
		taken = port_send(port->port, frames, count);
		port->blocked = taken < count;
	}
	for (; taken < count; taken++)
		enqueue(port, &frames[taken], false);
}

/* ---- forwarding ---- */

static void send_to_uplink(struct vswitch *sw, const struct port_frame *frame)
{
	const struct iovec *iov = frame->iov;

	if (!sw->uplink.send || iov->iov_len > sizeof(sw->scratch))
		return;
	/* The other receivers of a flooded frame need it as it came. */
	memcpy(sw->scratch, iov->iov_base, iov->iov_len);
	if (frame_finish(sw->scratch, iov->iov_len, &frame->offload))
		sw->uplink.send(sw->uplink.user, sw->scratch, iov->iov_len);
}

/* To everybody but where it came from (NULL: the uplink). */
static void flood(struct vswitch *sw, struct switch_port *from, const struct port_frame *frame)
{
	for (struct switch_port *p = sw->ports; p; p = p->next)
		if (p != from)
			send_to_port(p, frame, 1);
	if (from)
		send_to_uplink(sw, frame);
}

static bool source_allowed(const struct switch_port *port, const uint8_t *frame)
{
	const uint8_t *source = frame + FRAME_MAC_BYTES;

	if (frame_is_multicast(source))
		return false;
	return !port->has_mac || port->mac_spoofing ||
	       memcmp(source, port->mac, FRAME_MAC_BYTES) == 0;
}

/* Checks a frame that a guest sent. The guest's word on checksums counts for nothing. */
static bool admit(struct switch_port *port, struct port_frame *frame)
{
	const uint8_t *data = frame->iov->iov_base;
	struct frame_segmenter segmenter;

	if (!source_allowed(port, data)) {
		port->dropped_spoofed++;
		return false;
	}
	frame->offload.flags &= FLAGS_OF_GUEST;
	if (frame->offload.gso_bytes && !frame_segmenter_init(&segmenter, data, frame->iov->iov_len,
							      frame->offload.gso_bytes)) {
		port->dropped_malformed++;
		return false;
	}
	return true;
}

/* One frame's way; NULL and *ret_flood false: nowhere (or to the uplink, when ret_uplink). */
static struct switch_port *look_up(struct vswitch *sw, const uint8_t *frame, bool *ret_flood,
				   bool *ret_uplink)
{
	struct address *a = NULL;

	if (!frame_is_multicast(frame))
		a = find_address(sw, frame);
	*ret_flood = !a;
	*ret_uplink = a && !a->port;
	return a ? a->port : NULL;
}

static unsigned on_received(void *user, struct port_frame *frames, unsigned count)
{
	struct switch_port *from = user, *run_to = NULL;
	struct vswitch *sw = from->sw;
	unsigned run_start = 0;

	sw->now_ns = clock_now_ns();
	/* Neighbours to the same port go there in one call. */
	for (unsigned i = 0; i <= count; i++) {
		struct switch_port *to = NULL;
		bool to_all = false, to_uplink = false;

		if (i < count && admit(from, &frames[i])) {
			const uint8_t *data = frames[i].iov->iov_base;

			learn(sw, data + FRAME_MAC_BYTES, from);
			to = look_up(sw, data, &to_all, &to_uplink);
			if (to == from)
				to = NULL;
		}
		if (run_to && to != run_to)
			send_to_port(run_to, frames + run_start, i - run_start);
		if (to != run_to)
			run_start = i;
		run_to = to;
		if (to_all)
			flood(sw, from, &frames[i]);
		else if (to_uplink)
			send_to_uplink(sw, &frames[i]);
	}
	return count;
}

void vswitch_uplink_input(struct vswitch *sw, const uint8_t *data, size_t len)
{
	struct iovec iov = { (void *)(uintptr_t)data, len };
	struct port_frame frame = { { .flags = FRAME_CSUM_VALID }, &iov, 1 };
	struct switch_port *to;
	bool to_all, to_uplink;

	if (len < FRAME_MIN_BYTES || len > FRAME_MAX_BYTES)
		return;
	sw->now_ns = clock_now_ns();
	if (!frame_is_multicast(data + FRAME_MAC_BYTES))
		learn(sw, data + FRAME_MAC_BYTES, NULL);
	to = look_up(sw, data, &to_all, &to_uplink);
	if (to_all)
		flood(sw, NULL, &frame);
	else if (to)
		enqueue(to, &frame, true);
}

void vswitch_flush(struct vswitch *sw)
{
	for (struct switch_port *p = sw->ports; p; p = p->next)
		send_queue(p);
}

/* ---- ports ---- */

static void on_writable(void *user)
{
	struct switch_port *port = user;

	port->blocked = false;
	send_queue(port);
}

static void free_port(struct switch_port *port)
{
	struct vswitch *sw = port->sw;
	struct switch_port **link;

	for (link = &sw->ports; *link != port; link = &(*link)->next)
		;
	*link = port->next;
	sw->port_count--;
	remove_addresses(sw, is_of_port, port);
	frame_queue_done(&port->queue);
	port_free(port->port);
	free(port);
}

static void on_closed(void *user)
{
	struct switch_port *port = user;
	struct vswitch *sw = port->sw;
	char id[VSWITCH_PORT_ID_BYTES];

	memcpy(id, port->id, sizeof(id));
	free_port(port);
	if (sw->gone)
		sw->gone(sw->gone_user, id);
}

static const struct port_ops port_ops = { on_received, on_writable, on_closed };

static struct switch_port *find_port(const struct vswitch *sw, const char *id)
{
	struct switch_port *p = sw->ports;

	while (p && strcmp(p->id, id) != 0)
		p = p->next;
	return p;
}

static int check_config(const struct vswitch *sw, const struct vswitch_port_config *config,
			struct error *err)
{
	const struct address *a;

	if (!config->id[0] || strlen(config->id) >= VSWITCH_PORT_ID_BYTES)
		return error_set(err, ERR_INVALID, "a switch port needs a name of 1 to %d bytes",
				 VSWITCH_PORT_ID_BYTES - 1);
	if (find_port(sw, config->id))
		return error_set(err, ERR_EXISTS, "the switch has a port '%s' already", config->id);
	if (sw->port_count >= VSWITCH_MAX_PORTS)
		return error_set(err, ERR_LIMIT, "the switch has %d ports already",
				 VSWITCH_MAX_PORTS);
	if (!config->has_mac)
		return 0;
	if (frame_is_multicast(config->mac))
		return error_set(err, ERR_INVALID, "port '%s': a group address can't be its own",
				 config->id);
	a = find_address(sw, config->mac);
	if (a && a->fixed)
		return error_set(err, ERR_EXISTS, "port '%s': port '%s' has the same MAC address",
				 config->id, a->port->id);
	return 0;
}

static bool fix_address(struct switch_port *port)
{
	struct vswitch *sw = port->sw;
	struct address *a = find_address(sw, port->mac);

	if (a) /* somebody else was seen with it */
		--*learned_counter(sw, a->port);
	else
		a = add_address(sw, port->mac, port);
	if (!a)
		return false;
	a->port = port;
	a->fixed = true;
	return true;
}

/* A VM that starts anew is not to find its old port in the way. */
static void drop_dead_ports(struct vswitch *sw)
{
	struct switch_port *next;

	for (struct switch_port *p = sw->ports; p; p = next) {
		next = p->next;
		if (port_peer_gone(p->port))
			on_closed(p);
	}
}

int vswitch_add_port(struct vswitch *sw, const struct vswitch_port_config *config, int fd,
		     struct error *err)
{
	AUTO_CLOSE int own_fd = fd;
	struct switch_port *port;
	int r;

	drop_dead_ports(sw);
	r = check_config(sw, config, err);
	if (r < 0)
		return r;
	port = calloc(1, sizeof(*port));
	if (!port)
		return error_set(err, ERR_NO_MEMORY, "no memory for a switch port");
	port->sw = sw;
	frame_queue_init(&port->queue, VSWITCH_PORT_QUEUE_BYTES);
	port->has_mac = config->has_mac;
	port->mac_spoofing = config->mac_spoofing;
	memcpy(port->mac, config->mac, FRAME_MAC_BYTES);
	memcpy(port->id, config->id, strlen(config->id));
	r = port_new(sw->loop, TAKE_FD(own_fd), &port_ops, port, &port->port, err);
	if (r < 0) {
		free(port);
		return r;
	}
	port->next = sw->ports;
	sw->ports = port;
	sw->port_count++;
	if (port->has_mac && !fix_address(port)) {
		free_port(port);
		return error_set(err, ERR_NO_MEMORY, "no memory for a switch port");
	}
	return 0;
}

int vswitch_remove_port(struct vswitch *sw, const char *id, struct error *err)
{
	struct switch_port *port = find_port(sw, id);

	if (!port)
		return error_set(err, ERR_NOT_FOUND, "the switch has no port '%s'", id);
	free_port(port);
	return 0;
}

unsigned vswitch_port_count(const struct vswitch *sw)
{
	return sw->port_count;
}

bool vswitch_port_info(const struct vswitch *sw, unsigned index, struct vswitch_port_info *ret)
{
	const struct switch_port *p = sw->ports;
	const struct port_stats *stats;

	while (p && index--)
		p = p->next;
	if (!p)
		return false;
	stats = port_stats(p->port);
	*ret = (struct vswitch_port_info){
		.id = p->id,
		.received = stats->received,
		.received_bytes = stats->received_bytes,
		.sent = stats->sent,
		.sent_bytes = stats->sent_bytes,
		.dropped_queue = p->dropped_queue,
		.dropped_spoofed = p->dropped_spoofed,
		.malformed = p->dropped_malformed + stats->malformed,
		.learned = p->learned,
	};
	return true;
}

void vswitch_on_port_gone(struct vswitch *sw, void (*gone)(void *user, const char *id), void *user)
{
	sw->gone = gone;
	sw->gone_user = user;
}

void vswitch_set_uplink(struct vswitch *sw, const struct vswitch_uplink *uplink)
{
	sw->uplink = *uplink;
	if (!uplink->send)
		remove_addresses(sw, is_of_port, NULL);
}

/* ---- life ---- */

int vswitch_new(struct loop *loop, struct vswitch **ret, struct error *err)
{
	struct vswitch *sw = calloc(1, sizeof(*sw));
	int r;

	if (!sw)
		return error_set(err, ERR_NO_MEMORY, "no memory for a switch");
	sw->loop = loop;
	r = loop_timer_new(loop, on_sweep, sw, &sw->sweep, err);
	if (r < 0) {
		free(sw);
		return r;
	}
	sw->now_ns = clock_now_ns();
	loop_timer_arm(sw->sweep, sw->now_ns + SWEEP_NS);
	*ret = sw;
	return 0;
}

void vswitch_free(struct vswitch *sw)
{
	if (!sw)
		return;
	while (sw->ports)
		free_port(sw->ports);
	remove_addresses(sw, is_any, NULL);
	loop_timer_free(sw->sweep);
	free(sw);
}
