/* Hyper-V's own files, where they are at hand (shared/testdata/formats beside the source), and
 * trees of our own. */
#include "import/hyperv.h"
#include "import/test-vmcx-writer.h"

#include "base/macros.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char *find_any(void *user, const char *windows_path)
{
	char *path;

	if (user && strstr(windows_path, user))
		return NULL;
	if (asprintf(&path, "/disks/%s", strrchr(windows_path, '\\') + 1) < 0)
		abort();
	return path;
}

static bool has_switch(void *user, const char *name)
{
	return strcmp(name, "Default Switch") == 0;
}

static int new_mac(void *user, const struct config_vm *config, uint8_t ret[6], struct error *err)
{
	memcpy(ret, "\x00\x15\x5d\x01\x02\x03", 6);
	ret[5] = (uint8_t)config->nic_count;
	return 0;
}

static struct import_vm *import(const uint8_t *data, size_t size, const char *not_there)
{
	const struct import_env env = { (void *)not_there, find_any, has_switch, new_mac };
	struct error err = { 0 };
	struct import_vm *vm = NULL;
	struct key *root = NULL;

	if (import_read(data, size, &root, &err) < 0 || import_hyperv(root, &env, &vm, &err) < 0)
		fail_msg("%s", err.text);
	key_free(root);
	return vm;
}

/* ---- real files ---- */

static struct import_vm *import_sample(const char *name, const char *not_there)
{
	const char *root = getenv("OYAKO_SOURCE_ROOT"), *data = getenv("OYAKO_TESTDATA");
	char path[4096];
	struct import_vm *vm;
	struct stat st;
	uint8_t *bytes;
	int fd;

