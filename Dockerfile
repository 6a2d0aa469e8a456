# The daemon's image: Python, the wheel with its pinned dependencies, and nothing else.
# deploy/image/README.md says how to build it, and `make image-proof` follows it step by step without an engine.
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build
# strip, below; this stage is thrown away, and so needs no tidying.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils

# Of two environments one builds, and the other has nothing but what runs: no pip either.
RUN python -m venv /build && python -m venv --without-pip /opt/caa

WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY caa caa/
RUN /build/bin/pip wheel --quiet --no-deps --wheel-dir /wheels .
RUN /build/bin/pip --python /opt/caa/bin/python install --quiet --no-compile --constraint constraints.txt /wheels/*.whl

# About a quarter of it is for those who develop and debug these libraries: symbols, sources of extensions, tests.
RUN find /opt/caa/lib -name '*.so*' -type f -exec strip --strip-unneeded {} + \
 && find /opt/caa/lib \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h' \) -delete \
 && find /opt/caa/lib -type d \( -name tests -o -name SelfTest \) -prune -exec rm -r {} +

# With a read-only root this is the last chance to compile. Unchecked: a tool that copies layers may change the times
# by which Python would otherwise take it for outdated.
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/caa/lib


FROM ${PYTHON_IMAGE}
# The official image has its standard library uncompiled: half a second of each start.
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash -x '/(site-packages|dist-packages|ensurepip|idlelib|test|tkinter)/' \
    "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"

COPY --from=build /opt/caa /opt/caa
COPY deploy/image/entrypoint.sh /usr/local/bin/
RUN ln -s /opt/caa/bin/caa /opt/caa/bin/cloud-api-adaptor /usr/local/bin/

# Bytecode is there already, and the root may be read-only; logs are not to wait in a buffer.
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

# Root, as it enters pods' network namespaces. It needs no other power than NET_ADMIN and SYS_ADMIN, and writes only to
# /run/peerpod, /var/lib/caa and /tmp.
USER 0:0
WORKDIR /
STOPSIGNAL SIGTERM
ENTRYPOINT ["cloud-api-adaptor"]
CMD ["alibabacloud"]

# Last, as they differ in each build.
ARG VERSION
ARG REVISION
ARG CREATED
LABEL org.opencontainers.image.title="cloud-api-adaptor" \
      org.opencontainers.image.description="Runs Kubernetes pods as confidential virtual machines on Alibaba Cloud ECS" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
