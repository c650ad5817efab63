"""What a program pays before its first result."""

from pathlib import Path

from fastloss import losses


def timeraw_import_over_numpy():
    return "import fastloss", "import numpy"


class FirstCall:
    """In a fresh process each."""

    param_names = ("loss",)
    params = (losses.__all__,)
    rounds = 1
    repeat = 3

    def timeraw_value_and_grad(self, name):
        setup = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import fastloss
from suite.inputs import inputs
arrays = inputs(fastloss.{name}, 1000)
"""
        return f"fastloss.{name}.value_and_grad(*arrays)", setup
