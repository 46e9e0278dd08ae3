/*
 * A guest that means harm: a freestanding program, booted like a kernel, which behaves just well
 * enough to be let in (hypercall page, SynIC, VMBus contact, offers, channels) and then writes
 * rubbish everywhere a guest can: MSRs, hypercalls, ports, MMIO, VMBus messages, GPADLs, rings and
 * packets. Nobody but itself may come to harm. It says so on COM1 and powers off.
 *
 * Command line: seed=N rounds=N. Everything follows from the seed. Layouts: the guest's view of
 * lib/spec; written out again here so that a mistake there does not hide itself.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define COM1        0x3f8
#define PAGE        4096
#define ARENA_BASE  0x2000000ul /* pages that the host may be told about, 32 MiB up */
#define ARENA_PAGES 4096

void *memset(void *p, int c, size_t n);
void *memcpy(void *d, const void *s, size_t n);
_Noreturn void start_c(const u8 *zero_page);

void *memset(void *p, int c, size_t n)
{
	u8 *b = p;

	while (n--)
		*b++ = (u8)c;
	return p;
}

void *memcpy(void *d, const void *s, size_t n)
{
	u8 *a = d;
	const u8 *b = s;

	while (n--)
		*a++ = *b++;
	return d;
}

/* ---- processor ---- */

static inline void outb(u16 port, u8 v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}
static inline void outl(u16 port, u32 v)
{
	__asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}
static inline void outw(u16 port, u16 v)
{
	__asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}
static inline u8 inb(u16 port)
{
	u8 v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static inline u32 inl(u16 port)
{
	u32 v;

	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

/* Where an exception continues; 0: it is fatal. */
static volatile u64 fixup;
static volatile u64 faults;

struct frame {
	u64 ip, cs, flags, sp, ss;
};

/* Where we fell, for whoever wonders why the guest began anew. Inlined as fault() is. */
__attribute__((always_inline)) static inline void tell_fall(const struct frame *frame)
{
	static const char text[] = "hostile: fell at ";

	for (unsigned i = 0; i < sizeof(text) - 1; i++)
		outb(COM1, (u8)text[i]);
	for (int shift = 60; shift >= 0; shift -= 4)
		outb(COM1, (u8) "0123456789abcdef"[frame->ip >> shift & 15]);
	outb(COM1, '\n');
}

/* Inlined: an interrupt handler may call only what saves all registers. */
__attribute__((always_inline)) static inline void fault(struct frame *frame)
{
	faults++;
	if (!fixup) {
		tell_fall(frame);
		/* Nothing sensible is left to do: triple fault, which the host must handle, too. */
		static const u8 no_idt[10];

		__asm__ volatile("lidt %0\n\tint3" : : "m"(no_idt));
	}
	frame->ip = fixup;
}

__attribute__((interrupt)) static void on_fault(struct frame *frame)
{
	fault(frame);
}
__attribute__((interrupt)) static void on_fault_code(struct frame *frame, u64 code)
{
	fault(frame);
}
__attribute__((interrupt)) static void on_interrupt(struct frame *frame)
{
	*(volatile u32 *)0xfee000b0ul = 0;
}

static bool wrmsr(u32 msr, u64 v)
{
	u64 ok = 0;

	__asm__ volatile(
	    "lea 1f(%%rip), %%r8\n\tmov %%r8, %1\n\twrmsr\n\tmov $1, %0\n1:\tmovq $0, %1"
	    : "+r"(ok), "+m"(fixup)
	    : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32))
	    : "r8", "memory");
	return ok;
}

static u64 rdmsr(u32 msr)
{
	u32 a = 0, d = 0;

	__asm__ volatile("lea 1f(%%rip), %%r8\n\tmov %%r8, %2\n\trdmsr\n1:\tmovq $0, %2"
			 : "+a"(a), "+d"(d), "+m"(fixup)
			 : "c"(msr)
			 : "r8", "memory");
	return (u64)d << 32 | a;
}

static u64 idt[256][2] __attribute__((aligned(16)));

