/*
 * What the exec-dynamic part runs: a small program as most are, position-independent and linked
 * to shared libraries, each time at other addresses. It does what such programs do when they begin.
 */
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

int main(int argc, char **argv)
{
	static char words[64][16];
	char *sorted[64];
	double sum = 0;

	setlocale(LC_ALL, "");
	for (unsigned i = 0; i < 64; i++) {
		snprintf(words[i], sizeof(words[i]), "%u-%s", i * 7919 % 101, argv[0] + argc - 1);
		sorted[i] = words[i];
	}
	qsort(sorted, 64, sizeof(sorted[0]), compare);
	for (unsigned i = 0; i < 64; i++)
		sum += cbrt(strtod(sorted[i], NULL));
	return sum > 0 ? 7 : 8;
}
