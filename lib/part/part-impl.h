/*
 * For the backends of the partition only (part/kvm, part/softcpu); users include part/part.h.
 *
 * A backend is one struct part_backend_ops and a struct of its own that starts with struct part:
 *
 *	struct kvm_part { struct part part; int vm_fd; ... };
 *	const struct part_backend_ops kvm_backend_ops = { .size = sizeof(struct kvm_part), ... };
 *
 * part.c allocates it zeroed, fills the head, calls init, and forwards part.h's functions. It keeps
 * the life cycle: it calls start once, pause only while running, resume only while paused, reset
 * and vp_set_state/vp_get_state only while no VP runs, stop once after start; done last and always
 * (also after a failed init). It checks that VP indices are in range.
 */
#ifndef PART_PART_IMPL_H
#define PART_PART_IMPL_H

#include "part/part.h"
#include "part/profile.h"

struct part_backend_ops;

enum part_phase { PART_NEW, PART_RUNNING, PART_PAUSED, PART_STOPPED };

struct part {
	const struct part_backend_ops *ops;
	enum part_backend backend;
	struct mem *mem;
	unsigned vp_count;
	struct part_host host;
	enum part_phase phase;
	struct profile profile; /* init fills it: profile_init() */
	uint64_t saved_apic_hz; /* of a restored VM; 0: a new one */
};

/* Of a restored VM: its TSC's rate becomes ours if both are near enough; else refuses. */
int part_adopt_tsc_hz(uint64_t *hz, uint64_t saved, struct error *err);

struct part_backend_ops {
	enum part_backend backend;
	const char *name;
	size_t size; /* of the backend's struct */

	/* config is borrowed for the call. On failure done() is called next. */
	int (*init)(struct part *part, const struct part_config *config, struct error *err);
	/* Frees what init made; the struct itself belongs to part.c. */
	void (*done)(struct part *part);

	/* Starts the VPs' threads. */
	int (*start)(struct part *part, struct error *err);
	/* Returns when no VP executes guest code or is in a callback of the host. */
	void (*pause)(struct part *part);
	void (*resume)(struct part *part);
	/* Ends and joins the threads; also from the paused phase. */
	void (*stop)(struct part *part);
	/* To power-on state; calls host.vp_reset for each VP, on the calling thread. */
	void (*reset)(struct part *part);

	/* While no VP runs: mem's ranges are others now. */
	int (*memory_changed)(struct part *part, struct error *err);
	/* See part_map_device; NULL: it can't. */
	int (*map_device)(struct part *part, uint64_t gpa, void *host, uint64_t len,
			  struct error *err);

	void (*vp_get_state)(struct part *part, unsigned vp, struct part_vp_state *ret);
	void (*vp_set_state)(struct part *part, unsigned vp, const struct part_vp_state *state);
	/* regs of the context is got and set by the two above. */
	void (*vp_get_context)(struct part *part, unsigned vp, struct part_vp_context *ret);
	int (*vp_set_context)(struct part *part, unsigned vp, const struct part_vp_context *context,
			      struct error *err);
	/* The partition's TSC now is `tsc`; those of the VPs keep their distance. */
	void (*set_tsc)(struct part *part, uint64_t tsc);
	uint64_t (*partition_tsc)(const struct part *part);

	/* Any thread, any phase. */
	void (*interrupt)(struct part *part, unsigned vp, uint8_t vector, bool auto_eoi);
	void (*msi)(struct part *part, uint64_t address, uint32_t data);
	void (*ioapic_route)(struct part *part, unsigned pin, uint64_t address, uint32_t data,
			     bool masked);
	void (*nmi)(struct part *part, unsigned vp);
	void (*extint_set)(struct part *part, bool level);

	uint64_t (*tsc_hz)(const struct part *part);
	uint64_t (*apic_hz)(const struct part *part);
	uint64_t (*vp_runtime_ns)(const struct part *part, unsigned vp);

	/* See part_hypercall_code(). */
	unsigned (*hypercall_code)(const struct part *part, uint8_t ret[static 64]);
	void (*dirty_log_collect)(struct part *part);
};

#endif
