# Images that hold static programs and nothing else. `make image` builds the programs and calls this, with docker or
# buildah alike. By hand, after a static build:
#   built=target/x86_64-unknown-linux-gnu/release
#   docker build --build-arg BINARY=$built/taskgroup --build-arg WORKER=$built/taskgroup-worker --tag taskgroup:dev .

# With `--target program`: one program.
FROM scratch AS program
ARG BINARY
# The same path whatever the program, so that one ENTRYPOINT is right for all.
COPY ${BINARY} /app
# Numeric, so that Kubernetes can see that it is not root (runAsNonRoot).
USER 65532:65532
ENTRYPOINT ["/app"]

# The operator, and the smaller program that worker pods run.
FROM program AS taskgroup
ARG WORKER
COPY ${WORKER} /worker
