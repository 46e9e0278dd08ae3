/*
 * Address translation: page table walks (SDM volume 3, chapter 4), the software TLB, and the slow
 * paths of guest memory access: misses, accesses that cross a page, and everything that isn't RAM.
 */
#include "part/softcpu/cpu.h"
#include "part/softcpu/fast.h"

#include <string.h>

enum { PAGING_NONE, PAGING_32, PAGING_PAE, PAGING_LONG };

#define PTE_P  BIT(0)
#define PTE_W  BIT(1)
#define PTE_U  BIT(2)
#define PTE_A  BIT(5)
#define PTE_D  BIT(6)
#define PTE_PS BIT(7)
#define PTE_G  BIT(8)
#define PTE_NX BIT(63)

#define PF_P    0x01u
#define PF_W    0x02u
#define PF_U    0x04u
#define PF_RSVD 0x08u
#define PF_I    0x10u

#define PAGE_MASK (~(uint64_t)(MEM_PAGE_SIZE - 1))
#define ADDR_MASK UINT64_C(0x000ffffffffff000)

struct translation {
	uint64_t page; /* GPA of the 4 KiB page */
	bool writable; /* at this privilege, and dirty already */
	bool global;
	uint8_t shift; /* log2 of the size of the page that the guest mapped */
};

/* ---- the TLB ---- */

/* As far from the slot's own pages as can be, as translated code also compares addresses near those
 * (translate-table.c). */
static uint64_t free_tag(unsigned slot)
{
	return (uint64_t)(slot ^ TLB_SIZE / 2) << MEM_PAGE_SHIFT;
}

static void tlb_clear_slot(struct sc_tlb *t, unsigned slot)
{
	t->e[slot].rtag = t->e[slot].wtag = free_tag(slot);
	t->attr[slot] = 0;
}

static void tlb_clear(struct sc_tlb *t)
{
	for (unsigned i = 0; i < TLB_SIZE; i++)
		tlb_clear_slot(t, i);
	t->e[TLB_SIZE].rtag = t->e[TLB_SIZE].wtag = free_tag(0);
	t->local_count = 0;
	t->largest = 12;
}

static void tlb_clear_local(struct sc_tlb *t)
{
	for (unsigned i = 0; i < t->local_count; i++) {
		unsigned slot = t->local[i];

		if (!(t->attr[slot] & TLB_GLOBAL))
			tlb_clear_slot(t, slot);
	}
	t->local_count = 0;
}

static void xtlb_drop(struct sc_xtlb_entry *e)
{
	e->tag = UINT64_MAX;
	e->version = 0;
}

static void xtlb_clear(struct vp *c)
{
	for (unsigned i = 0; i < XTLB_SIZE; i++)
		xtlb_drop(&c->xtlb[i]);
	c->xtlb_local_count = 0;
}

static void xtlb_clear_local(struct vp *c)
{
	for (unsigned i = 0; i < c->xtlb_local_count; i++) {
		struct sc_xtlb_entry *e = &c->xtlb[c->xtlb_local[i]];

		if (!(e->gpa_attr & TLB_GLOBAL))
			xtlb_drop(e);
	}
	c->xtlb_local_count = 0;
}

static void xtlb_flush_small(struct vp *c, uint64_t va)
{
	struct sc_xtlb_entry *e = sc_xtlb_slot(c, va);

	if ((e->tag ^ va) >> MEM_PAGE_SHIFT == 0)
		xtlb_drop(e);
}

/* All parts of the page around va, however large the guest mapped it. */
static void xtlb_flush_large(struct vp *c, uint64_t va)
{
	for (unsigned i = 0; i < XTLB_SIZE; i++) {
		struct sc_xtlb_entry *e = &c->xtlb[i];

		if ((e->tag ^ va) >> (e->gpa_attr >> XTLB_SHIFT & 63) == 0)
			xtlb_drop(e);
	}
}

/* ---- large pages ---- */

static uint64_t *large_region(struct vp *c, uint64_t va, uint64_t *ret_bit)
{
	unsigned i = (unsigned)(va >> 21 ^ va >> 33) & (LARGE_REGIONS - 1);

	*ret_bit = BIT(i % 64);
	return &c->large_regions[i / 64];
}

static void note_large(struct vp *c, uint64_t va, unsigned shift)
{
	uint64_t bit, *word = large_region(c, va, &bit);

	*word |= bit;
	if (shift > c->largest_page)
		c->largest_page = shift;
}

