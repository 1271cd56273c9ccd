"""The web application: serves the page's files and answers its questions."""

import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import anyio
import numpy as np
from anyio import CapacityLimiter
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from difftrack.configuration import SCHEMA_FILE
from difftrack.correspondence import MATCH_KINDS, descriptors_of
from difftrack.documents import read_json
from difftrack.explorer._answers import Answers
from difftrack.explorer._catalog import Catalog, StoreEntry
from difftrack.explorer._errors import ExplorerError, NotFoundError
from difftrack.explorer._extraction_jobs import MOST_UPLOAD_BYTES, ExtractionJobs, ExtractionParams
from difftrack.explorer._live_tracking import LiveTracker
from difftrack.explorer._questions import (
    AttentionQuestion,
    CellsQuestion,
    MapsQuestion,
    MatchQuestion,
    PointsQuestion,
    TrackQuestion,
    WordQuestion,
)
from difftrack.explorer._security import Application, Gate
from difftrack.explorer._truth import other_tracks, true_tracks
from difftrack.explorer._wire import finite, pack, quantised
from difftrack.params import parse
from difftrack.store import DescriptorSpec, StoreError

__all__ = ["ExplorerServer", "explorer_app"]

T = TypeVar("T")

MOST_QUESTION_BYTES = 1 << 20
MOST_AT_ONCE = 2
"""Number of questions computed at a time; others wait, so that memory stays bounded."""

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def explorer_app(
    catalog: Catalog,
    *,
    extraction: ExtractionParams | None = None,
    token: str | None = None,
    local: bool = True,
    framed: bool = False,
) -> Application:
    """Build the application that serves a catalog.

    Args:
        catalog: Stores and clips to explore.
        extraction: How videos dropped onto the page are extracted; with the shipped backbone by default.
        token: Required in every question; None for a local address.
        local: Whether the server only listens on a local address.
        framed: Whether a notebook on this machine may embed the page.

    Returns:
        An ASGI application.
    """
    return ExplorerServer(catalog, extraction or ExtractionParams()).application(
        token=token, local=local, framed=framed
    )


