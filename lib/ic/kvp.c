/*
 * Key-value pair exchange. Requests wait in a queue; the first one is with the guest. An
 * enumeration stays first until the guest has no more items. The guest's own pools are read at the
 * start and every few seconds; a failed reading keeps what was known.
 */
#include "ic/ic-impl.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/macros.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PERIOD_NS (15 * NS_PER_SEC)
/* The guest itself gives up on its daemon after 30 s. */
#define LOST_NS (60 * NS_PER_SEC)

/* ---- pairs ---- */

static void pairs_clear(struct ic_pairs *pairs)
{
	for (unsigned i = 0; i < pairs->count; i++) {
		free(pairs->pair[i].key);
		free(pairs->pair[i].value);
	}
	free(pairs->pair);
	*pairs = (struct ic_pairs){ 0 };
}

/* Takes both texts, which may be NULL for want of memory. */
static bool pairs_add(struct ic_pairs *pairs, char *key, char *value)
{
	struct ic_pair *grown = NULL;

	if (key && value)
		grown = realloc(pairs->pair, (pairs->count + 1) * sizeof(*grown));
	if (!grown) {
		free(key);
		free(value);
		return false;
	}
	pairs->pair = grown;
	pairs->pair[pairs->count++] = (struct ic_pair){ key, value };
	return true;
}

/* ---- jobs ---- */

static void job_free(struct ic_kvp_job *job)
{
	pairs_clear(&job->collected);
	free(job->key);
	free(job->value);
	free(job->ip);
	free(job);
}

static struct ic_kvp_job *job_pop(struct ic_kvp_state *kvp)
{
	struct ic_kvp_job *job = kvp->jobs;

	kvp->jobs = job->next;
	if (!kvp->jobs)
		kvp->jobs_tail = &kvp->jobs;
	kvp->job_count--;
	kvp->running = false;
	return job;
}

static void finish_first(struct ic_kvp_state *kvp, int result)
{
	struct ic_kvp_job *job = job_pop(kvp);

	if (job->done)
		job->done(job->user, result, job->collected.pair, job->collected.count);
	job_free(job);
}

/* Those that are there now: a callback may ask anew, and waits for the next contact. */
static void cancel_all(struct ic_kvp_state *kvp)
{
	for (unsigned left = kvp->job_count; left && kvp->jobs; left--)
		finish_first(kvp, -ERR_CANCELLED);
}

/* ---- requests ---- */

static void fill_pair(struct ic_spec_kvp_value *value, const struct ic_kvp_job *job)
{
	value->type = IC_KVP_STRING;
	value->key_bytes = utf16_from_utf8(job->key, value->key, sizeof(value->key));
	value->value_bytes = utf16_from_utf8(job->value, value->value, sizeof(value->value));
}

static void send_key_operation(struct ic_kvp_state *kvp, const struct ic_kvp_job *job)
{
	struct ic_spec_kvp packet = { .operation = job->operation, .pool = job->pool };

	if (job->operation == IC_KVP_SET)
		fill_pair(&packet.get_set, job);
	else if (job->operation == IC_KVP_DELETE)
		packet.remove.key_bytes =
		    utf16_from_utf8(job->key, packet.remove.key, sizeof(packet.remove.key));
	else
		packet.enumerate.index = job->index;
	ic_link_send(&kvp->link, &packet, sizeof(packet));
}

static void send_ip_operation(struct ic_kvp_state *kvp, const struct ic_kvp_job *job)
{
	struct ic_spec_kvp_ip packet = { .operation = job->operation, .pool = job->pool };

	if (job->ip)
		packet = *job->ip;
	else
		utf16_from_utf8(job->key, packet.adapter_id, sizeof(packet.adapter_id));
	packet.address_family = 3; /* IPv4 and IPv6 */
	ic_link_send(&kvp->link, &packet, sizeof(packet));
}

static void run_first(struct ic_kvp_state *kvp)
{
	if (!kvp->jobs || kvp->running || !ic_link_can_send(&kvp->link))
		return;
	kvp->running = true;
	if (kvp->jobs->operation >= IC_KVP_GET_IP_INFO)
		send_ip_operation(kvp, kvp->jobs);
	else
		send_key_operation(kvp, kvp->jobs);
}

