"""The API over TLS: who is let in, what for, and what else comes to such a door."""
import http.client
import json
import os
import socket
import ssl
import subprocess
import time

import pytest

from conftest import PATIENCE, is_alive, wait_for


class Far:
    """The host once more, from elsewhere."""

    def __init__(self, host):
        self.host = host
        host.env["XDG_CONFIG_HOME"] = os.path.join(host.folder, "config")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.name = "127.0.0.1:%d" % self.port
        host.run("set-vmhost", "-ApiAddress", self.name)
        self.fingerprint = host.json("get-vmhost")[0]["ApiFingerprint"]
        self.folder = os.path.join(host.env["XDG_CONFIG_HOME"], "oyako", "hosts", self.name)
        os.makedirs(self.folder)

    def keep(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w") as f:
            f.write(text + "\n")
        os.chmod(path, 0o600)

    def trust(self):
        self.keep("fingerprint", self.fingerprint)

    def user(self, name, role, *options):
        """Makes a user, and is that one from now on."""
        self.keep("token", self.host.json("add-vmapiuser", name, role, *options)[0]["Token"])

    def run(self, cmdlet, *args, **kwargs):
        return self.host.run(cmdlet, *args, "-ComputerName", self.name, **kwargs)

    def json(self, cmdlet, *args):
        return json.loads(self.run(cmdlet, *args, "--json"))

    def connect(self, certificate=None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if certificate:
            context.load_cert_chain(*certificate)
        sock = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        return context.wrap_socket(sock)

    def http(self, method, path, body=None, token=None, certificate=None, length=None):
        """length: announces a body of so many bytes, and sends none."""
        connection = http.client.HTTPConnection("oyako", timeout=PATIENCE)
        connection.sock = self.connect(certificate)
        headers = {"Authorization": "Bearer " + token} if token else {}
        if length:
            headers["Content-Length"] = str(length)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text)

    def refusals(self):
        return [event["Message"] for event in self.host.json("get-vmevent")
                if event["Event"] == "request-refused"]

    def token(self):
        with open(os.path.join(self.folder, "token")) as f:
            return f.read().strip()


@pytest.fixture
def far(host):
    return Far(host)


def test_everything_from_elsewhere(far):
    far.trust()
    far.user("ada", "Administrator")
    far.run("new-vm", "a", "-LinuxKernelPath", far.host.kernel, "-LinuxCommandLine",
            "console=ttyS0 off=0")
    assert far.json("get-vm", "a") == [dict(far.host.vm("a"), PSComputerName=far.name)]
    assert "hello from a" in far.run("start-vm", "a", "-Console")
    assert far.host.vm("a")["State"] == "Off"
    assert "must be absolute" in far.run("new-vm", "b", "-LinuxKernelPath", "vmlinuz", status=2)
    assert "only on the host itself" in far.run("set-vmhost", "-ApiAddress", "", status=1)
    assert "there is no virtual machine" in far.run("start-vm", "nobody", status=1)
    far.run("remove-vm", "a", "-Force")
    assert far.host.json("get-vm") == []


def test_two_hosts(far):
    far.trust()
    far.user("ada", "Reader")
    far.host.new_vm("a")
    text = far.host.run("get-vm", "-ComputerName", far.name + "," + far.name)
    assert text.count("a    Off") == 2
    assert "takes one host" in far.host.run("connect-vm", "a", "-ComputerName",
                                            far.name + "," + far.name, status=1)


def test_a_pipe_leads_back_to_the_host(far):
    """What another host has shown is sought there, not here."""
    far.trust()
    far.user("ada", "Administrator")
    far.host.new_vm("a")
    for shown in (far.run("get-vm", "a"), far.run("get-vm", "a", "--json")):
        path = os.path.join(far.host.folder, "shown")
        with open(path, "w") as f:
            f.write(shown)
        with open(path) as f:
            text = far.host.run("get-vmmemory", stdin=f)
        assert "PSComputerName" in text and far.name in text


def test_the_console_both_ways(far):
    far.trust()
    far.user("ada", "Operator")
    far.host.running_vm("a")
    with subprocess.Popen(far.host.command("connect-vm", "a", "-ComputerName", far.name),
                          env=far.host.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        one.stdin.write(b"are you there?\n")
        one.stdin.flush()
        text = b""
        while b"ARE YOU THERE?" not in text:
            data = one.stdout.read1(1000)
            assert data
            text += data
        far.host.run("stop-vm", "a", "-TurnOff")
        one.stdin.close()
        assert one.wait(PATIENCE) == 0


def test_who_is_the_host(far):
    far.user("ada", "Reader")
    # Without a terminal, nobody can be asked.
    alone = {"start_new_session": True}
    text = far.run("get-vm", status=1, **alone)
    assert far.fingerprint in text and "no authority" in text
    far.keep("fingerprint", "0" * 64)
    assert "another one than before" in far.run("get-vm", status=1, **alone)
    far.trust()
    far.run("get-vm")
    # One that an authority has signed needs no fingerprint.
    os.remove(os.path.join(far.folder, "fingerprint"))
    far.host.env["OYAKO_CA_FILE"] = os.path.join(far.host.state, "tls", "certificate.pem")
    assert "no authority" in far.run("get-vm", status=1, **alone)  # it is of another name


def test_tokens(far):
    far.trust()
    far.host.new_vm("a")
    assert "no token" in far.run("get-vm", status=1)
    far.user("ada", "Reader")
    far.run("get-vm")
    token = far.token()
    assert token not in open(os.path.join(far.host.state, "access.json")).read()
    os.chmod(os.path.join(far.folder, "token"), 0o644)
    assert "may be read by others" in far.run("get-vm", status=1)
    far.keep("token", token[:-1] + ("0" if token[-1] != "0" else "1"))
    assert "no token" in far.run("get-vm", status=1)
    far.host.env["OYAKO_TOKEN"] = token
    far.run("get-vm")
    far.host.kill_daemon()
    far.host.run("get-vm")
    far.run("get-vm")
    far.host.run("remove-vmapiuser", "ada")
    assert "no token" in far.run("get-vm", status=1)
    assert any("no token" in text for text in far.refusals())


def test_a_certificate(far):
    key, certificate = (os.path.join(far.host.folder, name) for name in ("key.pem", "cert.pem"))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", certificate,
                    "-subj", "/CN=ada", "-days", "2"], check=True, stderr=subprocess.DEVNULL)
    far.trust()
    far.host.new_vm("a")
    far.host.env.update(OYAKO_CERTIFICATE_FILE=certificate, OYAKO_KEY_FILE=key)
    assert "no token and no certificate" in far.run("get-vm", status=1)
    far.host.run("add-vmapiuser", "ada", "Reader", "-CertificatePath", certificate)
    assert far.json("get-vm")[0]["Name"] == "a"
    assert far.http("GET", "/v1/version", certificate=(certificate, key))[0] == 200
    assert "needs the role Administrator" in far.run("remove-vm", "a", "-Force", status=1)
    assert "is no certificate" in far.host.run("add-vmapiuser", "eve", "-CertificatePath",
                                               far.host.kernel, status=1)


