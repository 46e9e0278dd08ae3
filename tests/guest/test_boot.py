"""Stock kernels with a small initramfs: detection, VMBus, disks, network, power."""
import hashlib
import http.server
import os
import re
import socketserver
import threading

import pytest

from conftest import LONG, Console, dmesg_problems, kernel_of, wait_for

# The kernel is not to write between the report's lines, nor in them, as the realtime one does on a slow host.
REPORT = """
dmesg -n 1
echo "== dmesg"; dmesg -r
echo "== clocksource"; cat /sys/devices/system/clocksource/clocksource0/current_clocksource
echo "== cpus"; grep -c ^processor /proc/cpuinfo
echo "== memory"; sed -n 's/MemTotal: *//p' /proc/meminfo
echo "== vmbus"
for d in /sys/bus/vmbus/devices/*; do
	echo "$(cat $d/class_id) $(basename $(readlink $d/driver 2>/dev/null || echo none))"
done
echo "== end"
"""

NETWORK_CLASS = "{f8615163-df3e-46c5-913f-f2d2f965ed0e}"
SCSI_CLASS = "{ba6163d9-04a1-4d29-b605-72e2ffb1dc7f}"


def sections(output):
    output = re.sub(r"^\[ *\d+\.\d+\] hrtimer: interrupt took .*\n", "", output, flags=re.M)  # a busy host
    parts = re.split(r"^== (\w+)\n", output, flags=re.M)
    return dict(zip(parts[1::2], (text.strip() for text in parts[2::2])))


@pytest.mark.rig
@pytest.mark.parametrize("flavour,processors,memory", [
    ("cloud", 1, "256MB"),
    ("cloud", 4, "512MB"),
    ("cloud", 2, "4GB"),
    ("cloud-backports", 2, "512MB"),
    ("rt", 2, "512MB"),
])
def test_stock_kernel_knows_that_it_is_on_hyper_v(host, flavour, processors, memory):
    got = sections(host.boot_script(kernel_of(flavour), REPORT, processors=processors,
                                    memory=memory))
    assert "end" in got
    log = got["dmesg"]
    assert "Hypervisor detected: Microsoft Hyper-V" in log
    assert re.search(r"Hyper-V: privilege flags low 0x", log)
    assert "Vmbus version:5.3" in log
    assert got["clocksource"] in ("hyperv_clocksource_tsc_page", "tsc")
    assert int(got["cpus"]) == processors
    assert dmesg_problems(log) == []
    kib = int(got["memory"].split()[0])
    wanted = {"256MB": 256, "512MB": 512, "4GB": 4096}[memory] * 1024
    assert wanted * 0.75 < kib <= wanted
    drivers = dict(line.split() for line in got["vmbus"].split("\n"))
    assert drivers[SCSI_CLASS] == "hv_storvsc"
    assert "none" not in drivers.values()


LOCKSTEP_WORK = """
work() {
	seq 1 3000 | sha256sum
	seq 1 3000 | gzip | gunzip | md5sum
	seq 1 3000 | sort -rn | awk '{ s += $1 * 1.5 } END { printf "%.2f\\n", s }'
	n=0; for i in $(seq 1 40); do n=$(expr $n + $(echo $i | wc -c)); done; echo $n
}
work > /tmp/1 & work > /tmp/2 & wait
echo "== first"; cat /tmp/1
echo "== second"; cat /tmp/2
echo "== dmesg"; dmesg -r
echo "== end"
"""


@pytest.mark.rig
@pytest.mark.parametrize("compatible", [False, True])
def test_processor_features(host, kernel, compatible):
    """Linux uses AES and SHA where this host's processor has them, after its own tests of them, unless the guest shall
    do without what some hosts lack."""
    with open("/proc/cpuinfo") as f:
        here = set(re.search(r"^flags.*: (.*)", f.read(), re.M)[1].split())
    folder = os.path.join(kernel.folder, "lib/modules", kernel.release, "kernel")
    modules = ["crypto/cryptd.ko", "crypto/crypto_simd.ko", "arch/x86/crypto/aesni-intel.ko", "arch/x86/crypto/sha256-ssse3.ko",
               "arch/x86/crypto/ghash-clmulni-intel.ko"]
    modules = [module for module in modules if os.path.exists(os.path.join(folder, module))]  # not in the rig
    script = "grep -m1 ^flags /proc/cpuinfo\n"
    script += "".join("insmod /%s\n" % os.path.basename(module) for module in modules)
    output = host.boot_script(
        kernel, script + "cat /proc/crypto; dmesg | grep 'alg: '; echo end\n", cmdline="cryptomgr.notests=0",
        files=[(os.path.join(folder, module), "/" + os.path.basename(module)) for module in modules],
        before_start=lambda: host.run("set-vmprocessor", "t", "-CompatibilityForMigrationEnabled", str(compatible).lower()))
    flags = set(re.search(r"^flags.*: (.*)", output, re.M)[1].split())
    newer = {"aes", "pclmulqdq", "sha_ni", "adx", "movbe", "bmi1", "bmi2", "abm", "xsave", "avx", "avx2", "fma", "f16c"}
    if not compatible and "abm" not in here:  # some hosts' kernels hide it, though CPUID has it
        newer -= {"abm"}
    assert flags & newer == (set() if compatible else here & newer)
    assert {"ssse3", "sse4_2", "popcnt", "cx16"} <= flags
    assert "failed" not in output
    assert ("driver       : __ecb-aes-aesni" in output) == ("aes" in flags and modules != [])
    assert ("driver       : sha256-ni" in output) == ("sha_ni" in flags and modules != [])


