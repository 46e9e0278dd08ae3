/* A disk for NBD clients, until somebody says SIGTERM. */
#include "ops.h"

#include "image.h"
#include "sandbox.h"

#include "base/loop.h"
#include "base/macros.h"
#include "nbd/nbd.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

struct service {
	struct loop *loop;
	struct image image; /* that is there, or */
	struct blk *made;   /* that has just been made */
	struct blk_layers disk;
	struct nbd_server *server;
	int signal_fd;
};

static void service_done(struct service *service)
{
	nbd_server_free(service->server);
	blk_close(service->made, NULL);
	image_close(&service->image, NULL);
	loop_free(service->loop);
	if (service->signal_fd >= 0)
		close(service->signal_fd);
	free(service);
}

static void on_signal(void *user, uint32_t events)
{
	struct service *service = user;

	loop_stop(service->loop);
}

static int watch_signal(struct service *service, struct error *err)
{
	struct loop_fd *watch;
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	service->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (service->signal_fd < 0)
		return error_set_errno(err, errno, "watching signals");
	return loop_fd_add(service->loop, service->signal_fd, EPOLLIN, on_signal, service, &watch,
			   err);
}

/* After the answer. 0: all that was written is durable. */
static int serve(void *user)
{
	struct service *service = user;
	int r;

	loop_run(service->loop);
	nbd_server_free(service->server);
	service->server = NULL;
	r = service->made ? blk_close(service->made, NULL) : image_close(&service->image, NULL);
	service->made = NULL;
	service_done(service);
	return r;
}

static int open_image(struct service *service, struct error *err)
{
	struct image *image = &service->image;
	int r = image_open(image, service->loop, image->fd >= 0 ? IMAGE_WRITES : 0, err);

	if (r == 0)
		service->disk = image->disk;
	return r;
}

/* A new disk, to be filled by a client. */
static int make_disk(struct service *service, struct job *job, struct error *err)
{
	AUTO_CLOSE int fd = job_take_fd(job, 0, err);
	struct disk_options open_options = { 0 };
	struct disk_create_options options;
	int r = fd < 0 ? fd : ops_new_disk(job, &options, err);

	if (r == 0)
		r = disk_create(fd, &options, err);
	if (r < 0)
		return r;
	open_options.format = options.format;
	r = disk_open(service->loop, fd, &open_options, &service->made, err);
	if (r < 0)
		return r;
	fd = -1;
	service->disk = (struct blk_layers){ &service->made, 1 };
	return 0;
}

static int set_up(struct service *service, struct job *job, bool makes, struct error *err)
{
	int listen_fd = job_take_fd(job, makes ? 1 : 0, err);
	int r = listen_fd < 0 ? listen_fd : sandbox_enter_working(err);

	if (r == 0)
		r = loop_new(&service->loop, err);
	if (r == 0)
		r = watch_signal(service, err);
	if (r == 0)
		r = makes ? make_disk(service, job, err) : open_image(service, err);
	if (r == 0)
		r = nbd_server_new(service->loop, &service->disk, NULL, NULL, &service->server,
				   err);
	if (r == 0)
		return nbd_server_listen(service->server, listen_fd, err);
	if (listen_fd >= 0)
		close(listen_fd);
	return r;
}

static int find(struct service *service, struct job *job, struct error *err)
{
	unsigned flags = job_flag(job, "read_only") ? 0 : IMAGE_WRITES;
	const char *path;
	int r = job_path(job, "path", &path, err);

	if (job_flag(job, "raw"))
		flags |= IMAGE_RAW;
	return r < 0 ? r : image_find(path, flags, &service->image, err);
}

int op_serve(struct job *job, json_t **ret, struct error *err)
{
	bool makes = job_text(job, "format") != NULL;
	struct service *service = calloc(1, sizeof(*service));
	int r;

	if (!service)
		return error_set(err, ERR_NO_MEMORY, "no memory to serve a disk");
	service->signal_fd = service->image.fd = -1;
	r = makes ? sandbox_enter_opening(err) : find(service, job, err);
	if (r == 0)
		r = set_up(service, job, makes, err);
	if (r < 0) {
		service_done(service);
		return r;
	}
	*ret =
	    makes ? json_object() : json_pack("{s:o}", "vhd", image_describe(&service->image, 0));
	job->then = serve;
	job->then_user = service;
	return 0;
}