def test_roles(far):
    far.trust()
    far.host.new_vm("a")
    far.host.new_vm("b")

    far.user("reader", "Reader")
    assert len(far.json("get-vm")) == 2
    assert "needs the role Operator" in far.run("start-vm", "a", status=1)
    assert "needs the role Administrator" in far.run("get-vmapiuser", status=1)
    assert "needs the role Administrator" in far.run("get-vhd", "/etc/passwd", status=1)

    far.user("operator", "Operator")
    far.run("start-vm", "a")
    assert "needs the role Administrator" in far.run("set-vm", "a", "-Notes", "x", status=1)
    assert "needs the role Administrator" in far.run("new-vm", "c", status=1)

    far.user("guest", "Console")
    assert far.json("get-vm") == []
    assert "there is no virtual machine" in far.run("get-vm", "a", status=1)
    assert "there is no virtual machine" in far.run("connect-vm", "a", status=1)
    far.host.run("grant-vmconnectaccess", "a", "-UserName", "guest")
    assert [grant["VMName"] for grant in far.host.json("get-vmconnectaccess")] == ["a"]
    assert [vm["Name"] for vm in far.json("get-vm")] == ["a"]
    assert "needs the role" in far.run("stop-vm", "a", status=1)
    assert "there is no virtual machine" in far.run("connect-vm", "b", status=1)
    with subprocess.Popen(far.host.command("connect-vm", "a", "-ComputerName", far.name),
                          env=far.host.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        assert one.stdout.read1(1000)
        one.terminate()
        one.wait(PATIENCE)
    far.host.run("revoke-vmconnectaccess", "a", "-UserName", "guest")
    assert far.json("get-vm") == []
    assert "there is no user" in far.host.run("grant-vmconnectaccess", "a", "-UserName", "nobody",
                                              status=1)


def test_jobs_are_ones_own(far):
    far.host.running_vm("a", "deaf")
    one, two, boss = (far.host.json("add-vmapiuser", name, role)[0]["Token"] for name, role in
                      (("one", "Operator"), ("two", "Operator"), ("boss", "Administrator")))
    connection = http.client.HTTPConnection("oyako", timeout=PATIENCE)
    connection.sock = far.connect()
    connection.request("POST", "/v1/cmdlet/stop-vm", '{"Name":"a"}',
                       {"Authorization": "Bearer " + one, "Prefer": "respond-async"})
    job = json.loads(connection.getresponse().read())["job"]
    connection.close()
    path = "/v1/job/%d" % job
    assert far.http("GET", path, token=two)[0] == 404
    assert far.http("DELETE", path, token=two)[0] == 404
    assert far.http("GET", path, token=one)[0] == 202
    assert far.http("DELETE", path, token=boss)[0] in (200, 202)


def test_refusals(far):
    far.host.new_vm("a")
    reader = far.host.json("add-vmapiuser", "reader", "Reader")[0]["Token"]
    assert far.http("GET", "/v1/version")[0] == 401
    assert far.http("GET", "/v1/version", token="x" * 70)[0] == 401
    assert far.http("GET", "/v1/version", token="x" * 5000)[0] == 401
    assert far.http("POST", "/v1/cmdlet/get-vm", length=2000000)[0] == 401
    assert far.http("POST", "/v1/cmdlet/get-vm", None, reader, length=2000000)[0] == 413
    assert far.http("POST", "/v1/cmdlet/get-vm", "{", reader)[0] == 400
    assert far.http("POST", "/v1/cmdlet/stop-vm", '{"Name":"a"}', reader)[0] == 403
    assert far.http("GET", "/v1/console/a", None, reader)[0] == 403
    assert far.http("GET", "/v1/socket/a?service=22", None, reader)[0] == 403
    for path in ("/v1/../../etc/passwd", "/v1/console/..%2f..%2fetc", "/v1/job/../version",
                 "/v1/console/%ff%fe", "//etc/passwd"):
        assert far.http("GET", path, None, reader)[0] in (400, 404)
    texts = "\n".join(far.refusals())
    assert "no token" in texts and "needs the role Operator" in texts
    assert "there is nothing here" in texts or "there is no" in texts


def test_rubbish_at_the_door(far):
    for rubbish in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 4000,
                    os.urandom(3000)):
        with socket.create_connection(("127.0.0.1", far.port), PATIENCE) as sock:
            sock.sendall(rubbish)
    for rubbish in (b"", b"\0" * 4096, b"GET\r\n\r\n", os.urandom(8192), b"GET /" + b"a" * 100000):
        sock = far.connect()
        try:
            sock.sendall(rubbish)
        except OSError:
            pass
        sock.close()
    wait_for(lambda: any("no TLS" in text for text in far.refusals()))
    reader = far.host.json("add-vmapiuser", "reader", "Reader")[0]["Token"]
    assert far.http("GET", "/v1/version", token=reader)[0] == 200


