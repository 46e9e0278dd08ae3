/*
 * Signing in. By password: PAM authenticates. By key: a signature of a challenge that is made anew
 * each time, by a key that the user's authorized_keys names; `ssh-keygen` of the guest verifies it.
 * Either way PAM says whether the account may be used, and opens the session.
 */
#include "agent.h"

#include "base/macros.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#define SERVICE       "oyako-guest-agent"
#define MAX_KEYS_SIZE 65536

/* ---- PAM ---- */

/* Every hidden question is one for the password; nothing else is answered. */
static int converse(int count, const struct pam_message **messages, struct pam_response **ret,
		    void *user)
{
	struct agent *agent = user;
	struct pam_response *answers;

	if (count < 1 || count > PAM_MAX_NUM_MSG)
		return PAM_CONV_ERR;
	answers = calloc((size_t)count, sizeof(*answers));
	if (!answers)
		return PAM_BUF_ERR;
	for (int i = 0; i < count; i++)
		if (messages[i]->msg_style == PAM_PROMPT_ECHO_OFF && agent->password)
			answers[i].resp = strdup(agent->password);
	*ret = answers;
	return PAM_SUCCESS;
}

static bool open_session(struct agent *agent)
{
	const void *name = NULL;

	if (pam_acct_mgmt(agent->pam, PAM_DISALLOW_NULL_AUTHTOK) != PAM_SUCCESS ||
	    pam_get_item(agent->pam, PAM_USER, &name) != PAM_SUCCESS || !name)
		return false;
	agent->account = getpwnam(name);
	if (!agent->account || initgroups(agent->account->pw_name, agent->account->pw_gid) < 0 ||
	    pam_setcred(agent->pam, PAM_ESTABLISH_CRED) != PAM_SUCCESS)
		return false;
	return pam_open_session(agent->pam, 0) == PAM_SUCCESS;
}

static bool start_pam(struct agent *agent)
{
	static struct pam_conv conversation = { .conv = converse };

	conversation.appdata_ptr = agent;
	if (pam_start(SERVICE, agent->user, &conversation, &agent->pam) != PAM_SUCCESS)
		return false;
	pam_set_item(agent->pam, PAM_TTY, "oyako");
	pam_set_item(agent->pam, PAM_RHOST, "hyper-v-host");
	pam_fail_delay(agent->pam, 1000000);
	return true;
}

/* ---- keys ---- */

static const char *const key_types[] = { "ssh-ed25519 ", "ssh-rsa ", "ecdsa-sha2-",
					 "sk-ssh-ed25519@openssh.com ", "sk-ecdsa-sha2-" };

/* Lines with options are left out: they say "only so", and here nobody would obey them. */
static bool is_plain_key(const char *line)
{
	for (size_t i = 0; i < ARRAY_SIZE(key_types); i++)
		if (strncmp(line, key_types[i], strlen(key_types[i])) == 0)
			return true;
	return false;
}

/* As the user, so that no link leads to what the user may not read. Nobody else may write it. */
static int open_keys(const struct passwd *account)
{
	AUTO_FREE char *path = NULL;
	struct stat st;
	int fd;

	if (asprintf(&path, "%s/.ssh/authorized_keys", account->pw_dir) < 0 ||
	    setegid(account->pw_gid) < 0 || seteuid(account->pw_uid) < 0)
		return -1;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (seteuid(0) < 0 || setegid(0) < 0)
		_exit(1);
	if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (st.st_mode & 022) ||
			(st.st_uid != account->pw_uid && st.st_uid != 0))) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* A file in memory that a child reads by its descriptor's name. */
