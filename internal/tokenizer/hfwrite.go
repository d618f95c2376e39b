package tokenizer

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// TokenizerJSON writes s as the tokenizer.json and tokenizer_config.json of a Hugging Face folder.
// It refuses, with ErrInexact, scores that no merge list can say. Padding tokens at the end are
// left out; the rows of the embedding matrix say how many there are.
func (s *Spec) TokenizerJSON() (tokenizerJSON, tokenizerConfig []byte, err error) {
	if err := s.Check(); err != nil {
		return nil, nil, err
	}
	if s.TrimSpaces && s.Model == SPM {
		return nil, nil, fmt.Errorf("%w: tokenizer.json has no step that drops extra spaces as SentencePiece does", ErrInexact)
	}
	merges := s.Merges
	if merges == nil && s.Model == SPM {
		if merges, err = s.mergesOfScores(); err != nil {
			return nil, nil, err
		}
	}
	file := object{
		{"version", "1.0"},
		{"truncation", nil},
		{"padding", nil},
		{"added_tokens", s.addedJSON()},
		{"normalizer", sequence("normalizers", s.normalizerJSON())},
		{"pre_tokenizer", sequence("pretokenizers", s.preJSON())},
		{"post_processor", s.postJSON()},
		{"decoder", s.decoderJSON()},
		{"model", s.modelJSON(merges)},
	}
	if tokenizerJSON, err = encodeJSON(file); err != nil {
		return nil, nil, err
	}
	config := object{{"tokenizer_class", "PreTrainedTokenizerFast"}}
	for _, sp := range s.specials() {
		if sp.config != "" && *sp.at >= 0 {
			config = append(config, member{sp.config, s.Tokens[*sp.at]})
		}
	}
	config = append(config, member{"add_bos_token", s.AddBOS}, member{"add_eos_token", s.AddEOS},
		member{"clean_up_tokenization_spaces", s.CleanSpaces})
	if s.MaxLength > 0 {
		config = append(config, member{"model_max_length", s.MaxLength})
	}
	if t := s.templatesJSON(); t != nil {
		config = append(config, member{"chat_template", t})
	}
	tokenizerConfig, err = encodeJSON(config)
	return tokenizerJSON, tokenizerConfig, err
}

// object is a JSON object whose members keep their order.
type object []member

type member struct {
	key   string
	value any
}

// MarshalJSON implements json.Marshaler.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		for j, v := range []any{m.key, m.value} {
			if j > 0 {
				b.WriteByte(':')
			}
			raw, err := encodeJSON(v)
			if err != nil {
				return nil, err
			}
			b.Write(bytes.TrimSuffix(raw, []byte("\n")))
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// encodeJSON is json.Marshal that leaves <, > and & readable.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func typed(name string, members ...member) object {
	return append(object{{"type", name}}, members...)
}

// sequence wraps several steps in one.
func sequence(list string, steps []object) any {
	switch len(steps) {
	case 0:
		return nil
	case 1:
		return steps[0]
	}
	return typed("Sequence", member{list, steps})
}

func (s *Spec) addedJSON() []object {
	out := []object{}
	for _, a := range s.Added {
		out = append(out, object{
			{"id", a.ID},
			{"content", a.Content},
			{"single_word", a.SingleWord},
			{"lstrip", a.LStrip},
			{"rstrip", a.RStrip},
			{"normalized", a.Normalized},
			{"special", a.Special},
		})
	}
	return out
}

func (s *Spec) normalizerJSON() []object {
	var steps []object
	if s.Model == WordPiece || s.Model == Unigram {
		return s.piecesNormalizer()
	}
	if s.Normalize != "" {
		steps = append(steps, typed(s.Normalize))
	}
	if s.Model == SPM {
		if s.Prefix == PrefixAlways {
			steps = append(steps, typed("Prepend", member{"prepend", underscore}))
		}
		if s.Prefix == PrefixAlways || s.Prefix == PrefixNone {
			steps = append(steps, typed("Replace", member{"pattern", object{{"String", blank}}}, member{"content", underscore}))
		}
	}
	return steps
}

