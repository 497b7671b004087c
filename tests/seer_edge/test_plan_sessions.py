"""The bytes of real sessions and checkpoints, compared with the byte plan."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_edge.agents import make_agent
from seer_edge.config.build import build_config
from seer_edge.config.plan import CHECKPOINT_BASE_BYTES, BytePlan, make_plan
from seer_edge.envs import EnvSpec
from seer_edge.networks.graph import encoder_graph
from seer_edge.runs import checkpoint
from seer_edge.runs.transfer import Imported, ImportedEncoder
from seer_edge.training.evaluate import evaluate_session
from seer_edge.training.freeze import freeze
from seer_edge.training.imports import build_imported_session
from seer_edge.training.session import build_session
from seer_runtime.system.ledger import Line
from tests.seer_edge.plan_specs import ALIEN, CARTPOLE, CARTPOLE_50, plan_of

pytestmark = pytest.mark.integration


def _imported(plan: BytePlan) -> Imported:
    """An encoder that fits the plan."""
    rng = np.random.default_rng(1)
    weights = {
        name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in plan.encoder.weight_shapes.items()
    }
    graph = encoder_graph(plan.encoder, weights)
    return Imported(0, ImportedEncoder(dict(make_agent(plan, seed=1).state().arrays), graph))


@pytest.mark.parametrize(
    ("env", "given"),
    [
        (ALIEN, {"latent_codec": "uint4", "encoder": "canonical", "replay": "prioritized"}),
        (CARTPOLE, {"freeze_layers": 2}),
        (CARTPOLE, {"source": "runs/x"}),
        (ALIEN, {"store": "compact", "replay": "prioritized"}),
        *(
            pytest.param(env, given, marks=pytest.mark.slow)
            for env, given in (
                (ALIEN, {}),
                (CARTPOLE_50, {"replay": "prioritized", "augmentations": 15}),
                (ALIEN, {"freeze_at": "never", "replay": "prioritized"}),
                (ALIEN, {"latent_codec": "uint8"}),
                (CARTPOLE, {"latent_codec": "uint8"}),
                (CARTPOLE_50, {"latent_codec": "uint4", "augmentations": 15}),
                (CARTPOLE, {}),
                (CARTPOLE, {"freeze_at": "never"}),
                (CARTPOLE, {"store": "compact", "latent_codec": "float32"}),
                (CARTPOLE, {"source": "runs/x", "store": "compact"}),
                (ALIEN, {"freeze_at": "never", "store": "compact"}),
                (CARTPOLE, {"augmentations": 1, "latent_codec": "float16", "encoder": "impala", "freeze_layers": 15}),
            )
        ),
    ],
)
def test_a_session_uses_exactly_the_planned_bytes(env: EnvSpec, given: dict[str, Any], tmp_path: Path) -> None:
    """The session has real frames, a freeze and an evaluation. Learning has not started, which changes no array."""
    config = build_config(env, resolution=env.frame_shape[-1], seed=3, **given)
    plan = make_plan(config, env)
    session = build_session(plan) if config.source is None else build_imported_session(plan, _imported(plan))
    try:
        for _ in range(12):
            session.step()
        evaluate_session(plan, session, lambda: True, lambda count: None)
        if config.freeze_at:
            freeze(
                session,
                tmp_path / "encoder.onnx",
                lambda: checkpoint.save(session.snapshot(), tmp_path / "checkpoints"),
            )
            session.step()
            evaluate_session(plan, session, lambda: True, lambda count: None)
        planned = {
            Line.OBSERVATIONS: plan.arena_bytes,
            Line.WORKSPACE: plan.workspace_bytes,
            Line.COLUMNS: plan.columns_bytes,
            Line.INDEX: plan.index_bytes,
        }
        assert {line: session.ledger.peak_bytes(line) for line in planned} == planned
        assert session.ledger.peak_bytes(Line.PRIORITIES) <= plan.priorities_bytes
    finally:
        session.env.close()


@pytest.mark.parametrize(
    ("env", "given"),
    [
        (ALIEN, {"mem_budget_bytes": 400_000, "replay": "prioritized"}),
        pytest.param(ALIEN, {"mem_budget_bytes": 400_000, "latent_codec": "float16"}, marks=pytest.mark.slow),
        (ALIEN, {"mem_budget_bytes": 400_000, "latent_codec": "uint4"}),
        pytest.param(CARTPOLE_50, {"mem_budget_bytes": 1_000_000}, marks=pytest.mark.slow),
        pytest.param(
            CARTPOLE_50,
            {"mem_budget_bytes": 1_000_000, "encoder": "impala", "freeze_layers": 15, "algo": "sac"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_checkpoint_never_exceeds_its_planned_bytes(env: EnvSpec, given: dict[str, Any], tmp_path: Path) -> None:
    config = build_config(env, resolution=env.frame_shape[-1], total_timesteps=2_000, freeze_at=1_900, **given)
    plan = make_plan(config, env)
    session = build_session(plan)

    def saved_bytes() -> int:
        path = checkpoint.save(session.snapshot(), tmp_path / "checkpoints")
        return sum(file.stat().st_size for file in path.iterdir())

    try:
        for _ in range(plan.frame_capacity):
            session.step()
        of_frames = saved_bytes()
        freeze(session, tmp_path / "encoder.onnx", lambda: checkpoint.save(session.snapshot(), tmp_path / "freeze"))
        for _ in range(5):
            session.step()
        of_latents = saved_bytes()
    finally:
        session.env.close()
    # The largest one would hold a replay full of frames, columns of as many latents, and the graph.
    graph_bytes = plan.encoder.frozen_parameters * 4 if plan.latent_replay else 0
    columns_bytes = plan.columns_bytes + plan.latent_capacity * 8
    assert plan.checkpoint_bytes - graph_bytes - columns_bytes - CHECKPOINT_BASE_BYTES < of_frames
    assert max(of_frames, of_latents) <= plan.checkpoint_bytes


@pytest.mark.parametrize("encoder", ["data-efficient", "canonical", "sac-ae", "impala"])
@pytest.mark.parametrize(
    ("env", "algo"),
    [(ALIEN, "rainbow"), (CARTPOLE_50, "curl-sac"), pytest.param(CARTPOLE_50, "sac", marks=pytest.mark.slow)],
)
def test_model_and_optimizer_are_those_of_the_agent(env: EnvSpec, algo: str, encoder: str) -> None:
    plan = plan_of(env, algo=algo, encoder=encoder)
    agent = make_agent(plan, seed=0)
    optimizers = [agent.optimizer] if algo == "rainbow" else agent.optimizers.values()
    optimized = [parameter for optimizer in optimizers for parameter in optimizer.parameters.values()]
    trained = sum(parameter.numel() for parameter in set(optimized))
    weights = [tensor for name, tensor in agent.tensors() if "optimizer." not in name and ".noise_" not in name]
    assert plan.model_bytes == 4 * sum(tensor.numel() for tensor in weights)
    assert plan.networks.parameters == trained
    assert plan.optimizer_bytes == 4 * (trained + 2 * sum(parameter.numel() for parameter in optimized))
