package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// The parts of tokenizer.json that this package understands. One struct serves all steps; each
// reads the fields of its type.
type (
	hfFile struct {
		Added     []hfAdded `json:"added_tokens"`
		Normalize *hfStep   `json:"normalizer"`
		Pre       *hfStep   `json:"pre_tokenizer"`
		Post      *hfStep   `json:"post_processor"`
		Decoder   *struct {
			Cleanup *bool `json:"cleanup"`
		} `json:"decoder"`
		Model *hfModel `json:"model"`
	}
	hfAdded struct {
		ID         int    `json:"id"`
		Content    string `json:"content"`
		SingleWord bool   `json:"single_word"`
		LStrip     bool   `json:"lstrip"`
		RStrip     bool   `json:"rstrip"`
		Normalized bool   `json:"normalized"`
		Special    bool   `json:"special"`
	}
	hfModel struct {
		Type         string    `json:"type"`
		Dropout      *float64  `json:"dropout"`
		Unk          *string   `json:"unk_token"`
		Prefix       *string   `json:"continuing_subword_prefix"`
		Suffix       *string   `json:"end_of_word_suffix"`
		FuseUnk      bool      `json:"fuse_unk"`
		ByteFallback bool      `json:"byte_fallback"`
		IgnoreMerges bool      `json:"ignore_merges"`
		MaxWord      *int      `json:"max_input_chars_per_word"`
		UnkID        *int      `json:"unk_id"`
		Vocab        hfVocab   `json:"vocab"`
		Merges       []hfMerge `json:"merges"`
	}
	hfStep struct {
		Type        string    `json:"type"`
		Normalizers []*hfStep `json:"normalizers"`
		Pres        []*hfStep `json:"pretokenizers"`
		Processors  []*hfStep `json:"processors"`
		Pattern     struct {
			String, Regex *string
		} `json:"pattern"`
		Behavior       string                         `json:"behavior"`
		Invert         bool                           `json:"invert"`
		AddPrefixSpace *bool                          `json:"add_prefix_space"`
		UseRegex       *bool                          `json:"use_regex"`
		Replacement    string                         `json:"replacement"`
		PrependScheme  string                         `json:"prepend_scheme"`
		Split          *bool                          `json:"split"`
		Prepend        string                         `json:"prepend"`
		Content        string                         `json:"content"`
		CleanText      *bool                          `json:"clean_text"`
		CJK            *bool                          `json:"handle_chinese_chars"`
		StripAccents   *bool                          `json:"strip_accents"`
		Lowercase      *bool                          `json:"lowercase"`
		Charsmap       []byte                         `json:"precompiled_charsmap"` // in base64
		Left           bool                           `json:"strip_left"`
		Right          bool                           `json:"strip_right"`
		Individual     bool                           `json:"individual_digits"`
		Single         []hfPiece                      `json:"single"`
		Pair           []hfPiece                      `json:"pair"`
		Special        map[string]struct{ IDs []int } `json:"special_tokens"`
		Cls            []json.RawMessage              `json:"cls"` // [text, id]
		Sep            []json.RawMessage              `json:"sep"`
	}
	hfPiece struct {
		Special  *hfPart `json:"SpecialToken"`
		Sequence *hfPart `json:"Sequence"`
	}
	hfPart struct {
		ID   string `json:"id"`
		Type int    `json:"type_id"`
	}
	// hfVocab is ids by token or, for Unigram, a list of tokens with their scores.
	hfVocab struct {
		IDs    map[string]int
		Scores []float32
	}
)

func (v *hfVocab) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '[' {
		return json.Unmarshal(b, &v.IDs)
	}
	var list []hfScored
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	v.IDs = make(map[string]int, len(list))
	for i, p := range list {
		if j, dup := v.IDs[p.token]; dup {
			return fmt.Errorf("tokens %d and %d are both %q", j, i, p.token)
		}
		v.IDs[p.token] = i
		v.Scores = append(v.Scores, p.score)
	}
	return nil
}

