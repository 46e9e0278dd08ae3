"""Enhanced session: Debian's own xrdp in the guest, an RDP client on the host. Only with OYAKO_LONG=1: the guest has packages of its own.

The client is the beginning of one: it asks for TLS as [MS-RDPBCGR] 1.3.1.1 says and shakes hands.
"""
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess

import pytest

from conftest import GUESTS, LONG, Console, making, tool, wait_for

# TPKT, X.224 connection request, RDP_NEG_REQ: TLS.
CONNECTION_REQUEST = bytes.fromhex("03000013" "0ee00000000000" "0100080001000000")
TLS_SELECTED = 1


@pytest.mark.skipif(not LONG, reason="OYAKO_LONG=1 runs it")
def test_rdp_client_reaches_xrdp(host, tmp_path):
    folder = os.path.join(GUESTS, "debian-12-xrdp")
    with making():
        tool("guest-disk", folder, "xrdp", "openssl")
    disk = tmp_path / "web.vhdx"
    shutil.copyfile(os.path.join(folder, "disk.vhdx"), disk)
    host.new_vm(os.path.join(folder, "vmlinuz"), "web", memory="768MB", processors=2,
                initrd=os.path.join(folder, "initrd.img"), options=("-VHDPath", disk),
                cmdline="root=LABEL=oyako-root ro console=ttyS0")
    host.run("set-vm", "web", "-EnhancedSessionTransportType", "HvSocket")
    host.run("start-vm", "web")
    console = Console(host, "web")
    console.login(900)
    console.command("adduser xrdp ssl-cert; systemctl stop xrdp")
    done = host.run("connect-vm", "web", "-EnhancedSession", check=False)
    assert done.returncode == 1 and "nobody in the guest listens there" in done.stderr
    console.command("sed -i 's/^port=3389/port=vsock:\\/\\/-1:3389/' /etc/xrdp/xrdp.ini; systemctl restart xrdp")
    assert wait_for(lambda: ":3389" in console.command("ss -l --vsock"), 60)
    door = subprocess.Popen(host.command("connect-vm", "web", "-EnhancedSession"), env=host.env,
                            stdout=subprocess.PIPE, text=True)
    address = re.search(r"at (127\.0\.0\.1):(\d+); ", door.stdout.readline()).groups()
    with socket.create_connection(address, 60) as plain:
        plain.sendall(CONNECTION_REQUEST)
        answer = plain.recv(64)
        assert answer[5] == 0xd0 and int.from_bytes(answer[15:19], "little") == TLS_SELECTED, answer.hex()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with context.wrap_socket(plain) as secure:
            theirs = ssl.DER_cert_to_PEM_cert(secure.getpeercert(binary_form=True))
    assert theirs.split() == console.command("openssl x509 -in /etc/xrdp/cert.pem").split()
    door.send_signal(signal.SIGINT)
    assert door.wait(60) == 0
    console.close()
