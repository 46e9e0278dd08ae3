#include "tiny-ip.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/macros.h"
#include "net/frame.h"

#include <string.h>

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_ARP  0x0806
#define FIN            0x01
#define SYN            0x02
#define RST            0x04
#define PSH            0x08
#define ACK            0x10
#define MSS            1460
#define IP_AT          14
#define L4_AT          34
#define TCP_DATA_AT    54

static const uint8_t everybody[6] = { 255, 255, 255, 255, 255, 255 };

void tiny_ip_init(struct tiny_ip *ip, const struct tiny_ip_link *link, const uint8_t mac[6])
{
	*ip = (struct tiny_ip){ .link = *link, .next_port = 40000, .next_sequence = 1000 };
	memcpy(ip->mac, mac, 6);
}

static void put_ethernet(struct tiny_ip *ip, uint8_t *frame, const uint8_t *to, uint16_t type)
{
	memcpy(frame, to, 6);
	memcpy(frame + 6, ip->mac, 6);
	store_be16(frame + 12, type);
}

/* IP header of a packet of ip_bytes; the transport header's checksum is filled in by us, too. */
static void put_ip(struct tiny_ip *ip, uint8_t *frame, uint32_t to, uint8_t protocol,
		   uint32_t ip_bytes)
{
	uint8_t *h = frame + IP_AT;

	memset(h, 0, 20);
	h[0] = 0x45;
	store_be16(h + 2, (uint16_t)ip_bytes);
	store_be16(h + 4, ++ip->next_id);
	h[8] = 64;
	h[9] = protocol;
	store_be32(h + 12, ip->address);
	store_be32(h + 16, to);
}

static void send_ip(struct tiny_ip *ip, uint8_t *frame, const uint8_t *to_mac, size_t len)
{
	struct frame_offload fill = { .flags = FRAME_NEEDS_CSUM | FRAME_NEEDS_IP_CSUM };

	put_ethernet(ip, frame, to_mac, ETHERTYPE_IPV4);
	frame_finish(frame, len, &fill);
	ip->link.send(ip->link.user, frame, len);
}

/* The next frame for us that has right checksums; answers ARP on the way. */
static size_t receive(struct tiny_ip *ip, uint8_t *frame, unsigned timeout_ms)
{
	uint64_t end = clock_now_ns() + timeout_ms * NS_PER_MSEC;
	struct frame_layout l;

	while (clock_now_ns() < end) {
		size_t len = ip->link.receive(ip->link.user, frame, timeout_ms);

		if (!len)
			return 0;
		if (!frame_parse(frame, len, false, &l))
			continue;
		if (l.ethertype == ETHERTYPE_ARP && len >= 42 && load_be16(frame + 20) == 1 &&
		    load_be32(frame + 38) == ip->address && ip->address) {
			uint8_t reply[42];

			put_ethernet(ip, reply, frame + 6, ETHERTYPE_ARP);
			memcpy(reply + 14, frame + 14, 6);
			store_be16(reply + 20, 2);
			memcpy(reply + 22, ip->mac, 6);
			store_be32(reply + 28, ip->address);
			memcpy(reply + 32, frame + 22, 10);
			ip->link.send(ip->link.user, reply, sizeof(reply));
			continue;
		}
		if (l.l4 && !frame_checksum_ok(frame, len)) {
			ip->bad_checksums++;
			continue;
		}
		if (l.ipv4 && frame_fold(frame_sum(frame + IP_AT, 20)) != 0) {
			ip->bad_checksums++;
			continue;
		}
		return len;
	}
	return 0;
}

/* ---- DHCP ---- */

