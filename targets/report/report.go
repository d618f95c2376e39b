// Package report is what a build says about itself: what was done to every tensor, what was
// measured and on which machine, which gates spoke, and the verdict. report.go holds the record;
// the other files turn it into Markdown, HTML and JUnit XML.
//
// The JSON form is a contract (docs/schema): fields are added, never renamed or given another
// meaning. Numbers are plain: bytes, seconds, nats per token, fractions of one.
package report

import (
	"fmt"
	"slices"

	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/prune/channels"
	"github.com/pare-dev/pare/runner/bench"
	"github.com/pare-dev/pare/runner/verify"
	"github.com/pare-dev/pare/targets/recipe"
)

// Schema is the version of the JSON form.
const Schema = 1

// Verdict is what a check, a target or a whole build comes to.
type Verdict = verify.Verdict

// The verdicts, from best to worst. None means that nothing was asked or nothing could be measured.
const (
	None         = verify.None
	Pass         = verify.Pass
	Inconclusive = verify.Inconclusive
	Fail         = verify.Fail
	// Refused: the target cannot take the model, so no package was written.
	Refused Verdict = "refused"
)

var order = []Verdict{None, Pass, Inconclusive, Fail, Refused}

// Worst is the verdict of a whole whose parts have these verdicts; None when there are no parts.
func Worst(all ...Verdict) Verdict {
	worst := None
	for _, v := range all {
		if slices.Index(order, v) > slices.Index(order, worst) {
			worst = v
		}
	}
	return worst
}

// Report is the record of one `pare build`, or, with Planned set, of one `pare plan`.
type Report struct {
	Schema      int            `json:"schema"` // 1
	Tool        string         `json:"tool"`   // "pare 0.1.0"
	Planned     bool           `json:"planned,omitempty"`
	Verdict     Verdict        `json:"verdict"`
	Source      Source         `json:"source"`
	Adapters    []Adapter      `json:"adapters,omitempty"`
	Merge       *Merge         `json:"merge,omitempty"`
	Calibration *Text          `json:"calibration,omitempty"`
	Passes      []PassResult   `json:"passes,omitempty"`  // before the targets part: merge, prune
	Distill     *Distill       `json:"distill,omitempty"` // how the model learned
	Targets     []Target       `json:"targets"`
	Stages      []Stage        `json:"stages,omitempty"` // in the order they ran
	Notes       []string       `json:"notes,omitempty"`
	Problems    []Line         `json:"problems,omitempty"` // found while reading the source
	Machine     Machine        `json:"machine"`
	Recipe      *recipe.Recipe `json:"recipe"` // resolved: every default spelled out
	Seconds     float64        `json:"seconds"`

	PeakMemoryBytes int64 `json:"peak_memory_bytes"` // measured by build, estimated by plan
	// The next three are estimates, set by plan and by build before it starts.
	PlannedMemoryBytes int64   `json:"planned_memory_bytes,omitempty"`
	DiskBytes          int64   `json:"disk_bytes,omitempty"` // packages
	WorkBytes          int64   `json:"work_bytes,omitempty"` // beside them, in the work folder
	EstimateS          float64 `json:"estimate_s,omitempty"`

	// Reproduce is the line to type for the same packages; set by the command line.
	Reproduce string `json:"reproduce,omitempty"`
}

// Line is a remark about a tensor, or about the whole when Tensor is empty.
type Line struct {
	Tensor string `json:"tensor,omitempty"`
	Reason string `json:"reason"`
	Hint   string `json:"hint,omitempty"`
}

// Source describes the model that went in.
type Source struct {
	Path         string `json:"path"` // as typed
	Format       string `json:"format"`
	Architecture string `json:"architecture"`
	Parameters   int64  `json:"parameters"`
	Bytes        int64  `json:"bytes"` // of the files that hold the weights
	Type         string `json:"type"`  // the type most elements are stored in
	Tensors      int    `json:"tensors"`
	Nodes        int    `json:"nodes,omitempty"`  // of a graph of operators
	Opset        int    `json:"opset,omitempty"`  // likewise: version of ai.onnx
	Digest       string `json:"digest,omitempty"` // "sha256:..." over its files, see pack.SourceDigest; "" where a verb keeps no stage
}

