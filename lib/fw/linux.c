#include "fw/linux.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "fw/linux-payload.h"

#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>

#define KERNEL_FILE_MAX (256u << 20)

/* Offsets in the zero page; the setup header has the same ones in a bzImage. */
enum {
	ZP_ACPI_RSDP = 0x070,
	ZP_RAMDISK_IMAGE_HIGH = 0x0c0,
	ZP_RAMDISK_SIZE_HIGH = 0x0c4,
	ZP_E820_ENTRIES = 0x1e8,
	ZP_SETUP_SECTS = 0x1f1,
	ZP_BOOT_FLAG = 0x1fe,
	ZP_HEADER_SIZE = 0x201,
	ZP_HEADER = 0x202,
	ZP_VERSION = 0x206,
	ZP_TYPE_OF_LOADER = 0x210,
	ZP_LOADFLAGS = 0x211,
	ZP_RAMDISK_IMAGE = 0x218,
	ZP_RAMDISK_SIZE = 0x21c,
	ZP_CMD_LINE_PTR = 0x228,
	ZP_INITRD_ADDR_MAX = 0x22c,
	ZP_XLOADFLAGS = 0x236,
	ZP_CMDLINE_SIZE = 0x238,
	ZP_PAYLOAD_OFFSET = 0x248,
	ZP_PAYLOAD_LENGTH = 0x24c,
	ZP_SETUP_DATA = 0x250,
	ZP_PREF_ADDRESS = 0x258,
	ZP_INIT_SIZE = 0x260,
	ZP_E820_TABLE = 0x2d0,
};

#define BOOT_FLAG          0xaa55
#define HEADER_MAGIC       0x53726448 /* "HdrS" */
#define LOADER_UNDEFINED   0xff
#define LOADED_HIGH        0x01
#define XLF_KERNEL_64      0x01
#define SETUP_RNG_SEED     9
#define E820_RAM           1
#define E820_RESERVED      2
#define E820_ENTRY_SIZE    20
#define DEFAULT_CMDLINE    2047
#define DEFAULT_INITRD_MAX 0x7fffffff

struct loader {
	struct mem *mem;
	const uint8_t *file;
	size_t file_len;
	uint8_t zero_page[MEM_PAGE_SIZE];
	uint64_t kernel_end; /* first GPA that the kernel does not need */
	uint64_t entry;
};

/* ---- the kernel ---- */

/* Puts a piece into RAM above 1 MiB and clears what follows it. */
static int place(struct loader *loader, uint64_t gpa, const uint8_t *data, uint64_t len,
		 uint64_t total, struct error *err)
{
	uint8_t *to = total >= len ? mem_ptr(loader->mem, gpa, total) : NULL;

	if (!to || gpa < LINUX_HIGH_RAM_BASE || gpa >= MEM_LOW_TOP)
		return error_set(err, ERR_INVALID,
				 "it wants %llu KiB at 0x%llx, where this VM has no memory",
				 (unsigned long long)(total / KIB), (unsigned long long)gpa);
	memcpy(to, data, len);
	memset(to + len, 0, total - len);
	mem_written(loader->mem, gpa, total);
	loader->kernel_end = MAX(loader->kernel_end, gpa + total);
	return 0;
}

static bool is_elf(const uint8_t *data, size_t len)
{
	return len >= sizeof(Elf64_Ehdr) && memcmp(data, ELFMAG, SELFMAG) == 0;
}

static int load_elf(struct loader *loader, const uint8_t *data, size_t len, struct error *err)
{
	Elf64_Ehdr header;
	unsigned loaded = 0;

	memcpy(&header, data, sizeof(header));
	if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64 ||
	    header.e_phentsize != sizeof(Elf64_Phdr))
		return error_set(err, ERR_INVALID, "it is an ELF file, but not of a 64-bit kernel");
	if (!RANGE_OK(header.e_phoff, (uint64_t)header.e_phnum * sizeof(Elf64_Phdr), len))
		return error_set(err, ERR_CORRUPT, "its program headers lie outside the file");
	for (unsigned i = 0; i < header.e_phnum; i++) {
		Elf64_Phdr segment;
		int r;

		memcpy(&segment, data + header.e_phoff + i * sizeof(segment), sizeof(segment));
		if (segment.p_type != PT_LOAD || segment.p_memsz == 0)
			continue;
		if (!RANGE_OK(segment.p_offset, segment.p_filesz, len))
			return error_set(err, ERR_CORRUPT, "segment %u lies outside the file", i);
		r = place(loader, segment.p_paddr, data + segment.p_offset, segment.p_filesz,
			  segment.p_memsz, err);
		if (r < 0)
			return r;
		loaded++;
	}
	if (!loaded)
		return error_set(err, ERR_INVALID, "it has nothing to load");
	loader->entry = header.e_entry;
	return 0;
}

