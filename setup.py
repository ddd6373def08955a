"""The optional native kernels; all else is said in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

# Plain shared libraries that ctypes loads: they need a C compiler, and no Python headers. `optional`: without a compiler the
# package installs all the same, and torch or numpy does the work.
KERNELS = {
    "stoker.data._augment": "native/augment.c",
    "stoker._pool": "native/pool.c",
    "stoker.boost.models._adadelta": "native/adadelta.c",
    "stoker.boost.models._dropout": "native/dropout.c",
    "stoker.boost.replay._replay": "native/replay.c",
}
SHARED = {"optional": True, "extra_compile_args": ["-O3", "-fno-math-errno"], "depends": ["native/compiler.h"]}


class WithSources(build_py):
    """A wheel also brings the C sources: `stoker image build` compiles them with the image's own compiler."""

    def run(self) -> None:
        """Copy what the package needs, and `native/` into it. An editable install reads both where they lie."""
        super().run()
        if not self.editable_mode:
            for source in sorted(Path("native").glob("*.[ch]")):
                target = Path(self.build_lib) / "stoker" / "native" / source.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


setup(ext_modules=[Extension(name, [source], **SHARED) for name, source in KERNELS.items()], cmdclass={"build_py": WithSources})
