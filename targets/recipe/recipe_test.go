package recipe

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
)

// full is the recipe of the design, with every kind of value in it.
const full = `# comment
[source]
model    = "models/books-6m"
adapters = ["adapters/support-lora", "b:0.25"] # merged in this order

[calibration]
text   = ["calib.txt"]
tokens = 65_536
seed   = 7

[[pass]]
use      = "prune.wanda"
sparsity = "50%"
pattern  = "2:4"
only     = ["*.mlp.*"]
schedule = [
  { match = "*.0.*", sparsity = 0.25 },
]

[[pass]]
use      = "prune.channels"
flops    = "50%"
floor    = "25%"
multiple = 4
score    = "fit"
refit    = false

[[target]]
use      = "arm64"
quantize = "q4_0"
method   = "gptq"

[[target]]
use  = "x86-64-v4"
keep = "*.attn_v.*=q6_k"

[verify]
text = '''a"b.txt'''

[gate]
kl_mean             = 0.05
top1                = 0.93
perplexity_increase = "4%"
decode_speedup      = 1.5
`

func TestParse(t *testing.T) {
	got, err := Parse("r.toml", []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	half := Ratio(0.5)
	want := &Recipe{
		Source:      Source{Model: "models/books-6m", Adapters: []Adapter{{"adapters/support-lora", 1}, {"b", 0.25}}},
		Calibration: Calibration{Text: []string{"calib.txt"}, Tokens: 65536, Seed: 7},
		Passes:      []Pass{{Use: "prune.wanda", Sparsity: &half, Pattern: "2:4", Only: []string{"*.mlp.*"}, Schedule: []Share{{"*.0.*", 0.25}}}, {Use: "prune.channels", FLOPs: &half, Floor: 0.25, Multiple: 4, Score: "fit", Refit: new(bool)}},
		Targets:     []Target{{Use: "arm64", Quantize: "q4_0", Method: "gptq"}, {Use: "x86-64-v4", Keep: []string{"*.attn_v.*=q6_k"}}},
		Verify:      Verify{Text: []string{`a"b.txt`}},
		Gate:        Gate{"kl_mean": 0.05, "top1": 0.93, "perplexity_increase": 0.04, "decode_speedup": 1.5},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	again, err := Parse("again", got.TOML())
	if err != nil || !reflect.DeepEqual(again, want) {
		t.Errorf("written and read back: %+v, %v\n%s", again, err, got.TOML())
	}
}

// Every mistake names its line and, where something is close, the nearest known word.
func TestMistakes(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"\n[[target]]\nuse = \"arm64\"\nquantise = \"q4_0\"\n", `r.toml:4: unknown key "quantise" in [[target]]; did you mean "quantize"?`},
		{"[[target]]\nuse=\"a\"\n[[target]]\nuse=\"b\"\nmehtod=\"rtn\"", `r.toml:5: unknown key "mehtod" in [[target]]; did you mean "method"?`},
		{"[gates]\nkl_mean=1", `r.toml:1: unknown key "gates" at the top level; did you mean "gate"?`},
		{"[gate]\n\nkl_maen = 0.1", `r.toml:3: unknown key "kl_maen" in [gate]; did you mean "kl_mean"?`},
		{"[gate]\ntop1 = 93", `r.toml:2: gate: top1 = 93 is out of range`},
		{"[gate]\ntop1 = \"lots\"", `r.toml:2: top1 in [gate] is not a ratio`},
		{"[gate]\ntop1 = nan", `r.toml:2: top1 in [gate] is not a ratio`},
		{"gate = 3", `r.toml:1: gate must be a table of limits`},
		{"[calibration]\ntokens = \"many\"", `r.toml:2: tokens in [calibration] must be a whole number, not a string`},
		{"[calibration]\ntokens = -1", `r.toml:2: tokens in [calibration] must not be negative`},
		{"[calibration]\ntokens = 99999999999", `must be a whole number`},
		{"[calibration]\ntext = [1]", `r.toml:2: text[0] in [calibration] must be a string, not a number`},
		{"[source]\nmodel = 2020-01-01", `model in [source] must be a string, not a date`},
		{"[[pass]]\nuse = \"prune.wnada\"", `r.toml:2: use in [[pass]] cannot be "prune.wnada"; choose lora.merge, prune.channels, prune.depth, prune.magnitude, prune.sparsegpt, prune.wanda, prune.width; did you mean "prune.wanda"?`},
		{"[[pass]]\nsparsity = 0.5", `r.toml:1: [[pass]] needs use`},
		{"[target]\nuse = \"arm64\"", `r.toml:1: [target] is a list of tables: write [[target]]`},
		{"[[pass]]\nuse='prune.wanda'\nschedule=[{match='a',sparsity=0.1},\n{mtach='b',sparsity=0.1}]", `r.toml:4: unknown key "mtach" in [[pass]]`},
		{"x = ", `r.toml:1: not TOML`},
		{"[source]\nmodel = \"a\"\nmodel = \"b\"", `r.toml:3: not TOML`},
		{strings.Repeat("#", maxFile+1), "is not a recipe"},
	} {
		_, err := Parse("r.toml", []byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, fault.ErrMisuse) {
			t.Errorf("%.60q\n got  %v\n want %s", c.text, err, c.want)
		}
	}
	_, err := Parse("r.toml", []byte("[source]\nmodle=1\n[verify]\nchunk=1"))
	if err == nil || strings.Count(err.Error(), "unknown key") != 2 {
		t.Errorf("both mistakes should be reported: %v", err)
	}
}

