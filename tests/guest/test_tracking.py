"""Change tracking of a disk that a guest writes to: what is named, live and after the worker was killed."""
import hashlib
import os

from conftest import wait_for
from test_hotplug import shows, start

MIB = 1 << 20


def content_hash(host, path, raw):
    """Of the disk with its parents, flattened by our own Convert-VHD."""
    host.run("convert-vhd", path, raw, "-VHDType", "Dynamic")
    with open(raw, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def changes(host, disk, point):
    return [(c["Offset"], c["Length"]) for c in host.json("get-vhdchange", disk, point)]


def covers(ranges, offset, length):
    return any(start <= offset and offset + length <= start + size for start, size in ranges)


def test_changes_of_a_running_disk(host, kernel, tmp_path):
    disk, full, increment = (str(tmp_path / name) for name in ("disk.vhdx", "full.vhdx", "monday.avhdx"))
    host.run("new-vhd", disk, "128MB", "-BlockSizeBytes", "1MB")
    host.run("enable-vhdchangetracking", disk)
    first = host.json("new-vhdreferencepoint", disk)[0]["Id"]
    host.run("convert-vhd", disk, full)

    console = start(host, kernel, options=("-VHDPath", disk))
    console.command("dmesg -n 1")
    console.command("seq 1 9999999 | head -c 1048576 | dd of=/dev/sda bs=1M seek=3 conv=fsync 2>/dev/null")
    assert changes(host, disk, first) == [(3 * MIB, MIB)]
    second = host.json("new-vhdreferencepoint", disk)[0]["Id"]
    assert changes(host, disk, second) == []
    console.command("seq 1 9999999 | head -c 65536 | dd of=/dev/sda bs=64k seek=1280 conv=fsync 2>/dev/null")
    assert changes(host, disk, second) == [(80 * MIB, 65536)]
    assert changes(host, disk, first) == [(3 * MIB, MIB), (80 * MIB, 65536)]
    assert [p["Id"] for p in host.json("get-vhdreferencepoint", disk)] == [first, second]
    # Under the guest, as of now: what it writes later is not in it, and its disk is what it was.
    under = str(tmp_path / "under.avhdx")
    before = console.command("sha256sum </dev/sda").split()[0]
    host.run("export-vhdchange", disk, first, "-ParentPath", full, "-DestinationPath", under)
    console.command("seq 5 9999999 | head -c 65536 | dd of=/dev/sda bs=64k seek=1280 conv=fsync 2>/dev/null")
    assert wait_for(lambda: host.json("get-vmharddiskdrive", "t")[0]["Path"] == disk, 60)
    assert host.json("get-vmsnapshot", "t") == [] and not [n for n in os.listdir(str(tmp_path)) if "disk_" in n]
    assert content_hash(host, under, str(tmp_path / "under.raw")) == before
    assert os.path.getsize(under) < 64 * MIB
    os.unlink(under)
    assert changes(host, disk, second) == [(80 * MIB, 65536)]

    # What was flushed before the worker dies is on the disk, and named.
    os.kill(host.workers()[0], 9)
    console.close()
    assert wait_for(lambda: host.vm("t")["State"] == "Off", 60)
    after = changes(host, disk, second)
    assert covers(after, 80 * MIB, 65536) and not covers(after, 3 * MIB, MIB)
    assert covers(changes(host, disk, first), 3 * MIB, MIB)
    host.run("export-vhdchange", disk, first, "-ParentPath", full, "-DestinationPath", increment)
    assert content_hash(host, increment, str(tmp_path / "a.raw")) == content_hash(host, disk, str(tmp_path / "b.raw"))
    assert os.path.getsize(increment) < 64 * MIB


def test_begun_and_ended_under_the_guest(host, kernel, tmp_path):
    disk = str(tmp_path / "disk.vhdx")
    host.run("new-vhd", disk, "64MB", "-BlockSizeBytes", "1MB")
    console = start(host, kernel, options=("-VHDPath", disk))
    console.command("dmesg -n 1")
    console.command("seq 1 9999999 | head -c 1048576 | dd of=/dev/sda bs=1M seek=1 conv=fsync 2>/dev/null")
    host.run("enable-vhdchangetracking", disk)
    point = host.json("new-vhdreferencepoint", disk)[0]["Id"]
    console.command("seq 1 9999999 | head -c 1048576 | dd of=/dev/sda bs=1M seek=5 conv=fsync 2>/dev/null")
    assert changes(host, disk, point) == [(5 * MIB, MIB)]
    host.run("stop-vm", "t", "-TurnOff", "-Force")
    console.close()
    assert changes(host, disk, point) == [(5 * MIB, MIB)]
    host.run("disable-vhdchangetracking", disk)
    assert os.listdir(str(tmp_path)).count("disk.vhdx.track") == 0


def put(console, device, megabyte):
    console.command("seq 1 9999999 | head -c 65536 | dd of=%s bs=64k seek=%d conv=fsync 2>/dev/null"
                    % (device, megabyte * 16))


def test_disk_that_is_added(host, kernel, tmp_path):
    disk = str(tmp_path / "disk.vhdx")
    host.run("new-vhd", disk, "64MB", "-BlockSizeBytes", "1MB")
    host.run("enable-vhdchangetracking", disk)
    point = host.json("new-vhdreferencepoint", disk)[0]["Id"]
    console = start(host, kernel)
    console.command("dmesg -n 1")
    host.run("add-vmharddiskdrive", "t", "-Path", disk)
    shows(console, "cat /sys/block/sd?/size", str(64 * 2048))
    put(console, "$(ls -d /dev/sd?)", 7)
    assert changes(host, disk, point) == [(7 * MIB, 65536)]
    host.run("remove-vmharddiskdrive", "t", "-ControllerType", "SCSI", "-ControllerNumber", 0, "-ControllerLocation", 0)
    assert changes(host, disk, point) == [(7 * MIB, 65536)]
    console.close()


def test_chain_changes_under_the_guest(host, kernel, tmp_path):
    """Merged in the middle and at the top, grown, its base moved, with a checkpoint between: nothing is lost, and what
    changed is named exactly."""
    for folder in ("old", "new", "vm"):
        (tmp_path / folder).mkdir()
    base, moved, middle, leaf = (str(tmp_path / name)
                                 for name in ("old/base.vhdx", "new/base.vhdx", "vm/middle.vhdx", "vm/leaf.vhdx"))
    host.run("new-vhd", base, "64MB", "-BlockSizeBytes", "1MB")
    host.run("new-vhd", middle, "-ParentPath", base)
    host.run("new-vhd", leaf, "-ParentPath", middle)
    host.run("enable-vhdchangetracking", leaf)
    point = host.json("new-vhdreferencepoint", leaf)[0]["Id"]
    console = start(host, kernel, options=("-VHDPath", leaf))
    console.command("dmesg -n 1")
    wanted = []

    def write(megabyte):
        put(console, "/dev/sda", megabyte)
        wanted.append((megabyte * MIB, 65536))

    write(1)
    merged = host.json("merge-vhd", middle, "-Passthru")[0]
    assert merged["Path"] == base and not os.path.exists(middle)
    write(3)
    assert host.json("get-vhd", leaf)[0]["ParentPath"] == base

    host.run("resize-vhd", leaf, "96MB")
    shows(console, "cat /sys/block/sda/size", str(96 * 2048))
    write(90)
    assert "can only grow" in host.run("resize-vhd", leaf, "-ToMinimumSize", check=False).stderr

    os.rename(base, moved)
    assert "is in use" in host.run("set-vhd", leaf, "-ParentPath", moved, check=False).stderr
    other = str(tmp_path / "other.vhdx")
    host.run("new-vhd", other, "64MB")
    assert "not the parent that is in use" in host.run("set-vhd", leaf, "-ParentPath", other, "-LeafPath", leaf,
                                                       check=False).stderr
    host.run("set-vhd", leaf, "-ParentPath", moved, "-LeafPath", leaf)
    assert host.json("get-vhd", leaf)[0]["ParentPath"] == moved

    host.run("checkpoint-vm", "t", "-SnapshotName", "one")
    top = host.json("get-vmharddiskdrive", "t")[0]["Path"]
    write(5)
    assert "checkpoint of 't' needs" in host.run("merge-vhd", top, check=False).stderr
    host.run("remove-vmsnapshot", "t", "-Name", "one", "-Confirm:false")
    write(9)
    host.run("merge-vhd", leaf)
    assert host.json("get-vmharddiskdrive", "t")[0]["Path"] == moved and os.listdir(str(tmp_path / "vm")) == []
    write(11)

    tracked = changes(host, moved, point)
    grown = [(64 * MIB, 32 * MIB)]  # what is new counts as changed
    assert tracked == sorted([r for r in wanted if r[0] < 64 * MIB] + grown)
    summed = console.command("sha256sum </dev/sda").split()[0]
    host.run("stop-vm", "t", "-TurnOff", "-Force")
    console.close()
    assert changes(host, moved, point) == tracked
    assert content_hash(host, moved, str(tmp_path / "flat.raw")) == summed
    assert host.run("test-vhd", moved)
