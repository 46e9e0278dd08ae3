"""Dynamic memory as the stock hv_balloon driver knows it: what a guest needs it gets, what it gives back
is free on the host."""
import os
import time

import pytest

from conftest import LONG, Console, wait_for

pytestmark = pytest.mark.rig

MIB = 1 << 20
# The driver waits 45 s with its first report unless told otherwise; busybox has no udev to online blocks.
CMDLINE = ("console=ttyS0 panic=-1 cryptomgr.notests hv_balloon.pressure_report_delay=1"
           " memhp_default_state=online")


def start(host, kernel, *, name="t", memory="512MB", settings=()):
    host.new_vm(kernel.image, name, initrd=kernel.initrd, memory=memory, cmdline=CMDLINE)
    if settings:
        host.run("set-vmmemory", name, "-DynamicMemoryEnabled", "true", *settings)
    host.run("start-vm", name)
    console = Console(host, name)
    console.expect("init: ready", 240)
    console.expect("# ", 60)
    console.plain_shell()
    console.command("dmesg -n 1; mount -t tmpfs -o size=4g tmpfs /mnt")
    return console


def mib(host, what, name="t"):
    return host.vm(name)[what] / MIB


def reaches(host, what, test, seconds=90, name="t"):
    got = wait_for(lambda: test(mib(host, what, name)), seconds)
    assert got, "%s is %d MB" % (what, mib(host, what, name))
    return mib(host, what, name)


def total(console):
    return int(console.command("awk '/MemTotal/ {print $2}' /proc/meminfo")) / 1024


