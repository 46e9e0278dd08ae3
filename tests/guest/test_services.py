"""Integration services of a stock Debian guest with its hyperv-daemons, by what the guest itself says.

OYAKO_KERNEL=cloud-backports runs them with the kernel and the daemons of bookworm-backports (6.12), OYAKO_LONG=1 or the KVM
backend with both.
"""
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

from conftest import LONG, PATIENCE, Console, Host, debian_of, wait_for

pytestmark = pytest.mark.rig

FLAVOURS = ("cloud", "cloud-backports") if LONG or Host.backend == "kvm" else (os.environ.get("OYAKO_KERNEL", "cloud"),)

SERVICES = ("Shutdown", "Time Synchronization", "Heartbeat", "Key-Value Pair Exchange", "VSS",
            "Guest Service Interface")
COPY = "Guest Service Interface"
DAEMONS = {"Key-Value Pair Exchange": "hv-kvp-daemon", "VSS": "hv-vss-daemon"}


class Debian:
    def __init__(self, host, folder, debian):
        self.host = host
        self.folder = str(folder)
        disk = os.path.join(self.folder, "web.vhdx")
        shutil.copyfile(os.path.join(debian, "disk.vhdx"), disk)
        host.new_vm(os.path.join(debian, "vmlinuz"), "web", memory="768MB", processors=2,
                    initrd=os.path.join(debian, "initrd.img"), options=("-VHDPath", disk),
                    cmdline="root=LABEL=oyako-root ro console=ttyS0")
        host.run("start-vm", "-Name", "web")
        self.console = Console(host, "web")
        self.console.login(900)
        self.connections = 0
        # Kernel 6.12 has file copy for a daemon over uio only, which Debian's package leaves out.
        self.copies = self.console.command("ls /usr/sbin/hv_fcopy_daemon 2>/dev/null") != ""
        self.working = [name for name in SERVICES if name != COPY or self.copies]

    def reconnect(self):
        """A new console, behind whatever it shows of what was said before."""
        self.console.close()
        self.console = Console(self.host, "web")
        self.connections += 1
        self.console.send("echo HERE''AGAIN%d.\n" % self.connections)
        self.console.expect("HEREAGAIN%d." % self.connections, 120)
        self.console.expect("READY> ", 120)

    def status(self, name):
        return self.host.json("get-vmintegrationservice", "web", name)[0]["PrimaryStatusDescription"]

    def control(self, *requests):
        """Answers of the worker itself, as the management service gets them."""
        path = os.path.join(self.host.env["XDG_RUNTIME_DIR"], "oyako", "vm",
                            self.host.vm("web")["VMId"], "control")
        answers = []
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
            control.connect(path)
            for number, request in enumerate(requests):
                control.send(json.dumps({"id": number, **request}).encode())
                while (answer := json.loads(control.recv(1 << 17))).get("id") != number:
                    pass
                answers.append(answer)
        return answers


@pytest.fixture(scope="module", params=FLAVOURS)
def web(request, tmp_path_factory):
    host = Host(tmp_path_factory.mktemp("host"))
    guest = Debian(host, tmp_path_factory.mktemp("services"), debian_of(request.param))
    yield guest
    guest.console.close()
    host.clean_up()


def test_each_is_disabled_and_enabled_live(web):
    listed = web.host.json("get-vmintegrationservice", "web")
    assert [s["Name"] for s in listed] == list(SERVICES)
    assert {s["Name"]: s["Enabled"] for s in listed} == {name: name != COPY for name in SERVICES}
    for name in SERVICES:
        if name != COPY:
            assert wait_for(lambda: web.status(name) == "OK", 120), (name, web.status(name))
            web.host.run("disable-vmintegrationservice", name, "web")
            assert wait_for(lambda: web.status(name) in ("Disabled", ""), 10)
            # systemd misses a device that comes back before it has seen it go.
            if name in DAEMONS:
                assert wait_for(lambda: web.console.command("systemctl is-active " + DAEMONS[name]) != "active", 60)
        web.host.run("enable-vmintegrationservice", name, "web")
    # Faster than the guest can follow.
    for _ in range(10):
        web.host.run("disable-vmintegrationservice", "Heartbeat", "web")
        web.host.run("enable-vmintegrationservice", "Heartbeat", "web")
    for name in web.working:
        assert wait_for(lambda: web.status(name) == "OK", 120), (name, web.status(name))
    assert web.console.command("dmesg | grep -c WARNING") == "0"
    assert web.console.command("ls /dev/vmbus").split() == (["hv_fcopy"] if web.copies else []) + ["hv_kvp", "hv_vss"]


