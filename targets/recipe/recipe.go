// Package recipe is what a person asks for, as data: the TOML file, the flags that override it,
// and the resolved form that travels inside every package. It knows the shape of a recipe, not how
// to carry one out.
package recipe

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pare-dev/pare/internal/human"
)

// Recipe is one build. Zero values mean "not said": the engine fills in defaults, which come from
// the target where they can. Field names of the file are the json tags; doc and enum tags feed the
// JSON Schema and the messages.
type Recipe struct {
	Source      Source      `json:"source" doc:"what goes in"`
	Calibration Calibration `json:"calibration" doc:"text that passes with activations learn from"`
	Passes      []Pass      `json:"pass,omitempty" doc:"work on the weights before the targets part, in order"`
	Distill     *Distill    `json:"distill,omitempty" doc:"training after the passes"`
	Targets     []Target    `json:"target,omitempty" doc:"one package each"`
	Verify      Verify      `json:"verify" doc:"how a package is compared with the original"`
	Bench       Bench       `json:"bench" doc:"how latency is measured"`
	Gate        Gate        `json:"gate,omitempty" doc:"limits; a package that misses one is not published"`
	Preprocess  Inputs      `json:"preprocess,omitempty" doc:"how files become inputs of a graph, one table an input"`
}

// Source names the model and what is merged into it.
type Source struct {
	Model    string    `json:"model,omitempty" doc:"Hugging Face folder, .safetensors, .gguf, .onnx or llama2.c .bin"`
	Adapters []Adapter `json:"adapters,omitempty" doc:"PEFT folders, merged in this order; \"DIR\" or \"DIR:WEIGHT\""`
	Shapes   []string  `json:"shapes,omitempty" doc:"shapes of a graph's inputs where it leaves them open, \"INPUT=1x3x224x224\"; the packages are fixed to them"`
	// Dtype is how merged and pruned weights are held when they are stored or handed to the next step.
	Dtype             string `json:"dtype,omitempty" doc:"type of merged weights: cast once, after the last merge" enum:"keep,f32,f16,bf16"`
	AllowBaseMismatch bool   `json:"allow_base_mismatch,omitempty" doc:"merge an adapter that names another base model"`
}

// Adapter is a PEFT folder with a weight that scales what it adds.
type Adapter struct {
	Path   string
	Weight float64 // 1 unless said otherwise
}

// ParseAdapter reads "DIR" or "DIR:WEIGHT". A colon that no number follows belongs to the path.
func ParseAdapter(s string) (Adapter, error) {
	a := Adapter{Path: s, Weight: 1}
	if i := strings.LastIndexByte(s, ':'); i > 0 {
		if w, err := strconv.ParseFloat(s[i+1:], 64); err == nil {
			a = Adapter{Path: s[:i], Weight: w}
		}
	}
	if a.Path == "" || a.Weight-a.Weight != 0 {
		return Adapter{}, misuse("%q names no adapter; write DIR or DIR:WEIGHT", s)
	}
	return a, nil
}

// String is the form that ParseAdapter reads.
func (a Adapter) String() string {
	if a.Weight == 1 {
		if _, err := strconv.ParseFloat(a.Path[strings.LastIndexByte(a.Path, ':')+1:], 64); err != nil || !strings.Contains(a.Path, ":") {
			return a.Path
		}
	}
	return a.Path + ":" + strconv.FormatFloat(a.Weight, 'g', -1, 64)
}

// Calibration says what the passes with activations read: text, or the samples of a graph.
type Calibration struct {
	Text     []string `json:"text,omitempty" doc:"files of text, of JSON lines (FILE or FILE:FIELD) or of token ids (.npy), read in order"`
	Tokens   int      `json:"tokens,omitempty" doc:"tokens used, from the beginning; default 65536"`
	Context  int      `json:"context,omitempty" doc:"tokens in a sequence; default 512"`
	Shuffle  bool     `json:"shuffle,omitempty" doc:"take documents, and stretches of long ones, in an order that the seed gives, not from the beginning"`
	Unpacked bool     `json:"unpacked,omitempty" doc:"every document begins a sequence of its own, in place of filling sequences with one behind the other"`
	Samples  []string `json:"samples,omitempty" doc:"graphs: files, folders and arrays that ranges of activations are found on and channels are pruned by, \"FILE\" or \"INPUT=FILE\""`
	Imatrix  string   `json:"imatrix,omitempty" doc:"importance matrix in llama.cpp's GGUF form, in place of measuring one"`
	Seed     uint64   `json:"seed,omitempty" doc:"seed of everything random"`
}