static int memory_file(const char *name, const void *data, size_t len)
{
	int fd = memfd_create(name, 0);

	if (fd >= 0 && write(fd, data, len) != (ssize_t)len) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* What `ssh-keygen -Y verify` calls allowed signers: the user's keys. */
static int allowed_signers(const struct passwd *account)
{
	AUTO_CLOSE int keys = open_keys(account);
	AUTO_FREE char *text = calloc(1, MAX_KEYS_SIZE + 1), *signers = NULL;
	size_t size;
	FILE *out;
	char *rest = text;

	if (keys < 0 || !text || read(keys, text, MAX_KEYS_SIZE) < 0)
		return -1;
	out = open_memstream(&signers, &size);
	if (!out)
		return -1;
	for (char *line; (line = strsep(&rest, "\r\n"));)
		if (is_plain_key(line))
			fprintf(out, "user namespaces=\"" DIRECT_KEY_NAMESPACE "\" %s\n", line);
	if (fclose(out) != 0)
		return -1;
	return memory_file("signers", signers, size);
}

/* In the child. */
static void verify(int signers, int signature, int challenge)
{
	char signers_path[40], signature_path[40];
	int null = open("/dev/null", O_WRONLY);

	snprintf(signers_path, sizeof(signers_path), "/proc/self/fd/%d", signers);
	snprintf(signature_path, sizeof(signature_path), "/proc/self/fd/%d", signature);
	lseek(challenge, 0, SEEK_SET);
	dup2(challenge, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	dup2(null, STDERR_FILENO);
	execl("/usr/bin/ssh-keygen", "ssh-keygen", "-Y", "verify", "-f", signers_path, "-I", "user",
	      "-n", DIRECT_KEY_NAMESPACE, "-s", signature_path, (char *)NULL);
	_exit(127);
}

static bool is_signed(struct agent *agent, const char *challenge, const struct direct_frame *frame)
{
	const struct passwd *account = getpwnam(agent->user);
	AUTO_CLOSE int signers = account ? allowed_signers(account) : -1;
	AUTO_CLOSE int signature = memory_file("signature", frame->data, frame->len);
	AUTO_CLOSE int message = memory_file("challenge", challenge, strlen(challenge));
	int status;
	pid_t pid;

	if (signers < 0 || signature < 0 || message < 0)
		return false;
	pid = fork();
	if (pid == 0)
		verify(signers, signature, message);
	return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
	       WEXITSTATUS(status) == 0;
}

static bool make_challenge(const struct agent *agent, char *ret, size_t size)
{
	unsigned char random[32];
	int len = snprintf(ret, size, "sign in to this guest as %s\n", agent->user);

	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return false;
	for (size_t i = 0; i < sizeof(random); i++)
		len += snprintf(ret + len, size - (size_t)len, "%02x", random[i]);
	return true;
}

static bool by_key(struct agent *agent)
{
	char challenge[512];
	struct direct_frame frame;

	return make_challenge(agent, challenge, sizeof(challenge)) &&
	       direct_send_text(agent->fd, DIRECT_CHALLENGE, challenge) &&
	       agent_next(agent, &frame) && frame.type == DIRECT_SIGNATURE &&
	       is_signed(agent, challenge, &frame);
}

/* ---- passwords ---- */

static void forget_password(struct agent *agent)
{
	if (!agent->password)
		return;
	explicit_bzero(agent->password, strlen(agent->password));
	free(TAKE(agent->password));
}

/* An empty password is none. */
static bool by_password(struct agent *agent, const struct direct_frame *frame)
{
	int r;

	if (!frame->len || memchr(frame->data, 0, frame->len))
		return false;
	agent->password = strndup((const char *)frame->data, frame->len);
	explicit_bzero(agent->reader.bytes, agent->reader.at);
	r = agent->password ? pam_authenticate(agent->pam, PAM_DISALLOW_NULL_AUTHTOK) : PAM_BUF_ERR;
	forget_password(agent);
	return r == PAM_SUCCESS;
}

/* ---- both ---- */

static bool take_user(struct agent *agent, const struct direct_frame *frame)
{
	if (frame->type != DIRECT_USER || !frame->len || frame->len >= sizeof(agent->user))
		return false;
	memcpy(agent->user, frame->data, frame->len);
	for (size_t i = 0; i < frame->len; i++)
		if ((unsigned char)agent->user[i] <= ' ' || agent->user[i] == '/')
			return false;
	return true;
}

static bool authenticate(struct agent *agent)
{
	struct direct_frame frame;

	if (!agent_next(agent, &frame))
		return false;
	if (frame.type == DIRECT_PASSWORD)
		return by_password(agent, &frame);
	return frame.type == DIRECT_KEY && by_key(agent);
}

bool sign_in(struct agent *agent)
{
	struct direct_frame frame;

	if (!agent_next(agent, &frame) || !take_user(agent, &frame) || !start_pam(agent)) {
		agent_refuse(agent, "no user");
		return false;
	}
	if (!authenticate(agent)) {
		syslog(LOG_NOTICE, "refused: user %s", agent->user);
		agent_refuse(agent, "the user name, password or key is wrong");
		return false;
	}
	if (!open_session(agent)) {
		syslog(LOG_NOTICE, "refused: account %s", agent->user);
		agent_refuse(agent, "the account may not be used");
		return false;
	}
	syslog(LOG_INFO, "signed in: user %s", agent->user);
	return direct_send(agent->fd, DIRECT_WELCOME, NULL, 0);
}

void sign_out(struct agent *agent)
{
	if (!agent->pam)
		return;
	if (agent->account) {
		pam_close_session(agent->pam, 0);
		pam_setcred(agent->pam, PAM_DELETE_CRED);
	}
	pam_end(agent->pam, PAM_SUCCESS);
}
