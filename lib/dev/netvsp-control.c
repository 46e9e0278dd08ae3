/* RNDIS control messages: requests of the guest, and what the host tells by itself. */
#include "dev/netvsp-impl.h"

#include "base/bytes.h"
#include "base/log.h"
#include "base/macros.h"

#include <stdlib.h>
#include <string.h>

#define MAX_INFO_BYTES 512

/* ---- responses ---- */

static bool append_response(struct netvsp *nic, struct netvsp_response *r, uint32_t bytes)
{
	if (!r)
		return false;
	r->next = NULL;
	r->bytes = bytes;
	*nic->responses_tail = r;
	nic->responses_tail = &r->next;
	nic->response_count++;
	return true;
}

bool netvsp_keep_response(struct netvsp *nic, const void *message, uint32_t bytes)
{
	struct netvsp_response *r = malloc(sizeof(*r) + bytes);

	if (r)
		memcpy(r->message, message, bytes);
	return append_response(nic, r, bytes);
}

static void queue_response(struct netvsp *nic, uint32_t type, const void *body, uint32_t body_bytes,
			   const void *data, uint32_t data_bytes)
{
	struct rndis_header header = { type, RNDIS_HEADER_BYTES + body_bytes + data_bytes };
	struct netvsp_response *r;

	if (nic->response_count == NETVSP_MAX_RESPONSES) {
		log_guest("network adapter '%s': RNDIS answers are not fetched", nic->name);
		return;
	}
	r = malloc(sizeof(*r) + header.bytes);
	if (!r)
		return;
	memcpy(r->message, &header, sizeof(header));
	memcpy(r->message + sizeof(header), body, body_bytes);
	if (data_bytes)
		memcpy(r->message + sizeof(header) + body_bytes, data, data_bytes);
	append_response(nic, r, header.bytes);
	netvsp_flush_responses(nic);
}

static void drop_first_response(struct netvsp *nic)
{
	struct netvsp_response *r = nic->responses;

	nic->responses = r->next;
	if (!nic->responses)
		nic->responses_tail = &nic->responses;
	nic->response_count--;
	free(r);
}

void netvsp_flush_responses(struct netvsp *nic)
{
	while (nic->responses &&
	       netvsp_receive_control(nic, nic->responses->message, nic->responses->bytes))
		drop_first_response(nic);
}

void netvsp_indicate(struct netvsp *nic, uint32_t status, const void *data, uint32_t bytes)
{
	struct rndis_indicate body = { .status = status, .bytes = bytes };

	if (!nic->rndis_ready)
		return;
	if (bytes)
		body.offset = sizeof(body);
	queue_response(nic, RNDIS_INDICATE, &body, sizeof(body), data, bytes);
}

void netvsp_indicate_link(struct netvsp *nic)
{
	bool up = netvsp_link_up(nic);
	uint32_t speed = htole32(NETVSP_LINK_SPEED_MBIT * 10000);

	if (!nic->rndis_ready || up == nic->link_told)
		return;
	nic->link_told = up;
	netvsp_indicate(nic, up ? RNDIS_STATUS_MEDIA_CONNECT : RNDIS_STATUS_MEDIA_DISCONNECT, NULL,
			0);
	if (up)
		netvsp_indicate(nic, RNDIS_STATUS_LINK_SPEED, &speed, sizeof(speed));
}

/* ---- queries: each fills at most MAX_INFO_BYTES and returns how many, or -1: not supported ----
 */

static int info_u32(uint8_t *ret, uint32_t value)
{
	store_le32(ret, value);
	return 4;
}

static int info_counter(uint8_t *ret, uint64_t value)
{
	return info_u32(ret, (uint32_t)value);
}

static uint64_t all_frames(const struct netvsp_counters counters[static NETVSP_CASTS])
{
	return counters[NETVSP_DIRECTED].frames + counters[NETVSP_MULTICAST].frames +
	       counters[NETVSP_BROADCAST].frames;
}

static uint64_t all_bytes(const struct netvsp_counters counters[static NETVSP_CASTS])
{
	return counters[NETVSP_DIRECTED].bytes + counters[NETVSP_MULTICAST].bytes +
	       counters[NETVSP_BROADCAST].bytes;
}

