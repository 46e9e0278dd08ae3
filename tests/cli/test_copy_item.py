"""Copy-Item with a guest that is this machine: instead of ssh runs a script that does what the guest's sshd would, breaks
connections off where the test says so, and lets the guest's programs be others."""
import os
import shutil
import stat
import tarfile

import pytest

BIG = 20 << 20  # copied by itself, not by tar

SSH = """#!/bin/sh
# Commands that contain the first word of the file `cut` get or give only so many bytes.
for command; do :; done
export PATH="GUEST/bin:$PATH"
if [ -s GUEST/cut ]; then
    read -r way word bytes <GUEST/cut
    case $command in *"$word"*)
        rm GUEST/cut
        if [ "$way" = in ]; then
            head -c "$bytes" | sh -c "$command"
        else
            sh -c "$command" | head -c "$bytes"
        fi
        kill -KILL $$ ;;
    esac
fi
exec sh -c "$command"
"""


class Guest:
    def __init__(self, host, folder):
        self.host = host
        self.folder = folder / "guest"
        (self.folder / "bin").mkdir(parents=True)
        fake = folder / "bin"
        fake.mkdir()
        self.script(fake / "ssh", SSH.replace("GUEST", str(self.folder)))
        host.env["PATH"] = "%s:%s" % (fake, host.env["PATH"])
        host.running_vm("a")

    def script(self, path, text):
        path.write_text(text)
        path.chmod(0o755)

    def cut(self, way, word, byte_count):
        (self.folder / "cut").write_text("%s %s %d\n" % (way, word, byte_count))

    def copy(self, source, destination, *options, status=0):
        return self.host.run("copy-item", source, destination, *options, "-Recurse", "-Transport", "SSH", status=status)

    def send(self, source, destination, status=0):
        return self.copy(source, destination, "-ToSession", "a", status=status)

    def fetch(self, source, destination, status=0):
        return self.copy(source, destination, "-FromSession", "a", status=status)


@pytest.fixture
def guest(host, tmp_path):
    return Guest(host, tmp_path)


def make_tree(folder):
    (folder / "sub" / "deeper").mkdir(parents=True)
    for i in range(40):
        (folder / "sub" / ("file%d" % i)).write_bytes(os.urandom(50000))
    (folder / "big").write_bytes(os.urandom(BIG))
    (folder / "sub" / "deeper" / "big").write_bytes(os.urandom(BIG))
    (folder / "empty").mkdir()
    for name in ("-x", "it's a file", "new\nline", "ä", "nothing"):
        (folder / name).write_text("" if name == "nothing" else name)
    (folder / "-x").chmod(0o750)
    (folder / "link").symlink_to("sub/file1")
    (folder / "nowhere").symlink_to("/no/such")
    (folder / "sub" / "file1").chmod(0o600)
    os.utime(folder / "sub" / "file2", ns=(0, 1234567890123456789))
    return folder


def contents(folder):
    """All that makes up a tree: the type and mode, time and bytes or target of each path."""
    found = {}
    for base, folders, files in os.walk(folder):
        for name in folders + files:
            path = os.path.join(base, name)
            st = os.lstat(path)
            what = os.readlink(path) if stat.S_ISLNK(st.st_mode) else None
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb") as f:
                    what = (st.st_mtime_ns, f.read())
            found[os.path.relpath(path, folder)] = (stat.S_IFMT(st.st_mode), None if os.path.islink(path) else
                                                    stat.S_IMODE(st.st_mode), what)
    return found


def inodes(folder):
    """Whatever was written anew is another file: the number alone may have been given out again."""
    found = {}
    for base, _, names in os.walk(folder):
        for name in names:
            st = os.lstat(os.path.join(base, name))
            found[os.path.relpath(os.path.join(base, name), folder)] = st.st_ino, st.st_ctime_ns
    return found


