/*
 * The state of devices and processors: declared once, as a table of fields beside the struct, and
 * from that table saved, restored, checked and shown (docs/state.md has the pattern and the
 *format).
 *
 *	static const struct state_field pit_fields[] = {
 *		STATE(1, struct pit_state, mode, .max = 5),
 *		STATE(2, struct pit_state, since_ns, .clock = true),
 *		STATE_END
 *	};
 *	static const struct state_desc pit_desc = { "pit", sizeof(struct pit_state), pit_fields,
 *						    pit_check };
 *	state_put(out, &pit_desc, NULL, &pit->st);		saves
 *	state_get(in, &pit_desc, NULL, &st, err);		restores into a copy, which is then
 *used
 *
 * A stream names its objects, their fields and the VM configuration version that it was made for.
 *It is hostile input: nothing of it is believed before the table's bounds and the description's
 *check have seen it, and what is missing, unknown or out of bounds refuses the object by name.
 *
 * Threads: a stream belongs to its caller; tables are constant.
 */
#ifndef STATE_STATE_H
#define STATE_STATE_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* The VM configuration version that streams are written for: major << 8 | minor. */
#define STATE_VERSION 0x0100u

enum state_kind { STATE_UINT, STATE_INT, STATE_BOOL, STATE_STRUCT };

struct state_desc;

struct state_field {
	uint16_t tag; /* of this field for ever: never used again for another one. 0 ends a table */
	const char *name;
	enum state_kind kind;
	uint32_t elem_bytes; /* 1, 2, 4, 8; of a struct: its size */
	uint32_t offset;
	uint32_t count;                /* of elements in the struct */
	const struct state_desc *desc; /* STATE_STRUCT */

	uint64_t max; /* of STATE_UINT; 0: whatever fits */
	/* A moment of clock_now_ns(). In the stream: how far it is from the moment of saving. */
	bool clock;
	/* A reader that does not know the field may do without it. */
	bool optional;
	/* Configuration version that brought the field; older streams have `dflt` instead. */
	uint32_t since;
	uint64_t dflt;

	/* STATE_LIST: `offset` is of a pointer, and the count in a uint32_t. Only in the outermost
	 * struct. */
	bool list;
	uint32_t count_offset, max_count;
};

struct state_desc {
	const char *name; /* appears in streams: never changes */
	size_t size;
	const struct state_field *fields;
	/* Sees the whole decoded struct: NULL, or what is impossible about it. May be NULL. */
	const char *(*check)(const void *state);
};

/* clang-format off */
#define STATE_KIND_(x) _Generic((x), \
	bool: STATE_BOOL, bool *: STATE_BOOL, \
	int8_t: STATE_INT, int16_t: STATE_INT, int32_t: STATE_INT, int64_t: STATE_INT, \
	int64_t *: STATE_INT, default: STATE_UINT)
#define STATE_BYTES_(x) _Generic((x), \
	bool: 1, bool *: 1, int8_t: 1, uint8_t: 1, uint8_t *: 1, \
	int16_t: 2, uint16_t: 2, uint16_t *: 2, \
	int32_t: 4, uint32_t: 4, uint32_t *: 4, \
	int64_t: 8, int64_t *: 8, uint64_t: 8, uint64_t *: 8)
#define STATE_OF_(type, member) (((type *)0)->member)
/* A number, a boolean, or an array of them. */
#define STATE(tag_, type, member, ...) \
	{ .tag = (tag_), .name = #member, .kind = STATE_KIND_(STATE_OF_(type, member)), \
	  .elem_bytes = STATE_BYTES_(STATE_OF_(type, member)), .offset = offsetof(type, member), \
	  .count = sizeof(STATE_OF_(type, member)) / STATE_BYTES_(STATE_OF_(type, member)), \
	  ##__VA_ARGS__ }
/* Bytes of any shape: a GUID, a table of addresses. */
#define STATE_BYTES(tag_, type, member, ...) \
	{ .tag = (tag_), .name = #member, .kind = STATE_UINT, .elem_bytes = 1, \
	  .offset = offsetof(type, member), .count = sizeof(STATE_OF_(type, member)), ##__VA_ARGS__ }
/* A struct or an array of `count_` structs with a description of their own. */
#define STATE_PART(tag_, type, member, count_, desc_, ...) \
	{ .tag = (tag_), .name = #member, .kind = STATE_STRUCT, \
	  .elem_bytes = sizeof(STATE_OF_(type, member)) / (count_), \
	  .offset = offsetof(type, member), .count = (count_), .desc = &desc_, ##__VA_ARGS__ }
/* Pointer and count (uint32_t) of an array; decoding allocates it, state_clear frees it. */
#define STATE_LIST(tag_, type, pointer, count_, max_, ...) \
	{ .tag = (tag_), .name = #pointer, .kind = STATE_KIND_(*STATE_OF_(type, pointer)), \
	  .elem_bytes = STATE_BYTES_(*STATE_OF_(type, pointer)), .offset = offsetof(type, pointer), \
	  .list = true, .count_offset = offsetof(type, count_), .max_count = (max_), ##__VA_ARGS__ }
#define STATE_LIST_OF(tag_, type, pointer, count_, max_, desc_, ...) \
	{ .tag = (tag_), .name = #pointer, .kind = STATE_STRUCT, \
	  .elem_bytes = sizeof(*STATE_OF_(type, pointer)), .offset = offsetof(type, pointer), \
	  .desc = &desc_, .list = true, .count_offset = offsetof(type, count_), \
	  .max_count = (max_), ##__VA_ARGS__ }
#define STATE_END { .tag = 0 }
/* clang-format on */

/* Frees the lists of a decoded object. */
void state_clear(const struct state_desc *desc, void *state);

/* ---- saving ---- */

struct state_out;

/* NULL: no memory. now_ns: the clock_now_ns() that moments are told from. */
struct state_out *state_out_new(uint64_t now_ns);
void state_out_free(struct state_out *out); /* NULL allowed */
/* Adds an object. instance tells several of one description apart, and may be NULL. What goes wrong
 * is told by state_out_bytes. */
void state_put(struct state_out *out, const struct state_desc *desc, const char *instance,
	       const void *state);
/* The stream so far; borrowed until the next call. */
int state_out_bytes(struct state_out *out, const uint8_t **ret, size_t *ret_size,
		    struct error *err);

/* ---- restoring ---- */

struct state_in;

/* Reads the stream's outline; borrows bytes until state_in_free. */
int state_in_new(const uint8_t *bytes, size_t size, uint64_t now_ns, struct state_in **ret,
		 struct error *err);
void state_in_free(struct state_in *in); /* NULL allowed */
bool state_has(const struct state_in *in, const char *name, const char *instance);
/* Decodes and checks. On failure *ret holds nothing that has to be cleared. */
int state_get(struct state_in *in, const struct state_desc *desc, const char *instance, void *ret,
	      struct error *err);
/* All objects were taken? Names one that was not: the VM lacks what the state belongs to. */
int state_in_finish(const struct state_in *in, struct error *err);

/* Shows a stream, whoever wrote it, one field a line. */
int state_show(const uint8_t *bytes, size_t size, FILE *to, struct error *err);

#endif
