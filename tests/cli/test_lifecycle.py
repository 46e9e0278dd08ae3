import ctypes
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

from conftest import PATIENCE, is_alive, wait_for

SYS_PIDFD_GETFD = 438


def test_from_new_to_removed(host):
    table = host.new_vm("web", "", "-MemoryStartupBytes", "1GB", "-ProcessorCount", "2")
    assert table.splitlines()[0].split() == ["Name", "State", "CPUUsage(%)", "MemoryAssigned(M)",
                                             "Uptime", "Status", "Version"]
    vm = host.vm("web")
    assert (vm["State"], vm["MemoryStartup"], vm["ProcessorCount"], vm["Generation"]) == (
        "Off", 1 << 30, 2, 2)
    assert host.run("start-vm", "WEB") == ""
    vm = host.vm("web")
    assert vm["State"] == "Running" and vm["MemoryAssigned"] == 1 << 30 and vm["Uptime"] > 0
    assert vm["Backend"] == "soft" and vm["GuestOperatingSystem"] == "Debian GNU/Linux 12"
    assert vm["IPAddresses"] == ["10.0.2.15", "fe80::1", "fec0::1"]
    wait_for(lambda: host.vm("web")["Heartbeat"] == "OK")
    host.run("stop-vm", "-Name", "web")
    vm = host.vm("web")
    assert vm["State"] == "Off" and vm["LastStopCode"] == "guest-shutdown"
    assert "shut down" in vm["LastStopReason"]
    folder = host.vm_folder("web")
    assert os.path.exists(os.path.join(folder, "vm.json"))
    host.run("remove-vm", "web", "-Force")
    assert host.json("get-vm") == [] and not os.path.exists(folder)
    assert host.runtime_folders() == []


def test_list_shows_what_the_guest_says_without_steering_the_terminal(host):
    host.running_vm("a")
    text = host.run("get-vm", "a", "-FormatList")
    assert "GuestHostName" in text and "fake?[31m.example" in text and "\x1b" not in text
    assert "10.0.2.15" in text and "it is a fake" in text


def test_several_at_once_and_wildcards(host):
    for name in ("web1", "web2", "db"):
        host.new_vm(name)
    host.run("start-vm", "web*,db")
    assert {vm["Name"]: vm["State"] for vm in host.json("get-vm")} == {
        "db": "Running", "web1": "Running", "web2": "Running"}
    assert [vm["Name"] for vm in host.json("get-vm", "-Name", "WEB?")] == ["web1", "web2"]
    host.run("stop-vm", "*", "-TurnOff")
    assert {vm["LastStopCode"] for vm in host.json("get-vm")} == {"turned-off"}
    assert "there is no virtual machine" in host.run("stop-vm", "nosuch", status=1)
    assert host.run("get-vm", "no*") == ""
    error = host.run("start-vm", "db,nosuch", status=1)
    assert "'nosuch'" in error and host.vm("db")["State"] == "Running"


def test_wrong_states_are_refused(host):
    host.new_vm("a")
    assert "Off" in host.run("suspend-vm", "a", status=1)
    host.run("start-vm", "a")
    host.run("start-vm", "a")  # as Hyper-V: no error
    assert "not off" in host.run("remove-vm", "a", "-Force", status=1)
    assert "only while it is off" in host.run("set-vm", "a", "-ProcessorCount", "2", status=1)
    host.run("set-vm", "a", "-Notes", "may change")
    assert host.vm("a")["Notes"] == "may change"
    host.run("stop-vm", "a", "-TurnOff")
    host.run("stop-vm", "a")
    assert "confirmation" in host.run("remove-vm", "a", status=1)
    host.run("remove-vm", "a", "-Confirm:$false")


def test_a_name_that_is_taken(host):
    host.new_vm("a")
    assert "already" in host.run("new-vm", "-Name", "A", status=1)
    host.new_vm("b")
    assert "already" in host.run("rename-vm", "b", "a", status=1)
    host.run("rename-vm", "b", "B2")
    assert [vm["Name"] for vm in host.json("get-vm")] == ["a", "B2"]


def test_pause_and_resume(host):
    host.running_vm("a")
    host.run("suspend-vm", "a")
    assert host.vm("a")["State"] == "Paused"
    host.run("resume-vm", "a")
    assert host.vm("a")["State"] == "Running"
    host.run("suspend-vm", "a")
    host.run("stop-vm", "a", "-TurnOff")
    assert host.vm("a")["State"] == "Off"


