/*
 * VHD and VHDX files that others wrote (Windows, QEMU, ...): read-only with the content that
 * independent readers found, and then for writing, after which QEMU must find no fault.
 *
 * The files are not part of the source. They are looked for in $OYAKO_TESTDATA, or in
 * ../shared/testdata beside the source tree; without them the tests are skipped.
 */
#include "base/guid.h"
#include "base/loop.h"
#include "base/macros.h"
#include "blk/sync.h"
#include "disk/blk-pattern.h"
#include "disk/disk.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

struct sample {
	const char *name, *unpack;
	uint64_t size_bytes;
	const char *id;
	const char *sha256; /* of the disk */
	/* Of the disk's 1 MiB pieces that are not all zero, each after its offset (u64): quicker
	 * for large disks, taken when the one above was right. */
	const char *short_sha256;
	bool vhd;
};

#define ZEROS_40M "80a3721188e40218b08b26776bc53bdae81e4784fff71d71450a197319cba113"
/* No piece is other than zero. */
#define NOTHING "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

static const struct sample samples[] = {
	{ "win10-dynamic-10M.vhdx.gz", "gzip -dc", 10485760, "788015f0-5e93-4bd2-a5de-b0cd8459db11",
	  "8e2b5e9265d694b42b81819e3bff29770eff4ed0f4f9f311693ff3dbdc93efac" },
	{ "win10-fixed-10M.vhdx.gz", "gzip -dc", 10485760, "4a49d245-db0a-4634-9818-9f93db5ba6c1",
	  "bc0be4623b15aa84216fb31ba24e3b621ec7f1c72d198c990ac0eced222d9f62" },
	{ "iotest-dynamic-1G.vhdx.bz2", "bzip2 -dc", 1073741824,
	  "fc7209f1-f6eb-4616-9b77-e994e3017ddd",
	  "d3d112d8dab7fd360609f7d5a7b769904b7a2a7d7b6b8c535f65a23293c05478",
	  "346b4a77bbe7478ba6c1da3cb17af579a45e183f2731cd0b19a2fc6a521c739a" },
	/* its log holds one entry that has to be replayed */
	{ "iotest-dirtylog-10G-4M.vhdx.bz2", "bzip2 -dc", 10737418240,
	  "9cba4bd2-31ac-6745-a10e-380e9086de9d",
	  "179cefe8b0587f123393eedf2aa7aa8d25798591178e6bc3950a09762f38f96f",
	  "220bea4c825eddae2eade36e73c06306a09e567e82ad800523c1a9ebc9cdc6c6" },
	{ "btrfs.vhdx.gz", "gzip -dc", 1073741824, "d38d4f63-596a-467e-b103-506dab1b3208",
	  "0b959f9cb4e18348ad8b646f152178282542c8304f02fddf765e3fd1a1de6864",
	  "529da14e927e21b24cf12baba92b07d6e821f8e670ce9d02f9f13ca2e870b1cf" },
	/* block states 0, 2, 3 and 6 */
	{ "lvm2.vhdx.gz", "gzip -dc", 10737418240, "6d0ff0aa-ac39-4c6e-acde-fb0e5e50f5e6",
	  "f7dc6812a3b12a35f3ec895ce981bd59ff4558270fc80cd812c9cd522bff1295",
	  "1b55526e592fe075af1587a9a694249be308209e05611c16e21ad33d3a283d6a" },
	{ "xfs5.vhdx.gz", "gzip -dc", 10737418240, "b19f702b-3753-4462-82d2-3c38f8f3c033",
	  "edc5d630b2da0ddb08992afb58ded06ffb56b884e184b4974fda16e31b7e6817",
	  "c91d29e92e351f0d5241fd59f3ea0a03bc65a6de94f64f873ca42e360a8f67af" },
	{ "win10-dynamic-10M.vhd.gz", "gzip -dc", 10485760, "040d6a4b-46f9-4ed7-836f-d3dc87e1816b",
	  "ecff2ef6615a3cddc6a6885f1c6d9cf13a232697e1dc6575f2c2f01f57247784", .vhd = true },
	{ "win10-fixed-10M.vhd.gz", "gzip -dc", 10485760, "18e495b8-9438-44e7-9a88-9a420be4e5ca",
	  "459325ab1fcd1d5ec9854cba790ee26378317cda177ffc1072008a1df88e6463", .vhd = true },
	{ "win8.vhd", "cat", 41943040, "7519b7ad-5b4b-400b-b025-d06dab31b26f", ZEROS_40M,
	  .vhd = true },
	{ "win8.1-1GB.vhd", "cat", 1073741824, "c39f1645-a4b8-4577-a9e3-7089070d6426",
	  "49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14", NOTHING, true },
	{ "vbox.vhd", "cat", 41943040, "8392ddae-ee02-9e4f-8111-50f4f6c6f227", ZEROS_40M,
	  .vhd = true },
	{ "xapi.vhd", "cat", 41943040, "52f28ef1-9372-41bb-ad2b-b4ca3b06d304", ZEROS_40M,
	  .vhd = true },
	{ "qemu.vhd", "cat", 41953280, "787bb12d-a507-4d8e-8f08-2ad2e2148e32",
	  "258dd1ab1617727f344d71220c5093e04d7909b1e13b31bfa810edac4f6fa04f", .vhd = true },
	{ "hyperv2012r2-dynamic.vhd.bz2", "bzip2 -dc", 136365211648,
	  "c85f2d6d-baee-4cde-8cee-de3a12db7c98", NULL, NOTHING, true },
	{ "virtualpc-dynamic.vhd.bz2", "bzip2 -dc", 136365211648,
	  "33ea0013-6191-4d02-b93f-88af84296f85", NULL, NOTHING, true },
	{ "d2v-zerofilled.vhd.bz2", "bzip2 -dc", 263454720, "fd29b8e7-6de6-49ba-ac19-6ebdab26cea3",
	  "1ba076be94a8a64541c25aae8d5a5f8b0da758c3797af597e03acb431ff8d143", NULL, true },
};

