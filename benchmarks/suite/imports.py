"""What a program pays before its first result."""

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
import numpy, fastloss
ones = numpy.full(1000, 0.5, numpy.float32)
arrays = [ones] * len(fastloss.{name}.formula.inputs)
"""
        return f"fastloss.{name}.value_and_grad(*arrays)", setup
