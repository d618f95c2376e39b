package samples

import (
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/targets/recipe"
)

// A file becomes the numbers that the publisher of magika makes of it.
func TestBytesOfFiles(t *testing.T) {
	f, err := os.Open("../../testdata/graphs/magika/features_extraction_examples.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var examples []struct {
		Args struct {
			Beg     int `json:"beg_size"`
			End     int `json:"end_size"`
			Mid     int `json:"mid_size"`
			Block   int `json:"block_size"`
			Padding int `json:"padding_token"`
		} `json:"args"`
		Content  string `json:"content_base64"`
		Features struct{ Beg, End []int64 }
	}
	if err := json.NewDecoder(z).Decode(&examples); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range examples {
		a := e.Args
		if a.Mid != 0 || a.Beg == 0 || a.End == 0 {
			continue
		}
		content, err := base64.StdEncoding.DecodeString(e.Content)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		how := recipe.Preprocess{Begin: a.Beg, End: a.End, Block: a.Block, Strip: true, Padding: a.Padding}
		v := &graph.Value{Name: "bytes", Type: graph.Int32, Shape: &graph.Shape{{Size: -1, Name: "n"}, {Size: a.Beg + a.End}}}
		s, err := Open([]*graph.Value{v}, []Given{{Values: []string{path}}}, Options{Preprocess: recipe.Inputs{"bytes": how}})
		if err != nil {
			t.Fatal(err)
		}
		x, err := s.Sample(context.Background(), 0)
		if err != nil {
			t.Fatal(err)
		}
		got, err := x["bytes"].Ints()
		if want := append(e.Features.Beg, e.Features.End...); err != nil || !slices.Equal(got, want) {
			t.Errorf("file of %d bytes: %v", len(content), err)
		}
		n++
	}
	if n < 5 {
		t.Errorf("only %d examples", n)
	}
}

// What a shape takes of an array, and what counts samples.
func TestArrays(t *testing.T) {
	for _, c := range []struct {
		input, array []int
		split        bool
		samples      int // 0: refused
		shape        []int
	}{
		{[]int{1, 1, 2, 3}, []int{2, 3}, false, 1, []int{1, 1, 2, 3}},
		{[]int{1, 2, 3}, []int{5, 2, 3}, false, 5, []int{1, 2, 3}},
		{[]int{1, 2, 3}, []int{5, 1, 2, 3}, false, 5, []int{1, 2, 3}},
		{[]int{-1, 3}, []int{4, 3}, false, 1, []int{4, 3}},
		{[]int{-1, 3}, []int{4, 3}, true, 4, []int{1, 3}},
		{[]int{-1, 3}, []int{3}, true, 1, []int{1, 3}},
		{[]int{2, 3}, []int{4, 3}, true, 0, nil},
		{[]int{2, 3}, []int{3, 2}, false, 0, nil},
	} {
		in := &input{v: &graph.Value{Name: "x", Type: graph.Float32}, shape: c.input, at: -1}
		path := write(t, c.array)
		x, err := in.array(path, c.split)
		if c.samples == 0 {
			if err == nil {
				t.Errorf("%v takes %v", c.input, c.array)
			}
			continue
		}
		if err != nil || x.n != c.samples {
			t.Errorf("%v of %v: %d samples, want %d, %v", c.input, c.array, x.n, c.samples, err)
			continue
		}
		l, err := x.open()
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.read(x.n - 1)
		if err != nil || !slices.Equal(got.Shape, c.shape) {
			t.Errorf("%v of %v: shape %v, want %v, %v", c.input, c.array, got.Shape, c.shape, err)
		}
		values := graph.Of[float32](got)
		if last := graph.Elems(c.array) - 1; values[len(values)-1] != float32(last) {
			t.Errorf("%v of %v: the last value is %v, want %d", c.input, c.array, values[len(values)-1], last)
		}
		_ = l.Close()
	}
}
