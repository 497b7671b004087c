"""Environments and plans of the tests of the byte plan."""

from typing import Any

from seer_edge.config.build import build_config
from seer_edge.config.plan import BytePlan, make_plan
from seer_edge.envs import Continuous, Discrete, EnvSpec

ALIEN = EnvSpec("ALE/Alien-v5", "Alien", (84, 84), (84, 84), Discrete(18))
CARTPOLE = EnvSpec("dm_control/cartpole-swingup-v0", "cartpole-swingup", (3, 100, 100), (84, 84), Continuous(1))
WALKER = EnvSpec("dm_control/walker-walk-v0", "walker-walk", (3, 100, 100), (84, 84), Continuous(6))
CODECS = ("float32", "float16", "uint8", "uint4")
CARTPOLE_50 = EnvSpec("dm_control/cartpole-swingup-v0", "cartpole-swingup", (3, 50, 50), (42, 42), Continuous(1))


def gray(height: int, width: int) -> EnvSpec:
    return EnvSpec("Any-v0", "Any", (height, width), (height, width), Discrete(3))


def plan_of(env: EnvSpec = ALIEN, **given: Any) -> BytePlan:
    return make_plan(build_config(env, **given), env)


def line_of(plan: BytePlan, label: str) -> str:
    """The value of one line of the table that is shown."""
    (line,) = [line for line in plan.render().splitlines() if line.startswith(f"  {label} ")]
    return line.removeprefix(f"  {label} ").strip()
