"""Chunk schedule and correspondences to tracks with visibility."""

from difftrack.tracking._schedule import ChunkParams, chunk_schedule

__all__ = ["ChunkParams", "chunk_schedule"]
