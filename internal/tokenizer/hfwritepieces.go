package tokenizer

import "encoding/base64"

// How WordPiece and Unigram tokenizers are written as tokenizer.json.

func (s *Spec) piecesNormalizer() []object {
	if w := s.Words; w != nil {
		return []object{typed("BertNormalizer", member{"clean_text", w.Clean}, member{"handle_chinese_chars", w.CJK},
			member{"strip_accents", w.StripAccents}, member{"lowercase", w.Lower})}
	}
	var steps []object
	if len(s.Charsmap) > 0 {
		steps = append(steps, typed("Precompiled", member{"precompiled_charsmap", base64.StdEncoding.EncodeToString(s.Charsmap)}))
	}
	if s.Normalize != "" {
		steps = append(steps, typed(s.Normalize))
	}
	if s.TrimSpaces && !s.AnySpace {
		if !s.KeepEnd {
			steps = append(steps, typed("Strip", member{"strip_left", false}, member{"strip_right", true}))
		}
		steps = append(steps, typed("Replace", member{"pattern", object{{"Regex", " {2,}"}}}, member{"content", blank}))
	}
	return steps
}

func (s *Spec) piecesPre() []object {
	if s.Words != nil {
		return []object{typed("BertPreTokenizer")}
	}
	if s.AnySpace {
		return []object{typed("WhitespaceSplit"), s.metaspace()}
	}
	return []object{s.metaspace()}
}

func (s *Spec) metaspace() object {
	scheme := map[SpacePrefix]string{PrefixNone: "never", PrefixFirst: "first"}[s.Prefix]
	if scheme == "" {
		scheme = "always"
	}
	return typed("Metaspace", member{"replacement", underscore}, member{"prepend_scheme", scheme}, member{"split", s.SplitSpaces})
}

func (s *Spec) unigramJSON() object {
	vocab := make([][2]any, len(s.Tokens))
	for i, tok := range s.Tokens {
		vocab[i] = [2]any{tok, s.Scores[i]}
	}
	var unk any
	if s.UNK >= 0 {
		unk = s.UNK
	}
	return typed("Unigram", member{"unk_id", unk}, member{"vocab", vocab}, member{"byte_fallback", s.ByteFallback})
}
