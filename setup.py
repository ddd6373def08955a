"""The optional native kernels; all else is said in pyproject.toml."""

from setuptools import Extension, setup

# Plain shared libraries that ctypes loads: they need a C compiler, and no Python headers. `optional`: without a compiler the
# package installs all the same, and torch or numpy does the work.
KERNELS = {
    "stoker.data._augment": "native/augment.c",
    "stoker.train._pool": "native/pool.c",
    "stoker.boost.replay._replay": "native/replay.c",
}
SHARED = {"optional": True, "extra_compile_args": ["-O3"], "depends": ["native/compiler.h"]}
setup(ext_modules=[Extension(name, [source], **SHARED) for name, source in KERNELS.items()])
