"""Checkpoints: their tree, and what becomes of the disks of a VM that is off, or runs."""
import glob
import json
import os
import shutil
import subprocess
import time

import pytest

from conftest import PATIENCE, tell, wait_for

MIB = 1 << 20


def disk_io(host, path, *commands):
    """What qemu-io says to commands on the disk, opened with all that lies under it."""
    socket = host.json("mount-vhd", path)[0]["NbdSocket"]
    done = subprocess.run(["qemu-io", "-f", "raw", *(word for c in commands for word in ("-c", c)),
                           "nbd+unix:///?socket=" + socket], capture_output=True, text=True)
    host.run("dismount-vhd", path)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write(host, path, pattern, *offsets):
    disk_io(host, path, *("write -P %d %d 65536" % (pattern, at) for at in offsets))


def check(host, path, pattern, offset):
    said = disk_io(host, path, "read -P %d %d 65536" % (pattern, offset))
    assert "verification failed" not in said, said


def disk_of(host):
    return host.json("get-vmharddiskdrive", "-VMName", "a")[0]["Path"]


def layers(host):
    return sorted(glob.glob(host.folder + "/*.avhdx"))


def tree(host):
    return {c["Name"]: c["ParentSnapshotName"] for c in host.json("get-vmcheckpoint", "-VMName", "a")}


def vm_with_two(host):
    disk = host.folder + "/d.vhdx"
    host.run("new-vhd", disk, "64MB")
    write(host, disk, 1, 0)
    host.new_vm("a", "", "-VHDPath", disk)
    for name, pattern, offsets in (("one", 2, (0, MIB)), ("two", 3, (0,))):
        host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", name)
        write(host, disk_of(host), pattern, *offsets)
    return disk


def test_disks_follow_the_tree(host):
    disk = vm_with_two(host)
    assert tree(host) == {"one": None, "two": "one"} and len(layers(host)) == 2
    leaf = disk_of(host)
    check(host, leaf, 3, 0)
    host.run("restore-vmcheckpoint", "-VMName", "a", "-Name", "one", "-Confirm:false")
    assert disk_of(host) != leaf and not os.path.exists(leaf)
    check(host, disk_of(host), 1, 0)
    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "three")
    assert tree(host) == {"one": None, "two": "one", "three": "one"}
    leaf = disk_of(host)
    host.run("restore-vmcheckpoint", "-VMName", "a", "-Name", "two", "-Confirm:false")
    assert not os.path.exists(leaf)
    check(host, disk_of(host), 2, 0)
    # Nothing comes from "three", so its disk goes with it; others lie on that of "one".
    before = layers(host)
    host.run("remove-vmcheckpoint", "-VMName", "a", "-Name", "three", "-Confirm:false")
    assert len(layers(host)) == len(before) - 1
    host.run("remove-vmcheckpoint", "-VMName", "a", "-Name", "one", "-Confirm:false")
    assert tree(host) == {"two": None} and os.path.exists(disk)
    check(host, disk_of(host), 2, MIB)
    # The last one: the VM has its one disk again, with what it read before.
    host.run("remove-vmcheckpoint", "-VMName", "a", "-Name", "two", "-Confirm:false")
    assert disk_of(host) == disk and layers(host) == []
    check(host, disk, 2, 0)
    check(host, disk, 2, MIB)


def test_with_all_children(host):
    disk = vm_with_two(host)
    host.run("remove-vmcheckpoint", "-VMName", "a", "-Name", "one", "-IncludeAllChildSnapshots",
             "-Confirm:false")
    assert tree(host) == {} and disk_of(host) == disk and layers(host) == []
    check(host, disk, 3, 0)
    check(host, disk, 2, MIB)


def test_layers_of_another_branch_go_with_its_last(host):
    """One in the middle of a branch goes, and then those that lie on its disk."""
    disk = vm_with_two(host)

    def change(cmdlet, name):
        host.run(cmdlet, "-VMName", "a", "-Name", name, "-Confirm:false")

    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "three")
    change("restore-vmcheckpoint", "two")
    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "four")
    change("restore-vmcheckpoint", "one")
    change("remove-vmcheckpoint", "two")
    assert tree(host) == {"one": None, "three": "one", "four": "one"}
    host.kill_daemon()
    change("remove-vmcheckpoint", "three")
    assert len(layers(host)) == 3  # those of "two", which is under "four", of "four", and the VM's
    change("restore-vmcheckpoint", "four")
    check(host, disk_of(host), 2, MIB)
    change("restore-vmcheckpoint", "one")
    change("remove-vmcheckpoint", "four")
    assert layers(host) == [disk_of(host)]
    # The VM's own branch: it lies on a layer that can't be merged yet, and leaves it.
    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "five")
    change("restore-vmcheckpoint", "one")
    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "six")
    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "seven")
    change("remove-vmcheckpoint", "seven")
    assert len(layers(host)) == 4
    change("restore-vmcheckpoint", "five")
    assert len(layers(host)) == 3  # of "five", of "six", and the VM's
    host.run("remove-vmcheckpoint", "-VMName", "a", "-Confirm:false")
    assert layers(host) == [] and disk_of(host) == disk
    assert not os.path.exists(os.path.join(host.vm_folder("a"), "below.json"))


def test_interrupted_between_description_and_name(host):
    """vm.json says that the VM comes from it: then it is one."""
    vm_with_two(host)
    two = next(c["Id"] for c in host.json("get-vmcheckpoint", "-VMName", "a") if c["Name"] == "two")
    folder = os.path.join(host.vm_folder("a"), "checkpoints")
    host.kill_daemon()
    os.rename(os.path.join(folder, two), os.path.join(folder, two + ".new"))
    os.mkdir(os.path.join(folder, "11111111-2222-3333-4444-555555555555.new"))
    assert tree(host) == {"one": None, "two": "one"}
    assert sorted(os.listdir(folder)) == sorted(c["Id"] for c in host.json(
        "get-vmcheckpoint", "-VMName", "a"))


