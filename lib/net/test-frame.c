#include "net/frame.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "net/frame-queue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TCP 6
#define UDP 17

struct make {
	bool v6;
	uint16_t tag; /* 0: none */
	uint8_t protocol;
	uint8_t flags; /* TCP's */
	uint32_t sequence;
	size_t payload;
	unsigned options; /* bytes of TCP options */
};

/* A frame with right lengths and checksums left at 0; returns its length. */
static size_t make(uint8_t *f, const struct make *m)
{
	size_t l3 = m->tag ? 18 : 14, l4 = l3 + (m->v6 ? 40 : 20);
	size_t header = m->protocol == TCP ? 20 + m->options : 8;
	size_t len = l4 + header + m->payload;
	uint8_t *ip = f + l3;

	memset(f, 0, len);
	memcpy(f, "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02", 12);
	if (m->tag) {
		store_be16(f + 12, 0x8100);
		store_be16(f + 14, m->tag);
	}
	store_be16(ip - 2, m->v6 ? 0x86DD : 0x0800);
	if (m->v6) {
		ip[0] = 0x60;
		store_be16(ip + 4, (uint16_t)(header + m->payload));
		ip[6] = m->protocol;
		ip[8] = 0xFD;
		ip[23] = 1;
		ip[24] = 0xFD;
		ip[39] = 2;
	} else {
		ip[0] = 0x45;
		store_be16(ip + 2, (uint16_t)(20 + header + m->payload));
		store_be16(ip + 4, 0xFFFE);
		ip[8] = 64;
		ip[9] = m->protocol;
		store_be32(ip + 12, 0x0A000001);
		store_be32(ip + 16, 0x0A000002);
	}
	store_be16(f + l4, 1111);
	store_be16(f + l4 + 2, 2222);
	if (m->protocol == TCP) {
		store_be32(f + l4 + 4, m->sequence);
		store_be32(f + l4 + 8, 777);
		f[l4 + 12] = (uint8_t)(header / 4 << 4);
		f[l4 + 13] = m->flags;
		store_be16(f + l4 + 14, 500);
		memset(f + l4 + 20, 1, m->options);
	} else {
		store_be16(f + l4 + 4, (uint16_t)(8 + m->payload));
	}
	for (size_t i = 0; i < m->payload; i++)
		f[l4 + header + i] = (uint8_t)(m->sequence + i);
	return len;
}

static void test_parse(void **state)
{
	uint8_t f[2000];
	struct frame_layout l;
	struct make m = { .protocol = TCP, .payload = 100, .options = 12 };
	size_t len = make(f, &m);

	(void)state;
	assert_true(frame_parse(f, len, false, &l));
	assert_int_equal(l.l3, 14);
	assert_int_equal(l.l4, 34);
	assert_int_equal(l.payload, 66);
	assert_int_equal(l.end, len);
	/* Padding is not the packet's. */
	assert_true(frame_parse(f, len + 7, false, &l));
	assert_int_equal(l.end, len);
	/* Every cut of it is parsed without going beyond it (the sanitizer looks). */
	for (size_t cut = 0; cut < len; cut++) {
		uint8_t *copy = malloc(cut ? cut : 1);

		memcpy(copy, f, cut);
		assert_int_equal(frame_parse(copy, cut, false, &l), cut >= 14);
		assert_int_equal(l.l4, 0);
		free(copy);
	}
	m.v6 = true;
	m.tag = 5;
	len = make(f, &m);
	assert_true(frame_parse(f, len, false, &l));
	assert_int_equal(l.ethertype, 0x86DD);
	assert_int_equal(l.l4, 58);
	/* A fragment has no transport header that could be trusted. */
	m = (struct make){ .protocol = UDP, .payload = 64 };
	len = make(f, &m);
	store_be16(f + 20, 0x2000);
	assert_true(frame_parse(f, len, false, &l));
	assert_int_equal(l.l4, 0);
	assert_true(l.fragment);
	assert_false(frame_parse(f, 13, false, &l));
}

/* By the definition, byte by byte. */
static bool checksum_right(const uint8_t *f, const struct frame_layout *l)
{
	uint32_t n = l->end - l->l4, sum = l->l4_protocol + n;
	unsigned from = l->ipv4 ? l->l3 + 12u : l->l3 + 8u;

	for (unsigned i = from; i < from + (l->ipv4 ? 8u : 32u); i += 2)
		sum += load_be16(f + i);
	for (uint32_t i = 0; i < n; i++)
		sum += i % 2 ? f[l->l4 + i] : (uint32_t)f[l->l4 + i] << 8;
	while (sum >> 16)
		sum = (sum & 0xFFFF) + (sum >> 16);
	return sum == 0xFFFF;
}

