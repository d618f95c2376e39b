package channels

import (
	"context"
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

// seen are the second moments of the channels of a value: the covariance, or the mean squares alone.
type seen struct {
	cov  []float64
	full bool

	gram *kernels.Gram // of the channels and a one
	rows int64
	axis int
}

// Bounds of what is observed.
const (
	covCols = 2048    // of wider values the mean squares are taken
	covRows = 1 << 16 // positions of all samples together
)

// observe runs the network over the samples and takes the moments of what layers with weights read.
func (p *pruning) observe(ctx context.Context, full bool) (map[*graph.Value]*seen, error) {
	of := map[*graph.Value]*seen{}
	var want []*graph.Value
	var held int64
	for _, l := range p.t.layers {
		v := l.n.In[0]
		if l.own || l.in == nil || of[v] != nil {
			continue
		}
		s := &seen{full: full && len(l.in) <= covCols, axis: p.t.at[v].axis}
		if size := 8 * int64(len(l.in)+1) * int64(len(l.in)+1); s.full && held+size > p.memory()/2 {
			p.sink.Note(l.n.Label(), "judged as with the score activation: the moments of what it reads do not fit --max-memory")
			s.full = false
		} else if s.full {
			held += size
		}
		if s.full {
			s.gram = p.kern.NewGram(len(l.in) + 1)
		} else {
			s.cov = make([]float64, len(l.in))
		}
		of[v] = s
		want = append(want, v)
	}
	if len(want) == 0 {
		return of, nil
	}
	run, err := p.net.Open(ctx, p.g, want)
	if err != nil {
		return nil, err
	}
	defer run.Close()
	p.sink.Stage("observe", int64(len(p.samples)), "samples")
	for _, sample := range p.samples {
		out, err := run.Run(ctx, sample)
		if err != nil {
			return nil, err
		}
		for i, v := range want {
			if err := of[v].add(ctx, p, out[i]); err != nil {
				return nil, err
			}
		}
		p.sink.Add(1)
	}
	for _, v := range want {
		if err := of[v].finish(ctx, p); err != nil {
			return nil, err
		}
		for _, e := range of[v].cov {
			if e-e != 0 {
				return nil, &fault.Error{Tensor: v.Name, Op: "prune.channels", Err: fmt.Errorf("what the samples make of it: %w", fault.ErrNotFinite)}
			}
		}
	}
	return of, run.Close()
}

// add takes rows of channels from a tensor.
func (s *seen) add(ctx context.Context, p *pruning, t *graph.Tensor) error {
	if t.Type != graph.Float32 || s.axis >= len(t.Shape) {
		return nil
	}
	n, inner := t.Shape[s.axis], graph.Elems(t.Shape[s.axis+1:])
	if t.Elems() == 0 {
		return nil
	}
	x := graph.Of[float32](t)
	positions := len(x) / n
	k := min(positions, max(covRows/len(p.samples), 1))
	row := make([]float32, n+1)
	row[n] = 1
	for i := range k {
		at := i * positions / k
		from := x[at/inner*n*inner+at%inner:]
		for c := range n {
			row[c] = from[c*inner]
		}
		s.rows++
		if s.full {
			if err := s.gram.Add(ctx, p.threads, row); err != nil {
				return err
			}
			continue
		}
		for c, v := range row[:n] {
			s.cov[c] += float64(v) * float64(v)
		}
	}
	return nil
}

// finish divides by the rows. The mean goes out of the covariance: a bias makes up for it.
func (s *seen) finish(ctx context.Context, p *pruning) error {
	rows := float64(max(s.rows, 1))
	if !s.full {
		for c := range s.cov {
			s.cov[c] /= rows
		}
		return nil
	}
	sum, err := s.gram.Sum(ctx, p.threads)
	if err != nil {
		return err
	}
	n := 1
	for n*n < len(sum) {
		n++
	}
	k := n - 1
	s.cov, s.gram = make([]float64, k*k), nil
	for i := range k {
		for j := range k {
			s.cov[i*k+j] = (sum[i*n+j] - sum[i*n+k]*sum[j*n+k]/rows) / rows
		}
	}
	return nil
}