/* False: no TLB has a part of a large page around va. */
static bool may_be_large(struct vp *c, uint64_t va)
{
	uint64_t bit, *word = large_region(c, va, &bit);

	return c->largest_page > 21 || (*word & bit);
}

void sc_tlb_flush_all(struct vp *c)
{
	memset(c->large_regions, 0, sizeof(c->large_regions));
	c->largest_page = 0;
	tlb_clear(&c->tlbs[0]);
	tlb_clear(&c->tlbs[1]);
	xtlb_clear(c);
}

void sc_tlb_flush_local(struct vp *c)
{
	tlb_clear_local(&c->tlbs[0]);
	tlb_clear_local(&c->tlbs[1]);
	xtlb_clear_local(c);
}

static void tlb_clear_large(struct sc_tlb *t)
{
	for (unsigned i = 0; i < TLB_SIZE; i++)
		if (t->attr[i] & TLB_LARGE)
			tlb_clear_slot(t, i);
	t->largest = 12;
}

/* A part of the 2 MiB page around va is there. */
static bool tlb_covers_2m(const struct sc_tlb *t, uint64_t va)
{
	unsigned first = (unsigned)(va >> 21 << 9) & (TLB_SIZE - 1);

	for (unsigned i = first; i < first + 512; i++)
		if ((t->attr[i] & TLB_LARGE) && (t->e[i].rtag ^ va) >> 21 == 0)
			return true;
	return false;
}

static void tlb_flush_page(struct sc_tlb *t, uint64_t va)
{
	unsigned slot = (unsigned)(va >> MEM_PAGE_SHIFT) & (TLB_SIZE - 1);

	if (((t->e[slot].rtag ^ va) & PAGE_MASK) == 0 || ((t->e[slot].wtag ^ va) & PAGE_MASK) == 0)
		tlb_clear_slot(t, slot);
}

/* Which size the page had isn't known any more. */
static void tlb_flush_large(struct sc_tlb *t, uint64_t va)
{
	if (t->largest > 21 || (t->largest == 21 && tlb_covers_2m(t, va)))
		tlb_clear_large(t);
}

void sc_tlb_flush_page(struct vp *c, uint64_t va)
{
	tlb_flush_page(&c->tlbs[0], va);
	tlb_flush_page(&c->tlbs[1], va);
	xtlb_flush_small(c, va);
	if (likely(!may_be_large(c, va)))
		return;
	tlb_flush_large(&c->tlbs[0], va);
	tlb_flush_large(&c->tlbs[1], va);
	xtlb_flush_large(c, va);
}

void sc_mmu_init(struct vp *c)
{
	c->tlb = &c->tlbs[0];
	tlb_clear(&c->tlbs[2]);
	sc_tlb_flush_all(c);
}

static uint8_t paging_mode(const struct vp *c)
{
	if (!(c->cr0 & CR0_PG))
		return PAGING_NONE;
	if (!(c->cr4 & CR4_PAE))
		return PAGING_32;
	return c->efer & EFER_LMA ? PAGING_LONG : PAGING_PAE;
}

void sc_mmu_mode_changed(struct vp *c)
{
	c->paging = paging_mode(c);
	c->rsvd_mask = ADDR_MASK & ~(BIT(c->vm->phys_bits) - 1);
	if (!(c->efer & EFER_NXE))
		c->rsvd_mask |= PTE_NX;
	sc_mmu_cpl_changed(c);
	sc_tlb_flush_all(c);
}

void sc_mmu_cpl_changed(struct vp *c)
{
	/* With alignment checks on, every access takes the slow path, which does them. */
	c->align_check = c->cpl == 3 && (c->cr0 & CR0_AM) && (c->rf & RF_AC);
	c->tlb = &c->tlbs[c->align_check ? 2 : c->cpl == 3];
	sc_key_changed(c);
}

/* The TLB that accesses at the current privilege fill. */
static struct sc_tlb *own_tlb(struct vp *c)
{
	return &c->tlbs[c->cpl == 3];
}

/* ---- page table walks ---- */

