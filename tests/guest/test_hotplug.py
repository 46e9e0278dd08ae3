"""Devices that come to a running guest and go again, as its own drivers see it."""
import hashlib
import os

import pytest

from conftest import LONG, Console, dmesg_problems, wait_for
from test_devices import NAT, blank, healthy, vhdx


def start(host, kernel, *, name="t", processors=1, memory="512MB", options=()):
    host.new_vm(kernel.image, name, initrd=kernel.initrd, memory=memory, processors=processors,
                cmdline="console=ttyS0 panic=-1 cryptomgr.notests", options=options)
    host.run("start-vm", name)
    console = Console(host, name)
    console.expect("init: ready", 240)
    console.expect("# ", 60)
    console.plain_shell()
    return console


def shows(console, command, wanted, seconds=60):
    """Waits until the guest answers command so."""
    got = wait_for(lambda: console.command(command).strip() == wanted, seconds)
    assert got, "%s: %r, not %r" % (command, console.command(command), wanted)


def disks(console):
    return console.command("ls /sys/block | tr '\\n' ' '").split()


@pytest.mark.rig
def test_disks_come_and_go_under_load(host, kernel):
    """One disk is written without a pause while others come and go at one and the same place: what
    was written on each, and synced before it went, is on that one and on no other."""
    rounds = 20 if LONG else 4
    kept = vhdx(host, "kept.vhdx", 64)
    console = start(host, kernel, options=("-VHDPath", kept))
    console.command("dmesg -n 1; (while [ ! -e /tmp/stop ]; do dd if=/dev/zero of=/dev/sda bs=64k"
                    " count=64 oflag=direct 2>/dev/null || echo bad >>/tmp/bad; done &)")
    images = [blank(host, "disk%d" % n, 8 + n) for n in range(2)]
    written = {}
    for n in range(rounds):
        image = images[n % 2]
        host.run("add-vmharddiskdrive", "t", "-Path", image, "-ControllerLocation", 1)
        shows(console, "cat /sys/block/sdb/size", str((8 + n % 2) * 2048))
        console.command("seq %d %d >/tmp/data; cat /tmp/data >/dev/sdb; sync /dev/sdb"
                        % (n * 1000, n * 1000 + 100000))
        host.run("remove-vmharddiskdrive", "t", "-ControllerType", "SCSI", "-ControllerNumber", 0,
                 "-ControllerLocation", 1)
        written[image] = "".join("%d\n" % i for i in range(n * 1000, n * 1000 + 100001)).encode()
        # The next one comes at once: the guest has to tell them apart.
        for path, data in written.items():
            with open(path, "rb") as f:
                assert f.read(len(data)) == data, "round %d, %s" % (n, path)
    shows(console, "ls -d /sys/block/sdb 2>/dev/null", "")
    assert console.command("touch /tmp/stop; cat /tmp/bad 2>/dev/null").strip() == ""
    assert "I/O error" not in console.command("dmesg | grep -w sda")
    console.close()


@pytest.mark.rig
def test_disk_replaced_moved_and_grown(host, kernel):
    first, second = blank(host, "first", 16), blank(host, "second", 24)
    console = start(host, kernel, options=("-VHDPath", first))
    console.command("dmesg -n 1")
    host.run("set-vmharddiskdrive", "t", "-Path", second)
    shows(console, "cat /sys/block/sd?/size", str(24 * 2048))
    host.run("set-vmharddiskdrive", "t", "-ToControllerLocation", 9)
    shows(console, "cat /sys/class/scsi_disk/0:0:0:9/device/block/sd?/size", str(24 * 2048))
    # At once: the guest's driver is still busy with the disk's first mode pages.
    host.run("set-vmharddiskdrive", "t", "-SizeBytes", "40MB")
    shows(console, "cat /sys/class/scsi_disk/0:0:0:9/device/block/sd?/size", str(40 * 2048))
    assert os.path.getsize(second) == 40 << 20
    console.command("echo hello | dd of=$(ls -d /dev/sd?) bs=1M seek=39 conv=sync,fsync 2>/dev/null")
    with open(second, "rb") as f:
        f.seek(39 << 20)
        assert f.read(6) == b"hello\n"
    console.close()


