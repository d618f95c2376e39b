package formats

import (
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/ir"
)

// readTokenizer finds the tokenizer among the side files. A model whose tokenizer is not
// understood can still be inspected and converted, so what is wrong becomes a problem.
func readTokenizer(m *ir.Model) {
	var s *tokenizer.Spec
	var err error
	generation := m.Assets["generation_config.json"]
	if generation == nil {
		generation = m.Assets["config.json"]
	}
	switch {
	case m.Assets["tokenizer.json"] != nil:
		s, err = tokenizer.FromTokenizerJSON(m.Assets["tokenizer.json"], m.Assets["tokenizer_config.json"], generation, m.Assets["special_tokens_map.json"])
	case m.Assets["tokenizer.model"] != nil:
		if s, err = tokenizer.FromSentencePiece(m.Assets["tokenizer.model"]); err == nil {
			err = s.ApplyConfigs(tokenizer.Configs{
				Tokenizer: m.Assets["tokenizer_config.json"], Generation: generation,
				Special: m.Assets["special_tokens_map.json"], Added: m.Assets["added_tokens.json"],
			})
		}
	case m.Assets["vocab.txt"] != nil:
		s, err = tokenizer.FromVocab(m.Assets["vocab.txt"], m.Assets["tokenizer_config.json"], m.Assets["special_tokens_map.json"])
	default:
		return
	}
	if err != nil {
		mute(m, err)
		return
	}
	if t := m.Assets["chat_template.jinja"]; t != nil && s.ChatTemplate == "" {
		s.ChatTemplate = string(t)
	}
	m.Tokenizer = s
}
