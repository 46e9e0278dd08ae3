/* What a worker has left in its log (worker.log) when it has ended. Its text is untrusted: what
 * comes from here is short and printable. */
#ifndef DAEMON_WORKER_LOG_H
#define DAEMON_WORKER_LOG_H

#include <jansson.h>
#include <stddef.h>

/* Its last words: of a crash, what it was; else the last line. Empty: none. */
void worker_log_last(const char *path, char *ret, size_t size);
/* The frames of its crash report (prog/worker/crash.h), the caller's; NULL: there is none. */
json_t *worker_log_crash(const char *path);

#endif
