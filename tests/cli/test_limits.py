"""What a virtual machine may take of the host's processors and disks, and what happens when these fail.

Processors: what the service writes is shown by a folder of files in place of a control group; that the kernel then holds a VM to
it, by a real one, where the host has control groups of version 2 and lets us make one.
"""
import os
import subprocess
import time

import pytest

from conftest import console, tell, wait_for

ROOT = "/sys/fs/cgroup"
FILES = ("cgroup.procs", "cpu.max", "cpu.weight")


def processor(host, name):
    return host.json("get-vmprocessor", name)[0]


@pytest.fixture
def group(host):
    """A folder that the service takes for a control group; use make_vm for the VMs below it."""
    folder = os.path.join(host.folder, "cgroup")
    os.mkdir(folder)
    with open(os.path.join(folder, "cgroup.controllers"), "w") as f:
        f.write("cpuset cpu memory\n")
    open(os.path.join(folder, "cgroup.subtree_control"), "w").close()
    host.env["OYAKO_CGROUP"] = folder
    return folder


def make_vm(host, group, name, *options):
    host.new_vm(name, "", *options)
    folder = os.path.join(group, "vm-" + host.vm(name)["VMId"])
    os.mkdir(folder)
    for file in FILES:
        open(os.path.join(folder, file), "w").close()
    return folder


def content(folder, name):
    with open(os.path.join(folder, name)) as f:
        return f.read()


def clear(folder):
    """The kernel's files keep nothing of what was written before."""
    for file in FILES:
        open(os.path.join(folder, file), "w").close()


def test_defaults_and_ranges(host):
    host.new_vm("a")
    shown = processor(host, "a")
    assert (shown["Reserve"], shown["Maximum"], shown["RelativeWeight"]) == (0, 100, 100)
    for option, value in (("Reserve", "101"), ("Maximum", "101"), ("RelativeWeight", "0"), ("RelativeWeight", "10001")):
        host.run("set-vmprocessor", "a", "-" + option, value, status=2)
    assert "above the maximum" in host.run("set-vmprocessor", "a", "-Reserve", "60", "-Maximum", "50", status=1)
    host.run("set-vmprocessor", "a", "-Reserve", "10", "-Maximum", "50", "-RelativeWeight", "300")
    host.kill_daemon()
    shown = processor(host, "a")
    assert (shown["Reserve"], shown["Maximum"], shown["RelativeWeight"]) == (10, 50, 300)
    assert shown["CompatibilityForMigrationEnabled"] is False
    host.run("set-vmprocessor", "a", "-CompatibilityForMigrationEnabled", "true")
    host.kill_daemon()
    assert processor(host, "a")["CompatibilityForMigrationEnabled"] is True
    host.run("set-vmprocessor", "a", "-CompatibilityForMigrationEnabled", "false")
    assert processor(host, "a")["CompatibilityForMigrationEnabled"] is False
    assert "Guests have one NUMA node" in host.run("set-vmprocessor", "a", "-MaximumCountPerNumaNode", "1", status=2)


def test_what_is_written(host, group):
    folder = make_vm(host, group, "a", "-ProcessorCount", "2")
    host.run("start-vm", "a")
    assert content(group, "cgroup.subtree_control") == "+cpu"
    assert processor(host, "a")["ResourceControl"] == "OK"
    assert content(folder, "cgroup.procs") == str(host.vm("a")["WorkerProcessId"])
    assert (content(folder, "cpu.max"), content(folder, "cpu.weight")) == ("max 100000", "200")
    # Live, and again after a restart of the service.
    clear(folder)
    host.run("set-vmprocessor", "a", "-Maximum", "25", "-RelativeWeight", "40")
    assert (content(folder, "cpu.max"), content(folder, "cpu.weight")) == ("50000 100000", "80")
    clear(folder)
    host.kill_daemon()
    assert host.vm("a")["State"] == "Running"
    assert (content(folder, "cpu.max"), content(folder, "cpu.weight")) == ("50000 100000", "80")
    clear(folder)
    host.run("set-vmprocessor", "a", "-RelativeWeight", "10000", "-Maximum", "0")
    assert (content(folder, "cpu.max"), content(folder, "cpu.weight")) == ("1000 100000", "10000")
    assert "only while it is off" in host.run("set-vmprocessor", "a", "-Count", "1", status=1)


def test_its_group_goes_with_it(host, group):
    folder = make_vm(host, group, "a")
    host.run("start-vm", "a")
    # A real group's files go with it; these are in the way.
    for file in FILES:
        os.unlink(os.path.join(folder, file))
    host.run("stop-vm", "a", "-TurnOff")
    assert not os.path.exists(folder)


