"""Production checkpoints of a guest that writes a database: what they restore is clean, and nothing committed is lost.

Runs with OYAKO_LONG=1 (50 rounds), or with OYAKO_CHECKPOINTS=ROUNDS.
"""
import os
import re

import pytest

from conftest import LONG, Console, debian_of, wait_for
from test_services import Debian

ROUNDS = int(os.environ.get("OYAKO_CHECKPOINTS", "50" if LONG else "0"))
DATABASE = "/root/bank.db"

# Two accounts between which money goes to and fro, a line for each transfer, and beside it a file that grows.
# What the loop prints has been committed.
LOAD = """cat >/root/load <<'END'
rm -f /root/go; touch /root/go
(while [ -e /root/go ]; do dd if=/dev/urandom of=/root/filler bs=64k count=200 conv=fsync 2>/dev/null; done) &
while [ -e /root/go ]; do
	echo "BEGIN; UPDATE account SET money = money - 7 WHERE id = 1; UPDATE account SET money = money + 7 WHERE id = 2;"
	echo "INSERT INTO transfer(money, note) VALUES (7, hex(randomblob(200))); COMMIT;"
	echo "SELECT max(id) FROM transfer;"
done | sqlite3 -bail %s >/root/committed 2>/root/failed
wait
END
chmod +x /root/load""" % DATABASE

TABLES = """sqlite3 %s "CREATE TABLE account(id INTEGER PRIMARY KEY, money INTEGER); INSERT INTO account VALUES (1, 1000000), (2, 0);
CREATE TABLE transfer(id INTEGER PRIMARY KEY AUTOINCREMENT, money INTEGER, note TEXT)" """ % DATABASE


class Bank(Debian):
    def sql(self, text):
        return self.console.command('sqlite3 -cmd ".timeout 60000" %s "%s"' % (DATABASE, text))

    def begin(self):
        self.console.command("rm -f /root/committed; (setsid /root/load </dev/null >/dev/null 2>&1 &)")
        assert wait_for(lambda: self.committed() > 0, 60)

    def committed(self):
        """The last transfer of which the database has said that it is on the disk."""
        said = self.console.command("tail -n 1 /root/committed 2>/dev/null").strip()
        return int(said) if said.isdigit() else 0

    def boot(self):
        self.host.run("start-vm", "web", timeout=300)
        self.console = Console(self.host, "web")
        self.console.login(900)

    def check_restored(self, at_least):
        """The file system and the database are as if they had been closed; returns the last transfer."""
        log = self.console.command("dmesg | grep -E 'EXT4-fs|I/O error'")
        assert not re.search("recover|orphan|error", log), log
        assert self.sql("PRAGMA integrity_check") == "ok"
        count, last, sent = self.sql("SELECT count(*), max(id), total(money) FROM transfer").split("|")
        assert int(count) == int(last) >= at_least
        first, second = self.sql("SELECT money FROM account ORDER BY id").split()
        assert int(first) + int(second) == 1000000 and int(second) == float(sent) == 7 * int(count)
        return int(last)


@pytest.fixture
def bank(host, tmp_path):
    bank = Bank(host, tmp_path, debian_of(os.environ.get("OYAKO_KERNEL", "cloud")))
    bank.console.command(LOAD)
    bank.console.command(TABLES)
    assert wait_for(lambda: bank.status("VSS") == "OK", 120)
    yield bank
    bank.console.close()


@pytest.mark.skipif(not ROUNDS, reason="takes half a minute a round")
def test_database_is_clean_in_each_checkpoint(bank):
    host = bank.host
    for n in range(ROUNDS):
        bank.begin()
        before = bank.committed()
        taken = host.json("checkpoint-vm", "web", "-SnapshotName", "round %d" % n, "-Passthru")[0]
        assert taken["CheckpointType"] == "Production", host.json("get-vmevent", "web")
        # It goes on, and what it does then is not in the checkpoint.
        after = bank.committed()
        assert wait_for(lambda: bank.committed() > after + 5, 120)
        last = bank.committed()
        bank.console.close()
        host.run("stop-vm", "web", "-TurnOff", "-Force")
        host.run("restore-vmsnapshot", "-VMName", "web", "-Name", "round %d" % n)
        assert host.vm("web")["State"] == "Off"
        bank.boot()
        restored = bank.check_restored(before)
        assert restored < last
        print("round %d: %d committed before, %d restored, %d written meanwhile" % (n, before, restored, last))
        host.run("remove-vmsnapshot", "web", "round %d" % n, timeout=600)
        assert wait_for(lambda: host.run("get-vmsnapshot", "web").stdout.strip() == "", 300)
        assert wait_for(lambda: bank.status("VSS") == "OK", 120)
