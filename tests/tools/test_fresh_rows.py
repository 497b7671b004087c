"""fresh_rows samples like a replay that, after the freeze, overwrites its old rows before it grows."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from fresh_rows import FreshSampler

from seer_runtime.durable import open_tensors, write_tensors
from seer_runtime.replay.arena import Arena
from seer_runtime.replay.codecs import frame_codec, latent_codec
from seer_runtime.replay.replay import Replay
from seer_runtime.replay.storage import FixedRows
from seer_runtime.replay.store import RowStore
from tests.runtime.naive_replay import hash_encoder, ledger_of

FRAME = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
ROOM = 6 * FRAME.size
LATENT = (1, 4)
"""16 bytes, so that 24 latents fit where 6 frames did."""


def _replay(*, latents: bool = False) -> Replay:
    ledger = ledger_of(ROOM)
    codec = latent_codec("float32", LATENT) if latents else frame_codec(FRAME.shape)
    store = RowStore(FixedRows(Arena(ROOM, ledger), codec), stack=1, ledger=ledger)
    rng = np.random.default_rng(0)
    return Replay(store, FreshSampler(store), batch_size=2, n_step=1, gamma=0.9, rng=rng, ledger=ledger)


def _sampled(replay: Replay) -> list[int]:
    return sorted({*replay.sampler.propose(np.random.default_rng(1), 1000).tolist()})


def _append(replay: Replay, observation: np.ndarray) -> None:
    replay.append(observation, 0, 1.0, terminated=False, truncated=False)


def _restored(replay: Replay, path: Path) -> Replay:
    state = replay.state()
    write_tensors(path, state.arrays)
    other = _replay(latents=True)
    with open_tensors(path) as tensors:
        other.restore(state.values, tensors)
    return other


@given(before=st.integers(3, 15), after=st.integers(0, 60), restored_at=st.integers(0, 60))
def test_samples_equal_those_of_a_ring_that_grows_after_it_has_wrapped(
    tmp_path_factory: pytest.TempPathFactory, before: int, after: int, restored_at: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    FreshSampler.note = folder / "note.json"
    replay = _replay()
    for _ in range(before):
        _append(replay, FRAME)
    assert _sampled(replay) == list(range(max(0, before - 6), before))
    held = replay.convert(latent_codec("float32", LATENT), hash_encoder(*LATENT))
    model = list(range(before - held, before))
    assert _sampled(replay) == model
    for step in range(after):
        _append(replay, np.full((1, *LATENT), step, np.float32))
        model.append(before + step)
        if step < held or len(model) > 24:  # the old rows go first, then the ring grows to its capacity
            model.pop(0)
        assert _sampled(replay) == model
        if step == restored_at:
            replay = _restored(replay, folder / "replay.safetensors")
            assert _sampled(replay) == model
