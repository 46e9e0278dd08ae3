"""Disks as a stock kernel's hv_storvsc and sd see them: attributes, content, discard, DVD."""
import hashlib
import json
import os
import socket
import subprocess
import threading
import time

import pytest

ATTRIBUTES = """
for d in sda sdb sr0; do
	[ -e /sys/block/$d ] || continue
	q=/sys/block/$d/queue
	echo "$d size $(cat /sys/block/$d/size) logical $(cat $q/logical_block_size)" \
		"physical $(cat $q/physical_block_size) discard $(cat $q/discard_granularity)" \
		"rotational $(cat $q/rotational) cache $(cat $q/write_cache)" \
		"model $(cat /sys/block/$d/device/model)"
done
"""


def make_vhdx(path, size, *options):
    subprocess.run(["qemu-img", "create", "-q", "-f", "vhdx", *options, path, str(size)], check=True)


def content_of(path, folder):
    raw = os.path.join(folder, "content.raw")
    subprocess.run(["qemu-img", "check", "-q", "-f", "vhdx", path], check=True)
    subprocess.run(["qemu-img", "convert", "-f", "vhdx", "-O", "raw", path, raw], check=True)
    with open(raw, "rb") as f:
        return f.read()


@pytest.mark.parametrize("processors", [1, 4])
def test_dynamic_vhdx(host, kernel, tmp_path, processors):
    """The kernel's view of the disk; what it wrote and flushed is in the file, what it discarded isn't."""
    disk = str(tmp_path / "disk.vhdx")
    make_vhdx(disk, 200 << 20, "-o", "block_size=1M")
    output = host.boot_script(kernel, ATTRIBUTES + """
seq 1 3000000 >/tmp/data
dd if=/tmp/data of=/dev/sda bs=1M seek=3 conv=fsync 2>/dev/null
dd if=/tmp/data of=/dev/sda bs=1M seek=100 conv=fsync 2>/dev/null
blkdiscard -o $((100 << 20)) -l $((16 << 20)) /dev/sda || echo NO-DISCARD
dd if=/tmp/data of=/dev/sda bs=4k seek=49152 count=2048 conv=fsync 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
size=$(stat -c %s /tmp/data)
echo "sum $(dd if=/dev/sda bs=1M skip=3 2>/dev/null | head -c $size | sha256sum | cut -d' ' -f1)"
echo "want $(sha256sum </tmp/data | cut -d' ' -f1)"
echo "zeros $(dd if=/dev/sda bs=1M skip=100 count=16 2>/dev/null | tr -d '\\000' | wc -c)"
dmesg | grep -i -E 'storvsc|I/O error|Sense' | grep -v registering
echo "== end"
""", vm_options=("-VHDPath", disk), processors=processors)
    assert "sda size 409600 logical 512 physical" in output
    assert "rotational 0 cache write back model Virtual Disk" in output
    assert "NO-DISCARD" not in output
    values = dict(line.split(None, 1) for line in output.split("\n")
                  if line.startswith(("sum ", "want ", "zeros ")))
    assert values["sum"] == values["want"]
    assert values["zeros"].strip() == "0"
    assert "I/O error" not in output and "Sense Key" not in output
    data = "".join("%d\n" % n for n in range(1, 3000001)).encode()
    content = content_of(disk, str(tmp_path))
    assert hashlib.sha256(content[3 << 20:(3 << 20) + len(data)]).hexdigest() == values["sum"]
    assert content[100 << 20:116 << 20] == bytes(16 << 20)
    assert content[49152 * 4096:49152 * 4096 + 2048 * 4096] == data[:2048 * 4096]


def test_dvd(host, kernel, tmp_path):
    """An ISO image in a DVD drive: mounted and read; and an empty drive beside it."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "hello.txt").write_text("from the disc\n")
    (tree / "data").write_bytes(os.urandom(3 << 20))
    wanted = hashlib.sha256((tree / "data").read_bytes()).hexdigest()
    iso = str(tmp_path / "disc.iso")
    subprocess.run(["genisoimage", "-quiet", "-R", "-V", "OYAKO", "-o", iso, str(tree)], check=True)

    def add_drives():
        host.run("add-vmdvddrive", "-VMName", "t", "-Path", iso)
        host.run("add-vmdvddrive", "-VMName", "t")

    output = host.boot_script(kernel, """
