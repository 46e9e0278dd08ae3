/* A line of the shell as words. */
#include "cmdlet/cmdlet.h"

#include "base/macros.h"

#include <stdlib.h>
#include <string.h>

#define MAX_WORDS 4096

/* Takes one word, without its quotes, from *line to ret; false: a quote is not closed. Inside '...'
 * everything is itself, inside "..." all but \ before " and \; outside a \ takes the next one. */
static bool take_word(const char **line, char *ret)
{
	const char *p = *line;
	char quote = '\0';

	while (*p && (quote || (*p != ' ' && *p != '\t'))) {
		if (quote && *p == quote) {
			quote = '\0';
		} else if (!quote && (*p == '\'' || *p == '"')) {
			quote = *p;
		} else {
			if (*p == '\\' && p[1] &&
			    (!quote || (quote == '"' && strchr("\"\\", p[1]))))
				p++;
			*ret++ = *p;
		}
		p++;
	}
	*ret = '\0';
	*line = p;
	return !quote;
}

void cmdlet_free_words(char **words, int first)
{
	for (int i = first; words && words[i]; i++)
		free(words[i]);
	free(words);
}

int cmdlet_split_line(const char *line, int before, int behind, char ***ret, int *ret_count,
		      struct error *err)
{
	AUTO_FREE char *word = malloc(strlen(line) + 1);
	char **words = calloc((size_t)(before + MAX_WORDS + behind + 1), sizeof(*words));
	int count = 0, r = 0;

	if (!word || !words)
		abort();
	while (r == 0 && *(line += strspn(line, " \t"))) {
		if (count >= MAX_WORDS)
			r = error_set(err, ERR_LIMIT, "more than %d words", MAX_WORDS);
		else if (!take_word(&line, word))
			r = error_set(err, ERR_INVALID, "a quote is not closed");
		else
			words[before + count++] = strdup(word);
	}
	if (r < 0) {
		for (int i = 0; i < count; i++)
			free(words[before + i]);
		free(words);
		return r;
	}
	*ret = words;
	*ret_count = count;
	return 0;
}

/* How long the line is up to a '|' outside of quotes, or its end; quotes as take_word has them. */
static size_t part_length(const char *line)
{
	char quote = '\0';
	size_t len = 0;

	for (; line[len] && (quote || line[len] != '|'); len++) {
		if (quote && line[len] == quote)
			quote = '\0';
		else if (!quote && (line[len] == '\'' || line[len] == '"'))
			quote = line[len];
		else if (line[len] == '\\' && quote != '\'' && line[len + 1])
			len++;
	}
	return len;
}

char **cmdlet_split_pipe(const char *line)
{
	size_t count = 2, n = 0;
	char **parts;

	for (const char *p = line; *p; p++)
		count += *p == '|';
	parts = calloc(count, sizeof(*parts));
	if (!parts)
		abort();
	for (;;) {
		size_t len = part_length(line);

		parts[n] = strndup(line, len);
		if (!parts[n++])
			abort();
		if (!line[len])
			return parts;
		line += len + 1;
	}
}
