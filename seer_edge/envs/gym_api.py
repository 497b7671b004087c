"""Checks of what the methods of a Gymnasium environment take and return. Each raises UnsupportedEnvError."""

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seer_edge.envs.names import UnsupportedEnvError
from seer_runtime.policy.pictures import shown_value

_OLD_API = "it has the API of Gym before version 0.26; port it to Gymnasium, or wrap it with shimmy"
_STEP = "observation, reward, terminated, truncated and info"


def check_reset(reset: Callable[..., Any]) -> None:
    """Raise UnsupportedEnvError unless the method `reset` takes the keywords `seed` and `options`."""
    parameters = inspect.signature(reset).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return
    if "seed" not in parameters:
        raise UnsupportedEnvError(f"reset takes no seed: {_OLD_API}")
    if "options" not in parameters:
        raise UnsupportedEnvError("reset takes no options; write reset(self, *, seed=None, options=None)")


def observation_of(result: Any) -> Any:
    """Return the observation of what `reset` returned: observation and info, as a tuple or a list."""
    pair = isinstance(result, tuple | list) and len(result) == 2
    if pair and (result[1] is None or isinstance(result[1], dict)):
        return result[0]
    if result is None:
        raise UnsupportedEnvError("reset returns None, not observation and info")
    if isinstance(result, tuple):
        raise UnsupportedEnvError(f"reset returns {_counted(result)}, not observation and info")
    raise UnsupportedEnvError(f"reset returns the observation alone, not observation and info: {_OLD_API}")


def parts_of_step(result: Any) -> tuple[Any, Any, Any, Any, Mapping[str, Any]]:
    """Return observation, reward, terminated, truncated and info of what `step` returned."""
    if not isinstance(result, tuple | list):
        raise UnsupportedEnvError(f"step returns {shown_value(result)}, not five values: {_STEP}")
    if len(result) == 4:
        raise UnsupportedEnvError(f"step returns four values, not five: {_OLD_API}")
    if len(result) != 5:
        raise UnsupportedEnvError(f"step returns {_counted(result)}, not five: {_STEP}")
    info = result[4] if isinstance(result[4], Mapping) else {}
    return result[0], result[1], result[2], result[3], info


@contextmanager
def misread_step() -> Iterator[None]:
    """Context manager: raise UnsupportedEnvError where a wrapper of Gymnasium cannot unpack what `step` returned."""
    try:
        yield
    except (TypeError, ValueError) as error:
        file = traceback.extract_tb(error.__traceback__)[-1].filename
        if "unpack" in str(error) and "gymnasium" in Path(file).parts:
            reason = _OLD_API if "got 4" in str(error) else _STEP
            raise UnsupportedEnvError(f"step does not return five values ({error}): {reason}") from error
        raise


def _counted(result: Any) -> str:
    count = len(result)
    return f"{count} value{'' if count == 1 else 's'}"
