"""Import of a table as commands do it: wait for the job that measures what it lacks, and say what came of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from app.client.client import Client
from app.client.problems import JobFailed
from app.client.session import Session

Fill = Literal["refuse", "neighbours", "minmax-from-dataset"]
_SHOWN_NAMES = 8


def import_and_wait(session: Session, client: Client, path: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Import a table and return its document; a job that the server starts for it is waited for. Raises JobFailed."""
    found = client.import_table(path, options)
    while "matched" not in found:  # it is a job's document: send the same again when that has ended
        session.screen.note(f"{found['id']} measures what {path.name} lacks")
        with session.screen.job_progress() as progress:
            job = client.wait(found["id"], progress)
        if job["state"] != "succeeded":
            raise JobFailed(job)
        found = client.import_table(path, options)
    return found


def lines_from_import(found: Mapping[str, Any]) -> list[str]:
    """Return what people want to know of an imported table."""
    names = ("matched", "mapped", "constants", "internal", "unknown", "zero", "filled", "missing")
    counts = ", ".join(f"{found[name]} {name}" for name in names if found[name] or name in ("matched", "missing"))
    lines = [f"table {found['id']} ({found['origin']})", counts]
    if found["extremes"]:
        lines.append(f"least and greatest value known of {found['extremes']} tensors")
    lines += [f"{name}: {listed(found['details'][name])}" for name in ("unknown", "zero", "missing") if found[name]]
    filled = [_line(tensor, how) for tensor, how in found["details"]["filled"].items()]
    more = [f"filled: and {len(filled) - _SHOWN_NAMES} more (--json lists all)"] if len(filled) > _SHOWN_NAMES else []
    return lines + filled[:_SHOWN_NAMES] + more


def listed(names: list[str]) -> str:
    """Return the first names in a line, and how many more there are."""
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else "")


def _line(tensor: str, filled: Mapping[str, Any]) -> str:
    if filled["rule"] == "minmax":
        return f"filled {tensor}: {filled['amax']:.6g}, measured"
    way = f"({' < '.join(filled['through'])})"
    if not filled["source"]:
        return f"filled {tensor}: {filled['amax']:.6g}, which nothing exceeds {way}"
    word = "as" if filled["rule"] == "same" else "at most that of"
    return f"filled {tensor}: {filled['amax']:.6g}, {word} {', '.join(filled['source'])} {way}"
