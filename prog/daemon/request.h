/*
 * One cmdlet that is being carried out: its checked parameters, what it has found, and whether it
 * is still at it. A cmdlet works on several objects and may fail for some of them: results and
 * errors are both lists.
 *
 * A cmdlet's function returns at once. What it waits for holds the request (request_hold) until the
 * callback lets it go (request_release); when nobody holds it any more, it is done. A request that
 * is done is kept for some minutes, so that whoever asked can fetch the end of it.
 */
#ifndef DAEMON_REQUEST_H
#define DAEMON_REQUEST_H

#include "access/access.h"
#include "cmdlet/cmdlet.h"
#include "daemon.h"
#include "vm.h"

#include <jansson.h>

struct request {
	struct daemon *daemon;
	unsigned id;
	const struct cmdlet *cmdlet;
	json_t *params;
	json_t *results, *errors;
	unsigned holds;
	bool done, cancelled, fetched;
	unsigned version; /* counts changes of progress and done */
	json_t *progress; /* {"activity", "object"}; NULL: none yet */
	uint64_t begun_ns, done_ns;
	bool kept; /* after its end, until Remove-Job: -AsJob */
	/* Whom to tell of changes; set by the server. */
	void (*changed)(void *user, struct request *request);
	void *user;
	void *context; /* of the cmdlet's function */
	/* What cancelling does besides ending the waits for VMs; the cmdlet's. May be NULL. */
	void (*cancel)(struct request *request);
	char owner[ACCESS_NAME_MAX + 1];   /* the user of the API; empty: somebody on this host */
	const struct access_user *visitor; /* the same, while the cmdlet's function runs; or NULL */
	struct request *next;
};

int requests_new(struct daemon *daemon, struct requests **ret, struct error *err);
void requests_free(struct requests *requests);
/* Are there any at work? */
bool requests_busy(const struct requests *requests);

/* Checks and begins; the result is borrowed from the requests. An error here is one of the request
 * as a whole: nothing was done. user: who asks; NULL: somebody on this host, who may do all. */
int request_begin(struct daemon *daemon, const struct access_user *user, const char *cmdlet,
		  const json_t *params, struct request **ret, struct error *err);
/* The one that was begun before; NULL: that was the oldest. */
struct request *request_older(const struct request *request);
/* Keeps it after its end for whoever asks for it later. */
void request_keep(struct request *request);
/* Takes what it found: it is not kept for another. */
void request_receive(struct request *request);
/* Are there any that ended and that nobody has looked at yet? */
bool requests_unseen(const struct requests *requests);
/* May the user look at it and end it? */
bool request_is_of(const struct request *request, const struct access_user *user);
/* May it know of the VM? One who has only consoles may of those. */
bool request_may_see(const struct access_user *user, const struct vm *vm);
struct request *request_find(struct daemon *daemon, unsigned id);
/* Ends the waiting with ERR_CANCELLED. What was begun goes on, but for jobs on disk images. */
void request_cancel(struct request *request);
/* The answer: {"results":[...],"errors":[...]} or, while at work, {"progress":...}. */
json_t *request_describe(const struct request *request);

void request_hold(struct request *request);
void request_release(struct request *request);
/* Takes object. */
void request_result(struct request *request, json_t *object);
/* object: what the error is about, or NULL. */
void request_error(struct request *request, const char *object, const struct error *err);
void request_progress(struct request *request, const char *object, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- parameters; those of the table, so the types are right ---- */

const char *request_string(const struct request *request, const char *name); /* or NULL */
bool request_switch(const struct request *request, const char *name);
/* dflt where it is not given */
int64_t request_integer(const struct request *request, const char *name, int64_t dflt);
/* Calls each VM that a list of names and patterns selects, once; adds an error for a name (not a
 * pattern) that is nobody's. */
void request_for_vms(struct request *request, const char *name,
		     void (*work)(struct request *request, struct vm *vm));

/* A request has ended; cmdlets-job.c. */
void jobs_one_ended(struct daemon *daemon);

/* The function of a cmdlet; cmdlets.c. */
typedef void (*request_run)(struct request *request);
request_run cmdlets_find(const char *name);

#endif
