package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/internal/corpus"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
	"github.com/pare-dev/pare/runner/verify"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

// verifyFlags are the choices of verify and explain.
type verifyFlags struct {
	text        []string
	lines       bool // --text gave the samples of a graph
	context     int
	contextSet  bool // by the user: then it is not changed
	chunks      int
	gates       []string
	undecided   choice
	activations choice
	write       int
	labels      string
	layers      bool
	save        string
	force       bool
	graph       inputFlags
	changed     func(flag string) bool
}

func (a *app) verifyCmd() *cobra.Command {
	fl := verifyFlags{undecided: choice{value: "fail", of: []string{"fail", "pass"}}, activations: activationForms()}
	c := &cobra.Command{
		Use:   "verify ORIGINAL PACKAGE",
		Short: "Compare the accuracy of a package with its original: perplexity, KL divergence, top-1",
		Long: `Compare the accuracy of a package, or of any model that pare reads, with its original on a text:
perplexity, KL divergence, agreement of the most likely token, the error after every block, and what
both write. Text encoders are compared by the embeddings of the text's lines: the cosine between both, and
whether a line finds the same nearest other line. Graphs (ONNX) are compared by their outputs on samples: the ratio of
signal to error, and, with labels, how often they are right. With --gate the exit code is 3 when a limit is missed.`,
		Example: `  pare verify books-llama/model books-q4_0.gguf --text books-llama/text/test.txt --chunks 16
  pare verify books-llama/model books-q4_0.gguf --text books-llama/text/test.txt --chunks 16 --gate kl_mean=0.05
  pare verify graphs/mnist/mnist-8.onnx graphs/mnist/mnist-8.onnx --samples graphs/mnist/images-idx3-ubyte.gz --labels graphs/mnist/labels-idx1-ubyte.gz --gate sqnr_db=38`,
		Args: exactly("an ORIGINAL", "a PACKAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			fl.changed = typed(cmd)
			fl.contextSet = cmd.Flags().Changed("context")
			return a.verify(cmd.Context(), args[0], args[1], &fl)
		},
	}
	f := c.Flags()
	fl.textFlags(a, c)
	intFrom(f, &fl.chunks, "chunks", "", 0, 64, "chunks to compare, 0 for all of the text; with --gate up to four times as many while it cannot tell")
	f.StringArrayVar(&fl.gates, "gate", nil, "`NAME=LIMIT` that decides the exit code, such as kl_mean=0.05; repeat it for several")
	activationsFlag(c, &fl.activations)
	f.Var(&fl.undecided, "undecided", "what a gate that cannot tell means: fail or pass")
	intFrom(f, &fl.write, "write", "", 0, 384, "tokens that both models write to see whether the package repeats itself; 0 for none")
	f.StringArrayVar(&fl.graph.inputs, "samples", nil, "`FILE` or folder that graphs are compared on: .npy, idx, pictures, sounds; NAME=FILE where there are several inputs; repeat it for several")
	f.StringVar(&fl.labels, "labels", "", "`FILE` with the right class of every sample: .npy, idx, or a number a line")
	f.BoolVar(&fl.layers, "layers", false, "compare also values inside of graphs that have the same name in both")
	f.StringVar(&fl.save, "save-output", "", "write every output of graphs to `FOLDER`/original and FOLDER/package as float .npy [samples, ...], for metrics that pare does not have, such as mAP")
	f.BoolVar(&fl.force, "force", false, "replace what lies in --save-output")
	for _, name := range []string{"samples", "labels", "save-output"} {
		f.Lookup(name).Annotations = map[string][]string{noEnv: {"input"}}
	}
	fl.graph.register(c)
	completeGates(c)
	complete(c, "undecided", fl.undecided.of...)
	return c
}

// textFlags are those of every verb that reads a text to compare on.
func (fl *verifyFlags) textFlags(_ *app, c *cobra.Command) {
	c.Flags().StringArrayVar(&fl.text, "text", nil, "`FILE` of text, JSON lines (FILE:FIELD) or token ids (.npy) that neither training nor calibration saw; repeat it for several")
	intFrom(c.Flags(), &fl.context, "context", "", 2, defaultContext, "tokens in a chunk; the second half of each is scored; unless given, no more than the models were trained for")
}

