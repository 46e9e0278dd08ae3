#include "incoming.h"

#include "base/host.h"
#include "base/macros.h"
#include "balancer.h"
#include "cmdlets.h"
#include "config/config-json.h"
#include "saved.h"
#include "switches.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>

#define MAX_FILE_BYTES   (64 * MIB)
#define MAX_REPORT_BYTES (8 * MIB)
#define OUR_FILE         "vm.json"
#define SNAPSHOTS        "Snapshots"

#define note(in, ...) import_note((in)->report, __VA_ARGS__)

void incoming_free(struct incoming *in)
{
	struct request *request;

	if (!in)
		return;
	request = in->request;
	/* It is one of the two. */
	if (in->report)
		in->report->config = NULL;
	import_vm_free(in->report);
	package_done(&in->package);
	disk_files_free(in->files);
	json_decref(in->wanted);
	free(in->path);
	free(in->folder);
	free(in->checkpoints);
	free(in);
	request_release(request);
}

json_t *incoming_notes(const struct incoming *in, const char *vm_name)
{
	json_t *notes = json_array();

	for (size_t i = 0; i < in->report->note_count; i++) {
		const struct import_note *one = &in->report->notes[i];

		json_array_append_new(
		    notes, json_pack("{s:s, s:s, s:i, s:s, s:s}", "VMName", vm_name, "Severity",
				     import_severity_name(one->severity), "MessageId",
				     one->message_id, "Source", one->source, "Message", one->text));
	}
	return notes;
}

/* ---- what the importer asks of us ---- */

static char *find_disk(void *user, const char *windows_path)
{
	struct incoming *in = user;

	return import_find_file(in->path, request_string(in->request, "VhdSourcePath"),
				windows_path);
}

/* A mended report names the file itself. */
static char *find_wanted(void *user, const char *path)
{
	char *real = realpath(path, NULL);

	return real ? real : find_disk(user, path);
}

static bool has_switch(void *user, const char *name)
{
	return switches_exists(name);
}

static int new_mac(void *user, const struct config_vm *config, uint8_t ret[6], struct error *err)
{
	struct incoming *in = user;

	return cmdlets_choose_mac(in->request->daemon, config, ret, err);
}

/* ---- Hyper-V's files ---- */

static int read_bytes(const char *path, uint8_t **ret, size_t *ret_size, struct error *err)
{
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	AUTO_FREE uint8_t *bytes = NULL;
	struct stat st;
	size_t done = 0;
	ssize_t n = 1;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set_errno(err, errno, "opening '%.300s'", path);
	if (!S_ISREG(st.st_mode) || st.st_size > (off_t)MAX_FILE_BYTES)
		return error_set(err, ERR_INVALID, "'%.300s' is no file of at most 64 MB", path);
	bytes = malloc((size_t)st.st_size + 1);
	if (!bytes)
		return error_set(err, ERR_NO_MEMORY, "no memory to read '%.300s'", path);
	while (done < (size_t)st.st_size && n > 0) {
		n = read(fd, bytes + done, (size_t)st.st_size - done);
		if (n < 0)
			return error_set_errno(err, errno, "reading '%.300s'", path);
		done += (size_t)n;
	}
	*ret = TAKE(bytes);
	*ret_size = done;
	return 0;
}

static int read_hyperv_file(struct incoming *in, const char *path, struct import_vm **ret,
			    struct error *err)
{
	const struct import_env env = { in, find_disk, has_switch, new_mac };
	AUTO_FREE uint8_t *bytes = NULL;
	struct key *root;
	size_t size = 0;
	int r = read_bytes(path, &bytes, &size, err);

	if (r == 0)
		r = import_read(bytes, size, &root, err);
	if (r < 0)
		return r;
	r = import_hyperv(root, &env, ret, err);
	key_free(root);
	return r;
}

/* What is noted of a checkpoint is, but for what is its own, noted of the VM already. */
static void take_notes(struct incoming *in, const struct import_vm *from)
{
	for (size_t i = 0; i < from->note_count; i++)
		note(in, from->notes[i].severity, from->notes[i].message_id, from->notes[i].source,
		     "%s", from->notes[i].text);
}

