"""What guests do with their Hyper-V devices beyond using them: data that must come back, drivers that
go and come again, processors that leave, old protocol versions, several guests at once.

OYAKO_LONG=1 adds more VMBus versions and a guest with 64 processors.
"""
import hashlib
import os
import re
import signal
import socket
import subprocess

import pytest

from conftest import BUILD, LONG, Console, dmesg_problems, kernel_of, wait_for
from test_boot import sections

NAT = ("-SwitchName", "Default Switch")
LEASE = """
ip link set eth0 up
udhcpc -i eth0 -q -n -t 10 2>&1 | grep 'lease of'
gateway=$(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p')
"""


def blank(host, name, mib):
    path = os.path.join(host.folder, name)
    with open(path, "wb") as f:
        f.truncate(mib << 20)
    return path


def vhdx(host, name, mib, *options):
    path = os.path.join(host.folder, name)
    subprocess.run(["qemu-img", "create", "-q", "-f", "vhdx", *options, path, "%dM" % mib],
                   check=True)
    return path


def add_disk(host, path, vm="t"):
    host.run("add-vmharddiskdrive", "-VMName", vm, "-Path", path)


def healthy(output, may_say=None):
    """The sections that the guest wrote, of which the one named dmesg is clean."""
    got = sections(output)
    assert "end" in got, output[-2000:]
    assert [line for line in dmesg_problems(got["dmesg"]) if not may_say or may_say not in line] == []
    return got


@pytest.mark.rig
@pytest.mark.parametrize("make", [blank, vhdx], ids=["raw", "vhdx"])
def test_written_data_comes_back(host, kernel, make):
    """Four streams write and read at once; then all is read again, past the page cache, and the
    host finds the same in the image."""
    disk = make(host, "data", 256)
    output = host.boot_script(kernel, """
echo 0 >/sys/block/sda/queue/read_ahead_kb
for i in 0 1 2 3; do
	(
	head -c $((4 << 20)) /dev/urandom >/tmp/part$i
	dd if=/tmp/part$i of=/dev/sda bs=64k seek=$((i * 1024)) conv=notrunc oflag=direct 2>/dev/null
	dd if=/dev/sda of=/tmp/back$i bs=4k skip=$((i * 16384)) count=1024 iflag=direct 2>/dev/null
	cmp /tmp/part$i /tmp/back$i && echo "stream $i ok"
	) &
done
wait
sync
echo 3 >/proc/sys/vm/drop_caches
for i in 0 1 2 3; do
	echo "sum$i $(dd if=/dev/sda bs=1M skip=$((i * 64)) count=4 2>/dev/null | sha256sum)"
	echo "was$i $(sha256sum </tmp/part$i)"
done
echo "== dmesg"; dmesg -r
echo "== end"
""", processors=2, vm_options=("-VHDPath", disk))
    healthy(output)
    raw = os.path.join(host.folder, "check.raw")
    subprocess.run(["qemu-img", "convert", "-f", "raw" if make is blank else "vhdx", "-O", "raw",
                    disk, raw], check=True)
    with open(raw, "rb") as f:
        for i in range(4):
            assert "stream %d ok" % i in output
            f.seek(i << 26)
            digest = hashlib.sha256(f.read(4 << 20)).hexdigest()
            assert "sum%d %s" % (i, digest) in output and "was%d %s" % (i, digest) in output


@pytest.mark.rig
def test_drivers_go_and_come_again(host, kernel):
    """hv_netvsc, hv_storvsc and hv_utils are unloaded and loaded again, twice."""
    disk = blank(host, "data", 64)
    output = host.boot_script(kernel, """
again() { insmod /lib/modules/$1.ko; }
for round in 1 2; do
	rmmod hv_netvsc && again hv_netvsc || echo FAILED
	rmmod hv_storvsc && again hv_storvsc || echo FAILED
	rmmod hv_utils && again hv_utils || echo FAILED
	sleep 1
	for i in 1 2 3 4 5 6 7 8 9 10; do [ -e /dev/sda ] || sleep 0.3; done
	head -c 1048576 /dev/urandom >/tmp/r
	dd if=/tmp/r of=/dev/sda oflag=direct bs=64k conv=notrunc 2>/dev/null
	dd if=/dev/sda of=/tmp/s iflag=direct bs=64k count=16 2>/dev/null
	cmp /tmp/r /tmp/s && echo "disk ok in round $round"
""" + LEASE + """
	ping -c 2 -W 5 $gateway >/dev/null && echo "net ok in round $round"
done
for d in /sys/bus/vmbus/devices/*; do [ -e $d/driver ] || echo "UNBOUND $(cat $d/class_id)"; done
echo "== dmesg"; dmesg -r
echo "== end"
""", processors=2, vm_options=("-VHDPath", disk, *NAT))
    got = healthy(output)
    for i in (1, 2):
        assert "disk ok in round %d" % i in output and "net ok in round %d" % i in output
    assert "\nFAILED" not in output and "UNBOUND" not in output
    assert got["dmesg"].count("Heartbeat IC version") == 3