def test_restart(host):
    host.running_vm("a")
    host.run("restart-vm", "a")
    host.run("restart-vm", "a", "-Type", "Reboot", "-Wait", "-For", "Heartbeat")
    assert host.vm("a")["Heartbeat"] == "OK"
    kinds = [event["Event"] for event in host.json("get-vmevent", "a")]
    assert "vm-reset" in kinds and "vm-reset-by-guest" in kinds


def test_restart_waits_for_an_address(host):
    host.running_vm("a", "kvpdelay=3")
    assert "in time" in host.run("restart-vm", "a", "-Wait", "-For", "IPAddress", "-Timeout", "1",
                                 status=1)
    host.run("restart-vm", "a", "-Wait", "-For", "IPAddress")
    assert host.vm("a")["IPAddresses"]
    # A guest that goes off instead does not come back.
    host.run("set-vm", "a", "-LinuxCommandLine", "off=1 kvpdelay=60")
    host.run("stop-vm", "a", "-TurnOff")
    host.run("start-vm", "a")
    assert "went off" in host.run("restart-vm", "a", "-Wait", "-For", "IPAddress", status=1)


def test_a_worker_that_is_stopped_stops_nobody(host):
    pid = host.running_vm("a")["WorkerProcessId"]
    host.new_vm("b")
    os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    assert {vm["Name"]: vm["State"] for vm in host.json("get-vm")} == {"a": "Running", "b": "Off"}
    assert time.monotonic() - start < 5
    host.run("start-vm", "b")
    host.run("stop-vm", "a", "-TurnOff")
    assert host.vm("a")["State"] == "Off" and not is_alive(pid)


def test_a_chatty_worker_fills_no_disk(host):
    vm = host.running_vm("a", "chatty")
    log = os.path.join(host.runtime, "vm", vm["VMId"], "worker.log")
    assert os.path.getsize(log) > 1 << 20
    wait_for(lambda: os.path.getsize(log) < 1 << 20)


def test_a_start_that_the_worker_refuses(host):
    host.new_vm("a", "fail=this_CPU_is_too_old")
    error = host.run("start-vm", "a", status=1)
    assert "this CPU is too old" in error
    vm = host.vm("a")
    assert vm["State"] == "Off" and vm["LastStopCode"] == "start-failed"
    assert "too old" in vm["LastStopReason"] and host.runtime_folders() == []
    assert host.json("get-vmevent", "a")[0]["Event"] == "vm-start-failed"
    assert "too old" in host.run("start-vm", "a", "-Console", status=1)
    host.run("set-vm", "a", "-LinuxCommandLine", "fine")
    host.run("start-vm", "a")


def test_a_worker_that_dies_while_it_starts(host):
    host.new_vm("a", "die")
    error = host.run("start-vm", "a", status=1)
    assert "ended with status 3" in error and "dying as told" in error


def test_missing_files(host):
    host.new_vm("a")
    os.unlink(host.kernel)
    assert "opening the kernel" in host.run("start-vm", "a", status=1)
    host.run("set-vm", "a", "-LinuxKernelPath", host.folder)
    assert "is no file" in host.run("start-vm", "a", status=1)
    os.mkfifo(os.path.join(host.folder, "pipe"))
    host.run("set-vm", "a", "-LinuxKernelPath", "pipe")
    assert "is no file" in host.run("start-vm", "a", status=1)
    host.run("new-vm", "-Name", "b")
    assert "no firmware yet" in host.run("start-vm", "b", status=1)


def test_a_worker_program_that_is_not_there(host):
    host.env["OYAKO_WORKER"] = "/nonexistent/worker"
    host.new_vm("a")
    assert "/nonexistent/worker" in host.run("start-vm", "a", status=1)
    assert host.vm("a")["State"] == "Off" and host.runtime_folders() == []


def test_kvm_that_is_not_there(host):
    host.new_vm("a", "", "-Backend", "kvm")
    if host.json("get-vmhost")[0]["Backend"] == "kvm":
        return
    assert "kvm" in host.run("start-vm", "a", status=1)


def test_guest_that_powers_off_by_itself(host):
    host.running_vm("a", "off=0.3")
    wait_for(lambda: host.vm("a")["State"] == "Off")
    assert host.vm("a")["LastStopCode"] == "guest-shutdown"
    assert host.json("get-vmevent", "a")[0]["Id"] == 18508


