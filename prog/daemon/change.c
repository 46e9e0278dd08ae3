#include "change.h"

#include "base/clock.h"
#include "run.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct change *change_new(struct request *request, struct vm *vm)
{
	struct change *change = calloc(1, sizeof(*change));

	if (!change)
		abort();
	change->request = request;
	change->vm = vm_ref(vm);
	change->fd = -1;
	request_hold(request);
	return change;
}

void change_end(struct change *change, const struct error *err)
{
	if (err)
		request_error(change->request, change->vm->config->name, err);
	else
		request_result(change->request,
			       change->show ? change->show(change) : json_incref(change->shown));
	request_release(change->request);
	change->vm->changing -= change->asked;
	vm_unref(change->vm);
	json_decref(change->shown);
	free(change->from.path);
	free(change->disk.path);
	free(change->nic.name);
	free(change->nic.switch_name);
	if (change->fd >= 0)
		close(change->fd);
	free(change);
}

static int change_description(struct change *change,
			      int (*mutate)(struct change *change, struct config_vm *config,
					    struct error *err),
			      struct error *err)
{
	struct config_vm *copy = vm_config_copy(change->vm, err);
	int r = copy ? mutate(change, copy, err) : -ERR_NO_MEMORY;

	if (r == 0)
		return vm_change(change->vm, copy, err);
	config_vm_free(copy);
	return r;
}

void change_answered(void *user, const json_t *reply, const struct error *failure)
{
	struct change *change = user;
	struct error err, other;

	if (!failure) {
		bool ok = change->early || change_description(change, change->mutate, &err) == 0;

		change_end(change, ok ? NULL : &err);
		return;
	}
	err = *failure;
	if (change->refused && change_description(change, change->refused, &other) < 0)
		err = other;
	change_end(change, &err);
}

void change_ask(struct change *change, json_t *message, int fd,
		void (*answered)(void *user, const json_t *reply, const struct error *err))
{
	run_request_fd(change->vm, message, fd, CHANGE_TIMEOUT_NS, answered, change);
}

bool change_runs(const struct vm *vm)
{
	return (vm->state == VM_RUNNING || vm->state == VM_PAUSED) && vm->run;
}

static int check_state(const struct vm *vm, struct error *err)
{
	if (vm->state == VM_OFF || change_runs(vm))
		return 0;
	return error_set(err, ERR_STATE, "this is not possible in its present state (%s)",
			 vm_state_name(vm->state));
}

void change_run(struct change *change)
{
	bool online = change_runs(change->vm);
	struct error err;
	int r = check_state(change->vm, &err);

	if (r == 0)
		r = vm_check_busy(change->vm, &err);
	if (r == 0 && (change->early || !online))
		r = change_description(change, change->mutate, &err);
	if (r < 0 || !online)
		change_end(change, r < 0 ? &err : NULL);
	else {
		change->asked = true;
		change->vm->changing++;
		change->ask(change);
	}
}

char *change_text(const char *text)
{
	char *copy = text ? strdup(text) : NULL;

	if (text && !copy)
		abort();
	return copy;
}
