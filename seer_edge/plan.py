"""The byte plan: what a run will hold, computed before it starts and without torch."""

from dataclasses import dataclass

from seer_edge.config import TrainConfig
from seer_edge.envs import EnvSpec
from seer_edge.errors import BadInputError
from seer_edge.flops import RAINBOW_BACKWARDS, RAINBOW_FORWARDS, FlopsModel
from seer_edge.networks.spec import EncoderSpec, RainbowHeadSpec, encoder_spec
from seer_runtime.codecs import LATENT_ELEMENT_BYTES, frame_codec, latent_codec
from seer_runtime.convert import conversion_bytes
from seer_runtime.encoder import MAX_BATCH
from seer_runtime.ledger import WORKSPACE_CAP_BYTES
from seer_runtime.store import column_bytes
from seer_runtime.sumtree import tree_bytes
from seer_runtime.units import format_size

# Interpreter, imports, emulator and the buffers of a first update, without arena, columns, model and workspace:
# what `tools/rssbench.py causes` prints as "everything else".
PROCESS_BASE_BYTES = 354_000_000
FLOAT_BYTES = 4


@dataclass(frozen=True)
class BytePlan:
    """Bytes and capacities of a run (design, section 2; Section 4.2 of the paper)."""

    config: TrainConfig
    env: EnvSpec
    encoder: EncoderSpec
    head: RainbowHeadSpec
    frame_row_bytes: int  # P
    latent_row_bytes: int  # b L
    frame_capacity: int  # C
    latent_capacity: int  # C_hat
    columns_bytes: int
    priorities_bytes: int
    workspace_bytes: int
    model_bytes: int
    optimizer_bytes: int
    warnings: tuple[str, ...]

    @property
    def arena_bytes(self) -> int:
        """The one allocation that holds all observations: C P, at most the budget."""
        return self.frame_capacity * self.frame_row_bytes

    @property
    def rss_peak_bytes(self) -> int:
        """Estimate of the process's peak RSS once the arena is full."""
        lines = self.columns_bytes + self.priorities_bytes + self.workspace_bytes
        return PROCESS_BASE_BYTES + self.arena_bytes + lines + self.model_bytes + self.optimizer_bytes

    @property
    def flops(self) -> FlopsModel:
        """The terms of Appendix C."""
        return FlopsModel(
            encoder=self.encoder.multiply_adds,
            head=self.head.multiply_adds,
            batch_size=self.config.rainbow.batch_size,
            forwards=RAINBOW_FORWARDS,
            backwards=RAINBOW_BACKWARDS,
            frame_capacity=self.frame_capacity,
        )

    def rows(self) -> list[tuple[str, str]]:
        """Label and value of each line of the table."""
        config = self.config
        freeze = "never" if config.freeze_at is None else f"step {config.freeze_at:,}"
        ratio = self.latent_capacity / self.frame_capacity
        return [
            ("environment", f"{self.env.id}, {self.env.action_count} actions, protocol {config.protocol}"),
            ("agent", f"{config.algo}, encoder {config.encoder}, {config.replay} replay, preset {config.preset}"),
            ("budget", f"{config.mem_budget_bytes:,} B of observations"),
            ("bytes a frame (P)", f"{self.frame_row_bytes:,}"),
            ("capacity before the freeze (C)", f"{self.frame_capacity:,} rows"),
            ("freeze (T_f)", f"{freeze} of {config.total_timesteps:,} ({config.freeze_reason})"),
            (
                "bytes a latent (b L)",
                f"{self.latent_row_bytes:,} (L = {self.encoder.latent_size}, {config.latent_codec})",
            ),
            ("capacity after the freeze (C_hat)", f"{self.latent_capacity:,} rows ({ratio:.2f}x)"),
            ("observations (arena)", f"{self.arena_bytes:,} B"),
            ("workspace", f"{self.workspace_bytes:,} B (cap {WORKSPACE_CAP_BYTES:,})"),
            ("columns", f"{self.columns_bytes:,} B"),
            ("priorities", f"{self.priorities_bytes:,} B"),
            ("model and target", f"{self.model_bytes:,} B"),
            ("gradients and optimizer", f"{self.optimizer_bytes:,} B"),
            ("process, peak RSS (estimate)", format_size(self.rss_peak_bytes)),
        ]

    def render(self) -> str:
        """The plan as a table, warnings below it."""
        rows = self.rows()
        width = max(len(label) for label, _ in rows)
        lines = [f"  {label:<{width}}  {value}" for label, value in rows]
        return "\n".join(["byte plan", *lines, *(f"warning: {warning}" for warning in self.warnings)])


