#include "net/frame.h"

#include "base/bytes.h"
#include "base/macros.h"

#include <string.h>

#define ETHERTYPE_IPV4    0x0800
#define ETHERTYPE_IPV6    0x86DD
#define ETHERTYPE_VLAN    0x8100
#define PROTOCOL_TCP      6
#define PROTOCOL_UDP      17
#define IPV6_HEADER_BYTES 40u

/* ---- layout ---- */

static bool parse_ipv4(const uint8_t *frame, size_t len, bool gso, struct frame_layout *l)
{
	const uint8_t *ip = frame + l->l3;
	unsigned header, total;

	if (len < l->l3 + 20u || ip[0] >> 4 != 4)
		return false;
	header = (ip[0] & 15) * 4u;
	total = gso ? (unsigned)(len - l->l3) : load_be16(ip + 2);
	if (header < 20 || total < header || total > len - l->l3)
		return false;
	l->ipv4 = true;
	l->end = l->l3 + total;
	l->fragment = load_be16(ip + 6) & 0x3FFF;
	l->l4_protocol = ip[9];
	l->l4 = (uint16_t)(l->l3 + header);
	return true;
}

/* Extension headers that may stand before TCP or UDP. */
static bool is_ipv6_option(uint8_t protocol)
{
	return protocol == 0 || protocol == 43 || protocol == 60;
}

static bool parse_ipv6(const uint8_t *frame, size_t len, bool gso, struct frame_layout *l)
{
	const uint8_t *ip = frame + l->l3;
	unsigned total, offset;
	uint8_t protocol;

	if (len < l->l3 + IPV6_HEADER_BYTES || ip[0] >> 4 != 6)
		return false;
	total = gso ? (unsigned)(len - l->l3) : IPV6_HEADER_BYTES + load_be16(ip + 4);
	if (total > len - l->l3)
		return false;
	l->ipv6 = true;
	l->end = l->l3 + total;
	protocol = ip[6];
	offset = l->l3 + IPV6_HEADER_BYTES;
	while (is_ipv6_option(protocol)) {
		if (offset + 8 > l->end)
			return false;
		protocol = frame[offset];
		offset += (frame[offset + 1] + 1u) * 8;
	}
	if (protocol == 44)
		l->fragment = true;
	if (offset > l->end || offset > UINT16_MAX)
		return false;
	l->l4_protocol = protocol;
	l->l4 = (uint16_t)offset;
	return true;
}

/* Finds the payload; without a whole TCP or UDP header there is no l4. */
static void parse_l4(const uint8_t *frame, struct frame_layout *l)
{
	unsigned header = 0, room = l->end - l->l4;

	if (l->l4_protocol == PROTOCOL_UDP)
		header = 8;
	else if (l->l4_protocol == PROTOCOL_TCP && room >= 20)
		header = MAX(20u, (frame[l->l4 + 12] >> 4) * 4u);
	if (l->fragment || !header || header > room || l->l4 + header > UINT16_MAX)
		l->l4 = 0;
	else
		l->payload = (uint16_t)(l->l4 + header);
}

bool frame_parse(const uint8_t *frame, size_t len, bool gso, struct frame_layout *ret)
{
	bool ok = false;

	*ret = (struct frame_layout){ .end = (uint32_t)len };
	if (len < FRAME_MIN_BYTES || len > FRAME_MAX_BYTES)
		return false;
	ret->ethertype = load_be16(frame + 12);
	ret->l3 = FRAME_HEADER_BYTES;
	if (ret->ethertype == ETHERTYPE_VLAN && len >= FRAME_HEADER_BYTES + FRAME_VLAN_BYTES) {
		ret->ethertype = load_be16(frame + 16);
		ret->l3 += FRAME_VLAN_BYTES;
	}
	if (ret->ethertype == ETHERTYPE_IPV4)
		ok = parse_ipv4(frame, len, gso, ret);
	else if (ret->ethertype == ETHERTYPE_IPV6)
		ok = parse_ipv6(frame, len, gso, ret);
	if (ok)
		parse_l4(frame, ret);
	else
		ret->l4 = 0;
	return true;
}

/* ---- checksums ---- */

