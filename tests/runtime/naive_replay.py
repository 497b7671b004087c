"""A slow, simple model of the replay: whole episodes in lists, and loops that compute everything from them.

The model has no ring buffer, no slots, no flags and no in-place conversion. It shares only two definitions with the
data plane: the id of a row is the number of rows appended before it, and the order in which crops are drawn.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.replay.store import CONTINUED, FINAL, TERMINATED, TRUNCATED, RowStore
from seer_runtime.replay.windows import n_step_windows
from seer_runtime.system.ledger import WORKSPACE_CAP_BYTES, Ledger, Line

Frame = NDArray[np.uint8]
Offset = tuple[int, int]
LEVELS = {"uint8": 255, "uint4": 15}
"""The largest code of each integer codec."""
Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass
class Episode:
    """The frames, actions and rewards of an episode. The final frame of a truncated episode has no action.

    `earlier` are frames of the same scene from before the episode. With `scene_continues`, the next episode has the
    same scene.
    """

    frames: list[Frame] = field(default_factory=list)
    earlier: list[Frame] = field(default_factory=list)
    scene_continues: bool = False
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False

    @property
    def lacks_final(self) -> bool:
        return self.truncated and len(self.frames) == len(self.actions)

    @property
    def ended(self) -> bool:
        return self.terminated or (self.truncated and not self.lacks_final)


@dataclass(frozen=True)
class Quantizer:
    """The quantization of one latent dimension: codes 0 to `levels` stand for `low`, `low + step`, and so on."""

    step: np.float32
    low: np.float32
    levels: int

    def code(self, value: np.float32) -> int:
        """Return the code of the nearest value, without clipping."""
        return round(float((value - self.low) / self.step))

    def decoded(self, value: np.float32) -> np.float32:
        return np.float32(min(max(self.code(value), 0), self.levels)) * self.step + self.low


def quantizers(values: NDArray[np.float32], levels: int) -> list[Quantizer]:
    """Apply the documented rule to each dimension of the calibration values `[B, …]`."""
    seen = [[float(value) for value in column] for column in values.reshape(len(values), -1).T]
    mean_width = sum(max(column) - min(column) for column in seen) / len(seen)
    made = []
    for column in seen:
        width = max(max(column) - min(column), mean_width / 4)
        margin = width / 4 if levels == 255 else 0.0
        low, high = min(column) - margin, min(column) + width + margin
        if min(column) >= 0:
            low = max(low, 0.0)
        if max(column) < 0:
            high = min(high, 0.0)
        min_step = max(max(abs(low), abs(high)) / 2**20, 1e-30)
        step = np.float32(max((high - low) / levels, min_step))
        made.append(Quantizer(step, np.float32(round(low / float(step)) * float(step)), levels))
    return made


@dataclass(frozen=True)
class Target:
    """The expected n-step window from a row. `bootstrap` is None if the window ends in a terminal state."""

    n_return: float
    discount: float
    bootstrap: int | None


class NaiveReplay:
    """A log of every row ever appended, and the rows that a ring of `capacity` rows still holds."""

    def __init__(self, capacity: int, stack: int, frame: tuple[int, ...], crop: tuple[int, int] | None = None) -> None:
        self.capacity = capacity
        self.stack_size = stack
        self.frame = frame
        self.crop = crop or (frame[-2], frame[-1])
        self.rows: list[tuple[Episode, int]] = []  # row id -> (episode, step)
        self.offsets: dict[int, list[Offset]] = {}  # row id -> the offsets of the K crops that were encoded
        self.encode: Encode | None = None
        self.element = "float32"
        self.quantizers: list[Quantizer] = []
        self._latents: dict[tuple[int, int], NDArray[np.float32]] = {}
        self._decoded: dict[tuple[int, int], NDArray[np.float32]] = {}
        self._dropped_before = 0  # the conversion dropped all rows below this id

    # --- writing ---

    @property
    def running(self) -> bool:
        return bool(self.rows) and not self.rows[-1][0].ended

    @property
    def lacks_final(self) -> bool:
        return self.running and self.rows[-1][0].lacks_final

    def step(self, frame: Frame, action: Any, reward: float, *, terminated: bool, truncated: bool) -> int:
        episode = self.rows[-1][0] if self.running else Episode()
        if not self.running and self.rows and self.rows[-1][0].scene_continues:
            before = self.rows[-1][0]
            episode.earlier = [*before.earlier, *before.frames]
        self.rows.append((episode, len(episode.frames)))
        episode.frames.append(frame)
        episode.actions.append(action)
        episode.rewards.append(reward)
        episode.terminated = terminated
        episode.truncated = truncated and not terminated
        return len(self.rows) - 1

    def final(self, frame: Frame) -> int:
        episode = self.rows[-1][0]
        self.rows.append((episode, len(episode.frames)))
        episode.frames.append(frame)
        return len(self.rows) - 1

    def continue_scene(self) -> None:
        """Continue the scene of the episode that has just terminated."""
        self.rows[-1][0].scene_continues = True

    def interrupt(self) -> None:
        """Mark the running episode as truncated, and end the scene. Call `final` next."""
        if self.running:
            self.rows[-1][0].truncated = True
        elif self.rows:
            self.rows[-1][0].scene_continues = False

    def convert(
        self,
        encode: Encode,
        capacity: int,
        element: Any,
        augmentations: int = 1,
        rng: np.random.Generator | None = None,
        seen: NDArray[np.float32] | None = None,
    ) -> list[int]:
        """Convert to rows of K latents each. Return the ids of the rows kept.

        `rng` draws the crops of the kept rows. `seen` are the calibration latents of a quantized codec.
        """
        kept = [row for row in self.held() if self.stack_is_whole(row)][-capacity:]
        for row in kept:
            self.offsets[row] = self.draw_crops(rng or np.random.default_rng(0), augmentations)
        self._dropped_before = kept[0] if kept else len(self.rows)
        self.encode, self.capacity, self.element = encode, capacity, element
        if seen is not None:
            self.quantizers = quantizers(seen, LEVELS[element])
        return kept

    def lose(self, rows: list[int], capacity: int) -> None:
        """Drop the oldest rows, `rows`, and change the capacity."""
        oldest = min(self.held(), default=len(self.rows))
        self._dropped_before, self.capacity = oldest + len(rows), capacity

    # --- crops ---

    def all_crops(self) -> list[Offset]:
        """Return every offset (y, x) at which a crop fits into the frame."""
        last_y, last_x = (whole - side for whole, side in zip(self.frame[-2:], self.crop, strict=True))
        return [(y, x) for y in range(last_y + 1) for x in range(last_x + 1)]

    def center(self) -> Offset:
        """Return the offset with equal margins, or one pixel less above and to the left."""
        margins = [whole - side for whole, side in zip(self.frame[-2:], self.crop, strict=True)]
        return margins[0] // 2, margins[1] // 2

    def draw_crops(self, rng: np.random.Generator, count: int) -> list[Offset]:
        """Return the offsets that the data plane draws from a generator in the state of `rng`."""
        last = self.all_crops()[-1]
        if last == (0, 0):
            return [(0, 0)] * count
        return [(y, x) for y, x in rng.integers(0, last, (count, 2), endpoint=True).tolist()]

    # --- expected rows ---

    def held(self) -> list[int]:
        return list(range(max(len(self.rows) - self.capacity, self._dropped_before, 0), len(self.rows)))

    def stack(self, row: int) -> Frame:
        """Return the frame stack `[S, *frame]`, zero before the first frame of the scene."""
        episode, step = self.rows[row]
        frames = [*episode.earlier, *episode.frames[: step + 1]][-self.stack_size :]
        blanks = [np.zeros_like(frames[0])] * (self.stack_size - len(frames))
        return np.stack([*blanks, *frames])

    def age(self, row: int) -> int:
        """Return how many rows of the same scene came before."""
        episode, step = self.rows[row]
        return len(episode.earlier) + step

    def stack_is_whole(self, row: int) -> bool:
        if self.encode is not None:
            return True
        needed = range(row - min(self.age(row), self.stack_size - 1), row + 1)
        held = self.held()
        return all(held[0] <= other for other in needed)

    def cropped(self, row: int, offset: Offset) -> Frame:
        """Return the stack under one crop, as channels `[C, h, w]`."""
        (y, x), (height, width) = offset, self.crop
        frames = [frame.reshape(-1, *self.frame[-2:]) for frame in self.stack(row)]
        return np.concatenate([frame[:, y : y + height, x : x + width] for frame in frames])

    def latent(self, row: int, k: int) -> NDArray[np.float32]:
        """Return latent k of a row before it is stored."""
        assert self.encode is not None
        if (row, k) not in self._latents:
            self._latents[row, k] = self.encode(self.cropped(row, self.offsets[row][k])[None])[0]
        return self._latents[row, k]

    def observation(self, row: int, view: tuple[int, ...]) -> NDArray[Any]:
        """Return the decoded observation: the stack under the crop at `view`, or the stored latent of index `view`."""
        if self.encode is None:
            return self.cropped(row, (view[0], view[1]))
        key = row, view[0]
        if key not in self._decoded:
            self._decoded[key] = self._stored(self.latent(*key))
        return self._decoded[key]

    def _stored(self, latent: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self.quantizers:
            return latent.astype(self.element).astype(np.float32)
        pairs = zip(self.quantizers, latent.ravel(), strict=True)
        return np.array([quantizer.decoded(value) for quantizer, value in pairs], np.float32).reshape(latent.shape)

    def clip_rate(self) -> float | None:
        """Return the fraction of all elements ever stored that were outside their quantization range."""
        if not self.quantizers:
            return None
        latents = (self.latent(row, k) for row, crops in self.offsets.items() for k in range(len(crops)))
        codes = [
            (quantizer.code(value), quantizer.levels)
            for latent in latents
            for quantizer, value in zip(self.quantizers, latent.ravel(), strict=True)
        ]
        return sum(not 0 <= code <= levels for code, levels in codes) / max(len(codes), 1)

    def flags(self, row: int) -> int:
        episode, step = self.rows[row]
        if step == len(episode.actions):
            return int(FINAL)
        if step == len(episode.actions) - 1:
            ended = int(TERMINATED) * episode.terminated + int(TRUNCATED) * episode.truncated
            return ended + int(CONTINUED) * episode.scene_continues
        return 0

    def target(self, row: int, n: int, gamma: float) -> Target | None:
        """Return the window that starts at `row`, or None if no valid window does."""
        if row not in self.held() or not self.stack_is_whole(row):
            return None
        episode, start = self.rows[row]
        n_return = 0.0
        for k in range(n):
            step = start + k
            if step >= len(episode.actions):
                return None  # the row is a final frame, or the step has not happened yet
            n_return += gamma**k * episode.rewards[step]
            last = step == len(episode.actions) - 1
            if last and episode.terminated:
                return Target(n_return, 0.0, None)
            if last and episode.truncated:
                break
        if step + 1 >= len(episode.frames):
            return None
        return Target(n_return, gamma ** (k + 1), row + k + 1)


def assert_agrees(store: RowStore, log: NaiveReplay, n: int, gamma: float) -> None:
    """Assert that every row of `store`, and a few ids before and after them, agree with `log`."""
    held = log.held()
    assert (store.oldest, store.appended, store.rows) == (len(log.rows) - len(held), len(log.rows), len(held))
    assert store.capacity == log.capacity
    _assert_columns(store, log, held)
    ids = np.arange(store.oldest - 3, store.appended + 3)
    windows = n_step_windows(store, ids, n, gamma)
    valid: list[int] = []
    for index, row in enumerate(ids.tolist()):
        target = log.target(row, n, gamma)
        assert bool(windows.valid[index]) == (target is not None), f"row {row}: {target}"
        if target is None:
            continue
        np.testing.assert_allclose(windows.returns[index], target.n_return, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(windows.discounts[index], target.discount, rtol=1e-6)
        bootstrap = row if target.bootstrap is None else target.bootstrap
        assert windows.bootstrap_ids[index] == bootstrap
        valid += [row, bootstrap]
    if log.encode is not None:
        valid += held
    if valid:
        assert_observations(store, log, valid)


def assert_observations(store: RowStore, log: NaiveReplay, rows: list[int]) -> None:
    """Assert that the decoded observations of `rows` equal those of the log exactly: all latents, or one crop each."""
    if log.encode is None:
        crops = log.all_crops()
        views: list[tuple[int, ...]] = [crops[(row + store.appended) % len(crops)] for row in rows]
        plain: tuple[int, ...] = log.center()
    else:
        augmentations = store.codec.shape[0]
        rows = [row for row in rows for _ in range(augmentations)]
        views = [(index % augmentations,) for index in range(len(rows))]
        plain = (0,)
    out = np.full((len(rows), *store.observation_shape), 77, store.codec.dtype)
    store.gather(np.array(rows, np.int64), np.array(views, np.int64), out)
    wanted = np.stack([log.observation(row, view) for row, view in zip(rows, views, strict=True)])
    for row, view, got, want in zip(rows, views, out, wanted, strict=True):
        assert got.tobytes() == want.tobytes(), f"row {row}, view {view}: {got} instead of {want}"
    assert store.codec.plain(3).tolist() == [list(plain)] * 3


def _assert_columns(store: RowStore, log: NaiveReplay, held: list[int]) -> None:
    slots = store.slots(np.array(held, np.int64))
    assert len(set(slots.tolist())) == len(held)
    for row, slot in zip(held, slots.tolist(), strict=True):
        episode, step = log.rows[row]
        assert store.columns.flags[slot] == log.flags(row), f"row {row}"
        assert store.columns.age[slot] == min(log.age(row), 255), f"row {row}"
        if step < len(episode.actions):
            np.testing.assert_array_equal(store.columns.action[slot], episode.actions[step], err_msg=f"row {row}")
            assert store.columns.reward[slot] == np.float32(episode.rewards[step]), f"row {row}"


def hash_encoder(*shape: int) -> Encode:
    """Return an encoder that projects stacks to `shape` with fixed integers, so that results are exact."""
    width = math.prod(shape)

    @functools.cache
    def factors(size: int) -> NDArray[np.int64]:
        return np.random.default_rng(size * 1000 + width).integers(1, 4093, (size, width))

    def encode(stacks: NDArray[np.uint8]) -> NDArray[np.float32]:
        flat = stacks.reshape(len(stacks), -1).astype(np.int64)
        return ((flat @ factors(flat.shape[1])) % 4093).astype(np.float32).reshape(-1, *shape)

    return encode


def ledger_of(observations_bytes: int) -> Ledger:
    """Return a ledger with the two caps of a real run."""
    return Ledger({Line.OBSERVATIONS: observations_bytes, Line.WORKSPACE: WORKSPACE_CAP_BYTES})
