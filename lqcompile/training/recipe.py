"""What a training run does, as frozen and checked data: the sections of a recipe file."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lqcompile.encoding import MAX_ACTIVATION_TOTAL, MAX_WEIGHT_TOTAL

Bits = Literal[1, 2, 3, 4, 32]
"""Bits of a code; 32 stands for float, as in W1/32."""

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class Section(BaseModel):
    """Part of a recipe: frozen, without unknown keys, without conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Network(Section):
    """The network to train; the arguments of `lqcompile.models.create`.

    Args:
        name: one of `lqcompile.models.names`, or ``FILE.py:NAME`` for a class or function of one's own that gives the
            float network and takes no arguments.
        weight_bits: 1 to 4; 32 for the float network (the twin).
        act_bits: 1 to 4; 32 for float activations (weight-only).
        edge_bits: 8 for the first and the last layer in 8 bits; 32 for float, as the paper has it.
        basis: "int8" snaps the bases to integers, see `Snap`; "float" leaves them.
        skip: further layers of a network of one's own to leave in float, see `lqcompile.nn.quantize`.
        options: further arguments of `lqcompile.models.create`, such as ``width = 0.5``; classes, channels and size of
            the image are those of the data.
    """

    name: str
    weight_bits: Bits = 2
    act_bits: Bits = 2
    edge_bits: Literal[8, 32] = 8
    basis: Literal["float", "int8"] = "int8"
    skip: Annotated[tuple[str, ...], Field(strict=False)] = ()
    options: dict[str, bool | float] = {}

    @model_validator(mode="after")
    def _options_fit_the_name(self) -> Self:
        if self.is_own and self.options:
            raise ValueError(f"found options {sorted(self.options)} with a network of one's own; leave them out")
        if not self.is_own and self.skip:
            raise ValueError("found skip with a network of lqcompile, expected one of one's own; leave skip out")
        return self

    @property
    def is_own(self) -> bool:
        """Whether `name` is a file of one's own."""
        return ":" in self.name

    @property
    def is_float(self) -> bool:
        """Whether this is a float network."""
        return self.weight_bits == 32


class DataOptions(Section):
    """The data set, and how its images are changed on the way to the network.

    Args:
        set: format of the folder with the data; see `lqcompile.training.data.load_data`.
        batch: images per step, over all processes.
        augment: "none", "flip" (mirrors), "crop-flip" (pads by `pad` with zeros, crops, mirrors), or "inception" (crop
            of random size and shape, colour jitter, mirrors; image folders only).
        pad: for "crop-flip".
        normalize: what the network reads. "unit": pixel / 255. "channels": that, less the mean over the standard
            deviation of every channel of the training set (those of ImageNet for image folders). "pixel-mean": (pixel -
            mean image of the training set) / 128, as the authors do for CIFAR-10.
        image_size: rows and columns that image folders are cropped to.
        workers: processes that read image folders.
        limit: use only the first so many training images; left out, all.
    """

    set: Literal["fashion-mnist", "mnist", "cifar10", "cifar100", "npz", "folder"]
    batch: Positive = 128
    augment: Literal["none", "flip", "crop-flip", "inception"] = "none"
    pad: Annotated[int, Field(ge=0, le=16)] = 4
    normalize: Literal["unit", "channels", "pixel-mean"] = "unit"
    image_size: Annotated[int, Field(ge=8)] = 224
    workers: Annotated[int, Field(ge=0)] = 4
    limit: Positive | None = None


class Optimizer(Section):
    """How a step changes the weights.

    Weights of convolutions and linear layers decay; biases, batch normalization and bases do not.

    Args:
        kind: "sgd" or "adamw".
        lr: learning rate, the highest of the schedule.
        momentum: of SGD.
        nesterov: of SGD.
        weight_decay: coupled to the gradient in SGD, apart from it in AdamW.
        clip_norm: largest norm of the whole gradient; left out, any.
    """

    kind: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)]
    momentum: Fraction = 0.9
    nesterov: bool = True
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = None


