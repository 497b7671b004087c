"""speedbench times both phases of a real session and their yardsticks, and rejects bad input."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).parents[2] / "tools"
SPEEDBENCH = TOOLS / "speedbench.py"
PARTS = ["environment", "encode", "act", "sample", "gather", "update", "step"]


@pytest.fixture(autouse=True)
def _tools_on_the_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(TOOLS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _speedbench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SPEEDBENCH), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_both_phases_are_timed_and_compared(tmp_path: Path) -> None:
    report, small = tmp_path / "report.json", ("--env", "Alien", "--resolution", "42", "--times", "5")
    done = _speedbench(*small, "--json", str(report))
    assert done.returncode == 0, done.stderr
    head, _, *lines = done.stdout.splitlines()
    assert head.startswith(
        "ALE/Alien-v5, 18 actions, rainbow, data-efficient, 4x42x42, batch 32, 1 thread, pipeline off; "
    )
    assert all(float(rate) > 1 for rate in re.findall(r"(\d+)(?: GFLOP/s|(?= after))", head))
    assert re.match(r"page faults per step: [\d,]+ \(pixel\), [\d,]+ \(latent\)$", lines[-3])
    assert re.match(r"pixel: \d+ steps/s; the released code's 35 ", lines[-2])
    assert re.match(r"latent: \d+ steps/s; the released code's 82 ", lines[-1])

    timings = json.loads(report.read_text())["timings"]
    rows = 4 * 32 + 20
    between = ["pixel: checkpoint", f"pixel: freeze, {rows} rows"]
    wanted = [f"pixel: {part}" for part in PARTS] + between + [f"latent: {part}" for part in PARTS]
    names = [f"{timing['phase']}: {timing['part']}" for timing in timings]
    assert [re.sub(r"freeze, \d+", f"freeze, {rows}", name) for name in names] == wanted
    for timing in timings:
        assert 0 < timing["least"] <= timing["median"]
        if timing["yardstick"] is not None:
            assert timing["ratio"] == timing["median"] / timing["yardstick_median"]
    updates = [timing for timing in timings if timing["part"] == "update"]
    assert all(timing["ratio"] > 1 for timing in updates), "an update takes longer than its products alone"

    again = _speedbench(*small, "--against", str(report))
    assert again.returncode == 0, again.stderr
    pixel_update = next(line for line in again.stdout.splitlines() if line.startswith("pixel: update"))
    was = [f"{updates[0][name]:.2f}" for name in ("least", "median", "ratio")]
    assert pixel_update.split()[-3:] == was

    unlike = _speedbench(*small, "--pipeline", "on", "--against", str(report))
    assert unlike.returncode == 2
    wanted = f"speedbench.py: --against {report}: its clock is CPU, not wall; give the same flags\n"
    assert unlike.stderr == wanted


@pytest.mark.slow
def test_a_contrastive_agent_receives_positives() -> None:
    done = _speedbench("--env", "cartpole-swingup", "--resolution", "25", "--times", "5")
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines() if ": update" in line] == ["pixel", "latent"]
    multiples = re.findall(r"^(\w+): an update takes ([\d.]+) times as long as its products$", done.stdout, re.M)
    assert [phase for phase, _ in multiples] == ["pixel", "latent"]
    assert all(float(multiple) > 1 for _, multiple in multiples)


@pytest.mark.slow
def test_the_pipeline_is_compared_with_its_slower_side() -> None:
    done = _speedbench("--env", "Alien", "--resolution", "42", "--times", "20", "--pipeline", "on")
    assert done.returncode == 0, done.stderr
    line = r"^(\w+): update thread .*: ([\d.]+) of the pace of the slower side; two threads .* reach ([\d.]+) here$"
    paces = re.findall(line, done.stdout, re.M)
    assert [phase for phase, *_ in paces] == ["pixel", "latent"]
    assert all(0 < float(pace) <= 1.05 for _, *both in paces for pace in both)


@pytest.mark.slow
def test_causes_add_up_to_the_step(tmp_path: Path) -> None:
    report = tmp_path / "causes.json"
    done = _speedbench("causes", "--env", "Alien", "--resolution", "42", "--times", "5", "--json", str(report))
    assert done.returncode == 0, done.stderr
    tables = re.findall(r"^step +([\d. ]+) 100 %$", done.stdout, re.M)
    assert len(tables) == 2
    for sums, (phase, causes) in zip(tables, json.loads(report.read_text()).items(), strict=True):
        *kinds, total = map(float, sums.split())
        assert total == pytest.approx(sum(kinds), abs=0.03)
        assert 0 < causes["alone"] < 3 * total
        parts = causes["parts"]
        assert parts["update"]["Adam, norm"] > parts["refresh, with noisy weights"]["Adam, norm"] == 0
        assert parts["emulator"]["outside operators"] > parts["store"]["outside operators"] > 0
        assert causes["operators"]["aten::mm"] == pytest.approx(kinds[0], rel=0.3), phase


def test_the_sides_of_a_step_are_the_cpu_times_of_its_threads() -> None:
    import pipeline_sides

    def busy(seconds: float) -> None:
        begin = time.thread_time()
        while time.thread_time() - begin < seconds:
            pass

    class Session:
        def step(self) -> None:
            thread = threading.Thread(target=busy, args=(0.02,))
            thread.start()
            thread.join()
            busy(0.01)
            time.sleep(0.02)

    sides = pipeline_sides.sides_of(Session(), 5)  # type: ignore[arg-type]
    assert sides.learning == pytest.approx(20, abs=4)
    assert sides.acting == pytest.approx(10, abs=4)
    assert sides.step >= 49
    assert sides.pace == sides.learning / sides.step < 0.5
    yardstick = pipeline_sides.yardstick_of(sides, 5)
    assert yardstick.learning == pytest.approx(sides.learning, abs=4)
    assert yardstick.acting == pytest.approx(sides.acting, abs=4)


def test_a_part_gets_its_own_operators_and_the_time_between_them() -> None:
    import stepcauses

    square = torch.randn(500, 500)
    inner = stepcauses._marked(lambda: (square @ square, time.sleep(0.02)), "inner")
    outer = stepcauses._marked(lambda: (inner(), square.clone()), stepcauses.STEP)
    with torch.autograd.profiler.profile() as profiled:
        outer()
    (event,) = (event for event in profiled.function_events if event.name == stepcauses.MARK + stepcauses.STEP)
    counted = stepcauses._of_step(event)
    kinds = {(part, stepcauses.kind_of(name)) for part, name in counted if name}
    assert {("inner", "products"), (stepcauses.STEP, "copies")} <= kinds
    assert (stepcauses.STEP, "products") not in kinds
    assert counted["inner", ""] > 20 > counted[stepcauses.STEP, ""]
    assert sum(counted.values()) == pytest.approx(event.cpu_time_total / 1e3, rel=0.01)


def test_products_repeat_only_the_products_of_the_job() -> None:
    from yardsticks import products

    inputs, weight = torch.randn(300, 200), torch.randn(100, 200, requires_grad=True)

    def job() -> None:
        outputs = torch.relu(torch.nn.functional.linear(inputs, weight))
        time.sleep(0.2)
        outputs.sum().backward()

    alone = products(job)
    wanted = [(300, 100), (100, 200)]  # the outputs and the weight's gradient; the inputs need no gradient
    with torch.autograd.profiler.profile(record_shapes=True) as profile:
        begin = time.perf_counter()
        alone()
        assert time.perf_counter() - begin < 0.2
    calls = [event for event in profile.function_events if event.name in ("aten::mm", "aten::addmm", "aten::relu")]
    shapes = [event.input_shapes for event in calls]
    assert [(left[0], right[1]) for left, right, *_ in shapes] == wanted


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("causes", "--pipeline", "on"), "--pipeline on: causes profiles one thread and compares nothing; omit it"),
        (("causes", "--against", "x.json"), "--against: causes profiles one thread"),
        (("--env", "Aliem"), "--env Aliem: unknown environment; "),
        (("--env", "cartpole-swingup", "--resolution", "51"), "--resolution 51: "),
        (("--threads", "0"), "--threads"),
        (("--threads", "257"), "--threads 257: give 1 to 256"),
        (("--times", "0"), "--times: '0' is not a whole number from 1"),
        (("--json", "/nonexistent/x"), "--json: /nonexistent/x cannot be written: /nonexistent is not a folder"),
        (("--json", str(TOOLS)), "is a folder; name a file"),
        (("--against", "nowhere.json"), "--against nowhere.json: not a report of --json"),
        (("--against", str(SPEEDBENCH)), "not a report of --json"),
    ],
)
def test_bad_input_is_reported_in_one_line(arguments: tuple[str, ...], named: str) -> None:
    done = _speedbench(*arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("speedbench.py: ")
    assert named in line