/* NDIS_STATISTICS_INFO: a header, the mask of what is there, and the counters. */
static int info_statistics(const struct netvsp *nic, uint8_t *ret)
{
	const struct netvsp_stats *s = &nic->stats;
	const uint64_t values[] = {
		s->received_no_buffer,
		s->received_errors,
		all_bytes(s->received),
		s->received[NETVSP_DIRECTED].frames,
		s->received[NETVSP_MULTICAST].frames,
		s->received[NETVSP_BROADCAST].frames,
		all_bytes(s->sent),
		s->sent[NETVSP_DIRECTED].frames,
		s->sent[NETVSP_MULTICAST].frames,
		s->sent[NETVSP_BROADCAST].frames,
		s->sent_errors,
		s->sent_dropped,
		s->received[NETVSP_DIRECTED].bytes,
		s->received[NETVSP_MULTICAST].bytes,
		s->received[NETVSP_BROADCAST].bytes,
		s->sent[NETVSP_DIRECTED].bytes,
		s->sent[NETVSP_MULTICAST].bytes,
		s->sent[NETVSP_BROADCAST].bytes,
	};
	int len = 8 + (int)sizeof(values);

	memset(ret, 0, (size_t)len);
	ret[0] = NDIS_OBJECT_DEFAULT;
	ret[1] = 1;
	store_le16(ret + 2, (uint16_t)len);
	store_le32(ret + 4, (UINT32_C(1) << ARRAY_SIZE(values)) - 1);
	for (unsigned i = 0; i < ARRAY_SIZE(values); i++)
		store_le64(ret + 8 + i * 8, values[i]);
	return len;
}

static int info_name(const struct netvsp *nic, uint8_t *ret)
{
	size_t len = strlen(nic->name);

	/* UTF-16; what is not ASCII in the configuration's UTF-8 is shown as '?' */
	for (size_t i = 0; i < len; i++)
		store_le16(ret + i * 2, (uint8_t)nic->name[i] < 0x80 ? (uint8_t)nic->name[i] : '?');
	return (int)len * 2;
}

static void fill_offload(struct ndis_offload *o, bool rsc)
{
	o->checksum.ip4_tx_encap = o->checksum.ip4_rx_encap = NDIS_ENCAPSULATION_802_3;
	o->checksum.ip6_tx_encap = o->checksum.ip6_rx_encap = NDIS_ENCAPSULATION_802_3;
	o->checksum.ip4_tx = o->checksum.ip4_rx = NDIS_CSUM4_IP_OPTIONS | NDIS_CSUM4_TCP_OPTIONS |
						  NDIS_CSUM4_TCP | NDIS_CSUM4_UDP | NDIS_CSUM4_IP;
	o->checksum.ip6_tx = o->checksum.ip6_rx =
	    NDIS_CSUM6_EXTENSIONS | NDIS_CSUM6_TCP_OPTIONS | NDIS_CSUM6_TCP | NDIS_CSUM6_UDP;
	o->lso2.ip4_encap = o->lso2.ip6_encap = NDIS_ENCAPSULATION_802_3;
	o->lso2.ip4_max_bytes = o->lso2.ip6_max_bytes = NETVSP_MAX_LSO_BYTES;
	o->lso2.ip4_min_segments = o->lso2.ip6_min_segments = 2;
	o->lso2.ip6_options = NDIS_LSO6_EXTENSIONS | NDIS_LSO6_TCP_OPTIONS;
	o->rsc_ip4 = o->rsc_ip6 = rsc;
}

static bool can_rsc(const struct netvsp *nic)
{
	return nic->version >= NVSP_VERSION_6_1 && nic->capabilities & NVSP_CAPABILITY_RSC;
}

static int info_offload(const struct netvsp *nic, uint8_t *ret)
{
	struct ndis_offload o = { .header = { NDIS_OBJECT_OFFLOAD, 3, NDIS_OFFLOAD_BYTES_3 } };

	if (nic->version < NVSP_VERSION_4)
		o.header =
		    (struct ndis_object_header){ NDIS_OBJECT_OFFLOAD, 1, NDIS_OFFLOAD_BYTES_1 };
	else if (nic->version < NVSP_VERSION_5)
		o.header =
		    (struct ndis_object_header){ NDIS_OBJECT_OFFLOAD, 2, NDIS_OFFLOAD_BYTES_2 };
	fill_offload(&o, can_rsc(nic));
	memcpy(ret, &o, o.header.bytes);
	return o.header.bytes;
}

