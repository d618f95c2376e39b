package build

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/pare-dev/pare/internal/corpus"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/targets/report"
)

// tokens is a text as the model reads it.
type tokens struct {
	report.Text
	ids  []int32
	read *corpus.Tokens // all that was read
}

// encode reads texts and turns them into tokens, behind the start token if the tokenizer adds one;
// whoever cuts them into sequences puts it in place of the first of the others. limit is the most
// tokens wanted, 0 for all.
func (e *engine) encode(ctx context.Context, files []string, given *Text, limit int) (*tokens, error) {
	return e.encodeWith(ctx, files, given, corpus.Options{Limit: limit})
}

func (e *engine) encodeWith(ctx context.Context, files []string, given *Text, o corpus.Options) (*tokens, error) {
	o.Tokenizer, o.Vocab, o.Seed = e.tok, e.vocab(), e.r.Calibration.Seed
	var in *corpus.Text
	if given != nil {
		in = &corpus.Text{Name: given.Name, Text: given.Text}
	}
	t, err := corpus.Read(ctx, files, in, o)
	if err != nil {
		var fe *fault.Error
		if !errors.As(err, &fe) {
			err = &fault.Error{File: e.src.Path, Err: err}
		}
		return nil, err
	}
	return e.described(t), nil
}

// described makes figures of what was read.
func (e *engine) described(t *corpus.Tokens) *tokens {
	out := &tokens{Text: report.Text{Name: t.Name, SHA256: t.SHA256, Tokens: len(t.IDs)}, ids: t.IDs, read: t}
	if len(t.Starts) > 1 {
		out.Documents = len(t.Starts)
	}
	out.Vocabulary = t.Covers(e.vocab()).Vocabulary
	return out
}

// vocab is the number of tokens that the model knows.
func (e *engine) vocab() int {
	switch {
	case e.src.Decoder != nil:
		return e.src.Decoder.Vocab
	case e.tok != nil:
		return e.tok.VocabSize()
	}
	return 0
}

// seenBefore is the share of a text's tokens that lie in stretches which occur in another text too.
func seenBefore(text, in []int32) float64 {
	const n = 32 // longer than phrases that texts of a kind share
	if len(text) < n || len(in) < n {
		return 0
	}
	stretch := func(x []int32) (s [n]int32) { copy(s[:], x); return }
	known := make(map[[n]int32]bool, len(text)/n)
	for at := 0; at+n <= len(text); at += n {
		known[stretch(text[at:])] = false
	}
	for at := 0; at+n <= len(in); at++ {
		s := stretch(in[at:])
		if _, ok := known[s]; ok {
			known[s] = true
		}
	}
	seen := 0
	for at := 0; at+n <= len(text); at += n {
		if known[stretch(text[at:])] {
			seen++
		}
	}
	return float64(seen) / float64(len(text)/n)
}

func digestOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// bos is the token that replaces the first of every stretch, -1 for none.
func bos(spec *tokenizer.Spec) int32 {
	if spec == nil || !spec.AddBOS || spec.BOS < 0 {
		return -1
	}
	return int32(spec.BOS) //nolint:gosec // a token id
}

// start is the token that begins every stretch of a text, -1 for none: token ids are taken as they are.
func (e *engine) start(t *tokens) int32 {
	if t.read.Exact {
		return -1
	}
	return bos(e.src.Tokenizer)
}

