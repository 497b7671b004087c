"""Changes of an environment to the process are undone after each call, and restored for its next one."""

import logging
import os
import random
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seer_edge.envs import Step, process_state
from seer_edge.envs.guarded import Guarded
from seer_edge.envs.isolation import Isolation
from seer_edge.envs.process_state import SIGNALS
from seer_edge.envs.torch_state import restore_torch, torch_options
from seer_edge.machine.signals import StopSignal
from seer_runtime.system.state import State, StateError
from tests.seer_edge.test_env_guarded import Odd, step

pytestmark = pytest.mark.usefixtures("release_generators")


@pytest.fixture(params=[False, True])
def thorough(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_signal_handlers_are_restored(thorough: bool) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]

    def replace() -> None:
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)

    Isolation(0).run(thorough, replace)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_stop_signal_that_arrives_in_a_call_is_recorded_and_not_undone(thorough: bool) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        Isolation(0).run(thorough, signal.raise_signal, signal.SIGTERM)
        assert stop.received == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == before  # a second one ends the process


def test_the_working_directory_is_restored_and_kept_for_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").mkdir()
    guest, other = Isolation(0), Isolation(0)
    guest.run(True, os.chdir, "assets")
    assert Path.cwd() == tmp_path
    assert guest.run(False, Path.cwd) == tmp_path / "assets"
    assert other.run(False, Path.cwd) == tmp_path
    guest.run(False, os.chdir, "..")
    assert guest.run(False, Path.cwd) == Path.cwd() == tmp_path


def test_a_hang_restores_directory_and_streams_before_the_run_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").mkdir()
    seen: list[Any] = []

    class Hanging(Odd):
        def step(self, action: int) -> Step:
            os.chdir("assets")
            watchdog = threading.Thread(target=guarded._hang, args=("no answer",))
            watchdog.start()
            watchdog.join()
            return step()

    stdout = sys.stdout
    guarded = Guarded(Hanging(), 60.0, lambda line: seen.append((Path.cwd(), sys.stdout)))
    guarded.step(0)
    assert seen == [(tmp_path, stdout)]


def test_prints_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Isolation(0).run(False, print, "hello")
    print("ours")
    assert capsys.readouterr() == ("ours\n", "hello\n")


def test_streams_that_the_environment_replaces_are_restored(thorough: bool) -> None:
    before = sys.stdout, sys.stderr

    def replace() -> None:
        sys.stdout = sys.stderr = None  # type: ignore[assignment]

    Isolation(0).run(thorough, replace)
    assert (sys.stdout, sys.stderr) == before


def test_numpy_errors_are_restored_and_kept_for_the_environment(thorough: bool) -> None:
    guest = Isolation(0)
    guest.run(thorough, lambda: np.seterr(all="raise"))
    assert np.geterr()["over"] != "raise"
    assert guest.run(thorough, np.geterr)["over"] == "raise"


def test_torch_is_restored(thorough: bool) -> None:
    before = torch_options()

    def change() -> None:
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(3)
        torch.set_default_device("meta")
        torch.set_float32_matmul_precision("medium")
        torch.set_autocast_enabled("cpu", True)
        torch.set_autocast_enabled("cuda", True)

    Isolation(0).run(thorough, change)
    assert torch_options() == before
    assert torch.zeros(1).dtype == torch.float32
    assert torch.zeros(1).device.type == "cpu"


def test_options_that_are_set_by_the_first_import_of_torch_are_undone() -> None:
    before = torch_options()
    torch.set_default_dtype(torch.float64)
    torch.inference_mode().__enter__()
    restore_torch(None)
    assert torch_options() == before


def test_inference_mode_that_the_environment_leaves_on_does_not_reach_the_program(thorough: bool) -> None:
    modes = []

    def infer() -> None:
        modes.append(torch.inference_mode())
        modes[-1].__enter__()

    for _ in range(3):
        Isolation(0).run(thorough, infer)
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
        assert not torch.zeros(1).is_inference()
    modes.clear()
    assert not torch.is_inference_mode_enabled()


def test_the_recursion_limit_is_restored(thorough: bool) -> None:
    before = sys.getrecursionlimit()
    Isolation(0).run(thorough, sys.setrecursionlimit, before - 1)
    assert sys.getrecursionlimit() == before


def test_an_alarm_that_is_left_running_is_cancelled_with_one_warning(
    thorough: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_state, "_reported", set())
    for _ in range(2):
        Isolation(0).run(thorough, signal.setitimer, signal.ITIMER_REAL, 60)
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    [record] = caplog.records
    assert "left an alarm running" in record.message


def test_an_alarm_of_the_program_keeps_running(thorough: bool) -> None:
    signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        Isolation(0).run(thorough, int)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 50
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def test_standard_streams_that_are_closed_are_opened_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def close() -> None:
        os.close(1)
        os.close(2)

    Isolation(0).run(True, close)
    os.write(1, b"out")
    os.write(2, b"err")
    assert capfd.readouterr() == ("out", "err")


def test_filters_of_warnings_are_restored(thorough: bool) -> None:
    before = list(warnings.filters)
    Isolation(0).run(thorough, warnings.simplefilter, "error")
    assert warnings.filters == before
    Isolation(0).run(thorough, warnings.resetwarnings)
    assert warnings.filters == before


def test_loggers_stay_enabled() -> None:
    logger = logging.getLogger("seer_edge.envs.guarded")

    def silence() -> None:
        logging.disable(logging.CRITICAL)
        logger.disabled = True

    Isolation(0).run(True, silence)
    assert logger.isEnabledFor(logging.WARNING)


def draws() -> tuple[float, float]:
    return random.random(), float(np.random.rand())  # noqa: NPY002


def test_each_environment_has_its_own_seeded_global_generators() -> None:
    random.seed(9)
    np.random.seed(9)  # noqa: NPY002
    ours = [draws() for _ in range(2)]
    random.seed(9)
    np.random.seed(9)  # noqa: NPY002
    assert draws() == ours[0]
    alone = Isolation(1)
    expected = [alone.run(False, draws) for _ in range(3)]
    alone.release()
    first, second = Isolation(1), Isolation(2)
    seen = [first.run(False, draws)]
    assert second.run(False, draws) not in expected
    seen += [first.run(False, draws) for _ in range(2)]
    assert seen == expected
    first.release()
    assert draws() == ours[1]


class Drawing(Odd):
    """An environment that saves its state and draws its rewards from the global generators."""

    def step(self, action: int) -> Any:
        return step(reward=sum(draws()))


def test_states_hold_the_global_generators_of_environments_that_draw_from_them() -> None:
    env = Guarded(Drawing(state=State({"a": 1})), isolation=Isolation(1))
    assert env.state() == State({"a": 1})
    env.step(0)
    saved = env.state()
    assert saved is not None
    rewards = [env.step(0).reward for _ in range(3)]
    twin = Guarded(odd := Drawing(state=State()), isolation=Isolation(2))
    twin.restore(saved)
    assert odd.restored == [State({"a": 1}, {})]
    assert [twin.step(0).reward for _ in range(3)] == rewards
    broken = State(saved.values, {**saved.arrays, "global_generators.numpy": np.zeros(3, np.uint32)})
    with pytest.raises(StateError, match="global random generators"):
        twin.restore(broken)


def test_calls_inside_a_call_are_not_isolated_again() -> None:
    guest = Isolation(0)
    guest.run(False, lambda: Isolation(1).run(True, np.seterr, all="raise"))
    assert guest.run(False, np.geterr)["over"] == "raise"
