package chat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Record is one line: a conversation, a prompt with what is to follow it, or a text.
type Record struct {
	Line       int
	Messages   []Message
	Prompt     string
	Completion string
	Text       string
}

// Kind says which of them.
func (r *Record) Kind() string {
	switch {
	case r.Messages != nil:
		return "messages"
	case r.Completion != "":
		return "completion"
	}
	return "text"
}

// maxLine bounds a line in bytes: far more than a model reads at once.
const maxLine = 4 << 20

// Read reads JSON lines. A line has messages, or prompt and completion, or a text in field, which is "text"
// when it is empty; a field that is named wins. Blank lines are passed over.
func Read(b []byte, field string) (list []Record, err error) {
	for n := 1; len(b) > 0; n++ {
		line, rest, _ := bytes.Cut(b, []byte{'\n'})
		b = rest
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		if len(line) > maxLine {
			return nil, fmt.Errorf("line %d: %d bytes, at most %d are read", n, len(line), maxLine)
		}
		r, err := parse(line, field)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		r.Line = n
		list = append(list, r)
	}
	if len(list) == 0 {
		return nil, errors.New("no line holds anything")
	}
	return list, nil
}

func parse(line []byte, field string) (r Record, err error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(line, &object); err != nil || object == nil {
		return r, fmt.Errorf("not a JSON object: %w", errors.Join(err, errNoObject))
	}
	text := func(name string) (s string, err error) {
		if err := json.Unmarshal(object[name], &s); err != nil {
			return "", fmt.Errorf("%s is no text", name)
		}
		if s == "" {
			return "", fmt.Errorf("%s is empty", name)
		}
		return s, nil
	}
	has := func(name string) bool { return object[name] != nil }
	switch {
	case field != "" && has(field):
		r.Text, err = text(field)
	case field != "":
		err = fmt.Errorf("no field %q; it has %s", field, strings.Join(slices.Sorted(maps.Keys(object)), ", "))
	case has("messages"):
		if err := json.Unmarshal(object["messages"], &r.Messages); err != nil {
			return r, errors.New("messages is no list of {role, content}")
		}
		if !slices.ContainsFunc(r.Messages, func(m Message) bool { return m.Role == "assistant" && strings.TrimSpace(m.Content) != "" }) {
			return r, errors.New("messages: the assistant says nothing, so there is nothing to learn")
		}
	case has("prompt") && has("completion"):
		if r.Prompt, err = text("prompt"); err == nil {
			r.Completion, err = text("completion")
		}
	case has("text"):
		r.Text, err = text("text")
	default:
		err = fmt.Errorf("neither messages, nor prompt and completion, nor text; it has %s", strings.Join(slices.Sorted(maps.Keys(object)), ", "))
	}
	return r, err
}

var errNoObject = errors.New("each line has to be one")
