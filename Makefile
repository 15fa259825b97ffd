# `make help` lists what there is. The work is done by the scripts in tests/cluster/, each with a --help of its own.

SCRIPTS := tests/cluster
# For bench-reconcile: the number of TaskGroups.
N ?= 300
# For bench-compare: with what, which bench, and what that takes.
COMMIT ?= HEAD~1
BENCH ?= reconcile
ARGS ?=
# For soak: how long faults are injected. SEED and SOAK_TASKS are passed on, too.
SOAK_SECONDS ?= 600

.DEFAULT_GOAL := help
.PHONY: help demo demo-down test lint crds image cluster-up cluster-down soak bench-reconcile bench-worker bench-compare bench-peers tools deny clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## The two queues problem, live, in a cluster on this machine
	@$(SCRIPTS)/demo

demo-down: cluster-down ## Remove everything that the demo brought up

test: ## Every test, the end-to-end one in a cluster of its own
	@$(SCRIPTS)/tools api node image crd
	@$(SCRIPTS)/run-tests

lint: ## Format check, and clippy with warnings as errors
	cargo fmt --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

crds: ## Write crds/ from the Rust types
	cargo run --quiet --locked -- crds --dir crds

image: ## Build the container images into target/cluster/images
	@$(SCRIPTS)/tools image
	@$(SCRIPTS)/image taskgroup handler

cluster-up: ## Bring up a Kubernetes (CLUSTER=existing, kind or local; see tests/cluster/README.md)
	@$(SCRIPTS)/tools node image
	@$(SCRIPTS)/up

cluster-down: ## Take it down again
	@$(SCRIPTS)/down

soak: ## Everything at once, with faults at random, for 10 minutes (SOAK_SECONDS=600 SEED=... SOAK_TASKS=...)
	@$(SCRIPTS)/tools api
	@SOAK_SECONDS=$(SOAK_SECONDS) cargo test --locked --test soak -- --nocapture --exact \
	  every_task_ends_exactly_once_and_no_limit_is_ever_exceeded_whatever_happens

bench-reconcile: ## From applied TaskGroups to pipelines, and costs at 4000 groups (N=300 ROUNDS=3 LARGE=4000 ONLY=scale)
	@$(SCRIPTS)/tools api
	@N=$(N) $(SCRIPTS)/release bench --bench reconcile

bench-worker: ## The worker's speed, latency, use of its slots and memory against the floor (QUICK=1 ROUNDS=5 ONLY=speed)
	@$(SCRIPTS)/tools api
	@ulimit -n "$$(ulimit -H -n)" && $(SCRIPTS)/release bench --bench worker

bench-compare: ## This work tree beside another commit, in turns (COMMIT=HEAD~1 BENCH=reconcile ARGS="N=300")
	@benches/compare "$(COMMIT)" "$(BENCH)" $(ARGS)

bench-peers: ## The same tasks on Celery and on BullMQ, and on ours: tasks per second (QUICK=1 to try it)
	@$(SCRIPTS)/tools api
	@benches/peers/run

tools: ## Get everything that the tests need (kept in ~/.cache/taskgroup)
	@$(SCRIPTS)/tools api node image crd

deny: ## Check the licences and the sources of the dependencies
	@$(SCRIPTS)/tools deny
	@$(SCRIPTS)/check-licences

clean: cluster-down ## Remove what was built here; the cache of tools stays
	cargo clean
