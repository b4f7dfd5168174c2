"""Builds the C side; everything that can be said as data is in pyproject.toml."""

import glob
import os
import sys

from setuptools import setup
from setuptools.command.build_ext import build_ext as _build_ext
from setuptools.command.build_py import build_py as _build_py
from setuptools.modified import newer_group

# A PEP 517 front end does not put the project on sys.path.
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "csrc"))
import native_build as native


class build_ext(_build_ext):
    """Builds the extension, and beside it the exec trampoline: a program, so no Extension can describe it."""

    def run(self):
        """Build both, each only if one of its files is newer."""
        super().run()
        built = self._trampoline()
        sources = native.trampoline()
        if self.force or newer_group([*sources, *native.headers()], built):
            objects = self.compiler.compile(
                sources,
                # Apart from the extension's objects: some files are in both.
                output_dir=os.path.join(self.build_temp, "exec"),
                include_dirs=["csrc"],
                extra_postargs=native.flags(),
            )
            # Unlinked first: an older copy may be running, and the linker would write into it.
            if os.path.exists(built):
                os.unlink(built)
            self.compiler.link_executable(objects, os.path.basename(built), output_dir=os.path.dirname(built))
        if self.inplace:
            package = self.get_finalized_command("build_py").get_package_dir("corelane")
            self.copy_file(built, os.path.join(package, os.path.basename(built)))

    def get_outputs(self):
        """Name the trampoline too, so that installers record it."""
        return [*super().get_outputs(), self._trampoline()]

    def _trampoline(self):
        return os.path.join(self.build_lib, "corelane", "_exec")


class build_py(_build_py):
    """Puts the raw baselines into the package, so that `corelane bench` has them outside a checkout too."""

    def run(self):
        """Copy them; an editable install finds those of the checkout."""
        super().run()
        if not self.editable_mode:
            for source, copy in self._baselines().items():
                self.mkpath(os.path.dirname(copy))
                self.copy_file(source, copy)

    def get_outputs(self, include_bytecode=True):
        """Name them too, so that installers record them."""
        return [*super().get_outputs(include_bytecode), *([] if self.editable_mode else self._baselines().values())]

    def _baselines(self):
        into = os.path.join(self.build_lib, "corelane", "cli", "bench")
        found = {"c": "benchmarks/c/*.[ch]", "rust": "benchmarks/peers/rust/**/*.[rt][so]*"}
        return {
            path: os.path.join(into, name, os.path.relpath(path, pattern.split("*")[0]))
            for name, pattern in found.items()
            for path in glob.glob(pattern, recursive=True)
            if os.path.isfile(path) and "/target/" not in path
        }


options = {}
if native.limited_api():
    options["bdist_wheel"] = {"py_limited_api": "cp311"}
if native.PORTABLE:
    # setuptools compares dates, not choices: in one directory it would take the other variant for up to date.
    options["build"] = {"build_base": "build/portable"}

setup(
    cffi_modules=["csrc/native_build.py:ffibuilder"],
    cmdclass={"build_ext": build_ext, "build_py": build_py},
    options=options,
)