def test_network_adapter_is_set_up_anew(host, kernel):
    """Another MTU and another number of channels mean a new device to the host each time. busybox
    has no ethtool: the guest gets the host's own with the libraries that it wants."""
    def wanted(program):
        listed = subprocess.run(["ldd", program], stdout=subprocess.PIPE, text=True, check=True)
        return re.findall(r"(/[^ ]+) \(0x", listed.stdout)
    ethtool = "/usr/sbin/ethtool"
    if not os.path.exists(ethtool):
        pytest.skip("no ethtool on this host")
    output = host.boot_script(kernel, LEASE + """
try() { ping -c 3 -i 0.2 -W 5 "$@" $gateway >/dev/null && echo "net ok: $*" || echo "NO NET: $*"; }
try -s 56
for mtu in 1280 4000 1500; do
	ip link set eth0 mtu $mtu || echo "MTU $mtu REFUSED"
	try -s 1200
done
cat /sys/class/net/eth0/mtu
for n in 1 4 2; do
	ethtool -L eth0 combined $n || echo "$n CHANNELS REFUSED"
	try -s $((1000 + n))
	echo "channels $n: $(ethtool -l eth0 | grep Combined | tail -n 1)"
done
ethtool -k eth0 | grep -E 'tcp-segmentation-offload|tx-checksumming|rx-checksumming'
ethtool -G eth0 rx 512 tx 256 || echo "RING SIZES REFUSED"
try -s 900
echo "== dmesg"; dmesg -r
echo "== end"
""", processors=4, vm_options=NAT, files=[(ethtool, "/sbin/ethtool")]
        + [(path, path) for path in wanted(ethtool)])
    healthy(output)
    assert "REFUSED" not in output and "NO NET" not in output
    for n in (1, 4, 2):
        assert re.search(r"channels %d: Combined:\s+%d" % (n, n), output), output
    assert "tcp-segmentation-offload: on" in output and "tx-checksumming: on" in output
    assert "rx-checksumming: on" in output


@pytest.mark.rig
def test_processors_leave_and_come_back(host, kernel):
    """Channels that a processor serves move away (or keep it), and traffic goes on."""
    disk = blank(host, "data", 64)
    output = host.boot_script(kernel, LEASE + """
for round in 1 2; do
	for cpu in 1 2 3; do
		echo 0 >/sys/devices/system/cpu/cpu$cpu/online 2>/dev/null && echo "cpu $cpu off" && continue
		for c in /sys/bus/vmbus/devices/*/channels/*/cpu; do
			[ "$(cat $c 2>/dev/null)" = $cpu ] && echo 0 >$c
		done
		echo 0 >/sys/devices/system/cpu/cpu$cpu/online && echo "cpu $cpu off after a move"
	done
	cat /sys/devices/system/cpu/online
	dd if=/dev/sda of=/dev/null bs=64k count=64 iflag=direct 2>/dev/null && echo "disk ok"
	ping -c 3 -i 0.2 -W 5 $gateway >/dev/null && echo "net ok"
	for cpu in 1 2 3; do echo 1 >/sys/devices/system/cpu/cpu$cpu/online; done
	cat /sys/devices/system/cpu/online
	dd if=/dev/sda of=/dev/null bs=64k count=64 iflag=direct 2>/dev/null && echo "disk ok"
	ping -c 3 -i 0.2 -W 5 $gateway >/dev/null && echo "net ok"
done
echo "== dmesg"; dmesg -r
echo "== end"
""", processors=4, vm_options=("-VHDPath", disk, *NAT))
    healthy(output)
    assert output.count("disk ok") == 4 and output.count("net ok") == 4, output[-6000:]
    assert output.count("\n0-3\n") == 2
    assert len(re.findall(r"cpu \d off", output)) == 6, output


