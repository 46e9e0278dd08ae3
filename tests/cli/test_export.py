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

from conftest import wait_for
from test_checkpoints import MIB, check, disk_programs, write
from test_jobs import begin


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
    assert copy["SnapshotFileLocation"] == "%s/snaps" % host.folder
    assert os.path.isdir("%s/snaps/Snapshots/%s" % (host.folder, copy["VMId"]))
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


@pytest.mark.parametrize("moment", ["empty", "link", "folder is gone"])
def test_killed_at_the_end_of_a_removal(host, moment):
    """Of a VM whose folder is elsewhere: neither it nor the link to it stays."""
    os.mkdir(host.folder + "/vms")
    host.new_vm("a", "", "-Path", host.folder + "/vms")
    link = os.path.join(host.state, "vms", host.vm("a")["VMId"])
    assert os.path.islink(link)
    host.kill_daemon()
    folder = os.path.realpath(link)
    os.makedirs(folder, exist_ok=True)
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    if moment != "empty":
        os.rename(link, os.path.join(host.state, "vms", ".removed-" + os.path.basename(link)))
    if moment == "folder is gone":
        os.rmdir(folder)
    assert host.json("get-vm") == []
    assert not os.path.exists(folder) and os.listdir(host.state + "/vms") == []


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


# ---- where there is no room, or no wish ----

def big_vm(host, mib=60):
    disk = host.folder + "/d.vhdx"
    host.run("new-vhd", disk, "256MB", "-Fixed")
    with open(disk, "r+b") as f:
        f.seek(16 * MIB)
        for _ in range(mib):
            f.write(os.urandom(MIB))
    host.new_vm("a", "", "-VHDPath", disk)


def one_line(error, says):
    assert says in error and len(error.splitlines()) == 1, error


def test_full_disk(host, small_disk):
    big_vm(host)
    one_line(host.run("export-vm", "a", small_disk, status=1), "No space left")
    one_line(host.run("export-vm", "a", small_disk + "/new", status=1), "No space left")
    assert os.listdir(small_disk) == []
    description = exported(host)[1]
    one_line(host.run("import-vm", description, "-Copy", "-GenerateNewId", "-NewName", "b", "-VhdDestinationPath",
                      small_disk, "-VirtualMachinePath", host.folder + "/vms", status=1), "No space left")
    assert os.listdir(small_disk) == [] and not os.path.exists(host.folder + "/vms")
    assert [vm["Name"] for vm in host.json("get-vm")] == ["a"] and len(os.listdir(host.state + "/vms")) == 1


def test_full_disk_of_the_service(host, small_disk):
    """Not even what is to be done can be written down."""
    big_vm(host)
    description = exported(host)[1]
    host.kill_daemon()
    shutil.move(host.env["XDG_DATA_HOME"], small_disk + "/data")
    host.env["XDG_DATA_HOME"] = small_disk + "/data"
    host.state = small_disk + "/data/oyako"
    host.json("get-vm")
    before = files_below(host.state + "/vms", host.folder + "/out")
    with open(small_disk + "/filler", "wb") as f:
        try:
            while True:
                f.write(bytes(MIB))
                f.flush()
        except OSError:
            pass
    one_line(host.run("export-vm", "a", host.folder + "/more", status=1), "No space left")
    one_line(host.run("import-vm", description, "-Copy", "-GenerateNewId", "-NewName", "b", "-VhdDestinationPath",
                      host.folder + "/disks", status=1), "No space left")
    assert not os.path.exists(host.folder + "/more") and not os.path.exists(host.folder + "/disks")
    assert files_below(host.state + "/vms", host.folder + "/out") == before


