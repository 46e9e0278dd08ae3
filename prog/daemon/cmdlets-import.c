/*
 * Import-VM and Compare-VM: a VM out of an export of ours (vm.json) or of Hyper-V (.vmcx, XML).
 * Both look at it the same way (incoming.h), and give the same report; Import-VM then acts, unless
 * something in the report stands in the way.
 */
#include "cmdlets.h"

#include "base/macros.h"
#include "checkpoint-below.h"
#include "checkpoint-fold.h"
#include "config/config-json.h"
#include "incoming.h"
#include "objects.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct import {
	struct incoming *in;
	struct transfer *transfer;
	char *machine, *checkpoints, *disks; /* folders of the new VM; disks NULL: they stay */
};

static void import_free(struct import *import)
{
	incoming_free(import->in);
	free(import->machine);
	free(import->checkpoints);
	free(import->disks);
	free(import);
}

/* ---- Compare-VM ---- */

static json_t *text_or_null(const char *text)
{
	return text ? json_string(text) : json_null();
}

/* Of which an import can be made again, when its reader has mended what stands in the way. */
static json_t *object_report(const struct incoming *in)
{
	const struct request *request = in->request;
	char host[65] = "";

	gethostname(host, sizeof(host) - 1);
	return json_pack(
	    "{s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:O, s:o}", "VMName",
	    in->package.config->name, "OperationType", "ImportVirtualMachine", "Destination", host,
	    "Path", in->path, "SnapshotPath",
	    text_or_null(request_string(request, "SnapshotFilePath")), "VhdDestinationPath",
	    text_or_null(request_string(request, "VhdDestinationPath")), "VhdSourcePath",
	    text_or_null(request_string(request, "VhdSourcePath")), "Incompatibilities",
	    incoming_notes(in, in->package.config->name), "Parameters", request->params, "VM",
	    config_vm_to_json(in->package.config));
}

static void compared(struct incoming *in)
{
	request_result(in->request, object_report(in));
	incoming_free(in);
}

void cmdlet_compare_vm(struct request *request)
{
	incoming_read(request, compared);
}

/* ---- Import-VM ---- */

static bool refuse_blocked(struct incoming *in)
{
	bool blocked = false;

	for (size_t i = 0; i < in->report->note_count; i++) {
		const struct import_note *note = &in->report->notes[i];
		struct error err;

		if (note->severity != IMPORT_BLOCKS)
			continue;
		error_set(&err, ERR_INVALID, "%s", note->text);
		request_error(in->request, note->source, &err);
		blocked = true;
	}
	return blocked;
}

static void imported(struct incoming *in, struct vm *vm)
{
	json_t *notes = incoming_notes(in, vm->config->name), *object;

	vm_event(vm, EVENT_VM_IMPORTED, json_pack("{s:O}", "Incompatibilities", notes),
		 "'%s' was imported from '%.300s', with %zu remarks.", vm->config->name, in->path,
		 json_array_size(notes));
	object = object_vm(vm);
	json_object_set_new(object, "Incompatibilities", notes);
	request_result(in->request, object);
}

static void end(struct import *import, struct vm *vm, const struct error *err)
{
	if (err)
		request_error(import->in->request, import->in->path, err);
	else
		imported(import->in, vm);
	import_free(import);
}

/* Layers of the VM's disks whose checkpoints are gone, or stayed where it comes from. Hyper-V's may
 * be there for other reasons. */
static bool is_mergeable(const struct incoming *in)
{
	return in->ours && in->package.mergeable;
}

/* ---- where it is: an export of ours is registered where it lies ---- */

/* Its checkpoints: in a folder of their own, or in the VM's. */
static int settle_checkpoints(struct incoming *in, struct error *err)
{
	AUTO_FREE char *inside = transfer_path(in->folder, "checkpoints");
	AUTO_FREE char *real = realpath(inside, NULL);
	bool apart = in->checkpoints && (!real || strcmp(in->checkpoints, real) != 0);
	struct package *package = &in->package;
	int r = config_set_string(&package->config->checkpoint_folder,
				  apart ? in->checkpoints : NULL, err);

	if (r == 0)
		r = package_settle(package, err);
	for (size_t i = 0; r == 0 && i < package->checkpoint_count; i++)
		r = checkpoint_write(in->checkpoints, &package->checkpoints[i].info,
				     package->checkpoints[i].config, err);
	if (r == 0) {
		/* What lies there may be of another VM's disks. */
		package_find_below(package, in->files);
		r = below_write(in->folder, package->below, err);
	}
	return r;
}

