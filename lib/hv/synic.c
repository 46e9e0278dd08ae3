/*
 * SynIC of a VP (TLFS 11): 16 SINTs, each with one message slot in the message page (SIMP), 2048
 * event flags in the event flags page (SIEFP) and a queue of messages that wait for the slot.
 *
 * A slot is free when its type is 0. The guest frees it by compare-and-swap, then looks at the
 * pending flag and, if it is set, writes EOM, which makes us look again. We set the flag, then look
 * at the type again: one of both sides sees the other's store.
 */
#include "hv/hv-impl.h"

void hv_due_add(struct hv_due *due, uint8_t vector, bool auto_eoi)
{
	if (due->count == HV_SINT_COUNT + HV_STIMER_COUNT)
		return; /* not reached: each SINT and timer is due at most once per pass */
	due->irq[due->count].vector = vector;
	due->irq[due->count].auto_eoi = auto_eoi;
	due->count++;
}

void hv_due_raise(struct hv_vp *vp, const struct hv_due *due)
{
	for (unsigned i = 0; i < due->count; i++)
		part_interrupt(vp->hv->part, vp->index, due->irq[i].vector, due->irq[i].auto_eoi);
	if (due->count)
		hv_wake(vp);
}

static bool sint_active(const struct hv_vp *vp, unsigned sint)
{
	return (vp->scontrol & HV_SCONTROL_ENABLE) && !(vp->sint[sint] & HV_SINT_MASKED);
}

static void sint_interrupt(const struct hv_vp *vp, unsigned sint, struct hv_due *due)
{
	uint64_t value = vp->sint[sint];

	if (!(value & HV_SINT_POLLING))
		hv_due_add(due, (uint8_t)(value & HV_SINT_VECTOR_MASK), value & HV_SINT_AUTO_EOI);
}

/* ---- messages ---- */

static void queue_init(struct hv_message_queue *queue)
{
	queue->head = NULL;
	queue->tail = &queue->head;
	queue->count = 0;
}

static void message_release(struct hv_queued_message *message)
{
	message->queued = false;
	if (!message->embedded)
		free(message);
}

static struct hv_queued_message *queue_pop(struct hv_message_queue *queue)
{
	struct hv_queued_message *message = queue->head;

	queue->head = message->next;
	if (!queue->head)
		queue->tail = &queue->head;
	queue->count--;
	return message;
}

static void queue_push(struct hv_message_queue *queue, struct hv_queued_message *message)
{
	message->next = NULL;
	message->queued = true;
	*queue->tail = message;
	queue->tail = &message->next;
	queue->count++;
}

static bool slot_is_free(struct hv_spec_message *slot)
{
	return __atomic_load_n(&slot->type, __ATOMIC_ACQUIRE) == HV_MESSAGE_NONE;
}