@pytest.mark.rig
def test_kernel_starts_the_next_one(host, kernel, tmp_path):
    """kexec, twice: what the old kernel told the hypervisor and VMBus must not hurt the new one."""
    kexec = os.path.join(BUILD, "tests", "guest", "kexec")
    disk = blank(host, "data", 64)
    work = LEASE + """
ping -c 2 -W 5 $gateway >/dev/null && echo "net ok"
head -c 1048576 /dev/urandom >/tmp/r
dd if=/tmp/r of=/dev/sda oflag=direct bs=64k conv=notrunc 2>/dev/null
dd if=/dev/sda of=/tmp/s iflag=direct bs=64k count=16 2>/dev/null
cmp /tmp/r /tmp/s && echo "disk ok"
dmesg -r >/tmp/log
echo "kernel $(sed -n 's/.*kernel_number=//p' /proc/cmdline)"
"""
    last = tmp_path / "last"
    last.mkdir()
    last = kernel.initrd_with(str(last), work + """
echo "== dmesg"; cat /tmp/log
echo "== end"
""")
    again = work + """
/kexec /vmlinuz %s "$(sed 's/kernel_number=.*//' /proc/cmdline) kernel_number=%d"
sleep 20
"""
    middle = tmp_path / "middle"
    middle.mkdir()
    middle = kernel.initrd_with(str(middle), again % ("/last.gz", 3), [
        (kexec, "/kexec"), (kernel.image, "/vmlinuz"), (last, "/last.gz")])
    output = host.boot_script(kernel, again % ("/middle.gz", 2), memory="1GB", processors=2,
                              cmdline="kernel_number=1", vm_options=("-VHDPath", disk, *NAT),
                              files=[(kexec, "/kexec"), (kernel.image, "/vmlinuz"),
                                     (middle, "/middle.gz")])
    # One that the old kernel's timer had raised and nobody had taken, as on any machine.
    healthy(output, may_say="Spurious LAPIC timer interrupt")
    assert re.findall(r"^kernel (\d)$", output, re.M) == ["1", "2", "3"]
    assert output.count("net ok") == 3 and output.count("disk ok") == 3


# hv_vmbus.max_version is major << 16 | minor.
@pytest.mark.parametrize("version", ["2.4", "3.0", "4.1", "5.1"] +
                         (["4.0", "5.0", "5.2"] if LONG else []))
def test_older_vmbus_versions(host, version):
    kernel = kernel_of("cloud")
    major, minor = map(int, version.split("."))
    disk = blank(host, "data", 64)
    output = host.boot_script(kernel, LEASE + """
ping -c 2 -W 5 $gateway >/dev/null && echo "net ok"
head -c 1048576 /dev/urandom >/tmp/r
dd if=/tmp/r of=/dev/sda oflag=direct bs=64k conv=notrunc 2>/dev/null
dd if=/dev/sda of=/tmp/s iflag=direct bs=64k count=16 2>/dev/null
cmp /tmp/r /tmp/s && echo "disk ok"
echo "== dmesg"; dmesg -r
echo "== end"
""", processors=2, cmdline="hv_vmbus.max_version=%d" % (major << 16 | minor),
        vm_options=("-VHDPath", disk, *NAT))
    got = healthy(output)
    assert "Vmbus version:%s" % version in got["dmesg"]
    assert "disk ok" in output and "net ok" in output


def test_two_guests_at_once(host, kernel):
    """Each has its own lease and reaches the gateway; what the host says of them is kept apart."""
    consoles = {}
    for name in ("one", "two"):
        host.new_vm(kernel.image, name, initrd=kernel.initrd, memory="256MB",
                    cmdline="console=ttyS0 cryptomgr.notests quiet", options=NAT)
        host.run("start-vm", "-Name", name)
        consoles[name] = Console(host, name)
    addresses = {}
    for name, console in consoles.items():
        console.expect("/ # ", 120)
        console.plain_shell()
        got = console.command("ip link set eth0 up; udhcpc -i eth0 -q -n 2>&1")
        addresses[name] = re.search(r"lease of ([\d.]+) obtained from ([\d.]+)", got).groups()
    assert addresses["one"][0] != addresses["two"][0]
    for name, console in consoles.items():
        assert ", 0% packet loss" in console.command("ping -c 3 -W 5 " + addresses[name][1])
        assert host.vm(name)["State"] == "Running"
    host.run("stop-vm", "-Name", "one", "-TurnOff")
    assert host.vm("one")["State"] == "Off" and host.vm("two")["State"] == "Running"
    assert ", 0% packet loss" in consoles["two"].command("ping -c 3 -W 5 " + addresses["two"][1])
    consoles["two"].send("poweroff -f\n")
    assert wait_for(lambda: host.vm("two")["State"] == "Off", 60)
    assert host.vm("two")["LastStopCode"] == "guest-shutdown"
    for console in consoles.values():
        console.close()


