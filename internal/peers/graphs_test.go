package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/npy"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

// Both sides have the same samples: the first and the last of every network are in the peer's files as they are in
// memory, and pare runs on them.
func TestFeed(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	for _, n := range networks {
		if n.name == "YuNet 640" || n.fetched != nil {
			continue // the same as 320, four times as slow; not of the repository
		}
		b := &bench{ctx: context.Background(), cache: t.TempDir()}
		f, err := b.feed(n)
		if err != nil {
			t.Fatalf("%s: %v", n.name, err)
		}
		if len(f.samples) != n.most {
			t.Errorf("%s: %d samples, want %d", n.name, len(f.samples), n.most)
		}
		index, err := os.ReadFile(filepath.Join(f.folder, "index"))
		if err != nil || strings.Count(string(index), "\n") != len(f.inputs) {
			t.Fatalf("%s: %q, %v", n.name, index, err)
		}
		for line := range strings.Lines(string(index)) {
			file, name, _ := strings.Cut(strings.TrimSpace(line), " ")
			a, err := npy.Open(filepath.Join(f.folder, file))
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range []int{0, len(f.samples) - 1} {
				row, err := a.Rows(i, i+1)
				if want := f.samples[i][name].Data; err != nil || string(row) != string(want) {
					t.Errorf("%s: sample %d of %s differs (%v)", n.name, i, name, err)
				}
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		}
		r, err := f.open(b.ctx, f.path, nil)
		if err == nil {
			err = r.run(b.ctx)
		}
		if err != nil {
			t.Errorf("%s: %v", n.name, err)
		}
		r.close()
	}
}

// A picture of two rows moves to the side by 16 columns, each row in itself.
func TestRolled(t *testing.T) {
	x := graph.New(graph.Float32, 1, 2, 20)
	for i := range graph.Of[float32](x) {
		graph.Of[float32](x)[i] = float32(i)
	}
	y := graph.Of[float32](rolled(ir.Sample{"x": x}, 1)["x"])
	if y[0] != 16 || y[3] != 19 || y[4] != 0 || y[20] != 36 || y[24] != 20 {
		t.Errorf("%v", y)
	}
}

// Sentences have one length and one marker at each end, and no two are the same.
func TestSentences(t *testing.T) {
	texts := []struct{ Tokens []int64 }{{[]int64{101, 1, 2, 3, 4, 5, 102}}, {[]int64{101, 6, 7, 8, 102}}}
	list, err := sentences(6, texts)
	if err != nil || len(list) != 6 {
		t.Fatal(len(list), err)
	}
	seen := map[string]bool{}
	for i, s := range list {
		ids := graph.Of[int64](s["input_ids"])
		if len(ids) != sentenceTokens || ids[0] != 101 || ids[sentenceTokens-1] != 102 || slices.Contains(ids[1:sentenceTokens-1], 101) || slices.Contains(ids[:sentenceTokens-1], 102) {
			t.Errorf("sentence %d: %v", i, ids)
		}
		seen[string(s["input_ids"].Data)] = true
	}
	if len(seen) != len(list) {
		t.Errorf("%d of %d sentences differ", len(seen), len(list))
	}
	if _, err := sentences(1, nil); err == nil {
		t.Error("no texts make sentences")
	}
}
