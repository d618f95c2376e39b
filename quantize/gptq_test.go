package quantize

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// noise is an executor whose layers read random inputs, the same ones for a stage of a block at
// every run. It stops before block end.
type noise struct {
	block, end int
	asked      []string
}

var errPower = errors.New("the power went out")

func (n *noise) Start(context.Context, *ir.Model, [][]int32) (ir.Walk, error) { return n, nil }
func (n *noise) Block() int                                                   { return n.block }
func (n *noise) Close() error                                                 { return nil }
func (n *noise) Mark(context.Context) error                                   { return nil }
func (n *noise) Back(context.Context) error                                   { return nil }
func (n *noise) Next(context.Context) error {
	if n.block++; n.block == n.end {
		return errPower
	}
	return nil
}

func (n *noise) rows(stage string, fn func([]float32, int, int) error) error {
	n.asked = append(n.asked, fmt.Sprint(n.block, " ", stage))
	rng := rand.New(rand.NewPCG(uint64(n.block), uint64(len(stage))))
	x := make([]float32, 48*64)
	for i := range x {
		x[i] = float32(rng.NormFloat64() + rng.NormFloat64()*float64(i%7))
	}
	return fn(x, 48, 64)
}

func (n *noise) Inputs(_ context.Context, s ir.Stage, fn func([]float32, int, int) error) error {
	return n.rows(s.Name, fn)
}

func (n *noise) Hidden(_ context.Context, fn func([]float32, int, int) error) error {
	return n.rows("hidden", fn)
}

func (n *noise) Head(_ context.Context, fn func([]float32, int, int) error) error {
	return n.rows("head", fn)
}

// gptqModel has two blocks with three matrices each, and an output matrix.
func gptqModel(t *testing.T) *ir.Model {
	t.Helper()
	m := &ir.Model{Path: "m", Decoder: &ir.Decoder{Layers: 2, Heads: 1, KVHeads: 1}}
	rng := rand.New(rand.NewPCG(8, 8))
	add := func(name string, role ir.Role, block int) {
		x := make([]float32, 40*64)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		if err := m.Add(&ir.Tensor{Name: name, Role: role, Block: block, Shape: []int{40, 64}, Type: storage.F32, Data: floatsSource{x, 64}}); err != nil {
			t.Fatal(err)
		}
	}
	for b := range 2 {
		add(fmt.Sprintf("blk.%d.attn_q.weight", b), ir.RoleAttnQ, b)
		add(fmt.Sprintf("blk.%d.attn_k.weight", b), ir.RoleAttnK, b)
		add(fmt.Sprintf("blk.%d.ffn_down.weight", b), ir.RoleMLPDown, b)
	}
	add("output.weight", ir.RoleHead, -1)
	return m
}

func runGPTQ(t *testing.T, work string, ex ir.Executor) (map[string][]float32, *ir.Result, error) {
	t.Helper()
	ctx := context.Background()
	m := gptqModel(t)
	req, err := ParseRequest("q4_0")
	if err != nil {
		t.Fatal(err)
	}
	g := &GPTQ{Base: &RTN{req}, Damping: 0.02}
	plan, err := g.Plan(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	res, err := g.Apply(ctx, m, plan, ir.Env{Threads: 1, Work: work, ISA: cpu.Portable, Progress: progress.Discard, Executor: ex, Tokens: [][]int32{{1}}})
	values := map[string][]float32{}
	for _, x := range m.Tensors() {
		v, err := ir.ReadAll(ctx, x)
		if err != nil {
			t.Fatal(err)
		}
		values[x.Name] = v
	}
	return values, res, err
}

// A run that goes on after an interruption solves only what is missing, and both its weights and
// what it reports about them are those of a run that was left alone.
func TestGPTQGoesOn(t *testing.T) {
	want, whole, err := runGPTQ(t, t.TempDir(), &noise{end: -1})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"blk.0.attn_k.weight", "blk.1.ffn_down.weight"} {
		f := whole.Tensors[name]
		if f["gptq_damping"] != 0.02 || !(f["gptq_loss_ratio"] > 0 && f["gptq_loss_ratio"] < 1) {
			t.Errorf("%s: figures %v", name, f)
		}
	}

	work := t.TempDir()
	if _, _, err := runGPTQ(t, work, &noise{end: 1}); !errors.Is(err, errPower) {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(work, "*"))
	if err != nil || len(files) != 3 {
		t.Fatalf("the first run left %v, %v", files, err)
	}
	check := func(what string, asked ...string) {
		t.Helper()
		ex := &noise{end: -1}
		got, res, err := runGPTQ(t, work, ex)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: other weights", what)
		}
		if !maps.EqualFunc(res.Tensors, whole.Tensors, maps.Equal[map[string]float64]) {
			t.Errorf("%s: figures %v, want %v", what, res.Tensors, whole.Tensors)
		}
		if !reflect.DeepEqual(ex.asked, asked) {
			t.Errorf("%s: asked for the inputs of %q, want %q", what, ex.asked, asked)
		}
	}
	check("after an interruption", "1 qkv", "1 down", "2 head")
	check("all is there")
	for _, f := range files { // the first block's
		if err := os.Truncate(f, 40*64/32*18+23); err != nil {
			t.Fatal(err)
		}
	}
	check("cut short", "0 qkv", "0 down")
}
