package runner_test

import (
	"context"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
)

// held is a tensor in memory: the parts of its stored type, and the real values they stand for.
type held struct {
	t      *ir.Tensor
	parts  map[ir.Part][]byte
	values []float32
}

func (h *held) ReadRows(_ context.Context, dst []float32, lo, hi int) error {
	copy(dst, h.values[lo*h.t.Cols():hi*h.t.Cols()])
	return nil
}

func (h *held) ReadRaw(_ context.Context, part ir.Part, dst []byte, lo, hi int) error {
	at, err := h.t.PartBytes(part, 0, lo)
	if err != nil {
		return err
	}
	if h.t.Scheme != nil && h.t.Scheme.Group == storage.GroupTensor && part != ir.PartCodes {
		at = 0
	}
	copy(dst, h.parts[part][at:])
	return nil
}

// inPlace is held as it lies in a mapped file.
type inPlace struct{ *held }

func (h inPlace) MapRaw(part ir.Part, lo, hi int) ([]byte, bool) {
	row := len(h.parts[part]) / h.t.Rows()
	return h.parts[part][lo*row : hi*row], true
}

func (inPlace) DropRaw(ir.Part, int, int) {}

// mappedModel is a model of matrices in memory as a GGUF file of a llama has them: all can be used where
// they lie but those of queries and keys, whose rows come in another order.
func mappedModel(t testing.TB, m *ir.Model) *ir.Model {
	t.Helper()
	m = m.Clone()
	for _, x := range m.Tensors() {
		h, ok := x.Data.(*held)
		if !ok || x.Role == ir.RoleAttnQ || x.Role == ir.RoleAttnK {
			continue
		}
		if err := m.Replace(x.With(x.Type, nil, inPlace{h})); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// variants replaces every block matrix by one made of its values, in two forms: stored as make says,
// and as float32 numbers of the same real values.
func variants(t testing.TB, m *ir.Model, convert func(x *ir.Tensor, values []float32) *held) (stored, plain *ir.Model) {
	t.Helper()
	stored, plain = m.Clone(), m.Clone()
	for _, x := range m.Tensors() {
		if !x.Role.Linear() && x.Role != ir.RoleHead && x.Role != ir.RoleEmbedding {
			continue
		}
		values, err := ir.ReadAll(context.Background(), x)
		if err != nil {
			t.Fatal(err)
		}
		h := convert(x, values)
		if err := stored.Replace(h.t); err != nil {
			t.Fatal(err)
		}
		if err := plain.Replace(floats(t, x, h.values)); err != nil {
			t.Fatal(err)
		}
	}
	return stored, plain
}

// floats is a handle for the same tensor with other values, as float32.
func floats(t testing.TB, x *ir.Tensor, values []float32) *ir.Tensor {
	t.Helper()
	raw := make([]byte, 4*len(values))
	if err := storage.MustLookup(storage.F32).Encode(raw, values, nil); err != nil {
		t.Fatal(err)
	}
	h := &held{parts: map[ir.Part][]byte{ir.PartData: raw}, values: values}
	h.t = x.With(storage.F32, nil, h)
	return h.t
}

// Every stored type runs as its decoded values do: the same numbers, multiplied in another order.
func TestStoredTypes(t *testing.T) {
	dir := filepath.Join(architectures, "llama") // every matrix is 256 wide
	ids, _ := tokensOf(t, filepath.Join(dir, "reference.safetensors"), "input_ids")
	m := open(t, dir)
	base := logitsOf(t, load(t, m, runner.Options{}), ids[:12])
	for _, info := range storage.All() {
		if info.Encode == nil || 256%info.BlockElems != 0 || info.Type == storage.F32 || info.Type == storage.F64 {
			continue
		}
		stored, plain := variants(t, m, func(x *ir.Tensor, values []float32) *held { return encoded(t, x, values, info) })
		compareRuns(t, string(info.Type), stored, plain, ids[:12], base)
	}
}

// encoded is a tensor in a stored type, encoded by package storage.
func encoded(t testing.TB, x *ir.Tensor, values []float32, info *storage.Info) *held {
	t.Helper()
	row, err := info.Type.RowBytes(x.Cols())
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, row*int64(x.Rows()))
	for r := range x.Rows() {
		if err := info.Encode(raw[int64(r)*row:int64(r+1)*row], values[r*x.Cols():(r+1)*x.Cols()], nil); err != nil {
			t.Fatal(err)
		}
	}
	h := &held{parts: map[ir.Part][]byte{ir.PartData: raw}, values: make([]float32, len(values))}
	info.Decode(h.values, raw)
	h.t = x.With(info.Type, nil, h)
	return h
}

// compareRuns checks prefill and token-by-token runs of two forms of one model, on every level.
func compareRuns(t *testing.T, name string, stored, plain *ir.Model, ids []int32, base []float32) {
	t.Helper()
	for _, isa := range cpu.Available() {
		want := logitsOf(t, load(t, plain, runner.Options{ISA: isa}), ids)
		for _, batch := range []int{0, 1} {
			got := logitsOf(t, load(t, stored, runner.Options{ISA: isa, Batch: batch, Activations: runner.ActivationsF32}), ids)
			if w := worst(got, want); !(w <= 1e-4) {
				t.Errorf("%s on %s, batch %d: %g of the spread from its decoded values, at most 1e-4", name, isa, batch, w)
			}
			if base != nil && worst(got, base) > 20 {
				t.Errorf("%s on %s: nothing like the original model", name, isa)
			}
		}
	}
}

func TestPlanes(t *testing.T) {
	dir := filepath.Join(architectures, "qwen3")
	ids, _ := tokensOf(t, filepath.Join(dir, "reference.safetensors"), "input_ids")
	m := open(t, dir)
	for _, s := range []storage.Scheme{
		{Bits: 8, Symmetric: true, Group: storage.GroupChannel, Scale: storage.F32},
		{Bits: 8, Group: storage.GroupTensor, Scale: storage.F16},
		{Bits: 4, Symmetric: true, Group: 16, Scale: storage.BF16},
		{Bits: 4, Group: 48, Scale: storage.F32}, // the last group of a row is short
	} {
		rng := rand.New(rand.NewPCG(1, 9))
		stored, plain := variants(t, m, func(x *ir.Tensor, values []float32) *held { return planes(t, x, values, s, rng) })
		compareRuns(t, s.String(), stored, plain, ids[:24], nil)
	}
}

// planes rounds values to the nearest code of a scheme. The scale comes from the largest value of
// the group; zero points are random, so that a wrong one shows.
func planes(t *testing.T, x *ir.Tensor, values []float32, s storage.Scheme, rng *rand.Rand) *held {
	h := &held{parts: map[ir.Part][]byte{}, values: make([]float32, len(values))}
	h.t = x.With(storage.Planes, &s, h)
	lo, hi := s.Range()
	info := storage.MustLookup(s.Scale)
	codes := make([]byte, len(values))
	group := func(idx []int) {
		most := float32(0)
		for _, i := range idx {
			most = max(most, float32(math.Abs(float64(values[i]))))
		}
		zero := 0
		if !s.Symmetric {
			zero = (lo+hi)/2 + rng.IntN(3) - 1
		}
		packed := make([]byte, info.BlockBytes)
		if err := info.Encode(packed, []float32{most/float32((hi-lo)/2-2) + 1e-6}, nil); err != nil {
			t.Fatal(err)
		}
		scale := make([]float32, 1)
		info.Decode(scale, packed)
		h.parts[ir.PartScales] = append(h.parts[ir.PartScales], packed...)
		h.parts[ir.PartZeros] = append(h.parts[ir.PartZeros], byte(zero))
		for _, i := range idx {
			q := min(hi, max(lo, int(math.Round(float64(values[i]/scale[0])))+zero))
			codes[i] = byte(int8(q))
			if !s.Symmetric {
				codes[i] = byte(q)
			}
			h.values[i] = scale[0] * float32(q-zero)
		}
	}
	rows, cols := x.Rows(), x.Cols()
	span := func(at, n int) (idx []int) {
		for i := range n {
			idx = append(idx, at+i)
		}
		return idx
	}
	switch s.Group {
	case storage.GroupTensor:
		group(span(0, rows*cols))
	default:
		width := s.Group
		if width <= 0 {
			width = cols
		}
		for r := range rows {
			for c := 0; c < cols; c += width {
				group(span(r*cols+c, min(width, cols-c)))
			}
		}
	}
	h.parts[ir.PartCodes] = codes
	return h
}

// A change kept beside the weights runs as weights that have it applied.
func TestSide(t *testing.T) {
	dir := filepath.Join(architectures, "qwen2") // biases; the head is tied to the embedding
	ids, _ := tokensOf(t, filepath.Join(dir, "reference.safetensors"), "input_ids")
	m := open(t, dir)
	rng := rand.New(rand.NewPCG(5, 6))
	random := func(n int, around, by float32) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = around + by*float32(rng.NormFloat64())
		}
		return x
	}
	attached, merged := m.Clone(), m.Clone()
	for i, x := range m.Tensors() {
		values, err := ir.ReadAll(context.Background(), x)
		if err != nil {
			t.Fatal(err)
		}
		side := &ir.LowRank{}
		if len(x.Shape) == 2 {
			side.Rank = 1 + i%5
			side.A, side.B = random(side.Rank*x.Cols(), 0, 0.1), random(x.Rows()*side.Rank, 0, 0.1)
			if i%2 == 0 {
				side.Row = random(x.Rows(), 1, 0.1)
			}
			if i%3 == 0 {
				side.Col = random(x.Cols(), 1, 0.1)
			}
			if i%7 == 0 {
				side.Rank, side.A, side.B = 0, nil, nil
			}
		} else {
			side.Col = random(x.Cols(), 1, 0.1)
		}
		a := *x
		a.Side = side
		if err := attached.Replace(&a); err != nil {
			t.Fatal(err)
		}
		side.Apply(values, 0, x.Cols())
		if err := merged.Replace(floats(t, x, values)); err != nil {
			t.Fatal(err)
		}
	}
	compareRuns(t, "side", attached, merged, ids[:30], nil)
	if w := worst(logitsOf(t, load(t, merged, runner.Options{}), ids[:30]), logitsOf(t, load(t, m, runner.Options{}), ids[:30])); w < 0.1 {
		t.Errorf("the change moves the logits by %g of the spread only: it tests nothing", w)
	}
}
