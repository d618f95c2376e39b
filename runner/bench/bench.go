// Package bench measures how fast models run on this machine: loading, prefill, token generation,
// the time to the first token, the spread of single tokens, and memory. Two models are measured in
// turns, A, B, A, B, so that a machine that slows down slows both, and ratios of medians come with
// bounds. Every figure says what it is the time of; nothing measured is left out.
package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
)

// Subject is a model to measure.
type Subject struct {
	Path string // as the user typed it; its files are dropped from the page cache for ColdLoadS
	// Open reads the catalogue. It is called several times, since loading is measured on its own;
	// the models it gives are closed.
	Open func(ctx context.Context) (*ir.Model, error)
	// Peak, when set, measures the peak memory of a process that does nothing but load the model
	// and run it; the cleanest way, which needs a program to start. nil: measured in this process,
	// which counts what the process holds besides.
	Peak func(ctx context.Context) (int64, error)
}

// Options of a measurement.
type Options struct {
	Runner   runner.Options
	Prompt   int // tokens of the prompt; 0: 512
	Generate int // tokens generated after it, at that context; 0: 64
	Rounds   int // rounds of prefill and generation; 0: 20
	// Limit stops after the round in which it passes, but not before 5 rounds; 0: none.
	Limit time.Duration
	// Probe is the memory whose reading measures the bandwidth; 0: 256 MiB, far more than the caches of
	// common processors.
	Probe int64
	// Tokens is the text of the prompt, repeated as needed; empty: seeded random ids, which take the
	// same time.
	Tokens   []int32
	Progress progress.Sink // nil: silent
}

// Result is the object of `pare bench --output json`.
type Result struct {
	Schema      int     `json:"schema"` // 1
	Machine     Machine `json:"machine"`
	Prompt      int     `json:"prompt"`
	Generate    int     `json:"generate"`
	Rounds      int     `json:"rounds"`
	KV          string  `json:"kv"`              // type of cached keys and values
	Activations string  `json:"activations"`     // form of the inputs of products: auto, int8 or f32
	Models      []Model `json:"models"`          // in the order given: the model, then what it is compared with
	Ratio       *Ratio  `json:"ratio,omitempty"` // first over second; only for two models
}

// Machine is where it was measured.
type Machine struct {
	CPU      string  `json:"cpu"`
	OS       string  `json:"os"`
	Arch     string  `json:"arch"`
	ISA      string  `json:"isa"`
	Threads  int     `json:"threads"`
	ReadGBps float64 `json:"read_gb_s"` // memory read bandwidth of these threads, median of the rounds; 0: not measured
}

// Model is what one model reached.
type Model struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"` // of all weights
	// LoadS is the time to open the model, prepare it and run one token, which touches every weight,
	// with the files in the page cache. ColdLoadS is the same after the files were dropped from the
	// page cache, absent where they cannot be; FirstLoadS is the first time in this process, with the
	// page cache as it was found.
	LoadS       float64 `json:"load_s"`
	FirstLoadS  float64 `json:"first_load_s"`
	ColdLoadS   float64 `json:"cold_load_s,omitempty"`
	PrefillTokS Spread  `json:"prefill_tok_s"`
	DecodeTokS  Spread  `json:"decode_tok_s"`
	// TTFTS is the median time to the first token: prefill of the prompt and the choice of a token.
	TTFTS        float64     `json:"ttft_s"`
	TokenS       Percentiles `json:"token_s"`
	PeakRSSBytes int64       `json:"peak_rss_bytes"` // mapped weights count; 0: the system does not tell
	PeakRSSFrom  string      `json:"peak_rss_from"`  // "child", "process" or "run" (the whole run so far)
	// DecodeGBps is the weights read per second in generation; the machine's read_gb_s bounds it
	// where the weights are larger than the caches.
	DecodeGBps float64 `json:"decode_gb_s"`
	// Noise is how far the model's own even and odd rounds differ in generation, as a fraction.
	Noise float64 `json:"noise"`
}

