"""Tests of a loss such as the built-in ones go through, for losses of users' own: `check_loss`."""

from .check import LossCheck, check_loss
