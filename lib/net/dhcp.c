#include "net/dhcp.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/macros.h"

#include <stdlib.h>
#include <string.h>

/* RFC 2131 section 2, from the start of the BOOTP message */
#define OP           0
#define HTYPE        1
#define HLEN         2
#define XID          4
#define CIADDR       12
#define YIADDR       16
#define CHADDR       28
#define COOKIE       236
#define OPTIONS      240
#define COOKIE_VALUE 0x63825363u

#define BOOTREQUEST 1
#define BOOTREPLY   2

/* RFC 2132 */
enum option {
	OPTION_PAD = 0,
	OPTION_NETMASK = 1,
	OPTION_ROUTER = 3,
	OPTION_NAMESERVER = 6,
	OPTION_DOMAIN = 15,
	OPTION_ADDRESS = 50,
	OPTION_LEASE_TIME = 51,
	OPTION_TYPE = 53,
	OPTION_SERVER = 54,
	OPTION_RENEWAL_TIME = 58,
	OPTION_REBINDING_TIME = 59,
	OPTION_END = 255,
};

enum type {
	DISCOVER = 1,
	OFFER = 2,
	REQUEST = 3,
	DECLINE = 4,
	ACK = 5,
	NAK = 6,
	RELEASE = 7,
	INFORM = 8,
};

#define UDP_PORT_SERVER 67
#define UDP_PORT_CLIENT 68
#define FRAME_OVERHEAD  (FRAME_HEADER_BYTES + 20 + 8)
#define BOOTP_BYTES     300               /* the least that clients take */
#define OFFER_NS        (60 * NS_PER_SEC) /* for which an offered address is kept */

struct lease {
	bool known;
	bool declined; /* somebody else answers for the address */
	uint8_t mac[FRAME_MAC_BYTES];
	uint64_t end_ns;
};

struct dhcp {
	struct dhcp_config config;
	char domain[128];
	struct lease *leases; /* of first + i */
	unsigned count;
};

/* What matters of a client's message. */
struct request {
	enum type type;
	uint8_t mac[FRAME_MAC_BYTES];
	uint32_t ciaddr, wanted, server; /* 0: not given */
	const uint8_t *bootp;
};

int dhcp_new(const struct dhcp_config *config, struct dhcp **ret, struct error *err)
{
	struct dhcp *dhcp = calloc(1, sizeof(*dhcp));
	unsigned count = MIN(config->last - config->first + 1, (unsigned)DHCP_MAX_LEASES);

	if (dhcp)
		dhcp->leases = calloc(count, sizeof(*dhcp->leases));
	if (!dhcp || !dhcp->leases) {
		free(dhcp);
		return error_set(err, ERR_NO_MEMORY, "no memory for a DHCP server");
	}
	dhcp->config = *config;
	dhcp->config.domain = NULL;
	if (config->domain)
		strncpy(dhcp->domain, config->domain, sizeof(dhcp->domain) - 1);
	dhcp->count = count;
	*ret = dhcp;
	return 0;
}

void dhcp_free(struct dhcp *dhcp)
{
	if (!dhcp)
		return;
	free(dhcp->leases);
	free(dhcp);
}

/* ---- requests ---- */

bool dhcp_is_request(const uint8_t *frame, size_t len)
{
	struct frame_layout l;

	return frame_parse(frame, len, false, &l) && l.ipv4 && l.l4 && l.l4_protocol == 17 &&
	       load_be16(frame + l.l4 + 2) == UDP_PORT_SERVER;
}

static void take_option(struct request *request, uint8_t code, const uint8_t *data, uint8_t len)
{
	if (code == OPTION_TYPE && len == 1)
		request->type = data[0];
	else if (code == OPTION_ADDRESS && len == 4)
		request->wanted = load_be32(data);
	else if (code == OPTION_SERVER && len == 4)
		request->server = load_be32(data);
}

static bool parse_options(struct request *request, const uint8_t *options, size_t len)
{
	size_t at = 0;

	while (at < len && options[at] != OPTION_END) {
		if (options[at] == OPTION_PAD) {
			at++;
			continue;
		}
		if (len - at < 2 || options[at + 1] > len - at - 2)
			return false;
		take_option(request, options[at], options + at + 2, options[at + 1]);
		at += 2u + options[at + 1];
	}
	return request->type >= DISCOVER && request->type <= INFORM;
}

