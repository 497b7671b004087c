"""Values of flags as people write them, turned into bytes, seconds and steps.

Every function raises ValueError with what is wrong and what to give.
"""

import json
import re
import socket
import tomllib
from pathlib import Path
from typing import Any

from seer_runtime.system.units import parse_duration, parse_size

NEVER = "never"
AUTO = "auto"
"""Value of --latent-codec: choose the densest codec with a small error at the freeze (`training.codec_choice`).
Value of --freeze-at: freeze once encoder and head change at a steady rate (`training.freeze_watch`)."""
_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d{1,18}\.?\d{0,18}|\.\d{1,18})(e[+-]?\d{1,2})?", re.ASCII | re.IGNORECASE)
SHOWN_CHARACTERS = 40
_WANDB_PROJECT = re.compile(r"([\w.-]+/)?[^/\\#?%:\s][^/\\#?%:]{0,127}")
_FLOPS_UNITS = {"G": 1e9, "T": 1e12, "P": 1e15}

parse_memory = parse_size
parse_seconds = parse_duration


def parse_integer(text: str, instead: str = "") -> int:
    """Return a whole number of up to 18 digits. `instead` names what else the flag accepts."""
    if _INTEGER.fullmatch(text) is None:
        raise ValueError(f"{text[:SHOWN_CHARACTERS]!r} is not a whole number; write up to 18 digits{instead}")
    return int(text)


def parse_positive(text: str) -> int:
    """Return a whole number of at least 1."""
    value = parse_integer(text)
    if value < 1:
        raise ValueError(f"{text!r} is too small; give a whole number of at least 1")
    return value


def parse_flops(text: str) -> float:
    """Return a number of FLOPs: a number, with G, T or P for 10^9, 10^12 or 10^15 behind it."""
    factor = _FLOPS_UNITS.get(text[-1:], 1.0)
    digits = text[:-1] if text[-1:] in _FLOPS_UNITS else text
    if _NUMBER.fullmatch(digits) is None or not float(digits) > 0:
        raise ValueError(f"{text[:SHOWN_CHARACTERS]!r} is not a number of FLOPs; write for example 45T or 4.5e13")
    return float(digits) * factor


def parse_steps_or_never(text: str) -> int | str:
    """Return a step, or "never"."""
    return NEVER if text == NEVER else parse_integer(text, instead=f", or {NEVER}")


def parse_freeze_at(text: str) -> int | str:
    """Return a step, "never" or "auto"."""
    return text if text in (NEVER, AUTO) else parse_integer(text, instead=f", {NEVER} or {AUTO}")


def parse_return(text: str) -> float | str:
    """Return a number, or "never"."""
    if text == NEVER:
        return NEVER
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"{text[:SHOWN_CHARACTERS]!r} is not a number; write for example 195.5, or {NEVER}")
    return float(text)


def parse_number(text: str) -> float:
    """Return a number."""
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"{text[:SHOWN_CHARACTERS]!r} is not a number; write for example 0.5")
    return float(text)


def parse_hz(text: str) -> float:
    """Return a rate in hertz."""
    if _NUMBER.fullmatch(text) is None or not float(text) > 0:
        raise ValueError(f"{text[:SHOWN_CHARACTERS]!r} is not a rate above 0; write for example 30")
    return float(text)


def parse_control_period(text: str) -> float:
    """Return the rate in hertz of a period such as 100ms or 0.1s."""
    return 1 / parse_time(text)


def parse_time(text: str) -> float:
    """Return the seconds of a time such as 200ms or 0.2s."""
    milliseconds = text.removesuffix("ms")
    if milliseconds != text and _NUMBER.fullmatch(milliseconds) and float(milliseconds) > 0:
        return float(milliseconds) / 1e3
    return parse_duration(text, "200ms or 0.2s")


