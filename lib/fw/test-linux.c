#include "base/bytes.h"
#include "base/macros.h"
#include "fw/linux.h"

#include <elf.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

#define KERNEL_GPA 0x1000000u
#define CODE       "kernel code"

static int file_of(const void *data, size_t len)
{
	int fd = memfd_create("test", 0);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), len);
	return fd;
}

/* An ELF with one segment of CODE and some zeros after it. */
static size_t make_elf(uint8_t *ret, uint64_t paddr, uint64_t memsz)
{
	Elf64_Ehdr header = { .e_type = ET_EXEC,
			      .e_machine = EM_X86_64,
			      .e_entry = paddr + 4,
			      .e_phoff = sizeof(header),
			      .e_phentsize = sizeof(Elf64_Phdr),
			      .e_phnum = 1 };
	Elf64_Phdr segment = { .p_type = PT_LOAD,
			       .p_offset = sizeof(header) + sizeof(segment),
			       .p_paddr = paddr,
			       .p_filesz = sizeof(CODE),
			       .p_memsz = memsz };

	memcpy(header.e_ident, ELFMAG, SELFMAG);
	header.e_ident[EI_CLASS] = ELFCLASS64;
	memcpy(ret, &header, sizeof(header));
	memcpy(ret + sizeof(header), &segment, sizeof(segment));
	memcpy(ret + segment.p_offset, CODE, sizeof(CODE));
	return segment.p_offset + sizeof(CODE);
}

static size_t make_bzimage(uint8_t *ret, const uint8_t *payload, size_t payload_len)
{
	memset(ret, 0, 5 * 512);
	ret[0x1f1] = 4;
	store_le16(ret + 0x1fe, 0xaa55);
	ret[0x201] = 0x6a;
	store_le32(ret + 0x202, 0x53726448);
	store_le16(ret + 0x206, 0x020f);
	store_le32(ret + 0x22c, 0x7fffffff);
	store_le16(ret + 0x236, 1);
	store_le32(ret + 0x238, 100);
	store_le32(ret + 0x248, 16);
	store_le32(ret + 0x24c, (uint32_t)payload_len);
	store_le64(ret + 0x258, KERNEL_GPA);
	store_le32(ret + 0x260, 0x10000);
	memset(ret + 5 * 512, 0x90, 16);
	memcpy(ret + 5 * 512 + 16, payload, payload_len);
	return 5 * 512 + 16 + payload_len;
}

static size_t gzip(const uint8_t *data, size_t len, uint8_t *ret, size_t ret_size)
{
	z_stream stream = { .next_in = (uint8_t *)data,
			    .avail_in = (unsigned)len,
			    .next_out = ret,
			    .avail_out = (unsigned)ret_size };

	assert_int_equal(deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 8, 0), Z_OK);
	assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
	deflateEnd(&stream);
	return stream.total_out;
}

static int load(uint64_t ram, const void *kernel, size_t len, int initrd_fd, const char *cmdline,
		struct mem **ret_mem, struct linux_entry *entry, struct error *err)
{
	const struct linux_boot boot = { file_of(kernel, len), initrd_fd, cmdline, 0xe0000 };
	int r;

	assert_int_equal(mem_new(ram, ret_mem, NULL), 0);
	r = linux_load(*ret_mem, &boot, entry, err);
	close(boot.kernel_fd);
	return r;
}

static void check_booted(struct mem *mem, const struct linux_entry *entry)
{
	const uint8_t *zero_page = mem_ptr(mem, LINUX_ZERO_PAGE_GPA, MEM_PAGE_SIZE);
	char text[32];

	assert_int_equal(entry->rip, KERNEL_GPA + 4);
	assert_int_equal(entry->rsi, LINUX_ZERO_PAGE_GPA);
	assert_true(mem_read(mem, KERNEL_GPA, text, sizeof(CODE)));
	assert_string_equal(text, CODE);
	assert_int_equal(load_le32(zero_page + 0x202), 0x53726448);
	assert_int_equal(load_le64(zero_page + 0x070), 0xe0000);
	assert_true(mem_read(mem, load_le32(zero_page + 0x228), text, 6));
	assert_string_equal(text, "quiet");
}

static void test_bzimage_is_expanded(void **state)
{
	uint8_t elf[512], packed[512], image[4096];
	size_t len = make_elf(elf, KERNEL_GPA, 0x2000);
	struct linux_entry entry;
	struct error err = { 0 };
	struct mem *mem;
	const uint8_t *zero_page;
	int initrd = file_of("initramfs", 9);
	char text[10] = { 0 };

	len = make_bzimage(image, packed, gzip(elf, len, packed, sizeof(packed)));
	assert_int_equal(load(32 * MIB, image, len, initrd, "quiet", &mem, &entry, &err), 0);
	check_booted(mem, &entry);
	zero_page = mem_ptr(mem, LINUX_ZERO_PAGE_GPA, MEM_PAGE_SIZE);
	assert_int_equal(load_le32(zero_page + 0x21c), 9);
	assert_true(mem_read(mem, load_le32(zero_page + 0x218), text, 9));
	assert_string_equal(text, "initramfs");
	/* RAM, reserved, RAM up to its end. */
	assert_int_equal(zero_page[0x1e8], 3);
	assert_int_equal(load_le64(zero_page + 0x2d0 + 40), 0x100000);
	assert_int_equal(load_le64(zero_page + 0x2d0 + 48), 31 * MIB);
	close(initrd);
	mem_free(mem);
}

