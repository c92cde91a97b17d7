# The relay as an image: dependencies from the hashed lock, no root, no shell, nothing written at run time. Two builds of a
# commit have the same layers: every file has one time, and bytecode carries its source's hash instead of a time.
# `make image` builds it. For builds that are still the same next year, give the base by digest: BASE=python@sha256:…
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /build
# What builds the wheel stays here, and so does pip: /relay is only what runs.
RUN python -m venv tools && python -m venv --without-pip /relay
# The locks first: they change seldom, and their layer is the heavy one. Whoever has an index of his own gives his pip.conf
# as the secret `pip`, of which nothing stays in the image.
COPY requirements.lock requirements-build.lock ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    tools/bin/pip install --no-deps --require-hashes --only-binary :all: -r requirements-build.lock \
    && tools/bin/pip --python /relay/bin/python install --no-compile --no-deps --require-hashes --only-binary :all: \
       -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN tools/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir dist . \
    && tools/bin/pip --python /relay/bin/python install --no-compile --no-index --no-deps dist/*.whl \
    && /relay/bin/python -m compileall -q --invalidation-mode unchecked-hash /relay/lib \
    && find /relay -exec touch --no-dereference --date=@0 {} +

FROM ${BASE}
# A shell is what an intruder looks for first, and nothing here needs one: probes are HTTP.
RUN ["rm", "-f", "/usr/bin/sh", "/usr/bin/bash", "/usr/bin/rbash", "/usr/bin/dash"]
COPY --from=build /relay /relay
# Numeric, so that Kubernetes can see that it isn't root.
USER 10001:10001
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# Settings are read from config/relay.yaml in here, if it is mounted, and from the environment.
WORKDIR /etc/lebureau-relay
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["/relay/bin/lebureau-relay"]
CMD ["serve"]
ARG VERSION=0 REVISION=unknown
LABEL org.opencontainers.image.title="lebureau-relay" \
      org.opencontainers.image.description="One upstream subscription per user, any number of tabs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
