"""The event log as it grows, and the description of the API."""
import json
import subprocess

from conftest import PATIENCE
from test_remote import Far


class Follower:
    """One that reads `get-vmevent -Wait`."""

    def __init__(self, host, *args):
        self.process = subprocess.Popen(host.command("get-vmevent", "-Wait", "--json", *args),
                                        env=host.env, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)

    def next(self):
        return json.loads(self.process.stdout.readline())

    def until(self, kind):
        event = self.next()
        while event["Event"] != kind:
            event = self.next()
        return event

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def test_follow(host):
    host.new_vm("a")
    host.new_vm("b", "off=0")
    with Follower(host) as all_events, Follower(host, "b", "-MaxEvents", "1") as of_b:
        assert all_events.next()["Event"] == "service-started"
        assert all_events.until("vm-created")["VMName"] == "a"
        assert of_b.next()["Event"] == "vm-created"
        host.run("start-vm", "a")
        host.run("start-vm", "b")
        assert all_events.until("vm-started")["VMName"] == "a"
        assert of_b.next()["Event"] == "vm-started"
        assert of_b.until("vm-shut-down-by-guest")["VMName"] == "b"
        host.end_daemon()
        assert all_events.process.wait(PATIENCE) == 1


def test_follow_from_elsewhere(host):
    far = Far(host)
    far.trust()
    far.user("ada", "Reader")
    with Follower(host, "-ComputerName", far.name, "-MaxEvents", "1") as events:
        events.next()
        host.new_vm("a")
        assert events.until("vm-created")["VMName"] == "a"
        host.run("set-vmhost", "-ApiAddress", "")
        assert events.process.wait(PATIENCE) == 1
    assert host.vm("a")["State"] == "Off"


def test_followers_come_and_go(host):
    host.new_vm("a")
    for _ in range(5):
        with Follower(host) as events:
            events.next()
    host.run("rename-vm", "a", "b")
    assert host.vm("b")["State"] == "Off"


def test_who_may_follow(host):
    far = Far(host)
    far.trust()
    far.user("eve", "Console")
    assert "needs the role Reader" in far.run("get-vmevent", "-Wait", status=1)


def test_openapi(host):
    host.new_vm("a")
    status, served = host.http("GET", "/v1/openapi.json")
    printed = json.loads(host.run("get-vmapidescription"))
    assert status == 200 and served == printed
    assert served["openapi"].startswith("3.")
    operation = served["paths"]["/v1/cmdlet/Stop-VM"]["post"]
    assert operation["x-role"] == "Operator"
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["Name"]["type"] == "array" and "Name" in schema["required"]
    names = set()
    for path, methods in served["paths"].items():
        for method, one in methods.items():
            assert method in ("get", "post", "delete") and one["responses"] and one["summary"]
            names.add(path)
            for parameter in one.get("parameters", []):
                assert (parameter["in"] == "path") == ("{%s}" % parameter["name"] in path)
    assert "/v1/events" in names

    def references(node):
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    for reference in set(references(served)):
        node = served
        for part in reference[2:].split("/"):
            node = node[part]
