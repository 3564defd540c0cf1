"""Bring a job's inputs from the blobs to paths that a child can open."""

import shutil
from pathlib import Path
from typing import Any

from app.blobs.store import BlobStore
from app.resolved import ResolvedDataset, ResolvedModel


def model_path(blobs: BlobStore, model: ResolvedModel, folder: Path) -> str:
    """Lay the model's files beside each other in folder, as external data needs it; return the path of the .onnx."""
    folder.mkdir(exist_ok=True)
    for file in model.files:
        target = folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            # A copy: onnx refuses external data that is a link of any kind.
            shutil.copyfile(blobs.fetch(file.sha256), target)
    return str(folder / model.files[0].name)


def dataset_files(blobs: BlobStore, dataset: ResolvedDataset) -> dict[str, Any]:
    """Return {"listing": path, "packs": {digest: path}}, all checked against their digests."""
    packs = {digest: str(blobs.fetch(digest)) for digest in dataset.packs}
    return {"listing": str(blobs.fetch(dataset.listing)), "packs": packs}
