package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/npy"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/runner"
)

// runFlags are the choices of `pare run`.
type runFlags struct {
	prompt      string
	tokens      []int32
	n           int
	context     int
	kv          choice
	activations choice
	sampling    runner.Sampling
	logits      string
	encode      string
	decode      []int32
	special     bool
	force       bool
	save        string
	classes     string
	graph       inputFlags
	changed     func(flag string) bool
}

// generation is the object of `pare run --output json`.
type generation struct {
	Schema       int     `json:"schema"`
	Model        string  `json:"model"`
	PromptTokens []int32 `json:"prompt_tokens"`
	Tokens       []int32 `json:"tokens"`
	Text         string  `json:"text"`
	Finish       string  `json:"finish"` // "length", "end", "context"
	PrefillS     float64 `json:"prefill_s"`
	DecodeS      float64 `json:"decode_s"`
}

func (a *app) runCmd() *cobra.Command {
	fl := runFlags{kv: cacheTypes("f16"), activations: activationForms()}
	c := &cobra.Command{
		Use:   "run MODEL",
		Short: "Run a model: text in, text out; or its logits, or its tokenizer",
		Long: `Run a model in any format that pare reads: text in, text out, streamed as it is made. The same
seed gives the same text. With --logits the numbers before any sampling go to a file; --encode and
--decode show what the tokenizer does. A text encoder (BERT and its relatives) makes an embedding of
every line of the text, in place of more text. A graph (ONNX) takes arrays, pictures, sounds, texts and numbers
with --input, and gives one array an output; what has several samples is run one by one.`,
		Example: `  pare run books-llama/model -p "It was a dark" -n 48 --temperature 0
  pare run books-llama/model --tokens 1,15,27 --logits out.npy
  pare run books-llama/model --encode "It was a dark"
  pare run graphs/mnist/mnist-8.onnx --input Input3=graphs/mnist/images-idx3-ubyte.gz --save-output digits
  pare run graphs/yunet/yunet_n_320_320.onnx --input graphs/yunet/astronaut.png -r graphs/yunet/recipe.toml`,
		Args: exactly("a MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			fl.sampling.Seed = a.seed
			fl.changed = typed(cmd)
			switch {
			case cmd.Flags().Changed("encode"):
				return a.runEncode(cmd.Context(), args[0], &fl)
			case cmd.Flags().Changed("decode"):
				return a.runDecode(cmd.Context(), args[0], &fl)
			case len(fl.graph.inputs) > 0 || len(fl.graph.shapes) > 0 || fl.graph.recipe != "":
				return a.runInputs(cmd.Context(), args[0], &fl)
			case !cmd.Flags().Changed("prompt") && len(fl.tokens) == 0:
				if a.isGraph(cmd.Context(), args[0]) {
					return a.runInputs(cmd.Context(), args[0], &fl)
				}
				return misuse(`pare run MODEL -p "It was a dark"`, "nothing to run: give --prompt or --tokens")
			case cmd.Flags().Changed("prompt") && len(fl.tokens) > 0:
				return misusef("--prompt and --tokens are two ways to say one thing: give one of them")
			}
			if fl.logits != "" && !cmd.Flags().Changed("kv") {
				fl.kv.value = string(storage.F32) // who looks at the numbers wants them exact
			}
			return a.runModel(cmd.Context(), args[0], &fl)
		},
	}
	f := c.Flags()
	f.StringVarP(&fl.prompt, "prompt", "p", "", "`TEXT` to continue, - to read it from stdin")
	f.Int32SliceVar(&fl.tokens, "tokens", nil, "token `IDS` to continue, in place of text: 1,15,27")
	intFrom(f, &fl.n, "generate", "n", 0, 64, "most tokens to generate, 0 for none")
	intFrom(f, &fl.context, "context", "", 0, 0, "most tokens of prompt and answer; default what the model was trained for")
	kvFlag(c, &fl.kv)
	activationsFlag(c, &fl.activations)
	f.Float64Var(&fl.sampling.Temperature, "temperature", 0.8, "0 always takes the most likely token")
	intFrom(f, &fl.sampling.TopK, "top-k", "", 0, 0, "choose among the `K` most likely tokens, 0 for all")
	f.Float64Var(&fl.sampling.TopP, "top-p", 0.95, "choose among the fewest tokens whose probabilities reach `P`")
	f.Float64Var(&fl.sampling.MinP, "min-p", 0, "drop tokens less likely than `P` times the most likely")
	f.Float64Var(&fl.sampling.RepetitionPenalty, "repetition-penalty", 1, "make tokens of the text so far less likely by this factor")
	f.StringVar(&fl.logits, "logits", "", "write the logits of every prompt token to `FILE.npy`, float32 [tokens, vocabulary], and stop")
	f.StringVar(&fl.encode, "encode", "", "print the token ids of `TEXT` and stop")
	f.Int32SliceVar(&fl.decode, "decode", nil, "print the text of token `IDS` and stop")
	f.BoolVar(&fl.special, "special", false, "read control tokens in the text, such as <|im_end|>, as tokens")
	f.StringVar(&fl.save, "save-output", "", "write what a graph gives into `DIR`, one .npy an output; of a text encoder embeddings.npy, float32 [texts, dimensions]")
	f.StringArrayVar(&fl.graph.inputs, "input", nil, "`NAME=FILE` for an input of a graph: .npy, idx, picture, .wav, .txt, folder, number, zeros or ones; without a name for the only one; repeat it for several")
	f.StringVar(&fl.classes, "classes", "", "`FILE` with the names of a classifier's classes, one a line")
	fl.graph.register(c)
	f.BoolVar(&fl.force, "force", false, "replace the file of --logits or --save-output")
	for _, input := range []string{"prompt", "tokens", "encode", "decode", "logits", "save-output", "input", "classes"} {
		f.Lookup(input).Annotations = map[string][]string{noEnv: {"input"}}
	}
	return c
}