func (a *app) verify(ctx context.Context, original, pkg string, fl *verifyFlags) error {
	limits := recipe.Gate{}
	for _, g := range fl.gates {
		if err := limits.Set(g); err != nil {
			return flagFault("gate", err)
		}
	}
	if err := verify.CheckLimits(limits.Limits()); err != nil {
		return err
	}
	for _, name := range []string{"decode_speedup", "prefill_speedup"} {
		if _, ok := limits[name]; ok {
			return misuse("gate on it in pare build, or measure with pare bench", "verify does not time the models: it cannot judge %s", name)
		}
	}
	first, second, err := a.openPair(ctx, original, pkg)
	if err != nil {
		return err
	}
	if first.Graph == nil && second.Graph != nil && first.Encoder != nil {
		if first, err = a.beside(ctx, original, first, second, fl); err != nil {
			return errors.Join(err, second.Close())
		}
	}
	if first.Graph != nil || second.Graph != nil {
		return a.verifyGraphs(ctx, first, second, [2]string{original, pkg}, limits, fl)
	}
	for _, name := range []string{"samples", "labels", "layers", "save-output"} {
		if fl.changed(name) {
			return errors.Join(flagFault(name, misusef("these are no graphs: compare them on a text, with --text")), first.Close(), second.Close())
		}
	}
	if first.Encoder != nil || second.Encoder != nil {
		return a.verifyEncoders(ctx, first, second, [2]string{original, pkg}, limits, fl)
	}
	orig, made, err := a.preparePair(ctx, "verify", runner.Options{Tokens: fl.context, Activations: runner.Activations(fl.activations.value)}, first, second, original, pkg)
	if err != nil {
		return err
	}
	defer orig.Close()
	defer made.Close()
	if err := fl.fit(orig.model, made.model); err != nil {
		return err
	}
	tokens, opt, err := a.verifyTokens(ctx, orig, original, fl)
	if err != nil {
		return err
	}
	cmp, err := verify.New(orig.runner, made.runner, opt)
	if err != nil {
		return err
	}
	chunks := fl.chunks
	if chunks <= 0 {
		chunks = cmp.Available(tokens)
	}
	r, err := cmp.Until(ctx, tokens, chunks, 4*chunks, limits.Limits())
	if err != nil {
		return err
	}
	r.Original, r.Package = original, pkg
	r.Bytes = verify.Bytes{Original: orig.model.FileBytes, Package: made.model.FileBytes}
	known := r.Evidence()
	known["size_ratio"] = verify.Exact(float64(r.Bytes.Package) / float64(max(r.Bytes.Original, 1)))
	r.Gate = verify.Evaluate(limits.Limits(), known)
	if fl.write > 0 {
		a.progressSink().Stage("write", 0, "tokens")
		// a window that the text outgrows several times, so that loops have time to show
		window := min(128, opt.Context)
		r.Text, err = verify.WriteText(ctx, orig.runner, made.runner, verify.TextOptions{
			Prompt: tokens[:min(16, len(tokens))], Tokens: fl.write, Context: window, Greedy: min(64, fl.write), Seed: a.seed,
		}, func(ids []int32) string { return orig.tok.Decode(ids, tokenizer.DecodeOptions{SkipSpecial: true}) })
		if err != nil {
			return err
		}
	}
	a.stopProgress()
	if err := a.show(result{object: r, table: verifyTable(r), text: func(w io.Writer) { verifyText(w, r, textName(fl.text), a.verbose) }}); err != nil {
		return err
	}
	return gateError(r.Gate, fl.undecided.value)
}

// verifyTokens reads the text and cuts it into tokens of the original's vocabulary.
func (a *app) verifyTokens(ctx context.Context, orig *loaded, path string, fl *verifyFlags) ([]int32, verify.Options, error) {
	if len(fl.text) == 0 {
		return nil, verify.Options{}, misuse("add --text FILE", "there is no text to compare on")
	}
	tok, err := orig.tokenizer(path)
	if err != nil {
		return nil, verify.Options{}, err
	}
	text, err := readTokens(ctx, orig.model, path, tok, fl.text, nil)
	if err != nil {
		return nil, verify.Options{}, err
	}
	return a.cut(tok, text, fl)
}

// defaultContext is the usual length of a chunk.
const defaultContext = 512

// fit makes chunks no longer than what the models were trained for; it refuses them when the user
// asked for that length.
func (fl *verifyFlags) fit(models ...*ir.Model) error {
	for _, m := range models {
		if d := m.Decoder; d != nil && d.Context > 1 && !fl.contextSet {
			fl.context = min(fl.context, d.Context)
		}
	}
	return contextFits(fl.context, models...)
}

// contextFits refuses chunks that are longer than what a model was trained for.
func contextFits(tokens int, models ...*ir.Model) error {
	for _, m := range models {
		if d := m.Decoder; d != nil && d.Context > 0 && tokens > d.Context {
			return &fault.Error{File: m.Path, Err: misusef("chunks of %d tokens, the model was trained for %d", tokens, d.Context), Hint: "use a smaller --context"}
		}
	}
	return nil
}

// cut gives the tokens of a text and the protocol to score them by.
func (a *app) cut(tok *tokenizer.Tokenizer, text *corpus.Tokens, fl *verifyFlags) ([]int32, verify.Options, error) {
	if len(text.IDs) < fl.context {
		return nil, verify.Options{}, &fault.Error{File: text.Name, Err: misusef("%d tokens do not fill one chunk of %d", len(text.IDs), fl.context), Hint: "give a longer text or a smaller --context"}
	}
	opt := verify.Options{Context: fl.context, BOS: -1, TextHash: text.SHA256, Progress: a.progressSink()}
	if !text.Exact {
		opt.BOS = startToken(tok.Spec())
	}
	return text.IDs, opt, nil
}