// Spread is a median with the tenth and ninetieth percentile of the rounds.
type Spread struct {
	Median float64   `json:"median"`
	P10    float64   `json:"p10"`
	P90    float64   `json:"p90"`
	Rounds []float64 `json:"rounds,omitempty"` // each of them, in the order they were run
}

// Percentiles of the seconds of single tokens, over all rounds.
type Percentiles struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
}

// Ratio compares medians: first model over second, so speeds above 1 mean that the first is faster,
// and times and memory below 1 that it needs less. Bounds are one-sided 95 % from the ratios of the
// rounds; 0 when there was only one.
type Ratio struct {
	Prefill        float64 `json:"prefill"`
	PrefillLower95 float64 `json:"prefill_lower95"`
	PrefillUpper95 float64 `json:"prefill_upper95"`
	Decode         float64 `json:"decode"`
	DecodeLower95  float64 `json:"decode_lower95"`
	DecodeUpper95  float64 `json:"decode_upper95"`
	// Noise is how far two halves of the rounds of one model differ, the larger of both models': what
	// a comparison of a model with itself would show.
	PrefillNoise float64 `json:"prefill_noise"`
	DecodeNoise  float64 `json:"decode_noise"`
	Load         float64 `json:"load"`
	RSS          float64 `json:"rss,omitempty"`
}

// samples are the raw figures of one model.
type samples struct {
	prefill, decode, ttft, token []float64
}

const (
	leastRounds = 5
	warmRuns    = 3
)

// Run measures the subjects. Loading and memory are measured one model after the other with only
// that model open; speed is measured in turns with all of them open. It fails with
// runner.ErrContext when prompt and generation do not fit a model's context, and with ctx's error.
func Run(ctx context.Context, opt Options, subjects ...Subject) (*Result, error) {
	opt = opt.withDefaults()
	if len(subjects) == 0 {
		return nil, &fault.Error{Op: "bench", Err: fault.As(fault.ErrMisuse, errors.New("no model to measure"))}
	}
	res := &Result{Schema: 1, Prompt: opt.Prompt, Generate: opt.Generate}
	opt.Progress.Stage("bench", int64(len(subjects)*(1+opt.Rounds)), "rounds")
	for _, s := range subjects {
		m, err := alone(ctx, s, opt)
		if err != nil {
			return nil, err
		}
		res.Models = append(res.Models, m)
		opt.Progress.Add(1)
	}
	all, read, err := inTurns(ctx, subjects, opt, res)
	if err != nil {
		return nil, err
	}
	res.Machine.CPU, res.Machine.OS, res.Machine.Arch = proc.CPUName(), runtime.GOOS, runtime.GOARCH
	res.Machine.ReadGBps = median(read) / 1e9
	for i := range res.Models {
		fill(&res.Models[i], all[i])
	}
	if len(subjects) == 2 {
		res.Ratio = compare(res.Models, all)
	}
	return res, nil
}

func (o Options) withDefaults() Options {
	if o.Prompt <= 0 {
		o.Prompt = 512
	}
	if o.Generate <= 0 {
		o.Generate = 64
	}
	if o.Rounds <= 0 {
		o.Rounds = 20
	}
	if o.Progress == nil {
		o.Progress = progress.Discard
	}
	o.Runner.Context = o.Prompt + o.Generate
	return o
}