def test_many_that_say_nothing(far):
    """Strangers who only connect keep neither the host's own client nor, from another address,
    one who is known from being served."""
    strangers = [socket.create_connection(("127.0.0.1", far.port), PATIENCE) for _ in range(60)]
    wait_for(lambda: any("too many" in text for text in far.refusals()))
    assert far.host.json("get-vm") == []
    reader = far.host.json("add-vmapiuser", "reader", "Reader")[0]["Token"]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", far.port), PATIENCE, ("127.0.0.2", 0)) as plain:
        with context.wrap_socket(plain) as sock:
            sock.sendall(b"GET /v1/version HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " +
                         reader.encode() + b"\r\n\r\n")
            assert b" 200 " in sock.recv(1000)
    for sock in strangers:
        sock.close()


@pytest.mark.skipif(not os.environ.get("OYAKO_LONG"), reason="it waits for a deadline of 30 s")
def test_slow(far):
    sock = far.connect()
    sock.sendall(b"GET /v1/version HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    sock.settimeout(1)
    began = time.monotonic()
    ended = False
    while not ended and time.monotonic() - began < 60:
        try:
            sock.sendall(b"a")
            ended = sock.recv(100) == b""
        except socket.timeout:
            pass
        except OSError:
            ended = True
    assert ended
    assert any("too slow" in text for text in far.refusals())


def test_not_listening_any_more(far):
    far.trust()
    far.user("ada", "Reader")
    far.run("get-vm")
    pid = far.host.daemon_pid()
    far.host.run("set-vmhost", "-ApiAddress", "")
    assert "connecting to" in far.run("get-vm", status=1)
    assert far.host.json("get-vmhost")[0]["ApiAddress"] == ""
    assert is_alive(pid)
    for bad in ("nonsense", "127.0.0.1:99999", "300.0.0.1:1", ":", "127.0.0.1:"):
        assert "listen" in far.host.run("set-vmhost", "-ApiAddress", bad, status=1)
    for bad in ("a b", "../x", "-x:1", ""):
        assert "no host:port" in far.host.run("get-vm", "-ComputerName:" + bad, status=1)


def test_a_damaged_list_of_users_lets_nobody_in(far):
    far.host.run("add-vmapiuser", "ada", "Administrator")
    path = os.path.join(far.host.state, "access.json")
    with open(path, "w") as f:
        f.write('{"version":1,"users":[{"name":"ada"}]}')
    far.host.kill_daemon()
    assert "access.json" in far.host.run("get-vm", status=1)
    os.remove(path)
    far.host.run("get-vm")