def test_interrupted_while_it_is_removed(host):
    """Its name says that it goes: then its children are its parent's, and its disk stays under theirs."""
    disk = vm_with_two(host)
    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "three")
    two = next(c["Id"] for c in host.json("get-vmcheckpoint", "-VMName", "a") if c["Name"] == "two")
    folder = os.path.join(host.vm_folder("a"), "checkpoints")
    host.kill_daemon()
    os.rename(os.path.join(folder, two), os.path.join(folder, two + ".removed"))
    assert tree(host) == {"one": None, "three": "one"}
    assert not any(".removed" in name for name in os.listdir(folder))
    host.run("remove-vmcheckpoint", "-VMName", "a", "-Name", "one", "-Confirm:false")
    check(host, disk_of(host), 3, 0)
    host.run("remove-vmcheckpoint", "-VMName", "a", "-Name", "three", "-Confirm:false")
    assert disk_of(host) == disk and tree(host) == {}
    check(host, disk, 3, 0)
    check(host, disk, 2, MIB)


def disk_programs(host):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/environ" % pid) as f, open("/proc/%s/comm" % pid) as comm:
                if host.env["XDG_RUNTIME_DIR"] in f.read() and comm.read().strip() == "oyako-disk":
                    found.append(pid)
        except OSError:
            continue
    return found


def interrupted(host, delay, *args):
    at_work = subprocess.Popen(host.command(*args), env=host.env, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(delay)
    host.kill_daemon()
    at_work.wait(30)
    # What was at work on a disk ends by itself, soon, but not at once.
    wait_for(lambda: not disk_programs(host))


def test_killed_in_the_middle(host):
    """kill -9 of the service leaves the old or the new state, and the same disk either way."""
    vm_with_two(host)
    for delay in (0, 0.01, 0.02, 0.03, 0.05, 0.1):
        before, disk = tree(host), disk_of(host)
        interrupted(host, delay, "checkpoint-vm", "-Name", "a", "-SnapshotName", str(delay))
        after = tree(host)
        if after == before:
            assert disk_of(host) == disk
        else:
            assert len(after) == len(before) + 1 and disk_of(host) != disk
        check(host, disk_of(host), 3, 0)
        check(host, disk_of(host), 2, MIB)
    for delay in (0, 0.01, 0.02, 0.03, 0.05, 0.1):
        interrupted(host, delay, "remove-vmcheckpoint", "-VMName", "a", "-Confirm:false")
        wait_for(lambda: host.vm("a")["Status"] != "Merging disks")
        check(host, disk_of(host), 3, 0)
        check(host, disk_of(host), 2, MIB)
        host.run("checkpoint-vm", "-Name", "a")


def test_refused(host):
    image = host.folder + "/d.img"
    with open(image, "wb") as f:
        f.truncate(MIB)
    host.new_vm("a", "", "-VHDPath", image)
    assert "no virtual hard disk" in host.run("checkpoint-vm", "-Name", "a", status=1)
    assert tree(host) == {} and disk_of(host) == image
    assert leftovers(host) == []
    host.run("set-vm", "-Name", "a", "-CheckpointType", "Disabled")
    assert "Disabled" in host.run("checkpoint-vm", "-Name", "a", status=1)


def test_one_disk_fails(host):
    """Of two disks the second can't have a new one: the first keeps its place, and nothing is left."""
    disk = host.folder + "/d.vhdx"
    host.run("new-vhd", disk, "64MB")
    host.new_vm("a", "", "-VHDPath", disk)
    bad = host.folder + "/e.vhdx"
    host.run("new-vhd", bad, "64MB")
    host.run("add-vmharddiskdrive", "-VMName", "a", "-Path", bad)
    with open(bad, "r+b") as f:
        f.write(b"rubbish!" * 100000)
    assert "e.vhdx" in host.run("checkpoint-vm", "-Name", "a", status=1)
    assert disk_of(host) == disk and layers(host) == [] and tree(host) == {}


def running(host, behaviour, kind="Standard", disks=2):
    paths = [host.folder + "/d%d.vhdx" % i for i in range(disks)]
    for path in paths:
        host.run("new-vhd", path, "64MB")
    write(host, paths[0], 1, 0)
    host.new_vm("a", behaviour, "-VHDPath", paths[0])
    for path in paths[1:]:
        host.run("add-vmharddiskdrive", "-VMName", "a", "-Path", path)
    host.run("set-vm", "-Name", "a", "-CheckpointType", kind)
    host.run("start-vm", "a")
    return paths


def disks_of(host):
    return [d["Path"] for d in host.json("get-vmharddiskdrive", "-VMName", "a")]


def leftovers(host):
    """In the VM's folder, and disks that nothing has."""
    folder = os.path.join(host.vm_folder("a"), "checkpoints")
    names = os.listdir(folder) if os.path.exists(folder) else []
    inside = [f for f in glob.glob(os.path.join(folder, "*", "*"))
              if os.path.basename(f) not in ("checkpoint.json", "vm.json", "memory")]
    known = set(disks_of(host))
    for name in names:
        try:
            with open(os.path.join(folder, name, "vm.json")) as f:
                known |= {d["path"] for c in json.load(f)["scsi_controllers"] for d in c["drives"]}
        except FileNotFoundError:
            inside.append(name)  # one that is being made, or is going
    return inside + [name for name in names if "." in name] + [p for p in layers(host) if p not in known]


def worker_pid(host):
    with open(os.path.join(host.runtime, "vm", host.vm("a")["VMId"], "run.json")) as f:
        return json.load(f)["pid"]


def events(host, kind):
    return [e for e in host.json("get-vmevent", "a") if e["Event"] == kind]


def test_taken_while_it_runs(host):
    """The same worker goes on, on new disks; what is applied later starts from its memory."""
    paths = running(host, "")
    worker = worker_pid(host)
    taken = host.json("checkpoint-vm", "-Name", "a", "-SnapshotName", "one", "-Passthru")[0]
    assert taken["HasMemory"] and taken["CheckpointType"] == "Standard" and taken["IsCurrent"]
    assert worker_pid(host) == worker and host.vm("a")["State"] == "Running"
    assert all(os.path.splitext(p)[0] in q and q.endswith(".avhdx") for p, q in zip(paths, disks_of(host)))
    assert events(host, "vm-checkpoint")[-1]["Data"]["PauseMilliseconds"] == 2.5
    host.run("suspend-vm", "a")
    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "two")
    assert host.vm("a")["State"] == "Paused" and tree(host) == {"one": None, "two": "one"}
    leaves = disks_of(host)
    host.run("restore-vmcheckpoint", "-VMName", "a", "-Name", "one", "-Confirm:false")
    assert host.vm("a")["State"] == "Saved" and not set(leaves) & set(layers(host))
    host.run("start-vm", "a")
    host.run("stop-vm", "a", "-TurnOff", "-Force")
    check(host, disks_of(host)[0], 1, 0)
    assert leftovers(host) == []


