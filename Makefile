# The two commands to start with: make demo, make test.
.DEFAULT_GOAL := help
GO ?= go

# The race detector needs a C compiler; without one the same tests run without it.
RACE := $(shell command -v "$${CC:-gcc}" >/dev/null 2>&1 && [ "$$($(GO) env CGO_ENABLED)" = 1 ] && echo -race)

# What make bench-compare measures: each benchmark BENCH_COUNT times, so that
# benchstat can distinguish a difference from noise. It compares nothing with the
# figures of another CPU: store some of one's own first.
BENCH_COUNT ?= 6
BENCH_PACKAGES := ./scoring ./schemas/... ./consumers/scorer/... ./benchmarks
BENCH := $(GO) test -run '^$$' -bench . -benchmem -benchtime 0.2s -count $(BENCH_COUNT) -timeout 30m $(BENCH_PACKAGES)

.PHONY: help demo test cover lint build bench bench-compare bench-baseline bench-store fuzz integration up down clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build ## run everything in one process on real customers (ARGS="--duration 20s" to pass flags)
	@bin/churnstream demo $(ARGS)

# Most of what runs in parallel waits, so more of it runs at a time than there are CPUs.
test: ## run unit tests and in-process end-to-end tests
	$(GO) test $(RACE) -parallel 8 ./...

cover: ## measure which statements those tests reach, by package, into coverage.out
	$(GO) test -coverpkg=./... -coverprofile coverage.out ./...
	@$(GO) tool cover -func coverage.out | tail -1
	@echo "go tool cover -html coverage.out shows the lines"

lint: ## check formatting, go vet and staticcheck
	@test -z "$$(gofmt -l .)" || { echo "not formatted, run gofmt -w on:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) vet -tags integration ./integration
	$(GO) tool staticcheck -tags integration ./integration

build: ## build bin/churnstream
	@CGO_ENABLED=0 $(GO) build -trimpath -o bin/churnstream ./cmd/churnstream

bench: ## measure the hot paths, and exact against sampled explanations
	$(GO) test -run '^$$' -bench . -benchmem $(BENCH_PACKAGES)
	$(GO) run ./benchmarks/report

bench-compare: ## measure the hot paths and compare them with the stored figures (minutes)
	@mkdir -p bin
	$(BENCH) >bin/benchmarks.txt || { cat bin/benchmarks.txt; exit 1; }
	@$(GO) tool benchstat benchmarks/baseline.txt bin/benchmarks.txt

bench-baseline: ## store the figures that bench-compare compares with: on a quiet machine
	@mkdir -p bin
	$(BENCH) >bin/benchmarks.txt || { cat bin/benchmarks.txt; exit 1; }
	cp bin/benchmarks.txt benchmarks/baseline.txt

bench-store: ## measure the views of a real ClickHouse over 10 million scores (minutes)
	deploy/local/stack install clickhouse
	CHURN_SINK_ROWS=10000000 CHURN_CHDB_LAUNCHER="$$(deploy/local/stack launcher)" $(GO) test -count 1 -v ./consumers/sink -run CustomersAtRiskIsQuick/clickhouse

fuzz: ## fuzz every decoder for ten seconds each
	@for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime 10s -fuzzminimizetime 10x $$package || exit 1; \
		done; \
	done

integration: ## test on a real Kafka, ClickHouse and Prometheus, with a browser and foreign clients, which it installs and starts without containers
	deploy/local/stack install
	CHURN_CHDB_LAUNCHER="$$(deploy/local/stack launcher)" $(GO) test -count 1 -timeout 30m ./consumers/sink
	$(GO) test -tags integration -count 1 -timeout 30m ./integration/... $(ARGS)

up: ## start a real Kafka, registry, ClickHouse, Prometheus and Alertmanager on this machine
	@deploy/local/stack up

down: ## stop what make up started
	@deploy/local/stack down

clean: ## remove what was built
	rm -rf bin
