/* Private to lib/ic. */
#ifndef IC_IC_IMPL_H
#define IC_IC_IMPL_H

#include "base/utf16.h"
#include "ic/ic.h"
#include "spec/ic.h"

/* ---- link: one service's channel, framing and negotiation ---- */

struct ic_link;

struct ic_link_ops {
	struct guid class_id, instance_id;
	uint32_t min_vmbus_version; /* hosts of an older one do not have the service; 0: all do */
	uint16_t message_type;
	const struct ic_spec_version *versions; /* best first */
	unsigned version_count;
	uint64_t lost_after_ns; /* a request that is older without an answer: contact is lost */
	void (*ready)(struct ic_link *link); /* the version is agreed on */
	/* The answer to the request: len >= the header; len is rounded up to 8. */
	void (*reply)(struct ic_link *link, const uint8_t *packet, uint32_t len);
	void (*closed)(struct ic_link *link);   /* a request under way is lost */
	void (*restored)(struct ic_link *link); /* in contact, after a restore */
};

enum ic_link_state { IC_LINK_CLOSED, IC_LINK_NEGOTIATING, IC_LINK_READY, IC_LINK_REFUSED };

struct ic_link {
	struct ic *ic;
	const struct ic_link_ops *ops;
	struct vmbus_channel *channel; /* NULL: disabled */
	enum ic_link_state state;
	struct ic_spec_version framework, message;
	bool busy; /* one request at a time */
	uint64_t sent_at_ns;
	uint8_t transaction_id;
	uint8_t *unsent; /* the ring was full */
	uint32_t unsent_len;
};

int ic_link_enable(struct ic_link *link, bool enabled, struct error *err);
void ic_link_status(const struct ic_link *link, struct ic_status *ret);
static inline bool ic_link_can_send(const struct ic_link *link)
{
	return link->state == IC_LINK_READY && !link->busy;
}
/* Fills packet's header and sends len bytes; only if ic_link_can_send. */
void ic_link_send(struct ic_link *link, void *packet, uint32_t len);

struct ic_link *ic_link_of(struct ic *ic, enum ic_service service);

/* What is saved of a service. */
struct ic_link_saved {
	uint8_t state; /* enum ic_link_state */
	bool enabled, busy;
	uint8_t transaction_id;
	uint16_t framework_major, framework_minor, message_major, message_minor;
	uint32_t unsent_bytes;
	uint64_t sent_at_ns;
	uint8_t *unsent; /* the ring was full */
};
extern const struct state_desc ic_link_saved_desc;

/* ---- services ---- */

struct ic_shutdown_state {
	struct ic_link link;
	struct loop_timer *timer;
	bool pending; /* done is owed */
	void (*done)(void *user, int result);
	void *user;
};

struct ic_time_state {
	struct ic_link link;
	struct loop_timer *timer;
	uint64_t slept_ns; /* of the host, when we last looked */
	bool sync_due;
};

struct ic_heartbeat_state {
	struct ic_link link;
	struct loop_timer *timer;
	uint64_t sequence;
	enum ic_applications applications;
};

struct ic_pairs {
	struct ic_pair *pair;
	unsigned count;
};

struct ic_kvp_job {
	struct ic_kvp_job *next;
	uint8_t operation, pool;
	char *key, *value;
	uint32_t index;            /* IC_KVP_ENUMERATE: next item */
	struct ic_pairs collected; /* so far */
	struct ic_spec_kvp_ip *ip; /* IC_KVP_SET_IP_INFO; owned */
	ic_kvp_done *done;
	void *user;
};

struct ic_kvp_state {
	struct ic_link link;
	struct loop_timer *timer; /* next reading of the guest's pools */
	struct ic_kvp_job *jobs, **jobs_tail;
	unsigned job_count;
	bool running; /* the first job is with the guest */
	struct ic_pairs facts;
	struct ic_pairs known[2]; /* pools 1 and 2 */
};

enum ic_vss_phase {
	IC_VSS_IDLE,
	IC_VSS_ASKING,
	IC_VSS_FREEZING,
	IC_VSS_FROZEN,
	IC_VSS_THAWING,
	IC_VSS_COMPLETING,
};

struct ic_vss_state {
	struct ic_link link;
	struct loop_timer *timer; /* of what is asked for, then of being frozen */
	enum ic_vss_phase phase;
	bool given_up; /* nobody waits for the freeze any more: it is to be undone */
	bool expired;  /* it was thawed because it took too long */
	void (*done)(void *user, int result);
	void *user;
};

struct ic_vss_saved {
	uint8_t phase; /* enum ic_vss_phase */
};
extern const struct state_desc ic_vss_saved_desc;

enum ic_copy_phase {
	IC_COPY_IDLE,
	IC_COPY_STARTING,
	IC_COPY_WRITING,
	IC_COPY_COMPLETING,
	IC_COPY_CANCELLING,
	IC_COPY_HELD, /* the guest has the file open, nothing is under way, nobody has the source */
};

/* What is copied, and where to. */
struct ic_copy_target {
	uint64_t size, source_id, source_time_ns;
	uint8_t file_name[IC_COPY_NAME_BYTES], path_name[IC_COPY_NAME_BYTES];
};

struct ic_copy_state {
	struct ic_link link;
	enum ic_copy_phase phase;
	struct ic_copy_request request; /* no `read`: the copy is nobody's */
	struct ic_copy_target target;
	uint64_t offset; /* the guest has what is before it */
	uint32_t under_way;
	bool cancelled;
	int result; /* told when the guest has cancelled */
	/* The request is for another file, next_target: it begins when this copy has ended. */
	bool replaces;
	struct ic_copy_target next_target;
	struct loop_timer *hold_timer;
};

struct ic_copy_saved {
	uint8_t phase; /* enum ic_copy_phase */
};
extern const struct state_desc ic_copy_saved_desc;

/* A file that the guest has open and that is to become complete. */
struct ic_copy_open_saved {
	struct ic_copy_target target;
	uint64_t offset;
	uint32_t under_way;
};
extern const struct state_desc ic_copy_open_saved_desc;

struct ic {
	struct loop *loop;
	struct vmbus *bus;
	struct ic_shutdown_state shutdown;
	struct ic_time_state time;
	struct ic_heartbeat_state heartbeat;
	struct ic_kvp_state kvp;
	struct ic_vss_state vss;
	struct ic_copy_state copy;
};

int ic_shutdown_init(struct ic *ic, struct error *err);
void ic_shutdown_done(struct ic *ic);
int ic_time_init(struct ic *ic, struct error *err);
void ic_time_done(struct ic *ic);
int ic_heartbeat_init(struct ic *ic, struct error *err);
void ic_heartbeat_done(struct ic *ic);
int ic_kvp_init(struct ic *ic, const struct ic_config *config, struct error *err);
void ic_kvp_finish(struct ic *ic);
int ic_vss_init(struct ic *ic, struct error *err);
void ic_vss_done(struct ic *ic);
void ic_vss_save(struct ic *ic, struct state_out *out);
int ic_vss_restore(struct ic *ic, struct state_in *in, struct error *err);
int ic_copy_init(struct ic *ic, struct error *err);
void ic_copy_done(struct ic *ic);
void ic_copy_save(struct ic *ic, struct state_out *out);
int ic_copy_restore(struct ic *ic, struct state_in *in, struct error *err);

#endif
