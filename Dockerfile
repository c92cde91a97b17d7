# The relay as an image: dependencies from the hashed lock, no root, no shell, nothing written at run time.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /relay
# The locks first: they change seldom, and their layer is the heavy one.
COPY requirements.lock requirements-build.lock ./
RUN /relay/bin/pip install --no-deps --require-hashes -r requirements.lock -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN /relay/bin/pip install --no-deps --no-build-isolation . \
    && /relay/bin/pip uninstall --yes pip

FROM ${BASE}
LABEL org.opencontainers.image.title="lebureau-relay" \
      org.opencontainers.image.description="One upstream subscription per user, any number of tabs" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /relay /relay
# A shell is what an intruder looks for first, and nothing here needs one.
RUN ["rm", "-f", "/usr/bin/sh", "/usr/bin/bash", "/usr/bin/rbash", "/usr/bin/dash"]
# Numeric, so that Kubernetes can see that it isn't root.
USER 10001:10001
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 LEBUREAU_RELAY_LOG__FORMAT=json
WORKDIR /etc/lebureau-relay
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["/relay/bin/lebureau-relay"]
CMD ["serve"]
