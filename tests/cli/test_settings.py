"""Firmware settings, serial ports, IDE, and the settings that checkpoints have."""
import json
import os
import socket
import stat

from conftest import PATIENCE, wait_for


def read_all(path):
    """What a serial port says to whoever connects, until it hangs up."""
    folder = os.open(os.path.dirname(path), os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect("/proc/self/fd/%d/%s" % (folder, os.path.basename(path)))
            return client.makefile().read()
    finally:
        os.close(folder)


def is_socket(path):
    return os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode)


def test_firmware(host):
    host.new_vm("a")
    host.run("new-vhd", "d.vhdx", "-SizeBytes", "64MB")
    host.run("add-vmharddiskdrive", "a", "-Path", "d.vhdx")
    host.run("add-vmdvddrive", "a")
    firmware = host.json("get-vmfirmware", "a")[0]
    assert firmware["SecureBoot"] == "On" and firmware["SecureBootTemplate"] == "MicrosoftWindows"
    assert firmware["BootOrder"] == ["SCSI:0:0", "SCSI:0:1", "Network Adapter"]
    assert "not used" in firmware["Status"]
    dvd = host.run("get-vmdvddrive", "a").strip()
    host.run("set-vmfirmware", "a", "-FirstBootDevice", dvd)
    assert host.json("get-vmfirmware", "a")[0]["BootOrder"] == ["SCSI:0:1", "SCSI:0:0", "Network Adapter"]
    both = host.run("get-vmnetworkadapter", "a", "--json").strip() + "," + host.run("get-vmdvddrive", "a", "--json")
    host.run("set-vmfirmware", "a", "-BootOrder", both, "-EnableSecureBoot", "off", "-SecureBootTemplateId",
             "272e7447-90a4-4563-a4b9-8e4ab00526ce", "-ConsoleMode", "com1", "-PauseAfterBootFailure", "On",
             "-PreferredNetworkBootProtocol", "IPv6")
    # A drive keeps its place in the order when it is moved, and what is new comes last.
    host.run("set-vmdvddrive", "a", "-ToControllerLocation", "9")
    host.run("add-vmnetworkadapter", "a", "-Name", "Second")
    host.run("checkpoint-vm", "a", "-SnapshotName", "kept")
    host.run("set-vmfirmware", "a", "-BootOrder", "Second", "-EnableSecureBoot", "On")
    wanted = {"SecureBoot": "Off", "SecureBootTemplate": "MicrosoftUEFICertificateAuthority", "ConsoleMode": "COM1",
              "PreferredNetworkBootProtocol": "IPv6", "PauseAfterBootFailure": "On",
              "BootOrder": ["Network Adapter", "SCSI:0:9", "Second"]}
    then = host.json("get-vmfirmware", "a", "-VMSnapshot", "kept")[0]
    assert {name: then[name] for name in wanted} == wanted and then["VMSnapshotName"] == "kept"
    assert host.json("get-vmfirmware", "a")[0]["BootOrder"] == ["Second"]
    host.run("restore-vmsnapshot", "kept", "a")
    host.run("export-vm", "a", host.folder + "/out")
    description = next(os.path.join(where, "vm.json") for where, _, files in os.walk(host.folder + "/out")
                       if "vm.json" in files and "Virtual Machines" in where)
    host.run("import-vm", description, "-Copy", "-GenerateNewId", "-NewName", "b", "-VhdDestinationPath",
             host.folder + "/disks")
    copy = host.json("get-vmfirmware", "b")[0]
    assert {name: copy[name] for name in wanted} == wanted
    host.run("start-vm", "a")
    host.run("set-vmfirmware", "a", "-FirstBootDevice", "Second")
    assert "only while it is off" in host.run("set-vmfirmware", "a", "-EnableSecureBoot", "On", status=1)
    assert "no drive or network adapter 'x'" in host.run("set-vmfirmware", "a", "-BootOrder", "x", status=1)
    assert "has UEFI firmware" in host.run("get-vmbios", "a", status=1)


