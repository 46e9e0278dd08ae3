#include "dev/video.h"
#include "dev/console-state.h"

#include "base/bytes.h"
#include "base/log.h"
#include "base/macros.h"
#include "spec/synthvid.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIN_MEMORY_BYTES (8 * MIB)
#define PIXEL_BYTES      (SYNTHVID_DEPTH / 8)

static const struct guid class_video =
    GUID_INIT(0xda0a7802, 0xe377, 0x4aac, 0x8e, 0x77, 0x05, 0x58, 0xeb, 0x10, 0x73, 0xf8);
static const struct guid instance_video =
    GUID_INIT(0x5620e0c7, 0x8062, 0x4dce, 0xae, 0xb7, 0x52, 0x0c, 0x7e, 0xf7, 0x61, 0x71);

/* What VIDEO_UP_TO offers of, beside its bound. */
static const struct synthvid_resolution standard[] = {
	{ 640, 480 },   { 800, 600 },   { 1024, 768 },  { 1152, 864 },  { 1280, 720 },
	{ 1280, 1024 }, { 1366, 768 },  { 1440, 900 },  { 1600, 900 },  { 1600, 1200 },
	{ 1680, 1050 }, { 1920, 1080 }, { 1920, 1200 }, { 2560, 1440 }, { 3840, 2160 },
};

struct video {
	struct video_config config;
	struct vmbus_channel *channel;
	int fd;
	uint8_t *memory;
	uint64_t memory_bytes;
	bool mapped;
	uint64_t gpa; /* where, if mapped */
	struct video_mode mode;
	struct video_rect damage[VIDEO_MAX_DAMAGE];
	unsigned damage_count;
	bool feature_owed; /* the guest is still to be told that damage is wanted */
};

/* ---- messages ---- */

static int send(struct video *v, enum synthvid_type type, void *message, size_t bytes)
{
	struct iovec iov = { message, bytes };
	struct synthvid_header header = { 1, (uint32_t)bytes - 8, type, (uint32_t)bytes - 8 };

	memcpy(message, &header, sizeof(header));
	return vmbus_send(v->channel, 0, false, &iov, 1);
}

static bool get(const struct vmbus_packet *packet, void *ret, size_t bytes)
{
	if (packet->payload_len < bytes)
		return false;
	memcpy(ret, packet->payload, bytes);
	return true;
}

static void on_version(struct video *v, const struct vmbus_packet *packet)
{
	struct synthvid_version_response answer = { .max_outputs = 1 };
	struct synthvid_version_request in;

	if (!get(packet, &in, sizeof(in)))
		return;
	answer.version = in.version;
	answer.accepted = in.version == SYNTHVID_VERSION_3_5 || in.version == SYNTHVID_VERSION_3_2;
	send(v, SYNTHVID_VERSION_RESPONSE, &answer, sizeof(answer));
}

/* As monitors say it (VESA E-EDID 1.3): a digital display of no particular kind. */
static void fill_edid(uint8_t edid[static SYNTHVID_EDID_BYTES])
{
	static const uint8_t start[] = { 0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x00,
					 0x36, 0x68, 0x2E, 0x06, 0,    0,    0,    0,
					 0,    28,   1,    3,    0x80, 0,    0,    0x78 };
	uint8_t sum = 0;

	memset(edid, 0, SYNTHVID_EDID_BYTES);
	memcpy(edid, start, sizeof(start));
	for (unsigned i = 0; i < SYNTHVID_EDID_BYTES - 1; i++)
		sum += edid[i];
	edid[SYNTHVID_EDID_BYTES - 1] = (uint8_t)-sum;
}

/* The last one is the bound itself. */
static unsigned resolutions(const struct video *v,
			    struct synthvid_resolution ret[static ARRAY_SIZE(standard) + 1])
{
	unsigned count = 0;

	for (size_t i = 0; v->config.choice == VIDEO_UP_TO && i < ARRAY_SIZE(standard); i++)
		if (standard[i].width <= v->config.width &&
		    standard[i].height <= v->config.height &&
		    (standard[i].width != v->config.width ||
		     standard[i].height != v->config.height))
			ret[count++] = standard[i];
	ret[count++] =
	    (struct synthvid_resolution){ (uint16_t)v->config.width, (uint16_t)v->config.height };
	return count;
}

