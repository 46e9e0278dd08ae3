/*
 * As much of IPv4 as a test needs, in user space: DHCP, ARP, echo, and one TCP connection at a
 * time. It goes over any link that carries Ethernet frames, checks every checksum of what it gets,
 * and gives up (false, or 0) after TINY_IP_TIMEOUT_MS without progress.
 */
#ifndef TESTS_TINY_IP_H
#define TESTS_TINY_IP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TINY_IP_TIMEOUT_MS  5000
#define TINY_IP_FRAME_BYTES 65600

struct tiny_ip_link {
	void *user;
	void (*send)(void *user, const uint8_t *frame, size_t len);
	/* Sends a large TCP frame with segments of that size; NULL: not possible. */
	void (*send_large)(void *user, const uint8_t *frame, size_t len, uint16_t segment_bytes);
	/* A frame into buf, or 0 after timeout_ms. */
	size_t (*receive)(void *user, uint8_t *buf, unsigned timeout_ms);
};

struct tiny_ip {
	struct tiny_ip_link link;
	uint8_t mac[6], gateway_mac[6];
	uint32_t address, netmask, gateway, nameserver; /* host byte order */
	unsigned bad_checksums;                         /* of received packets */
	unsigned largest;                               /* TCP payload received in one frame */
	uint16_t next_id, next_port;
	uint32_t next_sequence;
	/* the connection */
	uint32_t peer;
	uint16_t port, peer_port;
	uint32_t sent, acked, expected;
	bool finished; /* the peer sent FIN */
};

void tiny_ip_init(struct tiny_ip *ip, const struct tiny_ip_link *link, const uint8_t mac[6]);
/* Discover and request; then the gateway's MAC address by ARP. */
bool tiny_ip_configure(struct tiny_ip *ip);
bool tiny_ip_resolve(struct tiny_ip *ip, uint32_t address, uint8_t ret_mac[6]);
bool tiny_ip_ping(struct tiny_ip *ip, uint32_t address);

bool tiny_ip_connect(struct tiny_ip *ip, uint32_t address, uint16_t port);
/* Reads until the peer ends; byte i must be pattern(i). Returns the count, or -1 if one differs. */
int64_t tiny_ip_download(struct tiny_ip *ip, uint8_t (*pattern)(uint64_t i));
/* Sends count bytes of the pattern in frames of up to chunk bytes, and ends. */
bool tiny_ip_upload(struct tiny_ip *ip, uint64_t count, uint32_t chunk,
		    uint8_t (*pattern)(uint64_t i));

#endif
