"""-AsJob and what PowerShell does with jobs."""
import os
import time

from conftest import PATIENCE, wait_for
from test_remote import Far


def begin(host, *args):
    job = host.json(*args, "-AsJob")
    assert len(job) == 1
    return job[0]["Id"]


def test_a_job_and_what_it_found(host):
    host.new_vm("a")
    job = begin(host, "start-vm", "a")
    assert [j["State"] for j in host.json("wait-job", job)] == ["Completed"]
    assert host.vm("a")["State"] == "Running"
    shown = host.json("get-job", job)[0]
    assert shown["Name"] == "Job%d" % job and shown["Command"] == "Start-VM"
    assert shown["HasMoreData"]
    assert host.json("receive-job", job, "-Keep")[0]["Name"] == "a"
    assert host.json("receive-job", "-Name", "Job%d" % job)[0]["State"] == "Running"
    assert host.json("receive-job", job) == []
    assert not host.json("get-job", job)[0]["HasMoreData"]
    host.run("remove-job", job)
    assert "no job of this number" in host.run("get-job", job, status=1)


def test_one_that_fails(host):
    host.new_vm("a")
    job = begin(host, "stop-vm", "nobody")
    assert host.json("wait-job", job)[0]["State"] == "Failed"
    assert "Stop-VM 'nobody'" in host.run("receive-job", job, "-AutoRemoveJob", status=1)
    assert host.json("get-job") == []


def test_progress_waiting_and_ending(host):
    host.running_vm("a", "deaf")
    host.running_vm("b", "deaf")
    one, two = begin(host, "stop-vm", "a"), begin(host, "stop-vm", "b")
    assert [j["Id"] for j in host.json("get-job", "-State", "Running")] == [one, two]
    wait_for(lambda: "shut down" in (host.json("get-job", one)[0]["Progress"] or ""))
    assert host.json("get-job", one)[0]["Object"] == "a"
    assert "it is running" in host.run("receive-job", one, status=1)
    assert "it is running" in host.run("remove-job", one, status=1)
    host.run("wait-job", one, "-Timeout", "0")
    host.run("stop-vm", "b", "-TurnOff")
    assert [j["Id"] for j in host.json("wait-job", "%d,%d" % (one, two), "-Any")] == [two]
    assert host.json("stop-job", one)[0]["State"] == "Stopped"
    assert host.vm("a")["State"] in ("Stopping", "Running")
    host.run("remove-job", "-Name", "*")
    assert host.json("get-job") == []


def test_waiting_for_one_that_is_removed(host):
    host.running_vm("a", "deaf")
    job = begin(host, "stop-vm", "a")
    host.run("remove-job", job, "-Force")
    assert host.json("get-job") == []
    host.run("stop-vm", "a", "-TurnOff")


def test_a_conversion_that_is_ended(host):
    source, target = (os.path.join(host.folder, name) for name in ("a.raw", "b.vhdx"))
    block = os.urandom(1 << 20)
    with open(source, "wb") as f:
        for _ in range(200):
            f.write(block)
    job = begin(host, "convert-vhd", source, "-DestinationPath", target, "-VHDType", "Fixed")
    state = host.json("stop-job", job)[0]["State"]
    if os.path.exists(target):
        assert host.json("test-vhd", target)
    else:
        assert state == "Stopped"
    assert [n for n in os.listdir(host.folder) if n.startswith(("b", ".b"))] in ([], ["b.vhdx"])
    assert os.path.getsize(source) == 200 << 20


def test_jobs_of_others(host):
    far = Far(host)
    far.trust()
    host.running_vm("a", "deaf")
    job = begin(host, "stop-vm", "a")
    far.user("ada", "Operator")
    assert far.json("get-job") == []
    assert "no job" in far.run("stop-job", job, status=1)
    far.run("suspend-vm", "a", "-AsJob", status=0)
    own = far.json("get-job")
    assert own[0]["UserName"] == "ada" and own[0]["Command"] == "Suspend-VM"
    far.user("boss", "Administrator")
    assert {j["Id"] for j in far.json("get-job")} == {job, own[0]["Id"]}
    assert far.json("stop-job", job)[0]["State"] == "Stopped"


def test_a_job_keeps_the_service(host):
    host.env["OYAKO_STOP_IDLE_SECONDS"] = "1"
    host.new_vm("a", "slow=1")
    pid = host.daemon_pid()
    job = begin(host, "set-vm", "a", "-Notes", "x")
    time.sleep(2.5)
    assert host.daemon_pid() == pid
    host.run("receive-job", job)
