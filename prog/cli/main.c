/*
 * oyako: the command line. It reads the cmdlet and its parameters by the one table, lets the daemon
 * carry it out, and shows what comes back.
 *
 * Exit status: 0 done; 1 failed, at least for one object; 2 the command line is wrong.
 */
#include "client.h"
#include "console.h"
#include "direct.h"
#include "objects.h"
#include "pump.h"
#include "session.h"
#include "shell.h"

#include "base/macros.h"
#include "cmdlet/cmdlet.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>

#define JOB_WAIT_SECONDS 30 /* of one look at a job */
#define MAX_COLUMNS      64

enum { EXIT_DONE, EXIT_FAILED, EXIT_USAGE };

static volatile bool interrupted;

static void on_interrupt(int number)
{
	interrupted = true;
}

/* ---- showing ---- */

static const char *text_of(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text ? text : "";
}

static int print_error(const char *cmdlet, const char *object, const char *text)
{
	/* What is wrong with a command line begins with the cmdlet's name anyway. */
	if (!object && strncmp(text, cmdlet, strlen(cmdlet)) == 0) {
		fprintf(stderr, "oyako: %s\n", text);
		return EXIT_FAILED;
	}
	fprintf(stderr, "oyako: %s%s%s%s: %s\n", cmdlet, object ? " '" : "", object ? object : "",
		object ? "'" : "", text);
	return EXIT_FAILED;
}

static int print_text(char *text)
{
	if (!text)
		return EXIT_FAILED;
	fputs(text, stdout);
	free(text);
	return fflush(stdout) == 0 ? EXIT_DONE : EXIT_FAILED;
}

static unsigned terminal_width(void)
{
	struct winsize size;

	if (!isatty(STDOUT_FILENO) || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0)
		return 0;
	return size.ws_col;
}

/* A table tells from which other host its objects are, so that a cmdlet behind a pipe finds them.
 */
static char *results_table(const struct cmdlet_output *output, const json_t *results)
{
	const struct cmdlet_column origin = { CMDLET_ORIGIN, CMDLET_ORIGIN, CMDLET_SHOW_TEXT };
	struct cmdlet_column columns[MAX_COLUMNS + 2] = { 0 };
	const struct cmdlet_output with_origin = { output->type, columns };
	size_t count = 0;

	if (!json_object_get(json_array_get(results, 0), CMDLET_ORIGIN))
		return cmdlet_format_table(output, results, terminal_width());
	for (const struct cmdlet_column *c = output->columns; c->key && count < MAX_COLUMNS; c++)
		columns[count++] = *c;
	columns[count] = origin;
	return cmdlet_format_table(&with_origin, results, terminal_width());
}

static int print_results(const struct cmdlet *cmdlet, const struct cmdlet_invocation *invocation,
			 const json_t *results)
{
	bool passthru = json_is_true(json_object_get(invocation->params, "Passthru"));
	char *text;

	if (invocation->json) {
		text = json_dumps(results, JSON_INDENT(2));
		if (text)
			puts(text);
		free(text);
		return text ? EXIT_DONE : EXIT_FAILED;
	}
	if (!cmdlet->output || (cmdlet->output_if_passthru && !passthru && !invocation->list))
		return EXIT_DONE;
	return print_text(invocation->list ? cmdlet_format_list(cmdlet->output, results)
					   : results_table(cmdlet->output, results));
}

static int print_errors(const struct cmdlet *cmdlet, const struct cmdlet_invocation *invocation,
			const json_t *errors)
{
	for (size_t i = 0; !invocation->quiet && i < json_array_size(errors); i++) {
		const json_t *error = json_array_get(errors, i);

		print_error(cmdlet->name, json_string_value(json_object_get(error, "object")),
			    json_string_value(json_object_get(error, "text")));
	}
	return json_array_size(errors) ? EXIT_FAILED : EXIT_DONE;
}

/* One line that changes, on a terminal only. */
static void show_progress(void *user, const json_t *progress)
{
	const char *object = json_string_value(json_object_get(progress, "object"));
	const char *activity = json_string_value(json_object_get(progress, "activity"));
	bool *shown = user;

	if (!isatty(STDERR_FILENO))
		return;
	fprintf(stderr, "\r\033[K%s: %s", object ? object : "", activity ? activity : "");
	fflush(stderr);
	*shown = true;
}

/* ---- cmdlets that the daemon carries out ---- */