def test_file_copy_without_a_daemon(web):
    if web.copies:
        pytest.skip("this guest has one")
    web.host.run("enable-vmintegrationservice", COPY, "web")
    assert web.status(COPY) == "No Contact"
    done = web.host.run("copy-vmfile", "web", __file__, "/root/", "Host", check=False)
    assert done.returncode == 1 and "not in contact" in done.stderr and "copy-item" in done.stderr


def test_files_are_copied(web, tmp_path):
    if not web.copies:
        pytest.skip("this guest has no daemon for it")
    web.host.run("enable-vmintegrationservice", COPY, "web")
    source = tmp_path / "some file"
    source.write_bytes(os.urandom(1234567))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    copy = ("copy-vmfile", "web", source)
    assert wait_for(lambda: web.console.command("systemctl is-active hv-fcopy-daemon") == "active", 60)
    first = web.host.run(*copy, "/root/new/place/", "Host", "-CreateFullPath", check=False, timeout=300)
    assert first.returncode == 0, (first.stderr, web.console.command("journalctl -n 30 -u hv-fcopy-daemon | cat"))
    assert web.console.command("sha256sum <'/root/new/place/some file'").split()[0] == digest
    again = web.host.run(*copy, "/root/new/place/", "Host", check=False)
    assert again.returncode == 1 and "there already" in again.stderr
    web.host.run(*copy, "/root/new/place/some file", "Host", "-Force", timeout=300)
    assert web.console.command("sha256sum <'/root/new/place/some file'").split()[0] == digest
    web.console.command("systemctl stop hv-fcopy-daemon")
    done = web.host.run(*copy, "/root/x", "Host", check=False)
    assert done.returncode == 1 and "daemon does not run" in done.stderr
    web.console.command("systemctl start hv-fcopy-daemon")
    web.host.run("disable-vmintegrationservice", COPY, "web")
    done = web.host.run(*copy, "/root/x", "Host", check=False)
    assert done.returncode == 1 and "disabled" in done.stderr
    web.host.run("enable-vmintegrationservice", COPY, "web")


