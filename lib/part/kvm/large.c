/*
 * A thread that makes large pages of what the guest's RAM has been touched in. The kernel does so
 * itself for anonymous memory when it is touched first, but for a memfd only where the host's
 * administrator allows it (shmem_enabled), which is rare. A guest on pages of 4 KiB pays with a
 * fault for each at first, and ever after with longer walks through two levels of page tables.
 */
#include "part/kvm/kvm-impl.h"

#include "base/clock.h"
#include "base/macros.h"

/* Between looks: short while a guest goes on touching more, as when it starts. */
#define LOOK_SOON_NS  (20 * NS_PER_MSEC)
#define LOOK_LATER_NS (2 * NS_PER_SEC)

static void *large_thread(void *arg)
{
	struct kvm_part *kvm = arg;
	uint64_t ns = LOOK_SOON_NS;
	unsigned made;

	pthread_mutex_lock(&kvm->lock);
	while (!kvm->stopping) {
		pthread_mutex_unlock(&kvm->lock);
		made = mem_enlarge_touched(kvm->part.mem);
		ns = made ? LOOK_SOON_NS : MIN(2 * ns, LOOK_LATER_NS);
		pthread_mutex_lock(&kvm->lock);
		if (!kvm->stopping)
			clock_wait(&kvm->changed, &kvm->lock, clock_now_ns() + ns);
	}
	pthread_mutex_unlock(&kvm->lock);
	return NULL;
}

int kvm_large_start(struct kvm_part *kvm, struct error *err)
{
	int rc;

	mem_enlarge_touched(kvm->part.mem); /* by who filled it for the start */
	rc = kvm_thread_create(&kvm->large_thread, large_thread, kvm, "large-pages", false);
	kvm->has_large_thread = rc == 0;
	return rc == 0 ? 0 : error_set_errno(err, rc, "starting a thread for large pages");
}

void kvm_large_stop(struct kvm_part *kvm)
{
	if (kvm->has_large_thread)
		pthread_join(kvm->large_thread, NULL);
	kvm->has_large_thread = false;
}
