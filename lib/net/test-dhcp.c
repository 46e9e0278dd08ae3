#include "net/dhcp.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/macros.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SERVER 0x0A000001u
#define FIRST  0x0A000010u

struct message {
	uint8_t type;
	uint32_t mac, ciaddr, wanted, server;
};

struct reply {
	uint8_t type; /* 0: none */
	uint32_t yiaddr, server, netmask, lease_time;
};

static size_t make(uint8_t *f, const struct message *m)
{
	uint8_t *bootp = f + 42, *o = bootp + 240;
	size_t len;

	memset(f, 0, 600);
	memset(f, 0xFF, 6);
	f[6] = 2;
	store_be32(f + 8, m->mac);
	store_be16(f + 12, 0x0800);
	f[14] = 0x45;
	f[23] = 17;
	store_be16(f + 34, 68);
	store_be16(f + 36, 67);
	bootp[0] = bootp[1] = 1;
	bootp[2] = 6;
	store_be32(bootp + 4, 0xCAFE0001);
	store_be32(bootp + 12, m->ciaddr);
	memcpy(bootp + 28, f + 6, 6);
	store_be32(bootp + 236, 0x63825363);
	*o++ = 0;
	*o++ = 53, *o++ = 1, *o++ = m->type;
	if (m->wanted) {
		*o++ = 50, *o++ = 4;
		store_be32(o, m->wanted);
		o += 4;
	}
	if (m->server) {
		*o++ = 54, *o++ = 4;
		store_be32(o, m->server);
		o += 4;
	}
	*o++ = 255;
	len = (size_t)(o - f);
	store_be16(f + 16, (uint16_t)(len - 14));
	store_be16(f + 38, (uint16_t)(len - 34));
	return len;
}

static uint32_t option(const uint8_t *o, const uint8_t *end, uint8_t code)
{
	while (o < end && *o != 255) {
		if (*o == code)
			return o[1] == 1 ? o[2] : load_be32(o + 2);
		o += 2 + o[1];
	}
	assert_true(o < end);
	return 0;
}

static struct reply ask(struct dhcp *dhcp, const struct message *m, uint64_t now_s)
{
	uint8_t f[600], back[DHCP_REPLY_BYTES];
	size_t len = make(f, m);
	struct reply r = { 0 };
	struct frame_layout l;

	len = dhcp_answer(dhcp, f, len, now_s * NS_PER_SEC, back);
	if (!len)
		return r;
	assert_true(frame_parse(back, len, false, &l) && l.end == len);
	assert_true(frame_checksum_ok(back, len));
	assert_int_equal(frame_fold(frame_sum(back + 14, 20)), 0);
	assert_memory_equal(back, f + 6, 6);
	assert_int_equal(load_be32(back + 42 + 4), 0xCAFE0001);
	r.type = (uint8_t)option(back + 282, back + len, 53);
	r.server = option(back + 282, back + len, 54);
	r.netmask = option(back + 282, back + len, 1);
	r.lease_time = option(back + 282, back + len, 51);
	r.yiaddr = load_be32(back + 42 + 16);
	return r;
}

static struct dhcp *new_server(unsigned addresses)
{
	struct dhcp_config config = { .server = SERVER,
				      .netmask = 0xFFFFFF00,
				      .nameserver = SERVER + 1,
				      .first = FIRST,
				      .last = FIRST + addresses - 1,
				      .server_mac = { 0x52, 0x55, 10, 0, 0, 1 },
				      .domain = "mshome.net" };
	struct dhcp *dhcp;

	assert_int_equal(dhcp_new(&config, &dhcp, NULL), 0);
	return dhcp;
}

static uint32_t get_address(struct dhcp *dhcp, uint32_t mac, uint64_t now_s)
{
	struct message discover = { 1, mac, 0, 0, 0 };
	struct reply offer = ask(dhcp, &discover, now_s), ack;
	struct message request = { 3, mac, 0, offer.yiaddr, SERVER };

	if (!offer.type)
		return 0;
	assert_int_equal(offer.type, 2);
	assert_int_equal(offer.server, SERVER);
	assert_int_equal(offer.netmask, 0xFFFFFF00);
	ack = ask(dhcp, &request, now_s);
	assert_int_equal(ack.type, 5);
	assert_int_equal(ack.yiaddr, offer.yiaddr);
	assert_int_equal(ack.lease_time, DHCP_LEASE_SECONDS);
	return ack.yiaddr;
}

