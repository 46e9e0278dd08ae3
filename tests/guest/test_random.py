"""Random operations on machines whose guests run, with kill -9 of service and workers in their midst: what a guest had synced to
its disk is there, memory and disk belong together, and nothing is left over. OYAKO_LONG=1 makes 2,000 of them (OYAKO_OPERATIONS:
another number), OYAKO_SEED repeats one run."""
import os
import random
import re
import socket
import sys
import time

from conftest import LONG, PATIENCE, TOP, wait_for

sys.path.insert(0, os.path.join(TOP, "tests", "lib"))
from random_world import World

OPERATIONS = int(os.environ.get("OYAKO_OPERATIONS") or (2000 if LONG else 6))
SEED = int(os.environ.get("OYAKO_SEED") or random.randrange(1 << 32))

# It counts on its disk. "wrote N." is said when N and a block that belongs to it have been synced.
GUEST = """
mount -t tmpfs none /tmp
dd if=/dev/urandom of=/tmp/data bs=64k count=8 2>/dev/null
sum=$(md5sum </tmp/data)
count() { dd if=/dev/sda bs=512 count=1 iflag=direct 2>/dev/null | tr -d '\\000 '; }
block() { yes "block $1" | head -c 65536; }
n=$(count)
n=${n:-0}
for old in $(seq $((n > 8 ? n - 7 : 1)) $n); do
	block $old >/tmp/block
	dd if=/dev/sda bs=64k skip=$((old % 32 + 1)) count=1 iflag=direct 2>/dev/null | cmp - /tmp/block || echo "BAD-BLOCK $old"
done
echo "found $n."
while :; do
	there=$(count)
	[ "${there:-0}" = $n ] || echo "BAD-DISK $there, not $n"
	[ "$(md5sum </tmp/data)" = "$sum" ] || echo BAD-MEMORY
	n=$((n + 1))
	block $n | dd of=/dev/sda bs=64k seek=$((n % 32 + 1)) iflag=fullblock conv=notrunc,fsync 2>/dev/null || echo BAD-WRITE
	printf '%-512s' $n | dd of=/dev/sda bs=512 conv=notrunc,fsync 2>/dev/null || echo BAD-WRITE
	echo "wrote $n."
	sleep 0.2
done
"""


class WorldOfGuests(World):
    """`least` is the number that a machine's guest must at least find on its disk; of checkpoints and exports likewise."""
    KINDS = World.KINDS + ("start", "start", "start")
    DELAYS = (0, 0.01, 0.1, 0.3, 1, 2)
    MACHINES = 3
    DISK_SIZE = "16MB"
    SECONDS = 300 * PATIENCE

    def __init__(self, host, seed, kernel, initrd):
        self.kernel, self.initrd = kernel, initrd
        self.least = {"base": 0}
        self.least_of = {}  # (machine, checkpoint), or an export
        self.began_with = {"base": 0}
        super().__init__(host, seed)
        host.run("start-vm", "base")

    def new_machine(self, name, disk):
        self.host.new_vm(self.kernel.image, name, initrd=self.initrd, memory="128MB", options=["-VHDPath", disk],
                         cmdline="console=ttyS0 panic=-1 cryptomgr.notests")

    # ---- what the guests say

    def console(self, vm):
        folder = os.open(os.path.join(self.host.env["XDG_RUNTIME_DIR"], "oyako", "vm", vm["VMId"]), os.O_PATH)
        text = b""
        until = time.monotonic() + 1  # what was written before comes at once; the guest never ends writing
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(0.5)
                client.connect("/proc/self/fd/%d/console1" % folder)  # the path itself may be too long
                while time.monotonic() < until and (data := client.recv(65536)):
                    text += data
        except (TimeoutError, ConnectionRefusedError, FileNotFoundError):
            pass
        finally:
            os.close(folder)
        return text.decode("utf-8", "replace")

    def observe(self):
        for vm in self.host.json("get-vm"):
            name = vm["Name"]
            if vm["State"] not in ("Running", "Paused"):
                self.began_with[name] = self.least[name] if vm["State"] == "Off" else 0
                continue
            text = self.console(vm)
            assert "BAD-" not in text, (name, text[-3000:])
            # Memory that was saved says nothing of what it found when it began.
            found = [int(n) for n in re.findall(r"found (\d+)\.", text)]
            assert not found or found[-1] >= self.began_with[name], (name, found, self.began_with)
            self.least[name] = max([self.least[name]] + [int(n) for n in re.findall(r"wrote (\d+)\.", text)])

    def choose(self):
        self.observe()
        return super().choose()

    # ---- what becomes of its disk

    def checkpoint(self, vm):
        command, after = super().checkpoint(vm)
        return command, lambda: (after(), self.least_of.update({(vm, command[-1]): self.least[vm]}))

    def checkpoint_renamed(self, vm, old, new):
        super().checkpoint_renamed(vm, old, new)
        self.least_of[vm, new] = self.least_of.pop((vm, old))

    def renamed(self, old, new):
        for least in (self.least, self.began_with):
            least[new] = least.pop(old)
        for name in self.machines[old]:
            self.least_of[new, name] = self.least_of.pop((old, name))
        super().renamed(old, new)

    def export(self, vm):
        command, after = super().export(vm)
        return command, lambda: (after(), self.exported(vm, os.path.basename(command[-1])))

    def exported(self, vm, folder):
        self.least_of[folder, vm] = self.least[vm]
        for name in self.machines[vm]:
            self.least_of[folder, vm, name] = self.least_of[vm, name]

    def checkpoint_exported(self, vm, name, folder):
        super().checkpoint_exported(vm, name, folder)
        self.least_of[folder, vm] = self.least_of[vm, name]

    def imported(self, name, tree, disks, export):
        super().imported(name, tree, disks, export)
        self.least[name] = self.least_of[export]
        self.began_with[name] = 0
        for checkpoint in tree:
            self.least_of[name, checkpoint] = self.least_of[export + (checkpoint,)]

    def carried_out(self, command, done):
        if command[0] == "restore-vmcheckpoint" and done is not False:
            vm = command[2]
            back = self.least_of[vm, command[4]]
            self.least[vm] = back if done else min(back, self.least[vm])

    # ---- every guest runs, and counts on

    def check_tidy(self):
        self.observe()
        super().check_tidy()
        before = dict(self.least)
        for vm in sorted(self.machines):
            if self.describe(vm)["State"] == "Paused":
                self.host.run("resume-vm", vm)

        def all_count():
            self.observe()
            return all(self.least[vm] > before[vm] for vm in self.machines)

        assert wait_for(all_count, 300), (before, self.least)


def test_random_operations(host, kernel, tmp_path):
    os.makedirs(tmp_path / "initrd")
    host.env["OYAKO_STOP_IDLE_SECONDS"] = "600"  # it ends when it is killed
    world = WorldOfGuests(host, SEED, kernel, kernel.initrd_with(str(tmp_path / "initrd"), GUEST))
    world.run(OPERATIONS)