def test_a_folder_to_the_guest_goes_on(guest, tmp_path):
    tree, there = make_tree(tmp_path / "tree"), guest.folder / "srv" / "tree"
    part = there / "big.oyako-part"
    guest.cut("in", "cat", 5 << 20)
    assert "interrupted" in guest.send(tree, there.parent, status=1)
    parts = [path for path in there.rglob("*.oyako-part")]
    assert len(parts) == 1 and parts[0].stat().st_size == 5 << 20
    part, node = parts[0], parts[0].stat().st_ino
    guest.cut("in", "-xf", 1 << 20)
    assert "interrupted" in guest.send(tree, there.parent, status=1)
    assert part.with_suffix("").stat().st_ino == node  # the part has become the file
    complete = {path: node for path, node in inodes(there).items()
                if not os.path.islink(there / path) and os.lstat(tree / path).st_mtime_ns == os.lstat(there / path).st_mtime_ns}
    assert 10 < len(complete) < 40
    guest.send(tree, there.parent)
    assert contents(there) == contents(tree)
    after = inodes(there)
    assert {path: after[path] for path in complete} == complete
    # What was changed since is copied again, and only that.
    (tree / "sub" / "file3").write_text("other")
    (tree / "big").write_bytes(os.urandom(BIG))
    guest.send(tree, there.parent)
    assert contents(there) == contents(tree)
    now = inodes(there)
    changed = {path for path in now if now[path] != after[path]}
    assert changed - {"link", "nowhere"} == {"sub/file3", "big"}


def test_a_folder_from_the_guest_goes_on(guest, tmp_path):
    tree, here = make_tree(guest.folder / "tree"), tmp_path / "back"
    stage = here / "tree.oyako-part"
    guest.cut("out", "tail", 5 << 20)
    assert "interrupted" in guest.fetch(tree, here, status=1)
    parts = [path for path in stage.rglob("*.oyako-part")]
    assert len(parts) == 1 and not (here / "tree").exists()
    part, node = parts[0], parts[0].stat().st_ino
    guest.cut("out", "-cf", 1 << 20)
    assert "interrupted" in guest.fetch(str(tree) + "/", here, status=1)
    assert part.with_suffix("").stat().st_ino == node
    complete = {path: node for path, node in inodes(stage).items()
                if not os.path.islink(stage / path) and os.lstat(tree / path).st_mtime_ns == os.lstat(stage / path).st_mtime_ns}
    assert 10 < len(complete) < 40 and not (here / "tree").exists()
    # What the guest has no more, or in another shape, does not stay behind.
    gone = [path for path in complete if path.startswith("sub/file")][:2]
    os.unlink(tree / gone[0])
    os.unlink(tree / gone[1])
    (tree / gone[1]).mkdir()
    guest.fetch(tree, here)
    assert contents(here / "tree") == contents(tree) and os.listdir(here) == ["tree"]
    after = inodes(here / "tree")
    assert all(after[path] == node for path, node in complete.items() if path not in gone)
    # Into one that is there, files that the guest does not have stay.
    (here / "tree" / "mine").write_text("mine")
    (here / "tree" / "sub" / "mine").write_text("mine")
    (tree / "sub" / "file5").write_text("other")
    guest.fetch(tree, here)
    assert (here / "tree" / "mine").read_text() == (here / "tree" / "sub" / "mine").read_text() == "mine"
    (here / "tree" / "mine").unlink()
    (here / "tree" / "sub" / "mine").unlink()
    assert contents(here / "tree") == contents(tree) and os.listdir(here) == ["tree"]


def test_files_and_what_is_not_there(guest, tmp_path):
    there = guest.folder / "f"
    there.write_text("a file")
    guest.fetch(there, tmp_path / "new")
    assert (tmp_path / "new" / "f").read_text() == "a file"
    assert "failed in the guest" in guest.fetch(guest.folder / "none", tmp_path / "new", status=1)
    assert "no name of a folder" in guest.fetch("..", tmp_path / "new", status=1)
    assert os.listdir(tmp_path / "new") == ["f"]
    # A guest whose programs are not GNU's sends all by its tar.
    guest.script(guest.folder / "bin" / "find", "#!/bin/sh\nexit 1\n")
    tree = make_tree(guest.folder / "tree")
    guest.fetch(tree, tmp_path / "new")
    assert {path: what[2] if what[2] is None or isinstance(what[2], str) else what[2][1]
            for path, what in contents(tmp_path / "new" / "tree").items()} == \
           {path: what[2] if what[2] is None or isinstance(what[2], str) else what[2][1]
            for path, what in contents(tree).items()}


