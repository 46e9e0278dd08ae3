#include "machine/machine-impl.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "blk/gate.h"
#include "dev/storvsp.h"
#include "disk/disk.h"
#include "disk/live.h"
#include "disk/track.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DVD_SECTOR_BYTES 2048
#define RETRY_NS         (5 * NS_PER_SEC) /* while the host's storage fails */

/* What a writable VHD or VHDX of the start has under the guest: its chain can change, and its
 * changes can be tracked. */
struct layers {
	struct blk *live, *tracked; /* tracked is the upper one; NULL: it is another disk */
};

/* The gate of a hard disk: the uppermost of its filters. */
struct place {
	struct controller *controller;
	struct blk *gate; /* NULL: no hard disk is here */
	char *path;       /* what it is called */
	bool troubled;    /* the host's storage has failed it */
};

struct controller {
	struct storage *storage;
	struct guid id;
	struct storvsp *vsp;
	struct blk *disks[STORVSP_MAX_LUNS]; /* lent to vsp; NULL: no drive, or an empty one */
	struct layers layers[STORVSP_MAX_LUNS];
	struct place places[STORVSP_MAX_LUNS];
	struct controller *next; /* among those that retire */
};

struct storage {
	struct machine *machine;
	struct controller *controllers[CONFIG_MAX_SCSI];
	struct controller *retiring; /* gone for the administrator, not yet for the guest */
	unsigned troubled;           /* disks that the host's storage has failed */
	struct loop_timer *retry;
};

static struct controller *find_controller(struct storage *storage, const struct guid *id,
					  struct error *err);

/* ---- images ---- */

static void close_disk(struct blk *disk)
{
	struct error err;

	if (blk_close(disk, &err) < 0)
		log_error("closing a disk: %s", err.text);
}

static bool can_have_layers(const struct machine_drive *disk, int fd)
{
	enum disk_format format;

	return disk->kind == CONFIG_DISK_HARD && !disk->read_only &&
	       disk_probe(fd, &format, NULL) == 0 && format != DISK_RAW;
}

static void chain_changed(void *user)
{
	struct layers *layers = user;
	struct guid now, next;
	struct error err;

	/* If it can't be noted, tracking begins anew with the next start. */
	if (track_running(layers->tracked) && live_links(layers->live, &now, &next) &&
	    track_relink(layers->tracked, &now, &next, &err) < 0)
		log_error("%s", err.text);
}

static int open_layers(struct machine *machine, const int *chain, unsigned count,
		       const struct disk_options *options, struct layers *layers, struct error *err)
{
	int r = live_open(machine->loop, chain, count, options, &layers->live, err);

	if (r < 0)
		return r;
	/* The descriptors are taken: there is no way back but to close it all. */
	if (track_new(layers->live, &layers->tracked, NULL) < 0)
		abort();
	return 0;
}

/* Takes fd, and on success parents (NULL: of a medium, whose chain will not change: layers are not
 * used). */
static int open_disk(struct machine *machine, const struct machine_drive *drive, int fd,
		     struct machine_parents *parents, struct layers *layers, struct blk **ret,
		     struct error *err)
{
	bool dvd = drive->kind == CONFIG_DISK_DVD;
	const struct disk_options options = {
		.format = dvd ? DISK_RAW : DISK_PROBE,
		.read_only = drive->read_only || dvd,
		.logical_sector_bytes = dvd ? DVD_SECTOR_BYTES : 0,
		/* The guest caches what it reads; a second copy here would only take memory. */
		.bypass_cache = !dvd,
	};
	unsigned count = parents ? parents->count : 0;
	AUTO_FREE int *chain = calloc(1 + count, sizeof(*chain));
	int r = chain ? 0 : error_set(err, ERR_NO_MEMORY, "no memory for a disk");

