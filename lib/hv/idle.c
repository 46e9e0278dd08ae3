/*
 * Guest idle: VPs that share the host's processors and wait for one another. The guest reads the
 * MSR where it would spin for a lock whose holder can't run until the spinning ends, and sends the
 * one that waits an interrupt by hypercall when it has let go of the lock.
 */
#include "hv/hv-impl.h"

#include "base/clock.h"

/* Interrupts that don't come by way of us, as those of the local APIC's timer, wait no longer. */
#define IDLE_MAX_NS NS_PER_MSEC

/* A wake-up between two idles is kept for the second: so none is missed. */
void hv_idle(struct hv_vp *vp)
{
	uint64_t until = clock_now_ns() + IDLE_MAX_NS;

	pthread_mutex_lock(&vp->lock);
	while (!vp->woken && clock_wait(&vp->wake, &vp->lock, until))
		;
	vp->woken = false;
	pthread_mutex_unlock(&vp->lock);
}

void hv_wake(struct hv_vp *vp)
{
	pthread_mutex_lock(&vp->lock);
	vp->woken = true;
	pthread_cond_signal(&vp->wake);
	pthread_mutex_unlock(&vp->lock);
}
