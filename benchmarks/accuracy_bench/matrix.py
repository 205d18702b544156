"""Which runs there are, in the order in which they are worth most: a network, a setting, a method, a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

FLOAT = "float"

METHODS = ("lq", "lsq", "dorefa-pact")
"""As `lqcompile.nn.quantize` takes them."""

SETTINGS: dict[str, tuple[int, int]] = {
    FLOAT: (32, 32),
    "W1/32": (1, 32),
    "W2/32": (2, 32),
    "W3/32": (3, 32),
    "W1A2": (1, 2),
    "W2A2": (2, 2),
    "W2A3": (2, 3),
    "W3A3": (3, 3),
}
"""Bits of weights and activations; 32 is float."""

CLAIMED = ("W2A2", "W1A2", "W3A3")
"""Settings that claims are made of; these get seeds first."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """The narrower form of a network that a CPU can train.

    Args:
        width: factor on the channels.
        image_size: rows and columns; 14 for the images of 28 averaged over 2x2 pixels.
        twin_epochs: passes of the float twin, from fresh weights.
        epochs: passes of every run, from the weights of the twin.
    """

    width: float
    image_size: int
    twin_epochs: int
    epochs: int


FORMS = {
    "vgg_small": Form(width=0.125, image_size=14, twin_epochs=4, epochs=1),
    "resnet20": Form(width=0.5, image_size=14, twin_epochs=4, epochs=1),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run.

    Args:
        network: key of `FORMS`.
        setting: key of `SETTINGS`.
        method: of `METHODS`, or "float" for the float network trained on.
        seed: of weights, order and augmentation; runs of a seed share their float twin.
    """

    network: str
    setting: str
    method: str
    seed: int

    @property
    def bits(self) -> tuple[int, int]:
        """Of weights and activations."""
        return SETTINGS[self.setting]


def cases(network: str, settings: Sequence[str], seed: int) -> Iterator[Case]:
    """The float run and every method at every one of `settings`."""
    yield Case(network=network, setting=FLOAT, method=FLOAT, seed=seed)
    for setting in settings:
        for method in METHODS:
            yield Case(network=network, setting=setting, method=method, seed=seed)


def matrix(networks: Sequence[str], seeds: int) -> list[Case]:
    """All runs; stopped anywhere, what is done makes a table.

    First one seed of everything on the first network, then the claimed settings of the others, then more seeds of
    those, then the other settings.
    """
    others = [setting for setting in SETTINGS if setting not in (FLOAT, *CLAIMED)]
    found = [*cases(networks[0], (*CLAIMED, *others), 0)]
    for network in networks[1:]:
        found += cases(network, CLAIMED, 0)
    for seed in range(1, seeds):
        for network in networks:
            found += cases(network, CLAIMED, seed)
    for seed in range(seeds):
        for network in networks:
            found += cases(network, others, seed)
    return list(dict.fromkeys(found))
