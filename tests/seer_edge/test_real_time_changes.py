"""Settings of control in real time that `fork` and `resume` refuse before they write anything."""

import socket
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

import seer_edge
from seer_edge.api.forks import Beginning, config_of_fork
from seer_edge.config.request import ForkRequest
from seer_edge.runs import run_folder

ENV = f"{__name__}:Still"
NEEDS_RATE = [
    ({"rest_after": "200ms"}, "--rest-after 0.2s"),
    ({"max_updates_per_step": 2}, "--max-updates-per-step 2"),
    ({"min_updates_per_step": 0.5}, "--min-updates-per-step 0.5"),
]


class Still(gymnasium.Env[NDArray[np.uint8], int]):
    """Black frames for ever."""

    observation_space = gymnasium.spaces.Box(0, 255, (36, 36), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, **options: Any) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        return np.zeros((36, 36), np.uint8), {}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        return np.zeros((36, 36), np.uint8), 0.0, False, False, {}


@pytest.mark.parametrize(("option", "given"), NEEDS_RATE)
def test_settings_of_real_time_are_refused_for_a_run_without_a_rate(
    option: dict[str, Any], given: str, tmp_path: Path
) -> None:
    config = seer_edge.plan(ENV, mem_budget="1MB", total_timesteps=60).config
    run = run_folder.create(tmp_path / "run", config)
    before = run.config.read_bytes()
    expected = f"{given}: needs control in real time; give --hz too, or leave it out"
    with pytest.raises(seer_edge.BadInputError) as refused:
        seer_edge.resume(tmp_path / "run", **option)
    assert str(refused.value) == expected
    assert run.config.read_bytes() == before
    begin = Beginning("the run", config, 0, None)
    with pytest.raises(seer_edge.BadInputError) as refused:
        config_of_fork(begin, ForkRequest.of(**option))
    assert str(refused.value) == expected
    assert config_of_fork(begin, ForkRequest.of(hz=30, **option)).hz == 30


def test_a_separate_environment_for_evaluations_is_refused_in_real_time(tmp_path: Path) -> None:
    message = r"^--eval-in separate: evaluations of a run with --hz play its own environment; leave it out$"
    with pytest.raises(seer_edge.BadInputError, match=message):
        seer_edge.plan(ENV, mem_budget="1MB", hz=30, eval_in="separate")
    config = seer_edge.plan(ENV, mem_budget="1MB", total_timesteps=60, hz=30, eval_in="training").config
    run_folder.create(tmp_path / "run", config)
    with pytest.raises(seer_edge.BadInputError, match=message):
        seer_edge.resume(tmp_path / "run", eval_in="separate")
    separate = seer_edge.plan(ENV, mem_budget="1MB", eval_in="separate").config
    assert config_of_fork(Beginning("the run", separate, 0, None), ForkRequest.of(hz=30)).evaluates_in_training


@pytest.mark.integration
@pytest.mark.parametrize(
    ("actions", "option", "message"),
    [
        (([-1, -1], [1, 1]), {"slew_rate": (1, 2, 3)}, "has 2 controls; give one number, or 2"),
        (3, {"slew_rate": 1}, "has discrete actions; leave it out"),
        (3, {"action_limit": (-0.5, 0.5)}, "has discrete actions; leave it out"),
    ],
)
def test_a_fork_refuses_limits_that_do_not_fit_the_actions(
    actions: Any, option: dict[str, Any], message: str, tmp_path: Path
) -> None:
    run, fork = tmp_path / "run", tmp_path / "fork"
    with seer_edge.Learner((36, 36), actions, run_dir=run, hz=30, mem_budget="1MB", total_timesteps=60):
        pass
    with pytest.raises(seer_edge.BadInputError, match=message):
        seer_edge.fork(run, fork, **option)
    assert not fork.exists()
    assert seer_edge.fork(run, fork, hz=20).timestep == 0


@pytest.mark.integration
def test_a_run_can_be_forked_while_its_port_and_socket_are_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as page, socket.socket(socket.AF_UNIX) as commands:
        commands.bind("s")
        commands.listen()
        taken: Any = {"status_port": page.getsockname()[1], "control_socket": "s"}
        options: Any = {"env": ENV, "hz": 100, "mem_budget": "1MB", "total_timesteps": 20, "eval_every": "never"}
        seer_edge.train(run_dir="run", **options)
        assert seer_edge.fork("run", "fork", total_timesteps=40, **taken).timestep == 20
        for name, reason in (("status-port", "cannot be used"), ("control-socket", "is in use by another program")):
            with pytest.raises(seer_edge.BadInputError, match=f"^--{name} .*: {reason}"):
                seer_edge.resume("fork", **({"status_port": "never"} if name == "control-socket" else {}))
