"""Every operation on Triton kernels, for `kernels.dispatch`."""

from kernels.gpu.bridge_nll import bridge_nll
from kernels.gpu.lens import lens_nll, lens_project
from kernels.gpu.path import adjoint_sequential, solve_sequential
from kernels.gpu.pooling import pool_trajectory, target_states

__all__ = [
    "adjoint_sequential",
    "bridge_nll",
    "lens_nll",
    "lens_project",
    "pool_trajectory",
    "solve_sequential",
    "target_states",
]
