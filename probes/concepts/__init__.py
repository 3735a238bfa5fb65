"""Concepts: subspaces of the residual stream, how they move, and what holding one does."""
