"""The host's limits and troubles, and the worker's, as a stock kernel meets them: a disk that is held to its IOPS, and one whose storage
is full and is made room for (OYAKO_LONG=1: a raw disk, too)."""
import concurrent.futures
import os
import signal
import subprocess

import pytest

from conftest import LONG, wait_for


def truncate(path):
    with open(path, "wb") as f:
        f.truncate(64 << 20)


def test_maximum_iops(host, kernel, tmp_path):
    """200 reads of 64 KiB count as 1600: at 400 a second they take four seconds, less the burst and the last one."""
    disk = str(tmp_path / "disk.raw")
    truncate(disk)
    output = host.boot_script(kernel, """
read a _ </proc/uptime
dd if=/dev/sda of=/dev/null bs=64k count=200 iflag=direct 2>/dev/null
read b _ </proc/uptime
echo "took $a $b"
""", vm_options=("-VHDPath", disk),
        before_start=lambda: host.run("set-vmharddiskdrive", "t", "-MaximumIOPS", "400"))
    begin, end = [line.split()[1:] for line in output.split("\n") if line.startswith("took ")][0]
    # A busy host can only make it longer.
    assert float(end) - float(begin) > 3.5


@pytest.fixture
def small_storage(tmp_path):
    """6 MiB that can be full, and have room again."""
    folder = str(tmp_path / "small")
    os.mkdir(folder)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "oyako-test", folder], stderr=subprocess.PIPE,
                          text=True)
    if done.returncode:
        pytest.skip("no right to mount: " + done.stderr.strip())
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("kind", ["vhdx"] + (["raw"] if LONG else []))
def test_storage_is_full_and_has_room_again(host, kernel, small_storage, kind):
    """The guest writes more than the host has room for: it stands still, and then goes on as if nothing had been."""
    disk = os.path.join(small_storage, "disk." + kind)
    host.run("new-vhd", disk, "-SizeBytes", "64MB", "-BlockSizeBytes", "1MB") if kind == "vhdx" else truncate(disk)
    script = """
head -c $((12 << 20)) /dev/urandom >/tmp/data
dd if=/tmp/data of=/dev/sda bs=1M oflag=direct 2>/dev/null || echo WRITE-FAILED
echo 3 >/proc/sys/vm/drop_caches
head -c $((12 << 20)) /dev/sda | cmp - /tmp/data && echo "the same"
dmesg | grep -i -E 'I/O error|Sense Key'
"""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        guest = pool.submit(host.boot_script, kernel, script, vm_options=("-VHDPath", disk))
        wait_for(lambda: guest.done() or [vm for vm in host.json("get-vm") if vm["State"] == "PausedCritical"], 240)
        assert not guest.done(), guest.result()
        assert "storage is full" in host.vm("t")["Status"]
        subprocess.run(["mount", "-o", "remount,size=128m", small_storage], check=True)
        output = guest.result()
    assert "the same" in output
    assert "WRITE-FAILED" not in output and "I/O error" not in output and "Sense Key" not in output
    events = [event["Event"] for event in host.json("get-vmevent", "t")]
    assert "vm-paused-critical" in events and "vm-critical-over" in events


@pytest.mark.rig
def test_crash_report(host, kernel):
    """A worker that crashes says where, from inside its sandbox."""
    initrd = kernel.initrd
    host.new_vm(kernel.image, initrd=initrd, cmdline="console=ttyS0")
    host.run("start-vm", "t")
    os.kill(host.vm("t")["WorkerProcessId"], signal.SIGSEGV)
    wait_for(lambda: host.vm("t")["State"] == "Off", 60)
    failed = [event for event in host.json("get-vmevent", "t") if event["Event"] == "vm-worker-failed"][0]
    assert "signal 11 (Segmentation fault)" in failed["Message"]
    # Whichever thread it met: each began in a function that has a name.
    assert any("oyako-worker(" in frame for frame in failed["Data"]["trace"]), failed
