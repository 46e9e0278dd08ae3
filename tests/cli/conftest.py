"""The real oyako and oyakod over a worker that is a fake (tests/lib/fake-worker): no guest runs.

Every test has its own store and runtime folder. OYAKO_BUILD names the build folder (default: build).
"""
import contextlib
import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path.insert(0, os.path.join(TOP, "tests", "lib"))
from processes import is_alive

BUILD = os.path.join(TOP, os.environ.get("OYAKO_BUILD", "build"))
# With sanitizers, and on a busy machine, all takes longer.
PATIENCE = 30


def wait_for(what, seconds=PATIENCE):
    """Waits until what() is true, and returns it."""
    deadline = time.monotonic() + seconds
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("oyako", timeout=PATIENCE)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self.path)


class Host:
    def __init__(self, folder):
        self.folder = str(folder)
        self.env = dict(os.environ, OYAKO_STOP_IDLE_SECONDS="600", OYAKO_SYSTEM="0",
                        OYAKO_MEMORY_LIMIT="1024GB",  # the fakes need none
                        OYAKO_WORKER=os.path.join(TOP, "tests/lib/fake-worker"),
                        OYAKO_SWITCH=os.path.join(TOP, "tests/lib/fake-switch"))
        for name in ("DATA_HOME", "RUNTIME_DIR"):
            path = os.path.join(self.folder, name.lower())
            os.makedirs(path, mode=0o700)
            self.env["XDG_" + name] = path
        self.state = os.path.join(self.env["XDG_DATA_HOME"], "oyako")
        self.runtime = os.path.join(self.env["XDG_RUNTIME_DIR"], "oyako")
        self.socket = os.path.join(self.runtime, "api.sock")
        self.kernel = os.path.join(self.folder, "vmlinuz")
        with open(self.kernel, "w") as f:
            f.write("a kernel")

    def command(self, *args):
        return [os.path.join(BUILD, "bin", "oyako"), *map(str, args)]

    def run(self, *args, status=0, timeout=PATIENCE, stdin=subprocess.DEVNULL, **kwargs):
        """Runs a cmdlet that must end with status; returns what it printed (stderr if it fails)."""
        done = subprocess.run(self.command(*args), env=self.env, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=timeout, stdin=stdin,
                              cwd=self.folder, **kwargs)
        assert done.returncode == status, "%s: %d\n%s%s" % (args, done.returncode, done.stdout,
                                                           done.stderr)
        return done.stderr if status else done.stdout

    def json(self, *args):
        return json.loads(self.run(*args, "--json"))

    def vm(self, name):
        return self.json("get-vm", name)[0]

    def new_vm(self, name, behaviour="", *options):
        return self.run("new-vm", "-Name", name, "-LinuxKernelPath", self.kernel,
                        "-LinuxCommandLine", "console=ttyS0 " + behaviour, *options)

    def running_vm(self, name, behaviour="", *options):
        self.new_vm(name, behaviour, *options)
        self.run("start-vm", name)
        return self.vm(name)

    def daemon_pid(self):
        return self.json("get-vmhost")[0]["ProcessId"]

    def kill_daemon(self):
        pid = self.daemon_pid()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not is_alive(pid))

    def http(self, method, path, body=None, headers={}):
        """One request to the API; returns status and the JSON of the answer."""
        connection = Connection(self.socket)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text) if text else None

    def vm_folder(self, name):
        return os.path.join(self.state, "vms", self.vm(name)["VMId"])

    def runtime_folders(self):
        folder = os.path.join(self.runtime, "vm")
        return os.listdir(folder) if os.path.exists(folder) else []

    def end_daemon(self):
        """As systemd would; a sanitizer then reports what was not freed."""
        try:
            with open(os.path.join(self.state, "lock")) as f:
                pid = int(f.read().partition("process ")[2].split()[0])
            with open("/proc/%d/comm" % pid) as f:
                if f.read().strip() != "oyakod":
                    return
            os.kill(pid, signal.SIGTERM)
        except (OSError, ValueError, IndexError):
            return
        wait_for(lambda: not is_alive(pid))

    def clean_up(self):
        """Ends what this test started, by its process ids."""
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            try:
                with open("/proc/%d/environ" % pid, "rb") as f:
                    mine = ("XDG_RUNTIME_DIR=" + self.env["XDG_RUNTIME_DIR"]).encode() in f.read()
                if mine and pid != os.getpid():
                    os.kill(pid, signal.SIGKILL)
            except OSError:
                continue


@contextlib.contextmanager
def console_socket(host, vm):
    folder = os.open(os.path.join(host.runtime, "vm", host.vm(vm)["VMId"]), os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("/proc/self/fd/%d/console1" % folder)  # the path itself may be too long
            yield client
    finally:
        os.close(folder)


def console(host, vm="a"):
    """What the fake guest has said so far."""
    text = b""
    try:
        with console_socket(host, vm) as client:
            client.settimeout(0.3)
            while data := client.recv(65536):
                text += data
    except (TimeoutError, ConnectionRefusedError):
        pass
    return text.decode()


told = itertools.count()


def tell(host, vm, word):
    """Types a word at the fake guest's console, and waits until it has read it. With a number, for a new console begins
    with what was said before."""
    line = "%d %s\n" % (next(told), word)
    with console_socket(host, vm) as client:
        client.settimeout(PATIENCE)
        client.sendall(line.encode())
        text = b""
        while line.upper().encode() not in text:
            text += client.recv(65536)


@pytest.fixture
def host(tmp_path):
    host = Host(tmp_path)
    yield host
    host.end_daemon()
    log = os.path.join(host.runtime, "oyakod.log")
    text = open(log).read() if os.path.exists(log) else ""
    host.clean_up()
    assert "Sanitizer" not in text and "runtime error" not in text, text


@contextlib.contextmanager
def file_system(folder, size):
    """Of its own, where the test may have one."""
    os.mkdir(folder)
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + size, "none", folder],
                                           capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def small_disk(host):
    with file_system(os.path.join(host.folder, "small"), "40m") as folder:
        yield folder


@pytest.fixture
def small_storage(tmp_path):
    with file_system(os.path.join(tmp_path, "s"), "100m") as folder:
        yield folder
