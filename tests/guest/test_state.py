"""Save-VM, Start-VM of a saved VM, checkpoints: a guest that checks itself goes on as if nothing had been."""
import hashlib
import os
import random
import re
import subprocess
import time

import pytest

from conftest import LONG, PATIENCE, Console, dmesg_problems, wait_for

SAVES = 200 if LONG else 4  # in a row
CYCLES = 20 if LONG else 4

# Its memory, its disk and its clocks tell whether something was lost. "q" ends it.
SELF_CHECK = """
mount -t tmpfs -o size=200m none /tmp
dd if=/dev/urandom of=/tmp/data bs=1M count=12 2>/dev/null
sum=$(md5sum </tmp/data)
(read x </dev/ttyS0; touch /tmp/stop) &
n=0
echo CHECK-BEGINS
while [ ! -e /tmp/stop ]; do
	[ "$(md5sum </tmp/data)" = "$sum" ] || echo BAD-MEMORY
	if [ -e /dev/sda ]; then
		place=$((n % 4 * 12))
		dd if=/tmp/data of=/dev/sda bs=1M seek=$place conv=fsync 2>/dev/null || echo BAD-WRITE
		echo 3 >/proc/sys/vm/drop_caches
		[ "$(dd if=/dev/sda bs=1M skip=$place count=12 2>/dev/null | md5sum)" = "$sum" ] || echo BAD-DISK
	fi
	n=$((n + 1))
	echo "tick $n"
	sleep 0.1
done
[ -e /dev/sda ] && echo "disk $(dd if=/dev/sda bs=1M count=12 2>/dev/null | md5sum)"
echo "sum $sum"
echo "== kernel log"
dmesg -r
echo "== end"
"""


def self_checking(host, kernel, tmp_path, *, disk=True, processors=1, options=(), seconds=120):
    folder = str(tmp_path / "initrd")
    os.makedirs(folder)
    initrd = kernel.initrd_with(folder, SELF_CHECK)
    options = list(options)
    if disk:
        path = str(tmp_path / "disk.vhdx")
        subprocess.run(["qemu-img", "create", "-q", "-f", "vhdx", path, "64M"], check=True)
        options += ["-VHDPath", path]
    host.new_vm(kernel.image, "t", initrd=initrd, memory="256MB", processors=processors,
                cmdline="console=ttyS0 panic=-1 cryptomgr.notests", options=options)
    host.run("start-vm", "-Name", "t")
    console = Console(host, "t")
    console.expect("CHECK-BEGINS", seconds)
    console.expect("tick 2", 120)
    return console


def end(host, console, name="t"):
    console.send("q\n")
    console.expect("== end", 120)
    wait_for(lambda: host.vm(name)["State"] == "Off", 60)
    text = console.history
    console.close()
    return text


def ticks(text):
    return [int(n) for n in re.findall(r"tick (\d+)", text)]


def check_end(texts):
    whole = "".join(texts)
    print(whole[-5000:])
    assert "BAD-" not in whole
    log = texts[-1].partition("== kernel log")[2].partition("== end")[0]
    # A clocksource watchdog or a lockup that save and restore caused would stand here.
    assert dmesg_problems(log) == []


@pytest.mark.rig
@pytest.mark.parametrize("processors", [1, 2])
def test_save_and_start(host, kernel, tmp_path, processors):
    console = self_checking(host, kernel, tmp_path, processors=processors)
    texts, last = [], 0
    for cycle in range(SAVES):
        host.run("save-vm", "-Name", "t", timeout=300)
        vm = host.vm("t")
        assert vm["State"] == "Saved" and host.workers() == []
        texts.append(console.history)
        assert "BAD-" not in texts[-1], (cycle, texts[-1])
        console.close()
        host.run("start-vm", "-Name", "t", timeout=300)
        assert host.vm("t")["State"] == "Running"
        console = Console(host, "t")
        console.expect("tick ", 120)
        console.expect("tick ", 120)
        seen = ticks(console.history)
        assert seen and min(seen) > last, "the guest began anew"
        last = max(seen)
        # Nothing of a used state is kept.
        assert not [f for f in os.listdir(host.vm("t")["Path"]) if f.startswith("saved-")]
    texts.append(end(host, console))
    check_end(texts)


