"""The file of a sweep: its jobs in order, and one line for each mistake."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from seer_edge.api import planning
from seer_edge.api.sweeps import plans_of
from seer_edge.cli.flags import parse
from seer_edge.cli.sweep_flags import sweep_of
from seer_edge.config.request import RunRequest
from seer_edge.errors import BadInputError
from seer_edge.sweeps.spec import Job, jobs_of, read_spec
from tests.seer_edge.plan_specs import ALIEN

SPEC = """
envs = ["Alien", "module:Env-v0"]
seeds = [3, 4]
[settings]
mem-budget = "1MB"
set = {batch_size = 8, value_range = [-5.0, 5.0]}
pipeline = false
[variants.late]
fork = "base"
at = 50
latent_codec = "uint8"
set = {batch_size = 16}
[variants.base]
set = {n_step = 3}
keep_checkpoint = [20]
"""


def _read(folder: Path, text: str) -> list[Job]:
    path = folder / "spec.toml"
    path.write_text(text)
    return read_spec(path)


def test_jobs_are_environments_by_seeds_by_variants_with_parents_first(tmp_path: Path) -> None:
    jobs = _read(tmp_path, SPEC)
    assert [job.name for job in jobs] == [
        f"{env}__{variant}__{seed}"
        for env in ("Alien", "module-Env-v0")
        for seed in (3, 4)
        for variant in ("base", "late")
    ]
    base, late = jobs[:2]
    assert late.parent is not None
    assert (late.parent.name, late.at) == (base.name, 50)
    assert late.all_options == {
        "mem_budget": "1MB",
        "set": {"batch_size": 16, "value_range": [-5.0, 5.0], "n_step": 3},
        "pipeline": False,
        "keep_checkpoint": [20],
        "latent_codec": "uint8",
    }


def test_the_words_of_a_job_are_flags_with_its_settings(tmp_path: Path) -> None:
    base, late = _read(tmp_path, SPEC)[:2]
    train, fork = parse(base.words(tmp_path)), parse(late.words(tmp_path))
    assert (train.env, train.seed, train.mem_budget, train.pipeline) == ("Alien", 3, 1_000_000, False)
    assert dict(train.set) == {"batch_size": 8, "value_range": [-5.0, 5.0], "n_step": 3}
    assert train.keep_checkpoint == [20, 50]
    assert train.run_dir == tmp_path / base.name
    assert (fork.run, fork.output, fork.at) == (tmp_path / base.name, tmp_path / late.name, 50)
    assert (fork.latent_codec, dict(fork.set), fork.seed) == ("uint8", {"batch_size": 16}, None)


@pytest.mark.parametrize(
    "options",
    [
        {"hz": 10, "rest_after": 0.2, "action_limit": [-0.5, 0.5], "slew_rate": [2, 0.5]},
        {"hz": 33.3, "rest_after": 1, "slew_rate": 2.0, "min_updates_per_step": 1e-5, "env_timeout": 60},
        {"checkpoint_every": 90.0, "rss_limit": None, "status_port": 0, "env_kwargs": {"a": -1}, "eval_every": "never"},
        {"checkpoint_every": 90, "stop_at_return": -5.0, "analyze": True, "keep_best": False, "freeze_at": "auto"},
    ],
)
def test_numbers_lists_and_none_reach_the_command_of_a_job(options: dict[str, Any], tmp_path: Path) -> None:
    [job] = jobs_of({"envs": ["Alien"], "settings": options})
    flags = parse(job.words(tmp_path))
    given = {field.name: getattr(flags, field.name) for field in dataclasses.fields(RunRequest)}
    assert RunRequest.of(**given) == RunRequest.of(env="Alien", **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("envs = [", "not valid TOML"),
        (f"envs = {3_000 * '['}{3_000 * ']'}", "not valid TOML (maximum recursion depth exceeded"),
        ("seeds = [0]", "envs: give a list of environments"),
        ('envs = ["Alien"]\nseeds = [true]', "seeds: give a list of whole numbers"),
        ('envs = ["Alien"]\nseeds = [0, -1]', "seeds: -1 is no seed; give whole numbers from 0 to 4294967295"),
        ('envs = ["Alien"]\nseeds = [4294967296]', "seeds: 4294967296 is no seed"),
        ('envs = ["Alien"]\nfoo = 1', "foo: unknown entry; choose one of envs, seeds, settings, variants"),
        ('envs = ["Alien", "Alien"]', "envs, seeds and variants give two runs the name Alien__run__0"),
        (
            'envs = ["Alien"]\n[settings]\nfreeze = 1',
            "settings: freeze is unknown or cannot differ; nearest: freeze_at",
        ),
        ('envs = ["Alien"]\n[setings]', "setings: unknown entry; nearest: settings"),
        ('envs = ["Alien"]\n[settings]\nseed = 1', "settings: seed is unknown or cannot differ"),
        ('envs = ["Alien"]\n[settings]\nmem_budget = "1QB"', "settings: --mem-budget"),
        (
            'envs = ["Alien"]\n[settings]\nfreeze_at = 9\n[variants.a]\nmem_budget = "1QB"',
            "variants.a: --mem-budget: '1QB'",
        ),
        (
            'envs = ["Alien"]\n[settings]\nmem_budget = "1QB"\n[variants.a]\nfreeze_at = 9',
            "settings: --mem-budget: '1QB'",
        ),
        ('envs = ["Alien"]\n[settings]\nset = 3', "set must be a table"),
        ('envs = ["Alien"]\n[settings]\nlog-every = 3\nlog_every = 4', "log-every: is also given as log_every; leave"),
        ('envs = ["Alien"]\nvariants = 3', "settings and variants: give tables"),
        ('envs = ["Alien"]\n[variants.a]\nat = 3', "variants.a: at needs fork"),
        (
            'envs = ["Alien"]\n[variants.a]\nfork = "b"',
            "variants.a: fork = 'b' is no variant; add variants.b",
        ),
        ('envs = ["Alien"]\n[variants.a]\nfork = "a"', "variants.a: is a fork of itself"),
        ('envs = ["Alien"]\n[variants."a/b"]', "variants.a/b: not a name"),
        ('envs = ["Alien"]\n[variants.b]\n[variants.a]\nfork = "b"\nat = "x"', "variants.a: at = 'x' is not a step"),
        (
            'envs = ["Alien"]\n[variants.b]\n[variants.a]\nfork = "b"\nencoder = "impala"',
            "variants.a: encoder is unknown",
        ),
    ],
)
def test_a_mistake_is_reported_in_one_line_that_names_the_file(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError) as refused:
        _read(tmp_path, text)
    assert message in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / "spec.toml"))
    assert "\n" not in str(refused.value)


def _sweep(*words: str) -> tuple[Path | dict[str, Any], Path]:
    return sweep_of(parse(["sweep", *words]))


def test_flags_of_train_behind_dashes_describe_a_sweep_without_a_file(tmp_path: Path) -> None:
    flags = ["--mem-budget", "1MB", "--set", "batch_size=8", "--pipeline=off", "--checkpoint-every", "90s"]
    spec, output = _sweep("--envs", "Alien, module:Env-v0", "--seeds", "3-4", "-o", str(tmp_path), "--", *flags)
    assert isinstance(spec, dict)
    text = """
        envs = ["Alien", "module:Env-v0"]
        seeds = [3, 4]
        [settings]
        mem_budget = 1_000_000
        set = {batch_size = 8}
        pipeline = false
        checkpoint_every = 90.0
    """
    assert (jobs_of(spec), output) == (_read(tmp_path, text), tmp_path)
    assert _sweep("late.toml") == (Path("late.toml"), Path("late"))
    assert _sweep(".") == (Path(), Path())  # which is refused when it is read


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "sweep: give a file, or --envs"),
        (["--envs", "Alien"], "-o: needed with --envs"),
        (["a.toml", "--envs", "Alien"], "--envs: cannot be given with a file"),
        (["a.toml", "--seeds", "1"], "--seeds: cannot be given with a file"),
        (["a.toml", "--", "--threads", "2"], "--: cannot be given with a file"),
        (["--envs", "Alien", "-o", "d", "--seeds", "4-1"], "--seeds: '4-1' is not a range"),
        (["--envs", "Alien", "-o", "d", "--seeds", "0,x"], "--seeds"),
        (["--envs", "Alien", "-o", "d", "--seeds", "0,-1"], "--seeds: '-1' is no seed"),
        (["--envs", "Alien,", "-o", "d"], "--envs: 'Alien,' has an empty name"),
        (["--envs", "Alien", "-o", "d", "--", "--seed", "3"], "--seed behind --: the sweep gives each run its own"),
        (["--envs", "Alien", "-o", "d", "--", "--run-dir", "x"], "--run-dir behind --: the sweep gives each run"),
        (["--envs", "Alien", "-o", "d", "--mem-budget", "1GB"], "--mem-budget: is a flag of train; give it behind --"),
        (["--envs", "Alien", "-o", "d", "--", "--banana"], "flags of train behind --: unrecognized arguments"),
        (["--envs", "Alien", "-o", "d", "--", "--threads", "x"], "flags of train behind --: --threads: "),
    ],
)
def test_a_mistake_in_flags_is_reported_in_one_line(words: list[str], message: str) -> None:
    with pytest.raises(BadInputError) as refused:
        _sweep(*words)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


TRANSFER = """
[settings]
mem_budget = "1MB"
freeze_at = 30
[variants.transferred]
envs = ["walker-walk", "hopper-hop"]
from = {variant = "pretrained", env = "walker-stand"}
[variants.longer]
envs = ["hopper-hop"]
fork = "transferred"
total_timesteps = 90
[variants.pretrained]
envs = ["walker-stand"]
freeze_at = "never"
"""


def test_a_variant_imports_the_encoder_of_another_one_in_another_environment(tmp_path: Path) -> None:
    jobs = {job.name: job for job in _read(tmp_path, TRANSFER)}
    names = ["walker-stand__pretrained__0", "walker-walk__transferred__0", "hopper-hop__transferred__0"]
    assert list(jobs) == [*names, "hopper-hop__longer__0"]
    pretrained, walk, hop = (jobs[name] for name in names)
    assert (walk.source, hop.source, pretrained.source) == (pretrained, pretrained, None)
    assert [job.imports for job in jobs.values()] == [None, pretrained, pretrained, pretrained]
    assert (walk.needed, jobs["hopper-hop__longer__0"].needed) == ((pretrained,), (hop,))
    words = parse(walk.words(tmp_path))
    assert (words.from_, words.take, words.freeze_at) == (str(tmp_path / pretrained.name), "encoder", None)
    assert walk.record()["source"] == pretrained.name
    assert "source" not in pretrained.record()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('from = {variant = "b"}', "variants.a: from = 'b' is no variant; add variants.b"),
        ('from = {variant = "a"}', "variants.a: imports from itself"),
        ('from = {env = "Krull"}', "variants.a: from = {'env': 'Krull'} is not a run"),
        ("from = {variant = 3}", "variants.a: from = {'variant': 3} is not a run"),
        ('fork = "c"\nfrom = {variant = "c"}\n[variants.c]', "variants.a: a fork cannot import an encoder"),
        ('from = {variant = "c"}\nfreeze_at = 3\n[variants.c]', "variants.a: freeze_at cannot be given with from"),
        ('from = {variant = "c", env = "Krull"}\n[variants.c]', "variants.a: c does not train on Krull; add it"),
        ('envs = ["Krull"]\nfork = "c"\n[variants.c]', "variants.a: c does not train on Krull; add it"),
        ('envs = "Krull"', "variants.a: envs: give a list"),
    ],
)
def test_a_mistake_in_the_source_of_a_variant_is_reported_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError) as refused:
        _read(tmp_path, f'envs = ["Alien"]\n[variants.a]\n{text}')
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.integration
def test_an_encoder_that_will_not_fit_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    jobs = jobs_of(
        {
            "variants": {
                "pretrained": {"envs": ["Alien"]},
                "transferred": {"envs": ["cartpole-swingup"], "from": {"variant": "pretrained", "env": "Alien"}},
            }
        }
    )
    source = tmp_path / "Alien__pretrained__0"
    with pytest.raises(BadInputError) as refused:
        plans_of(jobs, "spec", tmp_path)
    assert str(refused.value) == (
        f"spec: cartpole-swingup, variant transferred: --from {source}: its encoder does not fit: encoder is "
        "data-efficient there and sac-ae here; import from a run with the same encoder"
    )


FORKS = """
envs = ["Alien"]
[settings]
mem_budget = "1MB"
[variants.base]
total_timesteps = 100
freeze_at = 40
[variants.shorter]
fork = "base"
at = 20
total_timesteps = 60
[variants.late]
"""


@pytest.fixture
def alien(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans without opening the emulator each time."""
    monkeypatch.setattr(planning, "open_spec", lambda *arguments, **options: ALIEN)


