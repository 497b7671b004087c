"""`seer-edge export`: write a run's newest undamaged checkpoint as a bundle. Imports no torch."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_edge.config.plan import BytePlan
from seer_edge.config.real_time import limits_asked, to_manifest
from seer_edge.config.registry import ALGORITHMS
from seer_edge.deploy.quantize import Quantized, quantize
from seer_edge.envs import Discrete
from seer_edge.errors import BadInputError
from seer_edge.networks.graph import encoder_graph, graph_weights
from seer_edge.runs import checkpoint
from seer_edge.runs.checkpoint import Saved
from seer_edge.runs.demos import are_demos
from seer_edge.runs.run_folder import RunFolder
from seer_edge.validation import check_target
from seer_edge.version import __version__
from seer_runtime import durable
from seer_runtime.durable import BytesLike
from seer_runtime.durable.container import begins_as_bundle
from seer_runtime.policy import bundle
from seer_runtime.policy.policy import Policy
from seer_runtime.system.state import State

ENCODER_PREFIX = "encoder."


def write_bundle(
    path: Path,
    folder: RunFolder,
    saved: Saved,
    agent: State,
    plan: BytePlan,
    extras: Collection[str] = (),
    *,
    int8: bool = False,
) -> list[str]:
    """Write a checkpoint, whose agent's state is `agent`, as a bundle; return a line for each of its members.

    `extras` are elements of `bundle.EXTRAS`. Before the file appears at `path` it is loaded as by `act`, and takes one
    action. Raises BadInputError for an extra that the checkpoint does not have, for a bundle that `act` cannot load,
    and where `path` cannot be written.
    """
    _check_place(path, folder)
    with checkpoint.reading(saved.path):
        spec = _spec(plan)
        about = _about(spec, folder, saved, agent, plan)
        members = _members(saved, agent, plan)
        report = []
        _check_sizes(path, members)
        if int8:
            quantized = _quantized(spec, plan, *(bytes(members[name][0]) for name in (bundle.ENCODER, bundle.HEAD)))
            members[bundle.INT8] = (quantized.graph,)
            members[bundle.PROBE] = _tensors(bundle.PROBE, {"observations": quantized.probe})
            report.append(quantized.report)
        if "learner" in extras:
            members[bundle.LEARNER] = _tensors(bundle.LEARNER, _learner(agent.arrays))
            about["learner"] = {"values": agent.values}
        if "replay" in extras:
            state, newest = _replay(saved, plan)
            if "learner" not in extras:
                raise BadInputError("--with replay: `train --from` reads rows only --with learner; give both or none")
            members[bundle.REPLAY] = _tensors(bundle.REPLAY, state.arrays)
            members[bundle.NEWEST] = _tensors(bundle.NEWEST, {"latents": newest})
            about["replay"] = {"values": state.values}
        _check_sizes(path, members)
    try:
        durable.write_container(path, about, members, check=_check_loads)
    except durable.CorruptFileError as error:
        raise BadInputError(f"-o {path}: not written, because `act` cannot load it ({error.reason})") from error
    except OSError as error:
        raise BadInputError(f"-o {path}: cannot be written ({error.strerror}); name another file") from error
    sizes = {name: sum(memoryview(piece).nbytes for piece in pieces) for name, pieces in members.items()}
    return [*(f"{name:<20} {size:>12,} B" for name, size in sizes.items()), *report]


def _check_place(path: Path, folder: RunFolder) -> None:
    """Raise BadInputError where writing the bundle would replace another kind of file or part of the run."""
    if path.resolve().is_relative_to(folder.path.resolve()):
        raise BadInputError(f"-o {path}: is inside the run's folder; name a file outside it")
    check_target("-o", path)
    if path.is_file() and path.stat().st_size and (not begins_as_bundle(path) or are_demos(path)):
        raise BadInputError(f"-o {path}: exists and is not a bundle; name another file")


def _check_sizes(path: Path, members: Mapping[str, Sequence[BytesLike]]) -> None:
    """Raise BadInputError for a member that is larger than readers accept."""
    for name, pieces in members.items():
        size_bytes, most_bytes = sum(memoryview(piece).nbytes for piece in pieces), bundle.MEMBER_BYTES_MAX[name]
        if size_bytes > most_bytes:
            raise BadInputError(
                f"-o {path}: not written: {name} takes {size_bytes:,} B and `act` reads at most {most_bytes:,} B; "
                "train with another --encoder or a smaller `hidden`"
            )


def _check_loads(path: Path) -> None:
    """Load the bundle at `path` and take one action. Raises CorruptFileError where that fails."""
    policy = Policy.load(path)
    policy.act(np.zeros(policy.spec.frame_shape, np.uint8))
    if not np.isfinite(policy.values).all():
        raise durable.CorruptFileError(path, "its head returns values that are not finite")


def _spec(plan: BytePlan) -> bundle.PolicySpec:
    actions = plan.env.actions
    return bundle.PolicySpec(
        algo=plan.config.algo,
        frame_shape=plan.env.frame_shape,
        stack=plan.config.settings.stack,
        crop_shape=plan.env.crop_shape,
        discrete=isinstance(actions, Discrete),
        actions=actions.outputs,
        resize=plan.config.resize,
        own_actions=plan.env.own_actions,
        gray_levels=plan.config.gray_levels,
        picture=plan.env.picture,
    )


def _quantized(spec: bundle.PolicySpec, plan: BytePlan, encoder: bytes, head: bytes) -> Quantized:
    whole = dataclasses.replace(plan.encoder, frozen_layers=None, outside=False)
    weights = graph_weights(encoder, whole.weight_shapes)
    return quantize(plan, whole, weights, Policy(spec, encoder, head), encoder)


def _about(spec: bundle.PolicySpec, folder: RunFolder, saved: Saved, agent: State, plan: BytePlan) -> dict[str, Any]:
    """Return the manifest. It has no dates and no paths, so that the same checkpoint gives the same bytes."""
    config = plan.config
    episodes = min(config.eval_episodes, bundle.EPISODES_MAX)
    options = dataclasses.asdict(config.env_options)
    del options["gray_levels"]  # part of the policy's own specification, only where it is set
    return {
        **spec.to_json(),
        "encoder": checkpoint.encoder_identity(plan),
        "environment": {"id": config.env, "name": config.env_name, "options": options},
        "evaluation": {
            "epsilon": config.settings.evaluation_epsilon,
            "episodes": episodes,
            **({} if config.eval_max_steps is None else {"max_steps": config.eval_max_steps}),
        },
        **to_manifest(limits_asked(config)),
        "provenance": {
            "seed": config.seed,
            "timestep": saved.timestep,
            "updates": agent.values.get("updates"),
            "frozen": saved.frozen,
            "preset": config.preset,
            "versions": folder.versions(),
            "exported_with": __version__,
        },
    }


def _members(saved: Saved, agent: State, plan: BytePlan) -> dict[str, Sequence[BytesLike]]:
    """Return the members that acting needs, and the layer norms that belong to a frozen encoder."""
    encoder = dataclasses.replace(plan.encoder, frozen_layers=None)
    graph = saved.graph if plan.encoder.whole else None
    if graph is None:
        weights = {name.removeprefix(ENCODER_PREFIX): array for name, array in agent.arrays.items()}
        graph = encoder_graph(encoder, weights)
    members: dict[str, Sequence[BytesLike]] = {
        bundle.ENCODER: (graph,),
        bundle.HEAD: (plan.networks.policy_graph(plan.config.settings, agent.arrays),),
    }
    prefixes = tuple(set(ALGORITHMS[plan.config.algo].encoder_arrays) - {ENCODER_PREFIX})
    norms = {name: array for name, array in agent.arrays.items() if prefixes and name.startswith(prefixes)}
    return members | ({bundle.NORMS: _tensors(bundle.NORMS, norms)} if norms else {})


def _learner(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return all arrays except those of an encoder: online, target and their moments."""
    return {name: array for name, array in arrays.items() if ENCODER_PREFIX not in name}


def _replay(saved: Saved, plan: BytePlan) -> tuple[State, NDArray[np.float32]]:
    """Return the replay's state, and the latents `[K, N, L]` of the observation after its newest row."""
    if not saved.has_replay:
        raise BadInputError("--with replay: the best checkpoint has no replay; leave it or --best out")
    if saved.graph is None or not plan.encoder.whole:
        raise BadInputError("--with replay: this run's replay does not hold latents of the whole encoder; leave it out")
    newest = np.ascontiguousarray(saved.perception().arrays["latents"][: plan.config.augmentations])
    return State(dict(saved.state["replay"]), durable.read_tensors(saved.path / checkpoint.REPLAY)), newest


def _tensors(name: str, arrays: Mapping[str, NDArray[Any]]) -> list[BytesLike]:
    return list(durable.tensor_pieces(name, arrays))
