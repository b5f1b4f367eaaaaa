"""The URI of an SQLite database, as MLflow and SQLAlchemy read it, and the path in it."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote


def sqlite_uri(path: Path) -> str:
    """Return the URI of a database; any character may occur in the path.

    SQLAlchemy decodes percent signs and ends the path at a question mark, so both are encoded. If
    the URI then differs from the path, it names the driver, too: for `sqlite:///` alone, MLflow
    would create the encoded parent folder.
    """
    encoded = str(path).replace("%", "%25").replace("?", "%3F")
    scheme = "sqlite" if encoded == str(path) else "sqlite+pysqlite"
    return f"{scheme}:///{encoded}"


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of the database in a URI, or None for a URI of another kind."""
    match = re.fullmatch(r"sqlite(?:\+pysqlite)?:///([^?]+)(?:\?.*)?", uri)
    return None if match is None else Path(unquote(match[1])).absolute()
