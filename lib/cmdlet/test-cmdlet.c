#include "cmdlet/cmdlet.h"

#include "base/macros.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <cmocka.h>

/* ---- the table ---- */

static void check_param(const struct cmdlet *cmdlet, const struct cmdlet_param *param)
{
	unsigned sets = cmdlet_set_count(cmdlet);

	if (!param->help || !param->help[0])
		fail_msg("%s -%s has no help", cmdlet->name, param->name);
	if (param->help[strlen(param->help) - 1] != '.')
		fail_msg("%s -%s: the help is no sentence", cmdlet->name, param->name);
	assert_true(param->sets < (1u << sets));
	assert_true((param->type == CMDLET_ENUM) == (param->values != NULL));
	/* A default must be what one could type. */
	if (param->dflt) {
		char *argv[] = { (char *)"-", (char *)param->dflt };
		char name[64];
		struct cmdlet_invocation invocation;
		struct error err;

		snprintf(name, sizeof(name), "-%s", param->name);
		argv[0] = name;
		if (cmdlet_parse(cmdlet, 2, argv, &invocation, &err) < 0)
			fail_msg("%s -%s: %s", cmdlet->name, param->name, err.text);
		json_decref(invocation.params);
	}
	/* No two of a cmdlet are the same by case, and no two share a position in a set. */
	for (const struct cmdlet_param *other = param + 1; other->name; other++) {
		assert_int_not_equal(strcasecmp(other->name, param->name), 0);
		for (unsigned set = 0; set < sets; set++)
			if (param->position && param->position == other->position &&
			    cmdlet_param_in_set(param, set) && cmdlet_param_in_set(other, set))
				fail_msg("%s: -%s and -%s have one position", cmdlet->name,
					 param->name, other->name);
	}
}

static void test_table_is_complete(void **state)
{
	const struct cmdlet *cmdlet;

	for (size_t i = 0; (cmdlet = cmdlet_at(i)); i++) {
		const char *planned;

		assert_ptr_equal(cmdlet_find(cmdlet->name), cmdlet);
		assert_non_null(cmdlet->synopsis);
		assert_non_null(cmdlet->description);
		assert_non_null(cmdlet->params);
		if (!cmdlet->examples || !cmdlet->examples[0].command)
			fail_msg("%s has no example", cmdlet->name);
		if (cmdlet_planned(cmdlet->name, &planned))
			fail_msg("%s is there and planned", cmdlet->name);
		for (const struct cmdlet_param *p = cmdlet->params; p->name; p++)
			check_param(cmdlet, p);
	}
}

static void test_texts_of_all(void **state)
{
	const struct cmdlet *cmdlet;

	for (size_t i = 0; (cmdlet = cmdlet_at(i)); i++) {
		AUTO_FREE char *help = cmdlet_help_text(cmdlet);
		AUTO_FREE char *page = cmdlet_man_page(cmdlet);

		assert_non_null(strstr(help, "SYNTAX"));
		assert_non_null(strstr(page, ".SH SYNOPSIS"));
	}
}

static void test_openapi(void **state)
{
	json_t *document = cmdlet_openapi("1.2.3");
	json_t *paths = json_object_get(document, "paths"), *schema;

	assert_non_null(paths);
	for (size_t i = 0; cmdlet_at(i); i++) {
		char path[100];

		snprintf(path, sizeof(path), "/v1/cmdlet/%s", cmdlet_at(i)->name);
		assert_int_equal(json_object_get(paths, path) != NULL,
				 cmdlet_at(i)->place == CMDLET_IN_DAEMON);
	}
	assert_int_equal(json_unpack(json_object_get(paths, "/v1/cmdlet/New-VM"),
				     "{s:{s:{s:{s:{s:o}}}}}", "post", "requestBody", "content",
				     "application/json", "schema", &schema),
			 0);
	schema = json_object_get(schema, "properties");
	assert_non_null(json_object_get(schema, "MemoryStartupBytes"));
	assert_null(json_object_get(schema, "ComputerName"));
	json_decref(document);
}

