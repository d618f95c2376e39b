package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
)

// Loss is what one tensor, or all tensors of a block, cost the package.
type Loss struct {
	// Tensor is the name in the package; a pattern for tensors that runtimes compute as one, "block 3"
	// or "blocks 4 to 7" for a group.
	Tensor string  `json:"tensor"`
	Type   string  `json:"type"` // stored type in the package: "q4_k", "int4 g128 sym"; empty for a group
	Bytes  int64   `json:"bytes"`
	KL     float64 `json:"kl"`             // nats per token that return when only this is restored
	Share  float64 `json:"share"`          // of the package's KL; shares need not add up to 1
	Keep   string  `json:"keep,omitempty"` // flag that stores it better: --keep "name=type"
	Price  int64   `json:"price_bytes"`    // bytes the flag costs
}

// Explanation ranks losses, largest first.
type Explanation struct {
	Schema   int      `json:"schema"`
	Original string   `json:"original"`
	Package  string   `json:"package"`
	Protocol Protocol `json:"protocol"`
	KL       float64  `json:"kl"` // of the package as it is, on the same tokens
	Losses   []Loss   `json:"losses"`
	// Grouped says that groups of blocks were ranked first and only tensors of the worst were tried.
	Grouped bool `json:"grouped"`
	// Untried is the number of changed tensors that were not put back one by one: those of better
	// groups, and those that the bounds left no room for.
	Untried int `json:"untried"`
}

// ExplainOptions say how much an explanation may cost.
type ExplainOptions struct {
	Options // of the comparison; Chunks 0 means 2, where verify takes all: a few are enough to rank
	// Trials is the most models that are run, each with something put back; 0 means 64. A model with
	// more changed tensors is ranked by block first, then by the tensors of the worst blocks.
	Trials int
	// Limit is the time after which no further model is tried; what was tried by then is the answer,
	// which depends on the speed of the machine. 0 means none.
	Limit time.Duration
}

// keepForTrials is the most that is kept of the original: the states of 16 chunks of a model of a
// billion parameters.
const keepForTrials = 32 << 20

// Explain measures which tensors of pkg lost accuracy: each is put back to the original's values
// alone, and the drop of the KL divergence is its loss. load makes a runner of a model. It fails
// with ErrSame when no tensor of pkg differs from the original's.
func Explain(ctx context.Context, original, pkg *ir.Model, load func(*ir.Model) (*runner.Runner, error), tokens []int32, opt ExplainOptions) (*Explanation, error) {
	if opt.Chunks <= 0 {
		opt.Chunks = 2
	}
	if opt.Trials <= 0 {
		opt.Trials = 64
	}
	pairs, err := changed(ctx, original, pkg)
	if err != nil {
		return nil, err
	}
	base, err := load(original)
	if err != nil {
		return nil, err
	}
	defer base.Close()
	opt.Recording = &Recording{Most: min(keepForTrials, base.Spare())}
	e := &explainer{ctx: ctx, base: base, pkg: pkg, load: load, tokens: tokens, opt: opt.Options, left: opt.Trials}
	if opt.Limit > 0 {
		e.until = time.Now().Add(opt.Limit)
	}
	whole, err := e.kl(nil)
	if err != nil {
		return nil, err
	}
	e.whole = whole.KL.Mean
	e.out = &Explanation{Schema: 1, Protocol: whole.Protocol, KL: e.whole}
	tried, err := e.search(units(pairs))
	if err != nil {
		return nil, err
	}
	e.out.Untried = len(pairs) - tried
	sort.SliceStable(e.out.Losses, func(a, b int) bool { return e.out.Losses[a].KL > e.out.Losses[b].KL })
	return e.out, nil
}

// restored is a tensor of the package beside the one it was made from.
type restored struct{ pkg, original *ir.Tensor }

// ErrSame is the reason when a package holds the same weights as its original.
var ErrSame = errors.New("every tensor has the original's values")

// changed pairs the tensors that may have lost something, by role and block, or by name: those in
// another type, and those of the same type whose values differ, as pruned ones do.
func changed(ctx context.Context, original, pkg *ir.Model) ([]restored, error) {
	var pairs []restored
	for _, t := range pkg.Tensors() {
		var o *ir.Tensor
		if t.Role != ir.RoleUnknown {
			o = original.Role(t.Role, t.Block)
		}
		if o == nil {
			o = original.Find(t.Name)
		}
		if o == nil || !slices.Equal(o.Shape, t.Shape) {
			continue
		}
		info, ok := storage.Lookup(t.Type)
		if lossless := o.Type == t.Type && t.Scheme == nil || ok && info.Float && info.Bits() >= bits(o); lossless {
			if same, err := equal(ctx, o, t); err != nil {
				return nil, err
			} else if same {
				continue
			}
		}
		pairs = append(pairs, restored{t, o})
	}
	if len(pairs) == 0 {
		return nil, &fault.Error{File: pkg.Path, Op: "explain", Err: fmt.Errorf("%w, %s", ErrSame, original.Path)}
	}
	return pairs, nil
}

// equalBand bounds the real values of a tensor that are held to compare it, in bytes.
const equalBand = 4 << 20

var errDiffers = errors.New("differs")

// equal compares the values of two tensors of one shape, up to the first difference.
func equal(ctx context.Context, a, b *ir.Tensor) (bool, error) {
	var y []float32
	err := ir.EachBand(ctx, a, equalBand, func(band ir.Band, x []float32) error {
		y = slices.Grow(y[:0], len(x))[:len(x)]
		if err := b.Data.ReadRows(ctx, y, band.Lo, band.Hi); err != nil {
			return ir.Wrap(b, "explain", err)
		}
		if !slices.Equal(x, y) {
			return errDiffers
		}
		return nil
	})
	if errors.Is(err, errDiffers) {
		return false, nil
	}
	return err == nil, err
}

// bits is what an element of a tensor takes on average.
func bits(t *ir.Tensor) float64 {
	n, err := t.Bytes()
	if err != nil {
		return 32
	}
	return 8 * float64(n) / float64(max(1, t.Elems()))
}
