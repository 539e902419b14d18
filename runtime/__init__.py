"""Penstock's runtime: everything that runs user code. Public names only; all else may change freely."""

from __future__ import annotations

from runtime.app import App
from runtime.context import Context
from runtime.shaping import Record
from runtime.worker import Worker

__all__ = ["App", "Context", "Record", "Worker"]
