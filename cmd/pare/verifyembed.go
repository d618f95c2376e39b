package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
	"github.com/pare-dev/pare/runner/verify"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/report"
)

// languageFlags are those of verify that make no sense for text encoders.
var languageFlags = []string{"context", "chunks", "write"}

// verifyEncoders compares two open text encoders on the lines of a text, and closes them.
func (a *app) verifyEncoders(ctx context.Context, orig, made *ir.Model, paths [2]string, limits recipe.Gate, fl *verifyFlags) (err error) {
	defer func() { err = errors.Join(err, orig.Close(), made.Close()) }()
	if orig.Encoder == nil || made.Encoder == nil {
		return misuse("compare two text encoders, or two language models", "one of the models is a text encoder, the other is not")
	}
	for _, name := range languageFlags {
		if fl.changed(name) {
			return flagFault(name, misusef("text encoders are compared by their embeddings of whole lines"))
		}
	}
	for name := range limits {
		if name != "cosine_mean" && name != "retrieval" && name != "size_ratio" {
			return flagFault("gate", misusef("%s says nothing about text encoders; choose cosine_mean, retrieval or size_ratio", name))
		}
	}
	if len(fl.text) == 0 {
		return misuse("add --text FILE", "there is no text to compare on")
	}
	text, err := readTexts(fl.text)
	if err != nil {
		return err
	}
	list, err := textsOf(orig, paths[0], lines(string(text)), false)
	if err != nil {
		return err
	}
	a.budget.shares = 2
	opt := a.encoderOptions(runner.Activations(fl.activations.value))
	encoders := [2]*runner.Encoder{}
	for i, m := range []*ir.Model{orig, made} {
		if encoders[i], err = runner.LoadEncoder(ctx, m, opt); err != nil {
			return inFile(paths[i], err)
		}
		defer encoders[i].Close()
		a.warn(paths[i], m)
	}
	if longest := made.Encoder.Context; longest < orig.Encoder.Longest() {
		return &fault.Error{File: paths[1], Err: misusef("it reads %d tokens, the original %d", longest, orig.Encoder.Longest())}
	}
	sum := sha256.Sum256(text)
	r, err := verify.CompareEmbeddings(ctx, encoders[0], encoders[1], inputsOf(list), verify.EmbeddingOptions{
		TextHash: hex.EncodeToString(sum[:]), ISA: string(encoders[0].ISA()), Activations: fl.activations.value, Threads: a.threads, Progress: a.progressSink(),
	})
	if err != nil {
		return err
	}
	r.Original, r.Package = paths[0], paths[1]
	r.Bytes = verify.Bytes{Original: orig.FileBytes, Package: made.FileBytes}
	known := r.Evidence()
	known["size_ratio"] = verify.Exact(float64(r.Bytes.Package) / float64(max(r.Bytes.Original, 1)))
	r.Gate = verify.Evaluate(limits.Limits(), known)
	a.stopProgress()
	if err := a.show(result{object: r, table: embeddingTable(r), text: func(w io.Writer) { embeddingText(w, r, textName(fl.text)) }}); err != nil {
		return err
	}
	return gateError(r.Gate, fl.undecided.value)
}

func embeddingTable(r *verify.Embeddings) *table {
	t := &table{head: []string{"figure", ">value", ">lower 95 %", ">upper 95 %"}}
	f := human.Float
	t.add("cosine_mean", f(r.Cosine.Mean), f(float64(r.Cosine.Lower95)), f(float64(r.Cosine.Upper95)))
	t.add("cosine_min", f(r.Cosine.Min), "", "")
	t.add("retrieval", f(r.Neighbours.Agreement), f(r.Neighbours.Lower95), f(r.Neighbours.Upper95))
	t.add("bytes", f(float64(r.Bytes.Package)/float64(max(1, r.Bytes.Original))), "", "")
	return t
}

// embeddingText is the comparison as a person reads it.
func embeddingText(w io.Writer, r *verify.Embeddings, text string) {
	fmt.Fprintf(w, "size        %s → %s  %s\n", human.Bytes(r.Bytes.Original), human.Bytes(r.Bytes.Package), times(float64(r.Bytes.Package)/float64(max(1, r.Bytes.Original))))
	fmt.Fprintf(w, "cosine      mean %.5f  (95 %%: at least %.5f)  10 %% below %.5f  1 %% below %.5f  least %.5f\n", r.Cosine.Mean, float64(r.Cosine.Lower95), r.Cosine.P10, r.Cosine.P1, r.Cosine.Min)
	fmt.Fprintf(w, "retrieval   %s of texts find the same nearest other text  (95 %%: at least %s)\n", human.Percent(r.Neighbours.Agreement, 1), human.Percent(r.Neighbours.Lower95, 1))
	inputs := ""
	if a := r.Protocol.Activations; a != string(runner.ActivationsAuto) {
		inputs = ", " + a + " activations"
	}
	fmt.Fprintf(w, "measured    %s: %s of %s, %s tokens, the first %s searched, %s kernels%s; %s and %s texts a second\n", r.Protocol.Name, plural(r.Protocol.Texts, "line"), text,
		human.Thousands(int64(r.Protocol.Tokens)), human.Thousands(int64(r.Protocol.Searched)), r.Protocol.ISA, inputs, human.Count(int64(r.Speed.Original)), human.Count(int64(r.Speed.Package)))
	for _, c := range r.Gate.Checks {
		fmt.Fprintf(w, "%-11s %s\n", c.Verdict, report.CheckText(c))
	}
}