@pytest.mark.usefixtures("alien")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('fork = "base"\nat = 50\nlatent_codec = "uint8"', "--latent-codec uint8: variant base at step 50 is frozen"),
        ('fork = "base"\nlatent_codec = "uint8"', "--latent-codec uint8: variant base at step 100 is frozen already"),
        ('fork = "base"\nat = 30\nfreeze_at = 20', "--freeze-at 20: the fork begins at step 30; give that or a later"),
        ('fork = "base"\nat = 30\nset = {hidden = 8}', "--set hidden: changes the networks that variant base at step"),
        ('fork = "base"\nat = 30\nkeep_checkpoint = [20]', "--keep-checkpoint 20: the fork begins at step 30"),
        ('fork = "shorter"\nat = 10', "at = 10: variant shorter begins at step 20; give that or more"),
    ],
)
def test_a_fork_that_its_parent_does_not_allow_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError) as refused:
        plans_of(_read(tmp_path, FORKS + text), "spec", tmp_path)
    assert str(refused.value).startswith(f"spec: Alien, variant late: {message}")


def test_a_fork_cannot_turn_off_what_its_parent_has(tmp_path: Path) -> None:
    """The command `fork` has no flag for it. Without a parent that has it, false changes nothing."""
    fork = 'envs = ["Alien"]\n[variants.a]\nanalyze = true\n[variants.b]\nfork = "a"\nat = 10\nanalyze = false\n'
    with pytest.raises(
        BadInputError, match=r"variants.b: analyze = false: variant a has it, and a fork cannot turn it"
    ):
        _read(tmp_path, fork)
    assert [job.name for job in _read(tmp_path, fork.replace("true", "false"))] == ["Alien__a__0", "Alien__b__0"]


@pytest.mark.usefixtures("alien")
def test_a_fork_is_checked_with_the_freeze_that_its_parent_inherits(tmp_path: Path) -> None:
    """The default of 40 % would freeze `shorter` at step 24. It inherits step 40."""
    text = FORKS.replace("freeze_at = 40\n", "") + 'fork = "shorter"\nat = 40\nlatent_codec = "uint8"'
    assert len(plans_of(_read(tmp_path, text), "spec", tmp_path)) == 3


@pytest.mark.usefixtures("alien")
def test_an_environment_with_two_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="spec: Alien and alien are both ALE/Alien-v5; leave one of them out"):
        plans_of(_read(tmp_path, 'envs = ["Alien", "alien"]'), "spec", tmp_path)


@pytest.mark.usefixtures("alien")
def test_a_fork_may_have_another_seed(tmp_path: Path) -> None:
    jobs = _read(tmp_path, FORKS + 'fork = "base"\nat = 30\nseed = 101')
    late = next(job for job in jobs if job.variant == "late")
    assert late.seed == 0
    assert late.name == "Alien__late__0"
    assert late.words(tmp_path)[0] == "fork"
    assert "--seed=101" in late.words(tmp_path)
    assert len(plans_of(jobs, "spec", tmp_path)) == 3
