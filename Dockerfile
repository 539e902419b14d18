# One image for gateways and workers: `docker build --target penstock -t penstock .`, or see docs/operations/deploying.md.
# It needs no BuildKit, so that `docker-compose` 1.29 builds it too.

# A digest pins it further: --build-arg PYTHON_IMAGE=python:3.13.15-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.13.15-slim-bookworm


# -- what is installed, by hash; compilers, sources and this stage's tools stay behind ---------------------------------
FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY deploy/requirements/ deploy/requirements/
RUN python -m venv /opt/penstock \
    && /opt/penstock/bin/pip install --require-hashes --only-binary :all: -r deploy/requirements/penstock.txt \
    && python -m venv /opt/tools \
    && /opt/tools/bin/pip install --require-hashes --only-binary :all: -r deploy/requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY broker/ broker/
COPY runtime/ runtime/
RUN /opt/tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/penstock/bin/pip install --no-deps --no-index /dist/*.whl


# -- what every process runs as: nobody in particular, with nothing to write to but /tmp, /keys and what is mounted ----
FROM ${PYTHON_IMAGE} AS base
RUN groupadd --gid 10001 penstock \
    && useradd --uid 10001 --gid penstock --no-create-home --home-dir /tmp --shell /usr/sbin/nologin penstock \
    && install -d -o penstock -g penstock -m 0750 /keys \
    && install -d -m 0755 /app
COPY --from=build /opt/penstock /opt/penstock
ENV PATH=/opt/penstock/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
WORKDIR /app
USER 10001:10001
EXPOSE 4566
ENTRYPOINT ["penstock"]
CMD ["--help"]


# -- an app built on top, as yours may be: its dependencies, then its code in /app -------------------------------------
FROM base AS thumbnails
USER root
COPY deploy/requirements/thumbnails.txt /tmp/thumbnails.txt
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action ignore --no-deps \
        --require-hashes --only-binary :all: -r /tmp/thumbnails.txt \
    && rm /tmp/thumbnails.txt \
    && install -d -o penstock -g penstock -m 0755 /out
COPY examples/ examples/
USER 10001:10001
CMD ["runtime", "examples.thumbnails.app:app"]


# -- the last stage is what `docker build` makes without --target ------------------------------------------------------
FROM base AS penstock
