"""The optional native kernel; all else is said in pyproject.toml."""

from setuptools import Extension, setup

# A plain shared library that ctypes loads: it needs a C compiler, and no Python headers. `optional`: without a compiler the
# package installs all the same, and torch does the work.
setup(ext_modules=[Extension("stoker.data._augment", ["native/augment.c"], optional=True, extra_compile_args=["-O3"])])
