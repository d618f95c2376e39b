package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/internal/corpus"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
	"github.com/pare-dev/pare/runner/verify"
	booksllama "github.com/pare-dev/pare/testdata/books-llama"
)

func (a *app) explainCmd() *cobra.Command {
	var fl verifyFlags
	var top int
	c := &cobra.Command{
		Use:   "explain [ORIGINAL] PACKAGE",
		Short: "Rank the tensors that lost accuracy, each with the flag that buys it back and its price",
		Long: `Rank the tensors of a package by what they cost: each is put back to the original's values alone,
and the drop of the KL divergence is its loss. Beside it stands the flag that stores it better, and
what that costs in bytes.

Without an ORIGINAL the report in the package, or beside an archive, says what it was made from,
adapters included. An ORIGINAL that is named stands for itself: when adapters were merged, name the merged model.

Of a graph every layer that computes with codes is tried alone as the original computes it, on the first 16 samples; its gain is
what all outputs come nearer to the original's, in decibels.`,
		Example: `  pare explain books-llama/model books-q4_0.gguf --text books-llama/text/test.txt --chunks 2
  pare explain dist/arm64
  pare explain graphs/mnist/mnist-8.onnx mnist-uint8.onnx --samples graphs/mnist/images-idx3-ubyte.gz`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return exactly("a PACKAGE")(cmd, args)
			}
			return atMost(2)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			fl.contextSet = cmd.Flags().Changed("context")
			return a.explain(cmd.Context(), args, &fl, top)
		},
	}
	fl.textFlags(a, c)
	c.Flags().Lookup("text").Usage += "; without one: the embedded sample"
	intFrom(c.Flags(), &fl.chunks, "chunks", "", 1, 4, "chunks to compare for every tensor; a few are enough to rank")
	c.Flags().StringArrayVar(&fl.graph.inputs, "samples", nil, "`FILE` that graphs are compared on, as for pare verify; repeat it for several inputs")
	fl.graph.register(c)
	intFrom(c.Flags(), &top, "top", "", 0, 10, "lines to print, 0 for all")
	return c
}

func (a *app) explain(ctx context.Context, args []string, fl *verifyFlags, top int) error {
	pkg := args[len(args)-1]
	a.budget.shares = 2
	rec, _ := recordOf(pkg)
	if n := rec.context(); n > 0 && !fl.contextSet {
		fl.context = n // as the build compared: the two figures belong together
	}
	orig, original, err := a.origin(ctx, args, rec)
	if err != nil {
		return err
	}
	made, err := a.openModel(ctx, pkg)
	if err != nil {
		return errors.Join(err, orig.Close())
	}
	if orig.Graph != nil || made.Graph != nil {
		return a.explainGraphs(ctx, orig, made, [2]string{original, pkg}, fl, top)
	}
	defer orig.Close()
	defer made.Close()
	if len(fl.graph.inputs) > 0 {
		return flagFault("samples", misusef("language models are compared on a text: --text FILE"))
	}
	if err := fl.fit(orig, made); err != nil {
		return err
	}
	run := runner.Options{Tokens: fl.context}
	if err := a.affordRun("explain", largestBlock(orig), run, orig, made); err != nil {
		return err
	}
	tok, err := tokenizerOf(orig, original)
	if err != nil {
		return err
	}
	var given *corpus.Text
	if len(fl.text) == 0 {
		given = &corpus.Text{Name: "the embedded sample", Text: booksllama.Test()}
	}
	text, err := readTokens(ctx, orig, original, tok, fl.text, given)
	if err != nil {
		return err
	}
	tokens, opt, err := a.cut(tok, text, fl)
	if err != nil {
		return err
	}
	opt.Chunks, opt.Progress = fl.chunks, progress.Discard // one stage for all, not one for each trial
	sink := a.progressSink()
	sink.Stage("try", 0, "models")
	load := func(m *ir.Model) (*runner.Runner, error) {
		sink.Add(1)
		return a.execute(ctx, m, run)
	}
	e, err := verify.Explain(ctx, orig, made, load, tokens, verify.ExplainOptions{Options: opt})
	if err != nil {
		return err
	}
	e.Original, e.Package = original, pkg
	a.stopProgress()
	t := explainTable(e, top)
	var lines []any
	for _, l := range e.Losses {
		lines = append(lines, l)
	}
	return a.show(result{object: e, lines: lines, table: t, text: func(w io.Writer) { explainText(w, e, t, text.Name) }})
}

// largestBlock is what a block of the original takes when it is put back and cannot be used where it
// lies, for the package orders its rows otherwise.
func largestBlock(m *ir.Model) (most int64) {
	sum := map[int]int64{}
	for _, t := range m.Tensors() {
		if n, err := t.Bytes(); err == nil && t.Block >= 0 {
			sum[t.Block] += n
			most = max(most, sum[t.Block])
		}
	}
	return most
}

func explainTable(e *verify.Explanation, top int) *table {
	t := &table{head: []string{"tensor", "type", ">nats", ">share", "flag that buys it back", ">price"}}
	for i, l := range e.Losses {
		if top > 0 && i == top {
			break
		}
		keep, price := "", ""
		if l.Keep != "" {
			keep, price = `--keep "`+l.Keep+`"`, "+"+human.Bytes(l.Price)
		}
		t.both([]string{l.Tensor, l.Type, human.Float(l.KL), human.Percent(l.Share, 0), keep, price},
			[]string{l.Tensor, l.Type, fmt.Sprint(l.KL), fmt.Sprint(l.Share), l.Keep, fmt.Sprint(l.Price)})
	}
	return t
}

func explainText(w io.Writer, e *verify.Explanation, t *table, text string) {
	losses := append([]verify.Loss(nil), e.Losses...)
	sort.SliceStable(losses, func(i, j int) bool { return losses[i].KL > losses[j].KL })
	var share float64
	n := min(3, len(losses))
	for _, l := range losses[:n] {
		share += l.Share
	}
	fmt.Fprintf(w, "KL %s nats per token; the %d worst of %d hold %s of it\n", human.Float(e.KL), n, len(losses), human.Percent(share, 0))
	if e.Grouped {
		fmt.Fprintf(w, "blocks were ranked first; %s of better ones not tried alone\n", plural(e.Untried, "tensor"))
	}
	_ = t.text(w) // a closed stdout is found by the next write
	fmt.Fprintf(w, "measured on %s of %d tokens of %s: shares need not add up to 100 %%\n", plural(e.Protocol.Chunks, "chunk"), e.Protocol.Context, text)
}
