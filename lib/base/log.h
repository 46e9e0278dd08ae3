/*
 * The log of a program: one line per event on stderr, "level: text", from any thread. Libraries
 * return errors and log only what nobody can return (guest misbehaviour, at debug or rate-limited).
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Where lines go instead of stderr; called under a lock, must not log. NULL: back to stderr. */
void log_set_sink(void (*sink)(void *user, enum log_level level, const char *text), void *user);
/* Lines above this level are dropped. The default is LOG_INFO, or what OYAKO_LOG names. */
void log_set_level(enum log_level level);
void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)

/* For events that a guest can cause at will: at most 10 lines per 5 s for each place in the code.
 */
struct log_limit {
	uint64_t window_start_ns;
	unsigned count;
};
int log_limit_allows(struct log_limit *limit);
#define log_guest(...)                                                                             \
	do {                                                                                       \
		static struct log_limit limit_;                                                    \
		if (log_limit_allows(&limit_))                                                     \
			log_write(LOG_WARN, "guest: " __VA_ARGS__);                                \
	} while (0)

#endif
