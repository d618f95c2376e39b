package verify

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/runner"
)

// Embeddings is what a comparison of two text encoders measured. It is the object of
// `pare verify --output json` for them.
type Embeddings struct {
	Schema     int               `json:"schema"`
	Original   string            `json:"original"`
	Package    string            `json:"package"`
	Protocol   EmbeddingProtocol `json:"protocol"`
	Cosine     Cosines           `json:"cosine"`
	Neighbours Neighbours        `json:"neighbours"`
	Bytes      Bytes             `json:"bytes"`
	Gate       Gate              `json:"gate"`
	Speed      EmbeddingSpeed    `json:"speed"`

	evidence map[string]Evidence
}

// Evidence is what gates need to know, by gate name.
func (r *Embeddings) Evidence() map[string]Evidence { return r.evidence }

// EmbeddingProtocol names how the figures came about.
type EmbeddingProtocol struct {
	Name        string `json:"name"`
	TextSHA256  string `json:"text_sha256"`
	Texts       int    `json:"texts"`
	Tokens      int    `json:"tokens"`
	Searched    int    `json:"searched"` // of the texts, the first so many were searched among each other
	ISA         string `json:"isa"`
	Activations string `json:"activations"`
}

// Cosines are the cosines between the two embeddings of a text. Bounds are one-sided, from the differences
// between texts.
type Cosines struct {
	Mean    float64 `json:"mean"`
	SE      Bound   `json:"se"`
	Lower95 Bound   `json:"lower95"`
	Upper95 Bound   `json:"upper95"`
	P10     float64 `json:"p10"`
	P1      float64 `json:"p1"`
	Min     float64 `json:"min"`
}

// Neighbours is the share of texts whose nearest other text, by the cosine, is the same one in both models:
// what becomes of a search. Bounds are Wilson's, one-sided.
type Neighbours struct {
	Agreement float64 `json:"agreement"`
	Lower95   float64 `json:"lower95"`
	Upper95   float64 `json:"upper95"`
}

// EmbeddingSpeed is how many texts passed by in a second, through each model alone.
type EmbeddingSpeed struct {
	Original float64 `json:"original_texts_s"`
	Package  float64 `json:"package_texts_s"`
}

// EmbeddingOptions are what a comparison needs beside models and texts.
type EmbeddingOptions struct {
	TextHash    string
	ISA         string
	Activations string
	Threads     int
	Progress    progress.Sink
}

// searched is the most texts that are searched among each other, which takes the square of their number.
const searched = 4096

// embeddingSlice is how many texts each model computes before the other has its turn, so that a machine
// that slows down slows both.
const embeddingSlice = 64

// ErrTexts is the reason when there are too few texts.
var ErrTexts = errors.New("at least two texts are needed")

// CompareEmbeddings compares the embeddings that two encoders make of texts.
func CompareEmbeddings(ctx context.Context, original, pkg *runner.Encoder, texts []runner.Text, opt EmbeddingOptions) (*Embeddings, error) {
	if len(texts) < 2 {
		return nil, &fault.Error{Op: "verify", Err: fault.As(fault.ErrMisuse, ErrTexts), Hint: "give a text file with one text a line"}
	}
	if a, b := original.Describe().Hidden, pkg.Describe().Hidden; a != b {
		return nil, &fault.Error{Op: "verify", Err: fault.As(fault.ErrMisuse, errors.New("the models make embeddings of different lengths"))}
	}
	if opt.Progress == nil {
		opt.Progress = progress.Discard
	}
	opt.Progress.Stage("verify", int64(len(texts)), "texts")
	dim := original.Describe().Hidden
	sides := [2]struct {
		x *runner.Encoder
		v kernels.Matrix
		t time.Duration
	}{{x: original}, {x: pkg}}
	for s := range sides {
		sides[s].v = kernels.View(make([]float32, len(texts)*dim), len(texts), dim)
	}
	r := &Embeddings{Schema: 1, Protocol: EmbeddingProtocol{
		Name: "embeddings", TextSHA256: opt.TextHash, Texts: len(texts), Searched: min(len(texts), searched), ISA: opt.ISA, Activations: opt.Activations,
	}}
	for lo := 0; lo < len(texts); lo += embeddingSlice {
		part := texts[lo:min(len(texts), lo+embeddingSlice)]
		for s := range sides {
			side := &sides[s]
			start := time.Now()
			err := side.x.Embed(ctx, part, func(i int, v []float32) error {
				copy(side.v.Row(lo+i), v)
				return nil
			})
			if err != nil {
				return nil, err
			}
			side.t += time.Since(start)
		}
		for _, t := range part {
			r.Protocol.Tokens += len(t.IDs)
		}
		opt.Progress.Add(int64(len(part)))
	}
	speed := func(d time.Duration) float64 { return float64(len(texts)) / max(d.Seconds(), 1e-9) }
	r.Speed = EmbeddingSpeed{Original: speed(sides[0].t), Package: speed(sides[1].t)}
	return r, r.judge(ctx, kernels.For(pkg.ISA()), sides[0].v, sides[1].v, opt.Threads)
}