	if (r == 0) {
		chain[0] = fd;
		if (count)
			memcpy(chain + 1, parents->fds, count * sizeof(*chain));
		if (parents && can_have_layers(drive, fd)) {
			r = open_layers(machine, chain, 1 + count, &options, layers, err);
			*ret = layers->tracked;
		} else {
			r = disk_open_chain(machine->loop, chain, 1 + count, &options, ret, err);
		}
	}
	if (r < 0) {
		close(fd);
		return error_prefix(err, "disk '%s'", drive->path ? drive->path : "");
	}
	if (parents)
		parents->count = 0;
	return 0;
}

/* ---- gates ---- */

static unsigned location_of(const struct place *place)
{
	return (unsigned)(place - place->controller->places);
}

static bool hold(void *user, enum blk_result result)
{
	struct place *place = user;
	struct storage *storage = place->controller->storage;
	char text[300];

	snprintf(text, sizeof(text), "disk '%.200s': %s", place->path ? place->path : "",
		 result == BLK_NO_SPACE ? "the host's storage is full"
					: "the host's storage has failed");
	if (!machine_enter_critical(storage->machine, text))
		return false;
	if (storage->troubled == 0)
		loop_timer_arm(storage->retry, clock_now_ns() + RETRY_NS);
	storage->troubled += !place->troubled;
	place->troubled = true;
	return true;
}

static void recovered(void *user)
{
	struct place *place = user;
	struct storage *storage = place->controller->storage;

	storage->troubled -= place->troubled;
	place->troubled = false;
	if (storage->troubled == 0)
		machine_leave_critical(storage->machine);
}

static void slow(void *user, bool is_slow)
{
	struct place *place = user;
	const struct machine_events *events = &place->controller->storage->machine->events;

	events->disk_slow(events->user, &place->controller->id, location_of(place), is_slow);
}

static void for_troubled(struct storage *storage, void (*act)(struct blk *gate))
{
	for (unsigned i = 0; i < CONFIG_MAX_SCSI; i++)
		for (unsigned k = 0; storage->controllers[i] && k < STORVSP_MAX_LUNS; k++)
			if (storage->controllers[i]->places[k].troubled)
				act(storage->controllers[i]->places[k].gate);
}

void storage_retry(struct storage *storage)
{
	for_troubled(storage, gate_retry);
}

void storage_give_up(struct storage *storage)
{
	for_troubled(storage, gate_give_up);
}

static void retry(void *user)
{
	struct storage *storage = user;

	storage_retry(storage);
	if (storage->troubled)
		loop_timer_arm(storage->retry, clock_now_ns() + RETRY_NS);
}

/* Puts the gate of a hard disk above *disk. */
static int add_gate(struct controller *controller, const struct machine_drive *drive,
		    struct blk **disk, struct error *err)
{
	struct place *place = &controller->places[drive->location];
	const struct gate_events events = { place, hold, recovered, slow };
	struct blk *gate = NULL;
	int r = gate_new(controller->storage->machine->loop, *disk, &events, &gate, err);

	if (r < 0)
		return r;
	gate_set_rates(gate, drive->minimum_iops, drive->maximum_iops);
	*disk = gate;
	return 0;
}

/* The drive is attached; nothing was asked of it yet. */
static void note_gate(struct controller *controller, const struct machine_drive *drive,
		      struct blk *gate)
{
	controller->places[drive->location] =
	    (struct place){ .controller = controller,
			    .gate = gate,
			    .path = drive->path ? strdup(drive->path) : NULL };
}

int machine_set_iops(struct machine *machine, const struct guid *id, unsigned location,
		     unsigned minimum, unsigned maximum, struct error *err)
{
	struct controller *controller = find_controller(machine->storage, id, err);

	if (!controller)
		return -ERR_NOT_FOUND;
	if (location >= STORVSP_MAX_LUNS || !controller->places[location].gate)
		return error_set(err, ERR_NOT_FOUND, "no hard disk is at location %u", location);
	gate_set_rates(controller->places[location].gate, minimum, maximum);
	return 0;
}

/* ---- controllers ---- */

static struct controller *find_controller(struct storage *storage, const struct guid *id,
					  struct error *err)
{
	for (unsigned i = 0; i < CONFIG_MAX_SCSI; i++)
		if (storage->controllers[i] && guid_equal(&storage->controllers[i]->id, id))
			return storage->controllers[i];
	error_set(err, ERR_NOT_FOUND, "there is no such SCSI controller");
	return NULL;
}