// hfScored is ["token", score].
type hfScored struct {
	token string
	score float32
}

func (p *hfScored) UnmarshalJSON(b []byte) error {
	var pair []json.RawMessage
	if err := json.Unmarshal(b, &pair); err != nil {
		return err
	}
	if len(pair) != 2 {
		return fmt.Errorf("an entry of %d values is no token with its score", len(pair))
	}
	return errors.Join(json.Unmarshal(pair[0], &p.token), json.Unmarshal(pair[1], &p.score))
}

// hfMerge is ["a","b"] or, in files before 2024, "a b".
type hfMerge [2]string

func (m *hfMerge) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		var pair []string
		if err := json.Unmarshal(b, &pair); err != nil {
			return err
		}
		if len(pair) != 2 {
			return fmt.Errorf("a merge of %d tokens", len(pair))
		}
		*m = hfMerge(pair)
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	pair, ok := parseMerge(s)
	if !ok {
		return fmt.Errorf("merge %q is not two tokens", s)
	}
	*m = pair
	return nil
}

// parseMerge splits "a b"; the first token may itself start with a space.
func parseMerge(s string) ([2]string, bool) {
	if s == "" {
		return [2]string{}, false
	}
	i := strings.IndexByte(s[1:], ' ') + 1
	if i == 0 || i+1 == len(s) {
		return [2]string{}, false
	}
	return [2]string{s[:i], s[i+1:]}, true
}

// FromTokenizerJSON reads the tokenizer of a Hugging Face folder. tokenizerConfig,
// generationConfig and specialTokensMap are the files of those names, or nil; config.json will do
// for generationConfig when that is missing, since only the ids of special tokens are read from it.
func FromTokenizerJSON(tokenizerJSON, tokenizerConfig, generationConfig, specialTokensMap []byte) (*Spec, error) {
	var f hfFile
	if err := json.Unmarshal(tokenizerJSON, &f); err != nil {
		return nil, fmt.Errorf("%w: tokenizer.json: %w", ErrMalformed, err)
	}
	m := f.Model
	switch {
	case m == nil:
		return nil, fmt.Errorf("%w: tokenizer.json has no model", ErrMalformed)
	case m.Type == "WordPiece" || m.Type == "Unigram":
		return fromPieces(&f, tokenizerConfig, generationConfig, specialTokensMap)
	case m.Vocab.Scores != nil:
		return nil, fmt.Errorf("%w: scores in a vocabulary of type %q", ErrMalformed, m.Type)
	case m.Type != "BPE" && (m.Type != "" || m.Merges == nil):
		return nil, fmt.Errorf("%w: model type %q; BPE, WordPiece and Unigram are", ErrUnsupported, m.Type)
	case m.Dropout != nil && *m.Dropout > 0:
		return nil, fmt.Errorf("%w: BPE dropout", ErrUnsupported)
	case m.Prefix != nil && *m.Prefix != "" || m.Suffix != nil && *m.Suffix != "":
		return nil, fmt.Errorf("%w: subword prefixes and suffixes", ErrUnsupported)
	}
	s := NewSpec(BPE)
	s.ByteFallback, s.FuseUnknown, s.IgnoreMerges = m.ByteFallback, m.FuseUnk, m.IgnoreMerges
	s.Merges = make([][2]string, len(m.Merges))
	for i, p := range m.Merges {
		s.Merges[i] = p
	}
	if err := s.readSteps(&f); err != nil {
		return nil, err
	}
	if err := s.readVocab(&f); err != nil {
		return nil, err
	}
	if err := s.readConfigs(tokenizerConfig, generationConfig, specialTokensMap); err != nil {
		return nil, err
	}
	if err := s.readPost(f.Post); err != nil {
		return nil, err
	}
	if err := s.readAddFlags(tokenizerConfig); err != nil {
		return nil, err
	}
	if s.Model == BPE {
		s.Pre = preName(s.Splits)
	}
	return s, s.Check()
}

