/* Small language helpers: array and container macros, clean-up attributes, checked arithmetic. */
#ifndef BASE_MACROS_H
#define BASE_MACROS_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)     ((a) < (b) ? (a) : (b))
#define MAX(a, b)     ((a) > (b) ? (a) : (b))
#define BIT(n)        (UINT64_C(1) << (n))
#define KIB           UINT64_C(1024)
#define MIB           (KIB * 1024)
#define GIB           (MIB * 1024)

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* align is a power of two */
#define ALIGN_DOWN(x, align) ((x) & ~((__typeof__(x))(align)-1))
#define ALIGN_UP(x, align)   ALIGN_DOWN((x) + (__typeof__(x))(align)-1, align)

/* a + b (or a * b) into *ret; true when it overflowed */
#define ADD_OVERFLOWS(a, b, ret) __builtin_add_overflow(a, b, ret)
#define MUL_OVERFLOWS(a, b, ret) __builtin_mul_overflow(a, b, ret)
/* true if [off, off + len) lies inside [0, size); never overflows */
#define RANGE_OK(off, len, size) ((off) <= (size) && (len) <= (size) - (off))

/* Scope clean-up: `AUTO_FREE char *s = strdup(x);`, `AUTO_CLOSE int fd = open(...);` */
static inline void macros_free(void *p)
{
	free(*(void **)p);
}
static inline void macros_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}
#define AUTO_FREE  __attribute__((cleanup(macros_free)))
#define AUTO_CLOSE __attribute__((cleanup(macros_close)))
/* Hands an AUTO_FREE pointer (or AUTO_CLOSE descriptor) over to the caller. */
#define TAKE(p)                                                                                    \
	__extension__({                                                                            \
		__typeof__(p) taken_ = (p);                                                        \
		(p) = NULL;                                                                        \
		taken_;                                                                            \
	})
#define TAKE_FD(fd)                                                                                \
	__extension__({                                                                            \
		int taken_ = (fd);                                                                 \
		(fd) = -1;                                                                         \
		taken_;                                                                            \
	})

#endif