/* By value: the controller may be gone before the loop comes to it. */
struct ejected {
	struct machine *machine;
	struct guid controller;
	unsigned location;
	struct blk *medium;
};

/* After the request that did it. */
static void finish_eject(void *user)
{
	struct ejected *ejected = user;
	const struct machine_events *events = &ejected->machine->events;

	close_disk(ejected->medium);
	events->ejected(events->user, &ejected->controller, ejected->location);
	free(ejected);
}

static void on_ejected(void *user, unsigned location, struct blk *medium)
{
	struct controller *controller = user;
	struct machine *machine = controller->storage->machine;
	struct ejected *ejected = malloc(sizeof(*ejected));

	if (!ejected)
		abort(); /* a few bytes: the host is beyond help */
	controller->disks[location] = NULL;
	*ejected = (struct ejected){ machine, controller->id, location, medium };
	loop_post(machine->loop, finish_eject, ejected);
}

static void close_at(struct controller *controller, unsigned location)
{
	struct place *place = &controller->places[location];

	close_disk(controller->disks[location]);
	controller->disks[location] = NULL;
	place->gate = NULL;
	free(TAKE(place->path));
}

static void close_disks(struct controller *controller)
{
	for (unsigned i = 0; i < STORVSP_MAX_LUNS; i++)
		close_at(controller, i);
}

static void free_controller(struct controller *controller)
{
	storvsp_free(controller->vsp);
	close_disks(controller);
	free(controller);
}

static void retired(void *user)
{
	struct controller *controller = user, **link = &controller->storage->retiring;

	while (*link != controller)
		link = &(*link)->next;
	*link = controller->next;
	free_controller(controller);
}

static int new_controller(struct storage *storage, const struct guid *id, struct controller **ret,
			  struct error *err)
{
	struct machine *machine = storage->machine;
	struct controller *controller = calloc(1, sizeof(*controller));
	int r;

	if (!controller)
		return error_set(err, ERR_NO_MEMORY, "no memory for a SCSI controller");
	controller->storage = storage;
	controller->id = *id;
	r = storvsp_new(machine->vmbus, machine->loop, machine->mem, id,
			machine->config->processor_count, &controller->vsp, err);
	if (r < 0) {
		free(controller);
		return r;
	}
	storvsp_set_eject_hook(controller->vsp, on_ejected, controller);
	*ret = controller;
	return 0;
}

int machine_add_controller(struct machine *machine, const struct guid *id, struct error *err)
{
	struct storage *storage = machine->storage;

	if (find_controller(storage, id, NULL))
		return error_set(err, ERR_EXISTS, "there is such a SCSI controller already");
	for (unsigned i = 0; i < CONFIG_MAX_SCSI; i++)
		if (!storage->controllers[i])
			return new_controller(storage, id, &storage->controllers[i], err);
	return error_set(err, ERR_LIMIT, "a virtual machine has at most %d SCSI controllers",
			 CONFIG_MAX_SCSI);
}

int machine_remove_controller(struct machine *machine, const struct guid *id, struct error *err)
{
	struct storage *storage = machine->storage;
	struct controller *controller = find_controller(storage, id, err);

	if (!controller)
		return -ERR_NOT_FOUND;
	for (unsigned i = 0; i < CONFIG_MAX_SCSI; i++)
		if (storage->controllers[i] == controller)
			storage->controllers[i] = NULL;
	controller->next = storage->retiring;
	storage->retiring = controller;
	storvsp_retire(controller->vsp, retired, controller);
	close_disks(controller);
	return 0;
}

/* ---- drives ---- */

int machine_add_drive(struct machine *machine, const struct machine_drive *drive, int fd,
		      struct machine_parents *parents, struct error *err)
{
	struct controller *controller = find_controller(machine->storage, &drive->controller, err);
	struct layers layers = { NULL, NULL };
	struct blk *disk = NULL;
	int r = controller ? 0 : -ERR_NOT_FOUND;