def test_end_is_not_heard(host):
    running(host, "memory=0.3 cutoff")
    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "one")
    assert tree(host) == {"one": None} and leftovers(host) == []
    host.run("remove-vmcheckpoint", "-VMName", "a", "-Confirm:false")


@pytest.mark.parametrize("behaviour,state", [("full", "Running"), ("dieearly", "Off"), ("dielate", "Off")])
def test_fails_while_it_runs(host, behaviour, state):
    """What its disks are in the end is what the worker had them be."""
    paths = running(host, behaviour)
    message = host.run("checkpoint-vm", "-Name", "a", status=1)
    assert "disk is full" in message or "worker" in message or "ended" in message or "interrupted" in message
    wait_for(lambda: host.vm("a")["State"] == state)
    assert tree(host) == {} and leftovers(host) == []
    wait_for(lambda: is_merged(host, paths))
    host.run("stop-vm", "a", "-TurnOff", "-Force")
    check(host, disks_of(host)[0], 1, 0)


def test_layers_of_a_checkpoint_that_came_to_nothing(host):
    """Its worker ends when the guest is on new layers and its memory is not written yet. They go with what the VM was when
    another checkpoint is applied before they are merged."""
    disk = vm_with_two(host)
    host.run("set-vm", "-Name", "a", "-LinuxCommandLine", "memory=30")
    host.run("start-vm", "a")
    taking = subprocess.Popen(host.command("checkpoint-vm", "-Name", "a"), env=host.env, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = os.path.join(host.vm_folder("a"), "checkpoints")
    mark = wait_for(lambda: glob.glob(folder + "/*.new/mark"))[0]
    wait_for(lambda: os.path.getsize(mark) == 1)
    host.kill_daemon()
    os.kill(worker_pid(host), 9)
    taking.wait(30)
    assert tree(host) == {"one": None, "two": "one"}
    # Not while they are being merged, which has begun or not.
    restore = host.command("restore-vmcheckpoint", "-VMName", "a", "-Name", "one", "-Confirm:false")
    wait_for(lambda: subprocess.run(restore, env=host.env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0)
    check(host, disk_of(host), 1, 0)
    host.run("remove-vmcheckpoint", "-VMName", "a", "-Confirm:false")
    wait_for(lambda: layers(host) == [] and disk_of(host) == disk)


@pytest.mark.parametrize("behaviour", ["layers=1.5", "memory=1.5"])
@pytest.mark.parametrize("worker_dies", [False, True])
def test_service_killed_while_it_runs(host, behaviour, worker_dies):
    """The next service lets the worker finish, or settles what it had come to."""
    paths = running(host, behaviour)
    worker = worker_pid(host)
    taking = subprocess.Popen(host.command("checkpoint-vm", "-Name", "a", "-SnapshotName", "one"), env=host.env,
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = os.path.join(host.vm_folder("a"), "checkpoints")
    # Its worker is at it.
    mark = wait_for(lambda: glob.glob(folder + "/*.new/mark"))[0]
    if behaviour.startswith("memory"):
        wait_for(lambda: os.path.getsize(mark) == 1)
    host.kill_daemon()
    if worker_dies:
        os.kill(worker, 9)
    taking.wait(30)
    if worker_dies:
        assert host.vm("a")["State"] == "Off" and tree(host) == {}
        wait_for(lambda: is_merged(host, paths))
    else:
        wait_for(lambda: tree(host) == {"one": None})
        assert host.vm("a")["State"] == "Running" and not set(paths) & set(disks_of(host))
        host.run("stop-vm", "a", "-TurnOff", "-Force")
    assert leftovers(host) == []
    check(host, disks_of(host)[0], 1, 0)


def test_service_killed_at_any_moment(host):
    running(host, "layers=0.05 memory=0.05")
    for delay in (0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5):
        interrupted(host, delay, "checkpoint-vm", "-Name", "a")
        assert host.vm("a")["State"] == "Running"
        wait_for(lambda: leftovers(host) == [])
    host.run("stop-vm", "a", "-TurnOff", "-Force")
    check(host, disks_of(host)[0], 1, 0)


def test_memory_of_a_checkpoint_is_removed(host):
    """It has its disks still."""
    running(host, "")
    for name in ("one", "two"):
        host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", name)
    host.run("remove-vmsavedstate", "a", "-VMSnapshot", "one")
    assert "'one' has no saved state" in host.run("remove-vmsavedstate", "a", "-VMSnapshot", "one", status=1)
    assert "no checkpoint 'x'" in host.run("remove-vmsavedstate", "a", "-VMSnapshot", "x", status=1)
    assert {c["Name"]: c["HasMemory"] for c in host.json("get-vmcheckpoint", "-VMName", "a")} == {"one": False, "two": True}
    host.run("restore-vmcheckpoint", "-VMName", "a", "-Name", "two", "-Confirm:false")
    assert host.vm("a")["State"] == "Saved"
    host.run("remove-vmsavedstate", stdin=None, input=host.run("get-vmcheckpoint", "-VMName", "a", "-Name", "two", "--json"))
    assert host.vm("a")["State"] == "Saved" and not any(
        c["HasMemory"] for c in host.json("get-vmcheckpoint", "-VMName", "a"))
    host.run("restore-vmcheckpoint", "-VMName", "a", "-Name", "one", "-Confirm:false")
    assert host.vm("a")["State"] == "Off" and leftovers(host) == []
    check(host, disks_of(host)[0], 1, 0)


def test_pipes_instead_of_files(host):
    """As shared storage may have them: nobody writes to them, and the service does not wait for that."""
    vm_with_two(host)
    folder = host.vm_folder("a")
    two = next(c["Id"] for c in host.json("get-vmcheckpoint", "-VMName", "a") if c["Name"] == "two")
    host.kill_daemon()
    taken = os.path.join(folder, "checkpoints", "11111111-2222-3333-4444-555555555555.new")
    saved = os.path.join(folder, "saved-11111111-2222-3333-4444-555555555555")
    shutil.copytree(os.path.join(folder, "checkpoints", two), taken)
    os.mkdir(saved)
    for path, text in ((taken + "/layers.json", "[]"), (taken + "/mark", "1"), (saved + "/mark", "saved\n")):
        with open(path, "w") as f:
            f.write(text)
    for place in (taken, saved):
        os.mkfifo(place + "/memory")
    os.mkfifo(folder + "/below.json")
    assert tree(host) == {"one": None, "two": "one"} and host.vm("a")["State"] == "Off"
    assert not os.path.exists(taken) and not os.path.exists(saved)


def test_a_circle_of_checkpoints(host):
    """As shared storage may have it; and all that come from one go with it, from the last on."""
    vm_with_two(host)
    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "three")
    ids = {c["Name"]: c["Id"] for c in host.json("get-vmcheckpoint", "-VMName", "a")}
    path = os.path.join(host.vm_folder("a"), "checkpoints", ids["one"], "checkpoint.json")
    with open(path) as f:
        described = json.load(f)
    with open(path, "w") as f:
        json.dump(dict(described, parent=ids["two"]), f)
    pid = host.daemon_pid()
    host.run("remove-vmcheckpoint", "-VMName", "a", "-Name", "one", "-IncludeAllChildSnapshots", "-Confirm:false")
    assert host.daemon_pid() == pid and "one" not in tree(host)
    check(host, disk_of(host), 3, 0)
    host.run("remove-vmcheckpoint", "-VMName", "a", "-Confirm:false")
    assert tree(host) == {}
    check(host, disk_of(host), 3, 0)


def test_production(host):
    """The guest's file systems stand still while its disks get their layers; there is no memory."""
    running(host, "vss", "Production")
    taken = host.json("checkpoint-vm", "-Name", "a", "-SnapshotName", "one", "-Passthru")[0]
    assert taken["CheckpointType"] == "Production" and not taken["HasMemory"]
    host.run("restore-vmcheckpoint", "-VMName", "a", "-Name", "one", "-Confirm:false")
    assert host.vm("a")["State"] == "Off" and leftovers(host) == []
    check(host, disks_of(host)[0], 1, 0)


@pytest.mark.parametrize("behaviour", ["", "vss thawed"])
def test_production_falls_back(host, behaviour):
    paths = running(host, behaviour, "Production")
    taken = host.json("checkpoint-vm", "-Name", "a", "-Passthru")[0]
    assert taken["CheckpointType"] == "Standard" and taken["HasMemory"]
    assert "standard checkpoint is taken instead" in events(host, "vm-checkpoint-fell-back")[0]["Message"]
    assert leftovers(host) == []
    before = disks_of(host)
    assert not set(paths) & set(before)
    host.run("set-vm", "-Name", "a", "-CheckpointType", "ProductionOnly")
    assert "production checkpoint" in host.run("checkpoint-vm", "-Name", "a", status=1)
    assert disks_of(host) == before and len(tree(host)) == 1 and leftovers(host) == []


def merge_files(host):
    return [f for f in os.listdir(host.vm_folder("a")) if f.startswith("merge.")]


def is_merged(host, paths):
    return disks_of(host) == paths and layers(host) == [] and merge_files(host) == []


def test_removed_while_it_runs(host):
    """The layers are merged behind the guest, and the command waits for it."""
    paths = running(host, "merge=0.2")
    host.run("checkpoint-vm", "-Name", "a")
    assert len(layers(host)) == 2
    host.run("remove-vmcheckpoint", "-VMName", "a", "-Confirm:false")
    assert is_merged(host, paths) and host.vm("a")["State"] == "Running" and tree(host) == {}
    for name in ("one", "two"):
        host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", name)
    two = disks_of(host)
    host.run("remove-vmcheckpoint", "-VMName", "a", "-Name", "two", "-Confirm:false")
    assert set(layers(host)) == set(disks_of(host)) and disks_of(host) != two
    host.run("remove-vmcheckpoint", "-VMName", "a", "-Confirm:false")
    assert is_merged(host, paths)
    host.run("stop-vm", "a", "-TurnOff", "-Force")
    check(host, disks_of(host)[0], 1, 0)


def test_merge_fails_and_is_done_when_it_is_off(host):
    paths = running(host, "nomerge")
    host.run("checkpoint-vm", "-Name", "a")
    assert "can't be merged" in host.run("remove-vmcheckpoint", "-VMName", "a", "-Confirm:false", status=1)
    assert tree(host) == {} and len(layers(host)) == 2 and host.vm("a")["State"] == "Running"
    host.run("stop-vm", "a", "-TurnOff", "-Force")
    wait_for(lambda: is_merged(host, paths))
    check(host, paths[0], 1, 0)


def test_taken_while_the_worker_is_found_again(host):
    """What a service has begun itself is not taken for what an earlier one has left."""
    running(host, "late=0.5")
    host.kill_daemon()
    slow = host.folder + "/slow-disk"
    with open(slow, "w") as f:
        f.write('#!/bin/sh\n/bin/sleep 1\nexec "%s/oyako-disk" "$@"\n' % os.path.dirname(host.command()[0]))
    os.chmod(slow, 0o700)
    host.env["OYAKO_DISK"] = slow
    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "one")
    assert tree(host) == {"one": None} and leftovers(host) == []
    assert set(layers(host)) == set(disks_of(host)) and len(layers(host)) == 2


def test_checkpoint_waits_for_the_merge(host):
    """It is taken when the last disk is merged; one whose job is stopped before, never."""
    running(host, "merge=300")
    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "one")
    removing = subprocess.Popen(host.command("remove-vmcheckpoint", "-VMName", "a", "-Confirm:false"), env=host.env,
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: "merge.mark" in merge_files(host))

    def job(number):
        return host.json("get-job", number)[0]

    taking, stopped = [host.json("checkpoint-vm", "a", "-SnapshotName", name, "-AsJob")[0]["Id"]
                       for name in ("two", "never")]
    for number in (taking, stopped):
        wait_for(lambda: "until its disks are merged" in (job(number)["Progress"] or ""))
    host.run("stop-job", stopped)
    assert job(stopped)["State"] == "Stopped" and job(taking)["State"] == "Running" and tree(host) == {}

    def is_taken():
        tell(host, "a", "merged")
        return job(taking)["State"] == "Completed"

    wait_for(is_taken)
    assert removing.wait(PATIENCE) == 0
    assert tree(host) == {"two": None} and len(layers(host)) == 2