class Schedule(Section):
    """The learning rate over the run.

    Args:
        kind: "constant", "step" (times `factor` after each of `milestones`), "linear" or "cosine" (down to `final`
            times the highest), or "one-cycle" (up over 30 % of the run and down to nothing, momentum the other way).
        milestones: epochs, counted from 1, after which a "step" falls.
        factor: of a "step".
        final: last learning rate of "linear" and "cosine", relative to the highest.
        warmup_epochs: the learning rate grows linearly over the first so many; not for "one-cycle".
    """

    kind: Literal["constant", "step", "linear", "cosine", "one-cycle"] = "constant"
    milestones: Annotated[tuple[Positive, ...], Field(strict=False)] = ()
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    final: Fraction = 0.0
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _milestones_belong_to_steps(self) -> Self:
        if bool(self.milestones) != (self.kind == "step"):
            raise ValueError(
                f"found kind={self.kind!r} with milestones {list(self.milestones)}; steps need them, only they"
            )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"found milestones {list(self.milestones)}, expected them to rise")
        if self.kind == "one-cycle" and self.warmup_epochs:
            raise ValueError("found warmup_epochs with kind='one-cycle', which warms up by itself; leave it out")
        return self


class Snap(Section):
    """The last phase: integer bases.

    Args:
        epochs: the last so many epochs of the run train with the bases snapped; 0 snaps after the last one.
        weight_limit: largest sum of magnitudes of a weight basis.
        act_limit: largest sum of an activation basis.
    """

    epochs: Annotated[int, Field(ge=0)] = 2
    weight_limit: Annotated[int, Field(ge=1, le=MAX_WEIGHT_TOTAL)] = MAX_WEIGHT_TOTAL
    act_limit: Annotated[int, Field(ge=1, le=MAX_ACTIVATION_TOTAL)] = MAX_ACTIVATION_TOTAL


class Distillation(Section):
    """Learning from the float twin: loss = (1 - weight) * labels + weight * temperature**2 * KL(twin, network).

    Args:
        weight: of the twin's part.
        temperature: both logits are divided by it.
    """

    weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    temperature: Annotated[float, Field(gt=0)] = 4.0


class Recipe(Section):
    """A whole training run.

    Args:
        description: one line for lists.
        epochs: passes over the training data, those with integer bases included.
        seed: of fresh weights, of the order of the data and of its changes.
        network: the network; `fit` is given one and does not read it.
        data: the data set; `fit` reads only `batch`.
        optimizer: how a step changes the weights.
        schedule: the learning rate over the run.
        snap: integer bases; left out, bases stay float.
        distillation: learning from the float twin; left out, only from labels.
        label_smoothing: part of the target spread over all classes.
        ema_decay: exponential average of the weights per step, which is what is tested and exported; 0 for none.
        precision: of convolutions and linear layers in training; quantizers always work in float32.
        bn_batches: training batches from which the batch normalization statistics are estimated anew at the end; 0
            keeps the running averages.
    """

    description: str = ""
    epochs: Positive
    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    network: Network | None = None
    data: DataOptions
    optimizer: Optimizer
    schedule: Schedule = Schedule()
    snap: Snap | None = None
    distillation: Distillation | None = None
    label_smoothing: Fraction = 0.0
    ema_decay: Fraction = 0.0
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    bn_batches: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.snap is not None and self.snap.epochs >= self.epochs:
            raise ValueError(f"found snap.epochs={self.snap.epochs}, expected fewer than epochs={self.epochs}")
        if self.schedule.milestones and self.schedule.milestones[-1] >= self.epochs:
            last = self.schedule.milestones[-1]
            raise ValueError(f"found schedule.milestones up to {last}, expected fewer than epochs={self.epochs}")
        if self.schedule.warmup_epochs > self.epochs:
            raise ValueError(
                f"found schedule.warmup_epochs={self.schedule.warmup_epochs}, expected at most epochs={self.epochs}"
            )
        if self.network is not None:
            if not self.network.is_float and (self.network.basis == "int8") != (self.snap is not None):
                found = "no" if self.snap is None else "a"
                raise ValueError(
                    f"found network.basis={self.network.basis!r} and {found} [snap] section; integer bases need it, "
                    "float ones must not have it"
                )
            if self.network.is_float and self.snap is not None:
                raise ValueError("found a [snap] section with network.weight_bits=32; a float network has no bases")
        return self
