#include "viewers.h"

#include "base/macros.h"
#include "ipc/ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define MAX_VIEWERS 8

struct viewer {
	struct viewers *viewers;
	int fd;
	struct loop_fd *lfd;
};

struct viewers {
	struct loop *loop;
	struct machine *machine;
	struct viewer *list[MAX_VIEWERS];
	unsigned count;
};

/* ---- viewers ---- */

static void viewer_free(struct viewer *viewer)
{
	struct viewers *viewers = viewer->viewers;

	for (unsigned i = 0; i < viewers->count; i++)
		if (viewers->list[i] == viewer)
			viewers->list[i] = viewers->list[--viewers->count];
	loop_fd_remove(viewer->lfd);
	close(viewer->fd);
	free(viewer);
}

/* It has nothing to say: this is its end. */
static void viewer_ready(void *user, uint32_t events)
{
	viewer_free(user);
}

/* One that does not keep up is cut off. */
static void tell(struct viewer *viewer, const json_t *message, const int *fd)
{
	if (ipc_send(viewer->fd, message, fd, fd ? 1 : 0, NULL) < 0)
		viewer_free(viewer);
}

static void tell_screen(struct viewer *viewer)
{
	struct machine_screen screen;
	json_t *message;

	if (machine_screen(viewer->viewers->machine, &screen, NULL) < 0) {
		message = json_pack("{s:n}", "screen");
		tell(viewer, message, NULL);
	} else {
		message = json_pack("{s:{s:i, s:i, s:i, s:I}}", "screen", "width",
				    (int)screen.width, "height", (int)screen.height, "pitch_bytes",
				    (int)screen.pitch_bytes, "offset", (json_int_t)screen.offset);
		tell(viewer, message, &screen.memory_fd);
	}
	json_decref(message);
}

void viewers_screen_changed(struct viewers *viewers)
{
	for (unsigned i = viewers->count; viewers->machine && i-- > 0;)
		tell_screen(viewers->list[i]);
}

void viewers_screen_damaged(struct viewers *viewers)
{
	struct machine_rect rects[MACHINE_MAX_DAMAGE];
	unsigned count;
	json_t *list, *message;

	if (!viewers->machine)
		return;
	count = machine_take_damage(viewers->machine, rects);
	if (!count || !viewers->count)
		return;
	list = json_array();
	for (unsigned i = 0; i < count; i++)
		json_array_append_new(list,
				      json_pack("[i, i, i, i]", (int)rects[i].x1, (int)rects[i].y1,
						(int)rects[i].x2, (int)rects[i].y2));
	message = json_pack("{s:o}", "damage", list);
	for (unsigned i = viewers->count; i-- > 0;)
		tell(viewers->list[i], message, NULL);
	json_decref(message);
}

static int watch(struct viewers *viewers, const json_t *request, int *fd, struct error *err)
{
	struct viewer *viewer;
	int r;

	if (*fd < 0)
		return error_set(err, ERR_INVALID, "a viewer comes without its socket");
	if (viewers->count == MAX_VIEWERS)
		return error_set(err, ERR_LIMIT, "there are %d viewers already", MAX_VIEWERS);
	viewer = calloc(1, sizeof(*viewer));
	if (!viewer)
		return error_set(err, ERR_NO_MEMORY, "no memory for a viewer");
	viewer->viewers = viewers;
	r = loop_fd_add(viewers->loop, *fd, EPOLLIN, viewer_ready, viewer, &viewer->lfd, err);
	if (r < 0) {
		free(viewer);
		return r;
	}
	viewer->fd = TAKE_FD(*fd);
	fcntl(viewer->fd, F_SETFL, O_NONBLOCK);
	viewers->list[viewers->count++] = viewer;
	tell_screen(viewer);
	return 0;
}

/* ---- screenshots ---- */

struct png_output {
	int fd;
	int os_errno;
};

static void write_png(png_structp png, png_bytep data, png_size_t len)
{
	struct png_output *output = png_get_io_ptr(png);

	while (len) {
		ssize_t n = write(output->fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			output->os_errno = n < 0 ? errno : EIO;
			png_error(png, "write");
		}
		data += n;
		len -= (size_t)n;
	}
}

static void flush_png(png_structp png)
{
}

static void fail_png(png_structp png, png_const_charp text)
{
	longjmp(png_jmpbuf(png), 1);
}

static void warn_png(png_structp png, png_const_charp text)
{
}

/* XRGB in memory order to three bytes. */
static void convert_row(const uint8_t *from, uint8_t *to, unsigned width)
{
	for (unsigned x = 0; x < width; x++, from += 4, to += 3) {
		to[0] = from[2];
		to[1] = from[1];
		to[2] = from[0];
	}
}