def test_differencing_disk_is_added(host, kernel):
    """With its parents: the guest reads what is theirs, what it writes is the new one's alone."""
    parent, child = vhdx(host, "parent.vhdx", 16), os.path.join(host.folder, "child.vhdx")
    console = start(host, kernel)
    console.command("dmesg -n 1")

    def there():
        shows(console, "cat /sys/block/sd?/size", str(16 * 2048))

    def remove():
        host.run("remove-vmharddiskdrive", "t", "-ControllerType", "SCSI", "-ControllerNumber", 0,
                 "-ControllerLocation", 0)
        shows(console, "ls -d /sys/block/sd? 2>/dev/null", "")

    def put(text):
        console.command("echo %s | dd of=$(ls -d /dev/sd?) conv=sync,fsync 2>/dev/null" % text)

    def read(count):
        return console.command("head -c %d $(ls -d /dev/sd?) </dev/null" % count)

    host.run("add-vmharddiskdrive", "t", "-Path", parent)
    there()
    put("parent")
    remove()
    host.run("new-vhd", child, "-ParentPath", parent, "-Differencing")
    host.run("add-vmharddiskdrive", "t", "-Path", child)
    there()
    assert read(6) == "parent"
    put("child")
    # Moved, it keeps its parents.
    host.run("set-vmharddiskdrive", "t", "-ToControllerLocation", 3)
    shows(console, "cat /sys/class/scsi_disk/0:0:0:3/device/block/sd?/size", str(16 * 2048))
    there()
    assert read(5) == "child"
    host.run("set-vmharddiskdrive", "t", "-ToControllerLocation", 0)
    shows(console, "cat /sys/class/scsi_disk/0:0:0:0/device/block/sd?/size", str(16 * 2048))
    remove()
    host.run("add-vmharddiskdrive", "t", "-Path", parent)
    there()
    assert read(6) == "parent"
    console.close()


def write_all(console, places):
    """Writes and syncs something else to each of the disks of controller 1; returns when all is there."""
    console.command("for n in %s; do d=/dev/$(ls /sys/class/scsi_disk/$host:0:0:$n/device/block);"
                    " echo \"disk $n round $(cat /tmp/round)\" | dd of=$d bs=512 seek=7 conv=sync,fsync 2>/dev/null"
                    " || echo bad >>/tmp/bad; done" % " ".join(map(str, places)), 300)


def read_back(host, places, round_):
    for n in places:
        with open(os.path.join(host.folder, "d%d" % n), "rb") as f:
            f.seek(7 * 512)
            assert f.read(512).rstrip(b"\0") == b"disk %d round %d\n" % (n, round_), n