def test_a_new_switch_takes_the_place_of_a_dead_one(host, kernel):
    """The guest's card loses its link for a moment and is on the network again, with the same address."""
    host.new_vm(kernel.image, initrd=kernel.initrd, memory="256MB",
                cmdline="console=ttyS0 cryptomgr.notests quiet", options=NAT)
    host.run("start-vm", "-Name", "t")
    console = Console(host, "t")
    console.expect("/ # ", 120)
    console.plain_shell()
    lease = re.search(r"lease of ([\d.]+) obtained from ([\d.]+)",
                      console.command("ip link set eth0 up; udhcpc -i eth0 -q -n 2>&1"))
    assert ", 0% packet loss" in console.command("ping -c 2 -W 5 " + lease[2])
    (switch,) = host.processes("oyako-switch")
    os.kill(switch, signal.SIGKILL)
    assert wait_for(lambda: host.processes("oyako-switch") not in ([], [switch]), 60)
    assert wait_for(lambda: ", 0% packet loss" in console.command("ping -c 2 -W 5 " + lease[2]), 60)
    again = console.command("udhcpc -i eth0 -q -n 2>&1")
    assert "lease of %s obtained" % lease[1] in again
    console.close()


def own_kib(pid):
    """What is resident of a worker beyond its guest's memory. What it maps twice counts twice."""
    kib = 0
    with open("/proc/%d/smaps" % pid) as f:
        for line in f:
            words = line.split()
            if "-" in words[0] and len(words) >= 5:
                counts = not any("guest-ram" in word for word in words[5:])
            elif words[0] == "Rss:" and counts:
                kib += int(words[1])
    return kib


@pytest.mark.rig
def test_an_idle_worker_is_small(host, kernel):
    """After a boot, and after disks and network were busy. The software CPU gives back what it keeps of the code that
    it has seen; the guest is none the worse for it."""
    limit = (12 if host.backend == "kvm" else 24) * 1024
    host.new_vm(kernel.image, initrd=kernel.initrd, processors=2,
                cmdline="console=ttyS0 cryptomgr.notests quiet",
                options=("-VHDPath", blank(host, "data", 64), *NAT))
    host.run("start-vm", "-Name", "t")
    console = Console(host, "t")
    console.expect("/ # ", 120)
    console.plain_shell()
    assert "lease of" in console.command("ip link set eth0 up; udhcpc -i eth0 -q -n 2>&1")
    console.command("for i in 1 2 3 4 5 6 7 8; do dd if=/dev/sda of=/dev/null bs=512k count=40 iflag=direct & "
                    "done; wait")
    (worker,) = host.workers()
    assert wait_for(lambda: own_kib(worker) < limit, 60), "%d KiB" % own_kib(worker)
    assert console.command("seq 1000 | md5sum").split()[0] == "53d025127ae99ab79e8502aae2d9bea6"
    console.close()


@pytest.mark.parametrize("processors", [16] + ([64] if LONG else []))
def test_many_processors(host, kernel, processors):
    output = host.boot_script(kernel, """
echo "online $(cat /sys/devices/system/cpu/online)"
for c in $(seq 1 8); do (i=0; while [ $i -lt 2000 ]; do i=$((i + 1)); done; echo "worker done") & done
wait
echo "== dmesg"; dmesg -r
echo "== end"
""", processors=processors, memory="1GB", seconds=600)
    healthy(output)
    assert "online 0-%d\n" % (processors - 1) in output
    assert output.count("worker done") == 8


def test_second_serial_port_is_a_socket(host):
    """COM 2 of Set-VMComPort, both ways."""
    kernel = kernel_of("cloud")
    host.new_vm(kernel.image, initrd=kernel.initrd, memory="512MB",
                cmdline="console=ttyS0 panic=-1 cryptomgr.notests")
    host.run("set-vmcomport", "t", "2", "\\\\.\\pipe\\second")
    host.run("start-vm", "t")
    console = Console(host, "t")
    console.expect("init: ready", 300)
    console.expect("# ", 60)
    console.plain_shell()
    path = host.json("get-vmcomport", "t", "2")[0]["SocketPath"]
    folder = os.open(os.path.dirname(path), os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as port:
            port.settimeout(120)
            port.connect("/proc/self/fd/%d/second" % folder)  # the path itself may be too long
            console.command("exec 3<>/dev/ttyS1")  # the driver forgets what came before
            port.sendall(b"to the guest\n")
            assert "to the guest" in console.command("head -n 1 <&3; echo to the host >&3")
            text = b""
            while b"to the host" not in text:
                text += port.recv(4096)
    finally:
        os.close(folder)
    host.run("stop-vm", "t", "-TurnOff")
    assert not os.path.lexists(path)
