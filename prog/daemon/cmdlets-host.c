/* Cmdlets about the host itself. */
#include "cmdlets.h"

#include "base/macros.h"
#include "host.h"
#include "numa.h"
#include "objects.h"
#include "remote.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* What Set-VMHost may change of the daemon, to be undone if it can't be kept. */
struct settings {
	char *vm_path, *vhd_path;
	bool enhanced_sessions;
	unsigned metering_save_seconds;
	uint8_t mac_first[6], mac_last[6];
};

/* A folder that is there, or "": as where it was never set. The result is the caller's. */
static int take_path(const struct request *request, const char *name, char **field,
		     struct error *err)
{
	const char *path = request_string(request, name);
	struct stat st;

	if (!path)
		return 0;
	if (path[0] && (stat(path, &st) < 0 || !S_ISDIR(st.st_mode)))
		return error_set(err, ERR_NOT_FOUND, "-%s: there is no folder '%.200s'", name,
				 path);
	*field = path[0] ? strdup(path) : NULL;
	if (path[0] && !*field)
		abort();
	return 0;
}

static int take_mac(const struct request *request, const char *name, uint8_t field[6],
		    struct error *err)
{
	const char *text = request_string(request, name);

	if (text && !config_mac_parse(text, field))
		return error_set(err, ERR_INVALID, "'%.40s' is not a MAC address", text);
	return 0;
}

/* A TimeSpan as PowerShell writes it: hours:minutes:seconds. */
static int take_interval(const struct request *request, unsigned *field, struct error *err)
{
	const char *text = request_string(request, "ResourceMeteringSaveInterval");
	unsigned hours, minutes, seconds;
	char rest;

	if (!text)
		return 0;
	if (sscanf(text, "%2u:%2u:%2u%c", &hours, &minutes, &seconds, &rest) != 3 || minutes > 59 ||
	    seconds > 59)
		return error_set(
		    err, ERR_INVALID,
		    "-ResourceMeteringSaveInterval '%.40s' is no time such as 01:00:00", text);
	*field = hours * 3600 + minutes * 60 + seconds;
	if (*field < 1 || *field > HOST_MAX_METERING_SECONDS)
		return error_set(err, ERR_LIMIT,
				 "-ResourceMeteringSaveInterval is at least a second, and at most "
				 "a day");
	return 0;
}

static int take_settings(const struct request *request, struct settings *settings,
			 struct error *err)
{
	const json_t *sessions = json_object_get(request->params, "EnableEnhancedSessionMode");
	int r = take_path(request, "VirtualMachinePath", &settings->vm_path, err);

	if (r == 0)
		r = take_path(request, "VirtualHardDiskPath", &settings->vhd_path, err);
	if (r == 0)
		r = take_mac(request, "MacAddressMinimum", settings->mac_first, err);
	if (r == 0)
		r = take_mac(request, "MacAddressMaximum", settings->mac_last, err);
	if (r == 0)
		r = host_check_macs(settings->mac_first, settings->mac_last, err);
	if (r == 0)
		r = take_interval(request, &settings->metering_save_seconds, err);
	if (r == 0 && json_is_false(json_object_get(request->params, "NumaSpanningEnabled")))
		r = error_set(err, ERR_UNSUPPORTED,
			      "the memory of virtual machines can't be bound to a NUMA node");
	if (sessions)
		settings->enhanced_sessions = json_is_true(sessions);
	return r;
}

static struct settings settings_of(const struct daemon *daemon)
{
	struct settings settings = { .vm_path = daemon->vm_path,
				     .vhd_path = daemon->vhd_path,
				     .enhanced_sessions = daemon->enhanced_sessions,
				     .metering_save_seconds = daemon->metering_save_seconds };

	memcpy(settings.mac_first, daemon->mac_first, 6);
	memcpy(settings.mac_last, daemon->mac_last, 6);
	return settings;
}

static void put_settings(struct daemon *daemon, const struct settings *settings)
{
	daemon->vm_path = settings->vm_path;
	daemon->vhd_path = settings->vhd_path;
	daemon->enhanced_sessions = settings->enhanced_sessions;
	daemon->metering_save_seconds = settings->metering_save_seconds;
	memcpy(daemon->mac_first, settings->mac_first, 6);
	memcpy(daemon->mac_last, settings->mac_last, 6);
}

/* Frees of one what the other does not have. */
static void drop_paths(const struct settings *settings, const struct settings *other)
{
	if (settings->vm_path != other->vm_path)
		free(settings->vm_path);
	if (settings->vhd_path != other->vhd_path)
		free(settings->vhd_path);
}

/* All of it, or nothing. */
static int change_settings(struct request *request, struct error *err)
{
	struct settings before = settings_of(request->daemon), after = before;
	int r = take_settings(request, &after, err);

	if (r == 0) {
		put_settings(request->daemon, &after);
		r = host_save(request->daemon, err);
	}
	if (r < 0)
		put_settings(request->daemon, &before);
	drop_paths(r < 0 ? &after : &before, r < 0 ? &before : &after);
	return r;
}

void cmdlet_set_host(struct request *request)
{
	const char *address = request_string(request, "ApiAddress");
	struct error err;
	int r = 0;

	/* Else somebody would saw off the branch on which he sits. */
	if (address && request->owner[0])
		r = error_set(&err, ERR_DENIED,
			      "-ApiAddress can be changed only on the host itself");
	if (r == 0)
		r = change_settings(request, &err);
	if (r == 0 && address)
		r = remote_set_address(request->daemon, address, &err);
	if (r < 0)
		request_error(request, NULL, &err);
	else
		request_result(request, object_host(request->daemon));
}

void cmdlet_get_numa(struct request *request)
{
	int64_t id = request_integer(request, "Id", -1);
	json_t *nodes = numa_describe((int)id);
	struct error err;

	if (id >= 0 && !json_array_size(nodes)) {
		error_set(&err, ERR_NOT_FOUND, "the host has no NUMA node %d", (int)id);
		request_error(request, NULL, &err);
	}
	for (size_t i = 0; i < json_array_size(nodes); i++)
		request_result(request, json_incref(json_array_get(nodes, i)));
	json_decref(nodes);
}