/* 1024x768 where it is one of them: what a guest without a wish of its own is easiest to see in. */
static unsigned default_of(const struct synthvid_resolution *list, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (list[i].width == 1024 && list[i].height == 768)
			return i;
	return count - 1;
}

static void on_resolution_request(struct video *v)
{
	struct {
		struct synthvid_resolution_response head;
		struct synthvid_resolution list[ARRAY_SIZE(standard) + 1];
	} SYNTHVID_PACKED answer = { 0 };
	struct synthvid_resolution list[ARRAY_SIZE(standard) + 1];
	unsigned count = resolutions(v, list);

	fill_edid(answer.head.edid);
	answer.head.count = (uint8_t)count;
	answer.head.default_index = (uint8_t)default_of(list, count);
	memcpy(answer.list, list, count * sizeof(list[0]));
	send(v, SYNTHVID_RESOLUTION_RESPONSE, &answer,
	     sizeof(answer.head) + count * sizeof(list[0]));
}

static void set_mode(struct video *v, const struct video_mode *mode)
{
	v->mode = *mode;
	v->damage_count = 0;
	v->config.mode_changed(v->config.user);
}

static void on_vram_location(struct video *v, const struct vmbus_packet *packet)
{
	struct synthvid_vram_location in;
	struct synthvid_ack answer = { 0 };

	if (!get(packet, &in, sizeof(in)))
		return;
	v->mapped = in.is_specified && v->config.map(v->config.user, in.gpa);
	if (!v->mapped)
		log_guest("video: memory can't be at %#llx", (unsigned long long)in.gpa);
	v->gpa = in.gpa;
	set_mode(v, &(struct video_mode){ 0 });
	answer.context = in.context;
	/* Unmapped, it stays unanswered: the guest's driver gives up by itself. */
	if (v->mapped)
		send(v, SYNTHVID_VRAM_ACK, &answer, sizeof(answer));
}

static bool mode_fits(const struct video *v, const struct video_mode *mode)
{
	return mode->width >= 1 && mode->width <= VIDEO_MAX_WIDTH && mode->height >= 1 &&
	       mode->height <= VIDEO_MAX_HEIGHT && mode->pitch_bytes >= mode->width * PIXEL_BYTES &&
	       mode->pitch_bytes % 4 == 0 && mode->offset % 4 == 0 &&
	       RANGE_OK(mode->offset, (uint64_t)mode->pitch_bytes * mode->height, v->memory_bytes);
}

static void ask_for_damage(struct video *v)
{
	struct synthvid_feature_change message = { .dirt = 1 };

	v->feature_owed = send(v, SYNTHVID_FEATURE_CHANGE, &message, sizeof(message)) == -ERR_BUSY;
}

static void on_situation(struct video *v, const struct vmbus_packet *packet)
{
	struct synthvid_situation in;
	struct synthvid_ack answer = { 0 };
	struct video_mode mode;

	if (!get(packet, &in, sizeof(in)))
		return;
	mode = (struct video_mode){ in.active && v->mapped, in.width, in.height, in.pitch,
				    in.vram_offset };
	if (in.output_count < 1 || in.depth != SYNTHVID_DEPTH || !mode_fits(v, &mode))
		mode = (struct video_mode){ 0 };
	/* hyperv_fb repeats it when it is asked for damage. */
	if (memcmp(&mode, &v->mode, sizeof(mode)) != 0) {
		set_mode(v, &mode);
		ask_for_damage(v);
	}
	answer.context = in.context;
	send(v, SYNTHVID_SITUATION_ACK, &answer, sizeof(answer));
}

/* ---- damage ---- */

static bool clip(const struct video *v, const struct synthvid_rect *in, struct video_rect *ret)
{
	int32_t width = (int32_t)v->mode.width, height = (int32_t)v->mode.height;
	int32_t x1 = MAX(in->x1, 0), y1 = MAX(in->y1, 0);
	int32_t x2 = MIN(in->x2, width), y2 = MIN(in->y2, height);

	if (!v->mode.active || x1 >= x2 || y1 >= y2)
		return false;
	*ret = (struct video_rect){ (unsigned)x1, (unsigned)y1, (unsigned)x2, (unsigned)y2 };
	return true;
}

