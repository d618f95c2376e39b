package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/distill"
	"github.com/pare-dev/pare/targets/build"
	"github.com/pare-dev/pare/targets/recipe"
)

func (a *app) distillCmd() *cobra.Command {
	var fl stepFlags
	var d recipe.Distill
	var share ratio
	var rate, decay, temperature float64
	var typ string
	c := &cobra.Command{
		Use:   "distill MODEL",
		Short: "Train a pruned or quantized model to give what its original gives",
		Long: `Train a model on text so that it gives what its teacher gives, token by token: what pruning cost comes
back in minutes for small models. Weights that pruning set to zero stay zero. With --type the model learns
to be right in that type, and is written in it: it computes with the weights as they will be stored while
gradients go to those behind them. A run that is interrupted goes on where it was, to the same bytes.`,
		Example: `  pare prune books-llama/model --method sparsegpt --pattern 2:4 --calibration books-llama/text/calibration.txt -o books-sparse
  pare distill books-sparse --teacher books-llama/model --text books-llama/text/calibration.txt --tokens 8192 -o books-recovered
  pare distill books-llama/model --teacher books-llama/model --text books-llama/text/calibration.txt --tokens 8192 --type q4_0 -o books-aware-q4_0.gguf`,
		Args: exactly("a MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d.Rate, d.Decay, d.CrossEntropy, d.Temperature = recipe.Ratio(rate), recipe.Ratio(decay), recipe.Ratio(share), recipe.Ratio(temperature)
			r := &recipe.Recipe{Source: recipe.Source{Model: args[0], Dtype: "keep"}, Distill: &d}
			s := build.Step{Recipe: r}
			if typ != "" {
				d.Aware = typ
				s.Quantize = &recipe.Target{Quantize: typ, Method: "rtn"}
			}
			return a.step(cmd.Context(), s, &fl)
		},
	}
	fl.register(c)
	f := c.Flags()
	f.StringVar(&d.Teacher, "teacher", "", "`MODEL` to learn from; none learns from the text alone")
	f.StringArrayVar(&d.Text, "text", nil, "`FILE` of text, JSON lines (FILE:FIELD) or token ids (.npy) to learn from; repeat it for several")
	intFrom(f, &d.Tokens, "tokens", "", 1, 0, "tokens to read, counted as often as they are read; default the whole text once")
	intFrom(f, &d.Context, "context", "", 2, 0, "tokens in a sequence; default 256")
	intFrom(f, &d.Batch, "batch", "", 1, 0, "sequences in a step; default 16")
	f.Float64Var(&rate, "rate", 0, "learning rate at its highest; default 0.001")
	f.Float64Var(&decay, "decay", 0, "weight decay of matrices; default 0")
	f.StringVar(&d.Loss, "loss", "", "what is made small between teacher and student: "+join(distill.Kinds())+"; default kl")
	f.Float64Var(&temperature, "temperature", 0, "temperature of both sides' probabilities; default 1")
	f.Var(&share, "cross-entropy", "share of the text itself in the loss, 0.5 or 50%; default 0")
	f.StringVar(&d.Train, "train", "", "what learns: "+join(distill.Trains())+"; default all")
	f.StringVar(&typ, "type", "", "`TYPE` to be right in and to write, such as q4_0 or q4_k_m")
	complete(c, "loss", spelled(distill.Kinds())...)
	complete(c, "train", spelled(distill.Trains())...)
	completeTypes(c, "type")
	return c
}

func spelled[T ~string](list []T) (out []string) {
	for _, w := range list {
		out = append(out, string(w))
	}
	return out
}

func join[T ~string](list []T) string { return strings.Join(spelled(list), ", ") }
