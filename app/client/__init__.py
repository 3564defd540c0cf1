"""The Python client and the command line: everything goes over HTTP, as any other client's calls do."""

from app.client.client import Client
from app.client.problems import ClientProblem, DownloadDamaged, JobFailed, LocalProblem, ServerProblem, Unreachable

__all__ = ["Client", "ClientProblem", "DownloadDamaged", "JobFailed", "LocalProblem", "ServerProblem", "Unreachable"]