// Adapter describes a LoRA adapter that was merged.
type Adapter struct {
	Path     string  `json:"path"`
	Weight   float64 `json:"weight"`
	Kind     string  `json:"kind,omitempty"` // "LoRA r=8", "DoRA r=16", ...
	Matrices int     `json:"matrices"`
	Digest   string  `json:"digest,omitempty"`
}

// Merge is the proof that a merge computes what base plus adapters compute.
type Merge struct {
	Tokens     int     `json:"tokens"`
	MaxAbsDiff float64 `json:"max_abs_diff"` // of logits, merged in f32 against attached
	KL         float64 `json:"kl"`           // mean, nats per token
	Spread     float64 `json:"spread"`       // standard deviation of the logits, for scale
	Verdict    Verdict `json:"verdict"`
	// Stored is the same for the merged weights as they are stored (after the cast to the dtype
	// asked for): what the cast alone costs. Nil when nothing was cast.
	StoredMaxAbsDiff float64  `json:"stored_max_abs_diff,omitempty"`
	StoredKL         float64  `json:"stored_kl,omitempty"`
	Notes            []string `json:"notes,omitempty"`
}

// Text names a text that numbers depend on.
type Text struct {
	Name   string `json:"name"` // file name, or "embedded sample"
	SHA256 string `json:"sha256"`
	Tokens int    `json:"tokens"` // used of it
	// Documents is how many texts, lines or rows these come from, or stretches that were put in another order.
	Documents  int      `json:"documents,omitempty"`
	Vocabulary float64  `json:"vocabulary,omitempty"` // share of the model's tokens that occur
	Knows      *float64 `json:"knows,omitempty"`      // calibration: share of the compared text's tokens that occur in it
}

// PassResult is what one pass did.
type PassResult struct {
	Name    string   `json:"name"`
	Changed int      `json:"changed"`
	Skipped []Line   `json:"skipped,omitempty"`
	Notes   []string `json:"notes,omitempty"`
	// Tensors holds figures by tensor, such as sparsity; only of passes before the targets part.
	Tensors []Tensor `json:"tensors,omitempty"`
	// Channels is what went of a graph, of prune.channels: Changed counts its groups, Skipped are those that stay whole.
	Channels *channels.Report `json:"channels,omitempty"`
}

// Zeros is what the file holds of the weights that were pruned, counted after it was written.
type Zeros struct {
	Matrices int   `json:"matrices"` // that were pruned
	Zeros    int64 `json:"zeros"`    // weights of them that decode to exactly 0
	Elements int64 `json:"elements"`
	// Broken are the matrices that no longer show the pattern or the share that was asked for.
	Broken []Line `json:"broken,omitempty"`
	// Gain says, for each type the matrices are stored in, what the zeros bring.
	Gain []string `json:"gain,omitempty"`
}

// Text says it in a line.
func (z *Zeros) Text() string {
	held := "as pruned"
	if n := len(z.Broken); n > 0 {
		held = fmt.Sprintf("%d of them not as pruned (%s: %s)", n, z.Broken[0].Tensor, z.Broken[0].Reason)
	}
	return fmt.Sprintf("%d matrices hold %s zeros, %s", z.Matrices, z.Share(), held)
}

// Share is the part of the pruned matrices that is zero: "49.9 %".
func (z *Zeros) Share() string {
	return human.Percent(float64(z.Zeros)/float64(max(z.Elements, 1)), 1)
}

// Stage is one step of the work, with what it cost here.
type Stage struct {
	Name    string  `json:"name"`             // "merge", "prune", "calibrate", "quantize", "write", "verify", "bench"
	Target  string  `json:"target,omitempty"` // empty: for all
	Seconds float64 `json:"seconds"`
	Amount  int64   `json:"amount,omitempty"` // in Unit
	Unit    string  `json:"unit,omitempty"`
	// PeakMemoryBytes is the process's peak when the stage ended.
	PeakMemoryBytes int64 `json:"peak_memory_bytes"`
	Reused          bool  `json:"reused,omitempty"` // taken from the work folder of an earlier run
}

