#include "hv/hv-impl.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

static void vp_to_reset_values(struct hv_vp *vp)
{
	pthread_mutex_lock(&vp->lock);
	hv_stimer_reset(vp);
	hv_synic_reset(vp);
	vp->assist_page = 0;
	vp->woken = false;
	pthread_mutex_unlock(&vp->lock);
}

static int vp_init(struct hv *hv, unsigned index, struct error *err)
{
	struct hv_vp *vp = &hv->vp[index];

	vp->hv = hv;
	vp->index = index;
	pthread_mutex_init(&vp->lock, NULL);
	clock_init_condition(&vp->wake);
	vp_to_reset_values(vp);
	return loop_timer_new(hv->loop, hv_stimer_fire, vp, &vp->timer, err);
}

int hv_new(const struct hv_config *config, struct hv **ret, struct error *err)
{
	struct hv *hv = calloc(1, sizeof(*hv) + config->vp_count * sizeof(hv->vp[0]));
	int rc;

	if (!hv)
		return error_set(err, ERR_NO_MEMORY, "no memory for the hypervisor interface");
	hv->loop = config->loop;
	hv->mem = config->mem;
	hv->features = config->features;
	hv->events = config->events;
	pthread_mutex_init(&hv->lock, NULL);
	for (unsigned i = 0; i < config->vp_count; i++) {
		rc = vp_init(hv, i, err);
		hv->vp_count = i + 1;
		if (rc < 0) {
			hv_free(hv);
			return rc;
		}
	}
	*ret = hv;
	return 0;
}

void hv_set_part(struct hv *hv, struct part *part)
{
	hv->part = part;
	hv_time_start(hv);
}

void hv_set_ports(struct hv *hv, const struct hv_ports *ports)
{
	hv->ports = ports ? *ports : (struct hv_ports){ 0 };
}

unsigned hv_vp_count(const struct hv *hv)
{
	return hv->vp_count;
}

void hv_vp_reset(struct hv *hv, unsigned vp)
{
	vp_to_reset_values(&hv->vp[vp]);
}

void hv_reset(struct hv *hv)
{
	for (unsigned i = 0; i < hv->vp_count; i++)
		vp_to_reset_values(&hv->vp[i]);
	pthread_mutex_lock(&hv->lock);
	hv->guest_os_id = hv->hypercall = hv->reference_tsc = hv->tsc_invariant = 0;
	memset(hv->crash_param, 0, sizeof(hv->crash_param));
	pthread_mutex_unlock(&hv->lock);
}

void hv_free(struct hv *hv)
{
	if (!hv)
		return;
	for (unsigned i = 0; i < hv->vp_count; i++) {
		vp_to_reset_values(&hv->vp[i]);
		if (hv->vp[i].timer)
			loop_timer_free(hv->vp[i].timer);
		pthread_cond_destroy(&hv->vp[i].wake);
		pthread_mutex_destroy(&hv->vp[i].lock);
	}
	pthread_mutex_destroy(&hv->lock);
	free(hv);
}
