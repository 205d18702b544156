"""The NumPy reference: the arithmetic of a plan (`lqcompile.graph.plan`), executed."""

from lqcompile.reference.execute import execute, execute_region, graph_outputs
from lqcompile.reference.sums import plane_sums

__all__ = ["execute", "execute_region", "graph_outputs", "plane_sums"]