static int info_rss_caps(const struct netvsp *nic, uint8_t *ret)
{
	struct ndis_rss_caps caps = {
		.header = { NDIS_OBJECT_RSS_CAPS, 2, sizeof(caps) },
		.flags = NDIS_RSS_CAP_TOEPLITZ | NDIS_RSS_CAP_IPV4 | NDIS_RSS_CAP_IPV6,
		.interrupt_messages = nic->max_queues,
		.receive_queues = nic->max_queues,
		.indirection_entries = NDIS_RSS_MAX_ENTRIES,
	};

	if (nic->version < NVSP_VERSION_5)
		return -1;
	memcpy(ret, &caps, sizeof(caps));
	return sizeof(caps);
}

static const uint32_t supported_oids[] = {
	OID_GEN_SUPPORTED_LIST,
	OID_GEN_HARDWARE_STATUS,
	OID_GEN_MEDIA_SUPPORTED,
	OID_GEN_MEDIA_IN_USE,
	OID_GEN_MAXIMUM_LOOKAHEAD,
	OID_GEN_MAXIMUM_FRAME_SIZE,
	OID_GEN_LINK_SPEED,
	OID_GEN_TRANSMIT_BUFFER_SPACE,
	OID_GEN_RECEIVE_BUFFER_SPACE,
	OID_GEN_TRANSMIT_BLOCK_SIZE,
	OID_GEN_RECEIVE_BLOCK_SIZE,
	OID_GEN_VENDOR_ID,
	OID_GEN_VENDOR_DESCRIPTION,
	OID_GEN_CURRENT_PACKET_FILTER,
	OID_GEN_CURRENT_LOOKAHEAD,
	OID_GEN_DRIVER_VERSION,
	OID_GEN_MAXIMUM_TOTAL_SIZE,
	OID_GEN_MAC_OPTIONS,
	OID_GEN_MEDIA_CONNECT_STATUS,
	OID_GEN_MAXIMUM_SEND_PACKETS,
	OID_GEN_VENDOR_DRIVER_VERSION,
	OID_GEN_RECEIVE_SCALE_CAPABILITIES,
	OID_GEN_RECEIVE_SCALE_PARAMETERS,
	OID_GEN_STATISTICS,
	OID_GEN_FRIENDLY_NAME,
	OID_GEN_RNDIS_CONFIG_PARAMETER,
	OID_GEN_XMIT_OK,
	OID_GEN_RCV_OK,
	OID_GEN_XMIT_ERROR,
	OID_GEN_RCV_ERROR,
	OID_GEN_RCV_NO_BUFFER,
	OID_GEN_DIRECTED_BYTES_XMIT,
	OID_GEN_DIRECTED_FRAMES_XMIT,
	OID_GEN_MULTICAST_BYTES_XMIT,
	OID_GEN_MULTICAST_FRAMES_XMIT,
	OID_GEN_BROADCAST_BYTES_XMIT,
	OID_GEN_BROADCAST_FRAMES_XMIT,
	OID_GEN_DIRECTED_BYTES_RCV,
	OID_GEN_DIRECTED_FRAMES_RCV,
	OID_GEN_MULTICAST_BYTES_RCV,
	OID_GEN_MULTICAST_FRAMES_RCV,
	OID_GEN_BROADCAST_BYTES_RCV,
	OID_GEN_BROADCAST_FRAMES_RCV,
	OID_GEN_RCV_CRC_ERROR,
	OID_GEN_TRANSMIT_QUEUE_LENGTH,
	OID_802_3_PERMANENT_ADDRESS,
	OID_802_3_CURRENT_ADDRESS,
	OID_802_3_MULTICAST_LIST,
	OID_802_3_MAXIMUM_LIST_SIZE,
	OID_802_3_MAC_OPTIONS,
	OID_802_3_RCV_ERROR_ALIGNMENT,
	OID_802_3_XMIT_ONE_COLLISION,
	OID_802_3_XMIT_MORE_COLLISIONS,
	OID_TCP_OFFLOAD_PARAMETERS,
	OID_TCP_OFFLOAD_HARDWARE_CAPABILITIES,
};
_Static_assert(sizeof(supported_oids) <= MAX_INFO_BYTES, "fits an answer");

static int info_supported(uint8_t *ret)
{
	for (unsigned i = 0; i < ARRAY_SIZE(supported_oids); i++)
		store_le32(ret + i * 4, supported_oids[i]);
	return (int)sizeof(supported_oids);
}

