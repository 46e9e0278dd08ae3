"""Export-VM and Import-VM of VMs with checkpoints: their tree, their disks, and interruptions."""
import glob
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from conftest import BUILD, wait_for
from test_checkpoints import MIB, check, disk_io, disk_programs, write

NAMES = ("one", "two", "branch")


def tree(host, name):
    return {c["Name"]: (c["ParentSnapshotName"], c["IsCurrent"])
            for c in host.json("get-vmcheckpoint", "-VMName", name)}


def disk_of(host, name):
    return host.json("get-vmharddiskdrive", "-VMName", name)[0]["Path"]


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def files_below(*folders):
    """Every file and folder, and what is in it."""
    found = {}
    for folder in folders:
        for at, _, names in os.walk(folder):
            found[at] = None
            for name in names:
                path = os.path.join(at, name)
                found[path] = digest(path) if os.path.isfile(path) else None
    return found


def vm_with_a_tree(host, behaviour=""):
    """one - two (the VM goes on from it), one - branch; the disk reads 1, 2, 3 and 9 in their order."""
    disk = host.folder + "/d.vhdx"
    host.run("new-vhd", disk, "64MB")
    host.new_vm("a", behaviour, "-VHDPath", disk)
    write(host, disk, 1, 0)
    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "one")
    write(host, disk_of(host, "a"), 9, 0)
    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "branch")
    host.run("restore-vmcheckpoint", "-VMName", "a", "-Name", "one", "-Confirm:false")
    write(host, disk_of(host, "a"), 2, 0)
    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "two")
    write(host, disk_of(host, "a"), 3, 0)
    return disk


TREE = {"one": (None, False), "branch": ("one", False), "two": ("one", True)}


def exported(host, *options):
    host.run("export-vm", "a", host.folder + "/out", *options)
    top = host.folder + "/out/a"
    return top, os.path.join(top, "Virtual Machines", host.vm("a")["VMId"], "vm.json")


def check_contents(host, name):
    """Each checkpoint can be applied, and then removed, and the disk is what it was at its time."""
    check(host, disk_of(host, name), 3, 0)
    for checkpoint, pattern in (("branch", 9), ("one", 1), ("two", 2)):
        host.run("restore-vmcheckpoint", "-VMName", name, "-Name", checkpoint, "-Confirm:false")
        check(host, disk_of(host, name), pattern, 0)
    for checkpoint in ("one", "branch", "two"):
        host.run("remove-vmcheckpoint", "-VMName", name, "-Name", checkpoint, "-Confirm:false")
        check(host, disk_of(host, name), 2, 0)
    assert tree(host, name) == {} and disk_of(host, name).endswith("/d.vhdx")
    host.run("test-vhd", disk_of(host, name))


def test_the_tree_goes_along_and_comes_back(host):
    vm_with_a_tree(host)
    top, description = exported(host)
    assert tree(host, "a") == TREE
    disks = os.path.join(top, "Virtual Hard Disks")
    assert len(os.listdir(disks)) == 4 and len(os.listdir(top + "/Snapshots")) == 3
    before = files_below(top)
    # Nothing of the copies leads to the original's files.
    for path in glob.glob(disks + "/*.avhdx"):
        assert host.json("get-vhd", path)[0]["ParentPath"].startswith(disks)
    ids = {c["Id"] for c in host.json("get-vmcheckpoint", "-VMName", "a")}
    copy = host.json("import-vm", description, "-Copy", "-GenerateNewId", "-NewName", "b", "-VhdDestinationPath",
                     host.folder + "/disks", "-VirtualMachinePath", host.folder + "/vms", "-SnapshotFilePath",
                     host.folder + "/snaps", "-SmartPagingFilePath", host.folder + "/paging")[0]
    assert tree(host, "b") == TREE
    assert not ids & {c["Id"] for c in host.json("get-vmcheckpoint", "-VMName", "b")}
    assert copy["Path"] == host.folder + "/vms/b"
    assert copy["SnapshotFileLocation"] == "%s/snaps/Snapshots/%s" % (host.folder, copy["VMId"])
    assert copy["SmartPagingFilePath"] == host.folder + "/paging"
    for path in glob.glob(host.folder + "/disks/*.avhdx"):
        assert host.json("get-vhd", path)[0]["ParentPath"].startswith(host.folder + "/disks")
    check_contents(host, "b")
    assert files_below(top) == before and tree(host, "a") == TREE
    host.kill_daemon()
    host.run("checkpoint-vm", "b", "-SnapshotName", "later")
    host.run("remove-vm", "b", "-Force")
    assert glob.glob(host.folder + "/snaps/Snapshots/*") == [] and not os.path.exists(host.folder + "/vms/b")
    # In place, elsewhere, with the original gone.
    host.run("remove-vm", "a", "-Force")
    for path in glob.glob(host.folder + "/*vhdx"):
        os.unlink(path)
    moved = shutil.move(top, host.folder + "/moved")
    host.run("import-vm", description.replace(top, moved), "-Register")
    assert tree(host, "a") == TREE
    check_contents(host, "a")
    host.run("checkpoint-vm", "a", "-SnapshotName", "new")
    assert len(os.listdir(moved + "/Snapshots")) == 1
    host.run("start-vm", "a")


