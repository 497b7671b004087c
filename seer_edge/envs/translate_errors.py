"""Translate environment errors into the one-line messages of the command line."""

import contextlib
from collections.abc import Iterator

from seer_edge.envs import EnvError, EnvOptions, ResolutionError, UnavailableEnvError
from seer_edge.errors import BadInputError, EnvironmentFailedError


@contextlib.contextmanager
def translate_errors(env: str, options: EnvOptions, *, resumed: bool = False) -> Iterator[None]:
    """Context manager: report errors while the environment `env` is built and renders its first frame.

    Raises BadInputError with one line that names the flag. For a `resumed` run it raises EnvironmentFailedError
    instead where a later attempt may succeed, such as a camera that is unplugged.
    """
    name = f"environment {env}" if resumed else f"--env {env}"
    try:
        yield
    except ResolutionError as error:
        reason = str(error).removeprefix(f"resolution {options.resolution} ")
        raise BadInputError(f"--resolution {options.resolution}: {reason}") from error
    except UnavailableEnvError as error:
        raise (EnvironmentFailedError if resumed else BadInputError)(f"{name}: {_reason(env, error)}") from error
    except EnvError as error:
        raise BadInputError(f"{name}: {_reason(env, error)}") from error
    except EnvironmentFailedError as error:
        text = f"{name}: {'' if error.call is None else f'{error.call} failed: '}{error}"
        raise (EnvironmentFailedError if resumed else BadInputError)(text) from error


def _reason(env: str, error: EnvError) -> str:
    """Return the message without the environment's name, which the caller puts in front."""
    text = str(error).replace(f"unknown environment {env!r}", "unknown environment", 1)
    return text.removeprefix(f"environment {env!r}").removeprefix(":").lstrip()
