"""Settings of the host itself: each holds, over a restart of the service, too."""
import os
import shutil

from conftest import wait_for


def shown(host):
    return host.json("get-vmhost")[0]


def test_folder_of_virtual_machines(host):
    folder = os.path.join(host.folder, "machines")
    assert "no folder" in host.run("set-vmhost", "-VirtualMachinePath", folder, status=1)
    os.mkdir(folder)
    before = shown(host)["VirtualMachinePath"]
    host.run("set-vmhost", "-VirtualMachinePath", folder)
    host.kill_daemon()
    assert shown(host)["VirtualMachinePath"] == folder
    host.new_vm("a")
    assert os.path.exists(os.path.join(folder, "a", "vm.json")) and host.vm("a")["Path"] == os.path.join(folder, "a")
    # -Path comes first, and the store is the default again.
    other = os.path.join(host.folder, "other")
    os.mkdir(other)
    host.new_vm("b", "", "-Path", other)
    assert os.path.exists(os.path.join(other, "b", "vm.json"))
    host.run("set-vmhost", "-VirtualMachinePath", "")
    assert shown(host)["VirtualMachinePath"] == before
    host.new_vm("c")
    assert sorted(os.listdir(folder)) == ["a"]
    # What is there stays where it is.
    assert [vm["Name"] for vm in host.json("get-vm")] == ["a", "b", "c"]


def test_folder_of_disks(host):
    assert shown(host)["VirtualHardDiskPath"] is None
    host.run("set-vmhost", "-VirtualHardDiskPath", host.folder)
    host.kill_daemon()
    assert shown(host)["VirtualHardDiskPath"] == host.folder


def macs(host):
    return sorted(adapter["MacAddress"] for adapter in host.json("get-vmnetworkadapter", "*"))


def test_mac_addresses(host):
    before = shown(host)
    assert before["MacAddressMinimum"][:10] == before["MacAddressMaximum"][:10]
    assert (before["MacAddressMinimum"][10:], before["MacAddressMaximum"][10:]) == ("00", "FF")
    for first, last in (("02-00-00-00-00-05", "02-00-00-00-00-04"), ("02-00-00-00-00-00", "02-00-00-01-00-00"),
                        ("01-00-00-00-00-00", "01-00-00-00-00-09")):
        host.run("set-vmhost", "-MacAddressMinimum", first, "-MacAddressMaximum", last, status=1)
    assert shown(host)["MacAddressMinimum"] == before["MacAddressMinimum"]
    host.run("set-vmhost", "-MacAddressMinimum", "02-00-00-00-FF-FF", "-MacAddressMaximum", "02-00-00-01-00-00")
    host.kill_daemon()
    host.new_vm("a")
    host.new_vm("b")
    assert macs(host) == ["02000000FFFF", "020000010000"]
    # Behind the pool, any address of Hyper-V's that is free; what is given back is given again.
    host.new_vm("c")
    assert macs(host)[0].startswith("00155D")
    host.run("remove-vm", "a", "-Force")
    host.new_vm("d")
    assert "02000000FFFF" in macs(host)


def test_metering_interval(host):
    assert shown(host)["ResourceMeteringSaveInterval"] == "00:05:00"
    for wrong in ("5", "00:00:00", "25:00:00", "00:61:00", "1:2", "x"):
        host.run("set-vmhost", "-ResourceMeteringSaveInterval", wrong, status=1)
    host.running_vm("a")
    host.run("enable-vmresourcemetering", "a")
    host.run("set-vmhost", "-ResourceMeteringSaveInterval", "00:00:01")
    path = os.path.join(host.vm_folder("a"), "metering.json")
    before = open(path).read()
    # It is written without that anybody asks for it: each look at the VM is a sample.
    wait_for(lambda: host.vm("a") and open(path).read() != before)
    host.kill_daemon()
    assert shown(host)["ResourceMeteringSaveInterval"] == "00:00:01"


def test_what_can_not_be_changed(host):
    assert shown(host)["NumaSpanningEnabled"] is True
    host.run("set-vmhost", "-NumaSpanningEnabled", "true")
    assert "NUMA node" in host.run("set-vmhost", "-NumaSpanningEnabled", "false", status=1)
    assert "There is no migration yet" in host.run("set-vmhost", "-MaximumStorageMigrations", "4", status=2)


def test_all_or_nothing(host):
    host.json("get-vmhost")
    path = os.path.join(host.state, "host.json")
    before = shown(host)
    host.run("set-vmhost", "-VirtualHardDiskPath", host.folder, "-ResourceMeteringSaveInterval", "x", status=1)
    assert shown(host) == before
    # What can't be written down does not hold.
    shutil.copy(path, path + ".kept")
    os.mkdir(os.path.join(host.state, ".host.json.new"))
    host.run("set-vmhost", "-VirtualHardDiskPath", host.folder, status=1)
    assert shown(host) == before
