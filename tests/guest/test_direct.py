"""Direct: commands, terminals and files in a stock Debian guest that has no network.

OYAKO_LONG=1 copies 256 MiB instead of 8.
"""
import fcntl
import hashlib
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import termios
import threading
import time

import pytest

from conftest import BUILD, GUESTS, LONG, PATIENCE, TOP, Console, Host, tool, wait_for

pytestmark = pytest.mark.rig

MEGABYTES = 256 if LONG else 8
NAMES = ["web"] + (["db", "mail", "dns", "git"] if LONG else ["db"])

SSH_UNITS = """cat >/etc/systemd/system/ssh-vsock.socket <<'END'
[Socket]
ListenStream=vsock::22
Accept=yes
END
cat >/etc/systemd/system/ssh-vsock@.service <<'END'
[Service]
ExecStart=-/usr/sbin/sshd -i
StandardInput=socket
END
systemctl daemon-reload; systemctl start ssh-vsock.socket"""


class Guests:
    """Debian guests with the agent, no network adapter, a user `ada` with a password and a key."""

    def __init__(self, host, folder):
        self.host = host
        self.folder = folder
        self.password = self.write("password", "oyako\n")
        self.wrong = self.write("wrong", "guess\n")
        self.key = os.path.join(folder, "key")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        deb = os.path.join(folder, "agent", "agent.deb")
        os.mkdir(os.path.dirname(deb))
        tool("guest-agent-deb", os.path.join(BUILD, "bin", "oyako-guest-agent"), deb)
        shutil.copy(self.key + ".pub", os.path.dirname(deb))
        self.iso = os.path.join(folder, "agent.iso")
        subprocess.run(["genisoimage", "-quiet", "-J", "-r", "-o", self.iso, os.path.dirname(deb)],
                       check=True)

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, 0o600)
        return path

    def start(self, name):
        debian = os.path.join(GUESTS, "debian-12")
        disk = os.path.join(self.folder, name + ".vhdx")
        shutil.copyfile(os.path.join(debian, "disk.vhdx"), disk)
        self.host.new_vm(os.path.join(debian, "vmlinuz"), name, memory="768MB",
                         initrd=os.path.join(debian, "initrd.img"), options=("-VHDPath", disk),
                         cmdline="root=LABEL=oyako-root ro console=ttyS0")
        self.host.run("remove-vmnetworkadapter", name)
        self.host.run("add-vmdvddrive", "-VMName", name, "-Path", self.iso)
        self.host.run("start-vm", "-Name", name)

    def prepare(self, name):
        console = Console(self.host, name)
        console.login(900)
        console.command("mkdir /dvd; mount /dev/sr0 /dvd; dpkg -i /dvd/agent.deb", 300)
        console.command("useradd -m -s /bin/bash ada; echo ada:oyako | chpasswd; hostname " + name)
        console.command("install -d -o ada -m 700 ~ada/.ssh; install -o ada -m 600 /dvd/key.pub"
                        " ~ada/.ssh/authorized_keys")
        assert console.command("systemctl is-active oyako-guest-agent.socket") == "active"
        assert console.command("ls /sys/class/net") == "lo"
        if name == "web":
            console.command(SSH_UNITS)
        console.close()

    def run(self, *args, password=True, **kwargs):
        credential = ("-PasswordFilePath", self.password) if password else ()
        kwargs.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(self.host.command(*args, *credential), env=self.host.env,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=900 * PATIENCE, **kwargs)

    def invoke(self, script, *args, vm="web", **kwargs):
        return self.run("invoke-command", vm, script, *args, **kwargs)


@pytest.fixture(scope="module")
def guests(debian, tmp_path_factory):
    host = Host(tmp_path_factory.mktemp("host"))
    guests = Guests(host, str(tmp_path_factory.mktemp("direct")))
    for name in NAMES:
        guests.start(name)
    for name in NAMES:
        guests.prepare(name)
    yield guests
    host.clean_up()


