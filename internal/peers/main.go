package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/proc"
)

// part is something that is measured by itself.
type part struct {
	name, title string
	run         func(b *bench) []Row
	peers       []string // as tools.about names them
}

// parts in the order of the document.
var parts = []part{
	{"decode", "Generation after a context, 1.1 B weights", (*bench).decode, []string{"llama.cpp"}},
	{"prefill", "Prefill: 512 tokens together, 1.1 B weights", (*bench).prefill, []string{"llama.cpp"}},
	{"load", "Load to first token: fresh process, warm page cache, 1.1 B weights", (*bench).load, []string{"llama.cpp"}},
	{"quantize", "Quantizing from F16", (*bench).quantize, []string{"llama.cpp"}},
	{"verify", "Perplexity and KL divergence of two models", (*bench).verify, []string{"llama.cpp"}},
	{"small", "Small model (6.8 M weights): what a token costs beyond reading the weights", (*bench).small, []string{"llama.cpp"}},
	{"gemm", "Matrix products", (*bench).gemm, []string{"OpenBLAS of PyPI", "OpenBLAS of Debian", "NumPy", "ONNX Runtime", "PyTorch"}},
	{"bf16", "Matrix products of bfloat16 with float32 sums", (*bench).gemmBF16, []string{"PyTorch"}},
	{"growth", "Growth", (*bench).growth, nil},
	{"graphs", "Graphs: real networks, batch 1", (*bench).graphs, []string{"ONNX Runtime"}},
	{"train", "Training: distillation of the small model (6.8 M weights), AdamW", (*bench).train, []string{"PyTorch"}},
	{"calibrate", "Graphs: calibrating and quantizing to 8 bits", (*bench).calibrate, []string{"ONNX Runtime"}},
}