struct fixture {
	const struct sample *sample;
	struct loop *loop;
	char folder[1024];
	char path[64];
};

static int setup(void **state)
{
	static struct fixture f;
	const char *data = getenv("OYAKO_TESTDATA"), *source = getenv("OYAKO_SOURCE_ROOT");

	if (data)
		snprintf(f.folder, sizeof(f.folder), "%s/formats", data);
	else
		snprintf(f.folder, sizeof(f.folder), "%s/../shared/testdata/formats",
			 source ? source : ".");
	f.sample = *state;
	assert_int_equal(loop_new(&f.loop, NULL), 0);
	strcpy(f.path, "/tmp/oyako-test-samples-XXXXXX");
	close(mkstemp(f.path));
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	unlink(f->path);
	loop_free(f->loop);
	return 0;
}

/* Long runs of zeros become holes. */
static int unpack(const struct fixture *f, const char *name, const char *tool)
{
	char command[1400];

	snprintf(command, sizeof(command), "%s/%s", f->folder, name);
	if (access(command, R_OK) < 0) {
		print_message("%s is not there: skipped\n", command);
		skip();
	}
	snprintf(command, sizeof(command), "%s %s/%s | cp --sparse=always /dev/stdin %s", tool,
		 f->folder, name, f->path);
	assert_int_equal(system(command), 0);
	return open(f->path, O_RDWR | O_CLOEXEC);
}

static struct blk *open_disk(struct fixture *f, int fd, bool read_only, enum disk_engine engine)
{
	struct disk_options options = { .read_only = read_only, .engine = engine };
	struct error err;
	struct blk *disk;

	if (disk_open(f->loop, fd, &options, &disk, &err) < 0)
		fail_msg("%s", err.text);
	return disk;
}

static bool all_zero(const uint8_t *buf, size_t len)
{
	return buf[0] == 0 && memcmp(buf, buf + 1, len - 1) == 0;
}