// texts tokenizes what the recipe names. Verification falls back to the part of the calibration
// text that calibration leaves over, then to the sample that came with the options.
func (e *engine) texts(ctx context.Context) error {
	if err := e.src.CannotRun(); err != nil {
		return e.noTexts(err)
	}
	if err := e.src.CannotRead(); err != nil {
		return e.withoutWords(err)
	}
	tok, err := tokenizer.New(e.src.Tokenizer)
	if err != nil {
		return e.withoutWords(fmt.Errorf("the tokenizer cannot be used: %w", err))
	}
	e.tok = tok
	c, v := &e.r.Calibration, &e.r.Verify
	need := v.MaxChunks * v.Context
	var spare *tokens
	if len(c.Text) > 0 {
		all, err := e.encodeWith(ctx, c.Text, nil, corpus.Options{Limit: c.Tokens + need, Shuffle: c.Shuffle, Stretch: c.Context})
		if err != nil {
			return err
		}
		kept := min(len(all.ids), c.Tokens)
		rest := all.ids[kept:]
		if short := v.Chunks * v.Context; len(rest) < short && len(v.Text) == 0 && len(all.ids) > 4*v.Context && e.o.Sample == nil {
			kept = len(all.ids) - max(v.Context, len(all.ids)/4/v.Context*v.Context)
			rest = all.ids[kept:]
			e.note("the calibration text is short: its last quarter is kept for verification")
		}
		e.calib = e.described(all.read.First(kept))
		if len(rest) >= v.Context {
			if b := bos(e.src.Tokenizer); b >= 0 && !all.read.Exact {
				rest = append([]int32{b}, rest...) // as the text would begin that has only this part
			}
			spare = e.described(&corpus.Tokens{Name: all.Name + ", the part after calibration", SHA256: all.SHA256, IDs: rest})
		}
		if e.calib.Tokens < c.Context && !c.Unpacked {
			return &fault.Error{File: c.Text[0], Op: "calibration", Err: fault.As(fault.ErrMisuse, fmt.Errorf("the text has %d tokens, one sequence takes %d", e.calib.Tokens, c.Context)), Hint: "give a longer text"}
		}
		e.rep.Calibration = &e.calib.Text
		e.proof = e.calib
	}
	if v.Off {
		if e.proof == nil && len(e.adapters) > 0 && e.o.Sample != nil {
			e.proof, err = e.encode(ctx, nil, e.o.Sample, proofTokens)
		}
		return err
	}
	switch {
	case len(v.Text) > 0:
		e.check, err = e.encode(ctx, v.Text, nil, need)
	case spare != nil && len(spare.ids) >= v.Chunks*v.Context, spare != nil && e.o.Sample == nil:
		e.check = spare
	case e.o.Sample != nil:
		e.check, err = e.encode(ctx, nil, e.o.Sample, need)
		e.note("no text to verify on was named: the comparison reads the " + e.o.Sample.Name)
	default:
		return &fault.Error{Op: "verify", Err: fault.As(fault.ErrMisuse, errors.New("there is no text to compare the models on")), Hint: `name one: [verify] text = "FILE"`}
	}
	if err != nil {
		return err
	}
	if len(e.check.ids) < v.Context {
		return &fault.Error{Op: "verify", Err: fault.As(fault.ErrMisuse, fmt.Errorf("the text has %d tokens, one chunk takes %d", len(e.check.ids), v.Context)), Hint: "give a longer text"}
	}
	e.check.Tokens = len(e.check.ids)
	if e.calib != nil && e.check != spare {
		if share := seenBefore(e.check.ids, e.calib.ids); share > 0.02 {
			e.note(fmt.Sprintf("%s of the text that packages are compared on is calibration text: their loss on new text is larger than shown", human.Percent(share, 0)))
		}
	}
	if e.calib != nil {
		known := e.calib.read.Knows(e.check.ids, e.vocab())
		e.calib.Knows = &known
	}
	if e.proof == nil {
		e.proof = e.check
	}
	return nil
}

// withoutWords compares on random tokens when the model can be run and no text can be read for it:
// what packages lose shows on any input.
func (e *engine) withoutWords(why error) error {
	c, v := &e.r.Calibration, &e.r.Verify
	if v.Off || len(c.Text) > 0 || len(v.Text) > 0 || needsRun(e.r) {
		return e.noTexts(why)
	}
	random := rand.New(rand.NewPCG(e.r.Calibration.Seed, 0)) //nolint:gosec // to be repeated, not to be secret
	ids := make([]int32, v.MaxChunks*v.Context)
	h := sha256.New()
	for i := range ids {
		ids[i] = random.Int32N(int32(e.src.Decoder.Vocab)) //nolint:gosec // a token id
		_ = binary.Write(h, binary.LittleEndian, ids[i])   // a hash takes everything
	}
	e.check = e.described(&corpus.Tokens{Name: "random tokens", SHA256: hex.EncodeToString(h.Sum(nil)), IDs: ids, Starts: []int{0}})
	e.proof = e.check
	e.note(fmt.Sprintf("%v: models are compared on random tokens; perplexity there says nothing about text", why))
	return nil
}

// noTexts goes on without running the model, which is an error when something needs it.
func (e *engine) noTexts(why error) error {
	if needsRun(e.r) {
		return &fault.Error{File: e.src.Path, Op: "plan", Err: fault.As(fault.ErrMisuse, fmt.Errorf("the recipe needs to run the model, but %w", why)), Hint: "use methods that look at weights only: rtn, prune.magnitude"}
	}
	if len(e.r.Gate) > 0 && !onlySize(e.r.Gate) {
		return &fault.Error{File: e.src.Path, Op: "plan", Err: fault.As(fault.ErrMisuse, fmt.Errorf("a gate asks for measured accuracy or speed, but %w", why)), Hint: "gate on size_ratio only"}
	}
	e.notRun = why.Error()
	if len(e.r.Targets) > 0 { // a single step compares nothing
		e.note("the model was not run, for " + e.notRun + ": packages are compared weight by weight only")
	}
	return nil
}

// checkNeeds finds passes that need calibration text when there is none.
func (e *engine) checkNeeds() error {
	if !needsRun(e.r) {
		return nil
	}
	if err := e.src.CannotRun(); err != nil {
		return e.noTexts(err)
	}
	if e.calib != nil || !needsCalibration(e.r) {
		return nil
	}
	what := "pruning by inputs"
	for i := range e.r.Targets {
		if runs(&e.r.Targets[i]) {
			what = e.r.Targets[i].Method
		}
	}
	return misuse(what, "give a text with --calibration FILE, or use methods that look at weights only: rtn, prune.magnitude", "it learns from calibration text, and none is named")
}
