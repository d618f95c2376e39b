package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/calib"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/prune"
	"github.com/pare-dev/pare/quantize"
	"github.com/pare-dev/pare/quantize/qgraph"
	"github.com/pare-dev/pare/runner/verify"
	"github.com/pare-dev/pare/targets/build"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

// stepFlags are the choices that quantize, prune, lora merge and convert share.
type stepFlags struct {
	out, to, pre string
	force        bool
}

func (fl *stepFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVarP(&fl.out, "out", "o", "", "`PATH` to write; the suffix names the format, a path without one is a Hugging Face folder")
	f.StringVar(&fl.to, "to", "", "`FORMAT` to write, when the suffix does not say it")
	f.StringVar(&fl.pre, "pre", "", "`NAME` of the pre-tokenizer for GGUF, when the model's is not a known one")
	f.BoolVar(&fl.force, "force", false, "replace what lies there")
	var names []string
	for _, x := range formats.All() {
		if x.Write != nil {
			names = append(names, x.Name)
		}
	}
	complete(c, "to", names...)
}

// step runs one piece of work from file to file and shows what was done.
func (a *app) step(ctx context.Context, s build.Step, fl *stepFlags) error {
	if err := needOut(fl.out); err != nil {
		return err
	}
	s.Out, s.To, s.Pre = fl.out, fl.to, fl.pre
	if f, ok := formats.ByPath(s.Out); s.To == "" && ok && f.Name == "hf" && s.Quantize != nil && strings.HasPrefix(s.Quantize.Quantize, "int") {
		s.To = "compressed-tensors" // a Hugging Face folder too, with packed weights
	}
	if a.seedIsSet {
		s.Recipe.Calibration.Seed = a.seed
	}
	o := a.options()
	o.Force = fl.force
	if o.Work == "" {
		o.Work = build.StepWork(s.Out)
	}
	a.keep(o.Work)
	rep, err := build.Transform(ctx, s, o)
	if err != nil {
		return err
	}
	a.stopProgress()
	rep.Reproduce = "pare " + shellLine(a.args)
	t := &rep.Targets[0]
	noGates(rep)
	return a.show(result{object: rep, lines: tensorLines(t), table: planTable(rep), text: func(w io.Writer) {
		sourceText(w, rep)
		for _, p := range t.Passes {
			for _, n := range p.Notes {
				fmt.Fprintf(w, "note      %s\n", n)
			}
		}
		if t.Passes == nil || rep.Distill == nil {
			learnedText(w, rep)
		}
		zerosText(w, t)
		if a.quiet {
			reasonsText(w, t, false) // otherwise they were seen while it ran
		}
		fmt.Fprintf(w, "%s  %s  %s · %s · peak memory %s\n", t.Package, human.Bytes(t.Bytes), times(t.Ratio),
			human.Duration(time.Duration(rep.Seconds*float64(time.Second))), human.Bytes(rep.PeakMemoryBytes))
	}})
}

// noGates says "none" of targets that nothing was asked of.
func noGates(rep *report.Report) {
	for i := range rep.Targets {
		if g := &rep.Targets[i].Gate; g.Checks == nil {
			*g = verify.Evaluate(nil, nil)
		}
	}
}

func tensorLines(t *report.Target) []any {
	lines := []any{}
	for i := range t.Tensors {
		lines = append(lines, &t.Tensors[i])
	}
	return lines
}