// isGraph reports whether a model that can be opened is a graph.
func (a *app) isGraph(ctx context.Context, path string) bool {
	m, err := a.openModel(ctx, path)
	if err != nil {
		return false
	}
	defer m.Close()
	return m.Graph != nil
}

// runInputs runs a model that must be a graph, since it is given inputs.
func (a *app) runInputs(ctx context.Context, path string, fl *runFlags) error {
	m, err := a.openModel(ctx, path)
	if err != nil {
		return err
	}
	if m.Graph == nil {
		return errors.Join(misuse(`give a text with --prompt`, "%s is no graph: --input, --shape and --recipe say nothing to it", path), m.Close())
	}
	return a.runGraph(ctx, path, m, fl)
}

func (a *app) runModel(ctx context.Context, path string, fl *runFlags) error {
	if err := fl.sampling.Check(); err != nil {
		return err
	}
	if p := fl.sampling.RepetitionPenalty; p <= 0 {
		return flagFault("repetition-penalty", misusef("%g is no factor; 1 changes nothing", p))
	}
	for _, place := range []string{fl.logits, fl.save} {
		if err := ordinary(place); place != "" && err != nil {
			return err
		}
	}
	prompt, text := fl.tokens, fl.prompt
	if text == "-" {
		b, err := io.ReadAll(a.in)
		if err != nil {
			return err
		}
		text = string(b)
	}
	m, err := a.openModel(ctx, path)
	if err != nil {
		return err
	}
	if m.Graph != nil {
		return a.runGraph(ctx, path, m, fl)
	}
	if m.Encoder != nil {
		return unfit(a.embed(ctx, path, m, text, fl))
	}
	if fl.save != "" {
		return errors.Join(flagFault("save-output", misusef("this is no text encoder; --logits writes the numbers of a language model")), m.Close())
	}
	const special = 8 // tokens that a tokenizer puts around a text; the others stand for a byte or more each
	l, err := a.loadOpened(ctx, path, m, runner.Options{
		Context: fl.context, KV: storage.Type(fl.kv.value), Activations: runner.Activations(fl.activations.value),
		Tokens: len(prompt) + len(text) + special + fl.n,
	})
	if err != nil {
		return err
	}
	defer l.Close()
	if len(prompt) == 0 {
		tok, err := l.tokenizer(path)
		if err != nil {
			return err
		}
		if prompt, err = tok.Encode(text, tokenizer.EncodeOptions{AddSpecial: true, ParseSpecial: fl.special}); err != nil {
			return inFile(path, err)
		}
		if len(prompt) == 0 {
			return misuse("give a text with --prompt", "the prompt is empty and the model has no token that starts a text")
		}
	}
	if fl.logits != "" {
		return unfit(a.writeLogits(ctx, l.runner, prompt, fl))
	}
	return unfit(a.generate(ctx, path, l, runner.Generation{Sampling: fl.sampling}, prompt, fl.n))
}