static int info_multicast_list(const struct netvsp *nic, uint8_t *ret)
{
	memcpy(ret, nic->multicast, nic->multicast_count * 6);
	return (int)nic->multicast_count * 6;
}

static int info_bytes(uint8_t *ret, const void *bytes, unsigned len)
{
	memcpy(ret, bytes, len);
	return (int)len;
}

static int query_counter(const struct netvsp_stats *s, uint32_t oid, uint8_t *ret)
{
	switch (oid) {
	case OID_GEN_XMIT_OK:
		return info_counter(ret, all_frames(s->sent));
	case OID_GEN_RCV_OK:
		return info_counter(ret, all_frames(s->received));
	case OID_GEN_XMIT_ERROR:
		return info_counter(ret, s->sent_errors);
	case OID_GEN_RCV_ERROR:
		return info_counter(ret, s->received_errors);
	case OID_GEN_RCV_NO_BUFFER:
		return info_counter(ret, s->received_no_buffer);
	case OID_GEN_DIRECTED_BYTES_XMIT:
		return info_counter(ret, s->sent[NETVSP_DIRECTED].bytes);
	case OID_GEN_DIRECTED_FRAMES_XMIT:
		return info_counter(ret, s->sent[NETVSP_DIRECTED].frames);
	case OID_GEN_MULTICAST_BYTES_XMIT:
		return info_counter(ret, s->sent[NETVSP_MULTICAST].bytes);
	case OID_GEN_MULTICAST_FRAMES_XMIT:
		return info_counter(ret, s->sent[NETVSP_MULTICAST].frames);
	case OID_GEN_BROADCAST_BYTES_XMIT:
		return info_counter(ret, s->sent[NETVSP_BROADCAST].bytes);
	case OID_GEN_BROADCAST_FRAMES_XMIT:
		return info_counter(ret, s->sent[NETVSP_BROADCAST].frames);
	case OID_GEN_DIRECTED_BYTES_RCV:
		return info_counter(ret, s->received[NETVSP_DIRECTED].bytes);
	case OID_GEN_DIRECTED_FRAMES_RCV:
		return info_counter(ret, s->received[NETVSP_DIRECTED].frames);
	case OID_GEN_MULTICAST_BYTES_RCV:
		return info_counter(ret, s->received[NETVSP_MULTICAST].bytes);
	case OID_GEN_MULTICAST_FRAMES_RCV:
		return info_counter(ret, s->received[NETVSP_MULTICAST].frames);
	case OID_GEN_BROADCAST_BYTES_RCV:
		return info_counter(ret, s->received[NETVSP_BROADCAST].bytes);
	case OID_GEN_BROADCAST_FRAMES_RCV:
		return info_counter(ret, s->received[NETVSP_BROADCAST].frames);
	case OID_GEN_RCV_CRC_ERROR:
	case OID_GEN_TRANSMIT_QUEUE_LENGTH:
	case OID_802_3_RCV_ERROR_ALIGNMENT:
	case OID_802_3_XMIT_ONE_COLLISION:
	case OID_802_3_XMIT_MORE_COLLISIONS:
		return info_u32(ret, 0);
	default:
		return -1;
	}
}

