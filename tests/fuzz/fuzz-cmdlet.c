/*
 * Cmdlets from outside: the first byte chooses the cmdlet and the kind of input, the rest is a
 * request in JSON, a command line (words apart by NUL), a result that is to be shown or what a pipe
 * brings. What was accepted and checked must be accepted again, unchanged.
 */
#include "cmdlet/cmdlet.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MAX_WORDS 32

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct cmdlet *cmdlet, const json_t *request)
{
	json_t *checked, *again;
	struct error err;

	if (cmdlet_check(cmdlet, request, &checked, &err) < 0)
		return;
	if (cmdlet_check(cmdlet, checked, &again, &err) < 0 || !json_equal(checked, again))
		abort();
	json_decref(checked);
	json_decref(again);
}

static void fuzz_request(const struct cmdlet *cmdlet, const char *text, size_t len)
{
	json_t *request = json_loadb(text, len, JSON_DECODE_ANY, NULL);

	if (request)
		check(cmdlet, request);
	json_decref(request);
}

static void fuzz_words(const struct cmdlet *cmdlet, char *text, size_t len)
{
	struct cmdlet_invocation invocation;
	struct cmdlet_candidates found;
	char *words[MAX_WORDS];
	struct error err;
	int count = 0;

	for (char *word = text; word < text + len && count < MAX_WORDS; word += strlen(word) + 1)
		words[count++] = word;
	if (cmdlet_parse(cmdlet, count, words, &invocation, &err) == 0) {
		check(cmdlet, invocation.params);
		json_decref(invocation.params);
		json_decref(invocation.objects);
	}
	cmdlet_complete(count, words, &found);
	json_decref(found.words);
	if (count)
		cmdlet_suggest(words[0]);
}

static void fuzz_results(const struct cmdlet *cmdlet, const char *text, size_t len)
{
	json_t *results = json_loadb(text, len, 0, NULL);

	if (results && cmdlet->output) {
		free(cmdlet_format_table(cmdlet->output, results, 40));
		free(cmdlet_format_list(cmdlet->output, results));
	}
	json_decref(results);
}

static void fuzz_pipe(const struct cmdlet *cmdlet, const char *text)
{
	json_t *objects, *requests, *params = json_object();
	struct error err;

	if (cmdlet_read_objects(text, &objects, &err) == 0) {
		cmdlet_takes_objects(cmdlet, params);
		if (cmdlet_bind_objects(cmdlet, params, objects, &requests, &err) == 0) {
			for (size_t i = 0; i < json_array_size(requests); i++)
				check(cmdlet, json_array_get(requests, i));
			json_decref(requests);
		}
		json_decref(objects);
	}
	json_decref(params);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct cmdlet *cmdlet;
	char *text;

	if (size < 2)
		return 0;
	cmdlet = cmdlet_at(data[0]);
	text = cmdlet ? malloc(size - 1) : NULL;
	if (!text)
		return 0;
	memcpy(text, data + 2, size - 2);
	text[size - 2] = '\0';
	if (data[1] == 'p')
		fuzz_pipe(cmdlet, text);
	else if (data[1] % 3 == 0)
		fuzz_request(cmdlet, text, size - 2);
	else if (data[1] % 3 == 1)
		fuzz_words(cmdlet, text, size - 2);
	else
		fuzz_results(cmdlet, text, size - 2);
	free(text);
	return 0;
}
