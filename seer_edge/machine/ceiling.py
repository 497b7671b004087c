"""Whether a run fits into the memory that there is, and what would."""

import bisect
import dataclasses
import itertools
from collections.abc import Iterator
from decimal import ROUND_FLOOR, Context

from seer_edge.config.config import TrainConfig
from seer_edge.config.plan import BytePlan, make_plan
from seer_edge.errors import BadInputError
from seer_runtime.system.memory import MemoryLimits
from seer_runtime.system.process import RssCeiling
from seer_runtime.system.units import exact_size, format_size

SHARES = (RssCeiling.WARN_FRACTION, 1.0)
"""Of a limit: what stays below the first is proposed before what only just fits, because the peak is an estimate."""
RESOLUTION_STEP = 25
"""Where frames are cropped, sizes at which frames and crops scale together (100 : 84)."""
DENSER = ("uint8", "float16")
"""Codecs that are proposed where a run can have them: those whose error is small (decision 9)."""
DIGITS = 2
"""Of the budgets that are proposed."""
NEED_UNIT_BYTES = 100_000
"""What is needed is told in whole ones of these, rounded up: a limit of that size is accepted."""
MOST_BYTES = 2**62  # what `range` takes


def check_memory(plan: BytePlan, limits: MemoryLimits, *, begun: bool = False) -> None:
    """Refuse a plan whose peak is above `--rss-limit`, the machine's memory or a limit that was set on the process.

    Raises BadInputError: one line that says what would fit. A run that has `begun` keeps its frames and its codec, so
    only budgets are proposed.
    """
    for ceiling in _ceilings(plan.config, limits):
        if plan.rss_peak_bytes > ceiling.limit_bytes:
            needed = f"the process would need about {format_size(_needed_bytes(plan))}{ceiling.has}"
            raise BadInputError(f"{ceiling.flag}: {needed}; {_mend(plan, ceiling.free_bytes, begun)}")


@dataclasses.dataclass(frozen=True)
class _Ceiling:
    flag: str
    has: str
    limit_bytes: int
    free_bytes: int  # which a proposal has to fit into


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


# --- what would fit --------------------------------------------------------------------------------------------


def _mend(plan: BytePlan, free_bytes: int, begun: bool) -> str:
    """A smaller budget, smaller frames with as large a budget, both, or what the least of them needs."""
    smaller = [] if begun else list(_smaller_frames(plan))
    for share in SHARES:
        fitting = _proposals(plan, smaller, int(share * free_bytes))
        if fitting:
            just = "" if share < 1 else "just "
            proposed = (f"{_flags(p, plan)} ({_rows(p)}{'' if begun else _denser(p, plan)})" for p in fitting)
            return f"{', or '.join(proposed)} would {just}fit"
    least = min(map(_least, [plan, *smaller]), key=lambda p: p.rss_peak_bytes)
    needed = exact_size(_needed_bytes(least))
    return f"the smallest such run, {_flags(least, plan) or 'which this is'}, needs {needed}"


def _needed_bytes(plan: BytePlan) -> int:
    return -(-plan.rss_peak_bytes // NEED_UNIT_BYTES) * NEED_UNIT_BYTES


def _proposals(plan: BytePlan, smaller: list[BytePlan], room_bytes: int) -> list[BytePlan]:
    whole = next((p for p in smaller if p.rss_peak_bytes <= room_bytes), None)
    proposals = [proposal for proposal in (fitted(plan, room_bytes), whole) if proposal is not None]
    both = (proposal for p in smaller if (proposal := fitted(p, room_bytes)) is not None)
    return proposals or list(itertools.islice(both, 1))


def fitted(plan: BytePlan, room_bytes: int) -> BytePlan | None:
    """The plan with the largest budget, at most its own, whose peak is within the room."""
    budgets = range(min(plan.config.mem_budget_bytes, max(room_bytes, 0), MOST_BYTES) + 1)

    def peak_bytes(budget: int) -> int:
        at = _with_budget(plan, budget)
        return 0 if at is None else at.rss_peak_bytes

    most = bisect.bisect_right(budgets, room_bytes, key=peak_bytes) - 1
    # All its digits where two are too few for a plan.
    return _with_budget(plan, _rounded(most)) or _with_budget(plan, most)


def _least(plan: BytePlan) -> BytePlan:
    """The plan with the least budget that makes one."""
    budgets = range(min(plan.config.mem_budget_bytes, MOST_BYTES))
    least = bisect.bisect_left(budgets, True, key=lambda budget: _with_budget(plan, budget) is not None)
    return _with_budget(plan, least) or plan


def _with_budget(plan: BytePlan, budget_bytes: int) -> BytePlan | None:
    """None where it cannot be planned."""
    if budget_bytes < 1:
        return None
    try:
        return make_plan(dataclasses.replace(plan.config, mem_budget_bytes=budget_bytes), plan.env)
    except BadInputError:
        return None


def _smaller_frames(plan: BytePlan) -> Iterator[BytePlan]:
    """The plan at each lower resolution, the highest first.

    None where frames are not cropped, because their size saves little there, or an encoder for these frames is taken.
    """
    *channels, side, _ = plan.env.frame_shape
    if plan.crop.whole or plan.config.source is not None:
        return
    for resolution in range((side - 1) // RESOLUTION_STEP * RESOLUTION_STEP, 0, -RESOLUTION_STEP):
        crop = plan.env.crop_shape[0] * resolution // side
        frame = (*channels, resolution, resolution)
        env = dataclasses.replace(plan.env, frame_shape=frame, crop_shape=(crop, crop))
        try:
            yield make_plan(dataclasses.replace(plan.config, resolution=resolution), env)
        except BadInputError:
            return


def _rounded(size_bytes: int) -> int:
    return int(Context(prec=DIGITS, rounding=ROUND_FLOOR).create_decimal(size_bytes))


def _flags(proposal: BytePlan, plan: BytePlan) -> str:
    """What differs from `plan`, as the flags of it."""
    new, old = proposal.config, plan.config
    flags = [f"--resolution {new.resolution}"] if new.resolution != old.resolution else []
    if new.mem_budget_bytes != old.mem_budget_bytes:
        flags.append(f"--mem-budget {exact_size(new.mem_budget_bytes)}")
    return " ".join(flags)


def _rows(plan: BytePlan) -> str:
    held = [f"{plan.frame_capacity:,} frames"] if plan.holds_frames else []
    if plan.latent_replay:
        held.append(f"{plan.latent_capacity:,} latents")
    return ", then ".join(held)


def _denser(proposal: BytePlan, plan: BytePlan) -> str:
    """What a codec of fewer bytes would hold, where the proposal takes bytes off the plan."""
    codec = next(name for name in DENSER if name in plan.config.latent_codecs)
    fewer = proposal.config.mem_budget_bytes < plan.config.mem_budget_bytes
    if not (fewer and proposal.latent_replay):
        return ""
    dense = make_plan(dataclasses.replace(proposal.config, latent_codec=codec), proposal.env)
    if dense.latent_row_bytes >= proposal.latent_row_bytes:
        return ""
    return f", {dense.latent_capacity:,} with --latent-codec {codec}"
