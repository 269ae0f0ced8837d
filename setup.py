"""Builds the C libraries of kernels/ with the compiler of the package `ziglang`: none need be installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

OPERATORS = "kernels.operators"
NATIVE = Path("kernels/native")
AVX2 = ("avx2", "fma")
# Levels of the operators, with what a processor must have. kernels/native/levels is compiled once for each.
LEVELS = {
    "avx512vnni": (*AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"),
    "avxvnni": (*AVX2, "avxvnni"),
    "avx2": AVX2,
    "reference": (),
}
FLAGS = ("-fPIC", "-O3", "-std=gnu11", "-fno-sanitize=all", "-Wall", "-Wextra", "-Werror")
# Every level gives the same bits: no sum is fused with a product unless the source does it.
SAME_BITS = ("-ffp-contract=off", "-fwrapv", "-fno-math-errno", "-Wno-psabi")


class BuildOperators(build_ext):
    """A plain shared library, not a module: `kernels.library` knows its name."""

    def get_ext_filename(self, fullname: str) -> str:
        return f"{fullname.replace('.', '/')}.so"

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        built = Path(self.get_ext_filename(ext.name))  # by an editable install
        if built != target and built.exists() and not newer_group([*ext.sources, *ext.depends], built):
            shutil.copy2(built, target)
            return
        objects = self.compile_levels(Path(self.build_temp)) if ext.name == OPERATORS else []
        run_compiler("-shared", "-s", "-o", str(target), *ext.sources, *objects, *ext.extra_link_args)

    def compile_levels(self, folder: Path) -> list[str]:
        """One object for each source and level."""
        objects = []
        for level, instructions in LEVELS.items():
            for source in sorted((NATIVE / "levels").glob("*.c")):
                objects.append(str(folder / f"{source.stem}_{level}.o"))
                folder.mkdir(parents=True, exist_ok=True)
                flags = [*SAME_BITS, f"-DLEVEL={level}", *(f"-m{name}" for name in instructions)]
                run_compiler(*flags, "-c", "-o", objects[-1], str(source))
        return objects


def run_compiler(*arguments: str) -> None:
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu.2.17", *FLAGS]
    subprocess.run([*command, *arguments], check=True)


class OneWheel(bdist_wheel):
    """One wheel for every Python: its library belongs to none of them, and needs only the C library named."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", "manylinux_2_17_x86_64"


setup(
    ext_modules=[
        Extension(
            OPERATORS,
            sorted(map(str, NATIVE.glob("*.c"))),
            depends=sorted(map(str, [*NATIVE.glob("*.h"), *NATIVE.glob("levels/*")])),
            extra_link_args=["-lm"],
        ),
        Extension("kernels.preload", ["kernels/preload.c"], extra_link_args=["-lpthread", "-ldl"]),
    ],
    cmdclass={"build_ext": BuildOperators, "bdist_wheel": OneWheel},
)