def test_a_copy_without_a_new_id(host):
    vm_with_a_tree(host)
    top, description = exported(host)
    before = files_below(top)
    host.run("remove-vm", "a", "-Force")
    for path in glob.glob(host.folder + "/*vhdx"):
        os.unlink(path)
    host.run("import-vm", description, "-Copy")
    shutil.rmtree(top)
    assert tree(host, "a") == TREE and before
    check_contents(host, "a")
    # Its kernel came along, too.
    host.run("start-vm", "a")


@pytest.mark.parametrize("state", ["Saved", "Running"])
def test_with_memory(host, state):
    disk = host.folder + "/d.vhdx"
    host.run("new-vhd", disk, "64MB")
    host.new_vm("a", "", "-VHDPath", disk)
    host.run("set-vm", "a", "-CheckpointType", "Standard")
    host.run("start-vm", "a")
    for name in ("one", "two"):
        host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", name)
    if state == "Saved":
        host.run("save-vm", "a")
    top, description = exported(host)
    assert host.vm("a")["State"] == state
    wait_for(lambda: len(host.json("get-vmcheckpoint", "-VMName", "a")) == 2 and
             host.vm("a")["Status"] != "Merging disks")
    assert len(glob.glob(top + "/Snapshots/*/memory")) == 2
    copy = host.json("import-vm", description, "-Copy", "-GenerateNewId", "-NewName", "b")[0]
    assert copy["State"] == "Saved"
    assert {n: c[0] for n, c in tree(host, "b").items()} == {"one": None, "two": "one"}
    assert tree(host, "b")["two"][1]
    host.run("start-vm", "b")
    host.run("restore-vmcheckpoint", "-VMName", "b", "-Name", "one", "-Confirm:false")
    assert host.vm("b")["State"] == "Saved"
    host.run("start-vm", "b")
    host.run("stop-vm", "b", "-TurnOff")
    host.run("remove-vmcheckpoint", "-VMName", "b", "-Confirm:false")
    wait_for(lambda: host.vm("b")["Status"] != "Merging disks")
    assert disk_of(host, "b").endswith("/d.vhdx")


def test_parents_in_other_folders_come_along(host):
    """In the copy they lie beside their children."""
    os.makedirs(host.folder + "/far")
    host.run("new-vhd", "far/base.vhdx", "-SizeBytes", "64MB")
    write(host, host.folder + "/far/base.vhdx", 7, MIB)
    host.run("new-vhd", "middle.vhdx", "-ParentPath", "far/base.vhdx")
    host.run("new-vhd", "child.vhdx", "-ParentPath", "middle.vhdx")
    write(host, host.folder + "/child.vhdx", 5, 0)
    host.new_vm("a", "", "-VHDPath", "child.vhdx")
    top, description = exported(host)
    host.run("import-vm", description, "-Copy", "-GenerateNewId", "-NewName", "b", "-VhdDestinationPath",
             host.folder + "/disks")
    shutil.rmtree(top)
    os.rename(host.folder + "/far", host.folder + "/away")
    os.rename(host.folder + "/middle.vhdx", host.folder + "/away/middle.vhdx")
    disks = host.folder + "/disks"
    assert sorted(os.listdir(disks)) == ["base.vhdx", "child.vhdx", "middle.vhdx"]
    assert host.json("get-vhd", disks + "/child.vhdx")[0]["ParentPath"] == disks + "/middle.vhdx"
    check(host, disks + "/child.vhdx", 7, MIB)
    check(host, disks + "/child.vhdx", 5, 0)
    host.run("start-vm", "b")