def parse_action_limit(text: str) -> tuple[float, float]:
    """Return the two numbers of LOW,HIGH."""
    numbers = text.split(",")
    if len(numbers) != 2 or not all(map(_NUMBER.fullmatch, numbers)):
        raise ValueError(f"{text[:SHOWN_CHARACTERS]!r} is not LOW,HIGH; write for example -0.5,0.5")
    low, high = map(float, numbers)
    if low > high:
        raise ValueError(f"{text[:SHOWN_CHARACTERS]!r} has LOW above HIGH; write for example -0.5,0.5")
    return low, high


def parse_slew_rate(text: str) -> tuple[float, ...]:
    """Return a number, or several with commas between them."""
    numbers = text.split(",")
    if not all(map(_NUMBER.fullmatch, numbers)):
        raise ValueError(
            f"{text[:SHOWN_CHARACTERS]!r} is not a number or a list of them; write for example 2, or 2,0.5"
        )
    return tuple(map(float, numbers))


def parse_wandb(text: str) -> str:
    """Return a project of Weights & Biases, entity/project, or "never"."""
    if _WANDB_PROJECT.fullmatch(text) is None:
        raise ValueError(
            f"{text[:SHOWN_CHARACTERS]!r} is not a project; write PROJECT or ENTITY/PROJECT without any of \\ # ? % :"
        )
    return text


def parse_mlflow(text: str) -> str:
    """Return the URL of an MLflow server, the absolute path of a folder, or "never"."""
    scheme, colon, rest = text.partition(":")
    if colon and (scheme in ("http", "https") or "//" in rest):
        if scheme not in ("http", "https") or not rest.startswith("//") or not rest.strip("/"):
            raise ValueError(
                f"{text[:SHOWN_CHARACTERS]!r} is not the URL of a server; write http://HOST:PORT, or name a folder"
            )
        return text
    if not text.strip():
        raise ValueError("is empty; write http://HOST:PORT, or name a folder")
    return NEVER if text == NEVER else str(Path(text).absolute())


def parse_status_port(text: str) -> str:
    """Return PORT, HOST:PORT or "never"."""
    host, colon, port = text.rpartition(":")
    valid = port.isascii() and port.isdigit() and int(port) < 2**16
    if text != NEVER and not (valid and bool(host.strip("[]")) == bool(colon)):
        raise ValueError(f"{text[:SHOWN_CHARACTERS]!r} is not a port; write 8080, or 0.0.0.0:8080 for other machines")
    return text


def parse_control_socket(text: str) -> str:
    """Return the absolute path of a socket, or "never"."""
    if not text.strip():
        raise ValueError("is empty; give a path, or never")
    return NEVER if text == NEVER else str(Path(text).absolute())


def address_of(place: str) -> tuple[str, int]:
    """Return host and port of what `parse_status_port` accepted. Without a host it is this machine only."""
    host, _, port = place.rpartition(":")
    return host.strip("[]") or "127.0.0.1", int(port)


def family_of(host: str) -> socket.AddressFamily:
    """Return the family of the address `host`: IPv6 has colons."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def parse_checkpoint_every(text: str) -> int | float:
    """Return steps as int for a bare number, and seconds as float for a duration such as 10min."""
    if re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        return parse_positive(text)
    return parse_duration(text)


def parse_assignment(text: str) -> tuple[str, Any]:
    """Return the key and the value of `KEY=VALUE`. The value is read as TOML, and as text if it is not TOML."""
    key, equals, value = text.partition("=")
    if not (key.strip() and equals and value.strip()):
        raise ValueError(f"{text[:SHOWN_CHARACTERS]!r} is not KEY=VALUE; write for example batch_size=64")
    return key.strip(), _literal(value.strip())


def parse_json_object(text: str) -> dict[str, Any]:
    """Return a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{text[:SHOWN_CHARACTERS]!r} is not a JSON object; write for example '{{\"size\": 8}}'")
    return value


def _literal(text: str) -> Any:
    """TOML needs a digit before the point and brackets around a list. A user of `--set` may leave them out."""
    if "\n" in text:
        return text
    for candidate in (f"0{text}" if text.startswith(".") else text, f"[{text}]"):
        try:
            return tomllib.loads(f"value = {candidate}")["value"]
        except (ValueError, RecursionError):  # of tomllib, and of int for too many digits
            continue
    return text
