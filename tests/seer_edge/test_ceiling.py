"""`check_memory` rejects plans that do not fit, and the flags that it suggests do fit."""

import dataclasses
import math
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seer_edge.config.build import build_config
from seer_edge.config.plan import BytePlan, make_plan
from seer_edge.envs import Continuous, Discrete, EnvSpec
from seer_edge.errors import BadInputError
from seer_edge.machine.ceiling import check_memory, with_memory_warning
from seer_runtime.system.memory import MemoryLimits
from seer_runtime.system.units import format_size, parse_size

ROOMY = MemoryLimits(10**18, 10**18)
ALIEN = EnvSpec("ALE/Alien-v5", "Alien", (84, 84), (84, 84), Discrete(18), 29_000_000)


def _control(resolution: int = 100) -> EnvSpec:
    crop = resolution * 84 // 100
    shape, cropped = (3, resolution, resolution), (crop, crop)
    return EnvSpec("dm_control/cartpole-swingup-v0", "cartpole-swingup", shape, cropped, Continuous(1), 220_000_000)


def _plan(env: EnvSpec = ALIEN, **given: Any) -> BytePlan:
    return make_plan(build_config(env, **given), env)


def _refusal(plan: BytePlan, limits: MemoryLimits = ROOMY) -> str:
    with pytest.raises(BadInputError) as caught:
        check_memory(plan, limits)
    message = str(caught.value)
    assert "\n" not in message
    return message


def _followed(plan: BytePlan, hint: str) -> BytePlan:
    """Return the plan with the flags at the start of `hint`."""
    flags = shlex.split(re.split(r"[(,]", hint)[0])
    given = dict(zip(flags[::2], flags[1::2], strict=False))
    env = _control(int(given["--resolution"])) if "--resolution" in given else plan.env
    budget = parse_size(given["--mem-budget"]) if "--mem-budget" in given else plan.config.mem_budget_bytes
    return make_plan(dataclasses.replace(plan.config, mem_budget_bytes=budget, resolution=env.frame_shape[-1]), env)


def _limited(plan: BytePlan, limit_bytes: int) -> BytePlan:
    return dataclasses.replace(plan, config=dataclasses.replace(plan.config, rss_limit_bytes=limit_bytes))


def _rounded_up(need_bytes: int) -> str:
    """Format as the message does: rounded up, so that a limit of that size is enough."""
    return format_size(math.ceil(need_bytes / 100_000) * 100_000)


def _hints(message: str) -> list[str]:
    """Return the suggested flags of `message`, each with the parenthesis after it."""
    return re.findall(r"--(?:mem-budget|resolution) [^()]*\([^()]*\)", message.partition("; ")[2])


# --- --rss-limit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", [ALIEN, _control()])
def test_rss_limit_is_compared_to_the_byte(env: EnvSpec) -> None:
    need = _plan(env).rss_peak_bytes
    check_memory(_plan(env, rss_limit_bytes=need), ROOMY)
    message = _refusal(_plan(env, rss_limit_bytes=need - 1))
    assert message.startswith(f"--rss-limit {need - 1}: the process would need about {_rounded_up(need)}; --")
    check_memory(_plan(env), ROOMY)


def test_the_suggested_budget_is_the_largest_with_two_digits() -> None:
    exact = math.ceil(_plan(mem_budget_bytes=30_000_000).rss_peak_bytes / 0.95)
    assert _refusal(_plan(rss_limit_bytes=exact)).endswith(
        "; --mem-budget 30MB (4,251 frames, then 13,018 latents, 52,074 with --latent-codec uint8) would fit"
    )
    assert "; --mem-budget 29MB (" in _refusal(_plan(rss_limit_bytes=exact - 2))


def test_the_suggested_budget_keeps_all_digits_where_rounding_would_not_fit() -> None:
    least = _plan(_control(), mem_budget_bytes=131 * 30_000)
    limit = math.ceil(least.rss_peak_bytes / 0.95)
    message = _refusal(_plan(_control(), mem_budget_bytes=300_000_000, rss_limit_bytes=limit))
    assert "; --mem-budget 3959999 (131 frames, " in message  # 3.9MB would be 130 frames, fewer than a batch needs


