/* Ties a stream socket to two descriptors of ours. */
#ifndef CLI_PUMP_H
#define CLI_PUMP_H

/* Takes fd. The end of `in` ends that direction only; returns when the other end has sent all: 0,
 * or -1 where nobody takes what it sends. */
int pump_run(int fd, int in, int out);

#endif
