"""The Debian package on a Debian with systemd: a guest of ours is the host, and has guests of its own on the software CPU.
(OYAKO_LONG)
"""
import os
import shutil
import subprocess

import pytest

from conftest import GUESTS, LONG, TOP, Console, kernel_of, making, tool, wait_for

pytestmark = pytest.mark.skipif(not LONG, reason="takes a quarter of an hour")


def make_deb(folder, version):
    env = dict(os.environ, OYAKO_DEB_VERSION=version)
    out = subprocess.run([os.path.join(TOP, "tools", "deb"), os.path.join(GUESTS, "package")], check=True,
                         stdout=subprocess.PIPE, text=True, env=env).stdout
    return shutil.copy(out.split("\n")[-2], os.path.join(folder, version + ".deb"))


def dependencies(deb):
    depends = subprocess.run(["dpkg-deb", "-f", deb, "Depends"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return [each.split()[0] for each in depends.split(",")]


@pytest.fixture
def media(tmp_path):
    """An ISO with two versions of the package and what a small guest boots from; and the host's disk."""
    content = tmp_path / "content"
    content.mkdir()
    kernel = kernel_of("cloud")
    tool("install-packages", "package")
    for version in ("1.0", "1.1"):
        deb = make_deb(content, version)
    shutil.copy(kernel.image, content / "vmlinuz")
    shutil.copy(kernel.initrd_with(str(tmp_path), "while :; do sleep 1; done\n"), content / "initrd.gz")
    iso = tmp_path / "media.iso"
    subprocess.run(["genisoimage", "-quiet", "-J", "-r", "-o", iso, content], check=True)
    folder = os.path.join(GUESTS, "debian-12-host")
    with making():
        tool("guest-disk", folder, *dependencies(deb))
    return iso, folder


class Machine:
    """The host in the guest: commands that must succeed."""

    def __init__(self, console):
        self.console = console

    def run(self, command, seconds=300):
        out = self.console.command("%s; echo status=$?" % command, seconds)
        text, _, status = out.rpartition("status=")
        assert status.strip() == "0", "%s: %s" % (command, out)
        return text.strip()

    def state(self):
        return self.run("oyako get-vm tiny | oyako select-object -ExpandProperty State")

    def worker(self):
        """The process of the one virtual machine, which must run."""
        state = self.state()
        assert state == "Running", state
        return self.run("pgrep -x oyako-worker")


def test_service_under_running_machines(host, media, tmp_path):
    iso, folder = media
    disk = tmp_path / "host.vhdx"
    shutil.copyfile(os.path.join(folder, "disk.vhdx"), disk)
    host.new_vm(os.path.join(folder, "vmlinuz"), "host", memory="1GB", initrd=os.path.join(folder, "initrd.img"),
                options=("-VHDPath", str(disk)), cmdline="root=LABEL=oyako-root ro console=ttyS0")
    host.run("add-vmdvddrive", "-VMName", "host", "-Path", str(iso))
    host.run("start-vm", "-Name", "host")
    console = Console(host, "host")
    console.login(900)
    machine = Machine(console)
    machine.run("mkdir /dvd && mount /dev/sr0 /dvd && dpkg -i /dvd/1.0.deb")
    assert machine.run("systemctl is-active oyakod.socket oyako-guests.service") == "active\nactive"
    # What the units say is understood, but for what only newer ones of systemd do; there are no manuals here.
    complaints = machine.run("systemd-analyze verify oyakod.service oyakod.socket oyako-guests.service 2>&1 |"
                             " grep -e oyako | grep -v -e DelegateSubgroup -e \"'man \" || true")
    assert complaints == ""
    machine.run("cp /dvd/vmlinuz /dvd/initrd.gz /root")
    machine.run("oyako new-vm -Name tiny -MemoryStartupBytes 256MB -NoVHD -LinuxKernelPath /root/vmlinuz"
                " -LinuxInitrdPath /root/initrd.gz -LinuxCommandLine console=ttyS0")
    machine.run("oyako set-vm tiny -AutomaticStopAction Save -AutomaticStartAction StartIfRunning")
    machine.run("oyako start-vm tiny")
    worker = machine.worker()
    service = machine.run("systemctl show -P MainPID oyakod.service")
    machine.run("systemctl restart oyakod.service")
    assert machine.worker() == worker
    machine.run("dpkg -i /dvd/1.1.deb")
    assert machine.worker() == worker
    upgraded = machine.run("systemctl show -P MainPID oyakod.service")
    assert upgraded not in (service, "0")
    machine.run("kill -9 " + upgraded)
    assert machine.worker() == worker
    # The host goes down and comes up: the guest is saved, and goes on.
    console.send("reboot\n")
    console.login(900)
    assert wait_for(lambda: machine.state() == "Running", 300)
    events = machine.run("oyako get-vmevent tiny | oyako select-object -ExpandProperty Message")
    assert "was saved" in events and "was restored from its saved state" in events
    # Taken away: nothing runs on, what belongs to the user stays.
    machine.run("dpkg -r oyako", 600)
    assert machine.run("ps -eo pid,etimes,args | grep [o]yako || true") == ""
    assert machine.run("ls -d /var/lib/oyako") == "/var/lib/oyako"
    console.close()
    host.run("stop-vm", "host", "-TurnOff")
