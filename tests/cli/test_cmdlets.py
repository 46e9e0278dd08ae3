import json
import os
import re
import subprocess

import pytest

from conftest import TOP, wait_for


def test_grammar(host):
    host.run("New-VM", "web", "512mb", "-Generation:2")
    vm = host.json("GET-VM", "-name", "web")[0]
    assert vm["MemoryStartup"] == 512 << 20
    assert host.json("get-vm", "-VMName:web")[0] == vm
    host.run("set-vm", "web", "-memorys", "1.5GB", "-Note=a=b")
    vm = host.vm("web")
    assert vm["MemoryStartup"] == 1536 << 20 and vm["Notes"] == "a=b"
    assert host.json("get-vm", "-Id", vm["VMId"])[0]["Name"] == "web"


def test_error_action(host):
    for action in ("SilentlyContinue", "Ignore"):
        assert host.run("get-vm", "nosuch", "-ErrorAction", action, status=1) == ""
    assert host.run("get-vm", "nosuch", "-EA:Stop", "-Verbose", status=1) != ""
    assert "one of" in host.run("get-vm", "-ErrorAction", "Panic", status=2)


def test_wrong_command_lines(host):
    def says(*args):
        return host.run(*args, status=2)

    assert "did you mean Start-VM?" in says("strat-vm", "a")
    assert "did you mean -Generation?" in says("new-vm", "-Generatoin", "2")
    assert "needs a value" in says("new-vm", "-Name")
    assert "needs a value" in says("new-vm", "-Name", "-NoVHD")
    assert "ambiguous" in says("new-vm", "-N", "x")
    assert "given twice" in says("new-vm", "-Name", "a", "-Name", "b")
    assert "no place for 'c'" in says("get-vm", "a", "c")
    assert "not a size" in says("new-vm", "a", "-MemoryStartupBytes", "lots")
    assert "none of: auto kvm soft soft-interpreter soft-lockstep" in says("new-vm", "a", "-Backend", "fast")
    assert "not between 1 and 64" in says("new-vm", "a", "-ProcessorCount", "65")
    assert "can't be used with" in says("new-vm", "a", "-NoVHD", "-VHDPath", "x")
    assert "not there yet" in says("new-vm", "-Name", "a", "-Prerelease")
    assert "changes nothing" in says("get-vm", "a", "-WhatIf")
    assert "needs -Name" in says("start-vm")
    assert "not a GUID" in says("get-vm", "-Id", "5")
    # None of these started a daemon.
    assert not os.path.exists(host.socket)


def test_names_that_are_not_there_yet(host):
    assert "Move-VM is not there yet" in host.run("move-vm", "a", status=1)
    assert "not there yet" in host.run("help", "Move-VM")
    listed = host.json("get-command", "-All")
    assert len(listed) > 400 and {"there", "not yet"} == {c["Status"] for c in listed}
    assert len({c["Name"] for c in listed}) == len(listed)


def test_rules_of_new_vm(host):
    def says(*args):
        return host.run("new-vm", *args, status=1)

    assert "multiple of 2 MB" in says("-MemoryStartupBytes", "33MB")
    assert "between 32 MB" in says("-MemoryStartupBytes", "2MB")
    assert "generation 1" in says("-Generation", "1")
    assert "No such file" in says("-VHDPath", "nosuch.vhdx")
    assert "no virtual switch 'LAN'" in says("-SwitchName", "LAN")
    assert "longer than 100" in says("-Name", "x" * 101)
    assert "control characters" in says("-Name", "a\nb")
    assert "needs a kernel" in says("-LinuxInitrdPath", "i")
    host.run("new-vm")
    vm = host.vm("New Virtual Machine")
    assert vm["MemoryStartup"] == 512 << 20 and vm["ProcessorCount"] == 1
    adapter = host.json("get-vmnetworkadapter", "New*")[0]
    assert adapter["Name"] == "Network Adapter" and adapter["SwitchName"] is None
    assert re.fullmatch("00155D[0-9A-F]{6}", adapter["MacAddress"])


def test_vm_in_a_folder_of_its_own(host):
    folder = os.path.join(host.folder, "not", "there")
    host.new_vm("a", "", "-Path", "not/there")
    assert host.vm("a")["Path"] == os.path.join(folder, "a")
    host.kill_daemon()
    assert host.vm("a")["State"] == "Off"
    host.run("remove-vm", "a", "-Force")
    assert os.listdir(folder) == [] and os.listdir(os.path.join(host.state, "vms")) == []


