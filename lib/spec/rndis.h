/*
 * RNDIS and NDIS: control requests, packet framing and offload objects of the network device
 * (MS-RNDIS 2.2; the NDIS objects are those of ntddndis). All fields little-endian and packed.
 *
 * Offsets in message bodies count from the byte after struct rndis_header.
 */
#ifndef SPEC_RNDIS_H
#define SPEC_RNDIS_H

#include <stdint.h>

#define RNDIS_PACKET       0x00000001u
#define RNDIS_INITIALIZE   0x00000002u
#define RNDIS_HALT         0x00000003u
#define RNDIS_QUERY        0x00000004u
#define RNDIS_SET          0x00000005u
#define RNDIS_RESET        0x00000006u
#define RNDIS_INDICATE     0x00000007u
#define RNDIS_KEEPALIVE    0x00000008u
#define RNDIS_COMPLETE     0x80000000u /* or'ed to the request's type */
#define RNDIS_HEADER_BYTES 8

#define RNDIS_STATUS_SUCCESS          0x00000000u
#define RNDIS_STATUS_FAILURE          0xC0000001u
#define RNDIS_STATUS_INVALID_DATA     0xC0010015u
#define RNDIS_STATUS_BUFFER_TOO_SHORT 0xC0010016u
#define RNDIS_STATUS_INVALID_LENGTH   0xC0010014u
#define RNDIS_STATUS_NOT_SUPPORTED    0xC00000BBu
#define RNDIS_STATUS_MEDIA_CONNECT    0x4001000Bu
#define RNDIS_STATUS_MEDIA_DISCONNECT 0x4001000Cu
#define RNDIS_STATUS_LINK_SPEED       0x40010013u
#define RNDIS_STATUS_NETWORK_CHANGE   0x40010018u

struct rndis_header {
	uint32_t type, bytes; /* of the whole message */
} __attribute__((packed));

struct rndis_packet {
	uint32_t data_offset, data_bytes;
	uint32_t oob_offset, oob_bytes, oob_count;
	uint32_t ppi_offset, ppi_bytes;
	uint32_t vc_handle, reserved;
} __attribute__((packed));

struct rndis_initialize {
	uint32_t request_id, major, minor, max_transfer_bytes;
} __attribute__((packed));

#define RNDIS_VERSION_MAJOR         1
#define RNDIS_DEVICE_CONNECTIONLESS 1
#define RNDIS_MEDIUM_802_3          0
struct rndis_initialize_complete {
	uint32_t request_id, status, major, minor, device_flags, medium, max_packets_per_message,
	    max_transfer_bytes, packet_alignment_log2, af_offset, af_bytes;
} __attribute__((packed));

/* QUERY and SET */
struct rndis_oid_request {
	uint32_t request_id, oid, bytes, offset, vc_handle;
} __attribute__((packed));

struct rndis_query_complete {
	uint32_t request_id, status, bytes, offset;
} __attribute__((packed));

/* SET, KEEPALIVE */
struct rndis_complete {
	uint32_t request_id, status;
} __attribute__((packed));

struct rndis_reset_complete {
	uint32_t status, addressing_reset;
} __attribute__((packed));

struct rndis_indicate {
	uint32_t status, bytes, offset;
} __attribute__((packed));

/* ---- object identifiers ---- */