// alone measures what needs a model to be the only one open: loading, and peak memory.
func alone(ctx context.Context, s Subject, opt Options) (Model, error) {
	m := Model{Path: s.Path}
	debug.FreeOSMemory()
	peak, own := proc.PeakSince()
	m.PeakRSSFrom = "process"
	if !own {
		m.PeakRSSFrom = "run"
	}
	for i := range 3 {
		if i == 2 && !evict(filesOf(s.Path)) {
			break
		}
		start := time.Now()
		model, r, err := open(ctx, s, opt)
		if err != nil {
			return m, err
		}
		session := r.NewSession()
		tokens := prompt(opt, r.Vocab())
		err = session.Append(ctx, tokens[:1], runner.WantLast, nil)
		seconds := time.Since(start).Seconds()
		switch i {
		case 0:
			m.FirstLoadS, m.Bytes = seconds, model.FileBytes
			if err == nil { // the most memory is in use in prefill
				err = session.Append(ctx, tokens[1:], runner.WantLast, nil)
			}
			m.PeakRSSBytes = peak()
		case 1:
			m.LoadS = seconds
		case 2:
			m.ColdLoadS = seconds
		}
		r.Close()
		if err = errors.Join(err, model.Close()); err != nil {
			return m, wrap(s, err)
		}
	}
	if s.Peak != nil {
		n, err := s.Peak(ctx)
		if err != nil {
			return m, wrap(s, err)
		}
		m.PeakRSSBytes, m.PeakRSSFrom = n, "child"
	}
	return m, nil
}

