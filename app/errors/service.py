"""What is wrong with the service itself."""

from app.errors.problem import Problem


class ServiceProblem(Problem):
    """The service cannot do this now: {reason}. Try again."""

    status = 503
    slug = "service-unavailable"
    retryable = True


class DatabaseUnavailable(ServiceProblem):
    """The database does not answer; nothing was changed. Try again."""

    slug = "database-unavailable"


class StorageUnavailable(ServiceProblem):
    """The blob store does not answer: {reason}. Try again."""

    slug = "storage-unavailable"


class InsufficientStorage(ServiceProblem):
    """The disk is full; nothing was stored. Free space on the server, then send it again."""

    status = 507
    slug = "insufficient-storage"


class BlobCorrupt(ServiceProblem):
    """The stored bytes of {digest} do not have that digest any more. Upload or build it again."""

    status = 500
    slug = "blob-corrupt"
    retryable = False


class WorkerProblem(ServiceProblem):
    """The step's process ended badly: {reason}."""

    slug = "worker-failed"


class WorkerCrashed(WorkerProblem):
    """The step's process crashed ({reason}). It is tried again a few times; if it stays, the input provokes it."""

    slug = "worker-crashed"


class WorkerOom(WorkerProblem):
    """The step's process was ended while short of memory. Use a smaller batch_size, or a bigger worker."""

    slug = "worker-oom"


class GpuOom(WorkerProblem):
    """The GPU's memory does not suffice: {reason}. Use a smaller batch_size, smaller engine.shapes or workspace_bytes, or a bigger GPU."""

    slug = "gpu-oom"


class GpuLost(WorkerProblem):
    """The GPU stopped working: {reason}. Look at `nvidia-smi` and the kernel's log on the worker's host, then send the job again."""

    slug = "gpu-lost"


class StepTimeout(WorkerProblem):
    """The step {stage} took longer than {seconds} seconds and was ended. Raise the worker's limit, or ask for less."""

    slug = "step-timeout"
    retryable = False


class BuildTimeout(StepTimeout):
    """The build took longer than {seconds} seconds and was ended. Lower engine.optimization_level, or raise the worker's step_limits.build_seconds."""

    slug = "build-timeout"


class CrashLoop(WorkerProblem):
    """The job, or a step of it, crashed {attempts} times and is not tried again. The worker's log says how it ended."""

    slug = "crash-loop"
    retryable = False
