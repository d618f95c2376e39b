package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Message is one turn.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
	// ToolCalls are what no format here has a place for.
	ToolCalls []json.RawMessage `json:"tool_calls"`
}

// Part is a piece of a text: a token such as <|im_end|>, or all that stands between two of them, in which such tokens are
// plain text, for people wrote it.
type Part struct {
	Text   string
	Marker bool // a token
	Learn  bool // the model is to give it
	Read   int  // bytes of Text that are only read even so: what stands before what the assistant says
}

// Format is how a family of models writes conversations.
type Format struct {
	Name   string
	marker string            // in templates of this format, and in no other's
	before string            // a turn, %s its role; text stands at its end
	after  string            // what ends it, learned behind the assistant's
	gap    string            // between turns
	end    bool              // the end token follows the last turn
	start  bool              // the start token comes first
	trim   bool              // blanks around what is said are left out
	roles  map[string]string // names of roles; those that are missing are refused
	shows  *regexp.Regexp    // found in templates of this format, not in those that share the marker and write otherwise

	preset string // of one template: what the system says where a conversation does not begin with that
	more   string // of one template: what it also writes and this format does not
}

var usual = map[string]string{"system": "system", "user": "user", "assistant": "assistant"}

// line finds a marker that is written with a line end behind it, both in one string of the template or in two.
func line(marker string) *regexp.Regexp {
	return regexp.MustCompile(marker + `(?:['"]\s*(?:[+~]\s*['"]|\}\}(?:\{\{-?\s*['"])?)|\{\{-?\s*['"])?(?:\\n|\r?\n)`)
}

// formats are those of the templates that the families publish.
var formats = []Format{
	{Name: "chatml", marker: "<|im_start|>", before: "<|im_start|>%s\n", after: "<|im_end|>", gap: "\n", roles: usual, shows: line(`<\|im_end\|>`)},
	{Name: "llama-3", marker: "<|start_header_id|>", before: "<|start_header_id|>%s<|end_header_id|>\n\n", after: "<|eot_id|>", start: true, trim: true, roles: usual, shows: line(`<\|end_header_id\|>`)},
	{Name: "gemma", marker: "<start_of_turn>", before: "<start_of_turn>%s\n", after: "<end_of_turn>", gap: "\n", start: true, trim: true, roles: map[string]string{"user": "user", "assistant": "model"}, shows: line(`<end_of_turn>`)},
	{Name: "phi-3", marker: "<|end|>", before: "<|%s|>\n", after: "<|end|>", gap: "\n", end: true, roles: usual, shows: line(`<\|end\|>`)},
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

// presets finds what a ChatML template lets the system say where nobody else does.
var presets = regexp.MustCompile(`<\|im_start\|>system(?:\\n|\n)((?:[^'"{}<\\]|\\n)+)<\|im_end\|>`)

// Detect finds the format of a model's template by what it writes around turns.
func Detect(template string) (*Format, error) {
	i := slices.IndexFunc(formats, func(f Format) bool {
		return strings.Contains(template, f.marker) && f.shows.MatchString(template)
	})
	if i < 0 {
		return nil, ErrUnknown
	}
	f := formats[i]
	f.start = f.start || strings.Contains(template, "bos_token")
	f.end = f.end && strings.Contains(template, "eos_token")
	if m := presets.FindStringSubmatch(template); m != nil {
		f.preset = strings.ReplaceAll(m[1], `\n`, "\n")
	}
	var more []string
	if strings.Contains(template, "date_string") || strings.Contains(template, "strftime_now") {
		more = append(more, "today's date")
	}
	if strings.Contains(template, "<think>") {
		more = append(more, "a place for thoughts")
	}
	f.more = strings.Join(more, " and ")
	return &f, nil
}

// More is what the template that was detected may also write and Write does not; empty for nothing.
func (f *Format) More() string { return f.more }

// Markers are the tokens that a model must have to read the format.
func (f *Format) Markers() (list []string) {
	for _, name := range f.roles {
		for _, p := range pieces(fmt.Sprintf(f.before, name) + f.after) {
			if p.Marker && !slices.Contains(list, p.Text) {
				list = append(list, p.Text)
			}
		}
	}
	slices.Sort(list)
	return list
}

var markers = regexp.MustCompile(`<[a-z_|]+>`)

// pieces tells the markers of what a format writes from the text between them.
func pieces(s string) (parts []Part) {
	for len(s) > 0 {
		m := markers.FindStringIndex(s)
		if m == nil {
			m = []int{len(s), len(s)}
		}
		if m[0] > 0 {
			parts = append(parts, Part{Text: s[:m[0]]})
		}
		if m[1] > m[0] {
			parts = append(parts, Part{Text: s[m[0]:m[1]], Marker: true})
		}
		s = s[m[1]:]
	}
	return parts
}

// Starts and Ends say whether the start token comes first and the end token last.
func (f *Format) Starts() bool { return f.start }

// Ends is as above.
func (f *Format) Ends() bool { return f.end }

// Write gives a conversation in pieces. Turns of the assistant are learned, what ends them too.
func (f *Format) Write(messages []Message) (parts []Part, err error) {
	if f.preset != "" && (len(messages) == 0 || messages[0].Role != "system") {
		parts = f.turn(parts, f.roles["system"], f.preset, false)
	}
	for i, m := range messages {
		role, ok := f.roles[m.Role]
		if !ok {
			return nil, fmt.Errorf("message %d: %s has no role %q", i+1, f.Name, m.Role)
		}
		if len(m.ToolCalls) > 0 {
			return nil, fmt.Errorf("message %d calls tools, which cannot be written here", i+1)
		}
		said := m.Content
		if f.trim {
			said = strings.TrimSpace(said)
		}
		parts = f.turn(parts, role, said, m.Role == "assistant")
	}
	return parts, nil
}

// turn adds what somebody says. It is one piece with the line end before it, as those who tokenize the whole text have it.
func (f *Format) turn(parts []Part, role, said string, learn bool) []Part {
	parts = append(parts, pieces(fmt.Sprintf(f.before, role))...)
	if last := &parts[len(parts)-1]; !last.Marker {
		last.Read, last.Learn = len(last.Text), learn
		last.Text += said
	}
	parts = append(parts, Part{Text: f.after, Marker: true, Learn: learn})
	if f.gap != "" {
		parts = append(parts, Part{Text: f.gap})
	}
	return parts
}