// filesOf lists the files of a model: the path itself, or what lies in the folder; nothing when the
// path is only a name.
func filesOf(path string) (files []string) {
	entries, err := os.ReadDir(path)
	if err != nil {
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			return []string{path}
		}
		return nil
	}
	for _, e := range entries {
		if e.Type().IsRegular() {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	return files
}

func open(ctx context.Context, s Subject, opt Options) (*ir.Model, *runner.Runner, error) {
	m, err := s.Open(ctx)
	if err != nil {
		return nil, nil, err
	}
	if c := contextOf(m); c > 0 && opt.Runner.Context > c {
		err := fmt.Errorf("%w: %d prompt and %d generated tokens, the model was trained for %d", runner.ErrContext, opt.Prompt, opt.Generate, c)
		return nil, nil, errors.Join(&fault.Error{File: s.Path, Op: "bench", Err: fault.As(fault.ErrMisuse, err), Hint: "use a shorter prompt"}, m.Close())
	}
	r, err := runner.Load(ctx, m, opt.Runner)
	if err != nil {
		return nil, nil, errors.Join(wrap(s, err), m.Close())
	}
	return m, r, nil
}

func contextOf(m *ir.Model) int {
	if m.Decoder == nil {
		return 0
	}
	return m.Decoder.Context
}

// prompt is the text that every model is given.
func prompt(opt Options, vocab int) []int32 {
	tokens := make([]int32, opt.Prompt)
	rng := rand.New(rand.NewPCG(7, 11)) //nolint:gosec // fixed: every run gets the same text
	for i := range tokens {
		if len(opt.Tokens) > 0 {
			tokens[i] = opt.Tokens[i%len(opt.Tokens)]
		} else {
			tokens[i] = int32(rng.IntN(vocab))
		}
	}
	return tokens
}

func wrap(s Subject, err error) error {
	var f *fault.Error
	if errors.As(err, &f) && f.File != "" {
		return err
	}
	return &fault.Error{File: s.Path, Op: "bench", Err: err}
}

// inTurns runs the rounds and gives the raw figures of every model, and of the memory.
func inTurns(ctx context.Context, subjects []Subject, opt Options, res *Result) (all []samples, read []float64, err error) {
	if opt.Runner.Pool == nil {
		opt.Runner.Pool = par.NewPool(opt.Runner.Threads)
		defer opt.Runner.Pool.Close()
	}
	runs := make([]*run, len(subjects))
	defer func() {
		for _, r := range runs {
			if r != nil {
				r.r.Close()
				err = errors.Join(err, r.m.Close())
			}
		}
	}()
	for i, s := range subjects {
		m, r, err := open(ctx, s, opt)
		if err != nil {
			return nil, nil, err
		}
		runs[i] = &run{m: m, r: r, s: r.NewSession(), prompt: prompt(opt, r.Vocab()), generate: opt.Generate}
	}
	res.Machine.ISA, res.Machine.Threads = string(runs[0].r.ISA()), runs[0].r.Threads()
	res.KV, res.Activations = string(runs[0].r.KV()), string(runs[0].r.Activations())
	for i, r := range runs {
		for start, n := time.Now(), 0; n < warmRuns && time.Since(start) < 2*time.Second; n++ {
			if err := r.round(ctx, &samples{}); err != nil {
				return nil, nil, wrap(subjects[i], err)
			}
		}
	}
	memory := newReader(opt.Runner.ISA, opt.Runner.Threads, opt.Runner.Memory, opt.Probe)
	all = make([]samples, len(runs))
	for start := time.Now(); res.Rounds < opt.Rounds; res.Rounds++ {
		if opt.Limit > 0 && res.Rounds >= leastRounds && time.Since(start) > opt.Limit {
			break
		}
		if memory != nil {
			read = append(read, memory.read())
		}
		for i, r := range runs {
			if err := r.round(ctx, &all[i]); err != nil {
				return nil, nil, wrap(subjects[i], err)
			}
			opt.Progress.Add(1)
		}
	}
	return all, read, nil
}

// run is a model in the turns.
type run struct {
	m        *ir.Model
	r        *runner.Runner
	s        *runner.Session
	prompt   []int32
	generate int
}

// round is one prefill of the prompt and the generation after it, greedy.
func (r *run) round(ctx context.Context, out *samples) error {
	sampler, err := runner.NewSampler(runner.Sampling{})
	if err != nil {
		return err
	}
	r.s.Truncate(0)
	var id int32
	choose := func(_ int, logits []float32) (err error) {
		id, err = sampler.Next(logits, nil)
		return err
	}
	start := time.Now()
	if err := r.s.Append(ctx, r.prompt, runner.WantLast, choose); err != nil {
		return err
	}
	first := time.Since(start).Seconds()
	out.ttft = append(out.ttft, first)
	out.prefill = append(out.prefill, float64(len(r.prompt))/first)
	total := 0.0
	for range r.generate {
		start := time.Now()
		if err := r.s.Append(ctx, []int32{id}, runner.WantLast, choose); err != nil {
			return err
		}
		seconds := time.Since(start).Seconds()
		out.token = append(out.token, seconds)
		total += seconds
	}
	out.decode = append(out.decode, float64(r.generate)/total)
	return nil
}

func spreadOf(x []float64) Spread {
	return Spread{Median: median(x), P10: quantile(x, 0.1), P90: quantile(x, 0.9), Rounds: x}
}

func fill(m *Model, s samples) {
	m.PrefillTokS, m.DecodeTokS = spreadOf(s.prefill), spreadOf(s.decode)
	m.TTFTS = median(s.ttft)
	m.TokenS = Percentiles{P50: quantile(s.token, 0.5), P90: quantile(s.token, 0.9), P99: quantile(s.token, 0.99)}
	m.DecodeGBps = m.DecodeTokS.Median * float64(m.Bytes) / 1e9
	m.Noise = noise(s.decode)
}

func compare(m []Model, s []samples) *Ratio {
	r := &Ratio{
		Prefill: m[0].PrefillTokS.Median / m[1].PrefillTokS.Median,
		Decode:  m[0].DecodeTokS.Median / m[1].DecodeTokS.Median,
		Load:    m[0].LoadS / m[1].LoadS,
	}
	if m[1].PeakRSSBytes > 0 && m[0].PeakRSSFrom == m[1].PeakRSSFrom && m[0].PeakRSSFrom != "run" {
		r.RSS = float64(m[0].PeakRSSBytes) / float64(m[1].PeakRSSBytes)
	}
	r.PrefillLower95, r.PrefillUpper95 = ratioBounds(s[0].prefill, s[1].prefill)
	r.DecodeLower95, r.DecodeUpper95 = ratioBounds(s[0].decode, s[1].decode)
	r.PrefillNoise = max(noise(s[0].prefill), noise(s[1].prefill))
	r.DecodeNoise = max(noise(s[0].decode), noise(s[1].decode))
	return r
}
