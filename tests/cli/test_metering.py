"""Resource metering. The fake worker's counters grow with each look at it."""
import json
import os


def measure(host, name):
    return host.json("measure-vm", name)[0]


def test_metering(host):
    host.running_vm("a")
    assert "it is not metered" in host.run("measure-vm", "a", status=1)
    assert "it is not metered" in host.run("reset-vmresourcemetering", "a", status=1)
    host.run("enable-vmresourcemetering", "a")
    assert host.vm("a")["ResourceMeteringEnabled"] is True
    # What it did before does not count: the look of Get-VM was the first that does not.
    first = measure(host, "a")
    assert first["NetworkInbound"] >= 4 and first["NetworkInbound"] < 80
    assert first["TotalDisk"] == 64 and first["MaxRAM"] >= first["MinRAM"] > 0
    second = measure(host, "a")
    assert second["NetworkInbound"] > first["NetworkInbound"]
    assert second["NetworkInbound"] == 4 * second["NetworkOutbound"]
    assert second["AggregatedDiskDataWritten"] == 2 * second["AggregatedDiskDataRead"]
    host.run("enable-vmresourcemetering", "a")
    assert measure(host, "a")["NetworkInbound"] > second["NetworkInbound"]
    for _ in range(20):
        before = measure(host, "a")["NetworkInbound"]
    host.run("reset-vmresourcemetering", "a")
    assert measure(host, "a")["NetworkInbound"] < before
    host.run("disable-vmresourcemetering", "a")
    assert host.vm("a")["ResourceMeteringEnabled"] is False
    assert "it is not metered" in host.run("measure-vm", "a", status=1)


def test_sums_stay(host):
    host.running_vm("a")
    host.run("enable-vmresourcemetering", "a")
    host.vm("a")
    before = measure(host, "a")["NetworkInbound"]
    assert before > 0
    # Under a running VM, and over runs of it.
    host.kill_daemon()
    again = measure(host, "a")["NetworkInbound"]
    assert before < again < before + 80
    host.run("stop-vm", "a", "-TurnOff")
    off = measure(host, "a")["NetworkInbound"]
    assert off >= again
    host.run("start-vm", "a")
    assert measure(host, "a")["NetworkInbound"] > off
    host.run("stop-vm", "a", "-TurnOff")
    host.run("remove-vm", "a", "-Force")
    assert os.listdir(os.path.join(host.state, "vms")) == []


def test_a_damaged_file(host):
    host.new_vm("a")
    host.run("enable-vmresourcemetering", "a")
    path = os.path.join(host.vm_folder("a"), "metering.json")
    good = json.load(open(path))
    for bad in ("{", "[]", '{"version":2}', json.dumps(dict(good, sums={})),
                json.dumps(dict(good, began="x"))):
        with open(path, "w") as f:
            f.write(bad)
        host.kill_daemon()
        assert "it is not metered" in host.run("measure-vm", "a", status=1)
    host.run("enable-vmresourcemetering", "a")
    assert measure(host, "a")["NetworkInbound"] == 0
