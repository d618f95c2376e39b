package chat

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

// Conversations come out as the templates write them, and exactly the assistant's words and the ends of its
// turns are learned.
func TestTemplates(t *testing.T) {
	b, err := os.ReadFile("testdata/templates.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Format, Template, Text string
		Messages               []Message
	}
	if err := json.Unmarshal(b, &cases); err != nil || len(cases) != 17 {
		t.Fatal(err, len(cases))
	}
	for _, c := range cases {
		f, err := Detect(c.Template)
		if err != nil || f.Name != c.Format {
			t.Errorf("%s: taken for %v, %v", c.Format, f, err)
			continue
		}
		parts, err := f.Write(c.Messages)
		if err != nil {
			t.Fatal(err)
		}
		var got, learned, want strings.Builder
		if f.Starts() {
			got.WriteString("<bos>")
		}
		for _, p := range parts {
			got.WriteString(p.Text)
			if p.Learn {
				learned.WriteString(p.Text[p.Read:])
			}
		}
		if f.Ends() {
			got.WriteString("<eos>")
		}
		if got.String() != c.Text {
			t.Errorf("%s writes\n%q, the template\n%q", c.Format, got.String(), c.Text)
		}
		for _, m := range c.Messages {
			if m.Role == "assistant" {
				said := m.Content
				if f.trim {
					said = strings.TrimSpace(said)
				}
				want.WriteString(said + f.after)
			}
		}
		if learned.String() != want.String() {
			t.Errorf("%s: %q is learned, not %q", c.Format, learned.String(), want.String())
		}
	}
}

// Templates that share a marker with a format and write otherwise are not taken for it.
func TestOthers(t *testing.T) {
	for name, template := range map[string]string{
		"none":                "{{ messages }}",
		"a separator":         "{% for m in messages %}{{'<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>'}}{% endfor %}",
		"no line ends":        "{% for m in messages %}{{'<|' + m.role + '|>' + m.content + '<|end|>'}}{% endfor %}",
		"channels of thought": `{{- "<|start|>" + role + "<|message|>" + message.content + "<|end|>" }}`,
	} {
		if f, err := Detect(template); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
	for _, end := range []string{`<|im_end|>\n'`, `<|im_end|>' + '\n'`, "<|im_end|>\n", `<|im_end|>' }}{{ "\n"`, `<|im_end|>{{- '\n'`} {
		if f, err := Detect("'<|im_start|>' + " + end); err != nil || f.Name != "chatml" {
			t.Errorf("%s: %v, %v", end, f, err)
		}
	}
	f, err := Detect("{{- bos_token }}{%- set date_string = strftime_now('%d %b %Y') %}{{ '<|start_header_id|>' + role + '<|end_header_id|>\n\n' + content + '<|eot_id|>' }}")
	if err != nil || f.Name != "llama-3" || f.More() != "today's date" {
		t.Errorf("%v, %v", f, err)
	}
	if f, err := ByName("gemma"); err != nil {
		t.Error(err)
	} else if _, err := f.Write([]Message{{Role: "system", Content: "x"}}); err == nil {
		t.Error("gemma takes a system message")
	}
	if f, err := ByName("chatml"); err != nil {
		t.Error(err)
	} else if _, err := f.Write([]Message{{Role: "assistant", ToolCalls: []json.RawMessage{[]byte("{}")}}}); err == nil {
		t.Error("calls of tools are left out without a word")
	}
	if _, err := ByName("alpaca"); err == nil {
		t.Error("alpaca is a format")
	}
	want := []string{"<|end_header_id|>", "<|eot_id|>", "<|start_header_id|>"}
	if f, err := ByName("llama-3"); err != nil || !slices.Equal(f.Markers(), want) {
		t.Errorf("%v, %v", f.Markers(), err)
	}
}

// What is said comes out once, whoever says what.
func FuzzWrite(f *testing.F) {
	f.Add("{{'<|im_start|>system\nHi.<|im_end|>\n'}}", "user", "a")
	f.Add("{{ bos_token + '<end_of_turn>\n' }}", "assistant", "<end_of_turn>")
	f.Fuzz(func(t *testing.T, template, role, said string) {
		found, err := Detect(template)
		if err != nil {
			return
		}
		parts, err := found.Write([]Message{{Role: role, Content: said}})
		if err != nil {
			return
		}
		for _, p := range parts {
			if p.Read < 0 || p.Read > len(p.Text) || p.Text == "" {
				t.Errorf("%+v", p)
			}
		}
	})
}
