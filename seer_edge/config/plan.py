"""The byte plan: what a run will hold in memory and on disk, computed before it starts and without torch."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from seer_edge.config.config import TrainConfig
from seer_edge.config.plan_process import ANON_BASE_BYTES, PROCESS_BASE_BYTES, update_bytes
from seer_edge.config.plan_replay import FLOAT_BYTES, LATENT_RATIO, compact_rows, plan_replay
from seer_edge.config.plan_text import evaluation_text, reward_text
from seer_edge.config.plan_warnings import drop_warnings, freeze_warnings, run_warnings
from seer_edge.config.registry import ALGORITHMS, Networks, check_actions, make_networks
from seer_edge.config.values import AUTO
from seer_edge.envs import EnvSpec
from seer_edge.errors import BadInputError
from seer_edge.networks.flops import FlopsModel
from seer_edge.networks.spec import EncoderSpec
from seer_runtime.replay.block_index import room_bytes
from seer_runtime.replay.codecs import Codec, frame_codec, latent_codec
from seer_runtime.replay.crops import Crop
from seer_runtime.replay.store import column_bytes
from seer_runtime.system.ledger import WORKSPACE_CAP_BYTES, Ledger, Line
from seer_runtime.system.memory import MemoryLimits
from seer_runtime.system.units import format_duration, format_size

# Small parts of a checkpoint: random states, environment, counters, metrics, manifest, tensor headers.
CHECKPOINT_BASE_BYTES = 200_000
PRIORITY_BYTES = 8
REFERENCE_STEPS_PER_SECOND = 100
"""Assumed speed for the bytes that are written in an hour, if checkpoints are counted in steps."""


@dataclass(frozen=True)
class BytePlan:
    """Bytes and capacities of a run (Section 4.2 of the paper). See `ReplayBytes` for those of --store compact.

    With --latent-codec auto the codec is chosen at the freeze. Until then the latent row and capacity are those of the
    widest codec, and each line of bytes is that of the codec that needs most.
    """

    config: TrainConfig
    env: EnvSpec
    networks: Networks
    holds_frames: bool  # whether the replay holds frames at any time
    latent_replay: bool  # whether the replay holds latents from the freeze on, or frames to the end
    frame_row_bytes: int  # P
    latent_row_bytes: int  # b N K L
    frame_capacity: int  # C
    latent_capacity: int  # C_hat
    row_limit: int  # the largest number of rows with --store compact, else 0
    columns_bytes: int
    priorities_bytes: int
    index_bytes: int  # of the places of compressed blocks
    workspace_bytes: int
    feed_frames: int  # of the workspace, which wait for the learner in real time
    warnings: tuple[str, ...]
    choices: tuple["BytePlan", ...] = ()  # plans with each codec that auto chooses from, the widest first
    notes: tuple[str, ...] = ()  # what the run imports from another
    sampled_row_bytes: float | None = None  # of compressed frames of random play, if they were measured

    @property
    def encoder(self) -> EncoderSpec:
        """The encoder and where it is cut."""
        return self.networks.encoder

    @property
    def crop(self) -> Crop:
        """How a frame is cropped."""
        height, width = self.env.frame_shape[-2:]
        return Crop((height, width), self.env.crop_shape)

    @property
    def arena_bytes(self) -> int:
        """The one allocation that holds all observations: C P, at most the budget, or the budget for blocks."""
        return self.config.mem_budget_bytes if self.config.compact else self.frame_capacity * self.frame_row_bytes

    @property
    def model_bytes(self) -> int:
        """Bytes of weights, online and target."""
        return (self.networks.parameters + self.networks.target_parameters) * FLOAT_BYTES

    @property
    def optimizer_bytes(self) -> int:
        """Bytes of gradients, and of both moments of every Adam."""
        return (self.networks.parameters + 2 * self.networks.optimized_parameters) * FLOAT_BYTES

    @property
    def watch_bytes(self) -> int:
        """Bytes of the earlier networks that --freeze-at auto compares with, and of the current ones meanwhile."""
        return 0 if self.config.freeze_window is None else 2 * self.networks.parameters * FLOAT_BYTES

    @property
    def acting_bytes(self) -> int:
        """Bytes of the copies of encoder and policy that act while another thread learns: two in real time."""
        copies = int(self.config.pipeline) if self.config.hz is None else 2
        return copies * (self.encoder.parameters + self.networks.policy_parameters) * FLOAT_BYTES

    @property
    def activation_bytes(self) -> int:
        """Estimated bytes of observations and feature maps in an update from frames; 0 if every row is a latent."""
        if not self.holds_frames:
            return 0
        map_factor = ALGORITHMS[self.config.algo].map_factor
        return update_bytes(self.encoder, self.config.settings.batch_size, map_factor)

    @property
    def rss_peak_bytes(self) -> int:
        """Estimated peak RSS of the process once the arena is full."""
        return PROCESS_BASE_BYTES + self._counted_bytes

    @property
    def anon_peak_bytes(self) -> int:
        """Estimated peak of the process's anonymous memory, which the kernel cannot take back without swap."""
        return ANON_BASE_BYTES + self._counted_bytes

    @property
    def _counted_bytes(self) -> int:
        lines = self.columns_bytes + self.priorities_bytes + self.index_bytes + self.workspace_bytes
        learner = self.model_bytes + self.optimizer_bytes + self.activation_bytes + self.watch_bytes
        return self.env.process_bytes + self.arena_bytes + lines + learner + self.acting_bytes

    @property
    def expected_frames(self) -> int | None:
        """About how many frames fit with --store compact; None if unknown."""
        return self._expected_rows(self.frame_row_bytes, self.sampled_row_bytes)

    @property
    def expected_latents(self) -> int | None:
        """About how many latents fit with --store compact; None if unknown."""
        return self._expected_rows(self.latent_row_bytes, self._compact_latent_bytes)

    @property
    def _compact_latent_bytes(self) -> float | None:
        # Latents of a camera's small frames, and of several crops of a frame, were seen to compress by 10 % only.
        like_atari = not self.env.as_registered and self.config.augmentations == 1
        return LATENT_RATIO * self.latent_row_bytes if like_atari else None

    def _expected_rows(self, raw_bytes: int, row_bytes: float | None) -> int | None:
        if row_bytes is None:
            return None
        return min(self.row_limit, int(room_bytes(self.arena_bytes, raw_bytes) / row_bytes))

    @property
    def most_rows(self) -> int:
        """The largest number of rows that the replay ever holds."""
        if self.config.compact:
            return self.row_limit
        own = max(self.holds_frames * self.frame_capacity, self.latent_replay * self.latent_capacity)
        return max([own, *(choice.most_rows for choice in self.choices)])

    @property
    def checkpoint_bytes(self) -> int:
        """The largest size of one checkpoint: a full replay, every weight and moment, the encoder's graph."""
        row = column_bytes(self.env.actions.shape, self.env.actions.dtype) + PRIORITY_BYTES
        weights = self.networks.optimized_parameters * 2 + self.latent_replay * self.encoder.frozen_parameters
        replay = (
            self.arena_bytes
            + self.index_bytes
            + self.most_rows * row
            + self.config.settings.stack * self.frame_row_bytes
        )
        return replay + self.model_bytes + self.watch_bytes // 2 + weights * FLOAT_BYTES + CHECKPOINT_BASE_BYTES

    @property
    def flops(self) -> FlopsModel:
        """Multiply-adds of the run (Appendix C)."""
        return self.networks.flops(
            batch_size=self.config.settings.batch_size,
            augmentations=self.config.augmentations,
            frame_capacity=self.row_limit or self.frame_capacity,
            latent_replay=self.latent_replay,
        )

    def frame_codec(self) -> Codec:
        """Return the codec of rows before the freeze."""
        return frame_codec(self.env.frame_shape, self.env.crop_shape)

    def latent_codec(self, ledger: Ledger) -> Codec:
        """Return the codec of rows after the freeze. `ledger` counts its memory.

        Raises ValueError if the codec is not chosen yet.
        """
        return latent_codec(self.config.latent_codec, self.encoder.latent_shape, self.config.augmentations, ledger)

    def rows(self) -> list[tuple[str, str]]:
        """Return label and value of each line of the table."""
        config = self.config
        more = f", and those of {len(config.keep_checkpoint)} kept steps" if config.keep_checkpoint else ""
        more += ", and the best without its replay" if config.keep_best else ""
        rows = [
            ("environment", self._environment()),
            ("agent", f"{config.algo}, encoder {config.encoder}, {config.replay} replay, preset {config.preset}"),
            ("budget", f"{config.mem_budget_bytes:,} B of observations"),
            ("bytes a frame (P)", f"{self.frame_row_bytes:,}"),
            ("capacity before the freeze (C)", self._frame_capacity()),
            ("freeze (T_f)", self._freeze()),
            ("bytes a latent (b N K L)", self._latent()),
            ("capacity after the freeze (C_hat)", self._latent_capacity()),
            ("observations (arena)", f"{self.arena_bytes:,} B"),
            ("workspace", f"{self.workspace_bytes:,} B (cap {WORKSPACE_CAP_BYTES:,})"),
            ("columns", f"{self.columns_bytes:,} B"),
            ("priorities", f"{self.priorities_bytes:,} B"),
            ("model and target", f"{self.model_bytes:,} B"),
            ("gradients and optimizer", f"{self.optimizer_bytes:,} B"),
            ("activations of an update (estimate)", f"{self.activation_bytes:,} B"),
            ("process, peak RSS (estimate)", format_size(self.rss_peak_bytes)),
            ("of it anonymous (estimate)", format_size(self.anon_peak_bytes)),
            ("a checkpoint", f"at most {format_size(self.checkpoint_bytes)}; two are kept{more}"),
            ("written an hour", self._written()),
            ("evaluation", evaluation_text(config)),
        ]
        if config.origin is not None:
            rows.insert(1, ("fork of", f"{config.origin['run']}, step {config.origin['step']:,}"))
        if config.overrides:
            rows.insert(2, ("hyperparameters set", ", ".join(config.overrides)))
        if self.acting_bytes:
            rows.append(("copies that act (estimate)", f"{self.acting_bytes:,} B"))
        if config.compact:
            rows.append(("index of blocks", f"{self.index_bytes:,} B"))
        if self.env.as_registered:
            rows.append(("rewards", reward_text(config)))
        if config.rss_limit_bytes is not None:
            rows.append(("RSS limit", f"{config.rss_limit_bytes:,} B"))
        return rows

    def _environment(self) -> str:
        config, env = self.config, self.env
        shown = "x".join(map(str, env.frame_shape))
        crop = "" if self.crop.whole else f", crops of {env.crop_shape[0]}x{env.crop_shape[1]}"
        # Only control tasks have an action repeat, and only Atari games have a protocol.
        how = f"protocol {config.protocol}" if config.action_repeat is None else f"action repeat {config.action_repeat}"
        how = "" if env.as_registered else f", {how}"
        levels = "" if config.gray_levels is None else f" of {config.gray_levels} gray levels"
        return f"{env.id}, {env.actions}, frames {shown}{levels}{crop}{how}"

    def _freeze(self) -> str:
        config, encoder = self.config, self.encoder
        if config.freeze_at is None:
            return f"never ({config.freeze_reason})"
        layers = (
            "" if encoder.whole else f", the lowest {encoder.frozen_layers} of {encoder.weight_layers} weight layers"
        )
        if config.source is not None:
            return f"step 0: the encoder of {config.source}{layers}"
        if config.freeze_window is not None:
            return (
                f"step {config.freeze_at:,} of {config.total_timesteps:,} at the latest, or once encoder and head are "
                f"flat ({config.freeze_reason}, windows of {config.freeze_window:,} steps){layers}"
            )
        return f"step {config.freeze_at:,} of {config.total_timesteps:,} ({config.freeze_reason}){layers}"

    def _latent(self) -> str:
        if not self.latent_replay:
            return "-"
        networks_, size = self.encoder.latent_shape
        names = f"L = {size}, N = {networks_}, K = {self.config.augmentations}, {self.config.latent_codec}"
        row_bytes = [f"{plan.latent_row_bytes:,}" for plan in self.choices or (self,)]
        return f"{', '.join(row_bytes)} ({names})"

    def _frame_capacity(self) -> str:
        if not self.config.compact:
            return f"{self.frame_capacity:,} rows"
        if not self.holds_frames:
            return "-, the replay holds latents only"
        row_bytes = self.sampled_row_bytes
        return compact_rows(self.frame_capacity, self.row_limit, self.expected_frames, row_bytes, "random play")

    def _latent_capacity(self) -> str:
        if self.choices:
            return ", ".join(f"{plan.config.latent_codec} {plan._latent_capacity()}" for plan in self.choices)
        if not self.latent_replay:
            return f"{self._frame_capacity()}: the replay keeps frames"
        if self.config.compact:
            row_bytes, measured_on = self._compact_latent_bytes, "a guess, from Atari"
            return compact_rows(self.latent_capacity, self.row_limit, self.expected_latents, row_bytes, measured_on)
        ratio = self.latent_capacity / self.frame_capacity
        alone = "" if self.holds_frames else ", the replay holds latents only"
        return f"{self.latent_capacity:,} rows ({ratio:.2f}x){alone}"

    def _written(self) -> str:
        steps, seconds = self.config.checkpoint_every_steps, self.config.checkpoint_every_seconds
        if seconds is not None:
            often, every = 3600 / seconds, format_duration(seconds)
        else:
            assert steps is not None  # the configuration has exactly one of the two
            often = 3600 * REFERENCE_STEPS_PER_SECOND / steps
            every = f"{steps:,} steps, at {REFERENCE_STEPS_PER_SECOND} steps a second"
        return f"at most {format_size(round(often * self.checkpoint_bytes))} (a checkpoint every {every})"

    def render(self, limits: MemoryLimits | None = None) -> str:
        """Return the plan as a table, with warnings and notes below. `limits` adds a line on this machine's memory."""
        rows = self.rows() + ([] if limits is None else [("memory of this machine", str(limits))])
        width = max(len(label) for label, _ in rows)
        lines = [f"  {label:<{width}}  {value}" for label, value in rows]
        return "\n".join(["byte plan", *lines, *(f"warning: {warning}" for warning in self.warnings), *self.notes])