def test_without_a_group(host):
    host.env["OYAKO_CGROUP"] = os.path.join(host.folder, "nowhere")
    host.running_vm("a")
    assert "nowhere" in processor(host, "a")["ResourceControl"]

    def warnings():
        return [event for event in host.json("get-vmevent", "a") if event["Event"] == "vm-limits-not-applied"]

    assert warnings() == []  # there is nothing to apply
    host.run("set-vmprocessor", "a", "-Maximum", "50")
    assert len(warnings()) == 1 and "nowhere" in warnings()[0]["Message"]
    assert warnings()[0]["LevelDisplayName"] == "Warning"
    host.run("stop-vm", "a", "-TurnOff")
    host.run("start-vm", "a")
    assert len(warnings()) == 2


def test_reserve(host):
    """All of the host is reserved, so the next one can't have any."""
    count = host.json("get-vmhost")[0]["LogicalProcessorCount"]
    host.new_vm("big", "", "-ProcessorCount", str(min(count, 64)))
    host.new_vm("small")
    host.run("set-vmprocessor", "big", "-Reserve", "100")
    host.run("set-vmprocessor", "small", "-Reserve", "1")
    if count > 64:
        pytest.skip("one VM can't reserve a host of this size")
    host.run("start-vm", "big")
    says = host.run("start-vm", "small", status=1)
    assert "not enough processor resources" in says and host.vm("small")["State"] == "Off"
    # Without a reserve it may; while it runs, it can't get one, until the other gives some back.
    host.run("set-vmprocessor", "small", "-Reserve", "0")
    host.run("start-vm", "small")
    assert "not enough processor" in host.run("set-vmprocessor", "small", "-Reserve", "5", status=1)
    assert processor(host, "small")["Reserve"] == 0
    host.run("set-vmprocessor", "big", "-Reserve", "80")
    host.run("set-vmprocessor", "small", "-Reserve", "20")
    assert processor(host, "small")["Reserve"] == 20


# ---- the kernel itself ----

@pytest.fixture
def real_group(host):
    def read(name):
        try:
            with open(os.path.join(ROOT, name)) as f:
                return f.read().split()
        except OSError:
            return []

    if "cpu" not in read("cgroup.controllers"):
        pytest.skip("no control groups of version 2 with the controller 'cpu' at " + ROOT)
    folder = os.path.join(ROOT, "oyako-test-%d" % os.getpid())
    try:
        with open(os.path.join(ROOT, "cgroup.subtree_control"), "w") as f:
            f.write("+cpu")
        os.mkdir(folder)
    except OSError as error:
        pytest.skip("no right to make a control group: %s" % error)
    host.env["OYAKO_CGROUP"] = folder
    yield folder
    host.clean_up()

    def gone():
        for name in os.listdir(folder):
            if name.startswith("vm-") or name == "service":
                os.rmdir(os.path.join(folder, name))
        os.rmdir(folder)
        return True

    for _ in range(100):
        try:
            gone()
            break
        except OSError:  # processes that are just ending
            time.sleep(0.05)


def used_seconds(folder):
    return int(dict(line.split() for line in content(folder, "cpu.stat").splitlines())["usage_usec"]) / 1e6


def test_the_kernel_holds_it_to_the_maximum(host, real_group):
    host.new_vm("a", "burn")
    host.run("set-vmprocessor", "a", "-Maximum", "20", "-RelativeWeight", "50")
    host.run("start-vm", "a")
    folder = os.path.join(real_group, "vm-" + host.vm("a")["VMId"])
    assert content(folder, "cpu.weight").strip() == "50"
    assert str(host.vm("a")["WorkerProcessId"]) in content(folder, "cgroup.procs").split()

    def share(seconds):
        """A busy host can only make it smaller."""
        begin, before = time.monotonic(), used_seconds(folder)
        wait_for(lambda: time.monotonic() - begin > seconds)
        return (used_seconds(folder) - before) / (time.monotonic() - begin)

    throttled = share(2)
    assert throttled < 0.3
    host.run("set-vmprocessor", "a", "-Maximum", "100")
    # However busy the host is: it gets beyond what the limit allowed, sooner or later.
    wait_for(lambda: share(0.5) > 0.35)
    host.run("stop-vm", "a", "-TurnOff")
    assert not os.path.exists(folder)


def test_a_delegated_group(host, real_group):
    """As under systemd: the service finds the group that it is in, and leaves it for one below."""
    del host.env["OYAKO_CGROUP"]
    os.setxattr(real_group, "user.delegate", b"1")
    subprocess.run(["sh", "-c", 'echo $$ >"$0"/cgroup.procs && exec "$@"', real_group, *host.command("get-vmhost")],
                   env=host.env, check=True, stdout=subprocess.DEVNULL)
    host.running_vm("a")
    assert processor(host, "a")["ResourceControl"] == "OK"
    assert str(host.daemon_pid()) in content(os.path.join(real_group, "service"), "cgroup.procs").split()
    assert content(real_group, "cgroup.procs") == ""
    folder = os.path.join(real_group, "vm-" + host.vm("a")["VMId"])
    assert str(host.vm("a")["WorkerProcessId"]) in content(folder, "cgroup.procs").split()


