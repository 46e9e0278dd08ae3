/*
 * Ports CF8h to CFFh: PCI configuration mechanism 1 and, inside it at CF9h, the reset control
 * register of the PIIX.
 *
 * There is no PCI function behind it yet (firmware brings them): every configuration read gives all
 * ones. The address register must be there all the same, or Linux complains that it finds no way to
 * configuration space.
 *
 * Registers: any thread. reset is called on the VP's thread without the lock. new, free: the
 * loop's.
 *
 * Specification: PCI Local Bus 3.0, section 3.2.2.3.2; Intel 82371 (PIIX3), section 2.5.
 */
#ifndef CHIPSET_PCI_H
#define CHIPSET_PCI_H

#include "bus/bus.h"
#include "state/state.h"

#define PCI_CONFIG_PORT 0xcf8
#define PCI_RESET_PORT  0xcf9
#define PCI_RESET_VALUE 0x06 /* hard reset at once */

struct pci;

struct pci_config {
	struct bus *bus; /* borrowed */
	void *user;
	void (*reset)(void *user);
};

struct pci_state {
	uint32_t address;
	uint8_t reset_control;
};

extern const struct state_desc pci_state_desc;

int pci_new(const struct pci_config *config, struct pci **ret, struct error *err);
void pci_free(struct pci *pci);
void pci_reset(struct pci *pci);

/* Both while the VPs stand still; the restored lines and timers are set. */
void pci_save(struct pci *pci, struct state_out *out);
int pci_restore(struct pci *pci, struct state_in *in, struct error *err);

#endif