def test_generation_1(host):
    """Only an import has one so far; it can be looked at, changed, but has no BIOS to start."""
    host.new_vm("a")
    folder = host.vm_folder("a")
    host.run("export-vm", "a", host.folder + "/out")
    host.run("remove-vm", "a", "-Force")
    path = next(os.path.join(where, "vm.json") for where, _, files in os.walk(host.folder + "/out")
                if "vm.json" in files)
    assert not os.path.exists(folder)
    with open(path) as f:
        description = json.load(f)
    description.update(generation=1, ide_controllers=[{"drives": []}, {"drives": []}])
    with open(path, "w") as f:
        json.dump(description, f)
    host.run("import-vm", path)
    for name in ("one", "two", "three", "four", "five"):
        host.run("new-vhd", name + ".vhdx", "-SizeBytes", "64MB")
        host.run("add-vmharddiskdrive", "a", "-Path", name + ".vhdx")
    drives = [(d["ControllerType"], d["ControllerNumber"], d["ControllerLocation"])
              for d in host.json("get-vmharddiskdrive", "a")]
    assert sorted(drives) == [("IDE", 0, 0), ("IDE", 0, 1), ("IDE", 1, 0), ("IDE", 1, 1), ("SCSI", 0, 0)]
    assert "no location is free on the IDE" in host.run("add-vmdvddrive", "a", status=1)
    host.run("remove-vmharddiskdrive", "a", "IDE", "1", "0")
    host.run("add-vmdvddrive", "a", "-ControllerNumber", "1")
    host.run("set-vmharddiskdrive", "a", "IDE", "1", "1", "-ToControllerType", "SCSI")
    controllers = host.json("get-vmidecontroller", "a")
    assert [len(c["Drives"]) for c in controllers] == [2, 1]
    assert host.json("get-vmharddiskdrive", "a", "SCSI", "0", "1")[0]["Path"].endswith("four.vhdx")
    bios = host.json("get-vmbios", "a")[0]
    assert bios["StartupOrder"] == ["CD", "IDE", "LegacyNetworkAdapter", "Floppy"] and not bios["NumLockEnabled"]
    host.run("set-vmbios", "a", "-StartupOrder", "IDE,Floppy,CD,LegacyNetworkAdapter", "-EnableNumLock")
    bios = host.json("get-vmbios", "a")[0]
    assert bios["StartupOrder"] == ["IDE", "Floppy", "CD", "LegacyNetworkAdapter"] and bios["NumLockEnabled"]
    assert "each of CD" in host.run("set-vmbios", "a", "-StartupOrder", "IDE,IDE,CD,Floppy", status=1)
    assert "has a BIOS" in host.run("set-vmfirmware", "a", "-EnableSecureBoot", "On", status=1)
    check_floppy(host)


def check_floppy(host):
    """It is kept, checkpointed, exported, and looked for by an import."""
    image = host.folder + "/drivers.vfd"
    host.run("new-vfd", image)
    assert [d["DiskType"] for d in host.json("get-vmfloppydiskdrive", "a")] == ["None"]
    host.run("checkpoint-vm", "a", "-SnapshotName", "empty")
    drive, = host.json("set-vmfloppydiskdrive", "a", "drivers.vfd", "-Passthru")
    assert drive["Path"] == image and drive["DiskType"] == "VFD" and drive["Status"] == "Kept, not used yet"
    with open(host.folder + "/short.vfd", "wb") as f:
        f.write(bytes(737280))
    for wrong in ("short.vfd", "one.vhdx", "gone.vfd", "/dev/null"):
        assert wrong in host.run("set-vmfloppydiskdrive", "a", wrong, status=1)
    host.new_vm("second")
    for cmdlet in ("get-vmfloppydiskdrive", "set-vmfloppydiskdrive"):
        assert "no floppy disk drive" in host.run(cmdlet, "second", status=1)
    host.run("remove-vm", "second", "-Force")
    assert host.json("get-vmfloppydiskdrive", "a", "-VMSnapshot", "empty")[0]["Path"] is None
    host.run("export-vm", "a", host.folder + "/more")
    description = "%s/more/a/Virtual Machines/%s/vm.json" % (host.folder, host.vm("a")["VMId"])
    host.run("import-vm", description, "-Copy", "-GenerateNewId", "-NewName", "b", "-VhdDestinationPath",
             host.folder + "/copies")
    assert host.json("get-vmfloppydiskdrive", "b")[0]["Path"] == image
    os.unlink(image)
    notes = host.json("compare-vm", description, "-Copy", "-GenerateNewId", "-NewName", "c")[0]["Incompatibilities"]
    assert [(n["Severity"], n["MessageId"]) for n in notes if n["Source"] == image] == [("Changed", 40010)]
    host.run("set-vmfloppydiskdrive", "a", "-Path", "")
    assert host.json("get-vmfloppydiskdrive", "a")[0]["Path"] is None