static int add_job(struct ic_kvp_state *kvp, const struct ic_kvp_job *model, const char *key,
		   const char *value, struct error *err)
{
	struct ic_kvp_job *job;

	if (!kvp->link.channel)
		return error_set(err, ERR_STATE, "key-value pair exchange is disabled");
	if (kvp->job_count >= IC_KVP_QUEUE_MAX)
		return error_set(err, ERR_LIMIT, "too many key-value requests wait for the guest");
	job = malloc(sizeof(*job));
	if (!job)
		return error_set(err, ERR_NO_MEMORY, "no memory for a key-value request");
	*job = *model;
	job->next = NULL;
	job->ip = NULL;
	job->key = key ? strdup(key) : NULL;
	job->value = value ? strdup(value) : NULL;
	if ((key && !job->key) || (value && !job->value)) {
		job_free(job);
		return error_set(err, ERR_NO_MEMORY, "no memory for a key-value request");
	}
	job->ip = model->ip;
	*kvp->jobs_tail = job;
	kvp->jobs_tail = &job->next;
	kvp->job_count++;
	run_first(kvp);
	return 0;
}

static int check_text(const char *text, uint32_t max_bytes, const char *what, struct error *err)
{
	uint8_t buf[IC_KVP_VALUE_BYTES];

	if (!utf16_from_utf8(text, buf, max_bytes))
		return error_set(err, ERR_INVALID, "%s is not UTF-8 or longer than %u characters",
				 what, max_bytes / 2 - 1);
	return 0;
}

static int check_key(const char *key, struct error *err)
{
	if (!*key)
		return error_set(err, ERR_INVALID, "a key can't be empty");
	return check_text(key, IC_KVP_KEY_BYTES, "the key", err);
}

int ic_kvp_set(struct ic *ic, enum ic_kvp_pool pool, const char *key, const char *value,
	       ic_kvp_done *done, void *user, struct error *err)
{
	struct ic_kvp_job job = {
		.operation = IC_KVP_SET, .pool = (uint8_t)pool, .done = done, .user = user
	};
	int rc = check_key(key, err);

	if (rc == 0)
		rc = check_text(value, IC_KVP_VALUE_BYTES, "the value", err);
	return rc < 0 ? rc : add_job(&ic->kvp, &job, key, value, err);
}

int ic_kvp_delete(struct ic *ic, enum ic_kvp_pool pool, const char *key, ic_kvp_done *done,
		  void *user, struct error *err)
{
	struct ic_kvp_job job = {
		.operation = IC_KVP_DELETE, .pool = (uint8_t)pool, .done = done, .user = user
	};
	int rc = check_key(key, err);

	return rc < 0 ? rc : add_job(&ic->kvp, &job, key, NULL, err);
}

int ic_kvp_enumerate(struct ic *ic, enum ic_kvp_pool pool, ic_kvp_done *done, void *user,
		     struct error *err)
{
	struct ic_kvp_job job = {
		.operation = IC_KVP_ENUMERATE, .pool = (uint8_t)pool, .done = done, .user = user
	};

	return add_job(&ic->kvp, &job, NULL, NULL, err);
}

int ic_kvp_get_ip(struct ic *ic, const uint8_t mac[static 6], ic_kvp_done *done, void *user,
		  struct error *err)
{
	struct ic_kvp_job job = { .operation = IC_KVP_GET_IP_INFO, .done = done, .user = user };
	char adapter[18];

	snprintf(adapter, sizeof(adapter), "%02X:%02X:%02X:%02X:%02X:%02X", mac[0], mac[1], mac[2],
		 mac[3], mac[4], mac[5]);
	return add_job(&ic->kvp, &job, adapter, NULL, err);
}

static int put_list(const char *list, uint8_t *ret, uint32_t size, const char *what,
		    struct error *err)
{
	if (list && !utf16_from_utf8(list, ret, size))
		return error_set(err, ERR_INVALID, "%s are not UTF-8 or longer than %u characters",
				 what, size / 2 - 1);
	return 0;
}

static int fill_ip(const struct ic_ip_config *config, struct ic_spec_kvp_ip *ip, struct error *err)
{
	char adapter[GUID_TEXT_SIZE + 2], id[GUID_TEXT_SIZE];
	int rc;

	snprintf(adapter, sizeof(adapter), "{%s}", guid_format(config->adapter, id));
	ip->operation = IC_KVP_SET_IP_INFO;
	ip->dhcp_enabled = config->dhcp;
	utf16_from_utf8(adapter, ip->adapter_id, sizeof(ip->adapter_id));
	if (config->dhcp)
		return 0;
	rc = put_list(config->addresses, ip->ip_addresses, sizeof(ip->ip_addresses),
		      "the IP addresses", err);
	if (rc == 0)
		rc =
		    put_list(config->subnets, ip->subnets, sizeof(ip->subnets), "the subnets", err);
	if (rc == 0)
		rc = put_list(config->gateways, ip->gateways, sizeof(ip->gateways), "the gateways",
			      err);
	if (rc == 0)
		rc = put_list(config->dns_servers, ip->dns_servers, sizeof(ip->dns_servers),
			      "the DNS servers", err);
	return rc;
}

