/*
 * A pool of equal objects for request contexts: after the first burst, getting and putting costs no
 * allocation. One thread. Objects are not cleared.
 */
#ifndef BLK_POOL_H
#define BLK_POOL_H

#include <stddef.h>
#include <stdlib.h>

struct pool {
	size_t object_size;
	void *free_list; /* the first word of a free object points to the next one */
};

static inline void pool_init(struct pool *pool, size_t object_size)
{
	pool->object_size = object_size < sizeof(void *) ? sizeof(void *) : object_size;
	pool->free_list = NULL;
}

/* NULL when the host has no memory. */
static inline void *pool_get(struct pool *pool)
{
	void *object = pool->free_list;

	if (!object)
		return malloc(pool->object_size);
	pool->free_list = *(void **)object;
	return object;
}

static inline void pool_put(struct pool *pool, void *object)
{
	*(void **)object = pool->free_list;
	pool->free_list = object;
}

/* Every object must have been put back. */
static inline void pool_done(struct pool *pool)
{
	while (pool->free_list) {
		void *object = pool->free_list;

		pool->free_list = *(void **)object;
		free(object);
	}
}

#endif