def test_export_waits_for_the_merge(host):
    """Of the VM and of a checkpoint; one whose job is stopped before is not made."""
    running(host, "merge=300")
    for name in ("one", "two"):
        host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", name)
    removing = subprocess.Popen(host.command("remove-vmcheckpoint", "-VMName", "a", "-Name", "two", "-Confirm:false"),
                                env=host.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)
    wait_for(lambda: "merge.mark" in merge_files(host))

    def job(number):
        return host.json("get-job", number)[0]

    jobs = [host.json(*command, host.folder + "/" + folder, "-AsJob")[0]["Id"] for folder, command in (
        ("never", ("export-vm", "a")), ("never", ("export-vmcheckpoint", "-VMName", "a", "-Name", "one", "-Path")),
        ("now", ("export-vm", "a")))]
    for number in jobs:
        wait_for(lambda: "until its disks are merged" in (job(number)["Progress"] or ""))
    for number in jobs[:2]:
        host.run("stop-job", number)
        assert job(number)["State"] == "Stopped"
    assert job(jobs[2])["State"] == "Running"

    def is_exported():
        tell(host, "a", "merged")
        return job(jobs[2])["State"] == "Completed"

    wait_for(is_exported)
    assert removing.wait(PATIENCE) == 0
    assert os.path.exists(host.folder + "/now/a") and not os.path.exists(host.folder + "/never")