mount -t iso9660 -o ro /dev/sr0 /mnt || echo NO-MOUNT
cat /mnt/hello.txt
echo "sum $(sha256sum /mnt/data | cut -d' ' -f1)"
umount /mnt
echo "model $(cat /sys/block/sr0/device/model)"
dd if=/dev/sr1 of=/dev/null bs=2k count=1 2>&1 | grep -q -i 'no medium' && echo sr1 empty
dmesg | grep -i -E 'storvsc|I/O error|Sense' | grep -v registering
echo "== end"
""", before_start=add_drives)
    assert "NO-MOUNT" not in output
    assert "from the disc" in output
    assert "sum " + wanted in output
    assert "model Virtual DVD-ROM" in output
    assert "sr1 empty" in output
    assert "I/O error" not in output


def test_vhd(host, kernel, tmp_path):
    """A dynamic VHD: what the guest wrote and discarded is what QEMU finds in the file."""
    disk = str(tmp_path / "disk.vhd")
    host.run("new-vhd", disk, "64MB")
    output = host.boot_script(kernel, """
seq 1 1000000 >/tmp/data
dd if=/tmp/data of=/dev/sda bs=1M seek=3 conv=fsync 2>/dev/null
dd if=/tmp/data of=/dev/sda bs=1M seek=40 conv=fsync 2>/dev/null
blkdiscard -o $((40 << 20)) -l $((8 << 20)) /dev/sda || echo NO-DISCARD
echo 3 >/proc/sys/vm/drop_caches
echo "zeros $(dd if=/dev/sda bs=1M skip=40 count=8 2>/dev/null | tr -d '\\000' | wc -c)"
dmesg | grep -i -E 'storvsc|I/O error|Sense' | grep -v registering
echo "== end"
""", vm_options=("-VHDPath", disk))
    assert "NO-DISCARD" not in output and "I/O error" not in output
    assert "zeros 0" in output
    raw = str(tmp_path / "content.raw")
    subprocess.run(["qemu-img", "convert", "-f", "vpc", "-O", "raw", disk, raw], check=True)
    with open(raw, "rb") as f:
        content = f.read()
    data = "".join("%d\n" % n for n in range(1, 1000001)).encode()
    assert content[3 << 20:(3 << 20) + len(data)] == data
    assert len(content) == 64 << 20 and not any(content[40 << 20:])


@pytest.mark.parametrize("ending", ["vhdx", "vhd"])
def test_differencing(host, kernel, tmp_path, ending):
    """A VM runs on a chain of three; its parents stay as they are; a parent that is missing is named."""
    base, middle, leaf = (str(tmp_path / (name + "." + ending)) for name in ("base", "middle", "leaf"))
    host.run("new-vhd", base, "64MB")
    first = host.boot_script(kernel, """
echo base >/dev/sda; sync
dd if=/dev/zero bs=1M count=2 2>/dev/null | tr '\\000' b >/tmp/b
dd if=/tmp/b of=/dev/sda bs=1M seek=8 conv=fsync 2>/dev/null
echo "== end"
""", vm_options=("-VHDPath", base), name="one")
    assert "== end" in first
    host.run("new-vhd", middle, "-ParentPath", base)
    host.run("new-vhd", leaf, "-ParentPath", middle)
    before = hashlib.sha256(open(base, "rb").read()).hexdigest()
    script = """
