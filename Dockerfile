# The image of rest-api, built by scripts/build-image.
#
# The base images are arguments, so that a mirror or a local image can replace them. The defaults are
# pinned by the digest of the multi-architecture index. Update both together: the build image's glibc
# (bookworm) must not be newer than the runtime image's (debian12).
ARG RUST_IMAGE=docker.io/library/rust:1.95.0-slim-bookworm@sha256:d7482085ff5b415f84dba5647ae71606650bdef00db7aeb69f4b3d170c3e4082
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot@sha256:9dac0a79194e45a7da0158a9c6da57b217585af0786db3845d1f0ec1a0dd182f

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY . .
# Cache mounts keep compiled dependencies between builds. A separate layer for the manifests would have
# to list every workspace member. The copy is needed because the mounts are gone after this step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release -p rest-api \
    && cp target/release/rest-api /usr/local/bin/rest-api

# What `cargo run` starts, for compose.yaml (--target local). No other image contains anything of it.
FROM ${RUST_IMAGE} AS build-local
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release -p local-stack \
    && cp target/release/local-stack /usr/local/bin/local-stack \
    && mkdir /data

FROM ${RUNTIME_IMAGE} AS local
COPY --from=build-local /usr/local/bin/local-stack /local-stack
# A new volume has the owner of the directory.
COPY --from=build-local --chown=65532:65532 /data /data
USER 65532:65532
EXPOSE 8080 9000
ENTRYPOINT ["/local-stack", "--data-dir", "/data", "--api", "0.0.0.0:8080", "--s3", "0.0.0.0:9000"]

FROM ${RUNTIME_IMAGE}
# Makes BuildKit's SBOM include the crates of Cargo.lock, not only Debian's packages.
ARG BUILDKIT_SBOM_SCAN_CONTEXT=true

# RDS's certificate authorities as published by AWS: a URL, or a file in the build context. No checksum,
# because the bundle changes when AWS adds an authority. --chmod, because ADD makes a downloaded file
# readable by root only.
ARG RDS_CA_BUNDLE=https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem
# hadolint ignore=DL3020
ADD --chmod=0444 ${RDS_CA_BUNDLE} /etc/ssl/rds/global-bundle.pem
ENV MRU_DB_CA_FILE=/etc/ssl/rds/global-bundle.pem

COPY --from=build /usr/local/bin/rest-api /rest-api

# Numeric, because Kubernetes checks runAsNonRoot without reading /etc/passwd.
USER 65532:65532
EXPOSE 8080
# For Docker; Kubernetes uses its own probes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/rest-api", "healthcheck"]
ENTRYPOINT ["/rest-api"]
CMD ["serve"]

# Last, so that a new revision does not invalidate cached layers.
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="movies-r-us rest-api" \
      org.opencontainers.image.description="Ingests movie files from S3 into Postgres and serves queries" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
