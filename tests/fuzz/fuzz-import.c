/* Hyper-V's configuration files, from the bytes to the description: whatever is accepted obeys the
 * rules of a description. */
#include "import/hyperv.h"
#include "import/test-vmcx-writer.h"
#include "import/vmcx.h"

#include "base/bytes.h"
#include "base/macros.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *find_file(void *user, const char *windows_path)
{
	return windows_path[0] == 'N' ? NULL : strdup("/disk");
}

static bool has_switch(void *user, const char *name)
{
	return name[0] == 'D';
}

static int new_mac(void *user, const struct config_vm *config, uint8_t ret[6], struct error *err)
{
	memset(ret, 2, 6);
	return 0;
}

/* ---- checksums made right, or nothing behind them would ever be reached ---- */

static bool inside(uint64_t offset, uint64_t length, size_t size)
{
	return RANGE_OK(offset, length, size);
}

static void seal_entries(uint8_t *table, uint32_t size)
{
	uint32_t offset = 10, entry;

	for (; offset <= size && size - offset >= 21; offset += entry) {
		uint8_t *e = table + offset;
		uint32_t head = 21u + e[20], value = 0;

		entry = load_le32(e + 2);
		if (entry < 21 || entry > size - offset)
			return;
		if (e[0] == 6 || e[0] == 7)
			value = e[1] & 1 ? 12 : head + 4 <= entry ? 4 + load_le32(e + head) : 0;
		else
			value = e[0] == 8 ? 4 : e[0] == 9 ? 12 : 8;
		if (value <= entry && head <= entry - value)
			vmcx_seal(e, head + value, 12);
	}
}

static void seal_objects(uint8_t *file, size_t size)
{
	uint32_t count = inside(8192, 8, size) ? load_le32(file + 8196) : 0;

	for (uint32_t i = 0; i < MIN(count, 300) && inside(8200 + i * 18, 18, size); i++) {
		uint8_t *e = file + 8200 + i * 18;
		uint64_t at = load_le64(e + 5);
		uint32_t length = load_le32(e + 13);

		vmcx_seal(e, 18, 1);
		if (e[0] != 2 || length < 10 || !inside(at, length, size))
			continue;
		vmcx_seal(file + at, 10, 6);
		seal_entries(file + at, length);
	}
}

static void seal_log(uint8_t *file, size_t size)
{
	uint64_t at = load_le64(file + 26);
	uint32_t count;

	if (!inside(at, 34, size))
		return;
	vmcx_seal(file + at, 34, 4);
	count = load_le32(file + at + 8);
	for (uint32_t i = 0; i < MIN(count, 100) && inside(at + 34 + i * 28, 28, size); i++)
		vmcx_seal(file + at + 34 + i * 28, 28, 20);
}

static void seal(uint8_t *file, size_t size)
{
	vmcx_seal(file, 46, 4);
	vmcx_seal(file + 4096, 46, 4);
	seal_objects(file, size);
	seal_log(file, size);
}

static void read_one(const uint8_t *data, size_t size)
{
	static const struct import_env env = { NULL, find_file, has_switch, new_mac };
	struct import_vm *vm;
	struct error err;
	struct key *root;

	if (import_read(data, size, &root, &err) < 0)
		return;
	if (import_hyperv(root, &env, &vm, &err) == 0) {
		if (config_vm_check(vm->config, &err) < 0)
			abort();
		import_vm_free(vm);
	}
	key_free(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	read_one(data, size);
	if (vmcx_probe(data, size)) {
		AUTO_FREE uint8_t *copy = malloc(size);

		memcpy(copy, data, size);
		seal(copy, size);
		read_one(copy, size);
	}
	return 0;
}
