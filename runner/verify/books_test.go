package verify_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
	"github.com/pare-dev/pare/runner/verify"
)

const books = "../../testdata/books-llama"

// openBooks opens the trained sample model and tokenizes its test text.
func openBooks(t testing.TB) (*ir.Model, []int32) {
	t.Helper()
	m, err := formats.Open(context.Background(), filepath.Join(books, "model"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(books, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	spec, err := tokenizer.FromTokenizerJSON(read("model/tokenizer.json"), read("model/tokenizer_config.json"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.New(spec)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := tok.Encode(string(read("text/test.txt")), tokenizer.EncodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m, ids
}

func load(t testing.TB, m *ir.Model) *runner.Runner {
	t.Helper()
	r, err := runner.Load(context.Background(), m, runner.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// The perplexity of every chunk equals what transformers computes on the same tokens, and a model
// compared with itself diverges nowhere.
func TestAgainstTransformers(t *testing.T) {
	m, tokens := openBooks(t)
	var ref struct {
		TestTokens  int       `json:"test_tokens"`
		NLLPerChunk []float64 `json:"nll_per_chunk"`
	}
	b, err := os.ReadFile(filepath.Join(books, "reference.json"))
	if err == nil {
		err = json.Unmarshal(b, &ref)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(tokens) != ref.TestTokens {
		t.Fatalf("%d tokens, the reference has %d", len(tokens), ref.TestTokens)
	}
	r := load(t, m)
	const chunks = 4
	for i := range chunks {
		res, err := verify.Run(context.Background(), r, r, tokens, verify.Options{First: i, Chunks: 1, BOS: -1})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := math.Log(res.Perplexity.Original), ref.NLLPerChunk[i]; math.Abs(got-want) > 1e-4 {
			t.Errorf("chunk %d: mean NLL %v, transformers %v", i, got, want)
		}
		if res.KL.Mean > 1e-6 || res.KL.Max > 1e-6 || res.Top1.Agreement != 1 || res.Perplexity.LogRatio != 0 {
			t.Errorf("chunk %d: a model differs from itself: %+v %+v", i, res.KL, res.Top1)
		}
		if res.Protocol.TokensScored != 255 {
			t.Errorf("chunk %d: %d tokens scored, want 255 of 512", i, res.Protocol.TokensScored)
		}
		for _, l := range res.Layers {
			if l.SQNR != 200 || l.Cosine < 1-1e-9 {
				t.Errorf("chunk %d: block %d differs from itself: %+v", i, l.Block, l)
			}
		}
	}
}

// plant stores some tensors of a model in other types.
func plant(t testing.TB, m *ir.Model, types map[string]storage.Type) *ir.Model {
	t.Helper()
	q := m.Clone()
	for name, typ := range types {
		src := q.Find(name)
		enc, err := encodeWhole(src, typ)
		if err != nil {
			t.Fatal(err)
		}
		if err := q.Replace(src.With(typ, nil, enc)); err != nil {
			t.Fatal(err)
		}
	}
	return q
}

const worst = "model.layers.3.mlp.down_proj.weight"

// A model with one layer stored in two bits loses most there, and explain finds it.
func TestExplainFindsThePlantedLoss(t *testing.T) {
	m, tokens := openBooks(t)
	types := map[string]storage.Type{worst: storage.Q2K, "model.layers.1.self_attn.q_proj.weight": storage.Q8_0, "model.layers.5.mlp.up_proj.weight": storage.Q4K}
	q := plant(t, m, types)
	load := func(m *ir.Model) (*runner.Runner, error) {
		return runner.Load(context.Background(), m, runner.Options{})
	}
	opt := verify.ExplainOptions{Options: verify.Options{Chunks: 1, BOS: -1, Context: 256}}
	e, err := verify.Explain(context.Background(), m, q, load, tokens, opt)
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Losses) != len(types) || e.Losses[0].Tensor != worst || e.Grouped || e.Untried != 0 {
		t.Fatalf("ranking %+v", e)
	}
	first := e.Losses[0]
	if first.Share < 0.6 || first.Keep != "model.layers.3.mlp.down_proj=q3_k" || first.Price != 256*3*(110-84) {
		t.Errorf("worst layer: %+v", first)
	}
	if _, err := verify.Explain(context.Background(), m, m, load, tokens, opt); !errors.Is(err, verify.ErrSame) {
		t.Errorf("a model and itself: %v", err)
	}
	opt.Limit = 1 // a nanosecond: over once the package as it is was run
	if e, err = verify.Explain(context.Background(), m, q, load, tokens, opt); err != nil || len(e.Losses) != 0 || e.Untried != len(types) || e.KL <= 0 {
		t.Errorf("without time: %+v, %v", e, err)
	}
}

// With room for a few models only, blocks are ranked first, and the planted loss is still found.
func TestExplainWithinABound(t *testing.T) {
	m, tokens := openBooks(t)
	types := map[string]storage.Type{}
	for _, x := range m.Tensors() {
		if x.Role.Linear() {
			types[x.Name] = storage.Q8_0
		}
	}
	types[worst] = storage.Q2K
	q := plant(t, m, types)
	for _, c := range []struct{ trials, single int }{
		{11, 5}, // 6 blocks of 7 matrices, then the five largest of the worst block
		{6, 1},  // 3 pairs of blocks, the two of the worst pair, then the largest matrix of the worse block
	} {
		loads := 0
		e, err := verify.Explain(context.Background(), m, q, func(m *ir.Model) (*runner.Runner, error) {
			loads++
			return runner.Load(context.Background(), m, runner.Options{})
		}, tokens, verify.ExplainOptions{Options: verify.Options{Chunks: 1, BOS: -1, Context: 64}, Trials: c.trials})
		if err != nil {
			t.Fatal(err)
		}
		if loads > c.trials+2 { // and both models as they are
			t.Errorf("%d models were run, %d are allowed", loads-2, c.trials)
		}
		if !e.Grouped || e.Untried != len(types)-c.single {
			t.Errorf("%d trials: grouped %v, %d of %d untried", c.trials, e.Grouped, e.Untried, len(types))
		}
		for _, l := range e.Losses {
			if l.Type == "" {
				continue
			}
			if l.Tensor != worst {
				t.Errorf("%d trials: the worst tensor is %+v", c.trials, l)
			}
			break
		}
	}
}

// What was pruned differs in its values, not in its type.
func TestExplainSeesPrunedTensors(t *testing.T) {
	m, tokens := openBooks(t)
	q := m.Clone()
	src := q.Find(worst)
	if err := q.Replace(src.With(src.Type, nil, halved{src.Data})); err != nil {
		t.Fatal(err)
	}
	e, err := verify.Explain(context.Background(), m, q, func(m *ir.Model) (*runner.Runner, error) {
		return runner.Load(context.Background(), m, runner.Options{})
	}, tokens, verify.ExplainOptions{Options: verify.Options{Chunks: 1, BOS: -1, Context: 64}})
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Losses) != 1 || e.Losses[0].Tensor != worst || math.Abs(e.Losses[0].Share-1) > 1e-6 || e.Losses[0].Keep != "" {
		t.Errorf("%+v", e.Losses)
	}
}

// halved is a Source with every second column zero.
type halved struct{ ir.Source }

func (s halved) ReadRows(ctx context.Context, dst []float32, lo, hi int) error {
	err := s.Source.ReadRows(ctx, dst, lo, hi)
	for i := 1; i < len(dst); i += 2 {
		dst[i] = 0
	}
	return err
}

func (s halved) ReadRaw(ctx context.Context, part ir.Part, dst []byte, lo, hi int) error {
	err := s.Source.ReadRaw(ctx, part, dst, lo, hi)
	for i := 2; i < len(dst); i += 4 { // bf16
		dst[i], dst[i+1] = 0, 0
	}
	return err
}

// The sample is doubled while a limit cannot be decided, and only then.
func TestUntil(t *testing.T) {
	m, tokens := openBooks(t)
	a, b := load(t, m), load(t, plant(t, m, map[string]storage.Type{worst: storage.Q2K}))
	run := func(first, most int, l verify.Limits) *verify.Result {
		t.Helper()
		c, err := verify.New(a, b, verify.Options{Context: 64, BOS: -1})
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Until(context.Background(), tokens, first, most, l)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	all := run(20, 20, nil)
	for _, c := range []struct {
		limits verify.Limits
		chunks int
		want   verify.Verdict
	}{
		{nil, 5, verify.None},
		{verify.Limits{"size_ratio": 0.5}, 5, verify.Inconclusive}, // no matter of text
		{verify.Limits{"kl_mean": 10}, 10, verify.Pass},            // three looks: 2^-5 is not below 5 % / 3, but 2^-10 is
		{verify.Limits{"top1": 1}, 10, verify.Fail},
		{verify.Limits{"kl_mean": all.KL.Mean}, 20, verify.Inconclusive},
	} {
		r := run(5, 20, c.limits)
		if r.Protocol.Chunks != c.chunks || r.Gate.Verdict != c.want {
			t.Errorf("%v: %s after %d chunks, want %s after %d (%+v)", c.limits, r.Gate.Verdict, r.Protocol.Chunks, c.want, c.chunks, r.Gate.Checks)
		}
	}
}

// memory is a Source over encoded rows.
type memory struct {
	info *storage.Info
	raw  []byte
	row  int64
}

func (s *memory) ReadRaw(_ context.Context, _ ir.Part, dst []byte, lo, hi int) error {
	copy(dst, s.raw[int64(lo)*s.row:int64(hi)*s.row])
	return nil
}

func (s *memory) ReadRows(_ context.Context, dst []float32, lo, hi int) error {
	s.info.Decode(dst, s.raw[int64(lo)*s.row:int64(hi)*s.row])
	return nil
}

func encodeWhole(t *ir.Tensor, typ storage.Type) (ir.Source, error) {
	x, err := ir.ReadAll(context.Background(), t)
	if err != nil {
		return nil, err
	}
	info := storage.MustLookup(typ)
	row, err := typ.RowBytes(t.Cols())
	if err != nil {
		return nil, err
	}
	s := &memory{info: info, raw: make([]byte, row*int64(t.Rows())), row: row}
	for r := range t.Rows() {
		if err := info.Encode(s.raw[int64(r)*row:int64(r+1)*row], x[r*t.Cols():(r+1)*t.Cols()], nil); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Both models write the same when they are the same, and the sampled text has figures.
func TestWriteText(t *testing.T) {
	m, tokens := openBooks(t)
	r := load(t, m)
	text, err := verify.WriteText(context.Background(), r, r, verify.TextOptions{Prompt: tokens[:16], Tokens: 200, Context: 64, Greedy: 32, Seed: 7}, func(ids []int32) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	if text.Divergence != 32 || text.Original != text.Package {
		t.Errorf("one model, two texts: %+v", text)
	}
	if text.Original.Entropy < 1 || text.Original.Entropy > math.Log(4096) || text.Original.Repetition > 0.9 {
		t.Errorf("figures out of range: %+v", text.Original)
	}
}
