#include "base/log.h"

#include "base/clock.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const level_names[] = { "error", "warning", "info", "debug" };
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static void (*log_sink)(void *user, enum log_level level, const char *text);
static void *log_sink_user;
static int log_max_level = -1;

static int max_level(void)
{
	int level = __atomic_load_n(&log_max_level, __ATOMIC_RELAXED);
	const char *name;

	if (level >= 0)
		return level;
	level = LOG_INFO;
	name = getenv("OYAKO_LOG");
	for (int i = 0; name && i <= LOG_DEBUG; i++)
		if (strcmp(name, level_names[i]) == 0)
			level = i;
	__atomic_store_n(&log_max_level, level, __ATOMIC_RELAXED);
	return level;
}

void log_set_sink(void (*sink)(void *user, enum log_level level, const char *text), void *user)
{
	pthread_mutex_lock(&log_lock);
	log_sink = sink;
	log_sink_user = user;
	pthread_mutex_unlock(&log_lock);
}

void log_set_level(enum log_level level)
{
	__atomic_store_n(&log_max_level, (int)level, __ATOMIC_RELAXED);
}

void log_write(enum log_level level, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	if ((int)level > max_level())
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	pthread_mutex_lock(&log_lock);
	if (log_sink)
		log_sink(log_sink_user, level, text);
	else
		fprintf(stderr, "%s: %s\n", level_names[level], text);
	pthread_mutex_unlock(&log_lock);
}

int log_limit_allows(struct log_limit *limit)
{
	uint64_t now = clock_now_ns();
	int allowed;

	pthread_mutex_lock(&log_lock);
	if (limit->window_start_ns == 0 || now - limit->window_start_ns > 5 * NS_PER_SEC) {
		limit->window_start_ns = now;
		limit->count = 0;
	}
	allowed = limit->count++ < 10;
	pthread_mutex_unlock(&log_lock);
	return allowed;
}
