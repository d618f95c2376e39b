package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

// sentenceTokens is how many tokens the sentences have that an encoder is timed with, markers included.
const sentenceTokens = 64

// miniLM is a published text encoder, all-MiniLM-L6-v2, as pare writes it: both sides run the same file. Its sentences are put
// together from those of the interop tests, whose tokens are kept there.
func miniLM(b *bench, n network) (path string, list []ir.Sample, err error) {
	if b.tools.MiniLM.Why != "" {
		return "", nil, errors.New(b.tools.MiniLM.Why)
	}
	path = filepath.Join(b.cache, "graphs", "minilm.onnx")
	if _, err := os.Stat(path); err != nil {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // a cache like any other
			return "", nil, err
		}
		if err := spoken(exec.CommandContext(b.ctx, b.pare, "convert", b.tools.MiniLM.Library, "-o", path, "-q")); err != nil {
			return "", nil, err
		}
	}
	raw, err := os.ReadFile(filepath.Join("internal", "interop", "minilm.json"))
	if err != nil {
		return "", nil, err
	}
	var texts []struct{ Tokens []int64 }
	if err := json.Unmarshal(raw, &texts); err != nil {
		return "", nil, fmt.Errorf("minilm.json: %w", err)
	}
	list, err = sentences(n.most, texts)
	return path, list, err
}

// sentences joins texts, each of which begins and ends with a marker, in turns until they are long enough; sample i begins
// with text i, and with its word i after that.
func sentences(n int, texts []struct{ Tokens []int64 }) (list []ir.Sample, err error) {
	for _, t := range texts {
		if len(t.Tokens) < 3 {
			return nil, fmt.Errorf("a text of %d tokens", len(t.Tokens))
		}
	}
	if len(texts) == 0 {
		return nil, errors.New("no texts")
	}
	for i := range n {
		first := texts[0].Tokens
		ids := []int64{first[0]}
		for k := i; len(ids) < sentenceTokens-1; k++ {
			words := texts[k%len(texts)].Tokens
			words = words[1 : len(words)-1]
			if k == i {
				words = words[i/len(texts)%len(words):]
			}
			ids = append(ids, words...)
		}
		ids = append(ids[:sentenceTokens-1], first[len(first)-1])
		ones, zeros := make([]int64, sentenceTokens), make([]int64, sentenceTokens)
		for k := range ones {
			ones[k] = 1
		}
		row := func(x []int64) *graph.Tensor { return graph.From(graph.Int64, x, 1, sentenceTokens) }
		list = append(list, ir.Sample{"input_ids": row(ids), "attention_mask": row(ones), "token_type_ids": row(zeros)})
	}
	return list, nil
}
