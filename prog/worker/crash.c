#include "crash.h"

#include "base/macros.h"

#include <execinfo.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_FRAMES 48

static const struct {
	int signal;
	const char *name;
} signals[] = {
	{ SIGSEGV, "Segmentation fault" },
	{ SIGBUS, "Bus error" },
	{ SIGILL, "Illegal instruction" },
	{ SIGFPE, "Arithmetic error" },
	{ SIGABRT, "Aborted" },
};

static void say(const char *text)
{
	if (write(STDERR_FILENO, text, strlen(text)) < 0)
		return; /* there is nobody left to tell */
}

/* stdio is not for signal handlers. */
static void say_hex(uintptr_t value)
{
	char text[2 + 2 * sizeof(value) + 1] = "0x";
	unsigned digits = 1;

	while (digits < 2 * sizeof(value) && value >> (4 * digits))
		digits++;
	for (unsigned i = 0; i < digits; i++)
		text[2 + i] = "0123456789abcdef"[value >> (4 * (digits - 1 - i)) & 15];
	text[2 + digits] = '\0';
	say(text);
}

static void crashed(int number, siginfo_t *info, void *context)
{
	char digits[] = { (char)('0' + number / 10), (char)('0' + number % 10), '\0' };
	void *frames[MAX_FRAMES];

	signal(number, SIG_DFL);
	say("crash: signal ");
	say(number < 10 ? digits + 1 : digits);
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		if (signals[i].signal == number) {
			say(" (");
			say(signals[i].name);
			say(")");
		}
	if (info->si_code > 0 && number != SIGABRT) {
		say(", address ");
		say_hex((uintptr_t)info->si_addr);
	}
	say("\n");
	backtrace_symbols_fd(frames, backtrace(frames, MAX_FRAMES), STDERR_FILENO);
	say("crash end\n");
	raise(number);
}

void crash_watch(void)
{
	/* The threads of the software CPU's VPs have a stack for it. */
	struct sigaction action = { .sa_sigaction = crashed,
				    .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };
	void *frame;

#if defined(__SANITIZE_ADDRESS__)
	return; /* the sanitizer's own report says more */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
	return;
#endif
#endif
	backtrace(&frame, 1);
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i].signal, &action, NULL);
}