def test_what_the_guest_can_not_read(guest, tmp_path):
    """The rest comes all the same, and is not taken for the whole."""
    tree = make_tree(guest.folder / "tree")
    guest.script(guest.folder / "bin" / "tar", "#!/bin/sh\n/bin/tar \"$@\"\nexit 2\n")
    assert "not all of" in guest.fetch(tree, tmp_path / "back", status=1)
    assert contents(tmp_path / "back" / "tree") == contents(tree)


def hostile_archive(path, outside):
    with tarfile.open(path, "w") as archive:
        def add(name, kind=tarfile.REGTYPE, target="", mode=0o644):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, target, mode
            archive.addfile(info)
        add("good", mode=0o4755)
        add("../escaped")
        add(str(outside / "absolute"))
        add("out", tarfile.SYMTYPE, str(outside))
        add("out/through-link")
        add("old/through-old-link")
        add("data/through-folder")
        add("up", tarfile.SYMTYPE, "../..")
        add("up/through-up")
        add("fifo", tarfile.FIFOTYPE)
        add("disk", tarfile.BLKTYPE)


def test_a_hostile_guest(guest, tmp_path):
    """Nothing comes to lie outside of the folder, whatever the archive says, also where links of an earlier copy are."""
    outside, here = tmp_path / "outside", tmp_path / "back"
    outside.mkdir()
    stage, target = here / "tree.oyako-part", here / "tree"
    stage.mkdir(parents=True)
    target.mkdir()
    (stage / "old").symlink_to(outside)
    (target / "data").symlink_to(outside)
    tree = guest.folder / "tree"
    tree.mkdir()
    hostile_archive(guest.folder / "archive", outside)
    guest.script(guest.folder / "bin" / "tar", "#!/bin/sh\nexec cat %s\n" % (guest.folder / "archive"))
    for _ in range(2):
        guest.copy(tree, here, "-FromSession", "a", status=1)
        assert os.listdir(outside) == [] and sorted(os.listdir(here)) == ["tree", "tree.oyako-part"]
        assert not (tmp_path / "escaped").exists()
    # Without what tar itself refuses it goes into its place.
    with tarfile.open(guest.folder / "archive", "w") as archive:
        for name in ("good", "data/file"):
            info = tarfile.TarInfo(name)
            info.mode = 0o4755
            archive.addfile(info)
        fifo = tarfile.TarInfo("fifo")
        fifo.type = tarfile.FIFOTYPE
        archive.addfile(fifo)
    shutil.rmtree(stage)
    guest.fetch(tree, here)
    assert os.listdir(outside) == [] and sorted(os.listdir(here)) == ["tree"]
    assert sorted(os.listdir(target)) == ["data", "good"] and not (target / "data").is_symlink()
    assert stat.S_IMODE((target / "good").stat().st_mode) == 0o755


@pytest.mark.parametrize("says", [r"f 1 1.0000000000 ../escaped\0", r"f 99999999 1.0000000000 /etc/passwd\0", "nonsense"])
def test_a_hostile_listing(guest, tmp_path, says):
    tree = guest.folder / "tree"
    tree.mkdir()
    guest.script(guest.folder / "bin" / "find", "#!/bin/sh\nprintf '%s'\n" % says)
    assert "rubbish" in guest.fetch(tree, tmp_path / "back", status=1)
    assert os.listdir(tmp_path / "back") == []
    (tmp_path / "own" / "tree").mkdir(parents=True)
    assert "rubbish" in guest.send(tmp_path / "own" / "tree", guest.folder, status=1)


def test_an_endless_listing(guest, tmp_path):
    tree = guest.folder / "tree"
    tree.mkdir()
    guest.script(guest.folder / "bin" / "find", "#!/bin/sh\nexec yes 'f 1 1.0000000000 a' 2>/dev/null\n")
    assert "rubbish" in guest.fetch(tree, tmp_path / "back", status=1)
