/*
 * Reads Hyper-V's XML configuration (version 5.0, up to Windows Server 2012 R2) into the same tree
 * of keys as vmcx.h. UTF-16 with a byte order mark as Hyper-V writes it, and UTF-8 or ASCII
 * whatever the declaration says: edited files are often saved so. A document type is refused.
 */
#ifndef IMPORT_VMXML_H
#define IMPORT_VMXML_H

#include "import/keytree.h"

int vmxml_read(const uint8_t *data, size_t size, struct key **ret, struct error *err);

#endif
