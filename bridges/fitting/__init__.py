"""Fitting the latent map on text, with the model frozen."""
