package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
	"github.com/pare-dev/pare/runner/bench"
)

func (a *app) benchCmd() *cobra.Command {
	var vs string
	var limit time.Duration
	o := bench.Options{}
	kv, activations := cacheTypes("f16"), activationForms()
	var fl graphBench
	c := &cobra.Command{
		Use:   "bench MODEL",
		Short: "Measure how fast a model runs here: load, prefill, generation, latency, memory",
		Long: `Measure how fast a model, in any format that pare reads, runs on this machine: loading, prefill,
generation, time to the first token, the spread of single tokens, and peak memory. Of graphs (ONNX) it is the
latency of batches of 1 and 8, on --samples or on random numbers. With --vs two
models are measured in turns, so that a machine that slows down slows both, and ratios have bounds.`,
		Example: `  pare bench books-q4_0.gguf --vs books-llama/model --prompt 128 --generate 32 --repeat 5
  pare bench graphs/magika/model.onnx --samples graphs/magika/inputs.npy --repeat 5`,
		Args: exactly("a MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			o.Limit, o.Progress = limit, a.progressSink()
			graphs, err := a.areGraphs(cmd.Context(), args[0], vs)
			if err != nil {
				return err
			}
			if fl.changed = typed(cmd); graphs {
				return a.benchGraphs(cmd.Context(), &fl, o, args[0], vs)
			}
			if err := fl.refuse(graphBenchFlags, "it measures graphs; these are none"); err != nil {
				return err
			}
			o.Runner.KV, o.Runner.Activations = storage.Type(kv.value), runner.Activations(activations.value)
			subjects := []bench.Subject{a.subject(args[0], o)}
			a.budget.shares = 2 // the model, and what the bandwidth is measured on
			if vs != "" {
				a.budget.shares = 3
				subjects = append(subjects, a.subject(vs, o))
			}
			if o.Runner, err = a.benchOptions(cmd.Context(), subjects, o); err != nil {
				return err
			}
			r, err := bench.Run(cmd.Context(), o, subjects...)
			if err != nil {
				return err
			}
			a.stopProgress()
			var lines []any
			for i := range r.Models {
				lines = append(lines, &r.Models[i])
			}
			t := benchTable(r)
			return a.show(result{object: r, lines: lines, table: t, text: func(w io.Writer) { benchText(w, r, t) }})
		},
	}
	f := c.Flags()
	f.StringVar(&vs, "vs", "", "`MODEL` to compare with, measured in turns")
	intFrom(f, &o.Prompt, "prompt", "", 1, 512, "tokens of the prompt")
	intFrom(f, &o.Generate, "generate", "", 1, 64, "tokens generated after it")
	intFrom(f, &o.Rounds, "repeat", "", 1, 20, "rounds of prefill and generation")
	kvFlag(c, &kv)
	activationsFlag(c, &activations)
	fl.register(c)
	f.DurationVar(&limit, "limit", 0, "stop after the round in which this `TIME` passes, such as 60s, but not before 5 rounds")
	return c
}

// benchOptions are how the models are run, once it is known that all of them fit.
func (a *app) benchOptions(ctx context.Context, subjects []bench.Subject, o bench.Options) (runner.Options, error) {
	opt := runner.Options{
		Threads: a.threads, ISA: a.level, Context: o.Prompt + o.Generate, Tokens: o.Prompt + o.Generate, Work: a.work,
		KV: o.Runner.KV, Activations: o.Runner.Activations,
	}
	if a.maxMemory <= 0 {
		return opt, nil
	}
	models := make([]*ir.Model, len(subjects))
	for i, s := range subjects {
		m, err := s.Open(ctx)
		if err != nil {
			return opt, err
		}
		defer m.Close() // measuring opens it itself
		models[i] = m
	}
	if err := a.affordRun("bench", 0, opt, models...); err != nil {
		return opt, err
	}
	opt.Memory = a.share()
	return opt, nil
}

// subject is a model to measure; its peak memory is that of a process of its own.
func (a *app) subject(path string, o bench.Options) bench.Subject {
	return bench.Subject{
		Path: path,
		Open: func(ctx context.Context) (*ir.Model, error) { return a.openModel(ctx, path) },
		Peak: func(ctx context.Context) (int64, error) {
			return a.peakOf(ctx, path, "--prompt", strconv.Itoa(o.Prompt), "--generate", strconv.Itoa(o.Generate),
				"--kv", string(o.Runner.KV), "--activations", string(o.Runner.Activations))
		},
	}
}

