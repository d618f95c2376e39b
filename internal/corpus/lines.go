package corpus

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pare-dev/pare/internal/chat"
	"github.com/pare-dev/pare/internal/tokenizer"
)

// fields are looked for, in this order, when no field is named.
var fields = []string{"messages", "text", "input_ids", "content"}

// readLines reads JSON lines: one document each.
func (r *reader) readLines(s Source) error {
	b, err := readFile(s.Path)
	if err != nil {
		return err
	}
	r.digest.Write(b)
	any := false
	err = eachLine(b, func(n int, line []byte) error {
		if r.full() {
			return errEnough
		}
		if err := r.ctx.Err(); err != nil {
			return err
		}
		at := fmt.Sprintf("%s:%d", s.Path, n)
		var object map[string]json.RawMessage
		if err := json.Unmarshal(line, &object); err != nil {
			return refuse(at, "each line has to be one JSON object", "no JSON object: %v", err)
		}
		value, err := pick(at, s.Field, object)
		if err != nil {
			return err
		}
		any = true
		return r.value(at, value)
	})
	if err == nil && !any {
		return refuse(s.Path, "", "no line holds anything")
	}
	return err
}

// pick finds the field of a line: the one that is named, dots leading into objects, or the first known.
func pick(at, field string, object map[string]json.RawMessage) (json.RawMessage, error) {
	if field == "" {
		for _, name := range fields {
			if v, ok := object[name]; ok {
				return v, nil
			}
		}
	}
	if v, ok := object[field]; ok {
		return v, nil
	}
	if first, rest, nested := strings.Cut(field, "."); nested {
		var inner map[string]json.RawMessage
		if json.Unmarshal(object[first], &inner) == nil && inner != nil {
			return pick(at, rest, inner)
		}
	}
	have := strings.Join(slices.Sorted(maps.Keys(object)), ", ")
	if field == "" {
		return nil, refuse(at, "name one: FILE:FIELD", "no field that is known (%s); it has %s", strings.Join(fields, ", "), have)
	}
	return nil, refuse(at, "", "no field %q; it has %s", field, have)
}

// value takes what a field holds.
func (r *reader) value(at string, raw json.RawMessage) error {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return r.document(at, text)
	}
	var ids []int64
	if json.Unmarshal(raw, &ids) == nil && len(ids) > 0 {
		return r.ids(at, ids)
	}
	var messages []chat.Message
	if json.Unmarshal(raw, &messages) == nil && len(messages) > 0 {
		return r.chat(at, messages)
	}
	return refuse(at, "", "the field is neither text, nor a list of token ids, nor one of messages with role and content")
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
	tok := r.o.Tokenizer
	if tok == nil {
		return refuse(at, "give token ids (.npy)", "%w", errNoTokenizer)
	}
	const hint = "give text in place of messages"
	if tok.Spec().ChatTemplate == "" {
		return refuse(at, hint, "the model has no chat template")
	}
	f, err := chat.Detect(tok.Spec().ChatTemplate)
	if err != nil {
		return refuse(at, hint, "%w", err)
	}
	for _, m := range f.Markers() {
		if _, ok := tok.ID(m); !ok {
			return refuse(at, hint, "the model has no token %s, which %s is written with", m, f.Name)
		}
	}
	parts, err := f.Write(messages)
	if err != nil {
		return refuse(at, "", "%w", err)
	}
	var ids []int32
	if id := tok.BOS(); f.Starts() && id >= 0 {
		ids = append(ids, int32(id)) //nolint:gosec // a token id
	}
	for _, p := range parts {
		more, err := tok.Encode(p.Text, tokenizer.EncodeOptions{ParseSpecial: p.Markup})
		if err != nil {
			return refuse(at, "", "%w", err)
		}
		ids = append(ids, more...)
	}
	if id := tok.EOS(); f.Ends() && id >= 0 {
		ids = append(ids, int32(id)) //nolint:gosec // a token id
	}
	r.out.Exact = false
	r.put(unit{ids: ids, own: true})
	return nil
}

// ids takes tokens as they are.
func (r *reader) ids(at string, ids []int64) error {
	out := make([]int32, len(ids))
	for i, v := range ids {
		if v < 0 || v >= int64(r.o.Vocab) {
			return refuse(at, "ids of another tokenizer, or of padding, cannot be used", "element %d is token %d, the model has %d", i, v, r.o.Vocab)
		}
		out[i] = int32(v) //nolint:gosec // bounded
	}
	r.put(unit{ids: out, own: true})
	return nil
}
