package lora_test

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/formats/safetensors"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/lora"
)

const adapters = "../testdata/adapters"

// open reads a model and closes it with the test.
func open(t *testing.T, path string) *ir.Model {
	t.Helper()
	m, err := formats.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() }) //nolint:errcheck // read only
	return m
}

// load opens adapters; each may be "dir" or "dir:weight".
func load(t *testing.T, refs ...string) []lora.Weighted {
	t.Helper()
	var list []lora.Weighted
	for _, ref := range refs {
		dir, number, weighted := strings.Cut(ref, ":")
		weight := 1.0
		if weighted {
			var err error
			if weight, err = strconv.ParseFloat(number, 32); err != nil {
				t.Fatal(err)
			}
		}
		a, err := lora.Open(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Close() }) //nolint:errcheck // read only
		list = append(list, lora.Weighted{Adapter: a, Weight: float32(weight)})
	}
	return list
}

// apply plans and applies a merge, and checks the model that comes out.
func apply(t *testing.T, m *ir.Model, list []lora.Weighted, opts lora.Options) *ir.Result {
	t.Helper()
	p := lora.New(list, opts)
	plan, err := p.Plan(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	res, err := p.Apply(t.Context(), m, plan, ir.Env{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Check(); err != nil {
		t.Fatal(err)
	}
	if len(plan.Steps) != len(m.Tensors()) {
		t.Errorf("the plan lists %d tensors, the result has %d", len(plan.Steps), len(m.Tensors()))
	}
	for i, s := range plan.Steps {
		at := m.Tensors()[i]
		if n, err := at.Bytes(); err != nil || s.Tensor != at.Name || s.To != at.Type || s.Bytes != n {
			t.Errorf("plan says %+v, the result is %s %s of %d bytes (%v)", s, at.Name, at.Type, n, err)
		}
	}
	return res
}

// tensors reads a safetensors file whole, as float32.
func tensors(t *testing.T, path string) map[string][]float32 {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Parse(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]float32{}
	for _, x := range f.Tensors {
		typ, err := safetensors.Type(x.DType)
		if err != nil {
			t.Fatal(err)
		}
		info := storage.MustLookup(typ)
		v := make([]float32, x.Size/int64(info.BlockBytes))
		info.Decode(v, b[x.Offset:x.Offset+x.Size])
		out[x.Name] = v
	}
	return out
}

func values(t *testing.T, m *ir.Model, name string) []float32 {
	t.Helper()
	at := m.Find(name)
	if at == nil {
		t.Fatalf("no tensor %q", name)
	}
	x, err := ir.ReadAll(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func raw(t *testing.T, at *ir.Tensor) []byte {
	t.Helper()
	n, err := at.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	if err := at.Data.ReadRaw(t.Context(), ir.PartData, b, 0, at.Rows()); err != nil {
		t.Fatal(err)
	}
	return b
}

func maxDiff(a, b []float32) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	d := 0.0
	for i := range a {
		d = max(d, math.Abs(float64(a[i])-float64(b[i])))
		if a[i] != a[i] || b[i] != b[i] {
			return math.Inf(1)
		}
	}
	return d
}

// compare checks every tensor of a merged model: the expected ones to 1e-5 (sums of float32 in
// another order; the cases were made with PEFT), all others bit for bit against the base.
func compare(t *testing.T, m, base *ir.Model, want map[string][]float32) {
	t.Helper()
	for name, w := range want {
		if d := maxDiff(values(t, m, name), w); !(d <= 1e-5) {
			t.Errorf("%s differs by %g from PEFT's", name, d)
		}
	}
	for _, at := range m.Tensors() {
		if want[at.Name] != nil {
			continue
		}
		b := base.Find(at.Name)
		if b == nil {
			t.Errorf("tensor %s was added", at.Name)
		} else if !bytes.Equal(raw(t, at), raw(t, b)) {
			t.Errorf("tensor %s changed", at.Name)
		}
	}
}

// Every adapter of the shared cases against PEFT's merge_and_unload.
func TestMergeEqualsPEFT(t *testing.T) {
	var facts struct {
		Cases map[string]struct {
			Base    string
			Changed int
		}
	}
	b, err := os.ReadFile(filepath.Join(adapters, "facts.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &facts); err != nil {
		t.Fatal(err)
	}
	if len(facts.Cases) != 18 {
		t.Fatalf("%d cases, want 18", len(facts.Cases))
	}
	for name, c := range facts.Cases {
		t.Run(name, func(t *testing.T) {
			refs := []string{filepath.Join(adapters, name)}
			if name == "merge-sequence" {
				refs = nil
				for _, part := range []string{"lora-qv", "lora-second"} { // order.json
					refs = append(refs, filepath.Join(adapters, part))
				}
			}
			path := filepath.Join(adapters, c.Base)
			m, base := open(t, path), open(t, path)
			res := apply(t, m, load(t, refs...), lora.Options{})
			want := tensors(t, filepath.Join(adapters, name, "expected.safetensors"))
			compare(t, m, base, want)
			changed := c.Changed
			if name == "lora-embedding-tied" {
				changed-- // the head that appears holds the values of the old embedding
			}
			if res.Changed != changed || len(want) != c.Changed {
				t.Errorf("changed %d tensors, PEFT %d", res.Changed, c.Changed)
			}
			for n, f := range res.Tensors {
				if !(f["delta"] > 0) {
					t.Errorf("%s: figures %v", n, f)
				}
			}
		})
	}
}

// A change of a tied embedding is one of the lookup alone: the head becomes a tensor of its own.
func TestTiedEmbedding(t *testing.T) {
	m := open(t, filepath.Join(adapters, "base-gpt2"))
	before := values(t, m, "transformer.wte.weight")
	res := apply(t, m, load(t, filepath.Join(adapters, "lora-embedding-tied")), lora.Options{})
	if d := maxDiff(values(t, m, "lm_head.weight"), before); d != 0 {
		t.Errorf("the head moved by %g", d)
	}
	if d := maxDiff(values(t, m, "transformer.wte.weight"), before); d < 0.01 {
		t.Errorf("the embedding moved by %g only", d)
	}
	var config map[string]any
	if err := json.Unmarshal(m.Assets["config.json"], &config); err != nil {
		t.Fatal(err)
	}
	if config["tie_word_embeddings"] != false {
		t.Errorf("tie_word_embeddings is %v", config["tie_word_embeddings"])
	}
	if !slices.ContainsFunc(res.Notes, func(s string) bool { return strings.Contains(s, "tensor of its own") }) {
		t.Errorf("notes do not mention the tie: %q", res.Notes)
	}
}

// The exact weighted sum: PEFT's "cat" of two adapters is what merging both with weights gives.
func TestWeightedSum(t *testing.T) {
	path := filepath.Join(adapters, "base-llama")
	m, base := open(t, path), open(t, path)
	apply(t, m, load(t, filepath.Join(adapters, "lora-qv:0.7"), filepath.Join(adapters, "lora-qv-other:-0.4")), lora.Options{})
	compare(t, m, base, tensors(t, filepath.Join(adapters, "combine-cat", "expected.safetensors")))
}

// Adding an adapter and taking it away again gives the base back, to the rounding of one addition.
func TestMergeAndSubtract(t *testing.T) {
	path := filepath.Join(adapters, "base-llama")
	for _, name := range []string{"lora-qv", "rslora-all", "lora-patterns"} {
		m, base := open(t, path), open(t, path)
		dir := filepath.Join(adapters, name)
		apply(t, m, load(t, dir, dir+":-1"), lora.Options{})
		once := open(t, path)
		apply(t, once, load(t, dir), lora.Options{})
		for n := range tensors(t, filepath.Join(dir, "expected.safetensors")) {
			got, want, sum := values(t, m, n), values(t, base, n), values(t, once, n)
			for i := range got {
				ulp := math.Nextafter32(max(sum[i], -sum[i]), math.MaxFloat32) - max(sum[i], -sum[i])
				if d := got[i] - want[i]; d > ulp || -d > ulp {
					t.Fatalf("%s %s element %d: %v came back as %v", name, n, i, want[i], got[i])
				}
			}
		}
	}
}