static int run_in_daemon(struct client *client, const struct cmdlet *cmdlet, const json_t *params,
			 json_t **ret)
{
	struct sigaction action = { .sa_handler = on_interrupt }, before;
	bool shown = false;
	struct error err;
	int r;

	sigaction(SIGINT, &action, &before);
	r = client_run(client, cmdlet->name, params, show_progress, &shown, &interrupted, ret,
		       &err);
	sigaction(SIGINT, &before, NULL);
	if (shown)
		fputs("\r\033[K", stderr);
	if (r < 0)
		print_error(cmdlet->name, NULL, err.text);
	return r;
}

static bool ask(const struct cmdlet *cmdlet, const json_t *params)
{
	const json_t *names = json_object_get(params, "Name");
	char line[16] = "";

	if (!isatty(STDIN_FILENO)) {
		print_error(cmdlet->name, NULL,
			    "this needs a confirmation: add -Force or -Confirm:false");
		return false;
	}
	fprintf(stderr, "%s", cmdlet->name);
	for (size_t i = 0; i < json_array_size(names); i++)
		fprintf(stderr, " '%s'", json_string_value(json_array_get(names, i)));
	fprintf(stderr, ": are you sure? [Y/n] ");
	return fgets(line, sizeof(line), stdin) && strchr("Yy\n", line[0]);
}

static bool is_confirmed(const struct cmdlet *cmdlet, const struct cmdlet_invocation *invocation)
{
	bool forced = json_is_true(json_object_get(invocation->params, "Force"));

	if (invocation->confirm == 1)
		return ask(cmdlet, invocation->params);
	if (!cmdlet->confirm || forced || invocation->confirm == 0)
		return true;
	return ask(cmdlet, invocation->params);
}

/* The names of the virtual machines that the patterns mean, the caller's; what is not there is
 * told. */
static json_t *names_of_vms(struct client *client, const struct cmdlet *cmdlet,
			    const struct cmdlet_invocation *invocation, const json_t *patterns,
			    int *ret_status)
{
	json_t *params = json_pack("{s:O}", "Name", patterns), *names = json_array(),
	       *answer = NULL;

	if (run_in_daemon(client, cmdlet_find("Get-VM"), params, &answer) < 0)
		*ret_status = EXIT_FAILED;
	else
		*ret_status = print_errors(cmdlet, invocation, json_object_get(answer, "errors"));
	for (size_t i = 0; i < json_array_size(json_object_get(answer, "results")); i++) {
		json_t *vm = json_array_get(json_object_get(answer, "results"), i);

		json_array_append(names, json_object_get(vm, "Name"));
	}
	json_decref(params);
	json_decref(answer);
	return names;
}

/* In PowerShell's words. What the daemon would find out only by doing it, is not told. */
static int say_what_if(struct client *client, const struct cmdlet *cmdlet,
		       const struct cmdlet_invocation *invocation)
{
	bool known;
	const struct cmdlet_param *param = cmdlet_what_if(cmdlet, &known);
	json_t *value = param ? json_object_get(invocation->params, param->name) : NULL, *targets;
	int status = EXIT_DONE;

	if (param && param->offer == CMDLET_OFFER_VM && value)
		targets = names_of_vms(client, cmdlet, invocation, value, &status);
	else
		targets = json_is_array(value) ? json_incref(value) : json_pack("[O*]", value);
	for (size_t i = 0; i < json_array_size(targets); i++)
		printf("What if: Performing the operation \"%s\" on target \"%s\".\n", cmdlet->name,
		       json_string_value(json_array_get(targets, i)));
	if (!value)
		printf("What if: Performing the operation \"%s\".\n", cmdlet->name);
	json_decref(targets);
	return status;
}

/* ---- jobs ---- */

static int begin_job(struct client *client, const struct cmdlet *cmdlet,
		     const struct cmdlet_invocation *invocation)
{
	const struct cmdlet *get_job = cmdlet_find("Get-Job");
	json_t *params, *answer;
	struct error err;
	unsigned id;
	int status;

	if (client_begin(client, cmdlet->name, invocation->params, &id, &err) < 0)
		return print_error(cmdlet->name, NULL, err.text);
	params = json_pack("{s:[i]}", "Id", (int)id);
	if (run_in_daemon(client, get_job, params, &answer) < 0) {
		json_decref(params);
		return EXIT_FAILED;
	}
	status = print_results(get_job, invocation, json_object_get(answer, "results"));
	json_decref(params);
	json_decref(answer);
	return status;
}