#define OID_GEN_SUPPORTED_LIST                0x00010101u
#define OID_GEN_HARDWARE_STATUS               0x00010102u
#define OID_GEN_MEDIA_SUPPORTED               0x00010103u
#define OID_GEN_MEDIA_IN_USE                  0x00010104u
#define OID_GEN_MAXIMUM_LOOKAHEAD             0x00010105u
#define OID_GEN_MAXIMUM_FRAME_SIZE            0x00010106u
#define OID_GEN_LINK_SPEED                    0x00010107u /* in units of 100 bit/s */
#define OID_GEN_TRANSMIT_BUFFER_SPACE         0x00010108u
#define OID_GEN_RECEIVE_BUFFER_SPACE          0x00010109u
#define OID_GEN_TRANSMIT_BLOCK_SIZE           0x0001010Au
#define OID_GEN_RECEIVE_BLOCK_SIZE            0x0001010Bu
#define OID_GEN_VENDOR_ID                     0x0001010Cu
#define OID_GEN_VENDOR_DESCRIPTION            0x0001010Du
#define OID_GEN_CURRENT_PACKET_FILTER         0x0001010Eu
#define OID_GEN_CURRENT_LOOKAHEAD             0x0001010Fu
#define OID_GEN_DRIVER_VERSION                0x00010110u
#define OID_GEN_MAXIMUM_TOTAL_SIZE            0x00010111u
#define OID_GEN_MAC_OPTIONS                   0x00010113u
#define OID_GEN_MEDIA_CONNECT_STATUS          0x00010114u /* 0 connected, 1 disconnected */
#define OID_GEN_MAXIMUM_SEND_PACKETS          0x00010115u
#define OID_GEN_VENDOR_DRIVER_VERSION         0x00010116u
#define OID_GEN_NETWORK_LAYER_ADDRESSES       0x00010118u
#define OID_GEN_RECEIVE_SCALE_CAPABILITIES    0x00010203u
#define OID_GEN_RECEIVE_SCALE_PARAMETERS      0x00010204u
#define OID_GEN_STATISTICS                    0x00020106u
#define OID_GEN_FRIENDLY_NAME                 0x00020216u
#define OID_GEN_LINK_STATE                    0x00010207u
#define OID_GEN_RNDIS_CONFIG_PARAMETER        0x0001021Bu
#define OID_GEN_XMIT_OK                       0x00020101u
#define OID_GEN_RCV_OK                        0x00020102u
#define OID_GEN_XMIT_ERROR                    0x00020103u
#define OID_GEN_RCV_ERROR                     0x00020104u
#define OID_GEN_RCV_NO_BUFFER                 0x00020105u
#define OID_GEN_DIRECTED_BYTES_XMIT           0x00020201u
#define OID_GEN_DIRECTED_FRAMES_XMIT          0x00020202u
#define OID_GEN_MULTICAST_BYTES_XMIT          0x00020203u
#define OID_GEN_MULTICAST_FRAMES_XMIT         0x00020204u
#define OID_GEN_BROADCAST_BYTES_XMIT          0x00020205u
#define OID_GEN_BROADCAST_FRAMES_XMIT         0x00020206u
#define OID_GEN_DIRECTED_BYTES_RCV            0x00020207u
#define OID_GEN_DIRECTED_FRAMES_RCV           0x00020208u
#define OID_GEN_MULTICAST_BYTES_RCV           0x00020209u
#define OID_GEN_MULTICAST_FRAMES_RCV          0x0002020Au
#define OID_GEN_BROADCAST_BYTES_RCV           0x0002020Bu
#define OID_GEN_BROADCAST_FRAMES_RCV          0x0002020Cu
#define OID_GEN_RCV_CRC_ERROR                 0x0002020Du
#define OID_GEN_TRANSMIT_QUEUE_LENGTH         0x0002020Eu
#define OID_802_3_PERMANENT_ADDRESS           0x01010101u
#define OID_802_3_CURRENT_ADDRESS             0x01010102u
#define OID_802_3_MULTICAST_LIST              0x01010103u
#define OID_802_3_MAXIMUM_LIST_SIZE           0x01010104u
#define OID_802_3_MAC_OPTIONS                 0x01010105u
#define OID_802_3_RCV_ERROR_ALIGNMENT         0x01020101u
#define OID_802_3_XMIT_ONE_COLLISION          0x01020102u
#define OID_802_3_XMIT_MORE_COLLISIONS        0x01020103u
#define OID_TCP_OFFLOAD_CURRENT_CONFIG        0xFC01020Bu
#define OID_TCP_OFFLOAD_PARAMETERS            0xFC01020Cu
#define OID_TCP_OFFLOAD_HARDWARE_CAPABILITIES 0xFC01020Du
#define OID_OFFLOAD_ENCAPSULATION             0x0101010Au

#define NDIS_PACKET_DIRECTED      0x01u
#define NDIS_PACKET_MULTICAST     0x02u
#define NDIS_PACKET_ALL_MULTICAST 0x04u
#define NDIS_PACKET_BROADCAST     0x08u
#define NDIS_PACKET_PROMISCUOUS   0x20u

