"""What goes to programs and services in a guest, which the fake worker plays."""
import json
import os
import re
import signal
import socket
import subprocess
import threading

import pytest

from conftest import PATIENCE, Connection, console, wait_for

SERVICE = "00001388-facb-11e6-bd58-64006a7986d3"  # port 5000


def test_socket_to_the_guest(host):
    host.running_vm("a")
    done = subprocess.run(host.command("connect-vmsocket", "a", 5000), env=host.env, input=b"word " * 100000,
                          stdout=subprocess.PIPE, timeout=PATIENCE)
    assert done.returncode == 0 and done.stdout == b"WORD " * 100000
    assert subprocess.run(host.command("connect-vmsocket", "a", SERVICE), env=host.env, input=b"x",
                          stdout=subprocess.PIPE, timeout=PATIENCE).stdout == b"X"
    assert "nobody in the guest listens there" in host.run("connect-vmsocket", "a", 9, status=1)
    for wrong in ("-1", "port", "4294967295", "70000000000", "5000x"):
        assert "neither a port nor a GUID" in host.run("connect-vmsocket", "a", "-Service:" + wrong, status=1)
    assert "no virtual machine" in host.run("connect-vmsocket", "b", 5000, status=1)
    host.run("stop-vm", "a", "-TurnOff")
    assert "not running" in host.run("connect-vmsocket", "a", 5000, status=1)


def test_enhanced_session(host):
    """RDP clients come to a port of the host; in the guest something listens on port 3389."""
    host.running_vm("a")
    session = ("connect-vm", "a", "-EnhancedSession")
    assert "over VMBus, which is for Windows" in host.run(*session, status=1)
    host.run("set-vm", "a", "-EnhancedSessionTransportType", "hvsocket")
    assert host.vm("a")["EnhancedSessionTransportType"] == "HvSocket"
    assert "is no address and port" in host.run(*session, "-ListenAddress", "somewhere:rdp", status=1)
    assert "goes with -EnhancedSession" in host.run("connect-vm", "a", "-ListenAddress", ":0", status=1)
    door = subprocess.Popen(host.command(*session), env=host.env, stdout=subprocess.PIPE, text=True)
    address = re.search(r"'a' at (127\.0\.0\.1):(\d+); ", door.stdout.readline()).groups()
    first, second = (socket.create_connection(address, PATIENCE) for _ in range(2))
    second.sendall(b"second")
    first.sendall(b"first " * 50000)
    first.shutdown(socket.SHUT_WR)
    assert second.recv(100) == b"SECOND"
    assert b"".join(iter(lambda: first.recv(65536), b"")) == b"FIRST " * 50000
    host.run("set-vmhost", "-EnableEnhancedSessionMode", "$false")
    assert host.json("get-vmhost")[0]["EnableEnhancedSessionMode"] is False
    assert "this host has no enhanced sessions" in host.run(*session, status=1)
    host.kill_daemon()
    assert "this host has no enhanced sessions" in host.run(*session, status=1)
    host.run("set-vmhost", "-EnableEnhancedSessionMode", "$true")
    taken = "listening on 127.0.0.1 port " + address[1]
    assert taken in host.run(*session, "-ListenAddress", ":" + address[1], status=1)
    door.send_signal(signal.SIGINT)
    assert door.wait(PATIENCE) == 0
    assert second.recv(100) == b""
    host.run("stop-vm", "a", "-TurnOff")
    assert "not running" in host.run(*session, status=1)


def test_socket_of_the_api(host):
    host.running_vm("a")
    assert host.http("GET", "/v1/socket/a?service=5000")[0] == 426
    upgrade = {"Connection": "Upgrade", "Upgrade": "oyako-socket"}
    assert host.http("GET", "/v1/socket/a", headers=upgrade)[1]["error"]["code"] == "invalid"
    assert host.http("GET", "/v1/socket/a?service=9", headers=upgrade)[1]["error"]["code"] == "timeout"
    # A client that leaves while it waits; the service goes on.
    connection = Connection(host.socket)
    connection.request("GET", "/v1/socket/a?service=5000", headers=upgrade)
    connection.close()
    assert host.vm("a")["State"] == "Running"