/* One job's results, as its cmdlet shows them. */
static int receive_one(struct client *client, const struct cmdlet_invocation *invocation,
		       const json_t *params, long long id)
{
	bool wait = json_is_true(json_object_get(params, "Wait"));
	const struct cmdlet *cmdlet;
	json_t *answer = NULL;
	struct error err;
	char path[100];
	int status, failed;
	long long version = 0;

	do {
		version = json_integer_value(json_object_get(answer, "version"));
		json_decref(answer);
		snprintf(path, sizeof(path), "/v1/job/%lld?wait=%d&version=%lld&receive=%d", id,
			 wait ? JOB_WAIT_SECONDS : 0, version,
			 !json_is_true(json_object_get(params, "Keep")));
		if (client_call(client, "GET", path, NULL, &answer, &err) < 0)
			return print_error("Receive-Job", NULL, err.text);
	} while (wait && strcmp(text_of(answer, "state"), "done") != 0);
	if (strcmp(text_of(answer, "state"), "done") != 0) {
		json_decref(answer);
		return print_error("Receive-Job", NULL, "it is running: -Wait waits for its end");
	}
	cmdlet = cmdlet_find(text_of(answer, "cmdlet"));
	status = cmdlet ? print_results(cmdlet, invocation, json_object_get(answer, "results"))
			: EXIT_FAILED;
	failed = cmdlet ? print_errors(cmdlet, invocation, json_object_get(answer, "errors"))
			: EXIT_FAILED;
	json_decref(answer);
	return failed ? failed : status;
}

static void forget_job(struct client *client, long long id)
{
	json_t *params = json_pack("{s:[I]}", "Id", (json_int_t)id), *answer;
	struct error err;

	if (client_run(client, "Remove-Job", params, NULL, NULL, NULL, &answer, &err) == 0)
		json_decref(answer);
	json_decref(params);
}

static int receive_jobs(struct client *client, const struct cmdlet_invocation *invocation,
			const json_t *params)
{
	const struct cmdlet *get_job = cmdlet_find("Get-Job");
	const char *by = json_object_get(params, "Id") ? "Id" : "Name";
	json_t *which = json_pack("{s:O}", by, json_object_get(params, by)), *answer, *jobs;
	int status = run_in_daemon(client, get_job, which, &answer) < 0 ? EXIT_FAILED : EXIT_DONE;

	json_decref(which);
	if (status != EXIT_DONE)
		return status;
	jobs = json_object_get(answer, "results");
	status =
	    print_errors(cmdlet_find("Receive-Job"), invocation, json_object_get(answer, "errors"));
	for (size_t i = 0; i < json_array_size(jobs); i++) {
		long long id = json_integer_value(json_object_get(json_array_get(jobs, i), "Id"));
		int one = receive_one(client, invocation, params, id);

		status = status == EXIT_DONE ? one : status;
		if (json_is_true(json_object_get(params, "AutoRemoveJob")))
			forget_job(client, id);
	}
	json_decref(answer);
	return status;
}

/* host NULL: this one. */
static void collect(json_t **results, const json_t *more, const char *host)
{
	if (!*results)
		*results = json_array();
	for (size_t i = 0; i < json_array_size(more); i++) {
		json_t *result = json_array_get(more, i);

		if (host && json_is_object(result))
			json_object_set_new(result, CMDLET_ORIGIN, json_string(host));
		json_array_append(*results, result);
	}
}

/* What it finds is added to the list of results, from host, if that is not this one; without
 * anything to show, they stay NULL. */
static int run_plain(struct client *client, const struct cmdlet *cmdlet,
		     const struct cmdlet_invocation *invocation, const char *host, json_t **results)
{
	json_t *answer;
	int status;

	if (!is_confirmed(cmdlet, invocation))
		return EXIT_FAILED;
	if (invocation->as_job)
		return begin_job(client, cmdlet, invocation);
	if (run_in_daemon(client, cmdlet, invocation->params, &answer) < 0)
		return EXIT_FAILED;
	collect(results, json_object_get(answer, "results"), host);
	status = print_errors(cmdlet, invocation, json_object_get(answer, "errors"));
	json_decref(answer);
	return status;
}

/* ---- consoles ---- */

