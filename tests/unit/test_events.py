"""TensorBoard event files: what is written is read back by the real tensorboard package."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

from stoker.runs.events import Events, _masked_crc, _varint
from tests.conftest import need


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return tag -> (step, value) of a folder of event files."""
    need(importlib.util.find_spec("tensorboard") is not None, "the package tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(entry.step, entry.value) for entry in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    events = Events(tmp_path)
    events.add(1, {"loss/train": 0.5, "accuracy/test": 0.25})
    events.add(300_000_000_000, {"loss/train": 1e300, "grün": -2.0})
    events.add(2, {})
    events.close()
    assert read(tmp_path) == {
        "loss/train": [(1, 0.5), (300_000_000_000, math.inf)],
        "accuracy/test": [(1, 0.25)],
        "grün": [(300_000_000_000, -2.0)],
    }


def test_every_line_is_on_the_disk_before_the_file_is_closed(tmp_path: Path) -> None:
    events = Events(tmp_path)
    events.add(1, {"loss": 3.0})
    assert read(tmp_path) == {"loss": [(1, 3.0)]}
    events.close()


def test_nan_stays_nan(tmp_path: Path) -> None:
    events = Events(tmp_path)
    events.add(1, {"loss": float("nan")})
    events.close()
    assert math.isnan(read(tmp_path)["loss"][0][1])


def test_a_resumed_run_opens_a_new_file_and_takes_back_the_steps_that_it_repeats(tmp_path: Path) -> None:
    first = Events(tmp_path)
    for step in (1, 2, 3):
        first.add(step, {"loss": float(step)})
    first.close()
    second = Events(tmp_path, resumed_at=1)
    second.add(2, {"loss": 20.0})
    second.close()
    assert first.path != second.path
    assert sorted([first.path, second.path]) == [first.path, second.path]
    assert read(tmp_path) == {"loss": [(1, 1.0), (2, 20.0)]}


def test_crc_and_varints_are_those_of_their_specifications() -> None:
    def unmasked(data: bytes) -> int:
        rotated = (int.from_bytes(_masked_crc(data), "little") - 0xA282EAD8) & 0xFFFFFFFF
        return (rotated << 15 | rotated >> 17) & 0xFFFFFFFF

    assert unmasked(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert unmasked(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert [_varint(value) for value in (0, 1, 127, 128, 300)] == [b"\x00", b"\x01", b"\x7f", b"\x80\x01", b"\xac\x02"]