@pytest.mark.rig
@pytest.mark.parametrize("first", ["kvm", "soft"])
def test_saved_on_one_backend_started_on_the_other(host, kernel, tmp_path, monkeypatch, first):
    """There and back: the guest goes on seeing the processor that it was started on."""
    if host.backend != "kvm":
        pytest.skip("needs both backends")
    monkeypatch.setattr(host, "backend", first)
    console = self_checking(host, kernel, tmp_path, disk=False, processors=2, seconds=600)
    texts = []
    for backend in ("soft" if first == "kvm" else "kvm", first):
        host.run("save-vm", "-Name", "t", timeout=300)
        last = max(ticks(console.history))
        texts.append(console.history)
        console.close()
        host.run("set-vm", "-Name", "t", "-Backend", backend)
        host.run("start-vm", "-Name", "t", timeout=300)
        assert host.vm("t")["Backend"] == backend
        console = Console(host, "t")
        console.expect("tick ", 300)
        console.expect("tick ", 300)
        seen = ticks(console.history)
        assert seen and min(seen) > last, "the guest began anew"
    texts.append(end(host, console))
    check_end(texts)


def test_saved_state_is_kept_or_used_once(host, kernel, tmp_path):
    """A start that fails leaves the VM saved; a state that was thrown away is gone."""
    console = self_checking(host, kernel, tmp_path, disk=False)
    console.close()
    host.run("save-vm", "-Name", "t", timeout=300)
    moved = str(tmp_path / "elsewhere")
    image = host.vm("t")["LinuxKernelPath"]
    refused = host.run("set-vm", "-Name", "t", "-ProcessorCount", 2, check=False)
    assert refused.returncode == 1 and "Saved" in refused.stderr
    folder = host.vm("t")["Path"]
    state = os.path.join(folder, [f for f in os.listdir(folder) if f.startswith("saved-")][0], "memory")
    with open(state, "r+b") as f:
        f.seek(20)
        byte = f.read(1)
        f.seek(20)
        f.write(bytes([byte[0] ^ 1]))
    failed = host.run("start-vm", "-Name", "t", check=False)
    assert failed.returncode == 1 and "not whole" in failed.stderr
    assert host.vm("t")["State"] == "Saved"
    with open(state, "r+b") as f:
        f.seek(20)
        f.write(byte)
    host.run("start-vm", "-Name", "t", timeout=300)
    console = Console(host, "t")
    console.expect("tick ", 120)
    console.close()
    host.run("save-vm", "-Name", "t", timeout=300)
    host.run("remove-vmsavedstate", "-VMName", "t")
    assert host.vm("t")["State"] == "Off" and os.path.exists(image) and not os.path.exists(moved)


@pytest.mark.rig
def test_checkpoint_and_back(host, kernel, tmp_path):
    """The guest runs on while its checkpoint is taken; later it is there again, as it was."""
    console = self_checking(host, kernel, tmp_path, disk=False)
    before = max(ticks(console.history))
    host.run("checkpoint-vm", "-Name", "t", "-SnapshotName", "one", timeout=300)
    assert host.vm("t")["State"] == "Running"
    console.expect("tick ", 120)
    at_one = max(ticks(console.history))
    console.expect("tick %d\n" % (at_one + 20), 300)
    host.run("checkpoint-vm", "-Name", "t", timeout=300)
    for event in host.json("get-vmevent", "t"):
        if event["Event"] == "vm-checkpoint":
            print(event)
            # Not a bound on a loaded machine: a pause for all of the memory would be far longer.
            assert event["Data"]["PauseMilliseconds"] < 2000 * PATIENCE
    got = host.json("get-vmcheckpoint", "-VMName", "t")
    assert [c["ParentSnapshotName"] for c in got] == [None, "one"]
    assert re.fullmatch(r"t - \(\d+/\d+/\d{4} - \d+:\d\d:\d\d [AP]M\)", got[1]["Name"])
    texts = [console.history]
    console.close()
    host.run("restore-vmsnapshot", "-Name", "one", "-VMName", "t", "-Confirm:false", timeout=300)
    assert host.vm("t")["State"] == "Saved"
    for _ in range(2):  # a checkpoint is not used up
        host.run("start-vm", "-Name", "t", timeout=300)
        console = Console(host, "t")
        console.expect("tick ", 120)
        console.expect("\n", 10)
        again = min(ticks(console.history))
        assert before <= again <= at_one + 2, (before, again, at_one)
        texts.append(console.history)
        console.close()
        host.run("restore-vmsnapshot", "-Name", "one", "-VMName", "t", "-Confirm:false",
                 timeout=300)
    host.run("rename-vmcheckpoint", "-Name", "one", "-VMName", "t", "-NewName", "first")
    host.run("remove-vmcheckpoint", "-VMName", "t", "-Name", "first", "-IncludeAllChildSnapshots",
             "-Confirm:false")
    assert host.json("get-vmsnapshot", "-VMName", "t") == []
    host.run("start-vm", "-Name", "t", timeout=300)
    console = Console(host, "t")
    console.expect("tick ", 120)
    texts.append(end(host, console))
    check_end(texts)