static void extend(struct video_rect *rect, const struct video_rect *by)
{
	rect->x1 = MIN(rect->x1, by->x1);
	rect->y1 = MIN(rect->y1, by->y1);
	rect->x2 = MAX(rect->x2, by->x2);
	rect->y2 = MAX(rect->y2, by->y2);
}

static void add_damage(struct video *v, const struct video_rect *rect)
{
	if (v->damage_count == VIDEO_MAX_DAMAGE) {
		for (unsigned i = 1; i < VIDEO_MAX_DAMAGE; i++)
			extend(&v->damage[0], &v->damage[i]);
		v->damage_count = 1;
	}
	v->damage[v->damage_count++] = *rect;
}

static void on_dirt(struct video *v, const struct vmbus_packet *packet)
{
	const uint8_t *rects = packet->payload + sizeof(struct synthvid_dirt);
	unsigned room, before = v->damage_count;
	struct synthvid_dirt in;

	if (!get(packet, &in, sizeof(in)))
		return;
	room = (packet->payload_len - (unsigned)sizeof(in)) / sizeof(struct synthvid_rect);
	for (unsigned i = 0; i < MIN((unsigned)in.count, room); i++) {
		struct synthvid_rect rect;
		struct video_rect clipped;

		memcpy(&rect, rects + i * sizeof(rect), sizeof(rect));
		if (clip(v, &rect, &clipped))
			add_damage(v, &clipped);
	}
	if (v->damage_count != before)
		v->config.damaged(v->config.user);
}

unsigned video_take_damage(struct video *v, struct video_rect rects[static VIDEO_MAX_DAMAGE])
{
	unsigned count = v->damage_count;

	memcpy(rects, v->damage, count * sizeof(*rects));
	v->damage_count = 0;
	return count;
}

/* ---- the channel ---- */

static void handle(struct video *v, const struct vmbus_packet *packet)
{
	if (packet->type != VMBUS_INBAND || packet->payload_len < sizeof(struct synthvid_header))
		return;
	switch (load_le32(packet->payload + offsetof(struct synthvid_header, type))) {
	case SYNTHVID_VERSION_REQUEST:
		on_version(v, packet);
		return;
	case SYNTHVID_RESOLUTION_REQUEST:
		on_resolution_request(v);
		return;
	case SYNTHVID_VRAM_LOCATION:
		on_vram_location(v, packet);
		return;
	case SYNTHVID_SITUATION:
		on_situation(v, packet);
		return;
	case SYNTHVID_DIRT:
		on_dirt(v, packet);
		return;
	case SYNTHVID_POINTER_POSITION:
	case SYNTHVID_POINTER_SHAPE:
		return; /* the guest draws its pointer itself */
	default:
		log_guest("video: an unexpected message");
	}
}

static void on_ready(void *dev, struct vmbus_channel *channel)
{
	struct video *v = dev;
	struct vmbus_packet packet;

	if (v->feature_owed)
		ask_for_damage(v);
	while (vmbus_recv(channel, &packet) > 0) {
		if (packet.wants_completion)
			vmbus_send_completion(channel, packet.transaction_id, NULL, 0);
		handle(v, &packet);
	}
}

/* The picture stays where it is; nothing draws any more. */
static void on_closed(void *dev, struct vmbus_channel *channel)
{
	struct video *v = dev;

	v->feature_owed = false;
	v->mapped = false;
	set_mode(v, &(struct video_mode){ 0 });
}

static const struct vmbus_channel_ops channel_ops = { .closed = on_closed, .ready = on_ready };

/* ---- for the machine ---- */

