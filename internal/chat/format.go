package chat

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Message is one turn.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// Part is a piece of a text.
type Part struct {
	Text   string
	Markup bool // tokens such as <|im_end|> count as such; in what people wrote they are plain text
	Learn  bool // the model is to give it
}

// Format is how a family of models writes conversations.
type Format struct {
	Name   string
	marker string            // in templates of this format, and in no other's
	before string            // a turn, %s its role
	after  string            // what ends it, learned behind the assistant's
	gap    string            // between turns
	end    bool              // the end token follows the last turn
	start  bool              // the start token comes first
	trim   bool              // blanks around what is said are left out
	roles  map[string]string // names of roles; those that are missing are refused
}

var usual = map[string]string{"system": "system", "user": "user", "assistant": "assistant"}

// formats are those of the templates that the families publish.
var formats = []Format{
	{Name: "chatml", marker: "<|im_start|>", before: "<|im_start|>%s\n", after: "<|im_end|>", gap: "\n", roles: usual},
	{Name: "llama-3", marker: "<|start_header_id|>", before: "<|start_header_id|>%s<|end_header_id|>\n\n", after: "<|eot_id|>", start: true, trim: true, roles: usual},
	{Name: "gemma", marker: "<start_of_turn>", before: "<start_of_turn>%s\n", after: "<end_of_turn>", gap: "\n", start: true, trim: true, roles: map[string]string{"user": "user", "assistant": "model"}},
	{Name: "phi-3", marker: "<|end|>", before: "<|%s|>\n", after: "<|end|>", gap: "\n", end: true, roles: usual},
}

// Names lists the formats.
func Names() (names []string) {
	for _, f := range formats {
		names = append(names, f.Name)
	}
	return names
}

// ByName finds a format.
func ByName(name string) (*Format, error) {
	i := slices.IndexFunc(formats, func(f Format) bool { return f.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("no format of conversations is called %q: there are %s", name, strings.Join(Names(), ", "))
	}
	return &formats[i], nil
}

// ErrUnknown is the reason when a template is of no known format.
var ErrUnknown = errors.New("the model's chat template is of no format that is known")

// Detect finds the format of a model's template by its markers.
func Detect(template string) (*Format, error) {
	for i := range formats {
		if strings.Contains(template, formats[i].marker) {
			return &formats[i], nil
		}
	}
	return nil, ErrUnknown
}

// Markers are the tokens that a model must have to read the format.
func (f *Format) Markers() []string {
	if f.marker == f.after {
		return []string{f.marker}
	}
	return []string{f.marker, f.after}
}

// Starts and Ends say whether the start token comes first and the end token last.
func (f *Format) Starts() bool { return f.start }

// Ends is as above.
func (f *Format) Ends() bool { return f.end }

// Write gives a conversation in pieces. Turns of the assistant are learned, what ends them too.
func (f *Format) Write(messages []Message) (parts []Part, err error) {
	for i, m := range messages {
		role, ok := f.roles[m.Role]
		if !ok {
			return nil, fmt.Errorf("message %d: %s has no role %q", i+1, f.Name, m.Role)
		}
		said := m.Content
		if f.trim {
			said = strings.TrimSpace(said)
		}
		learn := m.Role == "assistant"
		parts = append(parts,
			Part{Text: fmt.Sprintf(f.before, role), Markup: true},
			Part{Text: said, Learn: learn},
			Part{Text: f.after, Markup: true, Learn: learn},
			Part{Text: f.gap, Markup: true})
	}
	return parts, nil
}