	if (fd < 0 && r == 0 && drive->kind == CONFIG_DISK_HARD)
		return error_set(err, ERR_INVALID, "disk '%s' came without a descriptor",
				 drive->path ? drive->path : "");
	if (fd >= 0 && r == 0)
		r = open_disk(machine, drive, fd, parents, &layers, &disk, err);
	else if (fd >= 0)
		close(fd);
	/* Its location is checked by the next step. */
	if (r == 0 && drive->kind == CONFIG_DISK_HARD && drive->location < STORVSP_MAX_LUNS)
		r = add_gate(controller, drive, &disk, err);
	if (r == 0)
		r = storvsp_attach(controller->vsp, drive->location, disk,
				   drive->kind == CONFIG_DISK_DVD ? SCSI_KIND_DVD : SCSI_KIND_DISK,
				   err);
	if (r < 0) {
		close_disk(disk);
		return r;
	}
	controller->disks[drive->location] = disk;
	controller->layers[drive->location] = layers;
	if (drive->kind == CONFIG_DISK_HARD)
		note_gate(controller, drive, disk);
	if (layers.live)
		live_on_change(layers.live, chain_changed, &controller->layers[drive->location]);
	return 0;
}

int machine_remove_drive(struct machine *machine, const struct guid *id, unsigned location,
			 struct error *err)
{
	struct controller *controller = find_controller(machine->storage, id, err);
	int r = controller ? storvsp_detach(controller->vsp, location, err) : -ERR_NOT_FOUND;

	if (r < 0)
		return r;
	close_at(controller, location);
	controller->layers[location] = (struct layers){ NULL, NULL };
	return 0;
}

int machine_set_medium(struct machine *machine, const struct machine_drive *drive, int fd,
		       struct error *err)
{
	struct controller *controller = find_controller(machine->storage, &drive->controller, err);
	struct blk *disk = NULL;
	int r = controller ? 0 : -ERR_NOT_FOUND;

	if (fd >= 0 && r == 0)
		r = open_disk(machine, drive, fd, NULL, NULL, &disk, err);
	else if (fd >= 0)
		close(fd);
	if (r == 0)
		r = storvsp_set_medium(controller->vsp, drive->location, disk, err);
	if (r < 0) {
		close_disk(disk);
		return r;
	}
	close_disk(controller->disks[drive->location]);
	controller->disks[drive->location] = disk;
	return 0;
}

int machine_grow_drive(struct machine *machine, const struct guid *id, unsigned location,
		       uint64_t size_bytes, struct error *err)
{
	struct controller *controller = find_controller(machine->storage, id, err);
	struct blk *disk;
	uint64_t before;
	int r, told;

	if (!controller)
		return -ERR_NOT_FOUND;
	if (location >= STORVSP_MAX_LUNS || !controller->disks[location])
		return error_set(err, ERR_NOT_FOUND, "no disk is at location %u", location);
	disk = controller->disks[location];
	before = blk_info(disk)->size_bytes;
	r = blk_grow(disk, size_bytes, err);
	/* It may have grown without being tracked any more. */
	if (r < 0 && blk_info(disk)->size_bytes == before)
		return r;
	told = storvsp_resized(controller->vsp, location, r < 0 ? NULL : err);
	return r < 0 ? r : told;
}

/* ---- what it did ---- */

static void add_usage(const struct blk *disk, struct machine_usage *ret)
{
	const struct blk_counters *counters = blk_counters(disk);
	const struct blk_info *info = blk_info(disk);

	ret->disk_reads += counters->requests[BLK_READ];
	ret->disk_writes += counters->requests[BLK_WRITE];
	ret->disk_read_bytes += counters->bytes[BLK_READ];
	ret->disk_written_bytes += counters->bytes[BLK_WRITE];
	/* A DVD is no disk that was given to the VM. */
	if (info->logical_sector_bytes != DVD_SECTOR_BYTES)
		ret->disk_capacity_bytes += info->size_bytes;
}