static bool parse_request(const uint8_t *frame, size_t len, struct request *ret)
{
	struct frame_layout l;
	size_t bytes;

	*ret = (struct request){ 0 };
	if (!dhcp_is_request(frame, len) || !frame_parse(frame, len, false, &l))
		return false;
	bytes = l.end - l.payload;
	ret->bootp = frame + l.payload;
	if (bytes < OPTIONS || ret->bootp[OP] != BOOTREQUEST || ret->bootp[HTYPE] != 1 ||
	    ret->bootp[HLEN] != FRAME_MAC_BYTES || load_be32(ret->bootp + COOKIE) != COOKIE_VALUE)
		return false;
	memcpy(ret->mac, ret->bootp + CHADDR, FRAME_MAC_BYTES);
	/* Nobody asks for somebody else. */
	if (memcmp(ret->mac, frame + FRAME_MAC_BYTES, FRAME_MAC_BYTES) != 0)
		return false;
	ret->ciaddr = load_be32(ret->bootp + CIADDR);
	return parse_options(ret, ret->bootp + OPTIONS, bytes - OPTIONS);
}

/* ---- leases ---- */

static struct lease *lease_of(struct dhcp *dhcp, uint32_t address)
{
	uint32_t index = address - dhcp->config.first;

	return address >= dhcp->config.first && index < dhcp->count ? &dhcp->leases[index] : NULL;
}

static uint32_t address_of(const struct dhcp *dhcp, const struct lease *lease)
{
	return dhcp->config.first + (uint32_t)(lease - dhcp->leases);
}

static bool is_of(const struct lease *lease, const uint8_t *mac)
{
	return lease->known && memcmp(lease->mac, mac, FRAME_MAC_BYTES) == 0;
}

static struct lease *find_lease(struct dhcp *dhcp, const uint8_t *mac)
{
	for (unsigned i = 0; i < dhcp->count; i++)
		if (is_of(&dhcp->leases[i], mac))
			return &dhcp->leases[i];
	return NULL;
}

/* An unused address, the first from where the MAC address points to; else the lease that ended
 * longest ago; else NULL. */
static struct lease *new_lease(struct dhcp *dhcp, const uint8_t *mac, uint64_t now_ns)
{
	/* The last three bytes differ most, and neighbours get neighbours. */
	unsigned start = (mac[3] << 16 | mac[4] << 8 | mac[5]) % dhcp->count;
	struct lease *oldest = NULL;

	for (unsigned i = 0; i < dhcp->count; i++) {
		struct lease *lease = &dhcp->leases[(start + i) % dhcp->count];

		if (!lease->known)
			return lease;
		if (lease->end_ns < now_ns && (!oldest || lease->end_ns < oldest->end_ns))
			oldest = lease;
	}
	return oldest;
}

static struct lease *lease_for(struct dhcp *dhcp, const uint8_t *mac, uint64_t now_ns)
{
	struct lease *lease = find_lease(dhcp, mac);

	if (lease)
		return lease;
	lease = new_lease(dhcp, mac, now_ns);
	if (lease) {
		*lease = (struct lease){ .known = true, .end_ns = now_ns + OFFER_NS };
		memcpy(lease->mac, mac, FRAME_MAC_BYTES);
	}
	return lease;
}

/* The address that a client asks for, or has: it may be one of an earlier run of this switch, which
 * is then its own as long as nobody else has it. */
static struct lease *confirm(struct dhcp *dhcp, const struct request *request, uint64_t now_ns)
{
	uint32_t address = request->wanted ? request->wanted : request->ciaddr;
	struct lease *lease = lease_of(dhcp, address), *own = find_lease(dhcp, request->mac);

	if (!lease || lease->declined)
		return NULL;
	if (own)
		return own == lease ? lease : NULL;
	if (lease->known && lease->end_ns >= now_ns)
		return NULL;
	*lease = (struct lease){ .known = true };
	memcpy(lease->mac, request->mac, FRAME_MAC_BYTES);
	return lease;
}

static void release(struct dhcp *dhcp, const struct request *request, uint64_t now_ns)
{
	struct lease *lease = find_lease(dhcp, request->mac);

	if (!lease)
		return;
	if (request->type == DECLINE) {
		/* Kept from everybody for a while, whose it was included. */
		memset(lease->mac, 0, sizeof(lease->mac));
		lease->declined = true;
		lease->end_ns = now_ns + DHCP_LEASE_SECONDS * NS_PER_SEC;
	} else if (request->ciaddr == address_of(dhcp, lease)) {
		lease->end_ns = now_ns;
	}
}

/* ---- answers ---- */

static uint8_t *put_option(uint8_t *at, enum option code, const void *data, size_t len)
{
	*at++ = (uint8_t)code;
	*at++ = (uint8_t)len;
	memcpy(at, data, len);
	return at + len;
}

static uint8_t *put_option_u32(uint8_t *at, enum option code, uint32_t value)
{
	uint8_t data[4];

	store_be32(data, value);
	return put_option(at, code, data, sizeof(data));
}

static uint8_t *put_network_options(const struct dhcp *dhcp, uint8_t *at)
{
	at = put_option_u32(at, OPTION_NETMASK, dhcp->config.netmask);
	at = put_option_u32(at, OPTION_ROUTER, dhcp->config.server);
	at = put_option_u32(at, OPTION_NAMESERVER, dhcp->config.nameserver);
	if (dhcp->domain[0])
		at = put_option(at, OPTION_DOMAIN, dhcp->domain, strlen(dhcp->domain));
	return at;
}

