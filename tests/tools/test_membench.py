"""The stores that membench compares hold the same steps, and its figures add up."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lz4")
pytest.importorskip("onnx")
pytest.importorskip("ale_py")
TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import stores  # noqa: E402

from seer_edge.envs import EnvSpec, Frame, Step  # noqa: E402
from seer_edge.networks.spec import encoder_spec  # noqa: E402
from seer_runtime.codecs import LATENT_ELEMENT_BYTES  # noqa: E402

FRAME_SHAPE = (25, 25)
FRAME_BYTES = 625
BUDGET_BYTES = 1_000_000


class Noise:
    """Frames of a few gray levels in episodes of 1 to 60 steps that end both ways."""

    spec = EnvSpec("test/Noise-v0", "Noise", FRAME_SHAPE, 3)

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.left = 0

    def _frame(self) -> Frame:
        return self.rng.integers(0, 256, FRAME_SHAPE, np.uint8)

    def reset(self) -> Frame:
        self.left = int(self.rng.integers(1, 61))
        return self._frame()

    def step(self, action: int) -> Step:
        self.left -= 1
        over, kind = self.left == 0, bool(self.rng.integers(2))
        return Step(self._frame(), float(action), over and kind, over and not kind, None)

    def close(self) -> None:
        pass


def _encoder() -> Any:
    return stores.new_encoder(encoder_spec(stores.ENCODER, stack=stores.STACK, frame_shape=FRAME_SHAPE), 0)


def _filled(rows: int, seed: int = 0) -> tuple[list[stores.Store], Any]:
    encoder = _encoder()
    common = (BUDGET_BYTES, FRAME_SHAPE, seed)
    latents = [stores.Rows(f"latents {codec}", *common) for codec in LATENT_ELEMENT_BYTES]
    every: list[stores.Store] = [
        stores.TwoStacks("two stacks", *common),
        stores.SharedStacks("one stack", *common),
        stores.Rows("frames once", *common),
        stores.CompressedFrames("LZ4", *common, rows=rows),
        *latents,
    ]
    stores.fill(every, Noise(seed), rows, seed)
    for codec, store in zip(LATENT_ELEMENT_BYTES, latents, strict=True):
        store.replay.convert(store.calibrated(codec, encoder), encoder)
    return every, encoder


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rows", [190, 1_000, 2_500])
def test_all_stores_give_the_same_batches_wrapped_or_not(rows: int, seed: int) -> None:
    every, encoder = _filled(rows, seed)
    for draw in range(5):
        assert stores.check_batches(every, encoder, draw) == stores.BATCH


@pytest.mark.parametrize(
    "fault", ["two stacks", "next stacks", "one stack", "frames once", "LZ4", "rewards", "latents"]
)
def test_a_planted_fault_is_found(fault: str) -> None:
    every, encoder = _filled(190)
    by_name: dict[str, Any] = {store.name: store for store in every}
    if fault == "two stacks":
        by_name[fault].stacks[:, 0, 0, 0] ^= 1
    elif fault == "next stacks":
        by_name["two stacks"].next_stacks[:, 3, 24, 24] ^= 1
    elif fault == "one stack":
        by_name[fault].stacks[...] = np.roll(by_name[fault].stacks, 1, axis=0)
    elif fault == "frames once":
        by_name[fault].rows.data[:, 7] ^= 1
    elif fault == "LZ4":
        by_name[fault].blobs.insert(0, by_name[fault].blobs.pop())
    elif fault == "rewards":
        by_name["frames once"].rows.columns.reward[:] += 1
    else:
        store = by_name["latents float16"]
        store.rows.data[...] = np.roll(store.rows.data, 1, axis=0)
    with pytest.raises(stores.DifferentBatchError):
        stores.check_batches(every, encoder, 0)


def test_compressed_frames_stay_inside_the_budget() -> None:
    store = stores.CompressedFrames("LZ4", 30_000, FRAME_SHAPE, 0, rows=500)
    stores.fill([store], Noise(0), 500, 0)
    assert store.held_bytes == sum(map(len, store.blobs)) <= 30_000
    assert 30_000 - store.held_bytes < 2 * FRAME_BYTES
    assert store.rows.rows == sum(blob != b"" for blob in store.blobs)
    assert store.rows.appended == 500
    stores.sampling_seconds([store], 2)


def test_a_store_of_fewer_rows_than_a_window_is_not_sampled() -> None:
    class Endless(Noise):
        def reset(self) -> Frame:
            self.left = 10**6
            return self._frame()

    small = stores.TwoStacks("two stacks", 20 * 8 * FRAME_BYTES, FRAME_SHAPE, 0)
    large = stores.TwoStacks("two stacks", 21 * 8 * FRAME_BYTES, FRAME_SHAPE, 0)
    stores.fill([small, large], Endless(0), 100, 0)
    assert not stores.can_sample(small)
    assert stores.can_sample(large)


def _membench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / "membench.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_command_writes_table_csv_and_chart(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    budget_bytes = 2_000_000
    result = _membench("--budget", "2MB", "--batches", "3", "--out", str(tmp_path / "out"))
    assert result.returncode == 0, result.stderr
    assert "frames of a random policy" in result.stdout
    assert (tmp_path / "out" / "membench.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "out" / "membench.csv").open(newline="") as file:
        lines = {line["store"]: line for line in csv.DictReader(file)}

    exact = {"two stacks a row": 2 * 4 * 7_056, "one stack a row": 4 * 7_056, "frames once": 7_056}
    latents = {f"latents {codec}": 576 * element for codec, element in LATENT_ELEMENT_BYTES.items()}
    assert list(lines) == [*exact, "LZ4 frames", *latents]
    frames = budget_bytes // 7_056
    for name, line in lines.items():
        bytes_, capacity = float(line["bytes_a_transition"]), int(line["capacity"])
        # The arena is cut to whole frames before it holds latents.
        room = frames * 7_056 if name in latents else budget_bytes
        assert bytes_ == pytest.approx({**exact, **latents}.get(name, bytes_))
        assert capacity == int(room // bytes_)
        assert float(line["relative_capacity"]) == pytest.approx(capacity / frames)
        assert int(line["rows"]) <= min(capacity, frames)
        assert float(line["sample_seconds"]) > 0
        assert f"{capacity:,}" in result.stdout
        rss = [line[f"rss_{moment}_bytes"] for moment in ("before", "peak", "after")]
        if name in latents:
            assert float(line["conversion_seconds"]) > 0
            assert int(rss[1]) >= max(int(rss[0]), int(rss[2]))
        else:
            assert [line["conversion_seconds"], *rss] == [""] * 4
    assert 100 < float(lines["LZ4 frames"]["bytes_a_transition"]) < 7_056


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "lots"], ["--budget", "'lots'"]),
        (["--budget", "100kB"], ["--budget 100000", "give at least 169344"]),
        (["--env", "Alein"], ["--env Alein", "Alien"]),
        (["--rows", "0"], ["--rows", "'0'"]),
        (["--rows", "5"], ["--rows 5", "give at least 24"]),
        (["--batches", "1.5"], ["--batches", "'1.5'"]),
        (["--process", "--rss-slope"], ["--rss-slope"]),
        (["--out", __file__], ["--out", "cannot be written"]),
        (["--nonsense"], ["--nonsense"]),
    ],
)
def test_bad_input_is_answered_with_one_line(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = _membench("--out", str(out), *arguments)
    assert result.returncode == 2
    assert not out.exists()
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert all(word in line for word in words)
