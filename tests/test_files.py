"""Files that appear whole, carry a checksum, and belong to one process at a time."""

import os
import platform
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cag_uda import files
from cag_uda.errors import InUseError
from cag_uda.files import LOCK, SUMS, is_sound, owned, seal, whole_file, write_text

HOLD = """
import sys, time
from pathlib import Path
from cag_uda.files import owned
with owned(Path(sys.argv[1]), "this run is going on"):
    print("held", flush=True)
    time.sleep(60)
"""
RENEW = """
import os, sys, time
while True:
    os.utime(sys.argv[1])
    time.sleep(0.05)
"""


def test_every_flipped_bit_of_a_sealed_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    write_text(path, "0123456789" * 100, sealed=True)
    whole = path.read_bytes()
    assert is_sound(path)
    for bit in random.Random(0).sample(range(8 * len(whole)), 100):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert is_sound(path) is False
    path.write_bytes(whole)
    assert is_sound(path)


def test_checksums_are_those_of_the_common_tool(tmp_path: Path) -> None:
    for text in ("one", "two", "one"):
        write_text(tmp_path / "a", text, sealed=True)
    write_text(tmp_path / "b", "three", sealed=True)
    write_text(tmp_path / "c", "no seal")
    assert is_sound(tmp_path / "c") is None
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", SUMS], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "a: OK\nb: OK\n"
    (tmp_path / "c").write_text("grown")
    seal(tmp_path / "c")
    assert is_sound(tmp_path / "c")


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[object] = []
    replace = Path.replace

    def renamed(path: Path, target: Path) -> Path:
        done.append("renamed")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", lambda handle: done.append(os.fstat(handle).st_ino))
    monkeypatch.setattr(Path, "replace", renamed)
    write_text(tmp_path / "a", "text")
    assert done == [(tmp_path / "a").stat().st_ino, "renamed", tmp_path.stat().st_ino]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_beside_the_renaming_leaves_a_sound_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "a"
    write_text(path, "old", sealed=True)
    name = "_add_digest" if moment == "before" else "_drop_old_digests"
    real = getattr(files, name)

    def killed(*arguments: object) -> None:
        if moment == "before":
            real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(files, name, killed)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new", sealed=True)
    assert path.read_text() == ("old" if moment == "before" else "new")
    assert is_sound(path)
    monkeypatch.undo()
    write_text(path, "old", sealed=True)
    assert is_sound(path)
    assert (tmp_path / SUMS).read_text().count("  a\n") == 1


def test_a_torn_line_of_checksums_swallows_no_other(tmp_path: Path) -> None:
    (tmp_path / SUMS).write_text("0123")
    with whole_file(tmp_path / "a", sealed=True) as temporary:
        temporary.write_text("x")
    assert is_sound(tmp_path / "a")


def test_a_second_owner_is_refused_by_name_and_a_dead_one_is_followed(tmp_path: Path) -> None:
    lock = tmp_path / "run" / LOCK
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    told = f"this run is going on in process {holder.pid} on {platform.node()}"
    with pytest.raises(InUseError, match=told), owned(lock, "this run is going on"):
        pass
    holder.kill()
    holder.wait()
    assert lock.exists(), "nobody was there to remove it"
    with owned(lock, "this run is going on"):
        assert lock.read_text() == f"process {os.getpid()} on {platform.node()}\n"
    assert not lock.exists()


def test_a_process_does_not_own_twice(tmp_path: Path) -> None:
    with owned(tmp_path / LOCK, "this run is going on"):
        again = owned(tmp_path / LOCK, "this run is going on")
        with pytest.raises(InUseError, match="in this very process"), again:
            pass
        assert subprocess.run([sys.executable, "-c", HOLD, str(tmp_path / LOCK)]).returncode, (
            "the attempt has not let go of the lock"
        )


def test_the_lock_of_another_host_holds_while_it_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_RENEWED_EVERY_S", 0.1)
    lock = tmp_path / LOCK
    lock.write_text("process 7 on elsewhere\n")
    renewing = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import os, time\nwhile 1: os.utime({str(lock)!r}); time.sleep(.05)",
        ]
    )
    try:
        time.sleep(0.5)
        with pytest.raises(InUseError, match="process 7 on elsewhere"), owned(lock, "it goes on"):
            pass
    finally:
        renewing.kill()
        renewing.wait()
    with owned(lock, "it goes on"):
        pass