@pytest.mark.skipif(not LONG, reason="OYAKO_LONG: a quarter of an hour")
@pytest.mark.parametrize("processors", [1, 2])
def test_translator_and_interpreter_do_the_same(host, kernel, processors):
    """A boot and programs of several kinds in lockstep, where a difference stops the VM."""
    host.backend = "soft-lockstep"
    got = sections(host.boot_script(kernel, LOCKSTEP_WORK, processors=processors, memory="256MB",
                                    seconds=3600))
    numbers = "".join("%d\n" % n for n in range(1, 3001)).encode()
    wanted = [hashlib.sha256(numbers).hexdigest() + "  -", hashlib.md5(numbers).hexdigest() + "  -",
              "%.2f" % (3000 * 3001 / 2 * 1.5), str(9 * 2 + 31 * 3)]
    assert got["first"].split("\n") == got["second"].split("\n") == wanted
    assert "end" in got
    assert dmesg_problems(got["dmesg"]) == []


@pytest.mark.rig
def test_file_through_nat_network(host, kernel, tmp_path):
    """DHCP, then a download from a server on the host's loopback."""

    content = os.urandom(3 << 20)
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "file").write_bytes(content)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "www"))

        def log_message(self, *args):
            pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        output = host.boot_script(kernel, """
ip link set eth0 up
udhcpc -i eth0 -q -n -t 10 || echo NO-LEASE
gateway=$(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p')
wget -q -O /tmp/file http://$gateway:%d/file
echo "sum $(sha256sum /tmp/file | cut -d' ' -f1)"
cat /etc/resolv.conf
""" % server.server_address[1], vm_options=("-SwitchName", "Default Switch"))
        server.shutdown()
    assert "sum " + hashlib.sha256(content).hexdigest() in output
    assert "nameserver" in output


@pytest.mark.rig
def test_guest_reboots_by_itself(host, kernel):
    """A reset in the guest starts it again in the same worker, with its disk still there."""
    disk = host.folder + "/disk.raw"
    with open(disk, "wb") as f:
        f.truncate(64 << 20)
    output = host.boot_script(kernel, """
count=$(dd if=/dev/sda bs=1 count=1 2>/dev/null)
echo "boot number ${count:-?}"
if [ "$count" != 2 ]; then
	[ "$count" = 1 ] && next=2 || next=1
	printf $next | dd of=/dev/sda conv=notrunc,fsync 2>/dev/null
	reboot -f
	sleep 60
fi
""", vm_options=("-VHDPath", disk))
    assert output.count("Hypervisor detected: Microsoft Hyper-V") == 3
    assert "boot number 2" in output


def start_crashing(host, kernel, tmp_path, script, processors=1):
    """Starts a guest that stands still where it crashes."""
    folder = tmp_path / "crash"
    folder.mkdir()
    initrd = kernel.initrd_with(str(folder), script)
    host.new_vm(kernel.image, "crash", initrd=initrd, memory="256MB", processors=processors,
                cmdline="console=ttyS0 cryptomgr.notests panic=0")
    host.run("start-vm", "-Name", "crash")


def crash_of(host):
    """The event of the guest's crash, when it has come."""
    def crashes():
        return [e for e in host.json("get-vmevent", "-VMName", "crash") if e["Event"] == "vm-guest-crashed"]
    (crash,) = wait_for(crashes, 240)
    return crash


@pytest.mark.rig
def test_panic_is_told_with_its_parameters(host, kernel, tmp_path):
    start_crashing(host, kernel, tmp_path, "echo c >/proc/sysrq-trigger")
    crash = crash_of(host)
    # With a message, Linux gives its address and length as the last two, and nothing else.
    numbers = [int(p, 16) for p in crash["Data"]["parameters"]]
    assert numbers[:3] == [0, 0, 0] and numbers[3] % 4096 == 0 and 0 < numbers[4] <= 4096, numbers
    assert "Kernel panic - not syncing: sysrq triggered crash" in crash["Message"]
    host.run("stop-vm", "-Name", "crash", "-TurnOff", "-Force")
    assert host.vm("crash")["State"] == "Off"


@pytest.mark.rig
def test_injected_nmi_makes_the_guest_panic(host, kernel, tmp_path):
    """It was told to, as is done for a dump of a guest that hangs."""
    start_crashing(host, kernel, tmp_path, "echo 1 >/proc/sys/kernel/unknown_nmi_panic; echo BUSY; while :; do :; done",
                   processors=2)
    console = Console(host, "crash")
    console.expect("BUSY", 240)
    console.close()
    host.run("debug-vm", "crash", "-InjectNonMaskableInterrupt", "-Force")
    assert "Kernel panic - not syncing: NMI: Not continuing" in crash_of(host)["Message"]