static void test_lines(void **state)
{
	static const struct {
		const char *line, *words[5];
	} lines[] = {
		{ "", { NULL } },
		{ "  get-vm  a ", { "get-vm", "a" } },
		{ "x 'a b' \"c \\\" d\" e\\ f", { "x", "a b", "c \" d", "e f" } },
		{ "x '' a'b'c", { "x", "", "abc" } },
	};
	struct error err;
	char **words;
	int count;

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		int k = 0;

		assert_int_equal(cmdlet_split_line(lines[i].line, 1, 1, &words, &count, &err), 0);
		for (; lines[i].words[k]; k++)
			assert_string_equal(words[1 + k], lines[i].words[k]);
		assert_int_equal(count, k);
		assert_null(words[1 + k]);
		cmdlet_free_words(words, 1);
	}
	assert_int_equal(cmdlet_split_line("a 'b", 0, 0, &words, &count, &err), -ERR_INVALID);
	words = cmdlet_split_pipe("a '|' | b \\| \"\\\"|\"|");
	assert_string_equal(words[0], "a '|' ");
	assert_string_equal(words[1], " b \\| \"\\\"|\"");
	assert_string_equal(words[2], "");
	assert_null(words[3]);
	cmdlet_free_words(words, 0);
	assert_int_equal(cmdlet_split_line("a \"b'", 0, 0, &words, &count, &err), -ERR_INVALID);
}

static void test_looking_up(void **state)
{
	const char *name = NULL;

	assert_string_equal(cmdlet_find("nEw-vM")->name, "New-VM");
	assert_null(cmdlet_find("new"));
	assert_non_null(cmdlet_planned("move-vm", &name));
	assert_string_equal(name, "Move-VM");
	assert_null(cmdlet_planned("new-vm", &name));
	assert_string_equal(cmdlet_suggest("strat-vm"), "Start-VM");
	assert_string_equal(cmdlet_suggest("get-vmharddisk"), "Get-VMHardDiskDrive");
	assert_null(cmdlet_suggest("qwertyuiop"));
	assert_null(
	    cmdlet_suggest("a-name-that-is-far-too-long-to-be-anything-like-a-cmdlets-name"));
}

/* ---- values ---- */