func (a *app) quantizeCmd() *cobra.Command {
	var fl stepFlags
	var typ, method, imatrix string
	var keep, calibration []string
	var tokens int
	var inputs inputFlags
	var mix mixFlags
	var order orderFlags
	c := &cobra.Command{
		Use:   "quantize MODEL",
		Short: "Store the weights of a model in fewer bits",
		Long: `Store the weights of a model in fewer bits: a GGUF type (q8_0, q4_0, ...), a preset mix of them
(q4_k_m, ...), or a uniform scheme (int8, int4g128). With calibration text 4-bit types are rounded by
GPTQ, which halves their loss at the same size. A graph (ONNX) becomes one of integers: uint8, int8 or int16 with ranges
from samples given by --calibration, dynamic-int8 without them, or weights alone in blocks (int4-32, int8-128). With --gate
as few of its layers stay in float as meet the limit, by what each costs when it is measured. A text encoder whose
output is named .onnx becomes a graph first; its samples are the lines of a text.`,
		Example: `  pare quantize books-llama/model --type q4_0 -o books-q4_0.gguf
  pare quantize books-llama/model --type q4_k_m --calibration books-llama/text/calibration.txt --keep "*.attn_v.*=q8_0" -o books-q4_k_m.gguf
  pare quantize graphs/mnist/mnist-8.onnx --type uint8 --calibration graphs/mnist/images-idx3-ubyte.gz -o mnist-uint8.onnx
  pare quantize graphs/mnist/mnist-8.onnx --type uint8 --calibration graphs/mnist/images-idx3-ubyte.gz --gate sqnr_db=47 -o mnist-mixed.onnx
  pare quantize graphs/magika/model.onnx --type dynamic-int8 -o magika-int8.onnx`,
		Args: exactly("a MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if typ == "" {
				return misuse("add --type q4_k_m", "nothing says which type to store the weights in")
			}
			if f, err := formats.Sniff(args[0]); err == nil && (f.Name == "onnx" || fl.writesGraph()) {
				if order != (orderFlags{}) {
					return misuse("leave --shuffle and --unpacked out", "they order texts; this is a graph")
				}
				m, err := a.openModel(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if m, err = a.unfold(cmd.Context(), args[0], m, &inputs, true); err != nil {
					return err
				}
				return a.quantizeGraph(cmd.Context(), args[0], m, &graphQuantizeFlags{typ: typ, method: method, keep: keep, calibration: calibration, graph: inputs, mix: mix, step: &fl})
			}
			for _, name := range []string{"gate", "labels"} {
				if typed(cmd)(name) {
					return flagFault(name, misuse("build with a gate: pare build --gate", "it chooses layers of graphs; this is none"))
				}
			}
			r := &recipe.Recipe{Source: recipe.Source{Model: args[0]}}
			r.Calibration = recipe.Calibration{Text: calibration, Imatrix: imatrix, Tokens: tokens}
			order.apply(&r.Calibration)
			return a.step(cmd.Context(), build.Step{Recipe: r, Quantize: &recipe.Target{Quantize: typ, Method: method, Keep: keep}}, &fl)
		},
	}
	fl.register(c)
	f := c.Flags()
	f.StringVar(&typ, "type", "", "`TYPE`, such as q8_0, q4_k_m, int8, int4g128, bf16; of graphs "+strings.Join(qgraph.TypeNames()[:len(qgraph.TypeNames())-1], ", "))
	f.StringVar(&method, "method", "", "how codes are chosen: "+strings.Join(quantize.MethodNames(), " or ")+"; default gptq for 4-bit types when there is calibration text; of graphs how ranges are: "+strings.Join(calib.MethodNames(), ", ")+"; default mse")
	f.StringArrayVar(&keep, "keep", nil, "`PATTERN=TYPE`: other types for some tensors; the first match counts; of graphs PATTERN alone: nodes that stay float, by name, operator or what they make; * crosses slashes")
	f.StringArrayVar(&calibration, "calibration", nil, "`FILE` of text, JSON lines (FILE:FIELD) or token ids (.npy) that methods learn from; of graphs samples, as pare run --input takes them; repeat it for several")
	inputs.register(c)
	mix.register(c)
	order.register(c)
	intFrom(f, &tokens, "tokens", "", 1, 0, "tokens of it to use; default 65536")
	f.StringVar(&imatrix, "imatrix", "", "importance matrix `FILE` in place of measuring one (pare calibrate)")
	completeTypes(c, "type")
	complete(c, "method", append(quantize.MethodNames(), calib.MethodNames()...)...)
	completePatterns(c, "keep", true)
	return c
}

