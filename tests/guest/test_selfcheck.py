"""Programs that check themselves, in a guest on the software CPU: what it does wrong shows as their failure.

Everything here needs OYAKO_LONG=1. The guests' programs are Debian's own; what they find is compared with what the same
program finds on this host, where that depends on the machine.
"""
import base64
import os
import re
import shutil
import subprocess

import pytest

from conftest import GUESTS, LONG, Console, dmesg_problems, making, tool

pytestmark = pytest.mark.skipif(not LONG, reason="takes up to an hour; OYAKO_LONG=1 runs it")


@pytest.fixture
def login(host, tmp_path):
    """Boots a copy of a Debian disk and logs in; at the end the guest must be healthy."""
    consoles = []

    def boot(folder, processors, memory="2GB", second=None):
        disk = tmp_path / "check.vhdx"
        shutil.copyfile(os.path.join(folder, "disk.vhdx"), disk)
        host.new_vm(os.path.join(folder, "vmlinuz"), "check", initrd=os.path.join(folder, "initrd.img"),
                    memory=memory, processors=processors, cmdline="root=LABEL=oyako-root ro console=ttyS0",
                    options=("-VHDPath", disk))
        if second:
            host.run("add-vmharddiskdrive", "-VMName", "check", "-Path", second)
        host.run("start-vm", "-Name", "check")
        consoles.append(Console(host, "check"))
        consoles[0].login(1800)
        return consoles[0]

    yield boot
    for console in consoles:
        console.close()


PROGRAMS = ("stress-ng", "python3", "libpython3.11-testsuite", "python3-pycryptodome", "luajit", "nodejs", "perl", "make")


@pytest.fixture(scope="session")
def programs():
    """Folder of a Debian guest with all that runs here."""
    folder = os.path.join(GUESTS, "debian-12-selftest")
    with making():
        tool("guest-disk", folder, *PROGRAMS)
    return folder


def send_file(console, name):
    """Puts a file of this folder into the guest's home."""
    with open(os.path.join(os.path.dirname(__file__), name), "rb") as f:
        text = base64.b64encode(f.read()).decode()
    console.command("cd /root; rm -f sent")
    for at in range(0, len(text), 2000):
        console.command("printf %%s %s >>sent" % text[at:at + 2000])
    console.command("base64 -d <sent >%s" % name)


# ---- stress-ng: every stressor of these classes, one after the other, as many instances as processors ----

CLASSES = "cpu,cpu-cache,memory,interrupt,scheduler"
# Not for a guest: they make the kernel kill others for want of memory, or warn on every machine. cyclic wants most of a
# processor for each instance by SCHED_DEADLINE, which kernels refuse, also on a host; uprobe wants the only trace file, which
# one instance has; ipsec-mb fails, without a word, on processors without AES.
LEFT_OUT = "oom-pipe,softlockup,smi,cpu-online,bad-altstack,resources,loadavg,cyclic,uprobe,ipsec-mb"
STRESS_SECONDS = 600


