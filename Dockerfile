# syntax=docker/dockerfile:1
# An image of tidegate for production: the binary, the shipped configuration, nobody's rights.
#
#   docker build -t tidegate .
#   docker run -p 8080:8080 -v "$PWD/tidegate.toml:/etc/tidegate/tidegate.toml:ro" tidegate
#
# Built without default features: the demo, with its database engine and the C compiler that this needs, is for a developer's machine.
# The base has a shell and a libc that resolves names as the host does; an image without them would be 30 MB smaller and useless at night.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY benches benches
COPY config config
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --no-default-features --bin tidegate \
    && strip --strip-debug -o /tidegate target/release/tidegate

FROM debian:bookworm-slim
COPY --from=build /tidegate /usr/local/bin/tidegate
COPY config /etc/tidegate
# For [state] file, if it is set: the one folder that tidegate may write to.
RUN install -d -o 65532 -g 65532 /var/lib/tidegate
USER 65532:65532
WORKDIR /var/lib/tidegate
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["tidegate", "health"]
ENTRYPOINT ["tidegate"]
# What a container changes: it is reached from outside, and its health check asks the admin listener.
CMD ["run", "--config", "/etc/tidegate/tidegate.toml", "--set", "listen.address=0.0.0.0:8080", "--set", "admin.address=127.0.0.1:9090"]
