"""Where trajectories live: the latent map g, the end points, the states of the targets."""