def test_read_only(host, small_disk):
    host.run("new-vhd", host.folder + "/d.vhdx", "64MB")
    host.new_vm("a", "", "-VHDPath", host.folder + "/d.vhdx")
    host.run("export-vm", "a", small_disk)
    description = "%s/a/Virtual Machines/%s/vm.json" % (small_disk, host.vm("a")["VMId"])
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    one_line(host.run("export-vm", "a", small_disk + "/new", status=1), "Read-only file system")
    one_line(host.run("import-vm", description, "-Copy", "-GenerateNewId", "-NewName", "b", "-VhdDestinationPath",
                      small_disk, status=1), "Read-only file system")
    host.run("remove-vm", "a", "-Force")
    one_line(host.run("import-vm", description, status=1), "Read-only file system")
    assert host.json("get-vm") == []
    # Copied it can be all the same.
    host.run("import-vm", description, "-Copy")
    host.run("start-vm", "a")


def stopped_while(host, folder, *args):
    """A job that is stopped while it copies; nothing of it is left."""
    job = begin(host, *args)
    wait_for(lambda: os.path.exists(folder) or host.json("get-job", job)[0]["State"] != "Running")
    progress = host.json("get-job", job)[0]["Progress"]
    state = host.json("stop-job", job)[0]["State"]
    if state == "Completed":
        pytest.skip("the file system shares blocks: it was done by then")
    assert state in ("Stopped", "Failed") and (progress is None or "%" in progress or "linking" in progress)
    wait_for(lambda: not os.path.exists(folder))


def test_jobs_can_be_stopped(host):
    big_vm(host, 200)
    stopped_while(host, host.folder + "/out", "export-vm", "a", "-Path", host.folder + "/out")
    description = exported(host)[1]
    stopped_while(host, host.folder + "/disks", "import-vm", description, "-Copy", "-GenerateNewId", "-NewName", "b",
                  "-VhdDestinationPath", host.folder + "/disks")
    assert [vm["Name"] for vm in host.json("get-vm")] == ["a"]
    assert glob.glob(host.state + "/unfinished/*") == [] and len(os.listdir(host.state + "/vms")) == 1


# ---- the report ----

def save_report(host, *args):
    report, = host.json("compare-vm", *args)
    path = host.folder + "/report.json"
    return report, path


def mended(path, report):
    with open(path, "w") as f:
        json.dump([report], f)
    return path


def test_a_report_is_mended(host):
    """Compare-VM, its report edited, Compare-VM of that, Import-VM."""
    disk = host.folder + "/d.vhdx"
    host.run("new-vhd", disk, "64MB")
    host.new_vm("a", "", "-VHDPath", disk)
    description = exported(host)[1]
    with open(description) as f:
        config = json.load(f)
    config["network_adapters"][0]["switch"] = "gone"
    config["memory_bytes"] = 2 << 40
    with open(description, "w") as f:
        json.dump(config, f)
    os.makedirs(host.folder + "/other")
    os.rename(config["scsi_controllers"][0]["drives"][0]["path"], host.folder + "/other/renamed.vhdx")
    os.unlink(disk)
    report, path = save_report(host, description, "-Copy", "-GenerateNewId", "-NewName", "b")
    assert report["OperationType"] == "ImportVirtualMachine" and report["Path"] == description
    found = {n["MessageId"]: n for n in report["Incompatibilities"] if n["Severity"] != "Lost"}
    assert found[33012]["Message"] == "Could not find Ethernet switch 'gone'."
    assert found[40010]["Severity"] == "Error" and found[0]["Source"] in ("Memory", "Network Adapter")
    errors = host.run("import-vm", "-CompatibilityReport", mended(path, report), status=1)
    assert "d.vhdx" in errors and "memory" in errors
    report["VM"]["memory_bytes"] = 512 << 20
    report["VM"]["scsi_controllers"][0]["drives"][0]["path"] = host.folder + "/other/renamed.vhdx"
    again, = host.json("compare-vm", "-CompatibilityReport", mended(path, report))
    assert not [n for n in again["Incompatibilities"] if n["Severity"] == "Error"]
    vm, = host.json("import-vm", "-CompatibilityReport", mended(path, again))
    assert vm["VMId"] == report["VM"]["id"] and vm["Name"] == "b" and vm["MemoryStartup"] == 512 << 20
    assert disk_of(host, "b").endswith("/Virtual Hard Disks/renamed.vhdx")
    # What is no report, or says what can't be.
    for broken in ({}, {"Parameters": {}, "VM": {}}, {"Parameters": {"Path": 5}, "VM": {}},
                   dict(report, VM=dict(report["VM"], generation=7)),
                   dict(report, Parameters=dict(report["Parameters"], CompatibilityReport=path))):
        assert len(host.run("import-vm", "-CompatibilityReport", mended(path, broken), status=1).splitlines()) == 1
    assert len(host.json("get-vm")) == 2


