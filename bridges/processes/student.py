"""Heavy-tailed bridge: a Student-t process around a Gaussian one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bridges.errors import BadInput, is_number, shown
from bridges.latent.latent_map import Reader
from bridges.latent.trajectory import Trajectory
from bridges.processes.base import check_density, check_end
from bridges.processes.constants import constant
from bridges.processes.formulas import exact
from bridges.processes.likelihood import columns, over_dimensions
from bridges.processes.wrapped import Wrapped, parse_gaussian

_MOST = 1e6  # degrees of freedom; lgamma keeps nine digits of the normaliser there


class StudentBridge(Wrapped, name="student"):
    """Student-t process around a Gaussian bridge: each trajectory has one random scale of its own.

        X(t) = m(t) v + sqrt((nu - 2) / U) (G(t) - m(t) v),  U ~ chi^2 with nu degrees of freedom

    with G the Gaussian bridge ``base`` and U drawn once for a trajectory: all its times and all its d
    dimensions share it, so the law is elliptical. Mean and covariance are those of the base. With
    ``q = |z - m(t) v|^2 / s2(t)`` the density at one time is

        log p = log(Gamma((nu + d) / 2) / Gamma(nu / 2))
                - d / 2 log(pi (nu - 2) s2(t))
                - (nu + d) / 2 log(1 + q / (nu - 2))

    and the cost is the mean over layers of its last term; of all its terms, normaliser included, if the
    base learns parameters. A layer far off costs the logarithm of its distance only: an odd token pulls
    less. As nu grows this becomes the base, cost included.

    Source: Shah, Wilson, Ghahramani, "Student-t Processes as Alternatives to Gaussian Processes",
    AISTATS 2014 (arXiv 1402.4306).

    Args:
        base: a Gaussian bridge, as in `bridges.parse`: "brownian", "ou:theta=2".
        nu: degrees of freedom, above 2, where the variance is finite, to 1e6.

    Raises:
        BadInput: for a base that is no Gaussian bridge, or a number out of range.

    Examples:
        >>> bridges.get("student", base="ou", nu=3.0).variance(torch.tensor([0.5]))  # as "ou" itself
        tensor([0.2311])
    """

    graphs = True
    formula = "log p = -(nu + d) / 2 log(1 + |z - m(t) v|^2 / ((nu - 2) s2(t))) + const,  m, s2 of base"
    purpose = (
        "Tokens that do not fit: far from the mean the cost grows as a logarithm, so an odd token or "
        "layer pulls less. Large nu gives its base."
    )

    def __init__(self, base: str = "brownian", nu: float = 5.0) -> None:
        if not is_number(nu) or not 2 < nu <= _MOST:
            raise BadInput(f"nu={shown(nu)}: expected a number above 2, to {_MOST:g}")
        process = parse_gaussian("base", base)
        if process.likelihood != "marginal":
            raise BadInput(
                f"base={shown(base)}: expected likelihood=marginal; the cost here is of each layer by "
                "itself"
            )
        super().__init__(process)
        self.base = base
        self.nu = nu

    def sample(self, t: Tensor, end: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Exact joint samples [T, N, d], one scale a trajectory; see `GaussianBridge.sample`."""
        target = check_end(end).to(torch.float64)
        deviation = self.process.sample(t, torch.zeros_like(target), generator=generator)
        uniform = torch.rand(len(end), generator=generator, dtype=torch.float64, device=end.device)
        from scipy.special import gammainccinv  # seconds of import, for samples alone

        # Upper quantiles, for which a uniform number of exactly 0 means no deviation at all.
        chi_square = 2 * gammainccinv(float(self.nu) / 2, uniform.cpu().numpy())
        scale = ((float(self.nu) - 2) / torch.from_numpy(chi_square)).sqrt().to(end.device)
        path = self.process.mean(t.to(torch.float64), target) + scale[:, None] * deviation
        path[t == 1] = target
        return path.to(end.dtype)

    def log_prob(self, z: Tensor, t: Tensor, end: Tensor) -> Tensor:
        """Normalised log-density of z [T, N, d] at each time by itself, of all d dimensions: [T, N].

        Raises:
            BadInput: as `GaussianBridge.log_prob`.
        """
        check_density(z, t, end)
        variance = self.process.variance(t).to(torch.float64)
        constant = self._constant(variance, end.shape[-1])[:, None]
        return (constant - self._misfit(z - self.process.mean(t, end), variance)).to(z.dtype)

    def cost(
        self,
        latent_map: Reader,
        trajectory: Trajectory,
        end: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Mean over layers of ``(nu + d) / 2 log(1 + |z_i - m(t_i) v|^2 / ((nu - 2) s2(t_i)))``.

        With a base that learns, of all terms of the density: else a wider law would always cost less.
        """
        times = trajectory.clock
        factor, variance = constant(
            self.process, ("marginal", times), lambda: self.process.marginal(times.tensor())
        )
        with torch.autocast(end.device.type, enabled=False):
            latent = latent_map(trajectory, factor)
            pull = columns(factor).to(latent.dtype) * end.to(latent.dtype).unsqueeze(-3)
            value = self._misfit(latent - pull, variance).mean(-2)
            if self.process.learn:
                value = value - self._constant(variance, end.shape[-1]).mean()
                if latent_map.guesses:  # the density is of them; see `normaliser`
                    value = value - over_dimensions(factor.log(), end.shape[-1]).mean()
            return value.to(latent.dtype)

    def _constant(self, variance: Tensor, dim: int) -> Tensor:
        """The density's logarithm at the mean with variances [T], or [T, d]: [T]."""
        nu = exact(self.nu)
        size = math.log(math.pi) + torch.log(nu - 2) + variance.log().reshape(len(variance), -1)
        return torch.lgamma((nu + dim) / 2) - torch.lgamma(nu / 2) - size.expand(-1, dim).sum(-1) / 2

    def _misfit(self, residual: Tensor, variance: Tensor) -> Tensor:
        """What the density loses to residuals [..., T, N, d] with variances [T]: [..., T, N]."""
        nu, dim = exact(self.nu), residual.shape[-1]
        square = (residual.square() / columns(variance).to(residual.dtype)).sum(-1)
        return (nu + dim) / 2 * torch.log1p(square / (nu - 2))