void storage_usage(const struct storage *storage, struct machine_usage *ret)
{
	for (unsigned i = 0; i < CONFIG_MAX_SCSI; i++)
		for (unsigned k = 0; storage->controllers[i] && k < STORVSP_MAX_LUNS; k++)
			if (storage->controllers[i]->disks[k])
				add_usage(storage->controllers[i]->disks[k], ret);
}

/* ---- those of the description ---- */

static int add_described(struct storage *storage, unsigned index, struct error *err)
{
	struct machine *machine = storage->machine;
	const struct config_disk *disk = &machine->config->disks[index];
	struct machine_drive drive = { .location = disk->lun,
				       .kind = disk->kind,
				       .read_only = disk->read_only,
				       .path = disk->path,
				       .minimum_iops = disk->minimum_iops,
				       .maximum_iops = disk->maximum_iops };
	int fd = machine->files.disks[index], track_fd = machine->files.tracks[index], r;

	if (disk->bus != CONFIG_BUS_SCSI)
		return error_set(err, ERR_UNSUPPORTED,
				 "disk '%s': IDE controllers are not there yet",
				 disk->path ? disk->path : "");
	if (disk->controller_number >= machine->config->scsi_count)
		return error_set(err, ERR_INVALID, "there is no SCSI controller %u",
				 disk->controller_number);
	drive.controller = machine->config->scsi_ids[disk->controller_number];
	machine->files.disks[index] = machine->files.tracks[index] = -1;
	r = machine_add_drive(machine, &drive, fd, &machine->files.parents[index], err);
	if (track_fd >= 0 && r == 0)
		r = machine_drive_track(machine, &drive.controller, drive.location, track_fd, err);
	else if (track_fd >= 0)
		close(track_fd);
	return r;
}

int storage_new(struct machine *machine, struct storage **ret, struct error *err)
{
	struct storage *storage = calloc(1, sizeof(*storage));
	int r = 0;

	if (!storage)
		return error_set(err, ERR_NO_MEMORY, "no memory for the disks");
	storage->machine = machine;
	*ret = storage; /* machine_free frees it, however far this comes */
	machine->critical_ignored = machine->config->critical_action == CONFIG_CRITICAL_NONE;
	r = loop_timer_new(machine->loop, retry, storage, &storage->retry, err);
	for (unsigned i = 0; r == 0 && i < machine->config->scsi_count; i++)
		r = machine_add_controller(machine, &machine->config->scsi_ids[i], err);
	for (unsigned i = 0; r == 0 && i < machine->config->disk_count; i++)
		r = add_described(storage, i, err);
	return r;
}

void storage_free(struct storage *storage)
{
	if (!storage)
		return;
	for (unsigned i = 0; i < CONFIG_MAX_SCSI; i++)
		if (storage->controllers[i])
			free_controller(storage->controllers[i]);
	while (storage->retiring)
		retired(storage->retiring);
	loop_timer_free(storage->retry);
	free(storage);
}

/* ---- layers ---- */

static int layers_at(struct storage *storage, const struct guid *id, unsigned location,
		     struct layers *ret, struct error *err)
{
	struct controller *controller = find_controller(storage, id, err);

	if (!controller)
		return -ERR_NOT_FOUND;
	if (location >= STORVSP_MAX_LUNS || !controller->disks[location])
		return error_set(err, ERR_NOT_FOUND, "no disk is at location %u", location);
	if (!controller->layers[location].live)
		return error_set(err, ERR_INVALID,
				 "the disk at location %u is no writable VHD or VHDX: its chain "
				 "can't change",
				 location);
	*ret = controller->layers[location];
	return 0;
}

static int find_live(struct storage *storage, const struct guid *id, unsigned location,
		     struct blk **ret, struct error *err)
{
	struct layers layers = { NULL, NULL };
	int r = layers_at(storage, id, location, &layers, err);

	if (r == 0)
		*ret = layers.live;
	return r;
}

int storage_push(struct storage *storage, const struct machine_layer *layers, unsigned count,
		 struct error *err)
{
	unsigned done = 0;
	int r = 0;

