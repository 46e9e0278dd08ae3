/* A VM that is imported, with its report. */
#include "import/hyperv.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct import_vm *import_vm_new(struct config_vm *config)
{
	struct import_vm *vm = calloc(1, sizeof(*vm));

	if (!vm || !config)
		abort();
	vm->config = config;
	return vm;
}

static void note_done(struct import_note *note)
{
	free(note->source);
	free(note->text);
}

void import_forget(struct import_vm *vm)
{
	size_t kept = 0;

	for (size_t i = 0; i < vm->note_count; i++)
		if (vm->notes[i].severity == IMPORT_LOST)
			vm->notes[kept++] = vm->notes[i];
		else
			note_done(&vm->notes[i]);
	vm->note_count = kept;
}

void import_vm_free(struct import_vm *vm)
{
	if (!vm)
		return;
	for (size_t i = 0; i < vm->note_count; i++)
		note_done(&vm->notes[i]);
	free(vm->notes);
	config_vm_free(vm->config);
	free(vm);
}

static bool is_noted(const struct import_vm *vm, const struct import_note *one)
{
	for (size_t i = 0; i < vm->note_count; i++)
		if (strcmp(vm->notes[i].source, one->source) == 0 &&
		    strcmp(vm->notes[i].text, one->text) == 0)
			return true;
	return false;
}

void import_note(struct import_vm *vm, enum import_severity severity, int message_id,
		 const char *source, const char *fmt, ...)
{
	struct import_note one = { severity, message_id, strdup(source), NULL };
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&one.text, fmt, ap) < 0)
		one.text = NULL;
	va_end(ap);
	if (one.source && one.text && is_noted(vm, &one)) {
		note_done(&one);
		return;
	}
	vm->notes = reallocarray(vm->notes, vm->note_count + 1, sizeof(one));
	if (!one.source || !one.text || !vm->notes)
		abort();
	vm->notes[vm->note_count++] = one;
}

bool import_vm_blocked(const struct import_vm *vm)
{
	for (size_t i = 0; i < vm->note_count; i++)
		if (vm->notes[i].severity == IMPORT_BLOCKS)
			return true;
	return false;
}

const char *import_severity_name(enum import_severity severity)
{
	static const char *const names[] = {
		[IMPORT_LOST] = "Lost", [IMPORT_CHANGED] = "Changed", [IMPORT_BLOCKS] = "Error"
	};

	return names[severity];
}