def test_output_and_exit_status(guests):
    done = guests.invoke("echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert guests.invoke("kill -TERM $$").returncode == 128 + signal.SIGTERM
    assert guests.invoke("no-such-command").returncode == 127
    who = guests.invoke("id -un; id -gn; pwd; echo $SHELL $USER; tty", "-Credential", "ada")
    assert who.stdout.decode().split() == ["ada", "ada", "/home/ada", "/bin/bash", "ada", "not", "a", "tty"]
    assert guests.invoke("cat | tr a-z A-Z", stdin=None, input=b"typed").stdout == b"TYPED"
    # What does not read its input ends all the same.
    assert guests.invoke("exit 3", stdin=None, input=b"x" * 1000000).returncode == 3


def test_streams_are_intact(guests):
    data = os.urandom(MEGABYTES << 20)
    done = guests.invoke("cat", stdin=None, input=data)
    assert done.returncode == 0 and done.stdout == data


def test_who_is_refused(guests):
    wrong = guests.run("invoke-command", "web", "id", "-PasswordFilePath", guests.wrong,
                       password=False)
    assert wrong.returncode == 255 and wrong.stdout == b""
    assert b"password or key is wrong" in wrong.stderr
    nobody = guests.invoke("id", "-Credential", "nobody-here")
    assert nobody.returncode == 255 and b"password or key is wrong" in nobody.stderr
    empty = guests.run("invoke-command", "web", "id", "-PasswordFilePath", guests.write("none", "\n"),
                       password=False)
    assert empty.returncode == 255 and b"empty password" in empty.stderr
    without = guests.invoke("id", password=False, start_new_session=True)
    assert without.returncode == 255 and b"a password is needed" in without.stderr
    # An account without a password is not open to everybody.
    guests.invoke("useradd -m eve; passwd -d eve")
    assert guests.invoke("id", "-Credential", "eve").returncode == 255
    events = guests.host.json("get-vmevent", "web", "-Level", "Warning")
    refused = [e for e in events if e["Event"] == "sign-in-refused"]
    assert [e["Data"]["count"] for e in refused] == [3, 2, 1]
    assert refused[-1]["Data"]["user"] == "root"


def test_keys(guests):
    as_ada = ("-Credential", "ada", "-KeyFilePath", guests.key)
    assert guests.invoke("id -un", *as_ada, password=False).stdout == b"ada\n"
    other = os.path.join(guests.folder, "other")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    assert guests.invoke("id", "-Credential", "ada", "-KeyFilePath", other,
                         password=False).returncode == 255
    # Nobody else's key, and none that others may write.
    assert guests.invoke("id", "-KeyFilePath", guests.key, password=False).returncode == 255
    guests.invoke("chmod 666 ~ada/.ssh/authorized_keys")
    assert guests.invoke("id", *as_ada, password=False).returncode == 255
    guests.invoke("chmod 600 ~ada/.ssh/authorized_keys")
    assert guests.invoke("id -un", *as_ada, password=False).returncode == 0


def test_sshd_without_the_agent(guests):
    done = guests.invoke("echo $USER; exit 5", "-Credential", "ada", "-KeyFilePath", guests.key,
                         "-Transport", "SSH", password=False)
    assert (done.returncode, done.stdout) == (5, b"ada\n"), done.stderr
    guests.invoke("systemctl stop oyako-guest-agent.socket")
    try:
        done = guests.invoke("echo $USER", "-Credential", "ada", "-KeyFilePath", guests.key,
                             password=False)
        assert (done.returncode, done.stdout) == (0, b"ada\n"), done.stderr
        done = guests.invoke("id", "-Transport", "Agent")
        assert done.returncode == 255 and b"no agent answers" in done.stderr
    finally:
        console = Console(guests.host, "web")
        console.send("systemctl start oyako-guest-agent.socket; echo STARTED''AGAIN\n")
        console.expect("STARTEDAGAIN", 60)
        console.close()
    assert guests.invoke("true").returncode == 0


def test_several_machines(guests):
    done = guests.invoke("hostname; echo two", vm=",".join(NAMES))
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.decode().split("\n")) == sorted(
        [""] + ["%s: %s" % (n, n) for n in NAMES] + ["%s: two" % n for n in NAMES])
    done = guests.invoke("[ $(hostname) != db ] || { echo bad >&2; exit 9; }", "--json", vm="*")
    assert done.returncode == 1, done.stderr
    results = {r["VMName"]: r for r in json.loads(done.stdout)}
    assert results["db"]["ExitCode"] == 9 and results["db"]["Error"] == "bad\n"
    assert results["web"]["ExitCode"] == 0
    done = guests.invoke("true", vm="web,nobody")
    assert done.returncode == 1 and b"nobody" in done.stderr