echo "start $(head -c 4 /dev/sda)"
echo "sum $(dd if=/dev/sda bs=1M skip=8 count=2 2>/dev/null | tr -d b | wc -c)"
printf leaf | dd of=/dev/sda bs=512 seek=16390 conv=notrunc,fsync 2>/dev/null
echo "leaf $(dd if=/dev/sda bs=512 skip=16390 count=1 2>/dev/null | head -c 8)"
echo "== end"
"""
    second = host.boot_script(kernel, script, vm_options=("-VHDPath", leaf), name="two")
    assert "start base" in second and "sum 0" in second and "leaf leafbbbb" in second
    third = host.boot_script(kernel, script, vm_options=("-VHDPath", leaf), name="three")
    assert "start base" in third and "sum 4" in third
    assert hashlib.sha256(open(base, "rb").read()).hexdigest() == before
    os.rename(middle, middle + ".away")
    failed = host.run("start-vm", "three", check=False)
    assert failed.returncode != 0 and "leaf." + ending in failed.stderr and "-ParentPath" in failed.stderr


class Worker:
    """The control socket of a running VM's worker, as the daemon uses it."""

    def __init__(self, host, name):
        folder = os.path.join(host.env["XDG_RUNTIME_DIR"], "oyako", "vm", host.vm(name)["VMId"])
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(180)
        with open(os.path.join(host.vm(name)["Path"], "vm.json")) as f:
            self.place = {"controller": json.load(f)["scsi_controllers"][0]["id"], "location": 0}
        deadline = time.monotonic() + 120
        while True:
            try:  # the path as it is may be too long for an address
                fd = os.open(folder, os.O_PATH)
                self.socket.connect("/proc/self/fd/%d/control" % fd)
                os.close(fd)
                return
            except OSError:
                assert time.monotonic() < deadline, "no worker in " + folder
                time.sleep(0.1)

    def receive(self, wanted):
        while True:
            message = json.loads(self.socket.recv(1 << 17))
            if wanted(message):
                return message

    def request(self, files=(), **request):
        fds = [os.open(path, os.O_RDWR) for path in files]
        socket.send_fds(self.socket, [json.dumps(dict(request, id=7)).encode()], fds)
        for fd in fds:
            os.close(fd)
        reply = self.receive(lambda message: message.get("id") == 7)
        assert reply.get("ok"), reply

    def push(self, mark, leaf):
        with open(mark, "wb"):
            pass
        self.request([mark, leaf], op="checkpoint", memory=False, disks=[self.place])
        assert os.path.getsize(mark) == 1

    def merge(self, files, layers, first, into):
        mark = os.path.join(os.path.dirname(files[0]), "merge-mark")
        with open(mark, "wb"):
            pass
        self.request([mark, *files], op="merge-disk", first=first, into=into, layers=layers, relative=".\\base",
                     **self.place)
        end = self.receive(lambda message: message.get("event") == "disk-merged")
        assert "error" not in end and os.path.getsize(mark) == 1, end


@pytest.mark.parametrize("ending", ["vhdx", "vhd"])
def test_layers_change_under_the_guest(host, kernel, tmp_path, ending):
    """While the guest writes, its disk gets a new leaf, and all layers are merged into the first one."""
    base, middle, leaf = (str(tmp_path / (name + "." + ending)) for name in ("base", "middle", "leaf"))
    host.run("new-vhd", base, "64MB")
    host.run("new-vhd", middle, "-ParentPath", base)
    host.run("new-vhd", leaf, "-ParentPath", middle)  # linked once more when it is put on top
    problems = []

    def change_layers():
        try:
            worker = Worker(host, "t")
            worker.receive(lambda message: message.get("event") == "state")
            time.sleep(5)
            worker.push(str(tmp_path / "mark"), leaf)
            time.sleep(2)
            worker.merge([middle, base], [1, 2], 1, 2)
            time.sleep(1)
            worker.merge([base], [1], 0, 1)
        except BaseException as problem:  # the test shows it when the guest is off
            problems.append(problem)

    thread = threading.Thread(target=change_layers)
    output = host.boot_script(kernel, """
i=0
while [ $i -lt 150 ]; do
	dd if=/dev/zero bs=64k count=4 2>/dev/null | tr '\\000' "\\\\$(printf %o $((i % 64 + 48)))" >/tmp/piece
	dd if=/tmp/piece of=/dev/sda bs=256k seek=$((i * 37 % 256)) conv=notrunc,fsync 2>/dev/null || echo FAILED
	i=$((i + 1))
	sleep 0.1
done
echo 3 >/proc/sys/vm/drop_caches
echo "sum $(sha256sum </dev/sda | cut -d' ' -f1)"
dmesg | grep -i -E 'I/O error|Sense'
echo "== end"
""", vm_options=("-VHDPath", middle), before_start=thread.start)
    thread.join()
    assert not problems, problems
    assert "FAILED" not in output and "I/O error" not in output
    wanted = [line.split()[1] for line in output.split("\n") if line.startswith("sum ")]
    raw = str(tmp_path / "content.raw")
    subprocess.run(["qemu-img", "convert", "-f", "vpc" if ending == "vhd" else "vhdx", "-O", "raw", base,
                    raw], check=True)
    with open(raw, "rb") as f:
        assert [hashlib.sha256(f.read()).hexdigest()] == wanted