// Pass is one piece of work on the weights before the targets part.
type Pass struct {
	Use      string   `json:"use" doc:"which pass" enum:"@passes"`
	Sparsity *Ratio   `json:"sparsity,omitempty" doc:"share of zeros, 0.5 or \"50%\""`
	Pattern  string   `json:"pattern,omitempty" doc:"N:M zeros, such as \"2:4\": at most N of M consecutive weights stay"`
	Scope    string   `json:"scope,omitempty" doc:"what competes: the weights of a row, of a matrix, or all" enum:"row,layer,global"`
	Only     []string `json:"only,omitempty" doc:"tensor patterns; default all block matrices; channels: patterns of layers or operators"`
	Skip     []string `json:"skip,omitempty" doc:"tensor patterns left alone; channels: patterns of layers or operators"`
	Schedule []Share  `json:"schedule,omitempty" doc:"sparsity for some layers; the first match counts"`
	Refit    *bool    `json:"refit,omitempty" doc:"prune.sparsegpt: fit the kept weights once more, all together; prune.width and prune.channels: fit what read the parts that went; true unless said"`

	// Of prune.width and prune.depth, and of prune.channels for graphs, which take out whole parts.
	Ratio      *Ratio `json:"ratio,omitempty" doc:"width, depth: share of the parameters of the blocks that goes, 0.25 or \"25%\"; channels: share of those of every group"`
	FLOPs      *Ratio `json:"flops,omitempty" doc:"channels: share of the multiplications that stays, 0.5 or \"50%\""`
	Parameters int    `json:"parameters,omitempty" doc:"width, depth: most parameters that the model has afterwards; channels: of layers with weights"`
	Bytes      int    `json:"bytes,omitempty" doc:"width, depth, channels: most bytes that its weights take before quantization"`
	FFN        int    `json:"ffn,omitempty" doc:"width: neurons of the MLP that stay in every block"`
	KVHeads    int    `json:"kv_heads,omitempty" doc:"width: key heads that stay in every block, with the query heads that share them"`
	Hidden     int    `json:"hidden,omitempty" doc:"width: channels of the residual stream that stay"`
	Blocks     int    `json:"blocks,omitempty" doc:"depth: blocks that stay"`
	Multiple   int    `json:"multiple,omitempty" doc:"width: what the neurons of the MLP are a multiple of; default the block length of stored types where that leaves a fine choice; channels: what those of a group are; 8"`
	Floor      Ratio  `json:"floor,omitempty" doc:"channels: share of a group that stays at least; default 12.5%"`
	Score      string `json:"score,omitempty" doc:"what parts are chosen by; default activation for width, influence for depth, fit for channels, or magnitude where there are no samples" enum:"@scores"`
}

// Structured reports whether a key of passes that take out whole parts is set.
func (p *Pass) Structured() bool {
	return p.Ratio != nil || p.FLOPs != nil || p.Floor != 0 || p.Parameters != 0 || p.Bytes != 0 || p.FFN != 0 || p.KVHeads != 0 || p.Hidden != 0 || p.Blocks != 0 || p.Multiple != 0 || p.Score != ""
}

// Share sets a sparsity for the tensors that a pattern matches.
type Share struct {
	Match    string `json:"match" doc:"tensor pattern"`
	Sparsity Ratio  `json:"sparsity" doc:"share of zeros"`
}