static void test_checksums(void **state)
{
	static uint8_t f[70000];
	struct frame_layout l;

	(void)state;
	for (unsigned i = 0; i < 400; i++) {
		struct make m = { .v6 = i & 1,
				  .tag = i & 2 ? 7 : 0,
				  .protocol = i & 4 ? TCP : UDP,
				  .sequence = i * 77777,
				  .payload = i * 3 % 1400 };
		size_t len = make(f, &m);
		struct frame_offload all = { FRAME_NEEDS_CSUM | FRAME_NEEDS_IP_CSUM, 0 };

		assert_true(frame_finish(f, len, &all));
		assert_true(frame_parse(f, len, false, &l));
		assert_true(checksum_right(f, &l));
		assert_true(frame_checksum_ok(f, len));
		if (l.ipv4)
			assert_int_equal(frame_fold(frame_sum(f + l.l3, 20)), 0);
		f[l.l4] ^= 1;
		assert_false(frame_checksum_ok(f, len));
	}
	/* Asked for where there is nothing to fill in. */
	memset(f + 12, 0, 100);
	assert_false(frame_finish(f, 100, &(struct frame_offload){ FRAME_NEEDS_CSUM, 0 }));
}

/* A UDP checksum of 0 means none: then the other zero is written. */
static void test_udp_zero(void **state)
{
	uint8_t f[100];
	struct make m = { .protocol = UDP, .payload = 2 };
	size_t len = make(f, &m);
	struct frame_offload fill = { FRAME_NEEDS_CSUM, 0 };
	uint16_t checksum;

	(void)state;
	store_be16(f + 42, 0);
	assert_true(frame_finish(f, len, &fill));
	checksum = load_be16(f + 40);
	store_be16(f + 42, checksum); /* now the sum of all is 0xFFFF */
	assert_true(frame_finish(f, len, &fill));
	assert_int_equal(load_be16(f + 40), 0xFFFF);
	assert_true(frame_checksum_ok(f, len));
}

static void check_segments(const struct make *m, size_t mss)
{
	static uint8_t f[70000], g[70000], all[70000];
	size_t len = make(f, m), done = 0;
	unsigned count = 0;
	struct frame_segmenter s;
	struct frame_layout l;

	/* As LSOv2 has it: no lengths. */
	store_be16(f + (m->tag ? 18 : 14) + (m->v6 ? 4 : 2), 0);
	assert_true(frame_segmenter_init(&s, f, len, (uint16_t)mss));
	while (frame_segmenter_next(&s)) {
		bool last = done + s.payload_len == m->payload;

		memcpy(g, s.headers, s.headers_len);
		memcpy(g + s.headers_len, s.payload, s.payload_len);
		assert_true(s.payload_len == mss || last);
		assert_true(frame_parse(g, s.headers_len + s.payload_len, false, &l));
		assert_int_equal(l.end, s.headers_len + s.payload_len);
		assert_true(checksum_right(g, &l));
		assert_int_equal(load_be32(g + l.l4 + 4), (uint32_t)(m->sequence + done));
		assert_int_equal(g[l.l4 + 13], last ? m->flags & ~(count ? 0x80 : 0)
						    : m->flags & ~(9 | (count ? 0x80 : 0)));
		if (l.ipv4) {
			assert_int_equal(frame_fold(frame_sum(g + l.l3, 20)), 0);
			assert_int_equal(load_be16(g + l.l3 + 4), (uint16_t)(0xFFFE + count));
		}
		memcpy(all + done, s.payload, s.payload_len);
		done += s.payload_len;
		count++;
	}
	assert_int_equal(done, m->payload);
	assert_memory_equal(all, f + len - m->payload, m->payload);
	assert_true(frame_segmenter_init(&s, f, len, (uint16_t)mss));
	assert_int_equal(frame_segmenter_count(&s), count);
	/* The same as a whole. */
	assert_true(frame_finish(f, len, &(struct frame_offload){ 0, (uint16_t)mss }));
	assert_true(frame_checksum_ok(f, len));
}

static void test_segments(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 64; i++) {
		struct make m = { .v6 = i & 1,
				  .tag = i & 2 ? 99 : 0,
				  .protocol = TCP,
				  .flags = i & 4 ? 0x99 : 0x10,
				  .sequence = 0xFFFFF000,
				  .payload = i * 997,
				  .options = i & 8 ? 12 : 0 };

		check_segments(&m, i & 16 ? 1460 : 1000);
	}
}

static void test_segments_refused(void **state)
{
	static uint8_t f[70000];
	struct make udp = { .protocol = UDP, .payload = 3000 };
	struct make huge = { .protocol = TCP, .payload = 65535 - 40 + 2 };
	struct frame_segmenter s;
	size_t len = make(f, &udp);

	(void)state;
	assert_false(frame_segmenter_init(&s, f, len, 1000));
	assert_false(frame_finish(f, len, &(struct frame_offload){ 0, 1000 }));
	/* Segments can be cut, but as a whole it is longer than IP allows. */
	len = make(f, &huge);
	assert_true(frame_segmenter_init(&s, f, len, 1000));
	assert_false(frame_finish(f, len, &(struct frame_offload){ 0, 1000 }));
	assert_false(frame_segmenter_init(&s, f, len, 0));
}

