package runner_test

import (
	"context"
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
)

// sequences cuts the reference ids of a tiny architecture into texts of different lengths, and gives
// one that is longer than a batch of the walk.
func sequences(t testing.TB, name string) [][]int32 {
	ids, _ := tokensOf(t, filepath.Join(architectures, name, "reference.safetensors"), "input_ids")
	long := make([]int32, 0, 600)
	for len(long) < 600 {
		long = append(long, ids[:min(len(ids), 600-len(long))]...)
	}
	return [][]int32{ids[:48], ids[48:53], long, {}, ids[60:61], ids[48:96]}
}

func start(t testing.TB, m *ir.Model, opt runner.Options, seqs [][]int32) ir.Walk {
	t.Helper()
	w, err := runner.NewExecutor(opt).Start(context.Background(), m, seqs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// collect gathers the rows that a walk hands over.
func collect(t testing.TB, read func(context.Context, func(x []float32, rows, cols int) error) error) (all []float32, cols int) {
	t.Helper()
	err := read(context.Background(), func(x []float32, rows, c int) error {
		if len(x) != rows*c {
			t.Errorf("%d numbers for %d x %d", len(x), rows, c)
		}
		all, cols = append(all, x...), c
		for i := range x {
			x[i] = float32(math.NaN()) // what is handed over belongs to the receiver
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all, cols
}

func inputs(t testing.TB, w ir.Walk, stage string) ([]float32, int) {
	t.Helper()
	for _, s := range ir.Stages {
		if s.Name == stage {
			return collect(t, func(ctx context.Context, fn func([]float32, int, int) error) error { return w.Inputs(ctx, s, fn) })
		}
	}
	t.Fatalf("no stage %q", stage)
	return nil, 0
}

// walkAll collects every stage of every block, and the head's input.
func walkAll(t testing.TB, w ir.Walk, layers int) (all [][]float32) {
	t.Helper()
	for b := range layers {
		if w.Block() != b {
			t.Fatalf("the walk stands at block %d, want %d", w.Block(), b)
		}
		for _, s := range ir.Stages {
			x, _ := inputs(t, w, s.Name)
			all = append(all, x)
		}
		if err := w.Next(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	x, _ := collect(t, w.Head)
	return append(all, x)
}

// The residual stream of a walk is that of sessions that run each text alone; a walk that asks for
// nothing on the way ends at the same place.
func TestWalkAgreesWithSessions(t *testing.T) {
	for _, name := range []string{"llama", "mistral", "qwen2", "qwen3"} {
		m := open(t, filepath.Join(architectures, name))
		seqs := sequences(t, name)
		r := load(t, m, runner.Options{Context: 1000, Batch: 512})
		d := m.Decoder
		want := make([][]float32, d.Layers)
		for _, s := range seqs {
			session := r.NewSession()
			session.OnBlock = func(b int, hidden []float32, rows, cols int) {
				want[b] = append(want[b], hidden...)
			}
			if err := session.Append(context.Background(), s, runner.WantNone, nil); err != nil {
				t.Fatal(err)
			}
		}
		walk := start(t, m, runner.Options{}, seqs)
		all := walkAll(t, walk, d.Layers)
		// The last residual stream, normalised, is the head's input.
		gain, err := ir.ReadAll(context.Background(), m.Role(ir.RoleFinalNorm, -1))
		if err != nil {
			t.Fatal(err)
		}
		var normal []float32
		last := want[d.Layers-1]
		for at := 0; at < len(last); at += d.Hidden {
			x := last[at : at+d.Hidden]
			var ss float64
			for _, v := range x {
				ss += float64(v) * float64(v)
			}
			f := 1 / math.Sqrt(ss/float64(d.Hidden)+float64(d.NormEps))
			for i, v := range x {
				normal = append(normal, float32(float64(v)*f)*gain[i])
			}
		}
		// their attentions add up in different orders
		if w := worst(all[len(all)-1], normal); !(w <= 2e-5) {
			t.Errorf("%s: the walk ends %g of the spread away from the sessions", name, w)
		}
		quick := start(t, m, runner.Options{}, seqs)
		for range d.Layers {
			if err := quick.Next(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		if got, _ := collect(t, quick.Head); !slices.Equal(got, all[len(all)-1]) {
			t.Errorf("%s: a walk without stages ends elsewhere", name)
		}
	}
}

// Same bytes at any number of threads and when the states are spilled; nothing is left behind.
func TestWalkSameBytes(t *testing.T) {
	m := open(t, filepath.Join(architectures, "qwen3"))
	seqs := sequences(t, "qwen3")
	for _, isa := range cpu.Available() {
		want := walkAll(t, start(t, m, runner.Options{Threads: 1, ISA: isa}, seqs), m.Decoder.Layers)
		work := t.TempDir()
		for _, opt := range []runner.Options{{Threads: 2}, {Threads: 2, Memory: 400 << 10, Work: work}, {Memory: 1, Work: work}} {
			opt.ISA = isa
			w, err := runner.NewExecutor(opt).Start(context.Background(), m, seqs)
			if err != nil {
				t.Fatal(err)
			}
			got := walkAll(t, w, m.Decoder.Layers)
			if files, _ := os.ReadDir(work); opt.Memory > 0 && len(files) == 0 {
				t.Errorf("%+v: nothing was spilled", opt)
			}
			if err := w.Close(); err != nil {
				t.Error(err)
			}
			for i := range want {
				if !slices.Equal(got[i], want[i]) {
					t.Errorf("%+v: stage %d differs", opt, i)
					break
				}
			}
		}
		if files, _ := os.ReadDir(work); len(files) != 0 {
			t.Errorf("%d files left behind", len(files))
		}
	}
}

// scaled is a handle whose rows are those of another, times a factor.
type scaled struct {
	of     *ir.Tensor
	factor float32
}

func (s scaled) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	if err := s.of.Data.ReadRows(ctx, dst, lo, hi); err != nil {
		return err
	}
	for i := range dst {
		dst[i] *= s.factor
	}
	return nil
}

func (s scaled) ReadRaw(ctx context.Context, _ ir.Part, dst []byte, lo, hi int) error {
	x := make([]float32, (hi-lo)*s.of.Cols())
	if err := s.ReadRows(ctx, x, lo, hi); err != nil {
		return err
	}
	return storage.MustLookup(storage.F32).Encode(dst, x, nil)
}

func scale(t *testing.T, m *ir.Model, r ir.Role, block int, factor float32) {
	t.Helper()
	of := m.Role(r, block)
	if err := m.Replace(of.With(storage.F32, nil, scaled{of, factor})); err != nil {
		t.Fatal(err)
	}
}

// A stage is computed with the weights that the handles give now. Values and up are linear in their
// outputs, so scaling v by 2 doubles what o reads, and scaling up by 4 makes what down reads 4 times
// as much, bit for bit, while stages before the change stay as they are.
func TestWalkFollowsHandles(t *testing.T) {
	m := open(t, filepath.Join(architectures, "llama")).Clone()
	seqs := sequences(t, "llama")
	seqs = append(seqs[:4], seqs[5:]...) // a text of one token takes other kernels for bf16 than for f32
	w := start(t, m, runner.Options{}, seqs)
	times := func(x []float32, f float32) []float32 {
		x = slices.Clone(x)
		for i := range x {
			x[i] *= f
		}
		return x
	}
	qkv, _ := inputs(t, w, "qkv")
	o, _ := inputs(t, w, "o")
	scale(t, m, ir.RoleAttnV, 0, 2)
	if x, _ := inputs(t, w, "qkv"); !slices.Equal(x, qkv) {
		t.Error("the input of qkv changed with v")
	}
	if x, _ := inputs(t, w, "o"); !slices.Equal(x, times(o, 2)) {
		t.Error("v was doubled, but not what o reads")
	}
	scale(t, m, ir.RoleAttnO, 0, 0.5) // o(v) is what it was
	gateUp, _ := inputs(t, w, "gate_up")
	fresh := start(t, open(t, filepath.Join(architectures, "llama")), runner.Options{}, seqs)
	if x, _ := inputs(t, fresh, "gate_up"); !slices.Equal(x, gateUp) {
		t.Error("2 v and o/2 do not cancel")
	}
	down, _ := inputs(t, w, "down")
	scale(t, m, ir.RoleMLPUp, 0, 4)
	if x, _ := inputs(t, w, "down"); !slices.Equal(x, times(down, 4)) {
		t.Error("up was scaled by 4, but not what down reads")
	}
	scale(t, m, ir.RoleMLPDown, 0, 0.25)
	for _, walk := range []ir.Walk{w, fresh} {
		if err := walk.Next(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	a, _ := inputs(t, w, "qkv")
	b, _ := inputs(t, fresh, "qkv")
	if !slices.Equal(a, b) {
		t.Error("4 up and down/4 do not cancel")
	}
}

// counted counts how many rows of a tensor are read.
type counted struct {
	of   *ir.Tensor
	rows map[ir.Role]int
}

func (c counted) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	c.rows[c.of.Role] += hi - lo
	return c.of.Data.ReadRows(ctx, dst, lo, hi)
}

func (c counted) ReadRaw(ctx context.Context, part ir.Part, dst []byte, lo, hi int) error {
	c.rows[c.of.Role] += hi - lo
	return c.of.Data.ReadRaw(ctx, part, dst, lo, hi)
}

// A stage reads no weight that does not enter into its input, and a block reads every weight once:
// to read a handle may be to encode it, and a method replaces it before it is needed.
func TestWalkReadsWeightsOnce(t *testing.T) {
	ctx := context.Background()
	stages := []struct {
		name  string
		roles []ir.Role
	}{
		{"qkv", nil},
		{"o", []ir.Role{ir.RoleAttnQ, ir.RoleAttnK, ir.RoleAttnV}},
		{"gate_up", []ir.Role{ir.RoleAttnO}},
		{"down", []ir.Role{ir.RoleMLPGate, ir.RoleMLPUp}},
		{"", []ir.Role{ir.RoleMLPDown}}, // Next
	}
	for _, asked := range [][]string{{"qkv", "o", "gate_up", "down"}, {"gate_up"}, {}} {
		m := open(t, filepath.Join(architectures, "qwen2")).Clone()
		rows, want := map[ir.Role]int{}, map[ir.Role]int{}
		for _, s := range stages {
			for _, r := range s.roles {
				of := m.Role(r, 0)
				if err := m.Replace(of.With(of.Type, of.Scheme, counted{of, rows})); err != nil {
					t.Fatal(err)
				}
			}
		}
		w := start(t, m, runner.Options{}, [][]int32{{1, 2, 3}, {4, 5}})
		for _, s := range stages {
			for _, r := range s.roles {
				want[r] = m.Role(r, 0).Rows()
			}
			if s.name == "" {
				if err := w.Next(ctx); err != nil {
					t.Fatal(err)
				}
			} else if slices.Contains(asked, s.name) {
				inputs(t, w, s.name)
			} else {
				continue
			}
			if !maps.Equal(rows, want) {
				t.Errorf("asked for %v: after %q the rows read are %v, want %v", asked, s.name, rows, want)
			}
		}
	}
}

func TestWalkRefusals(t *testing.T) {
	ctx := context.Background()
	m := open(t, filepath.Join(architectures, "qwen2"))
	e := runner.NewExecutor(runner.Options{})
	if _, err := e.Start(ctx, m, [][]int32{{}, {}}); err == nil {
		t.Error("no tokens at all were accepted")
	}
	if _, err := e.Start(ctx, m, [][]int32{{1, 99999}}); !errors.Is(err, runner.ErrToken) {
		t.Errorf("a token outside the vocabulary: %v", err)
	}
	if _, err := runner.NewExecutor(runner.Options{KV: "q4_0"}).Start(ctx, m, [][]int32{{1}}); !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("a q4_0 cache: %v", err)
	}
	w := start(t, m, runner.Options{}, [][]int32{{1, 2, 3}})
	none := func([]float32, int, int) error { return nil }
	if err := w.Inputs(ctx, ir.Stage{Name: "router"}, none); err == nil {
		t.Error("an unknown stage was accepted")
	}
	if err := w.Head(ctx, none); err == nil {
		t.Error("the head before the last block was accepted")
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if err := w.Next(over); !errors.Is(err, context.Canceled) || w.Block() != 0 {
		t.Errorf("after cancellation: %v, block %d", err, w.Block())
	}
	for range m.Decoder.Layers {
		if err := w.Next(ctx); err != nil { // nothing was lost by the cancellation
			t.Fatal(err)
		}
	}
	// What a walk has passed is gone: it does not go back to an earlier stage, nor on with attention
	// weights that are not those it passed with.
	other := m.Clone()
	back := start(t, other, runner.Options{}, [][]int32{{1, 2, 3}})
	inputs(t, back, "down")
	for _, s := range ir.Stages[:2] {
		if err := back.Inputs(ctx, s, none); err == nil {
			t.Errorf("stage %s was handed over after down", s.Name)
		}
	}
	inputs(t, back, "gate_up") // the stream is that before the MLP still
	scale(t, other, ir.RoleAttnV, 0, 2)
	if err := back.Next(ctx); err == nil {
		t.Error("attention changed behind the walk, which went on")
	}
	if err := w.Next(ctx); err == nil {
		t.Error("a block after the last was accepted")
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if err := w.Head(ctx, none); err == nil {
		t.Error("a closed walk went on")
	}
}
