package verify

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

func logs(p ...float64) []float32 {
	x := make([]float32, len(p))
	for i, v := range p {
		x[i] = float32(math.Log(v)) + 3 // a constant shift of logits changes nothing
	}
	return x
}

// The metrics are tested first: a metric that lies makes every other test lie.
func TestCompareByHand(t *testing.T) {
	for _, k := range kernels.All() {
		t.Run(string(k.Level()), func(t *testing.T) { compareByHand(t, k) })
	}
}

func compareByHand(t *testing.T, k *kernels.Set) {
	p := compare(k, logs(.5, .5), logs(.9, .1), 1)
	if want := 0.5108256; math.Abs(p.kl-want) > 1e-6 { // 0.5 ln(.5/.9) + 0.5 ln(.5/.1)
		t.Errorf("KL = %v, want %v", p.kl, want)
	}
	if math.Abs(p.nllA-math.Ln2) > 1e-6 || math.Abs(p.nllB-math.Log(10)) > 1e-6 {
		t.Errorf("nll = %v, %v, want ln 2 and ln 10", p.nllA, p.nllB)
	}
	if !p.same { // a tie goes to index 0, which is also B's first
		t.Error("first ranks differ")
	}
	if q := compare(k, logs(.2, .8), logs(.8, .2), 0); q.same {
		t.Error("first ranks agree")
	}
	x := logs(.1, .2, .3, .4)
	if q := compare(k, x, x, 2); q.kl != 0 {
		t.Errorf("KL of a row with itself = %v", q.kl)
	}
	uniform := make([]float32, 4096)
	if q := compare(k, uniform, uniform, 17); math.Abs(math.Exp(q.nllA)-4096) > 1e-6 {
		t.Errorf("perplexity of a uniform guess over 4096 tokens = %v", math.Exp(q.nllA))
	}
	if h := entropy(uniform); math.Abs(h-math.Log(4096)) > 1e-9 {
		t.Errorf("entropy of a uniform row = %v", h)
	}
}

func TestQuantile(t *testing.T) {
	x := []float32{1, 2, 3, 4}
	for _, c := range []struct{ q, want float64 }{{0, 1}, {1, 4}, {.5, 2.5}, {.9, 3.7}} {
		if got := quantile(x, c.q); math.Abs(got-c.want) > 1e-6 {
			t.Errorf("quantile(%v) = %v, want %v", c.q, got, c.want)
		}
	}
}

// The standard error of a mean of independent chunks is sd/sqrt(n), and 95 % lie within 1.645 of them.
func TestEstimateMean(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const n = 400
	chunks := make([]chunk, n)
	var sum, square float64
	for i := range chunks {
		v := rng.NormFloat64() + 5
		chunks[i] = chunk{n: 255, kl: v * 255}
		sum += v
		square += v * v
	}
	mean := sum / n
	want := math.Sqrt((square/n - mean*mean) / n)
	a, b, c := estimateMean(chunks, func(c *chunk) float64 { return c.kl }).bounds()
	se, lo, hi := float64(a), float64(b), float64(c)
	if math.Abs(se-want) > 0.01*want {
		t.Errorf("standard error %v, want %v", se, want)
	}
	if math.Abs((hi-mean)/se-1.645) > 0.1 || math.Abs((mean-lo)/se-1.645) > 0.1 {
		t.Errorf("bounds %v, %v around %v are not the 5 %% and 95 %% points (se %v)", lo, hi, mean, se)
	}
}

func TestRepetition(t *testing.T) {
	for _, c := range []struct {
		ids  []int32
		want float64
	}{
		{[]int32{1, 2, 3}, 0},
		{[]int32{1, 2, 3, 4, 5, 6, 7}, 0},
		{[]int32{1, 2, 3, 4, 1, 2, 3, 4}, 0.2}, // the fifth of five sequences is the first again
		{[]int32{9, 9, 9, 9, 9}, 0.5},
	} {
		if got := repetition(c.ids); got != c.want {
			t.Errorf("repetition(%v) = %v, want %v", c.ids, got, c.want)
		}
	}
}

// Several names become one pattern that selects them and not their neighbours.
func TestUnits(t *testing.T) {
	scheme := &storage.Scheme{Bits: 4, Group: 128, Symmetric: true, Scale: storage.BF16}
	m := &ir.Model{}
	var pairs []restored
	for _, x := range []struct {
		name string
		role ir.Role
	}{
		{"model.layers.0.self_attn.k_proj.weight", ir.RoleAttnK},
		{"model.layers.0.mlp.down_proj.weight", ir.RoleMLPDown},
		{"model.layers.0.self_attn.q_proj.weight", ir.RoleAttnQ},
		{"model.layers.0.mlp.gate_proj.weight", ir.RoleMLPGate},
		{"model.layers.0.self_attn.v_proj.weight", ir.RoleAttnV},
		{"model.layers.0.self_attn.o_proj.weight", ir.RoleAttnO},
		{"model.layers.0.mlp.up_proj.weight", ir.RoleMLPUp},
	} {
		tensor := &ir.Tensor{Name: x.name, Role: x.role, Shape: []int{256, 256}, Type: storage.Planes, Scheme: scheme}
		if err := m.Add(tensor); err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, restored{tensor, tensor})
	}
	var got []string
	for _, u := range units(pairs) {
		keep, price := u.better(m)
		got = append(got, keep)
		// two bytes instead of half a byte and a bf16 scale for 128 of them
		if want := int64(len(u)) * 256 * (512 - 128 - 4); price != want {
			t.Errorf("%s costs %d bytes, want %d", keep, price, want)
		}
	}
	want := []string{"model.layers.0.self_attn.[kqv]*_proj=bf16", "model.layers.0.mlp.down_proj=bf16", "model.layers.0.mlp.[gu]*_proj=bf16", "model.layers.0.self_attn.o_proj=bf16"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for _, r := range pairs {
		r.pkg.Scheme, r.pkg.Type = nil, storage.Q4_0
	}
	if n := len(units(pairs)); n != len(pairs) {
		t.Errorf("%d units of block types, want each tensor alone", n)
	}
}
