"""The shell that `oyako` is on a terminal."""
import os
import pty
import select
import time

from conftest import PATIENCE, is_alive, wait_for


class Terminal:
    def __init__(self, host):
        env = dict(host.env, TERM="xterm", XDG_STATE_HOME=os.path.join(host.folder, "state"))
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(host.command()[0], host.command(), env)
        self.text = ""

    def type(self, text):
        os.write(self.fd, text.encode())

    def read(self, wanted):
        """Reads until wanted has come; what came before it is forgotten."""
        deadline = time.monotonic() + PATIENCE
        while wanted not in self.text:
            assert time.monotonic() < deadline, self.text
            if select.select([self.fd], [], [], 1)[0]:
                self.text += os.read(self.fd, 10000).decode(errors="replace")
        before, _, self.text = self.text.partition(wanted)
        return before

    def line(self, text):
        self.type(text + "\r")

    def end(self):
        self.line("exit")
        wait_for(lambda: not is_alive(self.pid))
        os.waitpid(self.pid, 0)
        os.close(self.fd)


def test_shell(host):
    host.new_vm("web server")
    terminal = Terminal(host)
    terminal.read("oyako> ")
    terminal.line("get-vm 'web server'")
    terminal.read("web server Off")
    terminal.line("get-vm | oyako get-vmmemory|where-object Name -eq '|'")
    terminal.read("no property 'Name'")
    terminal.line("get-vm 'web*' | set-vmmemory -DynamicMemoryEnabled $true -MinimumBytes 64MB")
    wait_for(lambda: host.vm("web server")["DynamicMemoryEnabled"])
    terminal.line("get-vm |")
    terminal.read("a cmdlet is missing beside a pipe")
    terminal.line('start-vm "web server"')
    wait_for(lambda: host.vm("web server")["State"] == "Running")
    terminal.line("get-vm 'web")
    terminal.read("a quote is not closed")
    terminal.line("strat-vm")
    terminal.read("did you mean")
    terminal.end()
    with open(os.path.join(host.folder, "state", "oyako", "history")) as f:
        kept = f.read()
    assert "start-vm" in kept and "web" in kept
    # A line of before, by the arrow up (behind `exit` and the two that were wrong).
    host.run("stop-vm", "web server", "-TurnOff")
    terminal = Terminal(host)
    terminal.read("oyako> ")
    for _ in range(3):
        terminal.type("\x1b[A")
    terminal.line("")
    wait_for(lambda: host.vm("web server")["State"] == "Running")
    terminal.end()


def test_completion_in_the_shell(host):
    host.new_vm("website")
    terminal = Terminal(host)
    terminal.read("oyako> ")
    terminal.line("start-vm web\t")
    wait_for(lambda: host.vm("website")["State"] == "Running")
    terminal.line("get-vmsw\t-FormatList")
    terminal.read("PortCount")
    terminal.end()


def test_without_a_terminal_it_helps(host):
    assert "oyako help" in host.run()
