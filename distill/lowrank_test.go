package distill

import (
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir"
)

// Three steps of training an adapter come to the losses and gradients of PyTorch and PEFT
// (testdata/lora_reference.py). The base stays as it is stored, bfloat16.
func TestPEFT(t *testing.T) {
	b, err := os.ReadFile("testdata/peft.json")
	if err != nil {
		t.Fatal(err)
	}
	var want []struct {
		Loss, Norm float64
		Norms      map[string]float64
	}
	if err := json.Unmarshal(b, &want); err != nil || len(want) != 3 {
		t.Fatal(err, len(want))
	}
	n, err := Load[float32](t.Context(), open(t, books), kernels.For(cpu.Best()), 2, 64, Nothing)
	if err != nil {
		t.Fatal(err)
	}
	pairs := n.Attach(LowRank{Rank: 4, Alpha: 12, Targets: []ir.Role{ir.RoleAttnQ, ir.RoleAttnV, ir.RoleMLPDown}})
	fill := func(x []float32, step int, scale float64) {
		for i := range x {
			x[i] = float32((float64(i*step%1009)/1009 - 0.5) * scale)
		}
	}
	names := map[*Param[float32]]string{}
	for _, p := range pairs {
		fill(p.A.W, 7, 0.1)
		fill(p.B.W, 11, 0.01)
		weight := strings.TrimSuffix(p.A.Name, ".weight lora_A")
		names[p.A], names[p.B] = weight+".lora_A.default.weight", weight+".lora_B.default.weight"
	}
	tr, err := NewTrainer(n, nil, Plain(counted(3, 64)), func(p *Param[float32]) bool { return names[p] != "" }, Options{Batch: 3, Tokens: 3 * 3 * 64, Rate: 1e-3, WarmUp: 1e-9, Least: 1, Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range want {
		p, err := tr.Step(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(p.Loss-w.Loss) > 1e-4*w.Loss || math.Abs(p.Norm-w.Norm) > 1e-4*w.Norm {
			t.Errorf("step %d: loss %v, gradient %v; PEFT has %v and %v", i+1, p.Loss, p.Norm, w.Loss, w.Norm)
		}
		if len(w.Norms) != len(tr.Trained()) {
			t.Fatalf("%d gradients, %d parameters", len(w.Norms), len(tr.Trained()))
		}
		// AdamW's first step is the sign of the gradient, which rounding decides where that is almost zero
		near := 1e-4
		if i > 0 {
			near = 1e-3
		}
		for _, q := range tr.Trained() {
			if norm := math.Sqrt(dot(q.Grad, q.Grad)); math.Abs(norm-w.Norms[names[q]]) > near*w.Norms[names[q]] {
				t.Errorf("step %d: the gradient of %s is %v long, PEFT's %v", i+1, names[q], norm, w.Norms[names[q]])
			}
		}
	}
}

// Only what is to be learned counts: filling up a sequence, and tokens that are only read, change nothing.
func TestLearnedPart(t *testing.T) {
	d := shapes["llama"]
	ids := random(2, 12, d.Vocab)
	grad := func(text Text) (Sums, []float32) {
		n := load32(t, tiny(t, d, 1), 2)
		for _, p := range n.Params() {
			p.Grad = make([]float32, len(p.W))
		}
		tr := &Trainer{student: n, text: text}
		var sum Sums
		weight, _ := tr.weigh([]int{0, 1})
		for i := range text.IDs {
			s, err := tr.gradients(t.Context(), text.pick([]int{i}), weight)
			if err != nil {
				t.Fatal(err)
			}
			sum.Next, sum.CrossEntropy = sum.Next+s.Next, sum.CrossEntropy+s.CrossEntropy
		}
		return sum, n.blocks[0].q.w.Grad
	}
	all := func(n int) []bool {
		x := make([]bool, n)
		for i := range x {
			x[i] = true
		}
		return x
	}
	plain, want := grad(Plain(ids))
	masked, got := grad(Text{IDs: ids, Learn: [][]bool{all(12), all(12)}})
	if plain != masked || math.Abs(float64(want[3]-got[3])) > 0 {
		t.Errorf("all learned: %+v and %+v", plain, masked)
	}
	// the last four tokens of the first sequence are not learned: as if it ended before them
	part := Text{IDs: ids, Learn: [][]bool{append(all(8), make([]bool, 4)...), all(12)}}
	short := Text{IDs: [][]int32{ids[0][:8], ids[1]}, Learn: [][]bool{all(8), all(12)}}
	a, ga := grad(part)
	b, gb := grad(short)
	if a.Next != 7+11 || a.Next != b.Next || math.Abs(a.CrossEntropy-b.CrossEntropy) > 1e-6 {
		t.Errorf("%+v and %+v", a, b)
	}
	for i := range ga {
		if math.Abs(float64(ga[i]-gb[i])) > 1e-6 {
			t.Fatalf("gradient %d: %v and %v", i, ga[i], gb[i])
		}
	}
	// a longer neighbour fills the shorter one up
	both := short.pick([]int{0, 1})
	if len(both.IDs[0]) != 12 || len(both.Learn[0]) != 12 || both.Learn[0][8] || len(ids[0]) != 12 {
		t.Errorf("filled up: %v", both)
	}
}