def test_vm_in_no_folder(host):
    open(os.path.join(host.folder, "file"), "w").close()
    assert "Not a directory" in host.run("new-vm", "a", "-Path", "file/b", status=1)
    os.makedirs(os.path.join(host.folder, "x", "a"))
    assert "there is" in host.run("new-vm", "a", "-Path", "x", status=1)
    assert os.listdir(os.path.join(host.folder, "x")) == ["a"] and os.listdir(os.path.join(host.state, "vms")) == []


def test_drives(host):
    for name in ("one.vhdx", "two.vhdx", "cd.iso"):
        open(os.path.join(host.folder, name), "w").close()
    host.new_vm("a", "", "-VHDPath", "one.vhdx")
    host.run("add-vmharddiskdrive", "a", "-Path", "two.vhdx", "-ControllerLocation", "5")
    disks = host.json("get-vmharddiskdrive", "a")
    assert [(d["ControllerType"], d["ControllerNumber"], d["ControllerLocation"],
             os.path.basename(d["Path"])) for d in disks] == [
        ("SCSI", 0, 0, "one.vhdx"), ("SCSI", 0, 5, "two.vhdx")]
    assert "attached already" in host.run("add-vmharddiskdrive", "a", "-Path", "one.vhdx", status=1)
    assert "is taken" in host.run("add-vmdvddrive", "a", "-ControllerLocation", "5", status=1)
    assert "no SCSI controller 1" in host.run("add-vmdvddrive", "a", "-ControllerNumber", "1",
                                              status=1)
    host.run("add-vmdvddrive", "a")
    drive = host.json("get-vmdvddrive", "a")[0]
    assert drive["Path"] is None and drive["DvdMediaType"] == "None"
    host.run("set-vmdvddrive", "a", "-Path", "cd.iso")
    assert host.json("get-vmdvddrive", "a")[0]["DvdMediaType"] == "ISO"
    host.run("set-vmdvddrive", "a", "-Path", "")
    assert host.json("get-vmdvddrive", "a")[0]["Path"] is None
    host.run("remove-vmdvddrive", "a", "-ControllerNumber", 0, "-ControllerLocation", 1)
    host.run("remove-vmharddiskdrive", "a", "-ControllerType", "SCSI", "-ControllerNumber", 0,
             "-ControllerLocation", 5)
    assert "no such drive" in host.run("remove-vmharddiskdrive", "a", "-ControllerNumber", 0,
                                       "-ControllerLocation", 5, status=1)
    assert len(host.json("get-vmharddiskdrive", "a")) == 1
    assert "of generation 1" in host.run("add-vmharddiskdrive", "a", "-Path", "two.vhdx", "-ControllerType", "IDE",
                                         status=1)


def test_adapters(host):
    host.new_vm("a")
    host.new_vm("b")
    host.run("add-vmnetworkadapter", "a", "-SwitchName", "default switch", "-Name", "second")
    host.run("add-vmnetworkadapter", "a", "-StaticMacAddress", "02-00-00-00-00-01", "-Name", "third")
    adapters = host.json("get-vmnetworkadapter", "*")
    assert len({x["MacAddress"] for x in adapters}) == 4
    assert adapters[1]["SwitchName"] == "Default Switch"
    assert adapters[2]["MacAddress"] == "020000000001"
    assert adapters[2]["DynamicMacAddressEnabled"] is False
    assert "another adapter's" in host.run("add-vmnetworkadapter", "b", "-StaticMacAddress",
                                           "020000000001", status=1)
    assert "unicast" in host.run("add-vmnetworkadapter", "b", "-StaticMacAddress", "010000000001",
                                 status=1)
    host.run("remove-vmnetworkadapter", "a", "-Name", "s*")
    host.run("connect-vmnetworkadapter", "a", "third", "Default Switch")
    assert [(x["Name"], x["SwitchName"]) for x in host.json("get-vmnetworkadapter", "a")] == [
        ("Network Adapter", None), ("third", "Default Switch")]
    host.run("start-vm", "a")
    assert host.json("get-vmswitch")[0]["PortCount"] == 1
    # While it runs: the worker gets the port, and the switch one less.
    host.run("connect-vmnetworkadapter", "a", "Network Adapter", "Default Switch")
    host.run("add-vmnetworkadapter", "a", "-SwitchName", "Default Switch", "-Name", "fourth")
    assert host.json("get-vmswitch")[0]["PortCount"] == 3
    host.run("disconnect-vmnetworkadapter", "a", "third")
    host.run("remove-vmnetworkadapter", "a", "fourth")
    wait_for(lambda: host.json("get-vmswitch")[0]["PortCount"] == 1)
    assert [(x["Name"], x["SwitchName"]) for x in host.json("get-vmnetworkadapter", "a")] == [
        ("Network Adapter", "Default Switch"), ("third", None)]
    host.run("stop-vm", "a", "-TurnOff")
    wait_for(lambda: host.json("get-vmswitch")[0]["PortCount"] == 0)
    host.run("disconnect-vmnetworkadapter", "a")
    assert "no network adapter 'x'" in host.run("remove-vmnetworkadapter", "a", "-Name", "x",
                                                status=1)
    for _ in range(6):
        host.run("add-vmnetworkadapter", "b")
    assert len(host.json("get-vmnetworkadapter", "b")) == 7
    host.run("add-vmnetworkadapter", "b")
    assert "at most 8" in host.run("add-vmnetworkadapter", "b", status=1)


