"""A whole Debian with systemd on its VHDX: what an administrator expects of a Hyper-V guest.

OYAKO_LONG=1 boots it with four processors and 4 GB, too, and runs the stress on all kernels, one and four processors,
256 MB and 4 GB.
"""
import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from conftest import LONG, PATIENCE, Console, dmesg_problems, kernel_of, wait_for

# systemd gives up what takes more than 90 seconds, a login on the console too.
SYSTEMD_PATIENCE = "systemd.default_timeout_start_sec=%d systemd.default_device_timeout_sec=%d" % ((90 * PATIENCE,) * 2)


@pytest.fixture
def debian_vm(host, debian, tmp_path):
    """A started Debian VM named `web`, not yet at its login prompt."""
    disk = tmp_path / "web.vhdx"
    shutil.copyfile(os.path.join(debian, "disk.vhdx"), disk)

    def start(memory="1GB", processors=2, kernel=None):
        """kernel: another one than the disk's own, with the initramfs of the tests."""
        image, initrd, root = ((kernel.image, kernel.initrd, "/dev/sda") if kernel else
                               (os.path.join(debian, "vmlinuz"),
                                os.path.join(debian, "initrd.img"), "LABEL=oyako-root"))
        host.new_vm(image, "web", initrd=initrd, memory=memory, processors=processors,
                    cmdline="root=%s ro console=ttyS0 %s" % (root, SYSTEMD_PATIENCE),
                    options=("-VHDPath", disk, "-SwitchName", "Default Switch"))
        host.run("start-vm", "-Name", "web")
        return Console(host, "web")

    start.disk = disk
    return start