uint64_t frame_sum(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint64_t sum = 0, carry = 0;

	/* 32-bit words in host order: the one's complement sum does not mind (RFC 1071). */
	for (; len >= 16; len -= 16, p += 16) {
		uint32_t w[4];

		memcpy(w, p, sizeof(w));
		sum += (uint64_t)w[0] + w[1];
		carry += (uint64_t)w[2] + w[3];
	}
	for (; len >= 2; len -= 2, p += 2) {
		uint16_t w;

		memcpy(&w, p, sizeof(w));
		sum += w;
	}
	if (len) {
		uint8_t last[2] = { *p, 0 };
		uint16_t w;

		memcpy(&w, last, sizeof(w));
		sum += w;
	}
	sum = (sum & 0xFFFFFFFF) + (sum >> 32) + (carry & 0xFFFFFFFF) + (carry >> 32);
	while (sum >> 16)
		sum = (sum & 0xFFFF) + (sum >> 16);
	return be16toh((uint16_t)sum);
}

uint16_t frame_fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xFFFF) + (sum >> 16);
	return (uint16_t)~sum;
}

static void fill_ip_checksum(uint8_t *ip)
{
	store_be16(ip + 10, 0);
	store_be16(ip + 10, frame_fold(frame_sum(ip, (ip[0] & 15) * 4u)));
}

/* Addresses, protocol and length, as TCP and UDP count them in. headers: the frame's. */
static uint64_t pseudo_sum(const uint8_t *headers, const struct frame_layout *l, uint32_t l4_bytes)
{
	const uint8_t *ip = headers + l->l3;
	uint64_t sum = l->ipv4 ? frame_sum(ip + 12, 8) : frame_sum(ip + 8, 32);

	return sum + l->l4_protocol + (l4_bytes >> 16) + (l4_bytes & 0xFFFF);
}

static unsigned checksum_offset(const struct frame_layout *l)
{
	return l->l4 + (l->l4_protocol == PROTOCOL_TCP ? 16u : 6u);
}

/* A UDP datagram can say that it is shorter than its IP packet. */
static uint32_t l4_bytes(const uint8_t *frame, const struct frame_layout *l)
{
	uint32_t bytes = l->end - l->l4;

	if (l->l4_protocol == PROTOCOL_UDP) {
		uint32_t said = load_be16(frame + l->l4 + 4);

		if (said >= 8 && said <= bytes)
			return said;
	}
	return bytes;
}

static void fill_l4_checksum(uint8_t *frame, const struct frame_layout *l)
{
	uint32_t bytes = l4_bytes(frame, l);
	uint8_t *at = frame + checksum_offset(l);
	uint16_t checksum;

	store_be16(at, 0);
	checksum = frame_fold(pseudo_sum(frame, l, bytes) + frame_sum(frame + l->l4, bytes));
	/* 0 means "no checksum" in UDP; both are zero in one's complement (RFC 768). */
	if (!checksum && l->l4_protocol == PROTOCOL_UDP)
		checksum = 0xFFFF;
	store_be16(at, checksum);
}

static bool can_segment(const struct frame_layout *l)
{
	return l->l4 && l->l4_protocol == PROTOCOL_TCP && l->payload <= FRAME_MAX_TCP_HEADERS;
}

static void fill_ip_length(uint8_t *frame, const struct frame_layout *l, uint32_t ip_bytes)
{
	if (l->ipv4)
		store_be16(frame + l->l3 + 2, (uint16_t)ip_bytes);
	else
		store_be16(frame + l->l3 + 4, (uint16_t)(ip_bytes - IPV6_HEADER_BYTES));
}

bool frame_finish(uint8_t *frame, size_t len, const struct frame_offload *offload)
{
	struct frame_layout l;
	bool gso = offload->gso_bytes;

	if (!frame_parse(frame, len, gso, &l))
		return false;
	if (gso && (!can_segment(&l) || l.end - l.l3 > UINT16_MAX))
		return false;
	if (gso)
		fill_ip_length(frame, &l, l.end - l.l3);
	if (l.ipv4 && (gso || offload->flags & FRAME_NEEDS_IP_CSUM))
		fill_ip_checksum(frame + l.l3);
	if (gso || offload->flags & FRAME_NEEDS_CSUM) {
		if (!l.l4)
			return false;
		fill_l4_checksum(frame, &l);
	}
	return true;
}