static void send_dhcp(struct tiny_ip *ip, uint8_t type, uint32_t wanted, uint32_t server)
{
	uint8_t frame[14 + 20 + 8 + 300] = { 0 };
	uint8_t *udp = frame + L4_AT, *bootp = udp + 8, *o = bootp + 240;

	put_ip(ip, frame, 0xFFFFFFFF, 17, sizeof(frame) - 14);
	store_be16(udp, 68);
	store_be16(udp + 2, 67);
	store_be16(udp + 4, 308);
	bootp[0] = bootp[1] = 1;
	bootp[2] = 6;
	store_be32(bootp + 4, 0x12345678);
	memcpy(bootp + 28, ip->mac, 6);
	store_be32(bootp + 236, 0x63825363);
	*o++ = 53, *o++ = 1, *o++ = type;
	if (wanted) {
		*o++ = 50, *o++ = 4;
		store_be32(o, wanted);
		o += 4;
		*o++ = 54, *o++ = 4;
		store_be32(o, server);
		o += 4;
	}
	*o = 255;
	send_ip(ip, frame, everybody, sizeof(frame));
}

static uint32_t option(const uint8_t *o, const uint8_t *end, uint8_t code)
{
	while (o + 2 <= end && *o != 255) {
		if (*o == 0) {
			o++;
			continue;
		}
		if (o + 2 + o[1] > end)
			return 0;
		if (*o == code)
			return o[1] >= 4 ? load_be32(o + 2) : o[2];
		o += 2 + o[1];
	}
	return 0;
}

static bool receive_dhcp(struct tiny_ip *ip, uint8_t type, uint32_t *ret_address,
			 uint32_t *ret_server)
{
	static uint8_t frame[TINY_IP_FRAME_BYTES];
	uint64_t end = clock_now_ns() + TINY_IP_TIMEOUT_MS * NS_PER_MSEC;
	size_t len;

	while (clock_now_ns() < end && (len = receive(ip, frame, TINY_IP_TIMEOUT_MS))) {
		const uint8_t *bootp = frame + L4_AT + 8, *options = bootp + 240;

		if (len < 42 + 244 || frame[IP_AT + 9] != 17 || load_be16(frame + L4_AT) != 67 ||
		    load_be32(bootp + 4) != 0x12345678 || memcmp(bootp + 28, ip->mac, 6) != 0 ||
		    option(options, frame + len, 53) != type)
			continue;
		*ret_address = load_be32(bootp + 16);
		*ret_server = option(options, frame + len, 54);
		ip->netmask = option(options, frame + len, 1);
		ip->gateway = option(options, frame + len, 3);
		ip->nameserver = option(options, frame + len, 6);
		return true;
	}
	return false;
}

bool tiny_ip_resolve(struct tiny_ip *ip, uint32_t address, uint8_t ret_mac[6])
{
	static uint8_t frame[TINY_IP_FRAME_BYTES];
	uint8_t request[42] = { 0 };
	uint64_t end = clock_now_ns() + TINY_IP_TIMEOUT_MS * NS_PER_MSEC;
	size_t len;

	put_ethernet(ip, request, everybody, ETHERTYPE_ARP);
	store_be32(request + 14, 0x00010800);
	store_be32(request + 18, 0x06040001);
	memcpy(request + 22, ip->mac, 6);
	store_be32(request + 28, ip->address);
	store_be32(request + 38, address);
	ip->link.send(ip->link.user, request, sizeof(request));
	while (clock_now_ns() < end && (len = receive(ip, frame, TINY_IP_TIMEOUT_MS))) {
		if (len < 42 || load_be16(frame + 12) != ETHERTYPE_ARP ||
		    load_be16(frame + 20) != 2 || load_be32(frame + 28) != address)
			continue;
		memcpy(ret_mac, frame + 22, 6);
		return true;
	}
	return false;
}

bool tiny_ip_configure(struct tiny_ip *ip)
{
	uint32_t address, server;

	ip->address = 0;
	send_dhcp(ip, 1, 0, 0);
	if (!receive_dhcp(ip, 2, &address, &server))
		return false;
	send_dhcp(ip, 3, address, server);
	if (!receive_dhcp(ip, 5, &address, &server))
		return false;
	ip->address = address;
	return tiny_ip_resolve(ip, ip->gateway, ip->gateway_mac);
}