static void feed(FILE *tool, const uint8_t *buf, size_t len, uint64_t offset, bool whole)
{
	if (!whole && all_zero(buf, len))
		return;
	if (!whole)
		assert_int_equal(fwrite(&offset, 1, sizeof(offset), tool), sizeof(offset));
	assert_int_equal(fwrite(buf, 1, len, tool), len);
}

static void hash_disk(struct blk *disk, bool whole, char ret[static 65])
{
	char path[] = "/tmp/oyako-test-hash-XXXXXX", command[128];
	const size_t step = MIB;
	uint8_t *buf = malloc(step);
	FILE *tool, *result;

	close(mkstemp(path));
	snprintf(command, sizeof(command), "sha256sum > %s", path);
	tool = popen(command, "w");
	assert_non_null(tool);
	for (uint64_t at = 0; at < blk_info(disk)->size_bytes; at += step) {
		size_t len = MIN(step, blk_info(disk)->size_bytes - at);
		struct blk_extent extent;

		assert_int_equal(blk_extent(disk, at, len, &extent, NULL), 0);
		if (!whole && extent.kind == BLK_EXTENT_ZERO && extent.length_bytes == len)
			continue;

		assert_int_equal(blk_read_now(disk, at, buf, len), BLK_OK);
		feed(tool, buf, len, at, whole);
	}
	assert_int_equal(pclose(tool), 0);
	result = fopen(path, "r");
	assert_int_equal(fscanf(result, "%64s", ret), 1);
	fclose(result);
	unlink(path);
	free(buf);
}

static void check_info(int fd, struct blk *disk, const struct sample *sample)
{
	struct disk_details details;
	char id[GUID_TEXT_SIZE];

	assert_int_equal(blk_info(disk)->size_bytes, sample->size_bytes);
	assert_int_equal(blk_info(disk)->logical_sector_bytes, 512);
	assert_int_equal(disk_describe(fd, &details, NULL), 0);
	assert_int_equal(details.format, sample->vhd ? DISK_VHD : DISK_VHDX);
	assert_int_equal(details.size_bytes, sample->size_bytes);
	assert_string_equal(guid_format(&details.id, id), sample->id);
	disk_details_done(&details);
}

/* OYAKO_TEST_SLOW: large disks, too, are hashed as a whole. */
static void check_hash(struct blk *disk, const struct sample *sample)
{
	bool whole = sample->sha256 && (!sample->short_sha256 || getenv("OYAKO_TEST_SLOW"));
	char hash[65];

	hash_disk(disk, whole, hash);
	assert_string_equal(hash, whole ? sample->sha256 : sample->short_sha256);
}

static bool have_qemu_img(void)
{
	return system("command -v qemu-img >/dev/null") == 0;
}

/* QEMU checks VHDX only; VHD it opens. */
static void check_by_qemu(const struct fixture *f, const struct sample *sample)
{
	char command[256];

	if (!have_qemu_img())
		return;
	snprintf(command, sizeof(command), "qemu-img %s %s >/dev/null",
		 sample->vhd ? "info -f vpc" : "check -q -f vhdx", f->path);
	assert_int_equal(system(command), 0);
}

static bool file_unchanged(const struct fixture *f, const char *before)
{
	char command[256];

	snprintf(command, sizeof(command), "test \"$(sha256sum < %s)\" = \"%s\"", f->path, before);
	return system(command) == 0;
}

static void file_hash(const struct fixture *f, char ret[static 80])
{
	char command[256];
	FILE *tool;

	snprintf(command, sizeof(command), "sha256sum < %s", f->path);
	tool = popen(command, "r");
	assert_non_null(fgets(ret, 80, tool));
	ret[strcspn(ret, "\n")] = 0;
	pclose(tool);
}

