"""Demonstrations: episodes are written and read back unchanged, and other files are refused."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import seer_edge
from seer_edge.config.plan import make_plan
from seer_edge.envs import Discrete, EnvSpec, Step, guarded
from seer_edge.errors import BadInputError
from seer_edge.runs import demos as module
from seer_edge.runs.demos import BEGINS, FINAL, MEMBER, TERMINATED, TRUNCATED, DemoRow, Demos, DemoWriter, open_demos
from seer_edge.training.session import build_session
from seer_runtime.durable.container import write_container
from seer_runtime.durable.tensors import tensor_pieces
from tests.seer_edge.freeze_rig import COLOR, SMALL, Noise, Rig

SPEC = EnvSpec("Tiny-v0", "Tiny", (3, 2), (3, 2), Discrete(4))


def play(writer: DemoWriter, env: Noise, steps: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    frame = env.reset()
    writer.begin(new_scene=True)
    for _ in range(steps):
        action = env.spec.actions.sample(rng)
        step = env.step(action)
        writer.add(frame, action, step)
        frame = step.frame
        if step.terminated or step.truncated:
            frame = env.reset()
            writer.begin(new_scene=env.new_scene)
    writer.cut()


def recorded(path: Path, spec: EnvSpec, steps: int, *, lives: bool = False) -> Noise:
    env = Noise(spec, 3, lives=lives)
    with DemoWriter(path, spec, None) as writer:
        play(writer, env, steps)
        writer.write()
    return env


@pytest.mark.parametrize("env", ["Alien", "Krull"])
def test_a_warning_names_the_other_environment_of_demonstrations(
    env: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "demos.seer"
    recorded(path, EnvSpec("ALE/Alien-v5", "Alien", (84, 84), (84, 84), Discrete(18)), 5)
    seer_edge.plan(env, mem_budget="1MB", demos=path)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.split(";")[0] for text in warnings] == (
        [] if env == "Alien" else [f"--demos {path}: recorded in 'ALE/Alien-v5', not in ALE/Krull-v5"]
    )


def test_few_large_frames_are_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(tmp_path / "demos.seer", COLOR, 100)
    read, sizes = Demos._read, list[int]()

    def measured(demos: Demos, name: str, first: int, count: int) -> NDArray[Any]:
        rows = read(demos, name, first, count)
        sizes.append(rows.nbytes)
        return rows

    monkeypatch.setattr(module, "READ_BYTES", 8_000)
    monkeypatch.setattr(Demos, "_read", measured)
    with open_demos(tmp_path / "demos.seer", COLOR, None) as demos:
        assert len(list(demos)) >= 100
    assert 3 * 22 * 22 < max(sizes) <= 8_000


@pytest.mark.parametrize("spec", [SMALL, COLOR])
def test_demonstrations_are_read_as_they_were_played(
    spec: EnvSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_ROWS", 7)
    path = tmp_path / "demos.seer"
    env = recorded(path, spec, 100, lives=True)
    assert [file.name for file in tmp_path.iterdir()] == ["demos.seer"]
    with open_demos(path, spec, None) as demos:
        rows = list(demos)
    expected = env.rows()
    running = env.log[-1]
    if running.actions and not running.end:  # it was cut, with its newest frame
        expected.append((running, len(running.actions)))
    assert len(rows) == len(expected)
    for row, (episode, step) in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(row.frame, episode.frames[step])
        assert row.final == (step == len(episode.actions))
        assert row.begins == (step == 0 and episode.earlier is None)
        if not row.final:
            np.testing.assert_array_equal(row.action, episode.actions[step])
            assert row.reward == np.float32(episode.rewards[step])
            last = step == len(episode.actions) - 1
            assert row.terminated == (last and episode.end in ("terminated", "life"))
            assert row.truncated == (last and episode.end in ("truncated", ""))


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["rainbow", "curl-sac"])
def test_a_run_that_begins_with_demonstrations_holds_them(
    build_rig: Callable[..., Rig], kind: str, tmp_path: Path
) -> None:
    rig, path = build_rig(kind), tmp_path / "demos.seer"
    spec = rig.plan.env
    recorded(path, spec, 40)
    config = dataclasses.replace(rig.plan.config, demos=str(path))
    session = build_session(make_plan(config, spec))
    store = session.replay.store
    with open_demos(path, spec, None) as demos:
        rows = list(demos)
    assert (session.timestep, store.appended) == (0, len(rows))
    limit = config.settings.reward_clip
    for row_id in range(store.oldest, store.appended):
        row, slot = rows[row_id], store.slots(np.array([row_id]))[0]
        if not row.final:
            reward = row.reward if limit is None else float(np.clip(row.reward, -limit, limit))
            assert store.columns.reward[slot] == np.float32(reward)
            np.testing.assert_array_equal(store.columns.action[slot], row.action)
    session.step()
    assert store.appended == len(rows) + 1


@pytest.mark.integration
def test_a_reward_that_is_too_large_names_the_file(build_rig: Callable[..., Rig], tmp_path: Path) -> None:
    rig, path = build_rig("rainbow"), tmp_path / "demos.seer"
    with DemoWriter(path, rig.plan.env, None) as writer:
        frame = np.zeros(rig.plan.env.frame_shape, np.uint8)
        writer.begin(new_scene=True)
        writer.add(frame, 0, Step(frame, 1e19, terminated=True, truncated=False, episode=None))
        writer.write()
    unclipped = dataclasses.replace(rig.plan.config.settings, reward_clip=None)
    config = dataclasses.replace(rig.plan.config, demos=str(path), settings=unclipped)
    opened = set(guarded._OPEN)
    message = r"--demos .*demos\.seer: the reward is 1e\+19, which is too large"
    with pytest.raises(BadInputError, match=message) as refused:
        build_session(make_plan(config, rig.plan.env))
    assert refused.tb is not None  # keeps the session alive
    assert set(guarded._OPEN) <= opened


# --- other files -------------------------------------------------------------------------------------------


def written(path: Path, flags: list[int], **changes: Any) -> Path:
    """Write a file of demonstrations of `SPEC` with these flags."""
    count = len(flags)
    arrays: dict[str, Any] = {
        "frames": np.zeros((count, *SPEC.frame_shape), np.uint8),
        "actions": np.zeros(count, np.int32),
        "rewards": np.zeros(count, np.float32),
        "flags": np.array(flags, np.uint8),
    }
    about = {**module._about(SPEC, None), **changes.pop("about", {})}
    arrays |= changes
    write_container(path, about, {MEMBER: [*tensor_pieces(MEMBER, arrays)]})
    return path


def valid(flags: list[int]) -> bool:
    """Whether the flags are those of whole episodes, row by row."""
    state = "between scenes"
    for flag in flags:
        end, begins = flag & ~BEGINS, bool(flag & BEGINS)
        if state == "final is due":
            if (end, begins) != (FINAL, False):
                return False
            state = "between scenes"
            continue
        may_begin, must_begin = state != "running", state == "between scenes"
        if end not in (0, TERMINATED, TRUNCATED) or (begins and not may_begin) or (must_begin and not begins):
            return False
        state = {0: "running", TERMINATED: "terminated", TRUNCATED: "final is due"}[end]
    return state in ("between scenes", "terminated")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flags=st.lists(st.sampled_from([0, 1, 2, 4, 8, 9, 10, 12, 3, 16]), min_size=1, max_size=8))
def test_only_whole_episodes_are_accepted(flags: list[int]) -> None:
    assert module._is_sequence(np.array(flags, np.uint8)) == valid(flags)


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    with open_demos(written(tmp_path / "demos", [8, 0, 2, 4, 8, 1, 0, 1]), SPEC, None) as demos:
        rows: list[DemoRow] = list(demos)
    assert [row.begins for row in rows] == [True, False, False, False, True, False, False, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": np.array([np.nan, 0], np.float32)}, "a reward or an action that is not allowed"),
        ({"actions": np.array([4, 0], np.int32)}, "a reward or an action that is not allowed"),
        ({"actions": np.array([-1, 0], np.int32)}, "a reward or an action that is not allowed"),
        ({"actions": np.zeros((2, 2), np.int32)}, "its arrays are not those of demonstrations"),
        ({"frames": np.zeros((2, 3, 3), np.uint8)}, "its arrays are not those of demonstrations"),
        ({"frames": np.zeros((1, 3, 2), np.uint8)}, "its arrays are not those of demonstrations"),
        ({"rewards": np.zeros(2, np.float64)}, "its arrays are not those of demonstrations"),
        ({"more": np.zeros(2, np.float64)}, "its arrays are not those of demonstrations"),
        ({"about": {"format": "demonstrations 9"}}, "not a file of demonstrations"),
        ({"about": {"frame_shape": [84, 84]}}, r"frame shape \[84, 84\], but Tiny-v0 has \[3, 2\]; record again"),
        ({"about": {"actions": {"kind": "discrete", "count": 3}}}, "actions .*'count': 3"),
        ({"about": {"gray_levels": 16}}, "gray levels 16, but Tiny-v0 has None"),
    ],
)
def test_another_file_is_refused_in_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "demos", [8, 1], **changes)
    with pytest.raises(BadInputError, match=message) as error, open_demos(path, SPEC, None):
        pass
    assert str(error.value).startswith(f"--demos {path}: ")
    assert "\n" not in str(error.value)


def test_damage_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "demos", [8, 1])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for bad in (path, tmp_path / "none", tmp_path):
        with (
            pytest.raises(BadInputError, match="give a file that `seer-edge record` wrote"),
            open_demos(bad, SPEC, None),
        ):
            pass
