"""Cmdlets about disk images: the real oyako, oyakod and oyako-disk."""
import bz2
import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import uuid

import pytest

from conftest import TOP, is_alive, wait_for

sys.path.insert(0, os.path.join(TOP, "tests", "lib"))
import gpt

MIB = 1 << 20


def path_of(host, name):
    return os.path.join(host.folder, name)


def qemu_info(path):
    return json.loads(subprocess.run(["qemu-img", "info", "--output=json", path],
                                     check=True, capture_output=True, text=True).stdout)


def files_of(host):
    return sorted(n for n in os.listdir(host.folder) if n not in ("data_home", "runtime_dir", "vmlinuz"))


def test_new_and_get(host):
    made = host.json("new-vhd", "a.vhdx", "10GB")[0]
    assert made["Path"] == path_of(host, "a.vhdx") and made["VhdType"] == "Dynamic"
    vhd = host.json("get-vhd", "-Path", "a.vhdx")[0]
    assert vhd == made
    assert vhd["Size"] == 10 << 30 and vhd["FileSize"] == os.path.getsize(vhd["Path"]) == 4 * MIB
    assert vhd["VhdFormat"] == "VHDX" and vhd["BlockSize"] == 32 * MIB
    assert vhd["LogicalSectorSize"] == 512 and vhd["PhysicalSectorSize"] == 4096
    assert vhd["ParentPath"] is None and vhd["DiskNumber"] is None and not vhd["Attached"]
    assert vhd["FragmentationPercentage"] == 0 and vhd["Alignment"] == 1
    assert str(uuid.UUID(vhd["DiskIdentifier"])).upper() == vhd["DiskIdentifier"]
    assert qemu_info(vhd["Path"])["virtual-size"] == 10 << 30
    listed = host.run("get-vhd", "a.vhdx", "-FormatList")
    assert "DiskIdentifier          : " + vhd["DiskIdentifier"] in listed


def test_sizes_and_kinds(host):
    vhd = host.json("new-vhd", "b.vhdx", "64MB", "-BlockSizeBytes", "1MB", "-LogicalSectorSizeBytes", 4096)[0]
    assert vhd["BlockSize"] == MIB and vhd["LogicalSectorSize"] == vhd["PhysicalSectorSize"] == 4096
    vhd = host.json("new-vhd", "c.vhdx", "64MB", "-Fixed", "-PhysicalSectorSizeBytes", 512)[0]
    assert vhd["VhdType"] == "Fixed" and vhd["FileSize"] >= 64 * MIB and vhd["PhysicalSectorSize"] == 512
    vhd = host.json("new-vhd", "d.vhdx", "64TB")[0]
    assert vhd["Size"] == 64 << 40

    def says(*args):
        return host.run("new-vhd", "x.vhdx", *args, status=1)

    assert "64 TiB" in says("65TB")
    assert "power of two" in says("1GB", "-BlockSizeBytes", "3MB")
    assert "512 or 4096" in says("1GB", "-LogicalSectorSizeBytes", 1024)
    assert "whole sectors" in says("1000")
    assert "not between" in host.run("new-vhd", "x.vhdx", "0", status=2)
    assert files_of(host) == ["b.vhdx", "c.vhdx", "d.vhdx"]


def test_names(host):
    vhd = host.json("new-vhd", "-Path", "a b.VHDX,c.avhdx", "-SizeBytes", "1GB")
    assert [os.path.basename(v["Path"]) for v in vhd] == ["a b.VHDX", "c.avhdx"]
    assert "already" in host.run("new-vhd", "c.avhdx", "1GB", status=1)
    assert "ends in .vhdx or .vhd" in host.run("new-vhd", "disk.img", "1GB", status=1)
    assert "VHD Sets" in host.run("new-vhd", "disk.vhds", "1GB", status=1)
    os.link(path_of(host, "c.avhdx"), path_of(host, "set.vhds"))
    assert "VHD Sets" in host.run("get-vhd", "set.vhds", status=1)
    assert "VHD Sets" in host.run("convert-vhd", "set.vhds", "d.vhdx", status=1)
    assert "VHD Sets" in host.run("convert-vhd", "c.avhdx", "d.vhds", status=1)
    os.unlink(path_of(host, "set.vhds"))
    assert "No such file" in host.run("new-vhd", "nowhere/a.vhdx", "1GB", status=1)
    assert "can't be used with" in host.run("new-vhd", "d.vhdx", "1GB", "-Dynamic", "-Fixed", status=2)
    # One that fails does not stop the others.
    answer = host.run("new-vhd", "c.avhdx,e.vhdx", "1GB", status=1)
    assert "c.avhdx" in answer and "e.vhdx" not in answer
    assert files_of(host) == ["a b.VHDX", "c.avhdx", "e.vhdx"]


def test_files_that_are_no_disks(host):
    os.mkfifo(path_of(host, "fifo.vhdx"))
    os.mkdir(path_of(host, "folder.vhdx"))
    with open(path_of(host, "broken.vhdx"), "wb") as f:
        f.write(b"vhdxfile" + bytes(MIB))
    answer = host.run("get-vhd", "nosuch.vhdx,fifo.vhdx,folder.vhdx,broken.vhdx", status=1)
    lines = answer.splitlines()
    assert len(lines) == 4
    assert "No such file" in lines[0] and "no file" in lines[1]
    assert "folder.vhdx" in lines[2] and "broken.vhdx" in lines[3]


