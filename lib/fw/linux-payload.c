#include "fw/linux-payload.h"

#include "base/bytes.h"
#include "base/macros.h"

#include <lz4.h>
#include <lzma.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#define LZ4_LEGACY_BLOCK (8u << 20) /* output of each block but the last */

/* Each returns how many bytes it wrote to out, or 0 if the input is damaged. */

static size_t expand_lz4(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
	size_t at = 4, done = 0;

	while (in_len - at >= 4 && done < out_len) {
		uint32_t len = load_le32(in + at);
		int n;

		at += 4;
		if (len == 0)
			break;
		if (len > in_len - at)
			return 0;
		n = LZ4_decompress_safe((const char *)in + at, (char *)out + done, (int)len,
					(int)MIN(out_len - done, LZ4_LEGACY_BLOCK));
		if (n <= 0)
			return 0;
		at += len;
		done += (size_t)n;
	}
	return done;
}

static size_t expand_xz(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
	uint64_t memory_limit = 256u << 20;
	size_t in_at = 0, out_at = 0;

	if (lzma_stream_buffer_decode(&memory_limit, 0, NULL, in, &in_at, in_len, out, &out_at,
				      out_len) != LZMA_OK)
		return 0;
	return out_at;
}

static size_t expand_gzip(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
	z_stream stream = { .next_in = (uint8_t *)in,
			    .avail_in = (unsigned)in_len,
			    .next_out = out,
			    .avail_out = (unsigned)out_len };
	int r;

	if (inflateInit2(&stream, 15 + 16) != Z_OK)
		return 0;
	r = inflate(&stream, Z_FINISH);
	inflateEnd(&stream);
	return r == Z_STREAM_END ? stream.total_out : 0;
}

static size_t expand_zstd(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
	size_t frame = ZSTD_findFrameCompressedSize(in, in_len);
	size_t n;

	if (ZSTD_isError(frame))
		return 0;
	n = ZSTD_decompress(out, out_len, in, frame);
	return ZSTD_isError(n) ? 0 : n;
}

static const struct format {
	const char *name;
	uint8_t magic[6];
	uint8_t magic_len;
	size_t (*expand)(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len);
} formats[] = {
	{ "LZ4", { 0x02, 0x21, 0x4c, 0x18 }, 4, expand_lz4 },
	{ "XZ", { 0xfd, '7', 'z', 'X', 'Z', 0 }, 6, expand_xz },
	{ "gzip", { 0x1f, 0x8b }, 2, expand_gzip },
	{ "zstd", { 0x28, 0xb5, 0x2f, 0xfd }, 4, expand_zstd },
};

static const struct format *format_of(const uint8_t *payload, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
		if (len >= formats[i].magic_len &&
		    memcmp(payload, formats[i].magic, formats[i].magic_len) == 0)
			return &formats[i];
	return NULL;
}

int linux_payload_expand(const uint8_t *payload, size_t len, uint8_t **ret, size_t *ret_len,
			 struct error *err)
{
	const struct format *format = format_of(payload, len);
	uint32_t size;
	uint8_t *out;

	if (!format || len < 8)
		return 0;
	/* gzip's own trailer ends with the same number. */
	size = load_le32(payload + len - 4);
	if (size == 0 || size > LINUX_PAYLOAD_MAX)
		return error_set(err, ERR_CORRUPT, "its payload claims to be %u bytes large", size);
	out = malloc(size);
	if (!out)
		return error_set(err, ERR_NO_MEMORY, "no memory for its %u bytes", size);
	*ret_len = format->expand(payload, format->magic[0] == 0x1f ? len : len - 4, out, size);
	if (*ret_len != size) {
		free(out);
		return error_set(err, ERR_CORRUPT, "its %s payload is damaged", format->name);
	}
	*ret = out;
	return 1;
}