func (s *Spec) preJSON() []object {
	var steps []object
	if s.Model == WordPiece || s.Model == Unigram {
		return s.piecesPre()
	}
	if s.Model == SPM {
		scheme := map[SpacePrefix]string{PrefixMissing: "always", PrefixFirst: "first"}[s.Prefix]
		if scheme == "" {
			return nil // the normalizer does it
		}
		return []object{typed("Metaspace", member{"replacement", underscore}, member{"prepend_scheme", scheme}, member{"split", false})}
	}
	bytes := typed("ByteLevel", member{"add_prefix_space", s.Prefix != PrefixNone}, member{"trim_offsets", true})
	if len(s.Splits) == 1 && s.Splits[0].Pattern == patternGPT2 {
		return []object{append(bytes, member{"use_regex", true})}
	}
	for _, sp := range s.Splits {
		behavior := "Isolated"
		if sp.Removed {
			behavior = "Removed"
		}
		steps = append(steps, typed("Split", member{"pattern", object{{"Regex", sp.Pattern}}}, member{"behavior", behavior},
			member{"invert", sp.Removed}))
	}
	return append(steps, append(bytes, member{"use_regex", false}))
}

func (s *Spec) postJSON() any {
	if s.Pair != nil {
		return s.templateJSON()
	}
	text := object{{"Sequence", object{{"id", "A"}, {"type_id", 0}}}}
	second := object{{"Sequence", object{{"id", "B"}, {"type_id", 1}}}}
	single, pair := []object{text}, []object{text, second}
	special := object{}
	add := func(id int) object {
		tok := s.Tokens[id]
		if !slices.ContainsFunc(special, func(m member) bool { return m.key == tok }) {
			special = append(special, member{tok, object{{"id", tok}, {"ids", []int{id}}, {"tokens", []string{tok}}}})
		}
		return object{{"SpecialToken", object{{"id", tok}, {"type_id", 0}}}}
	}
	if s.AddBOS {
		bos := add(s.BOS)
		single, pair = append([]object{bos}, single...), append([]object{bos}, pair...)
	}
	if s.AddEOS {
		eos := add(s.EOS)
		single, pair = append(single, eos), append(pair, eos)
	}
	if len(special) == 0 {
		return nil
	}
	return typed("TemplateProcessing", member{"single", single}, member{"pair", pair}, member{"special_tokens", special})
}

// templateJSON is postJSON of a tokenizer that says how two texts are put together.
func (s *Spec) templateJSON() any {
	special := object{}
	list := func(parts []Part) []object {
		out := []object{}
		for _, p := range parts {
			switch p.ID {
			case TextA, TextB:
				out = append(out, object{{"Sequence", object{{"id", map[int]string{TextA: "A", TextB: "B"}[p.ID]}, {"type_id", p.Type}}}})
				continue
			}
			tok := s.Tokens[p.ID]
			if !slices.ContainsFunc(special, func(m member) bool { return m.key == tok }) {
				special = append(special, member{tok, object{{"id", tok}, {"ids", []int{p.ID}}, {"tokens", []string{tok}}}})
			}
			out = append(out, object{{"SpecialToken", object{{"id", tok}, {"type_id", p.Type}}}})
		}
		return out
	}
	single := []Part{{TextA, 0}}
	if s.AddBOS {
		single = append([]Part{{s.BOS, 0}}, single...)
	}
	if s.AddEOS {
		single = append(single, Part{s.EOS, 0})
	}
	one, two := list(single), list(s.Pair)
	return typed("TemplateProcessing", member{"single", one}, member{"pair", two}, member{"special_tokens", special})
}

func (s *Spec) decoderJSON() any {
	switch s.Model {
	case WordPiece:
		return typed("WordPiece", member{"prefix", s.Words.Continues}, member{"cleanup", s.CleanSpaces})
	case Unigram:
		return s.metaspace()
	}
	if s.Model == BPE {
		return typed("ByteLevel", member{"add_prefix_space", true}, member{"trim_offsets", true}, member{"use_regex", true})
	}
	steps := []object{
		typed("Replace", member{"pattern", object{{"String", underscore}}}, member{"content", blank}),
		typed("ByteFallback"), typed("Fuse"),
	}
	if s.Prefix != PrefixNone {
		steps = append(steps, typed("Strip", member{"content", blank}, member{"start", 1}, member{"stop", 0}))
	}
	return sequence("decoders", steps)
}