static int new_memory(struct video *v, struct error *err)
{
	uint64_t pixels = (uint64_t)v->config.width * v->config.height;

	v->memory_bytes = ALIGN_UP(MAX(pixels * PIXEL_BYTES, MIN_MEMORY_BYTES), MIB);
	v->fd = memfd_create("video-memory", MFD_CLOEXEC);
	if (v->fd < 0 || ftruncate(v->fd, (off_t)v->memory_bytes) < 0)
		return error_set_errno(err, errno, "allocating video memory");
	v->memory = mmap(NULL, v->memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (v->memory == MAP_FAILED) {
		v->memory = NULL;
		return error_set_errno(err, errno, "mapping video memory");
	}
	return 0;
}

int video_new(const struct video_config *config, struct video **ret, struct error *err)
{
	struct video *v = calloc(1, sizeof(*v));
	struct vmbus_offer offer = { .class_id = class_video,
				     .instance_id = instance_video,
				     .ops = &channel_ops,
				     .dev = v };
	int r;

	if (!v)
		return error_set(err, ERR_NO_MEMORY, "no memory for a video device");
	v->config = *config;
	v->fd = -1;
	r = new_memory(v, err);
	if (r == 0) {
		offer.mmio_megabytes = (uint16_t)(v->memory_bytes / MIB);
		r = vmbus_offer(config->bus, &offer, &v->channel, err);
	}
	if (r < 0) {
		video_free(v);
		return r;
	}
	*ret = v;
	return 0;
}

void video_free(struct video *v)
{
	if (!v)
		return;
	if (v->channel)
		vmbus_rescind(v->channel);
	if (v->memory)
		munmap(v->memory, v->memory_bytes);
	if (v->fd >= 0)
		close(v->fd);
	free(v);
}

void video_mode(const struct video *v, struct video_mode *ret)
{
	*ret = v->mode;
}

uint8_t *video_memory(const struct video *v, uint64_t *ret_bytes)
{
	*ret_bytes = v->memory_bytes;
	return v->memory;
}

int video_memory_fd(const struct video *v)
{
	return v->fd;
}

/* ---- state ---- */

static const struct state_field state_fields[] = {
	STATE(1, struct video_state, gpa),
	STATE(2, struct video_state, offset),
	STATE(3, struct video_state, width),
	STATE(4, struct video_state, height),
	STATE(5, struct video_state, pitch_bytes),
	STATE(6, struct video_state, mapped),
	STATE(7, struct video_state, active),
	STATE(8, struct video_state, feature_owed),
	STATE(9, struct video_state, reserved),
	STATE_LIST(10, struct video_state, memory, memory_bytes,
		   VIDEO_MAX_WIDTH *VIDEO_MAX_HEIGHT *PIXEL_BYTES),
	STATE(11, struct video_state, reserved2),
	STATE_END,
};
const struct state_desc video_state_desc = { "video", sizeof(struct video_state), state_fields,
					     NULL };

static uint32_t bytes_in_use(const struct video *v)
{
	uint64_t bytes =
	    MIN(v->memory_bytes, (uint64_t)VIDEO_MAX_WIDTH * VIDEO_MAX_HEIGHT * PIXEL_BYTES);

	while (bytes && !v->memory[bytes - 1])
		bytes--;
	return (uint32_t)bytes;
}

void video_save(const struct video *v, struct state_out *out)
{
	const struct video_state s = {
		.gpa = v->gpa,
		.offset = v->mode.offset,
		.width = v->mode.width,
		.height = v->mode.height,
		.pitch_bytes = v->mode.pitch_bytes,
		.mapped = v->mapped,
		.active = v->mode.active,
		.feature_owed = v->feature_owed,
		.memory = v->memory,
		.memory_bytes = bytes_in_use(v),
	};

	state_put(out, &video_state_desc, NULL, &s);
}

static int take_state(struct video *v, const struct video_state *s, struct error *err)
{
	const struct video_mode mode = { s->active, s->width, s->height, s->pitch_bytes,
					 s->offset };

	if (s->memory_bytes > v->memory_bytes || (s->active && !mode_fits(v, &mode)))
		return error_set(err, ERR_UNSUPPORTED,
				 "the saved screen does not fit the virtual machine's");
	if (s->mapped && !v->config.map(v->config.user, s->gpa))
		return error_set(err, ERR_CORRUPT,
				 "state of 'video': its memory is at an impossible place");
	if (s->memory_bytes)
		memcpy(v->memory, s->memory, s->memory_bytes);
	v->mapped = s->mapped;
	v->gpa = s->gpa;
	v->feature_owed = s->feature_owed;
	set_mode(v, &mode);
	return 0;
}

int video_restore(struct video *v, struct state_in *in, struct error *err)
{
	struct video_state s;
	int r = state_get(in, &video_state_desc, NULL, &s, err);

	if (r < 0)
		return r;
	r = take_state(v, &s, err);
	state_clear(&video_state_desc, &s);
	return r;
}
