# `make help` lists the targets. Tools are pinned here and built once with `go install`, into the cache of the servers;
# bin/ has links to them. Their file names contain the version, so that a new pin is a new file.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

# Builds of other clones are reused only if they do not contain their paths.
export GOFLAGS := $(strip $(GOFLAGS) -trimpath)

CACHE := $(or $(LEASEKEEPER_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/leasekeeper)
BIN := $(CURDIR)/bin
CONTROLLER_GEN := $(BIN)/controller-gen-v0.21.0
GOLANGCI_LINT := $(BIN)/golangci-lint-v2.13.2
HELM := $(BIN)/helm-v3.22.0

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

# Without DWARF (-w), linking takes half the time. Collecting garbage seldom (GOGC) makes linking and properties a tenth
# faster.
GO_TEST := GOGC=400 go test -ldflags=-w -race -p 2
# Tests mostly wait for servers and clocks, so run more tests than there are processors.
INTEGRATION := GOGC=400 go test -ldflags=-w -tags integration -count=1 -parallel 9 -timeout 40m
# Packages whose tests start servers.
WITH_SERVERS := /(internal/(e2e|rollout|testbed|vault)|hack/demo)$$
# The managers that these tests start have the race detector. The tests themselves only wait.
E2E := $(INTEGRATION) ./internal/e2e
GENERATED := api/v1alpha1/zz_generated.deepcopy.go config/crd/bases config/rbac/role.yaml \
  charts/leasekeeper/crds charts/leasekeeper/files
CHART_RULES := $(addprefix config/rbac/,role.yaml viewer_role.yaml editor_role.yaml provider_editor_role.yaml \
  revoker_role.yaml) config/rollout/rollout_role.yaml config/admission/policies.yaml

##@ Everyday

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "}
	  /^##@/ {printf "\n%s\n", substr($$0, 5)}
	  /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: build servers postgres-if-any ## Show the life of a lease on real servers; exits 0 only if every step was observed
	go run ./hack/demo

.PHONY: demo-up
demo-up: build servers postgres-if-any ## Start the demo's servers and the manager, and keep them running until Ctrl-C
	go run ./hack/demo -up

.PHONY: test-unit
test-unit: ## Run the tests that need no servers
	$(GO_TEST) ./...

.PHONY: test-api
test-api: servers debian-servers $(HELM) ## Test the manager on an API server, Vault and the servers behind its engines
	$(E2E)

.PHONY: test-vault
test-vault: servers debian-servers ## Test the Vault backend and the testbed on real servers
	$(INTEGRATION) -race ./internal/vault/... ./internal/testbed/...

.PHONY: test
test: servers debian-servers $(HELM) ## Run all tests, and set up everything they need
	@# Tests with servers mostly wait. The others use the processors meanwhile, with less priority.
	unit=$$(go list ./... | grep -vE '$(WITH_SERVERS)')
	with_servers=$$(go list ./... | grep -E '$(WITH_SERVERS)' | grep -v /internal/e2e$$)
	nice env $(INTEGRATION) -race -p 1 $$unit & started=$$!
	$(INTEGRATION) -race -p 1 $$with_servers & started+=" $$!"
	$(E2E) || failed=1
	for each in $$started; do wait $$each || failed=1; done
	[[ -z $${failed:-} ]]

# Go minimizes each new input for up to a minute by default. That would use most of the time.
FUZZTIME ?= 10m
.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (10m)
	@for package in $$(go list ./...); do
	  targets=$$(go test -list '^Fuzz' $$package)
	  for target in $$targets; do
	    [[ $$target = Fuzz* ]] || continue
	    echo "$$target in $$package, for $(FUZZTIME)"
	    go test -run='^$$' -fuzz="^$$target\$$" -fuzztime=$(FUZZTIME) -fuzzminimizetime=2s $$package
	  done
	done

# A round of a property is a thousand runs with a new seed.
STORMTIME ?= 10m
.PHONY: storms
storms: ## Run every property of internal/lifecycle for STORMTIME (10m), and print the runs
	@dir=$$(mktemp -d); timer=; trap 'kill $$timer 2>/dev/null || true; rm -rf $$dir' EXIT
	go test -c -o $$dir/storms ./internal/lifecycle
	cd internal/lifecycle
	for property in $$(awk -F'[ (]' '/^func Test/ {name = $$2} /rapid\.Check\(/ {print name}' *_test.go); do
	  sleep $(STORMTIME) & timer=$$!
	  runs=0
	  while kill -0 $$timer 2>/dev/null; do
	    $$dir/storms -test.run="^$$property\$$" -rapid.checks=1000 >$$dir/log 2>&1 || { cat $$dir/log; exit 1; }
	    runs=$$((runs + 1000))
	  done
	  echo "$$property: $$runs runs"
	done

# SEED determines the events of a storm. 0: use the current time.
SEED ?= 0
FOR ?= 10m
OBJECTS ?= 100
LEASES ?= 2000

.PHONY: chaos
chaos: servers postgres build ## Inject all faults at once for FOR=10m, by SEED; then three Vaults, failovers, outages
	go build -race -o $(BIN)/manager-race .
	go run ./hack/chaos -scenario storm,failover,isolation -seed $(SEED) -for $(FOR) -objects $(OBJECTS) \
	  -manager $(BIN)/manager-race
	go run ./hack/chaos -scenario standbys -seed $(SEED) -for $(FOR) -objects $(OBJECTS) -manager $(BIN)/manager-race
	go run ./hack/chaos -scenario scale -leases $(LEASES) -manager $(BIN)/manager
	LEASEKEEPER_OBJECTS=$(OBJECTS) $(E2E) -v -run '^TestShortOutageChangesNothing$$'

.PHONY: bench
bench: OBJECTS = 300 2000
bench: servers build ## Measure OBJECTS="300 2000" on real servers: time, requests, CPU, memory
	go run ./hack/bench -objects "$(OBJECTS)" -manager $(BIN)/manager -json $(BIN)/bench.json

##@ Code

.PHONY: generate
generate: $(CONTROLLER_GEN) ## Generate the DeepCopy methods
	$(CONTROLLER_GEN) object:headerFile=hack/boilerplate.go.txt paths=./api/...

.PHONY: manifests
manifests: $(CONTROLLER_GEN) ## Generate CRDs and RBAC for config/ and the chart
	$(CONTROLLER_GEN) crd paths=./api/... output:crd:dir=config/crd/bases
	$(CONTROLLER_GEN) rbac:roleName=leasekeeper paths=. paths=./controllers/... output:rbac:dir=config/rbac
	mkdir -p charts/leasekeeper/crds
	cp config/crd/bases/*.yaml charts/leasekeeper/crds/
	mkdir -p charts/leasekeeper/files
	cp $(CHART_RULES) charts/leasekeeper/files/

.PHONY: fmt
fmt: ## Format the Go code
	gofmt -w $$(git ls-files -co --exclude-standard '*.go')

.PHONY: vet
vet: ## Run go vet, including integration tests
	go vet -tags integration ./...

.PHONY: lint
lint: $(GOLANGCI_LINT) $(HELM) ## Lint the Go code and the chart
	$(GOLANGCI_LINT) run
	cd hack/image && $(GOLANGCI_LINT) run --config ../../.golangci.yml && cd ../..
	if [ -f charts/leasekeeper/Chart.yaml ]; then $(HELM) lint --quiet charts/leasekeeper; fi

# Files with lines of any length: generated, binary or not ours. golangci-lint checks Go files.
UNLIMITED := \.(go|sum|svg)$$|^(LICENSE|PROJECT|bin)$$|/testdata/|/crds/|^config/crd/bases/|^config/rbac/role\.yaml$$

.PHONY: verify
verify: $(HELM) ## Fail if generated files, go.mod or formatting are out of date, or a line is too long
	@snapshot() { (find $(GENERATED) -type f 2>/dev/null || true) | sort | xargs -r sha256sum; }
	before=$$(snapshot)
	$(MAKE) --no-print-directory generate manifests
	diff <(echo "$$before") <(snapshot) || \
	  { echo "These files were out of date and have been regenerated. Commit them."; exit 1; }
	go mod tidy -diff
	go -C hack/image mod tidy -diff
	go run ./hack/rights
	go run ./hack/tests
	files=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go'))
	[ -z "$$files" ] || { echo "Not formatted; run make fmt: $$files"; exit 1; }
	git ls-files -co --exclude-standard | grep -vE '$(UNLIMITED)' | xargs -d '\n' env LC_ALL=C awk -f hack/width.awk
	echo "Generated files, go.mod and formatting are up to date, and no line is too long."

##@ The manager

.PHONY: build
build: ## Build bin/manager
	CGO_ENABLED=0 go build -ldflags "-s -w -X main.version=$(VERSION)" -o $(BIN)/manager .

.PHONY: run
run: ## Run the manager locally with the current kubeconfig; FLAGS="--allowed-addresses=127.0.0.1" for a local Vault
	go run . --leader-elect=false $(FLAGS)

.PHONY: image
image: build ## Write a small image to bin/image.tar (OCI layout), without Docker
	go -C hack/image run . -binary $(BIN)/manager -output $(BIN)/image.tar

##@ Prerequisites

.PHONY: servers
servers: ## Build the real servers once, into a cache outside this folder
	go run ./hack/servers

.PHONY: debian-servers
debian-servers: ## Find PostgreSQL, MariaDB, RabbitMQ and OpenLDAP, or install them on Debian
	hack/debian-servers.sh

.PHONY: postgres
postgres: ## Find PostgreSQL, or install it on Debian
	hack/debian-servers.sh postgres

# The demo works without PostgreSQL and reports that. Exit code 3: PostgreSQL is not available.
.PHONY: postgres-if-any
postgres-if-any:
	hack/debian-servers.sh postgres || [ $$? = 3 ]

.PHONY: tools
tools: $(CONTROLLER_GEN) $(GOLANGCI_LINT) $(HELM) ## Build the pinned tools, with links in bin/

# install builds a tool under its versioned name, unless the cache has it. An interrupted build leaves no partial file.
define install
	mkdir -p $(BIN) $(CACHE)/tools
	if [ ! -x $(CACHE)/tools/$(notdir $@) ]; then
	  echo "installing $(notdir $@)"
	  scratch=$$(mktemp -d $(CACHE)/tools/.build-XXXXXX); trap 'rm -rf "$$scratch"' EXIT
	  GOBIN=$$scratch go install $(1)
	  mv "$$scratch"/* $(CACHE)/tools/$(notdir $@)
	fi
	ln -sf $(CACHE)/tools/$(notdir $@) $@
endef

$(CONTROLLER_GEN):
	@$(call install,sigs.k8s.io/controller-tools/cmd/controller-gen@v0.21.0)

$(GOLANGCI_LINT):
	@$(call install,github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.13.2)

$(HELM):
	@$(call install,helm.sh/helm/v3/cmd/helm@v3.22.0)