	if (data)
		snprintf(path, sizeof(path), "%s/%s", data, name);
	else
		snprintf(path, sizeof(path), "%s/../shared/testdata/formats/%s", root ? root : ".",
			 name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	assert_int_equal(fstat(fd, &st), 0);
	bytes = malloc((size_t)st.st_size);
	assert_int_equal(read(fd, bytes, (size_t)st.st_size), st.st_size);
	close(fd);
	vm = import(bytes, (size_t)st.st_size, not_there);
	free(bytes);
	return vm;
}

struct expected {
	const char *file, *name, *id, *disk;
	unsigned generation, version, memory_mb, processors, disks, adapters, controllers;
	enum config_bus bus;
};

static void check_sample(const struct expected *e)
{
	struct import_vm *vm = import_sample(e->file, NULL);
	char id[GUID_TEXT_SIZE];

	if (!vm)
		skip();
	assert_string_equal(vm->config->name, e->name);
	assert_string_equal(guid_format(&vm->config->id, id), e->id);
	assert_int_equal(vm->config->generation, e->generation);
	assert_int_equal(vm->hyperv_version, e->version);
	assert_int_equal(vm->config->memory_bytes, e->memory_mb * MIB);
	assert_int_equal(vm->config->processor_count, e->processors);
	assert_int_equal(vm->config->disk_count, e->disks);
	assert_int_equal(vm->config->nic_count, e->adapters);
	assert_int_equal(vm->config->scsi_count, e->controllers);
	assert_int_equal(vm->config->disks[0].bus, e->bus);
	assert_int_equal(vm->config->disks[0].kind, CONFIG_DISK_HARD);
	assert_string_equal(vm->config->disks[0].path, e->disk);
	assert_false(import_vm_blocked(vm));
	import_vm_free(vm);
}

static void test_version_9(void **state)
{
	check_sample(&(struct expected){ .file = "gen1-v9.vmcx",
					 .name = "Other Location",
					 .id = "282874fc-59d6-4f30-bc04-5fdd909c82e0",
					 .disk = "/disks/Other Location.vhdx",
					 .generation = 1,
					 .version = 0x0900,
					 .memory_mb = 1024,
					 .processors = 1,
					 .disks = 2,
					 .adapters = 1,
					 .controllers = 1,
					 .bus = CONFIG_BUS_IDE });
}

static void test_version_5_generation_1(void **state)
{
	check_sample(&(struct expected){ .file = "B90AC31B-C6F8-479F-9B91-07B894A6A3F6.xml",
					 .name = "Default Generation 1",
					 .id = "b90ac31b-c6f8-479f-9b91-07b894a6a3f6",
					 .disk = "/disks/Default Generation 1.vhdx",
					 .generation = 1,
					 .version = 0x0500,
					 .memory_mb = 512,
					 .processors = 1,
					 .disks = 2,
					 .adapters = 1,
					 .controllers = 1,
					 .bus = CONFIG_BUS_IDE });
}

static void test_startup_order(void **state)
{
	struct import_vm *vm = import_sample("gen1-v9.vmcx", NULL);

	if (!vm)
		skip();
	assert_string_equal(config_boot_kinds.words[vm->config->firmware.startup_order[0]], "CD");
	assert_string_equal(config_boot_kinds.words[vm->config->firmware.startup_order[3]],
			    "Floppy");
	import_vm_free(vm);
}

static void test_version_5_generation_2(void **state)
{
	check_sample(&(struct expected){ .file = "D351C151-DAC7-4042-B434-B72D522C1E4A.xml",
					 .name = "Default Generation 2",
					 .id = "d351c151-dac7-4042-b434-b72d522c1e4a",
					 .disk = "/disks/Default Generation 2.vhdx",
					 .generation = 2,
					 .version = 0x0500,
					 .memory_mb = 512,
					 .processors = 1,
					 .disks = 1,
					 .adapters = 1,
					 .controllers = 1,
					 .bus = CONFIG_BUS_SCSI });
}

static const struct import_note *find_note(const struct import_vm *vm, const char *text)
{
	for (size_t i = 0; i < vm->note_count; i++)
		if (strstr(vm->notes[i].text, text))
			return &vm->notes[i];
	return NULL;
}

static void test_a_disk_that_is_not_there(void **state)
{
	struct import_vm *vm = import_sample("gen1-v9.vmcx", "Other Location.vhdx");
	const struct import_note *note;

	if (!vm)
		skip();
	note = find_note(vm, "'Other Location.vhdx' was not found");
	assert_non_null(note);
	assert_int_equal(note->severity, IMPORT_BLOCKS);
	assert_int_equal(note->message_id, 40010);
	assert_true(import_vm_blocked(vm));
	import_vm_free(vm);
}

/* ---- trees of our own, through the container ---- */

#define SCSI_INSTANCE "73e0f0c5-c0bc-4e16-a458-0e1c388bfee3"
#define NIC_INSTANCE  "1bc9500e-ad4b-426e-ad70-d04cbeb2033b"

static const char template[] =
    "<configuration>"
    "<properties><name type=\"string\">t</name><subtype type=\"integer\">1</subtype>"
    "<global_id type=\"string\">282874FC-59D6-4F30-BC04-5FDD909C82E0</global_id>"
    "<version type=\"integer\">2560</version></properties>"
    "<settings><memory><bank><size type=\"integer\">4096</size>"
    "<dynamic_memory_enabled type=\"bool\">True</dynamic_memory_enabled>"
    "<reservation type=\"integer\">1024</reservation><limit type=\"integer\">8193</limit>"
    "<target_memory_buffer type=\"integer\">25</target_memory_buffer>"
    "<priority type=\"integer\">7500</priority></bank></memory>"
    "<processors><count type=\"integer\">4</count><weight type=\"integer\">250</weight>"
    "<reservation type=\"integer\">10500</reservation><limit type=\"integer\">50001</limit>"
    "<features><limit type=\"bool\">True</limit></features></processors></settings>"
    "<manifest><vdev001><device type=\"string\">D422512D-2BF2-4752-809D-7B82B5FCB1B4</device>"
    "<instance type=\"string\">" SCSI_INSTANCE "</instance></vdev001>"
    "<vdev002><device type=\"string\">2fc216b0-d2e2-4967-9b6d-b8a5c9ca2778</device>"
    "<instance type=\"string\">" NIC_INSTANCE "</instance></vdev002></manifest>"
    "<_" SCSI_INSTANCE "_>"
    "<ChannelInstanceGuid type=\"string\">{7D6F884F-489B-48EB-991E-E04EA1219D12}"
    "</ChannelInstanceGuid>"
    "<controller0><drive3><pathname type=\"string\">D:\\vm\\a.vhdx</pathname>"
    "<type type=\"string\">VHD</type></drive3>"
    "<drive7><pathname type=\"string\">D:\\vm\\gone.iso</pathname>"
    "<type type=\"string\">ISO</type></drive7></controller0></_" SCSI_INSTANCE "_>"
    "<_" NIC_INSTANCE "_><FriendlyName type=\"string\">LAN</FriendlyName>"
    "<MacAddress type=\"string\">00-15-5D-0A-0B-0C</MacAddress>"
    "<MacAddressIsStatic type=\"bool\">True</MacAddressIsStatic>"
    "<IsConnected type=\"bool\">True</IsConnected>"
    "<Connection><AltSwitchName type=\"string\">Office</AltSwitchName></Connection>"
    "</_" NIC_INSTANCE "_>"
    "<_9f8233ac-be49-4c79-8ee3-e7e1985b2077_><Enabled type=\"bool\">False</Enabled>"
    "</_9f8233ac-be49-4c79-8ee3-e7e1985b2077_>"
    "<_ac6b8dc1-3257-4a70-b1b2-a9c9215659ad_>"
    "<secure_boot_enabled type=\"bool\">True</secure_boot_enabled>"
    "<secure_boot_template_id type=\"string\">272E7447-90A4-4563-A4B9-8E4AB00526CE"
    "</secure_boot_template_id>"
    "<pxe_preferred_protocol type=\"integer\">6</pxe_preferred_protocol>"
    "<pause_after_boot_failure type=\"bool\">True</pause_after_boot_failure>"
    "</_ac6b8dc1-3257-4a70-b1b2-a9c9215659ad_>"
    "<_8e3a359f-559a-4b6a-98a9-1690a6100ed7_><port0><connection type=\"string\">"
    "\\\\.\\pipe\\one</connection></port0><port1><connection type=\"string\">"
    "\\\\other\\pipe\\two</connection></port1></_8e3a359f-559a-4b6a-98a9-1690a6100ed7_>"
    "<global_settings><power><host_startup><action type=\"integer\">2</action></host_startup>"
    "<host_shutdown><action type=\"integer\">0</action></host_shutdown></power></global_settings>"
    "</configuration>";

static void check_template(const struct import_vm *vm)
{
	const struct config_vm *config = vm->config;
	char id[GUID_TEXT_SIZE], mac[CONFIG_MAC_TEXT_SIZE];

	assert_int_equal(config->generation, 2);
	assert_int_equal(config->processor_count, 4);
	assert_int_equal(config->processor.weight, 250);
	assert_int_equal(config->processor.reserve_percent, 10);
	assert_int_equal(config->processor.maximum_percent, 51);
	assert_true(config->processor.compatible);
	assert_int_equal(config->memory_bytes, 4 * GIB);
	assert_true(config->dynamic_memory.enabled);
	assert_int_equal(config->dynamic_memory.minimum_bytes, 1 * GIB);
	assert_int_equal(config->dynamic_memory.maximum_bytes, 8 * GIB);
	assert_int_equal(find_note(vm, "maximum memory")->severity, IMPORT_CHANGED);
	assert_int_equal(config->dynamic_memory.buffer_percent, 25);
	assert_int_equal(config->dynamic_memory.priority, 75);
	assert_string_equal(guid_format(&config->scsi_ids[0], id),
			    "7d6f884f-489b-48eb-991e-e04ea1219d12");
	assert_int_equal(config->disk_count, 2);
	assert_string_equal(config_find_disk(config, CONFIG_BUS_SCSI, 0, 3)->path, "/disks/a.vhdx");
	assert_null(config_find_disk(config, CONFIG_BUS_SCSI, 0, 7)->path);
	assert_int_equal(find_note(vm, "the medium 'gone.iso'")->severity, IMPORT_CHANGED);
	assert_string_equal(config->nics[0].name, "LAN");
	assert_string_equal(config_mac_format(config->nics[0].mac, mac), "00:15:5d:0a:0b:0c");
	assert_true(config->nics[0].static_mac);
	assert_null(config->nics[0].switch_name);
	assert_int_equal(find_note(vm, "Ethernet switch 'Office'")->message_id, 33012);
	assert_false(config->ic_enabled[CONFIG_IC_SHUTDOWN]);
	assert_true(config->ic_enabled[CONFIG_IC_HEARTBEAT]);
	assert_int_equal(config->start_action, CONFIG_START_ALWAYS);
	assert_int_equal(config->stop_action, CONFIG_STOP_TURN_OFF);
	assert_true(config->firmware.secure_boot);
	assert_int_equal(config->firmware.secure_boot_template, CONFIG_SECURE_BOOT_UEFI_CA);
	assert_int_equal(config->firmware.network_protocol, CONFIG_BOOT_IPV6);
	assert_true(config->firmware.pause_after_boot_failure);
	assert_string_equal(config->com[0].path, "\\\\.\\pipe\\one");
	assert_null(config->com[1].path);
	assert_int_equal(find_note(vm, "COM 2 was connected")->severity, IMPORT_LOST);
	assert_false(import_vm_blocked(vm));
}

static void test_xml_and_vmcx_say_the_same(void **state)
{
	struct import_vm *vm = import((const uint8_t *)template, strlen(template), "gone.iso");
	struct key *root;
	uint8_t *file;
	size_t size;

	check_template(vm);
	import_vm_free(vm);
	assert_int_equal(import_read((const uint8_t *)template, strlen(template), &root, NULL), 0);
	file = vmcx_write(root, false, &size);
	key_free(root);
	vm = import(file, size, "gone.iso");
	check_template(vm);
	import_vm_free(vm);
	free(file);
}

static void test_not_a_vm(void **state)
{
	static const char text[] = "<Configurations><a/></Configurations>";
	const struct import_env env = { NULL, find_any, has_switch, new_mac };
	struct import_vm *vm;
	struct error err;
	struct key *root;

	assert_int_equal(import_read((const uint8_t *)text, strlen(text), &root, &err), 0);
	assert_int_equal(import_hyperv(root, &env, &vm, &err), -ERR_INVALID);
	key_free(root);
}

/* ---- looking for disks ---- */

static void make(const char *folder, const char *name)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	if (name[strlen(name) - 1] == '/') {
		assert_int_equal(mkdir(path, 0700), 0);
		return;
	}
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
}

