"""Load what `runs.transfer` imported into a new agent, replay and session."""

import numpy as np

from seer_edge.agents import make_agent
from seer_edge.agents.agent import Agent
from seer_edge.config.plan import BytePlan
from seer_edge.runs.source import member_values
from seer_edge.runs.transfer import Imported, ImportedLearner, ImportedRows
from seer_edge.training.components import OnHang, Seeds, closed_on_failure
from seer_edge.training.session import AnySession, Session, assemble_session, fill_and_begin
from seer_runtime.policy import bundle
from seer_runtime.policy.bundle import open_bundle
from seer_runtime.replay.replay import Replay
from seer_runtime.system.state import State, StateError


def build_imported_session(
    plan: BytePlan,
    imported: Imported,
    on_hang: OnHang | None = None,
    kind: type[AnySession] = Session,  # type: ignore[assignment]
) -> AnySession:
    """Build the session of a new run at step 0, its encoder frozen from the start.

    Raises the errors of `load_agent` and `load_rows`, and EnvironmentFailedError.
    """
    agent = make_agent(plan, seed=Seeds.of(plan.config.seed).agent)
    load_agent(imported, agent, reads_latents=plan.latent_replay)
    session = assemble_session(plan, agent, imported.encoder.graph, on_hang, kind=kind)
    with closed_on_failure(session.env):
        if imported.rows is not None:
            load_rows(imported.rows, session.replay)
        fill_and_begin(session)
    return session


def load_agent(imported: Imported, agent: Agent, *, reads_latents: bool) -> None:
    """Load the imported encoder into `agent` and freeze it; load the learner if one is imported.

    Raises StateError if they do not fit the agent, OSError.
    """
    agent.take_encoder(imported.encoder.arrays)
    agent.freeze_encoder(reads_latents=reads_latents)
    if imported.learner is not None:
        _load_learner(imported.learner, agent)


def _load_learner(learner: ImportedLearner, agent: Agent) -> None:
    with open_bundle(learner.bundle) as opened:
        arrays = opened.arrays(bundle.LEARNER, agent.state().arrays.keys())
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise StateError("its learner holds numbers that are not finite")
        agent.restore(State(member_values(opened, "learner"), arrays))


def load_rows(rows: ImportedRows, replay: Replay) -> None:
    """Load the imported rows into an empty `replay`. Their last episode ends as truncated.

    Raises StateError if they do not fit the replay, OSError.
    """
    with open_bundle(rows.bundle) as opened:
        replay.restore(member_values(opened, "replay"), opened.container.tensors(bundle.REPLAY))
        newest = opened.arrays(bundle.NEWEST)
    replay.interrupt(newest["latents"])