def places(host, kind="harddisk"):
    return [(d["ControllerNumber"], d["ControllerLocation"], d["Path"] and os.path.basename(d["Path"]))
            for d in host.json("get-vm%sdrive" % kind, "a")]


def test_controllers(host):
    for name in ("one", "two", "three"):
        open(os.path.join(host.folder, name), "w").close()
    host.new_vm("a", "", "-VHDPath", "one")
    for _ in range(3):
        host.run("add-vmscsicontroller", "a")
    assert "at most 4" in host.run("add-vmscsicontroller", "a", status=1)
    host.run("add-vmharddiskdrive", "a", "-Path", "two", "-ControllerNumber", 2)
    host.run("add-vmharddiskdrive", "a", "-Path", "three", "-ControllerNumber", 1)
    assert places(host) == [(0, 0, "one"), (1, 0, "three"), (2, 0, "two")]
    controllers = host.json("get-vmscsicontroller", "a")
    assert [len(c["Drives"]) for c in controllers] == [1, 1, 1, 0]
    host.run("remove-vmscsicontroller", "a", "-ControllerNumber", 1)
    assert places(host) == [(0, 0, "one"), (1, 0, "two")]
    assert host.json("get-vmscsicontroller", "a", "-ControllerNumber", 1)[0]["Id"] == controllers[2]["Id"]
    assert "no SCSI controller 3" in host.run("remove-vmscsicontroller", "a", "-ControllerNumber", 3,
                                              status=1)


@pytest.mark.parametrize("runs", [False, True], ids=["off", "running"])
def test_drives_are_set_and_moved(host, runs):
    for name in ("one", "two", "cd.iso"):
        open(os.path.join(host.folder, name), "w").close()
    host.new_vm("a", "", "-VHDPath", "one")
    host.run("add-vmscsicontroller", "a")
    if runs:
        host.run("start-vm", "a")
    host.run("set-vmharddiskdrive", "a", "-Path", "two")
    assert places(host) == [(0, 0, "two")]
    host.run("set-vmharddiskdrive", "a", "-ToControllerNumber", 1, "-ToControllerLocation", 7)
    assert places(host) == [(1, 7, "two")]
    assert "No such file" in host.run("set-vmharddiskdrive", "a", "-Path", "nosuch", status=1)
    host.run("add-vmharddiskdrive", "a", "-Path", "one")
    assert "is taken" in host.run("set-vmharddiskdrive", "a", "-ControllerNumber", 0,
                                  "-ToControllerNumber", 1, "-ToControllerLocation", 7, status=1)
    assert places(host) == [(0, 0, "one"), (1, 7, "two")]
    host.run("add-vmdvddrive", "a")
    host.run("set-vmdvddrive", "a", "-Path", "cd.iso")
    assert places(host, "dvd") == [(0, 1, "cd.iso")]
    host.run("set-vmdvddrive", "a", "-ToControllerLocation", 9)
    host.run("set-vmdvddrive", "a", "-Path", "")
    assert places(host, "dvd") == [(0, 9, None)]
    if not runs:
        assert "running virtual machine" in host.run(
            "set-vmharddiskdrive", "a", "-ControllerNumber", 0, "-SizeBytes", "1GB", status=1)
        return
    host.run("set-vmharddiskdrive", "a", "-ControllerNumber", 0, "-SizeBytes", "1GB")
    host.run("remove-vmdvddrive", "a", "-ControllerNumber", 0, "-ControllerLocation", 9)
    host.run("remove-vmharddiskdrive", "a", "-ControllerType", "SCSI", "-ControllerNumber", 0,
             "-ControllerLocation", 0)
    host.run("remove-vmscsicontroller", "a", "-ControllerNumber", 0)
    assert places(host) == [(0, 7, "two")]