// readVocab fills Tokens, Types and Added. Ids without a token become unused ones.
func (s *Spec) readVocab(f *hfFile) error {
	vocab := f.Model.Vocab.IDs
	top := -1
	for tok, id := range vocab {
		if id < 0 {
			return fmt.Errorf("%w: token %q has id %d", ErrMalformed, tok, id)
		}
		top = max(top, id)
	}
	for _, a := range f.Added {
		if id, ok := vocab[a.Content]; ok && id != a.ID {
			return fmt.Errorf("%w: added token %q has id %d and in the vocabulary %d", ErrMalformed, a.Content, a.ID, id)
		}
		top = max(top, a.ID)
	}
	// Holes are legal, but ids far above the number of tokens only cost memory.
	if most := 2*(len(vocab)+len(f.Added)) + 1024; top >= most {
		return fmt.Errorf("%w: id %d in a vocabulary of %d tokens", ErrMalformed, top, len(vocab)+len(f.Added))
	}
	s.Tokens = make([]string, top+1)
	s.Types = make([]TokenType, top+1)
	taken := make([]bool, top+1)
	for tok, id := range vocab {
		if taken[id] {
			return fmt.Errorf("%w: tokens %q and %q share id %d", ErrMalformed, min(tok, s.Tokens[id]), max(tok, s.Tokens[id]), id)
		}
		s.Tokens[id], s.Types[id], taken[id] = tok, Normal, true
		if _, isByte := byteOfToken(tok); isByte && s.ByteFallback {
			s.Types[id] = Byte
		}
	}
	for _, a := range f.Added {
		if a.ID < 0 || a.Content == "" || taken[a.ID] && s.Tokens[a.ID] != a.Content {
			return fmt.Errorf("%w: added token %q cannot have id %d", ErrMalformed, a.Content, a.ID)
		}
		s.Tokens[a.ID], s.Types[a.ID], taken[a.ID] = a.Content, UserDefined, true
		if a.Special {
			s.Types[a.ID] = Control
		}
		s.Added = append(s.Added, Added(a))
	}
	slices.SortStableFunc(s.Added, func(a, b Added) int { return a.ID - b.ID })
	for id, ok := range taken {
		if !ok {
			s.Tokens[id], s.Types[id] = padName(id), Unused
		}
	}
	if u := f.Model.Unk; u != nil {
		id, ok := vocab[*u]
		if !ok {
			if id = slices.Index(s.Tokens, *u); id < 0 {
				return fmt.Errorf("%w: the unknown token %q is not in the vocabulary", ErrMalformed, *u)
			}
		}
		s.UNK = id
		if s.escaped() {
			s.Types[id] = Unknown
		}
	}
	return nil
}

