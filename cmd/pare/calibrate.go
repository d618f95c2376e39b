package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/internal/corpus"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/quantize"
	"github.com/pare-dev/pare/runner"
)

func (a *app) calibrateCmd() *cobra.Command {
	var texts []string
	var out string
	var tokens, context int
	var force, noHead bool
	var order orderFlags
	c := &cobra.Command{
		Use:   "calibrate MODEL",
		Short: "Measure which inputs of each layer matter, once, for every method and target",
		Long: `Run a model over a text and write which inputs of each layer matter: an importance matrix in
llama.cpp's GGUF form, for --imatrix of quantize, prune and build, and for llama.cpp's own tools.`,
		Example: `  pare calibrate books-llama/model --text books-llama/text/calibration.txt --tokens 8192 -o imatrix.gguf`,
		Args:    exactly("a MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(needOut(out), free(out, force)); err != nil {
				return err
			}
			if len(texts) == 0 {
				return misuse("add --text FILE", "there is no text to run the model over")
			}
			s, err := a.statistics(cmd.Context(), args[0], texts, tokens, context, !noHead, &order)
			if err != nil {
				return err
			}
			a.stopProgress()
			if err := writeFile(out, s.Write); err != nil {
				return err
			}
			object := struct {
				Schema int    `json:"schema"`
				Out    string `json:"out"`
				Layers int    `json:"layers"`
				Chunks int    `json:"chunks"`
				Tokens int    `json:"tokens"`
			}{1, out, len(s.Layers), s.Chunks, s.Chunks * s.ChunkSize}
			t := &table{head: []string{"file", ">layers", ">tokens"}}
			t.add(out, fmt.Sprint(object.Layers), fmt.Sprint(object.Tokens))
			return a.show(result{object: object, table: t, text: func(w io.Writer) {
				fmt.Fprintf(w, "%s  %s · %s tokens in %s of %d\n", out, plural(object.Layers, "layer"), human.Thousands(int64(object.Tokens)), plural(s.Chunks, "chunk"), s.ChunkSize)
			}})
		},
	}
	f := c.Flags()
	f.StringArrayVar(&texts, "text", nil, "`FILE` of text, JSON lines (FILE:FIELD) or token ids (.npy) like the text the model will see; repeat it for several")
	intFrom(f, &tokens, "tokens", "", 0, 65536, "most tokens of it, 0 for all")
	intFrom(f, &context, "context", "", 1, 512, "tokens in a chunk")
	order.register(c)
	f.BoolVar(&noHead, "no-head", false, "leave the output matrix out")
	f.StringVarP(&out, "out", "o", "", "`FILE` to write, imatrix.gguf")
	f.BoolVar(&force, "force", false, "replace the file")
	return c
}

// statistics runs the model over the texts.
func (a *app) statistics(ctx context.Context, path string, texts []string, most, chunk int, head bool, order *orderFlags) (*quantize.Statistics, error) {
	m, err := a.openModel(ctx, path)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	if err := contextFits(chunk, m); err != nil {
		return nil, err
	}
	if m.Tokenizer == nil {
		return nil, &fault.Error{File: path, Err: m.CannotRead(), Hint: "copy the tokenizer's files into the model's folder"}
	}
	tok, err := tokenizer.New(m.Tokenizer)
	if err != nil {
		return nil, inFile(path, err)
	}
	text, err := corpus.Read(ctx, texts, nil, corpus.Options{
		Tokenizer: tok, Vocab: vocabulary(m, tok), Limit: most, Shuffle: order.shuffle, Seed: a.seed, Stretch: chunk,
	})
	if err != nil {
		return nil, inFile(path, err)
	}
	if chunk < 1 || len(text.IDs) < chunk && !order.unpacked {
		return nil, &fault.Error{File: text.Name, Err: misusef("%d tokens do not fill one chunk of %d", len(text.IDs), chunk), Hint: "give a longer text or a smaller --context"}
	}
	sequences := text.Sequences(chunk, startToken(m.Tokenizer), order.unpacked)
	opt := runner.Options{Threads: a.threads, ISA: a.level, Work: a.work}
	if a.maxMemory > 0 {
		need, err := runner.WalkDemand(m, opt, chunk)
		if err != nil {
			return nil, inFile(path, err)
		}
		if err := a.afford("calibrate", need); err != nil {
			return nil, err
		}
		opt.Memory = a.share()
		proc.LimitMemory(int64(a.maxMemory), min(m.FileBytes, need))
	}
	ex := runner.NewExecutor(opt)
	s, err := quantize.Calibrate(ctx, m, ex, sequences, quantize.CalibrateOptions{Head: head, Datasets: []string{text.Name}, Progress: a.progressSink()})
	return s, inFile(path, err)
}

// writeFile writes a file whole or not at all.
func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path + ".tmp")
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path+".tmp"))
	}
	return os.Rename(path+".tmp", path)
}