@pytest.mark.rig
def test_checkpoint_with_disk(host, kernel, tmp_path):
    """Memory and disk go back together, and each branch of the tree has its own disk."""
    console = self_checking(host, kernel, tmp_path)
    worker = host.workers()
    host.run("checkpoint-vm", "-Name", "t", "-SnapshotName", "one", timeout=300)
    assert host.vm("t")["State"] == "Running" and host.workers() == worker
    pause = [e["Data"]["PauseMilliseconds"] for e in host.json("get-vmevent", "t") if e["Event"] == "vm-checkpoint"]
    print("paused for", pause, "ms")
    console.expect("tick ", 120)
    console.expect("\n", 10)
    at_one = max(ticks(console.history))
    console.expect("tick %d\n" % (at_one + 6), 300)
    texts = [console.history]
    console.close()
    disk = host.json("get-vmharddiskdrive", "-VMName", "t")[0]["Path"]
    assert re.fullmatch(r".*/disk_[0-9A-Fa-f-]{36}\.avhdx", disk), disk
    assert host.json("get-vhd", "-Path", disk)[0]["ParentPath"] == str(tmp_path / "disk.vhdx")
    with open(tmp_path / "disk.vhdx", "rb") as f:
        root = hashlib.sha256(f.read()).digest()
    host.run("restore-vmsnapshot", "-Name", "one", "-VMName", "t", "-Confirm:false", timeout=300)
    assert host.vm("t")["State"] == "Saved" and not os.path.exists(disk)
    host.run("checkpoint-vm", "-Name", "t", "-SnapshotName", "two", timeout=300)
    assert host.vm("t")["State"] == "Saved"
    host.run("start-vm", "-Name", "t", timeout=300)
    console = Console(host, "t")
    console.expect("tick ", 120)
    console.expect("\n", 10)
    # What came after was undone. (It may have been a tick further than the console had shown.)
    assert min(ticks(console.history)) < at_one + 6
    console.expect("tick ", 120)
    texts.append(end(host, console))
    check_end(texts)
    with open(tmp_path / "disk.vhdx", "rb") as f:
        assert hashlib.sha256(f.read()).digest() == root
    # Three layers now; with the tree gone it is one disk again, with all that was written.
    assert len(list(tmp_path.glob("disk_*.avhdx"))) == 2
    sum_of = re.search(r"disk ([0-9a-f]{32})", texts[-1])[1]
    host.run("remove-vmcheckpoint", "-VMName", "t", "-Confirm:false")
    assert list(tmp_path.glob("*.avhdx")) == []
    assert host.json("get-vmharddiskdrive", "-VMName", "t")[0]["Path"] == str(tmp_path / "disk.vhdx")
    raw = subprocess.run(["qemu-img", "dd", "-f", "vhdx", "-O", "raw", "bs=1M", "count=12",
                          "if=" + str(tmp_path / "disk.vhdx"), "of=" + str(tmp_path / "raw")])
    assert raw.returncode == 0
    with open(tmp_path / "raw", "rb") as f:
        assert hashlib.md5(f.read()).hexdigest() == sum_of


