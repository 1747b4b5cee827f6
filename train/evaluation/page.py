"""HTML pages from templates, for reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

__all__ = ["render_page"]


def render_page(template: Path, **values: Any) -> str:
    """A template's page as text. Values are escaped, and one that is missing is an error, not a gap."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(**values)
