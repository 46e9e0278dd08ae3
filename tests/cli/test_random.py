"""Random operations on machines, with kill -9 of service and workers in their midst: nothing that was acknowledged is lost,
and nothing is left over. OYAKO_LONG=1 makes 2,000 of them; OYAKO_SEED repeats one run."""
import contextlib
import glob
import json
import os
import random
import shutil
import signal
import subprocess
import time

from conftest import is_alive, wait_for
from test_checkpoints import disk_programs

LONG = os.environ.get("OYAKO_LONG") == "1"
OPERATIONS = 2000 if LONG else 14
TIDY_EVERY = 25
SEED = int(os.environ.get("OYAKO_SEED") or random.randrange(1 << 32))
MACHINES = 4


class World:
    """What there must be. Each operation is a command and what is true after it, or before it."""

    def __init__(self, host):
        self.host = host
        self.chance = random.Random(SEED)
        self.count = 0
        self.machines = {}  # name: names of its checkpoints
        self.exports = set()

    def name(self, kind):
        self.count += 1
        return "%s%d" % (kind, self.count)

    def begin(self):
        os.makedirs(self.disks_of("base"))
        self.host.run("new-vhd", "disks-base/base.vhdx", "8MB")
        self.host.new_vm("base", "", "-VHDPath", "disks-base/base.vhdx")
        self.host.run("set-vm", "base", "-CheckpointType", "Standard")
        self.machines["base"] = set()

    # ---- operations: a command, and the world after it

    def describe(self, vm):
        return next(v for v in self.host.json("get-vm") if v["Name"] == vm)

    def choose(self):
        vm = self.chance.choice(sorted(self.machines))
        kinds = ["start", "stop", "save", "pause", "checkpoint", "checkpoint", "apply", "forget", "forget", "export",
                 "import", "copy", "remove"]
        return getattr(self, self.chance.choice(kinds))(vm)

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
        return (["checkpoint-vm", vm, "-SnapshotName", name],
                lambda: self.machines[vm].add(name))

    def apply(self, vm):
        if not self.machines[vm]:
            return self.checkpoint(vm)
        return ["restore-vmcheckpoint", "-VMName", vm, "-Name", self.chance.choice(sorted(self.machines[vm])),
                "-Confirm:false"], None

    def forget(self, vm):
        if not self.machines[vm]:
            return self.checkpoint(vm)
        name = self.chance.choice(sorted(self.machines[vm]))
        return (["remove-vmcheckpoint", "-VMName", vm, "-Name", name, "-Confirm:false"],
                lambda: self.machines[vm].discard(name))

    def export(self, vm):
        folder = self.name("out")
        return ["export-vm", vm, "-Path", folder], lambda: self.exports.add((folder, vm))

    def copy(self, vm, place=False):
        if not self.exports or len(self.machines) >= MACHINES:
            return self.export(vm)
        folder, of = self.chance.choice(sorted(self.exports))
        description, = glob.glob("%s/%s/%s/Virtual Machines/*/vm.json" % (self.host.folder, folder, of))
        tree = {c for c in self.checkpoints_of(folder, of)}
        name = self.name("vm")
        options = ["-NewName", name, "-Copy", "-GenerateNewId", "-VhdDestinationPath", "disks-" + name]
        if place:
            options += ["-VirtualMachinePath", "vms", "-SnapshotFilePath", "vms"]
        return ["import-vm", description, *options], lambda: self.machines.update({name: tree})

    def import_(self, vm):
        return self.copy(vm, True)

    def remove(self, vm):
        if len(self.machines) < 2 or self.describe(vm)["State"] not in ("Off", "Saved"):
            return self.stop(vm)
        return ["remove-vm", vm, "-Force"], lambda: self.removed(vm)

    def removed(self, vm):
        """Its disks stay, as on Hyper-V."""
        self.machines.pop(vm)
        for path in glob.glob("%s/*vhdx" % self.disks_of(vm)):
            os.unlink(path)

    def disks_of(self, vm):
        return os.path.join(self.host.folder, "disks-" + vm)

    def checkpoints_of(self, folder, vm):
        for path in glob.glob("%s/%s/%s/Snapshots/*/checkpoint.json" % (self.host.folder, folder, vm)):
            with open(path) as f:
                yield json.load(f)["name"]

    # ---- carrying one out

    def interrupt(self):
        """Ends the service, a worker, or both, or none, after a moment."""
        kind = self.chance.choice(["none", "service", "service", "worker", "both"])
        delay = self.chance.choice([0, 0.003, 0.01, 0.03, 0.05, 0.1, 0.2, 0.4]) * self.chance.random() * 2
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
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=self.host.folder, text=True)
        ended = self.interrupt()
        error = at_work.communicate(timeout=60)[1]
        if ended:
            wait_for(lambda: not is_alive(self.pid))
        if at_work.returncode == 0:
            return True
        assert "Traceback" not in error and error.strip(), error
        return None if ended else False

    def step(self):
        self.pid = self.host.daemon_pid()
        self.workers = [v["WorkerProcessId"] for v in self.host.json("get-vm") if v["WorkerProcessId"]]
        command, after = self.choose()
        before = self.facts()
        done = self.carry_out(command)
        print(command, done)
        self.settle()
        if done and after:
            after()
        if self.facts() == self.found():
            return
        # What was not acknowledged may have happened all the same, as a whole.
        assert not done, (command, self.facts(), self.found())
        if after:
            after()
        assert self.facts() == self.found(), (command, before, self.facts(), self.found())

    def facts(self):
        return {vm: frozenset(names) for vm, names in self.machines.items()}, frozenset(self.exports)

    def found(self):
        machines = {v["Name"]: frozenset(c["Name"] for c in self.host.json("get-vmcheckpoint", "-VMName", v["Name"])
                                         if not c["IsAutomaticCheckpoint"]) for v in self.host.json("get-vm")}
        exports = {(path.split("/")[-2], path.split("/")[-1]) for path in glob.glob(self.host.folder + "/out*/*")}
        return machines, frozenset(exports)

    def settle(self):
        def quiet():
            vms = self.host.json("get-vm")
            return not disk_programs(self.host) and all(
                v["State"] in ("Off", "Running", "Paused", "Saved") and v["Status"] == "Operating normally"
                for v in vms) and not self.host.json("get-job", "-State", "Running")
        wait_for(quiet, 60)

    # ---- what must always be true

    def check(self):
        host = self.host
        assert glob.glob(host.state + "/unfinished/*") == []
        vms = {v["Name"]: v for v in host.json("get-vm")}
        assert sorted(os.listdir(host.state + "/vms")) == sorted(v["VMId"] for v in vms.values())
        needed = set()
        for name in vms:
            disk = host.json("get-vmharddiskdrive", "-VMName", name)[0]["Path"]
            while disk:
                needed.add(disk)
                disk = host.json("get-vhd", disk)[0]["ParentPath"]
        return needed, set(glob.glob(host.folder + "/disks-*/*.avhdx"))

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


setattr(World, "import", World.import_)


def test_random_operations(host):
    print("OYAKO_SEED=%d" % SEED)
    world = World(host)
    world.begin()
    os.makedirs(host.folder + "/vms")
    for number in range(OPERATIONS):
        world.step()
        world.check()
        if number % TIDY_EVERY == TIDY_EVERY - 1:
            world.check_tidy()
            for folder, vm in sorted(world.exports)[:-2]:
                shutil.rmtree(os.path.join(host.folder, folder))
                world.exports.discard((folder, vm))
    world.check_tidy()
