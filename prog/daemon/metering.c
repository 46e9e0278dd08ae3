#include "metering.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "config/config-json.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FILE_VERSION 1

/* What only grows. A worker counts from 0; the sums are over all runs. */
enum counter {
	CPU_NS,
	DISK_READS,
	DISK_WRITES,
	DISK_READ_BYTES,
	DISK_WRITTEN_BYTES,
	SENT_BYTES,
	RECEIVED_BYTES,
	COUNTERS
};

static const char *const names[COUNTERS] = {
	"cpu_ns",     "disk_reads",     "disk_writes", "disk_read_bytes", "disk_written_bytes",
	"sent_bytes", "received_bytes",
};

struct metering {
	int64_t began; /* seconds since 1970 */
	int64_t sums[COUNTERS];
	int64_t last[COUNTERS]; /* of the worker; -1: not known yet */
	int64_t mib_seconds;    /* of memory */
	int64_t memory_min_bytes, memory_max_bytes;
	int64_t disk_bytes;            /* the most that its disks were */
	uint64_t sampled_ns, saved_ns; /* 0: not since the service or the run began */
};

/* ---- the file ---- */

static json_t *numbers_to_json(const int64_t numbers[COUNTERS])
{
	json_t *json = json_object();

	for (int i = 0; i < COUNTERS; i++)
		json_object_set_new(json, names[i], json_integer(numbers[i]));
	return json;
}

static bool numbers_from_json(const json_t *json, int64_t least, int64_t ret[COUNTERS])
{
	for (int i = 0; i < COUNTERS; i++) {
		const json_t *number = json_object_get(json, names[i]);

		ret[i] = json_integer_value(number);
		if (!json_is_integer(number) || ret[i] < least)
			return false;
	}
	return true;
}

