"""Encoders and observations for the tests of encoders, and the specs of all their cuts."""

import dataclasses

import numpy as np
import torch

from seer_edge.networks.encoder import Encoder
from seer_edge.networks.spec import ENCODERS, EncoderSpec, encoder_spec

FCS = [{}, {"networks": 2, "features": 50}]


def new_encoder(spec: EncoderSpec, seed: int = 3, *, orthogonal: bool = False) -> Encoder:
    return Encoder(spec, torch.Generator().manual_seed(seed), orthogonal=orthogonal)


def random_observations(spec: EncoderSpec, batch: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(4).integers(0, 256, (batch, *spec.input_shape), np.uint8))


def specs_of_all_cuts(input_shape: tuple[int, ...], **fcs: int) -> list[EncoderSpec]:
    wholes = [encoder_spec(name, input_shape=input_shape, **fcs) for name in ENCODERS]
    return [dataclasses.replace(whole, frozen_layers=cut) for whole in wholes for cut in whole.cuts]


def spec_id(spec: EncoderSpec) -> str:
    return f"{spec.name}-{spec.networks}x{spec.features}-{spec.frozen_layers}"


CUTS = [spec for fcs in FCS for spec in specs_of_all_cuts((9, 42, 42), **fcs)]