def fill(console, name, size_mib):
    """So slowly that the guest is not out of memory before the host has heard of it."""
    console.command("for i in $(seq %d); do dd if=/dev/urandom bs=1M count=16 2>/dev/null"
                    " >>/mnt/%s; sleep 0.5; done" % (size_mib // 16, name), 300)


def test_memory_follows_demand(host, kernel):
    console = start(host, kernel, settings=("-MinimumBytes", "192MB", "-MaximumBytes", "1GB"))
    assert "version 2.0" in console.command("dmesg | grep hv_balloon")
    at_first = total(console)
    # An idle guest gives back; the host gets it.
    idle = reaches(host, "MemoryAssigned", lambda m: m < 420)
    now = host.vm("t")
    assert now["MemoryDemand"] > 0 and now["MemoryStatus"] in ("OK", "Low"), now
    assert idle >= 192
    resident = reaches(host, "ResidentMemory", lambda m: m < idle + 16)
    # It needs more than it began with, and gets it, by hot add in the end.
    fill(console, "big", 480)
    reaches(host, "MemoryAssigned", lambda m: m > 600)
    assert total(console) > at_first + 100
    assert mib(host, "ResidentMemory") > 480
    assert console.command("md5sum /mnt/big | wc -l").strip() == "1"
    assert mib(host, "MemoryAssigned") <= 1024
    # And gives it back.
    console.command("rm /mnt/big")
    reaches(host, "MemoryAssigned", lambda m: m < 450)
    reaches(host, "ResidentMemory", lambda m: m < resident + 100)
    problems = console.command("dmesg | grep -i -E 'oom|out of memory|bad page|BUG:|WARNING:'")
    assert problems.strip() == "", problems
    # A reset guest begins with its startup memory, until its driver comes.
    console.send("reboot -f\n")
    reaches(host, "MemoryAssigned", lambda m: abs(m - 512) < 1)
    console.expect("init: ready", 240)
    console.close()


def test_static_memory_is_resized(host, kernel):
    console = start(host, kernel)
    at_first = total(console)
    host.run("set-vmmemory", "t", "-StartupBytes", "768MB")
    reaches(host, "MemoryAssigned", lambda m: m == 768)
    assert abs(total(console) - at_first - 256) < 10
    host.run("set-vmmemory", "t", "-StartupBytes", "400MB")
    reaches(host, "MemoryAssigned", lambda m: m < 403)
    assert host.vm("t")["MemoryStartup"] == 400 * MIB
    host.run("set-vm", "t", "-MemoryStartupBytes", "512MB")
    reaches(host, "MemoryAssigned", lambda m: m > 509)
    failed = host.run("set-vmmemory", "t", "-DynamicMemoryEnabled", "true", "-MinimumBytes", "64MB",
                      check=False)
    assert failed.returncode == 1 and "only while it is off" in failed.stderr
    console.close()


def test_free_pages_are_reported(host, kernel):
    """Without any ballooning: what the guest has freed costs the host nothing after some seconds."""
    console = start(host, kernel)
    before = mib(host, "ResidentMemory")
    console.command("dd if=/dev/urandom of=/mnt/big bs=1M count=200 2>/dev/null", 120)
    used = mib(host, "ResidentMemory")
    assert used > before + 150
    console.command("rm /mnt/big")
    reaches(host, "ResidentMemory", lambda m: m < used - 120)
    assert mib(host, "MemoryAssigned") == 512
    console.close()


MINUTES = float(os.environ.get("OYAKO_MEMORY_MINUTES", "30" if LONG else "0"))
LIMIT_MIB = 1400

# In the guest: follows /tmp/want (MiB) by files in memory, a step of 16 MiB at a time, and writes down for how many seconds
# of its own time each step upwards had to wait for memory.
DEMAND = """cat >/tmp/demand <<'END'
have=0; while [ ! -e /tmp/stop ]; do
	want=$(cat /tmp/want)
	if [ $have -lt $want ]; then
		dd if=/dev/urandom of=/mnt/f$have bs=1M count=16 2>/dev/null || echo "write failed at $have" >>/tmp/bad
		have=$((have + 16))
		sleep 0.5
	elif [ $have -gt $want ]; then
		have=$((have - 16)); rm /mnt/f$have
	else
		sleep 1
	fi
	echo $have >/tmp/have
done
END"""


def uptime(console):
    return float(console.command("cut -d' ' -f1 /proc/uptime"))


@pytest.mark.skipif(not MINUTES, reason="takes half an hour")
def test_three_guests_share_a_limit(host, kernel):
    """Three guests whose demands take turns on less memory than they would have together, for OYAKO_MEMORY_MINUTES (30):
    none is out of memory, each has what it needs within 10 s of its own time, and the host's share is kept."""
    host.env["OYAKO_MEMORY_LIMIT"] = "%dMB" % LIMIT_MIB
    names = ("a", "b", "c")
    consoles = {name: start(host, kernel, name=name, memory="384MB",
                            settings=("-MinimumBytes", "192MB", "-MaximumBytes", "1GB")) for name in names}
    for console in consoles.values():
        console.command(DEMAND)
        console.command("echo 0 >/tmp/want; (sh /tmp/demand &)")
    end, turn, slowest = time.monotonic() + MINUTES * 60, 0, 0
    while turn < 3 or time.monotonic() < end:
        big = names[turn % 3]
        console = consoles[big]
        console.command("echo 400 >/tmp/want")
        assert wait_for(lambda: console.command("cat /tmp/have").strip() == "400", 300)
        began = uptime(console)
        # What it uses it has got: the assignment is what the service knows of that.
        reaches(host, "MemoryAssigned", lambda m: m > 460, 120, big)
        slowest = max(slowest, uptime(console) - began)
        assigned = [mib(host, "MemoryAssigned", name) for name in names]
        assert sum(assigned) <= LIMIT_MIB, assigned
        full = mib(host, "ResidentMemory", big)
        console.command("echo 0 >/tmp/want")
        began = uptime(console)
        reaches(host, "MemoryAssigned", lambda m: m < 430, 120, big)
        # It is really free on the host.
        reaches(host, "ResidentMemory", lambda m: m < full - 250, 120, big)
        print("turn %d: %s had %s MB, gave back in %.1f s" % (turn, big, [round(m) for m in assigned],
                                                              uptime(console) - began), flush=True)
        turn += 1
    for console in consoles.values():
        problems = console.command("cat /tmp/bad 2>/dev/null; dmesg | grep -i -E 'oom|out of memory|BUG:|WARNING:'")
        assert problems.strip() == "", problems
        console.close()
    assert slowest <= 10, "memory followed only after %.1f s" % slowest