static void test_plain_elf_and_memory_above_4g(void **state)
{
	uint8_t elf[512];
	size_t len = make_elf(elf, KERNEL_GPA, sizeof(CODE));
	struct linux_entry entry;
	struct mem *mem;
	const uint8_t *zero_page;

	assert_int_equal(load(MEM_LOW_TOP + GIB, elf, len, -1, "quiet", &mem, &entry, NULL), 0);
	check_booted(mem, &entry);
	zero_page = mem_ptr(mem, LINUX_ZERO_PAGE_GPA, MEM_PAGE_SIZE);
	assert_int_equal(zero_page[0x1e8], 4);
	assert_int_equal(load_le64(zero_page + 0x2d0 + 60), MEM_HIGH_BASE);
	assert_int_equal(load_le64(zero_page + 0x2d0 + 68), GIB);
	mem_free(mem);
}

static void test_unknown_compression_expands_itself(void **state)
{
	uint8_t payload[64] = { 'B', 'Z', 'h' }, image[4096];
	size_t len = make_bzimage(image, payload, sizeof(payload));
	struct linux_entry entry;
	struct mem *mem;

	assert_int_equal(load(32 * MIB, image, len, -1, "quiet", &mem, &entry, NULL), 0);
	assert_int_equal(entry.rip, KERNEL_GPA + 0x200);
	assert_memory_equal(mem_ptr(mem, KERNEL_GPA, 16), image + 5 * 512, 16);
	mem_free(mem);
}

static void refused(uint64_t ram, const void *kernel, size_t len, int initrd, const char *cmdline,
		    enum err_code code, const char *phrase)
{
	struct linux_entry entry;
	struct error err = { 0 };
	struct mem *mem;

	assert_int_equal(load(ram, kernel, len, initrd, cmdline, &mem, &entry, &err), -(int)code);
	assert_non_null(strstr(err.text, phrase));
	mem_free(mem);
}

static void test_what_is_wrong_is_said(void **state)
{
	uint8_t elf[512], packed[512], image[4096];
	size_t elf_len = make_elf(elf, KERNEL_GPA, sizeof(CODE));
	size_t packed_len = gzip(elf, elf_len, packed, sizeof(packed)), len;
	char long_line[200];
	int initrd = file_of(image, sizeof(image));

	refused(32 * MIB, "no kernel", 9, -1, "", ERR_INVALID, "neither a bzImage nor an ELF");
	refused(8 * MIB, elf, elf_len, -1, "", ERR_INVALID, "where this VM has no memory");
	elf_len = make_elf(elf, 0x1000, sizeof(CODE));
	refused(32 * MIB, elf, elf_len, -1, "", ERR_INVALID, "where this VM has no memory");
	elf_len = make_elf(elf, KERNEL_GPA, UINT64_MAX - 5);
	refused(32 * MIB, elf, elf_len, -1, "", ERR_INVALID, "where this VM has no memory");
	store_le64(elf + sizeof(Elf64_Ehdr) + offsetof(Elf64_Phdr, p_offset), UINT64_MAX - 3);
	refused(32 * MIB, elf, elf_len, -1, "", ERR_CORRUPT, "outside the file");
	packed[packed_len / 2] ^= 0x55;
	len = make_bzimage(image, packed, packed_len);
	refused(32 * MIB, image, len, -1, "", ERR_CORRUPT, "gzip payload is damaged");
	store_le16(image + 0x206, 0x0204);
	refused(32 * MIB, image, len, -1, "", ERR_UNSUPPORTED, "boot protocol 2.04");
	packed[packed_len / 2] ^= 0x55;
	len = make_bzimage(image, packed, packed_len);
	memset(long_line, 'x', sizeof(long_line));
	long_line[101] = '\0';
	refused(32 * MIB, image, len, -1, long_line, ERR_INVALID, "101 characters");
	assert_int_equal(ftruncate(initrd, 64 << 20), 0);
	refused(32 * MIB, image, len, initrd, "", ERR_INVALID, "do not fit");
	close(initrd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bzimage_is_expanded),
		cmocka_unit_test(test_plain_elf_and_memory_above_4g),
		cmocka_unit_test(test_unknown_compression_expands_itself),
		cmocka_unit_test(test_what_is_wrong_is_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
