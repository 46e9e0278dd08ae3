/* UTF-8 from and to UTF-16LE, as guests and disk images have it. */
#ifndef BASE_UTF16_H
#define BASE_UTF16_H

#include <stdint.h>

/* With a terminating zero. Returns the bytes with the zero, or 0 if it does not fit or is not
 * UTF-8. */
uint32_t utf16_from_utf8(const char *text, uint8_t *ret, uint32_t size);
/* Up to a zero or len bytes; malformed parts become U+FFFD. Allocated; NULL without memory. */
char *utf8_from_utf16(const uint8_t *text, uint32_t len);

#endif
