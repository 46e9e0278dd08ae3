import json
import os
import socket
import subprocess
import threading
import time

from conftest import PATIENCE, TOP, Connection, wait_for


def test_requests(host):
    host.new_vm("a", "slow=1")
    status, answer = host.http("POST", "/v1/cmdlet/get-vm", json.dumps({"name": ["A"]}))
    assert status == 200 and answer["results"][0]["Name"] == "a" and answer["errors"] == []
    status, answer = host.http("POST", "/v1/cmdlet/Start-VM", '{"Name":"a"}',
                               {"Prefer": "respond-async"})
    assert status == 202 and answer["state"] == "running"
    path = "/v1/job/%d" % answer["job"]
    status, answer = host.http("GET", path + "?wait=20&version=%d" % answer["version"])
    assert status == 200 and answer["state"] == "done" and answer["results"][0]["State"] == "Running"
    status, answer = host.http("POST", "/v1/cmdlet/stop-vm", '{"Name":"a"}')
    assert status == 200 and answer["results"][0]["State"] == "Off"
    assert host.http("GET", "/v1/version")[1]["service"] == "oyakod"


def test_refusals(host):
    host.new_vm("a")

    def refused(method, path, body=None):
        status, answer = host.http(method, path, body)
        assert status >= 400
        return status, answer["error"]["code"]

    assert refused("POST", "/v1/cmdlet/get-vm", "{") == (400, "invalid")
    assert refused("POST", "/v1/cmdlet/get-vm", "[]") == (400, "invalid")
    assert refused("POST", "/v1/cmdlet/get-vm", '{"Name":5}') == (400, "invalid")
    assert refused("POST", "/v1/cmdlet/get-vm", '{"Name":[{}]}') == (400, "invalid")
    assert refused("POST", "/v1/cmdlet/get-vm", '{"Nmae":"x"}') == (400, "invalid")
    assert refused("POST", "/v1/cmdlet/new-vm", '{"ProcessorCount":1000}') == (400, "limit")
    assert refused("POST", "/v1/cmdlet/new-vm", '{"Path":"relative"}') == (400, "invalid")
    assert refused("POST", "/v1/cmdlet/nosuch", "{}") == (404, "not-found")
    assert refused("POST", "/v1/cmdlet/help", "{}") == (404, "not-found")
    assert refused("POST", "/v1/cmdlet/Move-VM", "{}") == (501, "unsupported")
    assert refused("POST", "/v1/cmdlet/../job/1", "{}") == (404, "not-found")
    assert refused("GET", "/") == (404, "not-found")
    assert refused("GET", "/v1/job/99") == (404, "not-found")
    assert refused("GET", "/v1/job/-1") == (404, "not-found")
    assert refused("GET", "/v1/job/99999999999999999999") == (404, "not-found")
    assert refused("PUT", "/v1/cmdlet/get-vm") == (404, "not-found")
    assert refused("GET", "/v1/console/a") == (426, "invalid")
    assert refused("POST", "/v1/cmdlet/get-vm", '{"Name":"%s"}' % ("x" * (1 << 20)))[0] == 413
    assert refused("POST", "/v1/cmdlet/get-vm",
                   json.dumps({"Name": ["x"] * 2000})) == (400, "limit")
    assert host.vm("a")["State"] == "Off"


