package lora_test

import (
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/lora"
)

// catalogue is a model with the given names, each [4,3].
func catalogue(t *testing.T, names ...string) *ir.Model {
	t.Helper()
	m := &ir.Model{Path: "base"}
	for _, n := range names {
		if err := m.Add(&ir.Tensor{Name: n, Block: -1, Shape: []int{4, 3}, Type: storage.F32, Data: wide{cols: 3, peak: new(atomic.Int64)}}); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// Adapters name modules as the model class does, files as the model that was saved: wrappers more or
// less on either side, adapter names inside the tensor names.
func TestNames(t *testing.T) {
	const config = `{"peft_type":"LORA","r":2}`
	for _, c := range []struct {
		a, b string // names in the adapter file
		base []string
		want string // the tensor that changes, or what the error says
	}{
		{"base_model.model.transformer.h.0.q.lora_A.weight", "base_model.model.transformer.h.0.q.lora_B.weight", []string{"h.0.q.weight", "h.1.q.weight"}, "h.0.q.weight"},
		{"base_model.model.model.layers.1.q.lora_A.weight", "base_model.model.model.layers.1.q.lora_B.weight", []string{"language_model.model.layers.1.q.weight", "other.weight"}, "language_model.model.layers.1.q.weight"},
		{"base_model.model.model.layers.1.q.lora_A.default.weight", "base_model.model.model.layers.1.q.lora_B.default.weight", []string{"model.layers.1.q.weight"}, "model.layers.1.q.weight"},
		{"model.layers.1.q.lora_A.weight", "model.layers.1.q.lora_B.weight", []string{"model.layers.1.q.weight"}, "model.layers.1.q.weight"},
		{"base_model.model.layers.1.q.lora_A.weight", "base_model.model.layers.1.q.lora_B.weight", []string{"text.layers.1.q.weight", "vision.layers.1.q.weight"}, "both"},
		{"base_model.model.layers.1.q.lora_A.weight", "base_model.model.layers.1.q.lora_B.weight", []string{"1.q.weight", "q.weight"}, lora.ErrNoMatch.Error()},
		{"base_model.model.layers.1.q.lora_C.weight", "base_model.model.layers.1.q.lora_B.weight", []string{"layers.1.q.weight"}, lora.ErrUnsupported.Error()},
	} {
		dir := t.TempDir()
		writeAdapter(t, dir, config, shape{c.a, []int{2, 3}}, shape{c.b, []int{4, 2}})
		m := catalogue(t, c.base...)
		a, err := lora.Open(t.Context(), dir)
		if err == nil {
			var plan *ir.Plan
			plan, err = lora.New([]lora.Weighted{{Adapter: a, Weight: 1}}, lora.Options{}).Plan(t.Context(), m)
			for _, s := range steps(plan) {
				if s.Change && s.Tensor != c.want {
					t.Errorf("%s changes %s, want %s", c.a, s.Tensor, c.want)
				}
			}
			if e := a.Close(); e != nil {
				t.Error(e)
			}
		}
		if (err == nil) != strings.HasSuffix(c.want, ".weight") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.a, err, c.want)
		}
	}
}

func steps(p *ir.Plan) []ir.Step {
	if p == nil {
		return nil
	}
	return p.Steps
}

// A resized vocabulary is refused with what to do about it.
func TestResizedVocabulary(t *testing.T) {
	dir := t.TempDir()
	writeAdapter(t, dir, `{"peft_type":"LORA","modules_to_save":["lm_head"]}`, shape{"base_model.model.lm_head.weight", []int{99, 48}})
	err := merge(t.Context(), open(t, filepath.Join(adapters, "base-llama")), dir, lora.Options{})
	if !errors.Is(err, lora.ErrShape) || !strings.Contains(err.Error(), "99 rows") {
		t.Errorf("got %v", err)
	}
}
