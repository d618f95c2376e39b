package bench

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/internal/progress"
)

// Graph is a graph of operators to measure.
type Graph struct {
	Path string // as the user typed it; its files are dropped from the page cache for ColdLoadS
	// Open reads the graph and makes it ready to run. It is called several times, since loading is measured on
	// its own.
	Open func(ctx context.Context) (GraphRun, error)
	// Peak is as in Subject.
	Peak func(ctx context.Context) (int64, error)
}

// GraphRun is a graph that is ready to run on inputs that it has.
type GraphRun interface {
	// Batch prepares the inputs of n samples. together reports whether one run takes all of them; otherwise
	// the graph fixes its batch, and Run runs n times.
	Batch(ctx context.Context, n int) (together bool, err error)
	// Run computes the samples of the latest Batch.
	Run(ctx context.Context) error
	Bytes() int64 // of the model's files
	Close() error
}

// GraphOptions of a measurement.
type GraphOptions struct {
	Batches  []int // sizes of batches; empty: 1 and 8
	Rounds   int   // 0: 20
	Limit    time.Duration
	Progress progress.Sink // nil: silent
}

// Graphs is the object of `pare bench --output json` for graphs.
type Graphs struct {
	Schema  int          `json:"schema"` // 1
	Machine Machine      `json:"machine"`
	Inputs  string       `json:"inputs"` // "random", or what the samples were
	Rounds  int          `json:"rounds"`
	Models  []GraphModel `json:"models"`          // in the order given: the model, then what it is compared with
	Ratio   *GraphRatio  `json:"ratio,omitempty"` // first over second; only for two models
}

// GraphModel is what one graph reached. LoadS, FirstLoadS and ColdLoadS are the times to open the file, make it
// ready and compute the first batch, as for Model.
type GraphModel struct {
	Path         string      `json:"path"`
	Bytes        int64       `json:"bytes"`
	LoadS        float64     `json:"load_s"`
	FirstLoadS   float64     `json:"first_load_s"`
	ColdLoadS    float64     `json:"cold_load_s,omitempty"`
	LatencyS     Percentiles `json:"latency_s"` // of the first batch size, over all runs of all rounds
	Batches      []Batch     `json:"batches"`
	PeakRSSBytes int64       `json:"peak_rss_bytes"` // of the first batch size
	PeakRSSFrom  string      `json:"peak_rss_from"`
}

// Batch is what was measured with batches of one size.
type Batch struct {
	Batch int `json:"batch"`
	// Together reports whether one run computed all samples of a batch. A graph that fixes its batch runs as
	// many times, and the latency is that of all of them.
	Together bool        `json:"together"`
	LatencyS Percentiles `json:"latency_s"`
	// SamplesS are samples a second, a figure a round.
	SamplesS Spread  `json:"samples_s"`
	Runs     int     `json:"runs"`  // that were timed
	Noise    float64 `json:"noise"` // as in Model
}

// GraphRatio compares two graphs, first over second: times below 1 mean that the first needs less, speeds above
// 1 that it is faster.
type GraphRatio struct {
	Latency float64      `json:"latency"` // median, of the first batch size
	Batches []BatchRatio `json:"batches"`
	Load    float64      `json:"load"`
	RSS     float64      `json:"rss,omitempty"`
}

// BatchRatio is the ratio of samples a second, with one-sided 95 % bounds from the ratios of the rounds.
type BatchRatio struct {
	Batch   int     `json:"batch"`
	Speed   float64 `json:"speed"`
	Lower95 float64 `json:"lower95"`
	Upper95 float64 `json:"upper95"`
	Noise   float64 `json:"noise"`
}

// turn is how long a graph runs before the other has its turn: long enough to average over hundreds of runs of
// a small network, short enough that both see the same machine.
const turn = 20 * time.Millisecond

// RunGraphs measures graphs: loading and memory one after the other, with only that graph open, speed in turns.
func RunGraphs(ctx context.Context, opt GraphOptions, graphs ...Graph) (*Graphs, error) {
	if len(graphs) == 0 {
		return nil, &fault.Error{Op: "bench", Err: fault.As(fault.ErrMisuse, errors.New("no graph to measure"))}
	}
	if len(opt.Batches) == 0 {
		opt.Batches = []int{1, 8}
	}
	if opt.Rounds <= 0 {
		opt.Rounds = 20
	}
	if opt.Progress == nil {
		opt.Progress = progress.Discard
	}
	res := &Graphs{Schema: 1, Machine: Machine{CPU: proc.CPUName(), OS: runtime.GOOS, Arch: runtime.GOARCH}}
	opt.Progress.Stage("bench", int64(len(graphs)*(1+opt.Rounds)), "rounds")
	for _, g := range graphs {
		m, err := g.alone(ctx, opt)
		if err != nil {
			return nil, err
		}
		res.Models = append(res.Models, m)
		opt.Progress.Add(1)
	}
	if err := res.inTurns(ctx, graphs, opt); err != nil {
		return nil, err
	}
	if len(graphs) == 2 {
		res.Ratio = compareGraphs(&res.Models[0], &res.Models[1])
	}
	return res, nil
}

