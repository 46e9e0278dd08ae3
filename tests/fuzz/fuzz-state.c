/* A saved state's stream: into a description that has a field of every kind, and as text. */
#include "state/state.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct point {
	uint32_t x;
	int64_t y[2];
	bool seen;
};

static const struct state_field point_fields[] = {
	STATE(1, struct point, x, .max = 1000),
	STATE(2, struct point, y),
	STATE(3, struct point, seen),
	STATE_END,
};
static const struct state_desc point_desc = { "point", sizeof(struct point), point_fields, NULL };

struct device {
	uint64_t since_ns;
	uint16_t reload[3];
	struct point corner[2];
	struct point *path;
	uint32_t path_count, number_count;
	uint64_t *numbers;
	uint8_t added;
};

static const char *device_check(const void *state)
{
	const struct device *d = state;

	for (uint32_t i = 0; i < d->path_count; i++)
		if (d->path[i].x > 1000)
			abort(); /* the table's bound was not kept */
	for (uint32_t i = 0; i < d->number_count; i++)
		if (d->numbers[i] == 13)
			return "13 is unlucky";
	return NULL;
}

static const struct state_field device_fields[] = {
	STATE(1, struct device, since_ns, .clock = true),
	STATE(2, struct device, reload),
	STATE_PART(3, struct device, corner, 2, point_desc),
	STATE_LIST_OF(4, struct device, path, path_count, 100, point_desc),
	STATE_LIST(5, struct device, numbers, number_count, 100),
	STATE(6, struct device, added, .since = 0x0101, .dflt = 7),
	STATE_END,
};
static const struct state_desc device_desc = { "device", sizeof(struct device), device_fields,
					       device_check };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct state_in *in;
	struct device device;
	char *text = NULL;
	struct error err;
	size_t len;
	FILE *to;

	if (state_in_new(data, size, 1000, &in, &err) == 0) {
		if (state_get(in, &device_desc, NULL, &device, &err) == 0)
			state_clear(&device_desc, &device);
		state_in_finish(in, &err);
		state_in_free(in);
	}
	to = open_memstream(&text, &len);
	state_show(data, size, to, &err);
	fclose(to);
	free(text);
	return 0;
}