class ExplorerServer:
    """Turns requests into questions and answers into responses."""

    def __init__(self, catalog: Catalog, extraction: ExtractionParams) -> None:
        self.catalog = catalog
        self.answers = Answers(catalog)
        self.tracker = LiveTracker(catalog)
        self.jobs = ExtractionJobs(catalog, extraction)
        self._limiter: CapacityLimiter | None = None

    def application(self, *, token: str | None, local: bool, framed: bool) -> Application:
        """Build the application with its gate."""
        asked: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "match": self._asked(MatchQuestion, self._match),
            "maps": self._asked(MapsQuestion, self._maps),
            "cells": self._cells,
            "attention": self._asked(AttentionQuestion, lambda question: _json(self.answers.attention(question))),
            "word": self._asked(WordQuestion, self._word),
            "tracks": self._asked(PointsQuestion, self._known_tracks),
            "track": self._asked(TrackQuestion, lambda question: _json(self.tracker.track(question))),
            "score": self._asked(TrackQuestion, lambda question: _json(self.tracker.score(question))),
        }
        routes = [
            Route("/", _static_file),
            Route("/static/{name}", _static_file),
            Route("/api/library", self._library),
            Route("/api/options", self._options),
            Route("/api/clip", self._clip),
            Route("/api/frame", self._frame),
            Route("/api/thumbnail", self._thumbnail),
            Route("/api/videos", self._upload, methods=["POST"]),
            Route("/api/jobs", self._jobs),
            *(Route(f"/api/{name}", answer, methods=["POST"]) for name, answer in asked.items()),
        ]
        handlers: dict[Any, Any] = {
            HTTPException: _refused,
            NotFoundError: _not_found,
            ValueError: _cannot,
            OSError: _cannot,
        }

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            self.jobs.close()

        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
        return Gate(app, token=token, local=local, framed=framed)

    def _asked(self, kind: type[T], answer: Callable[[T], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            question = parse(kind, await _body(request), "question", file="the request")
            return await self._in_thread(lambda: answer(question))

        return endpoint

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._limiter is None:
            self._limiter = CapacityLimiter(MOST_AT_ONCE)
        return await anyio.to_thread.run_sync(work, limiter=self._limiter)

    async def _library(self, request: Request) -> Response:
        def look() -> dict[str, Any]:
            self.catalog.refresh()
            return {
                "title": self.catalog.title,
                "backbone": self.jobs.params.backbone,
                "most_upload_bytes": MOST_UPLOAD_BYTES,
                "stores": [{"name": e.name, "backbone": e.backbone, "clips": e.clips} for e in self.catalog.stores()],
                "problems": [{"name": name, "error": why} for name, why in self.catalog.problems.items()],
                "clips": [{"name": name, **self.catalog.about_clip(name)} for name in self.catalog.clip_names()],
                "track": self.catalog.track or None,
                "jobs": [job.as_json() for job in self.jobs.all()],
            }

        return _json(await self._in_thread(look))

    async def _options(self, request: Request) -> Response:
        """Describe the options of section `track` with the published JSON Schema; the page shows controls for them."""
        definitions = read_json(SCHEMA_FILE)["$defs"]
        names = ("TrackSection", "MatchingParams", "VisibilityParams")
        return _json({name: definitions[name] for name in names})

    async def _clip(self, request: Request) -> Response:
        name = request.query_params.get("clip", "")

        def look() -> dict[str, Any]:
            if name not in self.catalog.clip_names():
                raise NotFoundError(f"there is no clip {name!r}")
            return {
                "name": name,
                **self.catalog.about_clip(name),
                **_frames_of(self.catalog, name),
                "stores": [_described(entry, name) for entry in self.catalog.stores() if name in entry.clips],
            }

        return _json(await self._in_thread(look))

    async def _frame(self, request: Request) -> Response:
        name, index = request.query_params.get("clip", ""), _whole(request, "frame")

        def draw() -> bytes:
            clip = self.catalog.clip(name)
            if not 0 <= index < clip.num_frames:
                raise NotFoundError(f"frame is {index}; clip {name} has frames 0 ... {clip.num_frames - 1}")
            return _jpeg(clip.frames[index])

        return _picture(await self._in_thread(draw))

    async def _thumbnail(self, request: Request) -> Response:
        name = request.query_params.get("clip", "")
        return _picture(await self._in_thread(lambda: _jpeg(self.catalog.first_frame(name), most_px=360)))

    def _match(self, question: MatchQuestion) -> Response:
        header, maps = self.answers.match(question)
        if not question.maps:
            return _json(header)
        values, largest = quantised(maps)
        return _binary({**header, "largest": largest.tolist()}, {"maps": values})

    def _maps(self, question: MapsQuestion) -> Response:
        header, maps = self.answers.maps(question)
        values, largest = quantised(maps)
        return _binary({**header, "largest": largest.tolist()}, {"maps": values})

    def _word(self, question: WordQuestion) -> Response:
        header, maps = self.answers.word(question)
        values, largest = quantised(maps)
        return _binary({**header, "largest": largest.tolist()}, {"maps": values})

    async def _cells(self, request: Request) -> Response:
        question = parse(CellsQuestion, await _body(request), "question", file="the request")
        cells = self.answers.cells(question)
        first = await self._in_thread(lambda: next(cells, None))  # an error in the question itself becomes a status

        async def lines() -> AsyncIterator[str]:
            cell = first
            while cell is not None:
                yield json.dumps(finite(cell)) + "\n"
                cell = await self._in_thread(lambda: next(cells, None))

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    def _known_tracks(self, question: PointsQuestion) -> Response:
        if question.clip not in self.catalog.clip_names():
            raise NotFoundError(f"there is no clip {question.clip!r}")
        truth = true_tracks(self.catalog, question.clip, question.points)
        return _json(
            {
                "truth": [None if track is None else track.as_json() for track in truth],
                "others": other_tracks(self.catalog, question.clip, question.points),
            }
        )

    async def _upload(self, request: Request) -> Response:
        name = request.query_params.get("name", "")[-200:]
        path = self.jobs.upload_path(name)
        try:
            await _receive(request, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return _json(self.jobs.start(path, name, owned=True).as_json())

    async def _jobs(self, request: Request) -> Response:
        return _json(self.jobs.job(request.query_params.get("id", "")).as_json())


async def _receive(request: Request, path: Path) -> None:
    """Write a request's body into a file, up to a maximum size."""
    received = 0
    async with await anyio.open_file(path, "wb") as file:
        async for block in request.stream():
            received += len(block)
            if received > MOST_UPLOAD_BYTES:
                raise HTTPException(413, f"the file is larger than {MOST_UPLOAD_BYTES >> 20} MB")
            await file.write(block)
    if not received:
        raise ExplorerError("the file is empty")


async def _body(request: Request) -> Any:  # noqa: ANN401 - any JSON; parsed by type next
    content = b""
    async for block in request.stream():
        content += block
        if len(content) > MOST_QUESTION_BYTES:
            raise HTTPException(413, "the request is too long")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the request is not valid JSON: {error}") from error


async def _static_file(request: Request) -> Response:
    """Return one of the page's files; names are looked up in a fixed list."""
    name = request.path_params.get("name", "index.html")
    known = {entry.name: entry for entry in files("difftrack.explorer").joinpath("static").iterdir()}
    kind = _TYPES.get(Path(name).suffix)
    if name not in known or kind is None:
        raise HTTPException(404, "there is no such file")
    return Response(known[name].read_bytes(), media_type=kind, headers={"cache-control": "no-cache"})


def _frames_of(catalog: Catalog, name: str) -> dict[str, Any]:
    """Return size and number of a clip's frames; from a store if the frames are missing or damaged."""
    try:
        clip = catalog.clip(name)
    except (ValueError, OSError) as error:
        return {"has_frames": False, "frames_problem": str(error)}
    return {"has_frames": True, "num_frames": clip.num_frames, "height": clip.height, "width": clip.width}


def _described(entry: StoreEntry, clip: str) -> dict[str, Any]:
    """Describe a clip's groups in a store; damaged groups are named with the reason."""
    found: dict[str, Any] = {"name": entry.name, "backbone": entry.backbone, "problems": [], "frames": []}
    frames: set[int] = set()
    chunks: list[list[int]] = []
    for group, chunk in entry.groups(clip):
        try:
            spec = entry.store.spec(group)
        except StoreError as error:
            found["problems"].append({"unit": group, "error": str(error)})
            continue
        frames |= set(spec.frames)
        chunks.append(list(spec.frames))
        if "steps" not in found:
            found |= _of_spec(spec) | {"view": "analysis" if chunk is None else "tracking"}
    return found | {"frames": sorted(frames), "chunks": chunks, "usable": "steps" in found}


def _of_spec(spec: DescriptorSpec) -> dict[str, Any]:
    grid = spec.grid
    return {
        "steps": list(spec.steps),
        "timesteps": list(spec.timesteps),
        "layers": list(spec.layers),
        "heads": list(spec.heads),
        "kinds": [kind for kind in MATCH_KINDS if set(descriptors_of(kind)) <= set(spec.kinds)],
        "rotary": spec.rotary is not None,
        "channels": spec.num_channels,
        "rows": grid.rows,
        "cols": grid.cols,
        "clip_size": list(spec.clip_size),
        "size": list(spec.size),
        "text": bool(spec.joint_text_mask),
        "products": len(spec.heads) * grid.num_latent_frames * grid.tokens_per_frame**2 * spec.num_channels,
        "provenance": {key: str(value)[:300] for key, value in spec.fingerprint_parts.items()},
    }


def _whole(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ExplorerError(f"{name} is {text[:20]!r}; expected a whole number")
    return int(text)


def _jpeg(frame: np.ndarray, *, most_px: int | None = None) -> bytes:
    image = Image.fromarray(frame)
    if most_px is not None:
        image.thumbnail((most_px, most_px))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=93, subsampling=0)
    return buffer.getvalue()


def _picture(content: bytes) -> Response:
    return Response(content, media_type="image/jpeg", headers={"cache-control": "no-cache"})


def _binary(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Response:
    return Response(pack(header, arrays), media_type="application/octet-stream")


def _json(content: Any) -> Response:  # noqa: ANN401 - any JSON
    return JSONResponse(finite(content))


def _refused(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, status_code=error.status_code)


def _not_found(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": " ".join(str(error).split())}, status_code=404)


def _cannot(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)
    return JSONResponse({"error": " ".join(str(error).split())}, status_code=422)