// unfit makes a mistake on the line of a prompt that the model cannot take.
func unfit(err error) error {
	if errors.Is(err, runner.ErrContext) || errors.Is(err, runner.ErrToken) {
		return fault.As(fault.ErrMisuse, err)
	}
	return err
}

// pace says how fast a prompt was read and its answer made. The first token of that comes of reading the
// prompt.
func pace(g *generation) string {
	rate := func(n int, seconds float64) string { return human.Count(int64(float64(n) / max(seconds, 1e-9))) }
	n := len(g.PromptTokens)
	text := fmt.Sprintf("%s in %s (%s tok/s)", plural(n, "token"), human.Duration(time.Duration(g.PrefillS*1e9)), rate(n, g.PrefillS))
	if n := len(g.Tokens); n > 1 {
		text += fmt.Sprintf(", then %s at %s tok/s", plural(n, "token"), rate(n-1, g.DecodeS))
	}
	return text
}

// generate writes text as it is made.
func (a *app) generate(ctx context.Context, path string, l *loaded, gen runner.Generation, prompt []int32, n int) error {
	g := generation{Schema: 1, Model: path, PromptTokens: prompt, Tokens: []int32{}, Finish: "length"}
	var stream *tokenizer.Stream
	if l.tok != nil {
		stream = l.tok.Stream(tokenizer.DecodeOptions{SkipSpecial: true})
		for _, id := range prompt {
			stream.Next(id) // so that the answer continues the prompt's characters and spaces
		}
	}
	live, each := a.output.value == "table", json.NewEncoder(a.out)
	emit := func(id int32, piece string) error {
		g.Text += piece
		switch {
		case a.output.value == "jsonl":
			return each.Encode(struct {
				Token int32  `json:"token"`
				Text  string `json:"text"`
			}{id, piece})
		case live && stream == nil:
			piece = fmt.Sprintf("%d ", id)
		}
		if live {
			_, err := io.WriteString(a.out, piece)
			return err
		}
		return nil
	}
	s := l.runner.NewSession()
	defer s.Close()
	gen.MaxTokens = n
	if l.tok != nil {
		for _, id := range l.tok.EOG() {
			gen.StopTokens = append(gen.StopTokens, int32(id))
		}
	}
	start := time.Now()
	write := func(id int32) error {
		if len(g.Tokens) == 0 {
			g.PrefillS = time.Since(start).Seconds()
			start = time.Now()
		}
		g.Tokens = append(g.Tokens, id)
		piece := ""
		if stream != nil {
			piece = stream.Next(id)
		}
		return emit(id, piece)
	}
	var finish runner.Finish
	var err error
	if n > 0 {
		finish, err = s.Generate(ctx, prompt, gen, write)
	} else { // 0 asks Generate for as much as the context holds
		err = s.Append(ctx, prompt, runner.WantNone, nil)
		g.PrefillS = time.Since(start).Seconds()
		start = time.Now()
	}
	if finish != "" {
		g.Finish = string(finish)
	}
	g.DecodeS = time.Since(start).Seconds()
	if stream != nil {
		if rest := stream.Flush(); rest != "" && err == nil {
			g.Text += rest
			if live {
				a.printf("%s", rest)
			}
		}
	}
	if live && len(g.Tokens) > 0 {
		a.printf("\n")
	}
	if err != nil {
		return err
	}
	if !a.quiet && live {
		a.say("%s", pace(&g))
	}
	if live || a.output.value == "jsonl" {
		return nil
	}
	t := &table{head: []string{">prompt tokens", ">tokens", "finish", "text"}}
	t.add(fmt.Sprint(len(prompt)), fmt.Sprint(len(g.Tokens)), g.Finish, g.Text)
	return a.show(result{object: g, table: t})
}

