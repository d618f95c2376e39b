package bench_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/runner/bench"
)

// sleeper takes a known time a run, the same again for each sample that it cannot take together.
type sleeper struct {
	wait     time.Duration
	together bool
	batch    int
	fail     error
	open     *int
}

func (s *sleeper) Batch(_ context.Context, n int) (bool, error) {
	s.batch = n
	return s.together || n == 1, nil
}

func (s *sleeper) Run(context.Context) error {
	n := s.batch
	if s.together {
		n = 1
	}
	time.Sleep(time.Duration(n) * s.wait)
	return s.fail
}

func (s *sleeper) Bytes() int64 { return 77 }

func (s *sleeper) Close() error {
	*s.open--
	return nil
}

func TestRunGraphs(t *testing.T) {
	open := 0
	graph := func(s sleeper) bench.Graph {
		s.open = &open
		return bench.Graph{Path: "nowhere", Open: func(context.Context) (bench.GraphRun, error) {
			open++
			return &s, nil
		}}
	}
	quick, slow := graph(sleeper{wait: time.Millisecond, together: true}), graph(sleeper{wait: 4 * time.Millisecond})
	slow.Peak = func(context.Context) (int64, error) { return 5 << 20, nil }
	res, err := bench.RunGraphs(context.Background(), bench.GraphOptions{Rounds: 4}, quick, slow)
	if err != nil {
		t.Fatal(err)
	}
	if open != 0 || res.Rounds != 4 || len(res.Models) != 2 || res.Ratio == nil {
		t.Fatalf("%d still open, %d rounds, %+v", open, res.Rounds, res)
	}
	a, b := res.Models[0], res.Models[1]
	if a.Bytes != 77 || a.LoadS < 1e-3 || b.LoadS < 4e-3 || b.PeakRSSBytes != 5<<20 || b.PeakRSSFrom != "child" {
		t.Errorf("%+v\n%+v", a, b)
	}
	// sleeping takes at least as long as asked for, and the rest is small beside it
	if p := a.LatencyS; !(p.P50 >= 1e-3 && p.P50 < 3e-3 && p.P50 <= p.P90 && p.P90 <= p.P99) {
		t.Errorf("latency %+v of a run of a millisecond", p)
	}
	one, eight := b.Batches[0], b.Batches[1]
	if one.Batch != 1 || !one.Together || eight.Batch != 8 || eight.Together || !a.Batches[1].Together {
		t.Errorf("%+v %+v", one, eight)
	}
	if eight.LatencyS.P50 < 32e-3 || eight.SamplesS.Median > 250 || a.Batches[1].SamplesS.Median < 1000 {
		t.Errorf("batches of eight: %+v, %+v", a.Batches[1], eight)
	}
	r := res.Ratio
	if len(r.Batches) != 2 || r.Latency > 0.75 || r.Batches[1].Speed < 8 || r.Batches[1].Lower95 > r.Batches[1].Speed || r.RSS != 0 {
		t.Errorf("%+v", r)
	}
	broken := errors.New("broken")
	if _, err := bench.RunGraphs(context.Background(), bench.GraphOptions{}, graph(sleeper{fail: broken})); !errors.Is(err, broken) || open != 0 {
		t.Errorf("%v, %d still open", err, open)
	}
	if _, err := bench.RunGraphs(context.Background(), bench.GraphOptions{}); !errors.Is(err, fault.ErrMisuse) {
		t.Error(err)
	}
}
