"""Triton: kernels, and the wrappers that launch them."""
