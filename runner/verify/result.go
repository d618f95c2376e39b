package verify

import (
	"encoding/json"
	"maps"
	"math"
)

// Result is what a comparison measured. It is the object of `pare verify --output json`.
type Result struct {
	Schema     int        `json:"schema"`
	Original   string     `json:"original"`
	Package    string     `json:"package"`
	Protocol   Protocol   `json:"protocol"`
	Perplexity Perplexity `json:"perplexity"`
	KL         KL         `json:"kl"`
	Top1       Top1       `json:"top1"`
	Bytes      Bytes      `json:"bytes"`
	Layers     []Layer    `json:"layers"`
	Text       *Text      `json:"text,omitempty"`
	Gate       Gate       `json:"gate"`
	Seconds    float64    `json:"seconds"`
	Speed      Speed      `json:"speed"`

	evidence map[string]Evidence
}

// Evidence is what gates need to know about the accuracy that was measured, by gate name. It does
// not travel with the JSON.
func (r *Result) Evidence() map[string]Evidence { return maps.Clone(r.evidence) }

// Protocol names how the figures came about; figures of different protocols do not compare.
type Protocol struct {
	Name         string `json:"name"`
	TextSHA256   string `json:"text_sha256"`
	Context      int    `json:"context"`
	Chunks       int    `json:"chunks"`
	TokensScored int    `json:"tokens_scored"`
	ISA          string `json:"isa"`
	Activations  string `json:"activations"` // form of the inputs of products, of the package: auto, int8 or f32
}

// Bound is a standard error or a bound that may be unknown: of one chunk nothing can be said. Unknown
// is NaN here and null in JSON.
type Bound float64

// Known reports whether there is a value.
func (b Bound) Known() bool { return !math.IsNaN(float64(b)) }

// MarshalJSON implements json.Marshaler.
func (b Bound) MarshalJSON() ([]byte, error) {
	if !b.Known() {
		return []byte("null"), nil
	}
	return json.Marshal(float64(b))
}

// UnmarshalJSON implements json.Unmarshaler.
func (b *Bound) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		*b = Bound(math.NaN())
		return nil
	}
	return json.Unmarshal(text, (*float64)(b))
}

// Speed is how many tokens of text passed by in a second: through each model alone, and through the
// whole comparison. Original is 0 when its results were there already.
type Speed struct {
	Original float64 `json:"original_tok_s"`
	Package  float64 `json:"package_tok_s"`
	Whole    float64 `json:"tok_s"`
}

// Perplexity is exp of the mean negative log likelihood; LogRatio is ln(package/original) with a
// standard error from the differences between chunks, both models on the same tokens.
type Perplexity struct {
	Original   float64 `json:"original"`
	Package    float64 `json:"package"`
	LogRatio   float64 `json:"log_ratio"`
	LogRatioSE Bound   `json:"log_ratio_se"`
	Upper95    Bound   `json:"log_ratio_upper95"`
	Lower95    Bound   `json:"log_ratio_lower95"`
}

// KL is the divergence of the package from the original per token, in nats. Bounds are one-sided,
// of the mean and of the 99th percentile, from the differences between chunks.
type KL struct {
	Mean      float64   `json:"mean"`
	SE        Bound     `json:"se"`
	Upper95   Bound     `json:"upper95"`
	Lower95   Bound     `json:"lower95"`
	Median    float64   `json:"median"`
	P90       float64   `json:"p90"`
	P99       float64   `json:"p99"`
	P99Upper  Bound     `json:"p99_upper95"`
	P99Lower  Bound     `json:"p99_lower95"`
	P999      float64   `json:"p999"`
	Max       float64   `json:"max"`
	Histogram Histogram `json:"histogram"`
}

// Histogram counts tokens by KL: Counts[i] of them lie in [Edges[i], Edges[i+1]); the first bin
// also takes all below.
type Histogram struct {
	Edges  []float64 `json:"edges"`
	Counts []int     `json:"counts"`
}

// Top1 is the share of tokens on which both models rank the same token first.
type Top1 struct {
	Agreement float64 `json:"agreement"`
	Lower95   float64 `json:"lower95"`
	Upper95   float64 `json:"upper95"`
}

// Bytes are sizes of the weights as shipped.
type Bytes struct {
	Original int64 `json:"original"`
	Package  int64 `json:"package"`
}

// Layer is the error of the residual stream after a block, all earlier blocks being the package's.
type Layer struct {
	Block  int     `json:"block"`
	SQNR   float64 `json:"sqnr_db"` // 10 log10(signal/error); 200 when there is no error
	Cosine float64 `json:"cosine"`
	MaxAbs float64 `json:"max_abs"`
}

// Text is what both models wrote from one prompt, past several context lengths.
type Text struct {
	Prompt     string     `json:"prompt"`
	Tokens     int        `json:"tokens"`
	Context    int        `json:"context"`
	Original   TextFigure `json:"original"`
	Package    TextFigure `json:"package"`
	Divergence int        `json:"first_divergence"` // index of the first greedy token that differs, Tokens when none does
}

// TextFigure describes one generated text.
type TextFigure struct {
	Sample     string  `json:"sample"`     // its greedy beginning
	Repetition float64 `json:"repetition"` // share of 4-token sequences seen before, in the sampled text
	Entropy    float64 `json:"entropy"`    // mean entropy of the next token, nats, in the sampled text
}
