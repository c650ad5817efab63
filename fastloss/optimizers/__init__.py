"""The optimizers: `rules` holds the update rules, each written once."""

from .rules import SGD, Adam, AdamW

__all__ = ["SGD", "Adam", "AdamW"]