static void test_many(void **state)
{
	struct dhcp *dhcp = new_server(200);
	bool used[200] = { false };

	(void)state;
	for (unsigned i = 0; i < 200; i++) {
		uint32_t address = get_address(dhcp, i * 7919, 1);

		assert_true(address >= FIRST && address < FIRST + 200);
		assert_false(used[address - FIRST]);
		used[address - FIRST] = true;
		assert_int_equal(get_address(dhcp, i * 7919, 2), address);
	}
	/* Full; and a lease that ended is given again, the oldest first. */
	assert_int_equal(get_address(dhcp, 0x77777777, 3), 0);
	assert_int_equal(get_address(dhcp, 5 * 7919, DHCP_LEASE_SECONDS),
			 get_address(dhcp, 5 * 7919, DHCP_LEASE_SECONDS));
	assert_true(get_address(dhcp, 0x77777777, DHCP_LEASE_SECONDS + 100) != 0);
	dhcp_free(dhcp);
}

/* The same over a restart: by the address itself, or because the client asks for it. */
static void test_stable(void **state)
{
	struct dhcp *dhcp = new_server(100);
	uint32_t a = get_address(dhcp, 1234, 1), taken;
	struct message request = { 3, 1234, 0, a, 0 };

	(void)state;
	dhcp_free(dhcp);
	dhcp = new_server(100);
	assert_int_equal(get_address(dhcp, 1234, 1), a);
	dhcp_free(dhcp);
	dhcp = new_server(100);
	assert_int_equal(ask(dhcp, &request, 1).type, 5);
	assert_int_equal(get_address(dhcp, 1234, 1), a);
	/* Renewal by the address that it has. */
	request = (struct message){ 3, 1234, a, 0, 0 };
	assert_int_equal(ask(dhcp, &request, 1).type, 5);
	/* Not what another one has, not what is none of ours, not a second one. */
	taken = get_address(dhcp, 99, 1);
	request = (struct message){ 3, 1234, 0, taken, 0 };
	assert_int_equal(ask(dhcp, &request, 1).type, 6);
	request.wanted = 0xC0A80001;
	assert_int_equal(ask(dhcp, &request, 1).type, 6);
	request.wanted = a + 1;
	assert_int_equal(ask(dhcp, &request, 1).type, 6);
	/* Another server was chosen: silence. */
	request.server = SERVER + 5;
	assert_int_equal(ask(dhcp, &request, 1).type, 0);
	dhcp_free(dhcp);
}

static void test_release(void **state)
{
	struct dhcp *dhcp = new_server(1);
	uint32_t a = get_address(dhcp, 1, 1);
	struct message message = { 7, 1, a, 0, SERVER };

	(void)state;
	assert_int_equal(get_address(dhcp, 2, 2), 0);
	assert_int_equal(ask(dhcp, &message, 3).type, 0);
	assert_int_equal(get_address(dhcp, 2, 4), a);
	message = (struct message){ 4, 2, 0, a, SERVER };
	assert_int_equal(ask(dhcp, &message, 5).type, 0);
	assert_int_equal(get_address(dhcp, 2, 6), 0);
	message = (struct message){ 8, 2, 0x0A000077, 0, 0 };
	assert_int_equal(ask(dhcp, &message, 7).type, 5);
	assert_int_equal(ask(dhcp, &message, 7).yiaddr, 0);
	dhcp_free(dhcp);
}

static void test_hostile(void **state)
{
	struct dhcp *dhcp = new_server(100);
	struct message m = { 1, 1, 0, 0, 0 };
	uint8_t f[600], back[DHCP_REPLY_BYTES];
	size_t len = make(f, &m);

	(void)state;
	for (size_t cut = 0; cut < len; cut++) {
		uint8_t *copy = malloc(cut ? cut : 1);

		memcpy(copy, f, cut);
		assert_int_equal(dhcp_answer(dhcp, copy, cut, 0, back), 0);
		free(copy);
	}
	f[42 + 28 + 5] ^= 1; /* for somebody else */
	assert_int_equal(dhcp_answer(dhcp, f, len, 0, back), 0);
	f[42 + 28 + 5] ^= 1;
	f[len - 4] = 0xFF; /* an option longer than the message */
	f[len - 3] = 0xFF;
	f[282] = 99;
	f[283] = 200;
	assert_int_equal(dhcp_answer(dhcp, f, len, 0, back), 0);
	dhcp_free(dhcp);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_stable),
		cmocka_unit_test(test_release),
		cmocka_unit_test(test_hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