// writeLogits runs the prompt and writes what the model says after every token.
func (a *app) writeLogits(ctx context.Context, r *runner.Runner, prompt []int32, fl *runFlags) (err error) {
	if err := free(fl.logits, fl.force); err != nil {
		return err
	}
	w, err := npy.Create(fl.logits, npy.Elem{Kind: 'f', Size: 4}, len(prompt), r.Vocab())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	s := r.NewSession()
	defer s.Close()
	sink := a.progressSink()
	sink.Stage("run", int64(len(prompt)), "tokens")
	return s.Append(ctx, prompt, runner.WantAll, func(_ int, x []float32) error {
		sink.Add(1)
		return w.Floats(x)
	})
}

// tokenizerOf opens a model for its tokenizer only.
func (a *app) tokenizerOf(ctx context.Context, path string) (*tokenizer.Tokenizer, error) {
	m, err := a.openModel(ctx, path)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	if m.Tokenizer == nil {
		return nil, &fault.Error{File: path, Err: m.CannotRead(), Hint: "copy the tokenizer's files into the model's folder"}
	}
	return tokenizer.New(m.Tokenizer)
}

func (a *app) runEncode(ctx context.Context, path string, fl *runFlags) error {
	tok, err := a.tokenizerOf(ctx, path)
	if err != nil {
		return err
	}
	ids, err := tok.Encode(fl.encode, tokenizer.EncodeOptions{AddSpecial: true, ParseSpecial: fl.special})
	if err != nil {
		return inFile(path, err)
	}
	t := &table{head: []string{">token", "text"}}
	var lines []any
	for _, id := range ids {
		piece := string(tok.DecodeToken(id))
		t.add(fmt.Sprint(id), fmt.Sprintf("%q", piece))
		lines = append(lines, map[string]any{"token": id, "text": piece})
	}
	object := struct {
		Schema int     `json:"schema"`
		Tokens []int32 `json:"tokens"`
	}{1, append([]int32{}, ids...)}
	return a.show(result{object: object, lines: lines, table: t, text: func(w io.Writer) {
		_ = t.text(w) // a closed stdout is found by the next write
		list := make([]string, len(ids))
		for i, id := range ids {
			list[i] = fmt.Sprint(id)
		}
		fmt.Fprintf(w, "ids  %s\n", strings.Join(list, ",")) // as --tokens and --decode take them
	}})
}

func (a *app) runDecode(ctx context.Context, path string, fl *runFlags) error {
	tok, err := a.tokenizerOf(ctx, path)
	if err != nil {
		return err
	}
	for _, id := range fl.decode {
		if id < 0 || int(id) >= len(tok.Spec().Tokens) {
			return flagFault("decode", misusef("%d is no token: the vocabulary has %d", id, len(tok.Spec().Tokens)))
		}
	}
	text := tok.Decode(fl.decode, tokenizer.DecodeOptions{})
	object := struct {
		Schema int    `json:"schema"`
		Text   string `json:"text"`
	}{1, text}
	t := &table{head: []string{"text"}}
	t.add(text)
	return a.show(result{object: object, table: t, text: func(w io.Writer) { fmt.Fprintln(w, text) }})
}
