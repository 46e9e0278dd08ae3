"""Random operations on machines, with kill -9 of service and workers in their midst, or storage that fails: nothing that was
acknowledged is lost, and nothing is left over. OYAKO_LONG=1 makes 2,000 of them, OYAKO_OPERATIONS another number; OYAKO_SEED
repeats one run."""
import contextlib
import os
import random
import signal
import subprocess
import time

from conftest import Host, is_alive
from random_world import World

LONG = os.environ.get("OYAKO_LONG") == "1"
OPERATIONS = int(os.environ.get("OYAKO_OPERATIONS") or 0)
SEED = int(os.environ.get("OYAKO_SEED") or random.randrange(1 << 32))


class WorldOfMerges(World):
    """The layers of one that runs are merged for a while."""

    def new_machine(self, name, disk):
        self.host.new_vm(name, "merge=0.2", "-VHDPath", disk)


def test_random_operations(host):
    WorldOfMerges(host, SEED).run(OPERATIONS or (2000 if LONG else 14))


class WorldOfLayers(World):
    """A machine that is off: its layers are merged by disk programs, which are killed, too, and moments count."""
    KINDS = ("checkpoint", "checkpoint", "apply", "forget", "forget", "export", "export_merging", "forget_merging")
    VICTIMS = ("none", "service", "service", "disk", "both")
    DELAYS = (0, 0.01, 0.02, 0.04, 0.08)
    TIDY_EVERY = 5

    def forget_merging(self, vm):
        """Of one whose disks are just being merged."""
        if len(self.machines[vm]) < 2:
            return self.checkpoint(vm)
        name = self.one_of(vm)
        self.host.json("remove-vmcheckpoint", "-VMName", vm, "-Name", name, "-Confirm:false", "-AsJob")
        self.machines[vm].discard(name)
        return self.forget(vm)

    def interrupt(self):
        kind = self.chance.choice(self.VICTIMS)
        if kind == "none":
            return False
        time.sleep(self.chance.choice(self.DELAYS) * self.chance.random() * 2)
        if kind in ("disk", "both"):
            for pid in self.disk_programs():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        if kind in ("service", "both"):
            os.kill(self.pid, signal.SIGKILL)
        return kind in ("service", "both")

    def check_tidy(self):
        super().check_tidy()
        self.host.run("stop-vm", "base", "-TurnOff")


def test_layers_of_a_machine_that_is_off(host):
    WorldOfLayers(host, SEED).run(OPERATIONS or (2000 if LONG else 30))


class WorldOfBadStorage(WorldOfMerges):
    """Everything is on one small file system, which is full or read-only for the time of an operation. (Read-only only
    where no worker writes: Linux refuses that.)"""
    VICTIMS = ("none", "full", "full", "almost full", "read-only", "full and service")
    MACHINES = 3
    TIDY_EVERY = 15

    def remount(self, options):
        return subprocess.run(["mount", "-o", "remount," + options, self.host.folder], capture_output=True).returncode == 0

    def fill(self, left):
        with open(self.path("filler"), "ab", buffering=0) as f:
            with contextlib.suppress(OSError):
                while True:
                    f.write(bytes(1 << 16))
            f.truncate(max(f.tell() - left, 0))

    def carry_out(self, command):
        """The trouble comes at any moment, and is over when the command has ended."""
        done = super().carry_out(command)
        self.remount("rw")
        if os.path.exists(self.path("filler")):
            os.unlink(self.path("filler"))
        # A service that could not even start is not one that refused.
        return None if not done and not is_alive(self.pid) else done

    def interrupt(self):
        kind = self.chance.choice(self.VICTIMS)
        time.sleep(0 if kind == "none" else self.chance.choice(self.DELAYS) * self.chance.random())
        if kind == "read-only":
            self.remount("ro")
        elif kind != "none":
            self.fill(self.chance.randrange(1 << 20) if kind == "almost full" else 0)
        if kind.endswith("service"):
            os.kill(self.pid, 9)
        return kind.endswith("service")


def test_random_operations_on_bad_storage(tmp_path, small_storage):
    host = Host(small_storage)
    try:
        WorldOfBadStorage(host, SEED).run(OPERATIONS or (500 if LONG else 10))
    finally:
        host.end_daemon()
        host.clean_up()
