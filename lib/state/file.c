#include "state/file.h"

#include "base/bytes.h"
#include "base/macros.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define MAGIC        "OYAKOSAV"
#define VERSION      1u
#define HEADER_BYTES 64u

enum { /* places in the header */
       AT_MAGIC = 0,
       AT_VERSION = 8,
       AT_STREAM_CRC = 12,
       AT_RAM_BYTES = 16,
       AT_STREAM_OFFSET = 24,
       AT_STREAM_BYTES = 32,
       AT_HEADER_CRC = 60,
};

static uint32_t checksum(const uint8_t *bytes, uint64_t size)
{
	uint32_t crc = (uint32_t)crc32(0, NULL, 0);

	while (size) {
		uint32_t part = (uint32_t)MIN(size, UINT64_C(1) << 30);

		crc = (uint32_t)crc32(crc, bytes, part);
		bytes += part;
		size -= part;
	}
	return crc;
}

static int write_all(int fd, const uint8_t *bytes, uint64_t size, uint64_t offset,
		     struct error *err)
{
	while (size) {
		ssize_t n = pwrite(fd, bytes, size, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set_errno(err, errno, "writing the saved state");
		bytes += n;
		size -= (uint64_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

static int read_all(int fd, uint8_t *bytes, uint64_t size, uint64_t offset, struct error *err)
{
	while (size) {
		ssize_t n = pread(fd, bytes, size, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set_errno(err, errno, "reading the saved state");
		if (n == 0)
			return error_set(err, ERR_CORRUPT, "the saved state ends too early");
		bytes += n;
		size -= (uint64_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

int state_file_finish(int fd, uint64_t ram_bytes, const uint8_t *stream, uint64_t stream_bytes,
		      struct error *err)
{
	uint8_t header[HEADER_BYTES] = { 0 };
	int rc = write_all(fd, stream, stream_bytes, STATE_FILE_RAM + ram_bytes, err);

	if (rc < 0)
		return rc;
	if (fsync(fd) < 0)
		return error_set_errno(err, errno, "writing the saved state");
	memcpy(header + AT_MAGIC, MAGIC, sizeof(MAGIC) - 1);
	store_le32(header + AT_VERSION, VERSION);
	store_le32(header + AT_STREAM_CRC, checksum(stream, stream_bytes));
	store_le64(header + AT_RAM_BYTES, ram_bytes);
	store_le64(header + AT_STREAM_OFFSET, STATE_FILE_RAM + ram_bytes);
	store_le64(header + AT_STREAM_BYTES, stream_bytes);
	store_le32(header + AT_HEADER_CRC, checksum(header, AT_HEADER_CRC));
	rc = write_all(fd, header, sizeof(header), 0, err);
	if (rc == 0 && fsync(fd) < 0)
		rc = error_set_errno(err, errno, "writing the saved state");
	return rc;
}

int state_file_open(int fd, struct state_file *ret, struct error *err)
{
	uint8_t header[HEADER_BYTES];
	struct state_file file;
	uint64_t end;
	struct stat st;
	int rc = read_all(fd, header, sizeof(header), 0, err);

	if (rc < 0)
		return rc;
	if (memcmp(header + AT_MAGIC, MAGIC, sizeof(MAGIC) - 1) != 0 ||
	    load_le32(header + AT_HEADER_CRC) != checksum(header, AT_HEADER_CRC))
		return error_set(err, ERR_CORRUPT, "the saved state is not whole");
	if (load_le32(header + AT_VERSION) != VERSION)
		return error_set(err, ERR_UNSUPPORTED,
				 "the saved state is of format %u; known is %u",
				 load_le32(header + AT_VERSION), VERSION);
	file = (struct state_file){ .ram_bytes = load_le64(header + AT_RAM_BYTES),
				    .stream_bytes = load_le64(header + AT_STREAM_BYTES) };
	if (fstat(fd, &st) < 0)
		return error_set_errno(err, errno, "reading the saved state");
	if (file.stream_bytes > STATE_FILE_STREAM_MAX ||
	    ADD_OVERFLOWS(STATE_FILE_RAM, file.ram_bytes, &end) ||
	    load_le64(header + AT_STREAM_OFFSET) != end ||
	    !RANGE_OK(end, file.stream_bytes, (uint64_t)st.st_size))
		return error_set(err, ERR_CORRUPT, "the saved state's header is impossible");
	*ret = file;
	return 0;
}

int state_file_read_stream(int fd, const struct state_file *file, uint8_t **ret, struct error *err)
{
	AUTO_FREE uint8_t *stream = malloc(file->stream_bytes + 1);
	uint8_t crc[4];
	int rc;

	if (!stream)
		return error_set(err, ERR_NO_MEMORY, "no memory for a saved state");
	rc = read_all(fd, stream, file->stream_bytes, STATE_FILE_RAM + file->ram_bytes, err);
	if (rc == 0)
		rc = read_all(fd, crc, sizeof(crc), AT_STREAM_CRC, err);
	if (rc < 0)
		return rc;
	if (load_le32(crc) != checksum(stream, file->stream_bytes))
		return error_set(err, ERR_CORRUPT, "the saved state of the devices is damaged");
	*ret = TAKE(stream);
	return 0;
}

int state_file_read_ram(int fd, const struct state_file *file, void *ram, struct error *err)
{
	off_t end = (off_t)(STATE_FILE_RAM + file->ram_bytes), at = (off_t)STATE_FILE_RAM;

	while (at < end) {
		off_t data = lseek(fd, at, SEEK_DATA), hole;
		int rc;

		/* Nothing but holes behind; or a file system that doesn't know of holes. */
		if (data < 0 && errno == ENXIO)
			break;
		if (data < 0)
			data = at;
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole < 0 || hole > end)
			hole = end;
		if (data >= end)
			break;
		rc = read_all(fd, (uint8_t *)ram + (data - (off_t)STATE_FILE_RAM),
			      (uint64_t)(hole - data), (uint64_t)data, err);
		if (rc < 0)
			return rc;
		at = hole;
	}
	return 0;
}