def make_plan(config: TrainConfig, env: EnvSpec) -> BytePlan:
    """The plan of a run. Raises BadInputError where the budget cannot hold one batch of windows."""
    settings = config.rainbow
    try:
        encoder = encoder_spec(config.encoder, stack=settings.stack, frame_shape=env.frame_shape)
    except ValueError as error:
        raise BadInputError(f"--encoder {config.encoder}: {error}") from error
    head = RainbowHeadSpec(encoder.latent_size, settings.hidden, env.action_count, settings.atoms)
    frame_row = frame_codec(env.frame_shape).row_bytes
    latent_row = latent_codec(config.latent_codec, (encoder.latent_size,)).row_bytes
    capacity = config.mem_budget_bytes // frame_row
    latent_capacity = capacity * frame_row // latent_row
    freezes = config.freeze_at is not None
    _check_room(config, frame_row, latent_row if freezes else None)

    # During the conversion old and new columns stand side by side.
    column_rows = capacity + latent_capacity if freezes else capacity
    most_rows = max(capacity, latent_capacity) if freezes else capacity
    gathered = 2 * settings.batch_size * settings.stack * frame_row
    stacks = 2 * settings.stack * frame_row  # training and evaluation
    # Chunks, the encoder's output, and the batches of latents, allocated while those of frames are still held.
    latents = (MAX_BATCH + 2 * settings.batch_size) * encoder.latent_size * FLOAT_BYTES
    conversion = conversion_bytes(settings.stack, frame_row) + latents
    workspace = gathered + stacks + (conversion if freezes else 0)
    parameters = (encoder.parameters + head.parameters) * FLOAT_BYTES
    return BytePlan(
        config=config,
        env=env,
        encoder=encoder,
        head=head,
        frame_row_bytes=frame_row,
        latent_row_bytes=latent_row,
        frame_capacity=capacity,
        latent_capacity=latent_capacity,
        columns_bytes=column_rows * column_bytes(),
        priorities_bytes=tree_bytes(most_rows) if config.replay == "prioritized" else 0,
        workspace_bytes=workspace,
        model_bytes=2 * parameters,
        optimizer_bytes=3 * parameters,
        warnings=_warnings(config, capacity, latent_capacity, encoder.latent_size, frame_row),
    )


def _check_room(config: TrainConfig, frame_row: int, latent_row: int | None) -> None:
    settings = config.rainbow
    rows = settings.batch_size + settings.n_step + settings.stack - 1
    needed = rows * frame_row
    kind = "frames"
    if latent_row is not None and rows * latent_row > needed:
        needed, kind = -(-rows * latent_row // frame_row) * frame_row, "latents"
    if config.mem_budget_bytes < needed:
        raise BadInputError(
            f"--mem-budget {config.mem_budget_bytes} B: cannot hold one batch of {settings.batch_size} windows of "
            f"{settings.n_step} steps, {rows} {kind}; give at least {needed}"
        )


def _warnings(
    config: TrainConfig, capacity: int, latent_capacity: int, latent_size: int, frame_row: int
) -> tuple[str, ...]:
    warnings = []
    if config.freeze_at is not None and latent_capacity < capacity:
        rows = {
            name: capacity * frame_row // latent_codec(name, (latent_size,)).row_bytes for name in LATENT_ELEMENT_BYTES
        }
        growing = [f"{name} ({count:,} rows)" for name, count in rows.items() if count > capacity]
        mend = f"it grows with {', '.join(growing)}" if growing else "no codec built so far makes it grow"
        warnings.append(
            f"--latent-codec {config.latent_codec}: the freeze will shrink the capacity from {capacity:,} to "
            f"{latent_capacity:,} rows; {mend}"
        )
    if config.freeze_at is not None and config.freeze_at <= config.rainbow.learning_starts:
        warnings.append(
            f"--freeze-at {config.freeze_at}: learning starts at step {config.rainbow.learning_starts:,}, so the "
            "encoder would be frozen as it was initialised"
        )
    return tuple(warnings)
