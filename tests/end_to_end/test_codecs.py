"""The warning of `train` about codecs that are calibrated on few rows."""

from pathlib import Path

import pytest

from tests.end_to_end.short_presets import GAME, Run, runner, use_short_presets


@pytest.mark.parametrize(("codec", "warned"), [("uint8", True), ("float16", False)])
def test_quantization_ranges_from_few_rows_give_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, codec: str, warned: bool
) -> None:
    use_short_presets(monkeypatch)
    run: Run = runner(monkeypatch, capsys)
    status, out, error = run("train", "--env", GAME, "--latent-codec", codec, "--run-dir", tmp_path / "run")
    assert status == 0
    assert ("warning: the quantization ranges of uint8 are calibrated on " in out + error) == warned, error
