/* Invoke-Command and Enter-PSSession; who signs in. */
#include "direct.h"

#include "base/macros.h"
#include "base/text.h"
#include "direct/direct.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>

#define MAX_PASSWORD 1024
/* What a command says is kept for --json. */
#define MAX_KEPT (16 * MIB)

int direct_complain(const char *vm, const struct error *err)
{
	fprintf(stderr, "oyako: %s%s%s\n", vm ? vm : "", vm ? ": " : "", err->text);
	return DIRECT_FAILED;
}

char *direct_quote(const char *text)
{
	char *quoted = malloc(4 * strlen(text) + 3), *p = quoted;

	if (!quoted)
		abort();
	*p++ = '\'';
	for (; *text; text++) {
		if (*text == '\'')
			p = stpcpy(p, "'\\''");
		else
			*p++ = *text;
	}
	*p++ = '\'';
	*p = '\0';
	return quoted;
}

const char *direct_text(const json_t *object, const char *name)
{
	return json_string_value(json_object_get(object, name));
}

/* ---- who signs in ---- */

static int read_password_file(const char *path, char **ret, struct error *err)
{
	char text[MAX_PASSWORD + 1] = "";
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, MAX_PASSWORD);

	if (n < 0)
		return error_set_errno(err, errno, "the password file '%.200s'", path);
	text[strcspn(text, "\r\n")] = '\0';
	*ret = strdup(text);
	explicit_bzero(text, sizeof(text));
	return 0;
}

/* The prompt comes when the terminal is silent, so that nothing that is typed then is shown or
 * lost; ^C ends the line, so that the terminal is never left so. */
static int ask_password(const char *user, char **ret, struct error *err)
{
	AUTO_CLOSE int fd = open("/dev/tty", O_RDWR | O_CLOEXEC);
	struct termios saved, silent;
	char text[MAX_PASSWORD + 1] = "";
	ssize_t n;

	if (fd < 0 || tcgetattr(fd, &saved) < 0)
		return error_set(err, ERR_INVALID,
				 "a password is needed: give -PasswordFilePath or -KeyFilePath, or "
				 "run this on a terminal");
	silent = saved;
	silent.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
	silent.c_cc[VEOL] = saved.c_cc[VINTR];
	tcsetattr(fd, TCSAFLUSH, &silent);
	dprintf(fd, "Password of %s: ", user);
	n = read(fd, text, MAX_PASSWORD);
	tcsetattr(fd, TCSADRAIN, &saved);
	dprintf(fd, "\n");
	if (n <= 0 || text[n - 1] == (char)saved.c_cc[VINTR])
		return error_set(err, ERR_CANCELLED, "no password was given");
	text[strcspn(text, "\r\n")] = '\0';
	*ret = strdup(text);
	explicit_bzero(text, sizeof(text));
	return 0;
}

static enum direct_transport transport_of(const char *name)
{
	if (name && strcmp(name, "Agent") == 0)
		return DIRECT_AGENT;
	return name && strcmp(name, "SSH") == 0 ? DIRECT_SSH : DIRECT_AUTO;
}

int direct_take_credential(const json_t *params, struct direct_credential *ret, struct error *err)
{
	const char *user = direct_text(params, "Credential"),
		   *file = direct_text(params, "PasswordFilePath");
	int r = 0;

	*ret = (struct direct_credential){ .user = user ? user : "root",
					   .key_file = direct_text(params, "KeyFilePath"),
					   .transport =
					       transport_of(direct_text(params, "Transport")) };
	if (file)
		r = read_password_file(file, &ret->password, err);
	else if (!ret->key_file && ret->transport != DIRECT_SSH)
		r = ask_password(ret->user, &ret->password, err);
	if (r == 0 && ret->password && !*ret->password)
		return error_set(err, ERR_DENIED, "an empty password signs nobody in");
	return r;
}