def test_many_commands_at_once(guests):
    """100 commands over all guests (20 without OYAKO_LONG)."""
    count = 100 if LONG else 20
    codes = {}

    def one(i):
        codes[i] = guests.invoke("sleep 0.1; exit %d" % (i % 200), vm=NAMES[i % len(NAMES)]).returncode
    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {i: i % 200 for i in range(count)}


def test_files(guests, tmp_path):
    source = tmp_path / "it's a file"
    source.write_bytes(os.urandom(3 << 20))
    source.chmod(0o750)
    to_web = ("-ToSession", "web")
    assert guests.run("copy-item", source, "/root/", *to_web).returncode == 0
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    done = guests.invoke("sha256sum <\"/root/it's a file\"; stat -c %a \"/root/it's a file\"; ls -A /root | grep part")
    assert done.stdout.decode().split() == [digest, "-", "750"]
    assert guests.run("copy-item", "/root/it's a file", tmp_path / "back", "-FromSession", "web").returncode == 0
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "one").write_text("1")
    (tree / "link").symlink_to("sub/one")
    assert guests.run("copy-item", tree, "/srv", *to_web, "-Recurse").returncode == 0
    assert guests.invoke("cat /srv/tree/link").stdout == b"1"
    copied = tmp_path / "copied"
    assert guests.run("copy-item", "/srv/tree", copied, "-FromSession", "web", "-Recurse").returncode == 0
    assert (copied / "tree" / "sub" / "one").read_text() == "1"
    missing = guests.run("copy-item", "/no/such", tmp_path / "x", "-FromSession", "web")
    assert missing.returncode == 1 and not (tmp_path / "x").exists()
    full = guests.run("copy-item", source, "/dev/full/x", *to_web)
    assert full.returncode == 1


def interrupted(start, copied, part_is_there, end):
    """Ends a copy by end() when some of it is done; again if it was faster than that."""
    for _ in range(20):
        running = start()
        while running.poll() is None and copied(running) < 4 << 20:
            time.sleep(0.001)
        end(running)
        running.communicate(timeout=300 * PATIENCE)
        if part_is_there():
            return running
    raise AssertionError("the copy is always done before it can be interrupted")