static char *time_text(int64_t seconds)
{
	time_t time = seconds;
	char text[40];
	struct tm tm;
	char *copy;

	gmtime_r(&time, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S.000Z", &tm);
	copy = strdup(text);
	if (!copy)
		abort();
	return copy;
}

static void add_checkpoint(struct incoming *in, struct import_vm *read)
{
	struct package *package = &in->package;
	struct package_checkpoint one = { .config = TAKE(read->config),
					  .info.created = time_text(read->created) };

	guid_format(&one.config->id, one.info.id);
	one.info.name = strdup(one.config->name);
	if (!one.info.name)
		abort();
	package->checkpoints =
	    reallocarray(package->checkpoints, package->checkpoint_count + 1, sizeof(one));
	if (!package->checkpoints)
		abort();
	package->checkpoints[package->checkpoint_count++] = one;
}

static void read_hyperv_checkpoint(struct incoming *in, const char *path)
{
	struct import_vm *read;
	struct error err;

	if (read_hyperv_file(in, path, &read, &err) < 0) {
		note(in, IMPORT_BLOCKS, 0, path, "it can't be read: %s", err.text);
		return;
	}
	if (read->is_checkpoint) {
		take_notes(in, read);
		add_checkpoint(in, read);
	}
	import_vm_free(read);
}

static bool is_config_name(const char *name)
{
	const char *dot = strrchr(name, '.');

	return dot && (strcasecmp(dot, ".vmcx") == 0 || strcasecmp(dot, ".xml") == 0);
}

/* Each has a file of its own in "Snapshots" beside "Virtual Machines". */
static void read_hyperv_checkpoints(struct incoming *in)
{
	AUTO_FREE char *path = transfer_path(in->folder, "../" SNAPSHOTS);
	DIR *folder = in->report->is_checkpoint ? NULL : opendir(path);
	int64_t told = in->report->checkpoint_count;
	struct dirent *entry;

	while (folder && (entry = readdir(folder)) &&
	       in->package.checkpoint_count <= CHECKPOINTS_MAX) {
		AUTO_FREE char *file = transfer_path(path, entry->d_name);

		if (is_config_name(entry->d_name))
			read_hyperv_checkpoint(in, file);
	}
	if (folder)
		closedir(folder);
	if (in->package.checkpoint_count)
		note(in, IMPORT_LOST, 0, "Checkpoints",
		     "the memory of its checkpoints is not taken over: each starts from its disks");
	else if (told > 0)
		note(in, IMPORT_LOST, 0, "Checkpoints",
		     "the files of its %lld checkpoints are not there: it starts from its present "
		     "disks",
		     (long long)told);
}

static int read_hyperv(struct incoming *in, struct error *err)
{
	int r = read_hyperv_file(in, in->path, &in->report, err);

	if (r < 0)
		return r;
	in->package.config = in->report->config;
	/* What can be mended is looked at again, in the description that was mended. */
	if (in->wanted)
		import_forget(in->report);
	read_hyperv_checkpoints(in);
	return 0;
}

/* ---- exports of ours ---- */

/* In an export they are beside "Virtual Machines"; in a VM's own folder, in that. What else the
 * description names is not believed: it could be another VM's. */
static char *find_checkpoints(struct incoming *in)
{
	AUTO_FREE char *exported = transfer_path(in->folder, "../../" SNAPSHOTS);
	AUTO_FREE char *inside = transfer_path(in->folder, "checkpoints");
	char *found = in->package.config->checkpoint_folder ? realpath(exported, NULL) : NULL;

	return found ? found : realpath(inside, NULL);
}

static int read_checkpoints(struct incoming *in, struct error *err)
{
	struct config_vm *config = in->package.config;
	const char *named = config->checkpoint_folder;
	int r = 0;

	in->checkpoints = find_checkpoints(in);
	if (in->checkpoints)
		r = package_add_checkpoints(&in->package, in->checkpoints, err);
	if (r == 0 && config->parent_checkpoint && !in->package.checkpoint_count)
		note(in, IMPORT_LOST, 0, named ? named : "Checkpoints",
		     "its checkpoints are not beside it: it starts from its present disks");
	return r;
}

static int read_memory(struct incoming *in, struct error *err)
{
	struct config_vm *config = in->package.config;

	if (!config->saved_state)
		return 0;
	in->package.memory = saved_path_in(in->folder, config->saved_state, "memory");
	if (access(in->package.memory, R_OK) == 0)
		return 0;
	note(in, IMPORT_CHANGED, IMPORT_NO_STATE, in->package.memory,
	     "the saved state is not there: the machine will be off, as after a power cut");
	free(TAKE(in->package.memory));
	return config_set_string(&config->saved_state, NULL, err);
}

static int read_ours(struct incoming *in, struct error *err)
{
	const struct import_env env = { in, find_disk, has_switch, new_mac };
	AUTO_CLOSE int fd = open(in->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct config_vm *config;
	int r;

	if (fd < 0)
		return error_set_errno(err, errno, "opening the folder '%.300s'", in->folder);
	r = config_load(fd, OUR_FILE, &config, err);
	if (r < 0)
		return r;
	in->report = import_vm_new(config);
	in->package.config = config;
	in->package.boot_optional = true;
	r = read_checkpoints(in, err);
	if (r == 0)
		r = read_memory(in, err);
	for (size_t n = in->wanted ? 1 : 0; r == 0 && (config = package_config(&in->package, n));
	     n++)
		import_relocate(in->report, config, &env, in->folder);
	return r;
}

/* ---- a report that was mended ---- */

/* The description that was looked at before, as its reader changed it. What hangs together with
 * other files is as those say. */
static int take_wanted(struct incoming *in, struct error *err)
{
	const struct import_env env = { in, find_wanted, has_switch, new_mac };
	struct config_vm *config, *was = in->package.config;
	int r = config_vm_from_json(in->wanted, &config, err);

	if (r < 0)
		return error_prefix(err, "the report's description");
	in->package.config = in->report->config = config;
	if (!config->saved_state)
		free(TAKE(in->package.memory));
	r = config_set_string(&config->saved_state, in->package.memory ? was->saved_state : NULL,
			      err);
	if (r == 0)
		r = config_set_string(&config->parent_checkpoint, was->parent_checkpoint, err);
	config_vm_free(was);
	import_relocate(in->report, config, &env, in->folder);
	return r;
}

static json_t *first_object(json_t *json)
{
	return json_is_array(json) ? json_array_get(json, 0) : json;
}

/* Its parameters become the request's. */
static int use_report(struct incoming *in, const json_t *report, struct error *err)
{
	json_t *given = json_object_get(report, "Parameters"), *params;
	json_t *wanted = json_object_get(report, "VM");
	int r;

	if (!json_is_object(given) || !json_is_object(wanted) ||
	    json_object_get(given, "CompatibilityReport"))
		return error_set(err, ERR_INVALID,
				 "it is no report that `compare-vm ... --json` wrote");
	r = cmdlet_check(in->request->cmdlet, given, &params, err);
	if (r < 0)
		return r;
	json_decref(in->request->params);
	in->request->params = params;
	in->wanted = json_deep_copy(wanted);
	return 0;
}

static int read_report(struct incoming *in, const char *path, struct error *err)
{
	AUTO_FREE uint8_t *bytes = NULL;
	json_t *report = NULL;
	size_t size = 0;
	int r = read_bytes(path, &bytes, &size, err);

	if (r == 0 && size > MAX_REPORT_BYTES)
		r = error_set(err, ERR_LIMIT, "it is larger than 8 MB");
	if (r < 0)
		return r;
	report = json_loadb((char *)bytes, size, JSON_REJECT_DUPLICATES, NULL);
	r = use_report(in, first_object(report), err);
	json_decref(report);
	return r;
}

/* ---- what this host has to say ---- */

static void check_identity(struct incoming *in)
{
	const char *new_name = request_string(in->request, "NewName");
	struct daemon *daemon = in->request->daemon;
	struct config_vm *config = in->package.config;
	struct guid planned = config->id;
	char id[GUID_TEXT_SIZE];

	if (request_switch(in->request, "GenerateNewId"))
		package_renew(&in->package);
	/* A report has the new one already. */
	if (in->wanted)
		config->id = planned;
	if (new_name)
		config_set_string(&config->name, new_name, NULL);
	guid_format(&config->id, id);
	if (vm_find_id(daemon, id))
		note(in, IMPORT_BLOCKS, 0, id,
		     "a virtual machine with this identifier is registered already; -Copy "
		     "-GenerateNewId makes another one of it");
	if (vm_find(daemon, config->name))
		note(in, IMPORT_BLOCKS, 0, config->name,
		     "there is a virtual machine of this name already; -NewName gives it another "
		     "one");
}

/* Here and in its checkpoints. */
static void change_address(struct incoming *in, const uint8_t was[6], const uint8_t mac[6])
{
	struct config_vm *config;

	for (size_t n = 0; (config = package_config(&in->package, n)); n++)
		for (unsigned i = 0; i < config->nic_count; i++)
			if (!config->nics[i].static_mac && memcmp(config->nics[i].mac, was, 6) == 0)
				memcpy(config->nics[i].mac, mac, 6);
}

static void check_address(struct incoming *in, const struct config_vm *config,
			  const struct config_nic *nic)
{
	uint8_t mac[6], was[6];
	struct error err;

	if (!cmdlets_mac_in_use(in->request->daemon, NULL, nic->mac))
		return;
	memcpy(was, nic->mac, sizeof(was));
	if (nic->static_mac) {
		note(in, IMPORT_BLOCKS, 0, nic->name,
		     "another virtual machine's adapter has its static MAC address");
	} else if (new_mac(in, config, mac, &err) < 0) {
		note(in, IMPORT_BLOCKS, 0, nic->name, "%s", err.text);
	} else {
		note(in, IMPORT_CHANGED, 0, nic->name,
		     "it gets another dynamic MAC address: its own is in use here");
		change_address(in, was, mac);
	}
}

static void check_resources(struct incoming *in)
{
	const struct config_vm *config = in->package.config;
	uint64_t most = balancer_most_bytes(in->request->daemon->balancer);

	if (config->memory_bytes > most)
		note(in, IMPORT_BLOCKS, 0, "Memory",
		     "%llu MB of startup memory are more than this host has (%llu MB)",
		     (unsigned long long)(config->memory_bytes / MIB),
		     (unsigned long long)(most / MIB));
	if (config->processor_count > host_processors())
		note(in, IMPORT_LOST, 0, "Processor",
		     "it has %u processors, and this host %u: they take turns",
		     config->processor_count, host_processors());
}

static void check_host(struct incoming *in)
{
	struct config_vm *config;

	check_identity(in);
	check_resources(in);
	for (size_t n = 0; (config = package_config(&in->package, n)); n++)
		for (unsigned i = 0; i < config->nic_count; i++)
			check_address(in, config, &config->nics[i]);
}

/* ---- its disks ---- */

static void note_failures(struct incoming *in)
{
	for (size_t i = 0; i < in->files->failure_count; i++) {
		const struct disk_failure *failure = &in->files->failures[i];

		/* A disk that is not there itself has been noted. */
		if (access(failure->path, F_OK) < 0)
			continue;
		note(in, IMPORT_BLOCKS, IMPORT_NO_DISK, failure->path, "%s", failure->why.text);
	}
}

static const char *parent_of(const struct incoming *in, const char *path)
{
	for (size_t i = 0; i < in->files->count; i++)
		if (strcmp(in->files->list[i].path, path) == 0)
			return in->files->list[i].parent;
	return NULL;
}

static const struct package_checkpoint *owner_of(const struct incoming *in, const char *path)
{
	for (size_t i = 0; i < in->package.checkpoint_count; i++) {
		const struct package_checkpoint *one = &in->package.checkpoints[i];

		for (unsigned k = 0; k < one->config->disk_count; k++)
			if (one->config->disks[k].path && !one->config->disks[k].read_only &&
			    strcmp(one->config->disks[k].path, path) == 0)
				return one;
	}
	return NULL;
}

/* Which checkpoint a description comes from: the one that has the nearest disk under one of its. */
static const struct package_checkpoint *comes_from(const struct incoming *in,
						   const struct config_vm *config)
{
	for (unsigned i = 0; i < config->disk_count; i++) {
		const char *path = config->disks[i].path;

		if (!path || config->disks[i].kind != CONFIG_DISK_HARD)
			continue;
		while ((path = parent_of(in, path))) {
			const struct package_checkpoint *one = owner_of(in, path);

			if (one && one->config != config)
				return one;
		}
	}
	return NULL;
}

/* Hyper-V's files don't say it in a way that is known; the disks do. */
static int find_tree(struct incoming *in, struct error *err)
{
	struct package *package = &in->package;
	const struct package_checkpoint *above = comes_from(in, package->config);

	for (size_t i = 0; i < package->checkpoint_count; i++) {
		struct package_checkpoint *one = &package->checkpoints[i];
		const struct package_checkpoint *parent = comes_from(in, one->config);

		free(one->info.parent);
		one->info.parent = parent ? strdup(parent->info.id) : NULL;
	}
	return config_set_string(&package->config->parent_checkpoint, above ? above->info.id : NULL,
				 err);
}

/* ---- all of it ---- */

static void fail(struct incoming *in, const struct error *err)
{
	const char *path = request_string(in->request, "Path");

	request_error(in->request, path ? path : request_string(in->request, "CompatibilityReport"),
		      err);
	incoming_free(in);
}

static void disks_found(void *user, struct disk_files *files, const struct error *err)
{
	struct incoming *in = user;
	struct error failure;
	int r = 0;

	in->files = files;
	if (!err && !in->ours)
		r = find_tree(in, &failure);
	if (!err && r == 0)
		r = package_check(&in->package, &failure);
	if (err || r < 0) {
		fail(in, err ? err : &failure);
		return;
	}
	note_failures(in);
	check_host(in);
	in->done(in);
}

/* The file that -Path names: a folder stands for the description in it. */
static int find_config(struct incoming *in, struct error *err)
{
	const char *path = request_string(in->request, "Path");
	struct stat st;

	if (stat(path, &st) < 0)
		return error_set_errno(err, errno, "'%.300s'", path);
	in->path = S_ISDIR(st.st_mode) ? transfer_path(path, OUR_FILE) : strdup(path);
	if (!in->path)
		abort();
	in->ours = strcmp(strrchr(in->path, '/') + 1, OUR_FILE) == 0;
	in->folder = strndup(in->path, (size_t)(strrchr(in->path, '/') - in->path));
	if (!in->folder)
		abort();
	return 0;
}

static int read_all(struct incoming *in, struct error *err)
{
	const char *report = request_string(in->request, "CompatibilityReport");
	int r = report ? read_report(in, report, err) : 0;

	if (r == 0)
		r = find_config(in, err);
	if (r == 0)
		r = in->ours ? read_ours(in, err) : read_hyperv(in, err);
	return r == 0 && in->wanted ? take_wanted(in, err) : r;
}

void incoming_read(struct request *request, void (*done)(struct incoming *incoming))
{
	struct incoming *in = calloc(1, sizeof(*in));
	struct error err;
	json_t *disks;

	if (!in)
		abort();
	in->request = request;
	in->done = done;
	request_hold(request);
	if (read_all(in, &err) < 0) {
		fail(in, &err);
		return;
	}
	disks = package_disks(&in->package);
	disk_files_find(request, disks, disks_found, in);
	json_decref(disks);
}
