/* Any sequence of a guest's MSR accesses and hypercalls, mixed with the host's messages. */
#include "fake-part.h"

#include "base/macros.h"
#include "hv/hv.h"

#include <string.h>

#define RAM_BYTES MIB

struct input {
	const uint8_t *data;
	size_t left;
};

static uint64_t take(struct input *in, unsigned bytes)
{
	uint64_t value = 0;

	bytes = (unsigned)MIN(bytes, in->left);
	memcpy(&value, in->data, bytes);
	in->data += bytes;
	in->left -= bytes;
	return value;
}

/* Mostly registers that exist, mostly pages that are RAM. */
static uint32_t take_msr(struct input *in)
{
	static const uint32_t base[] = { 0x40000000, 0x40000010, 0x40000020, 0x40000070,
					 0x40000080, 0x40000090, 0x400000B0, 0x40000100 };
	uint64_t byte = take(in, 1);

	return base[byte >> 5 & 7] + (uint32_t)(byte & 31);
}

static uint64_t take_value(struct input *in)
{
	uint64_t kind = take(in, 1);

	if (kind & 1)
		return take(in, 8);
	return (take(in, 1) << 12 & (2 * RAM_BYTES - 1)) | (kind >> 1 & 7);
}

static enum hv_status on_post(void *user, unsigned vp, uint32_t connection, uint32_t type,
			      const void *payload, size_t len)
{
	/* Touches every byte, for the sanitizer. */
	return hv_post_message(user, vp, type & 15, type, payload, len) < 0
		   ? HV_STATUS_INSUFFICIENT_BUFFERS
		   : HV_STATUS_SUCCESS;
}

static enum hv_status on_signal(void *user, unsigned vp, uint32_t connection, uint16_t flag)
{
	hv_signal_event(user, connection & 1, connection >> 1 & 15, flag);
	return HV_STATUS_SUCCESS;
}

static void on_crash(void *user, unsigned vp, const struct hv_crash *crash)
{
	if (crash->text && strlen(crash->text) > crash->text_len)
		__builtin_trap();
}

static void hypercall(struct hv *hv, struct mem *mem, unsigned vp, struct input *in)
{
	static const uint16_t codes[] = { 0x5C, 0x5D, 0x0B, 0x46 };
	struct part_hypercall call = { .long_mode = true };
	uint8_t bytes[64];
	size_t n = take(in, 1) % sizeof(bytes);

	n = MIN(n, in->left);
	memcpy(bytes, in->data, n);
	in->data += n;
	in->left -= n;
	call.input = take_value(in) & ~UINT64_C(7);
	mem_write(mem, call.input, bytes, n);
	call.control = codes[take(in, 1) & 3] | take(in, 1) << 16;
	if ((uint16_t)call.control == HV_CALL_SEND_CLUSTER_IPI)
		call.output = take(in, 1);
	hv_hypercall(hv, vp, &call);
}

static void run(struct hv *hv, struct mem *mem, struct loop *loop, struct input *in)
{
	while (in->left) {
		uint64_t op = take(in, 1);
		unsigned vp = op >> 7 & 1;
		uint64_t value;
		uint32_t msr;

		switch (op & 7) {
		case 0:
		case 1:
		case 2:
			msr = take_msr(in);
			hv_msr_write(hv, vp, msr, take_value(in));
			break;
		case 3:
			hv_msr_read(hv, vp, take_msr(in), &value);
			break;
		case 4:
			hypercall(hv, mem, vp, in);
			break;
		case 5:
			value = take_value(in);
			hv_post_message(hv, vp, value & 15, 1, &value, sizeof(value));
			break;
		case 6:
			mem_write(mem, take_value(in), &op, 1);
			break;
		case 7:
			if (op & 0x40)
				hv_vp_reset(hv, vp);
			else
				loop_step(loop, 0);
			break;
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct hv_config config = { .vp_count = 2,
				    .features = { true, true, true, true, true },
				    .events = { .crash = on_crash } };
	struct hv_ports ports = { .post_message = on_post, .signal_event = on_signal };
	struct part part = { 0 };
	struct loop *loop;
	struct mem *mem;
	struct hv *hv;

	if (loop_new(&loop, NULL) < 0 || mem_new(RAM_BYTES, &mem, NULL) < 0)
		__builtin_trap();
	config.loop = loop;
	config.mem = mem;
	if (hv_new(&config, &hv, NULL) < 0)
		__builtin_trap();
	ports.user = hv;
	hv_set_part(hv, &part);
	hv_set_ports(hv, &ports);
	run(hv, mem, loop, &in);
	hv_reset(hv);
	hv_free(hv);
	loop_free(loop);
	mem_free(mem);
	return 0;
}
