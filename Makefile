# What people type. The work is in scripts/.
.DEFAULT_GOAL := help
.PHONY: help install build test lint demo clients clean

help: ## Show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## Install what build, tests and demo need, where it is missing
	@scripts/install

build: ## Build target/release/readstates
	@scripts/install system
	cargo build --release

test: ## Run every check and every test, against real servers
	@scripts/test

lint: ## Check format, lints, licences and scripts
	@scripts/lint

demo: ## Run the service and its servers here, with a synthetic chat (EVENTS=FILE: with these events)
	@scripts/demo

clients: ## Run the examples in other languages against real servers (downloads their libraries)
	@scripts/check-clients

clean: ## Remove what was built; downloads stay (scripts/install says where)
	cargo clean
