#include "ic/ic-impl.h"

#include "base/macros.h"

#include <stdlib.h>

const char *ic_service_name(enum ic_service service)
{
	static const char *const names[IC_SERVICE_COUNT] = {
		[IC_SHUTDOWN_SERVICE] = "Shutdown",
		[IC_TIME_SYNC] = "Time Synchronization",
		[IC_HEARTBEAT] = "Heartbeat",
		[IC_KVP] = "Key-Value Pair Exchange",
		[IC_VSS] = "VSS",
		[IC_COPY] = "Guest Service Interface",
	};

	return names[service];
}

const char *ic_state_name(enum ic_state state)
{
	static const char *const names[IC_STATE_COUNT] = {
		[IC_STATE_DISABLED] = "Disabled",
		[IC_STATE_NO_CONTACT] = "No Contact",
		[IC_STATE_OK] = "OK",
		[IC_STATE_LOST] = "Lost Communication",
	};

	return names[state];
}

struct ic_link *ic_link_of(struct ic *ic, enum ic_service service)
{
	struct ic_link *const links[IC_SERVICE_COUNT] = {
		[IC_SHUTDOWN_SERVICE] = &ic->shutdown.link,
		[IC_TIME_SYNC] = &ic->time.link,
		[IC_HEARTBEAT] = &ic->heartbeat.link,
		[IC_KVP] = &ic->kvp.link,
		[IC_VSS] = &ic->vss.link,
		[IC_COPY] = &ic->copy.link,
	};

	return links[service];
}

int ic_enable(struct ic *ic, enum ic_service service, bool enabled, struct error *err)
{
	return ic_link_enable(ic_link_of(ic, service), enabled, err);
}

void ic_status(const struct ic *ic, enum ic_service service, struct ic_status *ret)
{
	ic_link_status(ic_link_of((struct ic *)(uintptr_t)ic, service), ret);
	ret->applications = service == IC_HEARTBEAT ? ic->heartbeat.applications : IC_APPS_UNKNOWN;
}

static int init_services(struct ic *ic, const struct ic_config *config, struct error *err)
{
	int rc = ic_shutdown_init(ic, err);

	if (rc == 0)
		rc = ic_time_init(ic, err);
	if (rc == 0)
		rc = ic_heartbeat_init(ic, err);
	if (rc == 0)
		rc = ic_kvp_init(ic, config, err);
	if (rc == 0)
		rc = ic_vss_init(ic, err);
	if (rc == 0)
		rc = ic_copy_init(ic, err);
	return rc;
}

int ic_new(const struct ic_config *config, struct ic **ret, struct error *err)
{
	struct ic *ic = calloc(1, sizeof(*ic));
	int rc;

	if (!ic)
		return error_set(err, ERR_NO_MEMORY, "no memory for the integration services");
	ic->loop = config->loop;
	ic->bus = config->bus;
	rc = init_services(ic, config, err);
	if (rc < 0) {
		ic_free(ic);
		return rc;
	}
	*ret = ic;
	return 0;
}

void ic_free(struct ic *ic)
{
	if (!ic)
		return;
	for (unsigned i = 0; i < IC_SERVICE_COUNT; i++)
		ic_enable(ic, i, false, NULL);
	ic_copy_done(ic);
	ic_vss_done(ic);
	ic_kvp_finish(ic);
	ic_heartbeat_done(ic);
	ic_time_done(ic);
	ic_shutdown_done(ic);
	free(ic);
}