def test_what_a_file_says_is_checked(host):
    """A circle of checkpoints, names that are none, more than there may be."""
    vm_with_a_tree(host)
    top, description = exported(host)
    checkpoints = {json.load(open(p))["name"]: p for p in glob.glob(top + "/Snapshots/*/checkpoint.json")}

    def with_member(name, value, checkpoint="one"):
        with open(checkpoints[checkpoint]) as f:
            was = f.read()
        with open(checkpoints[checkpoint], "w") as f:
            json.dump(dict(json.loads(was), **{name: value}), f)
        error = host.run("import-vm", description, "-Copy", "-GenerateNewId", "-NewName", "b", status=1)
        with open(checkpoints[checkpoint], "w") as f:
            f.write(was)
        assert len(error.splitlines()) == 1
        return error

    two = os.path.basename(os.path.dirname(checkpoints["two"]))
    assert "come from itself" in with_member("parent", two)
    assert "name" in with_member("name", "a\nb")
    assert "can't be read" in with_member("created", None)
    assert [vm["Name"] for vm in host.json("get-vm")] == ["a"]
    # A disk of a checkpoint that is not there.
    with open(os.path.join(os.path.dirname(checkpoints["branch"]), "vm.json")) as f:
        branch = json.load(f)["scsi_controllers"][0]["drives"][0]["path"]
    host.run("remove-vm", "a", "-Force")
    for path in glob.glob(host.folder + "/*vhdx") + [branch]:
        os.unlink(path)
    report, = host.json("compare-vm", description)
    assert [(n["Severity"], n["MessageId"], n["Source"]) for n in report["Incompatibilities"]
            if n["Severity"] == "Error"] == [("Error", 40010, branch)]


# ---- interruptions ----

def everything(host):
    """What is on the disk of this test, but for what the service writes of itself."""
    found = files_below(host.folder)
    return {path: found[path] for path in found
            if not path.startswith(host.env["XDG_RUNTIME_DIR"]) and
            os.path.relpath(path, host.state).split("/")[0] not in ("events", "events.jsonl", "events.jsonl.1", "lock",
                                                                    "switches", "unfinished")}


def settled(host):
    """A new service has looked at what was left, and nothing is at work on a disk any more."""
    wait_for(lambda: not disk_programs(host))
    host.json("get-vm")
    assert glob.glob(host.state + "/unfinished/*") == []
    wait_for(lambda: all(vm["Status"] != "Merging disks" for vm in host.json("get-vm")))


def killed_in_the_midst(host, step, *args):
    """kill -9 of the service when step() says so, or at the end. True: it was done by then."""
    pid = host.daemon_pid()
    at_work = subprocess.Popen(host.command(*args), env=host.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, cwd=host.folder)
    while at_work.poll() is None and not step():
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    at_work.wait(30)
    settled(host)
    return at_work.returncode == 0


def steps(host, folders):
    """Moments of a copy: the journal, each folder and file that comes to be."""
    def journal():
        return glob.glob(host.state + "/unfinished/*.json")

    def so_many(count):
        return lambda: len(files_below(*folders)) - before >= count

    before = len(files_below(*folders))
    return [journal] + [so_many(count) for count in (1, 3, 6, 8, 9, 11, 13, 15, 17)]


def test_killed_while_it_exports(host):
    vm_with_a_tree(host)
    before = everything(host)
    for step in steps(host, [host.folder + "/out"]):
        done = killed_in_the_midst(host, step, "export-vm", "a", "-Path", host.folder + "/out")
        if os.path.exists(host.folder + "/out"):
            description = "%s/out/a/Virtual Machines/%s/vm.json" % (host.folder, host.vm("a")["VMId"])
            assert len(glob.glob(host.folder + "/out/a/Snapshots/*/vm.json")) == 3
            assert not [n for n in host.json("compare-vm", description, "-Copy", "-GenerateNewId", "-NewName", "b")[0]
                        ["Incompatibilities"] if n["Severity"] == "Error"]
            shutil.rmtree(host.folder + "/out")
        else:
            assert not done
        assert everything(host) == before and tree(host, "a") == TREE


