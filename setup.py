"""The list of packages: the root of the repository is the package `sgl`, and each room below it is found."""

from __future__ import annotations

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOMS = ("lang", "interpreter", "backend")


class BuildPy(build_py):
    """Build the package without this file, which lies in the package's folder."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        found: list[tuple[str, str, str]] = super().find_package_modules(package, package_dir)
        return [module for module in found if module[1] != "setup"]


if __name__ == "__main__":
    packages = ["sgl", *(f"sgl.{name}" for name in find_packages(include=[f"{room}*" for room in ROOMS]))]
    setup(packages=packages, cmdclass={"build_py": BuildPy})
