"""Every error of a URL's own library becomes one error of the store."""

from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from typer.testing import CliRunner

from difftrack.cli import app
from difftrack.store import StoreError, open_store
from difftrack.store._filesystem import Files, open_files


class Unwilling(MemoryFileSystem):  # type: ignore[misc]
    """A file system that refuses to list, read and write, with an exception class of its own."""

    protocol = "unwilling"
    cachable = False

    class Refusal(Exception):
        """An exception that is neither an OSError nor a ValueError."""

    def _refuse(self, *args: object, **kwargs: object) -> None:
        raise self.Refusal("no credentials\nhere")

    cat = ls = size = exists = pipe_file = _refuse


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    fsspec.register_implementation("unwilling", Unwilling, clobber=True)


def _opened(files: Files) -> None:
    with files.open("a"):
        pass


@pytest.mark.parametrize(
    "ask",
    [
        lambda files: files.read(["a"]),
        lambda files: files.directories("a"),
        lambda files: files.size("a"),
        lambda files: files.remove("a"),
        lambda files: files.write("a", b"1"),
        _opened,
    ],
)
def test_whatever_is_asked_of_a_url_that_refuses_is_an_error_of_the_store(ask: Callable[[Files], object]) -> None:
    with pytest.raises(StoreError, match=r"unwilling://bucket.* cannot be reached: Refusal: no credentials here"):
        ask(open_files("unwilling://bucket"))


def test_a_store_behind_a_url_that_refuses_is_one_line() -> None:
    for url, why in (("unwilling://bucket", "Refusal: no credentials here"), ("nosuch://bucket", "nosuch")):
        result = CliRunner().invoke(app, ["info", url])
        assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
        assert f"difftrack: {url} cannot be reached: " in result.stderr
        assert why in result.stderr


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:.*boto.*:DeprecationWarning")
def test_a_bucket_without_credentials_is_an_error_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs = pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(StoreError, match=r"s3://bucket/prefix/zarr\.json cannot be reached: NoCredentialsError"):
            open_store("s3://bucket/prefix")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
