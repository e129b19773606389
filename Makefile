# linstor-rwx. `make` alone lists what can be done.
#
# Everything that is not Go or make is installed by ci/prepare.sh; everything that
# is Go is built from modules in ci/lab/tools, which pin the versions. Both go to a
# cache outside the repository: the first run takes long, the next ones do not.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Tag of the images that `make images` packs.
VERSION ?= $(shell sed -n 's/^appVersion: *//p' charts/linstor-rwx/Chart.yaml)

CHART := charts/linstor-rwx
API := pkg/apis/rwx/v1alpha1
CRDS := $(CHART)/files/crds
GENERATED := $(API)/zz_generated.deepcopy.go $(CRDS)

# As the laboratory compiles the product: with these, tests, linters and images
# share what the compiler has cached, which is most of a fresh machine's time.
export CGO_ENABLED := 0
export GOFLAGS := -trimpath -buildvcs=false

# The commands of the laboratory, and the path of a pinned tool, built when absent.
LAB := bin/lab
BUILD := go -C ci/lab run ./cmd/lab-build
tool = $$($(BUILD) $(1))

# Packages of the laboratory's module whose tests need no cluster.
LAB_UNITS = $$(go -C ci/lab list ./... | grep -v '/ci/lab/e2e')

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: prepare bin/lab ## Show the product on a laboratory cluster; KEEP=1 leaves it running
	KEEP=$(KEEP) go -C ci/lab run ./cmd/demo

.PHONY: test
test: prepare unit generate-check lint e2e ## All tests: units, generated code, lint, end to end

.PHONY: prepare
prepare: ## Install the Debian packages that are needed
	ci/prepare.sh

.PHONY: unit
unit: ## Test both modules without a cluster
	go vet ./...
	go test ./...
	go -C ci/lab vet ./...
	go -C ci/lab test $(LAB_UNITS)
	LINSTOR_RWX_GANESHA_ROOT=$(call tool,root-ganesha) go test -tags ganesha ./pkg/ganesha/ganeshatest

.PHONY: e2e
e2e: ## Test end to end on a new laboratory; RUN=pattern chooses tests, KEEP=1 leaves it up
	@trap '$(if $(KEEP),true,$(MAKE) --no-print-directory lab-down)' EXIT; \
	$(MAKE) --no-print-directory lab-up; \
	$(MAKE) --no-print-directory e2e-run

.PHONY: e2e-run
e2e-run: ## The same on the laboratory that is up
	go -C ci/lab test ./e2e/... -count=1 -timeout 60m -parallel 4 -v $(if $(RUN),-run '$(RUN)')

.PHONY: bench-failover
bench-failover: prepare bin/lab ## Measure fail-over, write out/bench/failover.json; SCENARIO=a,b RUNS=10 BASELINE=0 WITHOUT=heartbeat KEEP=1
	SCENARIO='$(SCENARIO)' RUNS='$(RUNS)' BASELINE='$(BASELINE)' WITHOUT='$(WITHOUT)' KEEP='$(KEEP)' go -C ci/lab run ./cmd/bench-failover $(CURDIR)/out/bench

.PHONY: bench-resize
bench-resize: prepare bin/lab ## Measure growing claims under load, write out/bench/resize.json; RUNS=50 KEEP=1
	RUNS='$(RUNS)' KEEP='$(KEEP)' go -C ci/lab run ./cmd/bench-resize $(CURDIR)/out/bench

.PHONY: lint
lint: lint-go lint-chart lint-shell ## Lint Go code, chart and scripts

.PHONY: lint-go
lint-go: ## golangci-lint in both modules
	@golangci=$(call tool,golangci-lint); \
	$$golangci run ./...; \
	cd ci/lab && $$golangci run ./...

.PHONY: lint-chart
lint-chart: ## helm lint with each set of values
	@helm=$(call tool,helm); \
	for values in $(CHART)/ci/*-values.yaml; do $$helm lint --strict --quiet --kube-version v1.36.1 -f $$values $(CHART); done

.PHONY: lint-shell
lint-shell: ## shellcheck
	@shellcheck $$(git ls-files '*.sh' ':!images') .ci/run
	@shellcheck --shell=sh images/*/finish.sh # run by /bin/sh -eu

.PHONY: generate
generate: ## Generate deep-copy functions and the CRD from pkg/apis
	@generator=$(call tool,controller-gen); \
	$$generator object paths=./$(API); \
	$$generator crd paths=./$(API) output:crd:dir=$(CRDS)

.PHONY: generate-check
generate-check: ## Fail if `make generate` would change something
	@sum() { find $(GENERATED) -type f | sort | xargs sha256sum; }; \
	before=$$(sum); \
	$(MAKE) --no-print-directory generate; \
	after=$$(sum); \
	if [ "$$before" != "$$after" ]; then \
	  diff <(echo "$$before") <(echo "$$after") || true; \
	  echo "Generated files were out of date: commit what make generate wrote." >&2; exit 1; \
	fi

.PHONY: chart-golden
chart-golden: ## Write anew what the chart's snapshot tests expect
	go -C ci/lab test ./chart -run TestRenderedChartIsTheReviewedOne -update

.PHONY: images
images: prepare ## Pack the images with tag VERSION into out/images, for `ctr images import`
	$(BUILD) release $(VERSION) $(CURDIR)/out/images

.PHONY: lab-up
lab-up: prepare bin/lab ## Start a laboratory cluster, install the product, leave it running
	$(LAB) up
	$(LAB) install

.PHONY: lab-install
lab-install: bin/lab ## Install or upgrade the chart in the laboratory that is up
	$(LAB) install

.PHONY: lab-down
lab-down: bin/lab ## Stop it and remove everything it made
	$(LAB) down

# Always built: Go knows best what changed.
.PHONY: bin/lab
bin/lab:
	go -C ci/lab build -o $(CURDIR)/bin/ ./cmd/lab