// judge fills in the figures.
func (r *Embeddings) judge(ctx context.Context, k *kernels.Set, a, b kernels.Matrix, threads int) error {
	cosines, ones := make([]float64, a.Rows), make([]float64, a.Rows)
	for i := range cosines {
		cosines[i], ones[i] = runner.Cosine(a.Row(i), b.Row(i)), 1
	}
	e := estimateRatio(cosines, ones)
	sum := 0.0
	for _, c := range cosines {
		sum += c
	}
	r.Cosine = Cosines{Mean: sum / float64(len(cosines)), SE: Bound(e.se), Lower95: Bound(e.bound(risk)), Upper95: Bound(e.bound(1 - risk))}
	near, err := nearest(ctx, k, a.Slice(0, r.Protocol.Searched, 0, a.Cols), threads)
	if err != nil {
		return err
	}
	found, err := nearest(ctx, k, b.Slice(0, r.Protocol.Searched, 0, b.Cols), threads)
	if err != nil {
		return err
	}
	same := make([]float64, len(near))
	agree := 0.0
	for i := range near {
		if near[i] == found[i] {
			same[i] = 1
			agree++
		}
	}
	n := float64(len(near))
	lower, upper := wilson(agree/n, n)
	r.Neighbours = Neighbours{Agreement: agree / n, Lower95: lower, Upper95: upper}
	r.evidence = map[string]Evidence{
		"cosine_mean": {Value: r.Cosine.Mean, Resamples: e.at, Units: len(cosines)},
		"retrieval":   {Value: agree / n, Resamples: estimateRatio(same, ones[:len(same)]).at, Units: len(same)},
	}
	slices.Sort(cosines)
	at := func(p float64) float64 { return cosines[int(p*float64(len(cosines)-1))] }
	r.Cosine.P10, r.Cosine.P1, r.Cosine.Min = at(0.1), at(0.01), cosines[0]
	return nil
}

// bound is the value that the truth is below with probability p.
func (e *estimate) bound(p float64) float64 {
	if len(e.at) == 0 {
		return math.NaN()
	}
	return e.at[min(int(p*float64(len(e.at))), len(e.at)-1)]
}

// wilson are the one-sided 95 % bounds of a share of n (Wilson 1927).
func wilson(share, n float64) (lower, upper float64) {
	const z = 1.6448536269514722
	mid := share + z*z/(2*n)
	wide := z * math.Sqrt(share*(1-share)/n+z*z/(4*n*n))
	scale := 1 + z*z/n
	return max(0, (mid-wide)/scale), min(1, (mid+wide)/scale)
}

// nearest finds for every row the other row with the largest cosine; of equal ones the first.
func nearest(ctx context.Context, k *kernels.Set, v kernels.Matrix, threads int) ([]int, error) {
	unit := kernels.View(make([]float32, v.Rows*v.Cols), v.Rows, v.Cols)
	for i := range v.Rows {
		row := unit.Row(i)
		copy(row, v.Row(i))
		if length := math.Sqrt(float64(k.Dot(row, row))); length > 0 {
			k.Scale(row, float32(1/length))
		}
	}
	const grain = 32
	out := make([]int, v.Rows)
	err := par.Range(ctx, threads, v.Rows, grain, func(_, lo, hi int) error {
		table := kernels.View(make([]float32, (hi-lo)*v.Rows), hi-lo, v.Rows)
		k.GemmNT(table, unit.Slice(lo, hi, 0, v.Cols), unit, false)
		for i := lo; i < hi; i++ {
			row := table.Row(i - lo)
			row[i] = float32(math.Inf(-1)) // the text itself
			best := 0
			for j, c := range row {
				if c > row[best] {
					best = j
				}
			}
			out[i] = best
		}
		return nil
	})
	return out, err
}
