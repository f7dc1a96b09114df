# On NVIDIA GPUs. The command line: docker build -f docker/cuda.Dockerfile -t oculox:cuda .
# The service: docker build -f docker/cuda.Dockerfile --target serve -t oculox:serve-cuda .
# PyPI's torch for Linux brings the libraries of CUDA; the host has the driver.
FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt ./
# Alone and first: it is the largest part and changes least.
RUN pip install -c constraints.txt torch
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src src
RUN pip install -c constraints.txt '.[serve]'

FROM python:3.12-slim AS base
COPY --from=build /venv /venv
RUN useradd --uid 1000 --create-home oculox && install -d -m 1777 /work /cache
ENV PATH=/venv/bin:$PATH OCULOX_CACHE=/cache PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /work
ENTRYPOINT ["oculox"]

FROM base AS serve
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["serve", "yolox-s", "--host", "0.0.0.0"]

FROM base AS command
CMD ["--help"]
