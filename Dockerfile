# The image of one node: kvserver and kvctl. docs/kubernetes.md says how to build and run it.
#
# Both stages must begin from the same image, because the virtual environment refers to the interpreter that made it. The
# tag moves with Debian's and Python's security fixes; give a digest to build from the very same bytes again:
#   docker build --build-arg BASE=python:3.11-slim-bookworm@sha256:... -t kvserver:0.1.0 .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# The locked build backend, in an environment of its own that stays behind.
COPY requirements.lock ./
RUN python -m venv tools \
    && tools/bin/pip install --constraint requirements.lock hatchling
COPY pyproject.toml README.md LICENSE ./
COPY client ./client
COPY protos ./protos
COPY kvserver ./kvserver
RUN tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir wheels .
# Of the locked versions those that the server needs. pip itself stays behind, and nothing is compiled here: only wheels.
RUN python -m venv --without-pip /opt/kvserver \
    && tools/bin/pip --python /opt/kvserver/bin/python install --only-binary :all: --no-compile \
        --constraint requirements.lock "$(echo wheels/kvserver-*.whl)[server,s3]" \
    && /opt/kvserver/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/kvserver/lib

FROM ${BASE}
LABEL org.opencontainers.image.title="kvserver" \
      org.opencontainers.image.description="A key-value service for data that must not be lost, spoken to over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
# The base comes without the compiled standard library, and at run time nothing can be written beside it.
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash /usr/local/lib/python3.11 \
    && install -d -o 65532 -g 65532 -m 0700 /data
COPY --from=build /opt/kvserver /opt/kvserver
ENV PATH=/opt/kvserver/bin:${PATH} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# A number, so that Kubernetes can see that it is not root; it needs no entry in /etc/passwd and no home.
USER 65532:65532
WORKDIR /
VOLUME ["/data"]
EXPOSE 7400 7480
# For engines that look at it; Kubernetes has probes of its own. It asks whether the event loop turns, and by a plain
# connection: urllib would take a proxy from the environment.
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=6 \
    CMD ["/opt/kvserver/bin/python", "-I", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 7480, timeout=5); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]
# Without a shell in between, so that SIGTERM reaches the server. A folder below the volume, so that checkpoints have room
# beside it: on the same file system they are hard links.
ENTRYPOINT ["/opt/kvserver/bin/kvserver"]
CMD ["serve", "--data-dir", "/data/node", "--listen", "0.0.0.0:7400", "--http", "0.0.0.0:7480"]
