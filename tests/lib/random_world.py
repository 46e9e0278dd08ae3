"""Random operations on machines, with kill -9 in their midst, for tests/cli (no guests run) and tests/guest.

A World knows what there must be. A step makes one operation and interrupts it, or not; then what was acknowledged must be
there, what was refused must not, and of what nobody knows either all or nothing. `host` is that of either conftest.py.
"""
import contextlib
import glob
import json
import os
import random
import shutil
import signal
import subprocess
import time

from processes import is_alive


class World:
    KINDS = ("start", "stop", "save", "pause", "checkpoint", "checkpoint", "apply", "forget", "forget", "export",
             "export_checkpoint", "export_merging", "import_", "import_in_place", "copy", "remove", "rename",
             "rename_checkpoint")
    VICTIMS = ("none", "service", "service", "worker", "both")
    DELAYS = (0, 0.003, 0.01, 0.03, 0.05, 0.1, 0.2, 0.4)
    MACHINES = 4
    DISK_SIZE = "8MB"
    TIDY_EVERY = 25
    SECONDS = 60  # for an operation, also on a busy machine

    def __init__(self, host, seed):
        print("OYAKO_SEED=%d" % seed)
        self.host = host
        self.chance = random.Random(seed)
        self.count = 0
        self.machines = {}  # name: names of its checkpoints
        self.disks = {}     # name: the folder of its disk
        self.exports = set()
        os.makedirs(self.path("vms"))
        os.makedirs(self.path("disks-base"))
        disk = self.path("disks-base/base.vhdx")
        host.run("new-vhd", disk, self.DISK_SIZE)
        self.new_machine("base", disk)
        host.run("set-vm", "base", "-CheckpointType", "Standard")
        self.machines["base"] = set()
        self.disks["base"] = self.path("disks-base")

    def new_machine(self, name, disk):
        self.host.new_vm(name, "", "-VHDPath", disk)

    def path(self, name):
        return os.path.join(self.host.folder, name)

    def name(self, kind):
        self.count += 1
        return "%s%d" % (kind, self.count)

    def wait_for(self, what):
        deadline = time.monotonic() + self.SECONDS
        while not what():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.02)

    def describe(self, vm):
        return next(v for v in self.host.json("get-vm") if v["Name"] == vm)

    # ---- operations: a command, and what is then done to the world (None: nothing)

    def choose(self):
        vm = self.chance.choice(sorted(self.machines))
        return getattr(self, self.chance.choice(self.KINDS))(vm)

    def start(self, vm):
        return ["start-vm", vm], None

    def stop(self, vm):
        return ["stop-vm", vm, "-TurnOff"], None

    def save(self, vm):
        return ["save-vm", vm], None

    def pause(self, vm):
        return [self.chance.choice(["suspend-vm", "resume-vm"]), vm], None

    def checkpoint(self, vm):
        name = self.name("c")
        return ["checkpoint-vm", vm, "-SnapshotName", name], lambda: self.machines[vm].add(name)

    def one_of(self, vm):
        return self.chance.choice(sorted(self.machines[vm]))

    def apply(self, vm):
        if not self.machines[vm]:
            return self.checkpoint(vm)
        return ["restore-vmcheckpoint", "-VMName", vm, "-Name", self.one_of(vm), "-Confirm:false"], None

    def forget(self, vm):
        if not self.machines[vm]:
            return self.checkpoint(vm)
        name = self.one_of(vm)
        return (["remove-vmcheckpoint", "-VMName", vm, "-Name", name, "-Confirm:false"],
                lambda: self.machines[vm].discard(name))

    def rename_checkpoint(self, vm):
        if not self.machines[vm]:
            return self.checkpoint(vm)
        old, new = self.one_of(vm), self.name("c")
        return (["rename-vmcheckpoint", "-VMName", vm, "-Name", old, "-NewName", new],
                lambda: self.checkpoint_renamed(vm, old, new))

    def checkpoint_renamed(self, vm, old, new):
        self.machines[vm].remove(old)
        self.machines[vm].add(new)

    def rename(self, vm):
        new = self.name("vm")
        return ["rename-vm", vm, new], lambda: self.renamed(vm, new)

    def renamed(self, old, new):
        self.machines[new] = self.machines.pop(old)
        self.disks[new] = self.disks.pop(old)

    def export(self, vm):
        folder = self.name("out")
        return ["export-vm", vm, "-Path", self.path(folder)], lambda: self.exports.add((folder, vm))

    def export_checkpoint(self, vm):
        if not self.machines[vm]:
            return self.checkpoint(vm)
        name, folder = self.one_of(vm), self.name("out")
        return (["export-vmcheckpoint", "-VMName", vm, "-Name", name, "-Path", self.path(folder)],
                lambda: self.checkpoint_exported(vm, name, folder))

    def checkpoint_exported(self, vm, name, folder):
        self.exports.add((folder, vm))

    def export_merging(self, vm):
        """Of one whose disks are just being merged."""
        if not self.machines[vm]:
            return self.export(vm)
        name = self.one_of(vm)
        self.host.json("remove-vmcheckpoint", "-VMName", vm, "-Name", name, "-Confirm:false", "-AsJob")
        self.machines[vm].discard(name)
        return self.export(vm)

    def description_of(self, folder, vm):
        return glob.glob("%s/%s/Virtual Machines/*/vm.json" % (self.path(folder), vm))[0]

    def import_in_place(self, vm):
        """Of an export whose machine is there no more; of a copy of it, for it is the machine's own folder then."""
        there = {v["VMId"] for v in self.host.json("get-vm")}
        free = [(folder, of) for folder, of in sorted(self.exports)
                if self.description_of(folder, of).split("/")[-2] not in there]
        for old in glob.glob(self.path("place-*")):
            if not any(disks.startswith(old + "/") for disks in self.disks.values()):
                shutil.rmtree(old)
        if not free or len(self.machines) >= self.MACHINES:
            return self.export(vm)
        folder, of = self.chance.choice(free)
        name = self.name("vm")
        place = "place-" + name
        shutil.copytree(self.path(folder), self.path(place))
        tree = set(self.checkpoints_of(folder, of))
        disks = "%s/%s/Virtual Hard Disks" % (self.path(place), of)
        return (["import-vm", self.description_of(place, of), "-Register", "-NewName", name],
                lambda: self.imported(name, tree, disks, (folder, of)))

    def copy(self, vm, place=False):
        if not self.exports or len(self.machines) >= self.MACHINES:
            return self.export(vm)
        folder, of = self.chance.choice(sorted(self.exports))
        description = self.description_of(folder, of)
        tree = set(self.checkpoints_of(folder, of))
        name = self.name("vm")
        disks = self.path("disks-" + name)
        options = ["-NewName", name, "-Copy", "-GenerateNewId", "-VhdDestinationPath", disks]
        if place:
            options += ["-VirtualMachinePath", self.path("vms"), "-SnapshotFilePath", self.path("vms")]
        return ["import-vm", description, *options], lambda: self.imported(name, tree, disks, (folder, of))

    def import_(self, vm):
        return self.copy(vm, True)

    def imported(self, name, tree, disks, export):
        self.machines[name] = set(tree)
        self.disks[name] = disks

    def checkpoints_of(self, folder, vm):
        for path in glob.glob("%s/%s/Snapshots/*/checkpoint.json" % (self.path(folder), vm)):
            with open(path) as f:
                yield json.load(f)["name"]

    def remove(self, vm):
        if len(self.machines) < 2 or self.describe(vm)["State"] not in ("Off", "Saved"):
            return self.stop(vm)
        return ["remove-vm", vm, "-Force"], lambda: self.removed(vm)

    def removed(self, vm):
        """Its disks stay, as on Hyper-V."""
        self.machines.pop(vm)
        for path in glob.glob("%s/*vhdx" % self.disks.pop(vm)):
            os.unlink(path)

    # ---- carrying one out

    def interrupt(self):
        """Ends the service, a worker, or both, or none, after a moment. True: the service."""
        kind = self.chance.choice(self.VICTIMS)
        delay = self.chance.choice(self.DELAYS) * self.chance.random() * 2
        time.sleep(0 if kind == "none" else delay)
        if kind in ("service", "both"):
            os.kill(self.pid, signal.SIGKILL)
        if kind in ("worker", "both") and self.workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.chance.choice(self.workers), signal.SIGKILL)
        return kind in ("service", "both")

    def carry_out(self, command):
        """True: it was acknowledged; False: it was refused; None: nobody knows."""
        at_work = subprocess.Popen(self.host.command(*command), env=self.host.env, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        ended = self.interrupt()
        error = at_work.communicate(timeout=self.SECONDS)[1]
        if ended:
            self.wait_for(lambda: not is_alive(self.pid))
        if at_work.returncode == 0:
            return True
        assert "Traceback" not in error and error.strip(), error
        return None if ended else False

    def step(self):
        self.pid = self.host.json("get-vmhost")[0]["ProcessId"]
        self.workers = [v["WorkerProcessId"] for v in self.host.json("get-vm") if v["WorkerProcessId"]]
        command, after = self.choose()
        before = self.facts()
        done = self.carry_out(command)
        print(command, done, flush=True)
        self.settle()
        if done and after:
            after()
        if self.facts() != self.found():
            # What was not acknowledged may have happened all the same, as a whole.
            assert not done, (command, self.facts(), self.found())
            if after:
                after()
            assert self.facts() == self.found(), (command, before, self.facts(), self.found())
        self.carried_out(command, done)

    def carried_out(self, command, done):
        pass

    def facts(self):
        return {vm: frozenset(names) for vm, names in self.machines.items()}, frozenset(self.exports)

    def found(self):
        machines = {v["Name"]: frozenset(c["Name"] for c in self.host.json("get-vmcheckpoint", "-VMName", v["Name"])
                                         if not c["IsAutomaticCheckpoint"]) for v in self.host.json("get-vm")}
        exports = {(path.split("/")[-2], path.split("/")[-1]) for path in glob.glob(self.path("out*/*"))}
        return machines, frozenset(exports)

    def disk_programs(self):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                with open("/proc/%s/environ" % pid) as f, open("/proc/%s/comm" % pid) as comm:
                    if self.host.env["XDG_RUNTIME_DIR"] in f.read() and comm.read().strip() == "oyako-disk":
                        yield pid

    def settle(self):
        def quiet():
            vms = self.host.json("get-vm")
            return not list(self.disk_programs()) and all(
                v["State"] in ("Off", "Running", "Paused", "Saved") and v["Status"] == "Operating normally"
                for v in vms) and not self.host.json("get-job", "-State", "Running")
        self.wait_for(quiet)

    # ---- what must always be true

    def check(self):
        host = self.host
        state = os.path.join(host.env["XDG_DATA_HOME"], "oyako")
        assert glob.glob(state + "/unfinished/*") == []
        vms = {v["Name"]: v for v in host.json("get-vm")}
        assert sorted(os.listdir(state + "/vms")) == sorted(v["VMId"] for v in vms.values())
        needed = set()
        for name in vms:
            disk = host.json("get-vmharddiskdrive", "-VMName", name)[0]["Path"]
            while disk:
                needed.add(disk)
                disk = host.json("get-vhd", disk)[0]["ParentPath"]
        # What came to no import in place is this test's own copy.
        folders = set(self.disks.values()) | set(glob.glob(self.path("disks-*")))
        return needed, {path for folder in folders for path in glob.glob(folder + "/*.avhdx")}

    def check_tidy(self):
        """When no checkpoint is there any more there is one disk for each machine."""
        for vm in sorted(self.machines):
            if self.describe(vm)["State"] not in ("Off", "Saved"):
                self.host.run("stop-vm", vm, "-TurnOff")
            if self.machines[vm]:
                self.host.run("remove-vmcheckpoint", "-VMName", vm, "-Confirm:false")
            self.machines[vm] = set()
        self.settle()
        needed, layers = self.check()
        assert layers == set(), layers
        for disk in needed:
            self.host.run("test-vhd", disk)
        for vm in sorted(self.machines):
            self.host.run("start-vm", vm)

    def drop_exports(self):
        for folder, vm in sorted(self.exports)[:-2]:
            shutil.rmtree(self.path(folder))
            self.exports.discard((folder, vm))

    def run(self, operations):
        for number in range(operations):
            self.step()
            self.check()
            if number % self.TIDY_EVERY == self.TIDY_EVERY - 1:
                self.check_tidy()
                self.drop_exports()
        self.check_tidy()
