package lora

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/pare-dev/pare/internal/fault"
)

// Session computes the logits of a growing sequence; the runner's sessions are ones.
type Session interface {
	// Append adds tokens to the sequence and hands over the logits after each of them, in order. A
	// row is valid during the call only.
	Append(ctx context.Context, tokens []int32, fn func(pos int, logits []float32) error) error
	Close()
}

// Proof is the comparison of a merged model with base plus adapter on the same tokens. Nothing in
// the two computations is shared but the files: one reads W' and multiplies, the other computes
// W x + B (A x).
type Proof struct {
	Tokens    int     `json:"tokens"`
	MaxAbs    float64 `json:"max_abs"`   // largest difference of two logits
	Spread    float64 `json:"spread"`    // largest minus smallest logit of base plus adapter
	KLMean    float64 `json:"kl_mean"`   // nats per token, of the merged model from base plus adapter
	KLMax     float64 `json:"kl_max"`    // nats
	Agreement float64 `json:"agreement"` // share of positions with the same most likely token
	Tolerance float64 `json:"tolerance"` // largest MaxAbs that a merge in float32 may have
	Holds     bool    `json:"holds"`     // MaxAbs is within Tolerance
}

// proofTolerance is relative to the spread of the logits: both sides sum in float32 in different
// orders, through all layers; PEFT's own merged and unmerged models differ by up to 5e-6 of it.
const proofTolerance = 1e-4

// proofChunk bounds the logits that are held: this many rows.
const proofChunk = 16

// ErrProof is the reason when the merged model computes something else than base plus adapter.
var ErrProof = errors.New("the merged model does not compute what base plus adapter compute")

// Prove runs both models over the sequences. open gives a session at the start of a sequence, of
// the model with the adapters beside the weights (Attached) and of the merged one. The merged
// model should hold its changed weights in float32 (Options.Type): a merge that is rounded to
// fewer bits differs by the rounding, which the figures of the pass report.
func Prove(ctx context.Context, attached, merged func() (Session, error), sequences [][]int32) (*Proof, error) {
	p := &Proof{}
	var kl float64
	var agree int
	low, high := math.Inf(1), math.Inf(-1)
	for _, tokens := range sequences {
		err := pair(ctx, attached, merged, tokens, func(one, two []float32) error {
			d, k, same, lo, hi := compareLogits(one, two)
			if d-d != 0 || k-k != 0 {
				return fault.ErrNotFinite
			}
			p.MaxAbs, p.KLMax = max(p.MaxAbs, d), max(p.KLMax, k)
			low, high = min(low, lo), max(high, hi)
			kl += k
			if same {
				agree++
			}
			p.Tokens++
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if p.Tokens == 0 {
		return nil, fault.As(fault.ErrMisuse, errors.New("a proof needs tokens"))
	}
	p.Spread = high - low
	p.KLMean, p.Agreement = kl/float64(p.Tokens), float64(agree)/float64(p.Tokens)
	p.Tolerance = proofTolerance * p.Spread
	p.Holds = p.MaxAbs <= p.Tolerance
	return p, nil
}

// pair runs one sequence through both models in step and hands over their logits token by token.
func pair(ctx context.Context, attached, merged func() (Session, error), tokens []int32, fn func(a, b []float32) error) error {
	a, err := attached()
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := merged()
	if err != nil {
		return err
	}
	defer b.Close()
	var held []float32
	for at := 0; at < len(tokens); at += proofChunk {
		chunk := tokens[at:min(len(tokens), at+proofChunk)]
		held = held[:0]
		width, rows := 0, 0
		err := a.Append(ctx, chunk, func(_ int, logits []float32) error {
			held, width = append(held, logits...), len(logits)
			return nil
		})
		if err != nil {
			return err
		}
		err = b.Append(ctx, chunk, func(_ int, logits []float32) error {
			if len(logits) != width || width == 0 || (rows+1)*width > len(held) {
				return fmt.Errorf("%w: %d logits beside %d", ErrProof, len(logits), width)
			}
			rows++
			if err := fn(held[(rows-1)*width:rows*width], logits); err != nil {
				return fmt.Errorf("logits of token %d of a sequence: %w", at+rows-1, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if rows != len(chunk) {
			return fmt.Errorf("%w: %d rows of logits for %d tokens", ErrProof, rows, len(chunk))
		}
	}
	return nil
}

// Err is nil when the proof holds.
func (p *Proof) Err() error {
	if p.Holds {
		return nil
	}
	return &fault.Error{Op: passName, Err: fmt.Errorf("%w: logits differ by up to %.3g, %.3g is rounding", ErrProof, p.MaxAbs, p.Tolerance)}
}

// compareLogits measures two rows: largest difference, KL(softmax a || softmax b), whether the same
// token is the most likely, and the range of a.
func compareLogits(a, b []float32) (diff, kl float64, same bool, lo, hi float64) {
	topA, topB := 0, 0
	lo = float64(a[0])
	for i := range a {
		diff = max(diff, math.Abs(float64(a[i])-float64(b[i])))
		if a[i] > a[topA] {
			topA = i
		}
		if b[i] > b[topB] {
			topB = i
		}
		lo = min(lo, float64(a[i]))
	}
	hi = float64(a[topA])
	sum := func(x []float32, top float64) float64 {
		s := 0.0
		for _, v := range x {
			s += math.Exp(float64(v) - top)
		}
		return top + math.Log(s)
	}
	za, zb := sum(a, hi), sum(b, float64(b[topB]))
	for i := range a {
		la := float64(a[i]) - za
		kl += math.Exp(la) * (la - (float64(b[i]) - zb))
	}
	return diff, max(kl, 0), topA == topB, lo, hi
}
