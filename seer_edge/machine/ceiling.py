"""Check that a planned run fits in memory, and suggest flags that fit where it does not."""

import bisect
import dataclasses
import itertools
from collections.abc import Iterator
from decimal import ROUND_FLOOR, Context

from seer_edge.config.config import TrainConfig
from seer_edge.config.plan import BytePlan, replan
from seer_edge.errors import BadInputError
from seer_runtime.system.memory import MemoryLimits
from seer_runtime.system.process import RssCeiling
from seer_runtime.system.units import exact_size, format_size

SHARES = (RssCeiling.WARN_FRACTION, 1.0)
"""Fractions of a limit that suggestions aim for, in order.

The peak is an estimate, so suggestions below the warning level come before those that only just fit.
"""
RESOLUTION_STEP = 25
"""Step between suggested resolutions, in pixels, for environments whose frames are cropped.

At multiples of 25 frames and crops scale together, 100 to 84.
"""
DENSER = ("uint8", "float16")
"""Latent codecs to suggest, the preferred one first. Both have a small error (decision 9)."""
DIGITS = 2
"""Significant digits of suggested budgets."""
NEED_UNIT_BYTES = 100_000
"""Round reported requirements up to this unit, so that the printed value always works as a limit."""
MAX_BUDGET_BYTES = 2**62  # a `range` of this length still works with `bisect`


def check_memory(plan: BytePlan, limits: MemoryLimits, *, resumed: bool = False) -> None:
    """Reject a plan whose estimated peak exceeds a memory limit.

    The limits are `--rss-limit`, the computer's memory, the cgroup and `ulimit -v`. For a `resumed` run only smaller
    budgets are suggested, because its frame size and its latent codec are fixed.

    Raises BadInputError with one line that suggests flags that fit.
    """
    for ceiling in _ceilings(plan.config, limits):
        if plan.rss_peak_bytes > ceiling.limit_bytes:
            needed = f"the process would need about {format_size(_needed_bytes(plan))}{ceiling.has}"
            raise BadInputError(f"{ceiling.flag}: {needed}; {_hint(plan, ceiling.free_bytes, resumed)}")


def with_memory_warning(plan: BytePlan, limits: MemoryLimits, *, resumed: bool = False) -> BytePlan:
    """Return the plan with a warning if `check_memory` rejects it. It may be meant for another machine."""
    try:
        check_memory(plan, limits, resumed=resumed)
    except BadInputError as error:
        return dataclasses.replace(plan, warnings=(*plan.warnings, str(error)))
    return plan


@dataclasses.dataclass(frozen=True)
class _Ceiling:
    """One memory limit and its wording in the error message."""

    flag: str  # the flag and value that the message starts with
    has: str  # the clause that names a limit other than the flag's
    limit_bytes: int
    free_bytes: int  # memory that a suggestion has to fit into


def _ceilings(config: TrainConfig, limits: MemoryLimits) -> Iterator[_Ceiling]:
    limit = config.rss_limit_bytes
    if limit is not None:
        yield _Ceiling(f"--rss-limit {exact_size(limit)}", "", limit, limit)
    budget = f"--mem-budget {config.mem_budget_bytes}"
    machine = f" and this machine has {format_size(limits.total_bytes)}"
    yield _Ceiling(budget, machine, limits.total_bytes, limits.available_bytes)
    for name, limit in (("its cgroup", limits.cgroup_bytes), ("`ulimit -v`", limits.address_space_bytes)):
        if limit is not None:
            yield _Ceiling(budget, f" and {name} allows {format_size(limit)}", limit, limit)


# --- suggestions -----------------------------------------------------------------------------------------------


def _hint(plan: BytePlan, free_bytes: int, resumed: bool) -> str:
    """Suggest flags that fit in `free_bytes`.

    The first choice is a smaller budget, and smaller frames at the same budget. The second is both together. Where
    nothing fits, return the flags and the need of the smallest run.
    """
    smaller = [] if resumed else list(_smaller_frames(plan))
    for share in SHARES:
        fitting = _proposals(plan, smaller, int(share * free_bytes))
        if fitting:
            just = "" if share < 1 else "just "
            proposed = (f"{_flags(p, plan)} ({_rows(p)}{'' if resumed else _denser(p, plan)})" for p in fitting)
            return f"{', or '.join(proposed)} would {just}fit"
    least = min(map(_least, [plan, *smaller]), key=lambda p: p.rss_peak_bytes)
    needed = exact_size(_needed_bytes(least))
    flags = _flags(least, plan)
    networks = plan.model_bytes + plan.optimizer_bytes
    cause = f"; its networks take {format_size(networks)}: set a smaller `hidden`" if networks > free_bytes else ""
    return f"the smallest possible run ({flags or 'this one'}) needs {needed}{cause}"