@pytest.mark.rig
def test_64_disks_and_8_adapters_in_a_loop(host, kernel):
    """They come and go while another disk is written and the network is used: no write is lost and the guest has no
    error (64 disks, and adapters up to the 8 that it may have, with OYAKO_LONG, else fewer)."""
    rounds, disks_, adapters = (5, 64, 7) if LONG else (1, 8, 2)
    console = start(host, kernel, options=(*NAT, "-VHDPath", vhdx(host, "kept.vhdx", 64)))
    console.command("dmesg -n 1; ip link set eth0 up; udhcpc -i eth0 -q -n -t 10 >/dev/null 2>&1")
    gateway = console.command("ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'").strip()
    console.command("dd if=/dev/urandom of=/tmp/data bs=64k count=64 2>/dev/null; (while [ ! -e /tmp/stop ]; do"
                    " dd if=/tmp/data of=/dev/sda bs=64k oflag=direct 2>/dev/null || echo bad >>/tmp/bad; done &)")
    console.command("ping -i 1 %s >/tmp/ping & " % gateway)
    for n in range(disks_):
        blank(host, "d%d" % n, 4)
    for round_ in range(rounds):
        console.command("echo %d >/tmp/round" % round_)
        host.run("add-vmscsicontroller", "t")
        shows(console, "ls -d /sys/class/scsi_host/host* | wc -l", "2")
        # The guest counts its controllers on.
        console.command("host=$(ls -d /sys/class/scsi_host/host* | sort -V | tail -n 1); host=${host##*host}")
        for n in range(disks_):
            host.run("add-vmharddiskdrive", "t", "-Path", os.path.join(host.folder, "d%d" % n), "-ControllerNumber", 1)
            if n < adapters:
                host.run("add-vmnetworkadapter", "t", "-Name", "extra%d" % n, "-SwitchName", "Default Switch")
        shows(console, "ls -d /sys/block/sd* | wc -l", str(disks_ + 1), 300)
        shows(console, "ls /sys/class/net | grep -c eth", str(adapters + 1), 120)
        console.command("for n in $(seq %d); do ip link set eth$n up || echo bad >>/tmp/bad; done" % adapters)
        write_all(console, range(disks_))
        for n in range(0, disks_, 2):
            host.run("remove-vmharddiskdrive", "t", "-ControllerType", "SCSI", "-ControllerNumber", 1,
                     "-ControllerLocation", n)
        host.run("remove-vmnetworkadapter", "t", "extra*")
        shows(console, "ls -d /sys/block/sd* | wc -l", str(disks_ // 2 + 1), 300)
        host.run("remove-vmscsicontroller", "t", "-ControllerNumber", 1)
        read_back(host, range(disks_), round_)
        shows(console, "ls -d /sys/block/sd* | wc -l", "1", 300)
        shows(console, "ls -d /sys/class/scsi_host/host* | wc -l", "1")
        shows(console, "ls /sys/class/net | grep -c eth", "1", 120)
    console.command("touch /tmp/stop; killall ping; wait")
    assert console.command("cat /tmp/bad 2>/dev/null").strip() == ""
    assert console.command("grep -c 'bytes from' /tmp/ping").strip() != "0"
    assert wait_for(lambda: console.command("pidof dd").strip() == "", 60)
    assert console.command("head -c 4194304 /dev/sda | cmp - /tmp/data && echo same").strip() == "same"
    log = console.command("dmesg -r")
    # Of a controller that is withdrawn the driver itself says so: all its disks had left before, and were synced.
    problems = [line for line in dmesg_problems(log)
                if not line.endswith("Synchronize Cache(10) failed: Result: hostbyte=DID_NO_CONNECT driverbyte=DRIVER_OK")]
    assert problems == [], problems
    console.close()


def test_dvd_is_changed(host, kernel):
    discs = []
    for n in (1, 2):
        path = blank(host, "disc%d.iso" % n, n)
        with open(path, "r+b") as f:
            f.write(b"disc %d\n" % n)
        discs.append(path)
    console = start(host, kernel)
    console.command("dmesg -n 1")
    host.run("add-vmdvddrive", "t", "-Path", discs[0])
    shows(console, "head -c 7 /dev/sr0 2>/dev/null", "disc 1")
    host.run("set-vmdvddrive", "t", "-Path", discs[1])
    shows(console, "head -c 7 /dev/sr0 2>/dev/null", "disc 2")
    host.run("set-vmdvddrive", "t", "-Path", "")
    shows(console, "head -c 7 /dev/sr0 2>&1 | grep -c -i medium", "1")
    host.run("remove-vmdvddrive", "t", "-ControllerNumber", 0, "-ControllerLocation", 0)
    shows(console, "ls -d /sys/block/sr0 2>/dev/null", "")
    console.close()


@pytest.mark.rig
def test_adapters_come_and_go(host, kernel):
    """Adapters that are added, unplugged, plugged in and taken away, with traffic on the first."""
    rounds = 10 if LONG else 2
    console = start(host, kernel, options=NAT)
    console.command("dmesg -n 1; ip link set eth0 up; udhcpc -i eth0 -q -n -t 10 >/dev/null 2>&1")
    gateway = console.command("ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p'").strip()
    assert gateway
    console.command("ping -i 1 %s >/tmp/ping & " % gateway)
    for n in range(rounds):
        for k in range(1, 8 if LONG else 4):
            host.run("add-vmnetworkadapter", "t", "-Name", "extra%d" % k, "-SwitchName",
                     "Default Switch")
            shows(console, "ls /sys/class/net | grep -c eth", str(k + 1))
        host.run("remove-vmnetworkadapter", "t", "extra*")
        shows(console, "ls /sys/class/net | grep -c eth", "1")
    host.run("disconnect-vmnetworkadapter", "t")
    shows(console, "cat /sys/class/net/eth0/carrier", "0")
    host.run("connect-vmnetworkadapter", "t", "-SwitchName", "Default Switch")
    shows(console, "cat /sys/class/net/eth0/carrier", "1")
    shows(console, "ping -c 1 -W 5 %s >/dev/null && echo yes" % gateway, "yes")
    console.command("killall ping")
    console.close()
