"""Scores of outputs: their norms and products by hooks, and moments and errors made of them."""
