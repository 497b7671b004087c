"""What is taken from a stranger is tried on an agent and a replay that nothing comes of, before anything is written."""

from seer_edge.agents import make_agent
from seer_edge.config.plan import BytePlan
from seer_edge.errors import RunStoppedError
from seer_edge.machine.host import is_out_of_memory
from seer_edge.runs.transfer import TakenEncoder, refusing
from seer_edge.training.session import build_replay, check_actions
from seer_runtime.durable.files import one_line
from seer_runtime.system.ledger import WORKSPACE_CAP_BYTES, Ledger, Line
from seer_runtime.system.process import settle


def check_taken(plan: BytePlan, taken: TakenEncoder) -> None:
    """Raise BadInputError for what an agent or a replay of `plan` does not take, RunStoppedError for want of memory."""
    settle()  # most of what imports touched is not used again; else the peak of the run would be here
    try:
        with refusing(plan.config.source or ""):
            taken.give(make_agent(plan, seed=0), reads_latents=plan.latent_replay)
            if taken.rows is not None:
                _fill(plan, taken)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise RunStoppedError(f"out of memory ({one_line(error)}); nothing was written") from error


def _fill(plan: BytePlan, taken: TakenEncoder) -> None:
    ledger = Ledger({Line.OBSERVATIONS: plan.config.mem_budget_bytes, Line.WORKSPACE: WORKSPACE_CAP_BYTES})
    replay = build_replay(plan, ledger, 0, latents=True)
    taken.fill(replay)
    check_actions(replay, plan.env.actions)
