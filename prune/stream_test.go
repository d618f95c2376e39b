package prune_test

import (
	"context"
	"math"
	"runtime"
	"slices"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/prune"
	"github.com/pare-dev/pare/runner"
)

// made is a weight that exists only when it is read.
type made struct{ cols int }

func (m made) ReadRows(_ context.Context, dst []float32, lo, _ int) error {
	for i := range dst {
		h := uint32(lo*m.cols+i) * 2654435761
		dst[i] = float32(int32(h)) / (1 << 31)
	}
	return nil
}

func (m made) ReadRaw(ctx context.Context, _ ir.Part, dst []byte, lo, hi int) error {
	x := make([]float32, (hi-lo)*m.cols)
	if err := m.ReadRows(ctx, x, lo, hi); err != nil {
		return err
	}
	return storage.MustLookup(storage.F32).Encode(dst, x, nil)
}

// The thresholds of 64 MiB of weights take a few MiB, everything ever allocated counted, and the
// count is exact.
func TestThresholdsStream(t *testing.T) {
	const rows, cols, tensors = 1 << 11, 1 << 11, 4
	m := &ir.Model{Path: "made"}
	for i := range tensors {
		at := &ir.Tensor{Name: "layers." + string(rune('0'+i)) + ".w.weight", Role: ir.RoleMLPUp, Block: i, Shape: []int{rows, cols}, Type: storage.F32, Data: made{cols}}
		if err := m.Add(at); err != nil {
			t.Fatal(err)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	p := &prune.Magnitude{Options: prune.Options{Sparsity: 0.3, Scope: prune.ScopeGlobal}}
	res, err := p.Apply(t.Context(), m, nil, ir.Env{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 24<<20 {
		t.Errorf("%d MiB allocated for 64 MiB of weights", used>>20)
	}
	sum := 0.0
	for _, f := range res.Tensors {
		sum += f["sparsity"] * rows * cols
	}
	if want := math.Floor(tensors * rows * cols * 0.3); math.Round(sum) != want {
		t.Errorf("%v weights go, want %v", sum, want)
	}
}

// spy notes the mean squares that the walk hands over, before the pass sees them.
type spy struct {
	ir.Executor
	seen map[[2]int][]float64
}

type spyWalk struct {
	ir.Walk
	s *spy
}

func (s *spy) Start(ctx context.Context, m *ir.Model, seq [][]int32) (ir.Walk, error) {
	w, err := s.Executor.Start(ctx, m, seq)
	return spyWalk{w, s}, err
}

func (w spyWalk) Inputs(ctx context.Context, stage ir.Stage, fn func([]float32, int, int) error) error {
	at := [2]int{w.Block(), slices.IndexFunc(ir.Stages, func(s ir.Stage) bool { return s.Name == stage.Name })}
	return w.Walk.Inputs(ctx, stage, func(x []float32, rows, cols int) error {
		if w.s.seen[at] == nil {
			w.s.seen[at] = make([]float64, cols)
		}
		for i, v := range x {
			w.s.seen[at][i%cols] += float64(v) * float64(v)
		}
		return fn(x, rows, cols)
	})
}

// Wanda on a trained model, its inputs measured block by block: each block sees the inputs that the
// pruned blocks before it produce, and each row loses its lowest |w|*norm.
func TestWandaSequential(t *testing.T) {
	m, err := formats.Open(t.Context(), "../testdata/books-llama/model")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close() //nolint:errcheck // read only
	original := m.Clone()
	var tokens []int32
	for i := range 96 {
		tokens = append(tokens, int32(i*37%4000+5))
	}
	env := ir.Env{Threads: 1, Tokens: [][]int32{tokens[:64], tokens[64:]}, Work: t.TempDir()}
	s := &spy{Executor: runner.NewExecutor(runner.Options{Threads: 1, ISA: cpu.Portable}), seen: map[[2]int][]float64{}}
	env.Executor = s
	res := run(t, m, &prune.Wanda{Options: prune.Options{Pattern: "2:4", Only: []string{"*.layers.0.*_proj", "*.layers.1.*_proj"}}}, env)
	if res.Changed != 14 || len(s.seen) != 8 {
		t.Errorf("%d tensors changed, %d stages measured", res.Changed, len(s.seen))
	}
	for _, at := range m.Tensors() {
		was := original.Find(at.Name)
		if res.Tensors[at.Name] == nil {
			if at != was {
				t.Errorf("%s was touched", at.Name)
			}
			continue
		}
		stage := slices.IndexFunc(ir.Stages, func(s ir.Stage) bool { return slices.Contains(s.Roles, at.Role) })
		sums := s.seen[[2]int{at.Block, stage}]
		w, x := read(t, original, at.Name), read(t, m, at.Name)
		cols := at.Cols()
		wrong := 0
		for g := 0; g < len(w); g += 4 {
			order := []int{0, 1, 2, 3}
			slices.SortStableFunc(order, func(a, b int) int {
				sa, sb := math.Abs(float64(w[g+a]))*math.Sqrt(sums[(g+a)%cols]), math.Abs(float64(w[g+b]))*math.Sqrt(sums[(g+b)%cols])
				switch {
				case sa < sb:
					return -1
				case sa > sb:
					return 1
				}
				return 0
			})
			for n, i := range order {
				want := w[g+i]
				if n < 2 {
					want = 0
				}
				if x[g+i] != want {
					wrong++
				}
			}
		}
		if wrong > len(w)/10000 { // scores are float32 products: a tie there is none in float64
			t.Errorf("%s: %d of %d weights differ from the definition", at.Name, wrong, len(w))
		}
	}
	// in the first block nothing was pruned while it was measured: whatever is to go there, it reads the same
	alone := &spy{Executor: s.Executor, seen: map[[2]int][]float64{}}
	env.Executor = alone
	run(t, original.Clone(), &prune.Wanda{Options: prune.Options{Pattern: "2:4", Only: []string{"*.layers.0.*down_proj"}}}, env)
	for j, v := range alone.seen[[2]int{0, 3}] {
		if got := s.seen[[2]int{0, 3}][j]; got != v || v == 0 {
			t.Fatalf("input %d of the last stage of block 0: %g, %g when nothing else is pruned", j, got, v)
		}
	}
	// the second block was measured on what the pruned first block produces
	first := &spy{Executor: s.Executor, seen: map[[2]int][]float64{}}
	env.Executor = first
	run(t, original, &prune.Wanda{Options: prune.Options{Pattern: "2:4", Only: []string{"*.layers.1.*_proj"}}}, env)
	if d := math.Abs(s.seen[[2]int{1, 0}][0]/first.seen[[2]int{1, 0}][0] - 1); d < 1e-4 {
		t.Errorf("inputs of block 1 moved by %g only: block 0 was not pruned when it ran", d)
	}
}

// Without tokens or an executor there is nothing to measure.
func TestWandaNeedsTokens(t *testing.T) {
	m, err := formats.Open(t.Context(), "../testdata/books-llama/model")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close() //nolint:errcheck // read only
	p := &prune.Wanda{Options: prune.Options{Sparsity: 0.5}}
	if p.Needs() != ir.NeedActivations {
		t.Error("Needs")
	}
	if _, err := p.Apply(t.Context(), m, nil, ir.Env{}); err == nil {
		t.Error("applied without tokens")
	}
}

// SparseGPT on a trained model: every matrix of the chosen blocks holds its pattern, each step gained, and
// a second run over the same folder adopts what the first finished without asking for an input.
func TestSparseGPTOnModel(t *testing.T) {
	env := ir.Env{Threads: 2, Work: t.TempDir(), ISA: cpu.Portable}
	for i := range 4 {
		seq := make([]int32, 64)
		for j := range seq {
			seq[j] = int32((i*64+j)*37%4000 + 5)
		}
		env.Tokens = append(env.Tokens, seq)
	}
	var first []float32
	for again := range 2 {
		m, err := formats.Open(t.Context(), "../testdata/books-llama/model")
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close() //nolint:errcheck // read only
		s := &spy{Executor: runner.NewExecutor(runner.Options{Threads: 1, ISA: cpu.Portable}), seen: map[[2]int][]float64{}}
		env.Executor = s
		p := &prune.SparseGPT{Options: prune.Options{Pattern: "2:4", Only: []string{"*.layers.0.*_proj"}}}
		want, err := p.Expect(m)
		if err != nil {
			t.Fatal(err)
		}
		res := run(t, m, p, env)
		if res.Changed != 7 || len(s.seen) != 4*(1-again) {
			t.Errorf("%d matrices changed, %d stages measured", res.Changed, len(s.seen))
		}
		for name, f := range res.Tensors {
			if !(f["loss_dropped"] > f["loss_repaired"] && f["loss_repaired"] > f["loss_refitted"] && f["loss_refitted"] > 0) {
				t.Errorf("%s: %v", name, f)
			}
		}
		found, err := prune.Verify(t.Context(), m, want)
		if err != nil || len(found) != 7 {
			t.Fatal(found, err)
		}
		for _, f := range found {
			if !f.Holds {
				t.Errorf("%+v", f)
			}
		}
		x, err := ir.ReadAll(t.Context(), m.Find(found[3].Tensor))
		if err != nil {
			t.Fatal(err)
		}
		if again == 0 {
			first = x
		} else if !slices.Equal(first, x) {
			t.Error("the second run made other weights")
		}
	}
}