/* The VM's object, the caller's; NULL: gone. */
static json_t *get_vm(struct client *client, const char *name)
{
	json_t *params = json_pack("{s:[s]}", "Name", name), *answer = NULL, *vm;
	struct error err;

	client_run(client, "Get-VM", params, NULL, NULL, NULL, &answer, &err);
	vm = json_incref(json_array_get(json_object_get(answer, "results"), 0));
	json_decref(params);
	json_decref(answer);
	return vm;
}

/* After the console has closed: the VM is about to be off. How did it end? */
static int judge_end(struct client *client, const char *name)
{
	const struct timespec pause = { 0, 100 * 1000 * 1000 };
	int status = EXIT_FAILED;
	json_t *vm = NULL;

	for (int i = 0; i < 100; i++) {
		json_decref(vm);
		vm = get_vm(client, name);
		if (!vm || strcmp(text_of(vm, "State"), "Off") == 0)
			break;
		nanosleep(&pause, NULL);
	}
	if (!vm || strcmp(text_of(vm, "State"), "Off") != 0) {
		print_error("Connect-VM", name, "the console was closed, but the guest runs on");
	} else if (strcmp(text_of(vm, "LastStopCode"), "guest-shutdown") == 0 ||
		   strcmp(text_of(vm, "LastStopCode"), "turned-off") == 0) {
		status = EXIT_DONE;
	} else {
		print_error("Start-VM", name, text_of(vm, "LastStopReason"));
	}
	json_decref(vm);
	return status;
}

static int run_console(struct client *client, const char *cmdlet, const char *name)
{
	struct error err;
	int fd = client_console(client, name, &err);

	if (fd < 0)
		return print_error(cmdlet, name, err.text);
	switch (console_run(fd, name)) {
	case CONSOLE_LEFT:
		return EXIT_DONE;
	case CONSOLE_INTERRUPTED:
		return EXIT_FAILED;
	default:
		return judge_end(client, name);
	}
}

static void show_session(void *vm, const char *host, const char *port)
{
	bool v6 = strchr(host, ':');

	printf("RDP clients reach '%s' at %s%s%s:%s; Ctrl-C ends this and their sessions.\n",
	       (const char *)vm, v6 ? "[" : "", host, v6 ? "]" : "", port);
	fflush(stdout);
}

static int connect_vm(struct client *client, const json_t *params)
{
	const char *name = json_string_value(json_object_get(params, "Name"));

	const char *address = json_string_value(json_object_get(params, "ListenAddress"));
	struct error err;

	if (!name)
		return print_error("Connect-VM", NULL, "Connect-VM needs -Name");
	if (json_is_true(json_object_get(params, "EnhancedSession")))
		return session_run(client, name, address, show_session, (void *)(uintptr_t)name,
				   &err) < 0
			   ? print_error("Connect-VM", name, err.text)
			   : EXIT_DONE;
	if (address)
		return print_error("Connect-VM", name, "-ListenAddress goes with -EnhancedSession");
	return run_console(client, "Connect-VM", name);
}

static int connect_socket(struct client *client, const json_t *params)
{
	const char *name = json_string_value(json_object_get(params, "VMName"));
	const char *service = json_string_value(json_object_get(params, "Service"));
	struct error err;
	int fd = client_socket(client, name, service, &err);

	if (fd < 0)
		return print_error("Connect-VMSocket", name, err.text);
	return pump_run(fd, STDIN_FILENO, STDOUT_FILENO) == 0 ? EXIT_DONE : EXIT_FAILED;
}

static int start_with_console(struct client *client, const struct cmdlet *cmdlet,
			      const struct cmdlet_invocation *invocation)
{
	const json_t *names = json_object_get(invocation->params, "Name");
	json_t *answer;
	int status;

	if (json_array_size(names) != 1 ||
	    cmdlet_has_wildcard(json_string_value(json_array_get(names, 0))))
		return print_error(cmdlet->name, NULL,
				   "-Console needs the name of one virtual machine");
	if (run_in_daemon(client, cmdlet, invocation->params, &answer) < 0)
		return EXIT_FAILED;
	status = print_errors(cmdlet, invocation, json_object_get(answer, "errors"));
	json_decref(answer);
	if (status != EXIT_DONE)
		return status;
	return run_console(client, cmdlet->name, json_string_value(json_array_get(names, 0)));
}

