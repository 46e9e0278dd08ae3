/*
 * Writes ACPI Machine Language (ACPI 6.4, chapter 20) for tables that describe devices by
 *constants: scopes, devices and names, no control flow. Byte by byte into a buffer of the caller's;
 *a buffer that is too small is a defect of the caller and aborts.
 *
 *	aml_scope(&aml, "\\_SB");
 *	aml_device(&aml, "COM1");
 *	aml_name_eisa_id(&aml, "_HID", "PNP0501");
 *	aml_end(&aml);
 *	aml_end(&aml);
 */
#ifndef FW_AML_H
#define FW_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AML_MAX_DEPTH 8

struct aml {
	uint8_t *buf;
	size_t size, len;
	size_t open[AML_MAX_DEPTH]; /* where the package length of each open block stands */
	unsigned depth;
};

void aml_init(struct aml *aml, void *buf, size_t size);

/* Blocks; each is closed by aml_end. path: "\\_SB", or one name of up to four characters. */
void aml_scope(struct aml *aml, const char *path);
void aml_device(struct aml *aml, const char *name);
void aml_end(struct aml *aml);

/* Name (name, value) */
void aml_name_integer(struct aml *aml, const char *name, uint64_t value);
void aml_name_string(struct aml *aml, const char *name, const char *value);
/* id: three capital letters and four hexadecimal digits */
void aml_name_eisa_id(struct aml *aml, const char *name, const char *id);
void aml_name_package(struct aml *aml, const char *name, const uint64_t *values, unsigned count);

/* Name (_CRS, ResourceTemplate () {...}): between begin and end come the resources. */
void aml_resources_begin(struct aml *aml);
void aml_resource_io(struct aml *aml, uint16_t port, uint8_t len);
/* Edge-triggered, active high. */
void aml_resource_irq(struct aml *aml, unsigned irq);
/* A window that a bridge or container passes on to its children (resource producer). */
void aml_resource_window(struct aml *aml, uint64_t base, uint64_t size);
void aml_resources_end(struct aml *aml);

#endif