def test_disks_of_vms(host):
    host.run("new-vm", "a", "-NewVHDPath", "a.vhdx", "-NewVHDSizeBytes", "3GB",
             "-LinuxKernelPath", host.kernel)
    assert host.json("get-vmharddiskdrive", "a")[0]["Path"] == path_of(host, "a.vhdx")
    vhd = host.json("get-vhd", "-VMId", host.vm("a")["VMId"])[0]
    assert vhd["Path"] == path_of(host, "a.vhdx") and vhd["Size"] == 3 << 30
    # Refused for what concerns the machine: no disk is left.
    assert "already" in host.run("new-vm", "a", "-NewVHDPath", "b.vhdx", "-NewVHDSizeBytes", "3GB",
                                 status=1)
    assert "already" in host.run("new-vm", "b", "-NewVHDPath", "a.vhdx", "-NewVHDSizeBytes", "3GB",
                                 status=1)
    assert files_of(host) == ["a.vhdx"] and len(host.json("get-vm")) == 1
    host.run("start-vm", "a")
    assert host.json("get-vhd", "a.vhdx")[0]["Attached"]
    host.run("stop-vm", "a", "-TurnOff")
    assert not host.json("get-vhd", "a.vhdx")[0]["Attached"]


def write_some(path, size, seed=1, pieces=100):
    """A raw disk with data here and there, and holes."""
    random_ = random.Random(seed)
    with open(path, "wb") as f:
        f.truncate(size)
        for _ in range(pieces):
            length = 512 * random_.randrange(1, 200)
            f.seek(random_.randrange(0, size - length) // 512 * 512)
            f.write(random_.randbytes(length))


def format_of(path):
    return {"vhdx": "vhdx", "avhdx": "vhdx", "vhd": "vpc", "qcow2": "qcow2", "vmdk": "vmdk", "vdi": "vdi"}.get(
        path.rpartition(".")[2], "raw")


def same(a, b):
    """-U: of a process that was killed the kernel ends io_uring, and lets its locks go, seconds later."""
    done = subprocess.run(["qemu-img", "compare", "-U", "-f", format_of(a), "-F", format_of(b), a, b],
                          capture_output=True, text=True)
    print(done.stdout, done.stderr)
    return done.returncode == 0


def test_convert(host):
    raw = path_of(host, "a.img")
    write_some(raw, 300 * MIB)
    vhd = host.json("convert-vhd", "a.img", "a.vhdx", "-VHDType", "Dynamic", "-Passthru")[0]
    assert vhd["Path"] == path_of(host, "a.vhdx") and vhd["VhdType"] == "Dynamic"
    assert same(raw, vhd["Path"])
    host.run("convert-vhd", "a.vhdx", "b.vhdx", "-VHDType", "Fixed", "-BlockSizeBytes", "1MB")
    vhd = host.json("get-vhd", "b.vhdx")[0]
    assert vhd["VhdType"] == "Fixed" and vhd["BlockSize"] == MIB and same(raw, vhd["Path"])
    # The type of the source, where none is asked for; a new identity.
    host.run("convert-vhd", "b.vhdx", "c.vhdx")
    assert host.json("get-vhd", "c.vhdx")[0]["VhdType"] == "Fixed"
    assert host.json("get-vhd", "c.vhdx")[0]["DiskIdentifier"] != vhd["DiskIdentifier"]
    host.run("convert-vhd", "b.vhdx", "d.raw", "-DeleteSource")
    with open(raw, "rb") as f, open(path_of(host, "d.raw"), "rb") as g:
        assert f.read() == g.read()
    # Holes stay holes.
    assert os.stat(path_of(host, "d.raw")).st_blocks < 60 * MIB // 512
    assert files_of(host) == ["a.img", "a.vhdx", "c.vhdx", "d.raw"]


def test_convert_vhd(host):
    raw = path_of(host, "a.img")
    write_some(raw, 300 * MIB)
    host.run("convert-vhd", "a.img", "a.vhd", "-VHDType", "Dynamic")
    host.run("convert-vhd", "a.vhd", "b.vhd", "-VHDType", "Fixed")
    host.run("convert-vhd", "b.vhd", "c.vhdx", "-VHDType", "Dynamic")
    for name, kind in (("a.vhd", "Dynamic"), ("b.vhd", "Fixed"), ("c.vhdx", "Dynamic")):
        vhd = host.json("get-vhd", name)[0]
        assert vhd["VhdType"] == kind and vhd["Size"] == 300 * MIB
        assert vhd["VhdFormat"] == name[2:].upper() and same(raw, vhd["Path"])
    # Another implementation reads them, too (it finds no footer of a fixed VHD by itself).
    info = subprocess.run(["vhdiinfo", path_of(host, "a.vhd")], capture_output=True, text=True).stdout
    assert "Dynamic" in info and "314572800 bytes" in info


def test_azure(host):
    write_some(path_of(host, "a.img"), 50 * MIB + 512)
    host.run("convert-vhd", "a.img", "a.vhdx")
    vhd = host.json("convert-vhd", "a.vhdx", "b.vhd", "-ForAzure", "-Passthru")[0]
    assert vhd["VhdType"] == "Fixed" and vhd["Size"] == 51 * MIB
    assert vhd["FileSize"] == os.path.getsize(vhd["Path"]) == 51 * MIB + 512
    host.run("new-vhd", "small.vhdx", "5MB")
    assert "Azure" in host.run("convert-vhd", "small.vhdx", "c.vhd", "-ForAzure", status=1)
    assert files_of(host) == ["a.img", "a.vhdx", "b.vhd", "small.vhdx"]


def test_chains(host):
    raw = path_of(host, "a.img")
    write_some(raw, 100 * MIB)
    for end in ("vhdx", "vhd"):
        host.run("convert-vhd", "a.img", "a." + end, "-VHDType", "Dynamic")
        os.mkdir(path_of(host, end))
        host.run("new-vhd", "b.a" + end, "-ParentPath", "a." + end)
        vhd = host.json("new-vhd", "%s/c.%s" % (end, end), "-ParentPath", "b.a" + end, "-Differencing")[0]
        assert vhd["ParentPath"] == path_of(host, "b.a" + end) and vhd["VhdType"] == "Differencing"
        assert vhd["Size"] == 100 * MIB and vhd["BlockSize"] == 2 * MIB
        assert host.json("get-vhd", vhd["Path"])[0] == vhd
        host.run("convert-vhd", vhd["Path"], "whole.img", "-DeleteSource")
        assert same(raw, path_of(host, "whole.img"))
        os.unlink(path_of(host, "whole.img"))
        assert not os.path.exists(vhd["Path"])
        # The parent is gone: what the child says of it can still be read.
        os.rename(path_of(host, "a." + end), path_of(host, "moved." + end))
        vhd = host.json("get-vhd", "b.a" + end)[0]
        assert "a." + end in vhd["ParentPath"] and vhd["VhdType"] == "Differencing"
        said = host.run("convert-vhd", "b.a" + end, "d.img", status=1)
        assert "a." + end in said and "Set-VHD -ParentPath" in said
        # Another disk in its place is not the parent.
        host.run("new-vhd", "a." + end, "100MB")
        assert "a." + end in host.run("convert-vhd", "b.a" + end, "d.img", status=1)
    assert "d.img" not in files_of(host)


def test_convert_is_refused(host):
    write_some(path_of(host, "a.img"), 4 * MIB)

    def says(*args):
        return host.run("convert-vhd", *args, status=1)

    host.run("convert-vhd", "a.img", "a.vhdx")
    assert "already" in says("a.img", "a.vhdx")
    assert "already" in says("a.vhdx", "a.vhdx")
    assert "ends in" in says("a.vhdx", "b.xyz")
    assert "No such file" in says("nosuch.vhdx", "b.vhdx")
    assert "Azure takes only VHD" in says("a.vhdx", "b.vhdx", "-ForAzure")
    with open(path_of(host, "x.vhdx"), "wb") as f:
        f.write(bytes(MIB))
    assert "is no VHDX" in says("x.vhdx", "b.vhdx")
    # What is raw by its name is raw, whatever the guest wrote there.
    os.rename(path_of(host, "a.vhdx"), path_of(host, "b.img"))
    host.run("convert-vhd", "b.img", "b.vhdx", "-VHDType", "Dynamic")
    assert host.json("get-vhd", "b.vhdx")[0]["Size"] == os.path.getsize(path_of(host, "b.img"))
    assert files_of(host) == ["a.img", "b.img", "b.vhdx", "x.vhdx"]


def test_convert_in_use(host):
    host.run("new-vm", "a", "-NewVHDPath", "a.vhdx", "-NewVHDSizeBytes", "1GB",
             "-LinuxKernelPath", host.kernel)
    host.run("start-vm", "a")
    answer = host.run("convert-vhd", "a.vhdx", "b.vhdx", status=1)
    assert "in use by virtual machine 'a'" in answer
    host.run("stop-vm", "a", "-TurnOff")
    host.run("convert-vhd", "a.vhdx", "b.vhdx")


def test_interrupting_leaves_nothing(host):
    raw = path_of(host, "a.img")
    with open(raw, "wb") as f:
        for _ in range(400):
            f.write(os.urandom(MIB))
    for signal_ in (signal.SIGINT, signal.SIGKILL):
        client = subprocess.Popen(host.command("convert-vhd", "a.img", "b.vhdx", "-VHDType", "Dynamic"),
                                  env=host.env, cwd=host.folder, stderr=subprocess.PIPE, text=True)
        worker = wait_for(lambda: children_of(host.daemon_pid()))[0]
        if signal_ == signal.SIGINT:
            client.send_signal(signal_)
        else:
            os.kill(worker, signal_)
        _, said = client.communicate(timeout=60)
        assert client.returncode == 1
        assert ("cancelled" if signal_ == signal.SIGINT else "killed by signal 9") in said
        assert files_of(host) == ["a.img"]
        assert not is_alive(worker)
    # So does the end of the service.
    client = subprocess.Popen(host.command("convert-vhd", "a.img", "b.vhdx", "-VHDType", "Dynamic"),
                              env=host.env, cwd=host.folder, stderr=subprocess.DEVNULL)
    worker = wait_for(lambda: children_of(host.daemon_pid()))[0]
    host.kill_daemon()
    client.wait(timeout=60)
    wait_for(lambda: not is_alive(worker))
    assert files_of(host) == ["a.img"]
    host.run("convert-vhd", "a.img", "b.vhdx", "-VHDType", "Dynamic", timeout=120)
    assert same(raw, path_of(host, "b.vhdx"))


SLOW_QEMU_IMG = """#!/bin/sh
[ "$1" = convert ] || exec %s "$@"
for last; do :; done
case $last in nbd*) ;; *) echo begun >"$last" ;; esac
exec /bin/sleep 100
"""


@pytest.mark.parametrize("source,target", [("a.qcow2", "b.vhdx"), ("a.vhdx", "b.qcow2")])
def test_kill_amid_a_foreign_conversion(host, source, target):
    """Nothing is left, neither files nor programs, when the service is there again."""
    host.run("new-vhd", "a.vhdx", "8MB")
    host.run("convert-vhd", "a.vhdx", "a.qcow2")
    os.mkdir(path_of(host, "bin"))
    with open(path_of(host, "bin/qemu-img"), "w") as f:
        f.write(SLOW_QEMU_IMG % shutil.which("qemu-img"))
    os.chmod(path_of(host, "bin/qemu-img"), 0o755)
    host.kill_daemon()
    host.env["PATH"] = path_of(host, "bin") + ":" + host.env["PATH"]
    before = files_of(host)
    client = subprocess.Popen(host.command("convert-vhd", source, target), env=host.env, cwd=host.folder,
                              stderr=subprocess.DEVNULL)
    sockets = host.runtime + "/disk"

    def programs():
        names = {}
        for pid in children_of(host.daemon_pid()):
            with open("/proc/%d/comm" % pid) as f:
                names[f.read().strip()] = pid
        return names

    working = wait_for(lambda: (lambda p: len(p) == 2 and p)(programs()))
    assert os.listdir(sockets) != []
    if target == "b.qcow2":
        wait_for(lambda: files_of(host) != before)
    host.kill_daemon()
    assert client.wait(timeout=60) == 1
    wait_for(lambda: not is_alive(working["oyako-disk"]))
    host.run("get-vm")
    assert files_of(host) == before and os.listdir(sockets) == []


def children_of(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
        return [int(word) for word in f.read().split()]


def test_full_disk(host, small_disk):
    raw = path_of(host, "a.img")
    with open(raw, "wb") as f:
        for _ in range(100):
            f.write(os.urandom(MIB))
    answer = host.run("convert-vhd", "a.img", "small/a.vhdx", "-VHDType", "Dynamic", status=1)
    assert "full" in answer
    assert "No space" in host.run("new-vhd", "small/b.vhdx", "100MB", "-Fixed", status=1)
    assert os.listdir(small_disk) == []
    # All the space is free again, at once or nearly so.
    wait_for(lambda: os.statvfs(small_disk).f_bavail * 4096 > 35 * MIB)
    host.run("new-vhd", "small/b.vhdx", "100MB")


def run_tool(*args, status=0):
    done = subprocess.run(args, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, "%s: %s%s" % (args, done.stdout, done.stderr)
    return done.stdout


def uri_of(mount):
    return "nbd+unix:///?socket=" + mount["NbdSocket"]


def test_mount(host):
    host.run("new-vhd", "a.vhdx", "256MB", "-BlockSizeBytes", "2MB")
    mount = host.json("mount-vhd", "a.vhdx")[0]
    assert mount["DiskNumber"] == 1 and mount["Attached"] and any("qemu-img" in u for u in mount["Use"])
    assert host.json("get-vhd", "-DiskNumber", 1)[0]["Path"] == path_of(host, "a.vhdx")
    # Contents it can only guess with file(1); without that it prints rubbish.
    info = json.loads(run_tool("nbdinfo", "--no-content", "--json", uri_of(mount)))["exports"][0]
    assert info["export-size"] == 256 * MIB and info["block_size_minimum"] == 512
    assert info["can_multi_conn"] and info["can_trim"] and info["can_zero"] and info["can_fua"]
    assert not info["is_read_only"] and info["contexts"] == ["base:allocation"]
    run_tool("qemu-io", "-f", "raw", "-c", "write -P 0x55 1M 3M", "-c", "write -f -P 0x66 100M 64k",
             "-c", "read -P 0x55 1M 3M", "-c", "discard 2M 1M", "-c", "write -z 1M 64k",
             "-c", "read -P 0 1M 64k", "-c", "read -P 0x66 100M 64k", "-c", "flush", uri_of(mount))
    extents = json.loads(run_tool("nbdinfo", "--json", "--map", uri_of(mount)))
    assert extents[0] == {"offset": 0, "length": MIB, "type": 3, "description": "hole,zero"}
    assert sum(e["length"] for e in extents) == 256 * MIB
    # In use for all others.
    for args in (("convert-vhd", "a.vhdx", "b.vhdx"), ("mount-vhd", "a.vhdx")):
        assert "mounted as disk 1" in host.run(*args, status=1)
    host.run("new-vm", "a", "-VHDPath", "a.vhdx", "-LinuxKernelPath", host.kernel)
    assert "in use" in host.run("start-vm", "a", status=1)
    run_tool("nbdcopy", uri_of(mount), path_of(host, "copy.img"))
    host.run("dismount-vhd", "a.vhdx")
    assert same(path_of(host, "a.vhdx"), path_of(host, "copy.img"))
    run_tool("qemu-img", "check", path_of(host, "a.vhdx"))
    assert not host.json("get-vhd", "a.vhdx")[0]["Attached"]
    assert "not mounted" in host.run("dismount-vhd", "a.vhdx", status=1)
    assert "no disk of this number" in host.run("get-vhd", "-DiskNumber", 1, status=1)
    assert os.listdir(os.path.join(host.runtime, "disk")) == []


def test_mount_read_only_and_chains(host):
    raw = path_of(host, "a.img")
    write_some(raw, 100 * MIB)
    host.run("convert-vhd", "a.img", "a.vhd", "-VHDType", "Dynamic")
    host.run("new-vhd", "b.vhd", "-ParentPath", "a.vhd")
    mounts = host.json("mount-vhd", "a.vhd,b.vhd", "-ReadOnly")
    assert [m["DiskNumber"] for m in mounts] == [1, 2]
    for mount in mounts:
        assert json.loads(run_tool("nbdinfo", "--no-content", "--json", uri_of(mount)))["exports"][0]["is_read_only"]
        run_tool("qemu-img", "compare", "-f", "raw", "-F", "raw", raw, uri_of(mount))
        run_tool("qemu-io", "-f", "raw", "-c", "write 0 512", uri_of(mount), status=1)
    host.run("dismount-vhd", "-DiskNumber", 2)
    mount = host.json("mount-vhd", "b.vhd")[0]
    assert mount["DiskNumber"] == 2
    run_tool("nbdcopy", raw, uri_of(mount))
    run_tool("qemu-io", "-f", "raw", "-c", "write -P 7 4097k 1k", "-c", "read -P 7 4097k 1k", uri_of(mount))
    host.run("dismount-vhd", "a.vhd,b.vhd")
    assert same(raw, path_of(host, "a.vhd"))


def test_mounts_outlive_the_service(host):
    host.run("new-vhd", "a.vhdx", "64MB")
    mount = host.json("mount-vhd", "a.vhdx")[0]
    host.kill_daemon()
    run_tool("qemu-io", "-f", "raw", "-c", "write -P 9 0 1M", uri_of(mount))
    assert host.json("get-vhd", "-DiskNumber", 1)[0]["NbdSocket"] == mount["NbdSocket"]
    host.run("dismount-vhd", "-DiskNumber", 1)
    run_tool("qemu-io", "-f", "vhdx", "-r", "-c", "read -P 9 0 1M", path_of(host, "a.vhdx"))
    # One that was killed is forgotten.
    mount = host.json("mount-vhd", "a.vhdx")[0]
    os.kill(children_of(host.daemon_pid())[0], signal.SIGKILL)
    wait_for(lambda: not host.json("get-vhd", "a.vhdx")[0]["Attached"])
    wait_for(lambda: host.json("get-vhd", "a.vhdx")[0]["DiskNumber"] is None)
    assert "not mounted" in host.run("dismount-vhd", "a.vhdx", status=1)


def disk_with_gpt(host, name, size, last, *options):
    """A disk with one partition that ends at a sector, and some data in it."""
    raw = path_of(host, "gpt.img")
    write_some(raw, size, pieces=20)
    with open(raw, "r+b") as f:
        for offset, data in gpt.make(size, [(2048, last)]):
            f.seek(offset)
            f.write(data)
    host.run("convert-vhd", "gpt.img", name, "-VHDType", "Dynamic", *options)
    return raw


def bytes_of(host, name):
    out = path_of(host, "content.img")
    host.run("convert-vhd", name, "content.img")
    with open(out, "rb") as f:
        data = f.read()
    os.unlink(out)
    return data


def check_gpt(data):
    return gpt.check(lambda offset, length: data[offset:offset + length], len(data))


def test_resize(host):
    end = 40 * 2048  # sectors: 40 MiB
    for kind in ("vhdx", "vhd"):
        name = "a." + kind
        disk_with_gpt(host, name, 100 * MIB, end - 1)
        before = bytes_of(host, name)
        vhd = host.json("resize-vhd", name, "300MB", "-Passthru")[0]
        assert vhd["Size"] == 300 * MIB and host.json("get-vhd", name)[0]["Size"] == 300 * MIB
        data = bytes_of(host, name)
        # The table is the guest's: nothing of it is touched.
        assert data == before + bytes(200 * MIB)
    assert "smaller" in host.run("resize-vhd", "a.vhd", "100MB", status=1)
    assert "can't have less than" in host.run("resize-vhd", "a.vhdx", "20MB", status=1)
    assert host.json("get-vhd", "a.vhdx")[0]["MinimumSize"] == 40 * MIB + 33 * 512
    host.run("resize-vhd", "a.vhdx", "60MB")
    assert bytes_of(host, "a.vhdx") == before[:60 * MIB]
    vhd = host.json("resize-vhd", "a.vhdx", "-ToMinimumSize", "-Passthru")[0]
    assert vhd["Size"] == 40 * MIB + 33 * 512
    data = bytes_of(host, "a.vhdx")
    assert check_gpt(data) == [(2048, end - 1)] and data[2048 * 512:40 * MIB] == before[2048 * 512:40 * MIB]
    host.run("new-vhd", "empty.vhdx", "100MB")
    assert "partition table" in host.run("resize-vhd", "empty.vhdx", "50MB", status=1)
    host.run("resize-vhd", "empty.vhdx", "200MB")
    host.run("mount-vhd", "empty.vhdx")
    assert "mounted as disk 1" in host.run("resize-vhd", "empty.vhdx", "300MB", status=1)


def test_resize_by_mbr(host):
    raw = path_of(host, "a.img")
    write_some(raw, 100 * MIB)
    with open(raw, "r+b") as f:
        f.seek(446)
        f.write(struct.pack("<8BII", 0x80, 0, 0, 0, 0x83, 0, 0, 0, 2048, 50 * 2048 - 2048) + bytes(48) + b"\x55\xaa")
    host.run("convert-vhd", "a.img", "a.vhdx", "-VHDType", "Dynamic")
    vhd = host.json("resize-vhd", "a.vhdx", "-ToMinimumSize", "-Passthru")[0]
    assert vhd["Size"] == 50 * MIB
    # What is no table must not be taken for one.
    with open(raw, "r+b") as f:
        f.write(os.urandom(510) + b"\x55\xaa")
    host.run("convert-vhd", "a.img", "b.vhdx", "-VHDType", "Dynamic")
    assert "partition table" in host.run("resize-vhd", "b.vhdx", "-ToMinimumSize", status=1)


def test_optimize(host):
    raw = path_of(host, "a.img")
    with open(raw, "wb") as f:
        for _ in range(64):
            f.write(os.urandom(MIB))
    for end in ("vhdx", "vhd"):
        host.run("convert-vhd", "a.img", "a." + end, "-VHDType", "Dynamic",
                 *(["-BlockSizeBytes", "1MB"] if end == "vhdx" else []))
        mount = host.json("mount-vhd", "a." + end)[0]
        run_tool("qemu-io", "-f", "raw", "-c", "write -P 0 0 32M", uri_of(mount))
        host.run("dismount-vhd", "a." + end)
        before = os.path.getsize(path_of(host, "a." + end))
        vhd = host.json("optimize-vhd", "a." + end, "-Mode", "Full", "-Passthru")[0]
        assert vhd["FileSize"] < before - 25 * MIB
        run_tool("qemu-img", "check", path_of(host, "a." + end), status=0 if end == "vhdx" else 63)
        with open(raw, "rb") as f:
            assert bytes_of(host, "a." + end) == bytes(32 * MIB) + f.read()[32 * MIB:]
    host.run("new-vhd", "fixed.vhdx", "10MB", "-Fixed")
    host.run("optimize-vhd", "fixed.vhdx", status=1)


def test_set(host):
    host.run("new-vhd", "a.vhdx", "64MB")
    host.run("new-vhd", "b.vhdx", "-ParentPath", "a.vhdx")
    os.mkdir(path_of(host, "sub"))
    os.rename(path_of(host, "a.vhdx"), path_of(host, "sub/c.vhdx"))
    assert "Set-VHD -ParentPath" in host.run("convert-vhd", "b.vhdx", "x.img", status=1)
    vhd = host.json("set-vhd", "b.vhdx", "-ParentPath", "sub/c.vhdx", "-Passthru")[0]
    assert vhd["ParentPath"] == path_of(host, "sub/c.vhdx") and host.json("get-vhd", "b.vhdx")[0] == vhd
    host.run("convert-vhd", "b.vhdx", "x.img")
    host.run("new-vhd", "other.vhdx", "64MB")
    assert "IgnoreIdMismatch" in host.run("set-vhd", "b.vhdx", "-ParentPath", "other.vhdx", status=1)
    host.run("set-vhd", "b.vhdx", "-ParentPath", "other.vhdx", "-IgnoreIdMismatch")
    assert host.json("get-vhd", "b.vhdx")[0]["ParentPath"] == path_of(host, "other.vhdx")
    assert "no parent" in host.run("set-vhd", "other.vhdx", "-ParentPath", "b.vhdx", status=1)
    old = host.json("get-vhd", "other.vhdx")[0]
    new = host.json("set-vhd", "other.vhdx", "-ResetDiskIdentifier", "-Force", "-Passthru")[0]
    assert old["DiskIdentifier"] != new["DiskIdentifier"]
    assert host.json("set-vhd", "other.vhdx", "-PhysicalSectorSizeBytes", 512, "-Passthru")[0][
        "PhysicalSectorSize"] == 512
    assert "512 or 4096" in host.run("set-vhd", "other.vhdx", "-PhysicalSectorSizeBytes", 1024, status=1)


def test_merge(host):
    raw = path_of(host, "a.img")
    write_some(raw, 64 * MIB)
    for end in ("vhdx", "vhd"):
        names = [n + "." + end for n in ("base", "one", "two", "three")]
        host.run("convert-vhd", "a.img", names[0], "-VHDType", "Dynamic")
        expected = bytearray(open(raw, "rb").read())
        for i, name in enumerate(names[1:]):
            host.run("new-vhd", name, "-ParentPath", names[i])
            mount = host.json("mount-vhd", name)[0]
            at = (i + 1) * 3 * MIB + 512
            run_tool("qemu-io", "-f", "raw", "-c", "write -P %d %d 2M" % (i + 1, at), uri_of(mount))
            host.run("dismount-vhd", name)
            expected[at:at + 2 * MIB] = bytes([i + 1]) * (2 * MIB)
        assert "none of its parents" in host.run("merge-vhd", names[2], "-DestinationPath", names[3], status=1)
        assert "no parent" in host.run("merge-vhd", names[0], status=1)
        vhd = host.json("merge-vhd", names[3], "-Passthru")[0]
        assert vhd["Path"] == path_of(host, names[2]) and vhd["ParentPath"] == path_of(host, names[1])
        assert not os.path.exists(path_of(host, names[3]))
        assert bytes_of(host, names[2]) == expected
        mount = host.json("mount-vhd", names[0], "-ReadOnly")[0]
        assert "in use" in host.run("merge-vhd", names[2], "-DestinationPath", names[0], status=1)
        host.run("dismount-vhd", names[0])
        vhd = host.json("merge-vhd", names[2], "-DestinationPath", names[0], "-Passthru")[0]
        assert vhd["VhdType"] == "Dynamic" and vhd["ParentPath"] is None
        assert bytes_of(host, names[0]) == expected
        assert [n for n in files_of(host) if n.endswith(end)] == [names[0]]


def test_foreign_formats(host):
    raw = path_of(host, "a.img")
    write_some(raw, 100 * MIB)
    host.run("convert-vhd", "a.img", "a.vhdx", "-VHDType", "Dynamic")
    for end in ("qcow2", "vmdk", "vdi"):
        made = host.json("convert-vhd", "a.vhdx", "b." + end, "-Passthru")[0]
        assert made["Path"] == path_of(host, "b." + end) and made["VhdFormat"] == end
        assert qemu_info(made["Path"])["format"] == end and same(raw, made["Path"])
        vhd = host.json("convert-vhd", "b." + end, "c.vhdx", "-DeleteSource", "-Passthru")[0]
        assert vhd["VhdType"] == "Dynamic" and vhd["Size"] == 100 * MIB and same(raw, vhd["Path"])
        os.unlink(vhd["Path"])
    assert files_of(host) == ["a.img", "a.vhdx"]
    # A VMDK of two files, into what Azure takes.
    run_tool("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", raw, path_of(host, "d.vmdk"))
    vhd = host.json("convert-vhd", "d.vmdk", "d.vhd", "-ForAzure", "-Passthru")[0]
    assert vhd["VhdType"] == "Fixed" and same(raw, vhd["Path"])
    assert os.listdir(os.path.join(host.runtime, "disk")) == []


def test_foreign_formats_are_judged(host):
    def says(*args):
        return host.run("convert-vhd", *args, status=1)

    host.run("new-vhd", "a.vhdx", "64MB")
    run_tool("qemu-img", "create", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", path_of(host, "evil.qcow2"), "1M")
    assert "stands on another file" in says("evil.qcow2", "b.vhdx")
    with open(path_of(host, "evil.vmdk"), "w") as f:
        f.write("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n"
                "RW 1 FLAT \"/etc/passwd\" 0\n")
    assert "not in its own folder" in says("evil.vmdk", "b.vhdx")
    with open(path_of(host, "junk.qcow2"), "w") as f:
        f.write("junk")
    assert "qemu-img" in says("junk.qcow2", "b.vhdx")
    assert "qemu-img convert" in says("junk.qcow2", "b.vmdk")
    assert "No such file" in says("nosuch.qcow2", "b.vhdx")
    assert "No such file" in says("nosuch.vhdx", "b.qcow2")
    assert "already" in says("a.vhdx", "junk.qcow2")
    assert "-VHDType" in says("a.vhdx", "b.qcow2", "-VHDType", "Fixed")
    # Without qemu-img.
    host.end_daemon()
    host.env["PATH"] = "/nowhere"
    assert "needs the program qemu-img" in says("a.vhdx", "b.qcow2")
    assert files_of(host) == ["a.vhdx", "evil.qcow2", "evil.vmdk", "junk.qcow2"]


def test_new_vfd(host):
    host.run("new-vfd", "a.vfd,b.vfd")
    assert os.path.getsize(path_of(host, "b.vfd")) == 1474560
    assert "already" in host.run("new-vfd", "a.vfd", status=1)
    assert "ends in .vfd" in host.run("new-vfd", "a.img", status=1)


SAMPLES = os.environ.get("OYAKO_TESTDATA", os.path.join(TOP, "..", "shared", "testdata", "formats"))


def sample(host, name):
    """A file that Windows wrote, unpacked; the test is skipped where there are none."""
    path = os.path.join(SAMPLES, name)
    if not os.path.exists(path):
        pytest.skip("the samples are not here")
    opener = {"gz": gzip.open, "bz2": bz2.open}.get(name.rpartition(".")[2], open)
    target = path_of(host, name.removesuffix(".gz").removesuffix(".bz2"))
    with opener(path, "rb") as f, open(target, "wb") as g:
        while piece := f.read(MIB):
            g.truncate(g.tell() + len(piece))
            if piece.strip(b"\0"):
                g.write(piece)
            else:
                g.seek(len(piece), 1)
    return os.path.basename(target)


@pytest.mark.parametrize("name, size, block, kind, identifier, digest", [
    ("win10-dynamic-10M.vhd.gz", 10 << 20, 2 << 20, "Dynamic", "040d6a4b-46f9-4ed7-836f-d3dc87e1816b",
     "ecff2ef6615a3cddc6a6885f1c6d9cf13a232697e1dc6575f2c2f01f57247784"),
    ("win10-fixed-10M.vhd.gz", 10 << 20, 0, "Fixed", "18e495b8-9438-44e7-9a88-9a420be4e5ca",
     "459325ab1fcd1d5ec9854cba790ee26378317cda177ffc1072008a1df88e6463"),
    ("win10-dynamic-10M.vhdx.gz", 10 << 20, 32 << 20, "Dynamic", "788015f0-5e93-4bd2-a5de-b0cd8459db11",
     "8e2b5e9265d694b42b81819e3bff29770eff4ed0f4f9f311693ff3dbdc93efac"),
    ("win10-fixed-10M.vhdx.gz", 10 << 20, 2 << 20, "Fixed", "4a49d245-db0a-4634-9818-9f93db5ba6c1",
     "bc0be4623b15aa84216fb31ba24e3b621ec7f1c72d198c990ac0eced222d9f62"),
    ("d2v-zerofilled.vhd.bz2", 263454720, 2 << 20, "Dynamic", "fd29b8e7-6de6-49ba-ac19-6ebdab26cea3",
     "1ba076be94a8a64541c25aae8d5a5f8b0da758c3797af597e03acb431ff8d143"),
])
def test_files_that_windows_wrote(host, name, size, block, kind, identifier, digest):
    name = sample(host, name)
    vhd = host.json("get-vhd", name)[0]
    assert vhd["Size"] == size and vhd["BlockSize"] == block and vhd["VhdType"] == kind
    assert vhd["DiskIdentifier"] == identifier.upper()
    assert host.json("test-vhd", name)[0]["Healthy"]
    assert hashlib.sha256(bytes_of(host, name)).hexdigest() == digest
    # Into the other format and back.
    other = "other.vhd" if name.endswith("x") else "other.vhdx"
    host.run("convert-vhd", name, other)
    assert hashlib.sha256(bytes_of(host, other)).hexdigest() == digest


def test_chain_that_windows_wrote(host):
    sample(host, "win8.vhd")
    child = sample(host, "win8-child.vhd")
    vhd = host.json("get-vhd", child)[0]
    assert vhd["VhdType"] == "Differencing" and vhd["ParentPath"] == path_of(host, "win8.vhd")
    host.run("merge-vhd", child)
    assert hashlib.sha256(bytes_of(host, "win8.vhd")).hexdigest() == (
        "80a3721188e40218b08b26776bc53bdae81e4784fff71d71450a197319cba113")


def test_checking(host):
    orphan = sample(host, "ws2019-checkpoint-8G.avhdx.gz")
    assert "Generation 1_49C4BAF3" in host.run("test-vhd", orphan, status=1)
    broken = sample(host, "badsum-image.vhd.gz")
    host.run("test-vhd", broken, status=1)
    for name in ("good.vhdx", "good.vhd"):
        host.run("new-vhd", name, "100MB")
        found = host.json("test-vhd", name)[0]
        assert found["Healthy"] and found["Findings"] == []
    with open(path_of(host, "good.vhd"), "r+b") as f:
        f.seek(-512, 2)
        f.write(bytes(512))
    assert "footer" in host.run("test-vhd", "good.vhd", status=1).lower()
    host.run("test-vhd", "good.vhd", "-Repair")
    assert host.json("test-vhd", "good.vhd")[0]["Healthy"]


def test_what_if(host):
    said = host.run("new-vhd", "a.vhdx,b.vhdx", "1GB", "-WhatIf")
    assert said == "".join('What if: Performing the operation "New-VHD" on target "%s".\n' % path_of(host, name)
                           for name in ("a.vhdx", "b.vhdx"))
    host.run("new-vhd", "a.vhdx", "1GB")
    for command in (("resize-vhd", "a.vhdx", "2GB"), ("convert-vhd", "a.vhdx", "c.vhdx", "-DeleteSource"),
                    ("mount-vhd", "a.vhdx"), ("enable-vhdchangetracking", "a.vhdx")):
        assert host.run(*command, "-WhatIf").startswith("What if: Performing the operation")
    host.run("resize-vhd", "a.vhdx", "-WhatIf", status=2)  # neither size
    assert files_of(host) == ["a.vhdx"] and host.json("get-vhd", "a.vhdx")[0]["Size"] == 1 << 30
    assert host.run("resize-vhd", "a.vhdx", "2GB", "-WhatIf:$false") == ""
    assert host.json("get-vhd", "a.vhdx")[0]["Size"] == 2 << 30


def test_convert_into_differencing(host):
    """The new disk reads as the source and holds only what its parent has otherwise."""
    raw = path_of(host, "a.img")
    write_some(raw, 64 * MIB)
    for end in ("vhdx", "vhd"):
        host.run("convert-vhd", "a.img", "base." + end, "-VHDType", "Dynamic")
        with open(raw, "r+b") as f:
            for offset, data in ((0, b"x" * 512), (20 * MIB + 4096, bytes(MIB)), (64 * MIB - 512, b"e" * 512)):
                f.seek(offset)
                f.write(data)
        vhd = host.json("convert-vhd", "a.img", "new." + end, "-ParentPath", "base." + end, "-Passthru")[0]
        assert vhd["VhdType"] == "Differencing" and vhd["ParentPath"] == path_of(host, "base." + end)
        with open(raw, "rb") as f:
            assert bytes_of(host, "new." + end) == f.read()
        assert host.json("test-vhd", "new." + end)[0]["Healthy"]
        same = host.json("convert-vhd", "new." + end, "same." + end, "-ParentPath", "new." + end, "-Passthru",
                         "-VHDType", "Differencing")[0]
        assert same["FileSize"] <= 5 * MIB
    assert "must be equal" in host.run("convert-vhd", "base.vhd", "x.vhd", "-ParentPath",
                                       host.json("new-vhd", "small.vhd", "32MB")[0]["Path"], status=1)
    assert "parent's format" in host.run("convert-vhd", "a.img", "x.vhdx", "-ParentPath", "base.vhd", status=1)
    assert "needs -ParentPath" in host.run("convert-vhd", "a.img", "x.vhdx", "-VHDType", "Differencing", status=1)
    assert not os.path.exists(path_of(host, "x.vhdx"))


# ---- change tracking ----

def write_into(path, *places):
    """4 KiB at each place of a VHDX, written by a program that does not track changes."""
    for offset, byte in places:
        subprocess.run(["qemu-io", "-f", "vhdx", "-c", "write -P %d %d 4k" % (byte, offset), path], check=True,
                       stdout=subprocess.DEVNULL)


def test_tracking_off(host):
    host.run("new-vhd", "t.vhdx", "256MB", "-BlockSizeBytes", "1MB")
    assert "not tracked" in host.run("get-vhdreferencepoint", "t.vhdx", status=1)
    host.run("enable-vhdchangetracking", "t.vhdx")
    assert os.path.exists(path_of(host, "t.vhdx.track"))
    assert "tracked already" in host.run("enable-vhdchangetracking", "t.vhdx", status=1)
    assert host.json("get-vhdreferencepoint", "t.vhdx") == []
    point = host.json("new-vhdreferencepoint", "t.vhdx")[0]
    assert host.json("get-vhdreferencepoint", "t.vhdx") == [point]
    assert host.json("get-vhdchange", "t.vhdx", point["Id"]) == []
    assert "no reference point" in host.run("get-vhdchange", "t.vhdx", str(uuid.uuid4()), status=1)
    host.run("remove-vhdreferencepoint", "t.vhdx", point["Id"])
    assert host.json("get-vhdreferencepoint", "t.vhdx") == []
    # Somebody wrote to it who does not track.
    host.run("new-vhdreferencepoint", "t.vhdx")
    write_into(path_of(host, "t.vhdx"), (0, 1))
    assert "without its changes being tracked" in host.run("new-vhdreferencepoint", "t.vhdx", status=1)
    host.run("disable-vhdchangetracking", "t.vhdx")
    assert not os.path.exists(path_of(host, "t.vhdx.track"))
    host.run("new-vhd", "t.vhd", "16MB")
    assert "VHDX only" in host.run("enable-vhdchangetracking", "t.vhd", status=1)
    assert not os.path.exists(path_of(host, "t.vhd.track"))


def test_tracking_export_of_nothing(host):
    host.run("new-vhd", "t.vhdx", "64MB", "-BlockSizeBytes", "1MB")
    write_into(path_of(host, "t.vhdx"), (0, 7), (8 * MIB, 8))
    host.run("enable-vhdchangetracking", "t.vhdx")
    point = host.json("new-vhdreferencepoint", "t.vhdx")[0]
    host.run("convert-vhd", "t.vhdx", "full.vhdx")
    vhd = host.json("export-vhdchange", "t.vhdx", point["Id"], "-ParentPath", "full.vhdx", "-DestinationPath",
                    "inc.avhdx")[0]
    assert vhd["VhdType"] == "Differencing" and vhd["ParentPath"] == path_of(host, "full.vhdx")
    assert host.json("test-vhd", "inc.avhdx")[0]["Healthy"]
    host.run("new-vhd", "other.vhdx", "32MB")
    assert "can't be a backup" in host.run("export-vhdchange", "t.vhdx", point["Id"], "-ParentPath", "other.vhdx",
                                           "-DestinationPath", "no.avhdx", status=1)
    assert not os.path.exists(path_of(host, "no.avhdx"))