def test_a_refused_change_is_not_in_the_description(host):
    open(os.path.join(host.folder, "one"), "w").close()
    host.running_vm("a", "nodevices")
    before = open(os.path.join(host.vm_folder("a"), "vm.json")).read()
    for cmdlet in (("add-vmharddiskdrive", "a", "-Path", "one"), ("add-vmdvddrive", "a"),
                   ("add-vmscsicontroller", "a"), ("remove-vmscsicontroller", "a", "-ControllerNumber", 0),
                   ("add-vmnetworkadapter", "a", "-Name", "x"), ("remove-vmnetworkadapter", "a"),
                   ("connect-vmnetworkadapter", "a", "-SwitchName", "Default Switch")):
        assert "as told" in host.run(*cmdlet, status=1)
    assert open(os.path.join(host.vm_folder("a"), "vm.json")).read() == before


def test_ejected_by_the_guest(host):
    for name in ("one", "cd.iso"):
        open(os.path.join(host.folder, name), "w").close()
    host.new_vm("a", "", "-VHDPath", "one")
    host.run("add-vmdvddrive", "a", "-Path", "cd.iso")
    host.run("start-vm", "a")
    console = subprocess.Popen(host.command("connect-vm", "a"), env=host.env, stdin=subprocess.PIPE,
                               stdout=subprocess.DEVNULL)
    console.stdin.write(b"eject\n")
    console.stdin.flush()
    wait_for(lambda: places(host, "dvd") == [(0, 1, None)])
    assert places(host) == [(0, 0, "one")]
    console.terminate()
    console.wait()


def test_integration_services(host):
    host.running_vm("a")
    wait_for(lambda: host.json("get-vmintegrationservice", "a")[0]["PrimaryStatusDescription"] == "OK")
    services = {s["Name"]: s for s in host.json("get-vmintegrationservice", "a")}
    assert list(services) == ["Shutdown", "Time Synchronization", "Heartbeat",
                              "Key-Value Pair Exchange", "VSS", "Guest Service Interface"]
    assert [s["Enabled"] for s in services.values()] == [True, True, True, True, True, False]
    host.run("disable-vmintegrationservice", "-Name", "heartbeat,time*", "-VMName", "a")
    assert [s["Enabled"] for s in host.json("get-vmintegrationservice", "a")] == [
        True, False, False, True, True, False]
    host.run("enable-vmintegrationservice", "Heartbeat", "a")
    host.kill_daemon()
    assert [s["Enabled"] for s in host.json("get-vmintegrationservice", "a")] == [
        True, False, True, True, True, False]
    assert "no integration service" in host.run("enable-vmintegrationservice", "VSS2", "a", status=1)


def test_processor_and_memory(host):
    host.new_vm("a")
    host.run("set-vmprocessor", "a", "-Count", "4")
    host.run("set-vmmemory", "a", "-StartupBytes", "4GB")
    assert host.json("get-vmprocessor", "a")[0]["Count"] == 4
    assert host.json("get-vmmemory", "a")[0]["Startup"] == 4 << 30


def memory_of(host):
    shown = host.json("get-vmmemory", "a")[0]
    return [shown[name] >> 20 for name in ("Minimum", "Startup", "Maximum")]


