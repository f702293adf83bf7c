# syntax=docker/dockerfile:1
# The image of coordinator and hosts: one binary and what it links to. Build from the root of the repository:
#
#   docker build -t REGISTRY/onward:0.1.0 .

# The toolchain. Its Debian is the one of the last stage: a binary wants a glibc that is not older than where it was linked.
ARG RUST_VERSION=1.95

FROM rust:${RUST_VERSION}-bookworm AS build
WORKDIR /src
COPY . .
# `dist` is the profile of published figures. The target directory is a cache, which is no part of the layer: the binary is copied out.
# BuildKit keeps one target directory for each platform, since the id has it.
ARG TARGETPLATFORM
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/usr/local/cargo/git,sharing=locked \
    --mount=type=cache,target=/src/target,id=onward-target-${TARGETPLATFORM},sharing=locked \
    cargo build --profile dist --locked --package onward --bin onward \
    && install -D target/dist/onward /out/onward \
    && install -d /out/state/data /out/state/files /out/state/spill

# It has libc, libm and libgcc_s, certificates of public authorities (for buckets), time zones and the user 65532, and no shell.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="onward" \
      org.opencontainers.image.description="A serverless SQL engine: functions come and go, state stays in shared memory" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/onward-sql/onward"
COPY --from=build /out/onward /usr/local/bin/onward
COPY --from=build --chown=65532:65532 /out/state /var/lib/onward
# `onward serve` lets clients name files below the directory that it was started in: an empty one.
WORKDIR /var/lib/onward/files
# 50051: clients. 50052: hosts that join. 50053: a host's own.
EXPOSE 50051 50052 50053
# A number, not a name: `runAsNonRoot` of Kubernetes does not look names up.
USER 65532:65532
# SIGTERM drains. Process 1 does not reap functions whose zygote died: the chart shares the pod's processes, else `docker run --init`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/onward"]
CMD ["--help"]
