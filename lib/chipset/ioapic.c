#include "chipset/ioapic.h"

#include "base/macros.h"

#include <pthread.h>
#include <stdlib.h>

#define REGION_SIZE 0x1000
#define IOREGSEL    0x00
#define IOWIN       0x10
#define EOI         0x40

#define INDEX_ID    0x00
#define INDEX_VER   0x01
#define INDEX_ARB   0x02
#define INDEX_TABLE 0x10

#define VERSION (0x20u | (IOAPIC_PINS - 1) << 16)

/* Fields of a redirection entry. */
#define ENTRY_VECTOR     UINT64_C(0xff)
#define ENTRY_MODE_SHIFT 8
#define ENTRY_LOGICAL    BIT(11)
#define ENTRY_STATUS     BIT(12) /* read-only; a message never waits here, so always 0 */
#define ENTRY_REMOTE_IRR BIT(14) /* read-only */
#define ENTRY_LEVEL      BIT(15)
#define ENTRY_MASKED     BIT(16)
/* Bits 17..47 are reserved; 48..55 are the extended destination id, 56..63 the destination. */
#define ENTRY_WRITABLE (UINT64_C(0xffff00000001ffff) & ~(ENTRY_STATUS | ENTRY_REMOTE_IRR))

enum delivery_mode { MODE_LOWEST = 1, MODE_EXTINT = 7 };

struct ioapic {
	struct ioapic_config cfg;
	pthread_mutex_t lock;
	struct ioapic_state st;
};

static unsigned entry_mode(uint64_t entry)
{
	return (entry >> ENTRY_MODE_SHIFT) & 7;
}

/* Interrupt message of an entry: SDM volume 3, 11.11. */
static uint64_t entry_address(uint64_t entry)
{
	uint64_t address = 0xfee00000;

	address |= (entry >> 56) << 12;
	address |= ((entry >> 48) & 0xff) << 4;
	if (entry_mode(entry) == MODE_LOWEST)
		address |= BIT(3);
	if (entry & ENTRY_LOGICAL)
		address |= BIT(2);
	return address;
}

static uint32_t entry_data(uint64_t entry)
{
	uint32_t data = entry & (ENTRY_VECTOR | 7u << ENTRY_MODE_SHIFT);

	if (entry & ENTRY_LEVEL)
		data |= BIT(15) | BIT(14);
	return data;
}

static void announce_route(struct ioapic *ioapic, unsigned pin)
{
	uint64_t entry = ioapic->st.entry[pin];

	ioapic->cfg.route(ioapic->cfg.user, pin, entry_address(entry), entry_data(entry),
			  entry & ENTRY_MASKED);
}

static void send(struct ioapic *ioapic, unsigned pin)
{
	uint64_t entry = ioapic->st.entry[pin];

	/* The PIC is wired to LINT0, not to an I/O APIC pin: there is no one to ask for a vector.
	 */
	if (entry_mode(entry) == MODE_EXTINT)
		return;
	ioapic->cfg.msi(ioapic->cfg.user, entry_address(entry), entry_data(entry));
}

/* Sends the interrupt of a level-triggered pin if it is due. */
static void service_level(struct ioapic *ioapic, unsigned pin)
{
	uint64_t entry = ioapic->st.entry[pin];

	if (!(ioapic->st.lines & BIT(pin)) || !(entry & ENTRY_LEVEL) ||
	    (entry & (ENTRY_MASKED | ENTRY_REMOTE_IRR)))
		return;
	ioapic->st.entry[pin] |= ENTRY_REMOTE_IRR;
	send(ioapic, pin);
}

void ioapic_set_irq(struct ioapic *ioapic, unsigned pin, bool level)
{
	bool rises;

	if (pin >= IOAPIC_PINS)
		return;
	pthread_mutex_lock(&ioapic->lock);
	rises = level && !(ioapic->st.lines & BIT(pin));
	if (level)
		ioapic->st.lines |= (uint32_t)BIT(pin);
	else
		ioapic->st.lines &= (uint32_t)~BIT(pin);
	if (ioapic->st.entry[pin] & ENTRY_LEVEL)
		service_level(ioapic, pin);
	else if (rises && !(ioapic->st.entry[pin] & ENTRY_MASKED))
		send(ioapic, pin); /* an edge on a masked pin is lost (3.2.4) */
	pthread_mutex_unlock(&ioapic->lock);
}

static void eoi(struct ioapic *ioapic, uint8_t vector)
{
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t *entry = &ioapic->st.entry[pin];

		if (!(*entry & ENTRY_REMOTE_IRR) || (*entry & ENTRY_VECTOR) != vector)
			continue;
		*entry &= ~ENTRY_REMOTE_IRR;
		service_level(ioapic, pin);
	}
}

void ioapic_eoi(struct ioapic *ioapic, uint8_t vector)
{
	pthread_mutex_lock(&ioapic->lock);
	eoi(ioapic, vector);
	pthread_mutex_unlock(&ioapic->lock);
}

/* ---- registers ---- */

