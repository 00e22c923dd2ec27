# The two commands to start with: make demo, make test.
.DEFAULT_GOAL := help
GO ?= go

# The race detector needs a C compiler; without one the same tests run without it.
RACE := $(shell command -v "$${CC:-gcc}" >/dev/null 2>&1 && [ "$$($(GO) env CGO_ENABLED)" = 1 ] && echo -race)

.PHONY: help demo test lint build bench clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build ## run everything in one process on real customers (ARGS="--duration 20s" to pass flags)
	@bin/churnstream demo $(ARGS)

test: ## run unit tests and in-process end-to-end tests
	$(GO) test $(RACE) ./...

lint: ## check formatting, go vet and staticcheck
	@test -z "$$(gofmt -l .)" || { echo "not formatted, run gofmt -w on:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

build: ## build bin/churnstream
	@CGO_ENABLED=0 $(GO) build -trimpath -o bin/churnstream ./cmd/churnstream

bench: ## measure the scoring hot paths
	$(GO) test -run '^$$' -bench . -benchmem ./scoring ./schemas

clean: ## remove what was built
	rm -rf bin