static void try_read_only(struct fixture *f, const struct sample *sample)
{
	AUTO_CLOSE int fd = -1;
	char before[80];
	struct blk *disk;

	file_hash(f, before);
	disk = open_disk(f, open(f->path, O_RDONLY | O_CLOEXEC), true, DISK_ENGINE_AUTO);
	fd = open(f->path, O_RDONLY | O_CLOEXEC);
	check_info(fd, disk, sample);
	check_hash(disk, sample);
	assert_int_equal(blk_close(disk, NULL), 0);
	assert_true(file_unchanged(f, before));
}

/* Writes at the start, at the end and in the middle, reads it back in a new session. */
static void try_writing(struct fixture *f, const struct sample *sample, int fd)
{
	const uint64_t places[] = { 4096, sample->size_bytes / 2, sample->size_bytes - 8192 };
	uint8_t data[8192], back[8192];
	struct blk *disk = open_disk(f, dup(fd), false, DISK_ENGINE_THREADS);

	check_hash(disk, sample);
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		memset(data, 'a' + (int)i, sizeof(data));
		assert_int_equal(blk_write_now(disk, places[i], data, sizeof(data)), BLK_OK);
		assert_int_equal(blk_flush_now(disk), BLK_OK);
	}
	assert_int_equal(blk_close(disk, NULL), 0);
	check_by_qemu(f, sample);
	disk = open_disk(f, dup(fd), true, DISK_ENGINE_AUTO);
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		memset(data, 'a' + (int)i, sizeof(data));
		assert_int_equal(blk_read_now(disk, places[i], back, sizeof(back)), BLK_OK);
		assert_memory_equal(data, back, sizeof(data));
	}
	assert_int_equal(blk_close(disk, NULL), 0);
}

static void run_sample(void **state, const struct sample *sample)
{
	struct fixture *f = *state;
	AUTO_CLOSE int fd = unpack(f, sample->name, sample->unpack);

	try_read_only(f, sample);
	try_writing(f, sample, fd);
}

static void test_sample(void **state)
{
	struct fixture *f = *state;

	run_sample(state, f->sample);
}

static void refused(void **state, const char *name, const char *tool, enum err_code code)
{
	struct fixture *f = *state;
	AUTO_CLOSE int fd = unpack(f, name, tool);
	struct error err;
	struct blk *disk;

	assert_int_equal(disk_open(f->loop, fd, NULL, &disk, &err), -(int)code);
	print_message("%s: %s\n", name, err.text);
	/* the descriptor is still ours */
	assert_true(fcntl(fd, F_GETFD) >= 0);
}

static uint64_t all_zeros(uint64_t offset)
{
	return 0;
}

static uint64_t all_aa(uint64_t offset)
{
	return UINT64_C(0xAAAAAAAAAAAAAAAA);
}

/* A checkpoint's disk by Hyper-V: partially present blocks, two sector bitmaps. Its short hash was
 * taken when the whole one, that two readers had found, was right. */
static void test_checkpoint(void **state)
{
	struct fixture *f = *state;
	AUTO_CLOSE int fd = unpack(f, "ws2019-checkpoint-8G.avhdx.gz", "gzip -dc");
	const struct sample sample = {
		.size_bytes = 8589934592,
		.id = "89ca62b5-b00d-4b8e-b79a-87e20cad5a40",
		.sha256 = "fc5c91bfd8f7ee388cf482dc7eb6cef64b39a7e1bd043516ee95887b839f2b78",
		.short_sha256 = "7e461b8dd3f7811c3a48bb3cd5b4a92c546a14b4b5bcc658998189b60db74782",
	};
	struct disk_options options = { .parent = blk_pattern_new(f->loop, sample.size_bytes, 512,
								  all_zeros) };
	struct disk_details details;
	char text[GUID_TEXT_SIZE];
	struct blk *disk;

	assert_int_equal(disk_describe(fd, &details, NULL), 0);
	assert_int_equal(details.type, DISK_DIFFERENCING);
	assert_int_equal(details.locator_count, 3);
	assert_string_equal(guid_format(&details.parent_id, text),
			    "ff34003b-11ed-4cf8-a166-b2be05e20b80");
	assert_non_null(strstr(disk_locator_value(&details, "relative_path"),
			       "Generation 1_49C4BAF3-4B25-4406-8C4B-D39E65C32385.avhdx"));
	assert_int_equal(details.blocks_allocated, 32);
	disk_details_done(&details);
	assert_int_equal(disk_open(f->loop, dup(fd), &options, &disk, NULL), 0);
	check_info(fd, disk, &sample);
	check_hash(disk, &sample);
	assert_int_equal(blk_close(disk, NULL), 0);
}

