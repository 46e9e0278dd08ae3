/*
 * Runs a fuzz target without libFuzzer: over every file of the folders named on the command line
 * (a missing folder is an empty one), over the empty input, and over some thousand pseudo-random
 * inputs from a fixed seed, so that each normal test run exercises the target.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_FILE_BYTES  (1u << 20)
#define RANDOM_INPUTS   2000
#define RANDOM_MAX_SIZE 4096

static uint64_t random_state = 0x9e3779b97f4a7c15u;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static int replay_file(const char *path)
{
	uint8_t *data = malloc(MAX_FILE_BYTES);
	FILE *f = fopen(path, "rb");
	size_t size;

	if (!f || !data) {
		fprintf(stderr, "cannot read %s\n", path);
		exit(1);
	}
	size = fread(data, 1, MAX_FILE_BYTES, f);
	fclose(f);
	/* An exact-size copy, so that the sanitizer sees a read past the end. */
	data = realloc(data, size ? size : 1);
	LLVMFuzzerTestOneInput(data, size);
	free(data);
	return 1;
}

static unsigned replay_folder(const char *folder)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;
	unsigned count = 0;
	char path[4096];

	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		count += (unsigned)replay_file(path);
	}
	if (dir)
		closedir(dir);
	return count;
}

static void replay_random(void)
{
	for (unsigned i = 0; i < RANDOM_INPUTS; i++) {
		size_t size = next_random() % RANDOM_MAX_SIZE;
		uint8_t *data = malloc(size ? size : 1);

		/* Small values are more telling than noise in length and type fields. */
		for (size_t k = 0; k < size; k++)
			data[k] = (uint8_t)(next_random() & (i % 2 ? 0xff : 0x07));
		LLVMFuzzerTestOneInput(data, size);
		free(data);
	}
}

int main(int argc, char **argv)
{
	unsigned count = 0;

	for (int i = 1; i < argc; i++)
		count += replay_folder(argv[i]);
	LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
	replay_random();
	printf("%u files and %u random inputs replayed\n", count, RANDOM_INPUTS);
	return 0;
}