def test_interrupted_copies_go_on(guests, tmp_path):
    """What is there of a copy that was interrupted, by a signal or with the guest, is not copied again: the file that
    takes its place is the part. If the part is not what the file begins with, all is copied."""
    source, back = tmp_path / "big", tmp_path / "back"
    source.write_bytes(os.urandom(48 << 20))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    to_guest = ("copy-item", source, "/root/big", "-ToSession", "db")
    from_guest = ("copy-item", "/root/big", back, "-FromSession", "db")

    def start(copy):
        return subprocess.Popen(guests.host.command(*copy, "-PasswordFilePath", guests.password), env=guests.host.env,
                                stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def sent(running):
        """How far it has read the file."""
        try:
            for fd in os.listdir("/proc/%d/fd" % running.pid):
                if os.readlink("/proc/%d/fd/%s" % (running.pid, fd)) == str(source):
                    with open("/proc/%d/fdinfo/%s" % (running.pid, fd)) as f:
                        return int(f.readline().split()[1])
        except OSError:
            pass
        return 0

    def inode_in_guest():
        return guests.invoke("stat -c %i /root/big.oyako-part", vm="db").stdout

    def save(running):
        running.send_signal(signal.SIGSTOP)  # else the copy may be done sooner
        guests.host.run("save-vm", "db", timeout=300)
        running.send_signal(signal.SIGCONT)
        guests.host.run("start-vm", "db")
        assert wait_for(lambda: guests.invoke("true", vm="db").returncode == 0, 120)

    for end in (lambda running: running.kill(), save):
        interrupted(lambda: start(to_guest), sent, lambda: inode_in_guest() != b"", end)
        inode = inode_in_guest()
        done = guests.run(*to_guest)
        assert done.returncode == 0, done.stderr
        assert guests.invoke("stat -c %i /root/big", vm="db").stdout == inode
        assert guests.invoke("sha256sum </root/big", vm="db").stdout.split()[0] == digest.encode()
    guests.invoke("head -c 8000000 /dev/zero >/root/big.oyako-part", vm="db")
    assert guests.run(*to_guest).returncode == 0
    assert guests.invoke("sha256sum </root/big", vm="db").stdout.split()[0] == digest.encode()

    part = tmp_path / "back.oyako-part"
    running = interrupted(lambda: start(from_guest), lambda _: part.stat().st_size if part.exists() else 0, part.exists,
                          lambda running: running.send_signal(signal.SIGINT))
    assert running.returncode == 1
    inode = part.stat().st_ino
    assert guests.run(*from_guest).returncode == 0
    assert back.stat().st_ino == inode and back.read_bytes() == source.read_bytes() and not part.exists()
    part.write_bytes(bytes(8000000))
    assert guests.run(*from_guest).returncode == 0
    assert back.read_bytes() == source.read_bytes() and not part.exists()


class Terminal:
    """enter-pssession on a terminal of our own."""

    def __init__(self, guests, *args):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.clear()
            os.environ.update(guests.host.env, TERM="xterm")
            command = guests.host.command("enter-pssession", "web", *args)
            os.execv(command[0], command)
        self.text = ""

    def resize(self, rows, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        os.write(self.fd, text.encode())

    def expect(self, what, seconds=60):
        deadline = time.monotonic() + seconds * PATIENCE
        os.set_blocking(self.fd, False)
        while what not in self.text:
            assert time.monotonic() < deadline, "no %r in %r" % (what, self.text)
            try:
                self.text += os.read(self.fd, 65536).decode("utf-8", "replace")
            except BlockingIOError:
                time.sleep(0.05)
        before, _, self.text = self.text.partition(what)
        return before

    def end(self):
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_password_is_not_given(guests):
    """Ctrl-C at the prompt leaves the terminal as it was."""
    terminal = Terminal(guests)
    terminal.expect("Password of root: ")
    assert not termios.tcgetattr(terminal.fd)[3] & termios.ECHO
    terminal.type("hidden\x03")
    assert "hidden" not in terminal.expect("no password was given")
    assert termios.tcgetattr(terminal.fd)[3] & termios.ECHO
    assert terminal.end() == 255


def test_terminal(guests):
    terminal = Terminal(guests)
    terminal.expect("Password of root: ")
    terminal.type("oyako\n")
    terminal.expect("# ")
    terminal.resize(33, 111)
    terminal.type("stty size; tty; echo $TERM; echo END''1\n")
    answer = terminal.expect("END1")
    assert "33 111" in answer and "/dev/pts/" in answer and "xterm" in answer
    # It says so itself: in between commands the terminal is still the shell's.
    terminal.type("sh -c \"echo SLEEP''S; exec sleep 1000\"; echo NO''T\n")
    terminal.expect("SLEEPS")
    terminal.type("\x03")  # Ctrl-C ends the whole line
    terminal.type("echo END''2\n")
    assert "NOT" not in terminal.expect("END2")
    terminal.resize(50, 90)
    terminal.type("stty size\n")
    terminal.expect("50 90")
    terminal.type("exit 4\n")
    assert terminal.end() == 4


def test_interrupted_command(guests):
    """Ctrl-C at oyako ends the command in the guest; so does the end of oyako."""
    for number in (signal.SIGINT, signal.SIGKILL):
        marker = "12345%d" % number
        running = subprocess.Popen(guests.host.command("invoke-command", "web",
                                                       "exec sleep " + marker, "-PasswordFilePath",
                                                       guests.password),
                                   env=guests.host.env, stdin=subprocess.DEVNULL)
        count = "pgrep -fc '^sleep %s'" % marker
        assert wait_for(lambda: guests.invoke(count).stdout == b"1\n", 60)
        running.send_signal(number)
        status = running.wait(60 * PATIENCE)
        assert status == (128 + number if number == signal.SIGINT else -number)
        assert wait_for(lambda: guests.invoke(count).stdout == b"0\n", 60)
