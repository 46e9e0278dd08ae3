/*
 * The cache of decoded blocks, one per VP, and its coherence with memory.
 *
 * Blocks lie in an arena that is filled from one end, with what belongs to their translations; when
 * it is full, all of it goes. They are found by a hash of physical address and key, and by page for
 * invalidation.
 *
 * Coherence. vm.granules says which 64-byte pieces of a page any VP decoded; the page's
 * MEM_PAGE_CODE flag makes writers look there. A writer stores first and looks then; a decoder
 * marks first and reads (again) then. Between the two on the same page stands a membarrier when the
 * flag is set for the first time, so that one of them sees the other.
 *
 * A written block is not freed but made stale: all its uops become sc_uop_stale, which leaves for
 * the loop. That is how a store into the running block ends it right behind the store. Blocks of
 * other VPs are theirs to touch: they get the range posted and look at it at their next block head.
 */
#include "base/host.h"
#include "part/softcpu/cpu.h"
#include "part/softcpu/fast.h"
#include "part/softcpu/known.h"
#include "part/softcpu/translate.h"

#include <linux/membarrier.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define HASH_BITS 16
#define HASH_SIZE (1u << HASH_BITS)

#define GRANULE 64u

/* Zeroed memory that is touched at random: the host's processor shall need few translations for it.
 */
