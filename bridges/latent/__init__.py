"""Where trajectories live: the latent map g, the end points, the states of the targets."""

from bridges.latent.label_ends import LabelEnds
from bridges.latent.latent_map import EndPoints, LatentMap
from bridges.latent.trajectory import Trajectory

__all__ = ["EndPoints", "LabelEnds", "LatentMap", "Trajectory"]
