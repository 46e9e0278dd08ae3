/*
 * What the control socket knows of keyboard, mouse and screen: typing, screenshots, and viewers
 * that get the screen's memory and are told what is drawn (docs/worker-protocol.md). Belongs to the
 * loop.
 */
#ifndef WORKER_VIEWERS_H
#define WORKER_VIEWERS_H

#include "base/error.h"
#include "base/loop.h"
#include "machine/machine.h"

#include <jansson.h>

struct viewers;

int viewers_new(struct loop *loop, struct viewers **ret, struct error *err);
void viewers_free(struct viewers *viewers); /* NULL allowed */
void viewers_set_machine(struct viewers *viewers, struct machine *machine);
/* Events of the machine. */
void viewers_screen_changed(struct viewers *viewers);
void viewers_screen_damaged(struct viewers *viewers);

bool viewers_knows(const char *op);
/* As devices_run (devices.h). */
int viewers_run(struct viewers *viewers, const char *op, const json_t *request, int *fd,
		struct error *err);

#endif