// peakOf starts a process that does nothing but run a model, and asks for its peak memory.
func (a *app) peakOf(ctx context.Context, path string, flags ...string) (int64, error) {
	exe, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, exe, append([]string{"peak", path, "-j", strconv.Itoa(a.threads), "--isa", string(a.level), "--quiet"}, flags...)...)
	if a.maxMemory > 0 {
		cmd.Args = append(cmd.Args, "--max-memory", strconv.FormatInt(int64(a.maxMemory), 10))
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		op := "peak memory"
		if text := strings.TrimSpace(said.String()); text != "" { // that says more than its code
			op, err = "run", errors.New(strings.TrimPrefix(text, "pare: "))
		}
		return 0, &fault.Error{File: path, Op: op, Err: err}
	}
	var got peak
	return got.Bytes, json.Unmarshal(out, &got)
}

// peak is what a process that only runs a model says when it is done.
type peak struct {
	Bytes int64 `json:"peak_rss_bytes"`
}

// peakCmd is the process that bench starts to measure the memory of one model.
func (a *app) peakCmd() *cobra.Command {
	var prompt, generate int
	var fl graphBench
	kv, activations := cacheTypes("f16"), activationForms()
	c := &cobra.Command{
		Use:    "peak MODEL",
		Short:  "Load a model, run it, and print the peak memory of the process",
		Hidden: true,
		Args:   exactly("a MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.openModel(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if m.Graph != nil {
				return a.peakGraph(cmd.Context(), args[0], m, &fl)
			}
			l, err := a.loadOpened(cmd.Context(), args[0], m, runner.Options{Tokens: prompt + generate, KV: storage.Type(kv.value), Activations: runner.Activations(activations.value)})
			if err != nil {
				return err
			}
			defer l.Close()
			s := l.runner.NewSession()
			defer s.Close()
			tokens := make([]int32, prompt)
			if _, err := s.Generate(cmd.Context(), tokens, runner.Generation{MaxTokens: generate}, func(int32) error { return nil }); err != nil {
				return err
			}
			return json.NewEncoder(a.out).Encode(peak{proc.PeakMemory()})
		},
	}
	intFrom(c.Flags(), &prompt, "prompt", "", 1, 512, "tokens of the prompt")
	intFrom(c.Flags(), &generate, "generate", "", 1, 64, "tokens generated after it")
	kvFlag(c, &kv)
	activationsFlag(c, &activations)
	fl.register(c)
	return c
}

func benchTable(r *bench.Result) *table {
	t := &table{head: []string{"model", ">size", ">load", ">prefill tok/s", ">decode tok/s", ">first token", ">token p50", ">p90", ">p99", ">peak memory"}}
	s := func(v float64) string { return human.Duration(time.Duration(v * 1e9)) }
	for i := range r.Models {
		m := &r.Models[i]
		t.both([]string{
			m.Path, human.Bytes(m.Bytes), s(m.LoadS), spread(m.PrefillTokS), spread(m.DecodeTokS), s(m.TTFTS),
			s(m.TokenS.P50), s(m.TokenS.P90), s(m.TokenS.P99), human.Bytes(m.PeakRSSBytes),
		}, []string{
			m.Path, fmt.Sprint(m.Bytes), fmt.Sprint(m.LoadS), fmt.Sprint(m.PrefillTokS.Median), fmt.Sprint(m.DecodeTokS.Median), fmt.Sprint(m.TTFTS),
			fmt.Sprint(m.TokenS.P50), fmt.Sprint(m.TokenS.P90), fmt.Sprint(m.TokenS.P99), fmt.Sprint(m.PeakRSSBytes),
		})
	}
	return t
}

// spread is "412 (398 to 420)": median, tenth and ninetieth percentile.
func spread(s bench.Spread) string {
	return fmt.Sprintf("%s (%s to %s)", human.Count(int64(s.Median+.5)), human.Count(int64(s.P10+.5)), human.Count(int64(s.P90+.5)))
}

func benchText(w io.Writer, r *bench.Result, t *table) {
	m := r.Machine
	fmt.Fprintf(w, "%s, %s kernels, %s, %s; prompt of %d tokens, %d generated, %s\n", m.CPU, m.ISA, plural(m.Threads, "thread"), reads(m.ReadGBps), r.Prompt, r.Generate, plural(r.Rounds, "round"))
	_ = t.text(w) // a closed stdout is found by the next write
	if q := r.Ratio; q != nil {
		fmt.Fprintf(w, "first over second: prefill %s%s  decode %s%s  load %s  memory %s\n",
			times(q.Prefill), between(q.PrefillLower95, q.PrefillUpper95), times(q.Decode), between(q.DecodeLower95, q.DecodeUpper95), times(q.Load), times(q.RSS))
	}
}

// between spells bounds; one round has none.
func between(lower, upper float64) string {
	if upper <= 0 {
		return ""
	}
	return fmt.Sprintf(" (95 %%: %.2f to %.2f)", lower, upper)
}

// reads spells the bandwidth of memory, which is not measured where --max-memory leaves less than
// caches hold.
func reads(gbps float64) string {
	if gbps == 0 {
		return "bandwidth not measured: it takes more memory"
	}
	return fmt.Sprintf("reads %.1f GB/s", gbps)
}