def fsck(disk, folder):
    """The guest's file system, checked by e2fsprogs on a raw copy made by qemu-img."""
    raw = os.path.join(folder, "check.raw")
    subprocess.run(["qemu-img", "convert", "-f", "vhdx", "-O", "raw", str(disk), raw], check=True)
    done = subprocess.run(["e2fsck", "-f", "-n", raw], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    os.unlink(raw)
    return done


@pytest.mark.rig
def test_debian_is_a_hyper_v_guest(host, debian_vm, tmp_path):
    console = debian_vm()
    console.login(600)
    assert console.command("systemd-detect-virt") == "microsoft"
    log = console.command("dmesg -r")
    assert "Hypervisor detected: Microsoft Hyper-V" in log
    assert dmesg_problems(log) == []
    assert console.command("cat /sys/devices/system/clocksource/clocksource0/current_clocksource") \
        == "hyperv_clocksource_tsc_page"
    drivers = console.command("for d in /sys/bus/vmbus/devices/*; do "
                              "basename $(readlink $d/driver || echo none); done").split()
    assert {"hv_storvsc", "hv_netvsc", "hv_utils"} <= set(drivers)
    assert "none" not in drivers
    assert "ext4" in console.command("findmnt -n -o SOURCE,FSTYPE /")
    address = wait_for(lambda: re.search(r"inet (\d+\.\d+\.\d+\.\d+)",
                                         console.command("ip -4 address show eth0")), 60)
    assert address, "no DHCP lease"
    assert console.command("systemctl is-active hv-kvp-daemon") == "active"

    def reported():
        vm = host.vm("web")
        text = str(vm)
        return vm if "Debian" in text and address.group(1) in text else None
    vm = wait_for(reported, 90)
    assert vm, host.vm("web")
    assert vm["State"] == "Running"
    assert vm["Heartbeat"] == "OK"
    assert vm["Uptime"] not in ("", None)
    services = {s["Name"]: s for s in host.json("get-vmintegrationservice", "-VMName", "web")}
    for name in ("Shutdown", "Time Synchronization", "Heartbeat", "Key-Value Pair Exchange"):
        assert services[name]["Enabled"] is True
        assert services[name]["PrimaryStatusDescription"] == "OK", services[name]

    host.run("stop-vm", "-Name", "web", timeout=300)
    console.close()
    assert host.vm("web")["State"] == "Off"
    done = fsck(debian_vm.disk, str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert "skipping journal replay" not in done.stdout.lower()


@pytest.mark.rig
@pytest.mark.parametrize("processors,memory", [(1, "256MB")] + ([(4, "4GB")] if LONG else []))
def test_debian_of_other_sizes_reboots(host, debian_vm, tmp_path, processors, memory):
    """Boots, reboots by the shutdown service and by itself, and is turned off by its own poweroff."""
    console = debian_vm(memory=memory, processors=processors)
    console.login(600)
    assert console.command("nproc") == str(processors)
    assert console.command("systemctl is-system-running --wait") == "running"
    before = time.time()
    guest = float(console.command("date +%s.%N"))
    assert before - 1 < guest < time.time() + 1, "the guest's clock is wrong"
    host.run("restart-vm", "-Name", "web", "-Type", "Reboot", "-Wait", "-For", "Heartbeat", "-Force",
             timeout=400)
    console.login(600)
    assert dmesg_problems(console.command("dmesg -r")) == []
    assert int(console.command("last -x shutdown | grep -c ^shutdown")) == 1
    console.send("reboot\n")
    console.login(600)
    assert dmesg_problems(console.command("dmesg -r")) == []
    console.send("poweroff\n")
    assert wait_for(lambda: host.vm("web")["State"] == "Off", 120)
    assert host.vm("web")["LastStopCode"] == "guest-shutdown"
    console.close()
    assert fsck(debian_vm.disk, str(tmp_path)).returncode == 0


# For each kernel one combination on every submission; with OYAKO_LONG all of them.
COMBINATIONS = [(flavour, processors, memory) for flavour in ("cloud", "rt", "cloud-backports")
                for processors in (1, 4) for memory in ("256MB", "4GB")]
OFTEN = [("cloud", 4, "4GB"), ("rt", 4, "256MB"), ("cloud-backports", 1, "256MB")]


@pytest.mark.rig
@pytest.mark.parametrize("flavour,processors,memory", COMBINATIONS if LONG else OFTEN)
def test_stress_finds_no_error(host, debian_vm, tmp_path, flavour, processors, memory):
    """A minute of work on processors, memory and disk, under each kernel."""
    kernel = kernel_of(flavour)
    console = debian_vm(memory=memory, processors=processors, kernel=kernel)
    console.login(600)
    assert console.command("uname -r; nproc") == "%s\n%d" % (kernel.release, processors)
    assert console.command("systemd-detect-virt") == "microsoft"
    report = console.command("stress-ng --verify --cpu 2 --vm 1 --vm-bytes 64M --hdd 1 --hdd-bytes 64M "
                             "--temp-path /root --timeout 60s --metrics-brief; echo status $?", 600)
    assert "status 0" in report, report
    assert dmesg_problems(console.command("dmesg -r")) == []
    console.close()
    host.run("stop-vm", "-Name", "web", timeout=300)
    done = fsck(debian_vm.disk, str(tmp_path))
    assert done.returncode == 0, done.stdout


@pytest.mark.rig
def test_killed_worker_leaves_a_clean_host(host, debian_vm, tmp_path):
    console = debian_vm()
    console.login(600)
    console.send("while :; do dd if=/dev/urandom of=/root/load bs=64k count=64 conv=fsync "
                 "2>/dev/null; done\n")
    time.sleep(5)
    (worker,) = host.workers()
    os.kill(worker, signal.SIGKILL)
    vm = wait_for(lambda: (lambda v: v if v["State"] == "Off" else None)(host.vm("web")), 15)
    assert vm and vm["State"] == "Off"
    assert "kill" in str(vm).lower() or "signal" in str(vm).lower(), vm
    assert host.workers() == []
    console.close()

    host.run("start-vm", "-Name", "web")
    console = Console(host, "web")
    console.login(600)
    log = console.command("dmesg -r")
    # The initramfs checks the root file system, or the kernel replays the journal by itself.
    assert "recovering journal" in console.history or "recovery complete" in log
    assert dmesg_problems(log) == []
    assert "EXT4-fs error" not in log
    host.run("stop-vm", "-Name", "web", timeout=300)
    console.close()
    assert fsck(debian_vm.disk, str(tmp_path)).returncode == 0
