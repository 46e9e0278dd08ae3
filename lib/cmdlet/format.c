/* How results are shown to people: tables and lists, by the cmdlet's output description. */
#include "cmdlet/cmdlet.h"

#include "base/macros.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_COLUMNS 40
#define NARROWEST   8 /* of a column that had to be cut */

/* Characters, not bytes. */
static size_t text_width(const char *text)
{
	size_t width = 0;

	for (; *text; text++)
		width += ((unsigned char)*text & 0xc0) != 0x80;
	return width;
}

/* What came from a guest must not steer the terminal: control characters are shown as '?'. */
static void put_safe(FILE *out, const char *text)
{
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		/* 0xc2 0x80..0x9f are control characters, too */
		if (c == 0xc2 && (unsigned char)text[1] >= 0x80 && (unsigned char)text[1] < 0xa0)
			text++, c = 1;
		fputc(c < 0x20 || c == 0x7f ? '?' : c, out);
	}
}

static void put_value(FILE *out, const json_t *value)
{
	const json_t *element;
	const char *key;
	size_t i = 0;

	switch (json_typeof(value)) {
	case JSON_STRING:
		put_safe(out, json_string_value(value));
		break;
	case JSON_INTEGER:
		fprintf(out, "%lld", (long long)json_integer_value(value));
		break;
	case JSON_REAL:
		fprintf(out, "%.10g", json_real_value(value));
		break;
	case JSON_TRUE:
		fputs("True", out);
		break;
	case JSON_FALSE:
		fputs("False", out);
		break;
	case JSON_NULL:
		break;
	case JSON_ARRAY:
		fputc('{', out);
		for (i = 0; i < json_array_size(value); i++) {
			fputs(i ? ", " : "", out);
			put_value(out, json_array_get(value, i));
		}
		fputc('}', out);
		break;
	case JSON_OBJECT:
		json_object_foreach((json_t *)value, key, element)
		{
			fputs(i++ ? ", " : "", out);
			put_safe(out, key);
			fputc('=', out);
			put_value(out, element);
		}
		break;
	}
}

