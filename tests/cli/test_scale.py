"""A host with 1,000 virtual machines, with OYAKO_LONG=1 one with 10,000: what it takes, and that all of it still works.

bench/control has the times; here counts what a busy machine does not change: memory, and processor time for ten times as many.
"""
import os
import uuid

from conftest import BUILD, is_alive

LONG = os.environ.get("OYAKO_LONG") == "1"


def define(host, first, last):
    """As New-VM leaves them. By hand, for a sync of each would take minutes."""
    folder = host.vm_folder("vm0")
    with open(folder + "/vm.json") as f:
        description = f.read()
    for number in range(first, last):
        new = str(uuid.uuid4())
        path = os.path.join(host.state, "vms", new)
        os.mkdir(path, mode=0o700)
        with open(path + "/vm.json", "w") as f:
            f.write(description.replace(os.path.basename(folder), new).replace('"vm0"', '"vm%d"' % number))


def end(host):
    pid = host.daemon_pid()
    host.end_daemon()
    assert not is_alive(pid)


def is_sanitized():
    with open(os.path.join(BUILD, "bin", "oyakod"), "rb") as f:
        return b"__asan_init" in f.read()


class Measured:
    """The service from its start on."""

    def __init__(self, host):
        self.pid = host.daemon_pid()

    def seconds(self):
        with open("/proc/%d/stat" % self.pid) as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def most_mib(self):
        with open("/proc/%d/status" % self.pid) as f:
            return int(f.read().partition("VmHWM:")[2].split()[0]) / 1024


def work(host, count):
    """Whatever needs to look at all of them; the processor time of start and lists."""
    service = Measured(host)
    for _ in range(3):
        assert len(host.json("get-vm")) == count
    seconds = service.seconds()
    host.run("start-vm", "vm7")
    assert host.vm("vm7")["State"] == "Running"
    assert [vm["Name"] for vm in host.json("get-vm", "*") if vm["State"] != "Off"] == ["vm7"]
    assert "already" in host.run("new-vm", "-Name", "VM%d" % (count - 1), "-NoVHD", status=1)
    host.new_vm("another")
    host.run("rename-vm", "another", "one")
    most = service.most_mib()
    host.kill_daemon()
    assert host.vm("vm7")["State"] == "Running"
    host.run("stop-vm", "vm7", "-TurnOff")
    host.run("remove-vm", "one", "-Force")
    assert len(host.json("get-vm")) == count
    return seconds, max(most, Measured(host).most_mib())


def test_many(host):
    host.new_vm("vm0", "", "-NoVHD")
    define(host, 1, 1000)
    end(host)
    few = work(host, 1000)
    print("1,000: %.2f s of processor time, %.1f MiB" % few)
    assert is_sanitized() or few[1] < 64
    if not LONG:
        return
    define(host, 1000, 10000)
    end(host)
    many = work(host, 10000)
    print("10,000: %.2f s of processor time, %.1f MiB" % many)
    # In proportion, and not its square.
    assert many[0] < 30 * max(few[0], 0.1)
    assert is_sanitized() or many[1] < 640