void direct_forget_credential(struct direct_credential *credential)
{
	if (!credential->password)
		return;
	explicit_bzero(credential->password, strlen(credential->password));
	free(TAKE(credential->password));
}

/* ---- one command ---- */

static json_t *find_vm(struct client *client, const json_t *names, json_t **ret_answer,
		       struct error *err)
{
	json_t *params = json_pack("{s:O}", "Name", names);
	int r = client_run(client, "Get-VM", params, NULL, NULL, NULL, ret_answer, err);

	json_decref(params);
	return r < 0 ? NULL : json_object_get(*ret_answer, "results");
}

static int find_id(struct client *client, const char *vm, char **ret, struct error *err)
{
	json_t *names = json_pack("[s]", vm), *answer = NULL;
	json_t *list = find_vm(client, names, &answer, err);
	const char *id = direct_text(json_array_get(list, 0), "VMId");

	if (list && !id)
		error_set(err, ERR_NOT_FOUND, "there is no virtual machine of this name");
	*ret = id ? strdup(id) : NULL;
	json_decref(names);
	json_decref(answer);
	return id ? 0 : -(int)err->code;
}

/* The event log counts who was refused. */
static void report_refusal(struct client *client, const char *id, const char *user)
{
	json_t *body = json_pack("{s:s}", "user", user), *answer = NULL;
	char path[80];

	snprintf(path, sizeof(path), "/v1/refused/%.40s", id);
	if (client_call(client, "POST", path, body, &answer, NULL) == 0)
		json_decref(answer);
	json_decref(body);
}

int direct_run(struct client *client, const char *vm, const struct direct_credential *credential,
	       const struct direct_command *command, struct error *err)
{
	AUTO_FREE char *id = NULL;
	char port[16];
	int fd, r = find_id(client, vm, &id, err);

	if (r < 0)
		return r;
	if (credential->transport == DIRECT_SSH)
		return direct_run_by_ssh(id, credential, command, err);
	snprintf(port, sizeof(port), "%u", DIRECT_PORT);
	fd = client_socket(client, id, port, err);
	if (fd == -ERR_TIMEOUT && credential->transport == DIRECT_AUTO)
		return direct_run_by_ssh(id, credential, command, err);
	if (fd == -ERR_TIMEOUT)
		return error_set(err, ERR_TIMEOUT, "no agent answers in the guest");
	if (fd < 0)
		return fd;
	r = direct_run_by_agent(fd, credential, command, err);
	if (r == -ERR_DENIED)
		report_refusal(client, id, credential->user);
	return r;
}

/* ---- Invoke-Command: one machine ---- */

static int invoke_one(struct client *client, const char *vm, const json_t *params,
		      const struct direct_credential *credential)
{
	const struct direct_command command = {
		.text = direct_text(params, "ScriptBlock"),
		.in = isatty(STDIN_FILENO) ? -1 : STDIN_FILENO,
		.out = STDOUT_FILENO,
		.err = STDERR_FILENO,
	};
	struct error err;
	int r = direct_run(client, vm, credential, &command, &err);

	return r < 0 ? direct_complain(vm, &err) : r;
}

/* ---- several, or as JSON: a process each, so that none waits for another ---- */

struct kept {
	int fd; /* -1: closed */
	char *text;
	size_t len;
	size_t shown; /* whole lines that were shown */
};

struct job {
	const struct client *like; /* whose host the VM is on */
	const char *vm;
	pid_t pid;
	struct kept out, err;
	int status;
};

static void run_job(const struct client *like, const char *vm, const json_t *params,
		    const struct direct_credential *credential, int out, int err_fd)
{
	const struct direct_command command = {
		.text = direct_text(params, "ScriptBlock"), .in = -1, .out = out, .err = err_fd
	};
	struct client *client;
	struct error err;
	int r = client_open_like(like, &client, &err);

	dup2(err_fd, STDERR_FILENO);
	if (r == 0)
		r = direct_run(client, vm, credential, &command, &err);
	_exit(r < 0 ? (dprintf(err_fd, "oyako: %s\n", err.text), DIRECT_FAILED) : r);
}

