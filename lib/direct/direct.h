/*
 * Direct: commands and terminals in a guest over a VMBus socket, without a network. This is what
 * oyako and the agent in the guest say to each other (docs/direct.md); neither trusts the other's
 * frames.
 *
 * A frame is a header and up to DIRECT_FRAME_MAX bytes. direct_send writes one, direct_receive
 *takes bytes from a socket, and direct_next cuts frames out of them. A connection's descriptor may
 *be blocking or not. No object here belongs to a thread.
 *
 *	struct direct_reader reader = { 0 };
 *	while (direct_receive(&reader, fd) > 0)
 *		while (direct_next(&reader, &frame) > 0)
 *			...
 */
#ifndef DIRECT_DIRECT_H
#define DIRECT_DIRECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* AF_VSOCK port of the agent: "oy". */
#define DIRECT_PORT 28537u

#define DIRECT_FRAME_MAX 32768u

/* What signs a sign-in by key: namespace of `ssh-keygen -Y`. */
#define DIRECT_KEY_NAMESPACE "oyako-direct"

/* Letters on the wire. From oyako: */
enum direct_type {
	DIRECT_USER = 'U',      /* name; begins the sign-in */
	DIRECT_PASSWORD = 'P',  /* ends it */
	DIRECT_KEY = 'K',       /* nothing: asks for a challenge */
	DIRECT_SIGNATURE = 'S', /* of the challenge, as `ssh-keygen -Y sign` writes it */
	DIRECT_RUN = 'X',       /* struct direct_run, then the command; none: a login shell */
	DIRECT_INPUT = 'I',     /* no bytes: the input has ended */
	DIRECT_WINDOW = 'W',    /* struct direct_window */
	DIRECT_SIGNAL = 'G',    /* one byte: number of a signal for the command */
	/* From the agent: */
	DIRECT_HELLO = 'H',     /* its version; comes first */
	DIRECT_CHALLENGE = 'N', /* what is to be signed */
	DIRECT_WELCOME = 'O',   /* signed in */
	DIRECT_REFUSED = 'D',   /* why not; the connection ends */
	DIRECT_OUTPUT = 'o',    /* of the command */
	DIRECT_ERRORS = 'r',    /* its standard error */
	DIRECT_EXIT = 'x',      /* u32: exit status, or 128 + signal; the connection ends */
};

struct direct_window {
	uint16_t rows, columns; /* little-endian, as everything here */
} __attribute__((packed));

struct direct_run {
	uint8_t terminal; /* 1: on a terminal of that size */
	struct direct_window window;
	char term[32]; /* TERM, zero-terminated */
} __attribute__((packed));

struct direct_header {
	uint8_t type;
	uint8_t reserved[3]; /* 0 */
	uint32_t len;
} __attribute__((packed));
_Static_assert(sizeof(struct direct_header) == 8, "direct_header");

struct direct_frame {
	enum direct_type type;
	const uint8_t *data; /* valid until the next direct_receive */
	uint32_t len;
};

struct direct_reader {
	uint8_t bytes[sizeof(struct direct_header) + DIRECT_FRAME_MAX];
	uint32_t at, end;
};

/* 1: some came; 0: the other side has ended; -1: see errno (EAGAIN: nothing there). Only after
 * direct_next returned 0. */
int direct_receive(struct direct_reader *reader, int fd);
/* 1: *ret is the next frame; 0: it is not complete yet; -1: that is no frame. */
int direct_next(struct direct_reader *reader, struct direct_frame *ret);

/* Sends all of it, waiting for room as needed. False: the other side is gone. */
bool direct_send(int fd, enum direct_type type, const void *data, size_t len);
bool direct_send_text(int fd, enum direct_type type, const char *text);

#endif
