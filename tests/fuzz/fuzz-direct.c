/* What the other side of a Direct connection sends, in pieces of any size; what it says of a
 * folder. */
#include "direct/direct.h"
#include "direct/listing.h"

#include "base/macros.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Every byte of a frame is looked at, so that the sanitizer sees one that is not there. */
static unsigned sum;

static bool read_frames(struct direct_reader *reader)
{
	struct direct_frame frame;
	int r;

	while ((r = direct_next(reader, &frame)) > 0)
		for (uint32_t i = 0; i < frame.len; i++)
			sum += frame.data[i];
	return r == 0;
}

static void read_listing(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1), *at = text;
	struct direct_item item;

	if (!text)
		abort();
	memcpy(text, data, size);
	while (direct_listing_next(&at, text + size, &item) > 0)
		if (item.path[0] == '/' || strncmp(item.path, "../", 3) == 0 ||
		    strstr(item.path, "/../"))
			__builtin_trap();
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct direct_reader reader;
	bool sound = true;
	int pair[2];

	read_listing(data, size);
	memset(&reader, 0, sizeof(reader));
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		return 0;
	while (size && sound) {
		size_t piece = MIN(size, (size_t)data[0] * data[0] + 1);

		if (write(pair[0], data, piece) != (ssize_t)piece)
			break;
		data += piece;
		size -= piece;
		if (direct_receive(&reader, pair[1]) <= 0)
			__builtin_trap();
		sound = read_frames(&reader);
	}
	close(pair[0]);
	close(pair[1]);
	return 0;
}