@settings(max_examples=40)
@given(
    limit=st.integers(200_000_000, 1_200_000_000),
    env=st.sampled_from([ALIEN, _control(), _control(50)]),
    given=st.sampled_from(
        [
            {},
            {"freeze_at": "never"},
            {"source": "runs/x"},
            {"latent_codec": "float16", "replay": "prioritized"},
            {"mem_budget_bytes": 800_000_000},
        ]
    ),
)
def test_suggestions_fit_and_are_nearly_the_largest(limit: int, env: EnvSpec, given: dict[str, Any]) -> None:
    plan = _plan(env, rss_limit_bytes=limit, **given)
    if plan.rss_peak_bytes <= limit:
        check_memory(plan, ROOMY)
        return
    message = _refusal(plan)
    hints = _hints(message)
    room = limit if "just fit" in message else 0.95 * limit
    for hint in hints:
        fitting = _followed(plan, hint)
        assert fitting.rss_peak_bytes <= room
        check_memory(fitting, ROOMY)
        held = [int(count.replace(",", "")) for count in re.findall(r"([\d,]+) (?:frames|latents)", hint)]
        frames = [fitting.frame_capacity] if plan.config.freeze_at != 0 else []
        assert held == [*frames, *([fitting.latent_capacity] if plan.latent_replay else [])]
        if "--mem-budget" in hint:
            larger = dataclasses.replace(fitting.config, mem_budget_bytes=int(1.11 * fitting.config.mem_budget_bytes))
            assert make_plan(larger, fitting.env).rss_peak_bytes > room
    if not hints:
        least, needed = re.fullmatch(r".*; the smallest possible run \((--.*)\) needs (\S+)", message).groups()
        smallest = _followed(plan, least)
        assert limit < smallest.rss_peak_bytes <= parse_size(needed) < smallest.rss_peak_bytes + 100_000
        check_memory(_limited(smallest, parse_size(needed)), ROOMY)
        with pytest.raises(BadInputError, match="would need about"):
            check_memory(_limited(smallest, parse_size(needed) - 100_000), ROOMY)
        below = dataclasses.replace(smallest.config, mem_budget_bytes=smallest.config.mem_budget_bytes - 1)
        with pytest.raises(BadInputError, match="cannot hold one batch"):
            make_plan(below, smallest.env)


@pytest.mark.parametrize(
    ("resolution", "lacking_bytes"), [(75, 0), (50, 0), (25, 0), (25, 10_000_000)], ids=lambda value: f"{value}"
)
def test_smaller_frames_are_suggested_where_frames_are_cropped(resolution: int, lacking_bytes: int) -> None:
    """The suggestion is the largest resolution that fits with the full budget; a smaller budget joins it last."""
    limit = math.ceil(_plan(_control(resolution)).rss_peak_bytes / 0.95) - lacking_bytes
    message = _refusal(_plan(_control(), rss_limit_bytes=limit))
    (hint,) = [hint for hint in _hints(message) if "--resolution" in hint]
    assert f"--resolution {resolution} " in hint
    assert ("--mem-budget" in hint) == (lacking_bytes > 0)
    assert "--resolution" not in _refusal(_plan(rss_limit_bytes=300_000_000))
    assert ("--latent-codec" in hint) == ("--mem-budget" in hint)


def test_the_need_of_the_smallest_run_is_reported() -> None:
    """The need is printed twice as the same number, and a limit of that size is accepted."""
    plan = _plan(mem_budget_bytes=388_080, rss_limit_bytes=200_000_000)
    about, needed = re.fullmatch(
        r".* would need about (3\d\d\.\d) MB; the smallest possible run \(this one\) needs (3\d\d(?:\.\d)?)MB",
        _refusal(plan),
    ).groups()
    assert float(about) == float(needed)
    with pytest.raises(BadInputError, match=rf"\(this one\) needs {needed}MB"):
        check_memory(plan, ROOMY, resumed=True)
    check_memory(_limited(plan, parse_size(f"{needed}MB")), ROOMY, resumed=True)


def test_a_denser_codec_is_suggested_where_the_budget_shrinks() -> None:
    limit = _plan().rss_peak_bytes - 10_000_000
    (hint,) = _hints(_refusal(_plan(rss_limit_bytes=limit)))
    latents, dense = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) (?:latents|with --latent-codec)", hint))
    assert dense == _followed(_plan(latent_codec="uint8"), hint).latent_capacity > 3.9 * latents
    auto = _refusal(_plan(rss_limit_bytes=_plan(latent_codec="auto").rss_peak_bytes - 10_000_000, latent_codec="auto"))
    assert re.search(r"frames, then [\d,]+ latents, [\d,]+ with --latent-codec uint8\)", auto)
    for other in ({"latent_codec": "uint8"}, {"latent_codec": "uint4"}, {"freeze_at": "never"}):
        assert "codec" not in _refusal(_plan(rss_limit_bytes=limit, **other))


