"""Guests on the real programs: every test drives `oyako` as an administrator would.

A test gets its own store and runtime directory, so that nothing of the user's is touched. Kernels and disks are made once
by tools/ and kept under <build>/guests. OYAKO_BUILD names the build folder (default: build).

--backend kvm runs the guests on KVM instead of the software CPU. tests/rig/guests does that inside the rig, where
everything is slow: OYAKO_PATIENCE multiplies all time limits. OYAKO_KERNEL=cloud-backports: tests that need no kernel in
particular take that one (tools/guest-kernel). Tests marked `rig` run there: those of what a backend has a part in (processors,
memory, interrupts, time, state), and each device and service once.
"""
import contextlib
import fcntl
import gzip
import json
import os
import re
import shutil
import subprocess
import time

import pytest

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD = os.path.join(TOP, os.environ.get("OYAKO_BUILD", "build"))
GUESTS = os.path.join(BUILD, "guests")
# OYAKO_LONG=1 adds runs that take minutes: what they add is said where LONG is used.
LONG = os.environ.get("OYAKO_LONG", "") not in ("", "0")
PATIENCE = float(os.environ.get("OYAKO_PATIENCE", "1"))


def pytest_addoption(parser):
    parser.addoption("--backend", choices=("soft", "kvm", "soft-lockstep", "soft-interpreter"), default="soft",
                     help="what runs the guests' processors")


def pytest_configure(config):
    config.addinivalue_line("markers", "rig: runs on the KVM backend in the rig, too")
    Host.backend = config.getoption("--backend")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    item.failed = getattr(item, "failed", False) or outcome.get_result().failed


@pytest.fixture(autouse=True)
def folder_goes(request, tmp_path):
    """What a test that passed leaves in its folder goes at once: a whole run's is more than 10 GB."""
    yield
    if not request.node.failed:
        shutil.rmtree(tmp_path, ignore_errors=True)


def tool(name, *args):
    subprocess.run([os.path.join(TOP, "tools", name), *args], check=True)