def test_rubbish_on_the_socket(host):
    host.new_vm("a")
    for rubbish in (b"", b"\0" * 4096, b"GET\r\n\r\n", os.urandom(8192),
                    b"POST /v1/cmdlet/get-vm HTTP/1.1\r\nContent-Length: -5\r\n\r\n{}",
                    b"POST /v1/cmdlet/get-vm HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{",
                    b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n"):
        client = socket.socket(socket.AF_UNIX)
        client.connect(host.socket)
        try:
            client.sendall(rubbish)
            client.settimeout(0.2)
            client.recv(1000)
        except OSError:
            pass
        client.close()
    assert host.vm("a")["State"] == "Off"


def test_half_a_request_stops_nobody(host):
    host.new_vm("a")
    clients = []
    for _ in range(50):
        client = socket.socket(socket.AF_UNIX)
        client.connect(host.socket)
        client.sendall(b"POST /v1/cmdlet/get-vm HTTP/1.1\r\nHost: x\r\nContent-Le")
        clients.append(client)
    assert host.vm("a")["State"] == "Off"
    for client in clients:
        client.close()


def test_whoever_waits_may_go_away(host):
    host.running_vm("a", "deaf")
    connection = Connection(host.socket)
    connection.request("POST", "/v1/cmdlet/stop-vm", '{"Name":"a"}')
    wait_for(lambda: host.vm("a")["State"] == "Stopping")
    connection.close()
    host.run("stop-vm", "a", "-TurnOff")
    assert host.vm("a")["State"] == "Off"


def test_several_look_at_one_job(host):
    host.running_vm("a", "deaf")
    _, answer = host.http("POST", "/v1/cmdlet/stop-vm", '{"Name":"a"}', {"Prefer": "respond-async"})
    path = "/v1/job/%d" % answer["job"]
    done = []

    def look():
        answer = {"version": 0}
        while answer.get("state") != "done":
            answer = host.http("GET", path + "?wait=10&version=%d" % answer["version"])[1]
        done.append(answer)

    threads = [threading.Thread(target=look) for _ in range(5)]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    assert host.http("DELETE", path)[0] in (200, 202)
    for thread in threads:
        thread.join(PATIENCE)
    assert len(done) == 5 and done[0]["errors"][0]["code"] == "cancelled"


def test_another_user_is_refused(host):
    if os.geteuid() != 0:
        return
    host.new_vm("a")
    os.chmod(host.runtime, 0o777)
    os.chmod(host.socket, 0o777)
    for folder in (host.folder, os.path.dirname(host.runtime)):
        os.chmod(folder, 0o755)
    path = host.socket
    folders = []
    while len(path) > 1:
        path = os.path.dirname(path)
        folders.append((path, os.stat(path).st_mode & 0o777))
    try:
        for path, mode in folders:
            os.chmod(path, mode | 0o011)
        code = ("import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
                "s.sendall(b'GET /v1/version HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n');"
                "print(s.recv(4096).decode())")
        done = subprocess.run(["/usr/bin/python3", "-c", code, host.socket], user=65534, group=65534,
                              stdout=subprocess.PIPE, text=True, timeout=PATIENCE)
        assert " 403 " in done.stdout and "another user" in done.stdout
    finally:
        for path, mode in folders:
            os.chmod(path, mode)
    assert any(event["Event"] == "request-refused" for event in host.json("get-vmevent"))


def test_a_worker_that_talks_rubbish(host):
    vm = host.running_vm("a", "rubbish")
    assert host.vm("a")["State"] in ("Running", "Off")
    host.run("stop-vm", "a", "-TurnOff")
    assert host.vm("a")["State"] == "Off"


def test_a_vm_file_that_is_damaged(host):
    host.new_vm("a")
    host.new_vm("b")
    path = os.path.join(host.vm_folder("a"), "vm.json")
    good = open(path).read()
    for bad in ("", "{", '{"version":2}', good.replace('"version": 1', '"version": 9'),
                good.replace('"generation": 2', '"generation": "two"')):
        with open(path, "w") as f:
            f.write(bad)
        host.kill_daemon()
        assert [vm["Name"] for vm in host.json("get-vm")] == ["b"]
        assert host.json("get-vmevent")[1]["Event"] == "vm-unreadable" or any(
            e["Event"] == "vm-unreadable" for e in host.json("get-vmevent"))
        assert open(path).read() == bad
    with open(path, "w") as f:
        f.write(good)
    host.kill_daemon()
    assert len(host.json("get-vm")) == 2


def test_folders_are_private(host):
    host.new_vm("a")
    for folder in (host.state, host.runtime, host.vm_folder("a")):
        assert os.stat(folder).st_mode & 0o077 == 0


def test_runtime_folder_of_somebody_else(host):
    os.symlink("/tmp", host.runtime)
    assert "is not a folder of ours" in host.run("get-vm", status=1)


def test_long_paths(tmp_path):
    from conftest import Host
    folder = tmp_path / ("x" * 80) / ("y" * 80)
    os.makedirs(folder)
    host = Host(folder)
    try:
        host.new_vm("a", "off=0")
        assert "hello from a" in host.run("start-vm", "a", "-Console")
    finally:
        host.clean_up()