func (a *app) pruneCmd() *cobra.Command {
	var fl stepFlags
	var method, pattern, scope, imatrix string
	var share ratio
	var only, skip, calibration []string
	var noRefit bool
	var tokens int
	var parts structureFlags
	var order orderFlags
	var graph channelFlags
	c := &cobra.Command{
		Use:   "prune MODEL",
		Short: "Take the least important parts of a model out, or set its least important weights to zero",
		Long: `Make a model smaller with --structure: width takes neurons and heads out of every block and fits the layers
that read them, depth takes out whole blocks, and channels makes a graph (ONNX) with fewer channels. What comes out
is a plain model that every runtime loads.

Or set single weights to zero with --method: the smallest (magnitude), or those that matter least for the inputs
that a text gives (wanda), or those that the others can replace best, which are changed to do so (sparsegpt). Zeros
save neither bytes nor time in dense formats; the report says what the chosen format makes of them.`,
		Example: `  pare prune books-llama/model --method magnitude --sparsity 30% -o books-pruned
  pare prune books-llama/model --structure width --ratio 25% --calibration books-llama/text/calibration.txt --tokens 4096 -o books-narrow
  pare prune books-llama/model --structure depth --blocks 5 --calibration books-llama/text/calibration.txt --tokens 4096 -o books-shallow
  pare prune graphs/mnist/mnist-8.onnx --structure channels --flops 50% --calibration graphs/mnist/images-idx3-ubyte.gz -o mnist-small.onnx
  pare prune books-llama/model --method wanda --pattern 2:4 --imatrix books-llama/imatrix.gguf -o books-2of4
  pare prune books-llama/model --method sparsegpt --sparsity 50% --calibration books-llama/text/calibration.txt -o books-half`,
		Args: exactly("a MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if parts.structure == channelStructure {
				cfg, err := graph.config(&parts, typed(cmd))
				if err != nil {
					return err
				}
				cfg.Only, cfg.Skip, cfg.NoRefit = only, skip, noRefit
				return a.pruneChannels(cmd.Context(), args[0], &graph, cfg, calibration, &fl)
			}
			for _, name := range onlyChannels {
				if typed(cmd)(name) {
					return flagFault(name, misuse("add --structure channels", "it is about channels of graphs"))
				}
			}
			p, err := parts.pass(typed(cmd))
			if parts.structure == "" && err == nil {
				if p, err = prunePass(method, share, pattern, only); err == nil {
					err = pruneIgnores(prune.Lookup(p.Use), typed(cmd))
				}
			}
			if err != nil {
				return err
			}
			p.Skip, p.Scope = skip, scope
			if noRefit {
				p.Refit = new(bool)
			}
			r := &recipe.Recipe{Source: recipe.Source{Model: args[0], Dtype: "keep"}, Passes: []recipe.Pass{p}}
			r.Calibration = recipe.Calibration{Text: calibration, Imatrix: imatrix, Tokens: tokens}
			order.apply(&r.Calibration)
			return a.step(cmd.Context(), build.Step{Recipe: r}, &fl)
		},
	}
	fl.register(c)
	parts.register(c)
	graph.register(c)
	f := c.Flags()
	f.StringVar(&method, "method", "magnitude", "how single weights are chosen: "+strings.Join(prune.WeightNames(), ", "))
	f.Var(&share, "sparsity", "share of weights to prune, 0.5 or 50%")
	f.StringVar(&pattern, "pattern", "", "`N:M`: at most N of M neighbours stay, such as 2:4")
	f.StringVar(&scope, "scope", "", "what competes: row, layer or global; default layer")
	f.BoolVar(&noRefit, "no-refit", false, "sparsegpt: do not fit the kept weights once more; width, channels: do not fit what read the parts that go")
	f.StringArrayVar(&only, "only", nil, "tensors that match `PATTERN`, default all matrices of blocks; of graphs layers; repeat it for several")
	f.StringArrayVar(&skip, "skip", nil, "leave tensors, or layers of graphs, that match `PATTERN` alone; repeat it for several")
	f.StringArrayVar(&calibration, "calibration", nil, "`FILE` of text, JSON lines (FILE:FIELD) or token ids (.npy) that wanda, sparsegpt, width and depth learn from; of graphs samples, as pare run --input takes them; repeat it for several")
	intFrom(f, &tokens, "tokens", "", 1, 0, "tokens of it to use; default 65536")
	order.register(c)
	f.StringVar(&imatrix, "imatrix", "", "importance matrix `FILE` in place of measuring one (pare calibrate)")
	complete(c, "method", prune.WeightNames()...)
	complete(c, "pattern", "2:4", "4:8")
	complete(c, "scope", "row", "layer", "global")
	completePatterns(c, "only", false)
	completePatterns(c, "skip", false)
	return c
}

