#include "config/config-json.h"

#include "base/macros.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static struct config_vm *full_vm(void)
{
	struct config_vm *vm = config_vm_new("Wëb \"1\"");
	struct config_disk disk = {
		.path = (char *)"/tmp/a.vhdx", .lun = 0, .minimum_iops = 20, .maximum_iops = 500
	};
	struct config_disk dvd = { .kind = CONFIG_DISK_DVD, .controller_number = 1, .lun = 63 };
	struct config_nic nic = { .name = (char *)"Network Adapter",
				  .switch_name = (char *)"Default Switch",
				  .mac = { 0x00, 0x15, 0x5d, 1, 2, 3 } };
	struct config_socket socket = { .name = (char *)"Log", .path = (char *)"/run/log" };

	vm->memory_bytes = 4 * GIB;
	vm->processor_count = 3;
	vm->processor = (struct config_processor){ 10, 60, 250, true };
	vm->backend = CONFIG_BACKEND_SOFT;
	vm->code_cache_bytes = 32 * MIB;
	guid_generate(&vm->scsi_ids[1]);
	vm->scsi_count = 2;
	vm->ic_enabled[CONFIG_IC_KVP] = false;
	vm->critical_action = CONFIG_CRITICAL_NONE;
	vm->recovery_action = CONFIG_RECOVERY_RESTART;
	vm->critical_minutes = 5;
	config_set_string(&vm->notes, "line\nline", NULL);
	config_set_string(&vm->kernel_path, "/boot/vmlinuz", NULL);
	config_set_string(&vm->kernel_cmdline, "console=ttyS0", NULL);
	assert_non_null(config_add_disk(vm, &disk, NULL));
	assert_non_null(config_add_disk(vm, &dvd, NULL));
	guid_generate(&nic.id);
	assert_non_null(config_add_nic(vm, &nic, NULL));
	guid_generate(&socket.service);
	assert_int_equal(config_add_socket(vm, &socket, NULL), 0);
	vm->firmware = (struct config_firmware){ .secure_boot_template = 1,
						 .console_mode = CONFIG_CONSOLE_COM2,
						 .pause_after_boot_failure = true,
						 .startup_order = { 0, 1, 2, 3 } };
	vm->disks[1].boot_position = 1;
	vm->nics[0].boot_position = CONFIG_BOOT_NEVER;
	vm->nics[0].mac_spoofing = true;
	vm->com[1].debugger_mode = true;
	assert_int_equal(config_set_com_path(&vm->com[1], "\\\\.\\pipe\\web", NULL), 0);
	return vm;
}

static void test_round_trip(void **state)
{
	struct config_vm *vm = full_vm(), *back;
	json_t *json = config_vm_to_json(vm), *again;
	struct error err = { 0 };

	json_object_set_new(json, "colour", json_string("red"));
	assert_int_equal(config_vm_from_json(json, &back, &err), 0);
	again = config_vm_to_json(back);
	assert_true(json_equal(json, again));
	assert_string_equal(back->name, vm->name);
	assert_int_equal(back->memory_bytes, 4 * GIB);
	assert_int_equal(back->processor.reserve_percent, 10);
	assert_int_equal(back->processor.maximum_percent, 60);
	assert_int_equal(back->processor.weight, 250);
	assert_true(back->processor.compatible);
	assert_int_equal(back->code_cache_bytes, 32 * MIB);
	assert_int_equal(back->disks[0].minimum_iops, 20);
	assert_int_equal(back->disks[0].maximum_iops, 500);
	assert_int_equal(back->disks[1].lun, 63);
	assert_int_equal(back->disks[1].kind, CONFIG_DISK_DVD);
	assert_null(back->disks[1].path);
	assert_memory_equal(back->nics[0].mac, vm->nics[0].mac, 6);
	assert_false(back->ic_enabled[CONFIG_IC_KVP]);
	assert_int_equal(back->critical_action, CONFIG_CRITICAL_NONE);
	assert_int_equal(back->critical_minutes, 5);
	assert_int_equal(back->recovery_action, CONFIG_RECOVERY_RESTART);
	assert_true(back->ic_enabled[CONFIG_IC_SHUTDOWN]);
	json_decref(json);
	json_decref(again);
	config_vm_free(vm);
	config_vm_free(back);
}

/* A description that was good, with one member replaced (or removed: NULL). */
static void expect_refused(const char *member, json_t *value, const char *says)
{
	struct config_vm *vm = full_vm(), *back = NULL;
	json_t *json = config_vm_to_json(vm);
	struct error err = { 0 };

	if (value)
		json_object_set_new(json, member, value);
	else
		json_object_del(json, member);
	assert_int_not_equal(config_vm_from_json(json, &back, &err), 0);
	if (!strstr(err.text, says))
		fail_msg("'%s' does not say '%s'", err.text, says);
	json_decref(json);
	config_vm_free(vm);
}

