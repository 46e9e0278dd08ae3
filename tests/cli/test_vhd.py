"""Cmdlets about disk images: the real oyako, oyakod and oyako-disk."""
import json
import os
import subprocess
import uuid

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
