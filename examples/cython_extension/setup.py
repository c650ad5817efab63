"""Build the extension: python setup.py build_ext --inplace"""

from Cython.Build import cythonize
from setuptools import Extension, setup

import fastloss as fl

extension = Extension("robust", ["robust.pyx"], include_dirs=[fl.get_include()], extra_compile_args=list(fl.c_api.COMPILE_ARGS))
setup(name="robust", ext_modules=cythonize([extension]))
