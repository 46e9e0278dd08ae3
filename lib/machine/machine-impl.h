/* The machine's inside, shared by the files of this folder. */
#ifndef MACHINE_MACHINE_IMPL_H
#define MACHINE_MACHINE_IMPL_H

#include "machine/machine.h"

#include "bus/bus.h"
#include "hv/hv.h"
#include "mem/mem.h"
#include "part/part.h"

#endif
