# prunecore in a container. CPU:
#
#   docker build -t prunecore .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/runs" prunecore run --algo fpgm
#
# CUDA (any index of torch's wheels that has the version):
#
#   docker build -t prunecore:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#   docker run --rm --gpus all --shm-size 2g … prunecore:cuda run …
#
# Mount your network at /model and your data at /data (both may be read-only), and what runs write at /runs, where the
# container starts. docs/guide/docker.md has every option.

FROM python:3.11-slim-bookworm AS build

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH_VERSION=2.14.1
ARG EXTRAS=vision,timm,onnx,report

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

RUN python -m venv /opt/prunecore
ENV PATH=/opt/prunecore/bin:$PATH

# a layer of its own: it is large, and changes with the index only; torchvision asks for the one torch that it is built for
# hadolint ignore=DL3013
RUN pip install --index-url "$TORCH_INDEX" "torch==$TORCH_VERSION" torchvision

WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY prunecore ./prunecore
COPY plugins ./plugins
# hadolint ignore=DL3013
RUN pip install ".[$EXTRAS]"


FROM python:3.11-slim-bookworm

LABEL org.opencontainers.image.title="prunecore" \
      org.opencontainers.image.description="Structured pruning of PyTorch networks, with a proof that the cut was right" \
      org.opencontainers.image.licenses="MIT"

# whichever id `docker run --user` gives may write at home (caches of weights) and, without a mount, below /runs
RUN useradd --create-home --user-group --uid 1000 prune \
    && mkdir -p /model /data /runs \
    && chmod 1777 /home/prune /runs

COPY --from=build /opt/prunecore /opt/prunecore

# USER: torch asks for the name, which an id without an account has not
ENV PATH=/opt/prunecore/bin:$PATH \
    HOME=/home/prune \
    USER=prune \
    PYTHONUNBUFFERED=1

USER 1000:1000
WORKDIR /runs

# `docker stop` is a Ctrl-C: the run says how to go on with it
STOPSIGNAL SIGINT
ENTRYPOINT ["prune"]
CMD ["--help"]
