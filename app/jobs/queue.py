"""Hand jobs to the queue of their capability. The workflow's id is the job's, so handing over twice is handing over once."""

import json
import sqlite3
from pathlib import Path
from typing import Any, Literal, TypeAlias

from dbos import DBOS, DBOSClient, EnqueueOptions, Serializer

from app.db.database import raising_problems
from app.db.subseconds import teach_subseconds

APPLICATION = "enginesmith"
#: Raised only when the order of a workflow's steps changes: jobs of another version wait for a worker of theirs.
APPLICATION_VERSION = "1"
WORKFLOW = "carry_out_job"
#: States of a workflow that will not run any more.
_ENDED = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")


Standing: TypeAlias = Literal["unknown", "alive", "ended"]


class JsonSerializer(Serializer):
    """DBOS pickles by default; nothing is ever unpickled here."""

    def serialize(self, data: Any) -> str:
        return json.dumps(data, default=str)

    def deserialize(self, serialized_data: str) -> Any:
        return json.loads(serialized_data)

    def name(self) -> str:
        return "json"


def prepare_queue(url: str) -> None:
    """Create or migrate the queue's database; SQLite gets write-ahead logging, which DBOS leaves off."""
    teach_subseconds()
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    DBOS.migrate(url, schema="dbos")


class JobQueue:
    """What the API does with the queue: put in, take out, look how a job stands."""

    def __init__(self, url: str) -> None:
        teach_subseconds()
        self._client = DBOSClient(
            system_database_url=url,
            serializer=JsonSerializer(),
            application_name=APPLICATION,
            retry_connection_errors=False,
        )

    def put(self, job_id: str, queue: str, priority: int) -> None:
        """Enqueue the job unless it is there already."""
        options: EnqueueOptions = {
            "workflow_name": WORKFLOW,
            "queue_name": queue,
            "workflow_id": job_id,
            "app_version": APPLICATION_VERSION,
            "priority": priority,
        }
        with raising_problems():
            self._client.enqueue(options, job_id)

    def put_again(self, job_id: str, queue: str, priority: int) -> None:
        """Enqueue a job whose run has ended without ending the job: given back by a stopping worker, or lost."""
        with raising_problems():
            self._client.delete_workflow(job_id)
        self.put(job_id, queue, priority)

    def cancel(self, job_id: str) -> None:
        """Take the job out of its queue; one that runs is ended by its worker, which watches the job's row."""
        with raising_problems():
            self._client.cancel_workflow(job_id)

    def standing(self, job_id: str) -> Standing:
        """Return how a job stands: never put in, in the queue or run by a worker, or not to be run any more."""
        with raising_problems():
            found = self._client.list_workflows(workflow_ids=[job_id], load_input=False, load_output=False)
        if not found:
            return "unknown"
        return "ended" if found[0].status in _ENDED else "alive"

    def close(self) -> None:
        self._client.destroy()
