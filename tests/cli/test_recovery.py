"""Workers that crash: what is said of it, and who is started again."""
import json
import os

from conftest import tell, wait_for


def events(host, kind):
    return [event for event in host.json("get-vmevent", "a") if event["Event"] == kind]


def crash(host):
    try:
        tell(host, "a", "crash")
    except (ConnectionError, AssertionError):
        pass  # it may be gone before it echoes


def test_crash_report(host):
    host.running_vm("a")
    crash(host)
    wait_for(lambda: host.vm("a")["State"] == "Off")
    failed = events(host, "vm-worker-failed")[0]
    assert "signal 11 (Segmentation fault), address 0x10" in failed["Message"]
    assert failed["Data"] == {"trace": ["oyako-worker(one+0x1)[0x5]", "oyako-worker(two+0x2)[0x6]?[31m"]}
    # A worker that says nothing of it: none of an earlier one's.
    host.run("start-vm", "a")
    os.kill(host.vm("a")["WorkerProcessId"], 9)
    wait_for(lambda: host.vm("a")["State"] == "Off")
    assert "trace" not in json.dumps(events(host, "vm-worker-failed")[0].get("Data"))


def test_started_again(host):
    host.new_vm("a")
    assert host.vm("a")["AutomaticRecoveryAction"] == "None"
    host.run("set-vm", "a", "-AutomaticRecoveryAction", "Restart")
    host.kill_daemon()
    assert host.vm("a")["AutomaticRecoveryAction"] == "Restart"

    def another_runs():
        vm = host.vm("a")
        return vm["State"] == "Running" and vm["WorkerProcessId"] != pid

    host.run("start-vm", "a")
    for _ in range(3):
        pid = host.vm("a")["WorkerProcessId"]
        os.kill(pid, 9)
        wait_for(another_runs)
    # One that fails again and again is left alone.
    os.kill(host.vm("a")["WorkerProcessId"], 9)
    wait_for(lambda: host.vm("a")["State"] == "Off")
    assert "4 times in ten minutes" in events(host, "vm-start-failed")[0]["Message"]
    # Whoever turns it off, or a guest that goes off, has what he wanted.
    host.run("start-vm", "a")
    host.run("stop-vm", "a", "-TurnOff")
    assert host.vm("a")["State"] == "Off"