/* Asks the guest for an EOM; true if the slot came free meanwhile. */
static bool slot_mark_pending(struct hv_spec_message *slot)
{
	__atomic_fetch_or(&slot->flags, HV_MESSAGE_FLAG_PENDING, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return slot_is_free(slot);
}

static void slot_fill(struct hv_spec_message *slot, const struct hv_queued_message *message,
		      bool more)
{
	memcpy(slot->payload, message->payload, message->len);
	slot->payload_size = message->len;
	slot->sender = 0;
	__atomic_store_n(&slot->flags, more ? HV_MESSAGE_FLAG_PENDING : 0, __ATOMIC_RELAXED);
	__atomic_store_n(&slot->type, message->type, __ATOMIC_RELEASE);
}

/* Puts the queue's head into the slot if it can take it. */
static void deliver(struct hv_vp *vp, unsigned sint, struct hv_due *due)
{
	struct hv_message_queue *queue = &vp->queue[sint];
	struct hv_spec_message *slot;
	struct hv_queued_message *message;
	uint64_t offset = sint * sizeof(*slot);

	if (!queue->head || !sint_active(vp, sint) || !vp->simp.host)
		return;
	slot = (struct hv_spec_message *)(vp->simp.host + offset);
	if (!slot_is_free(slot) && !slot_mark_pending(slot)) {
		mem_written(vp->hv->mem, vp->simp.gpa + offset, sizeof(*slot));
		return;
	}
	message = queue_pop(queue);
	slot_fill(slot, message, queue->head != NULL);
	message_release(message);
	mem_written(vp->hv->mem, vp->simp.gpa + offset, sizeof(*slot));
	sint_interrupt(vp, sint, due);
}

static void deliver_all(struct hv_vp *vp, struct hv_due *due)
{
	for (unsigned sint = 0; sint < HV_SINT_COUNT; sint++)
		deliver(vp, sint, due);
}

void hv_synic_append(struct hv_vp *vp, unsigned sint, struct hv_queued_message *message)
{
	queue_push(&vp->queue[sint], message);
}

void hv_synic_queue(struct hv_vp *vp, unsigned sint, struct hv_queued_message *message,
		    struct hv_due *due)
{
	queue_push(&vp->queue[sint], message);
	deliver(vp, sint, due);
}

static struct hv_vp *find_vp(struct hv *hv, unsigned vp, unsigned sint)
{
	return vp < hv->vp_count && sint < HV_SINT_COUNT ? &hv->vp[vp] : NULL;
}

static struct hv_queued_message *message_new(uint32_t type, const void *payload, size_t len)
{
	struct hv_queued_message *message = malloc(sizeof(*message));

	if (!message)
		return NULL;
	message->type = type;
	message->len = (uint8_t)len;
	message->embedded = false;
	if (len)
		memcpy(message->payload, payload, len);
	return message;
}

int hv_post_message(struct hv *hv, unsigned vp_index, unsigned sint, uint32_t type,
		    const void *payload, size_t len)
{
	struct hv_vp *vp = find_vp(hv, vp_index, sint);
	struct hv_queued_message *message;
	struct hv_due due = { 0 };

	if (!vp || !type || len > HV_MESSAGE_PAYLOAD_MAX)
		return -ERR_INVALID;
	message = message_new(type, payload, len);
	if (!message)
		return -ERR_NO_MEMORY;
	pthread_mutex_lock(&vp->lock);
	if (vp->queue[sint].count >= HV_MESSAGE_QUEUE_MAX) {
		pthread_mutex_unlock(&vp->lock);
		free(message);
		return -ERR_LIMIT;
	}
	hv_synic_queue(vp, sint, message, &due);
	pthread_mutex_unlock(&vp->lock);
	hv_due_raise(vp, &due);
	return 0;
}

unsigned hv_message_backlog(struct hv *hv, unsigned vp_index, unsigned sint)
{
	struct hv_vp *vp = find_vp(hv, vp_index, sint);
	unsigned count;

	if (!vp)
		return 0;
	pthread_mutex_lock(&vp->lock);
	count = vp->queue[sint].count;
	pthread_mutex_unlock(&vp->lock);
	return count;
}

static void queue_flush(struct hv_message_queue *queue, bool timers_too)
{
	struct hv_queued_message *message = queue->head;

	queue_init(queue);
	while (message) {
		struct hv_queued_message *next = message->next;

		if (message->embedded && !timers_too)
			queue_push(queue, message);
		else
			message_release(message);
		message = next;
	}
}

void hv_message_flush(struct hv *hv, unsigned vp_index, unsigned sint)
{
	struct hv_vp *vp = find_vp(hv, vp_index, sint);

	if (!vp)
		return;
	pthread_mutex_lock(&vp->lock);
	queue_flush(&vp->queue[sint], false);
	pthread_mutex_unlock(&vp->lock);
}

/* ---- event flags ---- */

static bool set_flag(struct hv_vp *vp, unsigned sint, unsigned flag, struct hv_due *due)
{
	uint64_t offset = sint * HV_EVENT_FLAGS_BYTES + flag / 32 * sizeof(uint32_t);
	uint32_t bit = 1u << flag % 32;
	uint32_t before;

	if (!sint_active(vp, sint) || !vp->siefp.host)
		return false;
	before = __atomic_fetch_or((uint32_t *)(vp->siefp.host + offset), bit, __ATOMIC_SEQ_CST);
	if (before & bit)
		return true;
	mem_written(vp->hv->mem, vp->siefp.gpa + offset, sizeof(uint32_t));
	sint_interrupt(vp, sint, due);
	return true;
}

bool hv_signal_event(struct hv *hv, unsigned vp_index, unsigned sint, unsigned flag)
{
	struct hv_vp *vp = find_vp(hv, vp_index, sint);
	struct hv_due due = { 0 };
	bool taken;

	if (!vp || flag >= HV_EVENT_FLAGS_COUNT)
		return false;
	pthread_mutex_lock(&vp->lock);
	taken = set_flag(vp, sint, flag, &due);
	pthread_mutex_unlock(&vp->lock);
	hv_due_raise(vp, &due);
	return taken;
}

/* ---- MSRs ---- */

bool hv_synic_set_page(struct hv_vp *vp, struct hv_page *page, uint64_t value)
{
	uint64_t gpa = value & HV_PAGE_MSR_ADDRESS;
	uint8_t *host = NULL;

	if (value & HV_PAGE_MSR_ENABLE) {
		host = mem_ptr(vp->hv->mem, gpa, MEM_PAGE_SIZE);
		if (!host)
			return false;
	}
	page->msr = value;
	page->gpa = gpa;
	page->host = host;
	return true;
}

bool hv_synic_set_sint(struct hv_vp *vp, unsigned sint, uint64_t value)
{
	bool silent = value & (HV_SINT_MASKED | HV_SINT_POLLING);

	if (!silent && (value & HV_SINT_VECTOR_MASK) < HV_FIRST_VALID_VECTOR)
		return false;
	vp->sint[sint] = value;
	return true;
}

bool hv_synic_read(struct hv_vp *vp, uint32_t msr, uint64_t *ret)
{
	switch (msr) {
	case HV_MSR_SCONTROL:
		*ret = vp->scontrol;
		return true;
	case HV_MSR_SVERSION:
		*ret = HV_SYNIC_VERSION;
		return true;
	case HV_MSR_SIEFP:
		*ret = vp->siefp.msr;
		return true;
	case HV_MSR_SIMP:
		*ret = vp->simp.msr;
		return true;
	case HV_MSR_EOM:
		*ret = 0;
		return true;
	case HV_MSR_SINT0 ... HV_MSR_SINT15:
		*ret = vp->sint[msr - HV_MSR_SINT0];
		return true;
	}
	return false;
}

static bool synic_store(struct hv_vp *vp, uint32_t msr, uint64_t value)
{
	switch (msr) {
	case HV_MSR_SCONTROL:
		vp->scontrol = value;
		return true;
	case HV_MSR_SIEFP:
		return hv_synic_set_page(vp, &vp->siefp, value);
	case HV_MSR_SIMP:
		return hv_synic_set_page(vp, &vp->simp, value);
	case HV_MSR_EOM:
		return true;
	case HV_MSR_SINT0 ... HV_MSR_SINT15:
		return hv_synic_set_sint(vp, msr - HV_MSR_SINT0, value);
	}
	return false;
}

/* Whatever was written, a queued message may fit now: EOM, or a page, SINT or SynIC came on. */
bool hv_synic_write(struct hv_vp *vp, uint32_t msr, uint64_t value, struct hv_due *due)
{
	if (!synic_store(vp, msr, value))
		return false;
	deliver_all(vp, due);
	return true;
}

void hv_synic_reset(struct hv_vp *vp)
{
	vp->scontrol = 0;
	vp->simp = (struct hv_page){ 0 };
	vp->siefp = (struct hv_page){ 0 };
	for (unsigned sint = 0; sint < HV_SINT_COUNT; sint++) {
		vp->sint[sint] = HV_SINT_AT_RESET;
		if (!vp->queue[sint].tail)
			queue_init(&vp->queue[sint]);
		queue_flush(&vp->queue[sint], true);
	}
}
