package tokenizer

import (
	"fmt"
	"slices"
	"strings"
)

// GGUF spells WordPiece the other way about: "▁in" begins a word and "ing" continues one.

// piecesForGGUF adds the tokens of WordPiece and Unigram.
func (s *Spec) piecesForGGUF(add func(key string, value any), types []int32) error {
	if s.Model == Unigram {
		if s.ByteFallback {
			return fmt.Errorf("%w: llama.cpp has no byte tokens in Unigram", ErrInexact)
		}
		add("model", "t5")
		add("pre", "default")
		add("tokens", slices.Clone(s.Tokens))
		add("scores", slices.Clone(s.Scores))
		add("token_type", types)
		add("remove_extra_whitespaces", s.TrimSpaces)
		if len(s.Charsmap) > 0 {
			add("precompiled_charsmap", slices.Clone(s.Charsmap))
		}
		return nil
	}
	w := s.Words
	if !w.Clean || !w.CJK {
		return fmt.Errorf("%w: llama.cpp's WordPiece drops control characters and takes every ideograph for a word", ErrInexact)
	}
	if s.AddBOS != s.AddEOS && s.BOS >= 0 {
		return fmt.Errorf("%w: llama.cpp's WordPiece has a start and an end token", ErrInexact)
	}
	tokens := make([]string, len(s.Tokens))
	seen := make(map[string]int, len(tokens))
	for i, tok := range s.Tokens {
		rest, inside := strings.CutPrefix(tok, w.Continues)
		switch {
		case s.Types[i] == Control || s.Types[i] == Unused && tok == padName(i):
			tokens[i] = tok
		case inside && rest != "":
			tokens[i] = rest
		default:
			tokens[i] = underscore + tok
		}
		if j, dup := seen[tokens[i]]; dup {
			return fmt.Errorf("%w: GGUF spells tokens %q and %q alike", ErrInexact, s.Tokens[j], tok)
		}
		seen[tokens[i]] = i
	}
	add("model", "bert")
	add("pre", "default")
	add("tokens", tokens)
	add("token_type", types)
	add("normalizer.lowercase", w.Lower)
	add("normalizer.strip_accents", w.StripAccents)
	return nil
}

// readBert takes what a file of llama.cpp's WordPiece does not say as llama.cpp does.
func (s *Spec) readBert(g *reader) {
	s.Words = bertWords()
	s.Words.MaxWord = maxText // there is no limit
	s.BOS, s.UNK, s.SEP, s.PAD, s.MASK = 101, 100, 102, 0, 103
	s.AddBOS, s.AddEOS, s.CleanSpaces = true, true, true
	g.flag(prefixGGUF+"normalizer.lowercase", &s.Words.Lower)
	s.Words.StripAccents = s.Words.Lower
	g.flag(prefixGGUF+"normalizer.strip_accents", &s.Words.StripAccents)
}

// wordsOfGGUF spells the tokens as vocab.txt does.
func (s *Spec) wordsOfGGUF() {
	for i, tok := range s.Tokens {
		if t := s.Types[i]; t == Control || t == Unknown || t == Unused && tok == padName(i) {
			continue
		}
		if rest, begins := strings.CutPrefix(tok, underscore); begins {
			s.Tokens[i] = rest
		} else {
			s.Tokens[i] = s.Words.Continues + tok
		}
	}
}

// readT5 is readBert for llama.cpp's Unigram.
func (s *Spec) readT5(g *reader) {
	s.EOS, s.UNK, s.PAD = 1, 2, 0
	s.AddEOS, s.FuseUnknown, s.Prefix = true, true, PrefixAlways
	g.flag(prefixGGUF+"remove_extra_whitespaces", &s.TrimSpaces)
	v, ok := g.get(prefixGGUF + "precompiled_charsmap")
	switch x := v.(type) {
	case []uint8:
		s.Charsmap = slices.Clone(x)
	case []int8:
		s.Charsmap = convert(x, func(b int8) byte { return byte(b) }) // #nosec G115 -- the same bits
	default:
		if ok {
			g.fail(prefixGGUF+"precompiled_charsmap", v)
		}
	}
}

// pairOfGGUF puts two texts together as models of the family do; GGUF does not say how.
func (s *Spec) pairOfGGUF() {
	switch {
	case s.Model == WordPiece && s.AddBOS && s.AddEOS:
		s.Pair = []Part{{s.BOS, 0}, {TextA, 0}, {s.EOS, 0}, {TextB, 1}, {s.EOS, 1}}
	case s.Model != WordPiece && s.AddBOS && s.AddEOS && s.SEP >= 0: // RoBERTa
		s.Pair = []Part{{s.BOS, 0}, {TextA, 0}, {s.EOS, 0}, {s.EOS, 0}, {TextB, 0}, {s.EOS, 0}}
	}
}

// piecesNotes is GGUFNotes for WordPiece and Unigram.
func (s *Spec) piecesNotes() (notes []string) {
	switch s.Model {
	case WordPiece:
		if s.Words.MaxWord < maxText {
			notes = append(notes, fmt.Sprintf("words of more than %d characters are unknown to the original; llama.cpp cuts them up", s.Words.MaxWord))
		}
		if s.Words.StripAccents {
			notes = append(notes, "where the original strips accents, llama.cpp keeps the first letter of what a character is made of: Hangul and Indic text comes out differently")
		}
	case Unigram:
		if s.KeepEnd || s.AnySpace && len(s.Charsmap) == 0 {
			notes = append(notes, "the original drops some white space; llama.cpp drops extra spaces everywhere or nowhere")
		}
	}
	return notes
}