static int query_info(struct netvsp *nic, uint32_t oid, uint8_t *ret)
{
	switch (oid) {
	case OID_GEN_SUPPORTED_LIST:
		return info_supported(ret);
	case OID_GEN_HARDWARE_STATUS: /* ready */
	case OID_GEN_MEDIA_SUPPORTED: /* 802.3 */
	case OID_GEN_MEDIA_IN_USE:
	case OID_802_3_MAC_OPTIONS:
		return info_u32(ret, 0);
	case OID_GEN_MAXIMUM_LOOKAHEAD:
	case OID_GEN_CURRENT_LOOKAHEAD:
	case OID_GEN_MAXIMUM_FRAME_SIZE:
		return info_u32(ret, nic->mtu);
	case OID_GEN_MAXIMUM_TOTAL_SIZE:
	case OID_GEN_TRANSMIT_BLOCK_SIZE:
	case OID_GEN_RECEIVE_BLOCK_SIZE:
		return info_u32(ret, nic->mtu + FRAME_HEADER_BYTES);
	case OID_GEN_LINK_SPEED:
		return info_u32(ret, NETVSP_LINK_SPEED_MBIT * 10000);
	case OID_GEN_TRANSMIT_BUFFER_SPACE:
		return info_u32(ret, nic->send.section_bytes * nic->send.section_count);
	case OID_GEN_RECEIVE_BUFFER_SPACE:
		return info_u32(ret, nic->receive.section_bytes * nic->receive.section_count);
	case OID_GEN_VENDOR_ID:
		return info_u32(ret, 0xFFFFFF); /* none assigned */
	case OID_GEN_VENDOR_DESCRIPTION:
		return info_bytes(ret, "Hyper-V Network Adapter", 24);
	case OID_GEN_DRIVER_VERSION:
		return info_bytes(ret, "\x1e\x06", 2); /* NDIS 6.30 */
	case OID_GEN_VENDOR_DRIVER_VERSION:
		return info_u32(ret, 0x00010000);
	case OID_GEN_CURRENT_PACKET_FILTER:
		return info_u32(ret, nic->packet_filter);
	case OID_GEN_MAC_OPTIONS:
		return info_u32(
		    ret, NDIS_MAC_OPTION_COPY_LOOKAHEAD_DATA | NDIS_MAC_OPTION_TRANSFERS_NOT_PEND |
			     NDIS_MAC_OPTION_NO_LOOPBACK | NDIS_MAC_OPTION_8021P_PRIORITY |
			     NDIS_MAC_OPTION_8021Q_VLAN);
	case OID_GEN_MEDIA_CONNECT_STATUS:
		nic->link_told = netvsp_link_up(nic);
		return info_u32(ret, nic->link_told ? 0 : 1);
	case OID_GEN_MAXIMUM_SEND_PACKETS:
		return info_u32(ret, NETVSP_MESSAGES_PER_PACKET);
	case OID_GEN_STATISTICS:
		return info_statistics(nic, ret);
	case OID_GEN_FRIENDLY_NAME:
		return info_name(nic, ret);
	case OID_802_3_PERMANENT_ADDRESS:
		return info_bytes(ret, nic->permanent_mac, 6);
	case OID_802_3_CURRENT_ADDRESS:
		return info_bytes(ret, nic->mac, 6);
	case OID_802_3_MULTICAST_LIST:
		return info_multicast_list(nic, ret);
	case OID_802_3_MAXIMUM_LIST_SIZE:
		return info_u32(ret, NETVSP_MAX_MULTICAST);
	case OID_TCP_OFFLOAD_HARDWARE_CAPABILITIES:
		return info_offload(nic, ret);
	case OID_GEN_RECEIVE_SCALE_CAPABILITIES:
		return info_rss_caps(nic, ret);
	default:
		return query_counter(&nic->stats, oid, ret);
	}
}

/* ---- settings: each returns an RNDIS status ---- */

static uint32_t set_packet_filter(struct netvsp *nic, const uint8_t *data, uint32_t bytes)
{
	if (bytes < 4)
		return RNDIS_STATUS_INVALID_LENGTH;
	nic->packet_filter = load_le32(data);
	return RNDIS_STATUS_SUCCESS;
}

static uint32_t set_multicast_list(struct netvsp *nic, const uint8_t *data, uint32_t bytes)
{
	if (bytes % 6)
		return RNDIS_STATUS_INVALID_LENGTH;
	if (bytes / 6 > NETVSP_MAX_MULTICAST)
		return RNDIS_STATUS_FAILURE;
	memcpy(nic->multicast, data, bytes);
	nic->multicast_count = bytes / 6;
	return RNDIS_STATUS_SUCCESS;
}

static void set_both(uint8_t value, bool *tx, bool *rx)
{
	if (value == NDIS_OFFLOAD_NO_CHANGE || value > NDIS_OFFLOAD_BOTH)
		return;
	*tx = value == NDIS_OFFLOAD_TX || value == NDIS_OFFLOAD_BOTH;
	*rx = value == NDIS_OFFLOAD_RX || value == NDIS_OFFLOAD_BOTH;
}

static void set_one(uint8_t value, bool *on)
{
	if (value != NDIS_OFFLOAD_NO_CHANGE)
		*on = value == NDIS_OFFLOAD_TX;
}