#define NDIS_MAC_OPTION_COPY_LOOKAHEAD_DATA 0x01u
#define NDIS_MAC_OPTION_TRANSFERS_NOT_PEND  0x04u
#define NDIS_MAC_OPTION_NO_LOOPBACK         0x08u
#define NDIS_MAC_OPTION_8021P_PRIORITY      0x40u
#define NDIS_MAC_OPTION_8021Q_VLAN          0x200u

/* ---- per-packet information ---- */

#define RNDIS_PPI_INTERNAL   0x80000000u
#define RNDIS_PPI_CHECKSUM   0u
#define RNDIS_PPI_LSO        2u
#define RNDIS_PPI_VLAN       6u
#define RNDIS_PPI_HASH_INFO  7u
#define RNDIS_PPI_HASH_VALUE 8u
#define RNDIS_PPI_RSC        (RNDIS_PPI_INTERNAL | 1u)
struct rndis_ppi {
	uint32_t bytes, type, data_offset; /* of the element with this header, from its start */
} __attribute__((packed));

#define PPI_CHECKSUM_TX_IPV4         0x01u
#define PPI_CHECKSUM_TX_IPV6         0x02u
#define PPI_CHECKSUM_TX_TCP          0x04u
#define PPI_CHECKSUM_TX_UDP          0x08u
#define PPI_CHECKSUM_TX_IP_HEADER    0x10u
#define PPI_CHECKSUM_TX_L4_OFFSET(v) (((v) >> 16) & 0x3FF)
#define PPI_CHECKSUM_RX_TCP_FAILED   0x01u
#define PPI_CHECKSUM_RX_UDP_FAILED   0x02u
#define PPI_CHECKSUM_RX_IP_FAILED    0x04u
#define PPI_CHECKSUM_RX_TCP_OK       0x08u
#define PPI_CHECKSUM_RX_UDP_OK       0x10u
#define PPI_CHECKSUM_RX_IP_OK        0x20u

#define PPI_LSO_MSS(v)       ((v)&0xFFFFF)
#define PPI_LSO_L4_OFFSET(v) (((v) >> 20) & 0x3FF)
#define PPI_LSO_V2           (UINT32_C(1) << 30)
#define PPI_LSO_IPV6         (UINT32_C(1) << 31)

#define PPI_VLAN_TCI(v)      ((uint16_t)((((v)&7) << 13) | (((v)&8) << 9) | (((v) >> 4) & 0xFFF)))
#define PPI_VLAN_FROM_TCI(t) (((t) >> 13) | (((t) >> 9) & 8) | (((uint32_t)(t)&0xFFF) << 4))

struct rndis_ppi_rsc {
	uint8_t version, flags;
	uint16_t packet_id;
} __attribute__((packed));
#define PPI_RSC_VERSION        1
#define PPI_RSC_SUBALLOCATION  0x01u
#define PPI_RSC_FIRST_FRAGMENT 0x02u
#define PPI_RSC_LAST_FRAGMENT  0x04u

/* ---- NDIS objects ---- */

struct ndis_object_header {
	uint8_t type, revision;
	uint16_t bytes;
} __attribute__((packed));

#define NDIS_OBJECT_DEFAULT        0x80
#define NDIS_OBJECT_RSS_CAPS       0x88
#define NDIS_OBJECT_RSS_PARAMETERS 0x89
#define NDIS_OBJECT_OFFLOAD        0xA7

#define NDIS_ENCAPSULATION_802_3 0x2u
#define NDIS_CSUM4_IP_OPTIONS    0x001u
#define NDIS_CSUM4_TCP_OPTIONS   0x004u
#define NDIS_CSUM4_TCP           0x010u
#define NDIS_CSUM4_UDP           0x040u
#define NDIS_CSUM4_IP            0x100u
#define NDIS_CSUM6_EXTENSIONS    0x001u
#define NDIS_CSUM6_TCP_OPTIONS   0x004u
#define NDIS_CSUM6_TCP           0x010u
#define NDIS_CSUM6_UDP           0x040u
#define NDIS_LSO6_EXTENSIONS     0x1u
#define NDIS_LSO6_TCP_OPTIONS    0x4u

