# What people type. The work is in scripts/.
.DEFAULT_GOAL := help
.PHONY: help install build test lint demo clients bench bench-handover bench-pairs soak clean

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## Install what build, tests and demo need, where it is missing
	@scripts/install

build: ## Build target/release/readstates
	@scripts/install system
	cargo build --release

test: ## Run every check and every test, against real servers
	@scripts/test

lint: ## Check format, lints, licences and scripts
	@scripts/lint

demo: ## Run all of it here, with a synthetic chat (EVENTS=FILE, DATA=DIR, STREAM=kafka, STORE=cassandra)
	@scripts/demo

clients: ## Run the examples in other languages against real servers (downloads their libraries)
	@scripts/check-clients

bench: ## Measure beside Kafka Streams, Redis, other caches and bare consumers, in one run (half an hour)
	@scripts/bench

bench-handover: ## Measure how long partitions have no live owner as instances come and go
	@scripts/install
	cargo test --test whole_path handover_gaps -- --ignored --nocapture

bench-pairs: ## Measure both pairs, Kafka with Cassandra and JetStream with the embedded store (EVENTS=FILE: with these events)
	@scripts/bench-pairs $(if $(EVENTS),"$(EVENTS)")

soak: ## Run at a steady rate for long, with a cache of 8 million read states at work (MINUTES=20, STORE=embedded)
	@scripts/bench soak

clean: ## Remove what was built; downloads stay (scripts/install says where)
	cargo clean