def test_dynamic_memory_settings(host):
    host.new_vm("a", "demand=1000")
    assert memory_of(host) == [512, 512, 1 << 20]
    host.run("set-vmmemory", "a", "-DynamicMemoryEnabled", "true", "-MinimumBytes", "128MB",
             "-MaximumBytes", "2GB", "-Buffer", 50, "-Priority", 80)
    shown = host.json("get-vmmemory", "a")[0]
    assert shown["DynamicMemoryEnabled"] and shown["Buffer"] == 50 and shown["Priority"] == 80
    assert "not between the minimum" in host.run("set-vm", "a", "-MemoryMinimumBytes", "1GB", status=1)
    host.run("start-vm", "a")
    # 1000 MB and half of it once more, as soon as the balancer looks.
    wait_for(lambda: host.vm("a")["MemoryAssigned"] == 1500 << 20)
    assert host.vm("a")["MemoryStatus"] == "OK" and host.vm("a")["MemoryDemand"] == 1000 << 20
    for refused in (("-DynamicMemoryEnabled", "false"), ("-StartupBytes", "1GB"),
                    ("-MinimumBytes", "256MB"), ("-MaximumBytes", "1GB")):
        assert "while it" in host.run("set-vmmemory", "a", *refused, status=1)
    host.run("set-vmmemory", "a", "-MinimumBytes", "64MB", "-MaximumBytes", "3GB", "-Buffer", 100)
    wait_for(lambda: host.vm("a")["MemoryAssigned"] == 2000 << 20)


def test_memory_of_a_running_static_vm(host):
    host.running_vm("a")
    host.run("set-vmmemory", "a", "-StartupBytes", "1GB")
    wait_for(lambda: host.vm("a")["MemoryAssigned"] == 1 << 30)
    host.running_vm("b", "nodriver")
    assert "no driver" in host.run("set-vm", "b", "-MemoryStartupBytes", "1GB", status=1)


def test_memory_that_is_not_there(host):
    """A VM starts, and grows, only if there is memory, or guests that need less than they have."""
    host.env["OYAKO_MEMORY_LIMIT"] = "2GB"
    host.new_vm("a", "demand=600")
    host.run("set-vmmemory", "a", "-DynamicMemoryEnabled", "true", "-StartupBytes", "1500MB",
             "-MinimumBytes", "128MB", "-MaximumBytes", "2GB")
    host.run("start-vm", "a")
    wait_for(lambda: host.vm("a")["MemoryAssigned"] == 720 << 20)
    host.running_vm("b")
    host.run("set-vmmemory", "b", "-StartupBytes", "1200MB")
    wait_for(lambda: host.vm("b")["MemoryAssigned"] == 1200 << 20)
    said = host.run("set-vmmemory", "b", "-StartupBytes", "2GB", status=1)
    assert "needs 848 MB more" in said and "128 MB" in said, said
    host.new_vm("c")
    said = host.run("start-vm", "c", status=1)
    assert "needs 512 MB" in said and "OYAKO_MEMORY_LIMIT" in said, said
    assert host.vm("c")["State"] == "Off"
    host.run("stop-vm", "b", "-TurnOff", "-Force")
    host.run("start-vm", "c")


def test_worker_claims_memory_that_it_can_not_have(host):
    """Whoever got hold of a worker takes no memory from the others by that."""
    host.env["OYAKO_MEMORY_LIMIT"] = "2GB"
    host.running_vm("a", "claims=%d" % (8 << 20))
    wait_for(lambda: host.vm("a")["MemoryAssigned"] == 8 << 40)
    host.running_vm("b")
    host.running_vm("c")


def test_host_and_switch(host):
    shown = host.json("get-vmhost")[0]
    assert shown["LogicalProcessorCount"] == os.cpu_count() and shown["BackendReason"]
    assert shown["MacAddressMinimum"].startswith("00155D")
    assert host.json("get-vmswitch", "def*")[0]["SwitchType"] == "NAT"
    assert "no virtual switch" in host.run("get-vmswitch", "LAN", status=1)


def test_events(host):
    host.new_vm("a")
    host.new_vm("b")
    host.run("remove-vm", "a", "-Force")
    events = host.json("get-vmevent", "a")
    assert [e["Event"] for e in events] == ["vm-removed", "vm-created"]
    assert [e["Event"] for e in host.json("get-vmevent", "a", "-Oldest")] == [
        "vm-created", "vm-removed"]
    assert len(host.json("get-vmevent", "-MaxEvents", "2")) == 2
    assert host.json("get-vmevent", "-Level", "Error") == []


