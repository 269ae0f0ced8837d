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

INSTRUCTIONS = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "fma")
FLAGS = ("-shared", "-fPIC", "-O3", "-std=gnu11", "-fno-sanitize=all", "-Wall", "-Wextra", "-Werror", "-s")
SOURCES = sorted(str(path) for path in Path("kernels/native").glob("*.c"))


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
        command = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu.2.17", *FLAGS]
        command += ext.extra_compile_args
        subprocess.run([*command, "-o", str(target), *ext.sources, *ext.extra_link_args], check=True)


class OneWheel(bdist_wheel):
    """One wheel for every Python: its library belongs to none of them, and needs only the C library named."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", "manylinux_2_17_x86_64"


setup(
    ext_modules=[
        Extension(
            "kernels.operators",
            SOURCES,
            depends=["kernels/native/ort.h", "kernels/native/simd.h"],
            extra_compile_args=[f"-m{name}" for name in INSTRUCTIONS],
        ),
        Extension("kernels.preload", ["kernels/preload.c"], extra_link_args=["-lpthread", "-ldl"]),
    ],
    cmdclass={"build_ext": BuildOperators, "bdist_wheel": OneWheel},
)