static const uint8_t *next_hop(struct tiny_ip *ip, uint32_t address, uint8_t mac[6])
{
	memcpy(mac, ip->gateway_mac, 6);
	if ((address & ip->netmask) == (ip->address & ip->netmask))
		tiny_ip_resolve(ip, address, mac);
	return mac;
}

bool tiny_ip_ping(struct tiny_ip *ip, uint32_t address)
{
	static uint8_t frame[TINY_IP_FRAME_BYTES];
	uint8_t request[L4_AT + 8 + 32] = { 0 }, mac[6];
	uint64_t end = clock_now_ns() + TINY_IP_TIMEOUT_MS * NS_PER_MSEC;
	struct frame_offload fill = { .flags = FRAME_NEEDS_IP_CSUM };

	next_hop(ip, address, mac);
	put_ip(ip, request, address, 1, sizeof(request) - 14);
	request[L4_AT] = 8;
	store_be32(request + L4_AT + 4, 0x11110001);
	store_be16(request + L4_AT + 2, frame_fold(frame_sum(request + L4_AT, 40)));
	put_ethernet(ip, request, mac, ETHERTYPE_IPV4);
	frame_finish(request, sizeof(request), &fill);
	ip->link.send(ip->link.user, request, sizeof(request));
	while (clock_now_ns() < end && receive(ip, frame, TINY_IP_TIMEOUT_MS))
		if (load_be16(frame + 12) == ETHERTYPE_IPV4 && frame[IP_AT + 9] == 1 &&
		    frame[L4_AT] == 0 && load_be32(frame + IP_AT + 12) == address)
			return true;
	return false;
}

/* ---- TCP ---- */

static void put_tcp(struct tiny_ip *ip, uint8_t *frame, uint8_t flags, unsigned header,
		    uint32_t data_bytes)
{
	uint8_t *tcp = frame + L4_AT;

	put_ip(ip, frame, ip->peer, 6, 20 + header + data_bytes);
	store_be16(tcp, ip->port);
	store_be16(tcp + 2, ip->peer_port);
	store_be32(tcp + 4, ip->sent);
	store_be32(tcp + 8, flags & ACK ? ip->expected : 0);
	tcp[12] = (uint8_t)(header / 4 << 4);
	tcp[13] = flags;
	store_be16(tcp + 14, 65535);
	store_be32(tcp + 16, 0);
}

static void send_flags(struct tiny_ip *ip, uint8_t flags)
{
	uint8_t frame[64] = { 0 }, mac[6];
	unsigned header = 20;

	memcpy(mac, ip->gateway_mac, 6);
	if (flags & SYN) {
		header = 24;
		store_be32(frame + TCP_DATA_AT, 0x02040000 | MSS);
	}
	put_tcp(ip, frame, flags, header, 0);
	send_ip(ip, frame, mac, MAX(60u, L4_AT + header));
	if (flags & (SYN | FIN))
		ip->sent++;
}

struct segment {
	uint8_t flags;
	uint32_t sequence, acked, window;
	const uint8_t *data;
	uint32_t bytes;
};

/* The next segment of the connection. */
static bool receive_segment(struct tiny_ip *ip, struct segment *ret, unsigned timeout_ms)
{
	static uint8_t frame[TINY_IP_FRAME_BYTES];
	uint64_t end = clock_now_ns() + timeout_ms * NS_PER_MSEC;
	size_t len;

	do {
		struct frame_layout l;

		len = receive(ip, frame, timeout_ms);
		if (!len)
			return false;
		frame_parse(frame, len, false, &l);
		if (!l.l4 || l.l4_protocol != 6 || load_be16(frame + l.l4) != ip->peer_port ||
		    load_be16(frame + l.l4 + 2) != ip->port ||
		    load_be32(frame + l.l3 + 12) != ip->peer)
			continue;
		*ret = (struct segment){ frame[l.l4 + 13],
					 load_be32(frame + l.l4 + 4),
					 load_be32(frame + l.l4 + 8),
					 load_be16(frame + l.l4 + 14),
					 frame + l.payload,
					 l.end - l.payload };
		ip->largest = MAX(ip->largest, ret->bytes);
		return true;
	} while (clock_now_ns() < end);
	return false;
}