def test_event_log_is_rotated_and_survives_a_torn_line(host):
    host.new_vm("a")
    log = os.path.join(host.state, "events", "events.jsonl")
    with open(log, "a") as f:
        f.write('{"TimeCreated":"2026-01-01T00:00:00Z","Event":"torn')
    host.kill_daemon()
    with open(log, "a") as f:
        f.write("\n")
        line = '{"TimeCreated":"2026-01-01T00:00:00Z","Event":"filler","Message":"%s"}\n' % ("x" * 900)
        f.write(line * 4500)
    host.run("rename-vm", "a", "b")
    for _ in range(3):
        host.run("set-vm", "b", "-Notes", "n" * 3000)
    assert host.json("get-vmevent", "a")[-1]["Event"] == "vm-created"
    host.kill_daemon()
    assert host.json("get-vmevent", "a")[-1]["Event"] == "vm-created"


def test_passthru(host):
    host.new_vm("a")
    assert host.run("start-vm", "a") == ""
    assert "Running" in host.run("restart-vm", "a", "-Passthru")
    assert json.loads(host.run("suspend-vm", "a", "--json"))[0]["State"] == "Paused"


def test_help(host):
    text = host.run("help")
    names = re.findall(r"^  ([a-z-]+) {2,}", text, re.M)
    assert "new-vm" in names and len(names) > 30
    for name in names:
        if name.startswith("--"):
            continue
        text = host.run("help", name)
        assert "SYNTAX" in text and "EXAMPLES" in text
        assert host.run(name, "-?") == text or name == "help"
    assert "did you mean" in host.run("help", "get-vmm", status=1)
    assert not os.path.exists(host.socket)


def test_examples_of_the_table_are_right(host):
    """Each example must at least be a command line that the parser takes."""
    env = dict(host.env, PATH=os.path.dirname(host.command()[0]) + ":" + host.env["PATH"])
    for command in host.json("get-command"):
        examples = host.run("help", command["Name"]).partition("EXAMPLES\n")[2]
        for line in examples.splitlines():
            if not line.startswith("  oyako "):
                continue
            line = line.replace("GB", "MB")  # fixed disks take all their space
            done = subprocess.run(["bash", "-o", "pipefail", "-c", line], env=env, cwd=host.folder,
                                  text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE)
            assert done.returncode != 2, line + done.stderr


def test_completion(host):
    def candidates(*words):
        return host.run("__complete", *words).splitlines()

    assert "start-vm" in candidates("sta") and candidates("sta") == ["start-vm"]
    assert "-LinuxKernelPath" in candidates("new-vm", "-Linux")
    assert candidates("new-vm", "-Backend", "") == ["auto", "kvm", "soft", "soft-interpreter", "soft-lockstep"]
    assert candidates("new-vm", "-VHDPath", "") == [":file"]
    assert candidates("start-vm", "") == []  # no daemon is started for this
    host.new_vm("web 1")
    host.new_vm("db")
    assert candidates("start-vm", "") == ["db", "web 1"]
    assert candidates("stop-vm", "-Name", "w") == ["web 1"]
    assert candidates("new-vm", "-SwitchName", "") == ["Default Switch"]
    assert candidates("help", "get-vmh") == ["get-vmharddiskdrive", "get-vmhost", "get-vmhostsupportedversion",
                                             "get-vmhostnumanode"]
    script = host.run("completion", "bash")
    shell = script + '\nPATH=%s:$PATH\nCOMP_WORDS=(oyako start-vm we); COMP_CWORD=2; _oyako; ' \
        'printf "%%s\\n" "${COMPREPLY[@]}"' % os.path.dirname(host.command()[0])
    done = subprocess.run(["bash", "-c", shell], env=host.env, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "web\\ 1\n"
    assert "compdef" in host.run("completion", "zsh") and "complete -c" in host.run("completion", "fish")


def test_manual_pages(host):
    folder = os.path.join(host.folder, "man")
    os.mkdir(folder)
    host.run("__man", folder)
    assert len(os.listdir(folder)) == len(host.json("get-command")) + 1
    page = open(os.path.join(folder, "oyako-new-vm.1")).read()
    assert "MemoryStartupBytes" in page and page.startswith(".TH")
    # Nothing of our texts is taken for a request.
    known = {".TH", ".SH", ".TP", ".B", ".BR", ".br", ".nf", ".fi"}
    for name in os.listdir(folder):
        for line in open(os.path.join(folder, name)):
            assert not line.startswith(".") or line.split()[0] in known, line


def test_status_document_is_current(host):
    with open(os.path.join(TOP, "docs", "cmdlet-status.md")) as f:
        assert f.read() == host.run("__status"), "run tools/cmdlet-status"