def test_guest_crash(host):
    host.new_vm("a", "crash=0.2")
    error = host.run("start-vm", "a", "-Console", status=1)
    assert "crashed" in error
    vm = host.vm("a")
    assert vm["LastStopCode"] == "guest-crash"
    assert vm["GuestCrash"]["parameters"] == ["0x1", "0x2", "0x3", "0x4", "0x5"]
    assert "panic" in vm["GuestCrash"]["message"]
    assert any(event["Id"] == 18590 and "0x5" in event["Message"]
               for event in host.json("get-vmevent", "a"))


def test_shutdown_that_the_guest_can_not_do(host):
    host.running_vm("a", "noshutdown")
    error = host.run("stop-vm", "a", status=1)
    assert "shutdown service is not there" in error and "-TurnOff" in error
    assert host.vm("a")["State"] == "Running"
    host.run("stop-vm", "a", "-Force")
    assert host.vm("a")["State"] == "Off"


def test_shutdown_that_the_guest_refuses(host):
    host.running_vm("a", "refuse")
    error = host.run("stop-vm", "a", status=1)
    assert "the guest refused the request" in error and "-TurnOff" in error
    assert host.vm("a")["State"] == "Running"
    host.run("stop-vm", "a", "-Force")
    assert host.vm("a")["State"] == "Off"


def test_waiting_for_a_deaf_guest_can_be_interrupted(host):
    host.running_vm("a", "deaf")
    process = subprocess.Popen(host.command("stop-vm", "a"), env=host.env, stderr=subprocess.PIPE,
                               text=True)
    wait_for(lambda: host.vm("a")["State"] == "Stopping")
    process.send_signal(signal.SIGINT)
    assert "cancelled" in process.communicate(timeout=PATIENCE)[1] and process.returncode == 1
    host.run("stop-vm", "a", "-TurnOff")


def test_a_worker_that_does_not_end_is_killed(host):
    pid = host.running_vm("a", "hang")["WorkerProcessId"]
    host.run("stop-vm", "a", "-TurnOff")
    assert not is_alive(pid) and host.vm("a")["LastStopCode"] == "turned-off"


def test_turning_off_what_is_starting(host):
    host.new_vm("a", "slow=60")
    process = subprocess.Popen(host.command("start-vm", "a"), env=host.env, stderr=subprocess.PIPE,
                               text=True)
    wait_for(lambda: host.vm("a")["State"] == "Starting")
    host.run("stop-vm", "a", "-TurnOff")
    assert "turned off" in process.communicate(timeout=PATIENCE)[1] and process.returncode == 1
    assert host.vm("a")["State"] == "Off" and host.runtime_folders() == []


# ---- kill -9 ----


def test_killed_worker(host):
    vm = host.running_vm("a", "", "-SwitchName", "Default Switch")
    os.kill(vm["WorkerProcessId"], signal.SIGKILL)
    wait_for(lambda: host.vm("a")["State"] == "Off")
    vm = host.vm("a")
    assert vm["LastStopCode"] == "worker-error" and "signal 9" in vm["LastStopReason"]
    assert host.runtime_folders() == []
    assert host.json("get-vmevent", "a")[0]["Event"] == "vm-worker-failed"
    assert host.json("get-vmswitch")[0]["PortCount"] == 0
    host.run("start-vm", "a")
    assert host.vm("a")["State"] == "Running"


def test_killed_daemon(host):
    worker = host.running_vm("a", "", "-SwitchName", "Default Switch")["WorkerProcessId"]
    host.new_vm("b")
    first = host.daemon_pid()
    host.kill_daemon()
    assert is_alive(worker)
    vm = host.vm("a")
    assert host.daemon_pid() != first
    assert vm["State"] == "Running" and vm["WorkerProcessId"] == worker
    assert vm["Backend"] == "soft" and vm["Heartbeat"] in ("OK", "No Contact")
    assert host.vm("b")["State"] == "Off"
    host.run("suspend-vm", "a")
    host.kill_daemon()
    wait_for(lambda: host.vm("a")["State"] == "Paused")
    host.run("resume-vm", "a")
    host.run("stop-vm", "a")
    assert not is_alive(worker) and host.runtime_folders() == []
    host.run("start-vm", "a")


