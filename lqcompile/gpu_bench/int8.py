"""Convolutions and linear layers in int8 by `torch._int_mm`, the int8 matrix product that torch has on GPUs (cuBLASLt).

Torch has no int8 convolution on GPUs: here it is a copy of the pixels that each output reads (im2col, none for 1x1
layers of stride 1), the product, and a multiplication by the scales. Weights have a scale per output channel,
activations one scale per layer, from ranges that were seen; both are symmetric. Codes do not stay int8 between layers:
each of these takes and gives float16, and `torch.compile` joins the conversions with what stands around them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx, nn
from torch.nn import functional

MOST = 127
"""Largest code."""

LEAST_ROWS = 32
"""cuBLASLt takes no fewer rows than 17 of int8; fewer are filled up to this many with zeros."""

MULTIPLE = 16
"""Depth and output channels are filled up to multiples of so many: 8 is required, 16 bytes are what loads like."""


class Int8Layer(nn.Module):
    """A convolution or linear layer in int8.

    Args:
        layer: in float; one group.
        largest: absolute value of an input that gets the largest code.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor
    """int8[depth, outputs], float32[outputs], float32[outputs]; depth and outputs filled up in the first."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, largest: float) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        if isinstance(layer, nn.Conv2d):
            weight = weight.permute(0, 2, 3, 1)  # as pixels are laid out: rows, columns, channels
            self.kernel, self.stride = layer.kernel_size, layer.stride
            self.padding, self.dilation = layer.padding, layer.dilation
        self.convolves = isinstance(layer, nn.Conv2d)
        self.outputs = len(weight)
        flat = weight.reshape(self.outputs, -1)
        scales = flat.abs().amax(1).clamp(min=1e-12) / MOST
        codes = torch.round(flat / scales[:, None]).to(torch.int8)
        self.act_scale = max(largest, 1e-6) / MOST
        fill = (0, -flat.shape[1] % MULTIPLE, 0, -self.outputs % MULTIPLE)
        # [depth, outputs] with the depth contiguous, which is the one form that cuBLASLt takes.
        self.register_buffer("weight", functional.pad(codes, fill).contiguous().T)
        self.register_buffer("scale", scales * self.act_scale)
        self.register_buffer("bias", torch.zeros_like(scales) if layer.bias is None else layer.bias.detach().float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float16[N, C, H, W] or float16[N, C] --> the same of the outputs."""
        codes = torch.clamp(torch.round(x / self.act_scale), -MOST, MOST).to(torch.int8)
        if not self.convolves:
            return self._product(codes)
        pixels = self._pixels(codes.permute(0, 2, 3, 1))
        rows = self._product(pixels.reshape(-1, pixels.shape[3]))
        return rows.reshape(*pixels.shape[:3], self.outputs).permute(0, 3, 1, 2)

    def _pixels(self, codes: torch.Tensor) -> torch.Tensor:
        """int8[N, H, W, C] --> int8[N, OH, OW, KH x KW x C]: what each output pixel reads."""
        (height, width), (down, right) = self.kernel, self.stride
        top, left = (int(size) for size in self.padding)
        codes = functional.pad(codes, (0, 0, left, left, top, top))
        rows = (codes.shape[1] - self.dilation[0] * (height - 1) - 1) // down + 1
        columns = (codes.shape[2] - self.dilation[1] * (width - 1) - 1) // right + 1
        parts = []
        for y in range(0, height * self.dilation[0], self.dilation[0]):
            lines = codes[:, y : y + (rows - 1) * down + 1 : down]
            lefts = range(0, width * self.dilation[1], self.dilation[1])
            parts += [lines[:, :, x : x + (columns - 1) * right + 1 : right] for x in lefts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 3)

    def _product(self, rows: torch.Tensor) -> torch.Tensor:
        """int8[M, depth] --> float16[M, outputs]."""
        count, depth = rows.shape
        missing = max(0, LEAST_ROWS - count)
        if missing or depth < self.weight.shape[0]:
            rows = functional.pad(rows, (0, self.weight.shape[0] - depth, 0, missing))
        sums = torch._int_mm(rows.contiguous(), self.weight)[:count, : self.outputs]
        return (sums.float() * self.scale + self.bias).half()


def to_int8(module: fx.GraphModule, samples: Sequence[torch.Tensor]) -> tuple[int, int]:
    """Turns a float32 module into one of float16 whose linear layers and convolutions of one group are int8.

    Args:
        module: changed in place.
        samples: float32, an array for each input; ranges are what they give.

    Returns:
        how many layers are int8 now, and how many stay as they are (grouped ones).
    """
    wanted = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    largest = dict.fromkeys(wanted, 0.0)
    hooks = []
    for name, layer in wanted.items():

        def note(_: nn.Module, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
            largest[name] = max(largest[name], float(inputs[0].abs().max()))

        hooks.append(layer.register_forward_pre_hook(note))
    with torch.inference_mode():
        module(*samples)
    for hook in hooks:
        hook.remove()
    module.half()
    taken = [name for name, layer in wanted.items() if isinstance(layer, nn.Linear) or layer.groups == 1]
    for name in taken:
        setattr(module, name, Int8Layer(wanted[name], largest[name]))
    return len(taken), len(wanted) - len(taken)