/* A kernel that did not come as a bzImage has no setup header: the least that boot protocol 2.12
 * asks for. */
static void make_setup_header(uint8_t *zero_page)
{
	store_le16(zero_page + ZP_BOOT_FLAG, BOOT_FLAG);
	store_le32(zero_page + ZP_HEADER, HEADER_MAGIC);
	store_le16(zero_page + ZP_VERSION, 0x020c);
	zero_page[ZP_LOADFLAGS] = LOADED_HIGH;
	store_le32(zero_page + ZP_INITRD_ADDR_MAX, DEFAULT_INITRD_MAX);
	store_le32(zero_page + ZP_CMDLINE_SIZE, DEFAULT_CMDLINE);
}

static bool is_bzimage(const uint8_t *data, size_t len)
{
	return len > ZP_INIT_SIZE + 4 && load_le16(data + ZP_BOOT_FLAG) == BOOT_FLAG &&
	       load_le32(data + ZP_HEADER) == HEADER_MAGIC;
}

/* The kernel expands itself: the protected-mode part goes where it prefers to be. */
static int load_compressed(struct loader *loader, const uint8_t *kernel, size_t len,
			   struct error *err)
{
	const uint8_t *header = loader->zero_page;
	uint64_t address = load_le64(header + ZP_PREF_ADDRESS);
	uint64_t total = MAX(load_le32(header + ZP_INIT_SIZE), len);

	if (!(load_le16(header + ZP_XLOADFLAGS) & XLF_KERNEL_64))
		return error_set(err, ERR_UNSUPPORTED, "it is a 32-bit kernel");
	loader->entry = address + 0x200;
	return place(loader, address, kernel, len, total, err);
}

static int load_bzimage(struct loader *loader, struct error *err)
{
	const uint8_t *file = loader->file;
	size_t header_end = ZP_HEADER + file[ZP_HEADER_SIZE];
	size_t setup = ((file[ZP_SETUP_SECTS] ? file[ZP_SETUP_SECTS] : 4) + 1u) * 512u;
	uint32_t offset = load_le32(file + ZP_PAYLOAD_OFFSET);
	uint32_t len = load_le32(file + ZP_PAYLOAD_LENGTH);
	AUTO_FREE uint8_t *expanded = NULL;
	size_t expanded_len = 0, body_len;
	int r = 0;

	if (load_le16(file + ZP_VERSION) < 0x020c)
		return error_set(err, ERR_UNSUPPORTED,
				 "it has boot protocol %u.%02u; 2.12 (Linux 3.8) is needed",
				 file[ZP_VERSION + 1], file[ZP_VERSION]);
	if (setup >= loader->file_len || header_end > loader->file_len)
		return error_set(err, ERR_CORRUPT, "it is cut short");
	memcpy(loader->zero_page + ZP_SETUP_SECTS, file + ZP_SETUP_SECTS,
	       MIN(header_end, (size_t)ZP_E820_TABLE) - ZP_SETUP_SECTS);
	body_len = loader->file_len - setup;
	if (RANGE_OK(offset, len, body_len))
		r = linux_payload_expand(file + setup + offset, len, &expanded, &expanded_len, err);
	if (r < 0)
		return r;
	if (r == 1 && is_elf(expanded, expanded_len))
		return load_elf(loader, expanded, expanded_len, err);
	return load_compressed(loader, file + setup, body_len, err);
}

static int load_kernel(struct loader *loader, struct error *err)
{
	if (is_bzimage(loader->file, loader->file_len))
		return load_bzimage(loader, err);
	if (is_elf(loader->file, loader->file_len)) {
		make_setup_header(loader->zero_page);
		return load_elf(loader, loader->file, loader->file_len, err);
	}
	return error_set(err, ERR_INVALID, "it is neither a bzImage nor an ELF kernel");
}

