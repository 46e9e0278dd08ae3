"""What happens to VMs when the host starts and stops. A host's boot is a file here."""
import os

from conftest import wait_for


def boot(host, number):
    """From the next daemon on it is another boot of the host."""
    host.env["OYAKO_BOOT_ID_FILE"] = path = os.path.join(host.folder, "boot-id")
    with open(path, "w") as f:
        f.write("00000000-0000-0000-0000-%012d\n" % number)


def host_goes_down(host, workers=()):
    """The power fails: daemon and workers end, and what was in memory is gone."""
    pids = [host.vm(name)["WorkerProcessId"] for name in workers]
    host.kill_daemon()
    for pid in pids:
        os.kill(pid, 9)
    folder = os.path.join(host.runtime, "vm")
    for base, folders, files in os.walk(folder, topdown=False):
        for name in files:
            os.unlink(os.path.join(base, name))
        os.rmdir(base)


def states(host):
    return {vm["Name"]: vm["State"] for vm in host.json("get-vm")}


def test_start_actions_after_a_power_cut(host):
    boot(host, 1)
    for name, action in (("always", "Start"), ("never", "Nothing"), ("ran", "StartIfRunning"),
                         ("slept", "StartIfRunning")):
        host.new_vm(name)
        host.run("set-vm", name, "-AutomaticStartAction", action)
    for name in ("never", "ran"):
        host.run("start-vm", name)
    host_goes_down(host, ("never", "ran"))
    boot(host, 2)
    wait_for(lambda: states(host) == {"always": "Running", "never": "Off", "ran": "Running",
                                      "slept": "Off"})
    # Only once for each boot: what somebody turned off stays off.
    host.run("stop-vm", "always", "-TurnOff")
    host.run("stop-vm", "ran", "-TurnOff")
    host.kill_daemon()
    assert set(states(host).values()) == {"Off"}


def test_start_delay(host):
    boot(host, 1)
    host.new_vm("late")
    host.run("set-vm", "late", "-AutomaticStartAction", "Start", "-AutomaticStartDelay", "2")
    assert host.vm("late")["AutomaticStartDelay"] == 2
    host_goes_down(host)
    boot(host, 2)
    assert host.vm("late")["State"] == "Off"
    wait_for(lambda: host.vm("late")["State"] == "Running")


def test_host_stops(host):
    boot(host, 1)
    for name, action in (("a", "ShutDown"), ("b", "TurnOff"), ("c", "Save")):
        host.running_vm(name)
        host.run("set-vm", name, "-AutomaticStopAction", action)
    host.run("stop-vm", "*", "-HostStops")
    assert states(host) == {"a": "Off", "b": "Off", "c": "Saved"}
    assert host.vm("a")["LastStopCode"] == "guest-shutdown"
    assert host.vm("b")["LastStopCode"] == "turned-off"
    # They ran when the host stopped, so they run again.
    host_goes_down(host)
    boot(host, 2)
    wait_for(lambda: set(states(host).values()) == {"Running"})
    # What somebody stopped before did not.
    host.run("stop-vm", "a", "-TurnOff")
    host.run("stop-vm", "*", "-HostStops")
    host_goes_down(host)
    boot(host, 3)
    wait_for(lambda: states(host) == {"a": "Off", "b": "Running", "c": "Running"})