static uint32_t set_offload_parameters(struct netvsp *nic, const uint8_t *data, uint32_t bytes)
{
	struct netvsp_offloads *o = &nic->offloads;
	struct ndis_offload_parameters p = { 0 };

	if (bytes < NDIS_OFFLOAD_PARAMETERS_MIN_BYTES)
		return RNDIS_STATUS_INVALID_LENGTH;
	memcpy(&p, data, MIN(bytes, sizeof(p)));
	if (p.header.type != NDIS_OBJECT_DEFAULT)
		return RNDIS_STATUS_INVALID_DATA;
	set_both(p.ip4, &o->tx_ip4, &o->rx_ip4);
	set_both(p.tcp4, &o->tx_tcp4, &o->rx_tcp4);
	set_both(p.udp4, &o->tx_udp4, &o->rx_udp4);
	set_both(p.tcp6, &o->tx_tcp6, &o->rx_tcp6);
	set_both(p.udp6, &o->tx_udp6, &o->rx_udp6);
	set_one(p.lso2_ip4, &o->lso4);
	set_one(p.lso2_ip6, &o->lso6);
	if (can_rsc(nic)) {
		set_one(p.rsc_ip4, &o->rsc4);
		set_one(p.rsc_ip6, &o->rsc6);
	}
	return RNDIS_STATUS_SUCCESS;
}

static unsigned hash_types(uint32_t hash_info)
{
	unsigned types = 0;

	if (hash_info & NDIS_HASH_IPV4)
		types |= FRAME_HASH_IPV4;
	if (hash_info & NDIS_HASH_TCP_IPV4)
		types |= FRAME_HASH_TCP_IPV4;
	if (hash_info & (NDIS_HASH_IPV6 | NDIS_HASH_IPV6_EX))
		types |= FRAME_HASH_IPV6;
	if (hash_info & (NDIS_HASH_TCP_IPV6 | NDIS_HASH_TCP_IPV6_EX))
		types |= FRAME_HASH_TCP_IPV6;
	return types;
}

/* Reads the indirection table of u32 queue numbers. */
static bool set_rss_table(struct netvsp_rss *rss, const struct ndis_rss_parameters *p,
			  const uint8_t *data, uint32_t bytes)
{
	unsigned entries = p->table_bytes / 4;

	if (!RANGE_OK(p->table_offset, p->table_bytes, bytes) || !entries ||
	    entries > NDIS_RSS_MAX_ENTRIES)
		return false;
	for (unsigned i = 0; i < entries; i++) {
		uint32_t queue = load_le32(data + p->table_offset + i * 4);

		if (queue >= NETVSP_MAX_QUEUES)
			return false;
		rss->table[i] = (uint8_t)queue;
	}
	rss->entries = entries;
	return true;
}

static bool set_rss_key(struct netvsp_rss *rss, const struct ndis_rss_parameters *p,
			const uint8_t *data, uint32_t bytes)
{
	if (!RANGE_OK(p->key_offset, p->key_bytes, bytes) || p->key_bytes != sizeof(rss->key))
		return false;
	memcpy(rss->key, data + p->key_offset, sizeof(rss->key));
	return true;
}

static uint32_t set_rss_parameters(struct netvsp *nic, const uint8_t *data, uint32_t bytes)
{
	struct netvsp_rss rss = nic->rss;
	struct ndis_rss_parameters p;

	if (nic->version < NVSP_VERSION_5)
		return RNDIS_STATUS_NOT_SUPPORTED;
	if (bytes < sizeof(p))
		return RNDIS_STATUS_INVALID_LENGTH;
	memcpy(&p, data, sizeof(p));
	if (p.header.type != NDIS_OBJECT_RSS_PARAMETERS)
		return RNDIS_STATUS_INVALID_DATA;
	if (!(p.flags & NDIS_RSS_FLAG_HASH_INFO_UNCHANGED))
		rss.hash_types = p.hash_info & NDIS_HASH_TOEPLITZ ? hash_types(p.hash_info) : 0;
	if (p.flags & NDIS_RSS_FLAG_DISABLE || !rss.hash_types) {
		nic->rss.enabled = false;
		return RNDIS_STATUS_SUCCESS;
	}
	if (!(p.flags & NDIS_RSS_FLAG_TABLE_UNCHANGED) && !set_rss_table(&rss, &p, data, bytes))
		return RNDIS_STATUS_INVALID_DATA;
	if (!(p.flags & NDIS_RSS_FLAG_KEY_UNCHANGED) && !set_rss_key(&rss, &p, data, bytes))
		return RNDIS_STATUS_INVALID_DATA;
	rss.enabled = true;
	nic->rss = rss;
	return RNDIS_STATUS_SUCCESS;
}

