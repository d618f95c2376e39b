package tokenizer

import (
	"fmt"
	"slices"
	"strings"
)

// fromPieces reads a tokenizer.json whose model is WordPiece or Unigram.
func fromPieces(f *hfFile, tokenizerConfig, generationConfig, specialTokensMap []byte) (*Spec, error) {
	m := f.Model
	s := NewSpec(Model(strings.ToLower(m.Type)))
	steps := s.readWords
	if s.Model == Unigram {
		steps = s.readUnigram
	}
	if err := steps(f); err != nil {
		return nil, err
	}
	if err := s.readVocab(f); err != nil {
		return nil, err
	}
	if s.Model == Unigram {
		s.Scores = slices.Grow(m.Vocab.Scores, len(s.Tokens)-len(m.Vocab.Scores))
		for len(s.Scores) < len(s.Tokens) { // added tokens, which are matched whole
			s.Scores = append(s.Scores, 0)
		}
		if id := m.UnkID; id != nil {
			if *id < 0 || *id >= len(s.Tokens) {
				return nil, fmt.Errorf("%w: unk_id %d of %d tokens", ErrMalformed, *id, len(s.Tokens))
			}
			s.UNK, s.Types[*id] = *id, Unknown
		}
	}
	if err := s.readConfigs(tokenizerConfig, generationConfig, specialTokensMap); err != nil {
		return nil, err
	}
	if s.Model == WordPiece {
		s.CleanSpaces = f.Decoder == nil || f.Decoder.Cleanup == nil || *f.Decoder.Cleanup
	}
	if err := s.readPost(f.Post); err != nil {
		return nil, err
	}
	if err := s.readAddFlags(tokenizerConfig); err != nil {
		return nil, err
	}
	return s, s.Check()
}

// readWords reads the steps of a WordPiece tokenizer: those of BERT.
func (s *Spec) readWords(f *hfFile) error {
	s.Words = &Words{Continues: "##", MaxWord: 100}
	w, m := s.Words, f.Model
	if m.Prefix != nil {
		w.Continues = *m.Prefix
	}
	if m.MaxWord != nil {
		w.MaxWord = *m.MaxWord
	}
	switch {
	case w.Continues == "":
		return fmt.Errorf("%w: WordPiece without a mark of tokens that continue a word", ErrUnsupported)
	case w.MaxWord < 1:
		return fmt.Errorf("%w: max_input_chars_per_word is %d", ErrMalformed, w.MaxWord)
	case m.Vocab.Scores != nil:
		return fmt.Errorf("%w: WordPiece with scores", ErrMalformed)
	}
	isTrue := func(b *bool) bool { return b == nil || *b }
	steps := flatten(f.Normalize)
	if len(steps) != 1 || steps[0].Type != "BertNormalizer" {
		return fmt.Errorf("%w: WordPiece with a normalizer other than BertNormalizer", ErrUnsupported)
	}
	n := steps[0]
	w.Clean, w.CJK, w.Lower = isTrue(n.CleanText), isTrue(n.CJK), isTrue(n.Lowercase)
	if w.StripAccents = w.Lower; n.StripAccents != nil { // null: as the lower case
		w.StripAccents = *n.StripAccents
	}
	if pre := flatten(f.Pre); len(pre) != 1 || pre[0].Type != "BertPreTokenizer" {
		return fmt.Errorf("%w: WordPiece with a pre-tokenizer other than BertPreTokenizer", ErrUnsupported)
	}
	return nil
}