bool frame_checksum_ok(const uint8_t *frame, size_t len)
{
	struct frame_layout l;
	uint32_t bytes;

	if (!frame_parse(frame, len, false, &l) || !l.l4)
		return false;
	bytes = l4_bytes(frame, &l);
	if (l.l4_protocol == PROTOCOL_UDP && load_be16(frame + l.l4 + 6) == 0)
		return false;
	return frame_fold(pseudo_sum(frame, &l, bytes) + frame_sum(frame + l.l4, bytes)) == 0;
}

/* ---- segmentation ---- */

#define TCP_FIN 0x01
#define TCP_PSH 0x08
#define TCP_ACK 0x10
#define TCP_CWR 0x80

bool frame_segmenter_init(struct frame_segmenter *s, const uint8_t *frame, size_t len,
			  uint16_t segment_bytes)
{
	if (!segment_bytes || !frame_parse(frame, len, true, &s->layout) ||
	    !can_segment(&s->layout))
		return false;
	/* Each segment must be possible as an IP packet. */
	if (s->layout.payload - s->layout.l3 +
		MIN(segment_bytes, s->layout.end - s->layout.payload) >
	    UINT16_MAX)
		return false;
	s->frame = frame;
	s->segment_bytes = segment_bytes;
	s->position = s->layout.payload;
	s->headers_len = s->layout.payload;
	s->index = 0;
	return true;
}

unsigned frame_segmenter_count(const struct frame_segmenter *s)
{
	uint32_t payload = s->layout.end - s->layout.payload;

	return payload ? (payload + s->segment_bytes - 1) / s->segment_bytes : 1;
}

