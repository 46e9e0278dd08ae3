"""Export-VM, Import-VM and Compare-VM: exports of ours, and Hyper-V's own configuration files."""
import hashlib
import os
import shutil
import signal
import subprocess
import time

import pytest

from conftest import TOP, wait_for

SAMPLES = os.environ.get("OYAKO_TESTDATA",
                         os.path.join(TOP, "..", "shared", "testdata", "formats"))


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)
    return path


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def sparse_disk(host, name, size=64 << 20):
    """A disk that is one, with bytes of its own where VHDX has reserved space, and a long hole."""
    path = os.path.join(host.folder, name)
    host.run("new-vhd", path, size)
    with open(path, "r+b") as f:
        f.seek(0x50000)
        f.write(os.urandom(0x80000))
        f.truncate(size)
        f.seek(size // 2 + 12345)
        f.write(b"in the middle")
    return path


def notes(host, *args):
    """What Compare-VM finds, but for what depends on the machine that the test runs on."""
    report, = host.json("compare-vm", *args)
    return [note for note in report["Incompatibilities"] if note["Source"] != "Processor"]


def exported(host, name="web"):
    """A VM with a disk that was exported; returns the folder and the description's path."""
    disk = sparse_disk(host, name + ".vhdx")
    host.new_vm(name, "", "-VHDPath", disk)
    host.run("export-vm", name, "-Path", host.folder + "/out")
    top = os.path.join(host.folder, "out", name)
    return top, os.path.join(top, "Virtual Machines", host.vm(name)["VMId"], "vm.json")


def test_export_has_hyper_vs_folders(host):
    top, description = exported(host)
    copy = os.path.join(top, "Virtual Hard Disks", "web.vhdx")
    assert sorted(os.listdir(top)) == ["Snapshots", "Virtual Hard Disks", "Virtual Machines"]
    assert digest(copy) == digest(os.path.join(host.folder, "web.vhdx"))
    # Holes stay holes.
    assert os.stat(copy).st_blocks * 512 < 8 << 20
    assert os.path.exists(os.path.join(os.path.dirname(description), "boot", "vmlinuz"))
    assert host.json("get-vmevent", "web")[0]["Message"].startswith("'web' was exported")
    assert "already" in host.run("export-vm", "web", "-Path", host.folder + "/out", status=1)


def test_export_of_a_differencing_disk(host):
    host.run("new-vhd", "base.vhdx", "-SizeBytes", "64MB")
    host.run("new-vhd", "child.vhdx", "-ParentPath", "base.vhdx")
    host.new_vm("web", "", "-VHDPath", "child.vhdx")
    host.run("export-vm", "web", "-Path", host.folder + "/out")
    disks = os.path.join(host.folder, "out", "web", "Virtual Hard Disks")
    assert sorted(os.listdir(disks)) == ["base.vhdx", "child.vhdx"]
    os.rename(os.path.join(host.folder, "base.vhdx"), os.path.join(host.folder, "gone"))
    assert host.json("get-vhd", disks + "/child.vhdx")[0]["ParentPath"] == disks + "/base.vhdx"
    host.run("test-vhd", disks + "/child.vhdx")
    error = host.run("export-vm", "web", "-Path", host.folder + "/more", status=1)
    assert "base.vhdx" in error and not os.path.exists(os.path.join(host.folder, "more"))


def test_export_of_several_and_what_fails(host):
    host.new_vm("a")
    host.new_vm("b", "", "-VHDPath", sparse_disk(host, "b.vhdx"))
    os.unlink(os.path.join(host.folder, "b.vhdx"))
    error = host.run("export-vm", "*", "-Path", host.folder + "/out", status=1)
    assert "b.vhdx" in error and "No such file" in error
    # Nothing is left of what failed, and the other one is whole.
    assert os.listdir(os.path.join(host.folder, "out")) == ["a"]
    # There already; one that runs is no reason to fail.
    assert "already" in host.run("export-vm", "a", "-Path", host.folder + "/out", status=1)
    host.run("start-vm", "a")
    host.run("export-vm", "a", "-Path", host.folder + "/more")
    assert os.listdir(os.path.join(host.folder, "more")) == ["a"]


def test_import_in_place(host):
    top, description = exported(host)
    vm_id = host.vm("web")["VMId"]
    assert "registered already" in host.run("import-vm", description, status=1)
    host.run("remove-vm", "web", "-Force")
    os.unlink(os.path.join(host.folder, "web.vhdx"))
    moved = shutil.move(top, os.path.join(host.folder, "elsewhere"))
    description = description.replace(top, moved)
    vm = host.json("import-vm", description)[0]
    assert vm["Name"] == "web" and vm["VMId"] == vm_id and vm["Incompatibilities"] == []
    assert vm["LinuxKernelPath"].startswith(moved)
    disk = host.json("get-vmharddiskdrive", "web")[0]["Path"]
    assert disk == os.path.join(moved, "Virtual Hard Disks", "web.vhdx")
    host.run("start-vm", "web")
    host.run("stop-vm", "web")
    host.kill_daemon()
    assert host.vm("web")["VMId"] == vm_id


def test_import_a_copy(host):
    top, description = exported(host)
    error = host.run("import-vm", description, "-Copy", "-GenerateNewId", status=1)
    assert "of this name already; -NewName" in error
    vm = host.json("import-vm", os.path.dirname(description), "-Copy", "-GenerateNewId", "-NewName",
                   "web2", "-VhdDestinationPath", host.folder + "/disks")[0]
    assert vm["VMId"] != host.vm("web")["VMId"] and vm["Name"] == "web2"
    disk = host.json("get-vmharddiskdrive", "web2")[0]["Path"]
    assert disk == os.path.join(host.folder, "disks", "web.vhdx")
    assert digest(disk) == digest(os.path.join(host.folder, "web.vhdx"))
    macs = [host.json("get-vmnetworkadapter", name)[0]["MacAddress"] for name in ("web", "web2")]
    assert macs[0] != macs[1]
    # The second copy would overwrite the first one's disk.
    error = host.run("import-vm", description, "-Copy", "-GenerateNewId", "-NewName", "web3",
                     "-VhdDestinationPath", host.folder + "/disks", status=1)
    assert "already" in error
    assert [vm["Name"] for vm in host.json("get-vm")] == ["web", "web2"]
    assert digest(disk) == digest(os.path.join(host.folder, "web.vhdx"))


def test_a_disk_that_is_not_there_stands_in_the_way(host):
    top, description = exported(host)
    host.run("remove-vm", "web", "-Force")
    disk = os.path.join(top, "Virtual Hard Disks", "web.vhdx")
    os.makedirs(os.path.join(host.folder, "other"))
    os.rename(disk, os.path.join(host.folder, "other", "WEB.VHDX"))
    os.unlink(os.path.join(host.folder, "web.vhdx"))
    assert "-VhdSourcePath" in host.run("import-vm", description, status=1)
    found = notes(host, description)
    assert [(note["Severity"], note["MessageId"]) for note in found] == [("Error", 40010)]
    assert notes(host, description, "-VhdSourcePath", host.folder + "/other") == []
    host.run("import-vm", description, "-VhdSourcePath", host.folder + "/other")
    assert host.json("get-vmharddiskdrive", "web")[0]["Path"].endswith("/other/WEB.VHDX")


def test_cancelled_copies_leave_nothing(host):
    disk = os.path.join(host.folder, "big.vhdx")
    subprocess.run(["dd", "if=/dev/urandom", "of=" + disk, "bs=1M", "count=600", "status=none"],
                   check=True)
    host.new_vm("big", "", "-VHDPath", disk)
    client = subprocess.Popen(host.command("export-vm", "big", "-Path", host.folder + "/out"),
                              env=host.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              cwd=host.folder)
    disks = os.path.join(host.folder, "out", "big", "Virtual Hard Disks")
    wait_for(lambda: os.path.isdir(disks) or client.poll() is not None)
    client.send_signal(signal.SIGINT)
    client.communicate(timeout=30)
    # Where the file system shares blocks the copy may have been done by then.
    wait_for(lambda: not os.path.exists(os.path.join(host.folder, "out")) or
             client.returncode == 0)


# ---- Hyper-V's own files ----

def sample(name):
    path = os.path.join(SAMPLES, name)
    if not os.path.exists(path):
        pytest.skip("the samples are not at hand")
    return path


def hyperv_export(host, name, disk):
    """Hyper-V's folders with one of its configuration files."""
    top = os.path.join(host.folder, "hyperv")
    os.makedirs(os.path.join(top, "Virtual Hard Disks"))
    host.run("new-vhd", os.path.join(top, "Virtual Hard Disks", disk), "64MB")
    config = os.path.join(top, "Virtual Machines", name)
    with open(sample(name), "rb") as f:
        write(config, f.read())
    return config


def test_import_vmcx(host):
    config = hyperv_export(host, "gen1-v9.vmcx", "Other Location.vhdx")
    vm = host.json("import-vm", config)[0]
    assert (vm["Name"], vm["Generation"]) == ("Other Location", 1)
    assert vm["MemoryStartup"] == 1 << 30 and vm["ProcessorCount"] == 1
    assert vm["VMId"] == "282874fc-59d6-4f30-bc04-5fdd909c82e0"
    drive = host.json("get-vmharddiskdrive", "Other Location")[0]
    assert (drive["ControllerType"], drive["ControllerNumber"], drive["ControllerLocation"]) == \
        ("IDE", 0, 0)
    assert drive["Path"].endswith("/Virtual Hard Disks/Other Location.vhdx")
    assert host.json("get-vmdvddrive", "Other Location")[0]["ControllerNumber"] == 1
    adapter = host.json("get-vmnetworkadapter", "Other Location")[0]
    assert adapter["SwitchName"] in (None, "") and adapter["MacAddress"].startswith("00155D")
    assert any("firmware" in note["Message"] for note in vm["Incompatibilities"])


def test_import_xml_of_version_5(host):
    config = hyperv_export(host, "D351C151-DAC7-4042-B434-B72D522C1E4A.xml",
                           "Default Generation 2.vhdx")
    assert any("Secure Boot" in note["Message"] for note in notes(host, config))
    assert host.json("get-vm") == []
    vm = host.json("import-vm", config, "-Copy", "-VirtualMachinePath", host.folder + "/vms")[0]
    assert (vm["Name"], vm["Generation"]) == ("Default Generation 2", 2)
    assert vm["Path"] == host.folder + "/vms/Default Generation 2"
    drive = host.json("get-vmharddiskdrive", vm["Name"])[0]
    assert (drive["ControllerType"], drive["ControllerLocation"]) == ("SCSI", 0)
    assert drive["Path"].startswith(host.state)


def test_rubbish_is_refused(host):
    for name, data, says in (("a.vmcx", b"\x14\x20\x28\x01" + b"\xff" * 9000, "header"),
                             ("b.xml", b"<configuration><x></configuration>", "mismatched"),
                             ("c.xml", b"", "no element"),
                             ("vm.json", b"{}", "no description"),
                             ("d.xml", b"<configuration><properties/></configuration>", "ident")):
        path = write(os.path.join(host.folder, name), data)
        for cmdlet in ("import-vm", "compare-vm"):
            error = host.run(cmdlet, path, status=1)
            assert says in error and len(error.splitlines()) == 1, error
    assert "No such file" in host.run("import-vm", "nosuch.vmcx", status=1)
    assert host.json("get-vm") == []
