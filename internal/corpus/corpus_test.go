package corpus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/tokenizer"
)

// letters is a tokenizer whose tokens are <s>, </s>, <unk> and a to z; "abc" is 3 4 5.
func letters(t testing.TB, start bool) *tokenizer.Tokenizer {
	t.Helper()
	s := tokenizer.NewSpec(tokenizer.SPM)
	s.Tokens = []string{"<s>", "</s>", "<unk>"}
	for c := 'a'; c <= 'z'; c++ {
		s.Tokens = append(s.Tokens, string(c))
	}
	s.Tokens = append(s.Tokens, "<|im_start|>", "<|im_end|>")
	s.ChatTemplate = "{% for m in messages %}{{'<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n'}}{% endfor %}"
	s.Scores = make([]float32, len(s.Tokens))
	s.Types = make([]tokenizer.TokenType, len(s.Tokens))
	for i := range s.Types {
		s.Types[i] = tokenizer.Normal
	}
	s.Types[0], s.Types[1], s.Types[2] = tokenizer.Control, tokenizer.Control, tokenizer.Unknown
	for i := len(s.Types) - 2; i < len(s.Types); i++ {
		s.Types[i] = tokenizer.Control
		s.Added = append(s.Added, tokenizer.Added{ID: i, Content: s.Tokens[i], Special: true})
	}
	s.BOS, s.EOS, s.UNK, s.AddBOS = 0, 1, 2, start
	tok, err := tokenizer.New(s)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func file(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// npyFile is a file as numpy.save writes it.
func npyFile(shape, descr string, elems ...any) string {
	head := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", descr, shape)
	head += strings.Repeat(" ", 63-(len(head)+10)%64) + "\n"
	b := append([]byte("\x93NUMPY\x01\x00"), byte(len(head)), byte(len(head)>>8)) //nolint:gosec // short
	b = append(b, head...)
	for _, e := range elems {
		b, _ = binary.Append(b, binary.LittleEndian, e)
	}
	return string(b)
}

func TestDocuments(t *testing.T) {
	ids := npyFile("2, 3", "<i4", int32(5), int32(6), int32(7), int32(8), int32(9), int32(10))
	for _, c := range []struct {
		name, field, content string
		start                bool
		ids                  []int32
		starts               []int
		exact                bool
	}{
		{"a.txt", "", "abc", true, []int32{0, 3, 4, 5}, []int{0}, false},
		{"a.jsonl", "", "{\"text\":\"ab\"}\n\n{\"text\":\"c\"}", false, []int32{3, 4, 1, 5, 1}, []int{0, 3}, false},
		{"a.jsonl", "", `{"text":"ab","other":1}`, true, []int32{0, 3, 4, 1}, []int{0}, false},
		{"a.jsonl", "", `{"prompt":"a","completion":"b","text":"z"}`, true, []int32{0, 3, 4, 1}, []int{0}, false},
		{"a.jsonl", ":q.a", `{"text":"ab","q":{"a":"z"}}`, false, []int32{28, 1}, []int{0}, false},
		{"a.ndjson", ":ids", `{"ids":[28,0,4]}`, true, []int32{28, 0, 4}, []int{0}, true},
		// the markers count as tokens where the template writes them (29, 30), not where somebody says them; 2 is no letter
		{
			"a.jsonl", "", `{"messages":[{"role":"user","content":"ab"},{"role":"assistant","content":"c"}]}`, false,
			[]int32{29, 23, 21, 7, 20, 2, 3, 4, 30, 2, 29, 3, 21, 21, 11, 21, 22, 3, 16, 22, 2, 5, 30, 2},
			[]int{0},
			false,
		},
		{"a.npy", "", ids, true, []int32{5, 6, 7, 8, 9, 10}, []int{0, 3}, true},
		{"a.npy", "", npyFile("3,", "<u2", uint16(5), uint16(6), uint16(7)), true, []int32{5, 6, 7}, []int{0}, true},
	} {
		tok := letters(t, c.start)
		got, err := Read(t.Context(), []string{file(t, c.name, c.content) + c.field}, nil, Options{Tokenizer: tok, Vocab: 31})
		if err != nil {
			t.Errorf("%s %s: %v", c.name, c.content, err)
			continue
		}
		if !slices.Equal(got.IDs, c.ids) || !slices.Equal(got.Starts, c.starts) || got.Exact != c.exact {
			t.Errorf("%s: %v %v exact %v, want %v %v %v", c.name, got.IDs, got.Starts, got.Exact, c.ids, c.starts, c.exact)
		}
	}
}

// Running text is one document whatever the number of files, as if they had been joined.
func TestTextsAreJoined(t *testing.T) {
	tok := letters(t, true)
	got, err := Read(t.Context(), []string{file(t, "a", "ab"), file(t, "b", "cd")}, &Text{"g", []byte("xy")}, Options{Tokenizer: tok, Vocab: 31})
	if err != nil {
		t.Fatal(err)
	}
	want, err := tok.Encode("xy\nab\ncd", tokenizer.EncodeOptions{AddStart: true})
	if err != nil {
		t.Fatal(err)
	}
	// printf 'xy\nab\ncd' | sha256sum
	const sum = "7bae2ccd1501153ca5f781e9d293d486e4036839a2cb9ab2ea9bf0dc43a20138"
	if !slices.Equal(got.IDs, want) || got.Name != "g, a, b" || got.SHA256 != sum {
		t.Errorf("%v of %q %s, want %v", got.IDs, got.Name, got.SHA256, want)
	}
}

func TestSequences(t *testing.T) {
	docs := `{"text":"abcde"}
{"text":"fg"}`
	tok := letters(t, true)
	got, err := Read(t.Context(), []string{file(t, "a.jsonl", docs)}, nil, Options{Tokenizer: tok, Vocab: 31})
	if err != nil {
		t.Fatal(err)
	}
	// packed: <s> a b c | d e </s> <s> | f g </s>; the second stretch begins with the start token, the tail goes
	want := [][]int32{{0, 3, 4, 5}, {0, 7, 1, 0}}
	if s := got.Sequences(4, 0, false); !equal(s, want) {
		t.Errorf("packed: %v, want %v", s, want)
	}
	// apart: <s> a b c | d e </s> and <s> f g </s>
	want = [][]int32{{0, 3, 4, 5}, {0, 7, 1}, {0, 8, 9, 1}}
	if s := got.Sequences(4, 0, true); !equal(s, want) {
		t.Errorf("apart: %v, want %v", s, want)
	}
	exact, err := Read(t.Context(), []string{file(t, "a.npy", npyFile("4,", "<i8", int64(9), int64(8), int64(7), int64(6)))}, nil, Options{Tokenizer: tok, Vocab: 31})
	if err != nil {
		t.Fatal(err)
	}
	if s := exact.Sequences(2, 0, false); !equal(s, [][]int32{{9, 8}, {7, 6}}) {
		t.Errorf("token ids: %v; nothing may be put in place of them", s)
	}
}

func equal(a, b [][]int32) bool { return slices.EqualFunc(a, b, slices.Equal[[]int32]) }

// Shuffling takes other pieces for other seeds, the same for the same, and all of them without a limit.
func TestShuffle(t *testing.T) {
	tok := letters(t, false)
	path := file(t, "a.txt", strings.Repeat("abcdefghijklmnopqrstuvwxyz", 4))
	read := func(seed uint64, limit int) []int32 {
		got, err := Read(t.Context(), []string{path}, nil, Options{Tokenizer: tok, Vocab: 31, Shuffle: true, Seed: seed, Stretch: 13, Limit: limit})
		if err != nil {
			t.Fatal(err)
		}
		return got.IDs
	}
	a, b, again := read(1, 0), read(2, 0), read(1, 0)
	if !slices.Equal(a, again) || slices.Equal(a, b) {
		t.Error("the order does not follow from the seed")
	}
	if first := read(1, 26); !slices.Equal(first, a[:26]) {
		t.Errorf("the limit cuts %v, not the beginning of %v", first, a)
	}
	slices.Sort(a)
	for i, id := range a {
		if id != int32(3+i/4) { //nolint:gosec // small
			t.Fatalf("token %d is %d after sorting: something is lost or doubled", i, id)
		}
	}
}

func TestCoverage(t *testing.T) {
	x := &Tokens{IDs: []int32{3, 4, 4, 5}}
	if c := x.Covers(8); c.Distinct != 3 || c.Vocabulary != 3./8 {
		t.Errorf("%+v", c)
	}
	if k := x.Knows([]int32{4, 4, 9, 5}, 8); k != 0.75 {
		t.Errorf("knows %v", k)
	}
}

func TestRefusals(t *testing.T) {
	tok := letters(t, true)
	for _, c := range []struct{ name, field, content, want string }{
		{"a.txt", "", "", "empty"},
		{"a.txt", "", "a\x00b", "no text"},
		{"a.jsonl", "", "", "no line"},
		{"a.jsonl", "", "[1]", "no JSON object"},
		{"a.jsonl", "", "{\"text\":\"a\"}\n{\"text\":", "a.jsonl:2"},
		{"a.jsonl", "", `{"body":"a"}`, "it has body"},
		{"a.jsonl", ":x", `{"text":"a"}`, `no field "x"`},
		{"a.jsonl", "", `{"text":7}`, "neither"},
		{"a.jsonl", "", `{"input_ids":[3,31]}`, "token 31"},
		{"a.jsonl", "", `{"input_ids":[-100]}`, "token -100"},
		{"a.jsonl", "", `{"messages":[{"role":"nobody","content":"a"}]}`, "nobody"},
		{"a.jsonl", "", `{"prompt":"a","completion":["b"]}`, "have to be text"},
		{"a.jsonl", "", `{"text":null}`, "neither"},
		{"a.jsonl", "", `{"messages":[{"role":"assistant","content":null,"tool_calls":[{}]}]}`, "tools"},
		{"a.npy", "", "nothing", "NumPy"},
		{"a.npy", "", npyFile("1,", "<f4", float32(1)), "integers"},
		{"a.npy", "", npyFile("1, 1, 1", "<i4", int32(1)), "dimensions"},
		{"a.npy", "", npyFile("0,", "<i4"), "empty"},
		{"a.npy", "", npyFile("9,", "<i4", int32(1)), "shorter"},
		{"a.npy", "", npyFile("1,", "<u8", uint64(1<<63)), "token -"},
	} {
		path := file(t, c.name, c.content)
		_, err := Read(t.Context(), []string{path + c.field}, nil, Options{Tokenizer: tok, Vocab: 31})
		var fe *fault.Error
		if err == nil || !strings.Contains(err.Error(), c.want) || !errors.As(err, &fe) || !strings.Contains(fe.File, c.name) {
			t.Errorf("%s %q: %v, want %q and the file", c.name, c.content, err, c.want)
		}
	}
	large := file(t, "large.npy", npyFile(fmt.Sprint(maxBytes/4+1, ","), "|u1"))
	if err := os.Truncate(large, maxBytes/4+1024); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(t.Context(), []string{large}, nil, Options{Vocab: 31}); !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("too many tokens of a byte: %v", err)
	}
	if _, err := Read(t.Context(), []string{"none.txt"}, nil, Options{Tokenizer: tok}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := Read(t.Context(), []string{file(t, "a", "b")}, nil, Options{Vocab: 3}); err == nil {
		t.Error("text without a tokenizer is read")
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte(`{"text":"ab"}`))
	f.Add([]byte(`{"input_ids":[1,2,3]}`))
	f.Add([]byte("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}\n{}"))
	tok := letters(f, true)
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := Read(t.Context(), []string{file(t, "a.jsonl", string(b))}, nil, Options{Tokenizer: tok, Vocab: 31})
		if err != nil {
			return
		}
		for _, s := range got.Sequences(4, 0, true) {
			if len(s) == 0 || len(s) > 4 {
				t.Fatalf("a sequence of %d tokens", len(s))
			}
		}
	})
}