/* Which sectors come from the parent shows when it isn't zero. */
static void test_checkpoint_over_pattern(void **state)
{
	struct fixture *f = *state;
	AUTO_CLOSE int fd = unpack(f, "ws2019-checkpoint-8G.avhdx.gz", "gzip -dc");
	const struct sample sample = {
		.size_bytes = 8589934592,
		.sha256 = "a4338a94ad4e982f76ca8a1f2366ed0f76fda5e450f055f776dc17a0f9358958",
	};
	struct disk_options options = { 0 };
	char hash[65];
	struct blk *disk;

	if (!getenv("OYAKO_TEST_SLOW"))
		skip();
	options.parent = blk_pattern_new(f->loop, sample.size_bytes, 512, all_aa);
	assert_int_equal(disk_open(f->loop, dup(fd), &options, &disk, NULL), 0);
	hash_disk(disk, true, hash);
	assert_string_equal(hash, sample.sha256);
	assert_int_equal(blk_close(disk, NULL), 0);
}

static void test_differencing_needs_its_parent(void **state)
{
	refused(state, "ws2019-checkpoint-8G.avhdx.gz", "gzip -dc", ERR_INVALID);
}

/* A child and its parent, both empty. */
static void test_vhd_chain(void **state)
{
	struct fixture *f = *state;
	struct disk_options options = { .read_only = true };
	struct disk_details details;
	struct blk *disk;
	char path[1400], hash[65];
	int fds[2];

	snprintf(path, sizeof(path), "%s/win8.vhd", f->folder);
	fds[1] = open(path, O_RDONLY | O_CLOEXEC);
	fds[0] = unpack(f, "win8-child.vhd", "cat");
	assert_int_equal(disk_describe(fds[0], &details, NULL), 0);
	assert_int_equal(details.type, DISK_DIFFERENCING);
	assert_string_equal(disk_locator_value(&details, "W2ku"),
			    "C:\\Users\\sergi\\Downloads\\win8.vhd");
	assert_string_equal(disk_locator_value(&details, "W2ru"), ".\\win8.vhd");
	disk_details_done(&details);
	assert_int_equal(disk_open_chain(f->loop, fds, 1, &options, &disk, NULL), -ERR_INVALID);
	assert_int_equal(disk_open_chain(f->loop, fds, 2, &options, &disk, NULL), 0);
	hash_disk(disk, true, hash);
	assert_string_equal(hash, ZEROS_40M);
	assert_int_equal(blk_close(disk, NULL), 0);
}

static void test_damaged_vhd_is_refused(void **state)
{
	refused(state, "badsum-image.vhd.gz", "gzip -dc", ERR_CORRUPT);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

#define OTHERS 5

int main(void)
{
	struct CMUnitTest tests[OTHERS + ARRAY_SIZE(samples)] = {
		TEST(test_differencing_needs_its_parent), TEST(test_checkpoint),
		TEST(test_checkpoint_over_pattern),       TEST(test_vhd_chain),
		TEST(test_damaged_vhd_is_refused),
	};

	for (size_t i = 0; i < ARRAY_SIZE(samples); i++) {
		tests[OTHERS + i] = (struct CMUnitTest)cmocka_unit_test_prestate_setup_teardown(
		    test_sample, setup, teardown, (void *)&samples[i]);
		tests[OTHERS + i].name = samples[i].name;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
