#include "chipset/pci.h"

#include <pthread.h>
#include <stdlib.h>

#define PORTS        8
#define RESET_OFFSET 1
#define ADDRESS_KEPT 0x80fffffcu /* enable, bus, device, function, register */
#define RESET_CPU    0x04        /* 0 to 1: reset */
#define RESET_KEPT   0x0e

struct pci {
	struct pci_config cfg;
	pthread_mutex_t lock;
	struct pci_state st;
};

/* Only a dword access reaches the address register; a byte at CF9h is the reset register. */
static uint64_t pci_read(void *dev, uint64_t offset, unsigned size)
{
	struct pci *pci = dev;
	uint64_t value = UINT64_MAX;

	pthread_mutex_lock(&pci->lock);
	if (offset == 0 && size == 4)
		value = pci->st.address;
	else if (offset == RESET_OFFSET && size == 1)
		value = pci->st.reset_control;
	pthread_mutex_unlock(&pci->lock);
	return value;
}

static void pci_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci *pci = dev;
	bool reset = false;

	pthread_mutex_lock(&pci->lock);
	if (offset == 0 && size == 4) {
		pci->st.address = (uint32_t)value & ADDRESS_KEPT;
	} else if (offset == RESET_OFFSET && size == 1) {
		reset = (value & RESET_CPU) && !(pci->st.reset_control & RESET_CPU);
		pci->st.reset_control = value & RESET_KEPT;
	}
	pthread_mutex_unlock(&pci->lock);
	if (reset)
		pci->cfg.reset(pci->cfg.user);
}

static const struct bus_ops pci_ops = { pci_read, pci_write };

/* ---- state ---- */

static const struct state_field pci_fields[] = {
	STATE(1, struct pci_state, address),
	STATE(2, struct pci_state, reset_control),
	STATE_END,
};
const struct state_desc pci_state_desc = { "pci", sizeof(struct pci_state), pci_fields, NULL };

void pci_save(struct pci *pci, struct state_out *out)
{
	pthread_mutex_lock(&pci->lock);
	state_put(out, &pci_state_desc, NULL, &pci->st);
	pthread_mutex_unlock(&pci->lock);
}

int pci_restore(struct pci *pci, struct state_in *in, struct error *err)
{
	struct pci_state st;
	int rc = state_get(in, &pci_state_desc, NULL, &st, err);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&pci->lock);
	pci->st = st;
	pthread_mutex_unlock(&pci->lock);
	return 0;
}

int pci_new(const struct pci_config *config, struct pci **ret, struct error *err)
{
	struct pci *pci = calloc(1, sizeof(*pci));

	if (!pci)
		return error_set(err, ERR_NO_MEMORY, "no memory for the PCI configuration ports");
	pci->cfg = *config;
	pthread_mutex_init(&pci->lock, NULL);
	if (bus_add_pio(config->bus, PCI_CONFIG_PORT, PORTS, &pci_ops, pci, err) < 0) {
		pci_free(pci);
		return error_prefix(err, "PCI configuration ports");
	}
	*ret = pci;
	return 0;
}

void pci_free(struct pci *pci)
{
	if (!pci)
		return;
	bus_remove(pci->cfg.bus, pci);
	pthread_mutex_destroy(&pci->lock);
	free(pci);
}

void pci_reset(struct pci *pci)
{
	pthread_mutex_lock(&pci->lock);
	pci->st = (struct pci_state){ 0 };
	pthread_mutex_unlock(&pci->lock);
}
