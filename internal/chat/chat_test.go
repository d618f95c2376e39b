package chat

import (
	"encoding/json"
	"errors"
	"os"
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
	if err := json.Unmarshal(b, &cases); err != nil || len(cases) != 11 {
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
				learned.WriteString(p.Text)
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
	if _, err := Detect("{{ messages }}"); !errors.Is(err, ErrUnknown) {
		t.Errorf("an unknown template: %v", err)
	}
	if f, err := ByName("gemma"); err != nil {
		t.Error(err)
	} else if _, err := f.Write([]Message{{"system", "x"}}); err == nil {
		t.Error("gemma takes a system message")
	}
	if _, err := ByName("alpaca"); err == nil {
		t.Error("alpaca is a format")
	}
}

// Lines hold one of three kinds of records; what does not is named by its line.
func TestRead(t *testing.T) {
	list, err := Read([]byte(`{"text":"a"}

{"prompt":"p","completion":"c","text":"x"}
{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"r"}]}`), "")
	if err != nil || len(list) != 3 || list[0].Kind() != "text" || list[1].Kind() != "completion" || list[2].Kind() != "messages" || list[2].Line != 4 {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err = Read([]byte(`{"body":"b","text":"t"}`), "body"); err != nil || list[0].Text != "b" {
		t.Errorf("%+v, %v", list, err)
	}
	for bad, want := range map[string]string{
		``:                               "no line",
		`{"text":"a"}` + "\n[1]":         "line 2",
		`null`:                           "line 1",
		`{"text":3}`:                     "no text",
		`{"text":""}`:                    "empty",
		`{"body":"a"}`:                   "it has body",
		`{"prompt":"a"}`:                 "neither",
		`{"messages":"a"}`:               "no list",
		`{"messages":[]}`:                "nothing to learn",
		`{"messages":[{"role":"user"}]}`: "nothing to learn",
		strings.Repeat("x", maxLine+1):   "at most",
	} {
		if _, err := Read([]byte(bad), ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"r"}]}`), "")
	f.Add([]byte(`{"text":"a"}`), "text")
	f.Fuzz(func(t *testing.T, b []byte, field string) {
		list, err := Read(b, field)
		if err != nil {
			return
		}
		for _, r := range list {
			if r.Kind() == "messages" {
				for i := range formats {
					_, _ = formats[i].Write(r.Messages) // roles may be unknown
				}
			} else if r.Text == "" && r.Completion == "" {
				t.Errorf("nothing to learn in %+v", r)
			}
		}
	})
}