/* ---- what goes with it ---- */

static int load_initrd(struct loader *loader, int fd, struct error *err)
{
	uint64_t max = load_le32(loader->zero_page + ZP_INITRD_ADDR_MAX);
	struct mem_range ranges[2];
	uint64_t top, gpa, done = 0;
	struct stat st;
	uint8_t *to;

	if (fstat(fd, &st) < 0)
		return error_set_errno(err, errno, "reading it");
	if (st.st_size <= 0)
		return error_set(err, ERR_INVALID, "it is empty or no regular file");
	mem_ranges(loader->mem, ranges);
	top = MIN(ranges[0].size_bytes, (max ? max : DEFAULT_INITRD_MAX) + 1);
	if ((uint64_t)st.st_size > top ||
	    ALIGN_DOWN(top - (uint64_t)st.st_size, MEM_PAGE_SIZE) < loader->kernel_end)
		return error_set(err, ERR_INVALID,
				 "its %lld MiB do not fit into the VM's memory beside the kernel",
				 (long long)(st.st_size >> 20));
	gpa = ALIGN_DOWN(top - (uint64_t)st.st_size, MEM_PAGE_SIZE);
	to = mem_ptr(loader->mem, gpa, (uint64_t)st.st_size);
	while (done < (uint64_t)st.st_size) {
		ssize_t n = pread(fd, to + done, (size_t)st.st_size - done, (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set_errno(err, errno, "reading it");
		if (n == 0)
			return error_set(err, ERR_IO, "it became shorter while it was read");
		done += (uint64_t)n;
	}
	mem_written(loader->mem, gpa, done);
	store_le32(loader->zero_page + ZP_RAMDISK_IMAGE, (uint32_t)gpa);
	store_le32(loader->zero_page + ZP_RAMDISK_SIZE, (uint32_t)done);
	return 0;
}

static int load_cmdline(struct loader *loader, const char *text, struct error *err)
{
	uint32_t limit = load_le32(loader->zero_page + ZP_CMDLINE_SIZE);
	size_t len = strlen(text);

	limit = MIN(limit ? limit : DEFAULT_CMDLINE, 0x10000u);
	if (len > limit)
		return error_set(err, ERR_INVALID,
				 "the command line has %zu characters; this kernel takes %u", len,
				 limit);
	mem_write(loader->mem, LINUX_CMDLINE_GPA, text, len + 1);
	store_le32(loader->zero_page + ZP_CMD_LINE_PTR, LINUX_CMDLINE_GPA);
	return 0;
}

/* struct setup_data {u64 next; u32 type; u32 len; u8 data[]} with a seed; kernels before 6.1 pass
 * over the type. */
static void make_rng_seed(struct loader *loader)
{
	uint8_t data[16 + 32] = { 0 };

	if (load_le16(loader->zero_page + ZP_VERSION) < 0x0209 || getrandom(data + 16, 32, 0) != 32)
		return;
	store_le32(data + 8, SETUP_RNG_SEED);
	store_le32(data + 12, 32);
	mem_write(loader->mem, LINUX_SETUP_DATA_GPA, data, sizeof(data));
	store_le64(loader->zero_page + ZP_SETUP_DATA, LINUX_SETUP_DATA_GPA);
}

static void add_e820(uint8_t *zero_page, uint64_t base, uint64_t size, uint32_t type)
{
	uint8_t *entry = zero_page + ZP_E820_TABLE + zero_page[ZP_E820_ENTRIES]++ * E820_ENTRY_SIZE;

	store_le64(entry, base);
	store_le64(entry + 8, size);
	store_le32(entry + 16, type);
}

static void make_memory_map(struct loader *loader)
{
	struct mem_range ranges[2];
	unsigned count = mem_ranges(loader->mem, ranges);
	uint8_t *zp = loader->zero_page;

	add_e820(zp, 0, LINUX_LOW_RAM_END, E820_RAM);
	add_e820(zp, LINUX_LOW_RAM_END, LINUX_HIGH_RAM_BASE - LINUX_LOW_RAM_END, E820_RESERVED);
	add_e820(zp, LINUX_HIGH_RAM_BASE, ranges[0].size_bytes - LINUX_HIGH_RAM_BASE, E820_RAM);
	if (count == 2)
		add_e820(zp, ranges[1].gpa, ranges[1].size_bytes, E820_RAM);
}

/* The first 4 GiB one to one, in 2 MiB pages. */
static void make_page_tables(struct mem *mem)
{
	uint64_t table[512] = { LINUX_PAGE_TABLE_GPA + MEM_PAGE_SIZE + 3 };

	mem_write(mem, LINUX_PAGE_TABLE_GPA, table, sizeof(table));
	memset(table, 0, sizeof(table));
	for (uint64_t i = 0; i < 4; i++)
		table[i] = LINUX_PAGE_TABLE_GPA + (2 + i) * MEM_PAGE_SIZE + 3;
	mem_write(mem, LINUX_PAGE_TABLE_GPA + MEM_PAGE_SIZE, table, sizeof(table));
	for (uint64_t i = 0; i < 4; i++) {
		for (uint64_t k = 0; k < 512; k++)
			table[k] = (i * 512 + k) * 2 * MIB + 0x83; /* present, writable, large */
		mem_write(mem, LINUX_PAGE_TABLE_GPA + (2 + i) * MEM_PAGE_SIZE, table,
			  sizeof(table));
	}
}

static void make_gdt(struct mem *mem, struct linux_entry *ret)
{
	/* __BOOT_CS 0x10: 64-bit code; __BOOT_DS 0x18: flat data */
	static const uint64_t gdt[4] = { 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff };

	mem_write(mem, LINUX_GDT_GPA, gdt, sizeof(gdt));
	ret->gdt_base = LINUX_GDT_GPA;
	ret->gdt_limit = sizeof(gdt) - 1;
	ret->code_selector = 0x10;
	ret->data_selector = 0x18;
}

static int load_all(struct loader *loader, const struct linux_boot *boot, struct linux_entry *ret,
		    struct error *err)
{
	uint8_t *zp = loader->zero_page;
	int r = load_kernel(loader, err);

	if (r < 0)
		return error_prefix(err, "the kernel");
	if (boot->initrd_fd >= 0) {
		r = load_initrd(loader, boot->initrd_fd, err);
		if (r < 0)
			return error_prefix(err, "the initramfs");
	}
	r = load_cmdline(loader, boot->cmdline ? boot->cmdline : "", err);
	if (r < 0)
		return r;
	zp[ZP_TYPE_OF_LOADER] = LOADER_UNDEFINED;
	store_le64(zp + ZP_ACPI_RSDP, boot->rsdp_gpa);
	make_rng_seed(loader);
	make_memory_map(loader);
	mem_write(loader->mem, LINUX_ZERO_PAGE_GPA, zp, MEM_PAGE_SIZE);
	make_page_tables(loader->mem);
	make_gdt(loader->mem, ret);
	ret->rip = loader->entry;
	ret->rsi = LINUX_ZERO_PAGE_GPA;
	ret->cr3 = LINUX_PAGE_TABLE_GPA;
	return 0;
}

int linux_load(struct mem *mem, const struct linux_boot *boot, struct linux_entry *ret,
	       struct error *err)
{
	struct loader loader = { .mem = mem };
	struct stat st;
	void *file;
	int r;

	if (fstat(boot->kernel_fd, &st) < 0)
		return error_set_errno(err, errno, "reading the kernel");
	if (!S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size > KERNEL_FILE_MAX)
		return error_set(err, ERR_INVALID,
				 "the kernel: it is empty, too large or no regular file");
	/* A copy: the file may be changed or cut under a mapping. */
	loader.file_len = (size_t)st.st_size;
	file =
	    mmap(NULL, loader.file_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (file == MAP_FAILED)
		return error_set(err, ERR_NO_MEMORY, "no memory for the kernel's file");
	loader.file = file;
	if (pread(boot->kernel_fd, file, loader.file_len, 0) != (ssize_t)loader.file_len)
		r = error_set(err, ERR_IO, "the kernel: it can't be read");
	else
		r = load_all(&loader, boot, ret, err);
	munmap(file, loader.file_len);
	return r;
}
