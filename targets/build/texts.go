package build

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/targets/report"
)

// maxText bounds a text that is tokenized in memory; the tokens that are used are far fewer.
const maxText = 64 << 20

// tokens is a text as the model reads it.
type tokens struct {
	report.Text
	ids []int32
}

// encode reads texts and turns them into tokens, behind the start token if the tokenizer adds one;
// whoever cuts them into sequences puts it in place of the first of the others. limit is the most
// tokens wanted, 0 for all.
func (e *engine) encode(ctx context.Context, files []string, given *Text, limit int) (*tokens, error) {
	var parts []string
	var names []string
	if given != nil {
		parts, names = append(parts, string(given.Text)), append(names, given.Name)
	}
	for _, f := range files {
		b, err := readText(f)
		if err != nil {
			return nil, err
		}
		parts, names = append(parts, string(b)), append(names, filepath.Base(f))
	}
	text := strings.Join(parts, "\n")
	out := &tokens{Text: report.Text{Name: strings.Join(names, ", "), SHA256: digestOf(text)}}
	// a token is at most a few dozen bytes; cutting the text early keeps a huge file cheap
	const perToken = 16
	for cut := 0; cut < len(text); {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		end := len(text)
		if limit > 0 && limit < len(text)/perToken {
			end = boundary(text, min(len(text), cut+max((limit-len(out.ids))*perToken, 1<<16)))
		}
		ids, err := e.tok.Encode(text[cut:end], tokenizer.EncodeOptions{AddStart: cut == 0})
		if err != nil {
			return nil, &fault.Error{File: e.src.Path, Err: err}
		}
		out.ids = append(out.ids, ids...)
		cut = end
		if limit > 0 && len(out.ids) >= limit {
			out.ids = out.ids[:limit]
			break
		}
	}
	return out, nil
}

// boundary moves a cut forward to the next line end, so that no word is split.
func boundary(s string, at int) int {
	if i := strings.IndexByte(s[at:], '\n'); i >= 0 {
		return at + i + 1
	}
	return len(s)
}

func readText(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, &fault.Error{File: file, Op: "text", Err: fault.As(fault.ErrMisuse, err)}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxText+1))
	switch {
	case err != nil:
		return nil, &fault.Error{File: file, Op: "text", Err: err}
	case len(b) > maxText:
		return nil, &fault.Error{File: file, Op: "text", Err: fault.As(fault.ErrMisuse, fmt.Errorf("larger than %s", human.Bytes(maxText))), Hint: "a few megabytes of text are plenty: cut it"}
	case !human.IsText(b):
		return nil, &fault.Error{File: file, Op: "text", Err: fault.As(fault.ErrMisuse, errors.New("this is no text: it holds zero bytes, or is not UTF-8")), Hint: "give a plain text file"}
	case len(b) == 0:
		return nil, &fault.Error{File: file, Op: "text", Err: fault.As(fault.ErrMisuse, errors.New("the file is empty"))}
	}
	return b, nil
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

// sequences cuts tokens into stretches of n; a model whose tokenizer adds a start token sees it in
// place of the first of each. A tail shorter than n is dropped, unless it is all there is.
func sequences(ids []int32, n int, spec *tokenizer.Spec) (out [][]int32) {
	for at := 0; at < len(ids); at += n {
		if at+n > len(ids) && at > 0 {
			break
		}
		s := append([]int32(nil), ids[at:min(at+n, len(ids))]...)
		if b := bos(spec); b >= 0 {
			s[0] = b
		}
		out = append(out, s)
	}
	return out
}

// bos is the token that replaces the first of every stretch, -1 for none.
func bos(spec *tokenizer.Spec) int32 {
	if spec == nil || !spec.AddBOS || spec.BOS < 0 {
		return -1
	}
	return int32(spec.BOS) //nolint:gosec // a token id
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
		all, err := e.encode(ctx, c.Text, nil, c.Tokens+need)
		if err != nil {
			return err
		}
		e.calib = &tokens{Text: all.Text, ids: all.ids[:min(len(all.ids), c.Tokens)]}
		rest := all.ids[len(e.calib.ids):]
		if short := v.Chunks * v.Context; len(rest) < short && len(v.Text) == 0 && len(all.ids) > 4*v.Context && e.o.Sample == nil {
			at := len(all.ids) - max(v.Context, len(all.ids)/4/v.Context*v.Context)
			e.calib.ids, rest = all.ids[:at], all.ids[at:]
			e.note("the calibration text is short: its last quarter is kept for verification")
		}
		e.calib.Tokens = len(e.calib.ids)
		if len(rest) >= v.Context {
			if b := bos(e.src.Tokenizer); b >= 0 {
				rest = append([]int32{b}, rest...) // as the text would begin that has only this part
			}
			spare = &tokens{Text: all.Text, ids: rest}
			spare.Name += ", the part after calibration"
		}
		if e.calib.Tokens < c.Context {
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
	e.check = &tokens{Text: report.Text{Name: "random tokens", SHA256: hex.EncodeToString(h.Sum(nil)), Tokens: len(ids)}, ids: ids}
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
