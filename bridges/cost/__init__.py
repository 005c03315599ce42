"""The running cost: a bridge, a latent map and end points on a model's hidden states."""