def make_plan(config: TrainConfig, env: EnvSpec, *, frozen: bool = False) -> BytePlan:
    """Return the plan of a run. Raises BadInputError if the budget cannot hold one batch of windows.

    With `frozen` the run continues after its freeze, and needs no room for frames in a replay of latents.
    """
    if config.latent_codec == AUTO:
        return _plan_of_all(config, env, frozen=frozen)
    try:
        check_actions(config.algo, env)
    except ValueError as error:
        raise BadInputError(f"--algo {config.algo}: {error}") from error
    try:
        parts = make_networks(
            config.algo,
            config.settings,
            env,
            encoder=config.encoder,
            frozen_layers=config.freeze_layers,
            imported=config.source is not None,
        )
    except ValueError as error:
        flag = "--encoder" if config.freeze_layers is None else f"--freeze-layers {config.freeze_layers} --encoder"
        raise BadInputError(f"{flag} {config.encoder}: {error}") from error
    encoder = parts.encoder
    frames = frame_codec(env.frame_shape, env.crop_shape)
    own = Ledger({})
    latents = latent_codec(config.latent_codec, encoder.latent_shape, config.augmentations, own)
    # If latents are larger than frames, freezing some layers saves compute but no memory (Appendix D).
    latent_replay = config.freeze_at is not None and (encoder.whole or latents.row_bytes <= frames.row_bytes)
    used: list[Codec] = [latents] if latent_replay else [frames]
    if latent_replay and config.freeze_at != 0 and not frozen:
        used = [frames, latents]
    replay = plan_replay(config, env, frames, latents, own.held_bytes(Line.WORKSPACE), used)
    return BytePlan(
        config=config,
        env=env,
        networks=parts,
        holds_frames=frames in used,
        latent_replay=latent_replay,
        frame_row_bytes=frames.row_bytes,
        latent_row_bytes=latents.row_bytes,
        **vars(replay),
        warnings=(
            *freeze_warnings(
                config, encoder, replay.frame_capacity, frames.row_bytes, latents.row_bytes, latent_replay
            ),
            *run_warnings(config, parts, frozen=frozen),
        ),
    )


