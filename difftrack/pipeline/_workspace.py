"""Workspaces: user folders in which the pipeline runs with the installed package, without a checkout."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from difftrack.configuration import SCHEMA_FILE
from difftrack.resources import shipped

__all__ = ["WorkspaceError", "init_workspace", "workspace_pipeline"]

_IGNORED = ("/data/*", "!/data/prompts/", "__pycache__/", "*.partial")
"""Lines of .gitignore. dvc.lock is not ignored, because DVC compares later runs with a committed dvc.lock."""
_FOLDERS = ("data/prompts",)
_FINGERPRINTS = "data/fingerprints"
_INSIDE = re.compile(r"      - (stages|difftrack|data/backbones|benchmarks)/")
"""Dependencies of a checkout's stages that a workspace does not contain."""
_FINGERPRINT_STAGE = f"""
  fingerprint:
    cmd: python -m difftrack.pipeline fingerprint -- fingerprints={_FINGERPRINTS}
    always_changed: true
    outs:
      - {_FINGERPRINTS}: {{cache: false, persist: true}}
"""


class WorkspaceError(ValueError):
    """A folder cannot become a workspace; the message names the obstacle."""


def init_workspace(folder: Path) -> list[Path]:
    """Write a workspace: params.yaml, dvc.yaml, prompts, .gitignore and DVC's settings without analytics.

    In a git repository, DVC uses git; elsewhere it runs without version control. Existing files are not changed.

    Args:
        folder: The workspace's folder; created if missing.

    Returns:
        The files and folders that were written.

    Raises:
        WorkspaceError: the folder is already a workspace, or the path is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise WorkspaceError(f"{folder} is a file; give a folder")
    if taken := [name for name in ("dvc.yaml", "params.yaml") if (folder / name).exists()]:
        raise WorkspaceError(
            f"{folder} already contains {taken[0]}; choose another folder, or run `difftrack repro` there"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dvc.yaml").write_text(workspace_pipeline(), encoding="utf-8")
    (folder / "params.yaml").write_text(_params(), encoding="utf-8")
    for source in (SCHEMA_FILE, shipped(".dvcignore")):
        if not (folder / source.name).exists():
            shutil.copyfile(source, folder / source.name)
    for name in _FOLDERS:
        shutil.copytree(shipped(name), folder / name, dirs_exist_ok=True)
    if not (folder / ".gitignore").exists():
        (folder / ".gitignore").write_text("".join(f"{line}\n" for line in _IGNORED), encoding="utf-8")
    _init_dvc(folder)
    return [folder / name for name in ("params.yaml", "dvc.yaml", *_FOLDERS, ".gitignore", ".dvc")]


def _params() -> str:
    """Return the params that ship with the package, with a reference to the schema beside them for editors."""
    text = shipped("params.yaml").read_text(encoding="utf-8")
    return re.sub(r"(?m)^(# yaml-language-server: \$schema=).*$", rf"\1{SCHEMA_FILE.name}", text)


def workspace_pipeline() -> str:
    """Return the text of a workspace's dvc.yaml: the checkout's file, with stages run from the package.

    A workspace contains neither source files nor the shipped weights. Its stages depend on their fingerprints instead,
    which the stage `fingerprint` writes in every run within a second.
    """
    lines = shipped("dvc.yaml").read_text(encoding="utf-8").splitlines()
    stage, has_fingerprint, found = "", False, [_FINGERPRINT_STAGE.rstrip()]
    for line in lines[1:]:
        if name := re.fullmatch(r"  (\w+):", line):
            stage, has_fingerprint = name[1], False
        if _INSIDE.match(line):
            if not has_fingerprint:
                found.append(f"      - {_FINGERPRINTS}/{_fingerprint_of(stage)}.json")
            has_fingerprint = True
            continue
        found.append(re.sub(r"python -m stages\.(\w+)", r"python -m difftrack.pipeline \1", line))
    return "\n".join([lines[0], *found]) + "\n"


def _fingerprint_of(stage: str) -> str:
    """Return the name of a stage's fingerprint; a stage that runs for each backbone has one per backbone."""
    return f"{stage}/${{item.backbone}}" if stage in ("extract", "survey") else stage


def _init_dvc(folder: Path) -> None:
    if (folder / ".dvc").is_dir():
        return
    dvc = [sys.executable, "-m", "dvc"]
    in_git = (
        subprocess.run(["git", "rev-parse", "--is-inside-work-tree"], cwd=folder, capture_output=True, check=False)
        if shutil.which("git")
        else None
    )
    how = ["--subdir"] if in_git is not None and in_git.returncode == 0 else ["--no-scm"]
    if how == ["--subdir"] and (folder / ".git").exists():
        how = []
    try:
        subprocess.run([*dvc, "init", "--quiet", *how], cwd=folder, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise WorkspaceError(f"{folder}: DVC cannot be initialised: {' '.join(error.stderr.split())}") from error
    for key in ("core.analytics", "core.check_update", "core.autostage"):
        subprocess.run([*dvc, "config", "--quiet", key, "false"], cwd=folder, check=True, capture_output=True)


def _in_git(folder: Path) -> bool:
    if shutil.which("git") is None:
        return False
    asked = ["git", "rev-parse", "--is-inside-work-tree"]
    return subprocess.run(asked, cwd=folder, capture_output=True, check=False).returncode == 0