int ic_kvp_set_ip(struct ic *ic, const struct ic_ip_config *config, ic_kvp_done *done, void *user,
		  struct error *err)
{
	struct ic_kvp_job job = { .operation = IC_KVP_SET_IP_INFO, .done = done, .user = user };
	int rc;

	job.ip = calloc(1, sizeof(*job.ip));
	if (!job.ip)
		return error_set(err, ERR_NO_MEMORY, "no memory for a key-value request");
	rc = fill_ip(config, job.ip, err);
	if (rc == 0)
		rc = add_job(&ic->kvp, &job, NULL, NULL, err);
	if (rc < 0)
		free(job.ip);
	return rc;
}

/* ---- answers ---- */

static char *value_text(const struct ic_spec_kvp_value *value)
{
	char number[24];

	if (value->type == IC_KVP_U32)
		snprintf(number, sizeof(number), "%u", load_le32(value->value));
	else if (value->type == IC_KVP_U64)
		snprintf(number, sizeof(number), "%llu",
			 (unsigned long long)load_le64(value->value));
	else
		return utf8_from_utf16(value->value, MIN(value->value_bytes, IC_KVP_VALUE_BYTES));
	return strdup(number);
}

/* True: ask for the next one. */
static bool collect(struct ic_kvp_job *job, const uint8_t *packet, uint32_t len)
{
	struct ic_spec_kvp reply;
	const struct ic_spec_kvp_value *data = &reply.enumerate.data;

	if (len < sizeof(reply) || job->collected.count >= IC_KVP_PAIRS_MAX)
		return false;
	memcpy(&reply, packet, sizeof(reply));
	job->index++;
	return pairs_add(&job->collected,
			 utf8_from_utf16(data->key, MIN(data->key_bytes, IC_KVP_KEY_BYTES)),
			 value_text(data));
}

static void collect_list(struct ic_kvp_job *job, const char *key, const uint8_t *text,
			 uint32_t bytes)
{
	pairs_add(&job->collected, strdup(key), utf8_from_utf16(text, bytes));
}

static bool collect_ip(struct ic_kvp_job *job, const uint8_t *packet, uint32_t len)
{
	struct ic_spec_kvp_ip *reply;

	if (len < sizeof(*reply))
		return false;
	reply = malloc(sizeof(*reply));
	if (!reply)
		return false;
	memcpy(reply, packet, sizeof(*reply));
#define LIST(key, field) collect_list(job, key, reply->field, sizeof(reply->field))
	LIST("IPAddresses", ip_addresses);
	LIST("Subnets", subnets);
	LIST("Gateways", gateways);
	LIST("DNSServers", dns_servers);
#undef LIST
	pairs_add(&job->collected, strdup("DHCPEnabled"), strdup(reply->dhcp_enabled ? "1" : "0"));
	free(reply);
	return true;
}

static int result_of(uint32_t status)
{
	switch (status) {
	case IC_S_OK:
		return 0;
	case IC_E_NOT_FOUND:
	case IC_E_NO_MORE_ITEMS:
		return -ERR_NOT_FOUND;
	}
	return -ERR_DENIED;
}

static void on_enumerated(struct ic_kvp_state *kvp, const uint8_t *packet, uint32_t len,
			  uint32_t status)
{
	if (status == IC_E_NO_MORE_ITEMS)
		finish_first(kvp, 0);
	else if (status != IC_S_OK)
		finish_first(kvp, -ERR_DENIED);
	else if (!collect(kvp->jobs, packet, len))
		finish_first(kvp, 0); /* more than we keep */
}

static void on_reply(struct ic_link *link, const uint8_t *packet, uint32_t len)
{
	struct ic_kvp_state *kvp = container_of(link, struct ic_kvp_state, link);
	struct ic_kvp_job *job = kvp->jobs;
	struct ic_spec_header header;
	int result;

	/* An answer to what was asked before the VM was saved. */
	if (!job || !kvp->running) {
		run_first(kvp);
		return;
	}
	memcpy(&header, packet, sizeof(header));
	kvp->running = false;
	result = result_of(header.status);
	if (job->operation == IC_KVP_ENUMERATE) {
		on_enumerated(kvp, packet, len, header.status);
	} else {
		if (job->operation == IC_KVP_GET_IP_INFO && result == 0 &&
		    !collect_ip(job, packet, len))
			result = -ERR_CORRUPT;
		finish_first(kvp, result);
	}
	run_first(kvp);
}

/* ---- what is done without being asked ---- */

