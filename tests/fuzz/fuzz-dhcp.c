/* DHCP clients' messages to the server of a NAT switch. Input: {u16 length, frame} ... */
#include "base/bytes.h"
#include "base/clock.h"
#include "base/macros.h"
#include "net/dhcp.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_answer(const uint8_t *frame, size_t len)
{
	struct frame_layout l;

	if (len > DHCP_REPLY_BYTES || !frame_parse(frame, len, false, &l) || l.end != len ||
	    !l.l4 || !frame_checksum_ok(frame, len))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct dhcp_config config = { .server = 0x0A000001,
				      .netmask = 0xFFFFFFF0,
				      .nameserver = 0x0A000002,
				      .first = 0x0A000003,
				      .last = 0x0A00000E,
				      .domain = "example.org" };
	uint8_t answer[DHCP_REPLY_BYTES];
	uint64_t now = 0;
	struct dhcp *dhcp;

	if (dhcp_new(&config, &dhcp, NULL) < 0)
		abort();
	while (size >= 2) {
		size_t len = MIN(load_le16(data) & 0x7FFF, size - 2), n;
		uint8_t *frame = malloc(len ? len : 1);

		/* Now and then a lease's time passes. */
		now += load_le16(data) & 0x8000 ? DHCP_LEASE_SECONDS * NS_PER_SEC : NS_PER_SEC;
		memcpy(frame, data + 2, len);
		n = dhcp_answer(dhcp, frame, len, now, answer);
		if (n)
			check_answer(answer, n);
		free(frame);
		data += 2 + len;
		size -= 2 + len;
	}
	dhcp_free(dhcp);
	return 0;
}
