# An image that holds one static program and nothing else. `make image` builds the programs and calls this, with docker
# or buildah alike. By hand, after a static build:
#   docker build --build-arg BINARY=target/x86_64-unknown-linux-gnu/release/taskgroup --tag taskgroup:dev .
FROM scratch
ARG BINARY
# The same path whatever the program, so that one ENTRYPOINT is right for all.
COPY ${BINARY} /app
# Numeric, so that Kubernetes can see that it is not root (runAsNonRoot).
USER 65532:65532
ENTRYPOINT ["/app"]
