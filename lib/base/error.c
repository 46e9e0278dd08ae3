#include "base/error.h"

#include "base/text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const code_names[ERR_COUNT] = {
	[ERR_OK] = "ok",
	[ERR_INVALID] = "invalid",
	[ERR_NOT_FOUND] = "not-found",
	[ERR_EXISTS] = "exists",
	[ERR_BUSY] = "busy",
	[ERR_DENIED] = "denied",
	[ERR_UNSUPPORTED] = "unsupported",
	[ERR_CORRUPT] = "corrupt",
	[ERR_NO_SPACE] = "no-space",
	[ERR_IO] = "io",
	[ERR_NO_MEMORY] = "no-memory",
	[ERR_LIMIT] = "limit",
	[ERR_TIMEOUT] = "timeout",
	[ERR_STATE] = "state",
	[ERR_CANCELLED] = "cancelled",
	[ERR_INTERNAL] = "internal",
};

static enum err_code code_of_errno(int os_errno)
{
	switch (os_errno) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		return ERR_NOT_FOUND;
	case EEXIST:
		return ERR_EXISTS;
	case EBUSY:
	case EAGAIN:
	case ETXTBSY:
		return ERR_BUSY;
	case EACCES:
	case EPERM:
	case EROFS:
		return ERR_DENIED;
	case ENOSYS:
	case EOPNOTSUPP:
		return ERR_UNSUPPORTED;
	case ENOSPC:
	case EDQUOT:
		return ERR_NO_SPACE;
	case ENOMEM:
		return ERR_NO_MEMORY;
	case EMFILE:
	case ENFILE:
		return ERR_LIMIT;
	case ETIMEDOUT:
		return ERR_TIMEOUT;
	case EINVAL:
	case ENAMETOOLONG:
	case ENOTDIR:
	case EISDIR:
		return ERR_INVALID;
	default:
		return ERR_IO;
	}
}

int error_set(struct error *err, enum err_code code, const char *fmt, ...)
{
	va_list ap;

	if (err) {
		err->code = code;
		err->os_errno = 0;
		va_start(ap, fmt);
		vsnprintf(err->text, sizeof(err->text), fmt, ap);
		va_end(ap);
		text_mend(err->text);
	}
	return -(int)code;
}

int error_set_errno(struct error *err, int os_errno, const char *fmt, ...)
{
	enum err_code code = code_of_errno(os_errno);
	char reason[128];
	va_list ap;

	if (err) {
		char text[sizeof(err->text)];

		va_start(ap, fmt);
		vsnprintf(text, sizeof(text), fmt, ap);
		va_end(ap);
		err->code = code;
		err->os_errno = os_errno;
		snprintf(err->text, sizeof(err->text), "%.380s: %s", text,
			 strerror_r(os_errno, reason, sizeof(reason)));
		text_mend(err->text);
	}
	return -(int)code;
}

int error_prefix(struct error *err, const char *fmt, ...)
{
	char phrase[200], old[sizeof(err->text)];
	va_list ap;

	if (!err)
		return -ERR_INTERNAL;
	va_start(ap, fmt);
	vsnprintf(phrase, sizeof(phrase), fmt, ap);
	va_end(ap);
	memcpy(old, err->text, sizeof(old));
	snprintf(err->text, sizeof(err->text), "%s: %.300s", phrase, old);
	text_mend(err->text);
	return -(int)err->code;
}

const char *err_code_name(enum err_code code)
{
	return (unsigned)code < ERR_COUNT ? code_names[code] : "internal";
}

enum err_code err_code_from_name(const char *name)
{
	for (int i = 0; i < ERR_COUNT; i++)
		if (strcmp(code_names[i], name) == 0)
			return (enum err_code)i;
	return ERR_INTERNAL;
}