static bool parse_hex_digit(uint16_t c, uint8_t *ret)
{
	if (c >= '0' && c <= '9')
		*ret = (uint8_t)(c - '0');
	else if (c >= 'a' && c <= 'f')
		*ret = (uint8_t)(c - 'a' + 10);
	else if (c >= 'A' && c <= 'F')
		*ret = (uint8_t)(c - 'A' + 10);
	else
		return false;
	return true;
}

/* Twelve hexadecimal digits in UTF-16. */
static bool parse_mac(const uint8_t *text, uint32_t bytes, uint8_t ret[6])
{
	if (bytes < 24)
		return false;
	for (unsigned i = 0; i < 6; i++) {
		uint8_t high, low;

		if (!parse_hex_digit(load_le16(text + i * 4), &high) ||
		    !parse_hex_digit(load_le16(text + i * 4 + 2), &low))
			return false;
		ret[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

static uint32_t set_config_parameter(struct netvsp *nic, const uint8_t *data, uint32_t bytes)
{
	static const char wanted[] = "NetworkAddress";
	struct rndis_config_parameter p;
	uint8_t mac[6];

	if (bytes < sizeof(p))
		return RNDIS_STATUS_INVALID_LENGTH;
	memcpy(&p, data, sizeof(p));
	if (!RANGE_OK(p.name_offset, p.name_bytes, bytes) ||
	    !RANGE_OK(p.value_offset, p.value_bytes, bytes))
		return RNDIS_STATUS_INVALID_DATA;
	if (p.name_bytes < 2 * (sizeof(wanted) - 1))
		return RNDIS_STATUS_NOT_SUPPORTED;
	for (unsigned i = 0; i < sizeof(wanted) - 1; i++)
		if (load_le16(data + p.name_offset + i * 2) != (uint8_t)wanted[i])
			return RNDIS_STATUS_NOT_SUPPORTED;
	if (p.type != RNDIS_CONFIG_STRING ||
	    !parse_mac(data + p.value_offset, p.value_bytes, mac) || mac[0] & 1)
		return RNDIS_STATUS_INVALID_DATA;
	if (!nic->mac_change && memcmp(mac, nic->permanent_mac, sizeof(mac)) != 0)
		return RNDIS_STATUS_NOT_SUPPORTED;
	memcpy(nic->mac, mac, sizeof(mac));
	return RNDIS_STATUS_SUCCESS;
}

static uint32_t set_info(struct netvsp *nic, uint32_t oid, const uint8_t *data, uint32_t bytes)
{
	switch (oid) {
	case OID_GEN_CURRENT_PACKET_FILTER:
		return set_packet_filter(nic, data, bytes);
	case OID_802_3_MULTICAST_LIST:
		return set_multicast_list(nic, data, bytes);
	case OID_TCP_OFFLOAD_PARAMETERS:
		return set_offload_parameters(nic, data, bytes);
	case OID_GEN_RECEIVE_SCALE_PARAMETERS:
		return set_rss_parameters(nic, data, bytes);
	case OID_GEN_RNDIS_CONFIG_PARAMETER:
		return set_config_parameter(nic, data, bytes);
	case OID_GEN_CURRENT_LOOKAHEAD:
	case OID_GEN_NETWORK_LAYER_ADDRESSES:
		return RNDIS_STATUS_SUCCESS; /* a hint that changes nothing here */
	default:
		return RNDIS_STATUS_NOT_SUPPORTED;
	}
}

/* ---- requests ---- */

/* body: what follows the header, bytes long. */

static void on_initialize(struct netvsp *nic, const uint8_t *body, uint32_t bytes)
{
	struct rndis_initialize_complete reply = {
		.status = RNDIS_STATUS_SUCCESS,
		.major = RNDIS_VERSION_MAJOR,
		.device_flags = RNDIS_DEVICE_CONNECTIONLESS,
		.medium = RNDIS_MEDIUM_802_3,
		.max_packets_per_message = NETVSP_MESSAGES_PER_PACKET,
		.max_transfer_bytes = 0x4000,
		.packet_alignment_log2 = 3,
	};
	struct rndis_initialize request = { 0 };

	memcpy(&request, body, MIN(bytes, sizeof(request)));
	reply.request_id = request.request_id;
	if (bytes < sizeof(request) || request.major != RNDIS_VERSION_MAJOR) {
		reply.status = RNDIS_STATUS_FAILURE;
	} else {
		nic->rndis_ready = true;
		nic->link_told = netvsp_link_up(nic);
	}
	queue_response(nic, RNDIS_INITIALIZE | RNDIS_COMPLETE, &reply, sizeof(reply), NULL, 0);
}

static void on_query(struct netvsp *nic, const uint8_t *body, uint32_t bytes)
{
	struct rndis_query_complete reply = { .status = RNDIS_STATUS_NOT_SUPPORTED };
	struct rndis_oid_request request = { 0 };
	uint8_t info[MAX_INFO_BYTES];
	int len = -1;

	memcpy(&request, body, MIN(bytes, sizeof(request)));
	reply.request_id = request.request_id;
	if (nic->rndis_ready && bytes >= sizeof(request))
		len = query_info(nic, request.oid, info);
	/* A failure has no data and no offset: Linux looks at these, not at the status. */
	if (len >= 0) {
		reply.status = RNDIS_STATUS_SUCCESS;
		reply.bytes = (uint32_t)len;
		reply.offset = sizeof(reply);
	}
	queue_response(nic, RNDIS_QUERY | RNDIS_COMPLETE, &reply, sizeof(reply), info, reply.bytes);
}

static void on_set(struct netvsp *nic, const uint8_t *body, uint32_t bytes)
{
	struct rndis_complete reply = { .status = RNDIS_STATUS_INVALID_DATA };
	struct rndis_oid_request request = { 0 };

	memcpy(&request, body, MIN(bytes, sizeof(request)));
	reply.request_id = request.request_id;
	if (nic->rndis_ready && bytes >= sizeof(request) &&
	    RANGE_OK(request.offset, request.bytes, bytes))
		reply.status = set_info(nic, request.oid, body + request.offset, request.bytes);
	queue_response(nic, RNDIS_SET | RNDIS_COMPLETE, &reply, sizeof(reply), NULL, 0);
}

static void on_reset(struct netvsp *nic)
{
	struct rndis_reset_complete reply = { RNDIS_STATUS_SUCCESS, 1 };

	nic->packet_filter = 0;
	nic->multicast_count = 0;
	queue_response(nic, RNDIS_RESET | RNDIS_COMPLETE, &reply, sizeof(reply), NULL, 0);
}

static void on_keepalive(struct netvsp *nic, const uint8_t *body, uint32_t bytes)
{
	struct rndis_complete reply = { .status = RNDIS_STATUS_SUCCESS };

	if (bytes >= 4)
		reply.request_id = load_le32(body);
	queue_response(nic, RNDIS_KEEPALIVE | RNDIS_COMPLETE, &reply, sizeof(reply), NULL, 0);
}

bool netvsp_control(struct netvsp *nic, const uint8_t *message, uint32_t bytes)
{
	struct rndis_header header;
	const uint8_t *body = message + sizeof(header);

	if (bytes < sizeof(header))
		return false;
	memcpy(&header, message, sizeof(header));
	if (header.bytes < sizeof(header) || header.bytes > bytes)
		return false;
	bytes = header.bytes - (uint32_t)sizeof(header);
	switch (header.type) {
	case RNDIS_INITIALIZE:
		on_initialize(nic, body, bytes);
		return true;
	case RNDIS_HALT:
		netvsp_control_reset(nic);
		return true;
	case RNDIS_QUERY:
		on_query(nic, body, bytes);
		return true;
	case RNDIS_SET:
		on_set(nic, body, bytes);
		return true;
	case RNDIS_RESET:
		on_reset(nic);
		return true;
	case RNDIS_KEEPALIVE:
		on_keepalive(nic, body, bytes);
		return true;
	default:
		return false;
	}
}

/* As before INITIALIZE. */
void netvsp_control_reset(struct netvsp *nic)
{
	if (!nic->responses_tail)
		nic->responses_tail = &nic->responses;
	while (nic->responses)
		drop_first_response(nic);
	nic->rndis_ready = false;
	nic->packet_filter = 0;
	nic->multicast_count = 0;
	memcpy(nic->mac, nic->permanent_mac, sizeof(nic->mac));
	nic->offloads = (struct netvsp_offloads){ 0 };
	nic->rss = (struct netvsp_rss){ 0 };
}
