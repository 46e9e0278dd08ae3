/*
 * Reads the container of Hyper-V's .vmcx and .vmrs files ("HyperVStorage") into a tree of keys.
 * The layout is the one that the public hvs_file description of OpenVMM and real files show;
 * docs/import.md has it in short.
 *
 * The file is hostile: everything is bounds-checked and every checksum verified. A file whose
 * replay log holds a finished transaction is read as if that had been applied; the bytes given are
 * not changed.
 */
#ifndef IMPORT_VMCX_H
#define IMPORT_VMCX_H

#include "import/keytree.h"

/* Whether the bytes look like such a file. */
bool vmcx_probe(const uint8_t *data, size_t size);
int vmcx_read(const uint8_t *data, size_t size, struct key **ret, struct error *err);

#endif
