"""Which pinned dependencies have wheels for common machines, according to the package index.

    python -m benchmarks.wheels --index https://<package index>/simple

Lists what the installed package needs (without extras), takes each version from constraints.txt, asks the index (PEP
691) for its files, and says per platform and Python whether a wheel fits or there is only a source archive. Writes
`benchmarks/results/wheels.json`. The index is named on the command line, so a mirror can be used, too.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

TOP = Path(__file__).parents[1]
PYTHONS = ((3, 11), (3, 12), (3, 13))
GLIBC = (*(f"manylinux_2_{minor}" for minor in range(5, 36)), "manylinux2014", "manylinux2010", "manylinux1")
PLATFORMS: Mapping[str, tuple[Mapping[str, str], tuple[str, ...]]] = {
    "Linux x86-64": (
        {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"},
        tuple(f"{libc}_x86_64" for libc in GLIBC),
    ),
    "Linux arm64": (
        {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64", "os_name": "posix"},
        tuple(f"{libc}_aarch64" for libc in GLIBC),
    ),
    "macOS 14 arm64": (
        {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64", "os_name": "posix"},
        tuple(mac_platforms((14, 0), "arm64")),
    ),
    "Windows x86-64": (
        {"sys_platform": "win32", "platform_system": "Windows", "platform_machine": "AMD64", "os_name": "nt"},
        ("win_amd64",),
    ),
}
"""Markers of the environment and tags of the wheels, for each platform."""


def main() -> None:
    """Ask the index about every package, print what lacks a wheel, and write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", required=True, help="address of a package index that answers in JSON (PEP 691)")
    parser.add_argument("--out", type=Path, default=TOP / "benchmarks" / "results" / "wheels.json")
    given = parser.parse_args()
    pins = read_pins((TOP / "constraints.txt").read_text(encoding="utf-8"))
    needed = {platform: closure("difftrack-video", markers) for platform, (markers, _) in PLATFORMS.items()}
    names = sorted(set().union(*needed.values()))
    with ThreadPoolExecutor(8) as pool:
        files = dict(zip(names, pool.map(partial(files_of, given.index, pins), names), strict=True))
    found = {
        platform: {
            f"{major}.{minor}": sort_out({name: files[name] for name in needed[platform]}, tags(tail, (major, minor)))
            for major, minor in PYTHONS
        }
        for platform, (_, tail) in PLATFORMS.items()
    }
    given.out.write_text(json.dumps({"date": f"{datetime.now(UTC):%Y-%m-%d}", "platforms": found}, indent=1) + "\n")
    for platform, pythons in found.items():
        for python, parts in pythons.items():
            without = ", ".join([*parts["source_only"], *parts["missing"]]) or "none"
            print(f"{platform}, Python {python}: {parts['wheels']} wheels; without: {without}")


def read_pins(text: str) -> dict[str, str]:
    """Versions of constraints.txt by canonical name."""
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    pairs = [line.split("==") for line in lines if "==" in line]
    return {canonicalize_name(name): version.split(";")[0].strip() for name, version in pairs}


def closure(package: str, markers: Mapping[str, str]) -> set[str]:
    """Packages that one needs, and what those need, on a platform with these markers.

    A package that is not installed here, because only another platform needs it, is named and not looked into.

    Raises:
        PackageNotFoundError: `package` itself is not installed.
    """
    requires(package)
    found: set[str] = set()
    waiting = [(package, "")]
    seen = set(waiting)
    while waiting:
        for need, extras in _needs(*waiting.pop(), markers):
            found.add(need)
            for extra in ("", *extras):
                if (need, extra) not in seen:
                    seen.add((need, extra))
                    waiting.append((need, extra))
    return found


def _needs(package: str, extra: str, markers: Mapping[str, str]) -> Iterator[tuple[str, set[str]]]:
    try:
        lines = requires(package) or []
    except PackageNotFoundError:
        return
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({**markers, "extra": extra}):
            yield canonicalize_name(requirement.name), requirement.extras


def files_of(index: str, pins: Mapping[str, str], name: str) -> list[str]:
    """Names of the index's files of the pinned version, or of every version if none is pinned."""
    asked = urllib.request.Request(
        f"{index.rstrip('/')}/{name}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            listed: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return []
    names = [file["filename"] for file in listed["files"] if not file.get("yanked")]
    return [file for file in names if _is_of(file, pins.get(name))]


def _is_of(file: str, version: str | None) -> bool:
    try:
        found = (parse_wheel_filename(file) if file.endswith(".whl") else parse_sdist_filename(file))[1]
    except ValueError:  # an egg, or an installer
        return False
    return version is None or str(found) == version or found.base_version == version


def tags(platforms: Iterable[str], python: tuple[int, int]) -> frozenset[Tag]:
    """Tags of wheels that CPython of this version takes on these platforms."""
    platforms = list(platforms)
    return frozenset(cpython_tags(python, platforms=platforms)) | frozenset(
        compatible_tags(python, f"cp{python[0]}{python[1]}", platforms)
    )


def sort_out(files: Mapping[str, list[str]], fitting: frozenset[Tag]) -> dict[str, Any]:
    """Count the packages with a fitting wheel; name those with only a source archive, and those without files."""
    with_wheel = {
        name
        for name, its in files.items()
        if any(file.endswith(".whl") and parse_wheel_filename(file)[3] & fitting for file in its)
    }
    return {
        "wheels": len(with_wheel),
        "source_only": sorted(name for name, its in files.items() if its and name not in with_wheel),
        "missing": sorted(name for name, its in files.items() if not its),
    }


if __name__ == "__main__":
    sys.exit(main())
