package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/internal/corpus"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/targets/recipe"
)

// orderFlags say which parts of calibration texts are taken, and how they fill sequences.
type orderFlags struct {
	shuffle, unpacked bool
}

func (fl *orderFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&fl.shuffle, "shuffle", false, "take calibration documents, and stretches of long ones, in an order that --seed gives, not from the beginning")
	f.BoolVar(&fl.unpacked, "unpacked", false, "begin a sequence with every calibration document, in place of packing them one behind the other")
}

// apply puts the choices into a recipe.
func (fl *orderFlags) apply(c *recipe.Calibration) {
	c.Shuffle, c.Unpacked = c.Shuffle || fl.shuffle, c.Unpacked || fl.unpacked
}

// vocabulary is the number of tokens that a model knows.
func vocabulary(m *ir.Model, tok *tokenizer.Tokenizer) int {
	if m.Decoder != nil {
		return m.Decoder.Vocab
	}
	return tok.VocabSize()
}

// startToken is the token that begins a sequence, -1 for none.
func startToken(s *tokenizer.Spec) int32 {
	if s == nil || !s.AddBOS {
		return -1
	}
	return int32(s.BOS) //nolint:gosec // a token id
}

// readTokens reads the files of --text as a model's tokens.
func readTokens(ctx context.Context, m *ir.Model, path string, tok *tokenizer.Tokenizer, files []string, given *corpus.Text) (*corpus.Tokens, error) {
	t, err := corpus.Read(ctx, files, given, corpus.Options{Tokenizer: tok, Vocab: vocabulary(m, tok)})
	return t, inFile(path, err)
}