def switches(host):
    """Process ids of this host's switches."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/environ" % pid, "rb") as f:
                mine = ("XDG_RUNTIME_DIR=" + host.env["XDG_RUNTIME_DIR"]).encode() in f.read()
            with open("/proc/%s/cmdline" % pid, "rb") as f:
                if mine and b"switch" in f.read() and is_alive(int(pid)):
                    found.append(int(pid))
        except OSError:
            continue
    return found


def port_count(host):
    return host.json("get-vmswitch")[0]["PortCount"]


def test_a_new_daemon_finds_the_switch(host):
    host.running_vm("a", "", "-SwitchName", "Default Switch")
    (switch,) = switches(host)
    host.kill_daemon()
    wait_for(lambda: port_count(host) == 1)
    host.running_vm("b", "", "-SwitchName", "Default Switch")
    assert switches(host) == [switch]
    assert port_count(host) == 2
    host.run("stop-vm", "a")
    wait_for(lambda: port_count(host) == 1)
    host.kill_daemon()
    host.run("stop-vm", "b")
    wait_for(lambda: port_count(host) == 0)
    # Without daemon and ports there is no use in it.
    host.kill_daemon()
    wait_for(lambda: not is_alive(switch))
    host.run("start-vm", "a")
    assert len(switches(host)) == 1 and port_count(host) == 1


@pytest.mark.parametrize("with_daemon", [True, False])
def test_a_switch_that_dies_is_started_again(host, with_daemon):
    host.running_vm("a", "", "-SwitchName", "Default Switch")
    host.running_vm("b")
    (switch,) = switches(host)
    if not with_daemon:
        host.kill_daemon()
    os.kill(switch, signal.SIGKILL)
    wait_for(lambda: not is_alive(switch))
    wait_for(lambda: port_count(host) == 1)
    (other,) = switches(host)
    assert other != switch
    assert host.vm("a")["State"] == "Running"
    host.run("stop-vm", "a")
    wait_for(lambda: port_count(host) == 0)


def test_worker_killed_while_no_daemon_runs(host):
    worker = host.running_vm("a")["WorkerProcessId"]
    host.kill_daemon()
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: not is_alive(worker))
    vm = host.vm("a")
    assert vm["State"] == "Off" and "not running" in vm["LastStopReason"]
    assert host.runtime_folders() == []
    host.run("start-vm", "a")


def test_daemon_killed_while_a_vm_starts(host):
    host.new_vm("a", "slow=2")
    process = subprocess.Popen(host.command("start-vm", "a"), env=host.env, stderr=subprocess.PIPE)
    wait_for(lambda: host.vm("a")["State"] == "Starting")
    wait_for(lambda: os.path.exists(os.path.join(host.runtime, "vm", host.vm("a")["VMId"], "run.json")))
    host.kill_daemon()
    process.communicate(timeout=PATIENCE)
    wait_for(lambda: host.vm("a")["State"] == "Running")
    wait_for(lambda: host.vm("a")["Uptime"] > 2)
    host.run("stop-vm", "a")


def test_daemon_ends_on_a_signal_and_leaves_guests_running(host):
    worker = host.running_vm("a")["WorkerProcessId"]
    pid = host.daemon_pid()
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not is_alive(pid))
    assert is_alive(worker) and not os.path.exists(host.socket)
    assert host.vm("a")["State"] == "Running"


def test_daemon_ends_when_idle(host):
    host.env["OYAKO_STOP_IDLE_SECONDS"] = "1"
    host.new_vm("a", "off=3")
    pid = host.daemon_pid()
    wait_for(lambda: not is_alive(pid))
    host.run("start-vm", "a")
    pid = host.daemon_pid()
    time.sleep(2)
    assert is_alive(pid)  # it has a guest to look after
    wait_for(lambda: not is_alive(pid))
    assert host.vm("a")["LastStopCode"] == "guest-shutdown"


def test_many_command_lines_start_one_daemon(host):
    processes = [subprocess.Popen(host.command("get-vmhost", "--json"), env=host.env,
                                  stdout=subprocess.PIPE) for _ in range(12)]
    pids = {json.loads(process.communicate(timeout=PATIENCE)[0])[0]["ProcessId"]
            for process in processes}
    assert len(pids) == 1


def test_a_second_daemon_is_refused(host):
    host.new_vm("a")
    done = subprocess.run([os.path.join(os.path.dirname(host.command()[0]), "oyakod")],
                          env=host.env, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert done.returncode == 1 and "in use by oyakod, process" in done.stderr
    assert host.vm("a")["State"] == "Off"


def test_no_command_is_lost_when_the_idle_daemon_ends(host):
    """The shortest idle time there is: each command line meets a daemon that is about to end."""
    host.env["OYAKO_STOP_IDLE_SECONDS"] = "0"
    pids = set()
    for i in range(40):
        host.new_vm("vm%d" % i)
        pids.add(host.daemon_pid())
        time.sleep(0.013 * (i % 7))
    assert len(host.json("get-vm")) == 40


def start_as_systemd(host, listener):
    """oyakod with a socket that somebody else listens on, as systemd hands it over (sd_listen_fds(3))."""
    program = os.path.join(os.path.dirname(host.command()[0]), "oyakod")
    fd = listener.fileno()
    return subprocess.Popen(["bash", "-c", 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" 3<&%d' % fd, program], env=host.env,
                            pass_fds=[fd])


def test_socket_of_systemd_outlives_the_daemon(host):
    """A restart takes no connection away: who comes between two daemons waits in the socket for the next one."""
    os.makedirs(host.runtime, mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(host.socket)
        listener.listen(32)
        daemon = start_as_systemd(host, listener)
        worker = host.running_vm("a")["WorkerProcessId"]
        for _ in range(3):
            daemon.terminate()
            waiting = subprocess.Popen(host.command("get-vm", "--json"), env=host.env, stdout=subprocess.PIPE)
            assert daemon.wait(PATIENCE) == 0
            assert is_alive(worker) and os.path.exists(host.socket)
            daemon = start_as_systemd(host, listener)
            assert json.loads(waiting.communicate(timeout=PATIENCE)[0])[0]["State"] == "Running"
            assert host.vm("a")["WorkerProcessId"] == worker and host.daemon_pid() == daemon.pid
        daemon.terminate()
        assert daemon.wait(PATIENCE) == 0


def test_socket_of_another_daemon_stays(host):
    """Somebody has deleted the runtime folder, and another service listens in the new one."""
    host.new_vm("a")
    pid = host.daemon_pid()
    shutil.rmtree(host.runtime)
    os.makedirs(host.runtime, mode=0o700)
    with socket.socket(socket.AF_UNIX) as another:
        another.bind(host.socket)
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not is_alive(pid))
        assert os.path.exists(host.socket)


# ---- disks ----


def test_two_vms_can_not_write_one_disk(host):
    disk = os.path.join(host.folder, "disk.vhdx")
    host.run("new-vhd", "disk.vhdx", "10MB")
    host.new_vm("a", "", "-VHDPath", "disk.vhdx")
    host.new_vm("b", "", "-VHDPath", disk)
    host.run("start-vm", "a")
    assert "in use by virtual machine 'a'" in host.run("start-vm", "b", status=1)
    # The lock is the worker's: it outlives the daemon.
    host.kill_daemon()
    assert "in use by" in host.run("start-vm", "b", status=1)
    host.run("stop-vm", "a", "-TurnOff")
    host.run("start-vm", "b")


def borrowed_descriptor(pid, path):
    """The process's open file, which so is locked until we close it: as the kernel keeps it for what was begun."""
    folder = "/proc/%d/fd" % pid
    (number,) = [int(fd) for fd in os.listdir(folder) if os.readlink(os.path.join(folder, fd)) == path]
    process = os.pidfd_open(pid)
    try:
        fd = ctypes.CDLL(None, use_errno=True).syscall(SYS_PIDFD_GETFD, process, number, 0)
    finally:
        os.close(process)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return fd