// Target is one package.
type Target struct {
	Use       string   `json:"use" doc:"target name, see pare targets"`
	Name      string   `json:"name,omitempty" doc:"folder name of the package; default the target's name"`
	Quantize  string   `json:"quantize,omitempty" doc:"preset or scheme (q4_k_m, q8_0, int4g128, int8, bf16, ...), of graphs int8, int16, dynamic-int8, int4-32, ...; default from the target"`
	Method    string   `json:"method,omitempty" doc:"how codes are chosen; default gptq for 4-bit types when calibration text is given, else rtn; of graphs how ranges of activations are: default mse" enum:"@methods"`
	Keep      []string `json:"keep,omitempty" doc:"overrides, \"PATTERN=TYPE\"; the first match counts; of graphs patterns of nodes or operators that stay float"`
	Container string   `json:"container,omitempty" doc:"file format, when the target takes several" enum:"gguf,compressed-tensors,onnx"`
	Archive   bool     `json:"archive,omitempty" doc:"write NAME.pare (one tar file) in place of a folder"`

	// Of graphs.
	Activations string   `json:"activations,omitempty" doc:"graphs: codes of activations; default from type and target" enum:"uint8,int8,uint16,int16"`
	Weights     string   `json:"weights,omitempty" doc:"graphs: codes of weights; default from the target" enum:"int8,uint8"`
	Symmetric   bool     `json:"symmetric,omitempty" doc:"graphs: zero points of activations in the middle of the codes"`
	PerTensor   bool     `json:"per_tensor,omitempty" doc:"graphs: one scale for all of a weight, in place of one for each output channel"`
	Percentile  Ratio    `json:"percentile,omitempty" doc:"graphs, method percentile: share of the values within the range; default 99.99%"`
	Without     []string `json:"without,omitempty" doc:"graphs: steps that are left out: evening out channels (SmoothQuant and equalization), rounding by least squares, correcting biases" enum:"equalize,rounding,bias"`
	Mix         bool     `json:"mix,omitempty" doc:"graphs: keep few nodes in float, none of them superfluous, with which the gate on sqnr_db holds on the calibration samples"`
	FailOn      string   `json:"fail_on,omitempty" doc:"graphs: refuse the target when it does not run all of the graph" enum:"fallback"`
}

// Verify says how a package is compared with the original.
type Verify struct {
	Text      []string `json:"text,omitempty" doc:"text files; default the part of the calibration text that was not used"`
	Samples   []string `json:"samples,omitempty" doc:"graphs: files, folders and arrays to compare on, which calibration should not see; default those of calibration"`
	Labels    string   `json:"labels,omitempty" doc:"graphs: file with the right class of every sample: .npy, idx, or a number a line"`
	Context   int      `json:"context,omitempty" doc:"tokens in a chunk; default 512"`
	Chunks    int      `json:"chunks,omitempty" doc:"chunks compared at first; default 16"`
	MaxChunks int      `json:"max_chunks,omitempty" doc:"cap when gates are inconclusive and the sample is doubled; default 128"`
	Undecided string   `json:"undecided,omitempty" doc:"what a gate that stays inconclusive means; default fail" enum:"fail,pass"`
	Off       bool     `json:"off,omitempty" doc:"do not compare; the verdict is then none"`
}

// Bench says how latency is measured.
type Bench struct {
	Prompt   int  `json:"prompt,omitempty" doc:"prompt tokens; default 128"`
	Generate int  `json:"generate,omitempty" doc:"generated tokens; default 32"`
	Repeat   int  `json:"repeat,omitempty" doc:"interleaved runs; default 5, or 20 when a gate judges a speed"`
	Off      bool `json:"off,omitempty" doc:"do not measure"`
}

// Ratio is a fraction that a recipe spells as a number (0.5) or as a percentage ("50%").
type Ratio float64

// Gate is limits by name; verify.GateNames lists them.
type Gate map[string]Ratio

// Set reads "NAME=LIMIT", as the --gate flag has it, into g.
func (g Gate) Set(s string) error {
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		return misuse("gate %q: write NAME=LIMIT, such as kl_mean=0.05", s)
	}
	name = strings.TrimSpace(name)
	if err := checkGate(name); err != nil {
		return err
	}
	v, err := human.ParseRatio(value)
	if err != nil && strings.HasPrefix(name, "kl_") {
		return misuse("gate %s: %q is not a number of nats; write %s=0.05", name, value, name)
	}
	if err != nil {
		return fmt.Errorf("gate %s: %w", name, err)
	}
	g[name] = Ratio(v)
	return nil
}