func TestLoadRebases(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "r.toml")
	if err := os.WriteFile(path, []byte(full), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Load(path)
	if err != nil || r.Source.Model != filepath.Join(dir, "models", "books-6m") || r.Source.Adapters[1] != (Adapter{filepath.Join(dir, "b"), 0.25}) {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := Load(filepath.Join(dir, "none.toml")); !errors.Is(err, fault.ErrMisuse) {
		t.Errorf("absent file: %v", err)
	}
}

func TestAdapterSpelling(t *testing.T) {
	for in, want := range map[string]Adapter{
		"a": {"a", 1}, "a:0.5": {"a", 0.5}, "a:b": {"a:b", 1}, `C:\x`: {`C:\x`, 1}, "a:3:1": {"a:3", 1}, "a:-1": {"a", -1},
	} {
		got, err := ParseAdapter(in)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
		if again, _ := ParseAdapter(got.String()); again != want {
			t.Errorf("%q written as %q reads %+v", in, got.String(), again)
		}
	}
	for _, in := range []string{"", "a:NaN", "a:Inf"} {
		if got, err := ParseAdapter(in); err == nil {
			t.Errorf("%q: accepted as %+v", in, got)
		}
	}
}

func TestGateFlag(t *testing.T) {
	g := Gate{}
	if err := g.Set("perplexity_increase = 4%"); err != nil || g["perplexity_increase"] != 0.04 {
		t.Errorf("%v, %v", g, err)
	}
	for _, s := range []string{"kl_mean", "kl=1", "kl_mean=x", "=1"} {
		if err := g.Set(s); !errors.Is(err, fault.ErrMisuse) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// The schema knows every key that the decoder knows, and no other.
func TestSchemaKeys(t *testing.T) {
	s := JSONSchema()
	props := s["properties"].(map[string]any)
	for _, k := range []string{"source", "calibration", "pass", "target", "verify", "bench", "gate", "preprocess", "distill"} {
		p, ok := props[k].(map[string]any)
		if !ok || p["description"] == "" {
			t.Errorf("schema lacks %s", k)
		}
	}
	if len(props) != 9 {
		t.Errorf("%d properties", len(props))
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte("a.b.c = {d=[[1,{e='''x'''}]]}\n[x.y]\n\"k\\\"\"=1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse("f", b)
		if err != nil {
			return // refusing is fine
		}
		again, err := Parse("again", r.TOML())
		if err != nil {
			t.Fatalf("own spelling refused: %v\n%s", err, r.TOML())
		}
		if !reflect.DeepEqual(again.TOML(), r.TOML()) {
			t.Fatalf("not stable:\n%s\n%s", r.TOML(), again.TOML())
		}
	})
}
