package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/internal/chat"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/targets/build"
)

func (a *app) loraTrainCmd() *cobra.Command {
	var l build.LoraTraining
	var force bool
	c := &cobra.Command{
		Use:   "train BASE",
		Short: "Train a LoRA adapter on your own text, beside a float or quantized base",
		Long: `Train a LoRA adapter on text and write the folder that PEFT reads. The base stays as it is stored: a
quantized one (GGUF, or a folder with packed weights) takes its own size in memory and is decoded product by
product, which is what is called QLoRA. Of a text everything is learned; of JSON lines each is a sequence of its
own, of whose messages what the assistant says is learned, and of prompt and completion the completion. A run that is interrupted goes on where it was, to the same bytes.`,
		Example: `  pare lora train books-llama/model --text books-llama/text/calibration.txt --tokens 8192 --rank 8 -o my-adapter
  pare lora merge books-llama/model --adapter my-adapter -o books-mine`,
		Args: exactly("a BASE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needOut(l.Out); err != nil {
				return err
			}
			l.Model = args[0]
			if a.seedIsSet {
				l.Seed = a.seed
			}
			o := a.options()
			o.Force = force
			if o.Work == "" {
				o.Work = build.StepWork(l.Out)
			}
			a.keep(o.Work)
			rep, err := build.TrainLora(cmd.Context(), l, o)
			if err != nil {
				return err
			}
			a.stopProgress()
			rep.Reproduce = "pare " + shellLine(a.args)
			noGates(rep)
			return a.show(result{object: rep, text: func(w io.Writer) {
				sourceText(w, rep)
				fmt.Fprintf(w, "%s  %s · %s · peak memory %s\n", l.Out, human.Bytes(rep.Targets[0].Bytes),
					human.Duration(time.Duration(rep.Seconds*float64(time.Second))), human.Bytes(rep.PeakMemoryBytes))
			}})
		},
	}
	f := c.Flags()
	f.StringVarP(&l.Out, "out", "o", "", "`DIR` of the adapter")
	f.BoolVar(&force, "force", false, "replace an adapter that lies there")
	f.StringArrayVar(&l.Text, "text", nil, "`FILE` of text to learn from, or of JSON lines with messages, prompt and completion, or text (FILE.jsonl:FIELD for another field); repeat it for several")
	f.StringVar(&l.Chat, "chat", "", "`FORMAT` of conversations: "+strings.Join(chat.Names(), ", ")+"; default that of the model's chat template")
	intFrom(f, &l.Rank, "rank", "", 1, 16, "rank of the change of each matrix")
	f.Float64Var(&l.Alpha, "alpha", 0, "the change is multiplied by alpha/rank; default twice the rank")
	f.BoolVar(&l.RSLoRA, "rslora", false, "multiply by alpha/sqrt(rank)")
	f.StringSliceVar(&l.Targets, "targets", nil, "`MODULES` that get a change, separated by commas, such as q_proj,v_proj; default all matrices of blocks")
	intFrom(f, &l.Tokens, "tokens", "", 1, 0, "tokens to read, counted as often as they are read; default the whole text once")
	intFrom(f, &l.Context, "context", "", 2, 0, "tokens in a sequence; default 256")
	intFrom(f, &l.Batch, "batch", "", 1, 16, "sequences in a step")
	f.Float64Var(&l.Rate, "rate", 0.0002, "learning rate at its highest")
	complete(c, "chat", chat.Names()...)
	return c
}