@pytest.mark.parametrize("service_dies", [False, True])
def test_off_only_when_the_disks_are_free(host, service_dies):
    """What a killed worker had under way to its disks ends after it."""
    disk = os.path.join(host.folder, "disk.vhdx")
    host.run("new-vhd", "disk.vhdx", "10MB")
    worker = host.running_vm("a", "", "-VHDPath", disk)["WorkerProcessId"]
    fd = borrowed_descriptor(worker, disk)
    threading.Timer(1, os.close, [fd]).start()
    begun = time.monotonic()
    if service_dies:
        host.kill_daemon()
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: host.vm("a")["State"] == "Off")
    assert time.monotonic() - begun >= 1
    assert host.vm("a")["LastStopCode"] == "worker-error"
    host.run("start-vm", "a")


def test_readers_share_a_disk(host):
    iso = os.path.join(host.folder, "debian.iso")
    with open(iso, "wb") as f:
        f.truncate(1 << 20)
    for name in ("a", "b"):
        host.new_vm(name)
        host.run("add-vmdvddrive", "-VMName", name, "-Path", "debian.iso")
        host.run("start-vm", name)


def test_a_vm_folder_in_use_elsewhere(host):
    import fcntl
    import struct
    host.new_vm("a")
    with open(os.path.join(host.vm_folder("a"), "lock"), "w+") as lock:
        lock.write("another, process 1 on elsewhere\n")
        lock.flush()
        fcntl.fcntl(lock, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))  # F_OFD_SETLK
        assert "in use by another, process 1 on elsewhere" in host.run("start-vm", "a", status=1)
    host.run("start-vm", "a")


