# The server in a container, for the CPU (the default) or an NVIDIA GPU.
#
#   docker build -t sgl .                        # CPU
#   docker build -t sgl:gpu --target gpu .       # GPU; run it with --gpus all
#   docker run -p 30000:30000 -v models:/models sgl --model-path /models/model.gguf
#
# Wheels come from wherever pip is configured to look (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL as build arguments).

ARG PYTHON=3.12

# -- the wheel, with the C++ kernels of the CPU in it
FROM python:${PYTHON}-slim AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir build
COPY . /src/sgl
RUN cd /src/sgl && python -m build --wheel --outdir /wheels

# -- what both have
FROM python:${PYTHON}-slim AS base
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 sgl && mkdir /models && chown sgl /models
ENV PYTHONUNBUFFERED=1 HF_HOME=/models
COPY --from=build /wheels /wheels
EXPOSE 30000
VOLUME /models
STOPSIGNAL SIGTERM
# python, since the image has no curl; a model may take minutes to load
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:30000/health', timeout=4)"]
ENTRYPOINT ["sgl", "serve", "--host", "0.0.0.0"]

# -- an NVIDIA GPU: torch's usual wheels bring CUDA's libraries, and Triton needs a C compiler
FROM base AS gpu
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir "$(echo /wheels/sgl-*.whl)[serve,gpu]"
USER sgl

# -- the CPU: the last stage, so the one that is built if none is named
FROM base AS cpu
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir "$(echo /wheels/sgl-*.whl)[serve]"
USER sgl
