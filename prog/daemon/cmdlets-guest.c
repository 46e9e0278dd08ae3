/* Cmdlets that go to programs and services inside a guest. */
#include "cmdlets.h"

#include "base/clock.h"
#include "base/macros.h"
#include "base/text.h"
#include "guest-sockets.h"
#include "objects.h"
#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- sockets ---- */

static int mutate_add_socket(struct request *request, struct config_vm *config, struct error *err)
{
	const char *service = request_string(request, "Service");
	const char *name = request_string(request, "Name");
	struct config_socket socket = { .name = (char *)(name ? name : service),
					.path = (char *)request_string(request, "Path") };
	int r = guest_socket_parse(service, &socket.service, err);

	return r < 0 ? r : config_add_socket(config, &socket, err);
}

static void add_socket(struct request *request, struct vm *vm)
{
	if (cmdlets_change(request, vm, false, mutate_add_socket))
		request_result(
		    request, object_socket(vm, &vm->config->sockets[vm->config->socket_count - 1]));
}

void cmdlet_add_socket(struct request *request)
{
	request_for_vms(request, "VMName", add_socket);
}

static void show_sockets(struct request *request, struct vm *vm)
{
	for (unsigned i = 0; i < vm->config->socket_count; i++)
		request_result(request, object_socket(vm, &vm->config->sockets[i]));
}

void cmdlet_get_socket(struct request *request)
{
	request_for_vms(request, "VMName", show_sockets);
}

static int mutate_remove_socket(struct request *request, struct config_vm *config,
				struct error *err)
{
	const struct config_socket *socket;
	struct guid service;
	int r = guest_socket_parse(request_string(request, "Service"), &service, err);

	if (r < 0)
		return r;
	socket = config_find_socket(config, &service);
	if (!socket)
		return error_set(err, ERR_NOT_FOUND, "it has no communication service %.60s",
				 request_string(request, "Service"));
	config_remove_socket(config, (unsigned)(socket - config->sockets));
	return 0;
}

static void remove_socket(struct request *request, struct vm *vm)
{
	cmdlets_change(request, vm, false, mutate_remove_socket);
}

void cmdlet_remove_socket(struct request *request)
{
	request_for_vms(request, "VMName", remove_socket);
}

/* ---- what is asked of a running guest ---- */

struct ask {
	struct request *request;
	struct vm *vm;
	void (*then)(struct ask *ask, const json_t *reply); /* after an answer without error */
	const char *pool;                                   /* Get-VMKeyValuePair */
};

static void asked(void *user, const json_t *reply, const struct error *err)
{
	struct ask *ask = user;

	if (err)
		request_error(ask->request, ask->vm->config->name, err);
	else if (ask->then)
		ask->then(ask, reply);
	request_release(ask->request);
	vm_unref(ask->vm);
	free(ask);
}

static struct ask *ask_new(struct request *request, struct vm *vm,
			   void (*then)(struct ask *ask, const json_t *reply))
{
	struct ask *ask = malloc(sizeof(*ask));

	if (!ask)
		abort();
	*ask = (struct ask){ .request = request, .vm = vm_ref(vm), .then = then };
	request_hold(request);
	return ask;
}

/* ---- key-value pairs ---- */

#define SERVICE_TIMEOUT_NS (90 * NS_PER_SEC) /* the guest itself gives up after 30 s */

static void show_pairs(struct ask *ask, const json_t *reply)
{
	const char *key;
	json_t *value;

	json_object_foreach(json_object_get(reply, "items"), key, value)
	    request_result(ask->request, json_pack("{s:s, s:s, s:s, s:O, s:s}", "VMName",
						   ask->vm->config->name, "Pool", ask->pool, "Key",
						   key, "Value", value, "VMId", ask->vm->id));
}

static void get_pairs(struct request *request, struct vm *vm)
{
	static const char *const names[][2] = { { "External", "external" },
						{ "Guest", "guest" },
						{ "Intrinsic", "intrinsic" },
						{ "Host", "host" } };
	const char *pool = request_string(request, "Pool");

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct ask *ask;

		if (strcmp(names[i][0], pool) != 0)
			continue;
		ask = ask_new(request, vm, show_pairs);
		ask->pool = names[i][0];
		run_request(vm, json_pack("{s:s, s:s}", "op", "kvp-get", "pool", names[i][1]),
			    SERVICE_TIMEOUT_NS, asked, ask);
	}
}

void cmdlet_get_pair(struct request *request)
{
	request_for_vms(request, "VMName", get_pairs);
}

static void set_pair(struct request *request, struct vm *vm)
{
	run_request(vm,
		    json_pack("{s:s, s:s, s:s}", "op", "kvp-set", "key",
			      request_string(request, "Key"), "value",
			      request_string(request, "Value")),
		    SERVICE_TIMEOUT_NS, asked, ask_new(request, vm, NULL));
}

void cmdlet_set_pair(struct request *request)
{
	request_for_vms(request, "VMName", set_pair);
}

static void remove_pair(struct request *request, struct vm *vm)
{
	run_request(
	    vm, json_pack("{s:s, s:s}", "op", "kvp-remove", "key", request_string(request, "Key")),
	    SERVICE_TIMEOUT_NS, asked, ask_new(request, vm, NULL));
}

void cmdlet_remove_pair(struct request *request)
{
	request_for_vms(request, "VMName", remove_pair);
}

/* ---- addresses ---- */

/* The texts of a list, with ';' between them; the caller's. */
static char *join(const struct request *request, const char *name)
{
	const json_t *list = json_object_get(request->params, name);
	char *text = text_format("%s", "");

	for (size_t i = 0; i < json_array_size(list); i++) {
		char *longer = text_format("%s%s%s", text, i ? ";" : "",
					   json_string_value(json_array_get(list, i)));

		free(text);
		text = longer;
	}
	return text;
}

