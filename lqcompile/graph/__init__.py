"""The checked graph: reading ONNX, the contract, and the fusion plan."""