static void fill_segment_headers(struct frame_segmenter *s, bool last)
{
	const struct frame_layout *l = &s->layout;
	uint8_t *ip = s->headers + l->l3, *tcp = s->headers + l->l4;
	uint32_t l4 = (uint32_t)(l->payload - l->l4 + s->payload_len);

	memcpy(s->headers, s->frame, s->headers_len);
	fill_ip_length(s->headers, l, (uint32_t)(l->l4 - l->l3) + l4);
	if (l->ipv4) {
		store_be16(ip + 4, (uint16_t)(load_be16(ip + 4) + s->index));
		fill_ip_checksum(ip);
	}
	store_be32(tcp + 4, load_be32(tcp + 4) + (s->position - l->payload));
	if (!last)
		tcp[13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
	if (s->index)
		tcp[13] &= (uint8_t)~TCP_CWR;
	store_be16(tcp + 16, 0);
	store_be16(tcp + 16, frame_fold(pseudo_sum(s->headers, l, l4) +
					frame_sum(tcp, (size_t)(l->payload - l->l4)) +
					frame_sum(s->payload, s->payload_len)));
}

bool frame_segmenter_next(struct frame_segmenter *s)
{
	const struct frame_layout *l = &s->layout;

	if (s->index && s->position >= l->end)
		return false;
	s->payload = s->frame + s->position;
	s->payload_len = MIN(s->segment_bytes, l->end - s->position);
	fill_segment_headers(s, s->position + s->payload_len >= l->end);
	s->position += (uint32_t)s->payload_len;
	s->index++;
	return true;
}

/* ---- joining ---- */

/* A TCP segment with data and nothing unusual about it. */
static bool can_join(const uint8_t *frame, size_t len, const struct frame_layout *l)
{
	return can_segment(l) && l->end == len && l->payload < len && l->l3 == FRAME_HEADER_BYTES &&
	       l->l4 == l->l3 + (l->ipv4 ? 20 : IPV6_HEADER_BYTES) &&
	       (frame[l->l4 + 13] & ~TCP_PSH) == TCP_ACK;
}

/* Everything but lengths, identification, checksums, sequence number and the push flag. */
static bool same_headers(const uint8_t *a, const uint8_t *b, const struct frame_layout *l)
{
	const uint8_t *ip_a = a + l->l3, *ip_b = b + l->l3;
	const uint8_t *tcp_a = a + l->l4, *tcp_b = b + l->l4;
	size_t options = (size_t)(l->payload - l->l4) - 20;

	if (memcmp(a, b, FRAME_HEADER_BYTES) != 0)
		return false;
	if (l->ipv4 && (memcmp(ip_a, ip_b, 2) != 0 || memcmp(ip_a + 6, ip_b + 6, 4) != 0 ||
			memcmp(ip_a + 12, ip_b + 12, 8) != 0))
		return false;
	if (l->ipv6 && (memcmp(ip_a, ip_b, 4) != 0 || memcmp(ip_a + 6, ip_b + 6, 34) != 0))
		return false;
	return memcmp(tcp_a, tcp_b, 4) == 0 && memcmp(tcp_a + 8, tcp_b + 8, 5) == 0 &&
	       memcmp(tcp_a + 14, tcp_b + 14, 2) == 0 &&
	       memcmp(tcp_a + 18, tcp_b + 18, 2 + options) == 0;
}

bool frame_continues(const uint8_t *frame, size_t len, uint16_t gso_bytes, const uint8_t *next,
		     size_t next_len, size_t *ret_offset, uint16_t *ret_gso)
{
	struct frame_layout a, b;
	size_t payload, more;

	if (!frame_parse(frame, len, gso_bytes, &a) || !frame_parse(next, next_len, false, &b) ||
	    !can_join(frame, len, &a) || !can_join(next, next_len, &b) || a.l4 != b.l4 ||
	    a.payload != b.payload || a.ipv4 != b.ipv4 || !same_headers(frame, next, &a))
		return false;
	payload = len - a.payload;
	more = next_len - b.payload;
	if (load_be32(next + b.l4 + 4) != (uint32_t)(load_be32(frame + a.l4 + 4) + payload))
		return false;
	/* All segments but the last are of one size. */
	if (!gso_bytes && payload > UINT16_MAX)
		return false;
	if (!gso_bytes)
		gso_bytes = (uint16_t)payload;
	if (payload % gso_bytes || more > gso_bytes)
		return false;
	*ret_offset = b.payload;
	*ret_gso = gso_bytes;
	return true;
}

void frame_join_flags(uint8_t *frame, const uint8_t *next)
{
	/* can_join() admits these two header lengths only. */
	size_t tcp = FRAME_HEADER_BYTES +
		     (load_be16(frame + 12) == ETHERTYPE_IPV4 ? 20u : IPV6_HEADER_BYTES);

	frame[tcp + 13] |= next[tcp + 13] & TCP_PSH;
}

/* ---- receive side scaling ---- */

static uint32_t toeplitz(const uint8_t *input, size_t len, const uint8_t key[static 40])
{
	uint64_t window = load_be64(key);
	size_t next = 8;
	uint32_t hash = 0;

	for (size_t i = 0; i < len; i++) {
		for (int bit = 7; bit >= 0; bit--) {
			if (input[i] >> bit & 1)
				hash ^= (uint32_t)(window >> 32);
			window <<= 1;
		}
		if (next < 40)
			window |= key[next++];
	}
	return hash;
}

bool frame_rss_hash(const uint8_t *frame, const struct frame_layout *l, unsigned types,
		    const uint8_t key[static 40], uint32_t *ret)
{
	unsigned tcp_type = l->ipv4 ? FRAME_HASH_TCP_IPV4 : FRAME_HASH_TCP_IPV6;
	unsigned ip_type = l->ipv4 ? FRAME_HASH_IPV4 : FRAME_HASH_IPV6;
	size_t addresses = l->ipv4 ? 8 : 32;
	uint8_t input[36];

	if (!l->ipv4 && !l->ipv6)
		return false;
	memcpy(input, frame + l->l3 + (l->ipv4 ? 12 : 8), addresses);
	if (types & tcp_type && l->l4 && l->l4_protocol == PROTOCOL_TCP) {
		memcpy(input + addresses, frame + l->l4, 4);
		*ret = toeplitz(input, addresses + 4, key);
		return true;
	}
	if (!(types & ip_type))
		return false;
	*ret = toeplitz(input, addresses, key);
	return true;
}
