"""What only spares work goes once there is too much of it, the oldest first, nothing that may be in use."""

import os
import time
from pathlib import Path

from app.worker.room import make_room

HOUR = 3600


def add(parent: Path, name: str, size: int, hours: float) -> Path:
    folder = parent / name
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(bytes(size))
    used_at = time.time() - hours * HOUR
    os.utime(folder, (used_at, used_at))
    return folder


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    oldest, old, fresh = add(tmp_path, "a", 100, 72), add(tmp_path, "b", 100, 48), add(tmp_path, "c", 100, 1)
    assert make_room(tmp_path, 300) == 300
    assert make_room(tmp_path, 200) == 200
    assert (oldest.exists(), old.exists(), fresh.exists()) == (False, True, True)
    make_room(tmp_path, 0)
    assert (old.exists(), fresh.exists()) == (False, True)


def test_what_a_crash_left_goes_after_a_day(tmp_path: Path) -> None:
    left, busy = add(tmp_path, "new-1", 1, 25), add(tmp_path, "new-2", 1, 1)
    make_room(tmp_path, 1 << 30)
    assert (left.exists(), busy.exists()) == (False, True)


def test_no_folder_is_no_room_to_make(tmp_path: Path) -> None:
    assert make_room(tmp_path / "none", 0) == 0
