# Capstan. `make help` lists the doors.

GO       ?= go
PKGS     ?= ./...
COUNT    ?= 1
BIN      := bin
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -X main.version=$(VERSION) -X github.com/capstan-kv/capstan/node.version=$(VERSION)
LINT     := $(GO) tool -modfile=.tools/lint/go.mod
GENERATE := $(GO) tool -modfile=.tools/generate/go.mod

# go.mod pins a Go release without known advisories. "local" in the environment would ignore the pin.
export GOTOOLCHAIN := auto

.DEFAULT_GOAL := help
.PHONY: help build build-faults run test race descheduled lint vuln generate bench jepsen jepsen-short clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/capstan
	@test -e $(BIN)/capstan || echo "building bin/capstan: about a minute the first time" >&2
	@mkdir -p $(BIN)
	@$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...
	@.tools/vuln/toolchain $(BIN)/capstan $(BIN)/capstan-jepsen

build-faults: ## build bin/capstan-faults, which does things wrong when told to: for tests only
	@mkdir -p $(BIN)
	@$(GO) build -tags capstan_faults -ldflags '$(LDFLAGS)' -o $(BIN)/capstan-faults ./cmd/capstan
	@.tools/vuln/toolchain $(BIN)/capstan-faults

run: build ## start a three-node cluster on loopback; Ctrl-C stops it and deletes its data
	@$(BIN)/capstan demo

test: ## run all tests once (COUNT=n repeats them, PKGS=./storage/... narrows)
	$(GO) test -count=$(COUNT) $(PKGS)

race: ## run all tests under the race detector
	$(GO) test -race -count=$(COUNT) $(PKGS)

descheduled: ## two hundred random runs in which the Raft library's goroutines lose the processor (CAPSTAN_SEEDS=n for more)
	CAPSTAN_SEEDS=$${CAPSTAN_SEEDS:-200} $(GO) test -count=1 -run TestReplicasAgreeWhateverIsDescheduled ./replication

lint: ## formatting, static analysis, protos, and that generated code is current
	$(LINT) golangci-lint run
	$(GO) vet -tags capstan_faults ./...
	@$(MAKE) --no-print-directory generate-check

vuln: ## fail if a known advisory can be reached from the programs
	@.tools/vuln/run ./cmd/...

generate: ## regenerate the code made from the protos (no network needed)
	.tools/generate/run api

generate-check:
	@.tools/generate/run --check api

bench: build ## measure a three-node cluster on this machine: throughput, latency, CPU per operation
	.tools/bench/run $(BIN)/capstan

jepsen: build build-faults ## test a cluster of five nodes under cuts, kills, pauses, bad clocks and disks: some minutes, reports in store/
	@.tools/jepsen/run $(BIN)

jepsen-short: build ## one partition test of less than a minute
	@.tools/jepsen/run --short $(BIN)

clean: ## remove what was built
	rm -rf $(BIN)