func (a *app) loraCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "lora",
		Short: "Work with LoRA adapters: train them, merge them into a model",
		Long:  "Work with LoRA adapters.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return misuse("pare lora merge BASE --adapter DIR -o OUT", "lora needs a verb: merge or train")
			}
			return unknown(cmd, args[0])
		},
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	c.AddCommand(a.loraTrainCmd(), a.loraMergeCmd())
	return c
}

func (a *app) loraMergeCmd() *cobra.Command {
	var fl stepFlags
	var adapters []string
	dtype := choice{value: "keep", of: []string{"keep", "f32", "f16", "bf16"}}
	var allow bool
	c := &cobra.Command{
		Use:   "merge BASE",
		Short: "Merge LoRA adapters into a model, and prove that the result computes the same",
		Long: `Merge LoRA adapters into a model, in order, each with its weight. The merge proves itself: the
merged model is run beside base plus adapter, and the largest difference is in the report.`,
		Example: `  pare lora merge books-llama/model --adapter books-llama/adapter-shakespeare -o merged
  pare lora merge books-llama/model --adapter books-llama/adapter-shakespeare:0.5 --dtype f32 -o merged-half.gguf`,
		Args: exactly("a BASE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(adapters) == 0 {
				return misuse("add --adapter DIR", "there is no adapter to merge")
			}
			rf := recipeFlags{adapters: adapters, dtype: dtype.value, allowBase: allow}
			r := &recipe.Recipe{Source: recipe.Source{Model: args[0]}}
			if err := rf.source(r); err != nil {
				return err
			}
			return a.step(cmd.Context(), build.Step{Recipe: r}, &fl)
		},
	}
	fl.register(c)
	f := c.Flags()
	f.StringArrayVar(&adapters, "adapter", nil, "adapter `DIR` or DIR:WEIGHT; repeat it for several")
	f.Var(&dtype, "dtype", "type of the merged weights: keep, f32, f16 or bf16")
	f.BoolVar(&allow, "allow-base-mismatch", false, "merge an adapter that names another base model")
	complete(c, "dtype", dtype.of...)
	return c
}

func (a *app) convertCmd() *cobra.Command {
	var fl stepFlags
	var dtype string
	var external, pooled bool
	var opset int
	c := &cobra.Command{
		Use:   "convert MODEL",
		Short: "Write a model in another format, weights unchanged",
		Long: `Write a model in another format. The suffix of -o names it (.gguf, .safetensors); a path without
one is a Hugging Face folder. Weights keep their type unless --dtype asks for another. A graph (.onnx)
stays one: what was not changed is written as it was read. A text encoder (BERT and its relatives) becomes
a graph when it is written as .onnx: inputs input_ids, attention_mask and, where it has types of tokens,
token_type_ids of any batch and length; output last_hidden_state, and with --embeddings sentence_embedding.`,
		Example: `  pare convert books-llama/model -o books.gguf
  pare convert books.gguf -o books-hf`,
		Args: exactly("a MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := build.Step{Recipe: &recipe.Recipe{Source: recipe.Source{Model: args[0]}}, External: external, Opset: opset, Pooled: pooled}
			if dtype != "" && dtype != "keep" {
				s.Quantize = &recipe.Target{Quantize: dtype}
			}
			return a.step(cmd.Context(), s, &fl)
		},
	}
	fl.register(c)
	c.Flags().StringVar(&dtype, "dtype", "keep", "`TYPE` of weights: keep, f32, f16 or bf16")
	c.Flags().BoolVar(&external, "external-data", false, "ONNX: large tensors in a file beside the model, as from 2 GiB on")
	c.Flags().IntVar(&opset, "opset", 0, "ONNX of a text encoder: `VERSION` of the operator set, 17 to 23 (default 17)")
	c.Flags().BoolVar(&pooled, "embeddings", false, "ONNX of a text encoder: also give the embedding of each text, pooled as the model asks for")
	complete(c, "dtype", "keep", "f32", "f16", "bf16")
	return c
}