@contextlib.contextmanager
def making():
    """One test process at a time looks whether something under <build>/guests is there, and makes it."""
    os.makedirs(GUESTS, exist_ok=True)
    with open(os.path.join(GUESTS, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Kernel:
    """A stock Debian kernel and the initramfs that fits it."""

    def __init__(self, flavour):
        self.folder = os.path.join(GUESTS, "kernel-" + flavour)
        self.image = os.path.join(self.folder, "vmlinuz")
        self.initrd = os.path.join(self.folder, "initrd.gz")
        maker = os.path.join(TOP, "tools", "initramfs")
        with making():
            tool("guest-kernel", flavour, self.folder)
            if (not os.path.exists(self.initrd)
                    or os.path.getmtime(self.initrd) < os.path.getmtime(maker)):
                tool("initramfs", self.folder, self.initrd)
        with open(os.path.join(self.folder, "release")) as f:
            self.release = f.read().strip()

    def initrd_with(self, folder, script, files=()):
        """The initramfs plus /run.sh (and files as (host path, guest path)); returns its path."""
        tree = os.path.join(folder, "overlay")
        os.makedirs(tree)
        with open(os.path.join(tree, "run.sh"), "w") as f:
            f.write(script)
        for source, target in files:
            os.makedirs(os.path.dirname(tree + target), exist_ok=True)
            shutil.copy(source, tree + target)
        names = subprocess.run(["find", ".", "!", "-name", "."], cwd=tree, check=True,
                               stdout=subprocess.PIPE).stdout
        overlay = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"], cwd=tree,
                                 input=names, check=True, stdout=subprocess.PIPE).stdout
        path = os.path.join(folder, "initrd.gz")
        with open(self.initrd, "rb") as base, open(path, "wb") as out:
            shutil.copyfileobj(base, out)
            out.write(gzip.compress(overlay, 1))
        return path


_kernels = {}


def kernel_of(flavour):
    if flavour not in _kernels:
        _kernels[flavour] = Kernel(flavour)
    return _kernels[flavour]


@pytest.fixture
def kernel():
    return kernel_of(os.environ.get("OYAKO_KERNEL", "cloud"))


def debian_of(flavour):
    """Folder of a Debian guest (tools/guest-disk) with what the tests run in it; flavour is its
    kernel's: cloud, or cloud-backports with the daemons that belong to it."""
    backports = flavour == "cloud-backports"
    folder = os.path.join(GUESTS, "debian-12-backports" if backports else "debian-12")
    with making():
        tool("guest-disk", *(["--backports"] if backports else []), folder, "stress-ng",
             "openssh-server", "sqlite3")
    return folder


@pytest.fixture(scope="session")
def debian():
    return debian_of("cloud")


def wait_for(what, seconds):
    """The first true value of what(), or its last false one after so many seconds."""
    deadline = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < deadline:
        got = what()
        if got:
            return got
        time.sleep(0.1)
    return what()


def sanitizer_reports(log):
    return [line for line in log.split("\n") if "Sanitizer" in line or "runtime error:" in line]


class Host:
    """One administrator with a store of their own."""

    backend = "soft"

    def __init__(self, folder, build=BUILD):
        self.folder = str(folder)
        self.build = build
        self.env = dict(os.environ)
        for name in ("DATA_HOME", "RUNTIME_DIR", "CONFIG_HOME", "STATE_HOME"):
            path = os.path.join(self.folder, name.lower())
            os.makedirs(path, mode=0o700)
            self.env["XDG_" + name] = path
        self.env["OYAKO_STOP_IDLE_SECONDS"] = "5"
        # Guests of these tests touch little of their memory: a small host has enough for them.
        self.env["OYAKO_MEMORY_LIMIT"] = "64GB"
        # A worker of a sanitizer build dies of what it finds, and the test with it.
        self.env["UBSAN_OPTIONS"] = "halt_on_error=1:print_stacktrace=1"

    def command(self, *args):
        return [os.path.join(self.build, "bin", "oyako"), *map(str, args)]

    def run(self, *args, check=True, timeout=120, **kwargs):
        """Runs a cmdlet; returns the finished process with its output as text."""
        done = subprocess.run(self.command(*args), env=self.env, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
                              timeout=timeout * PATIENCE, **kwargs)
        if check:
            assert done.returncode == 0, "oyako %s: %s%s" % (" ".join(map(str, args)), done.stdout,
                                                            done.stderr)
        return done

    def json(self, *args):
        return json.loads(self.run(*args, "--json").stdout)

    def vm(self, name):
        got = self.json("get-vm", "-Name", name)
        return got[0] if isinstance(got, list) else got

    def processes(self, program):
        """Process ids of this host's processes that run program."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/environ" % pid, "rb") as f:
                    mine = self.folder.encode() in f.read()
                with open("/proc/%s/comm" % pid) as f:
                    if mine and f.read().strip() == program:
                        found.append(int(pid))
            except OSError:
                continue
        return found

    def workers(self):
        return self.processes("oyako-worker")

    def new_vm(self, kernel, name="t", *, initrd=None, memory="512MB", processors=1, cmdline="",
               options=()):
        """Makes a VM that boots kernel directly; without a disk unless options name one."""
        self.run("new-vm", "-Name", name, "-Generation", 2, "-MemoryStartupBytes", memory,
                 "-ProcessorCount", processors, "-Backend", self.backend, "-LinuxKernelPath", kernel,
                 *(("-LinuxInitrdPath", initrd) if initrd else ()), "-LinuxCommandLine", cmdline,
                 *(() if "-VHDPath" in options else ("-NoVHD",)), *options)

    def worker_log(self, name):
        """The worker's stderr as an open file, which lives on when the VM is off."""
        path = os.path.join(self.env["XDG_RUNTIME_DIR"], "oyako", "vm", self.vm(name)["VMId"],
                            "worker.log")
        return wait_for(lambda: os.path.exists(path) and open(path, "rb"), 30)

    def run_vm(self, name, seconds):
        """Starts a VM on the console and waits until it is off; returns what the guest wrote to
        its console. The worker must not have complained."""
        path = os.path.join(self.folder, "console-" + name)
        with open(path, "wb") as output:
            started = subprocess.Popen(self.command("start-vm", "-Name", name, "-Console"),
                                       env=self.env, stdin=subprocess.DEVNULL, stdout=output,
                                       stderr=subprocess.STDOUT)
            try:
                log = self.worker_log(name)
                status = started.wait(seconds * PATIENCE)
            finally:
                started.kill()
                started.wait()
                with open(path, "rb") as f:
                    text = f.read().decode("utf-8", "replace").replace("\r", "")
                print(text[-6000:])  # shown when the test fails
        assert status == 0, text[-16000:]
        with log:
            said = log.read().decode("utf-8", "replace")
        print(said)
        assert sanitizer_reports(said) == [], said
        return text

    def boot_script(self, kernel, script, *, name="t", memory="512MB", processors=1, seconds=240,
                    cmdline="", files=(), vm_options=(), before_start=None):
        """Boots kernel with its initramfs, runs script in the guest, waits for power-off; returns
        all that the guest wrote to its console."""
        folder = os.path.join(self.folder, "initrd-" + name)
        os.makedirs(folder)
        initrd = kernel.initrd_with(folder, script, files)
        self.new_vm(kernel.image, name, initrd=initrd, memory=memory, processors=processors,
                    cmdline="console=ttyS0 panic=-1 cryptomgr.notests " + cmdline,
                    options=vm_options)
        if before_start:
            before_start()
        return self.run_vm(name, seconds)

    def clean_up(self):
        listed = self.run("get-vm", "--json", check=False)
        if listed.returncode == 0 and listed.stdout.strip():
            for vm in json.loads(listed.stdout):
                self.run("stop-vm", "-Name", vm["Name"], "-TurnOff", "-Force", check=False)
        for pid in self.workers():
            os.kill(pid, 9)


@pytest.fixture
def host(tmp_path):
    host = Host(tmp_path)
    yield host
    host.clean_up()


class Console:
    """A guest's serial console as a person at a terminal uses it."""

    def __init__(self, host, name):
        self.process = subprocess.Popen(host.command("connect-vm", "-VMName", name), env=host.env,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.text = ""
        self.history = ""  # everything that came, for what has been read over

    def expect(self, what, seconds):
        deadline = time.monotonic() + seconds * PATIENCE
        while what not in self.text:
            assert time.monotonic() < deadline, "no %r in: ...%s" % (what, self.text[-16000:])
            data = self.process.stdout.read()
            if data is None:
                time.sleep(0.05)
                continue
            assert data, "the console ended without %r: ...%s" % (what, self.text[-16000:])
            data = data.decode("utf-8", "replace").replace("\r", "")
            self.text += data
            self.history += data
        before, _, self.text = self.text.partition(what)
        return before

    def send(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def login(self, seconds):
        self.expect("login: ", seconds)
        self.send("root\n")
        self.expect("Password: ", 60)
        self.send("oyako\n")
        self.expect("# ", 120)
        # A shell without line editing, so that only what commands write comes back.
        self.send("stty cols 200 -echo; dmesg -n 1; exec env PS1='READY''> ' bash --norc --noediting\n")
        self.expect("READY> ", 60)

    def plain_shell(self):
        """Makes busybox's shell fit for command()."""
        self.send("stty cols 200 -echo; PS1='READY''> '\n")
        self.expect("READY> ", 60)

    def command(self, text, seconds=120):
        self.send(text + "\n")
        return self.expect("READY> ", seconds).rstrip("\n")

    def close(self):
        self.process.terminate()
        self.process.wait()


# Warnings that these kernels give on every machine, on every one with an AMD processor of which ACPI tells no performance
# levels (_CPC), and, the last two, on every host that has more to do than processors, since it takes them away from the
# guest for some time.
ON_EVERY_MACHINE = ("device-mapper: core: CONFIG_IMA_DISABLE_HTABLE is disabled",
                    "amd_pstate: the _CPC object is not present",
                    "hrtimer: interrupt took ", "sched: RT throttling activated")
# The rest of the line that counts the processors, when it took so long that other lines came between.
PROCESSOR_COUNTED = re.compile(r"\]  #\d+$")


def dmesg_problems(log):
    """Lines of a kernel log, as `dmesg -r` prints it, that must not be in a healthy guest's: all of
    level warning and worse, and the traces and complaints that have lower ones."""
    bad = ("WARNING:", "BUG:", "Call Trace", "unchecked MSR access", "Kernel panic", "rcu_sched self",
           "soft lockup", "probe failed", "Invalid pkt", "Unable to connect")
    lines = [line for line in log.split("\n") if line.startswith("<")]
    assert len(lines) > 50, "that is no kernel log: " + log
    return [line for line in lines
            if (int(line[1:line.index(">")]) & 7 <= 4 or any(word in line for word in bad))
            and not any(known in line for known in ON_EVERY_MACHINE)
            and not PROCESSOR_COUNTED.search(line)]