HOLDING_DISK = """#!/usr/bin/python3
import os, socket, time
with socket.socket(fileno=os.dup(3)) as job:
    request = job.recv(65536, socket.MSG_PEEK)
while b'"merge"' in request and os.path.exists("%s"):
    time.sleep(0.05)
os.execv("%s/oyako-disk", ["oyako-disk"])
"""


def hold_merges(host):
    """Disk programs that are to merge wait until the file is gone whose name is returned."""
    hold, slow = host.folder + "/hold", host.folder + "/slow-disk"
    host.kill_daemon()
    with open(slow, "w") as f:
        f.write(HOLDING_DISK % (hold, os.path.dirname(host.command()[0])))
    os.chmod(slow, 0o700)
    host.env["OYAKO_DISK"] = slow
    host.vm("a")
    open(hold, "w").close()
    return hold


def until_merged(host, *command):
    """Begins it, as a job that waits for the merge."""
    number = host.json(*command, "-AsJob")[0]["Id"]
    wait_for(lambda: "until its disks are merged" in (host.json("get-job", number)[0]["Progress"] or ""))
    return number


def test_restore_and_removal_wait_for_the_merge(host):
    vm_with_two(host)
    names = list(tree(host))
    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "last")
    hold = hold_merges(host)
    jobs = [host.json("remove-vmcheckpoint", "-VMName", "a", "-Name", names[0], "-Confirm:false", "-AsJob")[0]["Id"]]
    wait_for(lambda: '"old"' in open(host.vm_folder("a") + "/merge.json").read())
    jobs += [until_merged(host, "remove-vmcheckpoint", "-VMName", "a", "-Name", names[1], "-Confirm:false"),
             until_merged(host, "restore-vmcheckpoint", "-VMName", "a", "-Name", "last", "-Confirm:false")]
    assert list(tree(host)) == names[1:] + ["last"]
    os.unlink(hold)
    for number in jobs:
        assert host.json("wait-job", number)[0]["State"] == "Completed"
    assert tree(host) == {"last": None}
    wait_for(lambda: len(layers(host)) == 1)