static uint64_t read_entry(struct vp *c, uint64_t gpa, unsigned size)
{
	uint8_t *p = sc_ram(c->vm, gpa);
	uint64_t e;

	if (!p)
		return UINT64_MAX; /* nobody answers: reserved bits, so a fault */
	e = sc_table_entry(p, size);
	if (unlikely(c->private_memory))
		sc_lockstep_walks(c, p, size, e);
	return e;
}

/* Sets bits in an entry that must not have changed; false: it has. */
static bool update_entry(struct vp *c, uint64_t gpa, unsigned size, uint64_t old, uint64_t bits)
{
	uint8_t *p = sc_ram(c->vm, gpa);
	uint32_t old32 = (uint32_t)old;
	bool done;

	if ((old & bits) == bits)
		return true;
	if (size == 8)
		done = __atomic_compare_exchange_n((uint64_t *)p, &old, old | bits, false,
						   __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
	else
		done = __atomic_compare_exchange_n((uint32_t *)p, &old32, (uint32_t)(old | bits),
						   false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
	if (done && unlikely(c->vm->page_flags[sc_page_of(c->vm, p)]))
		sc_stored(c, p, size);
	if (done && unlikely(c->private_memory))
		sc_lockstep_walked(c, p, size, old | bits);
	return done;
}

struct level {
	uint64_t gpa, entry;
};

/* Collected on the way down. */
struct walk {
	struct level levels[4];
	unsigned count, entry_size;
	bool w, u, nx, bad;
	uint64_t page; /* the leaf's, then the 4 KiB page's GPA */
	unsigned leaf_shift;
};

static bool entry_reserved(const struct vp *c, uint64_t e, unsigned shift, bool leaf)
{
	if (e & c->rsvd_mask)
		return true;
	if (shift == 39)
		return e & PTE_PS;
	/* bits between PAT (12) and the frame of a large page */
	return leaf && shift > 12 && (e & (BIT(shift) - BIT(13)) & ADDR_MASK);
}

/* One level of PAE or 4-level paging. 0: go on, 1: leaf, -1: not present, -2: reserved bits. */
static int step64(struct vp *c, struct walk *k, uint64_t table, uint64_t va, unsigned shift)
{
	uint64_t gpa = table + ((va >> shift) & 511) * 8;
	uint64_t e = read_entry(c, gpa, 8);
	bool leaf = shift == 12 || (shift <= 30 && (e & PTE_PS));

	if (!(e & PTE_P))
		return -1;
	if (entry_reserved(c, e, shift, leaf))
		return -2;
	k->levels[k->count++] = (struct level){ gpa, e };
	k->w &= !!(e & PTE_W);
	k->u &= !!(e & PTE_U);
	k->nx |= !!(e & PTE_NX);
	k->page = e & ADDR_MASK & ~(leaf ? BIT(shift) - 1 : 0);
	k->leaf_shift = shift;
	return leaf;
}

static int walk_long(struct vp *c, struct walk *k, uint64_t va)
{
	uint64_t table = c->cr3 & ADDR_MASK;
	int r = 0;

	k->entry_size = 8;
	for (unsigned shift = 39; r == 0; shift -= 9) {
		r = step64(c, k, table, va, shift);
		table = k->page;
	}
	return r;
}

static int walk_pae(struct vp *c, struct walk *k, uint64_t va)
{
	uint64_t pdpte = c->pdpte[(va >> 30) & 3];
	int r;

	k->entry_size = 8;
	if (!(pdpte & PTE_P))
		return -1;
	r = step64(c, k, pdpte & ADDR_MASK, va, 21);
	return r ? r : step64(c, k, k->page, va, 12);
}

static int walk_32(struct vp *c, struct walk *k, uint64_t va)
{
	uint64_t gpa = (c->cr3 & 0xfffff000) + ((va >> 22) & 1023) * 4;
	uint64_t e = read_entry(c, gpa, 4);

	k->entry_size = 4;
	if (!(e & PTE_P))
		return -1;
	k->levels[k->count++] = (struct level){ gpa, e };
	k->w = e & PTE_W;
	k->u = e & PTE_U;
	if ((e & PTE_PS) && (c->cr4 & CR4_PSE)) {
		k->leaf_shift = 22;
		k->page = (e & 0xffc00000) | ((e >> 13) & 0xff) << 32; /* PSE-36 */
		if (e & BIT(21) || (k->page & c->rsvd_mask))
			return -2;
		return 1;
	}
	gpa = (e & 0xfffff000) + ((va >> 12) & 1023) * 4;
	e = read_entry(c, gpa, 4);
	if (!(e & PTE_P))
		return -1;
	k->levels[k->count++] = (struct level){ gpa, e };
	k->w &= !!(e & PTE_W);
	k->u &= !!(e & PTE_U);
	k->leaf_shift = 12;
	k->page = e & 0xfffff000;
	return 1;
}

static bool allowed(const struct vp *c, const struct walk *k, enum sc_access access, bool user)
{
	if (user && !k->u)
		return false;
	if (access == ACCESS_EXEC)
		return !(k->nx && (c->efer & EFER_NXE)) && !(!user && k->u && (c->cr4 & CR4_SMEP));
	if (access == ACCESS_WRITE)
		return k->w || (!user && !(c->cr0 & CR0_WP));
	return true;
}

/* Accessed bits in all entries, dirty in the leaf; false: an entry changed meanwhile. */
static bool set_accessed(struct vp *c, const struct walk *k, bool write)
{
	for (unsigned i = 0; i < k->count; i++) {
		const struct level *l = &k->levels[i];
		uint64_t bits = PTE_A | (write && i == k->count - 1 ? PTE_D : 0);

		if (!update_entry(c, l->gpa, k->entry_size, l->entry, bits))
			return false;
	}
	return true;
}

static uint32_t fault_code(const struct vp *c, enum sc_access access, bool user, uint32_t cause)
{
	uint32_t code = cause | (user ? PF_U : 0);

	if (access == ACCESS_WRITE)
		code |= PF_W;
	if (access == ACCESS_EXEC && ((c->efer & EFER_NXE) || (c->cr4 & CR4_SMEP)))
		code |= PF_I;
	return code;
}

/* 0, or the error code of the page fault with bit 31 set. */
static uint32_t translate(struct vp *c, uint64_t va, enum sc_access access, bool user,
			  struct translation *ret)
{
	struct walk k;
	uint64_t leaf;
	int r;

	if (c->paging == PAGING_NONE) {
		*ret = (struct translation){ va & PAGE_MASK, true, false, 12 };
		return 0;
	}
	do {
		k = (struct walk){ .w = true, .u = true };
		r = c->paging == PAGING_LONG  ? walk_long(c, &k, va)
		    : c->paging == PAGING_PAE ? walk_pae(c, &k, va)
					      : walk_32(c, &k, va);
		if (r < 0)
			return BIT(31) | fault_code(c, access, user, r == -2 ? PF_P | PF_RSVD : 0);
		if (!allowed(c, &k, access, user))
			return BIT(31) | fault_code(c, access, user, PF_P);
	} while (!set_accessed(c, &k, access == ACCESS_WRITE));
	leaf = k.levels[k.count - 1].entry;
	ret->page = k.page | (va & (BIT(k.leaf_shift) - 1) & PAGE_MASK);
	ret->writable =
	    ((leaf & PTE_D) || access == ACCESS_WRITE) && allowed(c, &k, ACCESS_WRITE, user);
	ret->global = (leaf & PTE_G) && (c->cr4 & CR4_PGE);
	ret->shift = (uint8_t)k.leaf_shift;
	return 0;
}

bool sc_load_pdptes(struct vp *c, uint64_t cr3)
{
	uint64_t e[4];
	uint64_t reserved = (c->rsvd_mask & ~PTE_NX) | PTE_NX | 0x1e6;

	for (unsigned i = 0; i < 4; i++) {
		e[i] = read_entry(c, (cr3 & 0xffffffe0) + i * 8, 8);
		if ((e[i] & PTE_P) && (e[i] & reserved))
			return false;
	}
	memcpy(c->pdpte, e, sizeof(e));
	return true;
}

static bool canonical(uint64_t va)
{
	return (uint64_t)((int64_t)(va << 16) >> 16) == va;
}

static _Noreturn void canonical_fault(struct vp *c, struct uop *u, enum sc_access access)
{
	sc_fault_code(c, u, u && u->seg == PART_SS && access != ACCESS_EXEC ? VEC_SS : VEC_GP, 0);
}

/* Translates or raises #PF; #GP or #SS for a non-canonical address. */
static void translate_or_fault(struct vp *c, struct uop *u, uint64_t va, enum sc_access access,
			       bool user, struct translation *ret)
{
	uint32_t code;

	if (c->mode == MODE_64 && unlikely(!canonical(va)))
		canonical_fault(c, u, access);
	code = translate(c, va, access, user, ret);
	if (likely(!code))
		return;
	c->cr2 = va;
	sc_fault_code(c, u, VEC_PF, code & 0xffff);
}

/* Enters a RAM page into the TLB; returns its host address, or NULL if it is not RAM. */
static uint8_t *fill(struct vp *c, struct sc_tlb *t, uint64_t va, const struct translation *x)
{
	unsigned slot = (unsigned)(va >> MEM_PAGE_SHIFT) & (TLB_SIZE - 1);
	struct sc_tlb_entry *e = &t->e[slot];
	uint8_t *host = sc_ram(c->vm, x->page);

	if (unlikely(c->private_memory == PRIVATE_TRANSLATOR))
		host = sc_lockstep_page(c, host, true);
	if (!host)
		return NULL;
	if (!x->global) {
		if (t->local_count == TLB_SIZE)
			tlb_clear_local(t);
		t->local[t->local_count++] = (uint16_t)slot;
	}
	e->rtag = va & PAGE_MASK;
	e->wtag = x->writable ? va & PAGE_MASK : free_tag(slot);
	e->page = (uint64_t)host;
	e->flags = sc_flags_at(c->vm, host);
	if (likely(!c->private_memory))
		mem_looked_up(c->vm->mem, sc_page_of(c->vm, host));
	t->attr[slot] = (x->global ? TLB_GLOBAL : 0) | (x->shift > 12 ? TLB_LARGE : 0);
	if (x->shift > t->largest)
		t->largest = x->shift;
	if (x->shift > MEM_PAGE_SHIFT)
		note_large(c, va, x->shift);
	return host;
}

/* What the TLB has needs no walk; inside one page. ret->gpa isn't set. */
static bool known(struct vp *c, const struct sc_tlb *t, uint64_t va, unsigned size, bool write,
		  struct sc_target *ret)
{
	const struct sc_tlb_entry *e = &t->e[(va >> MEM_PAGE_SHIFT) & (TLB_SIZE - 1)];
	uint64_t off = va ^ (write ? e->wtag : e->rtag);

	if (off > MEM_PAGE_SIZE - size || c->mode != MODE_64 ||
	    c->private_memory == PRIVATE_INTERPRETER)
		return false;
	*ret = (struct sc_target){ .host = (uint8_t *)(e->page + off) };
	return true;
}

static struct sc_target resolve(struct vp *c, struct uop *u, struct sc_tlb *t, uint64_t va,
				enum sc_access access)
{
	struct translation x;
	struct sc_target r;

	if (known(c, t, va, 1, access == ACCESS_WRITE, &r))
		return r;
	if (c->mode != MODE_64)
		va &= UINT32_MAX;
	translate_or_fault(c, u, va, access, t == &c->tlbs[1], &x);
	r.gpa = x.page | (va & ~PAGE_MASK);
	r.host = fill(c, t, va, &x);
	if (unlikely(c->private_memory == PRIVATE_INTERPRETER))
		r.host = sc_lockstep_page(c, r.host, access == ACCESS_WRITE);
	if (r.host)
		r.host += va & ~PAGE_MASK;
	return r;
}

/* Versions are never given out twice: before they run out everything that kept one is dropped. */
#define LAST_VERSIONS 0xffff0000u

/* The same for the same two, if not too many others came in between. */
static uint32_t version_of(struct vp *c, uint64_t tag, uint64_t page)
{
	uint64_t h = (tag ^ page * UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xd6e8feb86659fd93);
	struct sc_page_version *v = &c->page_versions[h >> (64 - PAGE_VERSIONS_BITS)];

	if (v->tag != tag || v->page != page || !v->version) {
		*v = (struct sc_page_version){ tag, page, ++c->xtlb_versions };
		if (unlikely(c->xtlb_versions == LAST_VERSIONS))
			sc_invalidate_all(c);
	}
	return v->version;
}

static void xtlb_fill(struct vp *c, struct sc_xtlb_entry *e, uint64_t tag,
		      const struct translation *x)
{
	if (!x->global) {
		if (c->xtlb_local_count == XTLB_SIZE)
			xtlb_clear_local(c);
		c->xtlb_local[c->xtlb_local_count++] = (uint16_t)(e - c->xtlb);
	}
	e->tag = tag;
	if (x->shift > MEM_PAGE_SHIFT)
		note_large(c, tag, x->shift);
	e->gpa_attr = x->page | (uint64_t)x->shift << XTLB_SHIFT | (x->global ? TLB_GLOBAL : 0);
	e->version = version_of(c, tag, x->page);
}

void sc_xtlb_new_versions(struct vp *c)
{
	c->xtlb_versions = 0;
	xtlb_clear(c);
	memset(c->page_versions, 0, sizeof(c->page_versions));
}

uint64_t sc_fetch_gpa(struct vp *c, uint64_t va, struct uop *u)
{
	uint64_t tag = (va & PAGE_MASK) | (c->cpl == 3);
	struct sc_xtlb_entry *e = sc_xtlb_slot(c, va);
	struct translation x;

	if (unlikely(e->tag != tag)) {
		translate_or_fault(c, u, va, ACCESS_EXEC, c->cpl == 3, &x);
		xtlb_fill(c, e, tag, &x);
	}
	return (e->gpa_attr & PAGE_MASK) | (va & ~PAGE_MASK);
}

/* ---- device memory ---- */

/* The largest power of two that starts at gpa, ends within size and within 8 bytes. */
static unsigned mmio_piece(uint64_t gpa, unsigned size)
{
	unsigned piece = 8;

	while (piece > size || (gpa & 7) + piece > 8)
		piece /= 2;
	return piece;
}

static uint64_t mmio_read(struct vp *c, uint64_t gpa, unsigned size)
{
	if (lapic_mmio_hit(c->lapic, gpa))
		return lapic_mmio_read(c->lapic, gpa, size);
	return c->vm->host.mmio_read(c->vm->host.user, c->index, gpa, size);
}

static void mmio_write(struct vp *c, uint64_t gpa, unsigned size, uint64_t v)
{
	if (lapic_mmio_hit(c->lapic, gpa)) {
		lapic_mmio_write(c->lapic, gpa, size, v);
		sc_attention(c, ATT_EVAL);
		return;
	}
	c->vm->host.mmio_write(c->vm->host.user, c->index, gpa, size, v);
	sc_device_written(c->vm, gpa);
}

static void copy_bytes(void *dst, const void *src, unsigned size)
{
	switch (size) {
	case 1:
		HOST(8, dst) = HOST(8, src);
		break;
	case 2:
		HOST(16, dst) = HOST(16, src);
		break;
	case 4:
		HOST(32, dst) = HOST(32, src);
		break;
	case 8:
		HOST(64, dst) = HOST(64, src);
		break;
	default:
		memcpy(dst, src, size);
	}
}

static void read_target(struct vp *c, struct sc_target t, void *ret, unsigned size)
{
	uint8_t *p = ret;

	if (t.host) {
		copy_bytes(ret, t.host, size);
		return;
	}
	while (size) {
		unsigned piece = mmio_piece(t.gpa, size);
		uint64_t v = mmio_read(c, t.gpa, piece);

		memcpy(p, &v, piece);
		p += piece;
		t.gpa += piece;
		size -= piece;
	}
}

static void write_target(struct vp *c, struct sc_target t, const void *v, unsigned size)
{
	const uint8_t *p = v;

	if (t.host) {
		copy_bytes(t.host, v, size);
		if (*sc_flags_at(c->vm, t.host))
			sc_stored(c, t.host, size);
		return;
	}
	while (size) {
		unsigned piece = mmio_piece(t.gpa, size);
		uint64_t part = 0;

		memcpy(&part, p, piece);
		mmio_write(c, t.gpa, piece, part);
		p += piece;
		t.gpa += piece;
		size -= piece;
	}
}

/* ---- slow accesses ---- */

/* How many of the bytes are in the first page. That the whole operand is canonical is checked
 * before any of it is translated. */
static unsigned in_first_page(struct vp *c, struct uop *u, uint64_t va, unsigned size)
{
	unsigned left = MEM_PAGE_SIZE - (unsigned)(va & ~PAGE_MASK);

	if (left < size && c->mode == MODE_64 && !canonical(va + size - 1))
		canonical_fault(c, u, ACCESS_READ);
	return MIN(left, size);
}

/* Both pages are translated before either is touched. */
static void load_via(struct vp *c, struct uop *u, struct sc_tlb *t, uint64_t va, void *ret,
		     unsigned size)
{
	struct sc_target a, b;
	unsigned first;

	if (known(c, t, va, size, false, &a)) {
		read_target(c, a, ret, size);
		return;
	}
	first = in_first_page(c, u, va, size);
	a = resolve(c, u, t, va, ACCESS_READ);
	if (first == size) {
		read_target(c, a, ret, size);
		return;
	}
	b = resolve(c, u, t, va + first, ACCESS_READ);
	read_target(c, a, ret, first);
	read_target(c, b, (uint8_t *)ret + first, size - first);
}

static void store_via(struct vp *c, struct uop *u, struct sc_tlb *t, uint64_t va, const void *v,
		      unsigned size)
{
	struct sc_target a, b;
	unsigned first;

	if (known(c, t, va, size, true, &a)) {
		write_target(c, a, v, size);
		return;
	}
	first = in_first_page(c, u, va, size);
	a = resolve(c, u, t, va, ACCESS_WRITE);
	if (first == size) {
		write_target(c, a, v, size);
		return;
	}
	b = resolve(c, u, t, va + first, ACCESS_WRITE);
	write_target(c, a, v, first);
	write_target(c, b, (const uint8_t *)v + first, size - first);
}

/* Non-canonical addresses fault as such first; those of Intel's processors that are so only at the
 * operand's end don't. */
void sc_check_alignment(struct vp *c, struct uop *u, uint64_t va, unsigned size)
{
	if (likely(!c->align_check) || (size & (size - 1)) || !(va & (size - 1)))
		return;
	if (c->mode != MODE_64 || (canonical(va) && (!c->vm->amd || canonical(va + size - 1))))
		sc_fault_code(c, u, VEC_AC, 0);
}

SC_COLD void sc_load_bytes(struct vp *c, struct uop *u, uint64_t va, void *ret, unsigned size)
{
	load_via(c, u, own_tlb(c), va, ret, size);
}

SC_COLD void sc_store_bytes(struct vp *c, struct uop *u, uint64_t va, const void *v, unsigned size)
{
	store_via(c, u, own_tlb(c), va, v, size);
}

SC_COLD void sc_load_slow(struct vp *c, struct uop *u, uint64_t va, void *ret, unsigned size)
{
	sc_check_alignment(c, u, va, size);
	sc_load_bytes(c, u, va, ret, size);
}

SC_COLD void sc_store_slow(struct vp *c, struct uop *u, uint64_t va, const void *v, unsigned size)
{
	sc_check_alignment(c, u, va, size);
	sc_store_bytes(c, u, va, v, size);
}

uint64_t sc_load_as(struct vp *c, struct uop *u, unsigned cpl, uint64_t va, unsigned size)
{
	uint64_t v = 0;

	load_via(c, u, &c->tlbs[cpl == 3], va, &v, size);
	return v;
}

void sc_store_as(struct vp *c, struct uop *u, unsigned cpl, uint64_t va, uint64_t v, unsigned size)
{
	store_via(c, u, &c->tlbs[cpl == 3], va, &v, size);
}

/* An operand without one host address is read into the bounce buffer, for sc_rmw_end_slow to write
 * back. Meanwhile no other VP does the same, which makes such locked accesses atomic to each other;
 * against plain accesses of other VPs they are not. */
SC_COLD uint8_t *sc_rmw_slow(struct vp *c, struct uop *u, uint64_t va, unsigned size,
			     uint8_t **flags)
{
	struct sc_target a, b = { 0 };
	unsigned first;

	sc_check_alignment(c, u, va, size);
	first = in_first_page(c, u, va, size);
	a = resolve(c, u, own_tlb(c), va, ACCESS_WRITE);
	if (first == size && a.host) {
		*flags = sc_flags_at(c->vm, a.host);
		return a.host;
	}
	if (first < size)
		b = resolve(c, u, own_tlb(c), va + first, ACCESS_WRITE);
	pthread_mutex_lock(&c->vm->bus_lock);
	c->bounce_part[0] = a;
	c->bounce_part[1] = b;
	c->bounce_first = first;
	*flags = &c->vm->always_slow;
	read_target(c, a, c->bounce, first);
	if (first < size)
		read_target(c, b, c->bounce + first, size - first);
	return c->bounce;
}

SC_COLD void sc_rmw_end_slow(struct vp *c, struct uop *u, uint8_t *host, unsigned size)
{
	unsigned first = c->bounce_first;

	if (host != c->bounce) {
		sc_stored(c, host, size);
		return;
	}
	write_target(c, c->bounce_part[0], c->bounce, first);
	if (first < size)
		write_target(c, c->bounce_part[1], c->bounce + first, size - first);
	pthread_mutex_unlock(&c->vm->bus_lock);
}

SC_COLD void sc_stored(struct vp *c, uint8_t *host, unsigned size)
{
	struct sc_vm *vm = c->vm;
	uint64_t page = sc_page_of(vm, host);
	uint8_t flags = __atomic_load_n(&vm->page_flags[page], __ATOMIC_SEQ_CST);

	if (flags & MEM_PAGE_CLEAN)
		mem_dirty_log_set(vm->mem, page);
	if (flags & MEM_PAGE_CODE)
		sc_code_written(vm, c, sc_host_to_gpa(vm, host), size);
}

SC_COLD struct block *sc_stored_next(struct vp *c, struct uop *u, uint8_t *host, unsigned size)
{
	sc_stored(c, host, size);
	NEXT;
}

void sc_probe_write(struct vp *c, struct uop *u, uint64_t va, unsigned len)
{
	unsigned first = in_first_page(c, u, va, len);

	resolve(c, u, own_tlb(c), va, ACCESS_WRITE);
	if (first < len)
		resolve(c, u, own_tlb(c), va + first, ACCESS_WRITE);
}

uint8_t *sc_bulk(struct vp *c, struct uop *u, uint64_t va, bool write, unsigned *ret_len)
{
	struct sc_tlb_entry *e;

	if (c->mode != MODE_64)
		va &= UINT32_MAX;
	e = &own_tlb(c)->e[(va >> MEM_PAGE_SHIFT) & (TLB_SIZE - 1)];
	*ret_len = MEM_PAGE_SIZE - (unsigned)(va & ~PAGE_MASK);
	if (((va ^ (write ? e->wtag : e->rtag)) & PAGE_MASK) == 0 &&
	    likely(c->private_memory != PRIVATE_INTERPRETER))
		return (uint8_t *)(e->page + (va & ~PAGE_MASK));
	return resolve(c, u, own_tlb(c), va, write ? ACCESS_WRITE : ACCESS_READ).host;
}

/* ---- effective addresses with everything ---- */

static _Noreturn void seg_fault(struct vp *c, struct uop *u, unsigned seg)
{
	sc_fault_code(c, u, seg == PART_SS ? VEC_SS : VEC_GP, 0);
}

static bool seg_allows(const struct part_segment *s, bool write)
{
	unsigned a = s->attributes;

	if (!(a & SEG_P) || !(a & SEG_S))
		return false;
	if (a & SEG_CODE)
		return !write && (a & SEG_RW);
	return !write || (a & SEG_RW);
}

static bool seg_in_limit(const struct part_segment *s, uint64_t off, unsigned size)
{
	uint64_t last = off + size - 1;

	if ((s->attributes & (SEG_CODE | SEG_DOWN)) == SEG_DOWN)
		return off > s->limit && last <= (s->attributes & SEG_DB ? UINT32_MAX : 0xffff);
	return last <= s->limit;
}

uint64_t sc_linear(struct vp *c, struct uop *u, unsigned seg, uint64_t off, unsigned size,
		   bool write)
{
	const struct part_segment *s = &c->seg[seg];

	if (c->mode == MODE_64)
		return off + c->segbase[seg];
	if (!seg_in_limit(s, off, size))
		seg_fault(c, u, seg);
	if ((c->cr0 & CR0_PE) && !seg_allows(s, write))
		seg_fault(c, u, seg);
	return (uint32_t)(s->base + off);
}

uint64_t sc_ea_slow(struct vp *c, struct uop *u)
{
	uint64_t off = REG64(c, u->base) + (REG64(c, u->index) << u->scale) + (uint64_t)u->disp;

	if (u->ea & EA_A16)
		off &= 0xffff;
	else if (u->ea & EA_A32)
		off &= UINT32_MAX;
	if (!(u->ea & EA_SEG))
		return off + c->segbase[u->seg];
	return sc_linear(c, u, u->seg, off, 1u << (u->ea >> EA_SIZE_SHIFT), u->ea & EA_WRITE);
}
