package corpus

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/chat"
	"github.com/pare-dev/pare/internal/tokenizer"
)

// Record is a line of JSON lines. It holds one of these: a conversation, token ids, or a text, which may follow a prompt.
type Record struct {
	At       string // file:line
	Messages []chat.Message
	IDs      []int32
	Prompt   string
	Text     string
}

// fields are looked for, in this order, when no field is named; before text, prompt and completion together.
var fields = []string{"messages", "text", "input_ids", "content"}

// Records reads JSON lines, and the digest of their bytes. Token ids have to be below vocab.
func Records(ctx context.Context, s Source, vocab int) (list []Record, digest string, err error) {
	r := &reader{ctx: ctx, o: Options{Vocab: vocab}, digest: newDigest()}
	err = r.records(s, func(rec *Record) error {
		list = append(list, *rec)
		return nil
	})
	return list, r.sum(), err
}

// readLines reads JSON lines: one document each.
func (r *reader) readLines(s Source) error {
	return r.records(s, func(rec *Record) error {
		if r.full() {
			return errEnough
		}
		switch {
		case rec.Messages != nil:
			return r.chat(rec.At, rec.Messages)
		case rec.IDs != nil:
			r.put(unit{ids: rec.IDs, own: true})
			return nil
		}
		return r.document(rec.At, rec.Prompt+rec.Text)
	})
}

// records hands the lines of a file over.
func (r *reader) records(s Source, fn func(rec *Record) error) error {
	b, err := readFile(s.Path)
	if err != nil {
		return err
	}
	r.digest.Write(b)
	any := false
	err = eachLine(b, func(n int, line []byte) error {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		any = true
		rec := &Record{At: fmt.Sprintf("%s:%d", s.Path, n)}
		var object map[string]json.RawMessage
		if err := json.Unmarshal(line, &object); err != nil {
			return refuse(rec.At, "each line has to be one JSON object", "no JSON object: %v", err)
		}
		if err := rec.fill(s.Field, object, r.o.Vocab); err != nil {
			return err
		}
		return fn(rec)
	})
	if err == nil && !any {
		return refuse(s.Path, "", "no line holds anything")
	}
	return err
}

// fill takes the field of a line: the one that is named, dots leading into objects, or the first known.
func (rec *Record) fill(field string, object map[string]json.RawMessage, vocab int) error {
	if field == "" {
		if prompt, ok := object["prompt"]; ok && object["messages"] == nil && object["completion"] != nil {
			if json.Unmarshal(prompt, &rec.Prompt) != nil || json.Unmarshal(object["completion"], &rec.Text) != nil {
				return refuse(rec.At, "", "prompt and completion have to be text")
			}
			return nil
		}
		for _, name := range fields {
			if v, ok := object[name]; ok {
				return rec.value(v, vocab)
			}
		}
	}
	if v, ok := object[field]; ok {
		return rec.value(v, vocab)
	}
	if first, rest, nested := strings.Cut(field, "."); nested && rest != "" {
		var inner map[string]json.RawMessage
		if json.Unmarshal(object[first], &inner) == nil && inner != nil {
			return rec.fill(rest, inner, vocab)
		}
	}
	have := strings.Join(slices.Sorted(maps.Keys(object)), ", ")
	if field == "" {
		return refuse(rec.At, "name one: FILE:FIELD", "no field that is known (messages; prompt and completion; text; input_ids; content); it has %s", have)
	}
	return refuse(rec.At, "", "no field %q; it has %s", field, have)
}

// value takes what a field holds.
func (rec *Record) value(raw json.RawMessage, vocab int) error {
	if json.Unmarshal(raw, &rec.Text) == nil && string(raw) != "null" {
		return nil
	}
	var ids []int64
	if json.Unmarshal(raw, &ids) == nil && len(ids) > 0 {
		var err error
		rec.IDs, err = known(rec.At, ids, vocab)
		return err
	}
	if json.Unmarshal(raw, &rec.Messages) == nil && len(rec.Messages) > 0 {
		return nil
	}
	return refuse(rec.At, "", "the field is neither text, nor a list of token ids, nor one of messages with role and content")
}

// document takes a text that ends where its line does.
func (r *reader) document(at, text string) error {
	if r.o.Tokenizer == nil {
		return refuse(at, "give token ids (.npy)", "%w", errNoTokenizer)
	}
	ids, err := r.o.Tokenizer.Encode(text, tokenizer.EncodeOptions{AddSpecial: true})
	if err != nil {
		return refuse(at, "", "%w", err)
	}
	if end := r.o.Tokenizer.EOS(); end >= 0 && (len(ids) == 0 || ids[len(ids)-1] != int32(end)) { //nolint:gosec // a token id
		ids = append(ids, int32(end)) //nolint:gosec // a token id
	}
	r.out.Exact = false
	r.put(unit{ids: ids, own: true})
	return nil
}

// chat takes a conversation, written as the model's template has it.
func (r *reader) chat(at string, messages []chat.Message) error {
	if r.o.Tokenizer == nil {
		return refuse(at, "give token ids (.npy)", "%w", errNoTokenizer)
	}
	if r.talk == nil {
		talk, err := NewTalk(r.o.Tokenizer, "")
		if err != nil {
			return refuse(at, "give text in place of messages", "%w", err)
		}
		r.talk = talk
	}
	ids, _, err := r.talk.Encode(messages)
	if err != nil {
		return refuse(at, "", "%w", err)
	}
	r.out.Exact = false
	r.put(unit{ids: ids, own: true})
	return nil
}

// known takes tokens as they are.
func known(at string, ids []int64, vocab int) ([]int32, error) {
	out := make([]int32, len(ids))
	for i, v := range ids {
		if v < 0 || v >= int64(vocab) {
			return nil, refuse(at, "ids of another tokenizer, or of padding, cannot be used", "element %d is token %d, the model has %d", i, v, vocab)
		}
		out[i] = int32(v) //nolint:gosec // bounded
	}
	return out, nil
}