static void test_join(void **state)
{
	struct frame_queue q;
	struct frame_offload none = { FRAME_CSUM_VALID, 0 };
	uint8_t f[2000];
	size_t len;
	struct make m = { .protocol = TCP, .flags = 0x10, .sequence = 5000, .payload = 1000 };

	(void)state;
	frame_queue_init(&q, 200000);
	for (unsigned i = 0; i < 10; i++) {
		m.flags = i == 9 ? 0x18 : 0x10;
		m.payload = i == 9 ? 400 : 1000;
		len = make(f, &m);
		assert_true(frame_queue_push(&q, f, len, &none, true));
		m.sequence += (uint32_t)m.payload;
	}
	assert_ptr_equal(q.first->next, NULL);
	assert_int_equal(q.first->len, 54 + 9400);
	assert_int_equal(q.first->offload.gso_bytes, 1000);
	assert_int_equal(q.first->data[14 + 20 + 13], 0x18);
	for (size_t i = 0; i < 9400; i++)
		assert_int_equal(q.first->data[54 + i], (uint8_t)(5000 + i));
	/* After a short segment nothing is added. */
	m.payload = 1000;
	len = make(f, &m);
	assert_true(frame_queue_push(&q, f, len, &none, true));
	assert_non_null(q.first->next);
	/* Not what has another acknowledgement, a gap, a FIN, another tag; nor when not asked. */
	m.sequence += 1000;
	for (unsigned i = 0; i < 5; i++) {
		struct queued_frame *last = *q.last_link;

		m.flags = i == 2 ? 0x11 : 0x10;
		m.tag = i == 3 ? 9 : 0;
		len = make(f, &m);
		if (i == 0)
			f[34 + 11] ^= 1;
		if (i == 1)
			f[34 + 7] ^= 1;
		assert_true(frame_queue_push(&q, f, len, &none, i != 4));
		assert_ptr_equal(last->next, *q.last_link);
	}
	frame_queue_done(&q);
	assert_int_equal(q.bytes, 0);
}

static void test_queue_bound(void **state)
{
	struct frame_queue q;
	struct frame_offload none = { 0 };
	uint8_t f[1000] = { 0 };
	unsigned count = 0;

	(void)state;
	frame_queue_init(&q, 10000);
	while (frame_queue_push(&q, f, sizeof(f), &none, true))
		count++;
	assert_true(count >= 8 && count < 10);
	while (count--) {
		assert_non_null(q.first);
		frame_queue_drop_first(&q);
	}
	assert_null(q.first);
	assert_true(frame_queue_push(&q, f, sizeof(f), &none, true));
	frame_queue_done(&q);
}

/* Microsoft's verification suite for Toeplitz hashing. */
static void test_rss_hash(void **state)
{
	static const uint8_t key[40] = {
		0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
		0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
		0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa
	};
	static const uint8_t v6[32] = { 0x3f, 0xfe, 0x25, 0x01, 0x02, 0x00, 0x1f, 0xff,
					0,    0,    0,    0,    0,    0,    0,    7,
					0x3f, 0xfe, 0x25, 0x01, 0x02, 0x00, 0x00, 0x03,
					0,    0,    0,    0,    0,    0,    0,    1 };
	uint8_t f[200];
	struct make m = { .protocol = TCP };
	struct frame_layout l;
	size_t len = make(f, &m);
	uint32_t hash;

	(void)state;
	store_be32(f + 26, 0x420995BB); /* 66.9.149.187 */
	store_be32(f + 30, 0xA18E6450); /* 161.142.100.80 */
	store_be16(f + 34, 2794);
	store_be16(f + 36, 1766);
	frame_parse(f, len, false, &l);
	assert_true(frame_rss_hash(f, &l, FRAME_HASH_IPV4 | FRAME_HASH_TCP_IPV4, key, &hash));
	assert_true(hash == 0x51ccc178);
	assert_true(frame_rss_hash(f, &l, FRAME_HASH_IPV4, key, &hash));
	assert_true(hash == 0x323e8fc2);
	assert_false(frame_rss_hash(f, &l, FRAME_HASH_IPV6, key, &hash));
	m.v6 = true;
	len = make(f, &m);
	memcpy(f + 22, v6, 32);
	store_be16(f + 54, 2794);
	store_be16(f + 56, 1766);
	frame_parse(f, len, false, &l);
	assert_true(frame_rss_hash(f, &l, FRAME_HASH_TCP_IPV6, key, &hash));
	assert_true(hash == 0x40207d3d);
	assert_true(frame_rss_hash(f, &l, FRAME_HASH_IPV6, key, &hash));
	assert_true(hash == 0x2cc18cd5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_checksums),
		cmocka_unit_test(test_udp_zero),
		cmocka_unit_test(test_segments),
		cmocka_unit_test(test_segments_refused),
		cmocka_unit_test(test_join),
		cmocka_unit_test(test_queue_bound),
		cmocka_unit_test(test_rss_hash),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
