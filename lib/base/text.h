/* Texts that are put together and taken apart. Any thread; without memory the program ends. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

/* As printf; the caller's. */
char *text_format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The folder that a path is in, as dirname() says; the caller's. */
char *text_folder(const char *path);

/* Text that was cut, or came from elsewhere, as UTF-8: what is no character becomes '?', and the
 * beginning of one at the end goes. */
void text_mend(char *text);

/* Takes "host:port", "[v6]:port", ":port", "host", "[v6]" or "v6" apart. *ret_host has no brackets
 * and is empty where there is none; *ret_port is NULL where there is none. Both are the caller's.
 * Neither is checked. */
void text_split_address(const char *text, char **ret_host, char **ret_port);

#endif