def test_exported_with_checkpoints_and_imported(host, kernel, tmp_path):
    """While it runs, with two checkpoints; beside the original, with a new id, one of them goes on."""
    console = self_checking(host, kernel, tmp_path)
    host.run("checkpoint-vm", "-Name", "t", "-SnapshotName", "one", timeout=300)
    console.expect("tick ", 120)
    console.expect("\n", 10)
    at_one = max(ticks(console.history))
    console.expect("tick %d\n" % (at_one + 4), 300)
    host.run("checkpoint-vm", "-Name", "t", "-SnapshotName", "two", timeout=300)
    host.run("export-vm", "-Name", "t", "-Path", str(tmp_path / "out"), timeout=600)
    assert host.vm("t")["State"] == "Running"
    console.expect("tick ", 120)
    texts = [end(host, console)]
    where = tmp_path / "out" / "t" / "Virtual Machines" / host.vm("t")["VMId"]
    host.run("import-vm", "-Path", str(where), "-Copy", "-GenerateNewId", "-NewName", "copy", "-VhdDestinationPath",
             str(tmp_path / "disks"), timeout=600)
    host.run("remove-vm", "-Name", "t", "-Force")
    got = host.json("get-vmcheckpoint", "-VMName", "copy")
    assert [(c["Name"], c["ParentSnapshotName"]) for c in got] == [("one", None), ("two", "one")]
    # From where it was exported, then from its first checkpoint.
    for restored in (None, "one"):
        if restored:
            host.run("restore-vmcheckpoint", "-VMName", "copy", "-Name", restored, "-Confirm:false", timeout=300)
        assert host.vm("copy")["State"] == "Saved"
        host.run("start-vm", "-Name", "copy", timeout=300)
        console = Console(host, "copy")
        console.expect("tick ", 120)
        console.expect("\n", 10)
        if restored:
            assert min(ticks(console.history)) <= at_one + 2
        console.expect("tick ", 120)
        if restored:
            texts.append(end(host, console, "copy"))
        else:
            texts.append(console.history)
            console.close()
    check_end(texts)
    host.run("remove-vmcheckpoint", "-VMName", "copy", "-Confirm:false", timeout=300)
    assert [path.name for path in (tmp_path / "disks").iterdir()] == ["disk.vhdx"]


def test_layers_go_while_it_runs(host, kernel, tmp_path):
    """Checkpoints are removed under the guest: their layers are merged behind it, and it has its one disk again."""
    console = self_checking(host, kernel, tmp_path)
    worker = host.workers()
    for name in ("one", "two", "three"):
        host.run("checkpoint-vm", "-Name", "t", "-SnapshotName", name, timeout=300)
        console.expect("tick ", 120)
        console.expect("tick ", 120)
    assert len(list(tmp_path.glob("*.avhdx"))) == 3
    host.run("export-vmsnapshot", "one", str(tmp_path / "out"), "-VMName", "t", timeout=300)
    copy = tmp_path / "out" / "t" / "Virtual Hard Disks" / "disk.vhdx"
    assert hashlib.md5(copy.read_bytes()).digest() == hashlib.md5((tmp_path / "disk.vhdx").read_bytes()).digest()
    # One in the middle, one below others, the last.
    for name, left in (("two", 2), ("one", 1), ("three", 0)):
        host.run("remove-vmcheckpoint", "-VMName", "t", "-Name", name, "-Confirm:false", timeout=300)
        assert len(list(tmp_path.glob("*.avhdx"))) == left
        console.expect("tick ", 120)
    assert host.json("get-vmharddiskdrive", "-VMName", "t")[0]["Path"] == str(tmp_path / "disk.vhdx")
    assert host.workers() == worker
    text = end(host, console)
    check_end([text])
    subprocess.run(["qemu-img", "dd", "-f", "vhdx", "-O", "raw", "bs=1M", "count=12", "if=" + str(tmp_path / "disk.vhdx"),
                    "of=" + str(tmp_path / "raw")], check=True)
    with open(tmp_path / "raw", "rb") as f:
        assert hashlib.md5(f.read()).hexdigest() == re.search(r"disk ([0-9a-f]{32})", text)[1]


def daemon_of(host):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/environ" % pid, "rb") as f:
                mine = host.folder.encode() in f.read()
            with open("/proc/%s/comm" % pid) as f:
                if mine and f.read().strip() == "oyakod":
                    return int(pid)
        except OSError:
            continue
    raise AssertionError("there is no oyakod")