def replan(plan: BytePlan, env: EnvSpec | None = None, **changes: Any) -> BytePlan:
    """Return the plan with other settings, or another environment. Raises BadInputError as `make_plan` does."""
    config = dataclasses.replace(plan.config, **changes)
    return make_plan(config, env or plan.env, frozen=not plan.holds_frames)


def with_sample(plan: BytePlan, row_bytes: float | None) -> BytePlan:
    """Return the plan with the measured bytes of a compressed frame, and a warning if the freeze will drop rows."""
    plan = dataclasses.replace(plan, sampled_row_bytes=row_bytes)
    if not plan.latent_replay:
        return plan
    fits = {name: replan(plan, latent_codec=name).expected_latents for name in plan.config.latent_codecs}
    dropped = drop_warnings(plan.config, plan.expected_frames, fits)
    return dataclasses.replace(plan, warnings=(*plan.warnings, *dropped))


def _plan_of_all(config: TrainConfig, env: EnvSpec, *, frozen: bool) -> BytePlan:
    """Return the plan of a run whose latent codec is chosen at the freeze."""
    choices = [
        make_plan(dataclasses.replace(config, latent_codec=name), env, frozen=frozen) for name in config.latent_codecs
    ]
    # With --freeze-layers the latents of wide codecs may be larger than frames. Then the replay keeps frames.
    widest = next((plan for plan in choices if plan.latent_replay), choices[0])
    return dataclasses.replace(
        widest,
        config=config,
        columns_bytes=max(plan.columns_bytes for plan in choices),
        priorities_bytes=max(plan.priorities_bytes for plan in choices),
        index_bytes=max(plan.index_bytes for plan in choices),
        row_limit=max(plan.row_limit for plan in choices),
        workspace_bytes=max(plan.workspace_bytes for plan in choices),
        warnings=(
            *freeze_warnings(
                config,
                widest.encoder,
                widest.frame_capacity,
                widest.frame_row_bytes,
                widest.latent_row_bytes,
                widest.latent_replay,
            ),
            *run_warnings(config, widest.networks, frozen=frozen),
        ),
        choices=tuple(choices),
    )