def test_com_ports(host):
    pipes = os.path.join(host.runtime, "pipe")
    own = host.folder + "/com1"
    host.new_vm("a", "say=hello")
    host.run("set-vmcomport", "a", "2", "\\.pipeTest")  # what a shell leaves of \\.\pipe\Test
    host.run("set-vmcomport", "a", "1", own, "-DebuggerMode", "On")
    ports = host.json("get-vmcomport", "a")
    assert [p["Path"] for p in ports] == [own, "\\\\.\\pipe\\Test"] and ports[0]["DebuggerMode"] == "On"
    assert ports[1]["SocketPath"] == pipes + "/Test"
    assert not os.path.lexists(own)
    host.run("start-vm", "a")
    assert is_socket(own) and read_all(pipes + "/Test") == "this is COM 2\n"
    # Another machine can't have the name; it says so and does not start.
    host.new_vm("b")
    host.run("set-vmcomport", "b", "1", "\\\\.\\pipe\\test2")
    host.run("set-vmcomport", "b", "2", "\\\\.\\pipe\\Test")
    assert "COM 2: there is already something" in host.run("start-vm", "b", status=1)
    assert os.listdir(pipes) == ["Test"]
    # Changed while it runs; what can't be had leaves all as it was.
    with open(host.folder + "/file", "w"):
        pass
    assert "already something" in host.run("set-vmcomport", "a", "2", host.folder + "/file", status=1)
    assert os.path.isfile(host.folder + "/file") and is_socket(pipes + "/Test") and is_socket(own)
    host.run("set-vmcomport", "a", "2", "\\\\.\\pipe\\Other")
    assert os.listdir(pipes) == ["Other"] and read_all(pipes + "/Other") == "this is COM 2\n"
    # They go with the machine, also when the service was not there.
    host.kill_daemon()
    assert host.vm("a")["State"] == "Running" and is_socket(own)
    host.run("stop-vm", "a", "-TurnOff")
    assert os.listdir(pipes) == [] and not os.path.lexists(own)
    host.run("start-vm", "a")
    pid = host.vm("a")["WorkerProcessId"]
    host.kill_daemon()
    os.kill(pid, 9)
    wait_for(lambda: not os.path.exists("/proc/%d" % pid))
    assert host.vm("a")["State"] == "Off"
    assert os.listdir(pipes) == [] and not os.path.lexists(own)
    for path in ("pipe", "\\\\far\\pipe\\x", "\\\\.\\pipe\\..\\x"):
        assert "oyako: Set-VMComPort 'a'" in host.run("set-vmcomport", "a", "1", path, status=1)
    host.run("set-vmcomport", "a", "1", "")
    assert host.json("get-vmcomport", "a", "1")[0]["Path"] == ""


def test_settings_of_checkpoints(host):
    host.new_vm("a")
    host.run("set-vmmemory", "a", "-StartupBytes", "256MB")
    host.run("checkpoint-vm", "a", "-SnapshotName", "first")
    host.run("set-vmmemory", "a", "-StartupBytes", "1GB")
    host.run("set-vmprocessor", "a", "-Count", "4")
    host.run("add-vmdvddrive", "a")
    host.run("rename-vmnetworkadapter", "a", "-NewName", "LAN")
    host.run("disable-vmintegrationservice", "Heartbeat", "a")
    host.run("checkpoint-vm", "a", "-SnapshotName", "second")
    host.run("rename-vm", "a", "b")

    def of(cmdlet, checkpoint, *more):
        return host.json(cmdlet, "b", "-VMSnapshot", checkpoint, *more)

    assert [of("get-vmmemory", c)[0]["Startup"] >> 20 for c in ("first", "second")] == [256, 1024]
    assert [of("get-vmprocessor", c)[0]["Count"] for c in ("first", "second")] == [1, 4]
    assert [len(of("get-vmdvddrive", c)) for c in ("first", "second")] == [0, 1]
    assert [of("get-vmnetworkadapter", c)[0]["Name"] for c in ("first", "second")] == ["Network Adapter", "LAN"]
    assert of("get-vmintegrationservice", "second", "-Name", "Heartbeat")[0]["Enabled"] is False
    assert of("get-vmscsicontroller", "second")[0]["Drives"][0]["ControllerLocation"] == 0
    for cmdlet in ("get-vmvideo", "get-vmcomport", "get-vmfirmware", "get-vmharddiskdrive"):
        assert all(part["VMName"] == "b" and part["VMSnapshotName"] == "first" for part in of(cmdlet, "first"))
    assert "no checkpoint 'third'" in host.run("get-vmmemory", "b", "-VMSnapshot", "third", status=1)
    assert len(of("get-vmmemory", "*")) == 2
    parent = host.json("get-vmsnapshot", "b", "-ParentOf", "second")
    assert [c["Name"] for c in parent] == ["first"]
    assert [c["Name"] for c in host.json("get-vmsnapshot", "b", "-ChildOf", parent[0]["Id"])] == ["second"]
    assert [c["Name"] for c in host.json("get-vmsnapshot", "b", "-ParentOf", "b")] == ["second"]


