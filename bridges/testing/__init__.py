"""A battery of tests that every bridge passes: subclass it, name your bridge, run pytest.

    from bridges.testing import BridgeTestCase

    class TestLate(BridgeTestCase):
        name = "late"
        parameters = {"power": 3.0}
        joint = False

What a bridge lacks is declared, never passed over in silence: ``joint = False`` for one without a
covariance, ``law = False`` for a control or a cost about the label, which have a cost only, ``normal =
False`` for a process whose law is not Gaussian, ``lens = False`` for one that no lens can read for. What
this leaves out is reported as skipped, or not run.
"""

from __future__ import annotations

from bridges.testing.costs import CostTests
from bridges.testing.laws import LawTests

__all__ = ["BridgeTestCase"]


class BridgeTestCase(LawTests, CostTests):
    """Laws, likelihoods, costs, numbers and files of one bridge; its settings are those of `Case`."""
