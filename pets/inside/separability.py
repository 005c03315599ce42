"""How well labels can be told apart in the hidden states of each layer."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

FOLDS = 5
_ROUNDING = 1e-5  # of the largest feature: below it a feature's spread is not the examples'


def separability(states: Tensor, labels: Tensor) -> dict[str, Any]:
    """Linear probe and silhouette of every layer.

    The probe is a logistic regression (L2, C = 1) on features standardised by its training part, in
    stratified 5-fold cross-validation; the folds are always the same. The silhouette is that of the
    labels as clusters, in Euclidean distance between standardised states: 1 for tight and far apart, 0
    for mixed, below 0 for examples nearer to another label's. A layer whose states are all the same, as
    those of [MASK] before the first layer, has a silhouette of 0 and a probe at or below chance.

    Args:
        states: [L+1, N, H].
        labels: [N], at least 5 of each.

    Returns:
        "probe" and "probe_deviation" [L+1], mean and standard deviation of the accuracy over the folds;
        "silhouette" [L+1]; "chance", the share of the most frequent label.
    """
    truth = labels.numpy()
    probes, silhouettes = [], []
    for layer in states:
        features = _without_rounding(layer.double()).numpy()
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
        probes.append(cross_val_score(probe, features, truth, cv=folds, scoring="accuracy"))
        silhouettes.append(silhouette_score(StandardScaler().fit_transform(features), truth))
    return {
        "probe": [float(found.mean()) for found in probes],
        "probe_deviation": [float(found.std(ddof=1)) for found in probes],
        "silhouette": [float(found) for found in silhouettes],
        "chance": float(labels.bincount().max() / len(labels)),
    }


def _without_rounding(features: Tensor) -> Tensor:
    """Features [N, H] without those that differ by rounding only: standardised, that would be noise."""
    spread = features.amax(0) - features.amin(0)
    return torch.where(spread > _ROUNDING * features.abs().max(), features, 0.0)