def test_fixed_settings_are_not_suggested() -> None:
    """An imported encoder fixes the frame size. A resumed run has fixed frames and a fixed codec."""
    imported = _refusal(_plan(_control(), source="runs/x", rss_limit_bytes=340_000_000))
    assert "--resolution" not in imported
    plan = _plan(_control(), mem_budget_bytes=100_000_000)
    plan = _limited(plan, plan.rss_peak_bytes - 30_000_000)
    assert {"--resolution", "--latent-codec"} < set(_refusal(plan).split())
    with pytest.raises(BadInputError, match=r"; --mem-budget \d+MB \([\d,]+ frames, then [\d,]+ latents\) would fit$"):
        check_memory(plan, ROOMY, resumed=True)


def test_suggestions_for_a_frozen_run_count_no_frames() -> None:
    """The run has no updates from frames any more, and its smallest budget holds one batch of latents."""
    before = _plan(_control(), rss_limit_bytes=1)
    after = make_plan(before.config, before.env, frozen=True)
    needs = []
    for plan in (before, after):
        with pytest.raises(BadInputError) as caught:
            check_memory(plan, ROOMY, resumed=True)
        needs.append(re.search(r"\(--mem-budget (\S+)\) needs ([^\s;]+)", str(caught.value)).groups())
    (budget, need), (frozen_budget, frozen_need) = needs
    assert parse_size(frozen_budget) < parse_size(budget)
    assert parse_size(need) - parse_size(frozen_need) > before.activation_bytes > after.activation_bytes == 0


# --- the machine's limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        (MemoryLimits(339_000_000, 335_000_000), "this machine has 339.0 MB"),
        (MemoryLimits(10**10, 10**10, cgroup_bytes=338_000_000), "its cgroup allows 338.0 MB"),
        (MemoryLimits(10**10, 10**10, address_space_bytes=337_000_000), "`ulimit -v` allows 337.0 MB"),
    ],
)
def test_the_message_names_the_exceeded_limit(limits: MemoryLimits, named: str) -> None:
    plan = _plan()
    assert plan.rss_peak_bytes > 339_000_000
    message, need = _refusal(plan, limits), _rounded_up(plan.rss_peak_bytes)
    assert message.startswith(f"--mem-budget 70000000: the process would need about {need} and {named}; --mem-budget ")
    (hint,) = _hints(message)
    check_memory(_followed(plan, hint), limits)


def test_a_plan_for_another_machine_gets_the_refusal_as_a_warning() -> None:
    plan, small = _plan(mem_budget_bytes=10**9), MemoryLimits(950_000_000, 600_000_000)
    assert with_memory_warning(plan, ROOMY) == plan
    assert with_memory_warning(plan, small).warnings == (*plan.warnings, _refusal(plan, small))


def test_suggestions_fit_in_available_memory_rather_than_total_memory() -> None:
    plan = _plan(mem_budget_bytes=10**9)
    (hint,) = _hints(_refusal(plan, MemoryLimits(950_000_000, 600_000_000)))
    assert _followed(plan, hint).rss_peak_bytes <= 0.95 * 600_000_000


@pytest.mark.parametrize("budget", [10**14, 10**29])
def test_extremely_large_budgets_are_rejected_with_a_suggestion(budget: int) -> None:
    message = _refusal(_plan(mem_budget_bytes=budget), MemoryLimits(8 * 10**9, 6 * 10**9))
    assert message.startswith(f"--mem-budget {budget}: the process would need about ")
    assert " and this machine has 8.0 GB; --mem-budget 5.3GB (" in message
    assert "the smallest possible run (--mem-budget 388080) needs " in _refusal(
        _plan(mem_budget_bytes=budget, rss_limit_bytes=1)
    )
    assert "--mem-budget " in _refusal(_plan(mem_budget_bytes=budget, rss_limit_bytes=budget - 1))


def test_check_memory_does_not_import_torch() -> None:
    code = "import sys, seer_edge.machine.ceiling; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "True"]


def test_a_network_that_does_not_fit_is_named_as_the_cause() -> None:
    message = _refusal(_plan(overrides={"hidden": 10**9}), MemoryLimits(25 * 10**9, 20 * 10**9))
    assert message.endswith(" GB: set a smaller `hidden`")
    assert "set a smaller" not in _refusal(_plan(mem_budget_bytes=10**11), MemoryLimits(10**9, 2 * 10**8))
