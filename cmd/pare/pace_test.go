package main

import "testing"

// A first token comes with the prompt: without a second one there is no pace of generating.
func TestPace(t *testing.T) {
	for _, c := range []struct {
		tokens int
		want   string
	}{
		{0, "8 tokens in 2.0 s (4 tok/s)"},
		{1, "8 tokens in 2.0 s (4 tok/s)"},
		{11, "8 tokens in 2.0 s (4 tok/s), then 11 tokens at 20 tok/s"},
	} {
		g := generation{PromptTokens: make([]int32, 8), Tokens: make([]int32, c.tokens), PrefillS: 2, DecodeS: 0.5}
		if got := pace(&g); got != c.want {
			t.Errorf("%d tokens: %q, want %q", c.tokens, got, c.want)
		}
	}
}