static void set_gate(unsigned vector, void *handler)
{
	u64 a = (u64)handler;

	idt[vector][0] = (a & 0xffff) | 0x10ull << 16 | 0x8e00ull << 32 | (a >> 16 & 0xffff) << 48;
	idt[vector][1] = a >> 32;
}

static void set_up_idt(void)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) idtr = { sizeof(idt) - 1, (u64)idt };
	u16 cs;

	__asm__("mov %%cs, %0" : "=r"(cs));
	for (unsigned v = 0; v < 256; v++) {
		bool code = v == 8 || (v >= 10 && v <= 14) || v == 17;

		set_gate(v, v >= 32 ? (void *)on_interrupt
			    : code  ? (void *)on_fault_code
				    : (void *)on_fault);
		idt[v][0] = (idt[v][0] & ~0xffff0000ull) | (u64)cs << 16;
	}
	__asm__ volatile("lidt %0" : : "m"(idtr));
}

/* ---- telling ---- */

static void put(const char *text)
{
	for (; *text; text++) {
		while (!(inb(COM1 + 5) & 0x20))
			;
		outb(COM1, (u8)*text);
	}
}

static void put_number(u64 n)
{
	char text[24], *p = text + 23;

	*p = 0;
	do
		*--p = (char)('0' + n % 10);
	while (n /= 10);
	put(p);
}

/* ---- chance ---- */

static u64 chance_state;

static u64 chance(void)
{
	chance_state ^= chance_state << 13;
	chance_state ^= chance_state >> 7;
	chance_state ^= chance_state << 17;
	return chance_state;
}
static u64 below(u64 n)
{
	return chance() % n;
}

/* Numbers that break things more often than noise does. */
static u64 nasty(void)
{
	static const u64 values[] = { 0,           1,          2,          7,          8,
				      0x1f,        0x20,       0xff,       0x100,      0x7ff,
				      0x800,       0xfff,      0x1000,     0x1001,     0xffff,
				      0x10000,     0x7fffffff, 0x80000000, 0xffffffff, 0xfffffff8,
				      0x100000000, ~0ull,      ~0ull - 7,  1ull << 63, 0xf8000000,
				      0xfee00000,  0xfffff };

	switch (below(4)) {
	case 0:
		return chance();
	case 1:
		return below(64);
	default:
		return values[below(sizeof(values) / sizeof(values[0]))];
	}
}

static u8 *arena_page(u64 n)
{
	return (u8 *)(ARENA_BASE + n % ARENA_PAGES * PAGE);
}
static u64 arena_pfn(void)
{
	return ARENA_BASE / PAGE + below(ARENA_PAGES);
}
/* Would the host write over our own program or page tables there? That would be the end of the run,
 * and prove nothing. The smallest VM that we run in has 64 MiB. */
static bool is_ourselves(u64 address)
{
	return address < 64ul << 20 &&
	       (address < ARENA_BASE || address >= ARENA_BASE + ARENA_PAGES * PAGE);
}
/* A page of the arena, mostly; sometimes one that is no RAM at all. */
static u64 any_pfn(void)
{
	u64 pfn = below(8) ? arena_pfn() : nasty();

	return pfn < 1ul << 52 && is_ourselves(pfn * PAGE) ? arena_pfn() : pfn;
}

/* ---- Hyper-V ---- */

static u8 hypercall_page[PAGE] __attribute__((aligned(PAGE)));
static u8 input_page[PAGE] __attribute__((aligned(PAGE)));
static u8 simp[PAGE] __attribute__((aligned(PAGE)));
static u8 siefp[PAGE] __attribute__((aligned(PAGE)));

static u64 hypercall(u64 control, u64 input, u64 output)
{
	u64 result = 0;
	register u64 r8 __asm__("r8") = output;

	__asm__ volatile("lea 1f(%%rip), %%r9\n\tmov %%r9, %1\n\tcall *%5\n1:\tmovq $0, %1"
			 : "=a"(result), "+m"(fixup), "+c"(control), "+d"(input), "+r"(r8)
			 : "r"((void *)hypercall_page)
			 : "r9", "r10", "r11", "memory", "cc");
	return result;
}

