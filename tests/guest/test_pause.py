"""How long a guest stands still for a checkpoint while it writes its memory and disk all the time, as it and its worker see it."""
import os
import shutil

import pytest

from conftest import LONG, Console, wait_for

CHECKPOINTS = 5

# The largest gap, in ms, between two looks at the clock since /run/gap was emptied.
WATCH = """
my $buffer = pack("q2", 0, 0);
sub now { syscall(228, 1, $buffer); my ($s, $ns) = unpack("q2", $buffer); $s * 1e3 + $ns / 1e6 }
my ($last, $most) = (now(), 0);
for (;;) {
	select(undef, undef, undef, 0.001);
	my $now = now();
	$most = 0 if -z "/run/gap";
	if ($now - $last > $most) {
		$most = $now - $last;
		open(my $f, ">", "/run/gap.new");
		printf $f "%.1f\\n", $most;
		close($f);
		rename("/run/gap.new", "/run/gap");
	}
	$last = now();
}
"""

# Goes on computing the same.
COMPUTE = """
sum=$(seq 50000 | md5sum)
n=0
while :; do
	[ "$(seq 50000 | md5sum)" = "$sum" ] || echo "$n" >>/root/wrong
	n=$((n + 1))
	echo $n >/run/n.new
	mv /run/n.new /run/n
done
"""


def give(console, path, text):
    console.command("cat >%s <<'END'\n%s\nEND" % (path, text))


def gap(console):
    return float(console.command("cat /run/gap") or 0)


@pytest.mark.skipif(not LONG, reason="takes minutes: OYAKO_LONG=1")
def test_pause_of_a_checkpoint_under_stress(host, debian, tmp_path):
    disk = str(tmp_path / "disk.vhdx")
    shutil.copyfile(os.path.join(debian, "disk.vhdx"), disk)
    host.new_vm(os.path.join(debian, "vmlinuz"), "t", initrd=os.path.join(debian, "initrd.img"), memory="1GB", processors=2,
                cmdline="root=LABEL=oyako-root ro console=ttyS0", options=["-VHDPath", disk])
    host.run("set-vm", "-Name", "t", "-CheckpointType", "Standard")
    host.run("start-vm", "-Name", "t")
    console = Console(host, "t")
    console.login(900)
    give(console, "/root/watch.pl", WATCH)
    give(console, "/root/compute.sh", COMPUTE)
    console.command("chrt -f 99 perl /root/watch.pl & sh /root/compute.sh &")
    console.command("stress-ng --verify --cpu 1 --vm 2 --vm-bytes 400M --hdd 1 --hdd-bytes 64M --temp-path /root "
                    ">/root/stress.log 2>&1 &")
    pauses, gaps, usual = [], [], []
    for number in range(CHECKPOINTS):
        console.command("sleep 3; : >/run/gap; sleep 6")
        usual.append(gap(console))
        console.command(": >/run/gap")
        host.run("checkpoint-vm", "-Name", "t", "-SnapshotName", "c%d" % number, timeout=600)
        gaps.append(gap(console))
        taken = [e for e in host.json("get-vmevent", "t") if e["Event"] == "vm-checkpoint"][0]
        pauses.append(taken["Data"]["PauseMilliseconds"])
        print("paused for", pauses[-1], "ms;", taken["Data"], "; the guest saw", gaps[-1], "ms, without a checkpoint", usual[-1])
    before = int(console.command("cat /run/n"))
    console.close()
    # As it was at the first, and on from there.
    host.run("restore-vmsnapshot", "-Name", "c0", "-VMName", "t", "-Confirm:false", timeout=600)
    host.run("start-vm", "-Name", "t", timeout=600)
    console = Console(host, "t")
    console.send("\n")
    console.expect("READY> ", 300)
    first = int(console.command("cat /run/n"))
    assert first < before
    assert wait_for(lambda: int(console.command("cat /run/n")) > first + 5, 300)
    assert console.command("cat /root/wrong") == "cat: /root/wrong: No such file or directory"
    report = console.command("pkill -INT -x stress-ng; wait %3; cat /root/stress.log; dmesg -r | grep -i 'error'", 300)
    console.close()
    assert "successful run completed" in report and "fail" not in report.replace("failed: 0", ""), report
    # The host's other work is in single ones.
    assert sorted(pauses)[CHECKPOINTS // 2] < 100, (pauses, gaps, usual)
    assert sorted(gaps)[CHECKPOINTS // 2] < 100 + max(usual), (pauses, gaps, usual)