/* ---- cmdlets of the command line's own ---- */

static int help(const char *name)
{
	const struct cmdlet *cmdlet = name ? cmdlet_find(name) : NULL;
	const char *planned, *area, *near;

	if (!name)
		return print_text(cmdlet_overview_text());
	if (cmdlet)
		return print_text(cmdlet_help_text(cmdlet));
	area = cmdlet_planned(name, &planned);
	if (area) {
		printf("%s is not there yet (%s).\n", planned, area);
		return EXIT_DONE;
	}
	near = cmdlet_suggest(name);
	fprintf(stderr, "oyako: there is no cmdlet '%s'%s%s%s\n", name,
		near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
	return EXIT_FAILED;
}

static void list_command(json_t *list, const json_t *patterns, const char *name, const char *status,
			 const char *synopsis)
{
	for (size_t i = 0; i < json_array_size(patterns); i++)
		if (cmdlet_wildcard_match(json_string_value(json_array_get(patterns, i)), name)) {
			json_array_append_new(list,
					      json_pack("{s:s, s:s, s:s}", "Name", name, "Status",
							status, "Synopsis", synopsis));
			return;
		}
}

static int get_command(const struct cmdlet *cmdlet, const struct cmdlet_invocation *invocation)
{
	json_t *checked, *list = json_array();
	const struct cmdlet_name *planned;
	const struct cmdlet *listed;
	struct error err;
	int status;

	if (cmdlet_check(cmdlet, invocation->params, &checked, &err) < 0) {
		json_decref(list);
		return print_error(cmdlet->name, NULL, err.text);
	}
	for (size_t i = 0; (listed = cmdlet_at(i)); i++)
		list_command(list, json_object_get(checked, "Name"), listed->name, "there",
			     listed->synopsis);
	if (json_is_true(json_object_get(checked, "All")))
		for (size_t i = 0; (planned = cmdlet_planned_at(i)); i++)
			list_command(list, json_object_get(checked, "Name"), planned->name,
				     "not yet", planned->area);
	status = print_results(cmdlet, invocation, list);
	json_decref(checked);
	json_decref(list);
	return status;
}

static int completion(const struct cmdlet *cmdlet, const json_t *params)
{
	json_t *checked;
	struct error err;
	int status;

	if (cmdlet_check(cmdlet, params, &checked, &err) < 0)
		return print_error(cmdlet->name, NULL, err.text);
	status = print_text(
	    cmdlet_completion_script(json_string_value(json_object_get(checked, "Shell"))));
	json_decref(checked);
	return status;
}

static int print_openapi(void)
{
	json_t *document = cmdlet_openapi(OYAKO_VERSION);
	char *text = json_dumps(document, JSON_INDENT(2));
	int r = text && puts(text) >= 0 ? EXIT_DONE : EXIT_FAILED;

	json_decref(document);
	free(text);
	return r;
}

/* ---- the event log as it grows ---- */

struct follow {
	const struct cmdlet *cmdlet;
	bool json;
};

static void show_event(void *user, const json_t *event)
{
	const struct follow *follow = user;
	char *text = follow->json ? json_dumps(event, JSON_COMPACT) : NULL;

	if (text)
		puts(text);
	else
		print_text(cmdlet_format_line(follow->cmdlet->output, event));
	free(text);
	fflush(stdout);
}

static int follow_events(struct client *client, const struct cmdlet *cmdlet,
			 const struct cmdlet_invocation *invocation, const json_t *params)
{
	struct follow follow = { cmdlet, invocation->json };
	struct error err;

	client_follow(client, params, show_event, &follow, &err);
	return print_error(cmdlet->name, NULL, err.text);
}

/* ---- what completion asks ---- */

/* Names of the daemon's objects, of which params chooses; no daemon is started for it. Of a list it
 * is the last one that is typed. Takes params. */
static void offer_names(const char *cmdlet, json_t *params, const char *typed)
{
	const char *comma = strrchr(typed, ',');
	const char *last = comma ? comma + 1 : typed;
	json_t *answer = NULL, *results;
	struct client *client;
	struct error err;

	if (client_open(NULL, false, &client, &err) == 0) {
		client_run(client, cmdlet, params, NULL, NULL, NULL, &answer, &err);
		client_close(client);
	}
	results = json_object_get(answer, "results");
	for (size_t i = 0; i < json_array_size(results); i++) {
		const char *name = text_of(json_array_get(results, i), "Name");

		if (strncasecmp(name, last, strlen(last)) == 0)
			printf("%.*s%s\n", (int)(last - typed), typed, name);
	}
	json_decref(params);
	json_decref(answer);
}

static int complete(int count, char *const *words)
{
	static const char *const services[] = { "Shutdown",  "Time Synchronization",
						"Heartbeat", "Key-Value Pair Exchange",
						"VSS",       "Guest Service Interface" };
	const char *typed = count ? words[count - 1] : "";
	struct cmdlet_candidates found;

	cmdlet_complete(count, words, &found);
	for (size_t i = 0; i < json_array_size(found.words); i++)
		puts(json_string_value(json_array_get(found.words, i)));
	if (found.offer == CMDLET_OFFER_FILE)
		puts(":file");
	else if (found.offer == CMDLET_OFFER_VM)
		offer_names("Get-VM", json_object(), typed);
	else if (found.offer == CMDLET_OFFER_SWITCH)
		offer_names("Get-VMSwitch", json_object(), typed);
	else if (found.offer == CMDLET_OFFER_CHECKPOINT)
		offer_names("Get-VMSnapshot", json_pack("{s:s}", "VMName", "*"), typed);
	for (size_t i = 0; found.offer == CMDLET_OFFER_SERVICE && i < ARRAY_SIZE(services); i++)
		if (strncasecmp(services[i], typed, strlen(typed)) == 0)
			puts(services[i]);
	json_decref(found.words);
	return EXIT_DONE;
}

/* ---- manual pages, for `make install` ---- */

static int write_page(const char *folder, const char *name, char *text)
{
	AUTO_FREE char *path = NULL;
	FILE *f;
	int r;

	if (!text || asprintf(&path, "%s/%s.1", folder, name) < 0)
		return EXIT_FAILED;
	f = fopen(path, "we");
	r = f && fputs(text, f) >= 0 ? EXIT_DONE : EXIT_FAILED;
	if (f && fclose(f) != 0)
		r = EXIT_FAILED;
	free(text);
	return r;
}

static int write_man_pages(const char *folder)
{
	int status = write_page(folder, "oyako", cmdlet_man_page(NULL));
	const struct cmdlet *cmdlet;

	for (size_t i = 0; status == EXIT_DONE && (cmdlet = cmdlet_at(i)); i++) {
		char name[80] = "oyako-";
		size_t len = strlen(name);

		for (const char *p = cmdlet->name; *p && len + 1 < sizeof(name); p++)
			name[len++] = (char)tolower((unsigned char)*p);
		name[len] = '\0';
		status = write_page(folder, name, cmdlet_man_page(cmdlet));
	}
	return status;
}

/* ---- main ---- */

static int run_request(const struct cmdlet *cmdlet, struct cmdlet_invocation *invocation,
		       json_t **results);

/* For objects that come as a table: a whole_fetch. */
static json_t *fetch(const struct cmdlet *cmdlet, const json_t *params)
{
	struct cmdlet_invocation invocation = { .params = json_deep_copy(params),
						.quiet = true,
						.confirm = -1 };
	json_t *results = NULL;

	run_request(cmdlet, &invocation, &results);
	json_decref(invocation.params);
	return results;
}

static int run_in_client(const struct cmdlet *cmdlet, const struct cmdlet_invocation *invocation)
{
	struct error err;

	if (strcmp(cmdlet->name, "Help") == 0)
		return help(json_string_value(json_object_get(invocation->params, "Name")));
	if (strcmp(cmdlet->name, "Get-Command") == 0)
		return get_command(cmdlet, invocation);
	if (strcmp(cmdlet->name, "Get-VMApiDescription") == 0)
		return print_openapi();
	if (strcmp(cmdlet->name, "Completion") == 0)
		return completion(cmdlet, invocation->params);
	return objects_run(cmdlet, invocation->params, invocation->json, terminal_width(), fetch,
			   &err) < 0
		   ? print_error(cmdlet->name, NULL, err.text)
		   : EXIT_DONE;
}

/* host NULL: this one; so below. */
static int run_with_daemon(const char *host, const struct cmdlet *cmdlet,
			   const struct cmdlet_invocation *invocation, const json_t *params,
			   json_t **results)
{
	struct client *client;
	struct error err;
	int status;

	if (client_open(host, true, &client, &err) < 0)
		return print_error(cmdlet->name, NULL, err.text);
	if (invocation->what_if)
		status = say_what_if(client, cmdlet, invocation);
	else if (json_is_true(json_object_get(invocation->params, "Console")))
		status = start_with_console(client, cmdlet, invocation);
	else if (strcmp(cmdlet->name, "Get-VMEvent") == 0 &&
		 json_is_true(json_object_get(params, "Wait")))
		status = follow_events(client, cmdlet, invocation, params);
	else
		status = run_plain(client, cmdlet, invocation, host, results);
	client_close(client);
	return status;
}

/* The cmdlets of ours that need the daemon. */
static int run_beside_daemon(const char *host, const struct cmdlet *cmdlet,
			     const struct cmdlet_invocation *invocation, const json_t *params)
{
	struct client *client;
	struct error err;
	int status;

	if (client_open(host, true, &client, &err) < 0)
		return print_error(cmdlet->name, NULL, err.text);
	if (strcmp(cmdlet->name, "Connect-VM") == 0)
		status = connect_vm(client, params);
	else if (strcmp(cmdlet->name, "Connect-VMSocket") == 0)
		status = connect_socket(client, params);
	else if (strcmp(cmdlet->name, "Receive-Job") == 0)
		status = receive_jobs(client, invocation, params);
	else if (strcmp(cmdlet->name, "Invoke-Command") == 0)
		status = direct_invoke_command(client, params, invocation->json);
	else if (strcmp(cmdlet->name, "Enter-PSSession") == 0)
		status = direct_enter_session(client, params);
	else
		status = direct_copy_item(client, params);
	client_close(client);
	return status;
}

static int run_on_host(const char *host, const struct cmdlet *cmdlet,
		       const struct cmdlet_invocation *invocation, const json_t *params,
		       json_t **results)
{
	static const char *const alone[] = { "Help",         "Get-Command",
					     "Completion",   "Get-VMApiDescription",
					     "Where-Object", "Select-Object",
					     "Sort-Object",  "Format-List",
					     "Format-Table" };

	if (cmdlet->place == CMDLET_IN_DAEMON)
		return run_with_daemon(host, cmdlet, invocation, params, results);
	for (size_t i = 0; i < ARRAY_SIZE(alone); i++)
		if (strcmp(cmdlet->name, alone[i]) == 0)
			return run_in_client(cmdlet, invocation);
	return run_beside_daemon(host, cmdlet, invocation, params);
}

/* On each of the hosts, one after the other; without any, on this one. */
static int run_on_hosts(const json_t *hosts, const struct cmdlet *cmdlet,
			const struct cmdlet_invocation *invocation, const json_t *params,
			json_t **results)
{
	int status = EXIT_DONE;

	if (!json_array_size(hosts))
		return run_on_host(NULL, cmdlet, invocation, params, results);
	if (json_array_size(hosts) > 1 &&
	    (cmdlet->place == CMDLET_IN_CLIENT || json_is_true(json_object_get(params, "Console"))))
		return print_error(cmdlet->name, NULL, "-ComputerName takes one host here");
	for (size_t i = 0; i < json_array_size(hosts); i++) {
		int one = run_on_host(json_string_value(json_array_get(hosts, i)), cmdlet,
				      invocation, params, results);

		status = status == EXIT_DONE ? one : status;
	}
	return status;
}

/* With the parameters of the invocation, which are what was typed and what a pipe brought. */
static int run_request(const struct cmdlet *cmdlet, struct cmdlet_invocation *invocation,
		       json_t **results)
{
	json_t *checked, *hosts = json_incref(json_object_get(invocation->params, "ComputerName"));
	struct error err;
	int status;

	json_object_del(invocation->params, "ComputerName");
	/* What would be refused anyway is refused before a daemon is started for it. */
	if (cmdlet_check(cmdlet, invocation->params, &checked, &err) < 0) {
		print_error(cmdlet->name, NULL, err.text);
		status = EXIT_USAGE;
	} else {
		status = run_on_hosts(hosts, cmdlet, invocation, checked, results);
		json_decref(checked);
	}
	json_decref(hosts);
	return status;
}

/* ---- pipes ---- */

/* Each request is made one for each of the objects; takes requests. NULL: see err. */
static json_t *bind_each(const struct cmdlet *cmdlet, json_t *requests, const json_t *objects,
			 struct error *err)
{
	json_t *all = json_array(), *some;
	int r = 0;

	for (size_t i = 0; r == 0 && i < json_array_size(requests); i++) {
		r = cmdlet_bind_objects(cmdlet, json_array_get(requests, i), objects, &some, err);
		if (r == 0) {
			json_array_extend(all, some);
			json_decref(some);
		}
	}
	json_decref(requests);
	if (r == 0)
		return all;
	json_decref(all);
	return NULL;
}

/* What is to be asked for, the caller's: what was typed, with the objects among it and those that
 * come through a pipe; nothing, where no object comes. */
static int make_requests(const struct cmdlet *cmdlet, const struct cmdlet_invocation *invocation,
			 json_t **ret, struct error *err)
{
	json_t *requests = json_pack("[O]", invocation->params), *objects;

	for (size_t i = 0; requests && i < json_array_size(invocation->objects); i++)
		requests = bind_each(cmdlet, requests, json_array_get(invocation->objects, i), err);
	if (requests && json_array_size(requests) &&
	    cmdlet_takes_objects(cmdlet, json_array_get(requests, 0)) &&
	    objects_come(STDIN_FILENO)) {
		if (objects_read(&objects, NULL, err) < 0) {
			json_decref(requests);
			return -(int)err->code;
		}
		requests = bind_each(cmdlet, requests, objects, err);
		json_decref(objects);
	}
	*ret = requests;
	return requests ? 0 : -(int)err->code;
}

static int run_requests(const struct cmdlet *cmdlet, struct cmdlet_invocation *invocation,
			const json_t *requests)
{
	json_t *results = NULL, *typed = invocation->params;
	int status = EXIT_DONE, printed = EXIT_DONE;

	for (size_t i = 0; i < json_array_size(requests); i++) {
		int one;

		invocation->params = json_array_get(requests, i);
		one = run_request(cmdlet, invocation, &results);
		status = status == EXIT_DONE ? one : status;
	}
	invocation->params = typed;
	if (results)
		printed = print_results(cmdlet, invocation, results);
	json_decref(results);
	return status ? status : printed;
}

static int run_cmdlet(const struct cmdlet *cmdlet, int argc, char *const *argv)
{
	struct cmdlet_invocation invocation;
	json_t *requests = NULL;
	struct error err;
	int status;

	if (cmdlet_parse(cmdlet, argc, argv, &invocation, &err) < 0) {
		print_error(cmdlet->name, NULL, err.text);
		return EXIT_USAGE;
	}
	if (invocation.help)
		status = help(cmdlet->name);
	else if (make_requests(cmdlet, &invocation, &requests, &err) < 0)
		status = print_error(cmdlet->name, NULL, err.text);
	else
		status = run_requests(cmdlet, &invocation, requests);
	json_decref(requests);
	json_decref(invocation.params);
	json_decref(invocation.objects);
	return status;
}

static int unknown(const char *name)
{
	const char *planned, *area = cmdlet_planned(name, &planned), *near;

	if (area) {
		fprintf(stderr, "oyako: %s is not there yet (%s)\n", planned, area);
		return EXIT_FAILED;
	}
	near = cmdlet_suggest(name);
	fprintf(stderr, "oyako: there is no cmdlet '%s'%s%s%s; `oyako help` lists them\n", name,
		near ? ", did you mean " : "", near ? near : "", near ? "?" : "");
	return EXIT_USAGE;
}

int main(int argc, char **argv)
{
	const char *word = argc > 1 ? argv[1] : "help";
	const struct cmdlet *cmdlet;

	if (argc == 1 && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO))
		return shell_run();
	if (strcmp(word, "__complete") == 0)
		return complete(argc - 2, argv + 2);
	if (strcmp(word, "__man") == 0 && argc == 3)
		return write_man_pages(argv[2]);
	if (strcmp(word, "__status") == 0)
		return print_text(cmdlet_status_text());
	if (strcmp(word, "--version") == 0) {
		printf("oyako %s\n", OYAKO_VERSION);
		return EXIT_DONE;
	}
	if (strcmp(word, "--help") == 0 || strcmp(word, "-?") == 0 || strcmp(word, "-h") == 0)
		return help(NULL);
	cmdlet = cmdlet_find(word);
	return cmdlet ? run_cmdlet(cmdlet, argc - 2, argv + (argc > 2 ? 2 : argc)) : unknown(word);
}
