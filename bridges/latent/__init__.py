"""Where trajectories live: the readers of states, the end points, the states of the targets."""

from bridges.latent.end_points import EndPoints
from bridges.latent.label_ends import LabelEnds
from bridges.latent.latent_map import LatentMap, Reader
from bridges.latent.lens import Lens
from bridges.latent.trajectory import Trajectory

__all__ = ["EndPoints", "LabelEnds", "LatentMap", "Lens", "Reader", "Trajectory"]
