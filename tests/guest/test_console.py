"""Screen, keyboard and mouse as stock drivers (hyperv_drm, hyperv_keyboard, hid_hyperv) know them."""
import array
import json
import mmap
import os
import socket
import struct
import zlib

import pytest

from conftest import Console, kernel_of, wait_for


def read_png(path):
    """Width, height and rows of RGB bytes."""
    with open(path, "rb") as f:
        data = f.read()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed = 8, b""
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size:at + 12 + size])[0] == zlib.crc32(kind + body)
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
            assert (depth, colour) == (8, 2)
        elif kind == b"IDAT":
            packed += body
        at += 12 + size
    raw, stride, rows = zlib.decompress(packed), width * 3, []
    before = bytes(stride)
    for y in range(height):
        filtered = raw[y * (stride + 1)]
        row = bytearray(raw[y * (stride + 1) + 1:(y + 1) * (stride + 1)])
        for x in range(stride if filtered else 0):
            left, up = row[x - 3] if x > 2 else 0, before[x]
            corner = before[x - 3] if x > 2 else 0
            guess = min((left, up, corner), key=lambda c: abs(left + up - corner - c))
            row[x] = (row[x] + (0, left, up, (left + up) // 2, guess)[filtered]) & 255
        before = bytes(row)
        rows.append(before)
    return width, height, rows


def lit(rows):
    return sum(len(row) - row.count(0) for row in rows)


@pytest.fixture
def console(host):
    kernel = kernel_of("generic")
    host.new_vm(kernel.image, initrd=kernel.initrd, memory="512MB",
                cmdline="console=ttyS0 panic=-1 cryptomgr.notests")
    host.run("set-vmvideo", "t", "Single", 1024, 768, "-Enabled", "true")
    host.run("start-vm", "t")
    console = Console(host, "t")
    console.expect("init: ready", 300)
    console.expect("# ", 60)
    console.plain_shell()
    console.command("dmesg -n 1; (setsid sh </dev/tty1 >/dev/tty1 2>&1 &)")
    yield console
    console.close()


def screenshot(host):
    path = os.path.join(host.folder, "screen.png")
    host.run("save-vmscreenshot", "t", path, "-Force")
    return read_png(path)


def test_typed_text_is_on_the_screen(host, console):
    width, height, before = screenshot(host)
    assert (width, height) == (1024, 768)
    host.run("send-vmtext", "t", "echo 'Aa1 {}|\"?' >/tmp/typed; for i in 1 2 3; do ls /proc /dev; done", "-Enter")
    assert wait_for(lambda: console.command("cat /tmp/typed").strip() == "Aa1 {}|\"?", 60)
    assert wait_for(lambda: lit(screenshot(host)[2]) > lit(before) + 20000, 120)
    host.run("send-vmkey", "t", "Ctrl+l")
    assert wait_for(lambda: lit(screenshot(host)[2]) < 20000, 120)
    failed = host.run("send-vmtext", "t", "\u00fc", check=False)
    assert failed.returncode == 1 and "no key" in failed.stderr
    failed = host.run("send-vmkey", "t", "Ctrl+Nokey", check=False)
    assert failed.returncode == 1 and "no key 'Nokey'" in failed.stderr


def test_mouse(host, console):
    device = console.command("grep -A4 'Vmbus HID' /proc/bus/input/devices | sed -n 's/.*\\(event[0-9]*\\).*/\\1/p'")
    assert device.strip().startswith("event"), console.command("cat /proc/bus/input/devices")
    console.command("(cat /dev/input/%s >/tmp/events &)" % device.strip().split()[0])
    host.run("send-vmmouse", "t", 1023, 0, "-Button", "Left")
    host.run("send-vmmouse", "t", 512, 767, "-Wheel", 3)
    wanted = {(3, 0, 32767),                     # X at the right edge
              (1, 0x110, 1), (1, 0x110, 0),      # the left button, down and up
              (3, 0, 16399), (3, 1, 32767),      # the middle of the lower edge
              (2, 8, 3)}                         # the wheel
    events = set()

    def seen():
        for line in console.command("hexdump -v -e '12/2 \"%u \" \"\\n\"' /tmp/events").split("\n"):
            numbers = [int(n) for n in line.split()]
            if len(numbers) == 12:
                events.add((numbers[8], numbers[9], numbers[10] | numbers[11] << 16))
        return wanted <= events

    assert wait_for(seen, 30), wanted - events


def receive(sock):
    data, ancillary, _, _ = sock.recvmsg(65536, socket.CMSG_SPACE(4))
    fds = array.array("i")
    for _, _, sent in ancillary:
        fds.frombytes(sent)
    return json.loads(data), list(fds)


def test_a_viewer_sees_what_is_drawn(host, console):
    folder = os.open(os.path.join(host.env["XDG_RUNTIME_DIR"], "oyako", "vm", host.vm("t")["VMId"]),
                     os.O_PATH)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.connect("/proc/self/fd/%d/control" % folder)  # the path itself may be too long
    os.close(folder)
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mine.settimeout(30)
    control.sendmsg([json.dumps({"id": 1, "op": "watch-display"}).encode()],
                    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [its.fileno()]))])
    its.close()
    message, (memory_fd,) = receive(mine)
    screen = message["screen"]
    assert (screen["width"], screen["height"]) == (1024, 768)
    memory = mmap.mmap(memory_fd, 0, prot=mmap.PROT_READ)
    os.close(memory_fd)
    host.run("send-vmtext", "t", "ls /proc", "-Enter")
    area = 0
    while area < 100 * 100:
        message, _ = receive(mine)
        for x1, y1, x2, y2 in message["damage"]:
            assert 0 <= x1 < x2 <= 1024 and 0 <= y1 < y2 <= 768
            area += (x2 - x1) * (y2 - y1)
    size = screen["pitch_bytes"] * screen["height"]
    assert wait_for(lambda: size - memory[screen["offset"]:screen["offset"] + size].count(0) > 20000, 30)
    mine.close()
    control.close()