def test_places_of_a_machine(host):
    host.new_vm("a")
    os.mkdir(host.folder + "/elsewhere")
    assert "no folder" in host.run("set-vm", "a", "-SnapshotFileLocation", host.folder + "/nosuch", status=1)
    host.run("set-vm", "a", "-SnapshotFileLocation", "elsewhere", "-SmartPagingFilePath", "paging",
             "-AllowUnverifiedPaths")
    vm = host.vm("a")
    assert vm["SnapshotFileLocation"] == host.folder + "/elsewhere"
    assert vm["SmartPagingFilePath"] == host.folder + "/paging"
    host.run("checkpoint-vm", "a", "-SnapshotName", "one")
    assert len(os.listdir("%s/elsewhere/Snapshots/%s" % (host.folder, vm["VMId"]))) == 1
    assert "while it has checkpoints" in host.run("set-vm", "a", "-SnapshotFileLocation", "", status=1)
    host.run("remove-vmsnapshot", "a")
    host.run("set-vm", "a", "-SnapshotFileLocation", "")
    assert host.vm("a")["SnapshotFileLocation"] == host.vm("a")["Path"]


def test_adapters(host):
    host.new_vm("a", "", "-SwitchName", "Default Switch")
    host.run("set-vmnetworkadapter", "a", "-StaticMacAddress", "00-15-5D-AA-00-01")
    adapter = host.json("get-vmnetworkadapter", "a")[0]
    assert adapter["MacAddress"] == "00155DAA0001" and not adapter["DynamicMacAddressEnabled"]
    host.new_vm("b")
    assert "another adapter's" in host.run("set-vmnetworkadapter", "b", "-StaticMacAddress", "00155DAA0001", status=1)
    host.run("set-vmnetworkadapter", "a", "-DynamicMacAddress")
    assert host.json("get-vmnetworkadapter", "a")[0]["DynamicMacAddressEnabled"]
    host.run("start-vm", "a")
    assert "only while it is off" in host.run("set-vmnetworkadapter", "a", "-DynamicMacAddress", status=1)
    host.run("set-vmnetworkadapter", "a", "-MacAddressSpoofing", "On")
    host.run("rename-vmnetworkadapter", "a", "-Name", "Network Adapter", "-NewName", "LAN")
    adapter = host.json("get-vmnetworkadapter", "a", "-Name", "LAN")[0]
    assert adapter["MacAddressSpoofing"] == "On" and adapter["Connected"]
    host.run("stop-vm", "a", "-TurnOff")
    with open(os.path.join(host.vm_folder("a"), "vm.json")) as f:
        assert json.load(f)["network_adapters"][0]["mac_spoofing"] is True
    assert "does not look into frames" in host.run("set-vmnetworkadapter", "a", "-DhcpGuard", "On", status=2)


def test_console_and_nodes(host):
    host.new_vm("a")
    host.run("enable-vmconsolesupport", "a")
    assert host.json("get-vmvideo", "a")[0]["Enabled"] is True
    host.run("disable-vmconsolesupport", "-VMName", "a")
    assert host.json("get-vmvideo", "a")[0]["Enabled"] is False
    nodes = host.json("get-vmhostnumanode")
    assert nodes[0]["NodeId"] == 0 and nodes[0]["MemoryTotal"] > 0 and nodes[0]["ProcessorsAvailability"]
    assert "no NUMA node 900" in host.run("get-vmhostnumanode", "900", status=1)
