"""Looks inside: hidden states read into the latent space, and pictures of them."""
