package synth

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/runner"
)

var tiny = Shape{Embed: 64, Layers: 2, FF: 96, Heads: 4, KVHeads: 2, Vocab: 700, Context: 64}

func synthesize(t *testing.T, typ storage.Type, seed uint64, threads int) (string, []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m.gguf")
	if err := Write(context.Background(), path, tiny, typ, seed, threads); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, b
}

// The published first outputs of SplitMix64 from the state 1234567.
func TestMix(t *testing.T) {
	state := uint64(1234567)
	for i, want := range []uint64{6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821} {
		state += 0x9e3779b97f4a7c15
		if got := mix(state); got != want {
			t.Errorf("output %d is %d, want %d", i, got, want)
		}
	}
}

func TestSameBytes(t *testing.T) {
	_, one := synthesize(t, storage.F16, 1, 1)
	if _, two := synthesize(t, storage.F16, 1, 2); !bytes.Equal(one, two) {
		t.Error("two threads write another file than one")
	}
	if _, other := synthesize(t, storage.F16, 2, 1); bytes.Equal(one, other) {
		t.Error("the seed does not matter")
	}
}

// A file opens, runs, and takes any text; the weights are what the package says.
func TestModel(t *testing.T) {
	for _, typ := range []storage.Type{storage.F32, storage.F16, storage.BF16} {
		t.Run(string(typ), func(t *testing.T) {
			ctx := context.Background()
			path, _ := synthesize(t, typ, 1, 2)
			m, err := formats.Open(ctx, path)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			r, err := runner.Load(ctx, m, runner.Options{Threads: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			tok, err := r.Tokenizer()
			if err != nil {
				t.Fatal(err)
			}
			const text = "the cat, Ünïted: 汉字\n42"
			ids, err := tok.Encode(text, tokenizer.EncodeOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got := tok.Decode(ids, tokenizer.DecodeOptions{SkipSpecial: true}); got != text {
				t.Errorf("the text came back as %q", got)
			}
			if n := len([]rune(text)); len(ids) > n+8 { // words are found, foreign letters are bytes
				t.Errorf("%d tokens for %d letters", len(ids), n)
			}
			err = r.NewSession().Append(ctx, ids, runner.WantLast, func(_ int, logits []float32) error {
				var sum, squares float64
				for _, v := range logits {
					sum, squares = sum+float64(v), squares+float64(v)*float64(v)
				}
				// a unit vector of 64 numbers times weights of deviation 0.02: 0.16, by 700 samples
				if d := math.Sqrt(squares / float64(len(logits))); d < 0.12 || d > 0.2 {
					t.Errorf("logits have the deviation %g around 0", d)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A hundred thousand draws have the moments of the normal distribution: 0, 1, 0, 3 within five standard
// errors, which are sqrt(1/n), sqrt(1/2n), sqrt(6/n) and sqrt(24/n).
func TestNormal(t *testing.T) {
	tab, err := newTable(storage.F32, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	const n = 100_000
	b := make([]byte, 4*n)
	tab.fill(b, keyOf(1, "x"), 0)
	var m [4]float64
	for i := range n {
		v := float64(math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])))
		for p := range m {
			m[p] += math.Pow(v, float64(p+1)) / n
		}
	}
	for p, c := range []struct{ want, err float64 }{{0, 1}, {1, 2}, {0, 15}, {3, 96}} {
		if limit := 5 * math.Sqrt(c.err/n); math.Abs(m[p]-c.want) > limit {
			t.Errorf("moment %d is %g, want %g within %g", p+1, m[p], c.want, limit)
		}
	}
	// reading from the middle gives the same numbers
	part := make([]byte, 4*1000)
	tab.fill(part, keyOf(1, "x"), 5000)
	if !bytes.Equal(part, b[4*5000:4*6000]) {
		t.Error("the numbers depend on where reading starts")
	}
}

func TestVocabulary(t *testing.T) {
	pieces, scores, kinds := vocabulary(Llama1B.Vocab)
	if len(pieces) != Llama1B.Vocab || len(scores) != len(pieces) || len(kinds) != len(pieces) {
		t.Fatalf("%d pieces, %d scores, %d kinds", len(pieces), len(scores), len(kinds))
	}
	seen := map[string]bool{}
	for _, p := range pieces {
		if seen[p] {
			t.Errorf("%q stands twice", p)
		}
		seen[p] = true
	}
	if most, _, _ := vocabulary(1 << 20); len(most) != mostTokens {
		t.Errorf("there are %d tokens, mostTokens is %d", len(most), mostTokens)
	}
	if n := Llama1B.Params(); n != 1100048384 { // TinyLlama's count
		t.Errorf("%d weights", n)
	}
}

func TestRefusals(t *testing.T) {
	for name, change := range map[string]func(*Shape){
		"vocabulary too small": func(s *Shape) { s.Vocab = 100 },
		"vocabulary too large": func(s *Shape) { s.Vocab = 1 << 20 },
		"heads":                func(s *Shape) { s.Heads = 5 },
		"no layers":            func(s *Shape) { s.Layers = 0 },
	} {
		s := tiny
		change(&s)
		path := filepath.Join(t.TempDir(), "m.gguf")
		if err := Write(context.Background(), path, s, storage.F16, 1, 1); err == nil {
			t.Errorf("%s: written", name)
		}
		if left, _ := os.ReadDir(filepath.Dir(path)); len(left) > 0 {
			t.Errorf("%s: %v is left behind", name, left)
		}
	}
}