def test_a_parent_that_is_not_there(host):
    host.run("new-vhd", "base.vhdx", "-SizeBytes", "64MB")
    host.run("new-vhd", "child.vhdx", "-ParentPath", "base.vhdx")
    host.new_vm("a", "", "-VHDPath", "child.vhdx")
    top, description = exported(host)
    host.run("remove-vm", "a", "-Force")
    for folder in (host.folder, top + "/Virtual Hard Disks"):
        os.unlink(folder + "/base.vhdx")
    for options in ((), ("-Copy",)):
        report, = host.json("compare-vm", description, *options)
        note, = [n for n in report["Incompatibilities"] if n["Severity"] == "Error"]
        assert note["MessageId"] == 40010 and "parent" in note["Message"] and note["Source"].endswith("/child.vhdx")
        assert "parent" in host.run("import-vm", description, *options, status=1)
    assert host.json("get-vm") == []


# ---- versions ----

def test_versions(host):
    assert host.json("get-vmhostsupportedversion") == host.json("get-vmhostsupportedversion", "-Default")
    version, = host.json("get-vmhostsupportedversion")
    assert version["IsDefault"] and version["Version"] == "1.0"
    assert "Get-VMHostSupportedVersion" in host.run("new-vm", "b", "-Version", "9.0", status=1)
    host.new_vm("a", "", "-Version", "1.0")
    assert host.vm("a")["Version"] == "1.0"
    assert host.json("update-vmversion", "a", "-Force", "-Passthru")[0]["Version"] == "1.0"
    host.run("start-vm", "a")
    assert "not off" in host.run("update-vmversion", "a", "-Force", status=1)
    host.run("stop-vm", "a", "-TurnOff")
    description = exported(host)[1]
    with open(description) as f:
        newer = dict(json.load(f), version=2)
    with open(description, "w") as f:
        json.dump(newer, f)
    for cmdlet in ("import-vm", "compare-vm"):
        one_line(host.run(cmdlet, description, "-Copy", status=1), "version 2")


# ---- Hyper-V's own, with checkpoints ----

SCSI = "11111111-aaaa-4000-8000-000000000000"
HYPERV_FILE = """<?xml version="1.0" encoding="UTF-16" standalone="yes"?>
<configuration>
  <_{scsi}_>
    <controller0><drive0>
      <pathname type="string">C:\\Disks\\{disk}</pathname>
      <type type="string">VHD</type>
    </drive0></controller0>
  </_{scsi}_>
  <manifest>
    <size type="integer">1</size>
    <vdev001>
      <device type="string">d422512d-2bf2-4752-809d-7b82b5fcb1b4</device>
      <instance type="string">{scsi}</instance>
    </vdev001>
  </manifest>
  <properties>
    <global_id type="string">{id}</global_id>
    <name type="string">{name}</name>
    <subtype type="integer">1</subtype>
    <type_id type="string">{kind}</type_id>
    <version type="integer">1280</version>
  </properties>
  <settings><memory><bank><size type="integer">512</size></bank></memory></settings>
</configuration>"""


def hyperv_file(folder, name, disk, vm_id="D351C151-DAC7-4042-B434-B72D522C1E4A", kind="Virtual Machines"):
    """As Hyper-V up to 2012 R2 writes it."""
    text = HYPERV_FILE.format(scsi=SCSI, disk=disk, id=vm_id, name=name, kind=kind)
    os.makedirs(folder, exist_ok=True)
    with open("%s/%s.xml" % (folder, vm_id), "wb") as f:
        f.write(text.encode("utf-16"))
    return "%s/%s.xml" % (folder, vm_id)


