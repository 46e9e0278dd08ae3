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
	struct image image;
	struct nbd_server *server;
	int signal_fd;
};

static void service_done(struct service *service)
{
	nbd_server_free(service->server);
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
	r = image_close(&service->image, NULL);
	service_done(service);
	return r;
}

static int set_up(struct service *service, int listen_fd, struct error *err)
{
	int r = sandbox_enter_working(err);

	if (r == 0)
		r = loop_new(&service->loop, err);
	if (r == 0)
		r = watch_signal(service, err);
	if (r == 0)
		r = image_open(&service->image, service->loop, service->image.fd >= 0, err);
	if (r == 0)
		r = nbd_server_new(service->loop, &service->image.disk, NULL, NULL,
				   &service->server, err);
	return r < 0 ? r : nbd_server_listen(service->server, listen_fd, err);
}

int op_serve(struct job *job, json_t **ret, struct error *err)
{
	unsigned flags = job_flag(job, "read_only") ? 0 : IMAGE_WRITES;
	struct service *service = calloc(1, sizeof(*service));
	AUTO_CLOSE int fd = job_take_fd(job, 0, err);
	const char *path;
	int r;

	if (!service)
		return error_set(err, ERR_NO_MEMORY, "no memory to serve a disk");
	service->signal_fd = service->image.fd = -1;
	r = fd < 0 ? fd : job_path(job, "path", &path, err);
	if (r == 0 && job_flag(job, "raw"))
		flags |= IMAGE_RAW;
	if (r == 0)
		r = image_find(path, flags, &service->image, err);
	if (r < 0) {
		free(service);
		return r;
	}
	r = set_up(service, TAKE_FD(fd), err);
	if (r < 0) {
		service_done(service);
		return r;
	}
	*ret = json_pack("{s:o}", "vhd", image_describe(&service->image, 0));
	job->then = serve;
	job->then_user = service;
	return 0;
}