def test_killed_while_it_imports(host):
    vm_with_a_tree(host)
    top, description = exported(host)
    host.run("remove-vm", "a", "-Force")
    for path in glob.glob(host.folder + "/*vhdx"):
        os.unlink(path)
    os.makedirs(host.folder + "/disks")
    with open(host.folder + "/disks/mine.vhdx", "w") as f:
        f.write("somebody else's")
    before = everything(host)
    places = [host.folder + "/disks", host.folder + "/vms", host.folder + "/snaps"]
    for step in steps(host, places):
        done = killed_in_the_midst(host, step, "import-vm", description, "-Copy", "-VhdDestinationPath", places[0],
                                   "-VirtualMachinePath", places[1], "-SnapshotFilePath", places[2])
        if host.json("get-vm"):
            assert tree(host, "a") == TREE
            check(host, disk_of(host, "a"), 3, 0)
            disks = glob.glob(places[0] + "/d*vhdx")
            assert len(disks) == 4
            host.run("remove-vm", "a", "-Force")
            for path in disks:
                os.unlink(path)
            for path in (places[1], places[2] + "/Snapshots", places[2]):
                os.rmdir(path)
        else:
            assert not done
        assert everything(host) == before


def test_what_came_to_be_since_is_left_alone(host):
    """After an interruption somebody puts a file in the place of one of ours: it is not taken away."""
    vm_with_a_tree(host)
    top, description = exported(host)
    host.run("remove-vm", "a", "-Force")
    os.makedirs(host.folder + "/disks")
    pid = host.daemon_pid()
    at_work = subprocess.Popen(host.command("import-vm", description, "-Copy", "-VhdDestinationPath", "disks"),
                               env=host.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, cwd=host.folder)
    wait_for(lambda: os.listdir(host.folder + "/disks") or at_work.poll() is not None)
    os.kill(pid, signal.SIGKILL)
    at_work.wait(30)
    wait_for(lambda: not disk_programs(host))
    if not glob.glob(host.state + "/unfinished/*.json"):
        pytest.skip("it was done by then")
    for path in glob.glob(host.folder + "/disks/*"):
        os.unlink(path)
    for name in ("d.vhdx", "mine.vhdx"):
        with open(host.folder + "/disks/" + name, "w") as f:
            f.write("somebody else's")
    assert host.json("get-vm") == []
    assert sorted(os.listdir(host.folder + "/disks")) == ["d.vhdx", "mine.vhdx"]


def test_killed_while_it_removes(host):
    """Remove-VM of one with checkpoints elsewhere is finished."""
    vm_with_a_tree(host)
    top, description = exported(host)
    host.run("remove-vm", "a", "-Force")
    os.makedirs(host.folder + "/vms")
    os.makedirs(host.folder + "/snaps")
    host.run("import-vm", description, "-Copy", "-VirtualMachinePath", "vms", "-SnapshotFilePath", "snaps")
    host.kill_daemon()
    folder = host.folder + "/vms/a"
    os.rename(folder + "/vm.json", folder + "/removed.json")
    os.unlink(glob.glob(host.folder + "/snaps/Snapshots/*/*/vm.json")[0])
    assert host.json("get-vm") == []
    assert os.listdir(host.folder + "/vms") == [] and os.listdir(host.folder + "/snaps/Snapshots") == []
    assert os.listdir(host.state + "/vms") == []


def test_killed_while_a_running_one_is_exported(host):
    """The checkpoint that was taken for it goes, too."""
    disk = host.folder + "/d.vhdx"
    host.run("new-vhd", disk, "64MB")
    host.running_vm("a", "memory=0.5", "-VHDPath", disk)
    taken = host.vm_folder("a") + "/checkpoints"
    for step in (lambda: glob.glob(taken + "/*.new/layers.json"), lambda: glob.glob(taken + "/*/memory"),
                 lambda: glob.glob(host.state + "/unfinished/*.json"),
                 lambda: glob.glob(host.folder + "/out/a/*/*/vm.json")):
        done = killed_in_the_midst(host, step, "export-vm", "a", "-Path", "out")
        wait_for(lambda: not glob.glob(taken + "/*") and disk_of(host, "a") == disk)
        assert host.json("get-vmcheckpoint", "-VMName", "a") == []
        assert glob.glob(host.folder + "/*.avhdx") == [] and host.vm("a")["State"] == "Running"
        assert os.path.exists(host.folder + "/out") or not done
        shutil.rmtree(host.folder + "/out", ignore_errors=True)
