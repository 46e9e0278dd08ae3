#include "shell.h"

#include "base/macros.h"
#include "cmdlet/cmdlet.h"

#include <editline/readline.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_HISTORY    1000
#define MAX_CANDIDATES 2000
#define SELF           "/proc/self/exe"

extern char **environ;

/* ---- carrying out ---- */

/* words ends with NULL and has room for the program's name at its beginning. in, out -1: ours. */
static pid_t start(char **words, int in, int out, bool quiet)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t defaults;
	pid_t pid = -1;

	words[0] = (char *)"oyako";
	sigemptyset(&defaults);
	sigaddset(&defaults, SIGINT);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigdefault(&attributes, &defaults);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
	posix_spawn_file_actions_init(&actions);
	if (in >= 0)
		posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
	if (out >= 0)
		posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	if (quiet)
		posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
	if (posix_spawn(&pid, SELF, &actions, &attributes, words, environ) != 0)
		pid = -1;
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return pid;
}

static int wait_for(pid_t pid)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/* Starts the cmdlets of lists of words, each one's output the next one's input. */
static void start_all(char ***lists, size_t count, pid_t *pids)
{
	int in = -1;

	for (size_t i = 0; i < count; i++) {
		int ends[2] = { -1, -1 };

		if (i + 1 < count && pipe2(ends, O_CLOEXEC) < 0)
			ends[0] = ends[1] = -1;
		pids[i] = start(lists[i], in, ends[1], false);
		lists[i][0] = NULL;
		if (pids[i] < 0)
			fprintf(stderr, "oyako: another process can't be started\n");
		if (in >= 0)
			close(in);
		if (ends[1] >= 0)
			close(ends[1]);
		in = ends[0];
	}
}

/* The last one's exit status. Ctrl-C is the cmdlets'. */
static int carry_out(char ***lists, size_t count)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN }, before;
	pid_t *pids = calloc(count, sizeof(*pids));
	int status = 1;

	if (!pids)
		abort();
	sigaction(SIGINT, &ignore, &before);
	start_all(lists, count, pids);
	for (size_t i = 0; i < count; i++)
		status = pids[i] > 0 ? wait_for(pids[i]) : 1;
	sigaction(SIGINT, &before, NULL);
	free(pids);
	return status;
}

/* ---- completion ---- */

static char *candidates[MAX_CANDIDATES + 1];

static void forget_candidates(void)
{
	for (size_t i = 0; candidates[i]; i++)
		free(candidates[i]);
	candidates[0] = NULL;
}

/* True: files may follow, too. */
static bool read_candidates(FILE *from)
{
	char line[1000];
	size_t count = 0;
	bool files = false;

	while (fgets(line, sizeof(line), from)) {
		line[strcspn(line, "\n")] = '\0';
		if (strcmp(line, ":file") == 0)
			files = true;
		else if (count < MAX_CANDIDATES)
			candidates[count++] = strdup(line);
	}
	candidates[count] = NULL;
	return files;
}

/* `oyako __complete` knows the table, and asks the service for names. */
static bool ask_candidates(char **words)
{
	int ends[2];
	bool files = false;
	FILE *from;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return false;
	words[1] = (char *)"__complete";
	pid = start(words, -1, ends[1], true);
	close(ends[1]);
	from = fdopen(ends[0], "r");
	if (pid > 0 && from)
		files = read_candidates(from);
	if (from)
		fclose(from);
	if (pid > 0)
		wait_for(pid);
	return files;
}

/* As it must be typed. */
static char *escape(const char *text)
{
	char *escaped = malloc(2 * strlen(text) + 1), *p = escaped;

	if (!escaped)
		abort();
	for (; *text; text++) {
		if (strchr(" \t'\"\\", *text))
			*p++ = '\\';
		*p++ = *text;
	}
	*p = '\0';
	return escaped;
}

static char *next_candidate(const char *typed, int again)
{
	static size_t next;

	if (!again)
		next = 0;
	while (candidates[next]) {
		const char *candidate = candidates[next++];

		if (strncasecmp(candidate, typed, strlen(typed)) == 0)
			return escape(candidate);
	}
	return NULL;
}

