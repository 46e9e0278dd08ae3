/*
 * The service without its API, for targets that play whoever it listens to. Its folders are in one
 * of their own, in memory where that can be, which goes at the end. One thread, one loop.
 */
#ifndef FUZZ_DAEMON_H
#define FUZZ_DAEMON_H

#include "../../prog/daemon/daemon.h"
#include "../../prog/daemon/vm.h"

#include <stddef.h>
#include <stdint.h>

/* The same one each time. */
struct daemon *fuzz_daemon(void);
/* A path in its folder; "" is that folder. The caller's. */
char *fuzz_path(const char *name);
/* A machine "a" with a disk that need not be there, a DVD drive and an adapter. Borrowed. */
struct vm *fuzz_vm(void);
/* Has it forgotten, whatever became of it, with its folder. */
void fuzz_vm_end(struct vm *vm);
/* All that can be done now. */
void fuzz_settle(void);
/* Begins a cmdlet, with parameters as JSON, and checks that its answer can be written down. */
void fuzz_cmdlet(const char *name, const char *params);

/* The next line of the input, without its end; NULL: there is none. The caller's. */
char *fuzz_line(const uint8_t **data, size_t *size, size_t *ret_len);
void fuzz_write(const char *path, const void *data, size_t size);

#endif