static void on_known(struct ic_kvp_state *kvp, enum ic_kvp_pool pool, int result,
		     const struct ic_pair *pairs, unsigned count)
{
	struct ic_pairs *known = &kvp->known[pool - IC_POOL_GUEST];

	if (result < 0)
		return;
	pairs_clear(known);
	for (unsigned i = 0; i < count; i++)
		pairs_add(known, strdup(pairs[i].key), strdup(pairs[i].value));
}

static void on_guest_pool(void *user, int result, const struct ic_pair *pairs, unsigned count)
{
	on_known(user, IC_POOL_GUEST, result, pairs, count);
}

static void on_intrinsic_pool(void *user, int result, const struct ic_pair *pairs, unsigned count)
{
	struct ic_kvp_state *kvp = user;

	on_known(kvp, IC_POOL_INTRINSIC, result, pairs, count);
	/* The round is over; the next one begins a while after it, however long it took. */
	if (result != -ERR_CANCELLED)
		loop_timer_arm(kvp->timer, clock_now_ns() + PERIOD_NS);
}

static void read_pools(void *user)
{
	struct ic_kvp_state *kvp = user;
	struct ic *ic = kvp->link.ic;

	if (kvp->link.state != IC_LINK_READY)
		return;
	ic_kvp_enumerate(ic, IC_POOL_GUEST, on_guest_pool, kvp, NULL);
	if (ic_kvp_enumerate(ic, IC_POOL_INTRINSIC, on_intrinsic_pool, kvp, NULL) < 0)
		loop_timer_arm(kvp->timer, clock_now_ns() + PERIOD_NS);
}

static void on_ready(struct ic_link *link)
{
	struct ic_kvp_state *kvp = container_of(link, struct ic_kvp_state, link);

	for (unsigned i = 0; i < kvp->facts.count; i++)
		ic_kvp_set(link->ic, IC_POOL_HOST, kvp->facts.pair[i].key, kvp->facts.pair[i].value,
			   NULL, NULL, NULL);
	read_pools(kvp);
	run_first(kvp);
}

static void on_closed(struct ic_link *link)
{
	struct ic_kvp_state *kvp = container_of(link, struct ic_kvp_state, link);

	loop_timer_cancel(kvp->timer);
	cancel_all(kvp);
	pairs_clear(&kvp->known[0]);
	pairs_clear(&kvp->known[1]);
}

unsigned ic_kvp_known(const struct ic *ic, enum ic_kvp_pool pool, const struct ic_pair **ret)
{
	const struct ic_pairs *known;

	if (pool != IC_POOL_GUEST && pool != IC_POOL_INTRINSIC)
		return 0;
	known = &ic->kvp.known[pool - IC_POOL_GUEST];
	*ret = known->pair;
	return known->count;
}

/* ---- life cycle ---- */

static const struct ic_spec_version versions[] = { { 4, 0 }, { 3, 0 }, { 1, 0 } };

static const struct ic_link_ops ops = {
	.class_id =
	    GUID_INIT(0xa9a0f4e7, 0x5a45, 0x4d96, 0xb8, 0x27, 0x8a, 0x84, 0x1e, 0x8c, 0x03, 0xe6),
	.instance_id =
	    GUID_INIT(0x242ff919, 0x07db, 0x4180, 0x9c, 0x2e, 0xb8, 0x6c, 0xb6, 0x8c, 0x8c, 0x55),
	.message_type = IC_MSG_KVP,
	.versions = versions,
	.version_count = ARRAY_SIZE(versions),
	.lost_after_ns = LOST_NS,
	.ready = on_ready,
	.reply = on_reply,
	.closed = on_closed,
	.restored = on_ready,
};

int ic_kvp_init(struct ic *ic, const struct ic_config *config, struct error *err)
{
	struct ic_kvp_state *kvp = &ic->kvp;

	kvp->link.ic = ic;
	kvp->link.ops = &ops;
	kvp->jobs_tail = &kvp->jobs;
	for (unsigned i = 0; i < config->fact_count; i++)
		if (!pairs_add(&kvp->facts, strdup(config->facts[i].key),
			       strdup(config->facts[i].value)))
			return error_set(err, ERR_NO_MEMORY, "no memory for the host's facts");
	return loop_timer_new(ic->loop, read_pools, kvp, &kvp->timer, err);
}

void ic_kvp_finish(struct ic *ic)
{
	cancel_all(&ic->kvp);
	pairs_clear(&ic->kvp.facts);
	pairs_clear(&ic->kvp.known[0]);
	pairs_clear(&ic->kvp.known[1]);
	if (ic->kvp.timer)
		loop_timer_free(ic->kvp.timer);
}
