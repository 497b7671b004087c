"""Import ONNX Runtime without its telemetry. No other module of the project imports it.

ONNX Runtime 1.32 contacts a telemetry host and writes files under the user's home as soon as it is imported, unless
`ORT_DISABLE_TELEMETRY` is 1. Importing this module, or `seer_runtime`, sets the variable unless the user has set it.
"""

import os
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # here too: the user's environment may import it before we do


def onnx_runtime() -> Any:
    """Import ONNX Runtime and return its module. Raises ImportError if it is not installed."""
    import onnxruntime

    return onnxruntime
