/* The VM description: whatever is accepted must survive being written and read again. */
#include "config/config-json.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	json_t *json = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
	struct config_vm *vm, *again;
	struct error err;
	json_t *written;

	if (!json)
		return 0;
	if (config_vm_from_json(json, &vm, &err) == 0) {
		written = config_vm_to_json(vm);
		if (!written || config_vm_from_json(written, &again, &err) < 0)
			abort();
		config_vm_free(again);
		config_vm_free(vm);
		json_decref(written);
	}
	json_decref(json);
	return 0;
}
