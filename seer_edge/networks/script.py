"""Functions over tensors as TorchScript: one call each, which lets go of the interpreter's lock."""

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., object])


def scripted(function: Function) -> Function:
    """`function` compiled, with all that it calls; it takes and returns tensors, numbers and lists of them.

    An update's hundred small operations each wait for the lock where another thread steps the environment meanwhile:
    that made an update from latents 1.4 times as long, and scripted it is 1.05 times as long (decision 11). torch calls
    TorchScript deprecated and names compilers in its place, which a board does not have; what is scripted here is
    plain torch and runs uncompiled too. Write `linear` and not `addmm`, which TorchScript takes apart.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        compiled: Function = torch.jit.script(function)
    return compiled
