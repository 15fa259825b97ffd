# Images that contain static programs and nothing else. `make image` builds the programs, and then the images with docker or
# buildah. By hand, after a static build:
#   built=target/x86_64-unknown-linux-gnu/release
#   docker build --build-arg BINARY=$built/taskgroup --build-arg WORKER=$built/taskgroup-worker --tag taskgroup:dev .

# `--target program` builds an image with one program.
FROM scratch AS program
ARG BINARY
# The same path for every program, so that one ENTRYPOINT fits all.
COPY ${BINARY} /app
# Numeric, so that Kubernetes can tell that it is not root (runAsNonRoot).
USER 65532:65532
ENTRYPOINT ["/app"]

# The complete image: the operator, and the smaller program for worker pods.
FROM program AS taskgroup
ARG WORKER
COPY ${WORKER} /worker