class Amid:
    """A copy of which the guest has some and, for a minute, not all: its daemon gets a few ms of each second. (Signals
    that stop it would also end it, in the middle of a read.)"""

    QUOTA = "systemctl set-property --runtime hv-fcopy-daemon CPUQuota=%s CPUQuotaPeriodSec=%s"

    def __init__(self, web, tmp_path):
        if not web.copies:
            pytest.skip("this guest has no daemon for it")
        if web.host.backend == "kvm":
            pytest.skip("the backend has no part in it, and the rig takes long")
        self.web = web
        self.source = tmp_path / "amid"
        self.copy = ("copy-vmfile", "web", self.source, "/root/", "Host")
        web.host.run("enable-vmintegrationservice", COPY, "web")
        self.source.write_text("first")
        # The guest's daemon misses a device that comes back at once, and is started by udev else.
        web.console.command("systemctl restart hv-fcopy-daemon")
        assert wait_for(lambda: web.host.run(*self.copy, check=False).returncode == 0, 120)
        web.console.command("rm -f /root/amid")
        self.source.write_bytes(os.urandom(16 << 20))

    def start(self):
        self.web.console.command(self.QUOTA % ("0.2%", "1s"))
        copying = subprocess.Popen(self.web.host.command(*self.copy), env=self.web.host.env, stdin=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        self.web.console.command("until [ -s /root/amid ]; do sleep 0.1; done", 300)
        return copying

    def let_go(self):
        self.web.console.command(self.QUOTA % ("", ""))

    def save_and_start(self):
        self.web.host.run("save-vm", "web", timeout=600)
        self.web.host.run("start-vm", "web", timeout=300)
        self.web.reconnect()

    def start_and_save(self):
        copying = self.start()
        self.save_and_start()
        said = copying.communicate(timeout=60 * PATIENCE)[1]
        assert copying.returncode == 1 and "saved" in said, said
        size = int(self.web.console.command("stat -c %s /root/amid"))
        assert 0 < size < self.source.stat().st_size
        self.let_go()


def test_file_copy_goes_on_behind_a_saved_state(web, tmp_path):
    """Who copied hears of it; the same command goes on in the file that the guest has open still. Another one has it
    removed first."""
    amid = Amid(web, tmp_path)
    amid.start_and_save()
    # Without -Force: a copy that began anew would find its own part in the way.
    web.host.run(*amid.copy, timeout=600)
    digest = hashlib.sha256(amid.source.read_bytes()).hexdigest()
    assert web.console.command("sha256sum </root/amid; rm /root/amid", 300).split()[0] == digest

    amid.start_and_save()
    amid.source.write_text("again")
    web.host.run(*amid.copy)
    assert web.console.command("cat /root/amid; rm /root/amid") == "again"


def test_file_copy_goes_on_in_a_checkpoint(web, tmp_path):
    """One of the running guest, taken amid: the copy ends, and once more when the checkpoint was applied."""
    amid = Amid(web, tmp_path)
    digest = hashlib.sha256(amid.source.read_bytes()).hexdigest()
    copying = amid.start()
    web.host.run("set-vm", "web", "-CheckpointType", "Standard")
    web.host.run("checkpoint-vm", "web", "-SnapshotName", "amid", timeout=600)
    amid.let_go()
    said = copying.communicate(timeout=600 * PATIENCE)[1]
    assert copying.returncode == 0, said
    assert web.console.command("sha256sum </root/amid; rm /root/amid", 300).split()[0] == digest

    web.host.run("restore-vmcheckpoint", "-VMName", "web", "-Name", "amid", "-Confirm:false", timeout=600)
    web.host.run("start-vm", "web", timeout=300)
    web.reconnect()
    assert 0 < int(web.console.command("stat -c %s /root/amid")) < amid.source.stat().st_size
    amid.let_go()
    web.host.run(*amid.copy, timeout=600)
    assert web.console.command("sha256sum </root/amid; rm /root/amid", 300).split()[0] == digest
    web.host.run("remove-vmcheckpoint", "-VMName", "web", "-Name", "amid", "-Confirm:false", timeout=600)
    web.host.run("set-vm", "web", "-CheckpointType", "Production")


def test_file_copy_outlives_oyakod(web, tmp_path):
    """The worker goes on with it, and the same command takes it over: here by another name of the same file, by which
    we see that it has."""
    def has_open(path):
        files = "/proc/%d/fd/" % web.host.workers()[0]
        with contextlib.suppress(FileNotFoundError):  # one that was closed just now
            return str(path) in [os.readlink(files + fd) for fd in os.listdir(files)]
    amid = Amid(web, tmp_path)
    alias = tmp_path / "alias"
    alias.hardlink_to(amid.source)
    copying = amid.start()
    assert has_open(amid.source)
    for pid in web.host.processes("oyakod"):
        os.kill(pid, signal.SIGKILL)
    assert copying.wait(60 * PATIENCE) != 0
    again = subprocess.Popen(web.host.command("copy-vmfile", "web", alias, "/root/amid", "Host"), env=web.host.env,
                             stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    taken = wait_for(lambda: has_open(alias) or again.poll() is not None, 60)
    web.reconnect()
    amid.let_go()
    said = again.communicate(timeout=600 * PATIENCE)[1]
    assert taken and again.returncode == 0, said
    digest = hashlib.sha256(amid.source.read_bytes()).hexdigest()
    assert web.console.command("sha256sum </root/amid; rm /root/amid", 300).split()[0] == digest


def test_pairs_go_both_ways(web):
    def pairs(pool):
        return {p["Key"]: p["Value"] for p in web.host.json("get-vmkeyvaluepair", "web", pool)}
    assert wait_for(lambda: web.status("Key-Value Pair Exchange") == "OK", 120)
    web.host.run("set-vmkeyvaluepair", "web", "Role", "straße")
    web.host.run("set-vmkeyvaluepair", "web", "Role2", "x")
    web.host.run("set-vmkeyvaluepair", "web", "Role", "front")
    web.host.run("remove-vmkeyvaluepair", "web", "Role2")
    assert pairs("External") == {"Role": "front"}
    # Records of 512 and 2048 bytes; behind the zero stands anything.
    for skip, text in ((0, "Role"), (512, "front")):
        assert web.console.command("tail -c +%d /var/lib/hyperv/.kvp_pool_0 | tr '\\0' '\\n' | head -n 1"
                                   % (skip + 1)) == text
    assert web.console.command("tr -d '\\0' </var/lib/hyperv/.kvp_pool_3 | grep -c VirtualMachineName") == "1"
    assert pairs("Intrinsic")["OSName"] == "Debian GNU/Linux"
    # A program in the guest tells the host something.
    web.console.command("printf 'Load%508s%s%2045s' '' low '' | tr ' ' '\\0' >/var/lib/hyperv/.kvp_pool_1")
    assert wait_for(lambda: pairs("Guest") == {"Load": "low"}, 60), pairs("Guest")
    missing = web.host.run("remove-vmkeyvaluepair", "web", "NoSuchKey", check=False)
    assert missing.returncode == 1


def test_addresses_are_injected(web):
    """Debian's daemon has no script for it, and says so; with one the addresses arrive."""
    assert wait_for(lambda: web.status("Key-Value Pair Exchange") == "OK", 120)
    set_it = ("set-vmguestnetworkadapter", "web", "-IPAddress", "192.168.7.2,fd00::2", "-Subnet",
              "255.255.255.0,64", "-DefaultGateway", "192.168.7.1", "-DNSServer", "192.168.7.53")
    web.console.command("mkdir -p /usr/libexec/hypervkvpd; cat >/usr/libexec/hypervkvpd/hv_set_ifconfig"
                        " <<'END'\n#!/bin/sh\ncp \"$1\" /var/lib/hyperv/injected\nEND")
    web.console.command("chmod 755 /usr/libexec/hypervkvpd/hv_set_ifconfig; rm -f /var/lib/hyperv/injected")
    done = web.host.run(*set_it, check=False)
    injected = web.console.command("cat /var/lib/hyperv/injected")
    assert done.returncode == 0, (done.stderr, injected)
    for line in ("IPADDR0=192.168.7.2", "NETMASK0=255.255.255.0", "GATEWAY=192.168.7.1", "DNS1=192.168.7.53",
                 "IPV6ADDR=fd00:0000"):
        assert line in injected, injected
    wrong = web.host.run("set-vmguestnetworkadapter", "web", "-Name", "other", "-DHCP", check=False)
    assert wrong.returncode == 1 and "no network adapter 'other'" in wrong.stderr


def test_file_systems_stand_still_for_a_snapshot(web):
    """What a production checkpoint is built on: no write between freeze and thaw."""
    assert wait_for(lambda: web.status("VSS") == "OK", 120)
    assert wait_for(lambda: web.console.command("systemctl is-active hv-vss-daemon") == "active", 60)
    web.console.command("(while sleep 0.1; do date >>/root/ticks; done) & ticker=$!")
    freeze, thaw = {"op": "vss-freeze"}, {"op": "vss-thaw"}
    assert web.control(freeze)[0].get("ok"), web.control(thaw)
    # Reading goes on, writing waits.
    first = web.console.command("wc -l </root/ticks")
    assert web.console.command("sleep 3; wc -l </root/ticks") == first
    assert web.control(freeze)[0]["error"]["code"] == "busy"
    assert web.control(thaw)[0].get("ok")
    assert wait_for(lambda: web.console.command("wc -l </root/ticks") != first, 60)
    assert web.control(thaw)[0]["error"]["code"] == "state"
    web.console.command("kill $ticker; systemctl stop hv-vss-daemon")
    answer = web.control(freeze)[0]
    assert answer["error"]["code"] == "denied" and "daemon does not run" in answer["error"]["text"]
    web.console.command("systemctl start hv-vss-daemon")
    assert wait_for(lambda: web.control(freeze)[0].get("ok"), 60)
    assert web.control(thaw)[0].get("ok")
    assert "WARNING" not in web.console.command("dmesg -r")



def test_production_checkpoint(web, tmp_path):
    """Of a guest that writes: its disk as of then needs no repair, and the same worker goes on."""
    assert wait_for(lambda: web.status("VSS") == "OK", 120)
    web.console.command("touch /root/go; (n=0; while [ -e /root/go ]; do n=$((n + 1)); echo \"line $n\" >>/root/log;"
                        " sync -d /root/log; done) & sleep 2")
    worker = web.host.workers()
    taken = web.host.json("checkpoint-vm", "web", "-SnapshotName", "clean", "-Passthru")[0]
    assert taken["CheckpointType"] == "Production" and not taken["HasMemory"], web.host.json("get-vmevent", "web")
    assert web.host.workers() == worker
    web.console.command("rm /root/go; wait")  # the shell says that its job is done
    lines = int(web.console.command("wc -l </root/log"))
    assert web.console.command("dmesg -r | grep -c -E 'I/O error|WARNING'") == "0"
    raw = str(tmp_path / "raw")
    # Nobody writes to it any more; but it is locked.
    copy = str(tmp_path / "web.vhdx")
    shutil.copyfile(os.path.join(web.folder, "web.vhdx"), copy)
    subprocess.run(["qemu-img", "convert", "-f", "vhdx", "-O", "raw", copy, raw], check=True)
    features = subprocess.run(["/sbin/dumpe2fs", "-h", raw], capture_output=True, text=True, check=True).stdout
    assert "needs_recovery" not in features
    checked = subprocess.run(["/sbin/e2fsck", "-fn", raw], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    log = subprocess.run(["/sbin/debugfs", "-R", "cat /root/log", raw], capture_output=True, text=True).stdout.split("\n")
    assert log.pop() == "" and log == ["line %d" % (n + 1) for n in range(len(log))] and 0 < len(log) < lines


def test_checkpoint_without_the_daemon(web):
    """Nothing can stand still: a standard checkpoint takes the production one's place, and it is said."""
    assert wait_for(lambda: web.status("VSS") == "OK", 120)
    web.console.command("systemctl stop hv-vss-daemon")
    taken = web.host.json("checkpoint-vm", "web", "-SnapshotName", "standard", "-Passthru")[0]
    assert taken["CheckpointType"] == "Standard" and taken["HasMemory"]
    said = [e["Message"] for e in web.host.json("get-vmevent", "web", "-Level", "Warning")]
    assert any("daemon does not run" in text for text in said), said
    web.host.run("set-vm", "web", "-CheckpointType", "ProductionOnly")
    refused = web.host.run("checkpoint-vm", "web", "-SnapshotName", "none", check=False)
    assert refused.returncode == 1 and "daemon does not run" in refused.stderr
    assert [s["Name"] for s in web.host.json("get-vmsnapshot", "web")] == ["clean", "standard"]
    web.host.run("set-vm", "web", "-CheckpointType", "Production")
    web.console.command("systemctl start hv-vss-daemon")


def test_clock_is_set_when_time_synchronization_begins(web):
    def off_by():
        return abs(int(web.console.command("date +%s")) - time.time())
    assert wait_for(lambda: web.status("Time Synchronization") == "OK", 120)
    assert web.console.command("cat /sys/class/ptp/ptp*/clock_name") == "hyperv"
    web.host.run("disable-vmintegrationservice", "Time Synchronization", "web")
    web.console.command("date -s 2020-02-02")
    assert off_by() > 1 << 20
    web.host.run("enable-vmintegrationservice", "Time Synchronization", "web")
    assert wait_for(lambda: off_by() < 5 * PATIENCE, 60), off_by()


def test_guest_shuts_down_while_the_service_is_enabled(web):
    """The last test of these: the guest is off after it."""
    web.host.run("disable-vmintegrationservice", "Shutdown", "web")
    refused = web.host.run("stop-vm", "web", check=False)
    assert refused.returncode == 1 and "shutdown service is not in contact" in refused.stderr
    assert web.console.command("echo still here") == "still here" and web.host.vm("web")["State"] == "Running"
    web.host.run("enable-vmintegrationservice", "Shutdown", "web")
    assert wait_for(lambda: web.status("Shutdown") == "OK", 120)
    web.host.run("stop-vm", "web", timeout=400)
    assert web.host.vm("web")["LastStopCode"] == "guest-shutdown"
    web.console.expect("Power down", 60)