static char **complete(const char *typed, int from, int to)
{
	AUTO_FREE char *before = strndup(rl_line_buffer, (size_t)from);
	char **words = NULL, **found;
	struct error err;
	int count;

	forget_candidates();
	rl_attempted_completion_over = 1;
	/* Two places before them, for the program's name and __complete; one behind. */
	if (!before || cmdlet_split_line(before, 2, 1, &words, &count, &err) < 0)
		return NULL;
	words[2 + count] = (char *)typed;
	rl_attempted_completion_over = !ask_candidates(words);
	words[2 + count] = NULL;
	words[0] = words[1] = NULL;
	cmdlet_free_words(words, 2);
	found = rl_completion_matches(typed, next_candidate);
	return found;
}

/* ---- history ---- */

static char *history_file(void)
{
	const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	char *folder = NULL, *path = NULL;

	if (state && state[0] == '/' ? asprintf(&folder, "%s", state) < 0
				     : asprintf(&folder, "%s/.local/state", home ? home : "") < 0)
		abort();
	mkdir(folder, 0700);
	if (asprintf(&path, "%s/oyako", folder) < 0)
		abort();
	mkdir(path, 0700);
	free(path);
	if (asprintf(&path, "%s/oyako/history", folder) < 0)
		abort();
	free(folder);
	return path;
}

/* ---- the loop ---- */

static bool is_end(const char *word)
{
	return strcasecmp(word, "exit") == 0 || strcasecmp(word, "quit") == 0;
}

/* As in scripts of other shells, `oyako` may stand before a cmdlet. */
static void drop_own_name(char **words, int count)
{
	if (count < 2 || strcmp(words[1], "oyako") != 0)
		return;
	free(words[1]);
	memmove(&words[1], &words[2], (size_t)count * sizeof(*words));
}

/* The words of each cmdlet of a line, with a free place before them. How many parts are right: the
 * first one that is not is told of. */
static size_t read_parts(char **parts, char ***lists)
{
	struct error err;
	size_t n = 0;
	int count;

	for (; parts[n]; n++) {
		if (cmdlet_split_line(parts[n], 1, 0, &lists[n], &count, &err) < 0) {
			fprintf(stderr, "oyako: %s\n", err.text);
			return n;
		}
		drop_own_name(lists[n], count);
		if (!lists[n][1] && parts[1]) {
			fprintf(stderr, "oyako: a cmdlet is missing beside a pipe\n");
			cmdlet_free_words(lists[n], 1);
			return n;
		}
	}
	return n;
}

/* False: that was the last line. */
static bool take_line(const char *line, int *status)
{
	char **parts = cmdlet_split_pipe(line);
	size_t count = 0, right;
	bool more = true;
	char ***lists;

	while (parts[count])
		count++;
	lists = calloc(count, sizeof(*lists));
	if (!lists)
		abort();
	right = read_parts(parts, lists);
	if (right == count && lists[0][1]) {
		add_history(line);
		more = !is_end(lists[0][1]);
	}
	if (right < count)
		*status = 2;
	else if (lists[0][1] && more)
		*status = carry_out(lists, count);
	for (size_t i = 0; i < right; i++)
		cmdlet_free_words(lists[i], 1);
	free(lists);
	cmdlet_free_words(parts, 0);
	return more;
}

int shell_run(void)
{
	AUTO_FREE char *history = history_file();
	bool more = true;
	int status = 0;

	rl_readline_name = "oyako";
	rl_attempted_completion_function = complete;
	rl_completer_word_break_characters = (char *)" ";
	rl_initialize();
	stifle_history(MAX_HISTORY);
	read_history(history);
	puts("Cmdlets as `get-vm`; `help` lists them, Tab completes, `exit` ends.");
	while (more) {
		char *line = readline("oyako> ");

		if (!line)
			break;
		more = take_line(line, &status);
		free(line);
	}
	write_history(history);
	chmod(history, 0600);
	forget_candidates();
	return status;
}
