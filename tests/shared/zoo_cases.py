"""The processes made without any code of `bridges`: conditioned, simulated, sklearn's."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import torch
from sklearn.gaussian_process import GaussianProcessRegressor, kernels
from torch import Tensor

import bridges

BRIDGES = [n for n in bridges.available() if bridges.info(n).cls.__module__.startswith("bridges.")]
"""Those of the library: others, of `benchmarks` or a test, may be registered beside them."""

TIMES = (1 / 130, 0.1, 0.25, 0.5, 0.77, 0.95, 129 / 130)
"""The first and the last of 128 layers, and some between."""

Kernel = Callable[[Decimal, Decimal], Decimal]
Paths = np.ndarray
"""Simulated paths [count, steps + 1] on the grid k / steps."""


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Exact: the free process's covariance in decimals, conditioned on the value at 1.


def conditioned(kernel: Kernel, times: tuple[float, ...] = TIMES) -> tuple[Tensor, Tensor]:
    """Mean factors and covariance given the value at 1, by decimal arithmetic of 120 digits."""
    with localcontext() as context:
        context.prec = 120
        one, exact = Decimal(1), [Decimal(t) for t in times]
        top = kernel(one, one)
        mean = [float(kernel(t, one) / top) for t in exact]
        covariance = [
            [float(kernel(s, t) - kernel(s, one) * kernel(one, t) / top) for t in exact] for s in exact
        ]
    return torch.tensor(mean, dtype=torch.float64), torch.tensor(covariance, dtype=torch.float64)


def free_fractional(hurst: float, sigma: float) -> Kernel:
    power = 2 * Decimal(hurst)

    def kernel(s: Decimal, t: Decimal) -> Decimal:
        apart = abs(t - s) ** power if s != t else Decimal(0)
        return Decimal(sigma) ** 2 * (s**power + t**power - apart) / 2

    return kernel


def free_smooth(sigma: float) -> Kernel:
    """V t + int W, the variance of V so large that 60 digits see no difference to a free velocity."""

    def kernel(s: Decimal, t: Decimal) -> Decimal:
        early, late = min(s, t), max(s, t)
        return Decimal(sigma) ** 2 * early**2 * (3 * late - early) / 6 + Decimal(10) ** 60 * s * t

    return kernel


def free_stationary(name: str, lengthscale: float, sigma: float) -> Kernel:
    """A stationary process given that it is 0 at 0."""

    def correlation(lag: Decimal) -> Decimal:
        x = lag / Decimal(lengthscale)
        if name == "rbf":
            return (-x * x / 2).exp()
        y = x * Decimal({"matern12": 1, "matern32": 3, "matern52": 5}[name]).sqrt()
        return {"matern12": 1, "matern32": 1 + y, "matern52": 1 + y + y * y / 3}[name] * (-y).exp()

    def kernel(s: Decimal, t: Decimal) -> Decimal:
        given = correlation(s) * correlation(t)
        return Decimal(sigma) ** 2 * (correlation(abs(t - s)) - given)

    return kernel


def alpha_law(alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
    """By integrating the equation: the variance is an integral of (1 - u)^-2alpha, done in decimals."""
    with localcontext() as context:
        context.prec = 120
        force, left = Decimal(alpha), [1 - Decimal(t) for t in TIMES]
        power = 1 - 2 * force
        grown = [-u.ln() if power == 0 else (1 - u**power) / power for u in left]
        mean = [float(1 - u**force) for u in left]
        covariance = [
            [
                float(Decimal(sigma) ** 2 * (a * b) ** force * min(p, q))
                for b, q in zip(left, grown, strict=True)
            ]
            for a, p in zip(left, grown, strict=True)
        ]
    return torch.tensor(mean, dtype=torch.float64), torch.tensor(covariance, dtype=torch.float64)


def sklearn_law(name: str, lengthscale: float, sigma: float) -> tuple[Tensor, Tensor]:
    """Posterior of a regression on the two points (0, 0) and (1, 1)."""
    nu = {"matern12": 0.5, "matern32": 1.5, "matern52": 2.5, "rbf": math.inf}[name]
    kernel = sigma**2 * kernels.Matern(length_scale=lengthscale, nu=nu)
    model = GaussianProcessRegressor(kernel, alpha=1e-14, optimizer=None)
    model.fit([[0.0], [1.0]], [0.0, 1.0])
    mean, covariance = model.predict([[t] for t in TIMES], return_cov=True)
    return torch.from_numpy(mean), torch.from_numpy(covariance)


# Simulated: free paths on a grid, moved to v by the regression of each time on the last.


def moved_to(v: float, free: Paths, weight: np.ndarray) -> Paths:
    """The free paths given their last value v: x + weight (v - x_last), exact for Gaussian paths."""
    return free + weight * (v - free[:, -1:])


def alpha_paths(rng: np.random.Generator, count: int, v: float, alpha: float, sigma: float) -> Paths:
    """Euler steps of the pinned equation on [0, 0.95]: 4000 steps, so that the variance is wrong by
    alpha / (4000 * 0.05) of itself at the end, 1.5 % for alpha 3, and less before.
    """
    steps, y, paths = 4000, np.zeros(count), np.full((count, 4001), np.nan)
    paths[:, 0] = 0
    for k in range(3800):
        noise = sigma * rng.standard_normal(count) / math.sqrt(steps)
        y = y + alpha * (v - y) / (steps - k) + noise
        paths[:, k + 1] = y
    return paths[:, ::40]


def fractional_paths(
    rng: np.random.Generator, count: int, v: float, hurst: float, sigma: float
) -> Paths:
    """Fractional Gaussian noise of 100 steps by circulant embedding (Davies, Harte 1987), summed up."""
    steps = 100
    lag = np.arange(steps + 1.0)
    power = 2 * hurst
    noise = (np.abs(lag + 1) ** power - 2 * lag**power + np.abs(lag - 1) ** power) / 2
    ring = np.concatenate([noise, noise[-2:0:-1]])
    spectrum = np.fft.fft(ring).real.clip(min=0)
    white = rng.standard_normal((count, len(ring))) + 1j * rng.standard_normal((count, len(ring)))
    increments = np.fft.fft(np.sqrt(spectrum / len(ring)) * white, axis=1).real[:, :steps]
    free = np.concatenate([np.zeros((count, 1)), increments.cumsum(1)], 1) * sigma * steps**-hurst
    table = noise[np.abs(np.subtract.outer(np.arange(steps), np.arange(steps)))]
    weight = np.concatenate([[0.0], table.sum(1).cumsum() / table.sum()])
    return moved_to(v, free, weight)


def smooth_paths(rng: np.random.Generator, count: int, v: float, sigma: float) -> Paths:
    """W by 2000 steps, integrated by the trapezoid rule, plus a velocity of variance 1e4."""
    steps, spread = 2000, 100.0
    brown = np.concatenate(
        [np.zeros((count, 1)), (rng.standard_normal((count, steps)) / math.sqrt(steps)).cumsum(1)], 1
    )
    area = ((brown[:, 1:] + brown[:, :-1]) / (2 * steps)).cumsum(1)
    time = np.linspace(0, 1, steps + 1)
    free = spread * rng.standard_normal((count, 1)) * time
    free[:, 1:] += sigma * area
    cross = sigma**2 * time**2 * (3 - time) / 6 + spread**2 * time
    return moved_to(v, free, cross / cross[-1])[:, ::20]


def stationary_paths(
    rng: np.random.Generator, count: int, v: float, kernel: str, lengthscale: float, sigma: float
) -> Paths:
    """Each path a sum of 400 waves with frequencies from the spectrum: Student's t for a Matern kernel,
    normal for the other. Covariances are right for any number of waves, kurtosis to 1.5 / 400.
    """
    waves, time = 400, np.linspace(0, 1, 21)
    degrees = {"matern12": 1, "matern32": 3, "matern52": 5}.get(kernel)
    shape = (count, waves)
    frequency = rng.standard_normal(shape) if degrees is None else rng.standard_t(degrees, shape)
    phase = rng.uniform(0, 2 * math.pi, shape)
    free = np.stack([np.cos(frequency * (t / lengthscale) + phase).sum(1) for t in time], 1)
    free *= sigma * math.sqrt(2 / waves)
    nu = {"matern12": 0.5, "matern32": 1.5, "matern52": 2.5, "rbf": math.inf}[kernel]
    table = kernels.Matern(length_scale=lengthscale, nu=nu)(time[:, None])
    ends = [0, -1]
    weights = np.linalg.solve(table[np.ix_(ends, ends)], table[ends])
    return free + (np.array([0, v]) - free[:, ends]) @ weights


SIMULATIONS: list[tuple[str, dict[str, Any], Callable[..., Paths]]] = [
    ("alpha", {"alpha": 0.3, "sigma": 1.0}, alpha_paths),
    ("alpha", {"alpha": 0.5, "sigma": 0.5}, alpha_paths),
    ("alpha", {"alpha": 3.0, "sigma": 0.7}, alpha_paths),
    ("fractional", {"hurst": 0.2, "sigma": 1.0}, fractional_paths),
    ("fractional", {"hurst": 0.8, "sigma": 0.6}, fractional_paths),
    ("smooth", {"sigma": 2.0}, smooth_paths),
    ("gp", {"kernel": "matern12", "lengthscale": 0.5, "sigma": 1.0}, stationary_paths),
    ("gp", {"kernel": "matern32", "lengthscale": 0.3, "sigma": 1.0}, stationary_paths),
    ("gp", {"kernel": "matern52", "lengthscale": 0.5, "sigma": 0.5}, stationary_paths),
    ("gp", {"kernel": "rbf", "lengthscale": 0.4, "sigma": 1.0}, stationary_paths),
]