# ---- disks ----

def test_iops(host):
    for name in ("one", "two"):
        open(os.path.join(host.folder, name), "w").close()
    host.new_vm("a", "", "-VHDPath", "one")

    def rates():
        return [(disk["MinimumIOPS"], disk["MaximumIOPS"]) for disk in host.json("get-vmharddiskdrive", "a")]

    assert rates() == [(0, 0)]
    assert "above its maximum" in host.run("set-vmharddiskdrive", "a", "-MinimumIOPS", "5", "-MaximumIOPS", "4", status=1)
    host.run("set-vmharddiskdrive", "a", "-MaximumIOPS", "-1", status=2)
    host.run("set-vmharddiskdrive", "a", "-MinimumIOPS", "10", "-MaximumIOPS", "200")
    host.run("add-vmharddiskdrive", "a", "-Path", "two", "-MaximumIOPS", "70")
    host.kill_daemon()
    assert rates() == [(10, 200), (0, 70)]
    # While it runs, the worker is told; the rest of the drive stays, with its rates.
    host.run("start-vm", "a")
    host.run("set-vmharddiskdrive", "a", "-ControllerLocation", "0", "-MaximumIOPS", "300")
    wait_for(lambda: "iops 10 300" in console(host, "a"))
    host.run("set-vmharddiskdrive", "a", "-ControllerLocation", "0", "-MinimumIOPS", "0", "-MaximumIOPS", "0")
    wait_for(lambda: "iops 0 0" in console(host, "a"))
    host.run("set-vmharddiskdrive", "a", "-ControllerLocation", "1", "-ToControllerLocation", "5")
    assert rates() == [(0, 0), (0, 70)]


def events(host, name, kind):
    return [event["Message"] for event in host.json("get-vmevent", name) if event["Event"] == kind]


def test_below_the_minimum(host):
    open(os.path.join(host.folder, "one"), "w").close()
    host.new_vm("a", "", "-VHDPath", "one")
    host.run("set-vmharddiskdrive", "a", "-MinimumIOPS", "1000")
    host.run("start-vm", "a")
    tell(host, "a", "slow")
    wait_for(lambda: events(host, "a", "disk-below-minimum"))
    assert "minimum of 1000 IOPS" in events(host, "a", "disk-below-minimum")[0]
    tell(host, "a", "back")
    wait_for(lambda: events(host, "a", "disk-above-minimum"))


def state(host, name):
    return host.vm(name)["State"]


def test_storage_fails_and_returns(host):
    host.running_vm("a")
    tell(host, "a", "fail")
    wait_for(lambda: state(host, "a") == "PausedCritical")
    assert "is full" in host.vm("a")["Status"]
    assert "is full" in events(host, "a", "vm-paused-critical")[0]
    for cmdlet in ("suspend-vm", "save-vm", "checkpoint-vm"):
        assert "PausedCritical" in host.run(cmdlet, "a", status=1)
    # It stays so over a restart of the service; Resume-VM tries at once.
    host.kill_daemon()
    wait_for(lambda: state(host, "a") == "PausedCritical")
    host.run("resume-vm", "a")
    assert "again" in console(host, "a") and state(host, "a") == "PausedCritical"
    tell(host, "a", "back")
    wait_for(lambda: state(host, "a") == "Running")
    assert len(events(host, "a", "vm-critical-over")) == 1
    tell(host, "a", "fail")
    wait_for(lambda: state(host, "a") == "PausedCritical")
    host.run("stop-vm", "a", "-TurnOff")
    assert state(host, "a") == "Off"


def test_critical_action(host):
    host.running_vm("a")
    shown = host.vm("a")
    assert (shown["AutomaticCriticalErrorAction"], shown["AutomaticCriticalErrorActionTimeout"]) == ("Pause", 30)
    host.run("set-vm", "a", "-AutomaticCriticalErrorActionTimeout", "0", status=2)
    host.run("set-vm", "a", "-AutomaticCriticalErrorAction", "None", "-AutomaticCriticalErrorActionTimeout", "7")
    wait_for(lambda: "pause 0" in console(host, "a"))
    host.kill_daemon()
    shown = host.vm("a")
    assert (shown["AutomaticCriticalErrorAction"], shown["AutomaticCriticalErrorActionTimeout"]) == ("None", 7)
    host.run("set-vm", "a", "-AutomaticCriticalErrorAction", "Pause")
    wait_for(lambda: "pause 1" in console(host, "a"))
