"""Compile functions on tensors with TorchScript, so that a whole function runs without Python's global lock."""

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., object])


def scripted(function: Function) -> Function:
    """Compile `function` and everything that it calls. It may take and return tensors, numbers and lists of them.

    An update from latents has about a hundred small operations. While another thread steps the environment, each of
    them waits for Python's global lock. That made an update 1.4 times as long; compiled it is 1.05 times as long
    (decision 11).

    torch has deprecated TorchScript in favour of compilers that a board does not have. The compiled functions are plain
    torch and also run uncompiled. Write `linear` in them instead of `addmm`, which TorchScript splits into two
    operations.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        compiled: Function = torch.jit.script(function)
    return compiled
