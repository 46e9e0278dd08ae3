#include "case.h"

/* In 16-bit segments the first page is at this offset. */
#define OFFSET_16 0x4000u

const struct cpu_layout cpu_layouts[CPU_MODE_COUNT] = {
	[CPU_MODE_64] = {
		.offset_limit = UINT64_MAX,
		.stack_mask = UINT64_MAX,
		.register_bits = 64,
		.least_address_bits = 32,
	},
	[CPU_MODE_32] = {
		.offset_limit = UINT32_MAX,
		.stack_mask = UINT32_MAX,
		.register_bits = 32,
		.least_address_bits = 32, /* 16 bits don't reach the pages */
	},
	[CPU_MODE_16] = {
		.code_base = CODE_ADDRESS - OFFSET_16,
		.data_base = DATA_ADDRESS - OFFSET_16,
		.offset_limit = 0xffff,
		.stack_mask = 0xffff,
		.register_bits = 32,
		.least_address_bits = 16,
	},
};
