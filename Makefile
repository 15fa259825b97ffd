# `make help` lists the targets. The scripts in tests/cluster/ do the work. Each has a --help of its own.

SCRIPTS := tests/cluster
# For bench-reconcile: the number of TaskGroups.
N ?= 300
# For bench-compare: the other commit, the bench, and its settings.
COMMIT ?= HEAD~1
BENCH ?= reconcile
ARGS ?=
# For soak: the number of seconds with faults. SEED and SOAK_TASKS are passed on as well.
SOAK_SECONDS ?= 600

.DEFAULT_GOAL := help
.PHONY: help demo demo-down test lint crds docs image cluster-up cluster-down soak bench-reconcile bench-worker bench-compare bench-peers tools deny clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Show three groups at their limits in a cluster on this machine
	@$(SCRIPTS)/demo

demo-down: cluster-down ## Remove everything that the demo created

test: ## Run every test, the end-to-end test in a cluster of its own
	@$(SCRIPTS)/tools api node image crd
	@$(SCRIPTS)/run-tests

lint: ## Check the format, and run clippy with warnings as errors
	cargo fmt --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

crds: ## Write crds/ from the Rust types
	cargo run --quiet --locked -- crds --dir crds

docs: ## Write docs/reference/ from the CRDs, the arguments, and the metrics
	cargo run --quiet --locked -- reference --dir docs/reference

image: ## Build the container images into target/cluster/images
	@$(SCRIPTS)/tools image
	@$(SCRIPTS)/image taskgroup handler

cluster-up: ## Create a cluster (CLUSTER=existing, kind, or local; see tests/cluster/README.md)
	@$(SCRIPTS)/tools node image
	@$(SCRIPTS)/up

cluster-down: ## Remove the cluster
	@$(SCRIPTS)/down

soak: ## Run 20 groups under random faults for 10 minutes (SOAK_SECONDS=600 SEED=... SOAK_TASKS=...)
	@$(SCRIPTS)/tools api
	@SOAK_SECONDS=$(SOAK_SECONDS) cargo test --locked --test soak -- --nocapture --exact \
	  every_task_ends_exactly_once_and_no_limit_is_ever_exceeded_whatever_happens

bench-reconcile: ## Measure the operator: time, requests, and growth to 4000 groups (N=300 ROUNDS=3 LARGE=4000 ONLY=scale)
	@$(SCRIPTS)/tools api
	@N=$(N) $(SCRIPTS)/release bench --bench reconcile

bench-worker: ## Measure the worker: speed, latency, use of slots, memory (QUICK=1 ROUNDS=5 ONLY=speed)
	@$(SCRIPTS)/tools api
	@ulimit -n "$$(ulimit -H -n)" && $(SCRIPTS)/release bench --bench worker

bench-compare: ## Compare a bench with another commit in alternating runs (COMMIT=HEAD~1 BENCH=reconcile ARGS="N=300")
	@benches/compare "$(COMMIT)" "$(BENCH)" $(ARGS)

bench-peers: ## Measure tasks per second beside Celery and BullMQ (QUICK=1 to try it)
	@$(SCRIPTS)/tools api
	@benches/peers/run

tools: ## Fetch what the tests need into ~/.cache/taskgroup
	@$(SCRIPTS)/tools api node image crd

deny: ## Check the licenses and the sources of the dependencies
	@$(SCRIPTS)/tools deny
	@$(SCRIPTS)/check-licences

clean: cluster-down ## Remove build results; the cache of tools stays
	cargo clean