static void expect_file(const char *config, const char *vhds, const char *windows,
			const char *folder, const char *found)
{
	AUTO_FREE char *path = import_find_file(config, vhds, windows);
	char expected[4200];

	if (!found) {
		assert_null(path);
		return;
	}
	snprintf(expected, sizeof(expected), "%s/%s", folder, found);
	assert_string_equal(path, expected);
}

static void test_looking_for_disks(void **state)
{
	static const char *const things[] = {
		"Virtual Machines/",       "Virtual Hard Disks/",         "other/",
		"Virtual Machines/x.vmcx", "Virtual Hard Disks/Web.vhdx", "Virtual Machines/b.vhdx",
		"other/Web.vhdx",          "Virtual Hard Disks/b.vhdx"
	};
	char folder[] = "/tmp/oyako-test-import-XXXXXX", config[100], other[100], path[200];

	assert_non_null(mkdtemp(folder));
	for (size_t i = 0; i < ARRAY_SIZE(things); i++)
		make(folder, things[i]);
	snprintf(config, sizeof(config), "%s/Virtual Machines/x.vmcx", folder);
	snprintf(other, sizeof(other), "%s/other", folder);
	expect_file(config, NULL, "C:\\a\\WEB.VHDX", folder, "Virtual Hard Disks/Web.vhdx");
	expect_file(config, other, "C:\\a\\Web.vhdx", folder, "other/Web.vhdx");
	expect_file(config, NULL, "C:\\a\\b.vhdx", folder, "Virtual Machines/b.vhdx");
	expect_file(config, NULL, "C:\\a\\c.vhdx", folder, NULL);
	expect_file(config, NULL, "C:\\a\\..", folder, NULL);
	expect_file(config, NULL, "", folder, NULL);
	snprintf(path, sizeof(path), "%s/Virtual Hard Disks/../other/Web.vhdx", folder);
	expect_file("/nowhere/x.vmcx", NULL, path, folder, "other/Web.vhdx");
	for (size_t i = ARRAY_SIZE(things); i-- > 3;) {
		snprintf(path, sizeof(path), "%s/%s", folder, things[i]);
		unlink(path);
	}
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, things[i]);
		rmdir(path);
	}
	assert_int_equal(rmdir(folder), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_version_9),
		cmocka_unit_test(test_version_5_generation_1),
		cmocka_unit_test(test_version_5_generation_2),
		cmocka_unit_test(test_startup_order),
		cmocka_unit_test(test_a_disk_that_is_not_there),
		cmocka_unit_test(test_xml_and_vmcx_say_the_same),
		cmocka_unit_test(test_not_a_vm),
		cmocka_unit_test(test_looking_for_disks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