static void write_entry(struct ioapic *ioapic, unsigned index, uint32_t value)
{
	unsigned pin = index / 2, shift = index % 2 * 32;
	uint64_t *entry = &ioapic->st.entry[pin], old = *entry;
	uint64_t half = (uint64_t)UINT32_MAX << shift;

	*entry = (old & ~(half & ENTRY_WRITABLE)) | ((uint64_t)value << shift & ENTRY_WRITABLE);
	/* Linux relies on it: "mask and make it edge" clears a stuck remote IRR. */
	if (!(*entry & ENTRY_LEVEL))
		*entry &= ~ENTRY_REMOTE_IRR;
	if (*entry != old)
		announce_route(ioapic, pin);
	service_level(ioapic, pin);
}

static void write_window(struct ioapic *ioapic, uint32_t value)
{
	unsigned index = ioapic->st.select;

	if (index == INDEX_ID)
		ioapic->st.id = (uint8_t)(value >> 24);
	else if (index >= INDEX_TABLE && index < INDEX_TABLE + 2 * IOAPIC_PINS)
		write_entry(ioapic, index - INDEX_TABLE, value);
}

static uint32_t read_window(const struct ioapic *ioapic)
{
	unsigned index = ioapic->st.select;

	switch (index) {
	case INDEX_ID:
	case INDEX_ARB:
		return (uint32_t)ioapic->st.id << 24;
	case INDEX_VER:
		return VERSION;
	}
	if (index < INDEX_TABLE || index >= INDEX_TABLE + 2 * IOAPIC_PINS)
		return 0;
	index -= INDEX_TABLE;
	return (uint32_t)(ioapic->st.entry[index / 2] >> (index % 2 * 32));
}

/* Registers are 32 bits wide at multiples of 16; software reads and writes them whole. A narrower
 * read gets its bytes, a narrower write is taken as one of the whole register. */
static uint64_t ioapic_read(void *dev, uint64_t offset, unsigned size)
{
	struct ioapic *ioapic = dev;
	uint64_t value = 0;

	pthread_mutex_lock(&ioapic->lock);
	if ((offset & ~UINT64_C(3)) == IOREGSEL)
		value = ioapic->st.select;
	else if ((offset & ~UINT64_C(3)) == IOWIN)
		value = read_window(ioapic);
	pthread_mutex_unlock(&ioapic->lock);
	return value >> (8 * (offset & 3));
}

static void ioapic_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct ioapic *ioapic = dev;

	pthread_mutex_lock(&ioapic->lock);
	if (offset == IOREGSEL)
		ioapic->st.select = (uint8_t)value;
	else if (offset == IOWIN)
		write_window(ioapic, (uint32_t)value);
	else if (offset == EOI)
		eoi(ioapic, (uint8_t)value);
	pthread_mutex_unlock(&ioapic->lock);
}

static const struct bus_ops ioapic_ops = { ioapic_read, ioapic_write };

static void reset_state(struct ioapic *ioapic)
{
	ioapic->st = (struct ioapic_state){ .id = ioapic->cfg.id, .lines = ioapic->st.lines };
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		ioapic->st.entry[pin] = ENTRY_MASKED;
}

void ioapic_reset(struct ioapic *ioapic)
{
	pthread_mutex_lock(&ioapic->lock);
	reset_state(ioapic);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		announce_route(ioapic, pin);
	pthread_mutex_unlock(&ioapic->lock);
}

/* ---- state ---- */

static const struct state_field ioapic_fields[] = {
	STATE(1, struct ioapic_state, id),
	STATE(2, struct ioapic_state, select),
	STATE(3, struct ioapic_state, lines),
	STATE(4, struct ioapic_state, entry),
	STATE_END,
};
const struct state_desc ioapic_state_desc = { "ioapic", sizeof(struct ioapic_state), ioapic_fields,
					      NULL };

void ioapic_save(struct ioapic *ioapic, struct state_out *out)
{
	pthread_mutex_lock(&ioapic->lock);
	state_put(out, &ioapic_state_desc, NULL, &ioapic->st);
	pthread_mutex_unlock(&ioapic->lock);
}

int ioapic_restore(struct ioapic *ioapic, struct state_in *in, struct error *err)
{
	struct ioapic_state st;
	int rc = state_get(in, &ioapic_state_desc, NULL, &st, err);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&ioapic->lock);
	ioapic->st = st;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		announce_route(ioapic, pin);
	pthread_mutex_unlock(&ioapic->lock);
	return 0;
}

int ioapic_new(const struct ioapic_config *config, struct ioapic **ret, struct error *err)
{
	struct ioapic *ioapic = calloc(1, sizeof(*ioapic));

	if (!ioapic)
		return error_set(err, ERR_NO_MEMORY, "no memory for an I/O APIC");
	ioapic->cfg = *config;
	pthread_mutex_init(&ioapic->lock, NULL);
	reset_state(ioapic);
	if (bus_add_mmio(config->bus, IOAPIC_BASE, REGION_SIZE, &ioapic_ops, ioapic, err) < 0) {
		ioapic_free(ioapic);
		return error_prefix(err, "I/O APIC");
	}
	*ret = ioapic;
	return 0;
}

void ioapic_free(struct ioapic *ioapic)
{
	if (!ioapic)
		return;
	bus_remove(ioapic->cfg.bus, ioapic);
	pthread_mutex_destroy(&ioapic->lock);
	free(ioapic);
}