void *sc_map(size_t size)
{
	size_t room = ALIGN_UP(size, HOST_LARGE_PAGE) + HOST_LARGE_PAGE;
	uint8_t *p = mmap(NULL, room, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *start = (uint8_t *)ALIGN_UP((uintptr_t)p, HOST_LARGE_PAGE);
	size_t before = (size_t)(start - p), used = ALIGN_UP(size, HOST_LARGE_PAGE);

	if (p == MAP_FAILED)
		return NULL;
	if (before)
		munmap(p, before);
	munmap(start + used, room - before - used);
	madvise(start, used, MADV_HUGEPAGE);
	return start;
}

void sc_unmap(void *p, size_t size)
{
	if (p)
		munmap(p, ALIGN_UP(size, HOST_LARGE_PAGE));
}

/* Zeroed memory of which little will be touched. */
static void *map_sparse(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void clear_jcache(struct vp *c);

/*
 * A VP lies in one mapping with its hash and arena, so that what an idle one uses of them is on few
 * large pages: VP, hash, arena, what belongs to copies of translations.
 */
static size_t copies_bytes(const struct sc_vm *vm)
{
	return ALIGN_UP(sc_code_bytes(vm) / 6, 64);
}

static size_t arena_bytes(const struct sc_vm *vm)
{
	size_t rest = vm->code_cache_bytes / 16 * 15; /* the VP is about the last sixteenth */

	return ALIGN_DOWN(rest - sc_code_bytes(vm) - copies_bytes(vm), 64);
}

size_t sc_vp_bytes(const struct sc_vm *vm)
{
	return sizeof(struct vp) + HASH_SIZE * sizeof(struct block *) + arena_bytes(vm) +
	       copies_bytes(vm);
}

int sc_blocks_init(struct vp *c, struct error *err)
{
	clear_jcache(c);
	c->hash = (struct block **)(c + 1);
	c->arena = (uint8_t *)(c->hash + HASH_SIZE);
	c->arena_size = arena_bytes(c->vm);
	c->copies_size = copies_bytes(c->vm);
	c->page_blocks = map_sparse(c->vm->page_count * sizeof(c->page_blocks[0]));
	c->rewritten = map_sparse(c->vm->page_count * sizeof(c->rewritten[0]));
	c->known = known_new();
	if (!c->page_blocks || !c->rewritten || !c->known)
		return error_set(err, ERR_NO_MEMORY, "no memory for the software CPU's blocks");
	return 0;
}

void sc_blocks_done(struct vp *c)
{
	if (c->page_blocks)
		munmap(c->page_blocks, c->vm->page_count * sizeof(c->page_blocks[0]));
	if (c->rewritten)
		munmap(c->rewritten, c->vm->page_count * sizeof(c->rewritten[0]));
	c->rewritten = NULL;
	c->page_blocks = NULL;
	known_free(c->known);
	c->known = NULL;
}

/* ---- lookup ---- */

static struct block **bucket(struct vp *c, uint64_t gpa, unsigned key)
{
	uint64_t h = (gpa ^ (uint64_t)key << 61) * UINT64_C(0x9e3779b97f4a7c15);

	return &c->hash[h >> (64 - HASH_BITS)];
}

static uint64_t code_address(struct vp *c)
{
	uint64_t va = c->segbase[PART_CS] + RIP(c);

	if (likely(c->mode == MODE_64))
		return va;
	if (RIP(c) > c->seg[PART_CS].limit)
		sc_gp(c, NULL);
	return va & UINT32_MAX;
}

struct block *sc_lookup(struct vp *c, unsigned key_flags)
{
	uint64_t gpa = sc_fetch_gpa(c, code_address(c), NULL);
	unsigned key = c->key | key_flags;
	struct block *b = *bucket(c, gpa, key);

	while (b && !(b->gpa == gpa && b->key == key && b->live))
		b = b->hash_next;
	if (unlikely(!b))
		b = sc_decode(c, gpa, key);
	if (likely(c->mode == MODE_64) || RIP(c) + b->len - 1 <= c->seg[PART_CS].limit)
		return b;
	/* The instruction that passes the limit faults, those before it don't. */
	if (key_flags & KEY_STEP)
		sc_gp(c, NULL);
	return sc_lookup(c, KEY_STEP);
}

/* ---- insertion ---- */

void *sc_arena_alloc(struct vp *c, size_t size)
{
	void *p = c->arena + c->arena_used;

	size = ALIGN_UP(size, 8);
	if (size > c->arena_size - c->arena_used)
		return NULL;
	c->arena_used += size;
	return p;
}

struct block *sc_block_alloc(struct vp *c, unsigned uop_count)
{
	size_t size = sizeof(struct block) + uop_count * sizeof(struct uop);
	struct block *b;

	c->arena_used = ALIGN_UP(c->arena_used, 64);
	b = sc_arena_alloc(c, size);
	if (!b) {
		sc_blocks_flush(c);
		b = sc_arena_alloc(c, size);
	}
	memset(b, 0, sizeof(*b));
	return b;
}

static struct block **page_list(struct vp *c, uint64_t gpa)
{
	const uint8_t *host = sc_ram(c->vm, gpa);

	return host ? &c->page_blocks[sc_page_of(c->vm, host)] : NULL;
}

static void link_page(struct vp *c, struct block *b, unsigned which, uint64_t gpa)
{
	struct block **list = page_list(c, gpa);

	if (!list)
		return;
	b->page_next[which] = *list;
	*list = b;
}

/* Code outside RAM, in a ROM: nobody tells when it changes, but guests do it by writing there. */
static _Atomic uint64_t *rom_word(struct sc_vm *vm, uint64_t gpa, uint64_t *ret_mask)
{
	unsigned bit = (gpa >> MEM_PAGE_SHIFT) & (ROM_FILTER_BITS - 1);

	*ret_mask = BIT(bit % 64);
	return &vm->rom_filter[bit / 64];
}

static void note_rom(struct sc_vm *vm, uint64_t gpa)
{
	uint64_t mask;

	_Atomic uint64_t *word = rom_word(vm, gpa, &mask);

	if (!sc_ram(vm, gpa))
		atomic_fetch_or(word, mask);
}

/* ---- code that is written again and again ---- */

/* So often a block is interpreted first where code was hot before. */
#define REWRITTEN_RUNS 1
/* One of so many such blocks has to become hot like any other, to see whether they still do. */
#define REWRITTEN_TRIAL 11

static uint64_t *rewritten_word(struct vp *c, const struct block *b, uint64_t *ret_bit)
{
	const uint8_t *host = sc_ram(c->vm, b->gpa);

	*ret_bit = BIT(b->gpa / GRANULE % (MEM_PAGE_SIZE / GRANULE));
	return host ? &c->rewritten[sc_page_of(c->vm, host)] : NULL;
}

/* b's code was written: shall the next one there be translated soon? */
static void note_rewritten(struct vp *c, const struct block *b)
{
	uint64_t bit, *word = rewritten_word(c, b, &bit);

	if (!word || !c->translator)
		return;
	if (b->xls)
		*word |= bit;
	else if (*word & bit)
		*word &= ~bit;
}

static void warm_up(struct vp *c, struct block *b)
{
	uint64_t bit, *word = rewritten_word(c, b, &bit);
	unsigned hot;

	if (!word || !(*word & bit))
		return;
	hot = c->translator->hot;
	if (++c->rewritten_decoded % REWRITTEN_TRIAL && hot > REWRITTEN_RUNS + 1)
		b->heat = (uint16_t)(hot - REWRITTEN_RUNS - 1);
}

void sc_block_insert(struct vp *c, struct block *b)
{
	struct block **head = bucket(c, b->gpa, b->key);

	warm_up(c, b);

	b->hash_next = *head;
	*head = b;
	b->live = true;
	link_page(c, b, 0, b->gpa);
	if (b->gpa2 != GPA_NONE)
		link_page(c, b, 1, b->gpa2);
	note_rom(c->vm, b->gpa);
	if (b->gpa2 != GPA_NONE)
		note_rom(c->vm, b->gpa2);
}

/* What an empty jump cache entry points to. */
static struct block dead_block;

static void clear_jcache(struct vp *c)
{
	for (unsigned i = 0; i < JCACHE_SIZE; i++)
		c->jcache[i] = (struct sc_jcache_entry){ 0, &dead_block };
}

void sc_blocks_flush(struct vp *c)
{
	clear_jcache(c);
	memset(c->hash, 0, HASH_SIZE * sizeof(c->hash[0]));
	madvise(c->page_blocks, c->vm->page_count * sizeof(c->page_blocks[0]), MADV_DONTNEED);
	c->arena_used = 0;
	c->link = NULL;
	c->flushes++;
	sc_translations_flush(c);
	sc_xtlb_new_versions(c);
}

/* ---- an idle guest ---- */

/* What the VP has filled of its caches, without the hash, which has one size. */
size_t sc_blocks_held(const struct vp *c)
{
	return c->arena_used + (c->translator ? code_cache_held(&c->translator->cache) : 0);
}

/* The large page that the arena begins on stays. */
void sc_blocks_release(struct vp *c)
{
	uint8_t *first = (uint8_t *)ALIGN_UP((uintptr_t)c->arena, HOST_LARGE_PAGE);
	uint8_t *end = c->arena + c->arena_size + c->copies_size;

	if (c->translator)
		code_cache_release(&c->translator->cache);
	sc_blocks_flush(c);
	madvise(c->rewritten, c->vm->page_count * sizeof(c->rewritten[0]), MADV_DONTNEED);
	if (first < end)
		madvise(first, (size_t)(end - first), MADV_DONTNEED);
}

/* ---- coherence ---- */

static uint64_t granule_mask(unsigned offset, uint64_t len)
{
	unsigned first = offset / GRANULE;
	unsigned last = (unsigned)MIN((offset + len - 1) / GRANULE, 63);

	return (UINT64_MAX << first) & (UINT64_MAX >> (63 - last));
}

void sc_mark_code(struct vp *c, uint64_t gpa, unsigned len)
{
	struct sc_vm *vm = c->vm;
	uint64_t page = sc_page_of(vm, sc_ram(vm, gpa));
	uint64_t mask = granule_mask(gpa & (MEM_PAGE_SIZE - 1), len);
	uint8_t old;

	pthread_mutex_lock(&vm->code_lock);
	atomic_fetch_or(&vm->granules[page], mask);
	old = __atomic_fetch_or(&vm->page_flags[page], MEM_PAGE_CODE, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&vm->code_lock);
	if (!(old & MEM_PAGE_CODE) && vm->vp_count > 1)
		syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
}

/* Forgets granules, and the page's flag with the last of them; whether any was there. */
static bool unmark_code(struct sc_vm *vm, uint64_t page, uint64_t mask)
{
	uint64_t old;

	if (!(atomic_load(&vm->granules[page]) & mask))
		return false;
	pthread_mutex_lock(&vm->code_lock);
	old = atomic_fetch_and(&vm->granules[page], ~mask);
	if (!(old & ~mask))
		__atomic_fetch_and(&vm->page_flags[page], (uint8_t)~MEM_PAGE_CODE,
				   __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&vm->code_lock);
	return old & mask;
}

struct block *sc_uop_stale(struct vp *c, struct uop *u)
{
	RIP(c) += u->off;
	return NULL;
}

void sc_make_stale(struct vp *c, struct block *b)
{
	struct block **link = bucket(c, b->gpa, b->key);

	while (*link && *link != b)
		link = &(*link)->hash_next;
	if (*link)
		*link = b->hash_next;
	b->live = false;
	c->stale_blocks++;
	sc_translations_drop(c, b);
	for (unsigned i = 0; i < b->uop_count; i++)
		b->uops[i].fn = sc_uop_stale;
}

static bool touches(const struct block *b, uint64_t gpa, uint64_t end)
{
	uint64_t page_end = (b->gpa | (MEM_PAGE_SIZE - 1)) + 1, page = page_end - MEM_PAGE_SIZE;
	uint64_t from = b->gpa, to = MIN(b->gpa + b->len, page_end);

	if (b->xls) {
		from = page + b->seen_from;
		to = page + b->seen_to;
	}
	if (from < end && to > gpa)
		return true;
	return b->gpa2 != GPA_NONE && b->gpa2 < end && b->gpa2 + (b->gpa + b->len - page_end) > gpa;
}

/* Which of the block's two list links belongs to this page. */
static unsigned link_of(const struct block *b, uint64_t page_gpa)
{
	return (b->gpa & ~(uint64_t)(MEM_PAGE_SIZE - 1)) != page_gpa;
}

/* Within one page. Stale blocks leave the page's list. */
static void invalidate_page(struct vp *c, uint64_t gpa, uint64_t len)
{
	uint64_t page_gpa = gpa & ~(uint64_t)(MEM_PAGE_SIZE - 1);
	struct block **link = page_list(c, gpa), *b;

	if (!link)
		return;
	while ((b = *link)) {
		if (b->live && touches(b, gpa, gpa + len)) {
			note_rewritten(c, b);
			sc_make_stale(c, b);
		}
		if (b->live)
			link = &b->page_next[link_of(b, page_gpa)];
		else
			*link = b->page_next[link_of(b, page_gpa)];
	}
	if (len == MEM_PAGE_SIZE) /* the page has another use now */
		c->rewritten[sc_page_of(c->vm, sc_ram(c->vm, gpa))] = 0;
}

static void invalidate(struct vp *c, uint64_t gpa, uint64_t len)
{
	while (len) {
		uint64_t n = MIN(len, MEM_PAGE_SIZE - (gpa & (MEM_PAGE_SIZE - 1)));

		invalidate_page(c, gpa, n);
		gpa += n;
		len -= n;
	}
}

static void post(struct vp *c, uint64_t gpa, uint64_t len)
{
	pthread_mutex_lock(&c->inv_lock);
	if (c->inv_count < INV_MAX && len <= UINT32_MAX) {
		c->inv[c->inv_count].gpa = gpa;
		c->inv[c->inv_count].len = (uint32_t)len;
		c->inv_count++;
	} else {
		c->inv_count = INV_MAX + 1;
	}
	pthread_mutex_unlock(&c->inv_lock);
	sc_attention(c, ATT_INVALIDATE);
}

void sc_invalidate_all(struct vp *c)
{
	post(c, 0, UINT64_MAX);
}

void sc_device_written(struct sc_vm *vm, uint64_t gpa)
{
	uint64_t mask;
	_Atomic uint64_t *word = rom_word(vm, gpa, &mask);

	if (likely(!(atomic_load_explicit(word, memory_order_relaxed) & mask)))
		return;
	for (unsigned i = 0; i < vm->vp_count; i++)
		sc_invalidate_all(vm->vps[i]);
}

void sc_invalidate_posted(struct vp *c)
{
	pthread_mutex_lock(&c->inv_lock);
	if (c->inv_count > INV_MAX)
		sc_blocks_flush(c);
	for (unsigned i = 0; c->inv_count <= INV_MAX && i < c->inv_count; i++)
		invalidate(c, c->inv[i].gpa, c->inv[i].len);
	c->inv_count = 0;
	pthread_mutex_unlock(&c->inv_lock);
}

/* Whether any VP decoded a granule of the range; forgets those granules. */
static bool take_granules(struct sc_vm *vm, uint64_t gpa, uint64_t len)
{
	bool hit = false;

	while (len) {
		uint64_t n = MIN(len, MEM_PAGE_SIZE - (gpa & (MEM_PAGE_SIZE - 1)));
		uint8_t *host = sc_ram(vm, gpa);

		if (!host)
			break;
		hit |= unmark_code(vm, sc_page_of(vm, host),
				   granule_mask(gpa & (MEM_PAGE_SIZE - 1), n));
		gpa += n;
		len -= n;
	}
	return hit;
}

/* Whole granules are invalidated: their bits are gone after this. */
void sc_code_written(struct sc_vm *vm, struct vp *self, uint64_t gpa, uint64_t len)
{
	uint64_t first = ALIGN_DOWN(gpa, GRANULE), last = ALIGN_UP(gpa + len, GRANULE);

	if (!take_granules(vm, gpa, len))
		return;
	for (unsigned i = 0; i < vm->vp_count; i++) {
		if (vm->vps[i] == self)
			invalidate(self, first, last - first);
		else if (vm->vps[i])
			post(vm->vps[i], first, last - first);
	}
}
