package verify

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
)

// Loss is what one tensor, or all tensors of a block, cost the package.
type Loss struct {
	Tensor string       `json:"tensor"` // name in the package, or "block 3" for a whole block
	Type   storage.Type `json:"type"`   // stored type in the package; empty for a block
	Bytes  int64        `json:"bytes"`
	KL     float64      `json:"kl"`             // nats per token that return when only this is restored
	Share  float64      `json:"share"`          // of the package's KL; shares need not add up to 1
	Keep   string       `json:"keep,omitempty"` // flag that stores it better: --keep "name=type"
	Price  int64        `json:"price_bytes"`    // bytes the flag costs
}

// Explanation ranks losses, largest first.
type Explanation struct {
	Schema   int      `json:"schema"`
	Original string   `json:"original"`
	Package  string   `json:"package"`
	Protocol Protocol `json:"protocol"`
	KL       float64  `json:"kl"` // of the package as it is, on the same tokens
	Losses   []Loss   `json:"losses"`
	// Grouped says that blocks were ranked first and only the tensors of the worst were tried.
	Grouped bool `json:"grouped"`
}

// maxTrials is the number of single tensors that are tried one by one; larger models are ranked by
// block first.
const maxTrials = 64

// Explain measures which tensors of pkg lost accuracy: each is put back to the original's values
// alone, and the drop of the KL divergence is its loss. load makes a runner of a model; tokens and
// opt are those of a comparison, where a few chunks are enough to rank.
func Explain(ctx context.Context, original, pkg *ir.Model, load func(*ir.Model) (*runner.Runner, error), tokens []int32, opt Options) (*Explanation, error) {
	pairs, err := changed(original, pkg)
	if err != nil {
		return nil, err
	}
	base, err := load(original)
	if err != nil {
		return nil, err
	}
	defer base.Close()
	e := &explainer{ctx: ctx, base: base, pkg: pkg, load: load, tokens: tokens, opt: opt}
	whole, err := e.kl(nil)
	if err != nil {
		return nil, err
	}
	out := &Explanation{Schema: 1, Protocol: whole.Protocol, KL: whole.KL.Mean}
	if len(pairs) > maxTrials {
		out.Grouped = true
		if pairs, err = e.worstBlocks(pairs, whole.KL.Mean, out); err != nil {
			return nil, err
		}
	}
	for _, p := range pairs {
		l, err := e.loss(p.pkg.Name, []restored{p}, whole.KL.Mean)
		if err != nil {
			return nil, err
		}
		l.Type = p.pkg.Type
		l.Keep, l.Price = better(p.pkg)
		out.Losses = append(out.Losses, l)
	}
	sort.SliceStable(out.Losses, func(a, b int) bool { return out.Losses[a].KL > out.Losses[b].KL })
	return out, nil
}

// restored is a tensor of the package beside the one it was made from.
type restored struct{ pkg, original *ir.Tensor }

// changed pairs the tensors whose stored type differs, by role and block, or by name.
func changed(original, pkg *ir.Model) ([]restored, error) {
	var pairs []restored
	for _, t := range pkg.Tensors() {
		var o *ir.Tensor
		if t.Role != ir.RoleUnknown {
			o = original.Role(t.Role, t.Block)
		}
		if o == nil {
			o = original.Find(t.Name)
		}
		if o == nil || o.Type == t.Type && t.Scheme == nil || !slices.Equal(o.Shape, t.Shape) {
			continue
		}
		if from, ok := storage.Lookup(t.Type); ok && from.Float && from.Bits() >= bits(o) {
			continue // a wider float type loses nothing
		}
		pairs = append(pairs, restored{t, o})
	}
	if len(pairs) == 0 {
		return nil, &fault.Error{File: pkg.Path, Op: "explain", Err: fmt.Errorf("no tensor is stored in a smaller type than in %s", original.Path)}
	}
	return pairs, nil
}

// bits is what an element of a tensor takes on average.
func bits(t *ir.Tensor) float64 {
	n, err := t.Bytes()
	if err != nil {
		return 32
	}
	return 8 * float64(n) / float64(max(1, t.Elems()))
}

type explainer struct {
	ctx    context.Context
	base   *runner.Runner
	pkg    *ir.Model
	load   func(*ir.Model) (*runner.Runner, error)
	tokens []int32
	opt    Options
}

// kl compares the package, with some tensors put back, with the original.
func (e *explainer) kl(back []restored) (*Result, error) {
	m := e.pkg.Clone()
	for _, p := range back {
		if err := m.Replace(p.pkg.With(p.original.Type, p.original.Scheme, p.original.Data)); err != nil {
			return nil, err
		}
	}
	r, err := e.load(m)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return Run(e.ctx, e.base, r, e.tokens, e.opt)
}

func (e *explainer) loss(name string, back []restored, whole float64) (Loss, error) {
	r, err := e.kl(back)
	if err != nil {
		return Loss{}, err
	}
	l := Loss{Tensor: name, KL: whole - r.KL.Mean}
	for _, p := range back {
		n, err := p.pkg.Bytes()
		if err != nil {
			return Loss{}, err
		}
		l.Bytes += n
	}
	if whole > 0 {
		l.Share = l.KL / whole
	}
	return l, nil
}

// worstBlocks ranks whole blocks and returns the pairs of those that fit in maxTrials.
func (e *explainer) worstBlocks(pairs []restored, whole float64, out *Explanation) ([]restored, error) {
	byBlock := map[int][]restored{}
	var blocks []int
	for _, p := range pairs {
		if byBlock[p.pkg.Block] == nil {
			blocks = append(blocks, p.pkg.Block)
		}
		byBlock[p.pkg.Block] = append(byBlock[p.pkg.Block], p)
	}
	loss := map[int]float64{}
	for _, b := range blocks {
		name := fmt.Sprintf("block %d", b)
		if b < 0 {
			name = "outside the blocks"
		}
		l, err := e.loss(name, byBlock[b], whole)
		if err != nil {
			return nil, err
		}
		loss[b] = l.KL
		out.Losses = append(out.Losses, l)
	}
	sort.SliceStable(blocks, func(i, j int) bool { return loss[blocks[i]] > loss[blocks[j]] })
	var worst []restored
	for _, b := range blocks {
		if len(worst)+len(byBlock[b]) > maxTrials/2 {
			break
		}
		worst = append(worst, byBlock[b]...)
	}
	return worst, nil
}

// ladder orders the types that store more bits each; a row that does not divide into blocks of one
// takes the next.
var ladder = []storage.Type{"q2_k", "q3_k", "q4_k", "q4_0", "q5_k", "q5_0", "q6_k", "q8_0", "bf16"}

// better suggests the flag that stores a tensor with noticeably more bits, and its price. Uniform
// schemes are kept in the source's float type.
func better(t *ir.Tensor) (keep string, price int64) {
	now, err := t.Bytes()
	if err != nil {
		return "", 0
	}
	for _, typ := range ladder {
		info, ok := storage.Lookup(typ)
		if !ok || info.Bits() < bits(t)+0.75 || t.Scheme != nil && !info.Float {
			continue
		}
		row, err := typ.RowBytes(t.Cols())
		if err != nil {
			continue
		}
		return strings.TrimSuffix(t.Name, ".weight") + "=" + string(typ), row*int64(t.Rows()) - now
	}
	return "", 0
}
