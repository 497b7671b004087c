"""Resume a run of CURL + SAC whose encoder takes each contrastive step twice. `armruns.py` compares such runs.

    python tools/contrast_twice.py RUN

The released code steps the encoder by the same contrastive gradient with two Adam optimizers, and the bilinear form W
with one of them. Both optimizers see the same gradients, so their moments are equal, and each adds the same step.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commandline import BadInputError
from forks import resume_changed

if TYPE_CHECKING:
    from seer_edge.agents.adam import Adam
    from seer_edge.config.config import TrainConfig

W = "bilinear."


def step_twice(optimizer: "Adam") -> None:
    """Let each step of `optimizer` move all parameters but W twice as far."""
    import torch

    step = optimizer.step

    @torch.no_grad()
    def twice() -> None:
        parameters = [each for name, each in optimizer.parameters.items() if not name.startswith(W)]
        before = [each.clone() for each in parameters]
        step()
        torch._foreach_add_(parameters, torch._foreach_sub(parameters, before))

    optimizer.step = twice


def contrast_twice(run: Path, config: "TrainConfig") -> None:
    """Let training take double steps. Raises BadInputError where `run` has no contrastive loss."""
    from seer_edge.agents import curl_sac

    class Doubled(curl_sac.CurlSacAgent):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            step_twice(self.optimizers["contrastive"])

    if config.algo != "curl-sac":
        raise BadInputError(f"{run}: is not a run of curl-sac; name one")
    curl_sac.CurlSacAgent = Doubled


if __name__ == "__main__":
    sys.exit(resume_changed("contrast_twice.py", (__doc__ or "").splitlines()[0], contrast_twice))