@pytest.mark.rig
@pytest.mark.parametrize("victim", ["worker", "daemon"])
def test_killed_while_saving(host, kernel, tmp_path, victim):
    """kill -9 in the middle of a save leaves the VM off, saved or running: never something between."""
    console = self_checking(host, kernel, tmp_path, disk=False)
    console.close()
    seen = set()
    for delay in (0, 0.02, 0.1, 0.4):
        if host.vm("t")["State"] in ("Off", "Saved"):
            host.run("start-vm", "-Name", "t", timeout=300)
            console = Console(host, "t")
            console.expect("tick ", 120)
            console.close()
        saving = subprocess.Popen(host.command("save-vm", "-Name", "t"), env=host.env,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        if victim == "worker":
            for pid in host.workers():
                os.kill(pid, 9)
        else:
            os.kill(daemon_of(host), 9)
        saving.wait(120 * PATIENCE)
        # The next service finishes or undoes it.
        state = wait_for(lambda: host.vm("t")["State"] in ("Off", "Saved", "Running") and
                         host.vm("t")["State"], 120)
        wait_for(lambda: host.vm("t")["State"] != "Saving", 120)
        state = host.vm("t")["State"]
        seen.add(state)
        folder = host.vm("t")["Path"]
        left = [f for f in os.listdir(folder) if f.startswith("saved-")]
        assert len(left) == (1 if state == "Saved" else 0) or state == "Running", (state, left)
        if state == "Saved":
            host.run("start-vm", "-Name", "t", timeout=300)
            console = Console(host, "t")
            console.expect("tick ", 120)
            console.close()
        # A worker that has just saved may show as running until it has ended.
        assert host.vm("t")["State"] in ("Off", "Running") or state == "Running"
    print(seen)


# What it says that it wrote was synced to the disk.
COUNTING = """
n=$(dd if=/dev/sda bs=512 count=1 2>/dev/null | tr -d '\\000 ')
n=${n:-0}
echo "found $n."
while :; do
	n=$((n + 1))
	printf '%-512s' $n | dd of=/dev/sda bs=512 conv=fsync,notrunc 2>/dev/null || echo BAD-WRITE
	dd if=/dev/urandom of=/dev/sda bs=1M seek=$((n % 40 + 1)) count=1 conv=fsync,notrunc 2>/dev/null
	echo "wrote $n."
done
"""


@pytest.mark.skipif(not LONG, reason="takes minutes: OYAKO_LONG=1")
def test_killed_while_layers_come_and_go(host, kernel, tmp_path):
    """kill -9 of worker, service or both, while checkpoints are taken and removed: no synced write is lost."""
    chance = random.Random(int(os.environ.get("OYAKO_SEED", "1")))
    folder = str(tmp_path / "initrd")
    os.makedirs(folder)
    disk = str(tmp_path / "disk.vhdx")
    subprocess.run(["qemu-img", "create", "-q", "-f", "vhdx", disk, "64M"], check=True)
    host.new_vm(kernel.image, "t", initrd=kernel.initrd_with(folder, COUNTING), memory="128MB",
                cmdline="console=ttyS0 panic=-1 cryptomgr.notests", options=["-VHDPath", disk])
    host.run("set-vm", "-Name", "t", "-CheckpointType", "Standard")
    written = 0
    for cycle in range(CYCLES):
        host.run("start-vm", "-Name", "t", timeout=300)
        console = Console(host, "t")
        console.expect("found ", 240)
        console.expect("wrote ", 120)
        for step in range(chance.randint(1, 4)):
            names = [c["Name"] for c in host.json("get-vmcheckpoint", "-VMName", "t")]
            change = (["checkpoint-vm", "-Name", "t", "-SnapshotName", "c%d-%d" % (cycle, step)]
                      if len(names) < 2 or chance.random() < 0.4 else
                      ["remove-vmcheckpoint", "-VMName", "t", "-Name", chance.choice(names), "-Confirm:false"])
            at_work = subprocess.Popen(host.command(*change), env=host.env, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
            if chance.random() < 0.5:
                at_work.wait(300)
        time.sleep(chance.random() * 3)
        victim = chance.choice(("worker", "service", "both"))
        if victim != "worker":
            os.kill(daemon_of(host), 9)
        if victim == "service":
            assert wait_for(lambda: host.vm("t")["State"] == "Running", 60)
            time.sleep(chance.random() * 2)
        for pid in host.workers():
            os.kill(pid, 9)
        wait_for(lambda: console.process.poll() is not None, 60)
        rest = console.process.stdout.read() or b""
        text = console.history + rest.decode("utf-8", "replace").replace("\r", "")
        print(victim, text[-200:])
        assert "BAD-" not in text
        found = int(re.search(r"found (\d+)\.", text)[1])
        assert found >= written, "writes %d to %d are lost" % (found + 1, written)
        written = max(int(n) for n in re.findall(r"wrote (\d+)\.", text))
        at_work.wait(120)
        wait_for(lambda: host.vm("t")["State"] == "Off" and host.vm("t")["Status"] != "Merging disks", 120)
    for checkpoint in host.json("get-vmcheckpoint", "-VMName", "t"):
        host.run("remove-vmcheckpoint", "-VMName", "t", "-Name", checkpoint["Name"], "-Confirm:false", timeout=300)
    assert wait_for(lambda: not list(tmp_path.glob("*.avhdx")), 60), list(tmp_path.glob("*.avhdx"))
    with open(disk, "rb") as f:
        assert f.read(8) == b"vhdxfile"