// readSteps turns the normalizer and the pre-tokenizer into Model, Splits, Prefix and Normalize.
func (s *Spec) readSteps(f *hfFile) error {
	escaped := false // spaces become ▁
	for _, n := range flatten(f.Normalize) {
		switch n.Type {
		case "NFC", "NFD", "NFKC", "NFKD":
			if s.Normalize != "" || escaped {
				return fmt.Errorf("%w: normalizer %s after others", ErrUnsupported, n.Type)
			}
			s.Normalize = n.Type
		case "Prepend":
			if n.Prepend != underscore && !(n.Prepend == blank && !escaped) || s.Prefix != PrefixNone {
				return fmt.Errorf("%w: normalizer Prepend %q", ErrUnsupported, n.Prepend)
			}
			s.Prefix = PrefixAlways
		case "Replace":
			if n.Pattern.String == nil || *n.Pattern.String != blank || n.Content != underscore {
				return fmt.Errorf("%w: normalizer Replace other than of spaces by %s", ErrUnsupported, underscore)
			}
			escaped = true
		default:
			return fmt.Errorf("%w: normalizer %s", ErrUnsupported, n.Type)
		}
	}
	bytes := false
	steps := flatten(f.Pre)
	for i, p := range steps {
		if bytes {
			return fmt.Errorf("%w: pre-tokenizer %s after ByteLevel", ErrUnsupported, p.Type)
		}
		switch p.Type {
		case "ByteLevel":
			bytes = true
			if p.AddPrefixSpace == nil || *p.AddPrefixSpace { // the default is true
				if i > 0 {
					return fmt.Errorf("%w: ByteLevel with add_prefix_space after another pre-tokenizer", ErrUnsupported)
				}
				s.Prefix = PrefixMissing
			}
			if p.UseRegex == nil || *p.UseRegex {
				s.Splits = append(s.Splits, Split{Pattern: patternGPT2})
			}
		case "Metaspace":
			if p.Replacement != underscore || s.Prefix != PrefixNone || p.Split == nil || *p.Split {
				return fmt.Errorf("%w: pre-tokenizer Metaspace that splits words", ErrUnsupported)
			}
			escaped = true
			switch p.PrependScheme {
			case "always":
				s.Prefix = PrefixMissing
			case "first":
				s.Prefix = PrefixFirst
			case "never":
			default:
				return fmt.Errorf("%w: Metaspace prepend_scheme %q", ErrUnsupported, p.PrependScheme)
			}
		default:
			split, err := p.split()
			if err != nil {
				return err
			}
			// Where spaces have become ▁, splitting at spaces does nothing (gemma writes such a step).
			if !(escaped && p.Pattern.String != nil && *p.Pattern.String == blank) {
				s.Splits = append(s.Splits, split)
			}
		}
	}
	switch {
	case bytes && !escaped && s.Prefix != PrefixAlways:
	case !bytes && escaped && s.Splits == nil && !s.IgnoreMerges:
		s.Model = SPM
	default:
		return fmt.Errorf("%w: BPE that is neither byte-level nor of the SentencePiece kind", ErrUnsupported)
	}
	return nil
}

// flatten lists the steps of a sequence of sequences.
func flatten(p *hfStep) []*hfStep {
	if p == nil {
		return nil
	}
	if p.Type != "Sequence" {
		return []*hfStep{p}
	}
	var out []*hfStep
	for _, list := range [][]*hfStep{p.Normalizers, p.Pres, p.Processors} {
		for _, q := range list {
			out = append(out, flatten(q)...)
		}
	}
	return out
}

// split reads a pre-tokenizer that cuts by a pattern.
func (p *hfStep) split() (Split, error) {
	switch p.Type {
	case "Digits":
		if p.Individual {
			return Split{Pattern: `\p{N}`}, nil
		}
		return Split{Pattern: `\p{N}+`}, nil
	case "Punctuation":
		switch p.Behavior {
		case "", "Isolated":
			return Split{Pattern: patternPunctuation}, nil
		case "Contiguous":
			return Split{Pattern: patternPunctuation + "+"}, nil
		}
		return Split{}, fmt.Errorf("%w: Punctuation with behavior %s", ErrUnsupported, p.Behavior)
	case "Split":
	default:
		return Split{}, fmt.Errorf("%w: pre-tokenizer %s", ErrUnsupported, p.Type)
	}
	var s Split
	switch {
	case p.Pattern.Regex != nil:
		s.Pattern = *p.Pattern.Regex
	case p.Pattern.String != nil:
		s.Pattern = regexp.QuoteMeta(*p.Pattern.String)
		if s.Pattern == blank { // with either behaviour only where there are no spaces; the caller knows
			return s, nil
		}
	default:
		return s, fmt.Errorf("%w: Split without a pattern", ErrMalformed)
	}
	switch {
	case p.Behavior == "Isolated": // inverted or not, the pieces are the same
	case p.Behavior == "Removed" && p.Invert:
		s.Removed = true
	default:
		return s, fmt.Errorf("%w: Split with behavior %s", ErrUnsupported, p.Behavior)
	}
	_, err := compile(s.Pattern)
	return s, err
}

const patternPunctuation = "[\\p{P}$+<=>^`|~]"