def test_export_waits_for_the_merge_of_one_that_is_off(host):
    disk = vm_with_two(host)
    hold = hold_merges(host)
    removing = host.json("remove-vmcheckpoint", "-VMName", "a", "-Confirm:false", "-AsJob")[0]["Id"]
    exporting = until_merged(host, "export-vm", "a", host.folder + "/out")
    os.unlink(hold)
    for number in (removing, exporting):
        assert host.json("wait-job", number)[0]["State"] == "Completed"
    assert layers(host) == [] and disk_of(host) == disk
    assert len(glob.glob(host.folder + "/out/a/Virtual Hard Disks/*")) == 1


@pytest.mark.parametrize("how", ["stop", "kill worker", "kill service", "end service", "kill both", "cancel"])
def test_merge_is_interrupted(host, how):
    """Whatever ends, the merge goes on: behind the guest, or when it is off."""
    paths = running(host, "merge=1")
    host.run("checkpoint-vm", "-Name", "a")
    removing = subprocess.Popen(host.command("remove-vmcheckpoint", "-VMName", "a", "-Confirm:false"), env=host.env,
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: "merge.mark" in merge_files(host))
    assert host.vm("a")["Status"] == "Merging disks"
    worker = worker_pid(host)
    if how == "stop":
        host.run("stop-vm", "a", "-TurnOff", "-Force")
    if how == "cancel":
        removing.send_signal(2)
    if how in ("kill service", "kill both"):
        host.kill_daemon()
    if how == "end service":
        host.end_daemon()
    if how in ("kill worker", "kill both"):
        os.kill(worker, 9)
    wait_for(lambda: is_merged(host, paths))
    removing.wait(30)
    assert host.vm("a")["State"] == ("Running" if how in ("kill service", "end service", "cancel") else "Off")
    host.run("stop-vm", "a", "-TurnOff", "-Force")
    check(host, paths[0], 1, 0)


def test_started_while_its_disks_are_merged(host):
    """The merge makes way, and goes on behind the guest."""
    paths = running(host, "")
    host.run("checkpoint-vm", "-Name", "a")
    host.run("stop-vm", "a", "-TurnOff", "-Force")
    removing = subprocess.Popen(host.command("remove-vmcheckpoint", "-VMName", "a", "-Confirm:false"), env=host.env,
                                stdin=subprocess.DEVNULL)
    wait_for(lambda: tree(host) == {})
    host.run("start-vm", "a")
    assert host.vm("a")["State"] == "Running"
    wait_for(lambda: is_merged(host, paths))
    assert removing.wait(30) == 0
    host.run("stop-vm", "a", "-TurnOff", "-Force")
    check(host, paths[0], 1, 0)


def test_layers_in_the_middle(host):
    """What lies over a disk that nothing needs is merged into it, and takes its place in the checkpoint that has it."""
    disk = vm_with_two(host)
    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "three")
    assert len(layers(host)) == 3
    host.run("remove-vmcheckpoint", "-VMName", "a", "-Name", "two", "-Confirm:false")
    assert len(layers(host)) == 2 and tree(host) == {"one": None, "three": "one"} and leftovers(host) == []
    host.run("remove-vmcheckpoint", "-VMName", "a", "-Name", "one", "-Confirm:false")
    assert len(layers(host)) == 1 and leftovers(host) == []
    check(host, disk_of(host), 3, 0)
    check(host, disk_of(host), 2, MIB)
    host.run("restore-vmcheckpoint", "-VMName", "a", "-Name", "three", "-Confirm:false")
    check(host, disk_of(host), 3, 0)
    assert disk in host.json("get-vhd", disk_of(host))[0]["ParentPath"] and leftovers(host) == []


@pytest.mark.parametrize("relinked", [True, False])
def test_nobody_knows_whether_a_layer_was_relinked(host, relinked):
    """Killed between the new link and its mark, or before: what was done is finished, the rest done again."""
    vm_with_two(host)
    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "three")
    two = next(c["Id"] for c in host.json("get-vmcheckpoint", "-VMName", "a") if c["Name"] == "two")
    folder = host.vm_folder("a")
    described = os.path.join(folder, "checkpoints", two, "vm.json")
    with open(described) as f:
        old = json.load(f)["scsi_controllers"][0]["drives"][0]["path"]
    above = host.folder + "/" + next(os.path.basename(p) for p in layers(host)
                                     if host.json("get-vhd", p)[0]["ParentPath"] == old)
    new = host.json("get-vhd", old)[0]["ParentPath"]
    kept = {}
    for path in (described, old, above, new):
        with open(path, "rb") as f:
            kept[path] = f.read()
    host.run("remove-vmcheckpoint", "-VMName", "a", "-Name", "one", "-Confirm:false")
    assert not os.path.exists(old)
    host.kill_daemon()
    for path, data in kept.items():
        if path in (described, old) or not relinked:
            with open(path, "wb") as f:
                f.write(data)
    with open(os.path.join(folder, "merge.json"), "w") as f:
        json.dump({"old": old, "new": new, "files": [old], "above": above, "asked": False}, f)
    host.vm("a")  # a new service
    wait_for(lambda: merge_files(host) == [] and not os.path.exists(old))
    assert host.json("get-vhd", above)[0]["ParentPath"] == new and leftovers(host) == []
    check(host, disk_of(host), 3, 0)
    check(host, disk_of(host), 2, MIB)
    host.run("restore-vmcheckpoint", "-VMName", "a", "-Name", "two", "-Confirm:false")
    assert host.json("get-vhd", disk_of(host))[0]["ParentPath"] == new
    check(host, disk_of(host), 2, 0)


