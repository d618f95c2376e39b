package build

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/pare-dev/pare/distill"
	"github.com/pare-dev/pare/internal/chat"
	"github.com/pare-dev/pare/internal/corpus"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/targets/report"
)

// loraText collects what is learned from: stretches of running text, all of which is learned, and records,
// each a sequence of its own.
type loraText struct {
	e       *engine
	l       *LoraTraining
	format  *chat.Format // of conversations, once there are some
	out     distill.Text
	names   []string
	digests []string
	cut     int // records longer than a sequence
	lost    int // records of which nothing that is learned is left
}

// readText turns the texts into sequences.
func (t *loraTrainer) readText(ctx context.Context) error {
	r := &loraText{e: t.e, l: t.l}
	var plain []string
	for _, s := range t.l.Text {
		src := corpus.Parse(s)
		if !src.Records() {
			plain = append(plain, s)
			continue
		}
		if err := r.records(ctx, src.Path, src.Field); err != nil {
			return err
		}
	}
	if len(plain) > 0 {
		if err := r.running(ctx, plain); err != nil {
			return err
		}
	}
	if r.cut > 0 {
		t.e.note(fmt.Sprintf("%d records are longer than %d tokens and were cut; --context takes more", r.cut, t.l.Context))
	}
	if r.lost > 0 {
		t.e.note(fmt.Sprintf("%d records were left out: what is to be learned begins behind %d tokens", r.lost, t.l.Context))
	}
	if len(r.out.IDs) == 0 {
		return &fault.Error{File: t.l.Text[0], Op: "lora train", Err: fault.As(fault.ErrMisuse, errors.New("nothing of the text can be learned")), Hint: "give longer sequences with --context"}
	}
	n := 0
	for _, s := range r.out.IDs {
		n += len(s)
	}
	t.text, t.read = r.out, report.Text{Name: strings.Join(r.names, ", "), SHA256: digestOf(strings.Join(r.digests, " ")), Tokens: n}
	if len(r.digests) == 1 {
		t.read.SHA256 = r.digests[0]
	}
	if t.l.Tokens == 0 {
		t.l.Tokens = n
	}
	return nil
}

// running takes plain texts, cut into stretches.
func (r *loraText) running(ctx context.Context, files []string) error {
	text, err := r.e.encode(ctx, files, nil, 0)
	if err != nil {
		return err
	}
	n := r.l.Context
	if len(text.ids) < n {
		return &fault.Error{File: files[0], Op: "lora train", Err: fault.As(fault.ErrMisuse, fmt.Errorf("the text has %d tokens, one sequence takes %d", len(text.ids), n)), Hint: "give a longer text, or a shorter --context"}
	}
	r.names, r.digests = append(r.names, text.Name), append(r.digests, text.SHA256)
	for _, s := range whole(text.read.Sequences(n, bos(r.e.src.Tokenizer), false), n) {
		if r.out.Learn != nil {
			r.out.Learn = append(r.out.Learn, marks(len(s), true))
		}
		r.out.IDs = append(r.out.IDs, s)
	}
	return nil
}

// marks says the same of n tokens.
func marks(n int, learn bool) []bool {
	m := make([]bool, n)
	for i := range m {
		m[i] = learn
	}
	return m
}

// records takes JSON lines.
func (r *loraText) records(ctx context.Context, path, field string) error {
	b, err := corpus.ReadText(path)
	if err != nil {
		return err
	}
	list, err := chat.Read(b, field)
	if err != nil {
		return &fault.Error{File: path, Op: "text", Err: fault.As(fault.ErrMisuse, err), Hint: "a line is {\"messages\": [{\"role\", \"content\"}, ...]}, {\"prompt\", \"completion\"} or {\"text\"}; FILE.jsonl:FIELD names another field"}
	}
	r.names, r.digests = append(r.names, filepath.Base(path)), append(r.digests, digestOf(string(b)))
	for i := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		s, err := r.sequence(&list[i])
		if err != nil {
			return &fault.Error{File: path, Op: "text", Err: fmt.Errorf("line %d: %w", list[i].Line, err)}
		}
		r.take(s)
	}
	return nil
}

