# The image of rest-api; scripts/build-image builds it.
#
# The bases are arguments, so that a mirror or a locally built base can stand in. Their defaults are
# pinned by the digest of the index over all architectures: what was reviewed is what is built on.
# The two belong together: a binary linked against bookworm's glibc runs on debian12's.
ARG RUST_IMAGE=docker.io/library/rust:1.95.0-slim-bookworm@sha256:d7482085ff5b415f84dba5647ae71606650bdef00db7aeb69f4b3d170c3e4082
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot@sha256:9dac0a79194e45a7da0158a9c6da57b217585af0786db3845d1f0ec1a0dd182f

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY . .
# Cache mounts keep downloaded and compiled dependencies from one build to the next, whatever has
# changed in the workspace. A layer of manifests alone would have to name every member, and be wrong
# with the next one. The mount is gone after the step, hence the copy.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release -p rest-api \
    && cp target/release/rest-api /usr/local/bin/rest-api

FROM ${RUNTIME_IMAGE}
# The SBOM that BuildKit attaches then names the crates of Cargo.lock too, not only Debian's packages.
ARG BUILDKIT_SBOM_SCAN_CONTEXT=true

# The authorities that sign RDS's certificates, as AWS publishes them: a URL, or a file of the build
# context. No checksum: the bundle changes whenever AWS adds an authority. --chmod, because a
# downloaded file would otherwise be readable by root alone.
ARG RDS_CA_BUNDLE=https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem
# hadolint ignore=DL3020
ADD --chmod=0444 ${RDS_CA_BUNDLE} /etc/ssl/rds/global-bundle.pem
ENV MRU_DB_CA_FILE=/etc/ssl/rds/global-bundle.pem

COPY --from=build /usr/local/bin/rest-api /rest-api

# By number: Kubernetes checks runAsNonRoot without reading /etc/passwd.
USER 65532:65532
EXPOSE 8080
# Where Docker runs the image; Kubernetes has its own probes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/rest-api", "healthcheck"]
ENTRYPOINT ["/rest-api"]
CMD ["serve"]

# Last: a new revision alone then changes no layer.
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="movies-r-us rest-api" \
      org.opencontainers.image.description="Takes movie files from S3 into Postgres, and answers queries about them" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
