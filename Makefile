# make up      install what is missing, build, start three virtual hosts, run the demo
# make down    remove that cluster
# make test    all tests, as root; installs and builds what they need
# make simulate  ten hours of 5,000 saturated hosts that watch each other, in virtual time
# make scale   a control plane with 5,000 hollow nodes, 150,000 pods and 10,000 services; SCALE_NODES says otherwise
# make fuzz    every fuzz target in turn, for an hour; FUZZ_MINUTES says otherwise
# make chaos   faults of every kind on a cluster under load, for an hour; CHAOS_MINUTES says otherwise, CHAOS_SEED=N plays a run again
.PHONY: all deps generate build up down test bench simulate scale fuzz chaos lint conformance

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
NODES   ?= 3

# Static binaries: they go into images and onto hosts as they are.
export CGO_ENABLED := 0

all: build

deps:
	@.ci/deps $(NEEDED)

# The results are committed, so building needs no clang; .ci/generated compares.
generate:
	@go generate ./bpf/...

build:
	@echo "build: version $(VERSION)"
	@mkdir -p bin
	@go build -ldflags "-s -w -X main.version=$(VERSION)" -o bin/ ./cmd/skep ./cmd/skepd ./cmd/skep-agent ./cmd/skep-dns ./cmd/skep/images/echo
	@go run ./cmd/skep/images/build -bin bin -out bin/images
	@echo "build: bin/skep bin/skepd bin/skep-agent bin/skep-dns, images in bin/images"

up: deps build
	@bin/skep up --nodes $(NODES)
	@bin/skep demo

down:
	@test -x bin/skep || $(MAKE) --no-print-directory build
	@bin/skep down

# Packages that start clusters run one after another, after the rest: they
# measure times, which others' compilers would spoil.
CLUSTER_TESTS := ./test/... ./cmd/skep/...
# Faults on a whole cluster are a target of their own: see chaos.
CHAOS_TESTS := /test/chaos(/disk|/wallclock)?$$

# systemd-analyze checks the units in docs/systemd.
# qemu boots the oldest kernel in test/floor.
test: NEEDED := systemd-analyze:systemd qemu-system-x86_64:qemu-system-x86
test: deps build
	@test "$$(id -u)" -eq 0 || { echo "test: must be root, as Skep itself: run it with sudo" >&2; exit 1; }
	@go build -o bin/report ./test/report
	@units=$$(go list ./... | grep -vE '/test/|/cmd/skep(/|$$)') && \
	clusters=$$(go list $(CLUSTER_TESTS) | grep -vE '$(CHAOS_TESTS)') && \
	{ go test -json -count=1 -timeout 20m $$units; \
	  go test -json -count=1 -timeout 20m -p 1 $$clusters; } 2>&1 | bin/report

bench: NEEDED := iptables-legacy-restore:iptables
bench: deps build
	@go run ./test/bench

fuzz: deps build
	@.ci/fuzz

CHAOS_MINUTES ?= 60
CHAOS_SEED ?= $(shell date +%s)

# The rest of test/chaos, which is quick, belongs to make test. mkfs.ext4 makes the servers' disks, which are filled and slowed down.
chaos: NEEDED := mkfs.ext4:e2fsprogs
chaos: deps build
	@go test -count=1 ./test/chaos/disk ./test/chaos/wallclock
	@go test -v -count=1 -timeout 0 ./test/chaos -seed $(CHAOS_SEED) -length $(CHAOS_MINUTES)m

lint:
	@.ci/lint

# Whether 5,000 saturated hosts that watch each other for ten hours take any for lost: about an hour on one CPU.
simulate:
	@go test ./agent/reach -run '^$$' -bench Simulation -benchtime 1x -timeout 6h -nodes 5000 -hours 10

# Thirty pods a node, and two services.
SCALE_NODES ?= 5000
scale: deps build
	@go test ./test/bench/scale -run '^$$' -bench . -timeout 3h -nodes $(SCALE_NODES) -pods $$(($(SCALE_NODES) * 30)) -services $$(($(SCALE_NODES) * 2))

# Kubernetes' own tests: built from its module, with these programs in their image.
conformance: NEEDED := curl:curl nc:netcat-openbsd dig:bind9-dnsutils dash:dash
conformance: deps build
	@go -C test/conformance build -o ../../bin/conformance/run .
	@cd test/conformance && ../../bin/conformance/run