struct ndis_offload {
	struct ndis_object_header header;
	struct {
		uint32_t ip4_tx_encap, ip4_tx, ip4_rx_encap, ip4_rx;
		uint32_t ip6_tx_encap, ip6_tx, ip6_rx_encap, ip6_rx;
	} __attribute__((packed)) checksum;
	uint32_t lso1[4], ipsec1[7];
	struct {
		uint32_t ip4_encap, ip4_max_bytes, ip4_min_segments;
		uint32_t ip6_encap, ip6_max_bytes, ip6_min_segments, ip6_options;
	} __attribute__((packed)) lso2;
	uint32_t flags;
	uint32_t ipsec2[8];       /* from revision 2 on */
	uint8_t rsc_ip4, rsc_ip6; /* from revision 3 on */
	uint8_t reserved[2];
	uint32_t encapsulated[2];
} __attribute__((packed));
#define NDIS_OFFLOAD_BYTES_1 112
#define NDIS_OFFLOAD_BYTES_2 144
#define NDIS_OFFLOAD_BYTES_3 156

/* Values of the byte fields below. */
#define NDIS_OFFLOAD_NO_CHANGE 0
#define NDIS_OFFLOAD_OFF       1
#define NDIS_OFFLOAD_TX        2 /* LSO and RSC: on */
#define NDIS_OFFLOAD_RX        3
#define NDIS_OFFLOAD_BOTH      4
struct ndis_offload_parameters {
	struct ndis_object_header header;
	uint8_t ip4, tcp4, udp4, tcp6, udp6, lso1, ipsec, lso2_ip4, lso2_ip6, tcp_connection_ip4,
	    tcp_connection_ip6;
	uint8_t pad;
	uint32_t flags;
	uint8_t ipsec2, ipsec2_ip4; /* from here on: revisions 2 and 3 */
	uint8_t rsc_ip4, rsc_ip6;
	uint8_t encapsulated[2];
	uint8_t pad2[2];
} __attribute__((packed));
#define NDIS_OFFLOAD_PARAMETERS_MIN_BYTES 20

#define NDIS_RSS_CAP_TOEPLITZ 0x00000001u
#define NDIS_RSS_CAP_IPV4     0x00000100u
#define NDIS_RSS_CAP_IPV6     0x00000200u
#define NDIS_RSS_CAP_IPV6_EX  0x00000400u
struct ndis_rss_caps {
	struct ndis_object_header header;
	uint32_t flags, interrupt_messages, receive_queues;
	uint16_t indirection_entries;
} __attribute__((packed));

#define NDIS_RSS_FLAG_HASH_INFO_UNCHANGED 0x0002u
#define NDIS_RSS_FLAG_TABLE_UNCHANGED     0x0004u
#define NDIS_RSS_FLAG_KEY_UNCHANGED       0x0008u
#define NDIS_RSS_FLAG_DISABLE             0x0010u
#define NDIS_HASH_TOEPLITZ                0x0001u
#define NDIS_HASH_IPV4                    0x0100u
#define NDIS_HASH_TCP_IPV4                0x0200u
#define NDIS_HASH_IPV6                    0x0400u
#define NDIS_HASH_IPV6_EX                 0x0800u
#define NDIS_HASH_TCP_IPV6                0x1000u
#define NDIS_HASH_TCP_IPV6_EX             0x2000u
#define NDIS_RSS_KEY_BYTES                40
#define NDIS_RSS_MAX_ENTRIES              128
struct ndis_rss_parameters {
	struct ndis_object_header header;
	uint16_t flags, base_cpu;
	uint32_t hash_info;
	uint16_t table_bytes, reserved;
	uint32_t table_offset;
	uint16_t key_bytes, reserved2;
	uint32_t key_offset;
} __attribute__((packed));

struct rndis_config_parameter {
	uint32_t name_offset, name_bytes, type, value_offset, value_bytes;
} __attribute__((packed));
#define RNDIS_CONFIG_STRING 2

_Static_assert(sizeof(struct rndis_packet) == 36, "RNDIS layout");
_Static_assert(sizeof(struct rndis_initialize_complete) == 44, "RNDIS layout");
_Static_assert(sizeof(struct ndis_offload) == NDIS_OFFLOAD_BYTES_3, "NDIS layout");
_Static_assert(sizeof(struct ndis_offload_parameters) == 28, "NDIS layout");
_Static_assert(sizeof(struct ndis_rss_caps) == 18, "NDIS layout");
_Static_assert(sizeof(struct ndis_rss_parameters) == 28, "NDIS layout");

#endif
