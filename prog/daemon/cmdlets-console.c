/* Cmdlets about a virtual machine's screen, keyboard and mouse. */
#include "cmdlets.h"

#include "base/clock.h"
#include "base/macros.h"
#include "objects.h"
#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REQUEST_TIMEOUT_NS (10 * NS_PER_SEC)

/* ---- settings ---- */

static void show_video(struct request *request, struct vm *vm)
{
	request_result(request, object_video(vm));
}

void cmdlet_get_video(struct request *request)
{
	cmdlets_show_settings(request, show_video);
}

static int mutate_video(struct request *request, struct config_vm *config, struct error *err)
{
	const char *type = request_string(request, "ResolutionType");
	struct config_video *video = &config->video;

	if (type)
		config_video_type_from_name(type, &video->type);
	if (json_object_get(request->params, "Enabled"))
		video->enabled = json_is_true(json_object_get(request->params, "Enabled"));
	video->width = (unsigned)request_integer(request, "HorizontalResolution", video->width);
	video->height = (unsigned)request_integer(request, "VerticalResolution", video->height);
	if (type && video->type == CONFIG_VIDEO_DEFAULT) {
		video->width = CONFIG_VIDEO_WIDTH;
		video->height = CONFIG_VIDEO_HEIGHT;
	}
	return 0;
}

static void set_video(struct request *request, struct vm *vm)
{
	if (cmdlets_change(request, vm, true, mutate_video))
		show_video(request, vm);
}

void cmdlet_set_video(struct request *request)
{
	request_for_vms(request, "VMName", set_video);
}

static int mutate_console(struct request *request, struct config_vm *config, struct error *err)
{
	config->video.enabled = strncmp(request->cmdlet->name, "Enable", 6) == 0;
	return 0;
}

static void set_console(struct request *request, struct vm *vm)
{
	if (cmdlets_change(request, vm, true, mutate_console))
		request_result(request, object_vm(vm));
}

void cmdlet_enable_console(struct request *request)
{
	request_for_vms(request, "VMName", set_console);
}

void cmdlet_disable_console(struct request *request)
{
	request_for_vms(request, "VMName", set_console);
}

/* ---- requests to the worker ---- */

struct ask {
	struct request *request;
	struct vm *vm;
	json_t *result; /* shown at the end; NULL: nothing */
	char *path;     /* removed if it fails; or NULL */
};

static void ask_answered(void *user, const json_t *reply, const struct error *err)
{
	struct ask *ask = user;

	if (err)
		request_error(ask->request, ask->vm->config->name, err);
	else if (ask->result)
		request_result(ask->request, json_incref(ask->result));
	if (err && ask->path)
		unlink(ask->path);
	request_release(ask->request);
	vm_unref(ask->vm);
	json_decref(ask->result);
	free(ask->path);
	free(ask);
}

/* Takes message and result; borrows fd. */
static void ask_worker(struct request *request, struct vm *vm, json_t *message, int fd,
		       json_t *result, const char *path)
{
	struct ask *ask = calloc(1, sizeof(*ask));

	if (!ask)
		abort();
	*ask = (struct ask){ request, vm_ref(vm), result, path ? strdup(path) : NULL };
	request_hold(request);
	run_request_fd(vm, message, fd, REQUEST_TIMEOUT_NS, ask_answered, ask);
}

static void send_text(struct request *request, struct vm *vm)
{
	AUTO_FREE char *text = NULL;

	if (asprintf(&text, "%s%s", request_string(request, "Text"),
		     request_switch(request, "Enter") ? "\n" : "") < 0)
		abort();
	ask_worker(request, vm, json_pack("{s:s, s:s}", "op", "type-text", "text", text), -1, NULL,
		   NULL);
}

void cmdlet_send_text(struct request *request)
{
	request_for_vms(request, "VMName", send_text);
}

static void send_key(struct request *request, struct vm *vm)
{
	ask_worker(request, vm,
		   json_pack("{s:s, s:O}", "op", "press-keys", "keys",
			     json_object_get(request->params, "Key")),
		   -1, NULL, NULL);
}

void cmdlet_send_key(struct request *request)
{
	request_for_vms(request, "VMName", send_key);
}

static unsigned button_bit(const char *name)
{
	if (!name)
		return 0;
	return strcmp(name, "Left") == 0 ? 1 : strcmp(name, "Right") == 0 ? 2 : 4;
}

static void point(struct request *request, struct vm *vm, unsigned buttons, int wheel)
{
	ask_worker(request, vm,
		   json_pack("{s:s, s:i, s:i, s:i, s:i}", "op", "point", "x",
			     (int)request_integer(request, "X", 0), "y",
			     (int)request_integer(request, "Y", 0), "buttons", (int)buttons,
			     "wheel", wheel),
		   -1, NULL, NULL);
}

/* There; with the button down; with it up again. */
static void send_mouse(struct request *request, struct vm *vm)
{
	unsigned buttons = button_bit(request_string(request, "Button"));

	point(request, vm, 0, (int)request_integer(request, "Wheel", 0));
	if (!buttons)
		return;
	point(request, vm, buttons, 0);
	point(request, vm, 0, 0);
}

void cmdlet_send_mouse(struct request *request)
{
	request_for_vms(request, "VMName", send_mouse);
}

static void save_screenshot(struct request *request, struct vm *vm)
{
	const char *path = request_string(request, "Path");
	int existing = request_switch(request, "Force") ? O_TRUNC : O_EXCL;
	AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | existing, 0666);
	struct error err;

	if (fd < 0) {
		error_set_errno(&err, errno, "the file '%.300s'", path);
		request_error(request, vm->config->name, &err);
		return;
	}
	ask_worker(request, vm, json_pack("{s:s}", "op", "screenshot"), fd,
		   json_pack("{s:s, s:s}", "VMName", vm->config->name, "Path", path), path);
}

void cmdlet_save_screenshot(struct request *request)
{
	request_for_vms(request, "VMName", save_screenshot);
}