@pytest.mark.parametrize("options", [(), ("-Copy",)])
def test_hyperv_export_with_checkpoints(host, options):
    """The tree is found from the disks' chain: base <- one <- two <- now, one <- branch."""
    top = host.folder + "/hyperv"
    disks = top + "/Virtual Hard Disks"
    os.makedirs(disks)
    names = ["d.vhdx"] + ["d_%08d-0000-4000-8000-000000000000.avhdx" % i for i in range(3)]
    host.run("new-vhd", disks + "/" + names[0], "64MB")
    write(host, disks + "/" + names[0], 1, 0)
    for child, parent, pattern in ((1, 0, 2), (2, 1, 3), (3, 1, 9)):
        # Hyper-V's names of differencing disks are for checkpoints; New-VHD makes plain ones.
        host.run("new-vhd", disks + "/new.vhdx", "-ParentPath", disks + "/" + names[parent])
        os.rename(disks + "/new.vhdx", disks + "/" + names[child])
        write(host, disks + "/" + names[child], pattern, 0)
    config = hyperv_file(top + "/Virtual Machines", "web", names[2])
    for number, (name, disk) in enumerate((("one", names[0]), ("two", names[1]), ("branch", names[3]))):
        hyperv_file(top + "/Snapshots", name, disk, "%08d-1111-4000-8000-000000000000" % number, "Snapshots")
    vm, = host.json("import-vm", config, *options)
    assert any("memory of its checkpoints" in n["Message"] for n in vm["Incompatibilities"])
    assert tree(host, "web") == {"one": (None, False), "two": ("one", True), "branch": ("two", False)}
    if options:
        shutil.rmtree(top)
    check(host, disk_of(host, "web"), 3, 0)
    for name, pattern in (("branch", 9), ("one", 1), ("two", 2)):
        host.run("restore-vmcheckpoint", "-VMName", "web", "-Name", name, "-Confirm:false")
        check(host, disk_of(host, "web"), pattern, 0)
    host.run("remove-vmcheckpoint", "-VMName", "web", "-Confirm:false")
    wait_for(lambda: host.vm("web")["Status"] != "Merging disks")
    assert disk_of(host, "web").endswith("/d.vhdx")
    check(host, disk_of(host, "web"), 2, 0)


# ---- layers of checkpoints that are gone ----

def vm_over_a_gone_layer(host):
    """one (the VM goes on from it), and one - three and one - four, both on a layer of "two", which is gone."""
    disk = host.folder + "/d.vhdx"
    host.run("new-vhd", disk, "64MB")
    write(host, disk, 1, 0)
    host.new_vm("a", "", "-VHDPath", disk)
    for name, pattern in (("one", 2), ("two", 3), ("three", 0)):
        host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", name)
        if pattern:
            write(host, disk_of(host, "a"), pattern, 0)
    host.run("restore-vmcheckpoint", "-VMName", "a", "-Name", "two", "-Confirm:false")
    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "four")
    host.run("restore-vmcheckpoint", "-VMName", "a", "-Name", "one", "-Confirm:false")
    host.run("remove-vmcheckpoint", "-VMName", "a", "-Name", "two", "-Confirm:false")
    assert tree(host, "a") == {"one": (None, True), "three": ("one", False), "four": ("one", False)}
    return disk


def check_layers_go(host, name):
    """With the last branch that lies on it the layer goes, and with the last checkpoint all of them."""
    folder = os.path.dirname(disk_of(host, name))
    layers = len(glob.glob(folder + "/*.avhdx"))
    for checkpoint, left in (("four", layers - 1), ("three", layers - 3)):
        host.run("remove-vmcheckpoint", "-VMName", name, "-Name", checkpoint, "-Confirm:false")
        assert len(glob.glob(folder + "/*.avhdx")) == left
    check(host, disk_of(host, name), 1, 0)
    host.run("remove-vmcheckpoint", "-VMName", name, "-Confirm:false")
    assert disk_of(host, name).endswith("/d.vhdx") and glob.glob(folder + "/*.avhdx") == []
    check(host, disk_of(host, name), 1, 0)


