"""What the API works with: settings, database, blobs and the queue."""

from dataclasses import dataclass

from app.blobs.store import BlobStore
from app.db.database import Database
from app.jobs.queue import JobQueue
from app.settings import Settings


@dataclass(frozen=True)
class Service:
    """One API process."""

    settings: Settings
    database: Database
    blobs: BlobStore
    queue: JobQueue
