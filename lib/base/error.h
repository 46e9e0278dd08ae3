/*
 * One error type for the whole project: a code that a caller can act on, and a text for people
 * that names the object, the operation and the cause.
 *
 * A function that can fail returns 0, or a negative enum err_code, and takes `struct error *err` as
 * its last parameter; err may be NULL. Outputs are written only on success. The place that finds
 *the fault states it (error_set); each level above may add one phrase of context (error_prefix):
 *
 *	if (vhdx_open(fd, &disk, err) < 0)
 *		return error_prefix(err, "disk '%s'", name);
 *
 * The text is UTF-8, also where it was cut or names a file that is not: it goes into JSON.
 *
 * Guest misbehaviour is not an error of ours: answer it as the hardware or the protocol would.
 */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

enum err_code {
	ERR_OK = 0,
	ERR_INVALID,     /* an argument or a file says something impossible  */
	ERR_NOT_FOUND,   /* the named object does not exist                  */
	ERR_EXISTS,      /* the named object exists already                  */
	ERR_BUSY,        /* in use by somebody else                          */
	ERR_DENIED,      /* not permitted                                    */
	ERR_UNSUPPORTED, /* valid, but not there on this host or not yet     */
	ERR_CORRUPT,     /* data on disk or on the wire is damaged           */
	ERR_NO_SPACE,    /* the host's disk or a quota is full               */
	ERR_IO,          /* the host failed to read or write                 */
	ERR_NO_MEMORY,   /* the host has no memory for it                    */
	ERR_LIMIT,       /* a documented limit would be passed               */
	ERR_TIMEOUT,     /* no answer in time                                */
	ERR_STATE,       /* not possible in the object's present state       */
	ERR_CANCELLED,   /* ended on request                                 */
	ERR_INTERNAL,    /* a defect of ours                                 */
	ERR_COUNT
};

struct error {
	enum err_code code;
	int os_errno; /* 0 where no system call failed */
	char text[512];
};

/* Each returns -code, so that `return error_set(...)` reads well. */
int error_set(struct error *err, enum err_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* As error_set, with the code derived from os_errno (positive) and ": strerror" appended. */
int error_set_errno(struct error *err, int os_errno, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Puts "phrase: " before the text; returns -err->code (-ERR_INTERNAL for a NULL err). */
int error_prefix(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* "invalid", "not-found", ...: stable words for JSON and logs. */
const char *err_code_name(enum err_code code);
/* The code of that name, or ERR_INTERNAL. */
enum err_code err_code_from_name(const char *name);

#endif
