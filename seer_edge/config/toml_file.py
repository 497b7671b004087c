"""A TOML file that a user names, read with one clear line for all that can be wrong with it."""

import tomllib
from pathlib import Path
from typing import Any

from seer_edge.errors import BadInputError

FILE_BYTES_MAX = 65_536


def read_toml(path: str | Path, shown: str, missing: str, invalid: str) -> dict[str, Any]:
    """Return the content of the file `path` as Python values. Raises BadInputError.

    Messages begin with `shown`, which names the file. `missing` says what to give where there is no such file, and
    `invalid` where it is not TOML.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise BadInputError(f"{shown}: there is no such file; {missing}") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = getattr(error, "strerror", None) or error
        raise BadInputError(f"{shown}: cannot be read ({reason}); give a TOML file") from error
    if len(data) > FILE_BYTES_MAX:
        raise BadInputError(f"{shown}: larger than {FILE_BYTES_MAX:,} B; give a TOML file of a few lines")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise BadInputError(f"{shown}: not text in UTF-8; give a TOML file") from error
    except (ValueError, RecursionError) as error:  # also of int, for a number of too many digits
        raise BadInputError(f"{shown}: not valid TOML ({error}); {invalid}") from error