// gateError turns a verdict into the error that carries exit code 3.
func gateError(g verify.Gate, undecided string) error {
	if g.Verdict == verify.Pass || g.Verdict == verify.None || g.Verdict == verify.Inconclusive && undecided == "pass" {
		return nil
	}
	return codeOnly(exitGate)
}

func verifyTable(r *verify.Result) *table {
	t := &table{head: []string{"figure", ">original", ">package", ">value", ">lower 95 %", ">upper 95 %"}}
	f := human.Float
	same := func(x float64) float64 { return x }
	bound := func(b verify.Bound, of func(float64) float64) string {
		if !b.Known() {
			return ""
		}
		return f(of(float64(b)))
	}
	t.add("perplexity", f(r.Perplexity.Original), f(r.Perplexity.Package), f(math.Expm1(r.Perplexity.LogRatio)), bound(r.Perplexity.Lower95, math.Expm1), bound(r.Perplexity.Upper95, math.Expm1))
	t.add("kl_mean", "", "", f(r.KL.Mean), bound(r.KL.Lower95, same), bound(r.KL.Upper95, same))
	t.add("kl_median", "", "", f(r.KL.Median), "", "")
	t.add("kl_p90", "", "", f(r.KL.P90), "", "")
	t.add("kl_p99", "", "", f(r.KL.P99), bound(r.KL.P99Lower, same), bound(r.KL.P99Upper, same))
	t.add("top1", "", "", f(r.Top1.Agreement), f(r.Top1.Lower95), f(r.Top1.Upper95))
	t.add("bytes", fmt.Sprint(r.Bytes.Original), fmt.Sprint(r.Bytes.Package), f(float64(r.Bytes.Package)/float64(max(1, r.Bytes.Original))), "", "")
	return t
}

// interval spells what is known of a figure besides its value.
func interval(lower, upper verify.Bound, spell func(float64) string) string {
	if !lower.Known() || !upper.Known() {
		return "one chunk gives no bounds"
	}
	return fmt.Sprintf("95 %%: %s to %s", spell(float64(lower)), spell(float64(upper)))
}

// verifyText is the comparison as a person reads it.
func verifyText(w io.Writer, r *verify.Result, text string, all bool) {
	growth := func(x float64) string { return fmt.Sprintf("%+.2f %%", 100*math.Expm1(x)) }
	fmt.Fprintf(w, "size        %s → %s  %s\n", human.Bytes(r.Bytes.Original), human.Bytes(r.Bytes.Package), times(float64(r.Bytes.Package)/float64(max(1, r.Bytes.Original))))
	fmt.Fprintf(w, "perplexity  %.4g → %.4g  %s  (%s)\n", r.Perplexity.Original, r.Perplexity.Package, growth(r.Perplexity.LogRatio), interval(r.Perplexity.Lower95, r.Perplexity.Upper95, growth))
	fmt.Fprintf(w, "KL          %s nats per token  (%s)  median %s  90 %% %s  99 %% %s  largest %s\n",
		human.Float(r.KL.Mean), interval(r.KL.Lower95, r.KL.Upper95, human.Float), human.Float(r.KL.Median), human.Float(r.KL.P90), human.Float(r.KL.P99), human.Float(r.KL.Max))
	least := "95 %: at least " + human.Percent(r.Top1.Lower95, 1)
	if !r.KL.Lower95.Known() {
		least = "one chunk gives no bounds"
	}
	fmt.Fprintf(w, "top-1       %s  (%s)\n", human.Percent(r.Top1.Agreement, 1), least)
	if t := r.Text; t != nil {
		same := "all greedy tokens are the same"
		if t.Divergence < min(64, t.Tokens) {
			same = fmt.Sprintf("greedy texts part at token %d", t.Divergence)
		}
		fmt.Fprintf(w, "writing     repetition %s → %s  entropy %s → %s nats  %s\n", human.Percent(t.Original.Repetition, 1), human.Percent(t.Package.Repetition, 1), human.Float(t.Original.Entropy), human.Float(t.Package.Entropy), same)
	}
	if all && len(r.Layers) > 0 {
		t := &table{head: []string{">block", ">signal to error, dB", ">cosine", ">largest error"}}
		for _, l := range r.Layers {
			t.add(fmt.Sprint(l.Block), human.Float(l.SQNR), fmt.Sprintf("%.5f", l.Cosine), human.Float(l.MaxAbs))
		}
		_ = t.text(w) // a closed stdout is found by the next write
	}
	inputs := ""
	if a := r.Protocol.Activations; a != string(runner.ActivationsAuto) {
		inputs = ", " + a + " activations"
	}
	fmt.Fprintf(w, "measured    %s: %s of %d tokens of %s, %s scored, %s kernels%s\n", r.Protocol.Name, plural(r.Protocol.Chunks, "chunk"), r.Protocol.Context, text, human.Thousands(int64(r.Protocol.TokensScored)), r.Protocol.ISA, inputs)
	for _, c := range r.Gate.Checks {
		fmt.Fprintf(w, "%-11s %s\n", c.Verdict, report.CheckText(c))
	}
}
