/* Without the agent: the guest's sshd, reached through oyako itself as ssh's ProxyCommand. */
#include "direct.h"

#include "base/macros.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#define SSH_PORT "22"
#define MAX_ARGS 24

struct arguments {
	const char *list[MAX_ARGS];
	unsigned count;
};

static void add(struct arguments *arguments, const char *text)
{
	if (arguments->count + 1 < MAX_ARGS)
		arguments->list[arguments->count++] = text;
}

static char *own_path(void)
{
	char *path = realpath("/proc/self/exe", NULL);

	return path ? path : strdup("oyako");
}

/* ssh replaces %x in it: a % of the path is written twice. */
static char *proxy_command(const char *vm_id)
{
	AUTO_FREE char *path = own_path(), *program = direct_quote(path);
	char *text = NULL, *doubled, *to;

	if (asprintf(&text, "ProxyCommand=%s connect-vmsocket %s " SSH_PORT, program, vm_id) < 0)
		abort();
	doubled = to = malloc(2 * strlen(text) + 1);
	if (!doubled)
		abort();
	for (const char *p = text; *p; p++) {
		if (*p == '%')
			*to++ = '%';
		*to++ = *p;
	}
	*to = '\0';
	free(text);
	return doubled;
}

static void connect_descriptors(const struct direct_command *command)
{
	const int fds[] = { command->in, command->out, command->err };

	for (int i = 0; i < 3; i++)
		if (fds[i] >= 0)
			dup2(fds[i], i);
		else
			close(i);
}

int direct_run_by_ssh(const char *vm_id, const struct direct_credential *credential,
		      const struct direct_command *command, struct error *err)
{
	AUTO_FREE char *proxy = proxy_command(vm_id), *alias = NULL;
	struct arguments arguments = { 0 };
	int status;
	pid_t pid;

	if (credential->password)
		return error_set(
		    err, ERR_UNSUPPORTED,
		    "no agent answers in the guest, and ssh asks for passwords itself: "
		    "give -KeyFilePath, or -Transport SSH on a terminal");
	if (asprintf(&alias, "HostKeyAlias=oyako-vm-%s", vm_id) < 0)
		abort();
	add(&arguments, "ssh");
	add(&arguments, "-q");
	add(&arguments, command->terminal ? "-tt" : "-T");
	add(&arguments, "-o");
	add(&arguments, proxy);
	add(&arguments, "-o");
	add(&arguments, alias);
	/* Nobody stands between host and guest: the first key is the guest's. */
	add(&arguments, "-o");
	add(&arguments, "StrictHostKeyChecking=accept-new");
	if (credential->key_file) {
		add(&arguments, "-o");
		add(&arguments, "IdentitiesOnly=yes");
		add(&arguments, "-i");
		add(&arguments, credential->key_file);
	}
	if (command->in < 0)
		add(&arguments, "-n");
	add(&arguments, "-l");
	add(&arguments, credential->user);
	add(&arguments, "oyako-vm");
	if (*command->text)
		add(&arguments, command->text);
	pid = fork();
	if (pid == 0) {
		connect_descriptors(command);
		execvp("ssh", (char *const *)(uintptr_t)arguments.list);
		_exit(127);
	}
	if (pid < 0)
		return error_set_errno(err, errno, "starting ssh");
	signal(SIGINT, SIG_IGN); /* ssh has it, and ends */
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127 && !*command->text)
		return error_set(err, ERR_NOT_FOUND, "there is no ssh: install openssh-client");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
