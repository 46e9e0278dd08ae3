#include "config/config.h"

#include "base/macros.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Two disks, a DVD drive, and two adapters. */
static struct config_vm *make_vm(void)
{
	struct config_vm *vm = config_vm_new("web");

	for (unsigned i = 0; i < 3; i++) {
		struct config_disk disk = { .path = (char *)"/a.img",
					    .kind = i == 2 ? CONFIG_DISK_DVD : CONFIG_DISK_HARD,
					    .lun = i };

		assert_non_null(config_add_disk(vm, &disk, NULL));
	}
	for (unsigned i = 0; i < 2; i++) {
		struct config_nic nic = { .name = (char *)(i ? "Second" : "Network Adapter"),
					  .mac = { 0, 0x15, 0x5d, 1, 2, (uint8_t)i } };

		guid_generate(&nic.id);
		assert_non_null(config_add_nic(vm, &nic, NULL));
	}
	return vm;
}

static void assert_order(const struct config_vm *vm, const char *expected)
{
	struct config_boot order[CONFIG_MAX_DISKS + CONFIG_MAX_NICS];
	unsigned count = config_boot_order(vm, order);
	char text[400] = "";

	for (unsigned i = 0; i < count; i++) {
		AUTO_FREE char *one = config_boot_text(&order[i]);

		strcat(text, i ? "," : "");
		strcat(text, one);
	}
	assert_string_equal(text, expected);
}

static void find(const struct config_vm *vm, const char *text, struct config_boot *ret)
{
	struct config_boot found[CONFIG_MAX_NICS];

	assert_int_equal(config_boot_find(vm, text, found), 1);
	*ret = found[0];
}

static void test_boot_order(void **state)
{
	struct config_vm *vm = make_vm();
	struct config_boot order[2], found[CONFIG_MAX_NICS];

	assert_order(vm, "SCSI:0:0,SCSI:0:1,SCSI:0:2,Network Adapter,Second");
	find(vm, "scsi:0:2", &order[0]);
	config_boot_first(vm, &order[0]);
	assert_order(vm, "SCSI:0:2,SCSI:0:0,SCSI:0:1,Network Adapter,Second");
	find(vm, "SECOND", &order[1]);
	config_set_boot_order(vm, order, 2);
	assert_order(vm, "SCSI:0:2,Second");
	/* One that is left out can come back; what is new comes last. */
	find(vm, "SCSI:0:1", &order[0]);
	config_boot_first(vm, &order[0]);
	assert_non_null(
	    config_add_disk(vm, &(struct config_disk){ .path = (char *)"/b.img", .lun = 9 }, NULL));
	assert_order(vm, "SCSI:0:1,SCSI:0:2,Second,SCSI:0:9");
	config_remove_disk(vm, 2);
	assert_order(vm, "SCSI:0:1,Second,SCSI:0:9");
	assert_int_equal(config_boot_find(vm, "SCSI:0:2", found), 0);
	assert_int_equal(config_boot_find(vm, "SCSI:0:99999999999", found), 0);
	assert_int_equal(config_boot_find(vm, "SCSI:0:1 ", found), 0);
	config_vm_free(vm);
}

static void test_words(void **state)
{
	struct config_firmware firmware = config_firmware_default;
	unsigned value = 7;

	assert_true(config_word(&config_console_modes, "com1", &value));
	assert_int_equal(value, CONFIG_CONSOLE_COM1);
	assert_false(config_word(&config_console_modes, "COM3", &value));
	assert_true(config_secure_boot_from_id("272E7447-90A4-4563-A4B9-8E4AB00526CE", &value));
	assert_int_equal(value, CONFIG_SECURE_BOOT_UEFI_CA);
	assert_false(config_secure_boot_from_id("nonsense", &value));
	assert_int_equal(config_firmware_check(&firmware, NULL), 0);
	firmware.startup_order[0] = 3;
	assert_int_equal(config_firmware_check(&firmware, NULL), -ERR_INVALID);
	firmware.startup_order[0] = 400;
	assert_int_equal(config_firmware_check(&firmware, NULL), -ERR_INVALID);
}

static void test_com_paths(void **state)
{
	static const char *const typed[] = { "\\\\.\\pipe\\x y", "\\.\\pipe\\x y", "\\.pipex y",
					     "\\\\.\\PIPE\\x y" };
	static const char *const bad[] = { "pipe",
					   "\\\\host\\pipe\\x",
					   "\\\\.\\pipe\\",
					   "\\\\.\\pipe\\..",
					   "\\\\.\\pipe\\a/b",
					   "\\\\.\\pipe\\a\\b",
					   "/a\nb" };
	struct config_com com = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(typed); i++) {
		assert_int_equal(config_set_com_path(&com, typed[i], NULL), 0);
		assert_string_equal(config_pipe_name(com.path), "x y");
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(config_set_com_path(&com, bad[i], NULL), -ERR_INVALID);
	assert_string_equal(config_pipe_name(com.path), "x y");
	assert_int_equal(config_set_com_path(&com, "/run/com1", NULL), 0);
	assert_null(config_pipe_name(com.path));
	assert_int_equal(config_set_com_path(&com, "", NULL), 0);
	assert_null(com.path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_boot_order),
		cmocka_unit_test(test_words),
		cmocka_unit_test(test_com_paths),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
