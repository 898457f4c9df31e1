"""Kinds of columns that many tables have."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, DateTime, LargeBinary, text
from sqlalchemy.dialects.postgresql import JSONB


def now_column() -> Any:
    return Column(DateTime(timezone=True), nullable=False, server_default=text("now()"))


def time_column() -> Any:
    return Column(DateTime(timezone=True), nullable=True)


def json_column(default: str = "{}") -> Any:
    return Column(JSONB, nullable=False, server_default=text(f"'{default}'::jsonb"))


def secret_column() -> Any:
    return Column(LargeBinary, nullable=True)