static void enable_hyperv(void)
{
	wrmsr(0x40000000, 0x8100ull << 48 | 0x60100ull << 16);
	wrmsr(0x40000001, (u64)hypercall_page | 1);
	wrmsr(0x40000083, (u64)simp | 1);
	wrmsr(0x40000082, (u64)siefp | 1);
	wrmsr(0x40000092, 0xf3 | 1 << 17); /* unmasked, auto-EOI; interrupts stay off here */
	wrmsr(0x40000080, 1);
}

static u64 post(const void *payload, u32 len, u32 connection)
{
	*(u32 *)input_page = connection;
	*(u32 *)(input_page + 4) = 0;
	*(u32 *)(input_page + 8) = 1;
	*(u32 *)(input_page + 12) = len;
	memcpy(input_page + 16, payload, len > 240 ? 240 : len);
	return hypercall(0x5c, (u64)input_page, 0);
}

/* Takes one message out of SINT2's slot; false if there is none. */
static bool take_message(u8 ret[240])
{
	volatile u32 *type = (volatile u32 *)(simp + 0x200);

	if (!*type)
		return false;
	memcpy(ret, simp + 0x200 + 16, 240);
	__atomic_store_n(type, 0, __ATOMIC_SEQ_CST);
	wrmsr(0x40000084, 0);
	return true;
}

/* ---- VMBus ---- */

struct channel {
	u32 relid, connection;
	u32 gpadl, ring_page, ring_pages, out_pages; /* of the open ring; 0: not open */
	u8 class0;
};

static struct channel channels[32];
static unsigned channel_count;
static u64 opens, replies; /* proof that we were let in and did talk */
static u32 next_gpadl = 0xe1e10;

static void on_message(const u8 *m)
{
	if (*(const u32 *)m == 1 && channel_count < 32) {
		struct channel *c = &channels[channel_count++];

		memset(c, 0, sizeof(*c));
		c->relid = *(const u32 *)(m + 184);
		c->connection = *(const u32 *)(m + 192);
		c->class0 = m[8];
	}
	if (*(const u32 *)m == 6 && *(const u32 *)(m + 16) == 0)
		opens++;
}

static void drain_messages(unsigned polls)
{
	u8 m[240];

	while (polls--)
		if (take_message(m))
			on_message(m);
}

/* Takes messages until one of this type has come; not for ever, since we deserve no answer. */
static void await_message(u32 type, u64 milliseconds)
{
	u64 end = rdmsr(0x40000020) + milliseconds * 10000;
	u8 m[240];

	while (rdmsr(0x40000020) < end) {
		if (!take_message(m)) {
			__asm__ volatile("pause");
			continue;
		}
		on_message(m);
		if (*(const u32 *)m == type)
			return;
	}
}

static void contact(u32 version)
{
	u8 m[40] = { 14 };

	*(u32 *)(m + 8) = version;
	m[16] = 2;
	*(u64 *)(m + 24) = (u64)arena_page(0);
	*(u64 *)(m + 32) = (u64)arena_page(1);
	post(m, sizeof(m), version >= 0x50000 ? 4 : 1);
	await_message(15, 1000);
	channel_count = 0;
	memset(m, 0, sizeof(m));
	m[0] = 3;
	post(m, 8, 1);
	await_message(4, 1000);
}

/* A GPADL of pages from the arena; honest says whether the numbers agree. */
static u32 make_gpadl(u32 relid, u32 first_page, u32 pages, bool honest)
{
	u8 m[240] = { 8 };
	u32 gpadl = next_gpadl++, done = 0;

	*(u32 *)(m + 8) = relid;
	*(u32 *)(m + 12) = gpadl;
	*(u16 *)(m + 16) = (u16)(honest ? 8 + 8 * pages : nasty());
	*(u16 *)(m + 18) = (u16)(honest ? 1 : nasty());
	*(u32 *)(m + 20) = honest ? pages * PAGE : (u32)nasty();
	*(u32 *)(m + 24) = honest ? 0 : (u32)nasty();
	for (; done < pages && done < 26; done++)
		*(u64 *)(m + 28 + 8 * done) =
		    honest ? ARENA_BASE / PAGE + first_page + done : any_pfn();
	post(m, 28 + 8 * done, 1);
	while (done < pages) {
		u32 n = 0;

		memset(m, 0, sizeof(m));
		m[0] = 9;
		*(u32 *)(m + 12) = gpadl;
		for (; done < pages && n < 28; done++, n++)
			*(u64 *)(m + 16 + 8 * n) =
			    honest ? ARENA_BASE / PAGE + first_page + done : any_pfn();
		post(m, 16 + 8 * n, 1);
		if (!honest && below(3) == 0)
			break;
	}
	return gpadl;
}