static void set_addresses(struct request *request, struct vm *vm, const struct config_nic *nic)
{
	AUTO_FREE char *addresses = join(request, "IPAddress"), *subnets = join(request, "Subnet");
	AUTO_FREE char *gateways = join(request, "DefaultGateway"),
		       *dns = join(request, "DNSServer");
	char id[GUID_TEXT_SIZE];

	run_request(vm,
		    json_pack("{s:s, s:s, s:b, s:s, s:s, s:s, s:s}", "op", "ip-set", "adapter",
			      guid_format(&nic->id, id), "dhcp", request_switch(request, "DHCP"),
			      "addresses", addresses, "subnets", subnets, "gateways", gateways,
			      "dns_servers", dns),
		    SERVICE_TIMEOUT_NS, asked, ask_new(request, vm, NULL));
}

static void set_guest_adapter(struct request *request, struct vm *vm)
{
	const char *name = request_string(request, "Name");
	const struct config_nic *found = NULL;
	unsigned count = 0;
	struct error err;

	for (unsigned i = 0; i < vm->config->nic_count; i++)
		if (cmdlet_wildcard_match(name, vm->config->nics[i].name)) {
			found = &vm->config->nics[i];
			count++;
		}
	if (count == 1) {
		set_addresses(request, vm, found);
		return;
	}
	error_set(&err, count ? ERR_INVALID : ERR_NOT_FOUND,
		  count ? "several network adapters have the name '%.100s'"
			: "it has no network adapter '%.100s'",
		  name);
	request_error(request, vm->config->name, &err);
}

void cmdlet_set_guest_adapter(struct request *request)
{
	request_for_vms(request, "VMName", set_guest_adapter);
}

/* ---- Copy-VMFile ---- */

#define COPY_TIMEOUT_NS (UINT64_C(7) * 24 * 3600 * NS_PER_SEC)

static void copied(void *user, const json_t *reply, const struct error *err)
{
	struct ask *ask = user;
	struct error ended;

	if (err && err->code == ERR_CANCELLED && !ask->request->cancelled) {
		error_set(
		    &ended, ERR_CANCELLED,
		    "the copy ended early: the guest was saved (the same command goes on with "
		    "it when the guest runs again), turned off or reset, or the service was "
		    "disabled");
		err = &ended;
	}
	if (ask->vm->copying == ask->request)
		ask->vm->copying = NULL;
	asked(ask, reply, err);
}

void cmdlets_copy_progress(struct vm *vm, const json_t *event)
{
	struct request *request = vm->copying;
	json_int_t bytes = json_integer_value(json_object_get(event, "bytes"));
	json_int_t total = json_integer_value(json_object_get(event, "total"));

	if (!request)
		return;
	if (request->cancelled)
		run_request(vm, json_pack("{s:s}", "op", "copy-cancel"), SERVICE_TIMEOUT_NS, NULL,
			    NULL);
	else
		request_progress(request, vm->config->name, "copying, %lld of %lld KB (%d%%)",
				 (long long)(bytes / 1024), (long long)(total / 1024),
				 total ? (int)(bytes * 100 / total) : 100);
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static void begin_copy(struct request *request, struct vm *vm, int fd)
{
	const char *to = request_string(request, "DestinationPath");
	const char *name = base_name(to);
	/* With the slash at its end: Linux's daemon makes only what stands before one. */
	AUTO_FREE char *folder = strndup(to, (size_t)(name - to));
	struct ask *ask = ask_new(request, vm, NULL);

	if (!folder)
		abort();
	if (!*name)
		name = base_name(request_string(request, "SourcePath"));
	/* Whose the worker's progress is. One copy at a time: another one will be refused. */
	if (!vm->copying)
		vm->copying = request;
	run_request_fd(vm,
		       json_pack("{s:s, s:s, s:s, s:b, s:b}", "op", "copy-file", "folder", folder,
				 "name", name, "overwrite", request_switch(request, "Force"),
				 "create_folder", request_switch(request, "CreateFullPath")),
		       fd, COPY_TIMEOUT_NS, copied, ask);
}

static int check_copy(const struct request *request, const struct vm *vm, struct error *err)
{
	const char *path = request_string(request, "SourcePath");

	if (strcmp(request_string(request, "FileSource"), "Guest") == 0)
		return error_set(err, ERR_UNSUPPORTED,
				 "its Guest Service Interface copies only to the guest; from it: "
				 "copy-item '%.200s' '%.200s' -FromSession '%.100s'",
				 path, request_string(request, "DestinationPath"),
				 vm->config->name);
	if (*request_string(request, "DestinationPath") != '/')
		return error_set(err, ERR_INVALID,
				 "the destination is no absolute path of the guest");
	if (!vm->config->ic_enabled[CONFIG_IC_COPY])
		return error_set(err, ERR_STATE,
				 "its Guest Service Interface is disabled: "
				 "enable-vmintegrationservice 'Guest Service Interface' '%.100s'",
				 vm->config->name);
	return 0;
}

static void copy_file(struct request *request, struct vm *vm)
{
	const char *path = request_string(request, "SourcePath");
	struct error err;
	AUTO_CLOSE int fd = -1;
	int r = check_copy(request, vm, &err);

	if (r == 0) {
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
		r = fd < 0 ? error_set_errno(&err, errno, "the file '%.300s'", path) : 0;
	}
	if (r < 0)
		request_error(request, vm->config->name, &err);
	else
		begin_copy(request, vm, fd);
}

void cmdlet_copy_file(struct request *request)
{
	request_for_vms(request, "Name", copy_file);
}