// bench is what every part works with.
type bench struct {
	ctx     context.Context
	cache   string // folder of everything that is kept
	pare    string // the binary
	threads int
	rounds  int
	full    bool   // also what takes long or much disk
	lock    string // file that is locked while rounds are measured; empty: none
	tools   *tools
	limits  *client   // probe/machine.c: what the machine can do
	reads   []float64 // bytes a second of memory, beside every round of the part under way
	started time.Time
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == measureVerb {
		if err := measure(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 2 && os.Args[1] == trainVerb {
		if err := trainSide(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	b := &bench{started: time.Now()}
	var only, doc string
	flag.StringVar(&b.cache, "cache", ".cache/peers", "`FOLDER` for peers, models and figures")
	flag.StringVar(&b.pare, "pare", "bin/pare", "the `BINARY` to measure")
	flag.StringVar(&only, "only", "", "`PARTS` to measure, separated by commas: "+strings.Join(names(), ", ")+"; none writes the table anew")
	flag.StringVar(&doc, "doc", "docs/performance.md", "the `DOCUMENT` to write the table into; empty: none")
	flag.IntVar(&b.threads, "threads", 2, "threads of both sides, 1 to 8")
	flag.IntVar(&b.rounds, "rounds", 5, "rounds")
	flag.BoolVar(&b.full, "full", false, "K types on the large model, and 10 GB of growth: an hour, and 20 GB of disk")
	flag.StringVar(&b.lock, "lock", "", "`FILE` to lock while rounds are measured, on machines that several people measure on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b.ctx = ctx
	if err := b.main(only, doc); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

func names() []string {
	var out []string
	for _, p := range parts {
		out = append(out, p.name)
	}
	return out
}

// named are the parts of these names, in the order of the document.
func named(names []string) (out []part) {
	for _, p := range parts {
		if slices.Contains(names, p.name) {
			out = append(out, p)
		}
	}
	return out
}

func (b *bench) main(only, doc string) error {
	chosen := names()
	switch only {
	case "":
	case "none": // the table anew from what earlier runs left
		chosen = nil
	default:
		chosen = strings.Split(only, ",")
		for _, name := range chosen {
			if !slices.Contains(names(), name) {
				return fmt.Errorf("there is no part %q: %s are", name, strings.Join(names(), ", "))
			}
		}
	}
	if b.threads < 1 || b.threads > 8 || b.rounds < 1 {
		return fmt.Errorf("%d threads, %d rounds: 1 to 8 threads and at least one round are measured", b.threads, b.rounds)
	}
	var err error
	if b.cache, err = filepath.Abs(b.cache); err != nil {
		return err
	}
	if b.pare, err = filepath.Abs(b.pare); err != nil {
		return err
	}
	if err := os.MkdirAll(b.cache, 0o755); err != nil { //nolint:gosec // a cache like any other
		return err
	}
	b.log("fetching the peers")
	if b.tools, err = install(b.ctx, b.cache); err != nil {
		return err
	}
	if b.limits, err = start(b.ctx, nil, b.tools.Machine.Probe); err != nil {
		return fmt.Errorf("the limits of the machine cannot be measured: %s %w", b.tools.Machine.Why, err)
	}
	defer b.limits.close()
	saved := filepath.Join(b.cache, "results.json")
	report, err := loadReport(saved)
	if err != nil {
		return err
	}
	for _, p := range named(chosen) {
		report.Parts[p.name] = b.measure(p)
		if err := b.ctx.Err(); err != nil {
			return err
		}
		if err := report.save(saved); err != nil {
			return err
		}
	}
	report.markdown(os.Stdout, named(chosen))
	if doc == "" {
		return nil
	}
	return report.writeDoc(doc, parts)
}

// measure runs one part.
func (b *bench) measure(p part) Part {
	b.log("%s", p.title)
	b.reads = nil
	began := time.Now()
	out := Part{
		Name: p.name, Title: p.title, Date: began.UTC().Format(time.DateOnly), Commit: b.commit(), Rounds: b.rounds,
		Machine: fmt.Sprintf("%s, kernels for %s", proc.CPUName(), cpu.Best()), Threads: b.threads, Peers: b.tools.about(p.peers),
	}
	out.Rows = p.run(b)
	out.Read, out.Seconds = spreadOf(b.reads), time.Since(began).Seconds()
	return out
}

// commit is what was measured, as git names it.
func (b *bench) commit() string {
	out, err := exec.CommandContext(b.ctx, "git", "describe", "--always", "--dirty", "--exclude", "*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// log tells what goes on.
func (b *bench) log(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%4.0f s  %s\n", time.Since(b.started).Seconds(), fmt.Sprintf(format, args...))
}

// probeBytes is far more than caches hold.
const probeBytes = 1 << 30

// read measures how fast memory is read now, by as many threads as are measured.
func (b *bench) read() (float64, error) {
	v, err := b.limits.number("read %d %d", probeBytes, b.threads)
	b.reads = append(b.reads, v)
	return v, err
}

// inTurns lets both sides do the same, round after round, each first in every other one, so that what
// changes on the machine changes for both. warm rounds before are not counted: pages are read in them and
// workers started. reads is the bandwidth of memory before each round. peer may be nil.
func (b *bench) inTurns(warm, rounds int, pare, peer func() (float64, error)) (mine, other, reads []float64, err error) {
	release, err := b.alone()
	if err != nil {
		return nil, nil, nil, err
	}
	defer release()
	for i := range warm + rounds {
		if i == warm {
			mine, other, reads = nil, nil, nil
		}
		v, err := b.read()
		if err != nil {
			return mine, other, reads, err
		}
		reads = append(reads, v)
		for _, first := range []bool{i%2 == 0, i%2 != 0} {
			if err := b.ctx.Err(); err != nil {
				return mine, other, reads, err
			}
			if first {
				v, err = pare()
				mine = append(mine, v)
			} else if peer != nil {
				v, err = peer()
				other = append(other, v)
			}
			if err != nil {
				return mine, other, reads, err
			}
		}
	}
	return mine, other, reads, nil
}

// alone waits until nobody else measures, where a lock says so.
func (b *bench) alone() (release func(), err error) {
	if b.lock == "" {
		return func() {}, nil
	}
	if release, err = hold(b.lock); err != nil {
		return nil, fmt.Errorf("%s: %w", b.lock, err)
	}
	return release, nil
}