static bool encode(png_structp png, png_infop info, const struct machine_screen *screen,
		   uint8_t *row, struct png_output *output)
{
	if (setjmp(png_jmpbuf(png)))
		return false;
	png_set_write_fn(png, output, write_png, flush_png);
	png_set_IHDR(png, info, screen->width, screen->height, 8, PNG_COLOR_TYPE_RGB,
		     PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
	png_set_compression_level(png, 1);
	png_write_info(png, info);
	for (unsigned y = 0; y < screen->height; y++) {
		convert_row(screen->pixels + (size_t)y * screen->pitch_bytes, row, screen->width);
		png_write_row(png, row);
	}
	png_write_end(png, info);
	return true;
}

static int write_screen(const struct machine_screen *screen, int fd, struct error *err)
{
	struct png_output output = { .fd = fd };
	AUTO_FREE uint8_t *row = malloc((size_t)screen->width * 3);
	png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, fail_png, warn_png);
	png_infop info = png ? png_create_info_struct(png) : NULL;
	bool ok = row && info && encode(png, info, screen, row, &output);

	png_destroy_write_struct(&png, &info);
	if (ok)
		return 0;
	if (output.os_errno)
		return error_set_errno(err, output.os_errno, "writing the picture");
	return error_set(err, ERR_NO_MEMORY, "no memory to encode the picture");
}

static int screenshot(struct viewers *viewers, const json_t *request, int *fd, struct error *err)
{
	struct machine_screen screen;
	int r = machine_screen(viewers->machine, &screen, err);

	if (r == 0 && *fd < 0)
		r = error_set(err, ERR_INVALID, "a screenshot needs a file");
	return r < 0 ? r : write_screen(&screen, *fd, err);
}

/* ---- keyboard and mouse ---- */

static int type_text(struct viewers *viewers, const json_t *request, int *fd, struct error *err)
{
	const char *text = json_string_value(json_object_get(request, "text"));

	return machine_type(viewers->machine, text ? text : "", err);
}

static int press_keys(struct viewers *viewers, const json_t *request, int *fd, struct error *err)
{
	const json_t *list = json_object_get(request, "keys");
	int r = 0;

	for (size_t i = 0; r == 0 && i < json_array_size(list); i++) {
		const char *keys = json_string_value(json_array_get(list, i));

		r = machine_press(viewers->machine, keys ? keys : "", err);
	}
	return r;
}

static unsigned get_unsigned(const json_t *request, const char *name)
{
	json_int_t value = json_integer_value(json_object_get(request, name));

	return value < 0 ? 0 : (unsigned)MIN(value, (json_int_t)65535);
}

static int point(struct viewers *viewers, const json_t *request, int *fd, struct error *err)
{
	json_int_t wheel = json_integer_value(json_object_get(request, "wheel"));

	return machine_point(viewers->machine, get_unsigned(request, "x"),
			     get_unsigned(request, "y"), get_unsigned(request, "buttons"),
			     (int)MAX(MIN(wheel, (json_int_t)32767), (json_int_t)-32767), err);
}

/* ---- operations ---- */

typedef int (*operation)(struct viewers *viewers, const json_t *request, int *fd,
			 struct error *err);

static const struct {
	const char *name;
	operation run;
} operations[] = {
	{ "type-text", type_text },   { "press-keys", press_keys }, { "point", point },
	{ "screenshot", screenshot }, { "watch-display", watch },
};

static operation find(const char *op)
{
	for (size_t i = 0; i < ARRAY_SIZE(operations); i++)
		if (strcmp(operations[i].name, op) == 0)
			return operations[i].run;
	return NULL;
}

bool viewers_knows(const char *op)
{
	return find(op) != NULL;
}

int viewers_run(struct viewers *viewers, const char *op, const json_t *request, int *fd,
		struct error *err)
{
	return find(op)(viewers, request, fd, err);
}

int viewers_new(struct loop *loop, struct viewers **ret, struct error *err)
{
	struct viewers *viewers = calloc(1, sizeof(*viewers));

	if (!viewers)
		return error_set(err, ERR_NO_MEMORY, "no memory for viewers");
	viewers->loop = loop;
	*ret = viewers;
	return 0;
}

void viewers_free(struct viewers *viewers)
{
	if (!viewers)
		return;
	while (viewers->count)
		viewer_free(viewers->list[0]);
	free(viewers);
}

void viewers_set_machine(struct viewers *viewers, struct machine *machine)
{
	viewers->machine = machine;
}
