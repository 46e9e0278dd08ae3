"""VMBus sockets: programs of the host and of the guest (AF_VSOCK, the stock hv_sock driver) talk without a network.

OYAKO_LONG=1 sends 1 GiB instead of 64 MiB.
"""
import hashlib
import os
import socket
import subprocess
import threading
import time

import pytest

from conftest import BUILD, LONG, kernel_of, wait_for

pytestmark = pytest.mark.rig

MEGABYTES = 1024 if LONG else 64
VSOCK = os.path.join(BUILD, "tests", "guest", "vsock")
LISTEN = """
vsock listen 7 cat &
vsock listen 8 sh -c 'sha256sum | cut -d" " -f1' &
vsock listen 9 sh -c 'cat >/dev/null; poweroff -f' &
vsock listen 10 sh &
while true; do sleep 1; done
"""


@pytest.fixture
def guest(host, tmp_path):
    """Starts a guest with the listeners above; returns when they are there."""
    def start(kernel, processors=1):
        initrd = kernel.initrd_with(str(tmp_path), LISTEN, [(VSOCK, "/bin/vsock")])
        host.new_vm(kernel.image, "t", initrd=initrd, processors=processors,
                    cmdline="console=ttyS0 panic=-1 cryptomgr.notests")
        host.run("start-vm", "-Name", "t")
        assert wait_for(lambda: ask(host, 7, b"there?") == b"there?", 120)
    return start


def ask(host, port, data, vm="t"):
    """What a program in the guest answers to data; None: nobody listens there."""
    done = subprocess.run(host.command("connect-vmsocket", vm, port), env=host.env, input=data,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=1800)
    return done.stdout if done.returncode == 0 else None


def shell(host, script):
    return ask(host, 10, script.encode()).decode()


def noise(megabytes):
    block = os.urandom(1 << 20)
    return b"".join(hashlib.sha256(i.to_bytes(4, "little")).digest() + block[32:]
                    for i in range(megabytes))


@pytest.mark.parametrize("flavour", ["cloud", "cloud-backports"])
def test_stream_is_intact(host, guest, flavour):
    guest(kernel_of(flavour), processors=2)
    data = noise(MEGABYTES)
    began = time.monotonic()
    assert ask(host, 7, data) == data  # both directions at once
    print("%d MiB there and back in %.1f s" % (MEGABYTES, time.monotonic() - began))
    # What the guest has not read when the host's program is gone gets through, too.
    part = data[:3 << 20]
    assert ask(host, 8, part).decode().strip() == hashlib.sha256(part).hexdigest()
    log = shell(host, "dmesg -r")
    assert "WARNING" not in log and "BUG" not in log, log


def test_many_connections(host, guest, kernel):
    guest(kernel)
    results = {}

    def one(i):
        data = b"%d " % i * 20000
        results[i] = ask(host, 7, data) == data
    for round_ in range(2):
        threads = [threading.Thread(target=one, args=(round_ * 40 + i,)) for i in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(results.values()) and len(results) == 80, results
    # Nothing is left over in the guest.
    assert wait_for(lambda: int(shell(host, "ls /sys/bus/vmbus/devices | wc -l")) < 15, 30)


def test_nobody_listens(host, guest, kernel):
    guest(kernel)
    done = host.run("connect-vmsocket", "t", 4444, check=False)
    assert done.returncode == 1 and "nobody in the guest listens there" in done.stderr
    done = host.run("connect-vmsocket", "t", "port", check=False)
    assert done.returncode == 1 and "neither a port nor a GUID" in done.stderr


def test_guest_connects_to_the_host(host, guest, kernel, tmp_path):
    guest(kernel)
    path = str(tmp_path / "program.sock")
    got = []

    def program(listener):
        while True:
            connection, _ = listener.accept()
            with connection:
                received = b""
                while data := connection.recv(65536):
                    received += data
                if received == b"stop\n":
                    return
                got.append(received)
                connection.sendall(b"%d bytes\n" % len(received))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=program, args=(listener,))
        thread.start()
        connect = "head -c 3000000 /dev/zero | vsock connect 5000 2>&1"
        # Who is not let in waits in vain (Linux does not look at the refusal).
        assert "timed out" in shell(host, connect)
        host.run("add-vmguestcommunicationservice", "t", 5000, path, "-Name", "Counter")
        listed = host.json("get-vmguestcommunicationservice", "t")
        assert [(s["Name"], s["Port"], s["Path"]) for s in listed] == [("Counter", 5000, path)]
        assert shell(host, connect) == "3000000 bytes\n"
        assert shell(host, "for i in 1 2 3 4 5 6 7 8 9 10; do echo $i | vsock connect 5000; done"
                     ) == "2 bytes\n" * 9 + "3 bytes\n"
        shell(host, "echo stop | vsock connect 5000")
        thread.join()
        assert len(got) == 11
        host.run("remove-vmguestcommunicationservice", "t", 5000)
        assert "timed out" in shell(host, connect)