static void open_channel(struct channel *c)
{
	u8 m[148] = { 5 };

	c->ring_pages = 4 + 2 * (u32)below(15);
	c->out_pages = c->ring_pages / 2;
	c->ring_page = 64 + (u32)below(ARENA_PAGES - 128);
	memset(arena_page(c->ring_page), 0, PAGE);
	memset(arena_page(c->ring_page + c->out_pages), 0, PAGE);
	*(u32 *)(arena_page(c->ring_page) + 64) = 1;
	*(u32 *)(arena_page(c->ring_page + c->out_pages) + 64) = 1;
	c->gpadl = make_gpadl(c->relid, c->ring_page, c->ring_pages, true);
	await_message(10, 20);
	*(u32 *)(m + 8) = c->relid;
	*(u32 *)(m + 12) = c->relid;
	*(u32 *)(m + 16) = c->gpadl;
	*(u32 *)(m + 20) = below(16) ? 0 : (u32)nasty();
	*(u32 *)(m + 24) = below(16) ? c->out_pages : (u32)nasty();
	post(m, sizeof(m), 1);
	await_message(6, 20);
}

static void close_channel(struct channel *c)
{
	u8 m[16] = { 7 };

	*(u32 *)(m + 8) = c->relid;
	post(m, 12, 1);
	m[0] = 11;
	*(u32 *)(m + 12) = c->gpadl;
	post(m, 16, 1);
	drain_messages(2000);
	c->gpadl = 0;
}

/* Makes room for more of the host's packets, unread. */
static void drop_replies(struct channel *c)
{
	volatile u32 *in = (volatile u32 *)arena_page(c->ring_page + c->out_pages);

	if (in[0] == in[1])
		return;
	in[1] = in[0];
	replies++;
}

static void signal(const struct channel *c)
{
	hypercall(0x1005d, c->connection, 0);
}

/* ---- packets ---- */

static void ring_put(struct channel *c, const void *data, u32 len, u32 *at)
{
	u32 size = (c->out_pages - 1) * PAGE;
	const u8 *p = data;

	for (u32 i = 0; i < len; i++)
		arena_page(c->ring_page + 1)[(*at + i) % size] = p[i];
	*at = (*at + len) % size;
}

/* A packet of type 6 or 9 whose payload starts as given; the rest, and sometimes the frame, is
 * chance. */
static void send_packet(struct channel *c, const u8 *payload, u32 len, u64 id)
{
	volatile u32 *control = (volatile u32 *)arena_page(c->ring_page);
	u32 at = control[0], begin = at, pages = (u32)below(8), header = 16;
	bool direct = below(2);
	u8 h[128] = { 0 };
	u64 trailer;

	if (at >= (c->out_pages - 1) * PAGE || at % 8)
		at = begin = 0;
	if (direct) {
		header = 32 + 8 * pages;
		*(u32 *)(h + 20) = below(8) ? 1 : (u32)nasty();
		*(u32 *)(h + 24) = below(8) ? pages * PAGE : (u32)nasty();
		*(u32 *)(h + 28) = below(8) ? 0 : (u32)nasty();
		for (u32 i = 0; i < pages; i++)
			*(u64 *)(h + 32 + 8 * i) = any_pfn();
	}
	*(u16 *)h = below(16) ? (direct ? 9 : 6) : (u16)nasty();
	*(u16 *)(h + 2) = below(16) ? (u16)(header / 8) : (u16)nasty();
	*(u16 *)(h + 4) = below(16) ? (u16)((header + len) / 8) : (u16)nasty();
	*(u16 *)(h + 6) = (u16)below(2);
	*(u64 *)(h + 8) = id;
	ring_put(c, h, header, &at);
	ring_put(c, payload, len, &at);
	trailer = (u64)begin << 32;
	ring_put(c, &trailer, 8, &at);
	__atomic_store_n((u32 *)control, at, __ATOMIC_SEQ_CST);
	signal(c);
}

