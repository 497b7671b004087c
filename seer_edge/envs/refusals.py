"""What a command says of an environment that it cannot have."""

import contextlib
from collections.abc import Iterator

from seer_edge.envs import EnvError, EnvOptions, ResolutionError, UnavailableEnvError
from seer_edge.errors import BadInputError, EnvironmentFailedError


@contextlib.contextmanager
def refusals(env: str, options: EnvOptions, *, begun: bool = False) -> Iterator[None]:
    """Inside, the environment that `--env` names, or that of a run that has `begun`, is built and shows a frame.

    Raises BadInputError; of a run that has `begun`, EnvironmentFailedError where it could be there another time.
    """
    name = f"environment {env}" if begun else f"--env {env}"
    try:
        yield
    except ResolutionError as error:
        reason = str(error).removeprefix(f"resolution {options.resolution} ")
        raise BadInputError(f"--resolution {options.resolution}: {reason}") from error
    except UnavailableEnvError as error:
        hint = "; its module is looked for in the working directory" if ":" in env else ""
        raise (EnvironmentFailedError if begun else BadInputError)(f"{name}: {_reason(env, error)}{hint}") from error
    except EnvError as error:
        raise BadInputError(f"{name}: {_reason(env, error)}") from error
    except EnvironmentFailedError as error:
        text = f"{name}: its first frame cannot be had: {error}"
        raise (EnvironmentFailedError if begun else BadInputError)(text) from error


def _reason(env: str, error: EnvError) -> str:
    """The message without the environment's name, which stands before it."""
    text = str(error).replace(f"unknown environment {env!r}", "unknown environment", 1)
    return text.removeprefix(f"environment {env!r}").removeprefix(":").lstrip()