static void test_what_is_refused(void **state)
{
	json_t *drive =
	    json_pack("{s:i,s:s,s:s}", "location", 1, "kind", "hard-disk", "path", "/a");
	json_t *same = json_pack("[{s:s,s:[O,O]}]", "id", "f8615163-df3e-46c5-913f-f2d2f965ed0e",
				 "drives", drive, drive);

	json_decref(drive);
	expect_refused("version", json_integer(2), "version 2");
	expect_refused("requires", json_pack("[s]", "tpm"), "'tpm'");
	expect_refused("name", NULL, "'name' is missing");
	expect_refused("name", json_string(""), "empty");
	expect_refused("name", json_string("a\nb"), "control");
	expect_refused("name", json_integer(5), "'name' is not a text");
	expect_refused("id", json_string("5"), "GUID");
	expect_refused("generation", json_integer(3), "generation 3");
	expect_refused("floppy", json_string("/a.vfd"), "generation 1");
	expect_refused("memory_bytes", json_integer(1024), "multiple of 2 MB");
	expect_refused("memory_bytes", json_integer(2 * MIB), "between 32 MB");
	expect_refused("memory_bytes", json_integer(-1), "not negative");
	expect_refused("processor_count", json_integer(0), "between 1 and 64");
	expect_refused("processor_count", json_integer(65), "between 1 and 64");
	expect_refused("processor_count", json_integer(1LL << 40), "too large");
	expect_refused("backend", json_string("quick"), "backend");
	expect_refused("code_cache_bytes", json_integer(4096), "between 1 MiB and 1 GiB");
	expect_refused("code_cache_bytes", json_integer(INT64_MAX), "between 1 MiB and 1 GiB");
	expect_refused("scsi_controllers", same, "taken");
	expect_refused("scsi_controllers",
		       json_pack("[{s:s,s:[],s:i}]", "id", "x", "drives", "y", 1),
		       "'y' is not known");
	expect_refused("network_adapters", json_pack("[i]", 1), "not an object");
	expect_refused("boot", json_pack("{s:{s:s}}", "linux", "kernel", "vmlinuz"), "absolute");
	expect_refused("integration_services", json_pack("{s:b}", "Tea", 1), "'Tea'");
	expect_refused("communication_services",
		       json_pack("[{s:s,s:s}]", "service", "5", "name", "x"), "GUID");
	expect_refused("communication_services",
		       json_pack("[{s:s,s:s,s:s}]", "service",
				 "f8615163-df3e-46c5-913f-f2d2f965ed0e", "name", "x", "path", "y"),
		       "absolute");
}

static void test_limits_of_adding(void **state)
{
	struct config_vm *vm = config_vm_new("x");
	struct config_disk disk = { .path = (char *)"/a" };
	struct config_nic nic = { .name = (char *)"n", .mac = { 0, 0x15, 0x5d } };
	struct error err;
	unsigned controller, lun;

	for (unsigned i = 0; i < CONFIG_LOCATIONS_PER_SCSI; i++) {
		assert_int_equal(
		    config_free_location(vm, CONFIG_BUS_SCSI, -1, &controller, &lun, &err), 0);
		assert_int_equal(lun, i);
		disk.lun = lun;
		assert_non_null(config_add_disk(vm, &disk, &err));
	}
	assert_int_equal(config_free_location(vm, CONFIG_BUS_SCSI, -1, &controller, &lun, &err),
			 -ERR_LIMIT);
	assert_int_equal(config_free_location(vm, CONFIG_BUS_SCSI, 1, &controller, &lun, &err),
			 -ERR_NOT_FOUND);
	assert_null(config_add_disk(vm, &disk, &err));
	config_remove_disk(vm, 5);
	assert_int_equal(config_free_location(vm, CONFIG_BUS_SCSI, 0, &controller, &lun, &err), 0);
	assert_int_equal(lun, 5);
	for (unsigned i = 0; i < CONFIG_MAX_NICS; i++) {
		guid_generate(&nic.id);
		assert_non_null(config_add_nic(vm, &nic, &err));
	}
	assert_null(config_add_nic(vm, &nic, &err));
	assert_int_equal(err.code, ERR_LIMIT);
	config_remove_nic(vm, 0);
	assert_int_equal(config_vm_check(vm, &err), 0);
	config_vm_free(vm);
}

static void test_files(void **state)
{
	char folder[] = "/tmp/test-config-XXXXXX";
	struct config_vm *vm = full_vm(), *back;
	struct error err;
	int dir, fd;

	assert_non_null(mkdtemp(folder));
	dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(config_load(dir, "vm.json", &back, &err), -ERR_NOT_FOUND);
	/* What a crash in the middle of a save leaves does no harm. */
	fd = openat(dir, ".vm.json.new", O_CREAT | O_WRONLY, 0600);
	assert_int_equal(write(fd, "{", 1), 1);
	close(fd);
	assert_int_equal(config_save(dir, "vm.json", vm, &err), 0);
	assert_int_equal(faccessat(dir, ".vm.json.new", F_OK, 0), -1);
	assert_int_equal(config_load(dir, "vm.json", &back, &err), 0);
	assert_true(guid_equal(&vm->id, &back->id));
	config_vm_free(back);
	fd = openat(dir, "bad.json", O_CREAT | O_WRONLY, 0600);
	assert_int_equal(write(fd, "{\"version\":", 11), 11);
	close(fd);
	assert_int_equal(config_load(dir, "bad.json", &back, &err), -ERR_CORRUPT);
	assert_int_equal(config_load(dir, ".", &back, &err), -ERR_INVALID);
	unlinkat(dir, "vm.json", 0);
	unlinkat(dir, "bad.json", 0);
	close(dir);
	rmdir(folder);
	config_vm_free(vm);
}

static void test_mac(void **state)
{
	uint8_t mac[6];
	char text[CONFIG_MAC_TEXT_SIZE];

	assert_true(config_mac_parse("00155D0102aF", mac));
	assert_string_equal(config_mac_format(mac, text), "00:15:5d:01:02:af");
	assert_true(config_mac_parse("00-15-5d-01-02-03", mac));
	assert_true(config_mac_parse("00:15:5d:01:02:03", mac));
	assert_false(config_mac_parse("00:15:5d:01:02", mac));
	assert_false(config_mac_parse("00:15:5d:01:02:03:04", mac));
	assert_false(config_mac_parse("0", mac));
	assert_false(config_mac_parse("", mac));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_what_is_refused),
		cmocka_unit_test(test_limits_of_adding),
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_mac),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
