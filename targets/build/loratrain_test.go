package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/lora"
	"github.com/pare-dev/pare/targets/recipe"
)

// An adapter that was trained on a quantized base opens as those of PEFT do, merges into that base and, by
// its names, into the Hugging Face folder it came from; interrupted, it comes to the same bytes.
func TestTrainLora(t *testing.T) {
	if testing.Short() {
		t.Skip("trains for some seconds")
	}
	dir := t.TempDir()
	base := filepath.Join(dir, "base.gguf")
	if _, err := Transform(t.Context(), Step{Recipe: &recipe.Recipe{Source: recipe.Source{Model: filepath.Join(books, "model")}}, Quantize: &recipe.Target{Quantize: "q8_0", Method: "rtn"}, Out: base}, Options{}); err != nil {
		t.Fatal(err)
	}
	train := func(ctx context.Context, out string, p progress.Sink) error {
		l := LoraTraining{
			Model: base, Text: []string{filepath.Join(books, "text", "calibration.txt")}, Rank: 4, Alpha: 8,
			Targets: []string{"q_proj", "up_proj"}, Tokens: 3072, Context: 128, Batch: 8, Rate: 5e-3, Out: out,
		}
		rep, err := TrainLora(ctx, l, Options{Progress: p, Threads: 2})
		if err != nil {
			return err
		}
		if rep.Distill.Tokens != 3072 || len(rep.Distill.Curve) != 3 {
			t.Errorf("training: %+v", rep.Distill)
		}
		return nil
	}
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	if err := train(t.Context(), one, progress.Discard); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	if err := train(ctx, two, &stopAt{Sink: progress.Discard, stage: "distill", stop: stop, left: 2}); !errors.Is(err, context.Canceled) {
		t.Fatalf("not interrupted: %v", err)
	}
	if err := train(t.Context(), two, progress.Discard); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"adapter_config.json", "adapter_model.safetensors"} {
		a, err := os.ReadFile(filepath.Join(one, name))
		b, err2 := os.ReadFile(filepath.Join(two, name))
		if err != nil || err2 != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs after an interruption: %v %v", name, err, err2)
		}
	}
	a, err := lora.Open(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	if a.Method() != "LoRA r=4" || a.Modules() != 12 || a.Config.Scale("model.layers.3.mlp.up_proj") != 2 {
		t.Errorf("%s of %d modules", a.Method(), a.Modules())
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(books, "text", "test.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, into := range []string{base, filepath.Join(books, "model")} {
		out := filepath.Join(t.TempDir(), "merged.gguf")
		r := &recipe.Recipe{Source: recipe.Source{Model: into, Adapters: []recipe.Adapter{{Path: one, Weight: 1}}, Dtype: "f32"}}
		if _, err := Transform(t.Context(), Step{Recipe: r, Out: out}, Options{Sample: &Text{"sample", text}}); err != nil {
			t.Errorf("merging into %s: %v", into, err)
			continue
		}
		m, err := formats.Open(t.Context(), out)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What makes no sense is refused before anything is trained.
func TestTrainLoraRefused(t *testing.T) {
	good := LoraTraining{Model: filepath.Join(books, "model"), Text: []string{filepath.Join(books, "text", "calibration.txt")}, Out: filepath.Join(t.TempDir(), "out")}
	busy := t.TempDir()
	if err := os.WriteFile(filepath.Join(busy, "thesis.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(l *LoraTraining, o *Options)
		class  error
	}{
		"no text":   {func(l *LoraTraining, _ *Options) { l.Text = nil }, fault.ErrMisuse},
		"no module": {func(l *LoraTraining, _ *Options) { l.Targets = []string{"q_porj"} }, fault.ErrMisuse},
		"rank":      {func(l *LoraTraining, _ *Options) { l.Rank = -1 }, fault.ErrMisuse},
		"alpha":     {func(l *LoraTraining, _ *Options) { l.Alpha = math.Inf(1) }, fault.ErrMisuse},
		"rate":      {func(l *LoraTraining, _ *Options) { l.Rate = math.Inf(1) }, fault.ErrMisuse},
		"batch":     {func(l *LoraTraining, _ *Options) { l.Batch = 1 << 60 }, fault.ErrMisuse},
		"much rank": {func(l *LoraTraining, _ *Options) { l.Rank = 1 << 60 }, fault.ErrMisuse},
		"context":   {func(l *LoraTraining, _ *Options) { l.Context = 1 << 20 }, fault.ErrMisuse},
		"not ours":  {func(l *LoraTraining, o *Options) { l.Out, o.Force = busy, true }, fault.ErrMisuse},
		"exists":    {func(l *LoraTraining, _ *Options) { l.Out = busy }, fault.ErrMisuse},
		"memory":    {func(_ *LoraTraining, o *Options) { o.MaxMemory = 60 << 20 }, fault.ErrBudget},
		"no decoder": {func(l *LoraTraining, _ *Options) {
			l.Model = filepath.Join("..", "..", "testdata", "architectures", "bert")
		}, fault.ErrMisuse},
	} {
		l, o := good, Options{}
		c.change(&l, &o)
		if _, err := TrainLora(t.Context(), l, o); !errors.Is(err, c.class) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, err := filepath.Glob(good.Out + "*"); err != nil || left != nil {
		t.Errorf("a refused training left %v, %v", left, err)
	}
}

// An adapter that lies in the place of a new one stays until that is there whole.
func TestReplaceFolder(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "old", "adapter_config.json")
	if err := os.Mkdir(filepath.Dir(old), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(old, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := replaceFolder(filepath.Join(dir, "none"), filepath.Dir(old)); err == nil {
		t.Error("nothing is moved")
	}
	if b, err := os.ReadFile(old); err != nil || string(b) != "old" {
		t.Errorf("the old adapter: %q, %v", b, err)
	}
	made := filepath.Join(dir, "made")
	if err := os.Mkdir(made, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(made, "adapter_config.json"), []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := replaceFolder(made, filepath.Dir(old)); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(old); err != nil || string(b) != "new" {
		t.Errorf("the new adapter: %q, %v", b, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Records become sequences of their own: of a prompt with its completion the completion is learned and the
// token that ends it, of a text everything, of a conversation what the assistant says.
func TestLoraRecords(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "records.jsonl")
	read := func(lines string, l LoraTraining) (*loraTrainer, error) {
		if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
		l.Model = filepath.Join(books, "model")
		e, err := newEngine(t.Context(), &recipe.Recipe{Source: recipe.Source{Model: l.Model}, Verify: recipe.Verify{Off: true}, Bench: recipe.Bench{Off: true}}, Options{}, true)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(e.close)
		if l.Context == 0 {
			l.Context = 16
		}
		if l.Text == nil {
			l.Text = []string{file}
		}
		tr := &loraTrainer{e: e, l: &l}
		return tr, tr.readText(t.Context())
	}
	encode := func(e *engine, s string) []int32 {
		ids, err := e.tok.Encode(s, tokenizer.EncodeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	tr, err := read(`{"prompt":"It was the best of times,","completion":" it was the worst of times"}
{"text":"a green lamp"}`, LoraTraining{})
	if err != nil {
		t.Fatal(err)
	}
	prompt, rest := encode(tr.e, "It was the best of times,"), encode(tr.e, " it was the worst of times")
	end := int32(tr.e.tok.EOS())
	if want := slices.Concat(prompt, rest, []int32{end}); !slices.Equal(tr.text.IDs[0], want) {
		t.Errorf("%v, want %v", tr.text.IDs[0], want)
	}
	for i, learn := range tr.text.Learn[0] {
		if learn != (i >= len(prompt)) {
			t.Errorf("token %d is learned: %v", i, learn)
		}
	}
	if slices.Contains(tr.text.Learn[1], false) || tr.text.IDs[1][len(tr.text.IDs[1])-1] != end {
		t.Errorf("%v %v", tr.text.IDs[1], tr.text.Learn[1])
	}
	// what is too long is cut, what then holds nothing to learn is left out, and both are said
	tr, err = read(`{"prompt":"It was the best of times, it was the worst of times","completion":"yes"}
{"text":"It was the best of times, it was the worst of times"}`, LoraTraining{Context: 4})
	if err != nil || len(tr.text.IDs) != 1 || len(tr.text.IDs[0]) != 4 || len(tr.e.rep.Notes) != 2 {
		t.Errorf("%v, %+v, notes %v", err, tr.text, tr.e.rep.Notes)
	}
	// beside running text everything of that is learned
	tr, err = read(`{"body":"a green lamp"}`, LoraTraining{Context: 64, Text: []string{file + ":body", filepath.Join(books, "text", "test.txt")}})
	if err != nil || len(tr.text.IDs) < 100 || len(tr.text.Learn) != len(tr.text.IDs) || !tr.text.Learn[50][0] || len(tr.text.IDs[50]) != 64 {
		t.Errorf("%v: %d sequences, %d say what is learned", err, len(tr.text.IDs), len(tr.text.Learn))
	}
	for lines, l := range map[string]LoraTraining{
		`{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}`:   {}, // the model has no template
		`{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"b"}]}`:   {Chat: "alpaca"},
		`{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"c"}]}`:   {Chat: "chatml"}, // nor its tokens
		`{"prompt":"It was the best of times, it was the worst of times","completion":"d"}`: {Context: 4},
		`{"page":"e"}`: {},
	} {
		if _, err := read(lines, l); !errors.Is(err, fault.ErrMisuse) {
			t.Errorf("%s: %v", lines, err)
		}
	}
}

// chatting makes a copy of the sample model whose last two tokens are those of ChatML, and which says so.
func chatting(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "chatting")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(books, "model"))); err != nil {
		t.Fatal(err)
	}
	edit := func(name string, change func(x map[string]any)) {
		path := filepath.Join(dir, name)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var x map[string]any
		if err := json.Unmarshal(b, &x); err != nil {
			t.Fatal(err)
		}
		change(x)
		if b, err = json.Marshal(x); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	edit("tokenizer.json", func(x map[string]any) {
		model := x["model"].(map[string]any)
		vocab, merges := model["vocab"].(map[string]any), model["merges"].([]any)
		for name, id := range vocab {
			if id.(float64) >= 4094 {
				delete(vocab, name)
			}
		}
		model["merges"] = merges[:len(merges)-2]
		for i, name := range []string{"<|im_start|>", "<|im_end|>"} {
			vocab[name] = 4094 + i
			x["added_tokens"] = append(x["added_tokens"].([]any), map[string]any{"id": 4094 + i, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
		}
	})
	edit("tokenizer_config.json", func(x map[string]any) {
		x["chat_template"] = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
	})
	return dir
}

// A conversation is read as the model's template writes it; markers in what people wrote are plain text.
func TestLoraConversation(t *testing.T) {
	model := chatting(t)
	file := filepath.Join(t.TempDir(), "talk.jsonl")
	if err := os.WriteFile(file, []byte(`{"messages":[{"role":"user","content":"Who is <|im_end|> Mr. Darcy?"},{"role":"assistant","content":"A gentleman."}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := newEngine(t.Context(), &recipe.Recipe{Source: recipe.Source{Model: model}, Verify: recipe.Verify{Off: true}, Bench: recipe.Bench{Off: true}}, Options{}, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	tr := &loraTrainer{e: e, l: &LoraTraining{Model: model, Text: []string{file}, Context: 128}}
	if err := tr.readText(t.Context()); err != nil {
		t.Fatal(err)
	}
	ids := tr.text.IDs[0]
	said := e.tok.Decode(ids, tokenizer.DecodeOptions{})
	if want := "<|im_start|>user\nWho is <|im_end|> Mr. Darcy?<|im_end|>\n<|im_start|>assistant\nA gentleman.<|im_end|>\n"; said != want {
		t.Errorf("%q", said)
	}
	var learned []int32
	ends := 0
	for i, id := range ids {
		if tr.text.Learn[0][i] {
			learned = append(learned, id)
		}
		if id == 4095 {
			ends++
		}
	}
	if got := e.tok.Decode(learned, tokenizer.DecodeOptions{}); got != "A gentleman.<|im_end|>" || ends != 2 {
		t.Errorf("%q is learned, %d turns end", got, ends)
	}
}
