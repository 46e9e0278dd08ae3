"""A GUID partition table: makes one, and checks one as a strict reader would (UEFI 5.3.2)."""
import binascii
import struct

ENTRIES = 128 * 128


def make(size, partitions, sector=512):
    """Writes of (offset, bytes) for a disk of size bytes; partitions are (first, last) sectors."""
    sectors = size // sector
    table = b"".join(bytes([i + 1] * 16) + bytes([i + 100] * 16) + struct.pack("<QQQ", first, last, 0) +
                     "p".encode("utf-16-le").ljust(72, b"\0")
                     for i, (first, last) in enumerate(partitions)).ljust(ENTRIES, b"\0")
    span = ENTRIES // sector

    def header(mine, other, entries):
        text = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, mine, other, 2 + span,
                           sectors - span - 2, bytes(range(16)), entries, 128, 128,
                           binascii.crc32(table))
        return text[:16] + struct.pack("<I", binascii.crc32(text)) + text[20:]

    mbr = bytearray(sector)
    mbr[446:462] = struct.pack("<8BII", 0, 0, 2, 0, 0xee, 255, 255, 255, 1, min(sectors - 1, 0xffffffff))
    mbr[510:512] = b"\x55\xaa"
    return [(0, bytes(mbr)), (sector, header(1, sectors - 1, 2)), (2 * sector, table),
            ((sectors - span - 1) * sector, table),
            ((sectors - 1) * sector, header(sectors - 1, 1, sectors - span - 1))]


def check(read, size, sector=512):
    """read(offset, length). Returns the partitions; asserts that both copies are right."""
    sectors = size // sector
    found = []
    for mine, other in ((1, sectors - 1), (sectors - 1, 1)):
        head = read(mine * sector, sector)
        fields = struct.unpack("<8sIIIIQQQQ16sQIII", head[:92])
        assert fields[0] == b"EFI PART" and fields[5] == mine and fields[6] == other, fields
        assert binascii.crc32(head[:16] + bytes(4) + head[20:92]) == fields[3]
        table = read(fields[10] * sector, ENTRIES)
        assert binascii.crc32(table) == fields[13]
        assert fields[8] < sectors - 1 - ENTRIES // sector
        found.append([struct.unpack("<QQ", table[i + 32:i + 48]) for i in range(0, ENTRIES, 128)
                      if any(table[i:i + 16])])
    assert found[0] == found[1]
    return found[0]