def test_connections_outlive_the_service(host):
    host.running_vm("a")
    open_one = subprocess.Popen(host.command("connect-vmsocket", "a", 5000), env=host.env,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    open_one.stdin.write(b"a")
    open_one.stdin.flush()
    assert open_one.stdout.read(1) == b"A"
    host.kill_daemon()
    open_one.stdin.write(b"b")
    open_one.stdin.close()
    assert open_one.stdout.read() == b"B"
    assert open_one.wait(PATIENCE) == 0


def test_socket_of_the_guest(host, tmp_path):
    path = str(tmp_path / "service")
    host.new_vm("a", "ask=" + SERVICE)
    host.run("start-vm", "a")
    wait_for(lambda: "refused" in console(host))
    host.run("stop-vm", "a", "-TurnOff")
    host.run("add-vmguestcommunicationservice", "a", "-Service", 5000, "-Path", path, "-Name", "Log")
    assert "already" in host.run("add-vmguestcommunicationservice", "a", SERVICE, path, status=1)
    listed = host.json("get-vmguestcommunicationservice", "a")[0]
    assert (listed["Name"], listed["Port"], listed["ServiceId"], listed["Path"]) == ("Log", 5000, SERVICE, path)
    # Nobody listens on the host.
    host.run("start-vm", "a")
    wait_for(lambda: "refused" in console(host))
    host.run("stop-vm", "a", "-TurnOff")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        got = []

        def program():
            connection, _ = listener.accept()
            with connection:
                got.append(connection.recv(100))
                connection.sendall(b"welcome")
        thread = threading.Thread(target=program)
        thread.start()
        host.run("start-vm", "a")
        thread.join(PATIENCE)
        assert got == [b"hello host"]
        wait_for(lambda: "host says welcome" in console(host))
    host.kill_daemon()
    assert len(host.json("get-vmguestcommunicationservice", "a")) == 1
    host.run("remove-vmguestcommunicationservice", "a", 5000)
    assert host.json("get-vmguestcommunicationservice", "*") == []
    assert "no communication service" in host.run("remove-vmguestcommunicationservice", "a", 5000, status=1)


def test_copy_file(host, tmp_path):
    source = tmp_path / "data.txt"
    source.write_text("abcdef")
    host.running_vm("a")
    assert "disabled" in host.run("copy-vmfile", "a", source, "/tmp/", "Host", status=1)
    host.run("enable-vmintegrationservice", "Guest Service Interface", "a")
    host.run("copy-vmfile", "a", source, "/tmp/x/", "Host")
    host.run("copy-vmfile", "a", source, "/name", "Host")
    assert "there already" in host.run("copy-vmfile", "a", source, "/tmp/there", "Host", status=1)
    host.run("copy-vmfile", "a", source, "/tmp/there", "Host", "-Force")
    assert "absolute" in host.run("copy-vmfile", "a", source, "tmp", "Host", status=1)
    refused = host.run("copy-vmfile", "a", "/etc/motd", tmp_path, "Guest", status=1)
    assert "only to the guest" in refused and "copy-item '/etc/motd' '%s' -FromSession 'a'" % tmp_path in refused
    assert "No such file" in host.run("copy-vmfile", "a", tmp_path / "none", "/tmp/", "Host", status=1)
    said = console(host)
    for line in (["/tmp/x/", "data.txt", "abcdef"], ["/", "name", "abcdef"], ["/tmp/", "there", "abcdef"]):
        assert json.dumps(line) in said
    status, answer = host.http("POST", "/v1/cmdlet/copy-vmfile", json.dumps(
        {"Name": "a", "SourcePath": str(source), "DestinationPath": "/x", "FileSource": "Host"}),
        {"Prefer": "respond-async"})
    assert status in (200, 202)


def test_pairs_and_addresses(host):
    host.running_vm("a")
    host.run("set-vmkeyvaluepair", "a", "Role", "front end")
    assert [(p["Key"], p["Value"]) for p in host.json("get-vmkeyvaluepair", "a", "External")] == [
        ("Role", "front end")]
    host.run("remove-vmkeyvaluepair", "a", "Role")
    assert "no such thing" in host.run("remove-vmkeyvaluepair", "a", "Role", status=1)
    assert host.json("get-vmkeyvaluepair", "a")[0]["Value"] == "guest"
    host.run("set-vmguestnetworkadapter", "a", "-IPAddress", "10.0.0.2,fd00::2", "-Subnet", "255.0.0.0,64")
    host.run("set-vmguestnetworkadapter", "a", "-DHCP")
    said = console(host)
    assert '"addresses": "10.0.0.2;fd00::2", "subnets": "255.0.0.0;64"' in said
    assert '"dhcp": true' in said


def test_direct_needs_somebody_to_sign_in(host):
    host.running_vm("a")
    none = {"start_new_session": True}  # no terminal to ask on
    assert "a password is needed" in host.run("invoke-command", "a", "id", status=255, **none)
    assert "a password is needed" in host.run("enter-pssession", "a", status=255, **none)
    empty = os.path.join(host.folder, "empty")
    open(empty, "w").close()
    assert "empty password" in host.run("invoke-command", "a", "id", "-PasswordFilePath", empty, status=255)
    assert "no virtual machine" in host.run("invoke-command", "b", "id", "-PasswordFilePath", empty, status=255)
    assert host.http("POST", "/v1/refused/a", '{"user":"eve"}')[0] == 200
    assert host.http("POST", "/v1/refused/a", '{"user":5}')[0] == 400
    event = host.json("get-vmevent", "a", "-Level", "Warning")[0]
    assert event["Event"] == "sign-in-refused" and event["Data"] == {"user": "eve", "count": 1}


@pytest.mark.parametrize("says", [b"H", b"H\0\0\0\xff\xff\xff\xff", b"H\0\0\0\0\0\0\0X\0\0\0\0\0\0\0",
                                  b"H\0\0\0\1\0\0\0001D\0\0\0\5\0\0\0bad\x1b[", b""])
def test_an_agent_that_is_none(host, says):
    """Whatever the guest sends is an error of one line."""
    host.running_vm("a", "agent=" + says.hex())
    password = os.path.join(host.folder, "password")
    with open(password, "w") as f:
        f.write("secret\n")
    fake = subprocess.run(host.command("invoke-command", "a", "id", "-PasswordFilePath", password,
                                       "-Transport", "Agent"), env=host.env, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE)
    assert fake.returncode == 255 and fake.stderr.count(b"\n") == 1 and b"\x1b" not in fake.stderr
