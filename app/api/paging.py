"""`?limit=&cursor=` in, `{items, next}` out."""

from typing import Annotated, Any

from fastapi import Depends, Query

from app.db.pages import Page


def _page(limit: Annotated[int, Query(ge=1, le=500)] = 50, cursor: Annotated[str | None, Query(max_length=60)] = None) -> Page:
    return Page(limit=limit, after=cursor)


InPage = Annotated[Page, Depends(_page)]


def page_document(items: list[dict[str, Any]], following: str | None) -> dict[str, Any]:
    """Return one page of a list."""
    return {"items": items, "next": following}
