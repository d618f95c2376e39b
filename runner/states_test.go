package runner_test

import (
	"context"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pare-dev/pare/runner"
)

// States of a text, turned into logits afterwards, are the logits that Append hands over, wherever the
// text is cut and though the last block leaves out the tokens that nobody asked for; and what those
// tokens leave behind for later ones is the same.
func TestStates(t *testing.T) {
	ctx := context.Background()
	for _, name := range []string{"llama", "mistral", "qwen2", "qwen3"} {
		dir := filepath.Join(architectures, name)
		ids, _ := tokensOf(t, filepath.Join(dir, "reference.safetensors"), "input_ids")
		ids = ids[:48]
		m := open(t, dir)
		hidden := m.Decoder.Hidden
		want := logitsOf(t, load(t, m, runner.Options{}), ids)
		for _, c := range []struct{ batch, first, from int }{
			{512, 0, 0}, {512, 0, 20}, {16, 0, 20}, {16, 0, 32}, {512, 30, 0}, {16, 20, 5}, {512, 40, 6},
		} {
			r := load(t, m, runner.Options{Batch: c.batch})
			s := r.NewSession()
			if err := s.States(ctx, ids[:c.first], c.first, nil); err != nil {
				t.Fatal(err)
			}
			text := ids[c.first:]
			seen := 0 // rows of the last block
			s.OnBlock = func(block int, x []float32, rows, cols int) {
				if len(x) != rows*cols || cols != hidden {
					t.Errorf("%s: %d numbers for %d x %d", name, len(x), rows, cols)
				}
				if block == m.Decoder.Layers-1 {
					seen += rows
				}
			}
			states := make([]float32, (len(text)-c.from)*hidden)
			if err := s.States(ctx, text, c.from, states); err != nil {
				t.Fatal(err)
			}
			if n := len(text) - c.from; seen != n {
				t.Errorf("%s %+v: the last block was seen for %d tokens, %d were asked for", name, c, seen, n)
			}
			var got []float32
			for part := range slices.Chunk(states, 8*hidden) {
				rows, err := r.Logits(ctx, part)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, rows...)
			}
			if tail := want[(c.first+c.from)*r.Vocab():]; !slices.Equal(got, tail) {
				t.Errorf("%s %+v: logits are %g of the spread away from Append's", name, c, worst(got, tail))
			}
		}
		r := load(t, m, runner.Options{})
		var last []float32
		if err := r.NewSession().Append(ctx, ids, runner.WantLast, func(_ int, x []float32) error {
			last = slices.Clone(x)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		// a single row takes other kernels than many
		if w := worst(last, want[len(want)-r.Vocab():]); !(w <= 1e-5) {
			t.Errorf("%s: the last row alone is %g of the spread away from the last of many", name, w)
		}
		if r.NewSession().States(ctx, ids, 0, make([]float32, 3)) == nil {
			t.Errorf("%s: states of %d tokens fit in three numbers", name, len(ids))
		}
		if _, err := r.Logits(ctx, make([]float32, hidden+1)); err == nil {
			t.Errorf("%s: half a row of states has logits", name)
		}
	}
}
