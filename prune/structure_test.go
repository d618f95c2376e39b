package prune_test

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/distill"
	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/prune"
	"github.com/pare-dev/pare/runner"
)

// tokensFor are some sequences, always the same.
func tokensFor(vocab, n, length int) (seqs [][]int32) {
	for i := range n {
		s := make([]int32, length)
		for j := range s {
			s[j] = int32((i*7919 + j*104729 + j*j*31) % (vocab - 8))
		}
		seqs = append(seqs, s)
	}
	return seqs
}

func open(t *testing.T, path string) *ir.Model {
	t.Helper()
	m, err := formats.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func logits(t *testing.T, m *ir.Model, tokens []int32) (all []float32) {
	t.Helper()
	r, err := runner.Load(t.Context(), m, runner.Options{Threads: 1, Activations: runner.ActivationsF32})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	err = r.NewSession().Append(t.Context(), tokens, runner.WantAll, func(_ int, l []float32) error {
		all = append(all, l...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func apply(t *testing.T, m *ir.Model, p ir.Pass, tokens [][]int32, work string, threads int) (*ir.Plan, *ir.Result) {
	t.Helper()
	plan, err := p.Plan(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	env := ir.Env{Threads: threads, Tokens: tokens, Work: work, Executor: runner.NewExecutor(runner.Options{Threads: threads}), Learner: distill.Learner{K: kernels.For(cpu.Best()), Threads: threads}}
	res, err := p.Apply(t.Context(), m, plan, env)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Check(); err != nil {
		t.Fatal(err)
	}
	for _, s := range plan.Steps { // shapes and sizes are as planned
		x := m.Find(s.Tensor)
		if x == nil {
			t.Fatalf("%s is planned and not there", s.Tensor)
		}
		if n, err := x.Bytes(); err != nil || n != s.Bytes || s.Shape != nil && !slices.Equal(s.Shape, x.Shape) {
			t.Errorf("%s has shape %v, %d bytes; planned %v, %d", s.Tensor, x.Shape, n, s.Shape, s.Bytes)
		}
	}
	if len(plan.Steps) != len(m.Tensors()) {
		t.Errorf("%d tensors, planned %d", len(m.Tensors()), len(plan.Steps))
	}
	return plan, res
}

// edited is a tensor with changed values.
func edited(t *testing.T, m *ir.Model, x *ir.Tensor, change func(w []float32)) {
	t.Helper()
	w, err := ir.ReadAll(t.Context(), x)
	if err != nil {
		t.Fatal(err)
	}
	change(w)
	info := storage.MustLookup(x.Type)
	b := make([]byte, info.BlockBytes*len(w))
	if err := info.Encode(b, w, nil); err != nil {
		t.Fatal(err)
	}
	c := x.With(x.Type, nil, &memory{info, x.Cols(), b})
	if err := m.Replace(c); err != nil {
		t.Fatal(err)
	}
}

func far(a, b []float32) (most float64) {
	for i, v := range a {
		most = math.Max(most, math.Abs(float64(v-b[i])))
	}
	return most
}

// Of every family: parts that do nothing go first, whatever they are chosen by, and the logits stay. The
// same holds behind a file of either container, whose configuration then tells the new sizes.
func TestDeadPartsGo(t *testing.T) {
	for _, c := range []struct {
		family     string
		ffn, heads int
	}{{"llama", 192, 1}, {"mistral", 96, 1}, {"qwen2", 128, 1}, {"qwen3", 96, 1}} {
		for _, score := range []string{prune.ScoreActivation, prune.ScoreFit, prune.ScoreMagnitude, prune.ScoreTaylor, prune.ScoreFisher} {
			m := open(t, "../testdata/architectures/"+c.family)
			d := *m.Decoder
			kill := func(role ir.Role, block int, dead func(row, col int) bool) {
				x := m.Role(role, block)
				if x == nil {
					return // a bias that the family lacks
				}
				cols := x.Cols()
				edited(t, m, x, func(w []float32) {
					for i := range w {
						row, col := i/cols, i%cols
						if len(x.Shape) == 1 {
							row, col = i, i
						}
						if dead(row, col) {
							w[i] = 0
						}
					}
				})
			}
			group := d.Heads / d.KVHeads
			for b := range d.Layers {
				neuron := func(i int) bool { return i%d.FFN >= (b*16)%64 && i%d.FFN < (b*16)%64+d.FFN-c.ffn }
				kill(ir.RoleMLPGate, b, func(row, _ int) bool { return neuron(row) })
				kill(ir.RoleMLPUp, b, func(row, _ int) bool { return neuron(row) })
				kill(ir.RoleMLPDown, b, func(_, col int) bool { return neuron(col) })
				if d.KVHeads > 1 {
					dead := b % d.KVHeads
					of := func(i, size int) bool { return i/size == dead }
					kill(ir.RoleAttnQ, b, func(row, _ int) bool { return of(row, group*d.HeadDim) })
					kill(ir.RoleAttnQBias, b, func(row, _ int) bool { return of(row, group*d.HeadDim) })
					for _, r := range []ir.Role{ir.RoleAttnK, ir.RoleAttnV, ir.RoleAttnKBias, ir.RoleAttnVBias} {
						kill(r, b, func(row, _ int) bool { return of(row, d.HeadDim) })
					}
					kill(ir.RoleAttnO, b, func(_, col int) bool { return of(col, group*d.HeadDim) })
				}
			}
			tokens := tokensFor(d.Vocab, 4, 40)
			want := logits(t, m, tokens[1])
			p := &prune.Width{Options: prune.Options{Structure: prune.Structure{FFN: c.ffn, KVHeads: c.heads, Score: score}}}
			_, res := apply(t, m, p, tokens, t.TempDir(), 2)
			if d := far(want, logits(t, m, tokens[1])); d > 2e-4 {
				t.Errorf("%s by %s: logits moved by %v (%v)", c.family, score, d, res.Notes)
			}
			if score != prune.ScoreActivation {
				continue
			}
			for _, name := range []string{"small", "small.gguf"} {
				if c.family == "mistral" && name == "small.gguf" {
					continue // has no window there, and says so
				}
				path := filepath.Join(t.TempDir(), name)
				format := map[bool]string{true: "gguf", false: "hf"}[filepath.Ext(name) == ".gguf"]
				if err := formats.Write(t.Context(), format, m, path, formats.WriteOptions{Pre: "llama-bpe"}); err != nil {
					t.Fatal(c.family, err)
				}
				again := open(t, path)
				if a := again.Decoder; a.FFN != c.ffn || a.KVHeads != c.heads || a.Heads != group*c.heads || a.HeadDim != d.HeadDim {
					t.Errorf("%s in %s: %+v", c.family, name, a)
				}
				if d := far(want, logits(t, again, tokens[1])); d > 2e-4 {
					t.Errorf("%s in %s: logits moved by %v", c.family, name, d)
				}
			}
		}
	}
}

// Channels of the residual stream that nobody writes go, and the gains of the norms make up for their number.
func TestDeadChannelsGo(t *testing.T) {
	for _, family := range []string{"llama", "mistral", "qwen2", "qwen3"} {
		m := open(t, "../testdata/architectures/"+family)
		d := m.Decoder
		dead := func(c int) bool { return c%4 != 1 } // gains are halved then, which is exact
		for _, x := range slices.Clone(m.Tensors()) {
			cols := x.Cols()
			switch x.Role {
			case ir.RoleEmbedding:
				edited(t, m, x, func(w []float32) {
					for i := range w {
						if dead(i % cols) {
							w[i] = 0
						}
					}
				})
			case ir.RoleAttnO, ir.RoleMLPDown:
				edited(t, m, x, func(w []float32) {
					for i := range w {
						if dead(i / cols) {
							w[i] = 0
						}
					}
				})
			}
		}
		tokens := tokensFor(d.Vocab, 3, 30)
		want := logits(t, m, tokens[0])
		stay := d.Hidden / 4
		_, res := apply(t, m, &prune.Width{Options: prune.Options{Structure: prune.Structure{Hidden: stay}}}, tokens, t.TempDir(), 1)
		var most float64
		for _, v := range want {
			most = math.Max(most, math.Abs(float64(v)))
		}
		if d := far(want, logits(t, m, tokens[0])); m.Decoder.Hidden != stay || d > 1e-3*most {
			t.Errorf("%s: logits up to %v moved by %v (%v)", family, most, d, res.Notes)
		}
	}
}

// The same bits at any number of threads, and after an interruption from what was kept.
func TestWidthResumes(t *testing.T) {
	p := &prune.Width{Options: prune.Options{Structure: prune.Structure{Ratio: 0.3}}}
	all := func(m *ir.Model) (x []float32) {
		for _, h := range m.Tensors() {
			w, err := ir.ReadAll(t.Context(), h)
			if err != nil {
				t.Fatal(err)
			}
			x = append(x, w...)
		}
		return x
	}
	path := "../testdata/architectures/qwen2"
	tokens := tokensFor(280, 6, 48)
	work := t.TempDir()
	m := open(t, path)
	_, res := apply(t, m, p, tokens, work, 1)
	want := all(m)
	m = open(t, path)
	ctx, stop := context.WithCancel(t.Context())
	plan, err := p.Plan(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	halfway := t.TempDir()
	ex := &stopping{Executor: runner.NewExecutor(runner.Options{Threads: 2}), left: 3, stop: stop}
	if _, err := p.Apply(ctx, m, plan, ir.Env{Threads: 2, Tokens: tokens, Work: halfway, Executor: ex}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	m = open(t, path)
	_, again := apply(t, m, p, tokens, halfway, 2)
	if got := all(m); !slices.Equal(got, want) || !slices.Equal(again.Notes, res.Notes) {
		t.Errorf("other weights or notes after an interruption: %v, %v", res.Notes, again.Notes)
	}
}

// stopping ends the context when some stages were measured.
type stopping struct {
	ir.Executor
	left int
	stop func()
}

type stoppingWalk struct {
	ir.Walk
	s *stopping
}

func (s *stopping) Start(ctx context.Context, m *ir.Model, seq [][]int32) (ir.Walk, error) {
	w, err := s.Executor.Start(ctx, m, seq)
	return stoppingWalk{w, s}, err
}

func (w stoppingWalk) Inputs(ctx context.Context, stage ir.Stage, fn func([]float32, int, int) error) error {
	if w.s.left--; w.s.left == 0 {
		w.s.stop()
	}
	return w.Walk.Inputs(ctx, stage, fn)
}

// A block that adds nothing has no influence: it goes, the logits stay to the bit, and those behind it
// are renumbered, in the catalogue and in a folder.
func TestIdentityBlockGoes(t *testing.T) {
	for _, family := range []string{"mistral", "qwen2", "qwen3"} {
		m := open(t, "../testdata/architectures/"+family)
		for _, r := range []ir.Role{ir.RoleAttnO, ir.RoleMLPDown} {
			edited(t, m, m.Role(r, 1), func(w []float32) { clear(w) })
		}
		tokens := tokensFor(m.Decoder.Vocab, 4, 32)
		want := logits(t, m, tokens[0])
		last := read(t, m, m.Role(ir.RoleMLPUp, 2).Name)
		_, res := apply(t, m, &prune.Depth{Options: prune.Options{Structure: prune.Structure{Ratio: 0.3}}}, tokens, t.TempDir(), 1)
		if !slices.Equal(res.Dropped, []int{1}) || !slices.Contains(res.Notes, "block 1 has an influence of 0.0000") {
			t.Fatalf("%s: %v went (%v)", family, res.Dropped, res.Notes)
		}
		if m.Decoder.Layers != 2 || !slices.Equal(read(t, m, m.Role(ir.RoleMLPUp, 1).Name), last) || m.Role(ir.RoleMLPUp, 2) != nil {
			t.Errorf("%s: %+v", family, m.Decoder)
		}
		path := filepath.Join(t.TempDir(), "shallow")
		if err := formats.Write(t.Context(), "hf", m, path, formats.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, now := range []*ir.Model{m, open(t, path)} {
			if got := logits(t, now, tokens[0]); !slices.Equal(got, want) {
				t.Errorf("%s: logits moved by %v", family, far(want, got))
			}
		}
	}
}

// By perplexity the block goes without which whole runs of the model predict the text best.
func TestPerplexityChooses(t *testing.T) {
	path := "../testdata/architectures/qwen2" // tied
	m := open(t, path)
	tokens := tokensFor(m.Decoder.Vocab, 3, 24)
	best, least := -1, math.Inf(1)
	for b := range m.Decoder.Layers {
		c := m.Clone()
		if err := c.DropBlocks([]int{b}); err != nil {
			t.Fatal(err)
		}
		var sum float64
		for _, s := range tokens {
			all := logits(t, c, s)
			vocab := len(all) / len(s)
			for i, id := range s[1:] {
				var z float64
				for _, v := range all[i*vocab : (i+1)*vocab] {
					z += math.Exp(float64(v))
				}
				sum += math.Log(z) - float64(all[i*vocab+int(id)])
			}
		}
		if sum < least {
			best, least = b, sum
		}
	}
	_, res := apply(t, m, &prune.Depth{Options: prune.Options{Structure: prune.Structure{Blocks: 2, Score: prune.ScorePerplexity}}}, tokens, t.TempDir(), 2)
	if !slices.Equal(res.Dropped, []int{best}) {
		t.Errorf("%v went, %d is best (%v)", res.Dropped, best, res.Notes)
	}
}

// What is not finite has no influence to be compared: no block goes for it.
func TestInfluenceThatIsNotFinite(t *testing.T) {
	m := open(t, "../testdata/architectures/llama")
	edited(t, m, m.Role(ir.RoleMLPDown, 1), func(w []float32) {
		for i := range w {
			w[i] = 3e38 // sums of them overflow
		}
	})
	p := &prune.Depth{Options: prune.Options{Structure: prune.Structure{Blocks: 1}}}
	plan, err := p.Plan(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	ex := runner.NewExecutor(runner.Options{Threads: 1})
	_, err = p.Apply(t.Context(), m, plan, ir.Env{Threads: 1, Tokens: tokensFor(m.Decoder.Vocab, 2, 16), Work: t.TempDir(), Executor: ex})
	if !errors.Is(err, fault.ErrNotFinite) || !strings.Contains(err.Error(), "block 1") {
		t.Errorf("%v", err)
	}
}

// Requests that cannot be met, or mean nothing, are misuse, before any work.
func TestStructureRefuses(t *testing.T) {
	m := open(t, "../testdata/architectures/llama")
	for name, p := range map[string]ir.Pass{
		"nothing asked":      &prune.Width{},
		"two budgets":        &prune.Width{Options: prune.Options{Structure: prune.Structure{Ratio: 0.5, Bytes: 100}}},
		"more than there is": &prune.Width{Options: prune.Options{Structure: prune.Structure{FFN: 100000}}},
		"all of it":          &prune.Width{Options: prune.Options{Structure: prune.Structure{Parameters: 10}}},
		"nothing to do":      &prune.Width{Options: prune.Options{Structure: prune.Structure{Bytes: 1 << 40}}},
		"a ratio":            &prune.Width{Options: prune.Options{Structure: prune.Structure{Ratio: 1}}},
		"blocks by width":    &prune.Width{Options: prune.Options{Structure: prune.Structure{Blocks: 1}}},
		"a score":            &prune.Width{Options: prune.Options{Structure: prune.Structure{Ratio: 0.5, Score: prune.ScoreInfluence}}},
		"single weights":     &prune.Width{Options: prune.Options{Sparsity: 0.5}},
		"width by depth":     &prune.Depth{Options: prune.Options{Structure: prune.Structure{FFN: 64}}},
		"no block":           &prune.Depth{Options: prune.Options{Structure: prune.Structure{Ratio: 0.9}}},
		"refit":              &prune.Depth{Options: prune.Options{NoRefit: true, Structure: prune.Structure{Ratio: 0.5}}},
		"too many blocks":    &prune.Depth{Options: prune.Options{Structure: prune.Structure{Blocks: 7}}},
	} {
		if _, err := p.Plan(t.Context(), m); !errors.Is(err, fault.ErrMisuse) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p := &prune.Width{Options: prune.Options{Structure: prune.Structure{Ratio: 0.2}}}
	if _, err := p.Apply(t.Context(), m, &ir.Plan{}, ir.Env{}); !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("no tokens: %v", err)
	}
}
