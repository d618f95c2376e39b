package build

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
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
	talk    *corpus.Talk // once there are conversations
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
		if !src.IsLines() {
			plain = append(plain, s)
			continue
		}
		if err := r.records(ctx, src); err != nil {
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
func (r *loraText) records(ctx context.Context, src corpus.Source) error {
	list, digest, err := corpus.Records(ctx, src, r.e.vocab())
	if err != nil {
		return err
	}
	r.names, r.digests = append(r.names, filepath.Base(src.Path)), append(r.digests, digest)
	for i := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		s, err := r.sequence(&list[i])
		if err != nil {
			var fe *fault.Error
			if !errors.As(err, &fe) {
				err = &fault.Error{File: list[i].At, Op: "text", Err: fault.As(fault.ErrMisuse, err)}
			}
			return err
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
// behind it, of a conversation what the assistant says; token ids are learned as they are.
func (r *loraText) sequence(rec *corpus.Record) (s tokenized, err error) {
	switch {
	case rec.Messages != nil:
		if !slices.ContainsFunc(rec.Messages, func(m chat.Message) bool { return m.Role == "assistant" && strings.TrimSpace(m.Content) != "" }) {
			return s, errors.New("the assistant says nothing, so there is nothing to learn")
		}
		if err := r.know(); err != nil {
			return s, err
		}
		s.ids, s.learn, err = r.talk.Encode(rec.Messages)
		return s, err
	case rec.IDs != nil:
		s.put(rec.IDs, true)
		return s, nil
	case rec.Text == "":
		return s, errors.New("the text is empty, so there is nothing to learn")
	}
	ids, read, err := corpus.Split(r.e.tok, rec.Prompt+rec.Text, len(rec.Prompt), tokenizer.EncodeOptions{AddStart: true})
	s.put(ids[:read], false)
	s.put(ids[read:], true)
	if id := r.e.tok.EOS(); id >= 0 {
		s.put([]int32{int32(id)}, true) //nolint:gosec // a token id
	}
	return s, err
}

// know finds out how the model reads conversations.
func (r *loraText) know() (err error) {
	if r.talk != nil {
		return nil
	}
	if r.talk, err = corpus.NewTalk(r.e.tok, r.l.Chat); err != nil {
		hint := "name the format with --chat: " + strings.Join(chat.Names(), ", ")
		if errors.Is(err, corpus.ErrMarker) {
			hint = "give prompt and completion in place of messages, or choose another --chat"
		}
		return &fault.Error{File: r.e.src.Path, Op: "lora train", Err: fault.As(fault.ErrMisuse, err), Hint: hint}
	}
	if more := r.talk.More(); more != "" {
		r.e.note("the model's chat template may also write " + more + ", which is not written here")
	}
	return nil
}