def test_merge_of_a_running_disk(host):
    """By its path, also by that of a layer; what checkpoints need stays."""
    base, middle, leaf = ("%s/%s.vhdx" % (host.folder, name) for name in ("base", "middle", "leaf"))
    host.run("new-vhd", base, "64MB")
    host.run("new-vhd", middle, "-ParentPath", base)
    host.run("new-vhd", leaf, "-ParentPath", middle)
    host.run("enable-vhdchangetracking", leaf)
    host.new_vm("a", "merge=0.2", "-VHDPath", leaf)
    host.run("start-vm", "a")
    host.run("checkpoint-vm", "-Name", "a")
    assert "checkpoint of 'a' needs" in host.run("merge-vhd", disk_of(host), status=1)
    assert os.path.exists(leaf) and merge_files(host) == []
    host.run("remove-vmcheckpoint", "-VMName", "a", "-Confirm:false")
    assert "none of its parents" in host.run("merge-vhd", leaf, "-DestinationPath", leaf, status=1)
    merged = host.json("merge-vhd", leaf, "-DestinationPath", base, "-Passthru")[0]
    assert merged["Path"] == base and disks_of(host) == [base] and merge_files(host) == []
    assert not os.path.exists(leaf) and not os.path.exists(middle) and os.path.exists(base + ".track")
    assert "no parent" in host.run("merge-vhd", base, status=1)
    host.run("new-vhd", leaf, "-ParentPath", base)
    host.run("stop-vm", "a", "-TurnOff", "-Force")
    mount = host.json("mount-vhd", leaf)[0]
    assert "mounted as disk %d" % mount["DiskNumber"] in host.run("merge-vhd", leaf, status=1)
    host.run("dismount-vhd", leaf)


def test_tracking_follows_a_vm_that_is_off(host):
    """Checkpoints taken and removed, and layers merged: the reference points stay those of the disk. What was
    changed by one who does not track is noticed all the same."""
    base, leaf = host.folder + "/base.vhdx", host.folder + "/leaf.vhdx"

    def points(path):
        return [p["Id"] for p in host.json("get-vhdreferencepoint", path)]

    host.run("new-vhd", base, "64MB")
    host.run("enable-vhdchangetracking", base)
    point = host.json("new-vhdreferencepoint", base)[0]["Id"]
    host.new_vm("a", "", "-VHDPath", base)
    for name in ("one", "two"):
        host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", name)
        assert points(disk_of(host)) == [point] and len(layers(host)) > 0
        assert host.json("get-vhdchange", disk_of(host), point) == []
    host.run("remove-vmcheckpoint", "-VMName", "a", "-Confirm:false")
    assert wait_for(lambda: disk_of(host) == base and layers(host) == [], 60)
    assert points(base) == [point]

    host.run("remove-vm", "a", "-Force")
    host.run("new-vhd", leaf, "-ParentPath", base)
    assert "without its changes being tracked" in host.run("get-vhdreferencepoint", leaf, status=1)
    host.run("enable-vhdchangetracking", base, status=1)
    os.unlink(base + ".track")
    host.run("enable-vhdchangetracking", leaf)
    point = host.json("new-vhdreferencepoint", leaf)[0]["Id"]
    host.run("merge-vhd", leaf)
    assert points(base) == [point] and not os.path.exists(leaf + ".track")
    host.new_vm("a", "", "-VHDPath", base)
    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "one")
    write(host, disk_of(host), 3, MIB)
    assert "without its changes being tracked" in host.run("get-vhdreferencepoint", disk_of(host), status=1)


@pytest.mark.parametrize("how", ["stop", "kill worker", "kill service", "end service", "cancel"])
def test_merge_of_a_running_disk_is_interrupted(host, how):
    """Then it is done, or all is as it was and can be done again."""
    base, leaf = ("%s/%s.vhdx" % (host.folder, name) for name in ("base", "leaf"))
    host.run("new-vhd", base, "64MB")
    host.run("new-vhd", leaf, "-ParentPath", base)
    host.new_vm("a", "merge=300", "-VHDPath", leaf)
    host.run("start-vm", "a")
    merging = subprocess.Popen(host.command("merge-vhd", leaf), env=host.env, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: "merge.mark" in merge_files(host))
    if how == "stop":
        host.run("stop-vm", "a", "-TurnOff", "-Force")
    if how == "cancel":
        merging.send_signal(2)
    if how == "kill service":
        host.kill_daemon()
    if how == "end service":
        host.end_daemon()
    if how == "kill worker":
        os.kill(worker_pid(host), 9)
    merging.wait(30)
    wait_for(lambda: merge_files(host) == [])
    assert host.vm("a")["State"] == ("Running" if how in ("kill service", "end service", "cancel") else "Off")
    assert disks_of(host) == [leaf] and os.path.exists(leaf)
    host.run("stop-vm", "a", "-TurnOff", "-Force")
    host.run("merge-vhd", leaf)
    assert not os.path.exists(leaf)


