# ardor with its command as the entry point.
#
#   docker build -t ardor .                                                               on a CPU
#   docker build -t ardor --build-arg BASE=pytorch/pytorch:2.9.1-cuda12.8-cudnn9-runtime . on a GPU: the torch of the base is kept
#   mkdir -p runs                                                                         else docker makes it, for root
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/runs:/ardor/runs" ardor train sat --data digits    with --gpus all on a GPU
#
# BASE is any image with Python 3.11 or newer; EXTRAS are those of pyproject.toml.
ARG BASE=python:3.13-slim-bookworm
FROM ${BASE}

ARG EXTRAS=demo,hub,timm
ENV PIP_BREAK_SYSTEM_PACKAGES=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1

WORKDIR /opt/ardor

# torch first: it is large and changes least. One that the base has is kept, and the lock stops later installs from swapping it.
COPY requirements-torch.txt constraints.txt ./
RUN python3 -c "import torch" 2>/dev/null || python3 -m pip install -r requirements-torch.txt -c constraints.txt
RUN python3 -m pip freeze | grep -iE "^(torch|triton|nvidia)[^@]*$" > torch.lock

COPY pyproject.toml README.md CHANGELOG.md CITATION.cff LICENSE ./
COPY docs ./docs
COPY recipes ./recipes
COPY ardor ./ardor
RUN python3 -m pip install -c torch.lock ".[${EXTRAS}]" \
    && python3 -c "import ardor.cli.main"

RUN useradd --create-home --uid 10001 ardor \
    && mkdir -p /ardor/runs \
    && chown -R ardor /ardor \
    && chmod a+rwx /ardor /ardor/runs
# a user of --user has no name and no home of its own
ENV HOME=/ardor \
    USER=ardor
USER ardor
WORKDIR /ardor

ENTRYPOINT ["ardor"]
CMD ["--help"]