static uint8_t *put_lease_options(uint8_t *at)
{
	at = put_option_u32(at, OPTION_LEASE_TIME, DHCP_LEASE_SECONDS);
	at = put_option_u32(at, OPTION_RENEWAL_TIME, DHCP_LEASE_SECONDS / 2);
	return put_option_u32(at, OPTION_REBINDING_TIME, DHCP_LEASE_SECONDS / 8 * 7);
}

/* The frame around a BOOTP message of bytes at ret + FRAME_OVERHEAD. To the client's MAC address,
 * and to all by IP: it has no address that it would hear. */
static size_t put_frame(const struct dhcp *dhcp, const struct request *request, uint32_t to,
			size_t bytes, uint8_t *ret)
{
	static const struct frame_offload fill = { .flags =
						       FRAME_NEEDS_CSUM | FRAME_NEEDS_IP_CSUM };
	uint8_t *ip = ret + FRAME_HEADER_BYTES, *udp = ip + 20;

	memcpy(ret, request->mac, FRAME_MAC_BYTES);
	memcpy(ret + FRAME_MAC_BYTES, dhcp->config.server_mac, FRAME_MAC_BYTES);
	store_be16(ret + 12, 0x0800);
	ip[0] = 0x45;
	store_be16(ip + 2, (uint16_t)(28 + bytes));
	ip[8] = 64;
	ip[9] = 17;
	store_be32(ip + 12, dhcp->config.server);
	store_be32(ip + 16, to);
	store_be16(udp, UDP_PORT_SERVER);
	store_be16(udp + 2, UDP_PORT_CLIENT);
	store_be16(udp + 4, (uint16_t)(8 + bytes));
	frame_finish(ret, FRAME_OVERHEAD + bytes, &fill);
	return FRAME_OVERHEAD + bytes;
}

/* lease: what it is about, or NULL (NAK, answer to INFORM). */
static size_t put_answer(const struct dhcp *dhcp, const struct request *request, enum type type,
			 const struct lease *lease, uint8_t *ret)
{
	uint8_t *bootp = ret + FRAME_OVERHEAD, *at = bootp + OPTIONS, code = (uint8_t)type;

	memset(ret, 0, DHCP_REPLY_BYTES);
	memcpy(bootp, request->bootp, 44); /* up to the client's hardware address */
	bootp[OP] = BOOTREPLY;
	bootp[3] = 0; /* hops */
	memset(bootp + YIADDR, 0, 12);
	if (type == NAK)
		memset(bootp + CIADDR, 0, 4);
	if (lease)
		store_be32(bootp + YIADDR, address_of(dhcp, lease));
	store_be32(bootp + COOKIE, COOKIE_VALUE);
	at = put_option(at, OPTION_TYPE, &code, 1);
	at = put_option_u32(at, OPTION_SERVER, dhcp->config.server);
	if (lease)
		at = put_lease_options(at);
	if (type != NAK)
		at = put_network_options(dhcp, at);
	*at++ = OPTION_END;
	return put_frame(dhcp, request,
			 request->ciaddr && type != NAK ? request->ciaddr : UINT32_MAX,
			 MAX((size_t)(at - bootp), (size_t)BOOTP_BYTES), ret);
}

static size_t answer_request(struct dhcp *dhcp, const struct request *request, uint64_t now_ns,
			     uint8_t *ret)
{
	struct lease *lease;

	if (request->server && request->server != dhcp->config.server)
		return 0; /* it chose another one */
	lease = confirm(dhcp, request, now_ns);
	if (!lease)
		return put_answer(dhcp, request, NAK, NULL, ret);
	lease->end_ns = now_ns + DHCP_LEASE_SECONDS * NS_PER_SEC;
	return put_answer(dhcp, request, ACK, lease, ret);
}

size_t dhcp_answer(struct dhcp *dhcp, const uint8_t *frame, size_t len, uint64_t now_ns,
		   uint8_t ret[static DHCP_REPLY_BYTES])
{
	struct request request;
	struct lease *lease;

	if (!parse_request(frame, len, &request))
		return 0;
	switch (request.type) {
	case DISCOVER:
		lease = lease_for(dhcp, request.mac, now_ns);
		return lease ? put_answer(dhcp, &request, OFFER, lease, ret) : 0;
	case REQUEST:
		return answer_request(dhcp, &request, now_ns, ret);
	case INFORM:
		return put_answer(dhcp, &request, ACK, NULL, ret);
	case DECLINE:
	case RELEASE:
		release(dhcp, &request, now_ns);
		return 0;
	default:
		return 0;
	}
}
