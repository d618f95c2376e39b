# make          builds ./bin/pare
# make test     every test, without network (modules aside)
# make check    what a change must pass before it is pushed
# make demo     the whole tour on the built-in model, into ./dist/demo

GO       ?= go
OUT      ?= dist/demo
CACHE    ?= .cache
FUZZTIME ?= 30s
ROUNDS   ?= 5
export CGO_ENABLED = 0

# Tools are pinned and built by the go command, which caches them.
GOFUMPT     = $(GO) run mvdan.cc/gofumpt@v0.12.0
STATICCHECK = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2

PLATFORMS = linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

.PHONY: all build install test race arm64 cortex-a53 cortex-a76 haswell emulated check fmt vet lint cross docs words demo bench microbench interop interop-torch interop-quality fuzz large clean

all: build

build:
	$(GO) build -trimpath -o bin/pare ./cmd/pare

install:
	$(GO) install -trimpath ./cmd/pare

test:
	$(GO) test -timeout 20m ./...

# What runs on several threads, under the race detector, which needs a C compiler: the runner's workers and
# sessions, parallel loops and products, streams of rows, and what quantizes and writes them. RACE=. runs
# every test of these packages, which takes much longer.
RACE = ^Test(Pool|Sessions|SameBytes|Cancel|Cancelled|Phases|BytesAnyWay|GemmCancelled|Gram|Stream|Walk(SameBytes|ReadsWeightsOnce)|Memory$$|RowsTogether|NothingHalfWritten|ProgressAndColour)
race:
	CGO_ENABLED=1 $(GO) test -race -short -timeout 40m -run '$(RACE)' ./internal/par ./internal/progress ./internal/kernels ./internal/storage ./internal/diskfile ./ir ./runner/... ./quantize ./formats ./cmd/pare

# The same tests as arm64 under qemu's user mode (Debian: qemu-user-static): kernels against their
# references, stored types, and the digests of whole packages, which are those of amd64.
arm64:
	GOOS=linux GOARCH=arm64 $(GO) test -short -timeout 20m -exec qemu-aarch64-static ./internal/kernels ./internal/storage ./targets/report
	GOOS=linux GOARCH=arm64 $(GO) test -timeout 20m -exec qemu-aarch64-static -run TestSameBytesEverywhere ./targets/build

# Every level of instructions on an emulated processor that has no higher one, so that a kernel which
# borrows from above fails as it would on such a machine: all kernels against their references, and all
# encoders; about two minutes each. Left out is the portable level, the same Go code on all of them, which
# arm64 and test have run. This machine's own levels need no emulator.
emulated: arm64 cortex-a53 cortex-a76 haswell

cortex-a53 cortex-a76:
	GOOS=linux GOARCH=arm64 $(GO) test -short -timeout 20m -exec 'qemu-aarch64-static -cpu $@' -skip /^portable ./internal/kernels ./internal/storage

# qemu 7 reads all of a vector for a masked load, behind operands too, which processors do not.
haswell:
	GOOS=linux GOARCH=amd64 $(GO) test -short -timeout 20m -exec 'qemu-x86_64-static -cpu Haswell' -skip '^TestNothingBehindOperands$$|/^portable' ./internal/kernels ./internal/storage

check: fmt vet lint cross words
	$(GO) test -count=1 ./internal/floors
	$(GO) test -count=1 -short -run 'TestDocs' ./cmd/pare
	$(GO) test -short -tags noasm ./internal/cpu ./internal/kernels ./internal/storage

fmt:
	@out=$$($(GOFUMPT) -l .); if [ -n "$$out" ]; then echo "gofumpt -w these files:"; echo "$$out"; exit 1; fi

vet:
	$(GO) vet ./... ./testdata/books-llama ./testdata/graphs
	$(GO) vet -tags noasm ./...

lint:
	$(STATICCHECK) ./... ./testdata/books-llama ./testdata/graphs

cross:
	@for p in $(PLATFORMS); do echo "build $$p"; GOOS=$${p%/*} GOARCH=$${p#*/} $(GO) build -o /dev/null ./cmd/pare || exit 1; done
	GOOS=linux GOARCH=arm64 $(GO) vet ./...
	GOOS=windows GOARCH=amd64 $(GO) vet ./cmd/... ./formats/... ./internal/... ./targets/...

docs:
	$(GO) generate ./cmd/pare
	$(GO) test ./runner/eval -run Conformance -update

# Words that do not belong into the tree: machine paths, and marks of unfinished work.
words:
	@! git grep -nIE '/(work|root|tmp)/|/home/[a-z]+/|\bTODO\b|\bFIXME\b|\bXXX\b' -- ':!Makefile' ':!*/testdata/*' ':!testdata' ':!go.sum' || { echo "the lines above do not belong here"; exit 1; }

demo: build
	./bin/pare demo -o $(OUT) --force

# pare beside llama.cpp, OpenBLAS and others, in turns: a table in docs/performance.md, which says more. It
# fetches the peers and makes models of a gigabyte once. ONLY names parts, FULL=yes adds what takes an hour.
bench: build
	$(GO) run ./internal/peers -cache $(CACHE)/peers -pare bin/pare -rounds $(ROUNDS) $(if $(ONLY),-only $(ONLY)) $(if $(FULL),-full)

microbench:
	$(GO) test -run '^$$' -bench . -benchtime 200ms ./internal/kernels ./internal/storage ./internal/tokenizer ./runner ./quantize

# The real runtimes, fetched by their ordinary package managers into $(CACHE)/interop: llama.cpp on x86-64
# and on emulated arm64, its quantizer, the gguf library, a text encoder, ONNX Runtime, and the programs of NPU vendors; about six minutes on two cores. DEMO is the
# folder of an earlier `pare demo`, so that it need not run again.
interop: build
	python3 internal/interop/interop.py gguf $(CACHE)/interop ./bin/pare $(DEMO)
	python3 internal/interop/interop.py encoders $(CACHE)/interop ./bin/pare
	python3 internal/interop/interop.py graphs $(CACHE)/interop ./bin/pare
	python3 internal/interop/interop.py npu $(CACHE)/interop ./bin/pare

# transformers with compressed-tensors on the CPU: 600 MB to fetch, then about a minute.
interop-torch: build
	python3 internal/interop/interop.py torch $(CACHE)/interop ./bin/pare

# What 8 bits leave of networks, beside ONNX Runtime's quantizer and NNCF: 150 MB to fetch, then about two minutes. BANKING77 names the
# CSV of that data set's training split (PolyAI, task-specific-datasets, banking_data/train.csv); with it, of a sentence encoder as well.
interop-quality: build
	python3 internal/interop/interop.py quality $(CACHE)/interop ./bin/pare $(BANKING77)

fuzz:
	@for pkg in $$(git grep -l 'func Fuzz' -- '*_test.go' | xargs -n1 dirname | sort -u); do \
		for f in $$(grep -ho 'func Fuzz[A-Za-z0-9]*' $$pkg/*_test.go | cut -c6-); do \
			echo "fuzz $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) ./$$pkg || exit 1; \
		done; done

# The promise of --max-memory at full size: 12 GiB of weights in 512 MiB. Takes ten minutes and 40 GB of
# disk, which is free again afterwards; make test holds a smaller model to a smaller limit.
large:
	PARE_TEST_LARGE=1 $(GO) test -count=1 -v -timeout 60m -run '^TestMaxMemory$$' ./targets/build
	PARE_TEST_LARGE=1 $(GO) test -count=1 -v -timeout 60m -run '^TestLargeGraph$$' ./cmd/pare

clean:
	rm -rf bin dist $(CACHE) coverage.out