static void send_storage(struct channel *c)
{
	static const u8 commands[] = { 0x00, 0x03, 0x12, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x2a,
				       0x35, 0x41, 0x42, 0x43, 0x46, 0x4a, 0x51, 0x5a, 0x88,
				       0x8a, 0x8f, 0x93, 0x9e, 0xa0, 0xa3, 0xa8, 0xaa };
	u8 p[64];

	for (u32 i = 0; i < sizeof(p); i++)
		p[i] = (u8)(below(3) ? 0 : chance());
	*(u32 *)p = below(4) ? 3 : (u32)below(16);
	*(u32 *)(p + 4) = 1;
	*(u16 *)(p + 12) = 0x34;
	p[17] = p[18] = (u8)(below(4) ? 0 : chance());
	p[19] = (u8)(below(4) ? 0 : below(70));
	p[20] = (u8)(below(8) ? 16 : nasty());
	p[22] = (u8)below(3);
	*(u32 *)(p + 24) = (u32)(below(2) ? below(9) * PAGE : nasty());
	p[28] = below(8) ? commands[below(sizeof(commands))] : (u8)chance();
	if (below(2)) {
		*(u32 *)(p + 30) = (u32)nasty();
		*(u16 *)(p + 35) = (u16)nasty();
	}
	send_packet(c, p, 64, below(8) ? chance() : 0);
}

static void send_network(struct channel *c)
{
	static const u32 types[] = {
		1, 100, 101, 103, 104, 106, 107, 107, 107, 107, 125, 129, 133
	};
	u8 p[64];

	for (u32 i = 0; i < sizeof(p); i += 8)
		*(u64 *)(p + i) = below(2) ? 0 : nasty();
	*(u32 *)p = types[below(sizeof(types) / sizeof(types[0]))];
	switch (*(u32 *)p) {
	case 1:
		*(u32 *)(p + 4) = *(u32 *)(p + 8) = below(4) ? 0x60001 : (u32)nasty();
		break;
	case 101:
	case 104:
		*(u32 *)(p + 4) = below(4) ? make_gpadl(c->relid, 64, 64, below(4)) : (u32)nasty();
		*(u16 *)(p + 8) = 0xcafe;
		break;
	case 107:
		*(u32 *)(p + 4) = (u32)below(3);
		*(u32 *)(p + 8) = below(2) ? 0xffffffff : (u32)below(200);
		*(u32 *)(p + 12) = (u32)nasty();
		break;
	}
	send_packet(c, p, 40, chance());
}

static void send_service(struct channel *c)
{
	u8 p[128];

	for (u32 i = 0; i < sizeof(p); i++)
		p[i] = (u8)(below(3) ? 0 : chance());
	*(u32 *)p = 1;
	*(u32 *)(p + 4) = (u32)(below(2) ? 120 : nasty());
	*(u16 *)(p + 12) = (u16)below(8);
	*(u16 *)(p + 18) = (u16)(below(2) ? 100 : nasty());
	p[25] = 5;
	*(u16 *)(p + 28) = (u16)below(4);
	*(u16 *)(p + 30) = (u16)below(4);
	send_packet(c, p, sizeof(p), below(2) ? below(8) : chance());
}

/* The ring's control page and data as the guest has no right to leave them. */
static void scribble_ring(struct channel *c)
{
	volatile u32 *out = (volatile u32 *)arena_page(c->ring_page);
	volatile u32 *in = (volatile u32 *)arena_page(c->ring_page + c->out_pages);

	for (unsigned i = 0; i < 1 + below(4); i++) {
		(below(2) ? out : in)[below(2) ? below(4) : 16] = (u32)nasty();
		if (below(2))
			*(u64 *)(arena_page(c->ring_page + 1) + below(PAGE / 8) * 8) = nasty();
	}
	signal(c);
}

