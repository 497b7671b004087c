"""Resume a run of CURL + SAC whose encoder takes each contrastive step twice. `armruns.py` compares such runs.

    python tools/contrast_twice.py RUN

The released code steps the encoder by the same contrastive gradient with two Adam optimizers, and the bilinear form W
with one of them. Both optimizers see the same gradients, so their moments are equal, and each adds the same step.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commandline import BadInputError, Parser, run_tool
from forks import config_of, resume_here

if TYPE_CHECKING:
    from seer_edge.agents.adam import Adam

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


def resume(run: Path) -> int:
    """Resume `run` with double steps; return the exit status."""
    from seer_edge.agents import curl_sac

    class Doubled(curl_sac.CurlSacAgent):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            step_twice(self.optimizers["contrastive"])

    if config_of(run).algo != "curl-sac":
        raise BadInputError(f"{run}: is not a run of curl-sac; name one")
    curl_sac.CurlSacAgent = Doubled
    return resume_here(run)


def main() -> int:
    """Run the command line; return the exit status."""
    parser = Parser(prog="contrast_twice.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    return run_tool("contrast_twice.py", lambda: resume(parser.parse_args().run))


if __name__ == "__main__":
    sys.exit(main())