def test_connections_end_with_the_guest(host, guest, kernel):
    guest(kernel)
    open_one = subprocess.Popen(host.command("connect-vmsocket", "t", 7), env=host.env,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    open_one.stdin.write(b"x")
    open_one.stdin.flush()
    assert open_one.stdout.read(1) == b"x"
    # The connections are the worker's: the service may be restarted.
    host.run("restart-vm", "t", "-Force")
    assert open_one.stdout.read() == b""
    open_one.stdin.close()
    open_one.wait()
    assert wait_for(lambda: ask(host, 7, b"again") == b"again", 120)
    ask(host, 9, b"")
    assert wait_for(lambda: host.vm("t")["State"] == "Off", 60)
    done = host.run("connect-vmsocket", "t", 7, check=False)
    assert done.returncode == 1 and "not running" in done.stderr


def test_connections_end_with_a_saved_state(host, guest, kernel):
    """A guest that goes on from a saved state hears that its connections are gone, and makes new ones."""
    guest(kernel)
    open_one = subprocess.Popen(host.command("connect-vmsocket", "t", 10), env=host.env,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    open_one.stdin.write(b"trap '' PIPE; echo here; cat >/dev/null; echo gone >/tmp/heard\n")
    open_one.stdin.flush()
    assert open_one.stdout.readline() == b"here\n"
    host.run("save-vm", "t", timeout=300)
    assert open_one.stdout.read() == b""
    open_one.stdin.close()
    open_one.wait()
    host.run("start-vm", "t")
    assert wait_for(lambda: ask(host, 7, b"again") == b"again", 120)
    assert wait_for(lambda: "gone" in shell(host, "cat /tmp/heard"), 30)
    assert "WARNING" not in shell(host, "dmesg -r")


def test_connections_live_through_a_checkpoint(host, guest, kernel):
    """A standard checkpoint is taken amid a stream, which loses and doubles nothing; applied, the guest hears that the
    connection of then is gone, and makes new ones."""
    guest(kernel)
    host.run("set-vm", "t", "-CheckpointType", "Standard")
    stream = subprocess.Popen(host.command("connect-vmsocket", "t", 7), env=host.env, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE)
    back = hashlib.sha256()

    def read():
        while data := stream.stdout.read(65536):
            back.update(data)
    reading = threading.Thread(target=read)
    reading.start()
    sent = hashlib.sha256()

    def send():
        data = os.urandom(65536)
        sent.update(data)
        stream.stdin.write(data)
    send()
    taking = subprocess.Popen(host.command("checkpoint-vm", "t", "-SnapshotName", "amid"), env=host.env)
    while taking.poll() is None:
        send()
    send()
    stream.stdin.close()
    reading.join()
    assert taking.returncode == 0 and stream.wait() == 0
    assert back.digest() == sent.digest()
    host.run("restore-vmsnapshot", "amid", "t", timeout=300)
    if host.vm("t")["State"] != "Running":
        host.run("start-vm", "t")
    assert wait_for(lambda: ask(host, 7, b"again") == b"again", 120)
    assert "WARNING" not in shell(host, "dmesg -r")