static void use_channels(void)
{
	struct channel *c = &channels[below(channel_count ? channel_count : 1)];

	if (!channel_count || below(200) == 0) {
		static const u32 versions[] = { 0x50003, 0x50002, 0x50000, 0x40001, 0x40000,
						0x30000, 0x20004, 0x10001, 13 };

		contact(versions[below(9)]);
		return;
	}
	if (!c->gpadl) {
		open_channel(c);
		return;
	}
	if (below(3))
		drop_replies(c);
	if (below(30) == 0) {
		close_channel(c);
	} else if (below(10) == 0) {
		scribble_ring(c);
	} else if (c->class0 == 0xd9) {
		send_storage(c);
	} else if (c->class0 == 0x63) {
		send_network(c);
	} else {
		send_service(c);
	}
}

/* A contact names monitor pages, a GPADL page numbers: the host may write to all of them. */
static void spare_ourselves(u8 m[256])
{
	u32 type = *(u32 *)m;

	for (u32 i = 24; type == 14 && i < 40; i += 8)
		if (is_ourselves(*(u64 *)(m + i)))
			*(u64 *)(m + i) = (u64)arena_page(chance());
	for (u32 i = type == 8 ? 28 : 16; (type == 8 || type == 9) && i < 240; i += 8)
		if (*(u64 *)(m + i) < 1ul << 52 && is_ourselves(*(u64 *)(m + i) * PAGE))
			*(u64 *)(m + i) = arena_pfn();
}

static void rubbish_message(void)
{
	u8 m[256];
	u32 len = below(2) ? (u32)below(241) : (u32)nasty();

	for (u32 i = 0; i < sizeof(m); i += 8)
		*(u64 *)(m + i) = nasty();
	*(u32 *)m = below(8) ? (u32)below(26) : (u32)nasty();
	if (channel_count && below(4))
		*(u32 *)(m + 8) = channels[below(channel_count)].relid;
	if (below(2))
		*(u32 *)(m + 12) = 0xe1e10 + (u32)below(next_gpadl - 0xe1e10 + 1);
	spare_ourselves(m);
	post(m, len, below(8) ? 1 : (u32)nasty());
}

static void rubbish_hypercall(void)
{
	static const u16 codes[] = { 2,    3,    8,    0xb,  0x13, 0x14,   0x15,  0x46,
				     0x50, 0x51, 0x5c, 0x5d, 0x7e, 0x8001, 0x8003 };
	u64 control = below(4) ? codes[below(sizeof(codes) / 2)] : chance() & 0xffff;
	u64 output;

	if (below(2))
		control |= (chance() & 1) << 16 | (nasty() & 0x3ff) << 17 |
			   (nasty() & 0xfff) << 32 | (nasty() & 0xfff) << 48;
	if (below(8) == 0)
		control = chance();
	output = below(2) ? (u64)arena_page(chance()) : nasty();
	hypercall(control,
		  below(2) ? (u64)arena_page(chance()) + (below(4) ? 0 : below(PAGE)) : nasty(),
		  is_ourselves(output) ? (u64)arena_page(chance()) : output);
}

/* MSRs that give the host a page to write to. */
static bool names_page(u32 msr)
{
	return msr == 0x40000001 || msr == 0x40000021 || msr == 0x40000073 || msr == 0x40000082 ||
	       msr == 0x40000083;
}

static void rubbish_msr(void)
{
	u64 value;
	u32 msr;

	switch (below(4)) {
	case 0:
		msr = 0x800 + (u32)below(0x40);
		break;
	case 1:
		msr = (u32)nasty();
		break;
	default:
		msr = 0x40000000 + (u32)below(0x120);
		break;
	}
	value = below(2) ? nasty() : ((u64)arena_page(chance()) | below(2));
	rdmsr(msr);
	/* Not: reset and crash control, EFER and what moves the ground under our own feet. */
	if (msr == 0x40000003 || msr == 0x40000105 || msr >= 0xc0000000 || msr == 0x1b)
		return;
	if (names_page(msr) && is_ourselves(value & ~0xfffull))
		return;
	wrmsr(msr, value);
	if ((msr & ~0xffu) == 0x40000000)
		enable_hyperv();
}