/* As PowerShell shows a time span: [d.]hh:mm:ss. */
static void put_duration(FILE *out, const json_t *value)
{
	unsigned long long seconds = (unsigned long long)json_number_value(value);

	if (seconds >= 86400)
		fprintf(out, "%llu.", seconds / 86400);
	fprintf(out, "%02llu:%02llu:%02llu", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
}

static char *cell_text(const struct cmdlet_column *column, const json_t *result)
{
	const json_t *value = json_object_get(result, column->key);
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	if (value && column->format == CMDLET_SHOW_MB && json_is_integer(value))
		fprintf(out, "%lld", (long long)json_integer_value(value) / (long long)MIB);
	else if (value && column->format == CMDLET_SHOW_DURATION && json_is_number(value))
		put_duration(out, value);
	else if (value)
		put_value(out, value);
	fclose(out);
	return text;
}

/* Has any result what the column shows? */
static bool is_there(const struct cmdlet_column *column, const json_t *results)
{
	if (column->format != CMDLET_SHOW_IF_THERE)
		return true;
	for (size_t i = 0; i < json_array_size(results); i++) {
		const json_t *value = json_object_get(json_array_get(results, i), column->key);

		if (value && !json_is_null(value))
			return true;
	}
	return false;
}

/* ---- tables ---- */

struct table {
	const struct cmdlet_column *columns[MAX_COLUMNS];
	size_t widths[MAX_COLUMNS];
	unsigned count;
	char **cells; /* row by row */
	size_t rows;
};

static int table_fill(struct table *table, const struct cmdlet_output *output,
		      const json_t *results)
{
	for (const struct cmdlet_column *c = output->columns; c->key; c++)
		if (c->heading && table->count < MAX_COLUMNS && is_there(c, results)) {
			table->columns[table->count] = c;
			table->widths[table->count++] = strlen(c->heading);
		}
	table->rows = json_array_size(results);
	table->cells = calloc(table->rows * table->count + 1, sizeof(char *));
	if (!table->cells)
		return -1;
	for (size_t row = 0; row < table->rows; row++)
		for (unsigned i = 0; i < table->count; i++) {
			char *text = cell_text(table->columns[i], json_array_get(results, row));

			if (!text)
				return -1;
			table->cells[row * table->count + i] = text;
			table->widths[i] = MAX(table->widths[i], text_width(text));
		}
	return 0;
}

static void table_done(struct table *table)
{
	for (size_t i = 0; table->cells && i < table->rows * table->count; i++)
		free(table->cells[i]);
	free(table->cells);
}

/* Takes from the widest column until all fit. */
static void table_narrow(struct table *table, unsigned width)
{
	for (;;) {
		size_t total = table->count - 1;
		unsigned widest = 0;

		for (unsigned i = 0; i < table->count; i++) {
			total += table->widths[i];
			if (table->widths[i] >= table->widths[widest])
				widest = i;
		}
		if (!width || total <= width || table->widths[widest] <= NARROWEST)
			return;
		table->widths[widest] -= MIN(total - width, table->widths[widest] - NARROWEST);
	}
}

static void put_cell(FILE *out, const char *text, size_t width, bool last)
{
	size_t have = text_width(text), shown = 0;
	bool cut = have > width;
	size_t limit = cut && width > 3 ? width - 3 : width;

	for (const char *p = text; *p; p++) {
		if (((unsigned char)*p & 0xc0) != 0x80 && shown++ == limit)
			break;
		fputc(*p, out);
	}
	if (cut && width > 3)
		fputs("...", out);
	for (size_t i = have; !last && i < width; i++)
		fputc(' ', out);
	fputc(last ? '\n' : ' ', out);
}

static void put_rule(FILE *out, const char *heading, bool last, size_t width)
{
	char rule[64];
	size_t len = MIN(MIN(strlen(heading), width), sizeof(rule) - 1);

	memset(rule, '-', len);
	rule[len] = '\0';
	put_cell(out, rule, width, last);
}

static void table_print(const struct table *table, FILE *out)
{
	for (unsigned i = 0; i < table->count; i++)
		put_cell(out, table->columns[i]->heading, table->widths[i], i + 1 == table->count);
	for (unsigned i = 0; i < table->count; i++)
		put_rule(out, table->columns[i]->heading, i + 1 == table->count, table->widths[i]);
	for (size_t row = 0; row < table->rows; row++)
		for (unsigned i = 0; i < table->count; i++)
			put_cell(out, table->cells[row * table->count + i], table->widths[i],
				 i + 1 == table->count);
}

char *cmdlet_format_table(const struct cmdlet_output *output, const json_t *results, unsigned width)
{
	struct table table = { .count = 0 };
	char *text = NULL;
	size_t size;
	FILE *out;

	if (json_array_size(results) == 0)
		return strdup("");
	if (table_fill(&table, output, results) < 0) {
		table_done(&table);
		return NULL;
	}
	table_narrow(&table, width);
	out = open_memstream(&text, &size);
	if (out) {
		table_print(&table, out);
		fclose(out);
	}
	table_done(&table);
	return text;
}

char *cmdlet_format_line(const struct cmdlet_output *output, const json_t *result)
{
	const char *between = "";
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	for (const struct cmdlet_column *c = output->columns; out && c->key; c++) {
		AUTO_FREE char *cell = c->heading ? cell_text(c, result) : NULL;

		if (!cell || !*cell)
			continue;
		fprintf(out, "%s%s", between, cell);
		between = "  ";
	}
	if (out) {
		fputc('\n', out);
		fclose(out);
	}
	return text;
}

/* ---- lists ---- */

static void put_list_entry(FILE *out, const struct cmdlet_output *output, const json_t *result,
			   int width)
{
	for (const struct cmdlet_column *c = output->columns; c->key; c++) {
		struct cmdlet_column column = *c;
		char *text;

		if (c->format == CMDLET_SHOW_IF_THERE && !json_object_get(result, c->key))
			continue;
		/* Lists show values as they are, but for durations. */
		if (column.format == CMDLET_SHOW_MB)
			column.format = CMDLET_SHOW_TEXT;
		text = cell_text(&column, result);
		fprintf(out, "%-*s : %s\n", width, c->key, text ? text : "");
		free(text);
	}
}

char *cmdlet_format_list(const struct cmdlet_output *output, const json_t *results)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	int width = 0;

	if (!out)
		return NULL;
	for (const struct cmdlet_column *c = output->columns; c->key; c++)
		width = MAX(width, (int)strlen(c->key));
	for (size_t i = 0; i < json_array_size(results); i++) {
		fputs(i ? "\n" : "", out);
		put_list_entry(out, output, json_array_get(results, i), width);
	}
	fclose(out);
	return text;
}