// readUnigram reads the steps of a Unigram tokenizer, as converters of SentencePiece models write them.
func (s *Spec) readUnigram(f *hfFile) error {
	s.ByteFallback, s.FuseUnknown = f.Model.ByteFallback, true
	if f.Model.Vocab.Scores == nil {
		return fmt.Errorf("%w: Unigram without scores", ErrMalformed)
	}
	collapse, right := false, false
	for _, n := range flatten(f.Normalize) {
		switch {
		case n.Type == "Precompiled" && s.Charsmap == nil && !collapse && !right:
			s.Charsmap = n.Charsmap
		case (n.Type == "NFC" || n.Type == "NFKC" || n.Type == "NFD" || n.Type == "NFKD") && s.Normalize == "" && !collapse && !right:
			s.Normalize = n.Type
		case n.Type == "Strip":
			right = right || n.Right
		case n.Type == "Replace" && n.Pattern.Regex != nil && *n.Pattern.Regex == " {2,}" && (n.Content == blank || n.Content == underscore):
			collapse = true
		default:
			return fmt.Errorf("%w: normalizer %s before Unigram", ErrUnsupported, n.Type)
		}
	}
	pre := flatten(f.Pre)
	if len(pre) > 0 && pre[0].Type == "WhitespaceSplit" {
		s.AnySpace, collapse, right = true, true, true
		pre = pre[1:]
	}
	if len(pre) != 1 || pre[0].Type != "Metaspace" || pre[0].Replacement != underscore {
		return fmt.Errorf("%w: Unigram with a pre-tokenizer other than Metaspace", ErrUnsupported)
	}
	p := pre[0]
	s.SplitSpaces = p.Split == nil || *p.Split
	switch scheme := p.PrependScheme; {
	case scheme == "always", scheme == "" && (p.AddPrefixSpace == nil || *p.AddPrefixSpace): // files before 2024 have a flag
		s.Prefix = PrefixMissing
	case scheme == "first":
		s.Prefix = PrefixFirst
	case scheme == "never" || scheme == "":
		if collapse && !s.AnySpace {
			return fmt.Errorf("%w: Metaspace that puts no space before text", ErrUnsupported)
		}
	default:
		return fmt.Errorf("%w: Metaspace prepend_scheme %q", ErrUnsupported, scheme)
	}
	if right && !collapse {
		return fmt.Errorf("%w: spaces that go at the end only", ErrUnsupported)
	}
	s.TrimSpaces, s.KeepEnd = collapse, collapse && !right
	return nil
}

// FromVocab reads the vocab.txt of a BERT folder without a tokenizer.json: a token a line, the line
// number is its id. The other arguments are as for FromTokenizerJSON.
func FromVocab(vocab, tokenizerConfig, specialTokensMap []byte) (*Spec, error) {
	s := NewSpec(WordPiece)
	s.Words = bertWords()
	config, err := readConfig("tokenizer_config.json", tokenizerConfig)
	if err != nil {
		return nil, err
	}
	w := s.Words
	if lower, ok := config.flag("do_lower_case"); ok {
		w.Lower, w.StripAccents = lower, lower
	}
	if strip, ok := config.flag("strip_accents"); ok {
		w.StripAccents = strip
	}
	if cjk, ok := config.flag("tokenize_chinese_chars"); ok {
		w.CJK = cjk
	}
	if basic, ok := config.flag("do_basic_tokenize"); ok && !basic {
		return nil, fmt.Errorf("%w: WordPiece of text that is words already (do_basic_tokenize)", ErrUnsupported)
	}
	s.Tokens = strings.Split(strings.TrimSuffix(strings.ReplaceAll(string(vocab), "\r\n", "\n"), "\n"), "\n")
	s.Types = make([]TokenType, len(s.Tokens))
	for i := range s.Types {
		s.Types[i] = Normal
	}
	if err := s.readConfigs(tokenizerConfig, nil, specialTokensMap); err != nil {
		return nil, err
	}
	for _, sp := range []struct {
		at   *int
		name string
	}{{&s.UNK, "[UNK]"}, {&s.SEP, "[SEP]"}, {&s.PAD, "[PAD]"}, {&s.CLS, "[CLS]"}, {&s.MASK, "[MASK]"}} {
		if *sp.at < 0 { // the defaults of BertTokenizer
			*sp.at = slices.Index(s.Tokens, sp.name)
		}
		if *sp.at >= 0 {
			s.Types[*sp.at] = Control
			s.Added = append(s.Added, Added{ID: *sp.at, Content: s.Tokens[*sp.at], Special: true})
		}
	}
	slices.SortFunc(s.Added, func(a, b Added) int { return a.ID - b.ID })
	s.Added = slices.CompactFunc(s.Added, func(a, b Added) bool { return a.ID == b.ID })
	s.CleanSpaces = true
	s.bertTemplate()
	return s, s.Check()
}

// bertTemplate makes texts begin and end as BERT's do, as far as there are tokens for it.
func (s *Spec) bertTemplate() {
	if s.CLS < 0 || s.SEP < 0 {
		return
	}
	s.BOS, s.EOS, s.AddBOS, s.AddEOS = s.CLS, s.SEP, true, true
	s.Pair = []Part{{s.CLS, 0}, {TextA, 0}, {s.SEP, 0}, {TextB, 1}, {s.SEP, 1}}
}