	for (unsigned i = 0; i < count; i++) {
		struct blk *disk = NULL;

		if (r == 0)
			r = find_live(storage, &layers[i].controller, layers[i].location, &disk,
				      err);
		if (r < 0) {
			close(layers[i].fd);
			continue;
		}
		r = live_push(disk, layers[i].fd, err);
		done += r == 0;
	}
	if (r < 0)
		storage_pop(storage, layers, done);
	return r;
}

void storage_pop(struct storage *storage, const struct machine_layer *layers, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct blk *disk = NULL;

		if (find_live(storage, &layers[i].controller, layers[i].location, &disk, NULL) == 0)
			live_pop(disk);
	}
}

int machine_disk_merge(struct machine *machine, const struct guid *controller, unsigned location,
		       const struct live_merge *merge, struct error *err)
{
	struct blk *disk = NULL;
	int r = find_live(machine->storage, controller, location, &disk, err);

	if (r == 0)
		return live_merge_start(disk, merge, err);
	live_merge_close(merge);
	return r;
}

int machine_disk_merge_cancel(struct machine *machine, const struct guid *controller,
			      unsigned location, struct error *err)
{
	struct blk *disk = NULL;
	int r = find_live(machine->storage, controller, location, &disk, err);

	if (r == 0)
		live_merge_cancel(disk);
	return r;
}

int machine_disk_set_paths(struct machine *machine, const struct guid *controller,
			   unsigned location, const struct live_paths *paths, struct error *err)
{
	struct blk *disk = NULL;
	int r = find_live(machine->storage, controller, location, &disk, err);

	return r < 0 ? r : live_set_paths(disk, paths, err);
}

/* ---- change tracking ---- */

static int begin_tracking(struct machine *machine, const struct layers *layers, int fd,
			  struct track_options *options, struct error *err)
{
	int r = track_start(layers->tracked, machine->loop, fd, options, err);

	if (r != -ERR_STATE && r != -ERR_CORRUPT)
		return r;
	log_warn("change tracking begins anew, without reference points: %s", err->text);
	options->create = true;
	return track_start(layers->tracked, machine->loop, fd, options, err);
}

int machine_drive_track(struct machine *machine, const struct guid *id, unsigned location, int fd,
			struct error *err)
{
	struct track_options options = { 0 };
	struct layers layers = { NULL, NULL };
	int r = layers_at(machine->storage, id, location, &layers, err);

	if (r == 0 && !live_links(layers.live, &options.link_now, &options.link_next))
		r = error_set(err, ERR_UNSUPPORTED, "changes can be tracked of a VHDX only");
	if (r == 0)
		r = begin_tracking(machine, &layers, fd, &options, err);
	if (r < 0)
		close(fd);
	return r;
}

int machine_drive_tracked(struct machine *machine, const struct guid *id, unsigned location,
			  struct blk **ret, struct error *err)
{
	struct layers layers = { NULL, NULL };
	int r = layers_at(machine->storage, id, location, &layers, err);

	if (r == 0)
		*ret = layers.tracked;
	return r;
}

/* ---- state ---- */

void storage_quiesce(struct storage *storage)
{
	/* What is on its way out is not saved: the guest loses it now. */
	while (storage->retiring)
		retired(storage->retiring);
	for (unsigned i = 0; i < CONFIG_MAX_SCSI; i++)
		if (storage->controllers[i])
			storvsp_quiesce(storage->controllers[i]->vsp);
}

void storage_unquiesce(struct storage *storage)
{
	for (unsigned i = 0; i < CONFIG_MAX_SCSI; i++)
		if (storage->controllers[i])
			storvsp_unquiesce(storage->controllers[i]->vsp);
}

void storage_save(struct storage *storage, struct state_out *out)
{
	for (unsigned i = 0; i < CONFIG_MAX_SCSI; i++)
		if (storage->controllers[i])
			storvsp_save(storage->controllers[i]->vsp, out);
}

int storage_restore(struct storage *storage, struct state_in *in, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < CONFIG_MAX_SCSI; i++)
		if (storage->controllers[i])
			r = storvsp_restore(storage->controllers[i]->vsp, in, err);
	return r;
}