func (s *Spec) modelJSON(merges [][2]string) object {
	if s.Model == Unigram {
		return s.unigramJSON()
	}
	vocab := make(object, 0, len(s.Tokens))
	for i, tok := range s.Tokens {
		if s.Types[i] != Unused || tok != padName(i) {
			vocab = append(vocab, member{tok, i})
		}
	}
	if s.Model == WordPiece {
		return typed("WordPiece", member{"unk_token", s.Tokens[max(s.UNK, 0)]}, member{"continuing_subword_prefix", s.Words.Continues},
			member{"max_input_chars_per_word", s.Words.MaxWord}, member{"vocab", vocab})
	}
	var unk any
	if s.Model == SPM && s.UNK >= 0 {
		unk = s.Tokens[s.UNK]
	}
	return typed("BPE", member{"dropout", nil}, member{"unk_token", unk}, member{"continuing_subword_prefix", nil},
		member{"end_of_word_suffix", nil}, member{"fuse_unk", s.FuseUnknown}, member{"byte_fallback", s.ByteFallback},
		member{"ignore_merges", s.IgnoreMerges}, member{"vocab", vocab}, member{"merges", merges})
}

func (s *Spec) templatesJSON() any {
	if len(s.NamedTemplates) == 0 {
		if s.ChatTemplate == "" {
			return nil
		}
		return s.ChatTemplate
	}
	var list []object
	if s.ChatTemplate != "" {
		list = append(list, object{{"name", "default"}, {"template", s.ChatTemplate}})
	}
	for _, name := range slices.Sorted(maps.Keys(s.NamedTemplates)) {
		list = append(list, object{{"name", name}, {"template", s.NamedTemplates[name]}})
	}
	return list
}

// mergesOfScores lists every way to split a token in two symbols, best score first, and for one
// token the longer left half first, as transformers' converter of SentencePiece models does.
func (s *Spec) mergesOfScores() ([][2]string, error) {
	ids := make(map[string]int32, len(s.Tokens))
	for i, tok := range s.Tokens {
		ids[tok] = int32(i) // #nosec G115
	}
	var order []int
	splits := map[int][][2]string{}
	for id, tok := range s.Tokens {
		if !s.mergeable(id) || len(tok) > maxPiece {
			continue
		}
		for i := range tok {
			l, r := tok[:i], tok[i:]
			if i == 0 || !s.merged(l, ids) || !s.merged(r, ids) {
				continue
			}
			for _, half := range []string{l, r} {
				if _, ok := ids[half]; !ok {
					return nil, fmt.Errorf("%w: %q merges from %q, which is no token", ErrInexact, tok, half)
				}
			}
			splits[id] = append(splits[id], [2]string{l, r})
		}
		if splits[id] != nil {
			order = append(order, id)
			slices.Reverse(splits[id])
		}
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(s.Scores[b], s.Scores[a]), cmp.Compare(len(s.Tokens[b]), len(s.Tokens[a])))
	})
	var merges [][2]string
	for i, id := range order {
		if i > 0 && s.Scores[id] == s.Scores[order[i-1]] && !sameRun(s.Tokens[id], s.Tokens[order[i-1]]) {
			return nil, fmt.Errorf("%w: tokens %q and %q have the same score, merges cannot", ErrInexact, s.Tokens[order[i-1]], s.Tokens[id])
		}
		merges = append(merges, splits[id]...)
	}
	return merges, nil
}

// sameRun says whether a and b repeat one character, as llama 2's runs of spaces do, which share a
// score. There "leftmost first" and "longest first" come to the same: both grow the first run.
func sameRun(a, b string) bool {
	_, w := utf8.DecodeRuneInString(a)
	return strings.ReplaceAll(a, a[:w], "") == "" && strings.ReplaceAll(b, a[:w], "") == ""
}
