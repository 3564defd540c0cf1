# Enginesmith: API and CPU worker. `--build-arg EXTRAS=rtx` adds the TensorRT-RTX backend, which builds without a GPU.
# `--target gpu-worker` makes the worker for a host with an NVIDIA GPU and its container toolkit.
FROM python:3.12-slim AS build
ARG EXTRAS=rtx
WORKDIR /src
COPY pyproject.toml README.md ./
COPY app app
COPY alembic alembic
RUN python -m venv /opt/enginesmith && /opt/enginesmith/bin/pip install --no-cache-dir ".[${EXTRAS}]"

# TensorRT 10.6 with its Python 3.12 package, CUDA 12.6 and nvcc, which pycuda is built with. Drivers: 560 or newer, on data
# center GPUs 525.85, 535.86, 545.23 or newer of their branch, too. The extra `tensorrt` would bring another TensorRT along.
FROM nvcr.io/nvidia/tensorrt:24.11-py3 AS gpu-worker
RUN useradd --create-home --uid 10001 enginesmith && mkdir /data && chown enginesmith /data
WORKDIR /src
COPY pyproject.toml README.md ./
COPY app app
COPY alembic alembic
# Without pip: Ubuntu's venv lacks ensurepip, and the image's own pip serves the environment as well.
RUN python3 -m venv --without-pip --system-site-packages /opt/enginesmith && \
    /opt/enginesmith/bin/python -m pip install --no-cache-dir . "nvidia-cuda-nvrtc-cu12>=12.8" "pycuda>=2026.1"
ENV PATH=/opt/enginesmith/bin:$PATH ENGINESMITH_DATA=/data
WORKDIR /data
USER enginesmith
VOLUME /data
CMD ["enginesmith", "worker"]

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 enginesmith && mkdir /data && chown enginesmith /data
COPY --from=build /opt/enginesmith /opt/enginesmith
ENV PATH=/opt/enginesmith/bin:$PATH ENGINESMITH_DATA=/data
USER enginesmith
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --start-period=30s CMD \
    python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=3)"
# Listening beyond loopback needs ENGINESMITH_TOKENS; without it the server says so and stops.
CMD ["enginesmith", "serve", "--host", "0.0.0.0"]
