"""The Atari emulator, whose saved states continue exactly."""

from collections import deque
from typing import Any

import ale_py
import gymnasium
import numpy as np
from numpy.typing import NDArray

from seer_edge.envs.state_reader import StateReader
from seer_edge.errors import describe_error

SNAPSHOT_FRAMES, SNAPSHOTS_MAX = 16, 4
"""Frames from one snapshot to the next, and how many are kept."""

_STATE_BYTES_MAX = 65_536
_RESET = 255
"""In a record of pressed actions: a new game."""
_SETTLING_FRAMES = 4
# State of Miniature Golf's controllers, which the emulator saves but does not load. Its games continue identically.
_NOT_LOADED_BYTES_MAX = 12


class Emulator:
    """Plays one ROM. For its state it keeps snapshots of the last frames, and the actions since then.

    A state of the Arcade Learning Environment lacks three values: that on the bus, the position of the beam, and
    whether a frame is unfinished, as it is in TicTacToe3D while the computer thinks. If a frame depends on one of them,
    a game that is loaded from the state differs. So `restore` loads a snapshot of an earlier frame and repeats the
    actions. If this leads to the saved state, the emulator has executed the same instructions, and all three values are
    the same. If no snapshot does, as in Pitfall2 at times, `restore` loads the state itself.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self._env = env
        game: Any = env.unwrapped
        self.ale: ale_py.ALEInterface = game.ale
        self._snapshots: deque[tuple[bytes, bytearray]] = deque(maxlen=SNAPSHOTS_MAX)
        """Each with the actions up to the next one."""

    def press(self, action: ale_py.Action) -> int:
        """Emulate one frame; return its reward."""
        self._record(action.value)
        return self.ale.act(action)

    def new_game(self, seed: int | None = None) -> None:
        """Start a game. A seed loads the ROM again, without which it would have no effect."""
        if seed is None:
            self._record(_RESET)
        else:
            self._snapshots.clear()
        self._env.reset(seed=seed)

    def state(self) -> dict[str, NDArray[np.uint8]]:
        """Return the state of the emulator with its random stream, about 14 KB, and the snapshots, as much each."""
        arrays = {"emulator": np.frombuffer(self._saved(), np.uint8)}
        for number, (snapshot, pressed) in enumerate(self._snapshots):
            arrays[f"snapshot_{number}"] = np.frombuffer(snapshot, np.uint8)
            arrays[f"pressed_{number}"] = np.frombuffer(bytes(pressed), np.uint8)
        return arrays

    def restore(self, reader: StateReader) -> None:
        """Continue from a state. Raises StateError for an invalid one."""
        saved = reader.raw_bytes("emulator", _STATE_BYTES_MAX)
        snapshots: list[tuple[bytes, bytearray]] = []
        while len(snapshots) < SNAPSHOTS_MAX and reader.has_array(f"snapshot_{len(snapshots)}"):
            snapshot, pressed = (
                reader.raw_bytes(f"{name}_{len(snapshots)}", _STATE_BYTES_MAX) for name in ("snapshot", "pressed")
            )
            if not {*pressed} <= {_RESET, *(action.value for action in self.ale.getLegalActionSet())}:
                raise reader.invalid("pressed is not a record of actions")
            snapshots.append((snapshot, bytearray(pressed)))
        try:
            # The newest first. Where a frame was unfinished at a snapshot, repeating from it leads elsewhere.
            if not any(self._repeats(snapshots[first:], saved) for first in reversed(range(len(snapshots)))):
                self._load(saved)
            loaded = self._saved()
        except Exception as error:  # the emulator raises strings and C++ exceptions
            raise reader.invalid(f"the emulator does not load it ({describe_error(error)})") from error
        same_length = len(loaded) == len(saved)
        differ = sum(a != b for a, b in zip(loaded, saved, strict=True)) if same_length else len(saved)
        if differ > _NOT_LOADED_BYTES_MAX:
            raise reader.invalid("the emulator loads only a part of it")
        self._snapshots = deque(snapshots, SNAPSHOTS_MAX)

    def _repeats(self, snapshots: list[tuple[bytes, bytearray]], saved: bytes) -> bool:
        """Continue from the first of `snapshots`. Return whether that leads to `saved`."""
        pressed = b"".join(actions for _, actions in snapshots)
        if not pressed:
            return False
        self._load(snapshots[0][0])
        for value in pressed:
            if value == _RESET:
                self._env.reset()
            else:
                self.ale.act(ale_py.Action(value))
        return self._saved() == saved

    def _load(self, saved: bytes) -> None:
        # The missing values are the same at the end of nearly every frame. Running some frames before the second
        # restore sets them.
        state = ale_py.ALEState(saved)
        self.ale.restoreState(state)
        for _ in range(_SETTLING_FRAMES):
            self.ale.act(ale_py.Action.NOOP)
        self.ale.restoreState(state)

    def _record(self, value: int) -> None:
        if not self._snapshots or len(self._snapshots[-1][1]) >= SNAPSHOT_FRAMES:
            self._snapshots.append((self._saved(), bytearray()))
        self._snapshots[-1][1].append(value)

    def _saved(self) -> bytes:
        # In ale-py 0.10 `serialize` fails on bytes that are not text, and `__getstate__` returns a tuple.
        saved = self.ale.cloneState(include_rng=True).__getstate__()
        return bytes(saved[0] if isinstance(saved, tuple) else saved)