/* Ports whose whole purpose is to end or reset the VM, and our own voice. */
static bool is_final_port(u32 port)
{
	return port == 0x64 || port == 0x92 || port == 0xcf8 || port == 0xcf9 ||
	       (port >= COM1 && port < COM1 + 8) || (port >= 0x400 && port < 0x600) ||
	       (port >= 0xb000 && port < 0xb100);
}

static void rubbish_port(void)
{
	static const u16 known[] = { 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40,  0x41,  0x42, 0x43,
				     0x61, 0x70, 0x71, 0x60, 0x2f8, 0x2f9, 0x2fa, 0x2fb, 0x2fc };
	u16 port = below(4) ? known[below(sizeof(known) / 2)] : (u16)chance();

	if (is_final_port(port))
		return;
	if (below(2))
		outb(port, (u8)chance());
	else
		inb(port);
	if (below(8) == 0 && !is_final_port(port + 3u))
		outl(port, (u32)nasty());
	if (below(8) == 0)
		inl(port);
}

static void rubbish_mmio(void)
{
	static const u64 bases[] = { 0xfec00000, 0xfee00000, 0xf8000000, 0xfed40000, 0xffff0000 };
	u64 at = bases[below(5)] + (below(PAGE / 8)) * 8 + (below(8) ? 0 : below(8));

	/* The local APIC's ICR could send this VP to INIT. */
	if ((at & ~0xfffull) == 0xfee00000 && (at & 0xff0) >= 0x300 && (at & 0xff0) <= 0x310)
		return;
	__asm__ volatile(
	    "lea 1f(%%rip), %%r8\n\tmov %%r8, %0\n\tmov (%1), %%rax\n\tmov %%eax, (%1)\n\t"
	    "mov %2, (%1)\n1:\tmovq $0, %0"
	    : "+m"(fixup)
	    : "r"(at), "r"(nasty())
	    : "rax", "r8", "memory");
}

/* ---- start ---- */

static u64 option(const char *text, const char *name, u64 otherwise)
{
	for (; *text; text++) {
		const char *a = text, *b = name;
		u64 n = 0;

		while (*b && *a == *b)
			a++, b++;
		if (*b)
			continue;
		while (*a >= '0' && *a <= '9')
			n = n * 10 + (u64)(*a++ - '0');
		return n;
	}
	return otherwise;
}

static void (*const attacks[])(void) = { use_channels, use_channels,    use_channels,
					 use_channels, rubbish_message, rubbish_hypercall,
					 rubbish_msr,  rubbish_port,    rubbish_mmio };

void start_c(const u8 *zero_page)
{
	const char *cmdline = (const char *)(u64) * (const u32 *)(zero_page + 0x228);
	u64 rounds = option(cmdline, "rounds=", 20000);
	u16 pm1_control = (u16)option(cmdline, "pm1=", 0);

	chance_state = option(cmdline, "seed=", 1) * 0x9e3779b97f4a7c15ull + 1;
	set_up_idt();
	put("hostile: begins\n");
	enable_hyperv();
	contact(0x50003);
	put("hostile: offers ");
	put_number(channel_count);
	put("\n");
	for (u64 i = 0; i < rounds; i++) {
		attacks[below(sizeof(attacks) / sizeof(attacks[0]))]();
		if (i % 64 == 0)
			drain_messages(200);
		if (i % (rounds / 8 + 1) == 0) {
			put("hostile: round ");
			put_number(i);
			put("\n");
		}
	}
	put("hostile: done, faults ");
	put_number(faults);
	put(", opens ");
	put_number(opens);
	put(", replies ");
	put_number(replies);
	put("\n");
	while (!(inb(COM1 + 5) & 0x40))
		;
	outw(pm1_control, 0x2000 | 5 << 10);
	outw(pm1_control, 0x2000);
	for (;;)
		__asm__ volatile("pause");
}

static u8 stack[65536] __attribute__((aligned(16), used));

__attribute__((naked, section(".text.entry"))) void entry(void);
void entry(void)
{
	__asm__("cli\n\tlea stack+65536(%rip), %rsp\n\tmov %rsi, %rdi\n\tcall start_c");
}
