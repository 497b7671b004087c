"""A dry run of an import, before anything is written."""

from seer_edge.agents import make_agent
from seer_edge.config.plan import BytePlan
from seer_edge.errors import RunStoppedError
from seer_edge.machine.host import is_out_of_memory, out_of_memory_line
from seer_edge.runs.source import reading_source
from seer_edge.runs.transfer import Imported, ImportedRows
from seer_edge.training.components import build_replay, check_actions, new_ledger
from seer_edge.training.imports import load_agent, load_rows
from seer_runtime.system.process import settle


def check_import(plan: BytePlan, imported: Imported) -> None:
    """Load an import into a throwaway agent and replay.

    Raises BadInputError if they do not accept it, RunStoppedError if memory runs out.
    """
    settle()  # release what the imports left, or the peak of the whole run would be here
    try:
        with reading_source(plan.config.source or ""):
            load_agent(imported, make_agent(plan, seed=0), reads_latents=plan.latent_replay)
            if imported.rows is not None:
                _check_rows(plan, imported.rows)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise RunStoppedError(f"out of memory ({out_of_memory_line(error)}); nothing was written") from error


def _check_rows(plan: BytePlan, rows: ImportedRows) -> None:
    replay = build_replay(plan, new_ledger(plan), 0, latents=True)
    load_rows(rows, replay)
    check_actions(replay, plan.env.actions)