# ---- consoles ----


def test_console_on_pipes(host):
    host.new_vm("a", "say=first")
    process = subprocess.Popen(host.command("start-vm", "a", "-Console"), env=host.env,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(b"some text\noff\n")
    process.stdin.close()
    output = process.stdout.read()
    assert process.wait(timeout=PATIENCE) == 0
    assert output == b"hello from a\nfirst\nSOME TEXT\nOFF\n"


def test_console_of_a_guest_that_is_off_at_once(host):
    host.new_vm("a", "say=quick off=0")
    for _ in range(5):
        assert host.run("start-vm", "a", "-Console") == "hello from a\nquick\n"


def test_connect_vm_replays_and_ends_with_the_guest(host):
    host.running_vm("a", "say=before")
    process = subprocess.Popen(host.command("connect-vm", "-VMName", "a"), env=host.env,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"hello from a\n"
    assert process.stdout.readline() == b"before\n"
    # It does not depend on the daemon.
    host.kill_daemon()
    host.run("debug-vm", "a", "-InjectNonMaskableInterrupt", "-Force")
    assert process.stdout.readline() == b"NMI\n"
    host.run("stop-vm", "a")
    assert process.wait(timeout=PATIENCE) == 0
    assert "off" in host.run("connect-vm", "a", status=1)
    assert "no virtual machine" in host.run("connect-vm", "nosuch", status=1)


def test_connect_vm_says_when_the_worker_died(host):
    worker = host.running_vm("a")["WorkerProcessId"]
    process = subprocess.Popen(host.command("connect-vm", "a"), env=host.env,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    process.stdout.readline()
    os.kill(worker, signal.SIGKILL)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and b"signal 9" in error


def read_until(fd, what):
    text = b""
    deadline = time.monotonic() + PATIENCE
    while what not in text:
        assert time.monotonic() < deadline, text
        if select.select([fd], [], [], 1)[0]:
            text += os.read(fd, 4096)
    return text


def test_console_on_a_terminal(host):
    host.running_vm("a")
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(host.command()[0], host.command("connect-vm", "a"), host.env)
    assert b"Ctrl-]" in read_until(fd, b"hello from a\n")
    os.write(fd, b"\x03abc")  # Ctrl-C goes to the guest
    read_until(fd, b"ABC")
    os.write(fd, b"\x1d")
    assert os.waitpid(pid, 0)[1] == 0
    os.close(fd)
    assert host.vm("a")["State"] == "Running"


def test_save_and_start(host):
    host.running_vm("a")
    host.run("save-vm", "a")
    assert host.vm("a")["State"] == "Saved" and host.runtime_folders() == []
    host.kill_daemon()
    assert host.vm("a")["State"] == "Saved"
    host.run("start-vm", "a")
    assert host.vm("a")["State"] == "Running"
    host.run("stop-vm", "a", "-Save")
    assert host.vm("a")["State"] == "Saved"
    host.run("remove-vmsavedstate", "a")
    assert host.vm("a")["State"] == "Off"


def test_more_machines_than_a_range_of_addresses(host):
    """Each has its own address, also behind the 256 of the host's own range."""
    host.new_vm("vm-0")
    for i in range(1, 300):
        status, answer = host.http("POST", "/v1/cmdlet/new-vm", '{"Name":"vm-%d"}' % i)
        assert status == 200 and not answer["errors"], answer
    macs = {adapter["MacAddress"] for adapter in host.json("get-vmnetworkadapter", "*")}
    assert len(macs) == 300 and all(mac.replace(":", "").startswith("00155") for mac in macs)


def test_long_words_of_a_worker(host):
    """Texts are cut between characters, else nothing could show them."""
    for first in ("", "x", "xx"):
        host.new_vm("a" + first, "fail=%s%s" % (first, "\u89aa" * 300))
        assert host.run("start-vm", "a" + first, status=1).count("\u89aa") > 100
        stop = host.vm("a" + first)
        assert stop["LastStopCode"] == "start-failed" and "\u89aa" in stop["LastStopReason"]
        assert any("\u89aa" in e["Message"] for e in host.json("get-vmevent", "a" + first))
