/*
 * A guest that asks for sockets, opens, closes and writes what it likes into their channels, while
 * programs of the host connect, write, read and go away.
 */
#include "vmbus-guest.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "dev/hvsock.h"
#include "spec/hvsock.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#define MAX_CHANNELS 4
#define MAX_OPENS    32 /* also refused ones; each takes guest memory */

struct input {
	const uint8_t *data;
	size_t left;
};

struct state {
	struct vmbus_guest *guest;
	struct hvsock *sockets;
	struct vmbus_guest_channel *channels[MAX_CHANNELS];
	int programs[MAX_CHANNELS];
	unsigned channel_count, program_count, opens, owed;
	uint64_t ticket;
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

static void on_asked(void *user, uint64_t ticket, const struct guid *service)
{
	((struct state *)user)->ticket = ticket;
}

static void on_done(void *user, int result)
{
	((struct state *)user)->owed--;
}

static int new_program(struct state *state)
{
	int pair[2];

	if (state->program_count == MAX_CHANNELS ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) < 0)
		return -1;
	state->programs[state->program_count++] = pair[0];
	return pair[1];
}

static void host_connects(struct state *state, uint64_t port)
{
	struct guid service;
	int fd = new_program(state);

	service = hvsock_service_of_port((uint32_t)port);
	if (fd >= 0 &&
	    hvsock_connect(state->sockets, &service, fd, NS_PER_SEC, on_done, state, NULL) == 0)
		state->owed++;
}

static void host_answers(struct state *state, bool accept)
{
	int fd = accept ? new_program(state) : -1;

	if (fd >= 0)
		hvsock_accept(state->sockets, state->ticket, fd, NULL);
	else
		hvsock_refuse(state->sockets, state->ticket);
}

static void program_acts(struct state *state, uint64_t op, struct input *in)
{
	unsigned i = op >> 4 & 3;
	char data[4096];

	if (i >= state->program_count || state->programs[i] < 0)
		return;
	switch (op & 3) {
	case 0:
		if (send(state->programs[i], in->data, MIN(in->left, 300), MSG_NOSIGNAL) < 0)
			return;
		break;
	case 1:
		if (recv(state->programs[i], data, sizeof(data), 0) < 0)
			return;
		break;
	case 2:
		shutdown(state->programs[i], SHUT_WR);
		break;
	default:
		close(TAKE_FD(state->programs[i]));
	}
}

static void guest_asks(struct state *state, struct input *in)
{
	struct vmbus_spec_tl_connect_request request = { 0 };

	request.service_id = hvsock_service_of_port((uint32_t)take(in, 1));
	request.endpoint_id = hvsock_service_of_port((uint32_t)take(in, 1));
	vmbus_guest_post(state->guest, VMBUS_CONNECTION_MESSAGE, &request, sizeof(request),
			 VMBUS_MSG_TL_CONNECT_REQUEST);
}

static void guest_opens(struct state *state, uint64_t which)
{
	struct vmbus_guest *guest = state->guest;
	struct vmbus_guest_message message;
	struct vmbus_guest_channel *channel;

	while (vmbus_guest_poll(guest, &message))
		;
	if (state->channel_count == MAX_CHANNELS || !guest->offer_count ||
	    state->opens++ >= MAX_OPENS)
		return;
	which %= guest->offer_count;
	channel = guest->offer_live[which]
		      ? vmbus_guest_open(guest, &guest->offers[which], 2 + which % 5, 2 + which % 3)
		      : NULL;
	if (channel)
		state->channels[state->channel_count++] = channel;
}

static void guest_acts(struct state *state, uint64_t op, struct input *in)
{
	unsigned i = op >> 4 & 3;
	struct hvsock_spec_header header = { HVSOCK_PIPE_DATA, (uint32_t)take(in, 1) };
	struct vmbus_guest_packet packet;
	uint8_t bytes[300];
	size_t len = MIN(in->left, header.len);

	if (i >= state->channel_count)
		return;
	switch (op & 3) {
	case 0:
		memcpy(bytes, &header, sizeof(header));
		memcpy(bytes + sizeof(header), in->data, len);
		vmbus_guest_send(state->channels[i], 0, false, bytes,
				 (uint32_t)(len + sizeof(header)));
		break;
	case 1:
		vmbus_guest_send(state->channels[i], op, op & 1, in->data,
				 (uint32_t)MIN(in->left, 40));
		break;
	case 2:
		vmbus_guest_try_recv(state->channels[i], &packet);
		break;
	default:
		vmbus_guest_signal(state->channels[i]);
	}
}

static void run(struct state *state, struct input *in)
{
	while (in->left) {
		uint64_t op = take(in, 1);

		switch (op & 0xC) {
		case 0x0:
			program_acts(state, op, in);
			break;
		case 0x4:
			guest_acts(state, op, in);
			break;
		case 0x8:
			if (op & 1)
				guest_asks(state, in);
			else
				host_connects(state, op >> 4);
			break;
		default:
			if (op & 1)
				guest_opens(state, op >> 4);
			else
				host_answers(state, op & 2);
		}
		loop_step(state->guest->loop, 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, MIN(size, 4096u) };
	struct state state = { .guest = vmbus_guest_new(1, 4 * MIB) };
	struct hvsock_config config = { .loop = state.guest->loop,
					.bus = state.guest->bus,
					.user = &state,
					.asked = on_asked };

	log_set_level(LOG_ERROR);
	if (hvsock_new(&config, &state.sockets, NULL) < 0)
		__builtin_trap();
	vmbus_guest_connect(state.guest, VMBUS_VERSION_5_3);
	run(&state, &in);
	hvsock_free(state.sockets);
	if (state.owed)
		__builtin_trap();
	for (unsigned i = 0; i < state.channel_count; i++)
		vmbus_guest_forget(state.channels[i]);
	for (unsigned i = 0; i < state.program_count; i++)
		if (state.programs[i] >= 0)
			close(state.programs[i]);
	vmbus_guest_free(state.guest);
	return 0;
}