def strangers(folder, *names):
    """Disks of somebody else, by whose names they could be layers."""
    os.makedirs(folder, exist_ok=True)
    paths = ["%s/%s_11111111-2222-3333-4444-555555555555.avhdx" % (folder, name) for name in names]
    for path in paths:
        with open(path, "w") as f:
            f.write("somebody else's")
    return paths


def test_gone_layers_go_along(host):
    """A copy has them, and they go as those of the original do."""
    vm_over_a_gone_layer(host)
    description = exported(host)[1]
    host.run("import-vm", description, "-Copy", "-GenerateNewId", "-NewName", "b", "-VhdDestinationPath",
             host.folder + "/disks")
    assert len(glob.glob(host.folder + "/disks/*.avhdx")) == 4  # of "two", "three", "four", and the VM's
    check_layers_go(host, "b")
    check_layers_go(host, "a")


def test_gone_layers_are_not_believed(host):
    """Where it is imported in place, and where the VM's folder is on storage that others write to, its list of layers
    is not what decides."""
    disk = vm_over_a_gone_layer(host)
    top, description = exported(host)
    disks = top + "/Virtual Hard Disks"
    foreign = strangers(host.folder + "/other", "d") + strangers(disks, "e")
    host.run("remove-vm", "a", "-Force")
    for path in glob.glob(host.folder + "/*vhdx"):
        os.unlink(path)

    def forge(folder):
        with open(folder + "/below.json", "w") as f:
            json.dump(dict({c["Id"]: foreign for c in checkpoints}, vm=foreign), f)

    checkpoints = [{"Id": name} for name in os.listdir(top + "/Snapshots")]
    forge(os.path.dirname(description))
    host.run("import-vm", description, "-Register")
    checkpoints = host.json("get-vmcheckpoint", "-VMName", "a")
    with open(os.path.join(host.vm_folder("a"), "below.json")) as f:
        listed = json.load(f)
    assert len(listed) == 2 and not any(path in foreign for paths in listed.values() for path in paths)
    host.kill_daemon()
    # Now what it said is lost, so that one layer stays; but nobody else's goes.
    forge(os.path.dirname(description))
    for name in ("four", "three", "one"):
        host.run("remove-vmcheckpoint", "-VMName", "a", "-Name", name, "-Confirm:false")
    assert len(glob.glob(disks + "/d_*.avhdx")) == 1 and all(os.path.exists(path) for path in foreign)
    assert os.path.basename(disk) == os.path.basename(disk_of(host, "a"))


def test_gone_layers_in_place(host):
    vm_over_a_gone_layer(host)
    top, description = exported(host)
    host.run("remove-vm", "a", "-Force")
    for path in glob.glob(host.folder + "/*vhdx"):
        os.unlink(path)
    moved = shutil.move(top, host.folder + "/moved")
    os.unlink(os.path.dirname(description.replace(top, moved)) + "/below.json")
    host.run("import-vm", description.replace(top, moved), "-Register")
    check_layers_go(host, "a")


@pytest.mark.parametrize("options", [("-Register",), ("-Copy",)])
def test_an_exported_checkpoint_gets_one_disk(host, options):
    """Without the checkpoints under it nothing needs their layers: they are merged when it is imported."""
    vm_over_a_gone_layer(host)
    host.run("export-vmcheckpoint", "four", host.folder + "/out", "-VMName", "a")
    description = "%s/out/a/Virtual Machines/%s/vm.json" % (host.folder, host.vm("a")["VMId"])
    host.run("remove-vm", "a", "-Force")
    host.run("import-vm", description, *options)
    wait_for(lambda: host.vm("a")["Status"] != "Merging disks")
    assert tree(host, "a") == {} and disk_of(host, "a").endswith("/d.vhdx")
    assert glob.glob(os.path.dirname(disk_of(host, "a")) + "/*.avhdx") == []
    check(host, disk_of(host, "a"), 2, 0)
    assert not os.path.exists(host.vm_folder("a") + "/below.json")