static void import_in_place(struct import *import)
{
	struct incoming *in = import->in;
	struct vm *vm = NULL;
	struct error err;
	int r = settle_checkpoints(in, &err);

	if (r == 0)
		r = vm_register(in->request->daemon, TAKE(in->package.config), in->folder,
				is_mergeable(in), &vm, &err);
	if (r == 0 && is_mergeable(in))
		fold_begin(vm, NULL);
	end(import, vm, r < 0 ? &err : NULL);
}

/* ---- a VM of its own ---- */

static struct package_places places_of(const struct import *import)
{
	return (struct package_places){ import->machine, import->checkpoints, import->disks };
}

/* Until the commit nobody knows of it, and it is taken away again. */
static int create(struct import *import, struct vm **ret, struct error *err)
{
	struct incoming *in = import->in;
	const struct package_places places = places_of(import);
	int r = package_write(&in->package, &places, err);

	if (r == 0)
		r = vm_place(in->request->daemon, TAKE(in->package.config), import->machine,
			     is_mergeable(in), ret, err);
	if (r < 0)
		return r;
	r = transfer_commit(import->transfer, err);
	if (r < 0)
		vm_unref(*ret);
	else
		vm_enlist(*ret);
	return r;
}

static void copied(void *user, const struct error *err)
{
	struct import *import = user;
	struct error failure;
	struct vm *vm = NULL;

	if (!err && create(import, &vm, &failure) < 0)
		err = &failure;
	if (!err && is_mergeable(import->in))
		fold_begin(vm, NULL);
	end(import, vm, err);
}

/* Below -SnapshotFilePath each VM has a folder of its own. */
static int choose_checkpoints(struct import *import, const char *id, struct error *err)
{
	const char *wanted = request_string(import->in->request, "SnapshotFilePath");
	AUTO_FREE char *all = wanted ? transfer_path(wanted, "Snapshots") : NULL;

	import->checkpoints =
	    all ? transfer_path(all, id) : transfer_path(import->machine, "checkpoints");
	if (all) {
		transfer_add(import->transfer, UNDO_SHARED_FOLDER, wanted);
		transfer_add(import->transfer, UNDO_SHARED_FOLDER, all);
	}
	return config_set_string(&import->in->package.config->checkpoint_folder,
				 all ? import->checkpoints : NULL, err);
}

static void choose_disks(struct import *import)
{
	const struct request *request = import->in->request;
	const char *wanted = request_string(request, "VhdDestinationPath");

	if (!request_switch(request, "Copy"))
		return;
	import->disks = wanted ? strdup(wanted)
			       : transfer_path(request->daemon->paths.state, "Virtual Hard Disks");
	transfer_add(import->transfer, UNDO_SHARED_FOLDER, import->disks);
}

static int choose_places(struct import *import, struct error *err)
{
	struct incoming *in = import->in;
	const char *path = request_string(in->request, "VirtualMachinePath");
	const char *paging = request_string(in->request, "SmartPagingFilePath");
	struct config_vm *config = in->package.config;
	char id[GUID_TEXT_SIZE];
	AUTO_FREE char *link = NULL;
	int r = 0;

	guid_format(&config->id, id);
	link = vm_store_path(in->request->daemon, id);
	import->machine = path ? package_folder(path, config->name) : strdup(link);
	if (path) {
		transfer_add(import->transfer, UNDO_SHARED_FOLDER, path);
		transfer_add(import->transfer, UNDO_LINK, link);
	}
	choose_disks(import);
	if (paging)
		r = config_set_string(&config->smart_paging_folder, paging, err);
	return r < 0 ? r : choose_checkpoints(import, id, err);
}

static void import_anew(struct import *import)
{
	struct incoming *in = import->in;
	struct package_places places;
	struct error err;
	int r;

	import->transfer = transfer_new(in->request);
	r = choose_places(import, &err);
	places = places_of(import);
	if (r == 0)
		r = package_copy(&in->package, in->files, &places, import->transfer, &err);
	if (r == 0) {
		transfer_run(import->transfer, copied, import);
		return;
	}
	transfer_free(import->transfer);
	end(import, NULL, &err);
}

static void act(struct incoming *in)
{
	struct import *import;

	if (refuse_blocked(in)) {
		incoming_free(in);
		return;
	}
	import = calloc(1, sizeof(*import));
	if (!import)
		abort();
	import->in = in;
	if (in->ours && !request_switch(in->request, "Copy"))
		import_in_place(import);
	else
		import_anew(import);
}

void cmdlet_import_vm(struct request *request)
{
	incoming_read(request, act);
}