// Machine is where the numbers come from.
type Machine struct {
	CPU      string  `json:"cpu"`
	OS       string  `json:"os"`
	Arch     string  `json:"arch"`
	ISA      string  `json:"isa"`
	Threads  int     `json:"threads"`
	ReadGBps float64 `json:"read_gb_s,omitempty"` // memory read bandwidth, when measured
}

// Target is one package: what went into it and how it compares with the original.
type Target struct {
	Name      string  `json:"name"`    // "arm64", or the name the recipe gives it
	Target    string  `json:"target"`  // "arm64"
	Package   string  `json:"package"` // folder or archive; "<name>.rejected" after a failed gate
	Container string  `json:"container"`
	Type      string  `json:"type"`   // as asked: "q4_k_m", "int4 g128"
	Method    string  `json:"method"` // "rtn", "gptq"
	Bytes     int64   `json:"bytes"`  // of the model files; in a plan an estimate
	Ratio     float64 `json:"ratio"`  // Bytes over the source's model bytes
	Digest    string  `json:"digest,omitempty"`
	Verdict   Verdict `json:"verdict"`

	// BitsPerWeight is 8*Bytes over parameters.
	BitsPerWeight float64 `json:"bits_per_weight"`
	// SameBytes says where the same bytes come out again: "any machine" or "isa avx512".
	SameBytes string `json:"same_bytes,omitempty"`

	Tensors  []Tensor     `json:"tensors,omitempty"`
	Refusals []Line       `json:"refusals,omitempty"`
	Skipped  []Line       `json:"skipped,omitempty"`
	Passes   []PassResult `json:"passes,omitempty"`  // quantize; figures are in Tensors
	Caveats  []string     `json:"caveats,omitempty"` // what the name of the type does not say
	Zeros    *Zeros       `json:"zeros,omitempty"`   // when weights were pruned
	Notes    []string     `json:"notes,omitempty"`
	// NotExecuted says what of this target's promise was not run here: "no GPU in this machine: ...".
	NotExecuted []string `json:"not_executed,omitempty"`
	// NotCompared and NotTimed say why there are no figures of accuracy, or of speed, below.
	NotCompared string   `json:"not_compared,omitempty"`
	NotTimed    string   `json:"not_timed,omitempty"`
	Runtimes    []string `json:"runtimes,omitempty"` // where the package opens unconverted

	// Against says what "original" is in the figures below: "the source model", or "source with
	// adapters merged in f32".
	Against    string             `json:"against,omitempty"`
	Text       *Text              `json:"text,omitempty"` // what the models were compared on
	Protocol   *verify.Protocol   `json:"protocol,omitempty"`
	Perplexity *verify.Perplexity `json:"perplexity,omitempty"`
	KL         *verify.KL         `json:"kl,omitempty"`
	Top1       *verify.Top1       `json:"top1,omitempty"`
	Layers     []verify.Layer     `json:"layers,omitempty"` // in network order
	Sample     *verify.Text       `json:"sample,omitempty"`
	Bench      *Bench             `json:"bench,omitempty"`
	Gate       verify.Gate        `json:"gate"`
	// Graph is what only packages of graphs have.
	Graph *Graph `json:"graph,omitempty"`
	// Losses are the tensors that lost most, worst first, when a gate about accuracy did not pass.
	Losses []verify.Loss `json:"losses,omitempty"`
}

// Tensor is one line of what was done to the weights.
type Tensor struct {
	Name    string             `json:"name"`
	Shape   []int              `json:"shape,omitempty"`
	From    string             `json:"from"`
	To      string             `json:"to"`
	Reason  string             `json:"reason,omitempty"` // why it differs from the request
	Bytes   int64              `json:"bytes"`
	Figures map[string]float64 `json:"figures,omitempty"` // "rmse", "sparsity", ...
}

// Bench is latency of the package and of the original on this machine, measured in turns: the
// object of `pare bench --output json`. Models holds the package first.
type (
	Bench       = bench.Result
	BenchModel  = bench.Model
	BenchRatio  = bench.Ratio
	Spread      = bench.Spread
	Percentiles = bench.Percentiles
)
