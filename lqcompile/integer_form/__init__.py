"""The integer form of a plan: an ONNX model of standard operators that evaluates its arithmetic exactly."""

from lqcompile.integer_form.model import integer_form, integers_output, value_output

__all__ = ["integer_form", "integers_output", "value_output"]
