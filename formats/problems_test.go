package formats

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
)

// TestDamaged: side files that are cut short, empty or something else than JSON are errors that name
// file and line; a model without them is another thing.
func TestDamaged(t *testing.T) {
	from := filepath.Join(architectures, "llama")
	config := string(read(t, filepath.Join(from, "config.json")))
	vocab := string(read(t, filepath.Join(from, "tokenizer.json")))
	lines := func(s string) int { return 1 + strings.Count(s, "\n") }
	for name, c := range map[string]struct {
		file, text string
		line       int
		reason     string
	}{
		"cut":         {"config.json", config[:100], lines(config[:100]), "ends in the middle"},
		"a brace":     {"config.json", "{", 1, "ends in the middle"},
		"empty":       {"config.json", "", 1, "it is empty"},
		"blank":       {"config.json", " \n\n", 3, "it is empty"},
		"an array":    {"config.json", "[]", 1, "no JSON object"},
		"a number":    {"config.json", "3", 1, "no JSON object"},
		"two objects": {"config.json", config + "{}", lines(config), "'{'"},
		"no comma":    {"config.json", "{\n  \"a\": 1\n  \"b\": 2\n}", 3, "'\"'"},
		"vocabulary":  {"tokenizer.json", vocab[:2000], lines(vocab[:2000]), "ends in the middle"},
		"special":     {"special_tokens_map.json", "{", 1, "ends in the middle"},
		"generation":  {"generation_config.json", "{\n\n,", 3, "','"},
	} {
		dir := copyFolder(t, from, map[string][]byte{c.file: []byte(c.text)})
		_, err := Open(context.Background(), dir)
		var fe *fault.Error
		if !errors.As(err, &fe) || !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		file, line, _ := strings.Cut(strings.TrimPrefix(fe.File, dir+string(filepath.Separator)), ":")
		if file != c.file || line != strconv.Itoa(c.line) || !strings.Contains(fe.Err.Error(), c.reason) || fe.Hint == "" {
			t.Errorf("%s: %v, want line %d of %s and %q", name, err, c.line, c.file, c.reason)
		}
	}
}

// TestContradiction: a configuration that does not describe the weights is told in one line for each
// kind of mistake, with tensor and shapes.
func TestContradiction(t *testing.T) {
	from := filepath.Join(architectures, "llama") // 2 blocks of width 256 with an MLP of 256
	config := string(read(t, filepath.Join(from, "config.json")))
	open := func(old, changed string) *ir.Model {
		if !strings.Contains(config, old) {
			t.Fatalf("the configuration has no %s", old)
		}
		return open(t, copyFolder(t, from, map[string][]byte{"config.json": []byte(strings.Replace(config, old, changed, 1))}))
	}

	m := open(`"intermediate_size": 256`, `"intermediate_size": 512`)
	if err := m.CannotRun(); m.Decoder != nil || !errors.Is(err, ir.ErrShape) || !strings.Contains(err.Error(), "[256 256], the configuration asks for [256 512]; and 5 more like it") ||
		!strings.Contains(err.Error(), "model.layers.0.mlp.down_proj.weight") || len(m.Problems) != 1 {
		t.Errorf("a wider MLP: %v; %v", err, m.Problems)
	}

	m = open(`"num_hidden_layers": 2`, `"num_hidden_layers": 4`)
	if err := m.CannotRun(); m.Decoder != nil || !errors.Is(err, ir.ErrMissing) || !strings.Contains(err.Error(), "attn_norm of block 2 and 17 more; the configuration has 4 blocks, the file 2 of them") || len(m.Problems) != 1 {
		t.Errorf("more blocks: %v; %v", err, m.Problems)
	}

	m = open(`"num_hidden_layers": 2`, `"num_hidden_layers": 1`)
	if m.Decoder == nil || len(m.Problems) != 1 || m.Problems[0].Reason != "block 1 is not used (9 tensors): the configuration has 1 blocks, the file 2" {
		t.Errorf("fewer blocks: decoder %v, problems %v", m.Decoder, m.Problems)
	}
	if x := m.Find("model.layers.1.mlp.up_proj.weight"); x == nil || x.Role != ir.RoleUnknown {
		t.Errorf("a tensor that is not used: %+v", x)
	}
}

// TestNowhere: a path at which nothing lies comes with the nearest that does.
func TestNowhere(t *testing.T) {
	dir := copyFolder(t, filepath.Join(architectures, "llama"), nil)
	for path, want := range map[string]string{dir + "x": filepath.Base(dir) + "?", filepath.Join(dir, "tokeniser.json"): "tokenizer.json?", filepath.Join(dir, "a", "b"): "not downloaded"} {
		_, err := Open(context.Background(), path)
		var fe *fault.Error
		if !errors.As(err, &fe) || !strings.HasSuffix(fe.Hint, want) {
			t.Errorf("%s: %v, want a hint that ends in %q", path, err, want)
		}
	}
}