static int write_file(const struct vm *vm, struct error *err)
{
	const struct metering *m = vm->metering;
	AUTO_CLOSE int fd = open(vm->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	json_t *json;
	int r;

	if (fd < 0)
		return error_set_errno(err, errno, "opening the folder '%.200s'", vm->folder);
	json = json_pack("{s:i, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "version", FILE_VERSION,
			 "began", (json_int_t)m->began, "mib_seconds", (json_int_t)m->mib_seconds,
			 "memory_min_bytes", (json_int_t)m->memory_min_bytes, "memory_max_bytes",
			 (json_int_t)m->memory_max_bytes, "disk_bytes", (json_int_t)m->disk_bytes,
			 "sums", numbers_to_json(m->sums), "last", numbers_to_json(m->last));
	r = config_save_json(fd, METERING_FILE, json, err);
	json_decref(json);
	return r;
}

void metering_load(struct vm *vm, int folder_fd)
{
	struct metering m = { 0 };
	json_t *json = NULL;
	struct error err;
	int r = config_load_json(folder_fd, METERING_FILE, &json, &err), version = 0;
	json_t *sums = NULL, *last = NULL;

	if (r == -ERR_NOT_FOUND)
		return;
	if (r == 0 &&
	    (json_unpack(json, "{s:i, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "version", &version,
			 "began", &m.began, "mib_seconds", &m.mib_seconds, "memory_min_bytes",
			 &m.memory_min_bytes, "memory_max_bytes", &m.memory_max_bytes, "disk_bytes",
			 &m.disk_bytes, "sums", &sums, "last", &last) < 0 ||
	     version != FILE_VERSION || m.began < 0 || m.mib_seconds < 0 ||
	     !numbers_from_json(sums, 0, m.sums) || !numbers_from_json(last, -1, m.last)))
		r = error_set(&err, ERR_CORRUPT, "it is none of ours");
	json_decref(json);
	if (r < 0) {
		log_error("virtual machine '%s' is not metered: " METERING_FILE ": %s",
			  vm->config->name, err.text);
		return;
	}
	vm->metering = malloc(sizeof(m));
	if (!vm->metering)
		abort();
	*vm->metering = m;
}

void metering_free(struct metering *metering)
{
	free(metering);
}

void metering_save(struct vm *vm)
{
	struct error err;

	if (!vm->metering || vm->removed)
		return;
	vm->metering->saved_ns = clock_now_ns();
	if (write_file(vm, &err) < 0)
		log_warn("virtual machine '%s': its metering could not be written: %s",
			 vm->config->name, err.text);
}

/* ---- enabling ---- */

int metering_enable(struct vm *vm, struct error *err)
{
	struct metering *before = vm->metering, *m = calloc(1, sizeof(*m));
	int r;

	if (!m)
		abort();
	m->began = time(NULL);
	/* What a run did before does not count: the next sample says what that is. */
	for (int i = 0; i < COUNTERS; i++)
		m->last[i] = before ? before->last[i] : (vm->run ? -1 : 0);
	vm->metering = m;
	r = write_file(vm, err);
	if (r < 0) {
		vm->metering = before;
		before = m;
	}
	metering_free(before);
	return r;
}

int metering_disable(struct vm *vm, struct error *err)
{
	AUTO_CLOSE int fd = open(vm->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || (unlinkat(fd, METERING_FILE, 0) < 0 && errno != ENOENT) || fsync(fd) < 0)
		return error_set_errno(err, errno, "removing '%.200s/" METERING_FILE "'",
				       vm->folder);
	metering_free(TAKE(vm->metering));
	return 0;
}

/* ---- counting ---- */

void metering_run_begins(struct vm *vm)
{
	if (!vm->metering)
		return;
	memset(vm->metering->last, 0, sizeof(vm->metering->last));
	vm->metering->sampled_ns = 0;
}

/* What a worker says may be anything: a sum stays at the most that it can be. */
static void add(int64_t *sum, int64_t more)
{
	if (more > 0 && ADD_OVERFLOWS(*sum, more, sum))
		*sum = INT64_MAX;
}

static void read_counters(const json_t *status, int64_t ret[COUNTERS])
{
	const json_t *usage = json_object_get(status, "usage");
	const json_t *vps = json_object_get(status, "vp_runtime_ns");

	ret[CPU_NS] = 0;
	for (size_t i = 0; i < json_array_size(vps); i++)
		add(&ret[CPU_NS], json_integer_value(json_array_get(vps, i)));
	for (int i = CPU_NS + 1; i < COUNTERS; i++)
		ret[i] = json_integer_value(json_object_get(usage, names[i]));
}

/* A disk or an adapter that was taken away takes with it what it had counted. */
static void add_counters(struct metering *m, const int64_t now[COUNTERS])
{
	for (int i = 0; i < COUNTERS; i++) {
		if (m->last[i] >= 0 && now[i] > m->last[i])
			add(&m->sums[i], now[i] - m->last[i]);
		m->last[i] = now[i];
	}
}

static void add_memory(struct metering *m, int64_t bytes, uint64_t passed_ns)
{
	if (bytes <= 0)
		return;
	add(&m->mib_seconds, (int64_t)((uint64_t)bytes / MIB * (passed_ns / NS_PER_MSEC) / 1000));
	if (!m->memory_min_bytes || bytes < m->memory_min_bytes)
		m->memory_min_bytes = bytes;
	m->memory_max_bytes = MAX(m->memory_max_bytes, bytes);
}

void metering_sample(struct vm *vm, const json_t *status)
{
	struct metering *m = vm->metering;
	uint64_t now = clock_now_ns();
	int64_t counters[COUNTERS];

	if (!m)
		return;
	read_counters(status, counters);
	add_counters(m, counters);
	add_memory(m,
		   json_integer_value(
		       json_object_get(json_object_get(status, "memory"), "assigned_bytes")),
		   m->sampled_ns ? now - m->sampled_ns : 0);
	m->disk_bytes =
	    MAX(m->disk_bytes, json_integer_value(json_object_get(json_object_get(status, "usage"),
								  "disk_capacity_bytes")));
	m->sampled_ns = now;
	if (now - m->saved_ns > vm->daemon->metering_save_seconds * NS_PER_SEC)
		metering_save(vm);
}

/* ---- showing ---- */

/* Of the first processor, as it is now; 0: the host does not say. */
static double host_mhz(void)
{
	FILE *file = fopen("/proc/cpuinfo", "re");
	char line[300];
	double mhz = 0;

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "cpu MHz : %lf", &mhz) == 1)
			break;
	if (file)
		fclose(file);
	return mhz;
}

static json_t *mib(int64_t bytes)
{
	return json_integer((json_int_t)((uint64_t)bytes / MIB));
}

json_t *metering_describe(const struct vm *vm)
{
	const struct metering *m = vm->metering;
	int64_t seconds = MAX(time(NULL) - m->began, 1);
	double share = (double)m->sums[CPU_NS] / (double)NS_PER_SEC / (double)seconds;

	return json_pack(
	    "{s:s, s:s, s:i, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:I}", "VMName",
	    vm->config->name, "VMId", vm->id, "AvgCPU",
	    (int)MIN(share * host_mhz(), (double)INT_MAX), "CPUSeconds",
	    (json_int_t)((uint64_t)m->sums[CPU_NS] / NS_PER_SEC), "AvgRAM",
	    (json_int_t)(m->mib_seconds / seconds), "MinRAM", mib(m->memory_min_bytes), "MaxRAM",
	    mib(m->memory_max_bytes), "TotalDisk", mib(m->disk_bytes), "NetworkInbound",
	    mib(m->sums[RECEIVED_BYTES]), "NetworkOutbound", mib(m->sums[SENT_BYTES]),
	    "AggregatedDiskDataRead", mib(m->sums[DISK_READ_BYTES]), "AggregatedDiskDataWritten",
	    mib(m->sums[DISK_WRITTEN_BYTES]), "AggregatedDiskReads",
	    (json_int_t)m->sums[DISK_READS], "AggregatedDiskWrites",
	    (json_int_t)m->sums[DISK_WRITES], "MeteringDuration", (json_int_t)seconds);
}
