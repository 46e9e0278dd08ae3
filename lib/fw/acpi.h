/*
 * The ACPI tables as Hyper-V presents them to a generation 2 guest that boots without firmware:
 * RSDP, RSDT, XSDT, FADT, FACS, MADT, WAET, OEM0 (a seed for the guest's random generator) and a
 * DSDT with processors, serial ports, clock and the VMBUS device in its container, whose windows
 * are where VMBus devices may put memory. There is no PCI bus, and no S4 (which would switch
 * dynamic memory off).
 */
#ifndef FW_ACPI_H
#define FW_ACPI_H

#include "base/error.h"
#include "mem/mem.h"

#include <stdbool.h>
#include <stdint.h>

/* Where the tables stand; the RSDP is at the start, where a guest that searches finds it. */
#define ACPI_TABLES_GPA   UINT64_C(0xe0000)
#define ACPI_TABLES_BYTES 0x10000u

struct acpi_window {
	uint64_t base, size_bytes; /* size 0: none */
};

struct acpi_config {
	unsigned vp_count; /* APIC ids 0 .. vp_count - 1 */
	bool legacy;       /* there is a PIC, and a PIT on IRQ 0 */
	uint64_t ioapic_gpa;
	uint8_t ioapic_id;
	uint16_t pm1_event_port;   /* 4 bytes: status, enable */
	uint16_t pm1_control_port; /* 2 bytes */
	uint16_t pm_timer_port;    /* 4 bytes, 32 bits count */
	uint16_t reset_port;
	uint8_t reset_value;
	uint8_t sci_irq;
	uint8_t s5_type;                            /* SLP_TYP of soft off */
	struct acpi_window low_window, high_window; /* below and above 4 GiB */
};

/* Writes the tables; returns the RSDP's address. */
uint64_t acpi_install(struct mem *mem, const struct acpi_config *config);

#endif