def test_automatic(host):
    """Taken at the start, before anything is written; gone with the stop, and not with a save."""
    paths = running(host, "")
    host.run("stop-vm", "a", "-TurnOff", "-Force")
    host.run("set-vm", "-Name", "a", "-AutomaticCheckpointsEnabled", "true")
    assert host.vm("a")["AutomaticCheckpointsEnabled"] and tree(host) == {}
    host.run("start-vm", "a")
    taken = host.json("get-vmcheckpoint", "-VMName", "a")
    assert [c["IsAutomaticCheckpoint"] for c in taken] == [True] and not taken[0]["HasMemory"]
    assert taken[0]["Name"].startswith("Automatic Checkpoint - a - (") and len(layers(host)) == 2
    host.run("save-vm", "a")
    host.run("start-vm", "a")
    assert host.json("get-vmcheckpoint", "-VMName", "a") == taken
    # A service and a worker that end without a word leave it; the next service removes it.
    pid = worker_pid(host)
    host.kill_daemon()
    os.kill(pid, 9)
    wait_for(lambda: tree(host) == {} and is_merged(host, paths))
    host.run("start-vm", "a")
    assert len(tree(host)) == 1
    host.run("restart-vm", "a", "-Force", "-Confirm:false")
    assert len(tree(host)) == 1
    host.run("stop-vm", "a", "-TurnOff", "-Force")
    wait_for(lambda: tree(host) == {} and is_merged(host, paths))
    check(host, paths[0], 1, 0)


def imported(host, to):
    """What was exported, in the place of the VM that it was made of."""
    if host.vm("a")["State"] == "Running":
        host.run("stop-vm", "a", "-TurnOff", "-Force")
    wait_for(lambda: host.vm("a")["Status"] != "Merging disks")
    vm_id = host.vm("a")["VMId"]
    host.run("remove-vm", "a", "-Force")
    host.run("import-vm", os.path.join(to, "a", "Virtual Machines", vm_id))
    state = host.vm("a")["State"]
    assert all(p.startswith(to) for p in disks_of(host))
    host.run("start-vm", "a")
    host.run("stop-vm", "a", "-TurnOff", "-Force")
    check(host, disks_of(host)[0], 1, 0)
    return state


@pytest.mark.parametrize("capture,behaviour,state", [
    (None, "", "Saved"), ("CaptureCrashConsistentState", "", "Off"), ("CaptureDataConsistentState", "vss", "Off")])
def test_export_while_it_runs(host, capture, behaviour, state):
    paths = running(host, behaviour, "Disabled")
    to = host.folder + "/out"
    host.run("export-vm", "a", to, *(("-CaptureLiveState", capture) if capture else ()))
    assert host.vm("a")["State"] == "Running" and tree(host) == {}
    wait_for(lambda: is_merged(host, paths))
    assert imported(host, to) == state


def test_export_needs_the_guest(host):
    paths = running(host, "", "Disabled")
    to = host.folder + "/out"
    assert "production" in host.run("export-vm", "a", to, "-CaptureLiveState", "CaptureDataConsistentState", status=1)
    assert tree(host) == {} and is_merged(host, paths) and not os.path.exists(to)


def test_export_of_a_checkpoint(host):
    """As it was then, while the VM runs on."""
    running(host, "")
    host.run("checkpoint-vm", "-Name", "a", "-SnapshotName", "one")
    to = host.folder + "/out"
    assert "no checkpoint 'two'" in host.run("export-vmsnapshot", "two", to, "-VMName", "a", status=1)
    host.run("export-vmsnapshot", "one", to, "-VMName", "a")
    assert tree(host) == {"one": None} and host.vm("a")["State"] == "Running"
    assert imported(host, to) == "Saved"


def test_export_of_a_saved_machine(host):
    running(host, "")
    host.run("save-vm", "a")
    to = host.folder + "/out"
    host.run("export-vm", "a", to)
    assert host.vm("a")["State"] == "Saved"
    copied = host.json("import-vm", "-Path", os.path.join(to, "a", "Virtual Machines", host.vm("a")["VMId"]), "-Copy",
                       "-GenerateNewId", "-NewName", "b")[0]
    assert copied["State"] == host.vm("b")["State"] == "Saved"
    host.run("start-vm", "b")
    assert imported(host, to) == "Saved"


UNDER_WAY = "11111111-2222-3333-4444-555555555555.new/layers.json"


@pytest.mark.parametrize("name", ["merge.json", "replaced.json", "../../Snapshots/" + UNDER_WAY,
                                  "checkpoints/" + UNDER_WAY])
def test_import_of_what_was_interrupted(host, name):
    """A folder from elsewhere does not say which of our disks are deleted."""
    host.new_vm("a", "", "-NewVHDPath", host.folder + "/d.vhdx", "-NewVHDSizeBytes", "64MB")
    vm_id, to = host.vm("a")["VMId"], host.folder + "/out"
    host.run("export-vm", "a", to)
    host.run("remove-vm", "a", "-Force")
    path = os.path.join(to, "a", "Virtual Machines", vm_id, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write('{"old": "/a.avhdx", "new": "/b.vhdx", "files": ["/a.avhdx"]}' if name == "merge.json" else "{}")
    if name.startswith("checkpoints"):
        # As of a VM's own folder.
        shutil.rmtree(os.path.join(to, "a", "Snapshots"))
    assert "was interrupted" in host.run("import-vm", os.path.join(to, "a", "Virtual Machines", vm_id), status=1)
    assert host.json("get-vm") == []


def test_import_in_place_that_was_interrupted(host):
    """It noted that there may be something to merge, and no more."""
    disk = vm_with_two(host)
    vm_id, to = host.vm("a")["VMId"], host.folder + "/out"
    host.run("export-vmcheckpoint", "-VMName", "a", "-Name", list(tree(host))[-1], "-Path", to)
    host.run("remove-vm", "a", "-Force")
    folder = os.path.join(to, "a", "Virtual Machines", vm_id)
    with open(folder + "/merge.json", "w") as f:
        f.write("{}")
    host.run("import-vm", folder)
    wait_for(lambda: host.vm("a")["Status"] == "Operating normally" and merge_files(host) == [])
    assert len(glob.glob(to + "/a/Virtual Hard Disks/*")) == 1 and disk_of(host) != disk