@pytest.mark.parametrize("processors", (1, 2, 4))
def test_all_stressors_verify(host, programs, login, processors):
    """At least ten minutes over all processor, memory, signal and fork stressors of stress-ng."""
    console = login(programs, processors)
    names = set()
    for name in CLASSES.split(","):
        text = console.command("stress-ng --class '%s?' 2>&1" % name)
        names |= set(text.partition("stressors:")[2].split())
    names -= set(LEFT_OUT.split(","))
    assert len(names) > 100, names
    each = -(-STRESS_SECONDS // len(names))
    report = console.command(
        "cd /root; stress-ng --class %s --exclude %s --sequential %d --timeout %ds --verify --vm-bytes 64M "
        "--metrics-brief >report 2>&1; echo status $?; grep -E 'fail:|error:|untrustworthy' report; tail -5 report"
        % (CLASSES, LEFT_OUT, processors, each), 60 * each * len(names))
    print(report)
    assert "status 0" in report, report
    assert "fail:" not in report, report
    # What the stressors do makes kernels warn on every machine.
    problems = dmesg_problems(console.command("dmesg -r"))
    assert [line for line in problems if not line.startswith("<4>") or "WARNING:" in line] == []
    host.run("stop-vm", "-Name", "check", timeout=600)


# ---- Python's own tests ----

# Of its test suite: what needs no network, no display, and doesn't measure time.
PYTHON_TESTS = """
    test_array test_ast test_base64 test_binascii test_binop test_bool test_builtin test_bytes test_bz2 test_cmath test_codecs
    test_collections test_compile test_complex test_copy test_ctypes test_datetime test_decimal test_deque test_descr test_dict
    test_exceptions test_float test_fork1 test_format test_fractions test_functools test_gc test_generators test_grammar
    test_hash test_hashlib test_heapq test_hmac test_int test_itertools test_json test_list test_long test_longexp test_lzma
    test_marshal test_math test_memoryview test_mmap test_operator test_ordered_dict test_pickle test_pow test_random
    test_range test_re test_set test_sort test_sqlite3 test_statistics test_strtod test_struct test_syntax test_thread
    test_threadsignals test_tuple test_types test_unicode test_unicodedata test_userstring test_wait3 test_wait4 test_weakref
    test_xml_etree test_zipfile test_zlib
""".split()


def failed_python_tests(report):
    """Names below `N tests failed:` and `N re-run`; the whole report if it says nothing at all."""
    assert "Tests result: " in report, report
    found = re.search(r"tests? failed:\n((?: +test_.*\n)+)", report)
    return set(found.group(1).split()) if found else set()


def test_python_test_suite(host, programs, login):
    console = login(programs, 2)
    console.command("cd /tmp; python3 -m test %s >report 2>&1" % " ".join(PYTHON_TESTS), 6 * 3600)
    report = console.command("grep -vE '^[0-9:]+ (load|\\[)' report | tail -n 60; grep -c '\\[.*\\] test_' report")
    print(report)
    for name in failed_python_tests(report + "\n"):
        done = subprocess.run(["/usr/bin/python3", "-m", "test", name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode != 0, "%s fails in the guest and not on this host: %s" % (name, report)
    assert dmesg_problems(console.command("dmesg -r")) == []
    host.run("stop-vm", "-Name", "check", timeout=600)


# ---- cryptography against published vectors ----

def test_cryptography_against_vectors(host, programs, login):
    """PyCryptodome's self-test: ciphers, hashes, signatures and curves, with AES and carry-less multiplication in C and in
    portable code."""
    console = login(programs, 2)
    report = console.command("cd /tmp; python3 -m Cryptodome.SelfTest >report 2>&1; echo status $?; tail -n 30 report",
                             6 * 3600)
    print(report)
    assert "status 0" in report, report
    assert re.search(r"Ran [0-9]{4,} tests", report) and "OK" in report, report
    host.run("stop-vm", "-Name", "check", timeout=600)


def test_openssl_tests(host, programs, login, tmp_path):
    """OpenSSL's own, which uses the newest instructions of SHA, AES and multiplication that it finds."""
    whole, disk = os.path.join(GUESTS, "openssl-tests.raw"), tmp_path / "tests.raw"
    with making():
        tool("openssl-tests", whole)
    shutil.copyfile(whole, disk)
    console = login(programs, 2, second=disk)
    report = console.command("mount LABEL=openssl-tests /mnt; cd /mnt; HARNESS_JOBS=2 make run_tests >/tmp/report 2>&1; "
                             "grep -v '[.][.] *\\(ok\\|skipped\\)' /tmp/report | tail -n 40", 6 * 3600)
    print(report)
    # It runs one file of no tests first.
    assert report.rstrip().endswith("Result: PASS"), report
    assert int(re.findall(r"Tests=(\d+)", report)[-1]) > 3000, report
    console.command("cd /; umount /mnt")
    assert dmesg_problems(console.command("dmesg -r")) == []
    host.run("stop-vm", "-Name", "check", timeout=600)


# ---- JIT compilers: code that the guest writes, executes and throws away ----

def checksums(text):
    return [line for line in text.split("\n") if line.startswith("checksum")]


@pytest.mark.parametrize("script,commands", [
    ("jit.lua", ("luajit", "luajit -joff", "luajit -Ohotloop=2,hotexit=1")),
    ("jit.js", ("node", "node --jitless", "node --interrupt-budget=500")),
])
def test_jit_compilers(host, programs, login, script, commands):
    """The same checksums whatever the compiler does, and on the processor itself where that program is there."""
    console = login(programs, 2)
    send_file(console, script)
    expected = None
    if shutil.which(commands[0]):
        expected = checksums(subprocess.run([commands[0], os.path.join(os.path.dirname(__file__), script)], check=True,
                                            stdout=subprocess.PIPE, text=True).stdout)
    for command in commands:
        report = console.command("%s %s; echo status $?" % (command, script), 3600)
        print(report)
        assert "status 0" in report
        got = checksums(report)
        assert len(got) >= 9
        expected = expected or got
        assert got == expected
    assert dmesg_problems(console.command("dmesg -r")) == []
    host.run("stop-vm", "-Name", "check", timeout=600)
