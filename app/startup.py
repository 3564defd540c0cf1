"""What the API and a worker begin with."""

from app.blobs.open import open_blobs
from app.blobs.store import BlobStore
from app.settings import Settings


def make_folders(settings: Settings) -> None:
    """Make the data folder and the one for files that last no longer than a request or a job."""
    settings.data.mkdir(parents=True, exist_ok=True)  # first, for what is wrong with it is said best of itself
    settings.temporary_folder.mkdir(parents=True, exist_ok=True)


def open_store(settings: Settings) -> BlobStore:
    """Return the store of models, images, tables and engines. Raises OSError, Problem where it does not answer."""
    return open_blobs(settings.effective_blob_url, settings.temporary_folder / "blobs", settings.s3_endpoint)