// alone measures loading and memory.
func (g Graph) alone(ctx context.Context, opt GraphOptions) (GraphModel, error) {
	m := GraphModel{Path: g.Path, PeakRSSFrom: "process"}
	debug.FreeOSMemory()
	peak, own := proc.PeakSince()
	if !own {
		m.PeakRSSFrom = "run"
	}
	for i := range 3 {
		if i == 2 && !evict(filesOf(g.Path)) {
			break
		}
		start := time.Now()
		r, err := g.Open(ctx)
		if err != nil {
			return m, wrap(Subject{Path: g.Path}, err)
		}
		if _, err = r.Batch(ctx, opt.Batches[0]); err == nil {
			err = r.Run(ctx)
		}
		seconds := time.Since(start).Seconds()
		switch i {
		case 0:
			m.FirstLoadS, m.Bytes, m.PeakRSSBytes = seconds, r.Bytes(), peak()
		case 1:
			m.LoadS = seconds
		case 2:
			m.ColdLoadS = seconds
		}
		if err = errors.Join(err, r.Close()); err != nil {
			return m, wrap(Subject{Path: g.Path}, err)
		}
	}
	if g.Peak != nil {
		n, err := g.Peak(ctx)
		if err != nil {
			return m, wrap(Subject{Path: g.Path}, err)
		}
		m.PeakRSSBytes, m.PeakRSSFrom = n, "child"
	}
	return m, nil
}

// timed are the raw figures of one graph at one size of batches.
type timed struct {
	together bool
	runs     []float64 // seconds of each
	speed    []float64 // samples a second of each round
}

// inTurns runs the rounds of all sizes.
func (res *Graphs) inTurns(ctx context.Context, graphs []Graph, opt GraphOptions) (err error) {
	runs := make([]GraphRun, len(graphs))
	defer func() {
		for _, r := range runs {
			if r != nil {
				err = errors.Join(err, r.Close())
			}
		}
	}()
	for i, g := range graphs {
		if runs[i], err = g.Open(ctx); err != nil {
			return wrap(Subject{Path: g.Path}, err)
		}
	}
	debug.FreeOSMemory() // what loading left is not collected while something is measured
	all := make([][]timed, len(graphs))
	for i := range all {
		all[i] = make([]timed, len(opt.Batches))
	}
	for start := time.Now(); res.Rounds < opt.Rounds; res.Rounds++ {
		if opt.Limit > 0 && res.Rounds >= leastRounds && time.Since(start) > opt.Limit {
			break
		}
		for k, n := range opt.Batches {
			for i := range graphs {
				if res.Rounds%2 == 1 { // each goes first in every other round
					i = len(graphs) - 1 - i
				}
				if err := all[i][k].round(ctx, runs[i], n, res.Rounds == 0); err != nil {
					return wrap(Subject{Path: graphs[i].Path}, err)
				}
			}
		}
		opt.Progress.Add(int64(len(graphs)))
	}
	for i := range res.Models {
		m := &res.Models[i]
		for k, n := range opt.Batches {
			t := &all[i][k]
			m.Batches = append(m.Batches, Batch{
				Batch: n, Together: t.together, LatencyS: percentiles(t.runs),
				SamplesS: spreadOf(t.speed), Runs: len(t.runs), Noise: noise(t.speed),
			})
		}
		m.LatencyS = m.Batches[0].LatencyS
	}
	return nil
}

// round runs a graph for a turn, at least once. The first one comes after as long a warming up.
func (t *timed) round(ctx context.Context, r GraphRun, batch int, first bool) (err error) {
	if t.together, err = r.Batch(ctx, batch); err != nil {
		return err
	}
	warm := time.Now()
	for more := true; more; more = first && time.Since(warm) < turn { // the first run of a turn finds cold caches
		if err := r.Run(ctx); err != nil {
			return err
		}
	}
	begin, n := time.Now(), 0
	for last := begin; n == 0 || last.Sub(begin) < turn; n++ {
		if err := r.Run(ctx); err != nil {
			return err
		}
		now := time.Now()
		t.runs = append(t.runs, now.Sub(last).Seconds())
		last = now
	}
	// the median, which a run that was interrupted does not move
	t.speed = append(t.speed, float64(batch)/median(t.runs[len(t.runs)-n:]))
	return nil
}

func percentiles(x []float64) Percentiles {
	s := slices.Sorted(slices.Values(x))
	return Percentiles{P50: sortedQuantile(s, 0.5), P90: sortedQuantile(s, 0.9), P99: sortedQuantile(s, 0.99)}
}

func compareGraphs(a, b *GraphModel) *GraphRatio {
	r := &GraphRatio{Latency: a.LatencyS.P50 / b.LatencyS.P50, Load: a.LoadS / b.LoadS}
	if b.PeakRSSBytes > 0 && a.PeakRSSFrom == b.PeakRSSFrom && a.PeakRSSFrom != "run" {
		r.RSS = float64(a.PeakRSSBytes) / float64(b.PeakRSSBytes)
	}
	for k := range a.Batches {
		x, y := &a.Batches[k], &b.Batches[k]
		q := BatchRatio{Batch: x.Batch, Speed: x.SamplesS.Median / y.SamplesS.Median, Noise: max(x.Noise, y.Noise)}
		q.Lower95, q.Upper95 = ratioBounds(x.SamplesS.Rounds, y.SamplesS.Rounds)
		r.Batches = append(r.Batches, q)
	}
	return r
}
