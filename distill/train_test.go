package distill

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

func load32(t *testing.T, m *ir.Model, threads int) *Net[float32] {
	t.Helper()
	n, err := Load[float32](t.Context(), m, kernels.For(cpu.Best()), threads, m.Decoder.Context, nil)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// everything is a choice of parameters.
func everything(*Param[float32]) bool { return true }

// The first step of AdamW from nothing moves every weight by the rate against the sign of its gradient.
func TestFirstStep(t *testing.T) {
	p := &Param[float32]{Rows: 2, Cols: 2, W: []float32{1, 2, -3, 0}, Grad: []float32{0.5, -1e-3, 7, 2}}
	o := AdamW{Beta1: 0.9, Beta2: 0.95, Eps: 1e-12}
	if err := o.Step(t.Context(), 2, []*Param[float32]{p}, map[*Param[float32]][]bool{p: {false, false, false, true}}, 0.1, 1); err != nil {
		t.Fatal(err)
	}
	for i, want := range []float32{0.9, 2.1, -3.1, 0} {
		if math.Abs(float64(p.W[i]-want)) > 1e-6 {
			t.Errorf("weight %d is %v, want %v", i, p.W[i], want)
		}
	}
	// the second step by hand: m = .9*.1*.5+.1*1 = .145 over 1-.81, v = .95*.05*.25+.05*1 = .061875 over 1-.9025
	p.Grad = []float32{1, 0, 0, 0}
	o.Decay = 0.5
	if err := o.Step(t.Context(), 1, []*Param[float32]{p}, nil, 0.1, 1); err != nil {
		t.Fatal(err)
	}
	if want := 0.9 - 0.1*(0.145/0.19)/math.Sqrt(0.061875/0.0975) - 0.1*0.5*0.9; math.Abs(float64(p.W[0])-want) > 1e-6 {
		t.Errorf("second step: %v, want %v", p.W[0], want)
	}
}

// A student becomes like its teacher; blocks that compute their activations again, batches in parts and
// any number of threads make the same bits, and zeros stay.
func TestLearns(t *testing.T) {
	d := shapes["llama"]
	seqs := random(24, 16, d.Vocab)
	var first []float32
	for run := range 3 {
		o := Options{Tokens: 60 * 4 * 16, Batch: 4, Micro: 4, Rate: 0.02, Threads: 2}
		if run == 1 {
			o.Threads, o.Recompute = 1, true
		}
		student, teacher := load32(t, tiny(t, d, 1), o.Threads), load32(t, tiny(t, d, 2), o.Threads)
		for _, i := range []int{0, 7, 100} {
			student.blocks[0].gate.w.W[i] = 0
		}
		tr, err := NewTrainer(student, teacher, Plain(seqs), everything, o)
		if err != nil {
			t.Fatal(err)
		}
		tr.KeepZeros(student.blocks[0].gate.w)
		if run == 2 {
			tr.StoreAs(student.head, storage.MustLookup(storage.F16))
		}
		var curve []Point
		for !tr.Done() {
			p, err := tr.Step(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			curve = append(curve, p)
		}
		if len(curve) != 60 || curve[59].Divergence > curve[0].Divergence/2 {
			t.Errorf("%d steps from %+v to %+v", len(curve), curve[0], curve[len(curve)-1])
		}
		if w := student.blocks[0].gate.w.W; w[0] != 0 || w[7] != 0 || w[100] != 0 || w[1] == 0 {
			t.Error("zeros did not stay zero")
		}
		w := slices.Concat(student.embedding.W, student.blocks[1].down.w.W)
		switch {
		case first == nil:
			first = w
		case run == 1 && !slices.Equal(first, w):
			t.Error("other weights with one thread and without remembered activations")
		case run == 2 && slices.Equal(first, w):
			t.Error("the stored type of the output matrix made no difference")
		}
	}
}

// patient ends the context after some steps.
type patient struct {
	progress.Sink
	left int
	stop context.CancelFunc
}

func (p *patient) Add(int64) {
	if p.left--; p.left == 0 {
		p.stop()
	}
}

// A training that was stopped goes on to the same bits; a damaged state is not taken.
func TestResume(t *testing.T) {
	d := shapes["llama"]
	p := &Pass{Options: Options{Tokens: 20 * 4 * 16, Batch: 4, Rate: 0.02}, Teacher: tiny(t, d, 2)}
	run := func(work string, stopAfter int) ([]float32, error) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		m := tiny(t, d, 1)
		env := ir.Env{Threads: 2, Work: work, ISA: cpu.Best(), Tokens: random(10, 16, d.Vocab), Progress: &patient{progress.Discard, stopAfter, stop}}
		steps := 0
		p.Curve = func(Point) { steps++ }
		if _, err := p.Apply(ctx, m, nil, env); err != nil {
			return nil, err
		}
		if steps != 20 {
			t.Errorf("a curve of %d steps", steps)
		}
		return ir.ReadAll(ctx, m.Role(ir.RoleMLPDown, 1))
	}
	want, err := run(t.TempDir(), -1)
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	for _, after := range []int{7, 13} { // the second counts those that are read back
		if _, err := run(work, after); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	state := filepath.Join(work, "distill.state")
	kept, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, kept[:40], kept[:len(kept)-1], slices.Concat(kept[:300], []byte{kept[300] ^ 1}, kept[301:])} {
		if err := os.WriteFile(state, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := run(work, -1); err != nil || !slices.Equal(got, want) {
			t.Errorf("with a damaged state of %d bytes: %v", len(bad), err)
		}
	}
	if err := os.WriteFile(state, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := run(work, -1)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("other weights after two interruptions, %v", err)
	}
}

// What makes no sense is refused in words.
func TestRefused(t *testing.T) {
	d := shapes["llama"]
	other := d
	other.Vocab++
	for name, p := range map[string]*Pass{
		"loss":        {Options: Options{Loss: Loss{Kind: "mse"}}},
		"temperature": {Options: Options{Loss: Loss{Temperature: math.Inf(1)}}},
		"share":       {Options: Options{Loss: Loss{CrossEntropy: 2}}},
		"train":       {Train: "nothing"},
		"vocabulary":  {Teacher: tiny(t, other, 1)},
	} {
		if _, err := p.Plan(t.Context(), tiny(t, d, 1)); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	n := load32(t, tiny(t, d, 1), 1)
	for _, seqs := range [][][]int32{{{1, 2, int32(d.Vocab)}}, {{1, -1}}, {{1, 2}, {1}}} {
		if _, err := n.Forward(t.Context(), seqs, false); err == nil {
			t.Errorf("%v is accepted", seqs)
		}
	}
	tr, err := NewTrainer(n, nil, Plain(random(4, 16, d.Vocab)), everything, Options{Tokens: 1e4, Rate: 1e30, Clip: 1e30, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	for !tr.Done() && err == nil {
		_, err = tr.Step(t.Context())
	}
	if err == nil {
		t.Error("a training that diverges to infinity ends well")
	}
}

// Memory decides first how much is gone through at once and then whether blocks remember; what does not
// fit is refused.
func TestFit(t *testing.T) {
	m := tiny(t, shapes["llama"], 1)
	s := Subject{Student: m, Teacher: tiny(t, shapes["llama"], 2), Learns: func(*ir.Tensor) bool { return true }}
	f := s.Footprint(64)
	// 20 bytes for every weight of the student (one for zeros that stay), 4 for those of the teacher
	if n := m.Parameters(); f.Weights < 21*n+4*n {
		t.Errorf("%d weights in %d bytes", n, f.Weights)
	}
	for _, c := range []struct {
		memory    int64
		micro     int
		recompute bool
	}{
		{0, 16, false},
		{f.Weights + 16*64*(f.Token+f.Remember), 16, false},
		{f.Weights + 16*64*(f.Token+f.Remember) - 1, 8, false},
		{f.Weights + 4*64*(f.Token+f.Remember), 4, false},
		{f.Weights + 4*64*(f.Token+f.Remember) - 1, 4, true},
		{f.Least(64), 1, true},
	} {
		if o, err := f.Fit(Options{}, 64, c.memory); err != nil || o.Micro != c.micro || o.Recompute != c.recompute {
			t.Errorf("%d bytes: %d sequences at once, computed again: %v, %v", c.memory, o.Micro, o.Recompute, err)
		}
	}
	if _, err := f.Fit(Options{}, 64, f.Least(64)-1); !errors.Is(err, fault.ErrBudget) {
		t.Errorf("too little memory: %v", err)
	}
}

// Scratch is held for some cores, however many there are, so that what fits in memory, and with it the bits of sums of
// gradients, is the same on all machines.
func TestManyThreads(t *testing.T) {
	seqs := random(40, 16, shapes["llama"].Vocab)
	var first []float32
	for _, threads := range []int{1, 3 * scratchWorkers} {
		n := load32(t, tiny(t, shapes["llama"], 1), threads)
		tr, err := NewTrainer(n, nil, Plain(seqs), everything, Options{Tokens: 640, Batch: 40, Threads: threads})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tr.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(n.scratch) > scratchWorkers || len(n.bands.scratch) > scratchWorkers {
			t.Errorf("scratch of %d and %d cores", len(n.scratch), len(n.bands.scratch))
		}
		if w := n.blocks[0].q.w.W; first == nil {
			first = w
		} else if !slices.Equal(first, w) {
			t.Errorf("other weights on %d threads", threads)
		}
	}
}

// A matrix that does not learn gives the same bits from its stored bytes as from float32.
func TestFrozen(t *testing.T) {
	seqs := counted(2, 40)
	var want []float32
	for _, learns := range []func(*ir.Tensor) bool{nil, func(*ir.Tensor) bool { return false }} {
		n, err := Load[float32](t.Context(), open(t, books), kernels.For(cpu.Best()), 2, 40, learns)
		if err != nil {
			t.Fatal(err)
		}
		n.forwardOnly = learns != nil
		x, err := n.Forward(t.Context(), seqs, false)
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = slices.Clone(x.Data)
		} else if !slices.Equal(want, x.Data) {
			t.Error("other states from stored weights")
		}
		if frozen := n.head.frozen != nil; frozen != (learns != nil) {
			t.Errorf("frozen: %v", frozen)
		}
	}
}