bool tiny_ip_connect(struct tiny_ip *ip, uint32_t address, uint16_t port)
{
	struct segment s;

	ip->peer = address;
	ip->peer_port = port;
	ip->port = ip->next_port++;
	ip->sent = ip->acked = ip->next_sequence += 100000;
	ip->finished = false;
	send_flags(ip, SYN);
	if (!receive_segment(ip, &s, TINY_IP_TIMEOUT_MS) || (s.flags & (SYN | ACK)) != (SYN | ACK))
		return false;
	ip->expected = s.sequence + 1;
	ip->acked = s.acked;
	send_flags(ip, ACK);
	return true;
}

int64_t tiny_ip_download(struct tiny_ip *ip, uint8_t (*pattern)(uint64_t i))
{
	uint64_t count = 0;
	struct segment s;

	while (!ip->finished && receive_segment(ip, &s, TINY_IP_TIMEOUT_MS)) {
		if (s.flags & RST)
			return -1;
		if (s.sequence != ip->expected) {
			send_flags(ip, ACK); /* lost or repeated: say what we have */
			continue;
		}
		for (uint32_t i = 0; i < s.bytes; i++)
			if (s.data[i] != pattern(count + i))
				return -1;
		count += s.bytes;
		ip->expected += s.bytes + (s.flags & FIN ? 1 : 0);
		ip->finished = s.flags & FIN;
		if (s.bytes || ip->finished)
			send_flags(ip, ACK);
	}
	if (ip->finished)
		send_flags(ip, FIN | ACK);
	return ip->finished ? (int64_t)count : -1;
}

static void send_data(struct tiny_ip *ip, uint64_t at, uint32_t bytes,
		      uint8_t (*pattern)(uint64_t i))
{
	static uint8_t frame[TINY_IP_FRAME_BYTES];
	size_t len = TCP_DATA_AT + bytes;

	put_tcp(ip, frame, ACK | PSH, 20, bytes);
	for (uint32_t i = 0; i < bytes; i++)
		frame[TCP_DATA_AT + i] = pattern(at + i);
	if (bytes <= MSS) {
		send_ip(ip, frame, ip->gateway_mac, len);
	} else {
		put_ethernet(ip, frame, ip->gateway_mac, ETHERTYPE_IPV4);
		store_be16(frame + IP_AT + 2, 0); /* as LSOv2 has it */
		ip->link.send_large(ip->link.user, frame, len, MSS);
	}
	ip->sent += bytes;
}

bool tiny_ip_upload(struct tiny_ip *ip, uint64_t count, uint32_t chunk,
		    uint8_t (*pattern)(uint64_t i))
{
	uint32_t window = 65535;
	uint64_t at = 0;
	struct segment s;

	while (at < count || ip->acked != ip->sent) {
		uint32_t in_flight = ip->sent - ip->acked, n = chunk;

		n = (uint32_t)MIN(n, count - at);
		if (n && in_flight + n <= window) {
			send_data(ip, at, n, pattern);
			at += n;
			continue;
		}
		if (n && !in_flight && window) {
			chunk = MIN(chunk, window);
			continue;
		}
		if (!receive_segment(ip, &s, TINY_IP_TIMEOUT_MS) || s.flags & RST)
			return false;
		ip->acked = s.acked;
		window = s.window;
	}
	send_flags(ip, FIN | ACK);
	return receive_segment(ip, &s, TINY_IP_TIMEOUT_MS);
}