static void test_sizes(void **state)
{
	static const struct {
		const char *text;
		int64_t bytes; /* -1: refused */
	} cases[] = {
		{ "512MB", 512 << 20 },
		{ "4gb", INT64_C(4) << 30 },
		{ "1.5KB", 1536 },
		{ "0", 0 },
		{ "1048576", 1048576 },
		{ "0x200000", 0x200000 },
		{ "7PB", INT64_C(7) << 50 },
		{ "1.3", -1 },
		{ "", -1 },
		{ "MB", -1 },
		{ "-5", -1 },
		{ "5XB", -1 },
		{ "9999999999PB", -1 },
		{ "nan", -1 },
		{ "inf", -1 },
		{ "0x", -1 },
		{ "0xffffffffffffffffff", -1 },
		{ "1e400", -1 },
		{ "5 MB", -1 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int64_t bytes = -1;
		bool ok = cmdlet_parse_size(cases[i].text, &bytes);

		if (ok != (cases[i].bytes >= 0) || bytes != cases[i].bytes)
			fail_msg("'%s' gave %d, %lld", cases[i].text, ok, (long long)bytes);
	}
}

static void test_wildcards(void **state)
{
	assert_true(cmdlet_wildcard_match("web*", "WEB-1"));
	assert_true(cmdlet_wildcard_match("w?b", "Web"));
	assert_true(cmdlet_wildcard_match("web", "Web"));
	assert_true(cmdlet_wildcard_match("[a-c]x", "bx"));
	assert_false(cmdlet_wildcard_match("web", "web1"));
	assert_false(cmdlet_wildcard_match("w?b", "wb"));
	assert_true(cmdlet_wildcard_match("*", ""));
}

/* ---- command lines ---- */

#define PARSE(name, ...)                                                                           \
	parse_line(name, (char *[]){ __VA_ARGS__ }, ARRAY_SIZE(((char *[]){ __VA_ARGS__ })))

static struct error last_error;
static struct cmdlet_invocation last;

/* The parameters as JSON text, or NULL; the caller's. */
static char *parse_line(const char *name, char **argv, size_t argc)
{
	json_t *checked;
	char *text;

	if (cmdlet_parse(cmdlet_find(name), (int)argc, argv, &last, &last_error) < 0)
		return NULL;
	if (cmdlet_check(cmdlet_find(name), last.params, &checked, &last_error) < 0) {
		json_decref(last.params);
		json_decref(last.objects);
		return NULL;
	}
	text = json_dumps(checked, JSON_COMPACT | JSON_SORT_KEYS);
	json_decref(checked);
	json_decref(last.params);
	json_decref(last.objects);
	return text;
}

static void expect(char *got, const char *wanted)
{
	if (!got)
		fail_msg("refused: %s", last_error.text);
	assert_string_equal(got, wanted);
	free(got);
}

static void refuse(char *got, enum err_code code, const char *says)
{
	if (got)
		fail_msg("not refused: %s", got);
	assert_int_equal(last_error.code, code);
	if (!strstr(last_error.text, says))
		fail_msg("'%s' does not say '%s'", last_error.text, says);
}

static void test_command_lines(void **state)
{
	expect(PARSE("Get-VM", (char *)"a,b*"), "{\"Name\":[\"a\",\"b*\"]}");
	expect(PARSE("Get-VM", (char *)"-name", (char *)"a\\,b"), "{\"Name\":[\"a,b\"]}");
	expect(PARSE("Get-VM", (char *)"-Id:F8615163-DF3E-46C5-913F-F2D2F965ED0E"),
	       "{\"Id\":\"F8615163-DF3E-46C5-913F-F2D2F965ED0E\"}");
	expect(PARSE("Stop-VM", (char *)"a", (char *)"-turn"),
	       "{\"Name\":[\"a\"],\"TurnOff\":true}");
	expect(PARSE("Stop-VM", (char *)"a", (char *)"-TurnOff:$false"), "{\"Name\":[\"a\"]}");
	expect(PARSE("Set-VMMemory", (char *)"a", (char *)"-Start", (char *)"1GB"),
	       "{\"StartupBytes\":1073741824,\"VMName\":[\"a\"]}");
	expect(PARSE("Set-VM", (char *)"a", (char *)"-Notes:-dash"),
	       "{\"Name\":[\"a\"],\"Notes\":\"-dash\"}");
	expect(PARSE("Set-VM", (char *)"a", (char *)"-Backend", (char *)"KVM"),
	       "{\"Backend\":\"kvm\",\"Name\":[\"a\"]}");
	expect(PARSE("New-VM", (char *)"--json", (char *)"-LinuxKernelPath", (char *)"/k",
		     (char *)"-Confirm:$false"),
	       "{\"Backend\":\"auto\",\"Generation\":2,\"LinuxKernelPath\":\"/k\","
	       "\"MemoryStartupBytes\":536870912,\"Name\":\"New Virtual Machine\","
	       "\"ProcessorCount\":1}");
	assert_true(last.json);
	assert_int_equal(last.confirm, 0);
}

/* As PowerShell's users write them. */
static void test_powershell_ways(void **state)
{
	/* Values without a name go where those with one have left a place. */
	expect(PARSE("Get-VMIntegrationService", (char *)"VSS", (char *)"-VMName", (char *)"a"),
	       "{\"Name\":[\"VSS\"],\"VMName\":[\"a\"]}");
	/* Lists with spaces beside their commas. */
	expect(PARSE("Start-VM", (char *)"a,", (char *)"b", (char *)",c"),
	       "{\"Name\":[\"a\",\"b\",\"c\"]}");
	expect(PARSE("Start-VM", (char *)"-Name", (char *)"a\\,", (char *)"-Passthru"),
	       "{\"Name\":[\"a,\"],\"Passthru\":true}");
	/* Common parameters, shortened and by their aliases. */
	expect(PARSE("Remove-VM", (char *)"a", (char *)"-Conf:$false", (char *)"-wa:Stop",
		     (char *)"-Verb", (char *)"-EA", (char *)"0"),
	       "{\"Name\":[\"a\"]}");
	assert_int_equal(last.confirm, 0);
	assert_true(last.quiet);
	/* What a POSIX shell leaves of -Confirm:$false and of $null. */
	expect(PARSE("Remove-VM", (char *)"a", (char *)"-Confirm:"), "{\"Name\":[\"a\"]}");
	assert_int_equal(last.confirm, 0);
	expect(PARSE("Set-VMDvdDrive", (char *)"a", (char *)"-Path", (char *)"-Passthru"),
	       "{\"Passthru\":true,\"Path\":\"\",\"VMName\":\"a\"}");
	expect(PARSE("Stop-VM", (char *)"a", (char *)"-WhatIf"), "{\"Name\":[\"a\"]}");
	assert_true(last.what_if);
}

static void test_bad_command_lines(void **state)
{
	refuse(PARSE("Get-VM", (char *)"-Nmae", (char *)"x"), ERR_INVALID, "did you mean -Name");
	refuse(PARSE("Get-VM", (char *)"-Name"), ERR_INVALID, "needs a value");
	refuse(PARSE("Get-VM", (char *)"a", (char *)"b"), ERR_INVALID, "no place");
	refuse(PARSE("Get-VM", (char *)"a", (char *)"-Id", (char *)"x"), ERR_INVALID, "GUID");
	refuse(PARSE("Get-VM", (char *)"a", (char *)"-Id",
		     (char *)"f8615163-df3e-46c5-913f-f2d2f965ed0e"),
	       ERR_INVALID, "can't be used with");
	refuse(PARSE("Get-VM", (char *)"\xff"), ERR_INVALID, "UTF-8");
	refuse(PARSE("New-VM", (char *)"-N", (char *)"x"), ERR_INVALID, "ambiguous");
	refuse(PARSE("New-VM", (char *)"-Generation", (char *)"3"), ERR_LIMIT, "between 1 and 2");
	refuse(PARSE("Start-VM", (char *)"--json"), ERR_INVALID, "needs -Name");
	refuse(PARSE("Get-VM", (char *)"a", (char *)"-WhatIf"), ERR_UNSUPPORTED, "changes nothing");
	refuse(PARSE("Set-VMMemory", (char *)"a", (char *)"-DynamicMemoryEnabled",
		     (char *)"-Buffer", (char *)"20"),
	       ERR_INVALID, "of $true and $false a shell leaves nothing");
	refuse(PARSE("Stop-VM", (char *)"a", (char *)"-TurnOff:"), ERR_INVALID, "true or false");
	refuse(PARSE("Remove-VM", (char *)"a", (char *)"-Confirm:perhaps"), ERR_INVALID,
	       "true or false");
	refuse(PARSE("Get-VMHardDiskDrive", (char *)"a", (char *)"-VMDriveController", (char *)"b"),
	       ERR_INVALID, "not what a cmdlet shows");
	refuse(
	    PARSE("Set-VM", (char *)"a", (char *)"-AutomaticCheckpointsEnabled", (char *)"maybe"),
	    ERR_INVALID, "true or false");
	refuse(PARSE("Stop-VM", (char *)"a", (char *)"-TurnOff:maybe"), ERR_INVALID,
	       "true or false");
	refuse(PARSE("Add-VMNetworkAdapter", (char *)"a", (char *)"-StaticMacAddress", (char *)"1"),
	       ERR_INVALID, "MAC");
}

/* ---- requests ---- */

static char *check_text(const char *name, const char *request)
{
	json_t *json = json_loads(request, JSON_DECODE_ANY, NULL), *checked;
	char *text;
	int r = cmdlet_check(cmdlet_find(name), json, &checked, &last_error);

	json_decref(json);
	if (r < 0)
		return NULL;
	text = json_dumps(checked, JSON_COMPACT | JSON_SORT_KEYS);
	json_decref(checked);
	return text;
}

static void test_requests(void **state)
{
	expect(check_text("Get-VM", "{}"), "{\"Name\":[\"*\"]}");
	expect(check_text("Get-VM", "{\"vmname\":\"a,b\"}"), "{\"Name\":[\"a,b\"]}");
	expect(check_text("Set-VMMemory", "{\"VMName\":[\"a\"],\"StartupBytes\":\"1GB\"}"),
	       "{\"StartupBytes\":1073741824,\"VMName\":[\"a\"]}");
	refuse(check_text("Get-VM", "5"), ERR_INVALID, "not an object");
	refuse(check_text("Get-VM", "{\"Name\":7}"), ERR_INVALID, "wrong type");
	refuse(check_text("Get-VM", "{\"Name\":[[]]}"), ERR_INVALID, "wrong type");
	refuse(check_text("Get-VM", "{\"Name\":\"a\",\"VMName\":\"b\"}"), ERR_INVALID, "twice");
	refuse(check_text("Stop-VM", "{\"Name\":\"a\",\"TurnOff\":1}"), ERR_INVALID, "wrong type");
	refuse(check_text("New-VM", "{\"ProcessorCount\":65}"), ERR_LIMIT, "between");
	refuse(check_text("New-VM", "{\"ProcessorCount\":1.5}"), ERR_INVALID, "wrong type");
	refuse(check_text("New-VM", "{\"\":1}"), ERR_INVALID, "no parameter");
}

/* ---- pipes ---- */

/* The requests that what comes in leads to, as JSON text, or NULL; the caller's. */
static char *bind_text(const char *name, const char *params, const char *input)
{
	const struct cmdlet *cmdlet = cmdlet_find(name);
	json_t *given = json_loads(params, 0, NULL), *objects, *requests = NULL;
	char *text = NULL;

	assert_true(cmdlet_takes_objects(cmdlet, given));
	if (cmdlet_read_objects(input, &objects, &last_error) == 0) {
		if (cmdlet_bind_objects(cmdlet, given, objects, &requests, &last_error) == 0)
			text = json_dumps(requests, JSON_COMPACT | JSON_SORT_KEYS);
		json_decref(requests);
		json_decref(objects);
	}
	json_decref(given);
	return text;
}

#define VM_TABLE                                                                                   \
	"Name  State   Uptime   Status\n"                                                          \
	"----  -----   ------   ------\n"                                                          \
	"w\u00e9 b  Running 00:00:01 Ok\n"                                                         \
	"x[1]* Off     00:00:00 \n"
#define DISK_TABLE                                                                                 \
	"VMName ControllerType ControllerNumber ControllerLocation Path\n"                         \
	"------ -------------- ---------------- ------------------ ----\n"                         \
	"a      SCSI           0                1                  /d 1\n"                         \
	"a      SCSI           1                0                  \n"

static void test_pipes(void **state)
{
	/* Names become one request, and mean themselves only. */
	expect(bind_text("Stop-VM", "{\"TurnOff\":true}", VM_TABLE),
	       "[{\"Name\":[\"w\u00e9 b\",\"x[[]1][*]\"],\"TurnOff\":true}]");
	expect(
	    bind_text("Get-VMMemory", "{}", "[{\"Name\":\"a\",\"State\":\"Off\",\"VMId\":\"i\"}]"),
	    "[{\"VMName\":[\"a\"]}]");
	/* A virtual machine's name is not that of its adapters, a switch's neither. */
	expect(bind_text("Remove-VMNetworkAdapter", "{}", "[{\"Name\":\"a\",\"State\":\"Off\"}]"),
	       "[{\"VMName\":[\"a\"]}]");
	expect(bind_text("Connect-VMNetworkAdapter", "{\"VMName\":[\"a\"]}",
			 "[{\"Name\":\"s\",\"SwitchType\":\"NAT\"}]"),
	       "[{\"SwitchName\":\"s\",\"VMName\":[\"a\"]}]");
	/* Drives tell their places, each in a request of its own; two tables may come. */
	expect(
	    bind_text("Remove-VMHardDiskDrive", "{}", DISK_TABLE "\n" DISK_TABLE),
	    "[{\"ControllerLocation\":\"1\",\"ControllerNumber\":\"0\",\"ControllerType\":\"SCSI\","
	    "\"VMName\":\"a\"},"
	    "{\"ControllerLocation\":\"0\",\"ControllerNumber\":\"1\",\"ControllerType\":\"SCSI\","
	    "\"VMName\":\"a\"},"
	    "{\"ControllerLocation\":\"1\",\"ControllerNumber\":\"0\",\"ControllerType\":\"SCSI\","
	    "\"VMName\":\"a\"},"
	    "{\"ControllerLocation\":\"0\",\"ControllerNumber\":\"1\",\"ControllerType\":\"SCSI\","
	    "\"VMName\":\"a\"}]");
	/* One set only: not the virtual machine's id besides the path. */
	expect(bind_text("Get-VHD", "{}", "[{\"Path\":\"/d\",\"VMId\":\"i\",\"VMName\":\"a\"}]"),
	       "[{\"Path\":[\"/d\"]}]");
	/* From another host to that host. */
	expect(bind_text("Start-VM", "{}",
			 "[{\"Name\":\"a\",\"State\":\"Off\",\"PSComputerName\":\"h:1\"}]"),
	       "[{\"ComputerName\":[\"h:1\"],\"Name\":\"a\"}]");
	expect(bind_text("Start-VM", "{}", "\n"), "[]");
	expect(bind_text("Start-VM", "{}", "[] [{\"Name\":\"a\"}]\n[]\n"), "[{\"Name\":[\"a\"]}]");
}

static void test_bad_pipes(void **state)
{
	const struct cmdlet *start = cmdlet_find("Start-VM"), *all = cmdlet_find("Get-VM");
	json_t *none = json_object(), *named = json_pack("{s:[s]}", "Name", "a");

	assert_true(cmdlet_takes_objects(start, none));
	assert_false(cmdlet_takes_objects(start, named));
	assert_false(cmdlet_takes_objects(all, none));
	json_decref(none);
	json_decref(named);
	refuse(bind_text("Start-VM", "{}", "hello\n"), ERR_INVALID,
	       "not what a cmdlet shows: 'hello'");
	refuse(bind_text("Start-VM", "{}", "[1"), ERR_INVALID, "not JSON");
	refuse(bind_text("Start-VM", "{}", "[1]"), ERR_INVALID, "not a list of objects");
	refuse(bind_text("Start-VM", "{}", "[{\"Name\":\"s\",\"SwitchType\":\"NAT\"}]"),
	       ERR_INVALID, "nothing that Start-VM takes");
	refuse(bind_text("Set-VMMemory", "{}",
			 "[{\"Name\":\"s\",\"VMName\":\"a\",\"SnapshotType\":\"Standard\"}]"),
	       ERR_UNSUPPORTED, "not for a checkpoint");
	refuse(bind_text("Remove-VMHardDiskDrive", "{}",
			 "[{\"VMName\":\"a\",\"VMSnapshotName\":\"s\",\"ControllerNumber\":0}]"),
	       ERR_UNSUPPORTED, "not for a checkpoint");
}

static void test_checkpoint_pipes(void **state)
{
	/* The checkpoint's name is not that of an adapter; an identifier is better than a name. */
	expect(bind_text("Get-VMNetworkAdapter", "{}",
			 "[{\"Name\":\"s\",\"VMName\":\"a\",\"SnapshotType\":\"Standard\"}]"),
	       "[{\"VMName\":\"a\",\"VMSnapshot\":\"s\"}]");
	expect(bind_text("Get-VMHardDiskDrive", "{}",
			 "[{\"ControllerNumber\":0,\"VMName\":\"a\",\"VMSnapshotName\":\"s\","
			 "\"VMSnapshotId\":\"i\"}]"),
	       "[{\"ControllerNumber\":0,\"VMName\":\"a\",\"VMSnapshot\":\"i\"}]");
	expect(bind_text("Get-VHD", "{}",
			 "[{\"Path\":\"/d\",\"VMName\":\"a\",\"VMSnapshotName\":\"s\"}]"),
	       "[{\"Path\":[\"/d\"]}]");
}

/* Objects in place of names: what "$(oyako get-...)" leaves. */
static void test_objects_as_values(void **state)
{
	static char json[] = "[{\"Name\":\"n,1\",\"MacAddress\":\"00\"},\n"
			     "{\"ControllerType\":\"SCSI\",\"ControllerNumber\":0,"
			     "\"ControllerLocation\":3}],[]";
	static char tables[] = DISK_TABLE "," DISK_TABLE;
	json_t *requests;

	expect(PARSE("Set-VMFirmware", (char *)"a", (char *)"-BootOrder", json),
	       "{\"BootOrder\":[\"n,1\",\"SCSI:0:3\"],\"VMName\":[\"a\"]}");
	expect(PARSE("Set-VMFirmware", (char *)"a", (char *)"-BootOrder", tables),
	       "{\"BootOrder\":[\"SCSI:0:1\",\"SCSI:1:0\",\"SCSI:0:1\",\"SCSI:1:0\"],"
	       "\"VMName\":[\"a\"]}");
	expect(PARSE("Set-VMFirmware", (char *)"a", (char *)"-BootOrder", (char *)"SCSI:0:1",
		     (char *)",", (char *)"x"),
	       "{\"BootOrder\":[\"SCSI:0:1\",\"x\"],\"VMName\":[\"a\"]}");
	refuse(PARSE("Set-VMFirmware", (char *)"a", (char *)"-FirstBootDevice", json), ERR_INVALID,
	       "2 devices, not one");
	refuse(PARSE("Set-VMFirmware", (char *)"a", (char *)"-FirstBootDevice",
		     (char *)"[{\"Name\":\"a\"}]\n"),
	       ERR_INVALID, "neither a drive nor an adapter");
	refuse(PARSE("Set-VMFirmware", (char *)"a", (char *)"-BootOrder", (char *)"x\ny"),
	       ERR_INVALID, "not what a cmdlet shows");
	/* A name that is one stays one. */
	assert_int_equal(cmdlet_parse(cmdlet_find("Start-VM"), 2,
				      (char *[]){ (char *)"-VM", (char *)VM_TABLE }, &last,
				      &last_error),
			 0);
	assert_int_equal(json_array_size(last.objects), 1);
	assert_int_equal(cmdlet_bind_objects(cmdlet_find("Start-VM"), last.params,
					     json_array_get(last.objects, 0), &requests,
					     &last_error),
			 0);
	assert_int_equal(json_array_size(requests), 1);
	json_decref(requests);
	json_decref(last.params);
	json_decref(last.objects);
}

/* ---- output ---- */

static const struct cmdlet_output sample_output = {
	"Sample",
	(const struct cmdlet_column[]){ { "Name", "Name", CMDLET_SHOW_TEXT },
					{ "Memory", "Memory(M)", CMDLET_SHOW_MB },
					{ "Uptime", "Uptime", CMDLET_SHOW_DURATION },
					{ "Note", "Note", CMDLET_SHOW_TEXT },
					{ "More", NULL, CMDLET_SHOW_TEXT },
					{ NULL, NULL, CMDLET_SHOW_TEXT } },
};

static void test_tables_and_lists(void **state)
{
	json_t *results =
	    json_loads("[{\"Name\":\"w\u00e9b\",\"Memory\":1073741824,\"Uptime\":90061.5,"
		       "\"Note\":\"a long text\",\"More\":[1,true,{\"k\":\"v\"}]},"
		       "{\"Name\":\"\\u001b[31mred\\u009b\",\"Uptime\":59}]",
		       0, NULL);
	char *text = cmdlet_format_table(&sample_output, results, 0);

	assert_string_equal(text, "Name      Memory(M) Uptime     Note\n"
				  "----      --------- ------     ----\n"
				  "w\u00e9b       1024      1.01:01:01 a long text\n"
				  "?[31mred?           00:00:59   \n");
	free(text);
	text = cmdlet_format_table(&sample_output, results, 36);
	assert_non_null(strstr(text, "a lon..."));
	free(text);
	text = cmdlet_format_list(&sample_output, results);
	assert_string_equal(text, "Name   : w\u00e9b\nMemory : 1073741824\nUptime : 1.01:01:01\n"
				  "Note   : a long text\nMore   : {1, True, k=v}\n\n"
				  "Name   : ?[31mred?\nMemory : \nUptime : 00:00:59\nNote   : \n"
				  "More   : \n");
	free(text);
	json_decref(results);
	results = json_array();
	text = cmdlet_format_table(&sample_output, results, 80);
	assert_string_equal(text, "");
	free(text);
	json_decref(results);
}

static void test_completion(void **state)
{
	static char *const cmdlets[] = { (char *)"RESUME" };
	static char *const params[] = { (char *)"stop-vm", (char *)"a", (char *)"-t" };
	static char *const values[] = { (char *)"set-vm", (char *)"-Backend", (char *)"s" };
	static char *const files[] = { (char *)"new-vm", (char *)"-VHDPath", (char *)"" };
	static char *const vms[] = { (char *)"stop-vm", (char *)"-Force", (char *)"" };
	static char *const services[] = { (char *)"get-vmintegrationservice", (char *)"-VMName",
					  (char *)"a", (char *)"" };
	static char *const second[] = { (char *)"rename-vmsnapshot", (char *)"x", (char *)"" };
	static char *const first[] = { (char *)"restore-vmsnapshot", (char *)"-VMName:a",
				       (char *)"" };
	struct cmdlet_candidates found;

	cmdlet_complete(4, services, &found);
	assert_int_equal(found.offer, CMDLET_OFFER_SERVICE);
	json_decref(found.words);
	cmdlet_complete(3, second, &found);
	assert_int_equal(found.offer, CMDLET_OFFER_VM);
	json_decref(found.words);
	cmdlet_complete(3, first, &found);
	assert_int_equal(found.offer, CMDLET_OFFER_CHECKPOINT);
	json_decref(found.words);
	cmdlet_complete(1, cmdlets, &found);
	assert_int_equal(json_array_size(found.words), 1);
	json_decref(found.words);
	cmdlet_complete(3, params, &found);
	assert_int_equal(json_array_size(found.words), 1);
	assert_string_equal(json_string_value(json_array_get(found.words, 0)), "-TurnOff");
	json_decref(found.words);
	cmdlet_complete(3, values, &found);
	assert_string_equal(json_string_value(json_array_get(found.words, 0)), "soft");
	json_decref(found.words);
	cmdlet_complete(3, files, &found);
	assert_int_equal(found.offer, CMDLET_OFFER_FILE);
	json_decref(found.words);
	cmdlet_complete(3, vms, &found);
	assert_int_equal(found.offer, CMDLET_OFFER_VM);
	json_decref(found.words);
	cmdlet_complete(0, NULL, &found);
	json_decref(found.words);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table_is_complete),
		cmocka_unit_test(test_texts_of_all),
		cmocka_unit_test(test_looking_up),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_wildcards),
		cmocka_unit_test(test_command_lines),
		cmocka_unit_test(test_bad_command_lines),
		cmocka_unit_test(test_requests),
		cmocka_unit_test(test_powershell_ways),
		cmocka_unit_test(test_pipes),
		cmocka_unit_test(test_bad_pipes),
		cmocka_unit_test(test_checkpoint_pipes),
		cmocka_unit_test(test_objects_as_values),
		cmocka_unit_test(test_openapi),
		cmocka_unit_test(test_lines),
		cmocka_unit_test(test_tables_and_lists),
		cmocka_unit_test(test_completion),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