static bool start_job(struct job *job, const json_t *params,
		      const struct direct_credential *credential)
{
	int out[2], err[2];

	if (pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
		return false;
	job->pid = fork();
	if (job->pid == 0)
		run_job(job->like, job->vm, params, credential, out[1], err[1]);
	close(out[1]);
	close(err[1]);
	job->out.fd = out[0];
	job->err.fd = err[0];
	return job->pid > 0;
}

/* Lines with the machine's name before them; what has no line end yet waits for it. */
static void show_lines(struct kept *kept, const char *vm, FILE *to, bool all)
{
	char *end;

	while ((end = memchr(kept->text + kept->shown, '\n', kept->len - kept->shown))) {
		fprintf(to, "%s: ", vm);
		fwrite(kept->text + kept->shown, 1, (size_t)(end + 1 - kept->text) - kept->shown,
		       to);
		kept->shown = (size_t)(end + 1 - kept->text);
	}
	if (all && kept->shown < kept->len) {
		fprintf(to, "%s: ", vm);
		fwrite(kept->text + kept->shown, 1, kept->len - kept->shown, to);
		fputc('\n', to);
	}
	fflush(to);
}

static void keep(struct kept *kept, const char *vm, FILE *to)
{
	char data[65536];
	ssize_t n = read(kept->fd, data, sizeof(data));
	char *grown;

	if (n < 0 && errno == EINTR)
		return;
	if (n <= 0) {
		close(TAKE_FD(kept->fd));
		if (to && kept->len)
			show_lines(kept, vm, to, true);
		return;
	}
	/* What has been shown need not be kept. */
	if (to) {
		memmove(kept->text, kept->text + kept->shown, kept->len - kept->shown);
		kept->len -= kept->shown;
		kept->shown = 0;
	}
	if (kept->len + (size_t)n > MAX_KEPT)
		return;
	grown = realloc(kept->text, kept->len + (size_t)n);
	if (!grown)
		abort();
	kept->text = grown;
	memcpy(grown + kept->len, data, (size_t)n);
	kept->len += (size_t)n;
	if (to)
		show_lines(kept, vm, to, false);
}

static bool is_running(const struct job *job)
{
	return job->pid > 0;
}

static void end_job(struct job *job)
{
	int status = 0;

	waitpid(job->pid, &status, 0);
	job->pid = 0;
	job->status = WIFEXITED(status) ? WEXITSTATUS(status) : DIRECT_FAILED;
}

static void wait_for_output(struct job *jobs, size_t count, bool show)
{
	struct pollfd *fds = calloc(2 * count, sizeof(*fds));

	if (!fds)
		abort();
	for (size_t i = 0; i < count; i++) {
		fds[2 * i] =
		    (struct pollfd){ is_running(&jobs[i]) ? jobs[i].out.fd : -1, POLLIN, 0 };
		fds[2 * i + 1] =
		    (struct pollfd){ is_running(&jobs[i]) ? jobs[i].err.fd : -1, POLLIN, 0 };
	}
	if (poll(fds, 2 * count, -1) > 0)
		for (size_t i = 0; i < count; i++) {
			if (fds[2 * i].revents)
				keep(&jobs[i].out, jobs[i].vm, show ? stdout : NULL);
			if (fds[2 * i + 1].revents)
				keep(&jobs[i].err, jobs[i].vm, show ? stderr : NULL);
			if (is_running(&jobs[i]) && jobs[i].out.fd < 0 && jobs[i].err.fd < 0)
				end_job(&jobs[i]);
		}
	free(fds);
}

static void run_jobs(struct job *jobs, size_t count, const json_t *params,
		     const struct direct_credential *credential, bool show)
{
	size_t limit = (size_t)json_integer_value(json_object_get(params, "ThrottleLimit"));
	size_t next = 0, running = 0;

	while (next < count || running) {
		while (next < count && running < limit)
			running += start_job(&jobs[next++], params, credential);
		wait_for_output(jobs, next, show);
		running = 0;
		for (size_t i = 0; i < next; i++)
			running += is_running(&jobs[i]);
	}
}

/* Bytes that are no UTF-8 become '?'. */
static json_t *json_text(const struct kept *kept)
{
	json_t *text = json_stringn(kept->text ? kept->text : "", kept->len);

	if (text)
		return text;
	for (size_t i = 0; i < kept->len; i++)
		if (kept->text[i] & 0x80)
			kept->text[i] = '?';
	return json_stringn(kept->text, kept->len);
}

static void print_json(const struct job *jobs, size_t count)
{
	json_t *list = json_array();
	char *text;

	for (size_t i = 0; i < count; i++)
		json_array_append_new(list, json_pack("{s:s, s:i, s:o, s:o}", "VMName", jobs[i].vm,
						      "ExitCode", jobs[i].status, "Output",
						      json_text(&jobs[i].out), "Error",
						      json_text(&jobs[i].err)));
	text = json_dumps(list, JSON_INDENT(2));
	if (text)
		puts(text);
	free(text);
	json_decref(list);
}

static int invoke_many(const struct client *client, const json_t *vms, const json_t *params,
		       const struct direct_credential *credential, bool as_json)
{
	size_t count = json_array_size(vms);
	struct job *jobs = calloc(count, sizeof(*jobs));
	int status = 0;

	if (!jobs)
		abort();
	for (size_t i = 0; i < count; i++)
		jobs[i] = (struct job){ .like = client,
					.vm = direct_text(json_array_get(vms, i), "Name"),
					.status = DIRECT_FAILED,
					.out.fd = -1,
					.err.fd = -1 };
	run_jobs(jobs, count, params, credential, !as_json);
	if (as_json)
		print_json(jobs, count);
	for (size_t i = 0; i < count; i++) {
		status = status || jobs[i].status;
		free(jobs[i].out.text);
		free(jobs[i].err.text);
	}
	free(jobs);
	return status;
}

int direct_invoke_command(struct client *client, const json_t *params, bool as_json)
{
	json_t *answer = NULL, *vms, *errors;
	struct direct_credential credential;
	struct error err;
	int status;

	vms = find_vm(client, json_object_get(params, "VMName"), &answer, &err);
	if (!vms)
		return direct_complain(NULL, &err);
	errors = json_object_get(answer, "errors");
	for (size_t i = 0; i < json_array_size(errors); i++)
		fprintf(stderr, "oyako: %s: %s\n", direct_text(json_array_get(errors, i), "object"),
			direct_text(json_array_get(errors, i), "text"));
	if (direct_take_credential(params, &credential, &err) < 0)
		status = direct_complain(NULL, &err);
	else if (json_array_size(vms) == 1 && !as_json && !json_array_size(errors))
		status = invoke_one(client, direct_text(json_array_get(vms, 0), "Name"), params,
				    &credential);
	else
		status = invoke_many(client, vms, params, &credential, as_json);
	if (status == 0 && json_array_size(errors))
		status = 1;
	direct_forget_credential(&credential);
	json_decref(answer);
	return status;
}

/* ---- Enter-PSSession ---- */

int direct_enter_session(struct client *client, const json_t *params)
{
	const struct direct_command command = { .text = "",
						.terminal = true,
						.in = STDIN_FILENO,
						.out = STDOUT_FILENO,
						.err = STDERR_FILENO };
	const char *vm = direct_text(params, "VMName");
	struct direct_credential credential;
	struct error err;
	int r = direct_take_credential(params, &credential, &err);

	if (r == 0)
		r = direct_run(client, vm, &credential, &command, &err);
	direct_forget_credential(&credential);
	return r < 0 ? direct_complain(vm, &err) : r;
}
