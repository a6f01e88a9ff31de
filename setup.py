"""The list of packages: the root of the repository is the package `sgl`, and each room below it is found."""

from __future__ import annotations

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOMS = ("lang", "interpreter", "backend")
NATIVE = "backend/runtime/model/cpu/native"
HEADERS = (
    "attention.inc",
    "blocks.h",
    "chain.h",
    "kernels.inc",
    "levels.h",
    "plan.h",
    "sampling.inc",
    "simd_amx.h",
    "simd_avx2.h",
    "simd_avx512.h",
    "simd_neon.h",
    "simd_portable.h",
    "threads.h",
    "worker.h",
)
KERNELS = Extension(
    "sgl.backend.runtime.model.cpu.kernels",
    sources=[f"{NATIVE}/native.cpp", f"{NATIVE}/sampling.cpp"],
    depends=[f"{NATIVE}/{file}" for file in HEADERS],
    # No contraction of products and sums beyond what the kernels ask for: a result has the same bits in every tile.
    extra_compile_args=["-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-pthread"],
    extra_link_args=["-pthread"],
    optional=True,  # without a compiler torch computes
)


class BuildKernels(build_ext):
    """Build the kernels as a plain shared library: `ctypes` loads it, and no Python imports it as a module."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".shared"


class BuildPy(build_py):
    """Build the package without this file, which lies in the package's folder."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        found: list[tuple[str, str, str]] = super().find_package_modules(package, package_dir)
        return [module for module in found if module[1] != "setup"]


if __name__ == "__main__":
    packages = ["sgl", *(f"sgl.{name}" for name in find_packages(include=[f"{room}*" for room in ROOMS]))]
    setup(packages=packages, ext_modules=[KERNELS], cmdclass={"build_py": BuildPy, "build_ext": BuildKernels})
