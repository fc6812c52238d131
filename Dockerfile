# There was no container engine where this was written: it is checked by a linter and by reading only.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The registry and what is built stay in caches between builds; so the binary must leave its own.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked && cp target/release/readstates /readstates

FROM debian:bookworm-slim
# What the binary links to: OpenSSL and zlib, for librdkafka. zstd is for `demo --events FILE.zst`.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libssl3 zlib1g zstd \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/readstates --create-home readstates
COPY --from=build /readstates /usr/local/bin/readstates
USER 10001:10001
# Here lie readstates.toml, if one is mounted, and the embedded store.
WORKDIR /var/lib/readstates
# Loopback, the default, would be the container's own.
ENV READSTATES_ADMIN__LISTEN=0.0.0.0:9464
EXPOSE 9464
# Ready takes a connection to Kafka, NATS and the store; bash speaks enough HTTP to ask.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/9464 && printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3 && head -n 1 <&3 | grep -q ' 200 '"]
ENTRYPOINT ["readstates"]
CMD ["serve"]
