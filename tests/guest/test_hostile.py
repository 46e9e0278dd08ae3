"""Guests, disks and kernels that mean harm: only they themselves may come to harm.

tests/hostile/hostile.c is a guest that is let in like Linux and then writes rubbish to everything a
guest can reach. Its runs are also made with the programs of a sanitizer build, where there is one. OYAKO_LONG=1 runs 24 seeds instead of 4,
and twice the spoilt disks.
"""
import os
import random
import re
import shutil
import subprocess

import pytest

from conftest import BUILD, LONG, TOP, Console, Host, sanitizer_reports

HOSTILE = os.path.join(BUILD, "tests", "hostile", "hostile.elf")
ASAN = os.path.join(TOP, "build-asan")
PM1_CONTROL = 0x404


@pytest.fixture(params=["build", "sanitizers"])
def any_host(request, tmp_path):
    build = BUILD if request.param == "build" else ASAN
    if not os.path.exists(os.path.join(build, "bin", "oyako-worker")):
        pytest.skip("no sanitizer build in build-asan")
    host = Host(tmp_path, build)
    yield host
    host.clean_up()


def new_hostile(host, name, seed, rounds=20000, processors=1):
    disk = os.path.join(host.folder, name + ".raw")
    with open(disk, "wb") as f:
        f.truncate(64 << 20)
    host.new_vm(HOSTILE, name, memory="64MB", processors=processors,
                cmdline="seed=%d rounds=%d pm1=%d" % (seed, rounds, PM1_CONTROL),
                options=("-VHDPath", disk, "-SwitchName", "Default Switch"))


def assert_was_let_in(output):
    """The guest got offers, opened channels, had answers, and went on to its end."""
    assert int(re.search(r"hostile: offers (\d+)", output).group(1)) >= 5, output
    done = re.search(r"hostile: done, faults \d+, opens (\d+), replies (\d+)", output)
    assert done and int(done.group(1)) >= 10 and int(done.group(2)) >= 100, output


@pytest.mark.rig
@pytest.mark.parametrize("seed", range(1, 25 if LONG else 5))
def test_rubbish_from_a_guest(any_host, seed):
    new_hostile(any_host, "evil", seed)
    output = any_host.run_vm("evil", 120)
    assert_was_let_in(output)
    vm = any_host.vm("evil")
    assert vm["State"] == "Off" and vm["LastStopCode"] == "guest-shutdown", vm
    # The same worker's neighbours, switch and service go on.
    assert any_host.json("get-vmhost")[0]["VirtualMachineCount"] == 1
    assert any_host.workers() == []


@pytest.mark.rig
def test_a_neighbour_feels_nothing(host, kernel):
    """A guest on the same switch computes and keeps its network while another one rages."""
    host.new_vm(kernel.image, "good", initrd=kernel.initrd, memory="256MB",
                cmdline="console=ttyS0 cryptomgr.notests quiet",
                options=("-SwitchName", "Default Switch"))
    host.run("start-vm", "-Name", "good")
    console = Console(host, "good")
    console.expect("/ # ", 120)
    console.plain_shell()
    assert "lease of" in console.command("ip link set eth0 up; udhcpc -i eth0 -q -n 2>&1")
    before = console.command("head -c 8000000 /dev/urandom >/tmp/r; sha256sum /tmp/r")
    console.send("sha256sum /tmp/r; ping -c 20 -i 0.2 $(ip route | sed -n 's/default via "
                 "\\([^ ]*\\).*/\\1/p')\n")
    for seed in (101, 102):
        new_hostile(host, "evil%d" % seed, seed)
        assert_was_let_in(host.run_vm("evil%d" % seed, 300))
    after = console.expect("READY> ", 120)
    assert before in after, after
    assert ", 0% packet loss" in after, after
    assert host.vm("good")["State"] == "Running"
    console.command("echo still here")
    console.close()


def start_and_judge(host, name):
    """Starts a VM that may be refused; either way the worker must not die of it."""
    done = host.run("start-vm", "-Name", name, check=False)
    if done.returncode == 0:
        with host.worker_log(name) as log:
            host.run("stop-vm", "-Name", name, "-TurnOff")
            assert sanitizer_reports(log.read().decode("utf-8", "replace")) == []
    else:
        assert len(done.stderr.strip()) > 20, done.stderr
    vm = host.vm(name)
    text = str(vm["LastStopReason"]) + done.stderr
    assert vm["State"] == "Off"
    assert vm["LastStopCode"] in ("turned-off", "start-failed", "guest-shutdown"), vm
    assert "signal" not in text and "Sanitizer" not in text and "ended with" not in text, text
    assert host.workers() == []
    return done.returncode == 0, text


def spoil(path, chance, first, last, count):
    with open(path, "r+b") as f:
        for _ in range(count):
            f.seek(chance.randrange(first, last) & ~7)
            f.write(chance.choice([b"\xff" * 8, b"\0" * 8, chance.randbytes(8), chance.randbytes(1)]))


def test_spoilt_disk_images(any_host, tmp_path):
    whole = tmp_path / "whole.vhdx"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vhdx", str(whole), "64M"], check=True)
    chance = random.Random(20)
    # Headers, region tables, log, metadata and block allocation table lie in these.
    places = [(0, 0x50000), (0x10000, 0x30100), (0x100000, 0x100200), (0x200000, 0x210200),
              (0x300000, 0x300100)]
    refused = 0
    for n in range(20 if LONG else 10):
        disk = tmp_path / ("d%d.vhdx" % n)
        shutil.copyfile(whole, disk)
        spoil(disk, chance, *places[n % len(places)], 1 + chance.randrange(64))
        if n % 10 == 9:
            os.truncate(disk, chance.randrange(4096, os.path.getsize(disk)))
        any_host.new_vm(HOSTILE, "d%d" % n, memory="64MB", cmdline="seed=%d rounds=2000000" % n,
                        options=("-VHDPath", str(disk)))
        started, _ = start_and_judge(any_host, "d%d" % n)
        refused += not started
    assert refused, "none was noticed"


def test_spoilt_kernels(any_host, kernel, tmp_path):
    chance = random.Random(21)
    with open(kernel.image, "rb") as f:
        whole = f.read()
    with open(HOSTILE, "rb") as f:
        elf = f.read()
    spoilt = [b"", b"\0", b"MZ", chance.randbytes(100000), whole[:700], whole[:20000],
              whole[:len(whole) // 2], elf[:64], elf[:100]]
    for n in range(8):
        image = bytearray(whole if n % 2 else elf)
        for _ in range(1 + chance.randrange(8)):
            at = chance.randrange(0x1f1, 0x270) if n % 2 else chance.randrange(16, 0x200)
            image[at] = chance.choice([0, 0xff, chance.randrange(256)])
        spoilt.append(bytes(image))
    refused = 0
    for n, content in enumerate(spoilt):
        path = tmp_path / ("kernel%d" % n)
        path.write_bytes(content)
        any_host.new_vm(str(path), "k%d" % n, memory="64MB", cmdline="console=ttyS0")
        started, text = start_and_judge(any_host, "k%d" % n)
        refused += not started
    assert refused >= 6
