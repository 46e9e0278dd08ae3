"""Groups of virtual machines, and groups of groups."""
import json
import os


def group(host, name):
    return host.json("get-vmgroup", name)[0]


def test_groups_of_vms(host):
    host.new_vm("a")
    host.new_vm("b")
    host.run("new-vmgroup", "web", "VMCollectionType")
    assert "there is a group" in host.run("new-vmgroup", "WEB", "VMCollectionType", status=1)
    host.run("add-vmgroupmember", "web", "-VM", "a,b")
    host.run("add-vmgroupmember", "web", "-VM", "A")
    assert group(host, "web")["VMMembers"] == ["a", "b"]
    assert "there is no virtual machine 'c'" in host.run("add-vmgroupmember", "web", "-VM", "c",
                                                         status=1)
    assert "has other members" in host.run("add-vmgroupmember", "web", "-VMGroupMember", "web",
                                           status=1)
    host.run("rename-vm", "a", "z")
    host.run("remove-vmgroupmember", "web", "-VM", "b")
    host.run("rename-vmgroup", "web", "shop")
    host.kill_daemon()
    assert group(host, "shop")["VMMembers"] == ["z"]
    host.run("remove-vm", "z", "-Force")
    assert group(host, "shop")["VMMembers"] == []
    assert "there is no group" in host.run("get-vmgroup", "web", status=1)
    host.run("remove-vmgroup", "shop", "-Force")
    assert host.json("get-vmgroup") == []


def test_groups_of_groups(host):
    guid = "0f8fad5b-d9cb-469f-a165-70867728950e"
    host.new_vm("a")
    host.run("new-vmgroup", "web", "VMCollectionType")
    host.run("new-vmgroup", "site", "ManagementCollectionType", guid)
    host.run("new-vmgroup", "world", "ManagementCollectionType")
    host.run("add-vmgroupmember", "-Id", guid, "-VMGroupMember", "web")
    host.run("add-vmgroupmember", "world", "-VMGroupMember", "site")
    assert "member of itself" in host.run("add-vmgroupmember", "site", "-VMGroupMember", "world",
                                          status=1)
    assert "member of itself" in host.run("add-vmgroupmember", "site", "-VMGroupMember", "site",
                                          status=1)
    assert host.json("get-vmgroup", "-Id", guid)[0]["VMGroupMembers"] == ["web"]
    host.run("remove-vmgroup", "web", "-Force")
    assert group(host, "site")["VMGroupMembers"] == []
    assert "has other members" in host.run("add-vmgroupmember", "site", "-VM", "a", status=1)


def test_a_damaged_file_is_left_alone(host):
    host.run("new-vmgroup", "web", "VMCollectionType")
    path = os.path.join(host.state, "groups.json")
    good = json.load(open(path))
    for bad in ("{", '{"version":2,"groups":[]}', '{"version":1,"groups":[{}]}',
                '{"version":1,"groups":[5]}',
                json.dumps(good).replace('"members": []', '"members": [5]')):
        with open(path, "w") as f:
            f.write(bad)
        assert "groups.json" in host.run("get-vmgroup", status=1)
        host.run("new-vmgroup", "other", "VMCollectionType", status=1)
        assert open(path).read() == bad