def _needed_bytes(plan: BytePlan) -> int:
    return -(-plan.rss_peak_bytes // NEED_UNIT_BYTES) * NEED_UNIT_BYTES


def _proposals(plan: BytePlan, smaller: list[BytePlan], room_bytes: int) -> list[BytePlan]:
    """Return the plans to suggest, whose peaks are at most `room_bytes`; `smaller` holds plans with smaller frames."""
    whole = next((p for p in smaller if p.rss_peak_bytes <= room_bytes), None)
    proposals = [proposal for proposal in (fitted(plan, room_bytes), whole) if proposal is not None]
    both = (proposal for p in smaller if (proposal := fitted(p, room_bytes)) is not None)
    return proposals or list(itertools.islice(both, 1))


def fitted(plan: BytePlan, room_bytes: int) -> BytePlan | None:
    """Return the plan with the largest budget, at most its present one, whose peak is at most `room_bytes`.

    The budget is rounded down to `DIGITS` digits where that leaves a valid plan. None where no budget fits.
    """
    budgets = range(min(plan.config.mem_budget_bytes, max(room_bytes, 0), MAX_BUDGET_BYTES) + 1)

    def peak_bytes(budget: int) -> int:
        at = _with_budget(plan, budget)
        return 0 if at is None else at.rss_peak_bytes

    most = bisect.bisect_right(budgets, room_bytes, key=peak_bytes) - 1
    # Rounding down may leave too little for one batch: then keep all digits.
    return _with_budget(plan, _rounded(most)) or _with_budget(plan, most)


def _least(plan: BytePlan) -> BytePlan:
    """Return the plan with the smallest budget that is valid."""
    budgets = range(min(plan.config.mem_budget_bytes, MAX_BUDGET_BYTES))
    least = bisect.bisect_left(budgets, True, key=lambda budget: _with_budget(plan, budget) is not None)
    return _with_budget(plan, least) or plan


def _with_budget(plan: BytePlan, budget_bytes: int) -> BytePlan | None:
    """Return the plan at another budget, or None where that budget is too small."""
    if budget_bytes < 1:
        return None
    try:
        return replan(plan, mem_budget_bytes=budget_bytes)
    except BadInputError:
        return None


def _smaller_frames(plan: BytePlan) -> Iterator[BytePlan]:
    """Yield the plan at each lower resolution, the highest first.

    Yield nothing where frames are not cropped, because smaller frames save little there, nor where the encoder is
    imported, because it needs frames of this size.
    """
    *channels, side, _ = plan.env.frame_shape
    if plan.crop.whole or plan.config.source is not None:
        return
    for resolution in range((side - 1) // RESOLUTION_STEP * RESOLUTION_STEP, 0, -RESOLUTION_STEP):
        crop = plan.env.crop_shape[0] * resolution // side
        frame = (*channels, resolution, resolution)
        env = dataclasses.replace(plan.env, frame_shape=frame, crop_shape=(crop, crop))
        try:
            yield replan(plan, env, resolution=resolution)
        except BadInputError:
            return


def _rounded(size_bytes: int) -> int:
    return int(Context(prec=DIGITS, rounding=ROUND_FLOOR).create_decimal(size_bytes))


def _flags(proposal: BytePlan, plan: BytePlan) -> str:
    """Return the flags that lead from `plan` to `proposal`."""
    new, old = proposal.config, plan.config
    flags = [f"--resolution {new.resolution}"] if new.resolution != old.resolution else []
    if new.mem_budget_bytes != old.mem_budget_bytes:
        flags.append(f"--mem-budget {exact_size(new.mem_budget_bytes)}")
    return " ".join(flags)


def _rows(plan: BytePlan) -> str:
    """Return how many frames and latents the replay holds, for a message."""
    held = [f"{plan.frame_capacity:,} frames"] if plan.holds_frames else []
    if plan.latent_replay:
        held.append(f"{plan.latent_capacity:,} latents")
    return ", then ".join(held)


def _denser(proposal: BytePlan, plan: BytePlan) -> str:
    """Return how many latents a denser codec would hold, where `proposal` has a smaller budget than `plan`."""
    codec = next(name for name in DENSER if name in plan.config.latent_codecs)
    fewer = proposal.config.mem_budget_bytes < plan.config.mem_budget_bytes
    if not (fewer and proposal.latent_replay):
        return ""
    dense = replan(proposal, latent_codec=codec)
    if dense.latent_row_bytes >= proposal.latent_row_bytes:
        return ""
    return f", {dense.latent_capacity:,} with --latent-codec {codec}"
