/*
 * The SMBIOS tables of a VM, as Hyper-V's firmware shows them: "Microsoft Corporation", "Virtual
 * Machine". Guests look at these strings, ata_piix and cloud-init among them. Written into guest
 * RAM at SMBIOS_TABLES_GPA with both anchors (2.1 and 3.0), where a scan finds them.
 */
#ifndef FW_SMBIOS_H
#define FW_SMBIOS_H

#include "base/guid.h"
#include "mem/mem.h"

#define SMBIOS_TABLES_GPA   UINT64_C(0xf0000)
#define SMBIOS_TABLES_BYTES 0x10000u

#define SMBIOS_SERIAL_SIZE 33 /* "0123-4567-8901-2345-6789-0123-45" and a NUL */

struct smbios_config {
	unsigned generation; /* 1 or 2 */
	struct guid vm_id;   /* becomes the system's UUID */
	unsigned vp_count;
};

void smbios_install(struct mem *mem, const struct smbios_config *config);

/* The machine's serial number: 26 decimal digits in Hyper-V's grouping, from the VM's id. */
void smbios_serial(const struct guid *vm_id, char ret[static SMBIOS_SERIAL_SIZE]);

#endif