// tokenized is a record as the model reads it.
type tokenized struct {
	ids   []int32
	learn []bool
}

func (s *tokenized) put(ids []int32, learn bool) {
	s.ids, s.learn = append(s.ids, ids...), append(s.learn, marks(len(ids), learn)...)
}

// token puts a single one, unless the tokenizer has none.
func (s *tokenized) token(id int, learn bool) {
	if id >= 0 {
		s.put([]int32{int32(id)}, learn) //nolint:gosec // a token id
	}
}

// take keeps a record, cut to the length of a sequence.
func (r *loraText) take(s tokenized) {
	if n := r.l.Context; len(s.ids) > n {
		s.ids, s.learn = s.ids[:n], s.learn[:n]
		r.cut++
	}
	some := false
	for _, learn := range s.learn[min(1, len(s.learn)):] {
		some = some || learn
	}
	if !some {
		r.lost++
		return
	}
	if r.out.Learn == nil {
		r.out.Learn = [][]bool{}
		for _, old := range r.out.IDs {
			r.out.Learn = append(r.out.Learn, marks(len(old), true))
		}
	}
	r.out.IDs, r.out.Learn = append(r.out.IDs, s.ids), append(r.out.Learn, s.learn)
}

// sequence tokenizes a record. Of a text everything is learned, of a prompt with its completion this and the end
// behind it, of a conversation what the assistant says.
func (r *loraText) sequence(rec *chat.Record) (s tokenized, err error) {
	tok := r.e.tok
	put := func(text string, o tokenizer.EncodeOptions, learn bool) {
		if err != nil {
			return
		}
		var ids []int32
		ids, err = tok.Encode(text, o)
		s.put(ids, learn)
	}
	switch rec.Kind() {
	case "messages":
		var parts []chat.Part
		if err := r.know(); err != nil {
			return s, err
		}
		if parts, err = r.format.Write(rec.Messages); err != nil {
			return s, err
		}
		if r.format.Starts() {
			s.token(tok.BOS(), false)
		}
		for _, p := range parts {
			put(p.Text, tokenizer.EncodeOptions{ParseSpecial: p.Markup}, p.Learn)
		}
		if r.format.Ends() {
			s.token(tok.EOS(), false)
		}
	case "completion":
		put(rec.Prompt, tokenizer.EncodeOptions{AddStart: true}, false)
		put(rec.Completion, tokenizer.EncodeOptions{}, true)
		s.token(tok.EOS(), true)
	default:
		put(rec.Text, tokenizer.EncodeOptions{AddStart: true}, true)
		s.token(tok.EOS(), true)
	}
	return s, err
}

// know finds out how the model reads conversations.
func (r *loraText) know() (err error) {
	if r.format != nil {
		return nil
	}
	f := (*chat.Format)(nil)
	hint := "name the format with --chat: " + strings.Join(chat.Names(), ", ")
	template := r.e.src.Tokenizer.ChatTemplate
	switch {
	case r.l.Chat != "":
		f, err = chat.ByName(r.l.Chat)
	case template == "":
		err = errors.New("the model has no chat template")
	default:
		f, err = chat.Detect(template)
	}
	if err == nil {
		for _, m := range f.Markers() {
			if _, ok := r.e.tok.ID(m); !ok {
				err, hint = fmt.Errorf("the model has no token %s, which %s is written with", m, f.Name), "give prompt and completion in place of messages, or choose another --chat"
			}
		}
	}
	if err != nil {
		return &fault.Error{File: r.e.src.Path, Op: "lora train", Err: fault.As(fault.ErrMisuse, err), Hint: hint}
	}
	r.format = f
	return nil
}
