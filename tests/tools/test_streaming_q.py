"""Stream Q(lambda), a peer without a replay: the update against tables, and a run from its command line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

from peers import streaming_q as peer  # noqa: E402


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40))
def test_running_moments_are_those_of_all_values(values: list[float]) -> None:
    moments = peer.RunningMoments(())
    for value in values:
        moments.add(value)
    assert float(moments.mean) == pytest.approx(np.mean(values), abs=1e-6)
    assert float(moments.variance) == pytest.approx(np.var(values, ddof=1), rel=1e-6, abs=1e-6)


def test_rewards_are_divided_by_the_deviation_of_their_discounted_sum() -> None:
    rewards, ends = [1.0, -2.0, 3.0, 0.0, 5.0], [False, False, True, False, False]
    scale, sums, total = peer.RewardScale(0.5), [], 0.0
    for reward, end in zip(rewards, ends, strict=True):
        total = 0.5 * total + reward
        sums.append(total)
        deviation = np.std(sums, ddof=1) if len(sums) > 1 else 1.0
        assert scale(reward, ends=end) == pytest.approx(reward / deviation, rel=1e-6)
        total = 0.0 if end else total


def test_each_output_has_its_share_of_zero_weights() -> None:
    network = peer.QNetwork(6, 0.9, torch.Generator().manual_seed(0))
    for layer in (*network.convolutions, network.hidden, network.values):
        rows = layer.weight.detach().reshape(len(layer.weight), -1)
        inputs = rows.size(1)
        assert (rows == 0).sum(1).tolist() == [int(np.ceil(0.9 * inputs))] * len(rows)
        assert rows.abs().max() <= inputs**-0.5
        assert not layer.bias.any()
    assert network(torch.zeros(1, 4, 84, 84)).shape == (6,)


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-20, 20), st.booleans()), min_size=1, max_size=12),
    st.sampled_from([0.01, 1.0]),
)
def test_steps_equal_the_formula_of_the_paper(steps: list[tuple[float, float, bool]], step_size: float) -> None:
    weights = torch.tensor([0.5, -0.25], dtype=torch.float64)
    optimizer = peer.ObGD([weights], step_size, 2.0, 0.99 * 0.8)
    wanted, trace = weights.numpy().copy(), np.zeros(2)
    for slope, error, ends in steps:
        gradient = np.array([slope, 1.0])
        trace = 0.99 * 0.8 * trace + gradient
        bound = step_size * 2.0 * max(abs(error), 1.0) * np.abs(trace).sum()
        wanted += step_size / max(bound, 1.0) * error * trace
        optimizer.step([torch.from_numpy(gradient)], error, ends=ends)
        trace = np.zeros(2) if ends else trace
    np.testing.assert_allclose(weights.numpy(), wanted, rtol=1e-9, atol=1e-12)


@given(st.floats(-100, 100), st.lists(st.floats(-10, 10), min_size=3, max_size=3))
def test_one_step_does_not_overshoot_its_own_error(target: float, features: list[float]) -> None:
    """Of a linear value with features of at most 1: the error shrinks and keeps its sign."""
    inputs = torch.tensor(features, dtype=torch.float64) / max(1.0, max(map(abs, features)))
    weights = torch.zeros(3, dtype=torch.float64)
    peer.ObGD([weights], 1.0, 2.0, 0.0).step([inputs], target, ends=False)
    after = target - float(weights @ inputs)
    assert abs(after) <= abs(target) + 1e-9
    assert after * target >= -1e-9


def test_a_random_action_forgets_the_trace_and_an_end_has_no_value_behind_it() -> None:
    agent = peer.StreamQ(3, 100, 0, peer.Settings())
    state = agent.read(np.full((4, 84, 84), 9, np.uint8), learning=True)
    following = torch.ones(1, 4, 84, 84)
    values = agent.network(state)
    before, after = float(values[1].detach()), float(agent.network(following).max().detach())
    error = agent.learn(values, 1, 2.0, following, terminated=False, ends=False)
    assert error == pytest.approx(2.0 + 0.99 * after - before, rel=1e-5)
    assert any(trace.any() for trace in agent.optimizer.traces)
    values = agent.network(state)
    error = agent.learn(values, 2, 2.0, following, terminated=True, ends=True)
    assert error == pytest.approx(2.0 - float(values[2].detach()), rel=1e-5)
    assert not any(trace.any() for trace in agent.optimizer.traces)
    assert [agent.epsilon(step) for step in (0, 5, 100)] == pytest.approx([1.0, 0.01, 0.01])


@pytest.mark.integration
def test_a_run_plays_real_games_and_repeats(tmp_path: Path) -> None:
    reports = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.json"
        words = ["--env", "Breakout", "--steps", "400", "--eval-episodes", "1", "--json", str(path)]
        done = subprocess.run(
            [sys.executable, str(TOOLS / "peers" / "streaming_q.py"), *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(path.read_text()))
        assert "ALE/Breakout-v5, 400 steps, seed 0: evaluation " in done.stdout
    assert reports[0]["games"] == reports[1]["games"]
    assert reports[0]["evaluation"] == reports[1]["evaluation"]
    assert len(reports[0]["evaluation"]) == 1


@pytest.mark.parametrize("env", ["cartpole-swingup", "line_follower:LineFollower-v0"])
def test_an_environment_unlike_an_atari_game_is_refused(
    env: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(TOOLS.parent / "docs" / "examples")
    monkeypatch.setattr("sys.argv", ["streaming_q.py", "--env", env])
    assert peer.main() == 2
    why = "its frames are not gray with 84x84 pixels, or its actions not discrete; name an Atari game"
    assert capsys.readouterr() == ("", f"streaming_q.py: --env {env}: {why}\n")


def test_cpu_seconds_are_those_of_the_whole_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `progress.csv`: with imports, training and evaluation."""
    path = tmp_path / "figures.json"
    words = ["--env", "Breakout", "--steps", "2", "--eval-episodes", "1", "--json", str(path)]
    monkeypatch.setattr("sys.argv", ["streaming_q.py", *words])
    clock, best = 100.0, peer.StreamQ.best

    def evaluated(agent: peer.StreamQ, stack: NDArray[np.uint8]) -> int:
        nonlocal clock
        clock = 107.0
        return best(agent, stack)

    monkeypatch.setattr(peer.StreamQ, "best", evaluated)
    monkeypatch.setattr("time.process_time", lambda: clock)
    assert peer.main() == 0
    assert json.loads(path.read_text())["cpu_seconds"] == 107.0
